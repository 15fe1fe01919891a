//! The operator's listener: `GET /metrics` in Prometheus's text format, `GET /healthz`.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tracing::debug;

use crate::backplane::Backplane;
use crate::service::Context;

/// Serves until dropped.
pub(super) async fn serve<B: Backplane>(listener: TcpListener, context: Arc<Context<B>>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok((stream, _)) => {
                    let context = context.clone();
                    let service = service_fn(move |request| answer(request, context.clone()));
                    let connection = http1::Builder::new()
                        .timer(TokioTimer::new())
                        .header_read_timeout(HEADER_READ)
                        .serve_connection(TokioIo::new(stream), service);
                    connections.spawn(connection);
                }
                Err(error) => {
                    debug!(%error, "Cannot accept an operator's connection");
                    sleep(ACCEPT_BACKOFF).await;
                }
            },
        }
    }
}

async fn answer<B: Backplane>(
    request: Request<Incoming>,
    context: Arc<Context<B>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (status, text) = match (request.method(), request.uri().path()) {
        (&Method::GET, "/metrics") => {
            (StatusCode::OK, context.metrics.render(context.backplane.occupancy().await.ok()))
        }
        (&Method::GET, "/healthz") if context.draining.has_begun() => {
            (StatusCode::SERVICE_UNAVAILABLE, "draining\n".into())
        }
        (&Method::GET, "/healthz") if context.metrics.backplane_reached.value() == 0 => {
            (StatusCode::SERVICE_UNAVAILABLE, "the backplane cannot be reached\n".into())
        }
        (&Method::GET, "/healthz") => (StatusCode::OK, "ok\n".into()),
        _ => (StatusCode::NOT_FOUND, "there are /metrics and /healthz\n".into()),
    };
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    let plain_text = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain_text);
    Ok(response)
}

const MAX_CONNECTIONS: usize = 64;
const HEADER_READ: Duration = Duration::from_secs(10);
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);
