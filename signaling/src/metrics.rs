//! Every instrument, declared once. Labels are enums, so that no stranger can make a new time series.

use std::fmt::{self, Write};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use crate::backplane::Occupancy;
use crate::limits::Quota;
use crate::room::Outcome;
use crate::service::Reason;

/// What an operator counts.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Connections that are open.
    pub connections: Gauge,
    /// Connections turned away at the limit.
    pub connections_refused: Counter,
    /// Whether the place where sessions are can be reached.
    pub backplane_reached: Gauge,
    /// Connections that never came as far as HTTP.
    pub handshakes_failed: Counter,
    /// Connections that were ended for frames that ask for nothing.
    pub floods_ended: Counter,
    /// TLS handshakes that went well.
    pub tls_handshakes: Counter,
    /// Times that certificates and keys were read anew.
    pub reloads: Counter,
    /// Times that they could not be.
    pub reloads_failed: Counter,
    /// Streams that are open.
    pub streams: Gauge,
    /// Good frames from participants, repeated ones among them.
    pub frames_received: Counter,
    /// Frames of participants that had nobody to go to.
    pub frames_undeliverable: Counter,
    /// Logged frames written to streams, repeated ones among them.
    pub frames_delivered: Counter,
    /// Spans that a collector took.
    pub spans_exported: Counter,
    /// Spans that it did not.
    pub spans_lost: Counter,
    joins: [Counter; OUTCOMES.len()],
    refusals: [Counter; Reason::ALL.len()],
    exceeded: [Counter; Quota::ALL.len()],
}

impl Metrics {
    /// A participant came in, or back in.
    pub fn joined(&self, outcome: Outcome) {
        if let Some(counter) = self.joins.get(outcome as usize) {
            counter.add(1);
        }
    }

    /// A call was refused, or a stream ended badly.
    pub fn refused(&self, reason: Reason) {
        if let Some(counter) = self.refusals.get(reason as usize) {
            counter.add(1);
        }
    }

    /// Somebody wanted more than there is for one.
    pub fn exceeded(&self, quota: Quota) {
        if let Some(counter) = self.exceeded.get(quota as usize) {
            counter.add(1);
        }
    }

    /// All of them in Prometheus's text format. What is there is asked of the backplane, which may not know now.
    #[must_use]
    pub fn render(&self, occupancy: Option<Occupancy>) -> String {
        let mut page = Page(String::new());
        page.gauge("connections", "Open connections.", self.connections.value());
        page.counter(
            "connections_refused",
            "Connections turned away at the limit.",
            &self.connections_refused,
        );
        let help = "Whether the place where sessions are can be reached.";
        page.gauge("backplane_reached", help, self.backplane_reached.value());
        let help = "Connections that never came as far as HTTP.";
        page.counter("handshakes_failed", help, &self.handshakes_failed);
        let help = "Connections ended for sending too many frames that ask for nothing.";
        page.counter("floods_ended", help, &self.floods_ended);
        page.counter("tls_handshakes", "TLS handshakes that went well.", &self.tls_handshakes);
        page.counter("reloads", "Times that the configuration was read anew.", &self.reloads);
        page.counter("reloads_failed", "Times that they could not be read.", &self.reloads_failed);
        page.gauge("streams", "Open streams.", self.streams.value());
        if let Some(Occupancy { rooms, sessions }) = occupancy {
            page.gauge("rooms", "Rooms with somebody in them.", rooms);
            page.gauge("sessions", "Sessions with or without a stream.", sessions);
        }
        let help = "Good frames from participants, repeated ones among them.";
        page.counter("frames_received", help, &self.frames_received);
        let help = "Frames of participants that had nobody to go to.";
        page.counter("frames_undeliverable", help, &self.frames_undeliverable);
        page.counter("frames_delivered", "Logged frames written to streams.", &self.frames_delivered);
        page.counter("spans_exported", "Spans of traces that the collector took.", &self.spans_exported);
        page.counter("spans_lost", "Spans of traces that it did not take.", &self.spans_lost);
        let outcomes = OUTCOMES.map(Outcome::as_str).into_iter().zip(&self.joins);
        page.counters("joins", "Participants that came in, or back in.", "result", outcomes);
        let reasons = Reason::ALL.map(Reason::as_str).into_iter().zip(&self.refusals);
        page.counters("refusals", "Calls refused and streams ended badly.", "reason", reasons);
        let quotas = Quota::ALL.map(Quota::as_str).into_iter().zip(&self.exceeded);
        page.counters("limits_exceeded", "Connections and calls refused for a limit.", "limit", quotas);
        page.0
    }
}

/// Only goes up.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Counts.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    /// One more.
    pub fn up(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// One less.
    pub fn down(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// How many.
    pub fn value(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

struct Page(String);

impl Page {
    fn head(&mut self, name: &str, help: &str, kind: &str) {
        let _ = write!(self.0, "# HELP {PREFIX}{name} {help}\n# TYPE {PREFIX}{name} {kind}\n");
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl fmt::Display) {
        self.head(name, help, "gauge");
        let _ = writeln!(self.0, "{PREFIX}{name} {value}");
    }

    fn counter(&mut self, name: &str, help: &str, counter: &Counter) {
        let name = format!("{name}_total");
        self.head(&name, help, "counter");
        let _ = writeln!(self.0, "{PREFIX}{name} {}", counter.value());
    }

    fn counters<'a>(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        series: impl Iterator<Item = (&'static str, &'a Counter)>,
    ) {
        let name = format!("{name}_total");
        self.head(&name, help, "counter");
        for (value, counter) in series {
            let _ = writeln!(self.0, "{PREFIX}{name}{{{label}=\"{value}\"}} {}", counter.value());
        }
    }
}

const PREFIX: &str = "farcall_signaling_";
/// In the order of [`Outcome`].
const OUTCOMES: [Outcome; 3] = [Outcome::New, Outcome::Resumed, Outcome::Resync];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_shows_what_was_counted() {
        let metrics = Metrics::default();
        metrics.streams.up();
        metrics.streams.up();
        metrics.streams.down();
        metrics.frames_received.add(3);
        metrics.joined(Outcome::Resumed);
        metrics.refused(Reason::RoomFull);
        let page = metrics.render(Some(Occupancy { rooms: 1, sessions: 2 }));
        for line in [
            "# TYPE farcall_signaling_streams gauge",
            "farcall_signaling_streams 1",
            "farcall_signaling_rooms 1",
            "farcall_signaling_sessions 2",
            "farcall_signaling_frames_received_total 3",
            "farcall_signaling_joins_total{result=\"resumed\"} 1",
            "farcall_signaling_joins_total{result=\"new\"} 0",
            "farcall_signaling_refusals_total{reason=\"ROOM_FULL\"} 1",
        ] {
            assert!(page.lines().any(|found| found == line), "{line} not in\n{page}");
        }
    }

    #[test]
    fn what_the_backplane_cannot_tell_is_left_out() {
        assert!(!Metrics::default().render(None).contains("farcall_signaling_rooms"));
    }
}
