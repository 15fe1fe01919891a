//! Perfect negotiation of one peer connection (W3C WebRTC 1.0, section 10.7), one step at a time.
//!
//! Both sides may offer at once. The impolite side then ignores the other's offer, the polite one takes its own back
//! and answers. While a step is being done, what comes in waits, so that offers meet only two states: stable, or an
//! own offer outstanding. Every description and candidate carries the id of the negotiation that it belongs to; what
//! belongs to an ignored or a past one is dropped.

use std::collections::VecDeque;

use super::sdp;
use super::types::{Candidate, Intent, LinkId, Payload, SessionId};
use super::warning;
use crate::report::{CandidateSide, DescriptionKind, Direction, Event};

/// The descriptions and candidates of one peer connection.
#[derive(Debug)]
pub(super) struct Negotiation {
    link: LinkId,
    polite: bool,
    /// Makes the ids of our offers unlike those of anybody else.
    instance: String,
    offers_made: u64,
    phase: Phase,
    /// The negotiation that the outstanding or the last description belongs to.
    current: String,
    /// The other side's offer that lost against ours.
    ignored: Option<String>,
    /// What came while a step was being done.
    waiting: VecDeque<(String, Payload)>,
    /// An offer to be made when the phase allows.
    wanted: Option<Offer>,
    local: Generation,
    remote: Generation,
    /// Remote candidates that came before their description was set.
    early: Vec<Candidate>,
    remote_is_set: bool,
    rounds: u64,
}

/// Kinds of offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Offer {
    /// Keeps the path.
    Plain,
    /// Looks for a new path.
    Restart,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    /// The peer connection is being made.
    Opening,
    Stable,
    MakingOffer,
    OfferOutstanding,
    /// Our offer gives way to this one.
    RollingBack {
        id: String,
        sdp: String,
    },
    SettingOffer,
    SettingAnswer,
    MakingAnswer,
}

/// The candidates of one side since its last ICE restart.
#[derive(Debug, Default)]
struct Generation {
    ufrag: String,
    origin: String,
    candidates: Vec<Candidate>,
    complete: bool,
}

impl Negotiation {
    pub(super) fn new(link: LinkId, polite: bool, instance: String) -> Self {
        Self {
            link,
            polite,
            instance,
            offers_made: 0,
            phase: Phase::Opening,
            current: String::new(),
            ignored: None,
            waiting: VecDeque::new(),
            wanted: None,
            local: Generation::default(),
            remote: Generation::default(),
            early: Vec::new(),
            remote_is_set: false,
            rounds: 0,
        }
    }

    /// The room changed and with it the order of joining.
    pub(super) fn set_polite(&mut self, polite: bool) {
        self.polite = polite;
    }

    /// Offers as soon as no other negotiation is under way.
    pub(super) fn offer(&mut self, offer: Offer, out: &mut VecDeque<Intent>) {
        self.wanted = match (self.wanted, offer) {
            (Some(Offer::Restart), _) | (_, Offer::Restart) => Some(Offer::Restart),
            (None | Some(Offer::Plain), Offer::Plain) => Some(Offer::Plain),
        };
        self.advance(out);
    }

    /// Takes a description or candidates of the other side.
    pub(super) fn handle_payload(&mut self, id: String, payload: Payload, out: &mut VecDeque<Intent>) {
        self.waiting.push_back((id, payload));
        self.advance(out);
    }

    pub(super) fn handle_opened(&mut self, out: &mut VecDeque<Intent>) {
        if self.phase == Phase::Opening {
            self.phase = Phase::Stable;
        }
        self.advance(out);
    }

    pub(super) fn handle_offer_made(&mut self, sdp: String, to: &SessionId, out: &mut VecDeque<Intent>) {
        if self.phase != Phase::MakingOffer {
            return;
        }
        self.offers_made += 1;
        self.current = format!("{}-{}", self.instance, self.offers_made);
        self.phase = Phase::OfferOutstanding;
        self.describe_local(&sdp);
        self.tell(DescriptionKind::Offer, Direction::Sent, out);
        out.push_back(self.send(to, Payload::Offer { sdp }));
        self.repeat_candidates(to, out);
        self.advance(out);
    }

    pub(super) fn handle_answer_made(&mut self, sdp: String, to: &SessionId, out: &mut VecDeque<Intent>) {
        if self.phase != Phase::MakingAnswer {
            return;
        }
        self.phase = Phase::Stable;
        self.rounds += 1;
        self.describe_local(&sdp);
        self.tell(DescriptionKind::Answer, Direction::Sent, out);
        out.push_back(self.send(to, Payload::Answer { sdp }));
        self.repeat_candidates(to, out);
        self.advance(out);
    }

    pub(super) fn handle_rolled_back(&mut self, out: &mut VecDeque<Intent>) {
        let Phase::RollingBack { id, sdp } = std::mem::replace(&mut self.phase, Phase::Stable) else {
            return;
        };
        self.tell(DescriptionKind::Rollback, Direction::Sent, out);
        self.set_remote_offer(id, sdp, out);
        self.advance(out);
    }

    pub(super) fn handle_remote_set(&mut self, out: &mut VecDeque<Intent>) {
        match self.phase {
            Phase::SettingOffer => {
                self.phase = Phase::MakingAnswer;
                out.push_back(Intent::CreateAnswer { link: self.link });
            }
            Phase::SettingAnswer => {
                self.phase = Phase::Stable;
                self.rounds += 1;
            }
            Phase::Opening
            | Phase::Stable
            | Phase::MakingOffer
            | Phase::OfferOutstanding
            | Phase::RollingBack { .. }
            | Phase::MakingAnswer => return,
        }
        self.remote_is_set = true;
        for candidate in std::mem::take(&mut self.early) {
            out.push_back(Intent::AddCandidate { link: self.link, candidate });
        }
        self.advance(out);
    }

    /// The step asked for last failed: the peer connection is where it was before it.
    pub(super) fn handle_step_failed(&mut self, out: &mut VecDeque<Intent>) {
        self.phase = match self.phase {
            // An answer that cannot be set leaves our offer outstanding: a proper one may still come.
            Phase::OfferOutstanding | Phase::SettingAnswer | Phase::RollingBack { .. } => {
                Phase::OfferOutstanding
            }
            Phase::Opening
            | Phase::Stable
            | Phase::MakingOffer
            | Phase::SettingOffer
            | Phase::MakingAnswer => Phase::Stable,
        };
        self.early.clear();
        self.advance(out);
    }

    /// Passes a local candidate on; says whether it is a new one.
    pub(super) fn handle_local_candidate(
        &mut self,
        candidate: Candidate,
        to: &SessionId,
        out: &mut VecDeque<Intent>,
    ) -> bool {
        // Each local description makes the gatherer tell everything again.
        if self.local.candidates.contains(&candidate) {
            return false;
        }
        self.local.candidates.push(candidate.clone());
        out.push_back(self.send_candidates(to, vec![candidate], false));
        true
    }

    pub(super) fn handle_gathering_complete(&mut self, to: &SessionId, out: &mut VecDeque<Intent>) {
        if !std::mem::replace(&mut self.local.complete, true) {
            out.push_back(self.send_candidates(to, Vec::new(), true));
        }
    }

    pub(super) fn is_polite(&self) -> bool {
        self.polite
    }

    /// Whether a description is of another peer connection than the one that we talk to.
    pub(super) fn is_foreign(&self, sdp: &str) -> bool {
        !self.remote.origin.is_empty() && sdp::origin(sdp).is_some_and(|origin| origin != self.remote.origin)
    }

    /// Offer and answer were exchanged at least once.
    pub(super) fn has_negotiated(&self) -> bool {
        self.rounds > 0
    }

    /// Both sides said all their candidates, and one of them has none.
    pub(super) fn is_hopeless(&self) -> bool {
        let (local, remote) = (&self.local, &self.remote);
        self.has_negotiated()
            && local.complete
            && remote.complete
            && (local.candidates.is_empty() || remote.candidates.is_empty())
    }

    pub(super) fn local_candidates(&self) -> &[Candidate] {
        &self.local.candidates
    }

    pub(super) fn remote_candidates(&self) -> &[Candidate] {
        &self.remote.candidates
    }

    #[cfg(test)]
    pub(super) fn is_stable(&self) -> bool {
        self.phase == Phase::Stable && self.waiting.is_empty() && self.wanted.is_none()
    }

    /// Does what can be done in this phase.
    fn advance(&mut self, out: &mut VecDeque<Intent>) {
        while matches!(self.phase, Phase::Stable | Phase::OfferOutstanding) {
            let Some((id, payload)) = self.waiting.pop_front() else { break };
            match payload {
                Payload::Offer { sdp } => self.take_offer(id, sdp, out),
                Payload::Answer { sdp } => self.take_answer(&id, sdp, out),
                Payload::Candidates { candidates, end, ufrag } => {
                    self.take_candidates(&id, candidates, end, &ufrag, out);
                }
                // The session's, which never hands them down.
                Payload::Hangup { .. }
                | Payload::Text(_)
                | Payload::Assertion(_)
                | Payload::Introduction(_) => {}
            }
        }
        if self.phase == Phase::Stable
            && let Some(offer) = self.wanted.take()
        {
            self.phase = Phase::MakingOffer;
            out.push_back(Intent::CreateOffer { link: self.link, restart: offer == Offer::Restart });
        }
    }

    fn take_offer(&mut self, id: String, sdp: String, out: &mut VecDeque<Intent>) {
        self.tell(DescriptionKind::Offer, Direction::Received, out);
        if self.phase == Phase::Stable {
            self.set_remote_offer(id, sdp, out);
        } else if self.polite {
            self.phase = Phase::RollingBack { id, sdp };
            out.push_back(Intent::Rollback { link: self.link });
        } else {
            self.ignored = Some(id);
        }
    }

    fn set_remote_offer(&mut self, id: String, sdp: String, out: &mut VecDeque<Intent>) {
        self.ignored = None;
        self.early.clear();
        self.current = id;
        self.phase = Phase::SettingOffer;
        self.describe_remote(&sdp);
        out.push_back(Intent::SetRemoteOffer { link: self.link, sdp });
    }

    fn take_answer(&mut self, id: &str, sdp: String, out: &mut VecDeque<Intent>) {
        self.tell(DescriptionKind::Answer, Direction::Received, out);
        // The answer to an offer that was taken back has nothing to answer any more.
        if self.phase != Phase::OfferOutstanding || !(id.is_empty() || id == self.current) {
            return;
        }
        self.phase = Phase::SettingAnswer;
        self.ignored = None;
        self.describe_remote(&sdp);
        out.push_back(Intent::SetRemoteAnswer { link: self.link, sdp });
    }

    fn take_candidates(
        &mut self,
        id: &str,
        candidates: Vec<Candidate>,
        end: bool,
        ufrag: &str,
        out: &mut VecDeque<Intent>,
    ) {
        let of_the_ignored = self.ignored.as_deref().is_some_and(|ignored| id.is_empty() || id == ignored);
        let of_this =
            id.is_empty() || id == self.current || (!ufrag.is_empty() && ufrag == self.remote.ufrag);
        if of_the_ignored || !of_this {
            return;
        }
        self.remote.complete |= end;
        for candidate in candidates {
            // Browsers mark the end of a media section with an empty one.
            if candidate.line.is_empty() || self.remote.candidates.contains(&candidate) {
                continue;
            }
            if self.remote.candidates.len() >= MAX_REMOTE_CANDIDATES {
                break;
            }
            let Some(report) = super::candidate::report(CandidateSide::Remote, &candidate) else {
                out.push_back(warning("the other side sent a candidate that is none, which is ignored"));
                continue;
            };
            out.push_back(Intent::Report(Event::Candidate(report)));
            self.remote.candidates.push(candidate.clone());
            if self.remote_is_set && (ufrag.is_empty() || ufrag == self.remote.ufrag) {
                out.push_back(Intent::AddCandidate { link: self.link, candidate });
            } else {
                self.early.push(candidate);
            }
        }
    }

    fn describe_local(&mut self, sdp: &str) {
        let ufrag = sdp::ice_ufrag(sdp).unwrap_or_default();
        if ufrag != self.local.ufrag {
            self.local = Generation { ufrag: ufrag.to_owned(), ..Generation::default() };
        }
    }

    fn describe_remote(&mut self, sdp: &str) {
        let ufrag = sdp::ice_ufrag(sdp).unwrap_or_default();
        if ufrag != self.remote.ufrag {
            // What came early came for this description.
            let candidates = self.early.clone();
            self.remote = Generation { ufrag: ufrag.to_owned(), candidates, ..Generation::default() };
            self.remote_is_set = false;
        }
        sdp::origin(sdp).unwrap_or_default().clone_into(&mut self.remote.origin);
    }

    /// What was found under another negotiation is still good, and the other side may have dropped it with that.
    fn repeat_candidates(&self, to: &SessionId, out: &mut VecDeque<Intent>) {
        if !self.local.candidates.is_empty() || self.local.complete {
            out.push_back(self.send_candidates(to, self.local.candidates.clone(), self.local.complete));
        }
    }

    fn send(&self, to: &SessionId, payload: Payload) -> Intent {
        Intent::Send { to: to.clone(), negotiation: self.current.clone(), payload }
    }

    fn send_candidates(&self, to: &SessionId, candidates: Vec<Candidate>, end: bool) -> Intent {
        self.send(to, Payload::Candidates { candidates, end, ufrag: self.local.ufrag.clone() })
    }

    fn tell(&self, description: DescriptionKind, direction: Direction, out: &mut VecDeque<Intent>) {
        out.push_back(Intent::Report(Event::Negotiation { description, direction }));
    }
}

/// More than any honest peer has; a hostile one must not fill our memory or make us a port scanner.
const MAX_REMOTE_CANDIDATES: usize = 128;
