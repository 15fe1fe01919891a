//! One core against a script on virtual time.

mod pair;
mod recognition;

use std::time::{Duration, Instant};

use super::link::ASCENT_INTERVAL;
use super::*;
use crate::clock;

const TIMEOUT: Duration = Duration::from_secs(20);

#[test]
fn who_joins_later_offers_and_who_was_there_waits() {
    let mut early = World::joined(1, &[]);
    assert_eq!(early.statuses(), [Status::Waiting]);
    early.enters(other(2));
    early.link(LinkEvent::Opened);
    assert!(!early.wants(|intent| matches!(intent, Intent::CreateOffer { .. })));

    let mut late = World::joined(2, &[other(1)]);
    late.link(LinkEvent::Opened);
    assert!(late.wants(|intent| matches!(intent, Intent::CreateOffer { restart: false, .. })));
}

#[test]
fn the_status_goes_the_way_of_the_page() {
    let mut world = World::on_call(2, other(1));
    let expected = [
        Status::Connected,
        Status::SetUp,
        Status::ReadyForCall,
        Status::OnCall,
        Status::Waiting,
        Status::Disconnected,
    ];
    world.leaves(other(1), LeaveReason::Left);
    world.command();
    assert_eq!(world.statuses(), expected);
}

#[test]
fn no_answer_in_time_is_a_failure_that_names_the_candidates() {
    let mut world = World::joined(2, &[other(1)]);
    world.link(LinkEvent::Opened);
    world.link(LinkEvent::OfferMade { sdp: sdp("me", "u1") });
    world.link(LinkEvent::LocalCandidate(candidate(1)));
    assert_eq!(world.session.poll_timeout(), Some(world.now + TIMEOUT));
    world.advance(TIMEOUT);
    let failure = world.failure().unwrap();
    assert_eq!(failure.reason, Reason::IceFailed);
    assert!(failure.message.contains("did not answer"), "{failure}");
    let details = failure.details.unwrap().to_string();
    assert!(details.contains("192.0.2.1:1"), "{details}");
}

#[test]
fn two_sides_without_candidates_need_not_wait_for_the_timeout() {
    let mut world = World::joined(2, &[other(1)]);
    world.negotiate();
    world.link(LinkEvent::GatheringComplete);
    assert_eq!(world.failure(), None);
    world.hears(1, Payload::Candidates { candidates: Vec::new(), end: true, ufrag: "u2".into() });
    assert_eq!(world.failure().map(|failure| failure.reason), Some(Reason::IceFailed));
}

#[test]
fn without_a_peer_connection_there_is_no_call() {
    let mut world = World::joined(2, &[other(1)]);
    world.link(LinkEvent::CannotOpen { message: "no relay".into() });
    assert_eq!(world.failure().map(|failure| failure.message), Some("no relay".to_owned()));
}

#[test]
fn a_side_that_finds_no_path_tells_the_other_which_fails_as_well() {
    let mut world = World::joined(2, &[other(1)]);
    world.negotiate();
    world.hears(1, Payload::Hangup { reason: NO_PATH.into() });
    assert_eq!(world.failure().map(|failure| failure.reason), Some(Reason::IceFailed));
}

#[test]
fn a_hangup_ends_the_call_and_not_the_session() {
    let mut world = World::on_call(2, other(1));
    world.hears(1, Payload::Hangup { reason: String::new() });
    assert!(world.wants(|intent| matches!(intent, Intent::Close { .. })));
    assert_eq!(world.statuses().last(), Some(&Status::Connected));
    // It did not leave and may call again; it is not called by itself.
    world.enters(other(1));
    assert!(!world.wants(|intent| matches!(intent, Intent::Open { .. })));
    world.hears(1, Payload::Offer { sdp: sdp("again", "u9") });
    assert!(world.wants(|intent| matches!(intent, Intent::Open { .. })));
}

#[test]
fn the_other_side_losing_signaling_for_good_does_not_end_a_call_that_is_up() {
    let mut world = World::on_call(2, other(1));
    world.leaves(other(1), LeaveReason::LeaseExpired);
    assert!(!world.wants(|intent| matches!(intent, Intent::Close { .. })));
    world.leaves(other(1), LeaveReason::Left);
    assert!(world.wants(|intent| matches!(intent, Intent::Close { .. })));
}

#[test]
fn a_killed_peer_is_given_up_after_a_bounded_number_of_restarts() {
    let mut world = World::on_call(2, other(1));
    world.leaves(Participant { state: ParticipantState::Reconnecting, ..other(1) }, LeaveReason::Unknown);
    world.link(LinkEvent::Disconnected);
    let (mut restarts, begun) = (0, world.now);
    while let Some(due) = world.session.poll_timeout() {
        world.advance(due - world.now);
        if world.wants(|intent| matches!(intent, Intent::CreateOffer { restart: true, .. })) {
            restarts += 1;
            world.link(LinkEvent::OfferMade { sdp: sdp("me", &format!("r{restarts}")) });
            // Without an answer the next restart must take this offer's place.
            world.link(LinkEvent::StepFailed { message: String::new() });
        }
        assert!(world.now - begun < Duration::from_secs(300), "it never gives up");
    }
    assert!(world.wants(|intent| matches!(intent, Intent::Close { .. })));
    assert_eq!(world.statuses().last(), Some(&Status::Waiting));
    assert_eq!(world.failure(), None);
}

/// Until restarts are no use any more; returns what was wanted then.
fn exhaust(world: &mut World) -> Vec<Intent> {
    world.link(LinkEvent::Disconnected);
    let (mut restarts, begun) = (0, world.now);
    loop {
        let (due, before) = (world.session.poll_timeout().unwrap(), world.log.len());
        world.advance(due - world.now);
        let wanted = world.log[before..].to_vec();
        if wanted.iter().any(|intent| matches!(intent, Intent::Close { .. })) {
            return wanted;
        }
        restarts += 1;
        world.link(LinkEvent::OfferMade { sdp: sdp("me", &format!("r{restarts}")) });
        world.link(LinkEvent::StepFailed { message: String::new() });
        assert!(world.now - begun < Duration::from_secs(300), "it never gives up");
    }
}

fn opens(intents: &[Intent]) -> bool {
    intents.iter().any(|intent| matches!(intent, Intent::Open { .. }))
}

#[test]
fn whoever_is_still_there_when_restarts_were_no_use_is_called_again() {
    let mut world = World::on_call(2, other(1));
    assert!(opens(&exhaust(&mut world)));
    world.link(LinkEvent::Opened);
    assert!(world.wants(|intent| matches!(intent, Intent::CreateOffer { restart: false, .. })));
}

#[test]
fn nobody_is_called_again_before_signaling_is_back_and_only_if_they_still_are_there() {
    for is_there in [true, false] {
        let mut world = World::on_call(2, other(1));
        world.session.handle_signaling(world.now, false);
        assert!(!opens(&exhaust(&mut world)));
        assert_eq!((world.session.poll_timeout(), world.failure()), (None, None), "it waits");
        if !is_there {
            world.leaves(other(1), LeaveReason::LeaseExpired);
        }
        let before = world.log.len();
        world.session.handle_signaling(world.now, true);
        world.drain();
        assert_eq!(opens(&world.log[before..]), is_there);
    }
}

#[test]
fn a_network_that_is_gone_is_left_at_once_and_a_new_one_only_where_it_may_help() {
    let restarts = |world: &mut World| {
        let due = world.session.poll_timeout();
        due.is_some_and(|due| due <= world.now) && {
            world.advance(Duration::ZERO);
            world.wants(|intent| matches!(intent, Intent::CreateOffer { restart: true, .. }))
        }
    };
    let mut world = World::on_call(2, other(1));
    world.session.handle_network_change(world.now, false);
    assert!(!restarts(&mut world), "the path in use is as good as it was");
    world.session.handle_network_change(world.now, true);
    assert!(restarts(&mut world), "the path in use may be gone");

    let mut world = World::on_call(2, other(1));
    world.link(LinkEvent::Disconnected);
    assert!(!restarts(&mut world), "it may come back by itself");
    world.session.handle_network_change(world.now, false);
    assert!(restarts(&mut world), "there is a network to come back by");
}

#[test]
fn nobody_is_left_to_restart_for_once_the_other_side_is_out_of_the_room() {
    let mut world = World::on_call(2, other(1));
    world.leaves(other(1), LeaveReason::LeaseExpired);
    world.link(LinkEvent::Disconnected);
    let due = world.session.poll_timeout().unwrap();
    world.advance(due - world.now);
    assert!(!world.wants(|intent| matches!(intent, Intent::CreateOffer { .. })));
    assert_eq!(world.statuses().last(), Some(&Status::Waiting));
}

#[test]
fn a_connection_that_comes_back_is_left_alone() {
    let mut world = World::on_call(2, other(1));
    world.link(LinkEvent::Disconnected);
    world.link(LinkEvent::Up);
    assert_eq!(world.session.poll_timeout(), None);
    assert_eq!(world.statuses().last(), Some(&Status::OnCall));
    let established = world.log.iter().filter(|intent| matches!(intent, Intent::Established { .. })).count();
    assert_eq!(established, 1);
}

#[test]
fn a_direct_path_is_taken_with_one_restart_and_not_tried_all_the_time() {
    let restart = |intent: &Intent| matches!(intent, Intent::CreateOffer { restart: true, .. });
    let mut world = World::on_call(2, other(1));
    world.link(LinkEvent::DirectPath);
    assert!(world.wants(restart));
    world.link(LinkEvent::OfferMade { sdp: sdp("me", "u5") });
    world.hears(1, Payload::Answer { sdp: sdp("you", "u6") });
    world.link(LinkEvent::RemoteSet);
    world.link(LinkEvent::Up);
    assert!(world.wants(|intent| matches!(intent, Intent::Settled { .. })));
    // It led back to the relay, and the direct path is there as before.
    world.advance(ASCENT_INTERVAL / 2);
    world.link(LinkEvent::DirectPath);
    assert!(!world.wants(restart));
    world.advance(ASCENT_INTERVAL / 2);
    world.link(LinkEvent::DirectPath);
    assert!(world.wants(restart));
    world.link(LinkEvent::OfferMade { sdp: sdp("me", "u7") });
    world.hears(1, Payload::Answer { sdp: sdp("you", "u8") });
    world.link(LinkEvent::RemoteSet);
    world.advance(ASCENT_INTERVAL);
    world.link(LinkEvent::DirectPath);
    assert!(!world.wants(restart), "each pause is longer than the one before");
}

#[test]
fn the_side_that_gives_way_takes_a_direct_path_only_if_the_other_does_not() {
    let restart = |intent: &Intent| matches!(intent, Intent::CreateOffer { restart: true, .. });
    let mut world = World::on_call(1, other(2));
    world.link(LinkEvent::DirectPath);
    assert!(!world.wants(restart));
    world.hears(2, Payload::Offer { sdp: sdp("you", "u5") });
    world.link(LinkEvent::RemoteSet);
    world.link(LinkEvent::AnswerMade { sdp: sdp("me", "u6") });
    world.link(LinkEvent::DirectPath);
    assert!(!world.wants(restart), "the other side has just done so");
    world.link(LinkEvent::DirectPath);
    assert!(world.wants(restart));
}

#[test]
fn a_path_that_works_is_not_risked_where_nobody_hears_of_it() {
    let restart = |intent: &Intent| matches!(intent, Intent::CreateOffer { restart: true, .. });
    let mut world = World::on_call(2, other(1));
    world.session.handle_signaling(world.now, false);
    world.link(LinkEvent::DirectPath);
    assert!(!world.wants(restart));
    world.session.handle_signaling(world.now, true);
    world.enters(Participant { state: ParticipantState::Reconnecting, ..other(1) });
    world.link(LinkEvent::DirectPath);
    assert!(!world.wants(restart));
    world.leaves(other(1), LeaveReason::LeaseExpired);
    world.link(LinkEvent::DirectPath);
    assert!(!world.wants(restart));
}

#[test]
fn the_same_process_under_a_new_session_keeps_its_connection() {
    let mut world = World::on_call(2, other(1));
    // The server lost everything: we are in the room again, alone at first.
    world.joins(1, &[]);
    assert_eq!(world.statuses().last(), Some(&Status::OnCall));
    let back = Participant { session: SessionId::new("s1-new"), ordinal: 2, ..other(1) };
    world.enters(back);
    assert!(!world.wants(|intent| matches!(intent, Intent::Close { .. } | Intent::Open { .. })));
    // What is said now goes to the new session.
    world.link(LinkEvent::NegotiationNeeded);
    world.link(LinkEvent::OfferMade { sdp: sdp("me", "u1") });
    let to_new = |intent: &Intent| matches!(intent, Intent::Send { to, .. } if to.as_str() == "s1-new");
    assert!(world.wants(to_new));
}

#[test]
fn a_stranger_in_the_room_replaces_a_connection_whose_other_end_is_gone() {
    let mut world = World::on_call(2, other(1));
    world.joins(1, &[]);
    world.enters(Participant { instance: "stranger".into(), ..other(5) });
    let closes = world.log.iter().position(|intent| matches!(intent, Intent::Close { .. })).unwrap();
    let opens = world.log.iter().rposition(|intent| matches!(intent, Intent::Open { .. })).unwrap();
    assert!(closes < opens);
}

#[test]
fn an_offer_of_another_peer_connection_replaces_the_one_we_have() {
    let mut world = World::on_call(2, other(1));
    world.hears(1, Payload::Offer { sdp: sdp("another", "u9") });
    assert!(world.wants(|intent| matches!(intent, Intent::Close { .. })));
    let opens = world.log.iter().filter(|intent| matches!(intent, Intent::Open { .. })).count();
    assert_eq!(opens, 2);
}

#[test]
fn a_connection_that_was_not_up_begins_anew_after_a_resync() {
    let mut world = World::joined(2, &[other(1)]);
    world.negotiate();
    world.joins(3, &[other(1)]);
    assert!(world.wants(|intent| matches!(intent, Intent::Close { .. })));
    let opens = world.log.iter().filter(|intent| matches!(intent, Intent::Open { .. })).count();
    assert_eq!(opens, 2);
}

#[test]
fn a_third_one_and_strangers_are_not_listened_to() {
    let mut world = World::on_call(2, other(1));
    world.enters(other(3));
    world.hears(3, Payload::Hangup { reason: String::new() });
    world.hears(9, Payload::Offer { sdp: sdp("x", "u") });
    assert!(!world.wants(|intent| matches!(intent, Intent::Close { .. } | Intent::SetRemoteOffer { .. })));
}

#[test]
fn somebody_who_is_there_counts_more_than_somebody_who_went_away() {
    let away = Participant { state: ParticipantState::Reconnecting, ..other(1) };
    let mut world = World::joined(3, &[away, other(2)]);
    assert!(world.wants(|intent| matches!(intent, Intent::Open { .. })));
    world.hears(2, Payload::Offer { sdp: sdp("other", "u2") });
    world.link(LinkEvent::Opened);
    assert!(
        world.wants(|intent| matches!(intent, Intent::CreateOffer { .. } | Intent::SetRemoteOffer { .. }))
    );
}

#[test]
fn events_of_a_closed_connection_do_not_matter() {
    let mut world = World::on_call(2, other(1));
    world.hears(1, Payload::Hangup { reason: String::new() });
    let before = world.log.len();
    world.session.handle_link(world.now, LinkId(1), LinkEvent::Failed);
    world.drain();
    assert_eq!(world.log.len(), before);
}

#[test]
fn candidates_that_come_before_their_description_wait_for_it() {
    let mut world = World::joined(2, &[other(1)]);
    world.link(LinkEvent::Opened);
    world.link(LinkEvent::OfferMade { sdp: sdp("me", "u1") });
    let early = Payload::Candidates { candidates: vec![candidate(7)], end: false, ufrag: String::new() };
    world.hears(1, early);
    world.hears(1, Payload::Answer { sdp: sdp("other", "u2") });
    assert!(!world.wants(|intent| matches!(intent, Intent::AddCandidate { .. })));
    world.link(LinkEvent::RemoteSet);
    assert!(world.wants(|intent| matches!(intent, Intent::AddCandidate { .. })));
}

#[test]
fn candidates_of_an_offer_that_lost_are_dropped_though_they_do_not_say_whose_they_are() {
    let mut world = World::joined(2, &[other(1)]);
    world.link(LinkEvent::Opened);
    world.link(LinkEvent::OfferMade { sdp: sdp("me", "u1") });
    world.hears(1, Payload::Offer { sdp: sdp("other", "lost") });
    world.hears(1, Payload::Candidates { candidates: vec![candidate(7)], end: false, ufrag: String::new() });
    world.hears(1, Payload::Answer { sdp: sdp("other", "u2") });
    world.link(LinkEvent::RemoteSet);
    assert!(!world.wants(|intent| matches!(intent, Intent::AddCandidate { .. })));
    // What follows the answer belongs to it.
    world.hears(1, Payload::Candidates { candidates: vec![candidate(8)], end: false, ufrag: String::new() });
    assert!(world.wants(|intent| matches!(intent, Intent::AddCandidate { .. })));
}

#[test]
fn bad_candidates_are_told_and_the_rest_is_tried() {
    let mut world = World::on_call(2, other(1));
    let bad = Candidate { line: "candidate:nonsense".into(), ..candidate(7) };
    let candidates = vec![bad, candidate(8)];
    world.hears(1, Payload::Candidates { candidates, end: false, ufrag: "u2".into() });
    let tried = |intent: &Intent| matches!(intent, Intent::AddCandidate { candidate, .. } if candidate.line.contains(" 8 typ"));
    assert!(world.wants(tried));
    assert!(world.log.iter().any(|intent| matches!(intent, Intent::Report(Event::Warning { .. }))));
}

#[test]
fn no_peer_can_make_us_try_any_number_of_candidates() {
    let mut world = World::on_call(2, other(1));
    for batch in 0..100 {
        let candidates = (0..100).map(|port| candidate(batch * 100 + port + 1)).collect();
        world.hears(1, Payload::Candidates { candidates, end: false, ufrag: "u2".into() });
    }
    let tried = world.log.iter().filter(|intent| matches!(intent, Intent::AddCandidate { .. })).count();
    assert!(tried <= 128, "{tried}");
}

/// One core and what it said.
struct World {
    now: Instant,
    session: Session,
    log: Vec<Intent>,
    /// How much of the log was asked about.
    asked: usize,
}

impl World {
    fn new() -> Self {
        Self::with(config("me"))
    }

    fn with(config: Config) -> Self {
        Self { now: clock::now(), session: Session::new(config), log: Vec::new(), asked: 0 }
    }

    fn joined(ordinal: u64, others: &[Participant]) -> Self {
        let mut world = Self::new();
        world.joins(ordinal, others);
        world
    }

    fn on_call(ordinal: u64, other: Participant) -> Self {
        let mut world = Self::joined(ordinal, &[other]);
        world.negotiate();
        world.link(LinkEvent::Up);
        world.asked = world.log.len();
        world
    }

    fn negotiate(&mut self) {
        self.link(LinkEvent::Opened);
        self.link(LinkEvent::OfferMade { sdp: sdp("me", "u1") });
        self.hears(1, Payload::Answer { sdp: sdp("other", "u2") });
        self.link(LinkEvent::RemoteSet);
    }

    fn joins(&mut self, ordinal: u64, others: &[Participant]) {
        let session = SessionId::new(&format!("me{ordinal}"));
        self.session.handle_signal(self.now, Signal::Joined { session, ordinal, others: others.to_vec() });
        self.drain();
    }

    fn enters(&mut self, participant: Participant) {
        self.session.handle_signal(self.now, Signal::Participant { participant, left: None });
        self.drain();
    }

    fn leaves(&mut self, participant: Participant, reason: LeaveReason) {
        let state = match participant.state {
            ParticipantState::Reconnecting => ParticipantState::Reconnecting,
            ParticipantState::Waiting | ParticipantState::Connected | ParticipantState::Left => {
                ParticipantState::Left
            }
        };
        let participant = Participant { state, ..participant };
        self.session.handle_signal(self.now, Signal::Participant { participant, left: Some(reason) });
        self.drain();
    }

    fn hears(&mut self, from: u64, payload: Payload) {
        let from = other(from).session;
        self.session.handle_signal(self.now, Signal::Message { from, negotiation: String::new(), payload });
        self.drain();
    }

    fn link(&mut self, event: LinkEvent) {
        let link = LinkId(self.session.links_made);
        self.session.handle_link(self.now, link, event);
        self.drain();
    }

    fn command(&mut self) {
        self.session.handle_command(Command::HangUp { reason: "test".into() });
        self.drain();
    }

    fn advance(&mut self, by: Duration) {
        self.now += by;
        self.session.handle_timeout(self.now);
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(intent) = self.session.poll_intent() {
            if let Intent::Certify { link } = intent {
                let shown = LinkEvent::Certified { other: Some(vec![OF_THE_OTHER; 32]) };
                self.session.handle_link(self.now, link, shown);
            }
            self.log.push(intent);
        }
    }

    /// Whether it said so since the last time that this was asked.
    fn wants(&mut self, what: impl Fn(&Intent) -> bool) -> bool {
        let found = self.log[self.asked..].iter().any(what);
        if found {
            self.asked = self.log.len();
        }
        found
    }

    fn statuses(&self) -> Vec<Status> {
        let status = |intent: &Intent| {
            if let Intent::Report(Event::Status { status }) = intent { Some(*status) } else { None }
        };
        self.log.iter().filter_map(status).collect()
    }

    fn failure(&self) -> Option<Failure> {
        self.log
            .iter()
            .find_map(|intent| if let Intent::Fail(failure) = intent { Some(failure.clone()) } else { None })
    }
}

/// Anybody may call.
fn config(instance: &str) -> Config {
    Config {
        room: "room".into(),
        instance: instance.into(),
        offer: OfferPolicy::Auto,
        connect_timeout: TIMEOUT,
        identity: None,
        trust: Trust::Anybody,
        introduction: None,
        unattended: false,
    }
}

/// The fingerprint of the certificate that the other side shows.
const OF_THE_OTHER: u8 = 7;

fn other(ordinal: u64) -> Participant {
    Participant {
        session: SessionId::new(&format!("s{ordinal}")),
        ordinal,
        instance: format!("i{ordinal}"),
        state: ParticipantState::Connected,
    }
}

fn candidate(port: u16) -> Candidate {
    let line = format!("candidate:1 1 udp 2130706431 192.0.2.1 {port} typ host");
    Candidate { line, mid: None, m_line_index: Some(0), url: None }
}

fn sdp(origin: &str, ufrag: &str) -> String {
    format!("v=0\r\no=- {origin} 1 IN IP4 0.0.0.0\r\na=ice-ufrag:{ufrag}\r\n")
}
