//! A test for each line of the contract. Each plays its own schedules and judges by its own line alone.

use std::collections::HashMap;

use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

use super::naive::{Life, is_same};
use super::world::{Core, Happened, LIMITS, Op, World, op};
use crate::room::{Body, Entry, LeaveReason, Member, Outcome, Presence, Refusal, SessionId, StreamEnd};

/// Makes a test of every line for worlds of one kind.
macro_rules! contract {
    ($cases:expr, $world:expr) => {
        $crate::room::model::contract::contract!(
            $cases, $world;
            frames_come_in_order_and_once,
            a_send_returns_when_the_frames_are_in_the_logs,
            a_session_resumes_where_it_was,
            nothing_is_dropped_silently,
            the_newest_stream_wins,
            presence_is_a_lease,
            a_room_holds_its_limit,
            who_comes_back_takes_its_own_place,
            the_sender_is_who_proved_it,
        );
    };
    ($cases:expr, $world:expr; $($line:ident),+ $(,)?) => {
        proptest::proptest! {
            #![proptest_config(proptest::test_runner::Config::with_cases($cases))]
            $(#[test]
            fn $line(ops in $crate::room::model::contract::schedule()) {
                $crate::room::model::contract::$line($world, ops)?;
            })+
        }
    };
}
pub(crate) use contract;

/// Line 1: a session's `seq` is contiguous from 1, and each sender's frames come in order and once.
pub(crate) fn frames_come_in_order_and_once<C: Core>(mut world: World<C>, ops: Vec<Op>) -> TestCaseResult {
    for op in ops {
        world.step(op);
        for client in &world.clients {
            let mut last: HashMap<&SessionId, u64> = HashMap::new();
            for (index, (seq, body)) in client.seen.iter().enumerate() {
                // What a client skipped, it had acknowledged before.
                let first = client.seen.first().map_or(1, |(seq, _)| *seq);
                prop_assert_eq!(*seq, first + index as u64);
                if let Body::Message { from, message } = body {
                    let number = number(message);
                    let before = last.insert(from, number).unwrap_or(0);
                    prop_assert!(before < number, "{} after {} of {}", number, before, from);
                }
            }
        }
        for happened in &world.happened {
            if let Happened::Read { after, entries, .. } = happened {
                let expected = (after + 1..).take(entries.len());
                prop_assert!(entries.iter().map(|entry| entry.seq).eq(expected));
            }
        }
    }
    Ok(())
}

/// Line 2: what `send` took is in the receivers' logs when it returns; a log holds what follows the ack.
pub(crate) fn a_send_returns_when_the_frames_are_in_the_logs<C: Core>(
    mut world: World<C>,
    ops: Vec<Op>,
) -> TestCaseResult {
    for op in ops {
        world.step(op);
        for happened in &world.happened {
            if let Happened::Sent { at, frames, got: Ok(sent), .. } = happened {
                let room = &world.naive.sessions[*at].room;
                for frame in frames {
                    prop_assert!(frame.client_seq <= sent.last_client_seq);
                }
                for member in world.naive.members(room) {
                    let receiver = &world.naive.sessions[member];
                    let (cursor, waiting) = world.core.log(&receiver.member.session).unwrap();
                    prop_assert_eq!(cursor, receiver.acked);
                    let waiting: Vec<&Body> = waiting.iter().map(|entry| &entry.body).collect();
                    prop_assert_eq!(waiting, world.naive.waiting(member).iter().collect::<Vec<_>>());
                }
            }
            if let Happened::Rung { missing } = happened {
                prop_assert!(missing.is_empty(), "nobody rang at {:?}", missing);
            }
        }
    }
    Ok(())
}

/// Line 3: within the window a session resumes, and what it had not received comes first, in order.
pub(crate) fn a_session_resumes_where_it_was<C: Core>(mut world: World<C>, ops: Vec<Op>) -> TestCaseResult {
    for op in ops {
        world.step(op);
        for happened in &world.happened {
            match happened {
                Happened::Joined { at, outcome, expected, received, lost, others } => {
                    prop_assert_eq!(outcome, expected);
                    prop_assert!(*lost, "the client is not told rightly what it lost");
                    let session = &world.naive.sessions[*at];
                    let (cursor, waiting) = world.core.log(&session.member.session).unwrap();
                    prop_assert_eq!(cursor, session.acked.max(*received));
                    let bodies: Vec<Body> = waiting.into_iter().map(|entry| entry.body).collect();
                    prop_assert_eq!(bodies.as_slice(), world.naive.waiting(*at));
                    prop_assert_eq!(others, &world.naive.known_others(*at, cursor));
                }
                Happened::Read { at, after, entries } => {
                    let said = &world.naive.sessions[*at].said[index(*after)..];
                    for (Entry { body, .. }, expected) in entries.iter().zip(said) {
                        prop_assert_eq!(body, expected);
                    }
                }
                Happened::JoinRefused { .. }
                | Happened::Sent { .. }
                | Happened::Forged { .. }
                | Happened::StreamEnded { .. }
                | Happened::Rung { .. } => {}
            }
        }
    }
    Ok(())
}

/// Line 4: nothing is dropped silently. A frame is taken for all of its receivers or refused to its sender for
/// all of them, and in the end everybody has all of it or is out of the room and known to be.
pub(crate) fn nothing_is_dropped_silently<C: Core>(mut world: World<C>, ops: Vec<Op>) -> TestCaseResult {
    for op in ops {
        world.step(op);
        for happened in &world.happened {
            if let Happened::Sent { at, got, expected, before, .. } = happened {
                prop_assert_eq!(got, expected);
                if let Err(Refusal::LogFull { client_seq }) = got {
                    let room = &world.naive.sessions[*at].room;
                    for member in world.naive.members(room) {
                        let id = &world.naive.sessions[member].member.session;
                        let (_, waiting) = world.core.log(id).unwrap();
                        let waited = &before[id];
                        let from = &world.naive.sessions[*at].member.session;
                        prop_assert!(!holds(&waiting, from, *client_seq) || holds(waited, from, *client_seq));
                    }
                }
            }
        }
    }
    world.settle();
    for client in &world.clients {
        let Some(session) = &client.session else { continue };
        let at = world.naive.find(session).unwrap();
        let session = &world.naive.sessions[at];
        if world.naive.live(at) {
            prop_assert_eq!(client.received, session.said.len() as u64);
            for (seq, body) in &client.seen {
                prop_assert_eq!(body, &session.said[index(*seq) - 1]);
            }
            let others = world.naive.others(at);
            let present: Vec<Member> =
                others.into_iter().map(|other| world.naive.sessions[other].member.clone()).collect();
            prop_assert_eq!(&client.known, &present);
        }
    }
    Ok(())
}

/// Line 5: of all the streams a session ever had, only the newest reads.
pub(crate) fn the_newest_stream_wins<C: Core>(mut world: World<C>, ops: Vec<Op>) -> TestCaseResult {
    for op in ops {
        world.step(op);
        for (session, epoch) in &world.streams {
            let newest = world.naive.sessions[world.naive.find(session).unwrap()].epoch;
            match world.core.read(session, *epoch, 0, 1) {
                Ok(_) => prop_assert_eq!(*epoch, newest),
                Err(StreamEnd::Superseded) => prop_assert!(*epoch < newest),
                Err(StreamEnd::Unheard | StreamEnd::Ended(_)) => prop_assert_eq!(*epoch, newest),
                Err(StreamEnd::Forgotten) => {}
            }
        }
        for happened in &world.happened {
            if let Happened::StreamEnded { got, expected } = happened {
                prop_assert_eq!(&Err(*got), expected);
            }
        }
    }
    Ok(())
}

/// Line 6: presence goes from connected to reconnecting and back or out, never otherwise; what is shorter than
/// the grace does not show; what is longer does, on time.
pub(crate) fn presence_is_a_lease<C: Core>(mut world: World<C>, ops: Vec<Op>) -> TestCaseResult {
    for op in ops {
        world.step(op);
        for session in &world.naive.sessions {
            let Life::Detached { since } = session.life else { continue };
            let gone = world.now.since(since);
            prop_assert!(gone < LIMITS.resume_window, "still here after {:?}", gone);
        }
        for at in 0..world.naive.sessions.len() {
            if !world.naive.live(at) {
                continue;
            }
            let session = &world.naive.sessions[at];
            let (cursor, waiting) = world.core.log(&session.member.session).unwrap();
            let mut shown: HashMap<SessionId, Presence> = HashMap::new();
            for member in world.naive.known_others(at, cursor) {
                shown.insert(member.session, member.presence);
            }
            for Entry { at: when, body, .. } in waiting {
                let Body::Participant(event) = body else { continue };
                let id = event.member.session.clone();
                prop_assert_eq!(event.before, shown.get(&id).copied());
                prop_assert!(may_follow(event.before, event.member.presence), "{:?}", event);
                prop_assert!(when <= world.now);
                shown.insert(id, event.member.presence);
            }
            for other in world.naive.others(at) {
                let other = &world.naive.sessions[other];
                let expected = match other.life {
                    Life::Detached { since } if world.now.since(since) < LIMITS.presence_grace => None,
                    Life::Attached { .. } => Some(Presence::Connected),
                    Life::Detached { .. } => Some(Presence::Reconnecting),
                    Life::Ending { .. } | Life::Over => None,
                };
                if let Some(expected) = expected {
                    prop_assert_eq!(shown.get(&other.member.session), Some(&expected));
                }
            }
        }
    }
    Ok(())
}

/// Line 7: a room holds its limit and no more, and refuses nobody before.
pub(crate) fn a_room_holds_its_limit<C: Core>(mut world: World<C>, ops: Vec<Op>) -> TestCaseResult {
    for op in ops {
        world.step(op);
        for happened in &world.happened {
            if let Happened::JoinRefused { room, refusal, expected } = happened {
                prop_assert_eq!(Some(refusal), expected.as_ref());
                if let Refusal::RoomFull { limit } = refusal {
                    prop_assert_eq!(*limit, LIMITS.room_size);
                    prop_assert_eq!(world.naive.members(room).len(), *limit);
                }
            }
        }
        let live: Vec<usize> = (0..world.naive.sessions.len()).filter(|at| world.naive.live(*at)).collect();
        prop_assert_eq!(world.core.session_count(), live.len());
        let mut rooms: HashMap<&crate::room::RoomKey, Vec<u64>> = HashMap::new();
        for at in live {
            let session = &world.naive.sessions[at];
            rooms.entry(&session.room).or_default().push(session.member.ordinal);
        }
        prop_assert_eq!(world.core.room_count(), rooms.len());
        for ordinals in rooms.into_values() {
            prop_assert!(ordinals.len() <= LIMITS.room_size);
            prop_assert!(ordinals.is_sorted_by(|a, b| a < b), "an ordinal was given twice: {:?}", ordinals);
        }
    }
    Ok(())
}

/// Line 7, too: whoever comes to a full room may take the place of a session of its own that has no stream, and of
/// no other; that session is over.
pub(crate) fn who_comes_back_takes_its_own_place<C: Core>(
    mut world: World<C>,
    ops: Vec<Op>,
) -> TestCaseResult {
    for op in ops {
        let before: Vec<Life> = world.naive.sessions.iter().map(|session| session.life).collect();
        world.step(op);
        for (at, life) in before.into_iter().enumerate() {
            let session = &world.naive.sessions[at];
            let replaced = session.member.presence == Presence::Left(LeaveReason::Replaced);
            if !replaced || !matches!(life, Life::Attached { .. } | Life::Detached { .. }) {
                continue;
            }
            prop_assert!(matches!(life, Life::Detached { .. }), "somebody was there: {:?}", life);
            prop_assert!(world.core.log(&session.member.session).is_none(), "it is still there");
            let newest = world.naive.sessions.last().unwrap();
            prop_assert!(
                newest.room == session.room && is_same(&newest.member.profile, &session.member.profile)
            );
            prop_assert!(world.core.log(&newest.member.session).is_some());
        }
        for happened in &world.happened {
            // Whether it was refused, or let in in place of another, is as the model says.
            match happened {
                Happened::JoinRefused { refusal, expected, .. } => {
                    prop_assert_eq!(Some(refusal), expected.as_ref());
                }
                Happened::Joined { outcome, expected, .. } => prop_assert_eq!(outcome, expected),
                Happened::Sent { .. }
                | Happened::Forged { .. }
                | Happened::Read { .. }
                | Happened::StreamEnded { .. }
                | Happened::Rung { .. } => {}
            }
        }
    }
    Ok(())
}

/// Line 8: a frame is from the session whose secret was shown, and nothing else moves without that secret.
pub(crate) fn the_sender_is_who_proved_it<C: Core>(mut world: World<C>, ops: Vec<Op>) -> TestCaseResult {
    for op in ops {
        world.step(op);
        for happened in &world.happened {
            if let Happened::Forged { victim, got } = happened {
                prop_assert_eq!(got, &Err(Refusal::BadResumeSecret));
                let victim = &world.naive.sessions[*victim];
                let id = &victim.member.session;
                prop_assert!(world.core.log(id).is_some());
            }
        }
        for client in &world.clients {
            for (_, body) in &client.seen {
                if let Body::Message { from, message } = body {
                    let author = format!("{}/", from);
                    prop_assert!(message.starts_with(author.as_bytes()));
                }
            }
        }
    }
    Ok(())
}

/// The schedules must reach what the tests are about: without this, they could pass by never getting there.
#[test]
fn the_schedules_reach_every_corner() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;

    let mut runner = TestRunner::deterministic();
    let mut reached: HashMap<String, u32> = HashMap::new();
    for _ in 0..300 {
        let mut world = World::new();
        for op in schedule().new_tree(&mut runner).unwrap().current() {
            world.step(op);
            for happened in &world.happened {
                *reached.entry(corner(happened)).or_default() += 1;
            }
        }
        for session in &world.naive.sessions {
            if let Presence::Left(reason) = session.member.presence {
                *reached.entry(format!("{reason:?}")).or_default() += 1;
            }
        }
    }
    for corner in [
        "New",
        "Resumed",
        "Resync",
        "RoomFull",
        "Sent",
        "Undeliverable",
        "LogFull",
        "ClientSeqGap",
        "SessionNotFound",
        "Forged",
        "Read",
        "Superseded",
        "Unheard",
        "Left",
        "LeaseExpired",
        "Overflow",
        "Replaced",
    ] {
        assert!(reached.contains_key(corner), "{corner} was never reached: {reached:?}");
    }
}

fn corner(happened: &Happened) -> String {
    let refusal =
        |refusal: &Refusal| format!("{refusal:?}").split_whitespace().next().unwrap_or_default().to_owned();
    match happened {
        Happened::Joined { outcome, .. } => match outcome {
            Outcome::New | Outcome::Resumed | Outcome::Resync => format!("{outcome:?}"),
        },
        Happened::JoinRefused { refusal: why, .. } => refusal(why),
        Happened::Sent { got: Ok(sent), .. } if sent.undeliverable.is_empty() => "Sent".into(),
        Happened::Sent { got: Ok(_), .. } => "Undeliverable".into(),
        Happened::Sent { got: Err(why), .. } => refusal(why),
        Happened::Forged { .. } => "Forged".into(),
        Happened::Read { .. } => "Read".into(),
        Happened::StreamEnded { got: StreamEnd::Ended(LeaveReason::Overflow), .. } => "Overflow".into(),
        Happened::StreamEnded { got, .. } => format!("{got:?}"),
        Happened::Rung { .. } => "Rung".into(),
    }
}

pub(crate) fn schedule() -> impl Strategy<Value = Vec<Op>> {
    prop::collection::vec(op(), 1..150)
}

/// The number of a message that a client of the world wrote.
fn number(message: &[u8]) -> u64 {
    let text = std::str::from_utf8(message).unwrap();
    text.split_once('/').unwrap().1.trim().parse().unwrap()
}

fn index(seq: u64) -> usize {
    usize::try_from(seq).unwrap()
}

fn holds(entries: &[Entry], sender: &SessionId, client_seq: u64) -> bool {
    entries.iter().any(|entry| match &entry.body {
        Body::Message { from, message } => from == sender && number(message) == client_seq,
        Body::Participant(_) => false,
    })
}

fn may_follow(before: Option<Presence>, after: Presence) -> bool {
    matches!(
        (before, after),
        (None, Presence::Connected)
            | (Some(Presence::Connected), Presence::Reconnecting | Presence::Left(_))
            | (Some(Presence::Reconnecting), Presence::Connected | Presence::Left(_))
    )
}
