//! How much the path carries: Google Congestion Control (draft-ietf-rmcat-gcc-02) over what the other side reports of
//! arrivals (transport-wide congestion control), for those who encode while they send and those who ask.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use rtc::interceptor::{BandwidthEstimator, Gcc, PacketReport};
use tokio::sync::Notify;

/// What the other side tells those who send.
#[derive(Debug, Default)]
pub(super) struct Feedback {
    /// It cannot go on without a picture that leans on no other.
    pub(super) key_frame_wanted: Notify,
    pub(super) bandwidth: Bandwidth,
    /// What is encoded for it at the moment, in bits per second; 0 while nothing is.
    target: AtomicU64,
}

impl Feedback {
    /// An encoder was given this rate, in bits per second.
    pub(super) fn aim_at(&self, bits: u32) {
        self.target.store(bits.into(), Relaxed);
    }

    /// What W3C statistics call `targetBitrate`.
    pub(super) fn target(&self) -> Option<u64> {
        Some(self.target.load(Relaxed)).filter(|bits| *bits > 0)
    }
}

/// The estimate, in bits per second; 0 while nothing has been reported.
#[derive(Debug, Default)]
pub(super) struct Bandwidth(AtomicU64);

impl Bandwidth {
    /// What W3C statistics call `availableOutgoingBitrate`.
    pub(super) fn available(&self) -> Option<u64> {
        Some(self.0.load(Relaxed)).filter(|bits| *bits > 0)
    }

    /// What is left for pictures beside sound, headers and repetitions.
    pub(super) fn for_pictures(&self) -> Option<u32> {
        let bits = self.available()?.saturating_sub(SOUND).saturating_mul(9) / 10;
        Some(u32::try_from(bits).unwrap_or(u32::MAX))
    }
}

/// The engine's estimator, kept to what was tried: a source that sends little learns nothing about what would fit.
pub(super) struct Estimator {
    gcc: Gcc,
    arrived: VecDeque<(Instant, u64)>,
    estimate: f64,
    shared: Arc<Feedback>,
}

impl Estimator {
    pub(super) fn new(shared: Arc<Feedback>) -> Self {
        Self { gcc: Gcc::new(INITIAL, LEAST, MOST), arrived: VecDeque::new(), estimate: INITIAL, shared }
    }

    /// Bits that arrived in the last second.
    fn arrived(&mut self, now: Instant, reports: &[PacketReport]) -> f64 {
        let bytes = reports.iter().filter(|report| report.arrived).map(|report| report.size as u64).sum();
        self.arrived.push_back((now, bytes));
        while self.arrived.front().is_some_and(|(at, _)| now.saturating_duration_since(*at) > WINDOW) {
            self.arrived.pop_front();
        }
        self.arrived.iter().map(|(_, bytes)| bytes * 8).sum::<u64>() as f64 / WINDOW.as_secs_f64()
    }
}

impl BandwidthEstimator for Estimator {
    fn on_reports(&mut self, now: Instant, reports: &[PacketReport]) {
        if reports.is_empty() {
            return;
        }
        let tried = self.arrived(now, reports) * 2.0 + LEAST;
        self.gcc.on_reports(now, reports);
        self.estimate = self.gcc.target_bitrate().min(self.estimate.max(tried));
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within LEAST and MOST")]
        self.shared.bandwidth.0.store(self.estimate as u64, Relaxed);
    }

    fn target_bitrate(&self) -> f64 {
        self.estimate
    }
}

/// Of a line that nobody has to think about nowadays.
const INITIAL: f64 = 800_000.0;
const LEAST: f64 = 100_000.0;
/// More than any live source of ours has use for.
const MOST: f64 = 4_000_000.0;
/// 50 packets a second, and what frames them.
const SOUND: u64 = 70_000;
const WINDOW: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rtc::rtcp::transport_feedbacks::cc_feedback_report::Ecn;

    use super::*;
    use crate::clock;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn the_estimate_stays_under_the_capacity_and_follows_it(
            capacity in 300_000u64..1_200_000,
            delay in 5u64..80,
        ) {
            let mut path = Path::new(capacity, Duration::from_millis(delay));
            path.run(40, 1.0);
            let (mean, queued) = path.run(20, 1.0);
            prop_assert!(mean > 0.5 * capacity as f64 && mean < 1.25 * capacity as f64, "{mean} of {capacity}");
            prop_assert!(queued < Duration::from_millis(400), "{queued:?} in the queue");
            // More becomes possible.
            path.capacity *= 3;
            path.run(90, 1.0);
            let (more, _) = path.run(20, 1.0);
            prop_assert!(more > 1.5 * mean, "{more} after {mean}, of {}", path.capacity);
            // And less.
            path.capacity = capacity / 2;
            path.run(30, 1.0);
            let (less, _) = path.run(20, 1.0);
            prop_assert!(less < 1.3 * path.capacity as f64, "{less} of {}", path.capacity);
        }
    }

    #[test]
    fn half_of_everything_lost_brings_the_estimate_down() {
        let mut path = Path::new(10_000_000, Duration::from_millis(20));
        path.run(5, 1.0);
        path.lose_every_other = true;
        let before = path.estimator.target_bitrate();
        path.run(10, 1.0);
        assert!(path.estimator.target_bitrate() < before / 2.0, "{before}");
    }

    #[test]
    fn a_source_that_sends_little_learns_little() {
        let mut path = Path::new(10_000_000, Duration::from_millis(20));
        path.run(120, 0.02);
        assert!(path.estimator.target_bitrate() <= INITIAL);
        assert!(
            u64::from(path.shared.bandwidth.for_pictures().unwrap())
                < path.shared.bandwidth.available().unwrap()
        );
    }

    /// A bottleneck with a queue of half a second, in virtual time; what is sent is a share of what is estimated.
    struct Path {
        estimator: Estimator,
        shared: Arc<Feedback>,
        epoch: Instant,
        now: Duration,
        capacity: u64,
        delay: Duration,
        free_at: Duration,
        sent: u64,
        lose_every_other: bool,
        reports: VecDeque<(Duration, PacketReport)>,
    }

    impl Path {
        fn new(capacity: u64, delay: Duration) -> Self {
            let shared = Arc::<Feedback>::default();
            Self {
                estimator: Estimator::new(Arc::clone(&shared)),
                shared,
                epoch: clock::now(),
                now: Duration::ZERO,
                capacity,
                delay,
                free_at: Duration::ZERO,
                sent: 0,
                lose_every_other: false,
                reports: VecDeque::new(),
            }
        }

        /// Seconds of it: the mean of the estimate, and of the time in the queue.
        fn run(&mut self, seconds: u64, share: f64) -> (f64, Duration) {
            let (end, mut next_frame) = (self.now + Duration::from_secs(seconds), self.now);
            let (mut estimates, mut queued, mut packets, mut feedback) =
                (Vec::new(), Duration::ZERO, 0, self.now);
            let mut credit = 0.0;
            while self.now < end {
                if self.now >= next_frame {
                    next_frame += Duration::from_millis(33);
                    credit += self.estimator.target_bitrate() * share * 0.033;
                    while credit >= f64::from(SIZE * 8) {
                        credit -= f64::from(SIZE * 8);
                        queued += self.send();
                        packets += 1;
                    }
                }
                if self.now >= feedback {
                    feedback += Duration::from_millis(100);
                    let mut due = Vec::new();
                    while self.reports.front().is_some_and(|(at, _)| *at <= self.now) {
                        due.push(self.reports.pop_front().unwrap().1);
                    }
                    self.estimator.on_reports(self.epoch + self.now, &due);
                    estimates.push(self.estimator.target_bitrate());
                }
                self.now += Duration::from_millis(1);
            }
            (estimates.iter().sum::<f64>() / estimates.len() as f64, queued / packets.max(1))
        }

        fn send(&mut self) -> Duration {
            let id = self.sent;
            self.sent += 1;
            let waits = self.free_at.saturating_sub(self.now);
            let lost = waits > Duration::from_millis(500) || (self.lose_every_other && id.is_multiple_of(2));
            if !lost {
                let takes = Duration::from_secs_f64(f64::from(SIZE * 8) / self.capacity as f64);
                self.free_at = self.free_at.max(self.now) + takes;
            }
            let arrival = self.free_at.max(self.now) + self.delay;
            let number = u16::try_from(id % 65_536).unwrap();
            let report = PacketReport {
                ssrc: 1,
                id,
                rtp_sequence_number: number,
                is_twcc: true,
                twcc_sequence_number: number,
                size: SIZE as usize,
                arrived: !lost,
                departure: self.epoch + self.now,
                arrival: (!lost).then_some(arrival),
                ecn: Ecn::default(),
            };
            self.reports.push_back((arrival + self.delay, report));
            waits
        }
    }

    const SIZE: u32 = 1000;
}
