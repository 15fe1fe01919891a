//! The running program: binds, starts the workers, says where it listens, and ends when asked.

use std::future::{Future, pending};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, bail};
use rand::SeedableRng;
use rand::rngs::{StdRng, SysRng};
use serde::Serialize;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{error, info, warn};

use crate::auth::{Authenticator, NonceKey};
use crate::config::{Config, ExternalIp, SecureConfig, Sources};
use crate::crew::Crew;
use crate::dtls::{CookieKey, Front, SessionConfig};
use crate::io::{
    Buffers, DtlsParts, Exchange, Handover, Listeners, Plane, SecureListeners, SecureParts, Worker,
    WorkerHandle, WorkerParts,
};
use crate::metrics::{ProcessMetrics, WorkerMetrics};
use crate::operate::{Event, Operation, Readiness};
use crate::policy::{OwnRelays, PeerPolicy, Quota, UnauthenticatedBudget, peer};
use crate::reload::Reloader;
use crate::telemetry::{Instruments, LogFilter};
use crate::turn::{
    self, AddressPair, Addresses, Alternates, Discovery, Handles, Lifetimes, Parts, Rules, Serial, Serials,
    Server, WorkerIndex,
};
use crate::upgrade::{self, Giver, Taking};
use crate::usage::{self, Reporter};
use crate::webhook::Webhooks;
use crate::{admin, check, clock, external, notify, telemetry};

/// Where it serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ready {
    /// STUN and TURN over UDP.
    pub udp: Vec<SocketAddr>,
    /// STUN and TURN over TCP.
    pub tcp: Vec<SocketAddr>,
    /// STUN and TURN over TLS.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tls: Vec<SocketAddr>,
    /// STUN and TURN over DTLS.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dtls: Vec<SocketAddr>,
    /// The other addresses of behaviour discovery.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub alternate: Vec<SocketAddr>,
    /// The operator's service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin: Option<String>,
    /// Metrics over HTTP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics: Option<SocketAddr>,
}

/// What the process was started with.
#[derive(Debug)]
pub struct Setup {
    /// What it is told.
    pub config: Config,
    /// Where that comes from, to be read again.
    pub sources: Sources,
    /// What is logged.
    pub logs: LogFilter,
    /// Both ends of what is asked of it.
    pub events: (mpsc::Sender<Event>, mpsc::Receiver<Event>),
}

/// Serves until an event ends it. Calls `ready` once, when every address is bound.
pub async fn run(setup: Setup, ready: impl FnOnce(&Ready) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let Setup { config, sources, logs, events: (asking, events) } = setup;
    let started_at = clock::unix_time();
    let mut taking = match &config.upgrade_socket {
        Some(path) => Taking::begin(path)?,
        None => None,
    };
    let (listeners, pairs) = match &mut taking {
        Some(taking) => taking.listeners(&config)?,
        None => bind(&config)?,
    };
    let (plain, secure) =
        listeners.first().map(|(plain, secure)| (plain.addresses(), secure.addresses())).unwrap_or_default();
    let ((mut udp, mut tcp), (tls, dtls)) = (plain, secure);
    let own_listeners: Vec<_> = udp.iter().chain(&tcp).chain(&tls).chain(&dtls).copied().collect();
    udp.truncate(config.listen.len());
    tcp.truncate(config.listen.len());
    let alternate = pairs.iter().map(|pair| pair.alternate).collect();
    let metrics_listener = match config.metrics_listen {
        Some(address) => {
            Some(metrics_listener(address, taking.as_mut().and_then(|taking| taking.other(METRICS))).await?)
        }
        None => None,
    };
    let metrics = metrics_listener.as_ref().map(TcpListener::local_addr).transpose()?;
    let admin_listener = match &config.admin_listen {
        Some(at) => {
            let other = taking.as_mut().and_then(|taking| taking.other(ADMIN));
            Some(admin::Listener::bind(at, other).await.with_context(|| format!("cannot listen on {at:?}"))?)
        }
        None => None,
    };
    let admin = admin_listener.as_ref().map(admin::Listener::name);
    let addresses = relay_addresses(&config, &udp).await?;
    let admin_address = admin_listener.as_ref().and_then(admin::Listener::address);
    let own_listeners = own_listeners.into_iter().chain(metrics).chain(admin_address).collect();
    let (reporter, records) = match &config.usage_log {
        Some(to) => {
            let file =
                usage::open(to).await.with_context(|| format!("cannot write usage records to {to:?}"))?;
            let (reporter, records) = usage::channel();
            (reporter, Some(usage::write(records, file)))
        }
        None => (Reporter::default(), None),
    };
    let upgrade_listener = match &config.upgrade_socket {
        Some(path) => Some(upgrade_listener(path, taking.as_mut().and_then(|taking| taking.other(UPGRADE)))?),
        None => None,
    };
    let mut others = Vec::new();
    for (name, descriptor) in [
        (METRICS, metrics_listener.as_ref().map(AsFd::as_fd)),
        (ADMIN, admin_listener.as_ref().map(AsFd::as_fd)),
        (UPGRADE, upgrade_listener.as_ref().map(AsFd::as_fd)),
    ] {
        if let Some(descriptor) = descriptor {
            others.push((name.to_owned(), descriptor.try_clone_to_owned()?));
        }
    }
    let advertised: Vec<IpAddr> = addresses.advertised_ips().collect();
    let recheck = recheck(&config, &addresses);
    let keys = Keys::of(taking.as_ref(), listeners.len())?;
    let (nonces, handles) = (keys.nonces.clone(), keys.handles.clone());
    let blueprint = Blueprint::new(&config, addresses, own_listeners, Discovery::new(pairs.clone()), keys)?;
    let workers = listeners.len();
    let (mut fleet, predecessor) = Fleet::start(listeners, &blueprint, reporter, taking)?;

    for warning in check::warnings(&config, &advertised) {
        warn!("{warning}");
    }
    let where_ready = Ready { udp, tcp, tls, dtls, alternate, admin, metrics };
    info!(udp = ?where_ready.udp, tcp = ?where_ready.tcp, metrics = ?where_ready.metrics, workers, "Serving");
    match (ready(&where_ready), &predecessor) {
        (Err(error), Some(_)) => {
            warn!(%error, "Nobody was told, but whoever was served goes on being served");
        }
        (told, _) => told?,
    }

    let crew = fleet.crew();
    let process = Arc::new(ProcessMetrics::default());
    let (readiness, is_ready) = watch::channel(Readiness::Serving);
    let admin_token = config.admin_token.clone();
    let certificates = config.secure.certificates.clone();
    let serials = blueprint.serials.clone();
    let giver = Giver { crew: crew.clone(), nonces, handles, serials, pairs, others };
    let reloader = Reloader::new(sources, config, blueprint, logs, Arc::clone(&process));
    let mut tasks = JoinSet::new();
    if let Some(records) = records {
        tasks.spawn(records);
    }
    let mut helpers = JoinSet::new();
    if let Some(predecessor) = predecessor {
        helpers.spawn(predecessor.outlive(crew.clone()));
    }
    if let Some(listener) = upgrade_listener {
        helpers.spawn(upgrade::serve(listener, giver, asking.clone()));
    }
    helpers.spawn(recheck);
    if let Some(certificates) = certificates {
        helpers.spawn(async move { certificates.watch().await });
    }
    if let Some(listener) = metrics_listener {
        let (process, readiness) = (Arc::clone(&process), is_ready.clone());
        let instruments = Instruments { workers: Arc::clone(crew.metrics()), process, readiness };
        helpers.spawn(while_ours(is_ready.clone(), telemetry::serve_metrics(listener, instruments)));
    }
    let mut operators = JoinSet::new();
    if let Some(listener) = admin_listener {
        let service = admin::Service {
            crew: crew.clone(),
            events: asking,
            readiness: is_ready.clone(),
            written: reloader.written(),
            metrics: process,
            started_at,
        };
        let served = admin::serve(listener, service, admin_token, is_ready.clone());
        operators.spawn(while_ours(is_ready, served));
    }
    let operation = Operation { crew, reloader, readiness, events, successors: JoinSet::new() };
    // Open until the very end, by which a successor knows that it has come.
    let successor = tokio::select! {
        successor = operation.run() => successor,
        () = fleet.any_ended() => {
            error!("A worker ended by itself");
            None
        }
    };
    if successor.is_none() {
        notify::tell("STOPPING=1");
    }
    let _ = timeout(LAST_WORDS, operators.join_next()).await;
    operators.shutdown().await;
    helpers.shutdown().await;
    // The last records are written once no worker is left to report.
    let stopped = fleet.stop();
    while tasks.join_next().await.is_some() {}
    stopped
}

/// Plain and secure sockets of every worker.
type Bound = Vec<(Listeners, SecureListeners)>;

fn bind(config: &Config) -> anyhow::Result<(Bound, Vec<AddressPair>)> {
    let Config { workers, buffers, secure, .. } = config;
    let (plain, pairs) = Listeners::bind(&config.listen, &config.alternate_listen, workers.get(), *buffers)?;
    let secure = SecureListeners::bind(&secure.tls_listen, &secure.dtls_listen, workers.get(), *buffers)?;
    Ok((plain.into_iter().zip(secure).collect(), pairs))
}

/// The one that was taken over, if it is where it is to be.
async fn metrics_listener(address: SocketAddr, other: Option<OwnedFd>) -> anyhow::Result<TcpListener> {
    if let Some(listener) = other.map(std::net::TcpListener::from)
        && listener
            .local_addr()
            .is_ok_and(|at| at == address || address.port() == 0 && at.ip() == address.ip())
    {
        return Ok(TcpListener::from_std(listener)?);
    }
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))
}

fn upgrade_listener(path: &Path, other: Option<OwnedFd>) -> anyhow::Result<UnixListener> {
    let listener = match other {
        Some(listener) => listener.into(),
        None => {
            admin::listen_privately(path).with_context(|| format!("cannot listen on {}", path.display()))?
        }
    };
    Ok(UnixListener::from_std(listener)?)
}

/// Until another process listens there instead.
async fn while_ours(mut readiness: watch::Receiver<Readiness>, served: impl Future<Output = ()>) {
    let handed_over = async {
        if readiness.wait_for(|readiness| *readiness == Readiness::HandedOver).await.is_err() {
            pending::<()>().await;
        }
    };
    tokio::select! {
        () = served => {}
        () = handed_over => {}
    }
}

/// The process that was taken over from, as long as it lives for clients that could not come along.
#[derive(Debug)]
struct Predecessor {
    stream: std::os::unix::net::UnixStream,
    own_relays: OwnRelays,
    staying: Vec<SocketAddr>,
    /// By worker, the DTLS sockets that it goes on reading.
    dtls: Vec<Vec<UdpSocket>>,
}

impl Predecessor {
    /// Waits for its end, and takes the rest over.
    async fn outlive(self, crew: Crew) {
        let Self { stream, own_relays, staying, dtls } = self;
        let waited = async {
            stream.set_nonblocking(true)?;
            let mut stream = UnixStream::from_std(stream)?;
            stream.read_u8().await
        };
        // It says nothing any more: this is the end.
        let _ = waited.await;
        staying.into_iter().for_each(|relayed| own_relays.remove_elsewhere(relayed));
        if let Err(error) = crew.serve_dtls(dtls) {
            error!(%error, "DTLS is not served");
        }
        info!("The process before has ended");
    }
}

/// How long operators may take for their last answers.
const LAST_WORDS: Duration = Duration::from_millis(500);
const METRICS: &str = "metrics";
const ADMIN: &str = "admin";
const UPGRADE: &str = "upgrade";

/// The worker threads, owned.
#[derive(Debug)]
struct Fleet {
    threads: Vec<(WorkerHandle, JoinHandle<std::io::Result<usize>>)>,
    metrics: Vec<Arc<WorkerMetrics>>,
    /// Closes once a worker ends, however it does.
    ended: mpsc::Receiver<()>,
}

impl Fleet {
    /// Every worker is ready before the first one runs; those that go on for others have taken over by then.
    fn start(
        listeners: Bound,
        blueprint: &Blueprint,
        reporter: Reporter,
        taking: Option<Taking>,
    ) -> anyhow::Result<(Self, Option<Predecessor>)> {
        let exchange = Exchange::new(listeners.len());
        let count = u16::try_from(listeners.len()).context("too many workers")?;
        let handovers = Handover::among(count);
        let (mut workers, mut later) = (Vec::new(), Vec::new());
        for ((index, (listeners, mut secure)), handover) in (0..count).zip(listeners).zip(handovers) {
            if taking.is_some() {
                // Perhaps the other process goes on reading from these.
                later.push(secure.take_dtls());
            }
            let metrics = Arc::new(WorkerMetrics::default());
            let server = blueprint.server(index, Arc::clone(&metrics))?;
            let parts = WorkerParts {
                listeners,
                secure: blueprint.secure(secure),
                server,
                quota: blueprint.quota.clone(),
                own_relays: blueprint.own_relays.clone(),
                webhooks: blueprint.webhooks.clone(),
                metrics: Arc::clone(&metrics),
                plane: blueprint.plane,
                buffers: blueprint.buffers,
                number: index.into(),
                exchange: exchange.clone(),
                reporter: reporter.clone(),
                handover,
            };
            let (worker, handle) = Worker::new(parts).context("cannot set a worker up")?;
            workers.push((worker, handle, metrics));
        }
        let predecessor =
            taking.map(|taking| take_over(&mut workers, later, blueprint, taking)).transpose()?;
        let (sender, ended) = mpsc::channel(1);
        let mut fleet = Self { threads: Vec::new(), metrics: Vec::new(), ended };
        for (index, (worker, handle, metrics)) in workers.into_iter().enumerate() {
            let notice = EndNotice(sender.clone());
            let body = move || {
                let _notice = notice;
                worker.run()
            };
            let thread = thread::Builder::new().name(format!("worker-{index}")).spawn(body)?;
            fleet.threads.push((handle, thread));
            fleet.metrics.push(metrics);
        }
        Ok((fleet, predecessor))
    }

    fn crew(&self) -> Crew {
        let handles = self.threads.iter().map(|(handle, _)| handle.clone()).collect();
        Crew::new(handles, self.metrics.clone().into())
    }

    async fn any_ended(&mut self) {
        self.ended.recv().await;
    }

    /// Stops every worker and says what that cut off. Fails if one had failed before.
    fn stop(self) -> anyhow::Result<()> {
        for (handle, _) in &self.threads {
            handle.stop()?;
        }
        let mut allocations = 0;
        for (_, thread) in self.threads {
            match thread.join() {
                Ok(cut_off) => allocations += cut_off.context("a worker failed")?,
                Err(_) => bail!("a worker panicked"),
            }
        }
        info!(allocations, "Stopped; these were cut off");
        Ok(())
    }
}

type Prepared = (Worker<StdRng>, WorkerHandle, Arc<WorkerMetrics>);

/// From here on nobody is served until the workers run; an error lets the other process go on.
fn take_over(
    workers: &mut [Prepared],
    mut dtls: Vec<Vec<UdpSocket>>,
    blueprint: &Blueprint,
    taking: Taking,
) -> anyhow::Result<Predecessor> {
    let mut unready = taking.freeze()?;
    blueprint.serials.go_on_from(Serial(unready.next_serial));
    let states = std::mem::take(&mut unready.workers);
    if states.len() != workers.len() {
        bail!("the other process has {} workers, not {}", states.len(), workers.len());
    }
    let mut staying = Vec::new();
    for (((worker, _, _), dtls), (state, sockets)) in workers.iter_mut().zip(&mut dtls).zip(states) {
        staying.extend(state.staying());
        if !state.keeps_dtls() {
            worker.serve_dtls(std::mem::take(dtls));
        }
        worker.adopt(state, sockets).context("cannot go on with what the other process had")?;
    }
    staying.iter().for_each(|relayed| blueprint.own_relays.insert_elsewhere(*relayed));
    let stream = unready.take()?;
    Ok(Predecessor { stream, own_relays: blueprint.own_relays.clone(), staying, dtls })
}

/// What is made once, and goes from process to process.
#[derive(Debug)]
struct Keys {
    nonces: NonceKey,
    handles: Handles,
}

impl Keys {
    /// Those of the process before, else new ones.
    fn of(taking: Option<&Taking>, workers: usize) -> anyhow::Result<Self> {
        let (now, workers) = (clock::now(), WorkerIndex::try_from(workers)?);
        Ok(match taking {
            Some(taking) => Self {
                nonces: NonceKey::go_on(taking.nonces(), now),
                handles: Handles::go_on(taking.handles(), workers),
            },
            None => Self {
                nonces: NonceKey::new(&mut system_rng()?, now),
                handles: Handles::new(&mut system_rng()?, workers),
            },
        })
    }
}

/// Says that its thread is over, be it by a panic.
struct EndNotice(mpsc::Sender<()>);

impl Drop for EndNotice {
    fn drop(&mut self) {
        // Full means that another worker said so already.
        let _ = self.0.try_send(());
    }
}

/// What all workers' state machines are made from, now and after the configuration has changed.
#[derive(Debug)]
pub struct Blueprint {
    turn: turn::Config,
    authenticator: Authenticator,
    policy: PeerPolicy,
    budget: UnauthenticatedBudget,
    quota: Quota,
    own_relays: OwnRelays,
    webhooks: Option<Arc<Webhooks>>,
    handles: Handles,
    plane: Plane,
    buffers: Buffers,
    secure: SecureConfig,
    dtls: Option<DtlsParts>,
    nonces: NonceKey,
    serials: Serials,
    /// What no client may reach.
    listeners: Vec<SocketAddr>,
}

impl Blueprint {
    fn new(
        config: &Config,
        addresses: Addresses,
        listeners: Vec<SocketAddr>,
        discovery: Discovery,
        keys: Keys,
    ) -> anyhow::Result<Self> {
        let started = clock::now();
        let own_relays = OwnRelays::default();
        let Keys { nonces, handles } = keys;
        let policy = peer_policy(config, &addresses, &listeners, &own_relays);
        Ok(Self {
            turn: turn::Config {
                addresses,
                lifetimes: Lifetimes::default(),
                channels: config.channels,
                classic_stun: config.classic_stun,
                discovery,
                alternates: alternates(config),
                tcp_relay: config.tcp_relay,
            },
            authenticator: Authenticator::new(config.auth.clone(), nonces.clone()),
            policy,
            budget: UnauthenticatedBudget::new(config.unauthenticated_rate, started),
            quota: Quota::new(config.user_limits),
            own_relays,
            webhooks: webhooks(config)?,
            handles,
            plane: config.plane,
            buffers: config.buffers,
            secure: config.secure.clone(),
            dtls: dtls_parts(&config.secure)?,
            nonces,
            serials: Serials::default(),
            listeners,
        })
    }

    fn secure(&self, listeners: SecureListeners) -> SecureParts {
        SecureParts {
            listeners,
            certificates: self.secure.certificates.clone(),
            dtls: self.dtls.clone(),
            proxies: self.secure.proxies.clone(),
        }
    }

    /// Goes by another configuration, as far as that can be while it runs.
    pub fn follow(&mut self, before: &Config, config: &Config) -> Quota {
        self.authenticator = Authenticator::new(config.auth.clone(), self.nonces.clone());
        self.policy = peer_policy(config, &self.turn.addresses, &self.listeners, &self.own_relays);
        if config.unauthenticated_rate != before.unauthenticated_rate {
            self.budget = UnauthenticatedBudget::new(config.unauthenticated_rate, clock::now());
        }
        self.quota = self.quota.with_defaults(config.user_limits);
        (self.turn.channels, self.turn.classic_stun) = (config.channels, config.classic_stun);
        (self.turn.alternates, self.turn.tcp_relay) = (alternates(config), config.tcp_relay);
        self.quota.clone()
    }

    /// What one worker goes by.
    #[must_use]
    pub fn rules(&self) -> Rules {
        Rules {
            authenticator: self.authenticator.clone(),
            budget: self.budget.clone(),
            policy: self.policy.clone(),
            channels: self.turn.channels,
            classic_stun: self.turn.classic_stun,
            alternates: self.turn.alternates.clone(),
            tcp_relay: self.turn.tcp_relay,
        }
    }

    fn server(&self, index: WorkerIndex, metrics: Arc<WorkerMetrics>) -> anyhow::Result<Server<StdRng>> {
        let parts = Parts {
            authenticator: self.authenticator.clone(),
            budget: self.budget.clone(),
            policy: self.policy.clone(),
            metrics,
            handles: self.handles.of_worker(index),
            rng: system_rng()?,
        };
        Ok(Server::new(self.turn.clone(), parts).with_serials(self.serials.clone()))
    }
}

fn alternates(config: &Config) -> Alternates {
    Alternates { plain: config.alternate_server.clone(), secure: config.alternate_tls_server.clone() }
}

fn peer_policy(
    config: &Config,
    addresses: &Addresses,
    listeners: &[SocketAddr],
    own_relays: &OwnRelays,
) -> PeerPolicy {
    let bound = [addresses.relay_v4.map(IpAddr::V4), addresses.relay_v6.map(IpAddr::V6)];
    PeerPolicy::new(peer::Config {
        allow: config.allow_peers.clone(),
        deny: config.deny_peers.clone(),
        unnamed: config.unnamed_peers,
        listeners: listeners.to_vec(),
        own: bound.into_iter().flatten().chain(addresses.advertised_ips()).collect(),
        relays: own_relays.clone(),
    })
}

/// Asks again what the world calls us, if we were told to ask.
fn recheck(config: &Config, addresses: &Addresses) -> impl Future<Output = ()> + Send + 'static + use<> {
    let servers = config.external_ip_servers.clone();
    let known: Vec<_> = match config.external_ips.contains(&ExternalIp::Auto) {
        true => addresses.pairs().collect(),
        false => Vec::new(),
    };
    async move {
        match known.is_empty() {
            true => pending().await,
            false => external::watch(servers, known).await,
        }
    }
}

/// What all workers' DTLS listeners have in common, if there are any.
fn dtls_parts(secure: &SecureConfig) -> anyhow::Result<Option<DtlsParts>> {
    match &secure.certificates {
        Some(certificates) if !secure.dtls_listen.is_empty() => Ok(Some(DtlsParts {
            front: Front::new(CookieKey::new(&mut system_rng()?, clock::now())),
            config: SessionConfig::new().context("cannot set DTLS up")?,
            certificates: certificates.clone(),
        })),
        Some(_) | None => Ok(None),
    }
}

/// The threads that ask, if there is anybody to ask.
fn webhooks(config: &Config) -> anyhow::Result<Option<Arc<Webhooks>>> {
    let mut realms = config.auth.webhooks().peekable();
    if realms.peek().is_none() {
        return Ok(None);
    }
    let webhooks =
        Webhooks::start(realms, config.webhook_concurrency.get()).context("cannot start webhooks")?;
    Ok(Some(Arc::new(webhooks)))
}

/// A generator nobody can foresee.
fn system_rng() -> anyhow::Result<StdRng> {
    StdRng::try_from_rng(&mut SysRng).context("the system gives no random numbers")
}

/// What was configured, else the address a listener has, else the one this machine would reach the world from.
async fn relay_addresses(config: &Config, listeners: &[SocketAddr]) -> anyhow::Result<Addresses> {
    let relay_ips = if config.relay_ips.is_empty() {
        [true, false].into_iter().filter_map(|is_v4| default_relay_ip(listeners, is_v4)).collect()
    } else {
        config.relay_ips.clone()
    };
    if relay_ips.is_empty() {
        bail!("no address for relay sockets: this machine has no route out; set --relay-ip");
    }
    let external_ips = external_ips(config, &relay_ips).await?;
    info!(?relay_ips, ?external_ips, ports = ?config.relay_ports, "Relaying");
    Ok(Addresses {
        relay_v4: relay_ips.iter().find_map(as_v4),
        relay_v6: relay_ips.iter().find_map(as_v6),
        external_v4: external_ips.iter().find_map(as_v4),
        external_v6: external_ips.iter().find_map(as_v6),
        ports: config.relay_ports.clone(),
    })
}

/// What was configured, and where it was not but is to be found out, what STUN servers say.
async fn external_ips(config: &Config, relay_ips: &[IpAddr]) -> anyhow::Result<Vec<IpAddr>> {
    let mut external_ips: Vec<_> = config.external_ips.iter().filter_map(|ip| ip.known()).collect();
    if config.external_ips.contains(&ExternalIp::Auto) {
        for relay_ip in relay_ips {
            if !external_ips.iter().any(|ip| ip.is_ipv4() == relay_ip.is_ipv4()) {
                external_ips.push(external::ask(&config.external_ip_servers, *relay_ip).await?);
            }
        }
    }
    Ok(external_ips)
}

fn default_relay_ip(listeners: &[SocketAddr], is_v4: bool) -> Option<IpAddr> {
    let mut of_family = listeners.iter().map(SocketAddr::ip).filter(|ip| ip.is_ipv4() == is_v4).peekable();
    of_family.peek()?;
    of_family.find(|ip| !ip.is_unspecified()).or_else(|| route_out(is_v4))
}

/// Connecting a UDP socket sends nothing; it only chooses the source address.
fn route_out(is_v4: bool) -> Option<IpAddr> {
    let (any, outside) = if is_v4 { ("0.0.0.0:0", "192.0.2.1:9") } else { ("[::]:0", "[2001:db8::1]:9") };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(outside).ok()?;
    socket.local_addr().ok().map(|address| address.ip()).filter(|ip| !ip.is_unspecified())
}

fn as_v4(ip: &IpAddr) -> Option<Ipv4Addr> {
    match ip {
        IpAddr::V4(v4) => Some(*v4),
        IpAddr::V6(_) => None,
    }
}

fn as_v6(ip: &IpAddr) -> Option<Ipv6Addr> {
    match ip {
        IpAddr::V4(_) => None,
        IpAddr::V6(v6) => Some(*v6),
    }
}
