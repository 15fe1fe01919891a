//! `call`: be in a room, and on a call with whoever else is there.

use std::io::IsTerminal as _;
use std::time::Instant;

use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::sync::mpsc;
use tokio::time::sleep_until;

use super::Interrupts;
use super::commands::Command;
use super::meeting::{config, meet};
use crate::cli::{self, Common};
use crate::clock;
use crate::connection::Message;
use crate::failure::{Failure, Reason};
use crate::media::{Feed, Feeds};
use crate::peer::{Config, Peer};
use crate::report::{Event, MediaKind, Reporter};

/// Runs until the call is over, somebody interrupts, or it fails.
pub async fn run(common: &Common, call: &cli::Call, reporter: &Reporter) -> Result<(), Failure> {
    let mut interrupts = Interrupts::new()?;
    let feeds = Feeds {
        video: Feed::open(MediaKind::Video, &call.video)?,
        audio: Feed::open(MediaKind::Audio, &call.audio)?,
    };
    let config = Config {
        feeds,
        record: call.record.clone(),
        unattended: call.unattended,
        ..config(common, &call.joining.manner)?
    };
    if call.dtmf.is_some() && config.feeds.audio.is_none() {
        return Err(Failure::new(
            Reason::BadUsage,
            "--dtmf needs sound to take the place of: not --audio none",
        ));
    }
    let mut peer = meet(config, call.joining.room.as_deref(), "call CODE", reporter).await?;
    if let Some(tones) = call.dtmf.clone() {
        peer.dial(tones);
    }
    let (orders, mut ordered) = mpsc::channel(1);
    let orders = (call.commands || std::io::stdin().is_terminal()).then_some(orders);
    let reading = tokio::spawn(lines(tokio::io::stdin(), peer.outgoing(), orders));
    let mut hang_up_at: Option<Instant> = None;
    loop {
        tokio::select! {
            event = peer.event() => {
                let Some(event) = event else { break };
                if let (Event::Connected { .. }, None, Some(duration)) = (&event, hang_up_at, call.duration) {
                    hang_up_at = Some(clock::now() + duration);
                }
                reporter.event(&event);
            }
            Some(line) = ordered.recv() => {
                if let Err(message) = obey(&line, &peer) {
                    reporter.event(&Event::Warning { message });
                }
            }
            reason = interrupts.next() => peer.hang_up(reason),
            () = sleep_until(hang_up_at.unwrap_or_else(clock::now).into()), if hang_up_at.is_some() => {
                // Once; the events tell the rest.
                hang_up_at = Some(clock::now() + FOREVER);
                peer.hang_up("duration");
            }
        }
    }
    reading.abort();
    peer.finish().await
}

/// Does what a command says; an error is for who typed it.
fn obey(line: &str, peer: &Peer) -> Result<(), String> {
    match line.parse()? {
        Command::Send(kind, source) => {
            match Feed::open(kind, &source).map_err(|failure| failure.to_string())? {
                Some(feed) => peer.add_track(feed),
                None => peer.remove_track(kind),
            }
            Ok(())
        }
        Command::Dial(tones) => {
            peer.dial(tones).then_some(()).ok_or_else(|| "too many tones wait".to_owned())
        }
        Command::HangUp => {
            peer.hang_up("");
            Ok(())
        }
    }
}

/// Each line goes to the other side as text, but for commands where they are taken; the end of input does not end the call.
async fn lines(
    input: impl AsyncRead + Unpin,
    outgoing: mpsc::Sender<Message>,
    orders: Option<mpsc::Sender<String>>,
) {
    let mut lines = BufReader::new(input).lines();
    loop {
        match lines.next_line().await {
            Ok(Some(line)) => {
                let taken = match (&orders, line.strip_prefix('/')) {
                    (Some(orders), Some(command)) if !command.starts_with('/') => {
                        orders.send(line).await.is_ok()
                    }
                    (Some(_), Some(text)) => outgoing.send(Message::Text(text.to_owned())).await.is_ok(),
                    (Some(_) | None, _) => outgoing.send(Message::Text(line)).await.is_ok(),
                };
                if !taken {
                    return;
                }
            }
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(%error, "Input is no text");
                return;
            }
        }
    }
}

const FOREVER: std::time::Duration = std::time::Duration::from_secs(365 * 24 * 3600);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_line_is_a_message_even_without_an_end() {
        let (outgoing, mut sent) = mpsc::channel(8);
        lines(&b"one\ntwo\r\n\n/last"[..], outgoing, None).await;
        let mut texts = Vec::new();
        while let Some(Message::Text(text)) = sent.recv().await {
            texts.push(text);
        }
        assert_eq!(texts, ["one", "two", "", "/last"]);
    }

    #[tokio::test]
    async fn where_commands_are_taken_they_are_no_messages() {
        let ((outgoing, mut sent), (orders, mut ordered)) = (mpsc::channel(8), mpsc::channel(8));
        lines(&b"one\n/hangup\n//two\n"[..], outgoing, Some(orders)).await;
        assert_eq!(ordered.recv().await.as_deref(), Some("/hangup"));
        assert_eq!(ordered.recv().await, None);
        assert!(matches!(sent.recv().await, Some(Message::Text(text)) if text == "one"));
        assert!(matches!(sent.recv().await, Some(Message::Text(text)) if text == "/two"));
        assert!(sent.recv().await.is_none());
    }
}
