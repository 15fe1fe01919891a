//! `echo`: sends back what comes, on every channel; something to test the other side against.

use tokio::task::JoinSet;

use super::meeting::{config, meet};
use super::session;
use crate::channel::{Channel, Connection};
use crate::cli::{self, Common};
use crate::connection::Message;
use crate::failure::Failure;
use crate::peer::Config;
use crate::report::{Event, Reporter};

/// Runs until somebody interrupts, or it fails.
pub async fn run(common: &Common, echo: &cli::Joining, reporter: &Reporter) -> Result<(), Failure> {
    let config = Config { media: false, unattended: true, ..config(common, &echo.manner)? };
    let peer = meet(config, echo.room.as_deref(), "call CODE", reporter).await?;
    let mut connections = peer.connections();
    let chat = peer.outgoing();
    let work = async {
        while let Some(connection) = connections.next().await {
            serve(&connection).await;
        }
        // The peer has ended, and says why.
        std::future::pending().await
    };
    let watch = |event: &Event| {
        if let Event::Text { text } = event {
            // Who writes faster than the way back is loses lines.
            let _ = chat.try_send(Message::Text(text.clone()));
        }
    };
    session::watch(peer, reporter, work, watch).await.map(|_: Option<()>| ())
}

async fn serve(connection: &Connection) {
    let mut channels = JoinSet::new();
    loop {
        tokio::select! {
            channel = connection.accept() => match channel {
                Some(channel) => drop(channels.spawn(reflect(channel))),
                None => return,
            },
            Some(_) = channels.join_next() => {}
        }
    }
}

async fn reflect(channel: Channel) {
    while let Some(message) = channel.receive().await {
        if channel.send(message).await.is_err() {
            return;
        }
    }
}
