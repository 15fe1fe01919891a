//! Single sentences of the contract, each with the few calls that show it.

use std::time::Duration;

use bytes::Bytes;

use super::*;

const LIMITS: Limits = Limits {
    room_size: 3,
    log_frames: 4,
    log_bytes: 100,
    resume_window: Duration::from_secs(10),
    presence_grace: Duration::from_secs(1),
    lease: Duration::from_secs(5),
};

/// One room, and whoever came into it.
struct World {
    core: Rooms,
    now: Timestamp,
    made: u8,
    vacancy: Vacancy,
}

impl World {
    fn new() -> Self {
        Self::with(LIMITS)
    }

    fn with(limits: Limits) -> Self {
        let vacancy = Vacancy { rooms: 10, sessions: 10 };
        Self { core: Rooms::new(limits), now: Timestamp(1_000), made: 0, vacancy }
    }

    fn try_enter(&mut self, room: &str, resume: Option<Resume>) -> Result<Joined, Refusal> {
        self.made += 1;
        let fresh = Fresh {
            session: SessionId::from(format!("s{}", self.made).as_str()),
            secret: Secret::new([self.made; 16]),
        };
        let join = Join {
            room: room.into(),
            profile: Profile::default(),
            request_id: None,
            resume,
            may_create: true,
        };
        self.core.handle_join(self.now, join, fresh, self.vacancy)
    }

    fn enter(&mut self) -> Joined {
        self.try_enter("red", None).unwrap()
    }

    fn resume(&mut self, who: &Joined, last_received_seq: u64) -> Result<Joined, Refusal> {
        let secret = Bytes::copy_from_slice(who.secret.as_bytes());
        self.try_enter("red", Some(Resume { session: who.session.clone(), secret, last_received_seq }))
    }

    fn send(&mut self, who: &Joined, client_seq: u64, size: usize, ack: u64) -> Result<Sent, Refusal> {
        let frame = Outgoing { client_seq, to: None, message: vec![0; size].into() };
        self.core.handle_send(self.now, &who.session, who.secret.as_bytes(), vec![frame], ack)
    }

    fn leave(&mut self, who: &Joined) {
        self.core.handle_leave(self.now, &who.session, who.secret.as_bytes()).unwrap();
    }

    fn detach(&mut self, who: &Joined) {
        self.core.handle_detach(self.now, &who.session, who.epoch);
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now.after(time);
        self.core.handle_timeout(self.now);
    }

    fn read(&self, who: &Joined, after: u64) -> Result<Vec<Entry>, StreamEnd> {
        self.core.read(&who.session, who.epoch, after, usize::MAX)
    }

    /// What `who` has been told of the others.
    fn presences(&self, who: &Joined) -> Vec<Presence> {
        let entries = self.read(who, 0).unwrap();
        let presence = |entry: Entry| match entry.body {
            Body::Participant(event) => Some(event.member.presence),
            Body::Message { .. } => None,
        };
        entries.into_iter().filter_map(presence).collect()
    }
}

#[test]
fn a_frame_is_refused_for_all_if_it_does_not_fit_one() {
    let mut world = World::new();
    let [alice, bob] = [world.enter(), world.enter()];
    world.send(&alice, 1, 60, 0).unwrap();
    let carol = world.enter();
    assert_eq!(world.send(&alice, 2, 60, 0), Err(Refusal::LogFull { client_seq: 2 }));
    assert_eq!(world.read(&carol, 0).unwrap().len(), 0);
    let heard = world.read(&bob, 0).unwrap().last().unwrap().seq;
    world.core.handle_send(world.now, &bob.session, bob.secret.as_bytes(), vec![], heard).unwrap();
    assert_eq!(world.send(&alice, 2, 60, 0).unwrap().last_client_seq, 2);
    assert_eq!(world.read(&carol, 0).unwrap().len(), 1);
}

#[test]
fn events_have_room_where_messages_have_none_and_then_no_more() {
    let mut world = World::new();
    let [alice, bob] = [world.enter(), world.enter()];
    world.detach(&alice);
    for _ in 0..2 * LIMITS.log_frames {
        let guest = world.enter();
        world.leave(&guest);
        let heard = world.read(&bob, 0).unwrap().last().map_or(0, |entry| entry.seq);
        world.core.handle_send(world.now, &bob.session, bob.secret.as_bytes(), vec![], heard).unwrap();
    }
    // Bob, who listens, was told; alice, who does not, learns it when she comes back.
    assert_eq!(world.core.session_count(), 1);
    assert_eq!(world.resume(&alice, 0).unwrap().outcome, Outcome::Resync);
}

#[test]
fn a_stream_whose_session_outgrew_all_bounds_is_told_so() {
    let mut world = World::new();
    let alice = world.enter();
    for _ in 0..LIMITS.log_frames {
        let guest = world.enter();
        world.leave(&guest);
    }
    assert_eq!(world.read(&alice, 0).unwrap().len(), 2 * LIMITS.log_frames);
    let bob = world.enter();
    assert_eq!(world.read(&alice, 0), Err(StreamEnd::Ended(LeaveReason::Overflow)));
    assert_eq!(world.presences(&bob), [Presence::Left(LeaveReason::Overflow)]);
    world.detach(&alice);
    assert_eq!(world.read(&alice, 0), Err(StreamEnd::Forgotten));
}

#[test]
fn a_session_that_its_own_return_ends_is_replaced_and_its_client_told() {
    let mut world = World::new();
    let [alice, bob] = [world.enter(), world.enter()];
    let carol = world.enter();
    let to_bob = Outgoing { client_seq: 1, to: Some(bob.session.clone()), message: Bytes::new() };
    world.core.handle_send(world.now, &carol.session, carol.secret.as_bytes(), vec![to_bob], 0).unwrap();
    world.leave(&carol);
    world.detach(&alice);
    world.detach(&bob);
    world.pass(LIMITS.presence_grace);
    for _ in 0..2 {
        let guest = world.enter();
        world.leave(&guest);
    }
    // Both logs are as full as they can be: alice's return is too much for bob's, and his end for hers.
    let back = world.resume(&alice, 0).unwrap();
    assert_eq!((back.outcome, back.others.len()), (Outcome::Resync, 0));
    assert_eq!(world.core.session_count(), 1);
}

#[test]
fn an_ended_session_is_forgotten_even_if_its_stream_never_asks() {
    let mut world = World::new();
    let alice = world.enter();
    world.leave(&alice);
    assert_eq!(world.read(&alice, 0), Err(StreamEnd::Ended(LeaveReason::Left)));
    world.pass(LIMITS.resume_window);
    assert_eq!(world.read(&alice, 0), Err(StreamEnd::Forgotten));
    assert_eq!(world.core.poll_timeout(), None);
}

#[test]
fn a_window_shorter_than_the_grace_shows_only_the_end() {
    let mut world = World::with(Limits { resume_window: Duration::from_millis(500), ..LIMITS });
    let [alice, bob] = [world.enter(), world.enter()];
    world.detach(&bob);
    world.pass(Duration::from_millis(499));
    assert_eq!(world.presences(&alice), [Presence::Connected]);
    world.pass(Duration::from_millis(1));
    assert_eq!(world.presences(&alice), [Presence::Connected, Presence::Left(LeaveReason::LeaseExpired)]);
}

#[test]
fn a_send_without_a_stream_does_not_stretch_the_window() {
    let mut world = World::new();
    let [alice, _bob] = [world.enter(), world.enter()];
    world.detach(&alice);
    world.pass(LIMITS.resume_window / 2);
    world.send(&alice, 1, 1, 0).unwrap();
    world.pass(LIMITS.resume_window / 2);
    assert_eq!(world.send(&alice, 2, 1, 0), Err(Refusal::SessionNotFound));
}

#[test]
fn a_late_sweep_does_what_was_due_in_its_order() {
    let mut world = World::new();
    let [alice, bob] = [world.enter(), world.enter()];
    world.detach(&bob);
    // Alice's own lease would run out in the meantime: keep it.
    world.pass(LIMITS.lease - Duration::from_millis(1));
    world.send(&alice, 1, 1, 0).unwrap();
    world.now = world.now.after(LIMITS.lease - Duration::from_millis(1));
    world.send(&alice, 2, 1, 0).unwrap();
    world.pass(LIMITS.lease - Duration::from_millis(1));
    let expired = Presence::Left(LeaveReason::LeaseExpired);
    assert_eq!(world.presences(&alice), [Presence::Connected, Presence::Reconnecting, expired]);
}

#[test]
fn others_are_shown_as_they_were_before_what_is_still_to_come() {
    let mut world = World::new();
    let [alice, bob] = [world.enter(), world.enter()];
    world.detach(&alice);
    world.leave(&bob);
    let carol = world.enter();
    let back = world.resume(&alice, 1).unwrap();
    let known: Vec<_> = back.others.iter().map(|other| (&other.session, other.presence)).collect();
    assert_eq!(known, [(&bob.session, Presence::Connected)]);
    let events: Vec<_> = world.read(&back, 1).unwrap();
    assert_eq!(events.len(), 2);
    let back = world.resume(&back, 3).unwrap();
    let known: Vec<_> = back.others.iter().map(|other| &other.session).collect();
    assert_eq!(known, [&carol.session]);
}

#[test]
fn nobody_has_received_what_was_never_sent() {
    let mut world = World::new();
    let alice = world.enter();
    assert_eq!(world.resume(&alice, 1).unwrap_err(), Refusal::BeyondTheLog { last: 0 });
    assert_eq!(world.send(&alice, 1, 1, 1), Err(Refusal::BeyondTheLog { last: 0 }));
}

#[test]
fn a_session_is_found_in_its_own_room_alone() {
    let mut world = World::new();
    let alice = world.enter();
    let secret = Bytes::copy_from_slice(alice.secret.as_bytes());
    let resume = Resume { session: alice.session.clone(), secret, last_received_seq: 0 };
    let elsewhere = world.try_enter("blue", Some(resume)).unwrap();
    assert_eq!(elsewhere.outcome, Outcome::Resync);
    assert_ne!(elsewhere.session, alice.session);
}

#[test]
fn a_server_without_vacancy_takes_back_whom_it_knows() {
    let mut world = World::new();
    let alice = world.enter();
    world.vacancy = Vacancy { rooms: 0, sessions: 5 };
    assert_eq!(world.try_enter("blue", None).unwrap_err(), Refusal::ServerFull);
    world.enter();
    world.vacancy = Vacancy { rooms: 5, sessions: 0 };
    assert_eq!(world.try_enter("red", None).unwrap_err(), Refusal::ServerFull);
    assert_eq!(world.resume(&alice, 0).unwrap().outcome, Outcome::Resumed);
}

#[test]
fn nothing_secret_shows_in_debug_output() {
    let mut world = World::new();
    world.try_enter("the-key-of-the-room", None).unwrap();
    let shown = format!("{:?}", world.core);
    assert!(!shown.contains("the-key"), "{shown}");
    assert!(!shown.contains("[1, 1, 1, 1"), "{shown}");
}
