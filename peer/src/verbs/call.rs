//! `call`: be in a room, and on a call with whoever else is there.

use std::io::IsTerminal as _;
use std::time::Instant;

use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::sleep_until;

use super::Interrupts;
use super::commands::Command;
use super::meeting::{config, meet};
use crate::cli::{self, Common};
use crate::clock;
use crate::connection::Message;
use crate::failure::{Failure, Reason};
use crate::media::{Feed, Feeds, Source};
use crate::peer::{Config, Peer};
use crate::report::{Event, MediaKind, Reporter};

/// Runs until the call is over, somebody interrupts, or it fails.
pub async fn run(common: &Common, call: &cli::Call, reporter: &Reporter) -> Result<(), Failure> {
    let mut interrupts = Interrupts::new()?;
    let mut openings = Openings::default();
    openings.open(MediaKind::Video, call.video.clone());
    openings.open(MediaKind::Audio, call.audio.clone());
    let feeds = tokio::select! {
        feeds = openings.all() => feeds?,
        reason = interrupts.next() => {
            reporter.event(&Event::Ended { reason: reason.to_owned() });
            return Ok(());
        }
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
                if let Err(message) = obey(&line, &peer, &mut openings) {
                    reporter.event(&Event::Warning { message });
                }
            }
            (kind, feed) = openings.next() => match feed {
                Ok(Some(feed)) => peer.add_track(feed),
                Ok(None) => peer.remove_track(kind),
                Err(failure) => reporter.event(&Event::Warning { message: failure.to_string() }),
            },
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
fn obey(line: &str, peer: &Peer, openings: &mut Openings) -> Result<(), String> {
    match line.parse()? {
        Command::Send(kind, source) => {
            openings.open(kind, source);
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

/// Sources that are being opened, on threads that may wait: for a pipe, or for a long file to be encoded. Of each kind
/// the last one counts.
#[derive(Default)]
struct Openings {
    video: Option<Opening>,
    audio: Option<Opening>,
}

type Opening = JoinHandle<Result<Option<Feed>, Failure>>;

impl Openings {
    fn open(&mut self, kind: MediaKind, source: Source) {
        let opening = Some(tokio::task::spawn_blocking(move || Feed::open(kind, &source)));
        match kind {
            MediaKind::Video => self.video = opening,
            MediaKind::Audio => self.audio = opening,
        }
    }

    /// What came of the next one; never if there is none.
    async fn next(&mut self) -> (MediaKind, Result<Option<Feed>, Failure>) {
        tokio::select! {
            feed = opened(&mut self.video) => (MediaKind::Video, feed),
            feed = opened(&mut self.audio) => (MediaKind::Audio, feed),
        }
    }

    /// What came of all.
    async fn all(&mut self) -> Result<Feeds, Failure> {
        let mut feeds = Feeds::default();
        while self.video.is_some() || self.audio.is_some() {
            let (kind, feed) = self.next().await;
            feeds.set(kind, feed?);
        }
        Ok(feeds)
    }
}

async fn opened(opening: &mut Option<Opening>) -> Result<Option<Feed>, Failure> {
    let Some(task) = opening else { return std::future::pending().await };
    let feed = task.await;
    *opening = None;
    feed.map_err(|error| Failure::new(Reason::Internal, error.to_string()))?
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
