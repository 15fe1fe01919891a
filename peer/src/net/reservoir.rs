//! Room for bursts where the kernel grants little: a thread that does nothing else empties the socket into memory.
//!
//! `net.core.rmem_max` is 208 KiB as a rule, and the kernel counts a datagram about twice: 100 Mbit/s fill that in 17 ms.
//! A connection that is busy with what it has already been given looks after its socket less often. What is dropped
//! costs SCTP a second at the end of a burst, and a round trip for each datagram in the middle.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::thread;

use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use webrtc::runtime::{AsyncUdpSocket, BATCH_SIZE, RecvMeta, Runtime as _, TokioRuntime, Transmit};

/// A socket that is emptied as soon as something comes.
#[derive(Debug)]
pub(super) struct Reservoir {
    inner: Arc<dyn AsyncUdpSocket>,
    pool: Arc<Mutex<Pool>>,
    filling: AbortHandle,
}

/// What has come and nobody has asked for yet.
#[derive(Debug, Default)]
struct Pool {
    messages: VecDeque<io::Result<(RecvMeta, Box<[u8]>)>>,
    bytes: usize,
    /// Who waits for something to come.
    reader: Option<Waker>,
    /// Who waits for room.
    filler: Option<Waker>,
}

impl Reservoir {
    pub(super) fn new(socket: UdpSocket) -> io::Result<Self> {
        let thread = reading_thread()?;
        let inner = {
            let _on_it = thread.enter();
            TokioRuntime.wrap_udp_socket(socket)?
        };
        let pool = Arc::<Mutex<Pool>>::default();
        let (source, target) = (Arc::clone(&inner), Arc::clone(&pool));
        let filling = thread.spawn(std::future::poll_fn(move |cx| poll_fill(&*source, &target, cx)));
        Ok(Self { inner, pool, filling: filling.abort_handle() })
    }
}

impl Drop for Reservoir {
    fn drop(&mut self) {
        self.filling.abort();
    }
}

impl AsyncUdpSocket for Reservoir {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn poll_send(&self, cx: &mut Context<'_>, transmit: &Transmit<'_>) -> Poll<io::Result<usize>> {
        self.inner.poll_send(cx, transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut pool = lock(&self.pool);
        let mut messages = 0;
        for (buffer, meta) in bufs.iter_mut().zip(meta) {
            let (mut came, datagrams) = match pool.messages.pop_front() {
                None => break,
                Some(Ok(message)) => message,
                Some(Err(error)) if messages == 0 => return Poll::Ready(Err(error)),
                Some(Err(error)) => {
                    pool.messages.push_front(Err(error));
                    break;
                }
            };
            pool.bytes = pool.bytes.saturating_sub(datagrams.len());
            // What does not fit is cut off, as the kernel does.
            came.len = datagrams.len().min(buffer.len());
            if let (Some(to), Some(from)) = (buffer.get_mut(..came.len), datagrams.get(..came.len)) {
                to.copy_from_slice(from);
            }
            *meta = came;
            messages += 1;
        }
        if messages == 0 {
            pool.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let filler = if pool.bytes < MOST_HELD { pool.filler.take() } else { None };
        drop(pool);
        if let Some(filler) = filler {
            filler.wake();
        }
        Poll::Ready(Ok(messages))
    }

    fn max_gso_segments(&self) -> usize {
        self.inner.max_gso_segments()
    }

    fn max_gro_segments(&self) -> usize {
        self.inner.max_gro_segments()
    }
}

/// Takes whatever is there; ends with an error that is more than another host's word about one datagram.
fn poll_fill(source: &dyn AsyncUdpSocket, pool: &Mutex<Pool>, cx: &mut Context<'_>) -> Poll<()> {
    loop {
        {
            let mut pool = lock(pool);
            if pool.bytes >= MOST_HELD {
                pool.filler = Some(cx.waker().clone());
                return Poll::Pending;
            }
        }
        let came = ready!(SPACE.with_borrow_mut(|space| poll_messages(source, space, cx)));
        let is_over = matches!(&came, Err(error) if !is_transient(error));
        let reader = {
            let mut pool = lock(pool);
            match came {
                Ok(messages) => {
                    for (meta, datagrams) in messages {
                        pool.bytes += datagrams.len();
                        pool.messages.push_back(Ok((meta, datagrams)));
                    }
                }
                Err(error) => pool.messages.push_back(Err(error)),
            }
            pool.reader.take()
        };
        if let Some(reader) = reader {
            reader.wake();
        }
        if is_over {
            return Poll::Ready(());
        }
    }
}

type Messages = Vec<(RecvMeta, Box<[u8]>)>;

fn poll_messages(
    source: &dyn AsyncUdpSocket,
    space: &mut [Vec<u8>],
    cx: &mut Context<'_>,
) -> Poll<io::Result<Messages>> {
    let mut meta = [RecvMeta::default(); BATCH_SIZE];
    let mut slices: Vec<_> = space.iter_mut().map(|buffer| IoSliceMut::new(buffer)).collect();
    let messages = ready!(source.poll_recv(cx, &mut slices, &mut meta))?;
    let copy = |(meta, slice): (&RecvMeta, &IoSliceMut<'_>)| {
        (*meta, slice.get(..meta.len).unwrap_or_default().into())
    };
    Poll::Ready(Ok(meta.iter().zip(&slices).take(messages).map(copy).collect()))
}

/// What the driver goes on after, see [`AsyncUdpSocket::poll_recv`].
fn is_transient(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, ConnectionReset, Interrupted, TimedOut, WouldBlock};
    matches!(error.kind(), ConnectionRefused | ConnectionReset | Interrupted | TimedOut | WouldBlock)
}

fn lock(pool: &Mutex<Pool>) -> MutexGuard<'_, Pool> {
    pool.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One for the whole process, which it lasts as long as.
fn reading_thread() -> io::Result<&'static Handle> {
    static THREAD: OnceLock<io::Result<Handle>> = OnceLock::new();
    let started = THREAD.get_or_init(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let handle = runtime.handle().clone();
        thread::Builder::new()
            .name("datagrams".to_owned())
            .spawn(move || runtime.block_on(std::future::pending::<()>()))?;
        Ok(handle)
    });
    started.as_ref().map_err(|error| io::Error::new(error.kind(), error.to_string()))
}

thread_local! {
    /// Where datagrams arrive, before it is known how many and how long they are.
    static SPACE: RefCell<Vec<Vec<u8>>> = RefCell::new(vec![vec![0; LONGEST]; BATCH_SIZE]);
}

/// All that the kernel puts together.
const LONGEST: usize = 1 << 16;
/// Twice what a connection's other side may have in flight.
const MOST_HELD: usize = 2 << 20;

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use socket2::SockRef;

    use super::*;
    use crate::clock;

    fn pair() -> (UdpSocket, Reservoir) {
        let ours = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        // The kernel's least.
        SockRef::from(&ours).set_recv_buffer_size(0).unwrap();
        let theirs = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        theirs.connect(ours.local_addr().unwrap()).unwrap();
        (theirs, Reservoir::new(ours).unwrap())
    }

    /// Sends as soon as what went before has been taken.
    fn send(theirs: &UdpSocket, reservoir: &Reservoir, datagrams: usize, of: usize) {
        for number in 0..datagrams {
            let before = lock(&reservoir.pool).messages.len();
            theirs.send(&vec![u8::try_from(number % 256).unwrap(); of]).unwrap();
            wait("it is taken", || lock(&reservoir.pool).messages.len() > before);
        }
    }

    fn wait(what: &str, is_so: impl Fn() -> bool) {
        let since = clock::now();
        while !is_so() {
            assert!(
                clock::now().duration_since(since) < Duration::from_secs(10),
                "waited too long until {what}"
            );
            thread::yield_now();
        }
    }

    async fn receive(reservoir: &Reservoir, space: usize) -> Vec<u8> {
        let (mut buffer, mut meta) = (vec![0; space], [RecvMeta::default()]);
        let received = poll_fn(|cx| reservoir.poll_recv(cx, &mut [IoSliceMut::new(&mut buffer)], &mut meta));
        assert_eq!(tokio::time::timeout(Duration::from_secs(10), received).await.unwrap().unwrap(), 1);
        buffer.truncate(meta[0].len);
        buffer
    }

    #[tokio::test]
    async fn what_the_kernel_could_not_hold_is_there_in_order() {
        let (theirs, reservoir) = pair();
        send(&theirs, &reservoir, 500, 1000);
        for number in 0..500 {
            assert_eq!(receive(&reservoir, 2000).await, [u8::try_from(number % 256).unwrap(); 1000]);
        }
        send(&theirs, &reservoir, 1, 100);
        assert_eq!(receive(&reservoir, 60).await, [0; 60], "what does not fit is cut off");
        // Whoever waits is woken.
        let (received, ()) = tokio::join!(receive(&reservoir, 2000), async {
            theirs.send(b"late").unwrap();
        });
        assert_eq!(received, b"late");
    }

    #[tokio::test]
    async fn what_is_held_has_a_limit_and_room_is_filled_again() {
        let (theirs, reservoir) = pair();
        let datagrams = MOST_HELD.div_ceil(1000);
        send(&theirs, &reservoir, datagrams, 1000);
        wait("the thread stands still", || lock(&reservoir.pool).filler.is_some());
        theirs.send(b"one more").unwrap();
        for _ in 0..datagrams {
            assert_eq!(receive(&reservoir, 2000).await.len(), 1000);
        }
        assert_eq!(receive(&reservoir, 2000).await, b"one more");
        assert_eq!(lock(&reservoir.pool).bytes, 0);
    }

    #[test]
    fn an_error_is_told_in_its_turn_and_only_a_lasting_one_ends_it() {
        let came = [
            Ok(b"first".to_vec()),
            Err(io::ErrorKind::ConnectionRefused),
            Ok(b"second".to_vec()),
            Err(io::ErrorKind::PermissionDenied),
        ];
        let source = Scripted(Mutex::new(came.into()));
        let pool = Mutex::<Pool>::default();
        let mut context = Context::from_waker(Waker::noop());
        assert!(poll_fill(&source, &pool, &mut context).is_ready());
        let told: Vec<_> = lock(&pool).messages.drain(..).collect();
        let told = told.into_iter().map(|message| message.map(|(_, datagram)| datagram.to_vec()));
        let told: Vec<_> = told.map(|message| message.map_err(|error| error.kind())).collect();
        assert_eq!(
            told,
            [
                Ok(b"first".to_vec()),
                Err(io::ErrorKind::ConnectionRefused),
                Ok(b"second".to_vec()),
                Err(io::ErrorKind::PermissionDenied),
            ]
        );
    }

    #[derive(Debug)]
    struct Scripted(Mutex<VecDeque<Result<Vec<u8>, io::ErrorKind>>>);

    impl AsyncUdpSocket for Scripted {
        fn local_addr(&self) -> io::Result<SocketAddr> {
            Ok((Ipv4Addr::LOCALHOST, 1).into())
        }

        fn poll_send(&self, _: &mut Context<'_>, transmit: &Transmit<'_>) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(transmit.contents.len()))
        }

        fn poll_recv(
            &self,
            _: &mut Context<'_>,
            bufs: &mut [IoSliceMut<'_>],
            meta: &mut [RecvMeta],
        ) -> Poll<io::Result<usize>> {
            let Some(next) = self.0.lock().unwrap().pop_front() else { return Poll::Pending };
            let datagram = next?;
            bufs[0][..datagram.len()].copy_from_slice(&datagram);
            meta[0] = RecvMeta::default();
            meta[0].len = datagram.len();
            Poll::Ready(Ok(1))
        }
    }
}
