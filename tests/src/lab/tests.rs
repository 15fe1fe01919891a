//! Labs that are what they say, and verbs that do what they are called.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::internet::Server;
use super::nat::Dependence::{AddressAndPortDependent, AddressDependent, EndpointIndependent};
use super::nat::Kind;
use super::probe::{StunServer, Verdict, forgets_within, hairpins, ports, probe};
use super::*;
use crate::clock::{self, Deadline, PATIENCE};
use crate::host::Host;

const DEPENDENCES: [nat::Dependence; 3] = [EndpointIndependent, AddressDependent, AddressAndPortDependent];

#[test]
fn every_translator_does_what_its_name_says() {
    for mapping in DEPENDENCES {
        for filtering in DEPENDENCES {
            let Some(mut lab) = World::new() else { return };
            let nat = Nat::behaved(mapping, filtering);
            let host = lab.home(nat);
            let found = probe(&host, lab.stun()).unwrap();
            assert_eq!(found, Verdict::Translated { mapping, filtering }, "{nat:?}");
        }
    }
}

#[test]
fn a_public_host_is_open_and_a_home_without_udp_hears_nothing() {
    let Some(mut lab) = World::new() else { return };
    let public = lab.internet.attach_host("public").unwrap();
    assert_eq!(probe(&public, lab.stun()).unwrap(), Verdict::Open);
    let blocked = lab.home(Nat::UDP_BLOCKED);
    assert_eq!(probe(&blocked, lab.stun()).unwrap(), Verdict::NoUdp);
}

#[test]
fn the_kernels_own_masquerading_looks_port_restricted() {
    let Some(mut lab) = World::new() else { return };
    let host = lab.home(Nat::LINUX);
    let looks = Verdict::Translated { mapping: EndpointIndependent, filtering: AddressAndPortDependent };
    assert_eq!(probe(&host, lab.stun()).unwrap(), looks);
}

#[test]
fn a_home_behind_a_carrier_is_translated_twice() {
    let Some(mut lab) = World::new() else { return };
    let mut carrier = lab.internet.attach_carrier("carrier", Nat::SYMMETRIC, 1).unwrap();
    let mut router = carrier.attach_router(Nat::FULL_CONE, 1).unwrap();
    let (host, _) = router.attach_host().unwrap();
    let worst = Verdict::Translated { mapping: AddressAndPortDependent, filtering: AddressAndPortDependent };
    assert_eq!(probe(&host, lab.stun()).unwrap(), worst);
}

#[test]
fn a_rebinding_gives_the_same_socket_another_port_and_a_renumbering_another_address() {
    let Some(mut lab) = World::new() else { return };
    let mut router = lab.internet.attach_router("left", Nat::PORT_RESTRICTED, 1).unwrap();
    let (host, _) = router.attach_host().unwrap();
    let socket = socket(&host);
    let before = lab.reflect(&socket);
    assert_eq!(lab.reflect(&socket), before);
    router.rebind().unwrap();
    let rebound = lab.reflect(&socket);
    assert_eq!(rebound.ip(), before.ip());
    assert_ne!(rebound.port(), before.port(), "one in 64 000 runs may have drawn the same port");
    router.renumber().unwrap();
    assert_ne!(lab.reflect(&socket).ip(), before.ip());
}

#[test]
fn a_rebinding_forgets_a_mapping_that_is_in_use_at_that_moment() {
    let Some(mut lab) = World::new() else { return };
    let mut router = lab.internet.attach_router("left", Nat::PORT_RESTRICTED, 1).unwrap();
    let (host, _) = router.attach_host().unwrap();
    let socket = socket(&host);
    let before = lab.reflect(&socket);
    let busy = AtomicBool::new(true);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while busy.load(Ordering::Relaxed) {
                // A full queue is no matter.
                let _ = socket.send_to(b"no question", (lab.server.first.v4, 9));
            }
        });
        let rebound = router.rebind();
        busy.store(false, Ordering::Relaxed);
        rebound.unwrap();
    });
    assert_ne!(lab.reflect(&socket).port(), before.port(), "one in 64 000 runs may have drawn the same port");
}

#[test]
fn hosts_of_two_homes_meet_by_their_outer_addresses_alone_and_the_witness_sees_it() {
    let Some(mut lab) = World::new() else { return };
    let left = lab.home_called("left", Nat::FULL_CONE);
    let right = lab.home_called("right", Nat::FULL_CONE);
    let (here, there) = (socket(&left), socket(&right));
    // An inner address leads nowhere.
    here.send_to(b"lost", there.local_addr().unwrap()).unwrap();
    let outer = lab.reflect(&there);
    let before = lab.internet.witness().unwrap();
    here.send_to(b"hello", outer).unwrap();
    let mut buffer = [0; 64];
    // On a busy machine the server was asked twice, and its second answer comes first.
    let heard = loop {
        let (length, from) = there.recv_from(&mut buffer).unwrap();
        if from.ip() != IpAddr::V4(lab.server.first.v4) {
            break buffer[..length].to_vec();
        }
    };
    assert_eq!(heard, b"hello");
    let seen = lab.internet.witness().unwrap().since(&before);
    assert_eq!(seen.carried("left", "right", "udp").packets, 1);
    assert_eq!(seen.carried("left", "right", "udp").bytes, 20 + 8 + 5);
    assert_eq!(seen.between("left", "server", "udp").packets, 0);
}

#[test]
fn a_cable_that_is_cut_carries_nothing_until_it_is_mended() {
    let Some(mut lab) = World::new() else { return };
    let mut router = lab.internet.attach_router("left", Nat::PORT_RESTRICTED, 1).unwrap();
    let (host, _) = router.attach_host().unwrap();
    let socket = socket(&host);
    lab.reflect(&socket);
    router.wan().cut().unwrap();
    assert_eq!(lab.try_reflect(&socket, Duration::from_millis(200)), None);
    router.wan().mend().unwrap();
    lab.reflect(&socket);
}

#[test]
fn losses_are_as_many_as_was_said() {
    let Some(mut lab) = World::new() else { return };
    let host = lab.internet.attach_host("left").unwrap();
    let server = lab.server.host.clone();
    let (here, there) = (socket(&host), socket(&server));
    there.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let link = lab.internet.link("left").unwrap();
    link.lose(100).unwrap();
    let mut arrived = 0;
    for _ in 0..20 {
        // No more than a receive buffer holds.
        for _ in 0..100 {
            here.send_to(b"x", there.local_addr().unwrap()).unwrap();
        }
        arrived += std::iter::from_fn(|| there.recv_from(&mut [0; 4]).ok()).count();
    }
    // Ten standard deviations either way.
    assert!((1665..=1935).contains(&arrived), "{arrived} of 2000 arrived at 10 % loss");
}

#[test]
fn two_homes_with_the_same_inner_addresses_and_ipv6_meet_over_ipv6() {
    let Some(mut lab) = World::new() else { return };
    let mut left = lab.internet.attach_router("left", Nat::SYMMETRIC, 1).unwrap();
    let mut right = lab.internet.attach_router("right", Nat::SYMMETRIC, 1).unwrap();
    let (left_host, left_end) = left.attach_host().unwrap();
    let (right_host, right_end) = right.attach_host().unwrap();
    assert_eq!(left_host.ip, right_host.ip);
    let bind = |host: &Host, ip: IpAddr| host.within(|| Ok(UdpSocket::bind((ip, 0))?)).unwrap();
    let here = bind(&left_host, left_end.addresses.v6.into());
    let there = bind(&right_host, right_end.addresses.v6.into());
    there.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let from = clock::poll("a packet over IPv6", Deadline::after(PATIENCE), || {
        // Its own packet opens the firewall for the other's.
        there.send_to(b"knock", here.local_addr()?)?;
        here.send_to(b"hello", there.local_addr()?)?;
        Ok(there.recv_from(&mut [0; 16]).ok().map(|(_, from)| from))
    });
    assert_eq!(from.unwrap(), here.local_addr().unwrap());
}

#[test]
fn theory_knows_who_can_meet() {
    let meet = |one: &str, other: &str| {
        let nat = |name: &str| (name != "public").then(|| name.parse::<Nat>().unwrap());
        assert_eq!(Nat::meet_directly(nat(one), nat(other)), Nat::meet_directly(nat(other), nat(one)));
        Nat::meet_directly(nat(one), nat(other))
    };
    assert!(meet("public", "symmetric") && meet("fullcone", "symmetric") && meet("restricted", "symmetric"));
    assert!(meet("portrestricted", "portrestricted") && meet("linux", "portrestricted"));
    assert!(!meet("portrestricted", "symmetric") && !meet("symmetric", "symmetric"));
    assert!(!meet("portrestricted", "ad-ad") && !meet("fullcone", "udpblocked"));
    assert!(meet("public", "udpblocked"), "over TCP, since one side can connect to the other");
    assert!(!meet("public", "portrestricted+web"));
    assert!(meet("portrestricted", "apd-ei"));
}

#[test]
fn a_nat_is_known_by_its_name() {
    let nat = "symmetric+hairpin+preserve".parse::<Nat>().unwrap();
    assert_eq!(nat, Nat { hairpin: true, preserves_ports: true, ..Nat::SYMMETRIC });
    assert_eq!("apd-ad".parse::<Nat>().unwrap(), Nat::behaved(AddressAndPortDependent, AddressDependent));
    assert_eq!("linux".parse::<Nat>().unwrap().kind, Kind::Linux);
    assert_eq!("restricted+30s".parse::<Nat>().unwrap().timeout, Duration::from_secs(30));
    for wrong in ["cone", "ei", "ei-xx", "linux+magic", "linux+0s", ""] {
        assert!(wrong.parse::<Nat>().is_err(), "{wrong}");
    }
}

#[test]
fn a_port_is_kept_where_that_was_asked_for_and_it_is_free() {
    let Some(mut lab) = World::new() else { return };
    let nat = Nat { preserves_ports: true, ..Nat::PORT_RESTRICTED };
    let mut router = lab.internet.attach_router("left", nat, 1).unwrap();
    let [(one, _), (other, _)] = [(); 2].map(|()| router.attach_host().unwrap());
    let (port, outer) = ports(&one, 0, lab.stun()).unwrap();
    assert_eq!(port, outer);
    let (same, other_outer) = ports(&other, port, lab.stun()).unwrap();
    assert_eq!(same, port);
    assert_ne!(other_outer, port, "two hosts have one outer port");
    let random = lab.home_called("right", Nat::PORT_RESTRICTED);
    let (port, outer) = ports(&random, 0, lab.stun()).unwrap();
    assert_ne!(port, outer, "one in 64 000 runs may have drawn the same port");
}

#[test]
fn packets_are_turned_back_where_that_was_asked_for_and_the_router_counts_them() {
    let Some(mut lab) = World::new() else { return };
    for hairpin in [true, false] {
        let nat = Nat { hairpin, ..Nat::PORT_RESTRICTED };
        let name = format!("hairpin-{hairpin}");
        let mut router = lab.internet.attach_router(&name, nat, 1).unwrap();
        let (host, _) = router.attach_host().unwrap();
        assert_eq!(hairpins(&host, lab.stun()).unwrap(), hairpin);
        assert_eq!(router.turned_back().unwrap().packets > 0, hairpin);
        let seen = router.passages().unwrap().of("udp");
        let server = IpAddr::from(lab.server.first.v4);
        // More, if an answer took its time.
        assert!(seen.out_to(|ip| ip == server).packets >= 2);
        assert!(seen.in_from(|ip| ip == server).packets >= 2);
        assert_eq!(seen.in_from(|ip| ip.is_ipv6()).packets, 0);
    }
}

#[test]
fn a_mapping_that_is_not_used_is_forgotten_in_time_and_not_before() {
    let Some(mut lab) = World::new() else { return };
    let host = lab.home(Nat::PORT_RESTRICTED.forgetting_after(Duration::from_secs(2)));
    assert!(!forgets_within(Duration::from_secs(1), &host, lab.stun()).unwrap());
    assert!(forgets_within(Duration::from_secs(4), &host, lab.stun()).unwrap());
}

#[test]
fn of_two_translators_in_a_row_the_stricter_counts() {
    let both = Nat::RESTRICTED.behind(Nat::behaved(AddressDependent, EndpointIndependent));
    assert_eq!(both.behaviour(), (AddressDependent, AddressDependent));
    assert_eq!(Nat::UDP_BLOCKED.behind(Nat::FULL_CONE).outbound, nat::Outbound::NoUdp);
    assert_eq!(Nat::FULL_CONE.behind("symmetric+hairpin".parse().unwrap()), {
        Nat { hairpin: true, ..Nat::SYMMETRIC }
    });
}

/// Whoever is not root has no right to make networks but in a user namespace, which only a process without threads can
/// enter: the test runs in a new one, and this one says how that ended.
pub(super) fn runs_elsewhere() -> bool {
    if rights::has_them() {
        return false;
    }
    let test = std::thread::current();
    let mut again = rights::elevated(&std::env::current_exe().unwrap());
    again.args([test.name().unwrap(), "--exact"]);
    let output = again.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    true
}

/// An internet with a server that answers STUN.
struct World {
    internet: Internet,
    server: Server,
    homes: u8,
}

impl World {
    /// None where the test runs in another process, and has ended well there.
    fn new() -> Option<Self> {
        if runs_elsewhere() {
            return None;
        }
        let mut internet = Internet::new().unwrap();
        let server = internet.attach_server("server").unwrap();
        answer_stun(&server);
        Some(Self { internet, server, homes: 0 })
    }

    fn home(&mut self, nat: Nat) -> Host {
        let name = format!("home{}", self.homes);
        self.home_called(&name, nat)
    }

    /// A host behind a router of its own.
    fn home_called(&mut self, name: &str, nat: Nat) -> Host {
        self.homes += 1;
        let mut router = self.internet.attach_router(name, nat, self.homes).unwrap();
        router.attach_host().unwrap().0
    }

    fn stun(&self) -> StunServer {
        StunServer {
            first: self.server.first.v4.into(),
            second: self.server.second.v4.into(),
            port: PORT,
            alternate_port: PORT + 1,
        }
    }

    /// How the server sees a socket.
    fn reflect(&self, socket: &UdpSocket) -> SocketAddr {
        self.try_reflect(socket, PATIENCE).unwrap()
    }

    fn try_reflect(&self, socket: &UdpSocket, patience: Duration) -> Option<SocketAddr> {
        let server = (self.server.first.v4, PORT);
        let deadline = Deadline::after(patience);
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let id = rand::random::<[u8; 12]>();
        while !deadline.passed() {
            // The network may be down, which is no reason to give up.
            let _ = socket.send_to(&binding(id), server);
            let mut buffer = [0; 100];
            if let Ok((length, _)) = socket.recv_from(&mut buffer)
                && buffer[8..20] == id
            {
                assert_eq!(length, 32);
                let port = u16::from_be_bytes([buffer[26] ^ 0x21, buffer[27] ^ 0x12]);
                let ip = [buffer[28] ^ 0x21, buffer[29] ^ 0x12, buffer[30] ^ 0xa4, buffer[31] ^ 0x42];
                return Some(SocketAddr::new(ip.into(), port));
            }
        }
        None
    }
}

const PORT: u16 = 3478;

fn socket(host: &Host) -> UdpSocket {
    let socket = host.within(|| Ok(UdpSocket::bind((host.ip, 0))?)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn binding(id: [u8; 12]) -> Vec<u8> {
    [&[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42], &id[..]].concat()
}

/// Answers Binding requests at both addresses and both ports, from where the client wants it, until the test ends.
fn answer_stun(server: &Server) {
    let ips = [server.first.v4, server.second.v4];
    let bind = |ip, port| server.host.within(|| Ok(UdpSocket::bind((ip, port))?)).unwrap();
    let sockets = [0_u16, 1].map(|p| ips.map(|ip| std::sync::Arc::new(bind(ip, PORT + p))));
    for p in [0, 1] {
        for a in [0, 1] {
            let sockets = sockets.clone();
            std::thread::spawn(move || {
                let mut buffer = [0; 100];
                while let Ok((length, from)) = sockets[p][a].recv_from(&mut buffer) {
                    let request = &buffer[..length];
                    let change = if length == 28 { request[27] } else { 0 };
                    let (other_ip, other_port) = (usize::from(change & 4 != 0), usize::from(change & 2 != 0));
                    let answer = answer(request, from);
                    let _ = sockets[p ^ other_port][a ^ other_ip].send_to(&answer, from);
                }
            });
        }
    }
}

fn answer(request: &[u8], from: SocketAddr) -> Vec<u8> {
    let SocketAddr::V4(from) = from else { unreachable!("the sockets are of IPv4") };
    let mut answer = vec![1, 1, 0, 12];
    answer.extend_from_slice(&request[4..20]);
    answer.extend_from_slice(&[0, 0x20, 0, 8, 0, 1]);
    answer.extend_from_slice(&(from.port() ^ 0x2112).to_be_bytes());
    answer.extend_from_slice(&(u32::from(*from.ip()) ^ 0x2112_a442).to_be_bytes());
    answer
}
