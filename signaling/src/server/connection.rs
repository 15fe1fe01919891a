//! Connections: accepted up to a limit, each with timeouts for what a stranger may leave undone.

use std::future::{Future, pending};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::Service;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use crate::drain::Draining;
use crate::http::Dispatch;
use crate::metrics::Metrics;

/// What strangers may take up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Connections at once.
    pub connections: usize,
    /// Streams and calls at once on one connection.
    pub streams: u32,
    /// How long a connection may take to ask for anything.
    pub first_request: Duration,
}

/// Every open connection, each a task that this owns.
pub(super) struct Connections {
    tasks: JoinSet<()>,
    limits: ConnectionLimits,
    builder: Arc<Builder<TokioExecutor>>,
    dispatch: Dispatch,
    metrics: Arc<Metrics>,
    draining: Draining,
}

impl Connections {
    pub(super) fn new(
        limits: ConnectionLimits,
        dispatch: Dispatch,
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
            .max_concurrent_streams(limits.streams)
            .max_header_list_size(MAX_HEADER_BYTES)
            .max_send_buf_size(MAX_SEND_BUFFER);
        let builder = Arc::new(builder);
        Self { tasks: JoinSet::new(), limits, builder, dispatch, metrics, draining }
    }

    pub(super) async fn accept_until(&mut self, listener: &TcpListener, shutdown: impl Future<Output = ()>) {
        let mut shutdown = pin!(shutdown);
        let mut failing = false;
        loop {
            tokio::select! {
                () = &mut shutdown => return,
                Some(_) = self.tasks.join_next() => self.metrics.connections.down(),
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        failing = false;
                        self.serve(stream);
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

    fn serve(&mut self, stream: TcpStream) {
        if self.tasks.len() >= self.limits.connections {
            self.metrics.connections_refused.add(1);
            return;
        }
        self.metrics.connections.up();
        let (builder, dispatch) = (self.builder.clone(), self.dispatch.clone());
        self.tasks.spawn(connection(
            stream,
            builder,
            dispatch,
            self.limits.first_request,
            self.draining.clone(),
        ));
    }
}

/// One connection, to its end.
async fn connection(
    stream: TcpStream,
    builder: Arc<Builder<TokioExecutor>>,
    dispatch: Dispatch,
    first_request: Duration,
    mut draining: Draining,
) {
    let _ = stream.set_nodelay(true);
    let asked = Arc::new(Notify::new());
    let service = {
        let asked = asked.clone();
        hyper::service::service_fn(move |request| {
            asked.notify_one();
            dispatch.call(request)
        })
    };
    // Covers what neither protocol's own timeouts do: bytes that never become a request.
    let never_asked = async {
        if timeout(first_request, asked.notified()).await.is_ok() {
            pending::<()>().await;
        }
    };
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
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
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);
const MAX_HEADERS: usize = 64;
const MAX_HEADER_BYTES: u32 = 16 * 1024;
/// What one stream's slow reader holds of the transport; the rest waits in its log.
const MAX_SEND_BUFFER: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::oneshot;

    use super::*;
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
            let mut connections = Connections::new(limits, dispatch, context.metrics.clone(), draining);
            let stopped = async { drop(stopped.await) };
            connections.accept_until(&listener, stopped).await;
            drop(drain);
        });
        (address, metrics, stop)
    }

    const LIMITS: ConnectionLimits =
        ConnectionLimits { connections: 2, streams: 10, first_request: Duration::from_secs(20) };

    /// What is read until the server ends the connection.
    async fn read_to_end(stream: &mut TcpStream) -> Vec<u8> {
        let mut read = Vec::new();
        timeout(Duration::from_secs(10), stream.read_to_end(&mut read)).await.expect("left open").unwrap();
        read
    }

    #[tokio::test]
    async fn a_connection_that_asks_nothing_is_closed() {
        let limits = ConnectionLimits { first_request: Duration::from_millis(50), ..LIMITS };
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
