//! Whom a core talks to, and what it does about others.

use std::sync::Arc;

use super::super::*;
use super::{OF_THE_OTHER, TIMEOUT, World, config, other, sdp};
use crate::identity::{Certificates, Claim, Code, PublicKey};

/// What the other side asserts about the certificate that it shows.
fn assertion(identity: &Identity) -> Payload {
    let hex = vec![format!("{OF_THE_OTHER:02x}"); 32].join(":");
    let certificates = Certificates::of_description(&format!("a=fingerprint:sha-256 {hex}\r\n"));
    Payload::Assertion(certificates.signed_by(identity, Claim { from: "s1", to: "me2" }))
}

fn meet(trust: Trust, unattended: bool, identity: Option<&Identity>) -> World {
    let mut world = World::with(Config { trust, unattended, ..config("me") });
    world.joins(2, &[other(1)]);
    world.link(LinkEvent::Opened);
    world.link(LinkEvent::OfferMade { sdp: sdp("me", "u1") });
    if let Some(identity) = identity {
        world.hears(1, assertion(identity));
    }
    world.hears(1, Payload::Answer { sdp: sdp("other", "u2") });
    world.link(LinkEvent::RemoteSet);
    world.link(LinkEvent::Up);
    world
}

fn is_used(world: &World) -> bool {
    world.log.iter().any(|intent| matches!(intent, Intent::Established { .. }))
}

fn says(world: &World, what: &str) -> bool {
    let reason = Payload::Hangup { reason: what.to_owned() };
    world.log.iter().any(|intent| matches!(intent, Intent::Send { payload, .. } if *payload == reason))
}

fn remembered(world: &World) -> Vec<PublicKey> {
    let key = |intent: &Intent| if let Intent::Remember { key } = intent { Some(*key) } else { None };
    world.log.iter().filter_map(key).collect()
}

#[test]
fn a_connection_to_the_right_one_is_used_and_a_new_one_is_remembered() {
    let identity = Identity::generate().0;
    let key = identity.public_key();
    let trusted = meet(Trust::Keys(vec![key]), false, Some(&identity));
    assert!(is_used(&trusted) && remembered(&trusted).is_empty());
    let new = meet(Trust::Known { expected: None }, false, Some(&identity));
    assert!(is_used(&new));
    assert_eq!(remembered(&new), [key]);
}

#[test]
fn a_connection_to_the_wrong_one_is_closed_unused_and_both_know_why() {
    let (right, wrong) = (Identity::generate().0, Identity::generate().0);
    for shown in [None, Some(&wrong)] {
        let world = meet(Trust::Keys(vec![right.public_key()]), false, shown);
        assert!(!is_used(&world) && says(&world, UNTRUSTED));
        assert_eq!(world.failure().unwrap().reason, Reason::Untrusted);
    }
    let mut refused = meet(Trust::Anybody, false, None);
    refused.hears(1, Payload::Hangup { reason: UNTRUSTED.into() });
    assert_eq!(refused.failure().unwrap().reason, Reason::Untrusted);
}

#[test]
fn who_attends_to_many_is_not_ended_by_a_stranger() {
    let (right, wrong) = (Identity::generate().0, Identity::generate().0);
    let mut world = meet(Trust::Keys(vec![right.public_key()]), true, Some(&wrong));
    assert!(!is_used(&world) && says(&world, UNTRUSTED));
    assert_eq!((world.failure(), world.session.status), (None, Status::Connected));
    world.leaves(other(1), LeaveReason::Left);
    world.enters(other(3));
    assert!(world.wants(|intent| matches!(intent, Intent::Open { .. })));
}

#[test]
fn the_assertion_goes_before_the_description() {
    let identity = Some(Arc::new(Identity::generate().0));
    let mut world = World::with(Config { identity, ..config("me") });
    world.joins(2, &[other(1)]);
    world.link(LinkEvent::Opened);
    let hex = ["01"; 32].join(":");
    let offer = format!("{}a=fingerprint:sha-256 {hex}\r\n", sdp("me", "u1"));
    world.link(LinkEvent::OfferMade { sdp: offer });
    let said: Vec<&Payload> = world
        .log
        .iter()
        .filter_map(|intent| if let Intent::Send { payload, .. } = intent { Some(payload) } else { None })
        .collect();
    assert!(matches!(said.as_slice(), [Payload::Assertion(_), Payload::Offer { .. }]), "{said:?}");
}

/// Two cores with codes, and what they say to each other.
struct Meeting {
    host: World,
    guest: World,
}

impl Meeting {
    fn new(of_host: &Code, of_guest: &Code) -> Self {
        let side = |code: &Code, host| {
            let introduction = Some(Introduction::new(code.clone(), host));
            World::with(Config { introduction, ..config("me") })
        };
        let (mut host, mut guest) = (side(of_host, true), side(of_guest, false));
        // As the others name them.
        host.session.handle_signal(host.now, joined("s1", 1, &[other(2)]));
        guest.session.handle_signal(guest.now, joined("s2", 2, &[other(1)]));
        host.drain();
        guest.drain();
        Self { host, guest }
    }

    /// Carries what was said since the last time from one to the other; says what it was.
    fn carry(&mut self, to_host: bool) -> Vec<Payload> {
        let (from, to, sender) =
            if to_host { (&mut self.guest, &mut self.host, 2) } else { (&mut self.host, &mut self.guest, 1) };
        let mut carried = Vec::new();
        for intent in &from.log[from.asked..] {
            if let Intent::Send { payload, .. } = intent {
                carried.push(payload.clone());
            }
        }
        from.asked = from.log.len();
        for payload in &carried {
            to.hears(sender, payload.clone());
        }
        carried
    }
}

fn joined(session: &str, ordinal: u64, others: &[Participant]) -> Signal {
    Signal::Joined { session: SessionId::new(session), ordinal, others: others.to_vec() }
}

fn opens(world: &World) -> bool {
    world.log.iter().any(|intent| matches!(intent, Intent::Open { .. }))
}

#[test]
fn nothing_is_opened_before_both_know_that_the_other_knows_the_code() {
    let code = Code::random();
    let mut meeting = Meeting::new(&code, &code);
    meeting.host.hears(2, Payload::Offer { sdp: sdp("early", "u") });
    for to_host in [true, false, true] {
        assert!(!opens(&meeting.host) && !opens(&meeting.guest));
        assert_eq!(meeting.carry(to_host).len(), 1);
    }
    assert!(opens(&meeting.host) && !opens(&meeting.guest));
    meeting.carry(false);
    assert!(opens(&meeting.guest));
}

#[test]
fn a_wrong_code_ends_both_and_the_code() {
    let (code, wrong) = ("1234-acorn-actor-album", "1234-acorn-actor-alley");
    let mut meeting = Meeting::new(&code.parse().unwrap(), &wrong.parse().unwrap());
    for to_host in [true, false, true, false] {
        meeting.carry(to_host);
    }
    for side in [&meeting.host, &meeting.guest] {
        assert_eq!(side.failure().unwrap().reason, Reason::WrongCode);
        assert!(!opens(side));
    }
}

#[test]
fn a_guest_does_not_wait_for_ever_for_an_answer_and_a_host_waits_for_guests() {
    let code = Code::random();
    let mut meeting = Meeting::new(&code, &code);
    assert_eq!(meeting.host.session.poll_timeout(), None);
    assert_eq!(meeting.guest.session.poll_timeout(), Some(meeting.guest.now + TIMEOUT));
    meeting.guest.advance(TIMEOUT);
    assert_eq!(meeting.guest.failure().unwrap().reason, Reason::WrongCode);
}
