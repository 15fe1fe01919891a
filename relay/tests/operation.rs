//! What the operator has in hand: the service over gRPC, drain, reload, usage records, the external address.

use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::thread;

use farcall_proto::relay::v1::relay_admin_service_client::RelayAdminServiceClient;
use farcall_proto::relay::v1::{
    CloseAllocationRequest, CloseUserRequest, DrainRequest, GetAllocationRequest, GetConfigRequest,
    GetStatsRequest, ListAllocationsRequest, ListAllocationsResponse, ReloadRequest, Transport,
};
use farcall_relay::stun::{AttributeType, Class, Message, MessageWriter, Method};
use rustix::process::Signal;
use tokio::runtime::Runtime;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::support::{Client, Relay, udp, udp_socket, until};

/// A tonic client that blocks.
struct Operator {
    runtime: Runtime,
    channel: Channel,
}

impl Operator {
    fn of(relay: &Relay) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let channel = Channel::from_shared(format!("http://{}", relay.admin())).unwrap();
        let channel = runtime.block_on(channel.connect()).unwrap();
        Self { runtime, channel }
    }

    fn client(&self) -> RelayAdminServiceClient<Channel> {
        RelayAdminServiceClient::new(self.channel.clone())
    }

    fn list(&self, request: ListAllocationsRequest) -> ListAllocationsResponse {
        self.runtime.block_on(self.client().list_allocations(request)).unwrap().into_inner()
    }

    fn users(&self) -> Vec<String> {
        let all = self.list(ListAllocationsRequest::default());
        all.allocations.into_iter().map(|allocation| allocation.user).collect()
    }

    fn health(&self) -> i32 {
        let service = "farcall.relay.v1.RelayAdminService".into();
        let check = HealthClient::new(self.channel.clone());
        let answer = self.runtime.block_on({ check }.check(HealthCheckRequest { service }));
        answer.unwrap().into_inner().status
    }
}

fn administered(flags: &[&str]) -> Relay {
    let common = ["--allow-peer", "127.0.0.0/8", "--admin-listen", "127.0.0.1:0"];
    Relay::start_with(&[&common, flags].concat())
}

#[test]
fn the_operator_lists_inspects_and_closes_allocations() {
    let relay = administered(&[]);
    let operator = Operator::of(&relay);
    let (mut alice, mut bob) =
        (Client::udp(relay.address), Client::tcp(relay.address).with_user("bob", "builder"));
    let peer = udp_socket();
    let relayed = alice.allocate();
    bob.allocate();
    assert_eq!(alice.bind(0x4000, peer.local_addr().unwrap()), None);
    alice.send_by_channel(0x4000, b"out");
    let mut buffer = [0; 16];
    peer.recv_from(&mut buffer).unwrap();
    peer.send_to(b"back!", relayed).unwrap();
    alice.receive();

    let first = operator.list(ListAllocationsRequest { page_size: 1, ..Default::default() });
    assert_eq!((first.allocations.len(), first.allocations[0].user.as_str()), (1, "alice"));
    let page_token = first.next_page_token;
    let second = operator.list(ListAllocationsRequest { page_size: 1, page_token, ..Default::default() });
    assert_eq!((second.allocations[0].user.as_str(), second.next_page_token.as_str()), ("bob", ""));
    assert_eq!(second.allocations[0].transport(), Transport::Tcp);
    let client = alice.local_address().to_string();
    let by_client = operator.list(ListAllocationsRequest { client, ..Default::default() });
    let found = &by_client.allocations[..];
    assert_eq!((found.len(), found[0].relayed.clone()), (1, relayed.to_string()));
    let by_user = operator.list(ListAllocationsRequest { user: "nobody".into(), ..Default::default() });
    assert!(by_user.allocations.is_empty());

    let id = found[0].id.clone();
    let request = GetAllocationRequest { id: id.clone() };
    let whole = operator.runtime.block_on(operator.client().get_allocation(request)).unwrap().into_inner();
    let traffic = whole.allocation.unwrap().traffic.unwrap();
    assert_eq!((traffic.datagrams_to_peer, traffic.bytes_to_peer), (1, 3));
    assert_eq!((traffic.datagrams_to_client, traffic.bytes_to_client), (1, 5));
    assert_eq!((whole.permissions[0].peer.as_str(), whole.channels[0].number), ("127.0.0.1", 0x4000));
    assert_eq!(whole.channels[0].peer, peer.local_addr().unwrap().to_string());

    let close = |id: &str| {
        let request = CloseAllocationRequest { id: id.into() };
        operator.runtime.block_on(operator.client().close_allocation(request))
    };
    close(&id).unwrap();
    assert_eq!(close(&id).unwrap_err().code(), Code::NotFound);
    assert_eq!(close("' OR 1=1").unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(alice.ask(Method::REFRESH, &vec![]).code(), Some(437), "closed");
    let request = CloseUserRequest { user: "bob".into() };
    let closed = operator.runtime.block_on(operator.client().close_user(request)).unwrap().into_inner();
    assert_eq!((closed.closed, operator.users()), (1, vec![]));
    assert_eq!(relay.metric("allocations_ended_total{reason=\"closed\"}"), 2);

    let stats = operator.runtime.block_on(operator.client().get_stats(GetStatsRequest {}));
    let stats = stats.unwrap().into_inner();
    assert_eq!((stats.allocations, stats.allocations_created, stats.workers), (0, 2, 2));
    let config = operator.runtime.block_on(operator.client().get_config(GetConfigRequest {}));
    let values = config.unwrap().into_inner().values;
    assert_eq!((values["user"].as_str(), values["workers"].as_str()), ("(redacted), (redacted)", "2"));
    assert_eq!(values["auth-secret"], "(redacted)");
    assert_eq!(relay.metric("admin_requests_total{method=\"CloseUser\"}"), 1);
}

#[test]
fn a_name_given_to_the_operators_service_is_a_name() {
    let relay = administered(&[]);
    let operator = Operator::of(&relay);
    Client::udp(relay.address).allocate();
    for name in ["' OR 1=1 --", "alice' OR '1'='1", "%", "*", ".*", "a%ce", "ALICE", "alice\0", "{\"$ne\":1}"]
    {
        let user = || name.to_owned();
        let listed =
            operator.list(ListAllocationsRequest { user: user(), ..ListAllocationsRequest::default() });
        assert!(listed.allocations.is_empty(), "{name}");
        let request = CloseUserRequest { user: user() };
        let closed = operator.runtime.block_on(operator.client().close_user(request));
        assert!(closed.is_ok_and(|closed| closed.into_inner().closed == 0), "{name}");
        let request = GetAllocationRequest { id: user() };
        let found = operator.runtime.block_on(operator.client().get_allocation(request));
        assert!(matches!(found.unwrap_err().code(), Code::NotFound | Code::InvalidArgument), "{name}");
    }
    assert_eq!(operator.users(), ["alice"]);
}

#[test]
fn the_operator_shows_a_token_where_one_is_wanted_and_health_is_for_everybody() {
    const TOKEN: &str = "a-token-of-some-length";
    let relay = administered(&["--admin-token", TOKEN]);
    let operator = Operator::of(&relay);
    let ask = |header: Option<&str>| -> Result<(), Status> {
        let mut request = Request::new(GetStatsRequest {});
        if let Some(header) = header {
            request.metadata_mut().insert("authorization", MetadataValue::try_from(header).unwrap());
        }
        operator.runtime.block_on(operator.client().get_stats(request)).map(|_| ())
    };
    assert_eq!(ask(None).unwrap_err().code(), Code::Unauthenticated);
    assert_eq!(ask(Some("Bearer something-else-altogether")).unwrap_err().code(), Code::Unauthenticated);
    ask(Some(&format!("Bearer {TOKEN}"))).unwrap();
    assert_eq!(operator.health(), 1);
}

#[test]
fn a_drain_takes_no_new_allocations_and_ends_with_the_last_one() {
    let relay = administered(&[]);
    let operator = Operator::of(&relay);
    let mut alice = Client::udp(relay.address);
    let peer = udp_socket();
    alice.allocate();
    assert!(relay.get("/readyz").starts_with("HTTP/1.1 200 "));
    let drain = operator.runtime.block_on(operator.client().drain(DrainRequest::default()));
    assert_eq!(drain.unwrap().into_inner().allocations, 1);
    until("not ready", || relay.get("/readyz").starts_with("HTTP/1.1 503 ").then_some(()));
    assert!(relay.get("/healthz").starts_with("HTTP/1.1 200 "));
    until("not serving", || (operator.health() == 2).then_some(()));
    let mut late = Client::udp(relay.address).with_user("bob", "builder");
    until("508", || (late.ask(Method::ALLOCATE, &udp()).code() == Some(508)).then_some(()));
    assert_eq!(alice.bind(0x4000, peer.local_addr().unwrap()), None);
    alice.send_by_channel(0x4000, b"still here");
    peer.recv_from(&mut [0; 16]).unwrap();
    assert_eq!(alice.ask(Method::REFRESH, &vec![(AttributeType::LIFETIME, vec![0; 4])]).code(), None);
    assert_eq!(relay.wait().code(), Some(0));
}

#[test]
fn sigterm_drains_for_as_long_as_it_may_and_a_second_one_ends_it() {
    let relay = Relay::start_with(&["--drain-timeout", "3600"]);
    let mut alice = Client::udp(relay.address);
    alice.allocate();
    relay.signal(Signal::TERM);
    until("draining", || relay.get("/readyz").starts_with("HTTP/1.1 503 ").then_some(()));
    assert_eq!(alice.ask(Method::REFRESH, &vec![]).code(), None);
    relay.signal(Signal::INT);
    assert_eq!(relay.wait().code(), Some(0));

    let relay = Relay::start_with(&["--drain-timeout", "1"]);
    let mut alice = Client::udp(relay.address);
    alice.allocate();
    relay.signal(Signal::TERM);
    assert_eq!(relay.wait().code(), Some(0), "by itself");
}

fn write(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::File::create(&new).unwrap().write_all(text.as_bytes()).unwrap();
    fs::rename(new, path).unwrap();
}

#[test]
fn a_reload_changes_users_and_peers_and_keeps_allocations_and_a_bad_file_changes_nothing() {
    const BASE: &str = "listen = \"127.0.0.1:0\"\nworkers = 1\nmetrics-listen = \"127.0.0.1:0\"\n\
                        admin-listen = \"127.0.0.1:0\"\nallow-peer = [\"127.0.0.0/8\"]\n";
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("relay.toml");
    write(&path, &format!("{BASE}user = [\"alice:wonder\"]\n"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_farcall-relay"));
    command.arg("--config").arg(&path);
    let relay = Relay::spawn(command);
    let operator = Operator::of(&relay);
    let reload = || operator.runtime.block_on(operator.client().reload(ReloadRequest {}));
    let mut alice = Client::udp(relay.address);
    let peer = udp_socket();
    let address = peer.local_addr().unwrap();
    alice.allocate();
    assert_eq!(alice.bind(0x4000, address), None);

    // By file: another user, and alice's peer is out of bounds.
    write(&path, &format!("{BASE}user = [\"bob:builder\"]\ndeny-peer = [\"127.0.0.1\"]\n"));
    until("a reload", || (relay.metric("config_reloads_total{result=\"success\"}") == 1).then_some(()));
    let mut bob = Client::udp(relay.address).with_user("bob", "builder");
    until("bob", || bob.ask(Method::ALLOCATE, &udp()).code().is_none().then_some(()));
    assert_eq!(Client::udp(relay.address).ask(Method::ALLOCATE, &udp()).code(), Some(401), "alice is gone");
    assert_eq!(bob.permit(address), Some(403));
    alice.send_by_channel(0x4000, b"no more");
    relay.wait_for_metric("dropped_datagrams_total{reason=\"no_permission\"}", 1);
    assert_eq!(operator.users(), ["alice", "bob"], "allocations are kept");

    // By the operator: a bad file says every mistake and changes nothing.
    write(&path, &format!("{BASE}user = [\"carol:c\"]\nrelay-ports = \"9-1\"\ndrain-timeout = \"soon\"\n"));
    let status = reload().unwrap_err();
    assert_eq!((status.code(), status.message().lines().count()), (Code::InvalidArgument, 2), "{status}");
    assert_eq!(relay.metric("config_last_reload_success"), 0);
    bob.ask(Method::REFRESH, &vec![(AttributeType::LIFETIME, vec![0; 4])]);
    assert_eq!(
        Client::udp(relay.address).with_user("bob", "builder").ask(Method::ALLOCATE, &udp()).code(),
        None
    );

    // By signal, and what cannot change says so.
    write(&path, &BASE.replace("workers = 1", "workers = 2\nuser = [\"carol:c\"]"));
    let difference = reload().unwrap().into_inner();
    assert_eq!(difference.needs_restart, ["workers: 1 -> 2"]);
    assert_eq!(difference.changed, ["deny-peer: 127.0.0.1 -> (default)", "user: (redacted) -> (redacted)"]);
    let before = relay.metric("config_reloads_total{result=\"success\"}");
    relay.signal(Signal::HUP);
    relay.wait_for_metric("config_reloads_total{result=\"success\"}", before + 1);
    Client::udp(relay.address).with_user("carol", "c").allocate();
}

#[test]
fn an_ended_allocation_is_recorded_with_what_it_carried() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("usage.jsonl");
    let relay = Relay::start_with(&["--allow-peer", "127.0.0.0/8", "--usage-log", path.to_str().unwrap()]);
    let mut alice = Client::tcp(relay.address);
    let peer = udp_socket();
    let relayed = alice.allocate();
    assert_eq!(alice.permit(peer.local_addr().unwrap()), None);
    for _ in 0..3 {
        alice.send(peer.local_addr().unwrap(), b"seven!!", &vec![]);
        peer.recv_from(&mut [0; 16]).unwrap();
    }
    peer.send_to(b"five!", relayed).unwrap();
    alice.receive();
    let client = alice.local_address();
    drop(alice);
    let line = until("a record", || fs::read_to_string(&path).ok().filter(|text| text.ends_with('\n')));
    let record: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(record["event"], "allocation_ended");
    assert_eq!((&record["user"], &record["realm"]), (&"alice".into(), &"farcall".into()));
    assert_eq!((&record["client"], &record["transport"]), (&client.to_string().into(), &"tcp".into()));
    assert_eq!(record["relayed"], relayed.to_string());
    assert_eq!(record["to_peer"], serde_json::json!({"datagrams": 3, "bytes": 21}));
    assert_eq!(record["to_client"], serde_json::json!({"datagrams": 1, "bytes": 5}));
    assert_eq!((&record["reason"], &record["peers"]), (&"disconnected".into(), &1.into()));
    assert!(record["end"].as_u64() >= record["start"].as_u64() && record["start"].as_u64() > Some(0));

    // What the end of the process cuts off is recorded, too.
    let mut bob = Client::udp(relay.address).with_user("bob", "builder");
    bob.allocate();
    relay.signal(Signal::TERM);
    assert_eq!(relay.wait().code(), Some(0));
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.lines().count() == 2 && text.contains("\"reason\":\"shutdown\""), "{text}");
}

/// Says to everybody that the world calls them 203.0.113.9.
fn lying_stun_server() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 1500];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let Ok(request) = Message::parse(&buffer[..length]) else { continue };
            let mut answer = Vec::new();
            MessageWriter::new(&mut answer, Class::Success, Method::BINDING, request.transaction_id())
                .xor_address(
                    AttributeType::XOR_MAPPED_ADDRESS,
                    (Ipv4Addr::new(203, 0, 113, 9), from.port()).into(),
                )
                .finish()
                .unwrap();
            let _ = socket.send_to(&answer, from);
        }
    });
    address
}

#[test]
fn the_external_address_is_what_a_stun_server_says() {
    let server = lying_stun_server().to_string();
    let relay = Relay::start_with(&["--external-ip", "auto", "--external-ip-server", &server]);
    let relayed = Client::udp(relay.address).allocate();
    assert_eq!(relayed.ip(), Ipv4Addr::new(203, 0, 113, 9));
}

#[test]
fn check_says_what_would_be_in_force_or_every_mistake() {
    let check = |flags: &[&str]| {
        let output =
            Command::new(env!("CARGO_BIN_EXE_farcall-relay")).arg("check").args(flags).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
        (output.status.code(), said)
    };
    let (code, said) = check(&["--relay-ip", "10.0.0.1", "--auth-secret", "hunter2"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("auth-secret = (redacted)\n") && !said.contains("hunter2"), "{said}");
    assert!(said.contains("warning: clients are told the private address 10.0.0.1"), "{said}");
    let (code, said) = check(&["--external-ip", "auto", "--admin-listen", "0.0.0.0:1", "--usage-log", ""]);
    assert_eq!((code, said.lines().count()), (Some(64), 3), "{said}");
    assert!(said.contains("set an --admin-token"), "{said}");
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/relay.example.toml");
    assert_eq!(check(&["--config", example.to_str().unwrap()]).0, Some(0));
}
