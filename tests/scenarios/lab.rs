//! The lab that a person opens, as one opens it.

use std::ffi::OsString;

use anyhow::{Context as _, Result, ensure};

use crate::clock::{Deadline, PATIENCE};
use crate::event::{Event, EventKind};
use crate::host::Host;
use crate::process::{Mark, Process};
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

/// The same lab for somebody who is not root: in a user namespace; and where there is none to be had, in words.
pub(super) fn for_an_ordinary_user(ctx: &Context) -> Result<Evidence> {
    let call = |ip: &str| {
        format!(
            "sed 's/^/users /' /proc/self/uid_map; farcall-peer --json --bind {ip} call room --video none \
             --audio none --duration 1s < /dev/null"
        )
    };
    let (one, other) = (call("192.168.1.10"), call("192.168.2.10"));
    let words = args!["portrestricted", "restricted", "--run-a", one, "--run-b", other];
    let mut lab = start(ctx, "ordinary", "exec", words)?;
    let code = lab.exit_code(Deadline::after(2 * PATIENCE))?;
    ensure!(code == 0, "it ended with {code}. {}", lab.last_words());
    let maps = lab.collect(Mark::START, |line| {
        Ok(line
            .strip_prefix("users ")
            .map(|map| map.split_whitespace().map(str::to_owned).collect::<Vec<_>>()))
    })?;
    ensure!(maps.len() == 2, "{} homes told who they run as", maps.len());
    for map in &maps {
        let is_alone =
            map.first().map(String::as_str) == Some("0") && map.last().map(String::as_str) == Some("1");
        ensure!(is_alone && map.get(1).is_some_and(|user| user != "0"), "the lab ran with the users {map:?}");
    }
    let connected = lab.collect(Mark::START, |line| {
        let event = line.starts_with('{').then(|| Event::parse(line)).transpose()?;
        Ok(event.and_then(|event| {
            if let EventKind::Connected(connected) = event.kind { Some(connected) } else { None }
        }))
    })?;
    let [first, second] = connected.as_slice() else { anyhow::bail!("{} connections", connected.len()) };
    ensure!(first.path.is_direct() && second.path.is_direct(), "{} and {}", first.path, second.path);

    // A user namespace in which there can be no further one, and no network, is what a kernel is that forbids them.
    let forbid = "exec unshare --user --map-current-user --keep-caps -- /bin/sh -c \
                  'cd /proc/sys/user && echo 0 > max_net_namespaces && echo 0 > max_user_namespaces && exec \"$@\"' sh";
    let mut refused = start(ctx, "refused", forbid, args!["fullcone", "fullcone", "--run-a", "true"])?;
    let code = refused.exit_code(Deadline::after(PATIENCE))?;
    ensure!(code == 1, "where it is forbidden, it ended with {code}. {}", refused.last_words());
    let said = refused.last_words();
    let expected =
        "/proc/sys/user/max_user_namespaces is 0; to change it: sysctl -w user.max_user_namespaces=10000";
    ensure!(said.contains(expected), "where it is forbidden, it said: {said}");
    let user = maps.iter().filter_map(|map| map.get(1)).next().context("no user")?;
    Ok(Evidence::new()
        .connected(first)
        .fact(format!(
            "user {user} made two homes, whose peers met, with no right but in a namespace of users"
        ))
        .fact("where the kernel forbids that, the lab says which setting, and how to change it"))
}

/// Starts the lab as an ordinary user, by `how`, in a file system that is gone with it: the lab writes beside the programs,
/// where this user may not.
fn start(ctx: &Context, name: &str, how: &str, words: Vec<OsString>) -> Result<Process> {
    let map = std::fs::read_to_string("/proc/self/uid_map").context("reading /proc/self/uid_map")?;
    // In a user namespace of one user, this is one already.
    let drop = if has_user(&map, NOBODY) {
        format!("setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups --")
    } else {
        "env".to_owned()
    };
    let script = format!(
        "set -e; here=$1; shift; mount -t tmpfs -o mode=755 lab /mnt; mkdir -m 777 /mnt/lab /mnt/debug; \
         for program in lab peer relay signaling; do install -m 755 \"$here/farcall-$program\" /mnt/debug; done; \
         chmod 777 /mnt; cd /; exec {drop} /bin/sh -c '{}' sh /mnt/debug/farcall-lab \"$@\"",
        format!("{how} \"$@\"").replace('\'', "'\\''"),
    );
    let mut args = args!["--mount", "--propagation", "private", "--", "/bin/sh", "-c", script, "sh"];
    args.push(ctx.programs().into());
    args.extend(words);
    ctx.launch(&Host::local(), name, "unshare".into(), args)
}

/// Whether a map of users has one of this number.
fn has_user(map: &str, user: u64) -> bool {
    map.lines().any(|line| {
        let numbers: Vec<u64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        matches!(numbers.as_slice(), [first, _, count] if (*first..first.saturating_add(*count)).contains(&user))
    })
}

const NOBODY: u64 = 65534;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_there_if_a_line_of_the_map_has_it() {
        assert!(has_user("         0          0 4294967295\n", NOBODY));
        assert!(has_user("0 1000 1\n1 100000 65536\n", NOBODY));
        assert!(!has_user("         0       1000          1\n", NOBODY));
        assert!(!has_user("", NOBODY));
    }
}
