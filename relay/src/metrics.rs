//! Every instrument, declared once. Each worker counts into its own; a scrape adds them up. Label values are fixed
//! sets, so that the page has the same size whoever connects.

use std::fmt::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::stun::{ErrorCode, Method};
use crate::turn::EndReason;

/// What one worker counts. Nobody else writes, so that an increment never waits for another core.
#[derive(Debug, Default)]
pub struct WorkerMetrics {
    forwarded: [Traffic; Direction::ALL.len()],
    dropped: [Counter; DropReason::ALL.len()],
    requests: [[Counter; RESULTS.len()]; METHODS.len()],
    allocations_created: Counter,
    internal_datagrams: Counter,
    ended: [Counter; EndReason::ALL.len()],
    usage_records_lost: Counter,
    turns: Counter,
    /// Allocations alive.
    pub allocations: Gauge,
    /// Stream clients connected.
    pub streams: Gauge,
    /// DTLS clients connected.
    pub dtls_clients: Gauge,
    handshakes: [[Counter; Handshake::ALL.len()]; Secured::ALL.len()],
}

impl WorkerMetrics {
    /// Datagrams with this much application data went on their way.
    pub fn forwarded(&self, direction: Direction, datagrams: usize, bytes: usize) {
        if let Some(traffic) = self.forwarded.get(direction as usize) {
            traffic.datagrams.add(datagrams as u64);
            traffic.bytes.add(bytes as u64);
        }
    }

    /// A datagram came to nothing.
    pub fn dropped(&self, reason: DropReason) {
        self.dropped_many(reason, 1);
    }

    /// Several did.
    pub fn dropped_many(&self, reason: DropReason, datagrams: usize) {
        if let Some(counter) = self.dropped.get(reason as usize) {
            counter.add(datagrams as u64);
        }
    }

    /// A request was answered; `None` is success.
    pub fn answered(&self, method: Method, code: Option<ErrorCode>) {
        let method = METHODS.iter().position(|(known, _)| *known == method);
        let result = RESULTS.iter().position(|known| *known == code);
        let counter = method.zip(result).and_then(|(method, result)| self.requests.get(method)?.get(result));
        if let Some(counter) = counter {
            counter.add(1);
        }
    }

    /// A datagram goes from one relay of this server to another, past the kernel.
    pub fn relayed_inside(&self) {
        self.internal_datagrams.add(1);
    }

    /// A handshake is over.
    pub fn handshake(&self, secured: Secured, result: Handshake) {
        let counter = self.handshakes.get(secured as usize).and_then(|row| row.get(result as usize));
        if let Some(counter) = counter {
            counter.add(1);
        }
    }

    /// An allocation came into being.
    pub fn allocation_created(&self) {
        self.allocations_created.add(1);
        self.allocations.add(1);
    }

    /// The loop went round.
    pub fn turned(&self) {
        self.turns.add(1);
    }

    /// Nobody took the record of what an allocation came to.
    pub fn usage_record_lost(&self) {
        self.usage_records_lost.add(1);
    }

    /// One ended.
    pub fn allocation_ended(&self, reason: EndReason) {
        self.allocations.subtract(1);
        if let Some(counter) = self.ended.get(reason as usize) {
            counter.add(1);
        }
    }
}

/// What the process counts, whichever worker.
#[derive(Debug, Default)]
pub struct ProcessMetrics {
    reloads: [Counter; 2],
    last_reload: Counter,
    last_reload_good: Counter,
    asked: [Counter; AdminMethod::ALL.len()],
}

impl ProcessMetrics {
    /// The configuration was read again, at this time.
    pub fn reloaded(&self, is_good: bool, unix: u64) {
        if let Some(counter) = self.reloads.get(usize::from(is_good)) {
            counter.add(1);
        }
        self.last_reload.0.store(unix, Ordering::Relaxed);
        self.last_reload_good.0.store(u64::from(is_good), Ordering::Relaxed);
    }

    /// The operator asked something.
    pub fn asked(&self, method: AdminMethod) {
        if let Some(counter) = self.asked.get(method as usize) {
            counter.add(1);
        }
    }
}

/// What the operator can ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the methods of RelayAdminService, which are documented there")]
pub enum AdminMethod {
    ListAllocations,
    GetAllocation,
    CloseAllocation,
    CloseUser,
    Drain,
    GetStats,
    GetConfig,
    Reload,
}

impl AdminMethod {
    const ALL: [(Self, &'static str); 8] = [
        (Self::ListAllocations, "ListAllocations"),
        (Self::GetAllocation, "GetAllocation"),
        (Self::CloseAllocation, "CloseAllocation"),
        (Self::CloseUser, "CloseUser"),
        (Self::Drain, "Drain"),
        (Self::GetStats, "GetStats"),
        (Self::GetConfig, "GetConfig"),
        (Self::Reload, "Reload"),
    ];
}

/// Which way application data goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From a client.
    ToPeer,
    /// To a client.
    ToClient,
}

impl Direction {
    const ALL: [(Self, &'static str); 2] = [(Self::ToPeer, "to_peer"), (Self::ToClient, "to_client")];
}

/// What a handshake is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Secured {
    /// Streams.
    Tls,
    /// Datagrams.
    Dtls,
}

impl Secured {
    const ALL: [(Self, &'static str); 2] = [(Self::Tls, "tls"), (Self::Dtls, "dtls")];
}

/// How a handshake ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handshake {
    /// With a connection.
    Done,
    /// Without one.
    Failed,
}

impl Handshake {
    const ALL: [(Self, &'static str); 2] = [(Self::Done, "done"), (Self::Failed, "failed")];
}

/// Why a datagram came to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DropReason {
    /// Neither a STUN message nor ChannelData, or a broken one.
    Malformed,
    /// STUN, but nothing a server answers.
    NotARequest,
    /// From UDP port 0, where no answer can go.
    SourcePortZero,
    /// An error for a stranger whose prefix has had its share.
    UnauthenticatedRate,
    /// Data from or to a peer without a permission.
    NoPermission,
    /// ChannelData of a channel that is not bound, or data of a client without an allocation.
    NoChannel,
    /// Data for a peer that is out of bounds.
    PeerForbidden,
    /// Data of a user who relays faster than it may.
    UserLimit,
    /// Data that does not fit into a message for the client.
    TooLong,
    /// A stream client takes data more slowly than it comes; the oldest went.
    Backlog,
    /// A request of a user whom somebody else must know, and too many wait for that.
    LookupsFull,
    /// The kernel did not take it.
    SendFailed,
    /// The kernel had no room for it.
    SendBufferFull,
    /// The kernel lost it before we came to it (`SO_RXQ_OVFL`).
    ReceiveBufferFull,
    /// One handshake too many at once, or of one source.
    HandshakeLimit,
    /// An ICMP error about a peer whose client has been told enough of them for now.
    IcmpRate,
    /// A peer's connection to an allocation that has as many as it may.
    ConnectionLimit,
}

impl DropReason {
    const ALL: [(Self, &'static str); 17] = [
        (Self::Malformed, "malformed"),
        (Self::NotARequest, "not_a_request"),
        (Self::SourcePortZero, "source_port_zero"),
        (Self::UnauthenticatedRate, "unauthenticated_rate"),
        (Self::NoPermission, "no_permission"),
        (Self::NoChannel, "no_channel"),
        (Self::PeerForbidden, "peer_forbidden"),
        (Self::UserLimit, "user_limit"),
        (Self::TooLong, "too_long"),
        (Self::Backlog, "backlog"),
        (Self::LookupsFull, "lookups_full"),
        (Self::SendFailed, "send_failed"),
        (Self::SendBufferFull, "send_buffer_full"),
        (Self::ReceiveBufferFull, "receive_buffer_full"),
        (Self::HandshakeLimit, "handshake_limit"),
        (Self::IcmpRate, "icmp_rate"),
        (Self::ConnectionLimit, "connection_limit"),
    ];
}

const METHODS: [(Method, &str); 7] = [
    (Method::BINDING, "binding"),
    (Method::ALLOCATE, "allocate"),
    (Method::REFRESH, "refresh"),
    (Method::CREATE_PERMISSION, "create_permission"),
    (Method::CHANNEL_BIND, "channel_bind"),
    (Method::CONNECT, "connect"),
    (Method::CONNECTION_BIND, "connection_bind"),
];

const RESULTS: [Option<ErrorCode>; 16] = [
    None,
    Some(ErrorCode::BAD_REQUEST),
    Some(ErrorCode::UNAUTHENTICATED),
    Some(ErrorCode::FORBIDDEN),
    Some(ErrorCode::CONNECTION_ALREADY_EXISTS),
    Some(ErrorCode::CONNECTION_TIMEOUT_OR_FAILURE),
    Some(ErrorCode::UNKNOWN_ATTRIBUTE),
    Some(ErrorCode::ALLOCATION_MISMATCH),
    Some(ErrorCode::STALE_NONCE),
    Some(ErrorCode::ADDRESS_FAMILY_NOT_SUPPORTED),
    Some(ErrorCode::WRONG_CREDENTIALS),
    Some(ErrorCode::UNSUPPORTED_TRANSPORT_PROTOCOL),
    Some(ErrorCode::PEER_ADDRESS_FAMILY_MISMATCH),
    Some(ErrorCode::ALLOCATION_QUOTA_REACHED),
    Some(ErrorCode::SERVER_ERROR),
    Some(ErrorCode::INSUFFICIENT_CAPACITY),
];

/// What all workers have counted.
#[derive(Debug, Clone, Default)]
pub struct Sums {
    /// Datagrams and bytes.
    pub to_peer: (u64, u64),
    /// Datagrams and bytes.
    pub to_client: (u64, u64),
    /// Alive.
    pub allocations: u64,
    /// Ever made.
    pub allocations_created: u64,
    /// Stream clients.
    pub streams: u64,
    /// Datagrams that came to nothing, by reason.
    pub dropped: Vec<(&'static str, u64)>,
}

/// Adds up.
#[must_use]
pub fn sum(workers: &[Arc<WorkerMetrics>]) -> Sums {
    let sum = |of: &dyn Fn(&WorkerMetrics) -> Option<&Counter>| {
        let parts = workers.iter().filter_map(|worker| of(worker));
        parts.fold(0u64, |sum, part| sum.wrapping_add(part.value()))
    };
    let forwarded = |direction: Direction| {
        let datagrams = sum(&|worker| Some(&worker.forwarded.get(direction as usize)?.datagrams));
        (datagrams, sum(&|worker| Some(&worker.forwarded.get(direction as usize)?.bytes)))
    };
    Sums {
        to_peer: forwarded(Direction::ToPeer),
        to_client: forwarded(Direction::ToClient),
        allocations: sum(&|worker| Some(&worker.allocations.0)),
        allocations_created: sum(&|worker| Some(&worker.allocations_created)),
        streams: sum(&|worker| Some(&worker.streams.0)),
        dropped: DropReason::ALL
            .iter()
            .map(|(reason, label)| (*label, sum(&|worker| worker.dropped.get(*reason as usize))))
            .collect(),
    }
}

/// The Prometheus text of the process and of all workers together.
#[must_use]
pub fn render(workers: &[Arc<WorkerMetrics>], process: &ProcessMetrics) -> String {
    let mut page = Page { text: String::new(), workers };
    page.family("forwarded_datagrams_total", "counter", "Datagrams relayed");
    for (direction, label) in Direction::ALL {
        let labels = format!("{{direction=\"{label}\"}}");
        page.sample("forwarded_datagrams_total", &labels, |worker| {
            Some(&worker.forwarded.get(direction as usize)?.datagrams)
        });
    }
    page.family("forwarded_bytes_total", "counter", "Application data relayed, without TURN framing");
    for (direction, label) in Direction::ALL {
        let labels = format!("{{direction=\"{label}\"}}");
        page.sample("forwarded_bytes_total", &labels, |worker| {
            Some(&worker.forwarded.get(direction as usize)?.bytes)
        });
    }
    page.family("dropped_datagrams_total", "counter", "Datagrams that came to nothing");
    for (reason, label) in DropReason::ALL {
        let labels = format!("{{reason=\"{label}\"}}");
        page.sample("dropped_datagrams_total", &labels, |worker| worker.dropped.get(reason as usize));
    }
    page.family("requests_total", "counter", "Requests answered");
    for (method, (_, label)) in METHODS.iter().enumerate() {
        for (result, code) in RESULTS.iter().enumerate() {
            let code = code.map_or_else(|| "success".to_owned(), |code| code.number().to_string());
            let labels = format!("{{method=\"{label}\",result=\"{code}\"}}");
            page.sample("requests_total", &labels, |worker| worker.requests.get(method)?.get(result));
        }
    }
    page.family("internal_datagrams_total", "counter", "Datagrams from one relay of this server to another");
    page.sample("internal_datagrams_total", "", |worker| Some(&worker.internal_datagrams));
    page.family("allocations_created_total", "counter", "Allocations made");
    page.sample("allocations_created_total", "", |worker| Some(&worker.allocations_created));
    page.family("allocations_ended_total", "counter", "Allocations that are no more");
    for (reason, label) in EndReason::ALL {
        let labels = format!("{{reason=\"{label}\"}}");
        page.sample("allocations_ended_total", &labels, |worker| worker.ended.get(reason as usize));
    }
    page.family("allocations", "gauge", "Allocations alive");
    page.sample("allocations", "", |worker| Some(&worker.allocations.0));
    page.family("usage_records_lost_total", "counter", "Usage records that found the queue full");
    page.sample("usage_records_lost_total", "", |worker| Some(&worker.usage_records_lost));
    page.family("worker_turns_total", "counter", "Turns of the workers' loops");
    page.sample("worker_turns_total", "", |worker| Some(&worker.turns));
    page.family("stream_clients", "gauge", "Clients connected by stream");
    page.sample("stream_clients", "", |worker| Some(&worker.streams.0));
    page.family("dtls_clients", "gauge", "Clients connected by DTLS");
    page.sample("dtls_clients", "", |worker| Some(&worker.dtls_clients.0));
    page.family("handshakes_total", "counter", "TLS and DTLS handshakes that ended");
    for (secured, transport) in Secured::ALL {
        for (handshake, result) in Handshake::ALL {
            let labels = format!("{{transport=\"{transport}\",result=\"{result}\"}}");
            page.sample("handshakes_total", &labels, |worker| {
                worker.handshakes.get(secured as usize)?.get(handshake as usize)
            });
        }
    }
    page.family("build_info", "gauge", "What runs");
    page.line(format_args!("farcall_relay_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION")));
    page.family("workers", "gauge", "Worker threads");
    page.line(format_args!("farcall_relay_workers {}", workers.len()));
    page.family("config_reloads_total", "counter", "Configurations read while running");
    for (result, counter) in ["failure", "success"].into_iter().zip(&process.reloads) {
        page.line(format_args!(
            "farcall_relay_config_reloads_total{{result=\"{result}\"}} {}",
            counter.value()
        ));
    }
    page.family(
        "config_last_reload_success",
        "gauge",
        "Whether the last of them was good; 0 before the first",
    );
    page.line(format_args!("farcall_relay_config_last_reload_success {}", process.last_reload_good.value()));
    page.family("config_last_reload_timestamp_seconds", "gauge", "When that was");
    page.line(format_args!(
        "farcall_relay_config_last_reload_timestamp_seconds {}",
        process.last_reload.value()
    ));
    page.family("admin_requests_total", "counter", "What the operator asked");
    for ((_, method), counter) in AdminMethod::ALL.into_iter().zip(&process.asked) {
        page.line(format_args!(
            "farcall_relay_admin_requests_total{{method=\"{method}\"}} {}",
            counter.value()
        ));
    }
    page.text
}

struct Page<'a> {
    text: String,
    workers: &'a [Arc<WorkerMetrics>],
}

impl Page<'_> {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.line(format_args!("# HELP farcall_relay_{name} {help}."));
        self.line(format_args!("# TYPE farcall_relay_{name} {kind}"));
    }

    fn sample(&mut self, name: &str, labels: &str, of: impl Fn(&WorkerMetrics) -> Option<&Counter>) {
        // A gauge of one worker may wrap below zero for a moment; the sum does not.
        let sum = self
            .workers
            .iter()
            .filter_map(|worker| of(worker))
            .fold(0u64, |sum, part| sum.wrapping_add(part.value()));
        self.line(format_args!("farcall_relay_{name}{labels} {sum}"));
    }

    fn line(&mut self, line: fmt::Arguments<'_>) {
        // Writing to a string does not fail.
        let _ = writeln!(self.text, "{line}");
    }
}

#[derive(Debug, Default)]
struct Traffic {
    datagrams: Counter,
    bytes: Counter,
}

/// Only grows.
#[derive(Debug, Default)]
struct Counter(AtomicU64);

impl Counter {
    fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(Counter);

impl Gauge {
    /// Up.
    pub fn add(&self, count: u64) {
        self.0.add(count);
    }

    /// Where it stands.
    pub fn value(&self) -> u64 {
        self.0.value()
    }

    /// Down.
    pub fn subtract(&self, count: u64) {
        self.0.0.fetch_sub(count, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variants_index_their_own_rows() {
        assert!(Direction::ALL.iter().enumerate().all(|(at, (direction, _))| *direction as usize == at));
        assert!(EndReason::ALL.iter().enumerate().all(|(at, (reason, _))| *reason as usize == at));
        assert!(DropReason::ALL.iter().enumerate().all(|(at, (reason, _))| *reason as usize == at));
    }

    #[test]
    fn the_page_adds_up_all_workers() {
        let workers = [Arc::new(WorkerMetrics::default()), Arc::default()];
        workers[0].forwarded(Direction::ToPeer, 1, 100);
        workers[1].forwarded(Direction::ToPeer, 1, 11);
        workers[1].dropped(DropReason::Backlog);
        workers[0].answered(Method::ALLOCATE, Some(ErrorCode::UNAUTHENTICATED));
        workers[0].answered(Method::BINDING, None);
        workers[0].allocation_created();
        workers[1].allocation_created();
        workers[1].allocations.subtract(1);
        let page = render(&workers, &ProcessMetrics::default());
        for line in [
            "farcall_relay_forwarded_datagrams_total{direction=\"to_peer\"} 2",
            "farcall_relay_forwarded_bytes_total{direction=\"to_peer\"} 111",
            "farcall_relay_forwarded_bytes_total{direction=\"to_client\"} 0",
            "farcall_relay_dropped_datagrams_total{reason=\"backlog\"} 1",
            "farcall_relay_requests_total{method=\"allocate\",result=\"401\"} 1",
            "farcall_relay_requests_total{method=\"binding\",result=\"success\"} 1",
            "farcall_relay_allocations_created_total 2",
            "farcall_relay_allocations 1",
            "# TYPE farcall_relay_allocations gauge",
        ] {
            assert!(page.lines().any(|found| found == line), "{line} in\n{page}");
        }
    }
}
