//! Clients, a network that does its worst, and the core between them.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use proptest::sample::Index;

use super::naive::{Life, Naive, apply};
use crate::room::{
    Action, Body, Entry, Fresh, Join, Joined, LeaveReason, Limits, Member, Outcome, Outgoing, Presence,
    Profile, Refusal, Resume, RoomKey, Rooms, Secret, Sent, SessionId, StreamEnd, Timestamp, Vacancy,
};

/// Something that happens. One that makes no sense at the moment does nothing.
#[derive(Debug, Clone)]
pub(crate) enum Op {
    /// A client comes into a room as somebody new. A lost answer leaves it with its request id alone.
    Join { client: usize, room: usize, answered: bool },
    /// A client repeats its last join because it never heard of it, or because the network did.
    Rejoin { client: usize, answered: bool },
    /// A client takes its session up again.
    Resume { client: usize, answered: bool },
    /// A client wants something said, to one of the sessions there ever were or to all.
    Say { client: usize, to: Option<Index>, size: usize },
    /// A client sends what is unanswered, rarely all but the first, and its ack. It arrives later, perhaps.
    Post { client: usize, skipped: usize, frames: usize },
    /// A call arrives: one of those under way, in any order, and perhaps not for the last time.
    Arrive { which: Index, again: bool, answered: bool },
    /// A client claims to be another session.
    Forge { client: usize, victim: Index },
    /// A client reads its stream.
    Read { client: usize, frames: usize },
    /// A stream breaks. The server sees it at once or not at all.
    Cut { client: usize, noticed: bool },
    /// The server sees that a stream is gone that broke or was given up long ago.
    Notice { which: Index },
    /// A client goes.
    Leave { client: usize },
    /// Time passes.
    Pass { millis: u64 },
}

/// Chooses among them, leaning to what makes things happen.
pub(crate) fn op() -> impl Strategy<Value = Op> {
    let client = || 0..CLIENTS;
    prop_oneof![
        3 => (client(), 0..ROOMS, prop::bool::weighted(0.8))
            .prop_map(|(client, room, answered)| Op::Join { client, room, answered }),
        1 => (client(), any::<bool>()).prop_map(|(client, answered)| Op::Rejoin { client, answered }),
        3 => (client(), prop::bool::weighted(0.8)).prop_map(|(client, answered)| Op::Resume { client, answered }),
        5 => (client(), prop::option::weighted(0.6, any::<Index>()), 8..60usize)
            .prop_map(|(client, to, size)| Op::Say { client, to, size }),
        5 => (client(), prop::bool::weighted(0.1), 0..4usize)
            .prop_map(|(client, skip, frames)| Op::Post { client, skipped: usize::from(skip), frames }),
        7 => (any::<Index>(), prop::bool::weighted(0.2), prop::bool::weighted(0.8))
            .prop_map(|(which, again, answered)| Op::Arrive { which, again, answered }),
        1 => (client(), any::<Index>()).prop_map(|(client, victim)| Op::Forge { client, victim }),
        5 => (client(), 1..6usize).prop_map(|(client, frames)| Op::Read { client, frames }),
        2 => (client(), any::<bool>()).prop_map(|(client, noticed)| Op::Cut { client, noticed }),
        1 => any::<Index>().prop_map(|which| Op::Notice { which }),
        1 => client().prop_map(|client| Op::Leave { client }),
        3 => prop_oneof![0..50u64, 0..500u64].prop_map(|millis| Op::Pass { millis }),
    ]
}

pub(crate) const LIMITS: Limits = Limits {
    room_size: 3,
    log_frames: 4,
    log_bytes: 120,
    resume_window: Duration::from_millis(1000),
    presence_grace: Duration::from_millis(100),
    lease: Duration::from_millis(600),
};

/// What is tried: the core itself, or its rules in another place.
pub(crate) trait Core {
    fn handle_join(
        &mut self,
        now: Timestamp,
        join: Join,
        fresh: Fresh,
        vacancy: Vacancy,
    ) -> Result<Joined, Refusal>;
    fn handle_send(
        &mut self,
        now: Timestamp,
        sender: &SessionId,
        secret: &[u8],
        frames: Vec<Outgoing>,
        ack: u64,
    ) -> Result<Sent, Refusal>;
    fn handle_leave(&mut self, now: Timestamp, session: &SessionId, secret: &[u8]) -> Result<(), Refusal>;
    fn handle_detach(&mut self, now: Timestamp, session: &SessionId, epoch: u64);
    fn handle_timeout(&mut self, now: Timestamp);
    fn read(&self, session: &SessionId, epoch: u64, after: u64, max: usize) -> Result<Vec<Entry>, StreamEnd>;
    /// Who was rung since this was last asked.
    fn rung(&mut self) -> HashSet<SessionId>;
    /// What has been acknowledged of a session's log, and what waits in it.
    fn log(&self, session: &SessionId) -> Option<(u64, Vec<Entry>)>;
    fn room_count(&self) -> usize;
    fn session_count(&self) -> usize;
}

impl Core for Rooms {
    fn handle_join(
        &mut self,
        now: Timestamp,
        join: Join,
        fresh: Fresh,
        vacancy: Vacancy,
    ) -> Result<Joined, Refusal> {
        self.handle_join(now, join, fresh, vacancy)
    }

    fn handle_send(
        &mut self,
        now: Timestamp,
        sender: &SessionId,
        secret: &[u8],
        frames: Vec<Outgoing>,
        ack: u64,
    ) -> Result<Sent, Refusal> {
        self.handle_send(now, sender, secret, frames, ack)
    }

    fn handle_leave(&mut self, now: Timestamp, session: &SessionId, secret: &[u8]) -> Result<(), Refusal> {
        self.handle_leave(now, session, secret)
    }

    fn handle_detach(&mut self, now: Timestamp, session: &SessionId, epoch: u64) {
        self.handle_detach(now, session, epoch);
    }

    fn handle_timeout(&mut self, now: Timestamp) {
        self.handle_timeout(now);
    }

    fn read(&self, session: &SessionId, epoch: u64, after: u64, max: usize) -> Result<Vec<Entry>, StreamEnd> {
        self.read(session, epoch, after, max)
    }

    fn rung(&mut self) -> HashSet<SessionId> {
        std::iter::from_fn(|| self.poll_action()).map(|Action::Ring(session)| session).collect()
    }

    fn log(&self, session: &SessionId) -> Option<(u64, Vec<Entry>)> {
        self.log(session)
    }

    fn room_count(&self) -> usize {
        self.room_count()
    }

    fn session_count(&self) -> usize {
        self.session_count()
    }
}

pub(crate) struct World<C = Rooms> {
    pub(crate) core: C,
    pub(crate) naive: Naive,
    pub(crate) now: Timestamp,
    pub(crate) clients: Vec<Client>,
    calls: Vec<Call>,
    /// Every stream that was ever opened and not yet seen to be gone.
    pub(crate) streams: Vec<(SessionId, u64)>,
    requests: u64,
    /// What the last operation came to, for a test to judge.
    pub(crate) happened: Vec<Happened>,
}

/// What the core answered, next to what the model answered.
#[derive(Debug)]
pub(crate) enum Happened {
    Joined {
        at: usize,
        outcome: Outcome,
        expected: Outcome,
        received: u64,
        lost: bool,
        others: Vec<Member>,
    },
    JoinRefused {
        room: RoomKey,
        refusal: Refusal,
        expected: Option<Refusal>,
    },
    Sent {
        at: usize,
        frames: Vec<Outgoing>,
        got: Result<Sent, Refusal>,
        expected: Result<Sent, Refusal>,
        before: HashMap<SessionId, Vec<Entry>>,
    },
    Forged {
        victim: usize,
        got: Result<Sent, Refusal>,
    },
    Read {
        at: usize,
        after: u64,
        entries: Vec<Entry>,
    },
    StreamEnded {
        got: StreamEnd,
        expected: Result<(), StreamEnd>,
    },
    Rung {
        missing: Vec<SessionId>,
    },
}

#[derive(Default)]
pub(crate) struct Client {
    join: Option<(RoomKey, Box<str>, Option<Resume>)>,
    pub(crate) session: Option<SessionId>,
    pub(crate) stream: Option<u64>,
    outbox: Vec<Outgoing>,
    said: u64,
    /// The highest `seq` that the application has processed.
    pub(crate) received: u64,
    /// What it has processed in this session.
    pub(crate) seen: Vec<(u64, Body)>,
    /// The others, as it knows them from its welcome and the events that followed.
    pub(crate) known: Vec<Member>,
}

#[derive(Clone)]
struct Call {
    client: usize,
    session: SessionId,
    frames: Vec<Outgoing>,
    ack: u64,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::of(Rooms::new(LIMITS))
    }
}

impl<C: Core> World<C> {
    pub(crate) fn of(core: C) -> Self {
        Self {
            core,
            naive: Naive::new(LIMITS),
            now: Timestamp(1_000_000),
            clients: (0..CLIENTS).map(|_| Client::default()).collect(),
            calls: Vec::new(),
            streams: Vec::new(),
            requests: 0,
            happened: Vec::new(),
        }
    }

    pub(crate) fn step(&mut self, op: Op) {
        self.happened.clear();
        let before: Vec<(u64, Life)> = self.news();
        match op {
            Op::Join { client, room, answered } => {
                self.requests += 1;
                let request_id = format!("request-{}", self.requests).into();
                self.clients[client] = Client::default();
                let room = RoomKey::from(["red", "blue"][room]);
                self.clients[client].join = Some((room, request_id, None));
                self.join(client, answered);
            }
            Op::Rejoin { client, answered } => self.join(client, answered),
            Op::Resume { client, answered } => {
                let Some(session) = self.clients[client].session.clone() else { return };
                let last_received_seq = self.clients[client].received;
                let secret = secret_of(&session);
                let resume = Resume { session, secret, last_received_seq };
                if let Some((_, _, again)) = &mut self.clients[client].join {
                    *again = Some(resume);
                }
                self.join(client, answered);
            }
            Op::Say { client, to, size } => self.say(client, to, size),
            Op::Post { client, skipped, frames } => {
                let Client { session: Some(session), outbox, received, .. } = &self.clients[client] else {
                    return;
                };
                let frames = outbox.iter().skip(skipped).take(frames).cloned().collect();
                self.calls.push(Call { client, session: session.clone(), frames, ack: *received });
            }
            Op::Arrive { which, again, answered } => {
                if !self.calls.is_empty() {
                    let which = which.index(self.calls.len());
                    let call = if again { self.calls[which].clone() } else { self.calls.remove(which) };
                    self.arrive(call, answered);
                }
            }
            Op::Forge { client, victim } => self.forge(client, victim),
            Op::Read { client, frames } => self.read(client, frames),
            Op::Cut { client, noticed } => {
                let Client { session: Some(session), stream, .. } = &mut self.clients[client] else { return };
                if let (Some(epoch), true) = (stream.take(), noticed) {
                    let session = session.clone();
                    self.detach(&session, epoch);
                }
            }
            Op::Notice { which } => {
                if !self.streams.is_empty() {
                    let (session, epoch) = self.streams[which.index(self.streams.len())].clone();
                    self.detach(&session, epoch);
                }
            }
            Op::Leave { client } => {
                let Some(session) = self.clients[client].session.clone() else { return };
                self.core.handle_leave(self.now, &session, &secret_of(&session)).unwrap();
                let at = self.naive.find(&session).unwrap();
                self.naive.end(self.now, at, LeaveReason::Left);
            }
            Op::Pass { millis } => {
                self.now = Timestamp(self.now.0 + millis);
                self.core.handle_timeout(self.now);
                self.naive.pass(self.now);
            }
        }
        self.ring(&before);
    }

    /// Everybody comes back and reads to the end.
    pub(crate) fn settle(&mut self) {
        for client in 0..CLIENTS {
            let Some(session) = &self.clients[client].session else { continue };
            if self.naive.live(self.naive.find(session).unwrap()) {
                self.step(Op::Resume { client, answered: true });
                self.step(Op::Read { client, frames: usize::MAX });
            }
        }
        // The first ones' coming back was news to the others.
        for client in 0..CLIENTS {
            self.step(Op::Read { client, frames: usize::MAX });
        }
    }

    fn join(&mut self, client: usize, answered: bool) {
        let Some((room, request_id, resume)) = self.clients[client].join.clone() else { return };
        let profile = profile_of(client);
        let asked = resume.as_ref().map(|resume| (&resume.session, resume.last_received_seq));
        let mut expected = self.naive.join(&room, &profile, Some(&request_id), asked);
        let mut received = match (&expected, &asked) {
            (Ok((_, Outcome::Resumed)), Some((_, received))) => *received,
            _ => 0,
        };
        let mut lost = false;
        if let Ok((Some(at), _)) = expected {
            lost = received < self.naive.sessions[at].acked;
            self.naive.resumed(self.now, at, received);
            if !self.naive.live(at) {
                expected = self.naive.join(&room, &profile, Some(&request_id), asked);
                (received, lost) = (0, false);
            }
        }
        self.requests += 1;
        let join = Join {
            room: room.clone(),
            profile,
            request_id: Some(request_id.clone()),
            resume,
            may_create: true,
        };
        let joined = match self.core.handle_join(self.now, join, fresh(self.requests), FREE) {
            Ok(joined) => joined,
            Err(refusal) => {
                let expected = expected.err();
                self.happened.push(Happened::JoinRefused { room, refusal, expected });
                return;
            }
        };
        let at = self.naive.find(&joined.session).unwrap_or_else(|| {
            let unseen = Member { presence: Presence::Connected, ..joined.member.clone() };
            let at = self.naive.entered(self.now, room, Some(request_id), unseen);
            self.naive.resumed(self.now, at, 0);
            at
        });
        self.streams.push((joined.session.clone(), joined.epoch));
        let outcome = expected.map_or(joined.outcome, |(_, outcome)| outcome);
        self.happened.push(Happened::Joined {
            at,
            outcome: joined.outcome,
            expected: outcome,
            received,
            lost: joined.lost == lost,
            others: joined.others.clone(),
        });
        if !answered {
            return;
        }
        let client = &mut self.clients[client];
        if client.session.as_ref() != Some(&joined.session) {
            *client = Client { join: client.join.take(), ..Client::default() };
            client.session = Some(joined.session);
        }
        client.stream = Some(joined.epoch);
        client.known = joined.others;
        // A client whose own memory is behind what it acknowledged is told where the stream goes on.
        client.received = client.received.max(joined.cursor);
        client.outbox.retain(|frame| frame.client_seq > joined.last_client_seq);
        client.said = client.said.max(joined.last_client_seq);
        if client.received > joined.cursor {
            // It knows more than the server was told: it processes nothing twice.
            for body in &self.naive.sessions[at].said
                [usize::try_from(joined.cursor).unwrap()..usize::try_from(client.received).unwrap()]
            {
                if let Body::Participant(event) = body {
                    apply(&mut client.known, event);
                }
            }
        }
    }

    fn say(&mut self, client: usize, to: Option<Index>, size: usize) {
        let known = self.naive.sessions.len();
        let client = &mut self.clients[client];
        let Some(session) = &client.session else { return };
        let to = to.map(|to| self.naive.sessions[to.index(known)].member.session.clone());
        client.said += 1;
        let text = format!("{session}/{:<size$}", client.said);
        client.outbox.push(Outgoing { client_seq: client.said, to, message: text.into() });
    }

    fn arrive(&mut self, call: Call, answered: bool) {
        let at = self.naive.find(&call.session).unwrap();
        let before = self.logs(at);
        let frames = call.frames.clone();
        let secret = secret_of(&call.session);
        let got = self.core.handle_send(self.now, &call.session, &secret, call.frames, call.ack);
        let expected = self.naive.send(self.now, at, &frames, call.ack);
        let client = &mut self.clients[call.client];
        if let (Ok(sent), true) = (&got, answered)
            && client.session.as_ref() == Some(&call.session)
        {
            client.outbox.retain(|frame| frame.client_seq > sent.last_client_seq);
        }
        self.happened.push(Happened::Sent { at, frames, got, expected, before });
    }

    /// Of everybody in the room of a session.
    fn logs(&self, at: usize) -> HashMap<SessionId, Vec<Entry>> {
        let members = self.naive.members(&self.naive.sessions[at].room).into_iter();
        let ids = members.map(|member| self.naive.sessions[member].member.session.clone());
        ids.filter_map(|id| self.core.log(&id).map(|(_, waiting)| (id, waiting))).collect()
    }

    fn forge(&mut self, client: usize, victim: Index) {
        let Some(session) = self.clients[client].session.clone() else { return };
        let victim = victim.index(self.naive.sessions.len());
        let claimed = self.naive.sessions[victim].member.session.clone();
        if claimed == session || !self.naive.live(victim) {
            return;
        }
        let next = self.naive.sessions[victim].taken + 1;
        let frame = Outgoing { client_seq: next, to: None, message: format!("{session}/forged").into() };
        let got = self.core.handle_send(self.now, &claimed, &secret_of(&session), vec![frame], 0);
        self.happened.push(Happened::Forged { victim, got });
    }

    fn read(&mut self, client: usize, frames: usize) {
        let Client { session: Some(session), stream: Some(epoch), received, .. } = &self.clients[client]
        else {
            return;
        };
        let at = self.naive.find(session).unwrap();
        let (after, epoch, session) = (*received, *epoch, session.clone());
        match self.core.read(&session, epoch, after, frames) {
            Ok(entries) => {
                let client = &mut self.clients[client];
                for Entry { seq, body, .. } in &entries {
                    if let Body::Participant(event) = body {
                        apply(&mut client.known, event);
                    }
                    client.received = *seq;
                    client.seen.push((*seq, body.clone()));
                }
                self.happened.push(Happened::Read { at, after, entries });
            }
            Err(got) => {
                let expected = self.naive.read(at, epoch);
                self.clients[client].stream = None;
                self.happened.push(Happened::StreamEnded { got, expected });
                self.detach(&session, epoch);
            }
        }
    }

    fn detach(&mut self, session: &SessionId, epoch: u64) {
        self.streams.retain(|stream| *stream != (session.clone(), epoch));
        self.core.handle_detach(self.now, session, epoch);
        let at = self.naive.find(session).unwrap();
        self.naive.detach(self.now, at, epoch);
    }

    /// How far each session's stream could read, and whether there is one.
    fn news(&self) -> Vec<(u64, Life)> {
        self.naive.sessions.iter().map(|session| (session.said.len() as u64, session.life)).collect()
    }

    /// Whoever has something new at its door must have heard the bell.
    fn ring(&mut self, before: &[(u64, Life)]) {
        let rung = self.core.rung();
        let mut missing = Vec::new();
        for (session, (said, life)) in self.naive.sessions.iter().zip(before) {
            let attached = matches!(life, Life::Attached { .. });
            let told = session.said.len() as u64 > *said || matches!(session.life, Life::Ending { .. });
            if attached && told && !rung.contains(&session.member.session) {
                missing.push(session.member.session.clone());
            }
        }
        self.happened.push(Happened::Rung { missing });
    }
}

/// Every session's secret is made of its id, so that anybody here can find it.
fn secret_of(session: &SessionId) -> Bytes {
    let id = session.as_str().as_bytes();
    Bytes::copy_from_slice(&id[id.len() - Secret::LENGTH..])
}

/// Some are the same one, in the one or the other way, and one is nobody.
fn profile_of(client: usize) -> Profile {
    let (identity, key) = [("ada", ""), ("ada", "key"), ("", "key"), ("", "key"), ("", "")][client];
    Profile {
        identity: identity.into(),
        identity_key: Bytes::from_static(key.as_bytes()),
        ..Profile::default()
    }
}

fn fresh(number: u64) -> Fresh {
    let session = SessionId::from(format!("{number:020}").as_str());
    let secret = Secret::new(secret_of(&session).as_ref().try_into().unwrap());
    Fresh { session, secret }
}

const CLIENTS: usize = 5;
const ROOMS: usize = 2;
const FREE: Vacancy = Vacancy { rooms: usize::MAX, sessions: usize::MAX };
