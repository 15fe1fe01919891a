//! What a peer tells: events, and the one place that writes them, as JSON lines for programs or as text for people.

mod event;
mod human;

use std::io::{self, IsTerminal as _, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::clock;

pub use self::event::{
    CandidateReport, CandidateSide, DataStats, DescriptionKind, Direction, Event, MediaKind, NatBehaviour,
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

/// Where events go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outlet {
    /// As [`Format`] says.
    Usual,
    /// All to stderr.
    BesideData,
}

/// Writes events, with the time since it was made.
#[derive(Debug, Clone)]
pub struct Reporter {
    format: Format,
    outlet: Outlet,
    started: Instant,
    /// Lines of several tasks must not mix, with one another and with a progress bar.
    writing: Arc<Mutex<Option<ProgressBar>>>,
}

impl Reporter {
    /// A reporter whose events count their time from now on.
    #[must_use]
    pub fn new(format: Format) -> Self {
        Self { format, outlet: Outlet::Usual, started: clock::now(), writing: Arc::default() }
    }

    /// A reporter that leaves stdout alone, since it is for data, and tells people no more than they must know.
    #[must_use]
    pub fn beside_data(format: Format) -> Self {
        Self { outlet: Outlet::BesideData, ..Self::new(format) }
    }

    /// Writes one event. A reader that went away is no reason to end a call: errors are ignored.
    pub fn event(&self, event: &Event) {
        let bar = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let write = || match self.format {
            Format::Json => self.json(clock::now(), event),
            Format::Human => write_human(event, self.outlet),
        };
        let _ = match &*bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        };
    }

    /// Shows how far something is, where people look at a terminal.
    pub(crate) fn progress(&self, bytes: u64, total: u64) {
        if self.format == Format::Json || !io::stderr().is_terminal() {
            return;
        }
        let mut bar = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let bar = bar.get_or_insert_with(|| {
            let template = concat!(
                "{percent:>3} % {wide_bar} {decimal_bytes} of {decimal_total_bytes}",
                "  {decimal_bytes_per_sec}  {eta} left"
            );
            let bar = ProgressBar::new(total);
            // What is there already takes no time, and must not be taken for speed.
            bar.set_position(bytes);
            bar.reset_eta();
            match ProgressStyle::with_template(template) {
                Ok(style) => bar.with_style(style.progress_chars("=> ")),
                Err(_) => bar,
            }
        });
        bar.set_length(total);
        bar.set_position(bytes);
    }

    /// Takes the progress away.
    pub(crate) fn no_progress(&self) {
        if let Some(bar) = self.writing.lock().unwrap_or_else(PoisonError::into_inner).take() {
            bar.finish_and_clear();
        }
    }

    /// Whether people read it.
    pub(crate) fn is_human(&self) -> bool {
        self.format == Format::Human
    }

    fn json(&self, now: Instant, event: &Event) -> io::Result<()> {
        let at_ms = milliseconds(now.saturating_duration_since(self.started));
        let mut line = serde_json::to_vec(&Line { event, at_ms })?;
        line.push(b'\n');
        if self.outlet == Outlet::BesideData {
            return io::stderr().lock().write_all(&line);
        }
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

fn asked_for(event: &Event) -> bool {
    matches!(
        event,
        Event::Text { .. } | Event::Candidate(_) | Event::OwnIdentity { .. } | Event::KnownPeer { .. }
    )
}

fn write_human(event: &Event, outlet: Outlet) -> io::Result<()> {
    let needed = matches!(event, Event::Warning { .. } | Event::Error { .. } | Event::Code { .. });
    if outlet == Outlet::BesideData && !needed {
        return Ok(());
    }
    let Some(text) = human::describe(event) else { return Ok(()) };
    // What was asked for goes to stdout; how it went, to stderr.
    if asked_for(event) {
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "{text}")?;
        stdout.flush()?;
        human::aside(event).map_or(Ok(()), |text| writeln!(io::stderr().lock(), "{text}"))
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
