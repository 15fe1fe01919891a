//! Connections: accepted up to a limit, each with timeouts for what a stranger may leave undone.

use std::convert::Infallible;
use std::future::{Future, pending};
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tonic::body::Body;
use tracing::{debug, warn};

use super::entrance::{Entrance, Stream, Visitor};
use super::floods::Watched;
use crate::drain::Draining;
use crate::limits::{ClientAddr, Limits};
use crate::metrics::Metrics;

/// What strangers may take up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Connections at once.
    pub connections: usize,
    /// Streams and calls at once on one connection.
    pub streams: u32,
    /// How long a connection may take until HTTP can be spoken over it.
    pub handshake: Duration,
    /// How long it may then take to ask for anything.
    pub first_request: Duration,
}

/// What answers requests, whatever they are.
pub(super) trait Answer:
    Service<Request<Incoming>, Response = Response<Body>, Error = Infallible, Future: Send + 'static>
    + Clone
    + Send
    + Sync
    + 'static
{
}

impl<S> Answer for S where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible, Future: Send + 'static>
        + Clone
        + Send
        + Sync
        + 'static
{
}

/// Every open connection, each a task that this owns.
pub(super) struct Connections<S> {
    tasks: JoinSet<()>,
    most: usize,
    shared: Arc<Shared<S>>,
}

/// What every connection needs.
struct Shared<S> {
    bounds: ConnectionLimits,
    builder: Builder<TokioExecutor>,
    entrance: Entrance,
    answer: S,
    limits: Arc<Limits>,
    metrics: Arc<Metrics>,
    draining: Draining,
}

impl<S: Answer> Connections<S> {
    pub(super) fn new(
        bounds: ConnectionLimits,
        entrance: Entrance,
        answer: S,
        limits: Arc<Limits>,
        metrics: Arc<Metrics>,
        draining: Draining,
    ) -> Self {
        let mut builder = Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_READ).max_headers(MAX_HEADERS);
        builder
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .max_concurrent_streams(bounds.streams)
            .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
            .max_local_error_reset_streams(MAX_ERROR_RESETS)
            .max_header_list_size(MAX_HEADER_BYTES)
            .max_send_buf_size(MAX_SEND_BUFFER);
        let most = bounds.connections;
        let shared = Shared { bounds, builder, entrance, answer, limits, metrics, draining };
        Self { tasks: JoinSet::new(), most, shared: Arc::new(shared) }
    }

    pub(super) async fn accept_until(&mut self, listener: &TcpListener, shutdown: impl Future<Output = ()>) {
        let mut shutdown = pin!(shutdown);
        let mut failing = false;
        loop {
            tokio::select! {
                () = &mut shutdown => return,
                Some(_) = self.tasks.join_next() => self.shared.metrics.connections.down(),
                accepted = listener.accept() => match accepted {
                    Ok((stream, peer)) => {
                        failing = false;
                        self.serve(stream, peer);
                    }
                    // Mostly there are no file descriptors left, which may last: say it once, and try again.
                    Err(error) => {
                        if !failing {
                            warn!(%error, "Cannot accept connections");
                        }
                        failing = true;
                        sleep(ACCEPT_BACKOFF).await;
                    }
                },
            }
        }
    }

    /// Waits for the connections to end, then cuts what is left and returns how many that were.
    pub(super) async fn drain(&mut self, grace: Duration) -> usize {
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        let _ = timeout(grace, ended).await;
        let cut = self.tasks.len();
        self.tasks.shutdown().await;
        cut
    }

    fn serve(&mut self, stream: TcpStream, peer: SocketAddr) {
        let metrics = &self.shared.metrics;
        if self.tasks.len() >= self.most {
            metrics.connections_refused.add(1);
            return;
        }
        metrics.connections.up();
        self.tasks.spawn(connection(self.shared.clone(), stream, peer));
    }
}

/// One connection, to its end.
async fn connection<S: Answer>(shared: Arc<Shared<S>>, stream: TcpStream, peer: SocketAddr) {
    let _ = stream.set_nodelay(true);
    // Whoever takes nothing of what is written to it, for this long, is as good as gone: HTTP/1 has no pings.
    #[cfg(target_os = "linux")]
    let _ = SockRef::from(&stream).set_tcp_user_timeout(Some(NOTHING_TAKEN));
    let metrics = &shared.metrics;
    let visitor = match timeout(shared.bounds.handshake, shared.entrance.admit(stream, peer)).await {
        Ok(Ok(visitor)) => visitor,
        Ok(Err(error)) => {
            metrics.handshakes_failed.add(1);
            return debug!(%error, "Connection not let in");
        }
        Err(_) => {
            metrics.handshakes_failed.add(1);
            return debug!("Connection that said too little for too long closed");
        }
    };
    let Visitor { stream, from } = visitor;
    // What a proxy's connections carry belongs to many.
    let _permit = if shared.entrance.proxies.contains(from) {
        None
    } else {
        match shared.limits.connect(ClientAddr(from)) {
            Ok(permit) => Some(permit),
            Err(excess) => {
                metrics.exceeded(excess.quota);
                return debug!(quota = excess.quota.as_str(), "Connection refused");
            }
        }
    };
    match stream {
        Stream::Clear(stream) => speak(&shared, stream, from).await,
        Stream::Encrypted(stream) => {
            metrics.tls_handshakes.add(1);
            speak(&shared, stream, from).await;
        }
    }
}

async fn speak<S: Answer, IO>(shared: &Shared<S>, io: IO, from: IpAddr)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let asked = Arc::new(Notify::new());
    let service = {
        let (asked, answer, proxies) =
            (asked.clone(), shared.answer.clone(), shared.entrance.proxies.clone());
        hyper::service::service_fn(move |mut request: Request<Incoming>| {
            asked.notify_one();
            let client = proxies.client(from, request.headers());
            request.extensions_mut().insert(client);
            answer.call(request)
        })
    };
    // Covers what neither protocol's own timeouts do: bytes that never become a request.
    let first_request = shared.bounds.first_request;
    let never_asked = async {
        if timeout(first_request, asked.notified()).await.is_ok() {
            pending::<()>().await;
        }
    };
    let mut draining = shared.draining.clone();
    let io = TokioIo::new(Watched::new(io, shared.metrics.clone()));
    let mut connection = pin!(shared.builder.serve_connection(io, service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = never_asked => return debug!("Connection without a request closed"),
        () = draining.begun() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        debug!(%error, "Connection failed");
    }
}

const HEADER_READ: Duration = Duration::from_secs(10);
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
const NOTHING_TAKEN: Duration = Duration::from_secs(60);
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);
const MAX_HEADERS: usize = 64;
const MAX_HEADER_BYTES: u32 = 16 * 1024;
/// What one stream's slow reader holds of the transport; the rest waits in its log.
const MAX_SEND_BUFFER: usize = 64 * 1024;
/// Streams that were opened and reset before they were looked at: more of them is an attack, CVE-2023-44487.
const MAX_PENDING_RESETS: usize = 20;
/// Streams that had to be reset because the client broke the protocol.
const MAX_ERROR_RESETS: usize = 256;

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::oneshot;

    use super::super::entrance::Cleartext;
    use super::*;
    use crate::http::Dispatch;
    use crate::service::testing;

    /// Serves with these limits until the sender is dropped.
    async fn serve(limits: ConnectionLimits) -> (SocketAddr, Arc<Metrics>, oneshot::Sender<()>) {
        let (context, drain) = testing::context(testing::settings());
        let (dispatch, _) = Dispatch::new(context.clone(), Default::default()).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let metrics = context.metrics.clone();
        tokio::spawn(async move {
            let draining = context.draining.clone();
            let entrance = Entrance { tls: None, cleartext: Cleartext::Everybody, proxies: Arc::default() };
            let shared = context.limits.clone();
            let mut connections =
                Connections::new(limits, entrance, dispatch, shared, context.metrics.clone(), draining);
            let stopped = async { drop(stopped.await) };
            connections.accept_until(&listener, stopped).await;
            drop(drain);
        });
        (address, metrics, stop)
    }

    const LIMITS: ConnectionLimits = ConnectionLimits {
        connections: 2,
        streams: 10,
        handshake: Duration::from_secs(20),
        first_request: Duration::from_secs(20),
    };

    /// What is read until the server ends the connection.
    async fn read_to_end(stream: &mut TcpStream) -> Vec<u8> {
        let mut read = Vec::new();
        timeout(Duration::from_secs(10), stream.read_to_end(&mut read)).await.expect("left open").unwrap();
        read
    }

    #[tokio::test]
    async fn a_connection_that_asks_nothing_is_closed() {
        let brief = Duration::from_millis(50);
        let limits = ConnectionLimits { handshake: brief, first_request: brief, ..LIMITS };
        let (address, _, _stop) = serve(limits).await;
        for unfinished in [&b""[..], b"P", b"PRI * HTTP/2.0\r\n\r\nSM", b"GET / HTTP/1.1\r\nhost"] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(unfinished).await.unwrap();
            assert_eq!(read_to_end(&mut stream).await, b"");
        }
    }

    #[tokio::test]
    async fn one_connection_too_many_is_closed_and_counted() {
        let (address, metrics, _stop) = serve(LIMITS).await;
        let mut open = Vec::new();
        for _ in 0..LIMITS.connections {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
            // An answer means that the connection was taken in.
            stream.read_exact(&mut [0; 12]).await.unwrap();
            open.push(stream);
        }
        let mut refused = TcpStream::connect(address).await.unwrap();
        assert_eq!(read_to_end(&mut refused).await, b"");
        let page = metrics.render(None);
        assert!(page.contains("farcall_signaling_connections_refused_total 1"), "{page}");
        assert!(page.contains("farcall_signaling_connections 2"), "{page}");
    }
}
