//! `candidates`: what gathering finds from here, and from which server.

use crate::cli::{self, Common};
use crate::connection::Gathering;
use crate::failure::{Failure, Reason};
use crate::net::{BindAddresses, IceServer};
use crate::report::{Event, Reporter};

/// Gathers until it is complete or the time is over, and prints each candidate as it is found.
pub async fn run(common: &Common, flags: &cli::Candidates, reporter: &Reporter) -> Result<(), Failure> {
    let addresses = if common.bind.is_empty() {
        BindAddresses::Interfaces { loopback: false }
    } else {
        BindAddresses::Given(common.bind.clone())
    };
    let servers = [
        IceServer { urls: flags.stun.clone(), ..IceServer::default() },
        IceServer {
            urls: flags.turn.clone(),
            username: flags.turn_user.clone(),
            credential: flags.turn_password.clone(),
        },
    ];
    let (policy, trust) = (common.policy(), common.authorities()?);
    let mut gathering = Gathering::start(policy, addresses, trust, &servers, flags.timeout).await?;
    let mut found = 0;
    while let Some(event) = gathering.next().await {
        found += usize::from(matches!(event, Event::Candidate(_)));
        reporter.event(&event);
    }
    gathering.finish().await;
    if found == 0 {
        return Err(Failure::new(Reason::IceFailed, "no candidate was found"));
    }
    reporter.event(&Event::Ended { reason: format!("{found} candidates") });
    Ok(())
}
