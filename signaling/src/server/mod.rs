//! The running server: binds, says where, accepts, and drains within its grace.
//!
//! It owns its accept loop, because a graceful shutdown that waits for streams can wait for ever: here the streams
//! are told first (`GoAway`), and what is still open when the grace is over is cut.

mod admin;
mod connection;
mod sweeper;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tonic_health::ServingStatus;
use tracing::{info, warn};

use crate::backplane::{Backplane, Memory, Redis};
use crate::clock::Clock;
use crate::config::{self, Config};
use crate::drain::Drain;
use crate::http::Dispatch;
use crate::metrics::Metrics;
use crate::service::Context;
pub use connection::ConnectionLimits;
use connection::Connections;
use sweeper::Sweeper;

/// Where the server can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Ready {
    /// gRPC.
    pub grpc: SocketAddr,
    /// Prometheus text and a health check, if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics: Option<SocketAddr>,
}

/// Serves until `shutdown`, then drains. `ready` is called once, when every address is bound.
pub async fn run(
    config: Config,
    ready: impl FnOnce(Ready),
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let (clock, limits, bounds) = (Clock::real(), config.settings.limits, config.bounds);
    match config.backplane.clone() {
        config::Backplane::Memory => {
            let memory = Memory::new(limits, bounds, clock.clone());
            run_on(memory, clock, config, ready, shutdown).await
        }
        config::Backplane::Redis(address) => {
            let redis = Redis::start(address, limits, bounds).await;
            run_on(redis, clock, config, ready, shutdown).await
        }
    }
}

async fn run_on<B: Backplane>(
    backplane: B,
    clock: Clock,
    config: Config,
    ready: impl FnOnce(Ready),
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let listener = bind(config.listen).await?;
    let admin_listener = match config.metrics_listen {
        Some(address) => Some(bind(address).await?),
        None => None,
    };
    let addresses = Ready {
        grpc: listener.local_addr()?,
        metrics: admin_listener.as_ref().map(TcpListener::local_addr).transpose()?,
    };

    let (drain, draining) = Drain::new();
    let metrics = Arc::new(Metrics::default());
    let context = Arc::new(Context {
        backplane,
        settings: config.settings,
        clock,
        metrics: metrics.clone(),
        draining: draining.clone(),
    });
    if context.settings.join_tokens.is_open() {
        warn!("Without a join token, whoever knows a room's name may enter it");
    }
    let (dispatch, health) = Dispatch::new(context.clone(), config.web).await?;
    let sweeper = Sweeper::new(context.clone(), health.clone()).await;
    let sweeper = Owned(tokio::spawn(sweeper.sweep()));
    let admin = admin_listener.map(|listener| Owned(tokio::spawn(admin::serve(listener, context.clone()))));
    let mut connections = Connections::new(config.connections, dispatch, metrics, draining);

    info!(grpc = %addresses.grpc, metrics = ?addresses.metrics, "Serving");
    ready(addresses);
    connections.accept_until(&listener, shutdown).await;

    drop(listener);
    info!(streams = context.metrics.streams.value(), grace = ?config.drain_grace, "Draining");
    drain.begin();
    sweeper::show(&health, ServingStatus::NotServing).await;
    let cut = connections.drain(config.drain_grace).await;
    info!(connections_cut = cut, "Stopped");
    // What ended just now is for the other nodes to know.
    let _ = tokio::time::timeout(LAST_WORDS, context.backplane.sweep()).await;
    drop((sweeper, admin));
    Ok(())
}

async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))
}

/// A task that ends with its owner.
struct Owned(JoinHandle<()>);

impl Drop for Owned {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// How long the store may take to be told of the last streams.
const LAST_WORDS: Duration = Duration::from_secs(1);
