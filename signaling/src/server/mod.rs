//! The running server: binds, says where, accepts, and drains within its grace.
//!
//! It owns its accept loop, because a graceful shutdown that waits for streams can wait for ever: here the streams
//! are told first (`GoAway`), and what is still open when the grace is over is cut.

mod admin;
mod connection;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tonic_health::ServingStatus;
use tracing::{error, info, warn};

use crate::backplane::{Backplane, Memory};
use crate::clock::Clock;
use crate::config::Config;
use crate::drain::Drain;
use crate::http::Dispatch;
use crate::metrics::Metrics;
use crate::service::Context;
pub use connection::ConnectionLimits;
use connection::Connections;

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
    let listener = bind(config.listen).await?;
    let admin_listener = match config.metrics_listen {
        Some(address) => Some(bind(address).await?),
        None => None,
    };
    let addresses = Ready {
        grpc: listener.local_addr()?,
        metrics: admin_listener.as_ref().map(TcpListener::local_addr).transpose()?,
    };

    let clock = Clock::real();
    let (drain, draining) = Drain::new();
    let metrics = Arc::new(Metrics::default());
    let context = Arc::new(Context {
        backplane: Memory::new(config.settings.limits, config.bounds, clock.clone()),
        settings: config.settings,
        clock,
        metrics: metrics.clone(),
        draining: draining.clone(),
    });
    if context.settings.join_tokens.is_open() {
        warn!("Without a join token, whoever knows a room's name may enter it");
    }
    let (dispatch, health) = Dispatch::new(context.clone(), config.web).await?;
    let sweeper = Owned(tokio::spawn(sweep(context.clone())));
    let admin = admin_listener.map(|listener| Owned(tokio::spawn(admin::serve(listener, context.clone()))));
    let mut connections = Connections::new(config.connections, dispatch, metrics, draining);

    info!(grpc = %addresses.grpc, metrics = ?addresses.metrics, "Serving");
    ready(addresses);
    connections.accept_until(&listener, shutdown).await;

    drop(listener);
    info!(streams = context.metrics.streams.value(), grace = ?config.drain_grace, "Draining");
    health.set_service_status("", ServingStatus::NotServing).await;
    health.set_service_status(SERVICE, ServingStatus::NotServing).await;
    drain.begin();
    let cut = connections.drain(config.drain_grace).await;
    info!(connections_cut = cut, "Stopped");
    drop((sweeper, admin));
    Ok(())
}

async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))
}

/// Lets time pass for the sessions.
async fn sweep<B: Backplane>(context: Arc<Context<B>>) {
    let mut ticks = tokio::time::interval(SWEEP);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut reached = true;
    loop {
        ticks.tick().await;
        match (context.backplane.sweep().await, reached) {
            (Ok(()), false) => info!("The backplane is back"),
            (Err(error), true) => error!(%error, "Leases are not being swept"),
            (Ok(()), true) | (Err(_), false) => continue,
        }
        reached = !reached;
    }
}

/// A task that ends with its owner.
struct Owned(JoinHandle<()>);

impl Drop for Owned {
    fn drop(&mut self) {
        self.0.abort();
    }
}

const SERVICE: &str = "farcall.signaling.v1.SignalingService";
/// How late a lease may be noticed to have run out.
const SWEEP: Duration = Duration::from_millis(100);
