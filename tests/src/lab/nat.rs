//! Network address translators as values: how they map, what they let in, and how that is said to the kernel.
//!
//! RFC 4787 has the words: endpoint-independent, address-dependent, address and port-dependent, for mapping and for
//! filtering alike. The kernel's own masquerading is none of them (`Nat::LINUX`) and so a kind of its own.

use std::fmt::{self, Write};
use std::net::Ipv4Addr;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Result, bail};

/// On what of the other end a behaviour depends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Dependence {
    /// Nothing.
    EndpointIndependent,
    /// Its address.
    AddressDependent,
    /// Its address and port.
    AddressAndPortDependent,
}

/// What kind of translator it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// One of the nine of RFC 4787.
    Behaved {
        /// When an internal address and port gets another external port. Section 4.1.
        mapping: Dependence,
        /// Who may send to an external port. Section 5.
        filtering: Dependence,
    },
    /// `masquerade` and nothing else, as on routers that people build themselves. It seems to be endpoint-independent,
    /// but what arrives too early takes the port away that the next packet out would have got.
    Linux,
}

/// What a router lets out, from much to little.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Outbound {
    /// Everything.
    Everything,
    /// Everything but UDP.
    NoUdp,
    /// TCP to the ports of the web.
    WebPorts,
    /// TCP to port 443, and only if it begins as TLS does.
    TlsOnly,
}

/// A translator, with a firewall that lets nothing in that was not asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Nat {
    /// How it maps and filters.
    pub kind: Kind,
    /// Whether a host inside reaches another by its external address. Section 6.
    pub hairpin: bool,
    /// Whether the external port is the internal one where it is free. Section 4.2.1.
    pub preserves_ports: bool,
    /// How long a mapping lives without packets out. Section 4.3.
    pub timeout: Duration,
    /// What it lets out.
    pub outbound: Outbound,
}

impl Nat {
    /// Full cone: whoever knows the external port may use it.
    pub const FULL_CONE: Self = Self::behaved(EI, EI);
    /// Restricted cone: only addresses that were sent to.
    pub const RESTRICTED: Self = Self::behaved(EI, AD);
    /// Port-restricted cone: only addresses and ports that were sent to.
    pub const PORT_RESTRICTED: Self = Self::behaved(EI, APD);
    /// Symmetric: another external port for every destination.
    pub const SYMMETRIC: Self = Self::behaved(APD, APD);
    /// The kernel's own masquerading.
    pub const LINUX: Self = Self { kind: Kind::Linux, ..Self::PORT_RESTRICTED };
    /// A home from which no UDP gets out.
    pub const UDP_BLOCKED: Self = Self { outbound: Outbound::NoUdp, ..Self::PORT_RESTRICTED };

    /// One of the nine.
    #[must_use]
    pub const fn behaved(mapping: Dependence, filtering: Dependence) -> Self {
        Self {
            kind: Kind::Behaved { mapping, filtering },
            hairpin: false,
            preserves_ports: false,
            timeout: Duration::from_secs(120),
            outbound: Outbound::Everything,
        }
    }

    /// With a mapping that is forgotten this soon.
    #[must_use]
    pub const fn forgetting_after(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// What one behind the other makes of both: the stricter of each.
    #[must_use]
    pub fn behind(self, outer: Self) -> Self {
        let ((mapping, filtering), (outer_mapping, outer_filtering)) = (self.behaviour(), outer.behaviour());
        Self {
            kind: Kind::Behaved {
                mapping: mapping.max(outer_mapping),
                filtering: filtering.max(outer_filtering),
            },
            hairpin: outer.hairpin,
            preserves_ports: self.preserves_ports && outer.preserves_ports,
            timeout: self.timeout.min(outer.timeout),
            outbound: self.outbound.max(outer.outbound),
        }
    }

    /// Whether two hosts can meet directly, in theory: over UDP if the first packet of either side gets through to where
    /// the other one's comes from, and over TCP if one side can connect to the other. `None` is a host without a translator.
    #[must_use]
    pub fn meet_directly(one: Option<Self>, other: Option<Self>) -> bool {
        let speaks_udp = |nat: Option<Self>| nat.is_none_or(|nat| nat.outbound == Outbound::Everything);
        let connects = |from: Option<Self>, to: Option<Self>| {
            let may = |nat: Self| matches!(nat.outbound, Outbound::Everything | Outbound::NoUdp);
            to.is_none() && from.is_none_or(may)
        };
        let by_udp = speaks_udp(one) && speaks_udp(other) && (lets_in(one, other) || lets_in(other, one));
        by_udp || connects(one, other) || connects(other, one)
    }

    /// How it maps and how it filters, as a client finds out.
    #[must_use]
    pub const fn behaviour(self) -> (Dependence, Dependence) {
        match self.kind {
            Kind::Behaved { mapping, filtering } => (mapping, filtering),
            Kind::Linux => (EI, APD),
        }
    }
}

/// Whether what `from` sends to the address that `to` knows of itself gets in there.
fn lets_in(to: Option<Nat>, from: Option<Nat>) -> bool {
    let Some(to) = to else { return true };
    let (mapping, filtering) = to.behaviour();
    let sender_is_known = from.is_none_or(|from| from.behaviour().0 == EI);
    filtering == EI || (mapping == EI && (filtering == AD || sender_is_known))
}

impl Nat {
    /// The firewall of a router whose outer address is `wan_ip`, in the language of `nft`. Interfaces are called `wan`
    /// and `lan`.
    #[must_use]
    pub fn rules(self, wan_ip: Ipv4Addr) -> String {
        let mut rules = String::from("table ip nat {\n");
        // Writing to a string cannot fail.
        let _ = match self.kind {
            Kind::Behaved { mapping, filtering } => {
                self.behaved_rules(&mut rules, mapping, filtering, wan_ip)
            }
            Kind::Linux => self.linux_rules(&mut rules),
        };
        let _ = self.forward_chain(&mut rules);
        rules.push_str("}\n");
        let _ = self.ipv6_firewall(&mut rules);
        rules
    }

    /// No arithmetic with ports: the kernel picks one for the first packet of a mapping, a later chain learns which
    /// it was, and the packets after it are told.
    fn behaved_rules(
        self,
        rules: &mut String,
        mapping: Dependence,
        filtering: Dependence,
        wan_ip: Ipv4Addr,
    ) -> fmt::Result {
        let timeout = self.timeout.as_secs().max(1);
        let timed = format!("flags dynamic,timeout; timeout {timeout}s; size 65535;");
        let (out_key, out_match, out_learn) = match mapping {
            EI => ("", "", ""),
            AD => (" . ipv4_addr", " . ip daddr", " . ip daddr"),
            APD => ("", "", ""),
        };
        let has_out = mapping != APD;
        if has_out {
            let key = format!("ipv4_addr . inet_service{out_key}");
            writeln!(rules, " map out {{ type {key} : ipv4_addr . inet_service; {timed} }}")?;
        }
        writeln!(rules, " map in {{ type inet_service : ipv4_addr . inet_service; {timed} }}")?;
        let (known_key, known_in, known_learn) = match filtering {
            EI => (None, "", ""),
            AD => (Some("inet_service . ipv4_addr"), "udp dport . ip saddr @known ", "udp sport . ip daddr"),
            APD => (
                Some("inet_service . ipv4_addr . inet_service"),
                "udp dport . ip saddr . udp sport @known ",
                "udp sport . ip daddr . udp dport",
            ),
        };
        if let Some(key) = known_key {
            writeln!(rules, " set known {{ type {key}; {timed} }}")?;
        }

        writeln!(rules, " chain inward {{ type nat hook prerouting priority dstnat;")?;
        writeln!(
            rules,
            "  iifname \"wan\" ip daddr {wan_ip} meta l4proto udp {known_in}dnat ip to udp dport map @in"
        )?;
        if self.hairpin {
            writeln!(
                rules,
                "  iifname \"lan\" ip daddr {wan_ip} meta l4proto udp dnat ip to udp dport map @in"
            )?;
        }
        writeln!(rules, " }}")?;

        writeln!(rules, " chain outward {{ type nat hook postrouting priority srcnat;")?;
        if self.hairpin {
            let between = "iifname \"lan\" oifname \"lan\" ct status dnat meta l4proto udp";
            if mapping == EI {
                writeln!(rules, "  {between} snat ip to ip saddr . udp sport map @out")?;
            }
            writeln!(rules, "  {between} snat ip to {wan_ip}:1024-65535 fully-random")?;
        }
        if has_out {
            writeln!(
                rules,
                "  oifname \"wan\" meta l4proto udp snat ip to ip saddr . udp sport{out_match} map @out"
            )?;
        }
        if !self.preserves_ports {
            writeln!(
                rules,
                "  oifname \"wan\" meta l4proto {{ udp, tcp }} masquerade to :1024-65535 fully-random"
            )?;
        }
        writeln!(rules, "  oifname \"wan\" masquerade\n }}")?;

        writeln!(rules, " chain learn {{ type filter hook postrouting priority srcnat + 10;")?;
        writeln!(rules, "  oifname \"wan\" meta l4proto udp goto learn_udp")?;
        if self.hairpin {
            writeln!(
                rules,
                "  iifname \"lan\" oifname \"lan\" ct status dnat meta l4proto udp goto learn_udp"
            )?;
        }
        writeln!(rules, " }}\n chain learn_udp {{")?;
        if known_key.is_some() {
            writeln!(rules, "  update @known {{ {known_learn} }}")?;
        }
        let original = "meta l4proto udp ct direction original";
        let inner = "ct original ip saddr . ct original proto-src";
        if has_out {
            writeln!(rules, "  {original} update @out {{ {inner}{out_learn} : ip saddr . udp sport }}")?;
        }
        writeln!(rules, "  {original} update @in {{ udp sport : {inner} }}")?;
        writeln!(
            rules,
            "  meta l4proto udp ct direction reply update @in {{ udp sport : ct reply ip saddr . ct reply proto-src }}"
        )?;
        writeln!(rules, " }}")?;

        // Dropped before it is confirmed, an early packet from outside takes no port away.
        writeln!(rules, " chain input {{ type filter hook input priority filter; policy drop;")?;
        writeln!(rules, "  iif lo accept; ct state established,related accept")?;
        writeln!(rules, "  icmp type echo-request accept\n }}")
    }

    fn linux_rules(self, rules: &mut String) -> fmt::Result {
        writeln!(rules, " chain outward {{ type nat hook postrouting priority srcnat;")?;
        writeln!(rules, "  oifname \"wan\" masquerade\n }}")
    }

    fn forward_chain(self, rules: &mut String) -> fmt::Result {
        writeln!(rules, " chain forward {{ type filter hook forward priority filter; policy drop;")?;
        self.outbound_rules(rules)?;
        writeln!(rules, "  ct state established,related accept")?;
        writeln!(rules, "  {OUT} accept")?;
        writeln!(rules, "  ct status dnat accept\n }}")
    }

    /// IPv6 needs no translator, but no home lets strangers in.
    fn ipv6_firewall(self, rules: &mut String) -> fmt::Result {
        writeln!(rules, "table ip6 firewall {{")?;
        writeln!(rules, " chain forward {{ type filter hook forward priority filter; policy drop;")?;
        self.outbound_rules(rules)?;
        writeln!(rules, "  ct state established,related accept")?;
        writeln!(rules, "  {OUT} accept")?;
        let errors = "destination-unreachable, packet-too-big, time-exceeded, parameter-problem";
        writeln!(rules, "  icmpv6 type {{ {errors} }} accept\n }}\n}}")
    }

    /// What does not get out, whatever the family.
    fn outbound_rules(self, rules: &mut String) -> fmt::Result {
        if self.outbound != Outbound::Everything {
            writeln!(rules, "  meta l4proto udp drop")?;
        }
        let reset = "reject with tcp reset";
        match self.outbound {
            Outbound::Everything | Outbound::NoUdp => Ok(()),
            Outbound::WebPorts => writeln!(rules, "  {OUT} tcp dport != {{ 80, 443 }} {reset}"),
            Outbound::TlsOnly => {
                writeln!(rules, "  {OUT} tcp dport != 443 {reset}")?;
                // The first bytes with a payload: a TLS record with a handshake that begins with a ClientHello.
                let hello = "@ih,0,16 0x1603 @ih,40,8 1";
                writeln!(rules, "  {OUT} tcp dport 443 ct mark 0 {hello} ct mark set 1")?;
                writeln!(rules, "  {OUT} tcp dport 443 ct mark 0 @ih,0,8 >= 0 {reset}")
            }
        }
    }
}

/// From inside to the world.
const OUT: &str = "iifname \"lan\" oifname \"wan\"";

use Dependence::{AddressAndPortDependent as APD, AddressDependent as AD, EndpointIndependent as EI};

impl fmt::Display for Dependence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            EI => "endpoint-independent",
            AD => "address-dependent",
            APD => "address and port-dependent",
        })
    }
}

/// The names that people use, or `MAPPING-FILTERING`, each `ei`, `ad` or `apd`; then `+hairpin`, `+preserve`, `+noudp`,
/// `+web`, `+tls`, and how soon it forgets, as in `+30s`.
impl FromStr for Nat {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut words = text.split('+');
        let mut nat = match words.next().unwrap_or_default() {
            "fullcone" => Self::FULL_CONE,
            "restricted" => Self::RESTRICTED,
            "portrestricted" => Self::PORT_RESTRICTED,
            "symmetric" => Self::SYMMETRIC,
            "linux" => Self::LINUX,
            "udpblocked" => Self::UDP_BLOCKED,
            name => {
                let parts = name.split_once('-').map(|(m, f)| (dependence(m), dependence(f)));
                let Some((Some(mapping), Some(filtering))) = parts else {
                    bail!(
                        "\"{name}\" is no kind of NAT; there are fullcone, restricted, portrestricted, symmetric, \
                         linux, udpblocked, and MAPPING-FILTERING of ei, ad and apd"
                    );
                };
                Self::behaved(mapping, filtering)
            }
        };
        for word in words {
            match word {
                "hairpin" => nat.hairpin = true,
                "preserve" => nat.preserves_ports = true,
                "noudp" => nat.outbound = Outbound::NoUdp,
                "web" => nat.outbound = Outbound::WebPorts,
                "tls" => nat.outbound = Outbound::TlsOnly,
                _ => match word.strip_suffix('s').and_then(|seconds| seconds.parse().ok()) {
                    Some(seconds) if seconds > 0 => nat.timeout = Duration::from_secs(seconds),
                    _ => bail!(
                        "\"+{word}\" says nothing of a NAT; there are +hairpin +preserve +noudp +web +tls and +30s"
                    ),
                },
            }
        }
        Ok(nat)
    }
}

fn dependence(word: &str) -> Option<Dependence> {
    match word {
        "ei" => Some(EI),
        "ad" => Some(AD),
        "apd" => Some(APD),
        _ => None,
    }
}
