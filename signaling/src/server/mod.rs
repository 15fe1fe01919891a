//! The running server: binds, says where, accepts, and drains within its grace.
//!
//! It owns its accept loop, because a graceful shutdown that waits for streams can wait for ever: here the streams
//! are told first (`GoAway`), and what is still open when the grace is over is cut.

mod admin;
mod connection;
mod entrance;
mod floods;
mod reload;
mod sweeper;
mod tls;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;
use tonic_health::ServingStatus;
use tracing::{info, warn};

use crate::backplane::{Backplane, Memory, Redis};
use crate::clock::Clock;
use crate::config::{self, Config};
use crate::drain::Drain;
use crate::http::Dispatch;
use crate::limits::{Limits, TrustedProxies};
use crate::metrics::Metrics;
use crate::service::{self, Context};
use crate::traces::Traces;
pub use connection::ConnectionLimits;
use connection::Connections;
pub use entrance::Cleartext;
use entrance::Entrance;
use reload::Reload;
use sweeper::Sweeper;
pub use tls::{CertificateFiles, Clients, FileError, Files, Tls};

/// Where the server can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Ready {
    /// gRPC.
    pub grpc: SocketAddr,
    /// Prometheus text and a health check, if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics: Option<SocketAddr>,
    /// The operators' service, if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin: Option<SocketAddr>,
}

/// How strangers are let in.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Certificates, if there are any.
    pub tls: Option<Arc<Tls>>,
    /// From whom cleartext is taken.
    pub cleartext: Cleartext,
    /// Whose word counts for where a client is.
    pub proxies: TrustedProxies,
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
    let metrics_listener = bind_if_asked(config.metrics_listen).await?;
    let admin_listener = bind_if_asked(config.admin.listen).await?;
    let addresses = Ready {
        grpc: listener.local_addr()?,
        metrics: metrics_listener.as_ref().map(TcpListener::local_addr).transpose()?,
        admin: admin_listener.as_ref().map(TcpListener::local_addr).transpose()?,
    };

    let (drain, draining) = Drain::new();
    let metrics = Arc::new(Metrics::default());
    let (traces, exporting) = Traces::start(config.traces, metrics.clone())?;
    let limits = Arc::new(Limits::new(config.settings.quotas));
    let context = Arc::new(Context {
        limits: limits.clone(),
        backplane,
        settings: config.settings,
        clock,
        metrics: metrics.clone(),
        traces,
        draining: draining.clone(),
    });
    if context.settings.tokens.is_open() {
        warn!("Without a token key, whoever knows a room's name may enter it");
    }
    let reloading = Reload {
        written: config.written,
        tls: config.entrance.tls.clone(),
        tokens: context.settings.tokens.clone(),
        operators: config.admin.tokens.clone(),
        limits: limits.clone(),
        origins: config.web.origins.clone(),
        ice: context.settings.ice.clone(),
        metrics: metrics.clone(),
    };
    let reloading = Owned(tokio::spawn(reloading.run()?));
    let (dispatch, health) = Dispatch::new(context.clone(), config.web).await?;
    let sweeper = Sweeper::new(context.clone(), health.clone()).await;
    let sweeper = Owned(tokio::spawn(sweeper.sweep()));
    let metrics_task =
        metrics_listener.map(|listener| Owned(tokio::spawn(admin::serve(listener, context.clone()))));
    let proxies = Arc::new(config.entrance.proxies);
    let Entry { tls, cleartext, .. } = config.entrance;
    let entrance = || Entrance { tls: tls.clone(), cleartext, proxies: proxies.clone() };
    let stop = Arc::new(Notify::new());
    let admin = match admin_listener {
        Some(listener) => {
            let routes = service::admin::routes(context.clone(), config.admin, stop.clone()).await?;
            let bounds = ConnectionLimits { connections: MAX_OPERATORS, ..config.connections };
            let answer = TowerToHyperService::new(routes);
            let (metrics, draining) = (metrics.clone(), draining.clone());
            let mut operators =
                Connections::new(bounds, entrance(), answer, limits.clone(), metrics, draining);
            let (over, is_over) = oneshot::channel::<()>();
            let serving = async move {
                operators
                    .accept_until(&listener, async {
                        let _ = is_over.await;
                    })
                    .await;
                operators.drain(LAST_WORDS).await;
            };
            Some((over, Owned(tokio::spawn(serving))))
        }
        None => None,
    };
    let mut connections =
        Connections::new(config.connections, entrance(), dispatch, limits, metrics, draining);
    let shutdown = async {
        tokio::select! {
            () = shutdown => {}
            () = stop.notified() => {}
        }
    };

    info!(grpc = %addresses.grpc, metrics = ?addresses.metrics, admin = ?addresses.admin, "Serving");
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
    if let Some((over, mut operators)) = admin {
        drop(over);
        // Whoever asked for the drain is to have its answer.
        let _ = (&mut operators.0).await;
    }
    drop((sweeper, metrics_task, reloading));
    exporting.finish().await;
    Ok(())
}

async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))
}

async fn bind_if_asked(address: Option<SocketAddr>) -> anyhow::Result<Option<TcpListener>> {
    match address {
        Some(address) => bind(address).await.map(Some),
        None => Ok(None),
    }
}

/// A task that ends with its owner.
struct Owned(JoinHandle<()>);

impl Drop for Owned {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Connections of operators at once.
const MAX_OPERATORS: usize = 64;
/// How long the store may take to be told of the last streams, and operators to take their answers.
const LAST_WORDS: Duration = Duration::from_secs(1);
