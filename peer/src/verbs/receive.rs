//! `receive`: what somebody sends, over as many connections as it takes.

use super::files::{Outcome, Tally, converse};
use super::meeting::{config, meet};
use super::session;
use crate::channel::{Channel, Connection};
use crate::cli::{self, Common};
use crate::failure::{Failure, Reason};
use crate::peer::Config;
use crate::report::{Direction, Event, Reporter};
use crate::transfer::{Collision, Incoming, PROTOCOL};

/// Runs until everything is there, or for ever if that is wanted; until somebody interrupts, or it fails.
pub async fn run(common: &Common, receive: &cli::Receive, reporter: &Reporter) -> Result<(), Failure> {
    let collision = match (receive.overwrite, receive.rename) {
        (true, _) => Collision::Replace,
        (false, true) => Collision::Rename,
        (false, false) => Collision::Refuse,
    };
    let config = Config { media: false, unattended: receive.keep, ..config(common, &receive.manner)? };
    let room = receive.code.as_deref().or(receive.key.as_deref());
    let peer = meet(config, room, "send --key CODE PATH", reporter).await?;
    let mut connections = peer.connections();
    let work = async {
        let mut tally = Tally::new(reporter, Direction::Received);
        while let Some(connection) = connections.next().await {
            while let Some(channel) = accept(&connection, reporter).await {
                // What is left of an earlier one is read from the disk, as after a kill.
                let mut incoming = Incoming::new(&receive.to, collision);
                match converse(&channel, &mut incoming, &mut tally).await {
                    Ok(Outcome::Lost) => continue,
                    Ok(Outcome::Complete) if receive.keep => {}
                    Err(failure) if receive.keep => {
                        reporter.no_progress();
                        reporter.event(&Event::Warning { message: failure.message });
                    }
                    ended => return ended.map(|_| ()),
                }
                tally = Tally::new(reporter, Direction::Received);
            }
        }
        // The peer has ended, and says why.
        std::future::pending().await
    };
    let done = session::run(peer, reporter, work).await?;
    if receive.keep {
        // It was to go on until somebody ends it.
        return Ok(());
    }
    done.ok_or_else(|| Failure::new(Reason::Cancelled, "it ended before everything was there"))
}

/// The next channel for a transfer. Others are none of our business, and their openers should know.
async fn accept(connection: &Connection, reporter: &Reporter) -> Option<Channel> {
    loop {
        let channel = connection.accept().await?;
        if channel.protocol() == PROTOCOL {
            return Some(channel);
        }
        let message = format!("the other side wants {:?}, and this side receives files", channel.protocol());
        reporter.event(&Event::Warning { message });
        channel.close().await;
    }
}
