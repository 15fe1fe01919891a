//! Two clients of one relay, and how often the kernel carries what they say to each other.

use anyhow::{Context as _, Result, ensure};

use crate::host::Host;
use crate::lab::{Namespace, rights};
use crate::relay::{Relay, USER};
use crate::turn_client::{TurnClient, Wire as _};
use crate::{Context, Evidence};

/// One after the other, so that none is carried together with another.
const DATAGRAMS: u64 = 200;

pub(super) fn past_the_kernel(ctx: &Context) -> Result<Evidence> {
    rights::check()?;
    // Nobody else's datagrams are counted in a network of our own.
    let network = Namespace::new()?;
    let host = Host::inside(network, Host::local().ip);
    let start = || Relay::start_with(ctx, &host, &crate::args!["--unauthenticated-rate", "0"]);
    let (one, another) = (start()?, start()?);
    let [beside, apart] = host.within(|| Ok([carried(&one, &one)?, carried(&one, &another)?]))?;
    ensure!(beside == 2 * DATAGRAMS, "between clients of one relay the kernel carried {beside} datagrams");
    ensure!(apart == 3 * DATAGRAMS, "between clients of two relays the kernel carried {apart} datagrams");
    Ok(Evidence::new()
        .fact(format!(
            "{DATAGRAMS} datagrams between clients of one relay: the kernel took {beside} from sockets, one from each \
             client and one for it"
        ))
        .fact(format!("between clients of two relays it took {apart}, those from relay to relay as well")))
}

/// How many datagrams the kernel carries while so many go from a client of one relay to a client of the other.
fn carried(near: &Relay, far: &Relay) -> Result<u64> {
    let (mut near, mut far) = (TurnClient::allocate(near.udp, USER)?, TurnClient::allocate(far.udp, USER)?);
    near.bind_channel(far.relayed())?;
    far.bind_channel(near.relayed())?;
    let (near, mut far) = (near.into_wire(), far.into_wire());
    let frame = TurnClient::frame(b"so that it needs no padding.")?;
    let before = sent_in_this_network()?;
    for _ in 0..DATAGRAMS {
        near.send(&frame)?;
        ensure!(far.receive()? == frame, "something else arrived");
    }
    Ok(sent_in_this_network()? - before)
}

/// `OutDatagrams` of UDP in the network that this thread is in.
fn sent_in_this_network() -> Result<u64> {
    let path = "/proc/thread-self/net/snmp";
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {path}"))?;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Udp: "));
    let (names, values) = lines.next().zip(lines.next()).context("no counters of UDP")?;
    let mut counters = names.split_whitespace().zip(values.split_whitespace());
    let (_, value) = counters.find(|(name, _)| *name == "OutDatagrams").context("no OutDatagrams")?;
    value.parse().with_context(|| format!("OutDatagrams is {value}"))
}
