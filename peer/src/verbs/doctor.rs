//! `doctor`: whether the servers that a call needs can be reached from here, each by itself, and what to do if not.

use std::time::Duration;

use tokio::time::timeout;

use super::meeting::config;
use crate::cli::{self, Common};
use crate::connection::Gathering;
use crate::failure::{Failure, Reason};
use crate::net::{BindAddresses, IcePolicy, IceServer};
use crate::peer::is_on_loopback;
use crate::report::{Event, Reporter};
use crate::signaling::{self, Client, Notice};

/// Checks signaling, and every server that it hands out.
pub async fn run(common: &Common, doctor: &cli::Doctor, reporter: &Reporter) -> Result<(), Failure> {
    let room = format!("doctor-{:016x}", rand::random::<u64>());
    let config = config(common, &doctor.manner)?;
    let server = config.server.clone();
    let addresses = if config.bind.is_empty() {
        BindAddresses::Interfaces { loopback: is_on_loopback(&server) }
    } else {
        BindAddresses::Given(config.bind.clone())
    };
    let client = Client::start(signaling::Config {
        server: config.server,
        token: config.token,
        ca: config.ca,
        room,
        display_name: String::new(),
        identity_key: Vec::new(),
        instance: format!("{:016x}", rand::random::<u64>()),
    })?;
    let servers = match servers(client).await {
        Ok(servers) => {
            reporter.event(&passed(&server, "signaling lets this peer in"));
            servers
        }
        Err(failure) => {
            let fix = fix_of_signaling(failure.reason);
            reporter.event(&failed(&server, &failure.message, fix));
            return Err(failure);
        }
    };
    let mut failures = 0;
    let mut kinds = [false; 2];
    for one in servers.iter().flat_map(each) {
        let Some(url) = one.urls.first().cloned() else { continue };
        let is_turn = url.starts_with("turn");
        if let Some(kind) = kinds.get_mut(usize::from(is_turn)) {
            *kind = true;
        }
        let event = check(common, &addresses, one, &url, is_turn).await?;
        failures += usize::from(matches!(event, Event::Check { ok: false, .. }));
        reporter.event(&event);
    }
    let [stun, turn] = kinds;
    if !stun && !turn {
        failures += 1;
        let fix = "start the signaling server with --stun: without it peers behind translators do not find each other";
        reporter.event(&failed("STUN", "signaling hands out no STUN server", fix));
    }
    if !turn {
        failures += 1;
        let fix = "start the signaling server with --turn and --turn-secret: without a relay some pairs cannot connect";
        reporter.event(&failed("TURN", "signaling hands out no TURN server", fix));
    }
    if failures > 0 {
        return Err(Failure::new(Reason::Unreachable, format!("{failures} of the checks failed")));
    }
    reporter.event(&Event::Ended { reason: "all is well".to_owned() });
    Ok(())
}

/// What signaling hands out, if it lets us in.
async fn servers(mut client: Client) -> Result<Vec<IceServer>, Failure> {
    let welcome = async {
        while let Some(notice) = client.notice().await {
            match notice {
                Notice::IceServers(servers) => return Ok(servers),
                Notice::Failed(failure) => return Err(failure),
                Notice::Signal(_)
                | Notice::Lost
                | Notice::Resumed
                | Notice::Rejoined
                | Notice::Warning(_) => {}
            }
        }
        Err(Failure::new(Reason::Internal, "signaling ended by itself"))
    };
    let servers = timeout(PATIENCE, welcome)
        .await
        .unwrap_or_else(|_| Err(Failure::new(Reason::Unreachable, "signaling does not answer")))?;
    client.leave().await;
    Ok(servers)
}

/// Every address by itself, so that each is asked.
fn each(server: &IceServer) -> impl Iterator<Item = IceServer> {
    server.urls.iter().map(|url| IceServer { urls: vec![url.clone()], ..server.clone() })
}

async fn check(
    common: &Common,
    addresses: &BindAddresses,
    server: IceServer,
    url: &str,
    is_turn: bool,
) -> Result<Event, Failure> {
    let policy = IcePolicy::default();
    let servers = [server];
    let trust = common.authorities()?;
    let mut gathering = Gathering::start(policy, addresses.clone(), trust, &servers, PATIENCE).await?;
    let wanted = if is_turn { "relay" } else { "srflx" };
    let mut complaint = None;
    let mut found = None;
    while let Some(event) = gathering.next().await {
        if let Event::Warning { message } = event {
            complaint = Some(message);
        } else if let Event::Candidate(candidate) = event
            && candidate.kind == wanted
        {
            found = Some(candidate.address);
            break;
        }
    }
    gathering.finish().await;
    if let Some(address) = found {
        let what = if is_turn { "lends" } else { "sees this peer as" };
        return Ok(passed(url, &format!("{what} {address}")));
    }
    let message = complaint.unwrap_or_else(|| "it does not answer".to_owned());
    Ok(failed(url, &message, fix(url, &message)))
}

fn passed(what: &str, message: &str) -> Event {
    Event::Check { what: what.to_owned(), ok: true, message: message.to_owned(), fix: None }
}

fn failed(what: &str, message: &str, fix: &str) -> Event {
    Event::Check { what: what.to_owned(), ok: false, message: message.to_owned(), fix: Some(fix.to_owned()) }
}

fn fix_of_signaling(reason: Reason) -> &'static str {
    if reason == Reason::BadToken {
        "give a token that the server accepts: --token"
    } else {
        "check --signaling and that the server runs there; a firewall must let TCP through to it; --ca names an \
         authority of one's own"
    }
}

fn fix(url: &str, message: &str) -> &'static str {
    if message.contains("401") {
        "give the relay's --auth-secret and signaling's --turn-secret the same value, and both clocks the same time"
    } else if message.contains("its name has no address") {
        "correct the name after signaling's --stun or --turn"
    } else if message.contains("certificate") {
        "give the relay a certificate for its name from a known authority, or name its authority: --ca"
    } else if url.starts_with("turns:") || url.contains("transport=tcp") {
        "let TCP out to this address, and check that the relay listens there"
    } else {
        "let UDP out to this address, and check that the server runs; where UDP is forbidden, the operator can offer \
         turn:…?transport=tcp and turns:"
    }
}

const PATIENCE: Duration = Duration::from_secs(8);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failure_has_a_fix_of_its_own() {
        let fixes = [
            fix("turn:a", "TURN server turn:a refuses the username or password (401)"),
            fix("turn:a", "TURN server turn:a: its name has no address (x)"),
            fix("turns:a", "TURN server turns:a cannot be reached (invalid peer certificate: UnknownIssuer)"),
            fix("turns:a", "TURN server turns:a cannot be reached (refused)"),
            fix("stun:a", "it does not answer"),
            fix_of_signaling(Reason::BadToken),
            fix_of_signaling(Reason::Unreachable),
        ];
        let distinct: std::collections::BTreeSet<_> = fixes.iter().collect();
        assert_eq!(distinct.len(), fixes.len());
    }
}
