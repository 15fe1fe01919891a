//! ICE over TCP (RFC 6544) under an engine that waits for each of its writes.
//!
//! Its driver does nothing else while a write is under way, and takes any number of connections from strangers. So
//! a stream here never makes it wait: as with UDP, what there is no room for is lost, whole packets of it. And a
//! listener keeps no more connections than a call can use, and none that stay silent.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use tokio::io::Interest;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use webrtc::runtime::{AsyncTcpListener, AsyncTcpStream};

type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Where others connect to a passive candidate.
#[derive(Debug)]
pub(super) struct IceListener {
    inner: TcpListener,
    places: Arc<Semaphore>,
}

impl IceListener {
    pub(super) fn new(listener: std::net::TcpListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self { inner: TcpListener::from_std(listener)?, places: Arc::new(Semaphore::new(MOST_STREAMS)) })
    }
}

impl AsyncTcpListener for IceListener {
    fn accept<'a>(&'a self) -> Boxed<'a, io::Result<(Arc<dyn AsyncTcpStream>, SocketAddr)>> {
        Box::pin(async move {
            loop {
                let (stream, from) = self.inner.accept().await?;
                let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else { continue };
                return Ok((Arc::new(IceStream::new(stream, Some(place))?) as Arc<dyn AsyncTcpStream>, from));
            }
        })
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }
}

/// Connects to another's passive candidate.
pub(super) async fn connect(remote: SocketAddr) -> io::Result<Arc<dyn AsyncTcpStream>> {
    let stream = timeout(CONNECT_TIMEOUT, TcpStream::connect(remote)).await??;
    Ok(Arc::new(IceStream::new(stream, None)?))
}

#[derive(Debug)]
struct IceStream {
    inner: TcpStream,
    local: SocketAddr,
    remote: SocketAddr,
    /// What the kernel did not take yet, of packets that have begun.
    unsent: Mutex<BytesMut>,
    /// There is something unsent.
    left: Notify,
    heard: AtomicBool,
    /// How long it may take until it is heard.
    silence: Duration,
    _place: Option<OwnedSemaphorePermit>,
}

impl IceStream {
    fn new(inner: TcpStream, place: Option<OwnedSemaphorePermit>) -> io::Result<Self> {
        inner.set_nodelay(true)?;
        let (local, remote) = (inner.local_addr()?, inner.peer_addr()?);
        let (unsent, left, heard) = (Mutex::default(), Notify::new(), AtomicBool::new(false));
        Ok(Self { inner, local, remote, unsent, left, heard, silence: LONGEST_SILENCE, _place: place })
    }

    /// Writes a packet, or loses it.
    fn write(&self, packet: &[u8]) -> io::Result<()> {
        let mut unsent = self.unsent.lock().unwrap_or_else(PoisonError::into_inner);
        if unsent.len() + packet.len() <= MOST_UNSENT {
            unsent.extend_from_slice(packet);
        }
        self.flush(&mut unsent)
    }

    fn flush(&self, unsent: &mut BytesMut) -> io::Result<()> {
        while !unsent.is_empty() {
            match self.inner.try_write(unsent) {
                Ok(written) => unsent.advance(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.left.notify_one();
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn has_unsent(&self) -> bool {
        !self.unsent.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Reads, and meanwhile writes what is left: the driver always has one read under way.
    async fn read_some(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut interest = Interest::READABLE;
            if self.has_unsent() {
                interest |= Interest::WRITABLE;
            }
            let ready = tokio::select! {
                ready = self.inner.ready(interest) => ready?,
                () = self.left.notified() => continue,
            };
            if ready.is_writable() {
                self.flush(&mut self.unsent.lock().unwrap_or_else(PoisonError::into_inner))?;
            }
            if ready.is_readable() || ready.is_read_closed() {
                match self.inner.try_read(buffer) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    result => return result,
                }
            }
        }
    }
}

impl AsyncTcpStream for IceStream {
    fn read<'a, 'b>(&'a self, buffer: &'b mut [u8]) -> Boxed<'b, io::Result<usize>>
    where
        'a: 'b,
    {
        Box::pin(async move {
            if self.heard.load(Relaxed) {
                return self.read_some(buffer).await;
            }
            let read = timeout(self.silence, self.read_some(buffer)).await.unwrap_or(Ok(0));
            self.heard.store(true, Relaxed);
            read
        })
    }

    fn write_all<'a, 'b>(&'a self, packet: &'b [u8]) -> Boxed<'b, io::Result<()>>
    where
        'a: 'b,
    {
        Box::pin(async move { self.write(packet) })
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.local)
    }

    fn peer_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.remote)
    }
}

/// Each address of the other side may connect, and once more for an ICE restart.
const MOST_STREAMS: usize = 16;
/// As much as a socket buffer: what waits longer is late.
const MOST_UNSENT: usize = 256 << 10;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Whoever connects has something to check.
const LONGEST_SILENCE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    async fn pair() -> (IceListener, Arc<dyn AsyncTcpStream>, Arc<dyn AsyncTcpStream>) {
        let listener = IceListener::new(std::net::TcpListener::bind("127.0.0.1:0").unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let (accepted, connected) = tokio::join!(listener.accept(), connect(address));
        (listener, accepted.unwrap().0, connected.unwrap())
    }

    #[tokio::test]
    async fn whoever_does_not_read_loses_whole_packets_and_holds_up_nobody() {
        const PACKET: usize = 1000;
        let (_listener, writer, reader) = pair().await;
        // Each packet is a number, over and over. Nobody reads: the kernel's buffers fill, then ours.
        let packet = |number: u32| number.to_be_bytes().repeat(PACKET / 4);
        let count = 20_000u32;
        for number in 0..count {
            timeout(Duration::from_secs(1), writer.write_all(&packet(number))).await.unwrap().unwrap();
        }
        let driver = {
            let writer = Arc::clone(&writer);
            // As the driver does, one read is always under way.
            tokio::spawn(async move { writer.read(&mut [0; 16]).await })
        };
        let mut stream = Vec::new();
        let mut buffer = vec![0; 1 << 16];
        while let Ok(read) = timeout(Duration::from_secs(1), reader.read(&mut buffer)).await {
            stream.extend_from_slice(&buffer[..read.unwrap()]);
        }
        let arrived = stream.len() / PACKET;
        assert_eq!(stream.len() % PACKET, 0, "a packet was cut");
        assert!((256..count as usize).contains(&arrived), "{arrived} packets arrived");
        for (number, packet) in (0..).zip(stream.chunks(PACKET)) {
            let whole: &[u8; 4] = packet.first_chunk().unwrap();
            assert_eq!(packet, whole.repeat(PACKET / 4));
            assert!(u32::from_be_bytes(*whole) >= number);
        }
        driver.abort();
    }

    #[tokio::test]
    async fn strangers_take_no_more_than_their_places() {
        let listener = IceListener::new(std::net::TcpListener::bind("127.0.0.1:0").unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let mut strangers = Vec::new();
        let mut accepted = Vec::new();
        for _ in 0..MOST_STREAMS {
            strangers.push(TcpStream::connect(address).await.unwrap());
            accepted.push(listener.accept().await.unwrap());
        }
        let mut late = TcpStream::connect(address).await.unwrap();
        let more = tokio::spawn(async move { listener.accept().await.map(|_| listener) });
        // It is closed and not kept waiting.
        assert_eq!(tokio::io::AsyncReadExt::read(&mut late, &mut [0]).await.unwrap(), 0);
        drop(accepted.pop());
        let _next = TcpStream::connect(address).await.unwrap();
        timeout(Duration::from_secs(10), more).await.unwrap().unwrap().unwrap();
    }

    #[tokio::test]
    async fn whoever_says_nothing_is_as_good_as_gone() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _silent = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        let stream =
            IceStream { silence: Duration::from_millis(20), ..IceStream::new(accepted, None).unwrap() };
        let read = timeout(LONGEST_SILENCE, async { stream.read(&mut [0; 16]).await }).await;
        assert_eq!(read.unwrap().unwrap(), 0);
    }
}
