//! What every backplane does, whatever it is made of. An implementation runs all of it with [`suite`].

use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;

use super::{Backplane, Doorbell, Failure, Occupancy, ReadFailure};
use crate::room::{
    Body, Entry, Join, Joined, LeaveReason, Limits, Member, Outcome, Outgoing, ParticipantEvent, Presence,
    Profile, Refusal, Resume, SessionId, StreamEnd,
};

/// A backplane with [`LIMITS`] and nothing in it, and a way to let time pass for it.
pub(super) trait Stage {
    type Backplane: Backplane;

    async fn new() -> Self;
    fn backplane(&self) -> &Self::Backplane;
    async fn pass(&self, time: Duration);
}

/// Long enough apart that a store with a clock of its own can keep them.
pub(super) const LIMITS: Limits = Limits {
    room_size: 3,
    log_frames: 4,
    log_bytes: 1000,
    resume_window: Duration::from_secs(2),
    presence_grace: Duration::from_millis(500),
    lease: Duration::from_secs(3),
};

/// Makes a test of every function here for one stage.
macro_rules! suite {
    ($stage:ty) => {
        $crate::backplane::conformance::suite!(
            $stage:
            frames_reach_the_others_in_order,
            a_repeated_call_changes_nothing,
            a_gap_is_refused_and_what_came_before_it_taken,
            a_frame_for_nobody_is_reported_and_reported_again,
            a_session_resumes_with_what_it_had_not_received,
            what_was_acknowledged_does_not_come_again,
            the_newest_stream_fences_the_older_one_and_rings_it,
            a_repeated_join_finds_its_session,
            a_session_that_is_gone_is_replaced_and_its_client_told,
            a_room_holds_its_limit_and_vanishes_when_empty,
            only_the_secret_opens_a_session,
            a_full_log_refuses_the_sender_until_the_ack,
            a_blip_shows_nothing,
            presence_is_a_lease,
            a_silent_stream_loses_its_lease_and_a_heartbeat_keeps_it,
            leaving_ends_the_stream_and_tells_the_others,
            senders_at_once_do_not_mix_up_a_log,
            only_who_may_makes_a_room,
            who_comes_back_anew_takes_its_own_place_in_a_full_room,
            rooms_are_listed_page_by_page,
            an_operator_sees_who_is_in_a_room,
            an_operator_removes_a_session,
            an_operator_closes_a_room,
        );
    };
    ($stage:ty: $($test:ident),+ $(,)?) => {
        $(#[tokio::test]
        async fn $test() {
            $crate::backplane::conformance::$test(&<$stage>::new().await).await;
        })+
    };
}
pub(super) use suite;

pub(super) async fn frames_reach_the_others_in_order(stage: &impl Stage) {
    let [alice, bob] = [enter(stage, "red").await, enter(stage, "red").await];
    assert_eq!((alice.joined.member.ordinal, bob.joined.member.ordinal), (1, 2));
    assert_eq!(bob.joined.others, std::slice::from_ref(&alice.joined.member));
    send(stage, &alice, 1..=3, 0).await.unwrap();
    rung(&bob.doorbell).await;
    let entries = read(stage, &bob, 0).await.unwrap();
    assert_eq!(entries.iter().map(|entry| entry.seq).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(texts(&entries), ["1", "2", "3"]);
    assert!(entries.iter().all(|entry| from(entry) == Some(&alice.joined.session)));
    assert_eq!(texts(&read(stage, &bob, 2).await.unwrap()), ["3"]);
}

pub(super) async fn a_repeated_call_changes_nothing(stage: &impl Stage) {
    let [alice, bob] = [enter(stage, "red").await, enter(stage, "red").await];
    for _ in 0..2 {
        assert_eq!(send(stage, &alice, 1..=2, 0).await.unwrap().last_client_seq, 2);
    }
    assert_eq!(send(stage, &alice, 1..=3, 0).await.unwrap().last_client_seq, 3);
    assert_eq!(texts(&read(stage, &bob, 0).await.unwrap()), ["1", "2", "3"]);
}

pub(super) async fn a_gap_is_refused_and_what_came_before_it_taken(stage: &impl Stage) {
    let [alice, bob] = [enter(stage, "red").await, enter(stage, "red").await];
    let frames = vec![frame(1, None), frame(3, None)];
    let refused = stage.backplane().send(&alice.joined.session, secret(&alice), frames, 0).await;
    assert_eq!(refusal(refused), Refusal::ClientSeqGap { expected: 2, got: 3 });
    assert_eq!(texts(&read(stage, &bob, 0).await.unwrap()), ["1"]);
}

pub(super) async fn a_frame_for_nobody_is_reported_and_reported_again(stage: &impl Stage) {
    let alice = enter(stage, "red").await;
    let nobody = Some(SessionId::from("00nobody"));
    for _ in 0..2 {
        let frames = vec![frame(1, None), frame(2, nobody.clone())];
        let sent = stage.backplane().send(&alice.joined.session, secret(&alice), frames, 0).await.unwrap();
        assert_eq!(sent.undeliverable, [(1, None), (2, nobody.clone())]);
    }
}

pub(super) async fn a_session_resumes_with_what_it_had_not_received(stage: &impl Stage) {
    let [alice, bob] = [enter(stage, "red").await, enter(stage, "red").await];
    send(stage, &alice, 1..=2, 0).await.unwrap();
    stage.backplane().detach(&bob.joined.session, bob.joined.epoch);
    send(stage, &alice, 3..=3, 0).await.unwrap();
    let again = resume(stage, &bob, 1).await.unwrap();
    let Joined { outcome, cursor, lost, session, .. } = &again.joined;
    assert_eq!((*outcome, *cursor, *lost, session), (Outcome::Resumed, 1, false, &bob.joined.session));
    send(stage, &alice, 4..=4, 0).await.unwrap();
    assert_eq!(texts(&read(stage, &again, 1).await.unwrap()), ["2", "3", "4"]);
}

pub(super) async fn what_was_acknowledged_does_not_come_again(stage: &impl Stage) {
    let [alice, bob] = [enter(stage, "red").await, enter(stage, "red").await];
    send(stage, &alice, 1..=3, 0).await.unwrap();
    send(stage, &bob, 1..1, 2).await.unwrap();
    let again = resume(stage, &bob, 0).await.unwrap();
    assert_eq!((again.joined.cursor, again.joined.lost), (2, true));
    assert_eq!(texts(&read(stage, &again, 0).await.unwrap()), ["3"]);
    let beyond = send(stage, &bob, 1..1, 4).await;
    assert_eq!(refusal(beyond), Refusal::BeyondTheLog { last: 3 });
}

pub(super) async fn the_newest_stream_fences_the_older_one_and_rings_it(stage: &impl Stage) {
    let old = enter(stage, "red").await;
    let new = resume(stage, &old, 0).await.unwrap();
    rung(&old.doorbell).await;
    assert_eq!(read(stage, &old, 0).await.unwrap_err(), StreamEnd::Superseded);
    stage.backplane().detach(&old.joined.session, old.joined.epoch);
    assert_eq!(read(stage, &new, 0).await.unwrap(), []);
}

pub(super) async fn a_repeated_join_finds_its_session(stage: &impl Stage) {
    let join = || Join { request_id: Some("a-random-request".into()), ..join("red") };
    let (first, _) = stage.backplane().join(join()).await.unwrap();
    let (second, _) = stage.backplane().join(join()).await.unwrap();
    assert_eq!((first.outcome, second.outcome), (Outcome::New, Outcome::Resumed));
    assert_eq!((first.session, first.epoch + 1), (second.session, second.epoch));
    assert!(second.secret.matches(first.secret.as_bytes()));
    assert_eq!(stage.backplane().occupancy().await.unwrap().sessions, 1);
}

pub(super) async fn a_session_that_is_gone_is_replaced_and_its_client_told(stage: &impl Stage) {
    let bob = enter(stage, "red").await;
    stage.backplane().leave(&bob.joined.session, secret(&bob)).await.unwrap();
    let again = resume(stage, &bob, 0).await.unwrap();
    assert_eq!(again.joined.outcome, Outcome::Resync);
    assert_ne!(again.joined.session, bob.joined.session);
}

pub(super) async fn a_room_holds_its_limit_and_vanishes_when_empty(stage: &impl Stage) {
    let mut members = Vec::new();
    for _ in 0..LIMITS.room_size {
        members.push(enter(stage, "red").await);
    }
    let refused = stage.backplane().join(join("red")).await;
    assert_eq!(refusal(refused), Refusal::RoomFull { limit: LIMITS.room_size });
    enter(stage, "blue").await;
    assert_eq!(stage.backplane().occupancy().await.unwrap(), Occupancy { rooms: 2, sessions: 4 });
    for member in members {
        stage.backplane().leave(&member.joined.session, secret(&member)).await.unwrap();
    }
    assert_eq!(stage.backplane().occupancy().await.unwrap(), Occupancy { rooms: 1, sessions: 1 });
    assert_eq!(enter(stage, "red").await.joined.member.ordinal, 1);
}

pub(super) async fn only_the_secret_opens_a_session(stage: &impl Stage) {
    let [alice, bob] = [enter(stage, "red").await, enter(stage, "red").await];
    let (id, wrong) = (&alice.joined.session, secret(&bob));
    let sent = stage.backplane().send(id, wrong, vec![frame(1, None)], 0).await;
    assert_eq!(refusal(sent), Refusal::BadResumeSecret);
    assert_eq!(refusal(stage.backplane().leave(id, wrong).await), Refusal::BadResumeSecret);
    let thief = Participant { joined: Joined { secret: bob.joined.secret, ..alice.joined.clone() }, ..bob };
    assert_eq!(refusal(resume(stage, &thief, 0).await), Refusal::BadResumeSecret);
    // Alice's own second frame is still her first: nothing was taken in her name.
    assert_eq!(send(stage, &alice, 1..=1, 0).await.unwrap().last_client_seq, 1);
}

pub(super) async fn a_full_log_refuses_the_sender_until_the_ack(stage: &impl Stage) {
    let [alice, bob] = [enter(stage, "red").await, enter(stage, "red").await];
    let carol = enter(stage, "red").await;
    // Bob has carol's entrance in his log, so that his is full first.
    let refused = send(stage, &alice, 1..=4, 0).await;
    assert_eq!(refusal(refused), Refusal::LogFull { client_seq: 4 });
    assert_eq!(texts(&read(stage, &carol, 0).await.unwrap()), ["1", "2", "3"]);
    send(stage, &bob, 1..1, 1).await.unwrap();
    send(stage, &alice, 4..=4, 0).await.unwrap();
    assert_eq!(texts(&read(stage, &carol, 0).await.unwrap()), ["1", "2", "3", "4"]);
    assert_eq!(texts(&read(stage, &bob, 1).await.unwrap()), ["1", "2", "3", "4"]);
}

pub(super) async fn a_blip_shows_nothing(stage: &impl Stage) {
    let [alice, bob] = [enter(stage, "red").await, enter(stage, "red").await];
    stage.backplane().detach(&bob.joined.session, bob.joined.epoch);
    stage.pass(LIMITS.presence_grace / 2).await;
    resume(stage, &bob, 0).await.unwrap();
    stage.pass(LIMITS.presence_grace).await;
    assert_eq!(presences(&read(stage, &alice, 0).await.unwrap()), [Presence::Connected]);
}

pub(super) async fn presence_is_a_lease(stage: &impl Stage) {
    let [alice, bob] = [enter(stage, "red").await, enter(stage, "red").await];
    rung(&alice.doorbell).await;
    stage.backplane().detach(&bob.joined.session, bob.joined.epoch);
    stage.pass(LIMITS.presence_grace).await;
    rung(&alice.doorbell).await;
    let again = resume(stage, &bob, 0).await.unwrap();
    assert_eq!(again.joined.outcome, Outcome::Resumed);
    stage.backplane().detach(&again.joined.session, again.joined.epoch);
    stage.pass(LIMITS.presence_grace).await;
    stage.pass(LIMITS.resume_window - LIMITS.presence_grace).await;
    let seen = presences(&read(stage, &alice, 0).await.unwrap());
    let expired = Presence::Left(LeaveReason::LeaseExpired);
    use Presence::{Connected, Reconnecting};
    assert_eq!(seen, [Connected, Reconnecting, Connected, Reconnecting, expired]);
    assert_eq!(resume(stage, &bob, 0).await.unwrap().joined.outcome, Outcome::Resync);
}

pub(super) async fn a_silent_stream_loses_its_lease_and_a_heartbeat_keeps_it(stage: &impl Stage) {
    let [alice, bob] = [enter(stage, "red").await, enter(stage, "red").await];
    rung(&alice.doorbell).await;
    stage.pass(LIMITS.lease * 2 / 3).await;
    send(stage, &alice, 1..1, 0).await.unwrap();
    stage.pass(LIMITS.lease * 2 / 3).await;
    rung(&bob.doorbell).await;
    assert_eq!(read(stage, &bob, 0).await.unwrap_err(), StreamEnd::Unheard);
    let seen = presences(&read(stage, &alice, 0).await.unwrap());
    assert_eq!(seen, [Presence::Connected, Presence::Reconnecting]);
    assert_eq!(resume(stage, &bob, 0).await.unwrap().joined.outcome, Outcome::Resumed);
}

pub(super) async fn leaving_ends_the_stream_and_tells_the_others(stage: &impl Stage) {
    let [alice, bob] = [enter(stage, "red").await, enter(stage, "red").await];
    for _ in 0..2 {
        stage.backplane().leave(&bob.joined.session, secret(&bob)).await.unwrap();
    }
    rung(&bob.doorbell).await;
    assert_eq!(read(stage, &bob, 0).await.unwrap_err(), StreamEnd::Ended(LeaveReason::Left));
    let seen = presences(&read(stage, &alice, 0).await.unwrap());
    assert_eq!(seen, [Presence::Connected, Presence::Left(LeaveReason::Left)]);
    assert_eq!(refusal(send(stage, &bob, 1..=1, 0).await), Refusal::SessionNotFound);
}

pub(super) async fn senders_at_once_do_not_mix_up_a_log(stage: &impl Stage) {
    let [alice, bob] = [enter(stage, "red").await, enter(stage, "red").await];
    let carol = enter(stage, "red").await;
    let talk = async |sender: &Participant| {
        for number in 1..=50 {
            let send = || {
                let frames = vec![frame(number, Some(carol.joined.session.clone()))];
                stage.backplane().send(&sender.joined.session, secret(sender), frames, 0)
            };
            while send().await.is_err() {
                tokio::task::yield_now().await;
            }
        }
    };
    let listen = async {
        let (mut heard, mut cursor) = (Vec::new(), 0);
        while heard.len() < 100 {
            rung(&carol.doorbell).await;
            let entries = read(stage, &carol, cursor).await.unwrap();
            cursor += entries.len() as u64;
            assert!(entries.last().is_none_or(|last| last.seq == cursor));
            for entry in &entries {
                heard.push((from(entry).unwrap().clone(), texts(std::slice::from_ref(entry)).remove(0)));
            }
            stage.backplane().send(&carol.joined.session, secret(&carol), Vec::new(), cursor).await.unwrap();
        }
        heard
    };
    let ((), (), heard) = tokio::join!(talk(&alice), talk(&bob), listen);
    for sender in [&alice, &bob] {
        let own =
            heard.iter().filter(|(from, _)| *from == sender.joined.session).map(|(_, text)| text.clone());
        assert!(own.eq((1..=50).map(|number: u64| number.to_string())));
    }
}

pub(super) async fn only_who_may_makes_a_room(stage: &impl Stage) {
    let guest = || Join { may_create: false, ..join("red") };
    let refused = stage.backplane().join(guest()).await;
    assert_eq!(refusal(refused), Refusal::MayNotCreate);
    let host = enter(stage, "red").await;
    let (guest, _) = stage.backplane().join(guest()).await.unwrap();
    assert_eq!((guest.outcome, guest.others), (Outcome::New, vec![host.joined.member]));
}

pub(super) async fn who_comes_back_anew_takes_its_own_place_in_a_full_room(stage: &impl Stage) {
    let signed = |identity: &str| Profile { identity: identity.into(), ..Profile::default() };
    let keyed = |key: u8| Profile { identity_key: vec![key; 32].into(), ..Profile::default() };
    let come = async |profile: Profile| stage.backplane().join(Join { profile, ..join("red") }).await;
    let (alice, alice_bell) = come(signed("alice")).await.unwrap();
    let (bob, _) = come(signed("bob")).await.unwrap();
    let (carol, _) = come(keyed(3)).await.unwrap();
    let full = Refusal::RoomFull { limit: LIMITS.room_size };
    // Everybody has a stream: nobody makes way, not even for itself.
    assert_eq!(refusal(come(signed("bob")).await), full);
    stage.backplane().detach(&bob.session, bob.epoch);
    stage.backplane().detach(&carol.session, carol.epoch);
    stage.pass(Duration::from_millis(1)).await;
    // Whoever is nobody in particular, and whoever is somebody else, finds the room full.
    let forger = Profile { identity: "mallory".into(), ..keyed(3) };
    for profile in [Profile::default(), signed("mallory"), keyed(4), forger] {
        assert_eq!(refusal(come(profile).await), full);
    }
    let (again, _) = come(signed("bob")).await.unwrap();
    assert_eq!((again.outcome, again.member.ordinal), (Outcome::New, 4));
    assert_eq!(again.others.len(), 2, "{again:?}");
    let (again, _) = come(keyed(3)).await.unwrap();
    assert_eq!(again.member.ordinal, 5);
    rung(&alice_bell).await;
    let alice = Participant { joined: alice, doorbell: alice_bell, room: "red" };
    let replaced = Presence::Left(LeaveReason::Replaced);
    let mut seen = presences(&read(stage, &alice, 0).await.unwrap());
    // A store with a clock of its own may have let the grace pass.
    seen.retain(|presence| *presence != Presence::Reconnecting);
    use Presence::Connected;
    assert_eq!(seen, [Connected, Connected, replaced, Connected, replaced, Connected]);
    // Who was replaced is told, should it come back after all.
    let bob = Participant { joined: bob, doorbell: Doorbell::default(), room: "red" };
    assert_eq!(refusal(resume(stage, &bob, 0).await), full);
    assert_eq!(stage.backplane().occupancy().await.unwrap(), Occupancy { rooms: 1, sessions: 3 });
}

pub(super) async fn rooms_are_listed_page_by_page(stage: &impl Stage) {
    assert_eq!(stage.backplane().rooms(None, 10).await.unwrap(), []);
    let names = ["red", "blue", "green", "é", "a b", "x:y"];
    let mut open = vec![enter(stage, "red").await];
    for name in names {
        open.push(enter(stage, name).await);
    }
    for size in [1, 2, 100] {
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let page = stage.backplane().rooms(after.as_ref(), size).await.unwrap();
            assert!(page.len() <= size);
            found.extend(page.iter().map(|summary| (summary.room.as_str().to_owned(), summary.sessions)));
            after = page.last().map(|last| last.room.clone());
            if page.len() < size {
                break;
            }
        }
        found.sort();
        let mut expected = names.map(|name| (name.to_owned(), if name == "red" { 2 } else { 1 }));
        expected.sort();
        assert_eq!(found, expected, "in pages of {size}");
    }
    stage.backplane().leave(&open[2].joined.session, secret(&open[2])).await.unwrap();
    assert_eq!(stage.backplane().rooms(None, 100).await.unwrap().len(), names.len() - 1);
}

pub(super) async fn an_operator_sees_who_is_in_a_room(stage: &impl Stage) {
    let [alice, bob] = [enter(stage, "red").await, enter(stage, "red").await];
    send(stage, &alice, 1..=2, 0).await.unwrap();
    stage.backplane().detach(&bob.joined.session, bob.joined.epoch);
    stage.pass(Duration::from_millis(1)).await;
    let view = stage.backplane().room(&"red".into()).await.unwrap();
    let seen: Vec<_> = view.iter().map(|s| (s.member.clone(), s.is_attached, s.waiting)).collect();
    assert_eq!(seen, [(alice.joined.member, true, 1), (bob.joined.member, false, 2)]);
    assert!(view[0].joined_at <= view[1].joined_at && view[0].joined_at.0 > 0);
    assert_eq!(stage.backplane().room(&"blue".into()).await.unwrap(), []);
}

pub(super) async fn an_operator_removes_a_session(stage: &impl Stage) {
    let [alice, bob] = [enter(stage, "red").await, enter(stage, "red").await];
    assert!(stage.backplane().remove(&bob.joined.session).await.unwrap());
    assert!(!stage.backplane().remove(&bob.joined.session).await.unwrap());
    assert!(!stage.backplane().remove(&"nobody".into()).await.unwrap());
    rung(&bob.doorbell).await;
    assert_eq!(read(stage, &bob, 0).await.unwrap_err(), StreamEnd::Ended(LeaveReason::Removed));
    let seen = presences(&read(stage, &alice, 0).await.unwrap());
    assert_eq!(seen, [Presence::Connected, Presence::Left(LeaveReason::Removed)]);
    assert_eq!(resume(stage, &bob, 0).await.unwrap().joined.outcome, Outcome::Resync);
}

pub(super) async fn an_operator_closes_a_room(stage: &impl Stage) {
    let [alice, bob] = [enter(stage, "red").await, enter(stage, "red").await];
    enter(stage, "blue").await;
    assert_eq!(stage.backplane().close(&"red".into()).await.unwrap(), 2);
    assert_eq!(stage.backplane().close(&"red".into()).await.unwrap(), 0);
    for member in [&alice, &bob] {
        rung(&member.doorbell).await;
        assert_eq!(read(stage, member, 0).await.unwrap_err(), StreamEnd::Ended(LeaveReason::Removed));
    }
    assert_eq!(stage.backplane().occupancy().await.unwrap(), Occupancy { rooms: 1, sessions: 1 });
}

/// Somebody with a stream.
pub(super) struct Participant {
    joined: Joined,
    doorbell: Doorbell,
    room: &'static str,
}

async fn enter(stage: &impl Stage, room: &'static str) -> Participant {
    let (joined, doorbell) = stage.backplane().join(join(room)).await.unwrap();
    Participant { joined, doorbell, room }
}

async fn resume(stage: &impl Stage, who: &Participant, received: u64) -> Result<Participant, Failure> {
    let resume = Resume {
        session: who.joined.session.clone(),
        secret: Bytes::copy_from_slice(secret(who)),
        last_received_seq: received,
    };
    let join = Join { resume: Some(resume), ..join(who.room) };
    let (joined, doorbell) = stage.backplane().join(join).await?;
    Ok(Participant { joined, doorbell, room: who.room })
}

fn join(room: &str) -> Join {
    Join { room: room.into(), profile: Profile::default(), request_id: None, resume: None, may_create: true }
}

fn secret(who: &Participant) -> &[u8] {
    who.joined.secret.as_bytes()
}

/// Sends frames that say their own numbers.
async fn send(
    stage: &impl Stage,
    who: &Participant,
    numbers: impl IntoIterator<Item = u64>,
    ack: u64,
) -> Result<crate::room::Sent, Failure> {
    let frames = numbers.into_iter().map(|number| frame(number, None)).collect();
    stage.backplane().send(&who.joined.session, secret(who), frames, ack).await
}

fn frame(number: u64, to: Option<SessionId>) -> Outgoing {
    Outgoing { client_seq: number, to, message: number.to_string().into() }
}

async fn read(stage: &impl Stage, who: &Participant, after: u64) -> Result<Vec<Entry>, StreamEnd> {
    match stage.backplane().read(&who.joined.session, who.joined.epoch, after, 100).await {
        Ok(entries) => Ok(entries),
        Err(ReadFailure::Ended(end)) => Err(end),
        Err(ReadFailure::Unavailable(error)) => panic!("{error}"),
    }
}

async fn rung(doorbell: &Doorbell) {
    timeout(Duration::from_secs(5), doorbell.rung()).await.expect("nobody rang");
}

fn refusal<T>(result: Result<T, Failure>) -> Refusal {
    match result {
        Err(Failure::Refused(refusal)) => refusal,
        Err(Failure::Unavailable(error)) => panic!("{error}"),
        Ok(_) => panic!("it was not refused"),
    }
}

fn from(entry: &Entry) -> Option<&SessionId> {
    match &entry.body {
        Body::Message { from, .. } => Some(from),
        Body::Participant(_) => None,
    }
}

fn texts(entries: &[Entry]) -> Vec<String> {
    let text = |entry: &Entry| match &entry.body {
        Body::Message { message, .. } => Some(String::from_utf8(message.to_vec()).unwrap()),
        Body::Participant(_) => None,
    };
    entries.iter().filter_map(text).collect()
}

fn presences(entries: &[Entry]) -> Vec<Presence> {
    let presence = |entry: &Entry| match &entry.body {
        Body::Participant(ParticipantEvent { member: Member { presence, .. }, .. }) => Some(*presence),
        Body::Message { .. } => None,
    };
    entries.iter().filter_map(presence).collect()
}
