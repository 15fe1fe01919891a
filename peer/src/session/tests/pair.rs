//! Two cores against each other, in every order that chance brings.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::super::*;
use super::{candidate, config, other, sdp};
use crate::clock;

proptest! {
    /// Both offer at once, renegotiate and restart whenever they like; messages and steps take any time.
    #[test]
    fn two_cores_always_end_stable_and_with_each_other(
        policies in any::<(bool, bool)>(),
        choices in prop::collection::vec(any::<u8>(), 0..400),
    ) {
        let mut pair = Pair::new(policies);
        for choice in choices {
            pair.step(choice);
        }
        pair.settle();
        pair.check()?;
    }
}

/// Two cores, the messages between them and their engines.
struct Pair {
    now: Instant,
    sides: [Side; 2],
}

struct Side {
    session: Session,
    engine: Engine,
    /// What the engine was asked to do and has not done yet.
    steps: VecDeque<Intent>,
    /// What the other side said and has not arrived yet.
    inbox: VecDeque<(String, Payload)>,
}

/// As strict as the real one: every step that its state does not allow is a failed test.
struct Engine {
    name: char,
    state: State,
    descriptions: u32,
    generation: u32,
    local: String,
    remote: String,
    rollback_to: String,
    added: Vec<String>,
    gathered: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Stable,
    LocalOffer,
    RemoteOffer,
}

impl Pair {
    fn new((first, second): (bool, bool)) -> Self {
        let now = clock::now();
        let side = |name: char, always: bool| Side {
            session: Session::new(Config {
                offer: if always { OfferPolicy::Always } else { OfferPolicy::Auto },
                connect_timeout: Duration::from_secs(3600),
                ..config(&name.to_string())
            }),
            engine: Engine {
                name,
                state: State::Stable,
                descriptions: 0,
                generation: 0,
                local: String::new(),
                remote: String::new(),
                rollback_to: String::new(),
                added: Vec::new(),
                gathered: 0,
            },
            steps: VecDeque::new(),
            inbox: VecDeque::new(),
        };
        let mut pair = Self { now, sides: [side('a', first), side('b', second)] };
        for (me, them) in [(0, 1), (1, 0)] {
            let signal = Signal::Joined {
                session: SessionId::new(&format!("s{}", me + 1)),
                ordinal: me as u64 + 1,
                others: vec![other(them as u64 + 1)],
            };
            pair.sides[me].session.handle_signal(now, signal);
            pair.collect(me);
        }
        pair
    }

    fn step(&mut self, choice: u8) {
        let me = usize::from(choice & 1);
        match choice >> 1 & 7 {
            0..3 => self.deliver(me),
            3..6 => self.engine_step(me),
            6 => self.gather(me),
            _ => self.renegotiate(me),
        }
    }

    fn deliver(&mut self, me: usize) {
        if let Some((negotiation, payload)) = self.sides[me].inbox.pop_front() {
            let from = SessionId::new(&format!("s{}", 2 - me));
            self.sides[me].session.handle_signal(self.now, Signal::Message { from, negotiation, payload });
            self.collect(me);
        }
    }

    fn engine_step(&mut self, me: usize) {
        let side = &mut self.sides[me];
        if let Some(step) = side.steps.pop_front()
            && let Some(event) = side.engine.handle(step)
        {
            side.session.handle_link(self.now, LinkId(1), event);
            self.collect(me);
        }
    }

    fn gather(&mut self, me: usize) {
        let side = &mut self.sides[me];
        if !side.engine.local.is_empty() && side.engine.gathered < 40 {
            side.engine.gathered += 1;
            let port = side.engine.gathered;
            side.session.handle_link(self.now, LinkId(1), LinkEvent::LocalCandidate(candidate(port)));
            self.collect(me);
        }
    }

    fn renegotiate(&mut self, me: usize) {
        self.sides[me].session.handle_link(self.now, LinkId(1), LinkEvent::NegotiationNeeded);
        self.collect(me);
    }

    fn collect(&mut self, me: usize) {
        while let Some(intent) = self.sides[me].session.poll_intent() {
            match intent {
                Intent::Send { negotiation, payload, .. } => {
                    self.sides[1 - me].inbox.push_back((negotiation, payload))
                }
                Intent::Report(_)
                | Intent::Certify { .. }
                | Intent::Settled { .. }
                | Intent::Remember { .. } => {}
                Intent::Close { .. } | Intent::Fail(_) | Intent::End { .. } => panic!("{intent:?}"),
                step @ (Intent::Open { .. }
                | Intent::CreateOffer { .. }
                | Intent::CreateAnswer { .. }
                | Intent::Rollback { .. }
                | Intent::SetRemoteOffer { .. }
                | Intent::SetRemoteAnswer { .. }
                | Intent::AddCandidate { .. }
                | Intent::Established { .. }) => self.sides[me].steps.push_back(step),
            }
        }
    }

    fn settle(&mut self) {
        while self.sides.iter().any(|side| !side.inbox.is_empty() || !side.steps.is_empty()) {
            for me in [0, 1] {
                self.deliver(me);
                self.engine_step(me);
            }
        }
    }

    fn check(&self) -> Result<(), TestCaseError> {
        let [a, b] = &self.sides;
        for side in &self.sides {
            prop_assert_eq!(side.engine.state, State::Stable);
            prop_assert!(side.session.link.as_ref().is_some_and(|link| link.negotiation.is_stable()));
        }
        prop_assert!(!a.engine.local.is_empty(), "nobody offered");
        prop_assert_eq!(&a.engine.local, &b.engine.remote);
        prop_assert_eq!(&b.engine.local, &a.engine.remote);
        for (from, to) in [(a, b), (b, a)] {
            let mut tried = to.engine.added.clone();
            tried.sort();
            let mut found: Vec<_> = (1..=from.engine.gathered).map(|port| candidate(port).line).collect();
            found.sort();
            prop_assert_eq!(tried, found, "candidates of {} at {}", from.engine.name, to.engine.name);
        }
        Ok(())
    }
}

impl Engine {
    fn handle(&mut self, step: Intent) -> Option<LinkEvent> {
        let name = self.name;
        let mut expect = |before: State, after: State| {
            assert_eq!(self.state, before, "{name} cannot do {step:?}");
            self.state = after;
        };
        match &step {
            Intent::Open { .. } => Some(LinkEvent::Opened),
            Intent::CreateOffer { .. } => {
                expect(State::Stable, State::LocalOffer);
                self.rollback_to = self.local.clone();
                self.describe();
                Some(LinkEvent::OfferMade { sdp: self.local.clone() })
            }
            Intent::Rollback { .. } => {
                expect(State::LocalOffer, State::Stable);
                self.local = self.rollback_to.clone();
                Some(LinkEvent::RolledBack)
            }
            Intent::SetRemoteOffer { sdp, .. } => {
                expect(State::Stable, State::RemoteOffer);
                self.remote.clone_from(sdp);
                Some(LinkEvent::RemoteSet)
            }
            Intent::CreateAnswer { .. } => {
                expect(State::RemoteOffer, State::Stable);
                self.describe();
                Some(LinkEvent::AnswerMade { sdp: self.local.clone() })
            }
            Intent::SetRemoteAnswer { sdp, .. } => {
                expect(State::LocalOffer, State::Stable);
                self.remote.clone_from(sdp);
                Some(LinkEvent::RemoteSet)
            }
            Intent::AddCandidate { candidate, .. } => {
                assert!(!self.remote.is_empty(), "a candidate before its description");
                self.added.push(candidate.line.clone());
                None
            }
            Intent::Send { .. }
            | Intent::Established { .. }
            | Intent::Certify { .. }
            | Intent::Settled { .. }
            | Intent::Remember { .. }
            | Intent::Close { .. }
            | Intent::Report(_)
            | Intent::End { .. }
            | Intent::Fail(_) => panic!("{step:?}"),
        }
    }

    fn describe(&mut self) {
        self.descriptions += 1;
        let ufrag = format!("{}{}", self.name, self.generation);
        self.local = format!("{}s={}\r\n", sdp(&self.name.to_string(), &ufrag), self.descriptions);
    }
}
