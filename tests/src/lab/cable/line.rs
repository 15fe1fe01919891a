//! One direction of a cable, without sockets and without a clock: frames go in, and come out later, or twice, or not.
//!
//! A frame that is not lost waits for its turn at the rate, in a queue that drops at its tail, and then travels for as
//! long as the delay says. Frames keep their order, whatever the jitter, but for those that are held back.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

/// What a direction does to what it carries. The default does nothing to it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traits {
    /// How long a frame travels at least.
    pub delay: Duration,
    /// How much longer it may travel at most.
    pub jitter: Duration,
    /// So many of a thousand are lost.
    pub loss: u16,
    /// So many of a thousand are held back for [`HELD_BACK`], so that later ones overtake them.
    pub reordering: u16,
    /// So many of a thousand arrive twice.
    pub duplication: u16,
    /// What gets through in a second.
    pub rate: Option<Rate>,
}

/// A bucket of tokens, and the queue before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// How fast the bucket fills.
    pub bits_per_second: u64,
    /// How many bytes go at once after a pause.
    pub burst: usize,
    /// How many bytes wait for their turn; what comes after them is dropped.
    pub queue: usize,
}

/// How long a frame is held back, for others to overtake it.
pub const HELD_BACK: Duration = Duration::from_millis(20);

/// What became of the frames. Each that came in is lost, dropped, still inside or delivered, and those delivered once
/// more are counted apart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counted {
    /// Came in.
    pub entered: u64,
    /// Came out, doubles included.
    pub delivered: u64,
    /// Lost by chance.
    pub lost: u64,
    /// Found the queue full.
    pub dropped: u64,
    /// Were doubled.
    pub doubled: u64,
    /// Were held back.
    pub held_back: u64,
}

/// A direction at work. What a frame is does not matter to it.
#[derive(Debug)]
pub struct Line<F> {
    traits: Traits,
    chance: StdRng,
    /// Waiting for their turn.
    queue: VecDeque<Waiting<F>>,
    queued: usize,
    /// When everything sent so far would have been sent if nothing were ever sent in advance.
    sent_by: Option<Instant>,
    /// On their way, by when they arrive and in which order they left.
    travelling: BTreeMap<(Instant, u64), F>,
    departures: u64,
    /// When the last one in order arrives.
    last: Option<Instant>,
    counted: Counted,
}

#[derive(Debug)]
struct Waiting<F> {
    since: Instant,
    length: usize,
    frame: F,
}

impl Traits {
    /// Fails where a share exceeds the whole, or a rate carries nothing.
    pub fn check(&self) -> Result<()> {
        for (what, share) in
            [("lost", self.loss), ("held back", self.reordering), ("doubled", self.duplication)]
        {
            ensure!(share <= 1000, "{share} of a thousand frames cannot be {what}");
        }
        if let Some(rate) = self.rate {
            ensure!(rate.bits_per_second >= 1000, "a rate below 1 kbit/s carries nothing");
            ensure!(rate.queue >= LARGEST, "a queue of {} bytes holds no frame", rate.queue);
        }
        Ok(())
    }
}

/// What a queue holds at least.
const LARGEST: usize = 1514;

impl Rate {
    /// So many bits a second, a burst of ten frames and a queue that empties in a fifth of a second.
    #[must_use]
    pub fn of(bits_per_second: u64) -> Self {
        let fifth = usize::try_from(bits_per_second / 8 / 5).unwrap_or(usize::MAX);
        Self { bits_per_second, burst: 10 * LARGEST, queue: fifth.max(20 * LARGEST) }
    }

    fn time_for(self, bytes: usize) -> Duration {
        let nanoseconds = (bytes as u128) * 8 * 1_000_000_000 / u128::from(self.bits_per_second.max(1));
        Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
    }
}

impl<F: Clone> Line<F> {
    /// An empty one; the same `seed` makes the same choices.
    pub fn new(traits: Traits, seed: u64) -> Self {
        Self {
            traits,
            chance: StdRng::seed_from_u64(seed),
            queue: VecDeque::new(),
            queued: 0,
            sent_by: None,
            travelling: BTreeMap::new(),
            departures: 0,
            last: None,
            counted: Counted::default(),
        }
    }

    /// Becomes another; what is on its way arrives as it would have.
    pub fn become_like(&mut self, now: Instant, traits: Traits) {
        self.handle_timeout(now);
        self.traits = traits;
        // What waits has its turn from now on, not from when it came.
        for waiting in &mut self.queue {
            waiting.since = now;
        }
    }

    /// What became of everything so far.
    pub const fn counted(&self) -> Counted {
        self.counted
    }

    /// How many are inside: waiting or on their way.
    pub fn inside(&self) -> usize {
        self.queue.len() + self.travelling.len()
    }

    /// A frame of `length` bytes comes in.
    pub fn handle_frame(&mut self, now: Instant, length: usize, frame: F) {
        self.handle_timeout(now);
        self.counted.entered += 1;
        if self.happens(self.traits.loss) {
            self.counted.lost += 1;
            return;
        }
        // Whoever leaves at once needs no place in the queue.
        if let Some(rate) = self.traits.rate
            && self.queued.saturating_add(length) > rate.queue
            && (!self.queue.is_empty() || self.turn(rate, now, length) > now)
        {
            self.counted.dropped += 1;
            return;
        }
        self.queued += length;
        self.queue.push_back(Waiting { since: now, length, frame });
        self.handle_timeout(now);
    }

    /// When something happens next that nothing from outside brings about.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let arrival = self.travelling.first_key_value().map(|((at, _), _)| *at);
        [arrival, self.next_turn()].into_iter().flatten().min()
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(turn) = self.next_turn().filter(|turn| *turn <= now) {
            let Some(Waiting { since, length, frame }) = self.queue.pop_front() else { return };
            self.queued -= length;
            if let Some(rate) = self.traits.rate {
                self.sent_by = Some(self.sent_after(rate, since, length));
            }
            self.depart(turn, frame);
        }
    }

    /// The next frame that has arrived. Drain until there is none.
    pub fn poll_frame(&mut self, now: Instant) -> Option<F> {
        let first = self.travelling.first_entry().filter(|first| first.key().0 <= now)?;
        self.counted.delivered += 1;
        Some(first.remove())
    }

    fn depart(&mut self, now: Instant, frame: F) {
        if self.happens(self.traits.duplication) {
            self.counted.doubled += 1;
            self.travel(now, frame.clone());
        }
        self.travel(now, frame);
    }

    fn travel(&mut self, now: Instant, frame: F) {
        let Traits { delay, jitter, reordering, .. } = self.traits;
        let arrival = now + delay + jitter.mul_f64(self.chance.random_range(0.0..=1.0));
        let arrival = if self.happens(reordering) {
            self.counted.held_back += 1;
            arrival + HELD_BACK
        } else {
            let arrival = self.last.map_or(arrival, |last| arrival.max(last));
            self.last = Some(arrival);
            arrival
        };
        self.travelling.insert((arrival, self.departures), frame);
        self.departures += 1;
    }

    fn next_turn(&self) -> Option<Instant> {
        let first = self.queue.front()?;
        Some(self.traits.rate.map_or(first.since, |rate| self.turn(rate, first.since, first.length)))
    }

    /// When a frame that came at `since` may leave, with nobody before it.
    fn turn(&self, rate: Rate, since: Instant, length: usize) -> Instant {
        let sent = self.sent_after(rate, since, length);
        // A full bucket lets that much go in advance, and an empty one nothing.
        sent.checked_sub(rate.time_for(rate.burst.max(length))).map_or(since, |turn| turn.max(since))
    }

    fn sent_after(&self, rate: Rate, since: Instant, length: usize) -> Instant {
        let begun = self.sent_by.map_or(since, |sent| sent.max(since));
        begun + rate.time_for(length)
    }

    fn happens(&mut self, per_thousand: u16) -> bool {
        // Asked in any case, so that one trait does not change what the others choose.
        self.chance.random_range(0..1000) < per_thousand
    }
}
