//! TURN over TCP and TLS for an engine that knows it over UDP alone. RFC 8656, sections 2.1 and 12.5.
//!
//! The engine is given an address that no network has in place of such a server's. What it sends there goes into a
//! stream instead, and what comes out of the stream has come from that address: the engine's own TURN client never
//! notices, and its candidates are what they should be.

use std::collections::VecDeque;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use rtc::shared::turn_framing::TurnStreamDecoder;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use webrtc::runtime::RecvMeta;

use super::ice_servers::{Carrier, TurnEndpoint};
use super::stun;
use super::trust::Trust;
use super::turn_watch::TurnWatch;

/// Which servers are reached by streams, and what it takes to reach them.
#[derive(Debug)]
pub(crate) struct Tunnels {
    endpoints: Vec<TurnEndpoint>,
    trust: Trust,
    eagerness: Eagerness,
    watch: Arc<TurnWatch>,
}

/// When a stream is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Eagerness {
    /// At once: somebody wants to know what works.
    AtOnce,
    /// When no server has answered over UDP for a while: a stream is the slower path, and a second allocation.
    WhenUdpIsSilent,
}

impl Tunnels {
    pub(crate) fn new(
        endpoints: &[TurnEndpoint],
        trust: Trust,
        eagerness: Eagerness,
        watch: Arc<TurnWatch>,
    ) -> Self {
        Self { endpoints: endpoints.to_vec(), trust, eagerness, watch }
    }

    /// The addresses that stand for a server which the engine calls `name`, if it is reached by a stream.
    pub(super) fn stand_ins(&self, name: &str, port: u16) -> Option<Vec<SocketAddr>> {
        let index = self.endpoints.iter().position(|endpoint| {
            endpoint.carrier != Carrier::Udp && endpoint.name == name && endpoint.port == port
        })?;
        let number = u16::try_from(index).ok()?;
        let [high, low] = number.to_be_bytes();
        // Of the future (RFC 1112) and for nobody (RFC 6666).
        let v4 = Ipv4Addr::new(240, 0, high, low);
        let v6 = Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, number);
        Some(vec![SocketAddr::new(v4.into(), port), SocketAddr::new(v6.into(), port)])
    }

    fn behind(&self, stand_in: SocketAddr) -> Option<(usize, &TurnEndpoint)> {
        let number = match stand_in.ip() {
            IpAddr::V4(ip) => match ip.octets() {
                [240, 0, high, low] => u16::from_be_bytes([high, low]),
                _ => return None,
            },
            IpAddr::V6(ip) => match ip.segments() {
                [0x100, 0, 0, 0, 0, 0, 0, number] => number,
                _ => return None,
            },
        };
        let index = usize::from(number);
        self.endpoints.get(index).map(|endpoint| (index, endpoint))
    }
}

/// The streams of one socket.
#[derive(Debug)]
pub(super) struct SocketTunnels {
    tunnels: Arc<Tunnels>,
    local: IpAddr,
    open: Mutex<Vec<Tunnel>>,
    inbox: Arc<Inbox>,
}

#[derive(Debug)]
struct Tunnel {
    stand_in: SocketAddr,
    outgoing: mpsc::Sender<Bytes>,
    task: JoinHandle<()>,
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl SocketTunnels {
    pub(super) fn new(tunnels: Arc<Tunnels>, local: IpAddr) -> Self {
        Self { tunnels, local, open: Mutex::default(), inbox: Arc::default() }
    }

    /// Takes datagrams if they are for a server that is reached by a stream. Says whether they were.
    pub(super) fn take<'a>(&self, to: SocketAddr, datagrams: impl Iterator<Item = &'a [u8]>) -> bool {
        let Some((index, endpoint)) = self.tunnels.behind(to) else { return false };
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let tunnel = match open.iter().position(|tunnel| tunnel.stand_in == to) {
            Some(known) => open.get(known),
            None => {
                let (outgoing, queue) = mpsc::channel(QUEUE);
                let ends = Ends {
                    stand_in: to,
                    local: self.local,
                    index,
                    endpoint: endpoint.clone(),
                    tunnels: Arc::clone(&self.tunnels),
                    inbox: Arc::clone(&self.inbox),
                };
                open.push(Tunnel { stand_in: to, outgoing, task: tokio::spawn(ends.run(queue)) });
                open.last()
            }
        };
        if let Some(tunnel) = tunnel {
            for datagram in datagrams {
                // As with UDP, what there is no room for is lost.
                let _ = tunnel.outgoing.try_send(Bytes::copy_from_slice(datagram));
            }
        }
        true
    }

    /// What came by streams.
    pub(super) fn poll_recv(
        &self,
        cx: &Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<usize> {
        if self.tunnels.endpoints.is_empty() { Poll::Pending } else { self.inbox.poll(cx, bufs, meta) }
    }
}

/// What a stream's task knows.
struct Ends {
    stand_in: SocketAddr,
    local: IpAddr,
    index: usize,
    endpoint: TurnEndpoint,
    tunnels: Arc<Tunnels>,
    inbox: Arc<Inbox>,
}

impl Ends {
    async fn run(self, mut queue: mpsc::Receiver<Bytes>) {
        let Some(first) = queue.recv().await else { return };
        if self.tunnels.eagerness == Eagerness::WhenUdpIsSilent {
            let silence = UDP_SILENCE + self.head_start_of_tcp();
            if timeout(silence, self.tunnels.watch.lends_over_udp()).await == Ok(true) {
                return self.refuse(&first, queue).await;
            }
        }
        let opened = timeout(CONNECT, self.open()).await;
        match opened.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut))) {
            Ok(stream) => {
                if let Err(error) = self.carry(stream, first, queue).await {
                    tracing::debug!(url = self.endpoint.url, %error, "Stream to a TURN server ended");
                }
            }
            Err(error) => {
                self.tunnels.watch.unreachable(self.index, error.to_string());
                self.refuse(&first, queue).await;
            }
        }
    }

    /// TLS inside of which there is DTLS encrypts everything twice: where TCP alone gets through, it should be first.
    fn head_start_of_tcp(&self) -> Duration {
        let has_tcp = self.tunnels.endpoints.iter().any(|endpoint| endpoint.carrier == Carrier::Tcp);
        if self.endpoint.carrier == Carrier::Tls && has_tcp { HEAD_START } else { Duration::ZERO }
    }

    async fn open(&self) -> io::Result<Box<dyn Stream>> {
        let TurnEndpoint { host, port, .. } = &self.endpoint;
        let addresses = tokio::net::lookup_host((host.as_str(), *port)).await?;
        let mut failure = io::Error::new(io::ErrorKind::NotFound, "its name has no address of this family");
        for address in addresses.filter(|address| address.is_ipv4() == self.local.is_ipv4()) {
            match self.connect(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    async fn connect(&self, address: SocketAddr) -> io::Result<Box<dyn Stream>> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        // The way out that the engine's socket takes.
        socket.bind(SocketAddr::new(self.local, 0))?;
        let stream = socket.connect(address).await?;
        stream.set_nodelay(true)?;
        if self.endpoint.carrier != Carrier::Tls {
            return Ok(Box::new(stream));
        }
        let name = ServerName::try_from(self.endpoint.host.clone())
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let connector = TlsConnector::from(self.tunnels.trust.tls());
        Ok(Box::new(connector.connect(name, stream).await?))
    }

    async fn carry(
        &self,
        stream: Box<dyn Stream>,
        first: Bytes,
        queue: mpsc::Receiver<Bytes>,
    ) -> io::Result<()> {
        let (read, write) = tokio::io::split(stream);
        tokio::select! {
            ended = self.read(read) => ended,
            ended = write_all(write, first, queue) => ended,
        }
    }

    async fn read(&self, mut stream: impl AsyncRead + Unpin) -> io::Result<()> {
        let mut decoder = TurnStreamDecoder::new();
        let mut buffer = vec![0; READ];
        loop {
            let length = stream.read(&mut buffer).await?;
            if length == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            decoder.extend_from_slice(buffer.get(..length).unwrap_or_default());
            while let Some(message) = decoder.next_message().map_err(io::Error::other)? {
                self.inbox.put(self.stand_in, message);
            }
        }
    }

    /// Tells the engine at once that there is no allocation to be had, so that it does not wait for one.
    async fn refuse(&self, first: &Bytes, mut queue: mpsc::Receiver<Bytes>) {
        let mut request = first.clone();
        loop {
            if let Some(refusal) = stun::refusal(&request) {
                self.inbox.put(self.stand_in, refusal);
            }
            match queue.recv().await {
                Some(next) => request = next,
                None => return,
            }
        }
    }
}

async fn write_all(
    mut stream: impl AsyncWrite + Unpin,
    first: Bytes,
    mut queue: mpsc::Receiver<Bytes>,
) -> io::Result<()> {
    let mut batch = Vec::with_capacity(WRITE);
    let mut next = Some(first);
    while let Some(datagram) = next {
        batch.clear();
        append(&mut batch, &datagram);
        while batch.len() < WRITE
            && let Ok(more) = queue.try_recv()
        {
            append(&mut batch, &more);
        }
        stream.write_all(&batch).await?;
        stream.flush().await?;
        next = queue.recv().await;
    }
    Ok(())
}

/// On a stream messages are padded to a multiple of four. RFC 8656, section 12.5.
fn append(batch: &mut Vec<u8>, datagram: &[u8]) {
    batch.extend_from_slice(datagram);
    batch.resize(batch.len().next_multiple_of(4), 0);
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// What came out of streams and waits for the engine.
#[derive(Debug, Default)]
struct Inbox(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    datagrams: VecDeque<(SocketAddr, Vec<u8>)>,
    waker: Option<Waker>,
}

impl Inbox {
    fn put(&self, from: SocketAddr, datagram: Vec<u8>) {
        let waker = {
            let mut waiting = self.waiting();
            if waiting.datagrams.len() >= INBOX {
                return;
            }
            waiting.datagrams.push_back((from, datagram));
            waiting.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn poll(&self, cx: &Context<'_>, bufs: &mut [IoSliceMut<'_>], meta: &mut [RecvMeta]) -> Poll<usize> {
        let mut waiting = self.waiting();
        let mut filled = 0;
        for (buffer, meta) in bufs.iter_mut().zip(meta) {
            let Some((from, datagram)) = waiting.datagrams.pop_front() else { break };
            let length = datagram.len().min(buffer.len());
            let room = buffer.iter_mut().zip(datagram.iter());
            room.for_each(|(to, from)| *to = *from);
            *meta = RecvMeta::default();
            (meta.addr, meta.len, meta.stride) = (from, length, length.max(1));
            filled += 1;
        }
        if filled > 0 {
            return Poll::Ready(filled);
        }
        waiting.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Datagrams on their way into a stream: what a network would hold of them.
const QUEUE: usize = 512;
const INBOX: usize = 4096;
const READ: usize = 64 << 10;
const WRITE: usize = 32 << 10;
/// How long servers have to answer over UDP before streams are tried.
const UDP_SILENCE: Duration = Duration::from_millis(300);
/// A pair over TCP is accepted by then, if there is one.
const HEAD_START: Duration = Duration::from_millis(400);
const CONNECT: Duration = Duration::from_secs(8);

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(carrier: Carrier) -> TurnEndpoint {
        TurnEndpoint {
            url: "turn:h".to_owned(),
            name: "tunnel1.invalid".to_owned(),
            host: "h".to_owned(),
            port: 99,
            carrier,
        }
    }

    fn tunnels(carriers: &[Carrier]) -> Tunnels {
        let endpoints = carriers.iter().copied().map(endpoint).collect::<Vec<_>>();
        let watch = Arc::new(TurnWatch::new(endpoints.clone()));
        Tunnels::new(&endpoints, Trust::default(), Eagerness::AtOnce, watch)
    }

    #[test]
    fn stand_ins_lead_back_to_their_server_and_nothing_else_does() {
        let tunnels = tunnels(&[Carrier::Udp, Carrier::Tcp]);
        let stand_ins = tunnels.stand_ins("tunnel1.invalid", 99).unwrap();
        assert_eq!(stand_ins.len(), 2);
        for stand_in in stand_ins {
            assert_eq!(tunnels.behind(stand_in).unwrap().0, 1);
        }
        assert!(tunnels.stand_ins("h", 99).is_none() && tunnels.stand_ins("tunnel1.invalid", 98).is_none());
        for other in ["240.0.0.9:99", "192.0.2.1:99", "[100::9]:99", "[2001:db8::1]:99"] {
            assert!(tunnels.behind(other.parse().unwrap()).is_none(), "{other}");
        }
    }

    fn once(datagram: &[u8]) -> impl Iterator<Item = &[u8]> {
        std::iter::once(datagram)
    }

    fn allocate_request() -> Vec<u8> {
        [&[0, 3, 0, 0, 0x21, 0x12, 0xa4, 0x42][..], &[7; 12]].concat()
    }

    /// One server on loopback behind a stream, and what the engine would send to and hear from it.
    fn socket_tunnels(port: u16) -> (SocketTunnels, SocketAddr, Arc<TurnWatch>) {
        let server = TurnEndpoint { host: "127.0.0.1".to_owned(), port, ..endpoint(Carrier::Tcp) };
        let watch = Arc::new(TurnWatch::new(vec![server.clone()]));
        let tunnels = Tunnels::new(&[server], Trust::default(), Eagerness::AtOnce, Arc::clone(&watch));
        let stand_in = tunnels.stand_ins("tunnel1.invalid", port).unwrap()[0];
        (SocketTunnels::new(Arc::new(tunnels), Ipv4Addr::LOCALHOST.into()), stand_in, watch)
    }

    async fn receive(tunnels: &SocketTunnels) -> (SocketAddr, Vec<u8>) {
        let (mut buffer, mut meta) = ([0; 100], [RecvMeta::default()]);
        let received =
            std::future::poll_fn(|cx| tunnels.poll_recv(cx, &mut [IoSliceMut::new(&mut buffer)], &mut meta));
        assert_eq!(timeout(Duration::from_secs(10), received).await, Ok(1));
        (meta[0].addr, buffer[..meta[0].len].to_vec())
    }

    #[tokio::test]
    async fn datagrams_go_through_a_stream_both_ways() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (tunnels, stand_in, _) = socket_tunnels(listener.local_addr().unwrap().port());
        assert!(!tunnels.take("127.0.0.1:9".parse().unwrap(), once(b"not for a server")));
        let request = allocate_request();
        assert!(tunnels.take(stand_in, [&request[..], b"\x40\x00\x00\x01x"].into_iter()));
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut heard = [0; 28];
        stream.read_exact(&mut heard).await.unwrap();
        assert_eq!(heard[..], [&allocate_request()[..], b"\x40\x00\x00\x01x\0\0\0"].concat());
        for piece in [&b"\x40\x01"[..], b"\x00\x02hi\0\0\x40\x02\x00\x00"] {
            stream.write_all(piece).await.unwrap();
        }
        assert_eq!(receive(&tunnels).await, (stand_in, b"\x40\x01\x00\x02hi\0\0".to_vec()));
        assert_eq!(receive(&tunnels).await, (stand_in, b"\x40\x02\x00\x00".to_vec()));
    }

    #[tokio::test]
    async fn a_server_that_cannot_be_reached_is_told_of_and_the_engine_does_not_wait() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let (tunnels, stand_in, watch) = socket_tunnels(port);
        tunnels.take(stand_in, once(&allocate_request()));
        let (from, refusal) = receive(&tunnels).await;
        assert_eq!((from, &refusal[..2], &refusal[8..20]), (stand_in, &[1, 0x13][..], &[7; 12][..]));
        let complaint = watch.outcomes_so_far()[0].complaint().unwrap();
        assert!(complaint.contains("cannot be reached"), "{complaint}");
    }

    #[test]
    fn what_goes_into_a_stream_is_padded_with_zeros() {
        let mut batch = Vec::new();
        append(&mut batch, b"\x40\x00\x00\x03abc");
        append(&mut batch, b"\x40\x00\x00\x04abcd");
        assert_eq!(batch, b"\x40\x00\x00\x03abc\0\x40\x00\x00\x04abcd");
    }

    #[test]
    fn an_inbox_gives_as_many_as_there_is_room_for() {
        let inbox = Inbox::default();
        let from = "240.0.0.1:9".parse().unwrap();
        for datagram in [&b"one"[..], b"two", b"three"] {
            inbox.put(from, datagram.to_vec());
        }
        let cx = Context::from_waker(Waker::noop());
        let (mut first, mut second) = ([0; 8], [0; 8]);
        let mut meta = [RecvMeta::default(), RecvMeta::default()];
        let mut bufs = [IoSliceMut::new(&mut first), IoSliceMut::new(&mut second)];
        assert_eq!(inbox.poll(&cx, &mut bufs, &mut meta), Poll::Ready(2));
        assert_eq!((meta[0].len, meta[1].len, meta[0].addr), (3, 3, from));
        assert_eq!(inbox.poll(&cx, &mut bufs, &mut meta), Poll::Ready(1));
        assert_eq!(&bufs[0][..5], b"three");
        assert_eq!(inbox.poll(&cx, &mut bufs, &mut meta), Poll::Pending);
    }
}
