//! A transfer over one channel, and what is told of it.

use std::time::{Duration, Instant};

use tokio::task::block_in_place;
use tokio::time::timeout;

use crate::channel::Channel;
use crate::clock;
use crate::connection::Message;
use crate::failure::{Failure, Reason};
use crate::report::{Direction, Event, Reporter, milliseconds};
use crate::transfer::{End, Notice, decode, encode, farewell};

/// How a conversation ended that nobody broke off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Complete,
    /// The connection is gone; another one may come.
    Lost,
}

/// Lets one end of a transfer talk to the other until all is there or one of them cannot go on.
pub(super) async fn converse(
    channel: &Channel,
    end: &mut impl End,
    tally: &mut Tally<'_>,
) -> Result<Outcome, Failure> {
    let outcome = exchange(channel, end, tally).await;
    tell(end, tally);
    if let Err(failure) = &outcome
        && failure.details.is_none()
    {
        // Whether it arrives is up to the connection.
        let _ = channel.send(Message::Data(encode(farewell(failure)).into())).await;
    }
    if outcome != Ok(Outcome::Lost) {
        let _ = timeout(GOODBYE, channel.close()).await;
    }
    outcome
}

async fn exchange(channel: &Channel, end: &mut impl End, tally: &mut Tally<'_>) -> Result<Outcome, Failure> {
    loop {
        // Files are read and written here.
        let frame = block_in_place(|| end.next_frame())?;
        tell(end, tally);
        let Some(frame) = frame else {
            if end.is_complete() {
                return Ok(Outcome::Complete);
            }
            let Some(message) = channel.receive().await else { return Ok(Outcome::Lost) };
            hear(end, &message)?;
            continue;
        };
        let sending = channel.send(Message::Data(encode(frame).into()));
        tokio::pin!(sending);
        loop {
            tokio::select! {
                biased;
                message = channel.receive() => match message {
                    Some(message) => hear(end, &message)?,
                    None => return Ok(Outcome::Lost),
                },
                sent = &mut sending => match sent {
                    Ok(()) => break,
                    Err(_) => return Ok(Outcome::Lost),
                },
            }
        }
    }
}

fn hear(end: &mut impl End, message: &Message) -> Result<(), Failure> {
    match message {
        Message::Data(bytes) => {
            let frame = decode(bytes)?;
            block_in_place(|| end.handle(frame))
        }
        Message::Text(_) => Err(Failure::new(Reason::BadData, "the other side does not speak this protocol")),
    }
}

fn tell(end: &mut impl End, tally: &mut Tally<'_>) {
    while let Some(notice) = end.next_notice() {
        tally.note(notice);
    }
}

/// Counts, and tells people and programs.
#[derive(Debug)]
pub(super) struct Tally<'a> {
    reporter: &'a Reporter,
    direction: Direction,
    started: Instant,
    told: Option<Instant>,
    files: u64,
    total: u64,
    carried: u64,
    resumed: u64,
}

impl<'a> Tally<'a> {
    pub(super) fn new(reporter: &'a Reporter, direction: Direction) -> Self {
        let started = clock::now();
        Self { reporter, direction, started, told: None, files: 0, total: 0, carried: 0, resumed: 0 }
    }

    fn note(&mut self, notice: Notice) {
        let direction = self.direction;
        match notice {
            Notice::Begun { files, bytes } => {
                self.started = clock::now();
                (self.files, self.total) = (files, bytes);
                self.reporter.event(&Event::TransferBegun { direction, files, bytes });
            }
            Notice::Resumed { bytes } => {
                self.resumed += bytes;
                self.progress();
            }
            Notice::Carried { bytes } => {
                self.carried += bytes;
                self.progress();
            }
            Notice::File { path, bytes, hash } => {
                self.reporter.event(&Event::File { direction, path, bytes, blake3: hash });
            }
            Notice::Skipped { path, reason } => {
                self.reporter.event(&Event::Warning { message: format!("{path} is left out: {reason}") });
            }
            Notice::Complete => {
                self.reporter.no_progress();
                self.reporter.event(&Event::Transferred {
                    direction,
                    files: self.files,
                    bytes: self.total,
                    carried_bytes: self.carried,
                    resumed_bytes: self.resumed,
                    elapsed_ms: milliseconds(clock::now() - self.started),
                });
            }
        }
    }

    fn progress(&mut self) {
        let now = clock::now();
        if self.told.is_some_and(|told| now - told < BETWEEN) {
            return;
        }
        self.told = Some(now);
        let (bytes, total) = ((self.carried + self.resumed).min(self.total), self.total);
        self.reporter.progress(bytes, total);
        self.reporter.event(&Event::Progress { bytes, total });
    }
}

const BETWEEN: Duration = Duration::from_millis(200);
const GOODBYE: Duration = Duration::from_secs(5);
