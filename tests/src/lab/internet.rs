//! The internet of a lab: one router in the middle, to which servers, homes and hosts without a router are attached.
//!
//! It is a router, not a bridge, and lets no private address through: otherwise the host candidates of two homes would
//! reach each other and prove nothing. Public addresses are ordinary ones, so that a relay's list of forbidden peers
//! can stay on. It counts what goes from whom to whom: the witness of every path that a call takes.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result, anyhow, ensure};

use super::namespace::Namespace;
use super::nat::Nat;
use super::router::Router;
use crate::host::Host;

/// The middle of everything.
#[derive(Debug)]
pub struct Internet {
    core: Namespace,
    /// What is attached, under its name.
    cables: BTreeMap<String, Attachment>,
}

/// Where something is attached: the end of a cable.
#[derive(Debug, Clone)]
pub struct Attachment {
    /// Where the cable begins.
    pub(super) upstream: Namespace,
    /// What it is called there.
    pub(super) interface: String,
    /// The addresses of the one who is attached.
    pub addresses: Addresses,
    /// Whom it asks for everything else.
    pub(super) gateways: Addresses,
    /// How long the network's part of an address is.
    pub(super) prefix_lengths: (u8, u8),
}

/// An address of each family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// IPv4.
    pub v4: Ipv4Addr,
    /// IPv6.
    pub v6: Ipv6Addr,
}

/// One of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Packets and bytes that went one way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Carried {
    /// How many.
    pub packets: u64,
    /// How much, with IP headers.
    pub bytes: u64,
}

/// What the internet has carried, by who sent, who received, and the IP protocol (`udp`, `tcp`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Witness(BTreeMap<(String, String, String), Carried>);

impl Internet {
    /// An empty one.
    pub fn new() -> Result<Self> {
        let core = Namespace::new()?;
        core.set("ipv4/ip_forward", "1")?;
        core.set("ipv6/conf/all/forwarding", "1")?;
        core.nft(CORE_RULES)?;
        Ok(Self { core, cables: BTreeMap::new() })
    }

    /// A host with a public address, called `name` in the witness; `second` is one more address of its own.
    pub fn attach_host(&mut self, name: &str) -> Result<Host> {
        let place = Namespace::new()?;
        let attachment = self.attach(name, &place, "eth0")?;
        attachment.configure(&place, "eth0")?;
        Ok(Host::inside(place, attachment.addresses.v4.into()))
    }

    /// A server with two public addresses, the host's and the one after it, as RFC 5780 asks for.
    pub fn attach_server(&mut self, name: &str) -> Result<Server> {
        let place = Namespace::new()?;
        let attachment = self.attach(name, &place, "eth0")?;
        attachment.configure(&place, "eth0")?;
        let Addresses { v4, v6 } = attachment.addresses;
        let second = Addresses { v4: v4_after(v4), v6: v6_after(v6) };
        place.ip(&format!(
            "address add {}/24 dev eth0\naddress add {}/64 dev eth0 nodad\n",
            second.v4, second.v6
        ))?;
        Ok(Server { host: Host::inside(place, v4.into()), first: attachment.addresses, second })
    }

    /// A router with a translator, and whatever will be behind it.
    pub fn attach_router(&mut self, name: &str, nat: Nat, lan: u8) -> Result<Router> {
        let place = Namespace::new()?;
        let attachment = self.attach(name, &place, "wan")?;
        let router = Router::new(place, attachment, nat, lan)?;
        // IPv6 is routed: what is behind the router has addresses of its own.
        self.core.ip(&format!("route add {}/64 via {}\n", router.prefix(), router.addresses().v6))?;
        Ok(router)
    }

    /// A carrier's router, behind which are routers of homes.
    pub fn attach_carrier(&mut self, name: &str, nat: Nat, number: u8) -> Result<Router> {
        let place = Namespace::new()?;
        let attachment = self.attach(name, &place, "wan")?;
        Router::carrier(place, attachment, nat, number)
    }

    /// The cable to what is called `name`.
    pub fn link(&self, name: &str) -> Result<&Attachment> {
        self.cables.get(name).with_context(|| format!("nothing called {name} is attached"))
    }

    /// Drops all that one sends to the other from now on, either way; others reach both.
    pub fn part(&self, one: &str, other: &str) -> Result<()> {
        let (here, there) = (&self.link(one)?.interface, &self.link(other)?.interface);
        self.core.nft(&format!(
            "table inet {} {{\n chain forward {{ type filter hook forward priority -10;\n  \
             iifname \"{here}\" oifname \"{there}\" drop\n  iifname \"{there}\" oifname \"{here}\" drop\n }}\n}}\n",
            parting(one, other)
        ))
    }

    /// Ends what [`Internet::part`] began.
    pub fn unite(&self, one: &str, other: &str) -> Result<()> {
        self.core.nft(&format!("delete table inet {}\n", parting(one, other)))
    }

    /// What was carried so far.
    pub fn witness(&self) -> Result<Witness> {
        let listed = self.core.nft_list(&["set", "inet", "witness", "carried"])?;
        Witness::parse(&listed).with_context(|| format!("reading {listed}"))
    }

    /// Lays a cable to `place`, where it is called `interface`; here it is called `name`.
    fn attach(&mut self, name: &str, place: &Namespace, interface: &str) -> Result<Attachment> {
        ensure!(name.len() < 16, "{name} is too long for an interface");
        ensure!(!self.cables.contains_key(name), "there is a {name} already");
        let site = u8::try_from(self.cables.len() + 1).context("an internet of 255 sites is full")?;
        let prefix = u16::from(site);
        let attachment = Attachment {
            upstream: self.core.clone(),
            interface: name.to_owned(),
            addresses: Addresses {
                v4: Ipv4Addr::new(2, site, 0, 10),
                v6: Ipv6Addr::new(0x2a00, prefix, 0, 0, 0, 0, 0, 0x10),
            },
            gateways: Addresses {
                v4: Ipv4Addr::new(2, site, 0, 254),
                v6: Ipv6Addr::new(0x2a00, prefix, 0, 0, 0, 0, 0, 0xfe),
            },
            prefix_lengths: (24, 64),
        };
        self.core.ip(&format!(
            "link add name {name} type veth peer name {interface} netns {}\n\
             link set dev {name} up\n\
             address add {}/24 dev {name}\n\
             address add {}/64 dev {name} nodad\n",
            place.path(),
            attachment.gateways.v4,
            attachment.gateways.v6
        ))?;
        self.cables.insert(name.to_owned(), attachment.clone());
        Ok(attachment)
    }
}

/// The name of the rules between two.
fn parting(one: &str, other: &str) -> String {
    format!("parted_{one}_{other}")
}

/// A public host with a second address.
#[derive(Debug, Clone)]
pub struct Server {
    /// Where its programs run.
    pub host: Host,
    /// Its addresses.
    pub first: Addresses,
    /// Its other ones.
    pub second: Addresses,
}

impl Attachment {
    /// Gives `place` its addresses and the way out.
    pub(super) fn configure(&self, place: &Namespace, interface: &str) -> Result<()> {
        let (v4, v6) = self.prefix_lengths;
        place.hold(&self.upstream);
        place.ip(&format!(
            "link set {interface} up\n\
             address add {}/{v4} dev {interface}\n\
             address add {}/{v6} dev {interface} nodad\n\
             route add default via {}\n\
             route add default via {}\n",
            self.addresses.v4, self.addresses.v6, self.gateways.v4, self.gateways.v6
        ))
    }

    /// Leaves `host`, whose cable this is, nothing but addresses of one family.
    pub fn speak_only(&self, family: Family, host: &Host) -> Result<Host> {
        let place = host.network.as_ref().context("a host without a network has no address to lose")?;
        match family {
            Family::V4 => place.set("ipv6/conf/eth0/disable_ipv6", "1")?,
            Family::V6 => {
                let (address, length) = (self.addresses.v4, self.prefix_lengths.0);
                place.ip(&format!("address del {address}/{length} dev eth0\n"))?;
            }
        }
        let ip = match family {
            Family::V4 => self.addresses.v4.into(),
            Family::V6 => self.addresses.v6.into(),
        };
        Ok(Host { ip, ..host.clone() })
    }

    /// Pulls the cable out at the far end: the near end sees its carrier go, and keeps its addresses.
    pub fn cut(&self) -> Result<()> {
        self.upstream.ip(&format!("link set dev {} down\n", self.interface))
    }

    /// Puts it back.
    pub fn mend(&self) -> Result<()> {
        self.upstream.ip(&format!("link set dev {} up\n", self.interface))
    }

    /// Loses this many of a thousand packets each way, from now on. Zero heals.
    pub fn lose(&self, per_thousand: u16) -> Result<()> {
        ensure!(per_thousand <= 1000, "{per_thousand} of a thousand packets cannot be lost");
        let interface = &self.interface;
        let mut rules = format!("table netdev loss_{interface}\ndelete table netdev loss_{interface}\n");
        if per_thousand > 0 {
            let drop = format!("numgen random mod 1000 < {per_thousand} drop");
            rules += &format!(
                "table netdev loss_{interface} {{\n \
                 chain in {{ type filter hook ingress device \"{interface}\" priority 0; {drop}; }}\n \
                 chain out {{ type filter hook egress device \"{interface}\" priority 0; {drop}; }}\n}}\n"
            );
        }
        self.upstream.nft(&rules)
    }
}

impl Witness {
    /// What `from` sent to `to` by `protocol`.
    #[must_use]
    pub fn carried(&self, from: &str, to: &str, protocol: &str) -> Carried {
        let key = (from.to_owned(), to.to_owned(), protocol.to_owned());
        self.0.get(&key).copied().unwrap_or_default()
    }

    /// What went between two, both ways.
    #[must_use]
    pub fn between(&self, one: &str, other: &str, protocol: &str) -> Carried {
        let (there, back) = (self.carried(one, other, protocol), self.carried(other, one, protocol));
        Carried { packets: there.packets + back.packets, bytes: there.bytes + back.bytes }
    }

    /// What was carried since `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let grown = self.0.iter().map(|(key, now)| {
            let then = before.0.get(key).copied().unwrap_or_default();
            let packets = now.packets.saturating_sub(then.packets);
            (key.clone(), Carried { packets, bytes: now.bytes.saturating_sub(then.bytes) })
        });
        Self(grown.collect())
    }

    fn parse(listed: &serde_json::Value) -> Result<Self> {
        let mut carried = BTreeMap::new();
        for (words, counted) in counted(listed)? {
            let [from, to, protocol] =
                <[String; 3]>::try_from(words).map_err(|_| anyhow!("not three words"))?;
            carried.insert((from, to, protocol), counted);
        }
        Ok(Self(carried))
    }
}

/// What sets count: the words of their keys, and what was seen of each.
pub(super) fn counted(listed: &serde_json::Value) -> Result<Vec<(Vec<String>, Carried)>> {
    let items = listed.get("nftables").and_then(|items| items.as_array()).context("no nftables")?;
    let sets = items.iter().filter_map(|item| item.get("set"));
    let elements = sets.filter_map(|set| set.get("elem").and_then(|elements| elements.as_array()));
    let read = |element: &serde_json::Value| -> Result<(Vec<String>, Carried)> {
        let element = element.get("elem").context("no elem")?;
        let words = element.pointer("/val/concat").and_then(|words| words.as_array()).context("no words")?;
        let words = words.iter().map(|word| word.as_str().map_or_else(|| word.to_string(), str::to_owned));
        let number = |name| element.pointer(name).and_then(serde_json::Value::as_u64).context("no counter");
        let carried = Carried { packets: number("/counter/packets")?, bytes: number("/counter/bytes")? };
        Ok((words.collect(), carried))
    };
    elements.flatten().map(read).collect()
}

fn v4_after(address: Ipv4Addr) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(address).wrapping_add(1))
}

fn v6_after(address: Ipv6Addr) -> Ipv6Addr {
    Ipv6Addr::from(u128::from(address).wrapping_add(1))
}

const CORE_RULES: &str = "\
table inet witness {
 set carried { typeof iifname . oifname . meta l4proto; size 4096; flags dynamic; counter; }
 chain forward { type filter hook forward priority filter; policy accept;
  ip saddr { 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16, 100.64.0.0/10 } drop
  ip daddr { 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16, 100.64.0.0/10 } drop
  ip6 saddr fc00::/7 drop
  ip6 daddr fc00::/7 drop
  update @carried { iifname . oifname . meta l4proto }
 }
}
";
