//! A router of a home, or of a carrier: an outer side, an inner network, and a translator in between.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, Result, ensure};

use super::internet::{Addresses, Attachment};
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
        place.ip(&format!(
            "link add lan type bridge\n\
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
        Ok(router)
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
        self.place.nft("flush ruleset\n")?;
        self.place.nft(&self.nat.rules(self.wan.addresses.v4))?;
        self.place.forget_connections()
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
