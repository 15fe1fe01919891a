//! Brings the packets of one RTP stream into order, and waits a little for those that are late or repeated.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// See the module. `P` is a packet.
#[derive(Debug)]
pub(crate) struct Reorder<P> {
    patience: Duration,
    held: BTreeMap<u64, Held<P>>,
    /// The sequence number to hand out next, without wrapping.
    next: Option<u64>,
    /// The timestamps, without wrapping.
    last_timestamp: Option<u64>,
}

#[derive(Debug)]
struct Held<P> {
    packet: P,
    timestamp: u32,
    since: Instant,
}

/// A packet in its turn.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct InOrder<P> {
    pub(crate) packet: P,
    /// The RTP timestamp without wrapping.
    pub(crate) timestamp: u64,
    /// Some before it never came.
    pub(crate) lost: bool,
}

impl<P> Reorder<P> {
    /// One that waits for so long.
    pub(crate) fn new(patience: Duration) -> Self {
        Self { patience, held: BTreeMap::new(), next: None, last_timestamp: None }
    }

    pub(crate) fn handle_packet(&mut self, now: Instant, sequence: u16, timestamp: u32, packet: P) {
        let next = *self.next.get_or_insert_with(|| FIRST + u64::from(sequence));
        let Some(sequence) = unwrap(next, u64::from(sequence), 1 << 16) else { return };
        // Too late, or a jump that no network makes: a stream that begins again.
        if sequence < next {
            return;
        }
        if sequence - next > FARTHEST_JUMP {
            self.held.clear();
            self.next = Some(sequence);
        }
        self.held.entry(sequence).or_insert(Held { packet, timestamp, since: now });
    }

    /// The next packet whose turn it is.
    pub(crate) fn poll(&mut self, now: Instant) -> Option<InOrder<P>> {
        let next = self.next?;
        let (&sequence, first) = self.held.first_key_value()?;
        let lost = sequence != next;
        if lost && now.saturating_duration_since(first.since) < self.patience && self.held.len() < MOST_HELD {
            return None;
        }
        let Held { packet, timestamp, .. } = self.held.remove(&sequence)?;
        self.next = Some(sequence + 1);
        let last = self.last_timestamp.unwrap_or_else(|| FIRST_TIMESTAMP + u64::from(timestamp));
        let timestamp = unwrap(last, u64::from(timestamp), 1 << 32).unwrap_or(last);
        self.last_timestamp = Some(timestamp);
        Some(InOrder { packet, timestamp, lost })
    }

    /// When a packet will be handed out although some before it never came.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.held.first_key_value().map(|(_, first)| first.since + self.patience)
    }
}

/// The number congruent to `value` that is nearest to `reference`.
fn unwrap(reference: u64, value: u64, modulus: u64) -> Option<u64> {
    let forward = value.wrapping_sub(reference) & (modulus - 1);
    if forward < modulus / 2 {
        reference.checked_add(forward)
    } else {
        (reference + forward).checked_sub(modulus)
    }
}

/// So that packets from before the first one have a number too.
const FIRST: u64 = 1 << 16;
const FIRST_TIMESTAMP: u64 = 1 << 32;
const MOST_HELD: usize = 512;
const FARTHEST_JUMP: u64 = 4096;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::clock;

    const PATIENCE: Duration = Duration::from_millis(200);

    fn sequences(reorder: &mut Reorder<u16>, now: Instant) -> Vec<(u16, bool)> {
        std::iter::from_fn(|| reorder.poll(now)).map(|ready| (ready.packet, ready.lost)).collect()
    }

    fn filled(now: Instant, order: &[u16]) -> Reorder<u16> {
        let mut reorder = Reorder::new(PATIENCE);
        for sequence in order {
            reorder.handle_packet(now, *sequence, u32::from(*sequence), *sequence);
        }
        reorder
    }

    #[test]
    fn swapped_and_repeated_packets_come_in_order_and_once() {
        let now = clock::now();
        let mut reorder = filled(now, &[65534, 0, 65535, 65535, 1]);
        let expected = [(65534, false), (65535, false), (0, false), (1, false)];
        assert_eq!(sequences(&mut reorder, now), expected);
    }

    #[test]
    fn a_gap_is_waited_for_and_then_given_up() {
        let now = clock::now();
        let mut reorder = filled(now, &[1, 3, 4]);
        assert_eq!(sequences(&mut reorder, now), [(1, false)]);
        let due = reorder.poll_timeout().unwrap();
        assert_eq!(due, now + PATIENCE);
        assert_eq!(sequences(&mut reorder, due), [(3, true), (4, false)]);
    }

    #[test]
    fn what_comes_after_it_was_given_up_is_left_out() {
        let now = clock::now();
        let mut reorder = filled(now, &[1, 3]);
        assert_eq!(sequences(&mut reorder, now + PATIENCE), [(1, false), (3, true)]);
        reorder.handle_packet(now, 2, 2, 2);
        assert_eq!(sequences(&mut reorder, now + PATIENCE), []);
    }

    #[test]
    fn timestamps_go_on_where_they_wrap() {
        let now = clock::now();
        let mut reorder = Reorder::new(PATIENCE);
        reorder.handle_packet(now, 1, u32::MAX - 10, ());
        reorder.handle_packet(now, 2, 89, ());
        let stamps: Vec<_> = std::iter::from_fn(|| reorder.poll(now)).map(|ready| ready.timestamp).collect();
        assert_eq!(stamps[1] - stamps[0], 100);
    }

    proptest! {
        /// Shuffled within a window and thinned out, packets come out ascending, each once, with every gap told.
        #[test]
        fn packets_ascend_and_gaps_are_told(start in any::<u16>(), kept in prop::collection::vec(any::<bool>(), 1..200), seed in any::<u64>()) {
            use rand::{SeedableRng as _, seq::SliceRandom as _};
            let mut indices: Vec<u16> = (0u16..).zip(&kept).filter(|(index, kept)| **kept || *index == 0).map(|(index, _)| index).collect();
            let mut rng = rand::rngs::StdRng::seed_from_u64(seed);
            for window in indices[1..].chunks_mut(8) { window.shuffle(&mut rng); }
            let now = clock::now();
            let mut reorder = Reorder::new(PATIENCE);
            for index in &indices {
                reorder.handle_packet(now, start.wrapping_add(*index), 0, *index);
            }
            let out: Vec<_> = std::iter::from_fn(|| reorder.poll(now + PATIENCE)).collect();
            indices.sort_unstable();
            prop_assert_eq!(out.iter().map(|ready| ready.packet).collect::<Vec<_>>(), indices.clone());
            for (ready, pair) in out.iter().skip(1).zip(indices.windows(2)) {
                prop_assert_eq!(ready.lost, pair[1] != pair[0] + 1);
            }
        }
    }
}
