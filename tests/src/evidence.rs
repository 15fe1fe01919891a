//! What a scenario found: the figures that its row in the table shows, and the facts that prove its claim.

use crate::event::{Connected, Path, Stats};

/// The outcome of a scenario that holds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Evidence {
    /// By which candidates the peers met.
    pub path: Option<Path>,
    /// From both being in the room to the connection, in milliseconds.
    pub connected_ms: Option<f64>,
    /// Video frames that arrived at the first and at the second peer.
    pub frames: Option<(u64, u64)>,
    /// Bytes of media and data that arrived at both.
    pub bytes: Option<u64>,
    /// Each one sentence that would not be true if the feature were broken.
    pub facts: Vec<String>,
}

impl Evidence {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a sentence.
    #[must_use]
    pub fn fact(mut self, fact: impl Into<String>) -> Self {
        self.facts.push(fact.into());
        self
    }

    /// Adds the path and the time it took.
    #[must_use]
    pub fn connected(mut self, connected: &Connected) -> Self {
        self.path = Some(connected.path.clone());
        self.connected_ms = Some(connected.elapsed_ms);
        self
    }

    /// Adds what arrived at the two peers.
    #[must_use]
    pub fn arrived(mut self, first: &Stats, second: &Stats) -> Self {
        let frames = |stats: &Stats| stats.video.map_or(0, |video| video.frames_received);
        self.frames = Some((frames(first), frames(second)));
        self.bytes = Some(bytes_received(first) + bytes_received(second));
        self
    }
}

fn bytes_received(stats: &Stats) -> u64 {
    let media = |media: Option<crate::event::Media>| media.map_or(0, |media| media.bytes_received);
    media(stats.video) + media(stats.audio) + stats.data.map_or(0, |data| data.bytes_received)
}
