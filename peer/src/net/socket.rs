//! UDP sockets as the driver wants them: with room for bursts, and watched.

use std::io::{self, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use socket2::SockRef;
use webrtc::runtime::{AsyncUdpSocket, RecvMeta, Runtime as _, TokioRuntime, Transmit};

use super::direct::{Checker, Found};
use super::repeat::{Alarm, Repeater};
use super::reservoir::Reservoir;
use super::sockets::{Sockets, Unheard};
use super::stun::Way;
use super::tunnel::SocketTunnels;
use super::turn_watch::TurnWatch;
use crate::clock;

/// Asks the kernel for room, since a burst that it drops costs SCTP a second each time; takes what it gives.
fn make_room(socket: &UdpSocket) {
    let socket = SockRef::from(socket);
    let _ = socket.set_recv_buffer_size(WANTED_BUFFER);
    let _ = socket.set_send_buffer_size(WANTED_BUFFER);
}

/// Whether the kernel keeps as much for a socket as the other side may have in flight.
fn has_room() -> bool {
    static HAS_ROOM: OnceLock<bool> = OnceLock::new();
    *HAS_ROOM.get_or_init(|| {
        let granted = || {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
            make_room(&socket);
            SockRef::from(&socket).recv_buffer_size()
        };
        granted().is_ok_and(|bytes| bytes >= ENOUGH_BUFFER)
    })
}

/// As the driver wants it, emptied by it or, where the kernel is mean, by somebody who has the time.
pub(super) fn wrap(socket: UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
    make_room(&socket);
    if has_room() { TokioRuntime.wrap_udp_socket(socket) } else { Ok(Arc::new(Reservoir::new(socket)?)) }
}

/// Whether datagrams may come in bursts.
///
/// Driver 0.21.1 reads all that is there before it looks at what the first of it brought about. If the other side's
/// first message on an agreed channel follows the end of SCTP's handshake that closely, the channel is not open in
/// the engine's eyes, and the message is lost although it is acknowledged. Until the channel is open each datagram
/// therefore gets a pass of its own.
#[derive(Debug, Default)]
pub(crate) struct BurstGate(AtomicBool);

impl BurstGate {
    /// From now on, bursts are welcome.
    pub(crate) fn open(&self) {
        self.0.store(true, Relaxed);
    }

    fn is_open(&self) -> bool {
        self.0.load(Relaxed)
    }
}

/// A socket whose traffic with TURN servers is watched and goes through streams where need be, whose bursts are held
/// up at first, and which sends what nobody asked it to.
#[derive(Debug)]
pub(super) struct WatchedSocket {
    inner: Arc<dyn AsyncUdpSocket>,
    tunnels: SocketTunnels,
    watch: Arc<TurnWatch>,
    gate: Arc<BurstGate>,
    awake: Arc<Mutex<Awake>>,
    unheard: Arc<Unheard>,
    /// The driver has just been given a datagram.
    served: AtomicBool,
}

impl Drop for WatchedSocket {
    /// ICE begins anew, with other sockets.
    fn drop(&mut self) {
        let unheard = self.awake().repeater.take();
        self.unheard.keep(unheard);
    }
}

/// What a socket sends by itself, when its time comes: the last of what gets no answer, and checks of other paths.
#[derive(Debug)]
pub(super) struct Awake {
    local: SocketAddr,
    pub(super) repeater: Repeater,
    pub(super) checker: Checker,
    alarm: Alarm,
}

impl Awake {
    fn poll_timeout(&self) -> Option<Instant> {
        [self.repeater.poll_timeout(), self.checker.poll_timeout()].into_iter().flatten().min()
    }

    /// From now on, see [`super::DirectPaths::search`].
    pub(super) fn search(&mut self, now: Instant, targets: &[SocketAddr], found: &Found) {
        self.checker.search(now, self.local, targets, found);
        let due = self.poll_timeout();
        self.alarm.sound_by(due);
    }
}

impl WatchedSocket {
    pub(super) fn new(
        inner: Arc<dyn AsyncUdpSocket>,
        tunnels: SocketTunnels,
        watch: Arc<TurnWatch>,
        gate: Arc<BurstGate>,
        sockets: &Sockets,
    ) -> io::Result<Self> {
        let awake = Awake {
            local: inner.local_addr()?,
            repeater: Repeater::default(),
            checker: Checker::default(),
            alarm: Alarm::default(),
        };
        let awake = Arc::new(Mutex::new(awake));
        sockets.join(&awake);
        let unheard = sockets.unheard();
        Ok(Self { inner, tunnels, watch, gate, awake, unheard, served: AtomicBool::new(false) })
    }

    fn awake(&self) -> MutexGuard<'_, Awake> {
        self.awake.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// By whichever way the destination takes.
    fn poll_hand_over(&self, cx: &mut Context<'_>, transmit: &Transmit<'_>) -> Poll<io::Result<usize>> {
        let segment = segment(transmit);
        if self.tunnels.take(transmit.destination, transmit.contents.chunks(segment)) {
            return Poll::Ready(Ok(transmit.contents.len()));
        }
        self.inner.poll_send(cx, transmit)
    }

    /// Sends what is due, and has the driver come back for the next.
    fn send_by_itself(&self, cx: &mut Context<'_>) {
        let mut awake = self.awake();
        let Awake { repeater, checker, .. } = &mut *awake;
        let now = clock::now();
        let again = repeater.poll(now).map(|sent| (sent.to, &*sent.datagram));
        for (destination, contents) in again.chain(checker.poll(now)) {
            let transmit = Transmit { destination, contents, ecn: None, segment_size: None, src_ip: None };
            // What finds no room is lost once more.
            let _ = self.poll_hand_over(cx, &transmit);
        }
        let due = awake.poll_timeout();
        awake.alarm.set(due, cx);
    }

    /// What goes to the other side goes this way now, so what it has not heard does, too.
    fn say_unheard(&self, cx: &mut Context<'_>, destination: SocketAddr, way: Way) {
        for said in self.unheard.take(clock::now(), destination, way) {
            let contents = &*way.frame(&said);
            let transmit = Transmit { destination, contents, ecn: None, segment_size: None, src_ip: None };
            let _ = self.poll_hand_over(cx, &transmit);
            self.awake().repeater.sent(clock::now(), destination, contents);
        }
    }

    /// Drops what comes too early, see [`TurnWatch::is_unannounced_relay`]; returns how many are left.
    fn without_unannounced(
        &self,
        messages: usize,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> usize {
        let mut left = messages;
        for index in (0..messages).rev() {
            if meta.get(index).is_some_and(|meta| self.watch.is_unannounced_relay(meta.addr)) {
                left -= 1;
                // The last one takes its place: the buffers are the caller's.
                meta.swap(index, left);
                let length = meta.get(index).map_or(0, |meta| meta.len);
                let (front, back) = bufs.split_at_mut(left);
                if let (Some(to), Some(from)) = (front.get_mut(index), back.first()) {
                    to.iter_mut().zip(from.iter()).take(length).for_each(|(to, from)| *to = *from);
                }
            }
        }
        left
    }
}

impl AsyncUdpSocket for WatchedSocket {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn poll_send(&self, cx: &mut Context<'_>, transmit: &Transmit<'_>) -> Poll<io::Result<usize>> {
        let sent = ready!(self.poll_hand_over(cx, transmit))?;
        let mut awake = self.awake();
        let now = clock::now();
        for datagram in transmit.contents.chunks(segment(transmit)) {
            self.watch.sent(transmit.destination, datagram);
            awake.repeater.sent(now, transmit.destination, datagram);
            awake.checker.sent(datagram);
        }
        let due = awake.poll_timeout();
        awake.alarm.sound_by(due);
        drop(awake);
        if self.unheard.is_due()
            && let Some(way) = Way::of(transmit.contents)
        {
            self.say_unheard(cx, transmit.destination, way);
        }
        Poll::Ready(Ok(sent))
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        if !self.gate.is_open() && self.served.swap(false, Relaxed) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.send_by_itself(cx);
        let messages = loop {
            if let Poll::Ready(messages) = self.tunnels.poll_recv(cx, bufs, meta) {
                break messages;
            }
            let came = ready!(self.inner.poll_recv(cx, bufs, meta))?;
            // Once a channel is open there is a pair, and nothing is too early any more.
            let kept = if self.gate.is_open() { came } else { self.without_unannounced(came, bufs, meta) };
            if kept > 0 {
                break kept;
            }
        };
        self.served.store(true, Relaxed);
        let mut awake = self.awake();
        let now = clock::now();
        for (buffer, meta) in bufs.iter().zip(meta.iter()).take(messages) {
            let received = buffer.get(..meta.len).unwrap_or_default();
            for datagram in received.chunks(meta.stride.max(1)) {
                self.watch.received(meta.addr, datagram);
                awake.repeater.received(now, meta.addr, datagram);
                awake.checker.received(now, meta.addr, datagram);
            }
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

/// The size of each datagram in it, but for the last.
fn segment(transmit: &Transmit<'_>) -> usize {
    transmit.segment_size.unwrap_or(transmit.contents.len()).max(1)
}

/// What a burst of a full SCTP window needs, with the kernel's overhead for each datagram.
const WANTED_BUFFER: usize = 4 << 20;
/// By the kernel's accounting a datagram that is not part of a run takes about twice its length; a window is 1 MiB.
const ENOUGH_BUFFER: usize = 2 << 20;

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::super::{Eagerness, Trust, Tunnels};
    use super::*;

    fn pair() -> (UdpSocket, Arc<BurstGate>, WatchedSocket) {
        let ours = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        ours.set_nonblocking(true).unwrap();
        let theirs = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        theirs.connect(ours.local_addr().unwrap()).unwrap();
        let gate = Arc::<BurstGate>::default();
        let watch = Arc::new(TurnWatch::new(Vec::new()));
        let tunnels = Tunnels::new(&[], Trust::default(), Eagerness::AtOnce, Arc::clone(&watch));
        let tunnels = SocketTunnels::new(Arc::new(tunnels), Ipv4Addr::LOCALHOST.into());
        let inner = TokioRuntime.wrap_udp_socket(ours).unwrap();
        let sockets = Sockets::default();
        let socket = WatchedSocket::new(inner, tunnels, watch, Arc::clone(&gate), &sockets).unwrap();
        (theirs, gate, socket)
    }

    /// What the driver does: one datagram, and then whatever else is there.
    async fn burst(socket: &WatchedSocket) -> usize {
        let mut buffer = [0; 64];
        let first = tokio::time::timeout(DEADLINE, socket.recv_from(&mut buffer)).await;
        first.expect("what was sent is there").unwrap();
        let mut datagrams = 1;
        let mut meta = [RecvMeta::default()];
        let mut context = Context::from_waker(Waker::noop());
        while socket.poll_recv(&mut context, &mut [IoSliceMut::new(&mut buffer)], &mut meta).is_ready() {
            datagrams += 1;
        }
        datagrams
    }

    #[tokio::test]
    async fn datagrams_come_one_by_one_until_the_gate_opens() {
        let (theirs, gate, socket) = pair();
        for size in 1..=6 {
            theirs.send(&[0; 8][..size]).unwrap();
        }
        assert_eq!((burst(&socket).await, burst(&socket).await), (1, 1));
        gate.open();
        assert_eq!(burst(&socket).await, 4);
    }

    const DEADLINE: std::time::Duration = std::time::Duration::from_secs(10);
}
