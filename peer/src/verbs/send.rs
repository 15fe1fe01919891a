//! `send`: files and folders to somebody who receives, over as many connections as it takes.

use super::files::{Outcome, Tally, converse};
use super::meeting::{config, meet};
use super::session;
use crate::channel::ChannelOptions;
use crate::cli::{self, Common};
use crate::failure::{Failure, Reason};
use crate::peer::Config;
use crate::report::{Direction, Reporter};
use crate::transfer::{Outgoing, PROTOCOL};

/// Runs until the receiver has everything, somebody interrupts, or it fails.
pub async fn run(common: &Common, send: &cli::Send, reporter: &Reporter) -> Result<(), Failure> {
    let mut outgoing = tokio::task::block_in_place(|| Outgoing::scan(&send.paths))?;
    let config = Config { media: false, ..config(common, &send.manner)? };
    let peer = meet(config, send.key.as_deref(), "receive CODE", reporter).await?;
    let mut connections = peer.connections();
    let work = async {
        let mut tally = Tally::new(reporter, Direction::Sent);
        while let Some(connection) = connections.next().await {
            let opened = connection.open("files", &ChannelOptions::reliable(PROTOCOL)).await;
            let Ok(channel) = opened else { continue };
            outgoing.start();
            if converse(&channel, &mut outgoing, &mut tally).await? == Outcome::Complete {
                return Ok(());
            }
        }
        // The peer has ended, and says why.
        std::future::pending().await
    };
    let done = session::run(peer, reporter, work).await?;
    done.ok_or_else(|| Failure::new(Reason::Cancelled, "it ended before the receiver had everything"))
}
