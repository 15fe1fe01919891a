//! Which peers a client may reach: by default everything public and nothing else.
//!
//! In this order: a listener of this server is refused; `--deny-peer` refuses; `--allow-peer` allows; a relayed
//! address of this server is allowed, so that two of its clients can talk, and the rest of its own addresses is not;
//! the default list refuses loopback, private, link-local, multicast, reserved and metadata addresses; all else is
//! allowed. With `--only-allowed-peers` what `--allow-peer` does not name is refused, relayed addresses included. An IPv4 address inside an IPv6 one (mapped, 6to4, NAT64, Teredo, ISATAP, compatible) must pass too, since
//! somebody on the way may unwrap it. RFC 8656, section 21.1.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;

use super::OwnRelays;

/// What the operator wrote about peers, and what the server knows about itself.
#[derive(Debug, Clone)]
pub struct Config {
    /// `--allow-peer`.
    pub allow: Vec<IpNet>,
    /// `--deny-peer`.
    pub deny: Vec<IpNet>,
    /// What becomes of peers that neither names.
    pub unnamed: Unnamed,
    /// Where this server listens, for whatever. An unspecified address stands for every own one.
    pub listeners: Vec<SocketAddr>,
    /// Where its relay sockets are, and what they are known as outside.
    pub own: Vec<IpAddr>,
    /// Which of their ports are relays.
    pub relays: OwnRelays,
}

/// What becomes of peers that no list of the operator names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Unnamed {
    /// They are allowed if they are public, or a relayed address of this server.
    #[default]
    ByDefaultList,
    /// They are refused: `--only-allowed-peers`.
    Refused,
}

/// The rules of a running server.
#[derive(Debug, Clone)]
pub struct PeerPolicy {
    config: Config,
    default_deny: Vec<IpNet>,
}

impl PeerPolicy {
    /// Prepares the default list.
    #[must_use]
    pub fn new(config: Config) -> Self {
        let default_deny = DEFAULT_DENY.iter().filter_map(|text| text.parse().ok()).collect();
        Self { config, default_deny }
    }

    /// Whether a permission for this IP may exist at all, whatever the port.
    #[must_use]
    pub fn allows_ip(&self, ip: IpAddr) -> bool {
        self.every_form(ip, None)
    }

    /// Whether data may go to this peer.
    #[must_use]
    pub fn allows(&self, peer: SocketAddr) -> bool {
        peer.port() != 0 && self.every_form(peer.ip(), Some(peer.port()))
    }

    fn every_form(&self, ip: IpAddr, port: Option<u16>) -> bool {
        self.allows_form(ip, port)
            && embedded(ip).into_iter().flatten().all(|v4| self.allows_form(v4.into(), port))
    }

    fn allows_form(&self, ip: IpAddr, port: Option<u16>) -> bool {
        let is_in = |nets: &[IpNet]| nets.iter().any(|net| net.contains(&ip));
        if port.is_some_and(|port| self.is_listener(ip, port)) || is_in(&self.config.deny) {
            return false;
        }
        if is_in(&self.config.allow) {
            return true;
        }
        if self.config.unnamed == Unnamed::Refused {
            return false;
        }
        if self.config.own.contains(&ip) {
            return port.is_none_or(|port| self.config.relays.contains(SocketAddr::new(ip, port)));
        }
        !is_in(&self.default_deny)
    }

    /// A listener on the unspecified address is reached through every address of this machine. Not all of those are
    /// known here; the ones a client could reach without `--allow-peer` are.
    fn is_listener(&self, ip: IpAddr, port: u16) -> bool {
        self.config.listeners.iter().any(|listener| {
            let covers_all = listener.ip().is_unspecified() && listener.is_ipv4() == ip.is_ipv4();
            let is_here = ip.is_loopback() || ip.is_unspecified() || self.config.own.contains(&ip);
            listener.port() == port && (listener.ip() == ip || covers_all && is_here)
        })
    }
}

/// The IPv4 addresses inside an IPv6 one, in whichever way one can be inside: a Teredo address has two.
fn embedded(ip: IpAddr) -> [Option<Ipv4Addr>; 2] {
    let IpAddr::V6(v6) = ip else { return [None, None] };
    let bits = v6.to_bits();
    let v4_at = |shift: u32| {
        let [.., a, b, c, d] = (bits >> shift).to_be_bytes();
        Some(Ipv4Addr::new(a, b, c, d))
    };
    match v6.segments() {
        // Loopback would be the compatible form of 0.0.0.1, which nobody means by it.
        [0, 0, 0, 0, 0, 0, 0, 1] => [None, None],
        // Mapped ::ffff:a.b.c.d, compatible ::a.b.c.d, translated ::ffff:0:a.b.c.d.
        [0, 0, 0, 0, 0, 0xffff, ..] | [0, 0, 0, 0, 0, 0, ..] | [0, 0, 0, 0, 0xffff, 0, ..] => {
            [v4_at(0), None]
        }
        // NAT64, well-known prefix and local use. RFC 6052, RFC 8215.
        [0x64, 0xff9b, ..] => [v4_at(0), None],
        // 6to4. RFC 3056.
        [0x2002, ..] => [v4_at(80), None],
        // Teredo: server, then client with its bits inverted. RFC 4380.
        [0x2001, 0, ..] => [v4_at(64), Some(Ipv4Addr::from_bits(!low_32(v6)))],
        // ISATAP. RFC 5214.
        [_, _, _, _, 0x0000 | 0x0200, 0x5efe, ..] => [v4_at(0), None],
        _ => [None, None],
    }
}

fn low_32(v6: Ipv6Addr) -> u32 {
    let [.., a, b, c, d] = v6.octets();
    u32::from_be_bytes([a, b, c, d])
}

/// Not reachable from outside, not a host, or not meant for a relay: IANA's special-purpose registries, multicast,
/// and the addresses at which clouds answer questions about the machine.
const DEFAULT_DENY: &[&str] = &[
    "0.0.0.0/8",        // this network
    "10.0.0.0/8",       // private
    "100.64.0.0/10",    // shared by carriers; a cloud's metadata at 100.100.100.200
    "127.0.0.0/8",      // loopback
    "168.63.129.16/32", // a cloud's metadata
    "169.254.0.0/16",   // link-local; metadata at 169.254.169.254
    "172.16.0.0/12",    // private
    "192.0.0.0/24",     // protocol assignments
    "192.0.2.0/24",     // documentation
    "192.88.99.0/24",   // 6to4 anycast
    "192.168.0.0/16",   // private
    "198.18.0.0/15",    // benchmarks
    "198.51.100.0/24",  // documentation
    "203.0.113.0/24",   // documentation
    "224.0.0.0/4",      // multicast
    "240.0.0.0/4",      // reserved, broadcast
    "::/96",            // unspecified, loopback, IPv4-compatible
    "::ffff:0:0/96",    // IPv4-mapped
    "::ffff:0:0:0/96",  // IPv4-translated
    "64:ff9b:1::/48",   // local NAT64
    "100::/64",         // discard
    "2001::/23",        // protocol assignments, Teredo
    "2001:db8::/32",    // documentation
    "3fff::/20",        // documentation
    "5f00::/16",        // segment routing
    "fc00::/7",         // unique local; metadata at fd00:ec2::254
    "fe80::/10",        // link-local
    "fec0::/10",        // site-local
    "ff00::/8",         // multicast
];

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(allow: &[&str], deny: &[&str]) -> PeerPolicy {
        let relays = OwnRelays::default();
        relays.insert("10.1.1.5:50000".parse().unwrap(), 0);
        let nets = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        PeerPolicy::new(Config {
            allow: nets(allow),
            deny: nets(deny),
            unnamed: Unnamed::ByDefaultList,
            listeners: vec!["0.0.0.0:3478".parse().unwrap(), "127.0.0.1:9641".parse().unwrap()],
            own: vec!["10.1.1.5".parse().unwrap(), "198.51.100.9".parse().unwrap()],
            relays,
        })
    }

    fn allows(policy: &PeerPolicy, peer: &str) -> bool {
        policy.allows(peer.parse().unwrap())
    }

    /// IPv4 addresses nobody may reach unless told so.
    const DENIED_V4: &[&str] = &[
        "0.0.0.0",
        "0.1.2.3",
        "10.0.0.1",
        "100.64.0.1",
        "100.100.100.200",
        "127.0.0.1",
        "127.255.255.254",
        "168.63.129.16",
        "169.254.169.254",
        "172.16.0.1",
        "172.31.255.255",
        "192.0.0.192",
        "192.168.0.1",
        "198.18.0.1",
        "224.0.0.1",
        "239.255.255.255",
        "240.0.0.1",
        "255.255.255.255",
    ];

    #[test]
    fn every_default_entry_parses() {
        assert_eq!(policy(&[], &[]).default_deny.len(), DEFAULT_DENY.len());
    }

    #[test]
    fn special_addresses_are_refused_and_public_ones_allowed() {
        let policy = policy(&[], &[]);
        for ip in DENIED_V4 {
            assert!(!policy.allows(SocketAddr::new(ip.parse().unwrap(), 5000)), "{ip}");
            assert!(!policy.allows_ip(ip.parse().unwrap()), "{ip}");
        }
        for ip in [
            "::",
            "::1",
            "fe80::1",
            "fd00:ec2::254",
            "fc00::1",
            "ff02::1",
            "fec0::1",
            "2001:db8::1",
            "100::1",
        ] {
            assert!(!policy.allows_ip(ip.parse().unwrap()), "{ip}");
        }
        for ip in ["1.1.1.1", "8.8.8.8", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "2a00:1450::1"] {
            assert!(policy.allows_ip(ip.parse().unwrap()), "{ip}");
        }
    }

    #[test]
    fn a_refused_ipv4_address_is_refused_inside_every_ipv6_form() {
        let policy = policy(&[], &[]);
        for ip in DENIED_V4 {
            for form in forms(ip.parse().unwrap()) {
                assert!(!policy.allows_ip(form.into()), "{ip} as {form}");
            }
        }
    }

    #[test]
    fn an_explicitly_denied_ipv4_address_is_denied_inside_every_ipv6_form() {
        let policy = policy(&["::/0"], &["1.1.1.1/32"]);
        for form in forms("1.1.1.1".parse().unwrap()) {
            assert!(!policy.allows_ip(form.into()), "{form}");
        }
        assert!(policy.allows_ip("2002:808:808::1".parse().unwrap()), "another one inside 6to4");
    }

    /// One address in all the forms that could carry it past a careless check.
    fn forms(v4: Ipv4Addr) -> Vec<Ipv6Addr> {
        let bits = u128::from(v4.to_bits());
        let with = |prefix: &str, shifted: u128| {
            Ipv6Addr::from_bits(prefix.parse::<Ipv6Addr>().unwrap().to_bits() | shifted)
        };
        vec![
            with("::ffff:0:0", bits),
            with("::", bits),
            with("::ffff:0:0:0", bits),
            with("64:ff9b::", bits),
            with("64:ff9b:1::", bits),
            with("2002::1", bits << 80),
            with("2001::", bits << 64),
            with("2001:0:808:808::", !bits & 0xffff_ffff),
            with("2a00:1450::5efe:0:0", bits),
            with("2a00:1450::200:5efe:0:0", bits),
        ]
    }

    #[test]
    fn deny_wins_over_allow_and_allow_over_the_default() {
        let policy = policy(&["10.0.0.0/8", "1.0.0.0/8"], &["10.9.0.0/16", "1.1.1.1/32"]);
        assert!(allows(&policy, "10.0.0.1:80"));
        assert!(!allows(&policy, "10.9.0.1:80"));
        assert!(!allows(&policy, "1.1.1.1:80"));
        assert!(allows(&policy, "1.1.1.2:80"));
    }

    #[test]
    fn ipv6_loopback_is_allowed_by_its_own_name() {
        let policy = policy(&["::1/128"], &[]);
        assert!(allows(&policy, "[::1]:80"));
        assert!(
            !allows(&policy, "[::2]:80") && !allows(&policy, "[::]:80") && !allows(&policy, "127.0.0.1:80")
        );
    }

    #[test]
    fn own_relayed_addresses_are_allowed_and_own_services_are_not() {
        let policy = policy(&[], &[]);
        for own in ["10.1.1.5", "198.51.100.9"] {
            assert!(policy.allows_ip(own.parse().unwrap()));
            assert!(allows(&policy, &format!("{own}:50000")));
            assert!(!allows(&policy, &format!("{own}:50001")), "nobody's relay");
            assert!(!allows(&policy, &format!("{own}:22")));
            assert!(!allows(&policy, &format!("{own}:3478")));
        }
    }

    #[test]
    fn a_listener_is_refused_whatever_is_allowed() {
        let policy = policy(&["0.0.0.0/0", "::/0"], &[]);
        for listener in
            ["127.0.0.1:3478", "127.0.0.2:3478", "10.1.1.5:3478", "0.0.0.0:3478", "127.0.0.1:9641"]
        {
            assert!(!allows(&policy, listener), "{listener}");
        }
        assert!(!allows(&policy, "[::ffff:127.0.0.1]:3478"));
        assert!(allows(&policy, "127.0.0.1:3479"));
        assert!(allows(&policy, "127.0.0.2:9641"));
    }

    #[test]
    fn where_only_named_peers_are_allowed_nobody_else_is() {
        let named = policy(&["203.0.113.0/24", "10.9.0.0/16"], &["203.0.113.9/32"]).config;
        let policy = PeerPolicy::new(Config { unnamed: Unnamed::Refused, ..named });
        assert!(allows(&policy, "203.0.113.8:443") && allows(&policy, "10.9.0.1:443"));
        for other in ["203.0.113.9:443", "8.8.8.8:443", "10.1.1.5:50000", "[2a00:1450::1]:443"] {
            assert!(!allows(&policy, other), "{other}");
        }
    }

    #[test]
    fn port_zero_is_no_peer() {
        assert!(!allows(&policy(&[], &[]), "1.1.1.1:0"));
    }
}
