//! What a peer tells: events, and the one place that writes them, as JSON lines for programs or as text for people.

mod event;
mod human;

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::clock;

pub use self::event::{
    CandidateReport, CandidateSide, DataStats, DescriptionKind, Direction, Event, MediaKind,
    ParticipantState, PathReport, RelayStats, SignalingState, StatsReport, Status, StreamStats,
};

/// How to write events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One JSON object per line on stdout.
    Json,
    /// What the other side says, or what was asked for, on stdout; everything else on stderr.
    Human,
}

/// Writes events, with the time since it was made.
#[derive(Debug, Clone)]
pub struct Reporter {
    format: Format,
    started: Instant,
    /// Lines of several tasks must not mix.
    writing: Arc<Mutex<()>>,
}

impl Reporter {
    /// A reporter whose events count their time from now on.
    #[must_use]
    pub fn new(format: Format) -> Self {
        Self { format, started: clock::now(), writing: Arc::default() }
    }

    /// Writes one event. A reader that went away is no reason to end a call: errors are ignored.
    pub fn event(&self, event: &Event) {
        let _guard = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = match self.format {
            Format::Json => self.json(clock::now(), event),
            Format::Human => write_human(event),
        };
    }

    fn json(&self, now: Instant, event: &Event) -> io::Result<()> {
        let at_ms = milliseconds(now.saturating_duration_since(self.started));
        let mut line = serde_json::to_vec(&Line { event, at_ms })?;
        line.push(b'\n');
        let mut stdout = io::stdout().lock();
        stdout.write_all(&line)?;
        stdout.flush()
    }
}

/// Milliseconds with three digits after the point.
#[must_use]
pub(crate) fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

fn write_human(event: &Event) -> io::Result<()> {
    let Some(text) = human::describe(event) else { return Ok(()) };
    // What was asked for goes to stdout; how it went, to stderr.
    if matches!(event, Event::Text { .. } | Event::Candidate(_)) {
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "{text}")?;
        stdout.flush()
    } else {
        writeln!(io::stderr().lock(), "{text}")
    }
}

#[derive(Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    event: &'a Event,
    at_ms: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_json_line_names_its_event_and_its_time() {
        let event = Event::Text { text: "hi\n".into() };
        let line = serde_json::to_value(Line { event: &event, at_ms: 1.5 }).unwrap();
        assert_eq!(line, serde_json::json!({"event": "text", "text": "hi\n", "at_ms": 1.5}));
    }

    #[test]
    fn milliseconds_keep_three_digits() {
        assert!((milliseconds(Duration::from_nanos(1_234_567)) - 1.235).abs() < 1e-9);
    }
}
