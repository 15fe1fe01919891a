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
        self.tasks.spawn(connection(stream, builder, dispatch, self.draining.clone()));
    }
}

/// One connection, to its end.
async fn connection(
    stream: TcpStream,
    builder: Arc<Builder<TokioExecutor>>,
    dispatch: Dispatch,
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
        if timeout(FIRST_REQUEST, asked.notified()).await.is_ok() {
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

const FIRST_REQUEST: Duration = Duration::from_secs(10);
const HEADER_READ: Duration = Duration::from_secs(10);
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);
const MAX_HEADERS: usize = 64;
const MAX_HEADER_BYTES: u32 = 16 * 1024;
/// What one stream's slow reader holds of the transport; the rest waits in its log.
const MAX_SEND_BUFFER: usize = 64 * 1024;
