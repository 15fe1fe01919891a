//! A router of a home, or of a carrier: an outer side, an inner network, and a translator in between.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, Result, anyhow, ensure};

use super::internet::{Addresses, Attachment, Carried, counted};
use super::namespace::Namespace;
use super::nat::Nat;
use crate::host::Host;

/// A running router.
#[derive(Debug)]
pub struct Router {
    place: Namespace,
    wan: Attachment,
    nat: Nat,
    lan: Lan,
    ports: u8,
}

/// What a router has let through, by the side it left on, sender, receiver and IP protocol. Inside, everybody has inner
/// addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Passages(BTreeMap<(Side, IpAddr, IpAddr, String), Carried>);

/// One side of a router.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Side {
    Inner,
    Outer,
}

/// The inner network's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lan {
    /// 192.168.n.0/24.
    Home(u8),
    /// 100.64.n.0/24: behind it are the routers of homes. RFC 6598.
    Carrier(u8),
}

impl Router {
    /// Sets one up whose outer interface `wan` is already there.
    pub(super) fn new(place: Namespace, wan: Attachment, nat: Nat, lan: u8) -> Result<Self> {
        Self::with_lan(place, wan, nat, Lan::Home(lan))
    }

    fn with_lan(place: Namespace, wan: Attachment, nat: Nat, lan: Lan) -> Result<Self> {
        let router = Self { place, wan, nat, lan, ports: 0 };
        let place = &router.place;
        place.set("ipv4/ip_forward", "1")?;
        place.set("ipv6/conf/all/forwarding", "1")?;
        let timeout = router.nat.timeout.as_secs().max(1).to_string();
        for parameter in ["nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream"] {
            place.set_if_there(&format!("netfilter/{parameter}"), &timeout)?;
        }
        let inner = router.inner();
        // An address of its own: else it takes one of its ports', and another whenever somebody is attached.
        place.ip(&format!(
            "link add lan address 02:00:00:00:00:01 type bridge\n\
             link set lan up\n\
             address add {}/24 dev lan\n\
             address add {}/64 dev lan nodad\n",
            inner.v4, inner.v6
        ))?;
        // Frames between two hosts of the inner network are none of the firewall's business.
        for table in ["iptables", "ip6tables", "arptables"] {
            place.set_if_there(&format!("bridge/bridge-nf-call-{table}"), "0")?;
        }
        router.wan.configure(place, "wan")?;
        place.nft(&router.nat.rules(router.wan.addresses.v4))?;
        place.nft(WITNESS)?;
        Ok(router)
    }

    /// What it has let through so far.
    pub fn passages(&self) -> Result<Passages> {
        let mut passages = Passages::default();
        let listed = self.place.nft_list(&["table", "inet", "witness"])?;
        passages.read(&listed).with_context(|| format!("reading {listed}"))?;
        Ok(passages)
    }

    /// What it has sent back inside: a host reached another, or itself, by an outer address.
    pub fn turned_back(&self) -> Result<Carried> {
        let inner = self.inner().v4.octets();
        let is_inside = |ip: IpAddr| matches!(ip, IpAddr::V4(ip) if ip.octets().get(..3) == inner.get(..3));
        Ok(self.passages()?.in_from(is_inside))
    }

    /// The outer addresses.
    #[must_use]
    pub const fn addresses(&self) -> Addresses {
        self.wan.addresses
    }

    /// The translator.
    #[must_use]
    pub const fn nat(&self) -> Nat {
        self.nat
    }

    /// The cable to the outside.
    #[must_use]
    pub const fn wan(&self) -> &Attachment {
        &self.wan
    }

    /// The inner network's IPv6 prefix, of 64 bits.
    #[must_use]
    pub fn prefix(&self) -> Ipv6Addr {
        let inner = self.inner().v6.segments();
        Ipv6Addr::new(inner[0], inner[1], inner[2], inner[3], 0, 0, 0, 0)
    }

    /// A host of the inner network.
    pub fn attach_host(&mut self) -> Result<(Host, Attachment)> {
        let place = Namespace::new()?;
        let attachment = self.attach(&place, "eth0")?;
        attachment.configure(&place, "eth0")?;
        Ok((Host::inside(place, attachment.addresses.v4.into()), attachment))
    }

    /// Lets a host of another network roam into this one: its cable there is gone, and it gets addresses here.
    pub fn take_in(&mut self, host: &Host, left: &Attachment) -> Result<Attachment> {
        let place = host.network.as_ref().context("a host without a network cannot roam")?;
        left.upstream.ip(&format!("link del dev {}\n", left.interface))?;
        let attachment = self.attach(place, "eth0")?;
        attachment.configure(place, "eth0")?;
        Ok(attachment)
    }

    /// The router of a home, if this is a carrier's.
    pub fn attach_router(&mut self, nat: Nat, lan: u8) -> Result<Self> {
        let place = Namespace::new()?;
        let attachment = self.attach(&place, "wan")?;
        Self::new(place, attachment, nat, lan)
    }

    /// Forgets every mapping: hosts inside keep their sockets, and the world sees other ports.
    pub fn rebind(&self) -> Result<()> {
        // Nothing passes meanwhile: a packet of a connection that is not forgotten yet would teach the new rules the old
        // mapping.
        let replaced = "delete table ip nat\ndelete table ip6 firewall\n";
        self.place.nft(&format!("{replaced}{CLOSED}"))?;
        self.place.forget_connections()?;
        let rules = self.nat.rules(self.wan.addresses.v4);
        self.place.nft(&format!("{replaced}{rules}"))
    }

    /// Gets another outer IPv4 address, as at the end of a lease.
    pub fn renumber(&mut self) -> Result<()> {
        let old = self.wan.addresses.v4;
        let [a, b, c, host] = old.octets();
        let new = Ipv4Addr::new(a, b, c, if host >= 200 { 10 } else { host + 1 });
        ensure!(new != self.wan.gateways.v4, "{new} is the gateway");
        let length = self.wan.prefix_lengths.0;
        self.place.ip(&format!(
            "address del {old}/{length} dev wan\n\
             address add {new}/{length} dev wan\n\
             route replace default via {}\n",
            self.wan.gateways.v4
        ))?;
        self.wan.addresses.v4 = new;
        self.rebind()
    }

    /// Lays a cable from a port of the inner network to `place`.
    fn attach(&mut self, place: &Namespace, interface: &str) -> Result<Attachment> {
        ensure!(self.ports < 100, "an inner network of 100 is full");
        self.ports += 1;
        let (port, inner) = (self.ports, self.inner());
        let [a, b, c, _] = inner.v4.octets();
        let mut segments = inner.v6.segments();
        segments[7] = 9 + u16::from(port);
        let name = format!("port{port}");
        self.place.ip(&format!(
            "link add name {name} type veth peer name {interface} netns {}\n\
             link set dev {name} master lan up\n",
            place.path()
        ))?;
        Ok(Attachment {
            upstream: self.place.clone(),
            interface: name,
            addresses: Addresses { v4: Ipv4Addr::new(a, b, c, 9 + port), v6: segments.into() },
            gateways: inner,
            prefix_lengths: (24, 64),
        })
    }

    /// Its own addresses on the inner network.
    fn inner(&self) -> Addresses {
        let v4 = match self.lan {
            Lan::Home(number) => Ipv4Addr::new(192, 168, number, 254),
            Lan::Carrier(number) => Ipv4Addr::new(100, 64, number, 254),
        };
        let outer = self.wan.addresses.v6.segments();
        let number = match self.lan {
            Lan::Home(number) => u16::from(number),
            Lan::Carrier(number) => 0x100 + u16::from(number),
        };
        Addresses { v4, v6: Ipv6Addr::new(outer[0], outer[1], 1 + outer[2], number, 0, 0, 0, 0xfe) }
    }

    /// Turns the inner network into a carrier's.
    pub(super) fn carrier(place: Namespace, wan: Attachment, nat: Nat, number: u8) -> Result<Self> {
        Self::with_lan(place, wan, nat, Lan::Carrier(number))
    }
}

impl Passages {
    /// What went out to receivers that `pick` picks.
    pub fn out_to(&self, pick: impl Fn(IpAddr) -> bool) -> Carried {
        self.sum(|side, _, receiver| side == Side::Outer && pick(receiver))
    }

    /// What came in from senders that `pick` picks.
    pub fn in_from(&self, pick: impl Fn(IpAddr) -> bool) -> Carried {
        self.sum(|side, sender, _| side == Side::Inner && pick(sender))
    }

    /// What passed since `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let grown = self.0.iter().map(|(key, now)| {
            let then = before.0.get(key).copied().unwrap_or_default();
            let packets = now.packets.saturating_sub(then.packets);
            (key.clone(), Carried { packets, bytes: now.bytes.saturating_sub(then.bytes) })
        });
        Self(grown.collect())
    }

    /// What of it was this protocol: `udp`, `tcp`.
    #[must_use]
    pub fn of(&self, protocol: &str) -> Self {
        let its = self.0.iter().filter(|((.., spoken), _)| spoken == protocol);
        Self(its.map(|(key, carried)| (key.clone(), *carried)).collect())
    }

    fn sum(&self, pick: impl Fn(Side, IpAddr, IpAddr) -> bool) -> Carried {
        let picked = self.0.iter().filter(|((side, sender, receiver, _), _)| pick(*side, *sender, *receiver));
        picked.fold(Carried::default(), |sum, (_, carried)| Carried {
            packets: sum.packets + carried.packets,
            bytes: sum.bytes + carried.bytes,
        })
    }

    fn read(&mut self, listed: &serde_json::Value) -> Result<()> {
        for (words, carried) in counted(listed)? {
            let [side, sender, receiver, protocol] =
                <[String; 4]>::try_from(words).map_err(|_| anyhow!("not four words"))?;
            let side = if side == "wan" { Side::Outer } else { Side::Inner };
            self.0.insert((side, sender.parse()?, receiver.parse()?, protocol), carried);
        }
        Ok(())
    }
}

/// Lets nothing through.
const CLOSED: &str = "\
table ip nat {
 chain forward { type filter hook forward priority filter; policy drop;
 }
}
table ip6 firewall {
 chain forward { type filter hook forward priority filter; policy drop;
 }
}
";

/// After the firewall: what it drops is not counted. It stays when the translator forgets.
const WITNESS: &str = "\
table inet witness {
 set passed4 { typeof oifname . ip saddr . ip daddr . meta l4proto; size 4096; flags dynamic; counter; }
 set passed6 { typeof oifname . ip6 saddr . ip6 daddr . meta l4proto; size 4096; flags dynamic; counter; }
 chain forward { type filter hook forward priority filter + 10; policy accept;
  update @passed4 { oifname . ip saddr . ip daddr . meta l4proto }
  update @passed6 { oifname . ip6 saddr . ip6 daddr . meta l4proto }
 }
}
";
