//! The session core: with whom to talk, who offers, and what to do when something breaks.
//!
//! It is told what signaling and the peer connection report and what the user wants, and says what is to be done. It
//! has no socket, no task and no clock. At any time there is at most one other side and at most one link to it; the
//! link outlives signaling, which may come and go while media flows.

pub(crate) mod candidate;
mod link;
mod negotiation;
mod recognition;
pub(crate) mod sdp;
#[cfg(test)]
mod tests;
mod types;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;

use self::link::{Ascent, Link, LinkState, hang_up};
use self::negotiation::{Negotiation, Offer};
use self::recognition::{Recognition, Verdict};
pub(crate) use self::types::{
    Candidate, Command, Intent, LeaveReason, LinkEvent, LinkId, Participant, Payload, SessionId, Signal,
};
use crate::failure::{Failure, Reason};
use crate::identity::{Identity, Introduction, Judge, Outcome, Standing, Step, Trust};
use crate::report::{CandidateSide, Event, ParticipantState, Status};

/// Who makes the first offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OfferPolicy {
    /// The one who joined later.
    Auto,
    /// This side, whatever the other does.
    Always,
}

/// What the core must know beforehand.
#[derive(Debug)]
pub(crate) struct Config {
    /// The room key, to report it.
    pub(crate) room: String,
    /// Tells this process from any other.
    pub(crate) instance: String,
    pub(crate) offer: OfferPolicy,
    /// How long after both are in the room a connection must be up.
    pub(crate) connect_timeout: Duration,
    /// To prove who this side is.
    pub(crate) identity: Option<Arc<Identity>>,
    /// Whom it talks to.
    pub(crate) trust: Trust,
    /// How it gets to know the other side by a code.
    pub(crate) introduction: Option<Introduction>,
    /// Goes on when a call cannot be made: somebody else may call.
    pub(crate) unattended: bool,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Session {
    config: Config,
    recognition: Recognition,
    own: Option<Own>,
    other: Option<Participant>,
    /// Until when whoever is there must answer to the code.
    answer_due: Option<Instant>,
    link: Option<Link>,
    links_made: u64,
    /// The last link ended because somebody wanted it to: who comes back is not called again by itself.
    hung_up: bool,
    /// What is said reaches the server at once.
    is_heard: bool,
    status: Status,
    ended: bool,
    intents: VecDeque<Intent>,
}

#[derive(Debug)]
struct Own {
    session: SessionId,
    ordinal: u64,
}

impl Session {
    pub(crate) fn new(mut config: Config) -> Self {
        let judge = Judge::new(std::mem::take(&mut config.trust));
        let recognition = Recognition::new(config.identity.take(), judge, config.introduction.take());
        Self {
            config,
            recognition,
            own: None,
            other: None,
            answer_due: None,
            link: None,
            links_made: 0,
            hung_up: false,
            is_heard: true,
            status: Status::Disconnected,
            ended: false,
            intents: VecDeque::new(),
        }
    }

    pub(crate) fn handle_signal(&mut self, now: Instant, signal: Signal) {
        match signal {
            Signal::Joined { session, ordinal, others } => self.joined(now, session, ordinal, others),
            Signal::Participant { participant, left } => self.participant(now, participant, left),
            Signal::Message { from, negotiation, payload } => self.message(now, &from, negotiation, payload),
        }
        self.update_status();
    }

    pub(crate) fn handle_link(&mut self, now: Instant, id: LinkId, event: LinkEvent) {
        // What a closed connection still had to say does not matter any more.
        let Some(link) = self.link.as_mut().filter(|link| link.id == id) else { return };
        let (negotiation, peer, out) = (&mut link.negotiation, &link.peer, &mut self.intents);
        if let (LinkEvent::OfferMade { sdp } | LinkEvent::AnswerMade { sdp }, Some(own)) = (&event, &self.own)
        {
            for payload in self.recognition.assertions(&own.session, peer, sdp) {
                out.push_back(Intent::Send { to: peer.clone(), negotiation: String::new(), payload });
            }
        }
        match event {
            LinkEvent::Opened => {
                self.status = report_status(self.status, Status::SetUp, out);
                self.status = report_status(self.status, Status::ReadyForCall, out);
                negotiation.handle_opened(out);
            }
            LinkEvent::CannotOpen { message } => self.give_up(&message),
            LinkEvent::OfferMade { sdp } => negotiation.handle_offer_made(sdp, peer, out),
            LinkEvent::AnswerMade { sdp } => negotiation.handle_answer_made(sdp, peer, out),
            LinkEvent::RolledBack => negotiation.handle_rolled_back(out),
            LinkEvent::RemoteSet => negotiation.handle_remote_set(out),
            LinkEvent::StepFailed { message } => {
                out.push_back(warning(message));
                negotiation.handle_step_failed(out);
            }
            LinkEvent::LocalCandidate(candidate) => {
                let report = candidate::report(CandidateSide::Local, &candidate);
                if negotiation.handle_local_candidate(candidate, peer, out)
                    && let Some(report) = report
                {
                    out.push_back(Intent::Report(Event::Candidate(report)));
                }
            }
            LinkEvent::GatheringComplete => negotiation.handle_gathering_complete(peer, out),
            // The first offer is a matter of policy; everything before it will be in it.
            LinkEvent::NegotiationNeeded => {
                if negotiation.has_negotiated() {
                    negotiation.offer(Offer::Plain, out);
                }
            }
            LinkEvent::Up => self.up(),
            LinkEvent::Certified { other } => {
                link.certificate = Some(other);
                self.recognise(now);
            }
            LinkEvent::DirectPath => self.move_up(now),
            LinkEvent::Disconnected | LinkEvent::Failed => self.broken(now),
        }
        self.give_up_if_hopeless();
        self.update_status();
    }

    pub(crate) fn handle_command(&mut self, command: Command) {
        match command {
            Command::HangUp { reason } => {
                if let Some(link) = self.link.take() {
                    self.intents.push_back(hang_up(&link, ""));
                    self.intents.push_back(Intent::Close { link: link.id });
                }
                self.end(Intent::End { reason });
            }
        }
    }

    /// Signaling was lost, or is back with nothing lost.
    pub(crate) fn handle_signaling(&mut self, now: Instant, is_heard: bool) {
        self.is_heard = is_heard;
        self.call_again(now);
        self.update_status();
    }

    /// The machine's addresses are others than before, and some are `gone`: a path over one of these is broken before
    /// anybody notices, and where a path is broken already, a new network is worth a try at once.
    pub(crate) fn handle_network_change(&mut self, now: Instant, gone: bool) {
        let Some(link) = &mut self.link else { return };
        match link.state {
            LinkState::Up if !gone => {}
            LinkState::Up | LinkState::Broken { .. } => {
                link.state = LinkState::Broken { restarts: 0, next: now }
            }
            LinkState::Connecting { .. } => {}
        }
        self.update_status();
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if self.answer_due.take_if(|due| *due <= now).is_some() {
            self.fail(Reason::WrongCode, "whoever is there does not answer to the code".to_owned());
        }
        let Some(link) = &mut self.link else { return };
        match link.state {
            LinkState::Connecting { until } if until <= now && link.certificate.is_some() => {
                self.refuse("the other side did not prove in time that it knows the code".to_owned());
            }
            LinkState::Connecting { until } if until <= now => {
                let message = if link.negotiation.has_negotiated() {
                    "no pair of candidates connected in time"
                } else {
                    "the other side did not answer in time"
                };
                self.give_up(message);
            }
            LinkState::Broken { restarts, next } if next <= now => {
                // Without anybody to hear the offer, a restart leads nowhere.
                if restarts >= MAX_RESTARTS || self.other.is_none() {
                    self.drop_link("the connection was lost and did not come back");
                    self.call_again(now);
                } else {
                    let pause = RESTART_INTERVAL * 2u32.saturating_pow(restarts);
                    link.state = LinkState::Broken { restarts: restarts + 1, next: now + pause };
                    link.negotiation.offer(Offer::Restart, &mut self.intents);
                }
            }
            LinkState::Connecting { .. } | LinkState::Up | LinkState::Broken { .. } => {}
        }
        self.update_status();
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let of_link = self.link.as_ref().and_then(|link| match link.state {
            LinkState::Connecting { until } => Some(until),
            LinkState::Broken { next, .. } => Some(next),
            LinkState::Up => None,
        });
        [of_link, self.answer_due].into_iter().flatten().min()
    }

    pub(crate) fn poll_intent(&mut self) -> Option<Intent> {
        self.intents.pop_front()
    }

    /// When both were in the room, for the present link.
    pub(crate) fn together_since(&self) -> Option<Instant> {
        self.link.as_ref().map(|link| link.since)
    }

    /// The type that the other side's candidates state for this address.
    pub(crate) fn remote_candidate_kind(&self, address: &str) -> Option<String> {
        let candidates = self.link.as_ref()?.negotiation.remote_candidates();
        let mut reports =
            candidates.iter().filter_map(|candidate| candidate::report(CandidateSide::Remote, candidate));
        reports.find(|report| report.address == address).map(|report| report.kind)
    }

    fn joined(&mut self, now: Instant, session: SessionId, ordinal: u64, others: Vec<Participant>) {
        self.intents.push_back(Intent::Report(Event::Joined {
            session: session.to_string(),
            room: self.config.room.clone(),
            ordinal,
            others: others.len(),
        }));
        self.own = Some(Own { session, ordinal });
        self.is_heard = true;
        // After a resync nobody can be taken for granted; whoever is there is in the list. What was said for a
        // connection that is not up yet may be lost, so it begins anew.
        self.other = None;
        if let Some(link) = self.link.take_if(|link| matches!(link.state, LinkState::Connecting { .. })) {
            self.intents.push_back(Intent::Close { link: link.id });
        }
        for participant in others {
            self.present(now, participant);
        }
    }

    fn participant(&mut self, now: Instant, participant: Participant, left: Option<LeaveReason>) {
        if self.own.as_ref().is_some_and(|own| own.session == participant.session) {
            return;
        }
        self.intents.push_back(Intent::Report(Event::Participant {
            session: participant.session.to_string(),
            state: participant.state,
            reason: left.map(|reason| reason.text().to_owned()),
        }));
        if participant.state == ParticipantState::Left {
            self.absent(&participant.session, left.unwrap_or(LeaveReason::Unknown));
        } else {
            self.present(now, participant);
        }
    }

    /// Somebody is in the room.
    fn present(&mut self, now: Instant, participant: Participant) {
        // One call at a time: whoever came first, unless they have gone away without one.
        let taken =
            |other: &Participant| other.state != ParticipantState::Reconnecting || self.link.is_some();
        if self.other.as_ref().is_some_and(|other| other.session != participant.session && taken(other)) {
            return;
        }
        let before = self.other.replace(participant.clone());
        let away = participant.state == ParticipantState::Reconnecting;
        if self.link.is_none()
            && (away || (before.is_some_and(|before| before.session == participant.session) && self.hung_up))
        {
            return;
        }
        if !self.is_introduced_to(now, &participant) {
            return;
        }
        let polite = self.is_polite_to(&participant);
        if let Some(link) = &mut self.link {
            if link.peer == participant.session {
                return;
            }
            let connecting = matches!(link.state, LinkState::Connecting { .. });
            if !participant.instance.is_empty() && link.instance == participant.instance && !connecting {
                // The same process under a new session: the connection never noticed.
                link.peer = participant.session;
                link.negotiation.set_polite(polite);
                return;
            }
            self.drop_link("somebody else is in the room now");
        }
        self.open(now, &participant, polite);
        if let Some(link) = &mut self.link
            && (self.config.offer == OfferPolicy::Always || !polite)
        {
            link.negotiation.offer(Offer::Plain, &mut self.intents);
        }
    }

    /// Somebody is out of the room.
    fn absent(&mut self, session: &SessionId, reason: LeaveReason) {
        if self.other.as_ref().is_some_and(|other| other.session == *session) {
            self.other = None;
            self.answer_due = None;
        }
        let Some(link) = self.link.as_ref().filter(|link| link.peer == *session) else { return };
        let gone = match reason {
            LeaveReason::Left | LeaveReason::Removed => true,
            // It lost signaling, which is no reason to end a call that goes on without it.
            LeaveReason::LeaseExpired
            | LeaveReason::Overflow
            | LeaveReason::Replaced
            | LeaveReason::Unknown => link.state != LinkState::Up,
        };
        if gone {
            self.drop_link("the other side left");
        }
    }

    fn message(&mut self, now: Instant, from: &SessionId, negotiation: String, payload: Payload) {
        let Some(other) = self.other.clone().filter(|other| other.session == *from) else { return };
        if let Payload::Introduction(step) = payload {
            return self.introduce(now, other, &step);
        }
        if !self.recognition.admits(from) {
            if payload == (Payload::Hangup { reason: WRONG_CODE.to_owned() }) && self.answer_due.is_some() {
                let message = "the code is wrong, and good for nobody any more: ask for a new one";
                self.fail(Reason::WrongCode, message.to_owned());
            }
            return;
        }
        match payload {
            Payload::Introduction(_) => {}
            Payload::Assertion(assertion) => {
                self.recognition.heard(from, assertion);
                self.recognise(now);
            }
            Payload::Text(text) => self.intents.push_back(Intent::Report(Event::Text { text })),
            Payload::Hangup { reason } => self.hung_up(from, reason),
            Payload::Offer { sdp } => {
                if let Some(link) = &mut self.link {
                    link.ascent.is_known = false;
                }
                if self.link.as_ref().is_some_and(|link| link.negotiation.is_foreign(&sdp)) {
                    self.drop_link("the other side began anew");
                }
                if self.link.is_none() {
                    let polite = self.is_polite_to(&other);
                    self.open(now, &other, polite);
                }
                self.pass_on(from, negotiation, Payload::Offer { sdp });
            }
            Payload::Answer { .. } | Payload::Candidates { .. } => self.pass_on(from, negotiation, payload),
        }
        self.give_up_if_hopeless();
    }

    fn pass_on(&mut self, from: &SessionId, negotiation: String, payload: Payload) {
        if let Some(link) = self.link.as_mut().filter(|link| link.peer == *from) {
            link.negotiation.handle_payload(negotiation, payload, &mut self.intents);
        }
    }

    fn hung_up(&mut self, from: &SessionId, reason: String) {
        let Some(link) = self.link.as_ref().filter(|link| link.peer == *from) else { return };
        // There is no path for the other side, so there is none for us.
        if reason == NO_PATH && matches!(link.state, LinkState::Connecting { .. }) {
            self.give_up("the other side found no pair of candidates that connects");
            return;
        }
        if reason == UNTRUSTED {
            self.drop_link("the other side does not trust this identity");
            self.hung_up = true;
            self.fail(Reason::Untrusted, "the other side does not trust this identity".to_owned());
            return;
        }
        self.hung_up = true;
        self.drop_link(&reason);
    }

    fn open(&mut self, now: Instant, other: &Participant, polite: bool) {
        self.links_made += 1;
        self.hung_up = false;
        let id = LinkId(self.links_made);
        // Numbered across links, so that a late answer to an offer of an earlier one is recognised.
        let instance = format!("{}-{}", self.config.instance, self.links_made);
        self.link = Some(Link {
            id,
            peer: other.session.clone(),
            instance: other.instance.clone(),
            since: now,
            negotiation: Negotiation::new(id, polite, instance),
            state: LinkState::Connecting { until: now + self.config.connect_timeout },
            ascent: Ascent::default(),
            certificate: None,
        });
        self.status = report_status(self.status, Status::Connected, &mut self.intents);
        self.intents.push_back(Intent::Open { link: id });
    }

    fn up(&mut self) {
        let Some(link) = &mut self.link else { return };
        match link.state {
            LinkState::Connecting { .. } => self.intents.push_back(Intent::Certify { link: link.id }),
            LinkState::Up | LinkState::Broken { .. } => {
                link.state = LinkState::Up;
                self.intents.push_back(Intent::Settled { link: link.id });
            }
        }
    }

    /// Once it is known which certificate the other side showed: may the connection be used?
    fn recognise(&mut self, now: Instant) {
        let (Some(link), Some(own)) = (&mut self.link, &self.own) else { return };
        let (LinkState::Connecting { .. }, Some(certificate)) = (link.state, &link.certificate) else {
            return;
        };
        match self.recognition.recognise(&own.session, &link.peer, certificate.as_deref()) {
            Verdict::Waiting => {}
            Verdict::Refused(why) => self.refuse(why),
            Verdict::Accepted(found) => {
                link.state = LinkState::Up;
                if let Some((key, standing)) = found {
                    let key_text = key.to_string();
                    self.intents.push_back(Intent::Report(Event::Identity { key: key_text, standing }));
                    if standing == Standing::New {
                        self.intents.push_back(Intent::Remember { key });
                    }
                }
                let elapsed = now.saturating_duration_since(link.since);
                self.intents.push_back(Intent::Established { link: link.id, elapsed });
            }
        }
    }

    /// Where there is a code, nothing else is said to anybody before they have proved that they know it.
    fn is_introduced_to(&mut self, now: Instant, other: &Participant) -> bool {
        let Some(own) = &self.own else { return false };
        if self.recognition.admits(&other.session) {
            return true;
        }
        if let Some(payload) = self.recognition.greet(&own.session, &other.session) {
            self.answer_due = Some(now + self.config.connect_timeout);
            let to = other.session.clone();
            self.intents.push_back(Intent::Send { to, negotiation: String::new(), payload });
        }
        false
    }

    fn introduce(&mut self, now: Instant, other: Participant, step: &Step) {
        let Some(own) = &self.own else { return };
        let outcome = self.recognition.introduce(&own.session, &other.session, step);
        let say = |payload| Intent::Send { to: other.session.clone(), negotiation: String::new(), payload };
        match outcome {
            Outcome::Going(step) => self.intents.extend(step.map(Payload::Introduction).map(say)),
            Outcome::Done(step) => {
                self.intents.extend(step.map(Payload::Introduction).map(say));
                self.answer_due = None;
                self.present(now, other);
            }
            Outcome::Wrong => {
                self.intents.push_back(say(Payload::Hangup { reason: WRONG_CODE.to_owned() }));
                let message =
                    "somebody came with a wrong code, so this one is good for nobody any more: make another";
                self.fail(Reason::WrongCode, message.to_owned());
            }
        }
    }

    /// The connection works, but it must not be used.
    fn refuse(&mut self, why: String) {
        let Some(link) = self.link.take() else { return };
        self.intents.push_back(hang_up(&link, UNTRUSTED));
        self.intents.push_back(Intent::Close { link: link.id });
        self.hung_up = true;
        self.fail(Reason::Untrusted, why);
    }

    /// Where nobody attends, somebody else may call.
    fn fail(&mut self, reason: Reason, message: String) {
        // A burnt code is of no use to anybody who calls.
        if self.config.unattended && reason != Reason::WrongCode {
            self.intents.push_back(Intent::Report(Event::Hangup { reason: message }));
        } else {
            self.end(Intent::Fail(Failure::new(reason, message)));
        }
    }

    /// A connection that never was up has its own deadline; one that was gets ICE restarts.
    fn broken(&mut self, now: Instant) {
        let Some(link) = &mut self.link else { return };
        if link.state == LinkState::Up {
            // If both restart at once, one of the offers is in vain: the polite side waits a little.
            let patience = if link.negotiation.is_polite() { FIRST_RESTART * 2 } else { FIRST_RESTART };
            link.state = LinkState::Broken { restarts: 0, next: now + patience };
        }
    }

    /// A restart takes the path away until there is another, so it is only worth it where there is a direct one, and
    /// somebody who hears the offer.
    fn move_up(&mut self, now: Instant) {
        let is_heard = self.is_heard
            && self.other.as_ref().is_some_and(|other| other.state != ParticipantState::Reconnecting);
        let Some(link) = self.link.as_mut().filter(|link| link.state == LinkState::Up && is_heard) else {
            return;
        };
        if link.ascent.is_due(now, link.negotiation.is_polite()) {
            link.negotiation.offer(Offer::Restart, &mut self.intents);
        }
    }

    /// Ends the link, not the session: somebody may call again.
    fn drop_link(&mut self, reason: &str) {
        if let Some(link) = self.link.take() {
            self.intents.push_back(Intent::Report(Event::Hangup { reason: reason.to_owned() }));
            self.intents.push_back(Intent::Close { link: link.id });
        }
    }

    /// Nobody wanted the last link to end, and whoever was there still is: a new one may do where restarts did not.
    fn call_again(&mut self, now: Instant) {
        if self.is_heard
            && !self.hung_up
            && self.link.is_none()
            && let Some(other) = self.other.clone()
        {
            self.present(now, other);
        }
    }

    fn give_up_if_hopeless(&mut self) {
        let hopeless = self.link.as_ref().is_some_and(|link| {
            matches!(link.state, LinkState::Connecting { .. }) && link.negotiation.is_hopeless()
        });
        if hopeless {
            self.give_up("one side has no candidates at all");
        }
    }

    fn give_up(&mut self, message: &str) {
        let Some(link) = self.link.take() else { return };
        let list = |side: CandidateSide, candidates: &[Candidate]| {
            candidates.iter().filter_map(|candidate| candidate::report(side, candidate)).collect::<Vec<_>>()
        };
        let local = list(CandidateSide::Local, link.negotiation.local_candidates());
        let remote = list(CandidateSide::Remote, link.negotiation.remote_candidates());
        let failure = Failure::new(Reason::IceFailed, message)
            .with_details(json!({ "local_candidates": local, "remote_candidates": remote }));
        self.intents.push_back(hang_up(&link, NO_PATH));
        self.intents.push_back(Intent::Close { link: link.id });
        if self.config.unattended {
            self.hung_up = true;
            self.intents.push_back(Intent::Report(Event::Hangup { reason: failure.message }));
        } else {
            self.end(Intent::Fail(failure));
        }
    }

    fn end(&mut self, last: Intent) {
        if !self.ended {
            self.ended = true;
            self.status = report_status(self.status, Status::Disconnected, &mut self.intents);
            self.intents.push_back(last);
        }
    }

    /// The one who joined earlier gives way.
    fn is_polite_to(&self, other: &Participant) -> bool {
        self.own.as_ref().is_some_and(|own| own.ordinal < other.ordinal)
    }

    fn update_status(&mut self) {
        let status = match (&self.link, &self.other) {
            _ if self.ended => Status::Disconnected,
            (Some(Link { state: LinkState::Up, .. }), _) => Status::OnCall,
            (Some(Link { state: LinkState::Broken { .. }, .. }), _) => Status::Reconnecting,
            // Its steps were told as they happened.
            (Some(Link { state: LinkState::Connecting { .. }, .. }), _) => return,
            (None, Some(other)) if other.state != ParticipantState::Reconnecting => Status::Connected,
            (None, Some(_)) => Status::Waiting,
            (None, None) if self.own.is_some() => Status::Waiting,
            (None, None) => Status::Disconnected,
        };
        self.status = report_status(self.status, status, &mut self.intents);
    }
}

/// The reason of a hang-up by a side that could not connect.
const NO_PATH: &str = "ICE_FAILED";
/// The reason of a hang-up by a side that does not trust the other.
const UNTRUSTED: &str = "UNTRUSTED";
/// The reason of a hang-up by a side that made a code which the other does not know.
const WRONG_CODE: &str = "WRONG_CODE";
/// After it was noticed that nothing comes any more, which may come back by itself.
const FIRST_RESTART: Duration = Duration::from_secs(1);
/// ICE restarts before a connection that was up is given up: the next after 2 seconds, 4, 8, 16, and 32 for the last.
const MAX_RESTARTS: u32 = 5;
const RESTART_INTERVAL: Duration = Duration::from_secs(2);

pub(crate) fn warning(message: impl Into<String>) -> Intent {
    Intent::Report(Event::Warning { message: message.into() })
}

fn report_status(before: Status, now: Status, out: &mut VecDeque<Intent>) -> Status {
    if before != now {
        out.push_back(Intent::Report(Event::Status { status: now }));
    }
    now
}
