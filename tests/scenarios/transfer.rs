//! A file on its way between two homes, and how much of it is there.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::homes::Town;
use crate::clock::{self, Deadline};
use crate::event::{Connected, Event, EventKind, File};
use crate::peer::Peer;
use crate::process::Mark;
use crate::{Context, args};

/// From the left home, whose host may roam, to the right one.
pub(super) struct Transfer {
    pub(super) connected: Connected,
    since: Instant,
    content: Vec<u8>,
    target: PathBuf,
    sender: Peer,
    receiver: Peer,
}

impl Transfer {
    /// Both are connected. They get these flags before the verb.
    pub(super) fn begin(ctx: &Context, town: &Town, length: usize, global: &[OsString]) -> Result<Self> {
        let (source, target) = (ctx.folder().join("large"), ctx.folder().join("target"));
        let content = content(length);
        fs::write(&source, &content)?;
        let url = town.signaling.url();
        let verb = args!["receive", "--key", "file", "--to", &target];
        let receiver = Peer::verb(ctx, &town.right, &url, "receiver", global, verb)?;
        receiver.joined()?;
        let verb = args!["send", "--key", "file", source];
        let sender = Peer::verb_at_every_address(ctx, &town.left, &url, "sender", global, verb)?;
        let connected = sender.connected()?;
        Ok(Self { connected, since: clock::now(), content, target, sender, receiver })
    }

    /// Where to look for how much is there, while it arrives.
    pub(super) fn place(&self) -> Place {
        Place(self.target.clone())
    }

    /// How long it took.
    pub(super) fn arrive(mut self, within: Duration) -> Result<Duration> {
        let deadline = Deadline::after(within);
        let mut hashes = Vec::new();
        for peer in [&mut self.sender, &mut self.receiver] {
            let file = |line: &str| {
                let EventKind::File(file) = Event::parse(line)?.kind else { return Ok(None) };
                Ok(Some(file))
            };
            let File { blake3, bytes, .. } =
                peer.process.wait_for("the file", Mark::START, deadline, file)?;
            ensure!(bytes == self.content.len() as u64, "{bytes} bytes of {}", self.content.len());
            hashes.push(blake3);
            let code = peer.process.exit_code(deadline)?;
            ensure!(code == 0, "{} ended with {code}. {}", peer.process.name(), peer.process.last_words());
        }
        let took = clock::now().duration_since(self.since);
        ensure!(hashes.first() == hashes.last(), "{hashes:?}");
        ensure!(fs::read(self.target.join("large"))? == self.content, "the file differs");
        Ok(took)
    }
}

/// The folder that a file arrives in.
pub(super) struct Place(PathBuf);

impl Place {
    /// How many bytes of it are on the disk, whatever the peers say.
    pub(super) fn holds(&self) -> u64 {
        let length = |path: &Path| fs::metadata(path).map_or(0, |there| there.len());
        let parts = fs::read_dir(self.0.join(".farcall-partial")).into_iter().flatten().flatten();
        let parts = parts.map(|part| part.path()).filter(|path| path.extension() == Some("part".as_ref()));
        parts.map(|path| length(&path)).max().unwrap_or(0).max(length(&self.0.join("large")))
    }
}

/// Bytes that do not repeat themselves soon.
pub(super) fn content(length: usize) -> Vec<u8> {
    (0u32..).map(|number| (number.wrapping_mul(2_654_435_761) >> 24).to_le_bytes()[0]).take(length).collect()
}
