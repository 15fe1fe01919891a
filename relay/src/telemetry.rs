//! Logs on stderr, metrics over HTTP.

use std::fmt;
use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use tracing::debug;
use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;
use crate::log_queue::{LogQueue, LogWriter};
use crate::metrics::{self, ProcessMetrics, WorkerMetrics};
use crate::operate::Readiness;

/// Begins to log, as long as the writer lives. `RUST_LOG` wins, being what a person sets for one run.
pub fn init(filter: &str, format: LogFormat) -> anyhow::Result<(LogFilter, LogWriter)> {
    let is_fixed = std::env::var_os(EnvFilter::DEFAULT_ENV).is_some();
    let filter = EnvFilter::try_from_default_env().or_else(|_| EnvFilter::try_new(filter)).context("log")?;
    // The library warns of what any stranger can send.
    let filter = filter.add_directive("dimpl=off".parse()?);
    let queue = LogQueue::default();
    let writer = queue.write_to(io::stderr()).context("starting to log")?;
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(queue)
        .with_ansi(io::stderr().is_terminal());
    let (started, reload): (_, Box<dyn Fn(EnvFilter) -> bool + Send>) = match format {
        LogFormat::Text => {
            let logs = logs.with_filter_reloading();
            let handle = logs.reload_handle();
            (logs.try_init(), Box::new(move |filter| handle.reload(filter).is_ok()))
        }
        LogFormat::Json => {
            let logs = logs.json().flatten_event(true).with_filter_reloading();
            let handle = logs.reload_handle();
            (logs.try_init(), Box::new(move |filter| handle.reload(filter).is_ok()))
        }
    };
    started.map_err(|error| anyhow::anyhow!(error)).context("logging")?;
    Ok((LogFilter { reload: (!is_fixed).then_some(reload) }, writer))
}

/// What is logged, changeable.
pub struct LogFilter {
    /// None, if `RUST_LOG` has the say.
    reload: Option<Box<dyn Fn(EnvFilter) -> bool + Send>>,
}

impl LogFilter {
    /// Logs by another filter from now on, unless `RUST_LOG` has the say.
    pub fn set(&self, filter: &str) -> anyhow::Result<()> {
        let filter = EnvFilter::try_new(filter).context("log")?;
        match &self.reload {
            Some(reload) if !reload(filter) => anyhow::bail!("the log is gone"),
            Some(_) | None => Ok(()),
        }
    }
}

impl fmt::Debug for LogFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogFilter").finish_non_exhaustive()
    }
}

/// What the page over HTTP tells of.
#[derive(Debug, Clone)]
pub struct Instruments {
    /// What workers count.
    pub workers: Arc<[Arc<WorkerMetrics>]>,
    /// What the process counts.
    pub process: Arc<ProcessMetrics>,
    /// Whether new clients are welcome.
    pub readiness: watch::Receiver<Readiness>,
}

/// Serves `GET /metrics`, `GET /healthz` and `GET /readyz` for as long as it is polled.
///
/// Small enough to be written by hand: one request a connection, its head bounded in bytes and time, and no more
/// connections at once than a few scrapers make.
pub async fn serve_metrics(listener: TcpListener, instruments: Instruments) {
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&connections).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                debug!(%error, "Metrics connection not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let instruments = instruments.clone();
        tokio::spawn(async move {
            if let Ok(Err(error)) = timeout(REQUEST_TIMEOUT, answer(stream, &instruments)).await {
                debug!(%error, "Metrics request failed");
            }
            drop(permit);
        });
    }
}

async fn answer(mut stream: TcpStream, instruments: &Instruments) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if head.len() >= MAX_HEAD_BYTES || stream.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let (status, body) = route(&head, instruments);
    let content_type = "text/plain; version=0.0.4; charset=utf-8";
    let length = body.len();
    let response = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    );
    stream.write_all(response.as_bytes()).await?;
    stream.shutdown().await
}

fn route(head: &[u8], instruments: &Instruments) -> (&'static str, String) {
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let mut words = line.split(|byte| *byte == b' ');
    match (words.next(), words.next()) {
        (Some(b"GET"), Some(b"/metrics")) => {
            ("200 OK", metrics::render(&instruments.workers, &instruments.process))
        }
        (Some(b"GET"), Some(b"/healthz")) => ("200 OK", "ok\n".into()),
        (Some(b"GET"), Some(b"/readyz")) => match *instruments.readiness.borrow() {
            Readiness::Serving => ("200 OK", "ready\n".into()),
            Readiness::Draining | Readiness::HandedOver => ("503 Service Unavailable", "draining\n".into()),
        },
        (Some(b"GET"), _) => ("404 Not Found", "GET /metrics, /healthz or /readyz\n".into()),
        _ => ("405 Method Not Allowed", "GET /metrics, /healthz or /readyz\n".into()),
    }
}

const MAX_CONNECTIONS: usize = 64;
const MAX_HEAD_BYTES: usize = 8 * 1024;
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
