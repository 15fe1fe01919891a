//! The runtime under a peer connection: tokio's, with cures for the faults of webrtc 0.21.1.
//!
//! Its driver does one pass over writes, events and reads, then sleeps. What the later steps of a pass produce waits
//! for the next wake-up, which may be ICE's tick 200 ms later. The driver calls `sleep` exactly once at the end of
//! each pass: answered at once a few times after every real wake-up, it makes the passes that are missing.
//! One value serves one connection.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use webrtc::runtime::{
    AsyncInterval, AsyncTcpListener, AsyncTcpStream, AsyncUdpSocket, JoinHandle, Runtime, TokioRuntime,
};

use super::ice_servers::split_authority;
use super::ice_tcp::{self, IceListener};
use super::socket::{self, BurstGate, WatchedSocket};
use super::sockets::Sockets;
use super::tunnel::{SocketTunnels, Tunnels};
use super::turn_watch::TurnWatch;

type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// See the module.
#[derive(Debug)]
pub(crate) struct CuredRuntime {
    watch: Arc<TurnWatch>,
    tunnels: Arc<Tunnels>,
    gate: Arc<BurstGate>,
    sockets: Arc<Sockets>,
    nudger: Nudger,
}

impl CuredRuntime {
    pub(crate) fn new(
        watch: Arc<TurnWatch>,
        tunnels: Arc<Tunnels>,
        gate: Arc<BurstGate>,
        sockets: Arc<Sockets>,
    ) -> Self {
        Self { watch, tunnels, gate, sockets, nudger: Nudger::default() }
    }
}

impl Runtime for CuredRuntime {
    fn spawn(&self, future: Boxed<'static, ()>) -> Box<dyn JoinHandle> {
        TokioRuntime.spawn(Box::pin(Driver(future)))
    }

    fn spawn_reactor(&self, pool: usize, future: Boxed<'static, ()>) -> Box<dyn JoinHandle> {
        TokioRuntime.spawn_reactor(pool, Box::pin(Driver(future)))
    }

    fn wrap_udp_socket(&self, socket: std::net::UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        let tunnels = SocketTunnels::new(Arc::clone(&self.tunnels), socket.local_addr()?.ip());
        let inner = socket::wrap(socket)?;
        let (watch, gate) = (Arc::clone(&self.watch), Arc::clone(&self.gate));
        Ok(Arc::new(WatchedSocket::new(inner, tunnels, watch, gate, &self.sockets)?))
    }

    fn wrap_tcp_listener(&self, listener: std::net::TcpListener) -> io::Result<Arc<dyn AsyncTcpListener>> {
        Ok(Arc::new(IceListener::new(listener)?))
    }

    fn connect_tcp(&self, remote: SocketAddr) -> Boxed<'_, io::Result<Arc<dyn AsyncTcpStream>>> {
        Box::pin(ice_tcp::connect(remote))
    }

    fn resolve_host<'a>(&'a self, host: &'a str) -> Boxed<'a, io::Result<Vec<SocketAddr>>> {
        Box::pin(async move {
            let (name, port) = split_host(host)?;
            let stand_ins = self.tunnels.stand_ins(name, port);
            let resolved = match (stand_ins, name.parse::<IpAddr>()) {
                (Some(stand_ins), _) => Ok(stand_ins),
                (None, Ok(address)) => Ok(vec![SocketAddr::new(address, port)]),
                (None, Err(_)) => tokio::net::lookup_host((name, port)).await.map(Iterator::collect),
            };
            self.watch.resolved(name, port, resolved.as_deref().map_err(ToString::to_string));
            resolved
        })
    }

    fn sleep(&self, duration: Duration) -> Boxed<'static, ()> {
        if IN_DRIVER.get() && self.nudger.pass_again() {
            let fired = Arc::clone(&self.nudger.fired);
            return Box::pin(async move { fired.store(true, Relaxed) });
        }
        TokioRuntime.sleep(duration)
    }

    fn interval(&self, period: Duration) -> Box<dyn AsyncInterval> {
        TokioRuntime.interval(period)
    }

    fn block_on(&self, future: Pin<Box<dyn Future<Output = ()> + '_>>) {
        TokioRuntime.block_on(future);
    }

    fn name(&self) -> &'static str {
        "tokio, cured"
    }
}

/// Counts the extra passes.
#[derive(Debug, Default)]
struct Nudger {
    left: AtomicU32,
    /// The last `sleep` was answered at once …
    nudging: AtomicBool,
    /// … and that is what ended it, rather than a datagram or a call that came first.
    fired: Arc<AtomicBool>,
}

impl Nudger {
    /// Called at the end of each pass by the one driver: whether to make another.
    fn pass_again(&self) -> bool {
        let was_a_nudge = self.nudging.load(Relaxed) && self.fired.swap(false, Relaxed);
        let left = if was_a_nudge { self.left.load(Relaxed).saturating_sub(1) } else { EXTRA_PASSES };
        self.left.store(left, Relaxed);
        self.nudging.store(left > 0, Relaxed);
        left > 0
    }
}

/// Marks the driver's own calls to `sleep`, since others use the runtime too.
struct Driver(Boxed<'static, ()>);

impl Future for Driver {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let before = IN_DRIVER.replace(true);
        let result = self.0.as_mut().poll(cx);
        IN_DRIVER.set(before);
        result
    }
}

thread_local! {
    static IN_DRIVER: Cell<bool> = const { Cell::new(false) };
}

/// Between a datagram from a TURN server and the answer to what is inside of it lie three; one more does no harm.
const EXTRA_PASSES: u32 = 4;

/// `host:port`, where the crate forgets the brackets of an IPv6 address.
fn split_host(host: &str) -> io::Result<(&str, u16)> {
    let bad = || io::Error::new(io::ErrorKind::InvalidInput, format!("{host} is no host and port"));
    let (name, port) = match split_authority(host) {
        Some((name, Some(port))) => (name, port),
        Some((_, None)) => return Err(bad()),
        None => host.rsplit_once(':').ok_or_else(bad)?,
    };
    Ok((name, port.parse().map_err(|_| bad())?))
}

#[cfg(test)]
mod tests {
    use super::super::{Eagerness, Trust};
    use super::*;

    #[test]
    fn every_real_wake_up_gets_its_extra_passes_and_then_the_driver_sleeps() {
        let nudger = Nudger::default();
        for _ in 0..3 {
            let mut passes = 0;
            while nudger.pass_again() {
                nudger.fired.store(true, Relaxed);
                passes += 1;
                assert!(passes < 100, "it never sleeps");
            }
            assert_eq!(passes, EXTRA_PASSES);
        }
    }

    #[test]
    fn a_datagram_in_between_starts_the_count_again() {
        let nudger = Nudger::default();
        assert!(nudger.pass_again());
        // Woken by something else: `fired` stays unset.
        let mut passes = 0;
        while passes < 100 && nudger.pass_again() {
            nudger.fired.store(true, Relaxed);
            passes += 1;
        }
        assert_eq!(passes, EXTRA_PASSES);
    }

    #[test]
    fn an_ipv6_address_is_understood_with_brackets_and_without() {
        assert_eq!(split_host("[2001:db8::1]:99").unwrap(), ("2001:db8::1", 99));
        assert_eq!(split_host("2001:db8::1:99").unwrap(), ("2001:db8::1", 99));
        assert_eq!(split_host("example.com:99").unwrap(), ("example.com", 99));
        assert!(split_host("example.com").is_err() && split_host("example.com:x").is_err());
    }

    #[tokio::test]
    async fn sleep_outside_of_the_driver_sleeps() {
        let watch = Arc::new(TurnWatch::new(Vec::new()));
        let tunnels = Tunnels::new(&[], Trust::default(), Eagerness::AtOnce, Arc::clone(&watch));
        let runtime = CuredRuntime::new(watch, Arc::new(tunnels), Arc::default(), Arc::default());
        let slept =
            tokio::time::timeout(Duration::from_millis(20), runtime.sleep(Duration::from_secs(60))).await;
        assert!(slept.is_err());
    }
}
