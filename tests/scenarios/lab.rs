//! The lab that a person opens, as one opens it.

use anyhow::{Context as _, Result, ensure};

use crate::clock::{Deadline, PATIENCE};
use crate::event::{Event, EventKind};
use crate::host::Host;
use crate::process::Mark;
use crate::{Context, Evidence, args};

pub(super) fn for_a_person(ctx: &Context) -> Result<Evidence> {
    // Over IPv4 alone, since there is no NAT before IPv6.
    let call = |ip: &str| {
        format!(
            "farcall-peer --json --bind {ip} call room --video none --audio none --duration 1s < /dev/null"
        )
    };
    let args = args![
        "symmetric",
        "restricted",
        "--delay",
        "10ms",
        "--run-a",
        call("192.168.1.10"),
        "--run-b",
        call("192.168.2.10")
    ];
    let mut lab = ctx.spawn(&Host::local(), "lab", "farcall-lab", args)?;
    let code = lab.exit_code(Deadline::after(2 * PATIENCE))?;
    ensure!(code == 0, "it ended with {code}. {}", lab.last_words());
    let paths = lab.collect(Mark::START, |line| {
        let event = line.starts_with('{').then(|| Event::parse(line)).transpose()?;
        Ok(event.and_then(|event| {
            let EventKind::Connected(connected) = event.kind else { return None };
            Some(connected)
        }))
    })?;
    let [first, second] = paths.as_slice() else { anyhow::bail!("{} connections", paths.len()) };
    // A symmetric NAT and a restricted one: they meet without a relay, and neither at an own address alone.
    ensure!(first.path.is_direct() && second.path.is_direct(), "{} and {}", first.path, second.path);
    let shown =
        lab.collect(Mark::START, |line| Ok(line.starts_with("signaling").then(|| line.to_owned())))?;
    let signaling = shown.first().context("it does not say where signaling is")?;
    Ok(Evidence::new()
        .connected(first)
        .fact(format!("it said: {signaling}"))
        .fact("what was to run in both homes ran, met, and ended; the lab ended with it"))
}
