//! Between the core's words and the server's: arguments of its functions, and their answers.

use std::sync::Arc;

use bytes::Bytes;
use farcall_proto::signaling::v1::Participant;
use prost::Message;
use redis::Value;

use crate::room::{
    Body, Entry, Joined, LeaveReason, Limits, Member, Outcome, Outgoing, ParticipantEvent, Presence, Profile,
    Refusal, RoomSummary, Secret, Sent, SessionId, SessionView, StreamEnd, Timestamp, undo_events,
};

/// An answer that this version of the functions does not give.
#[derive(Debug, thiserror::Error)]
#[error("the server's answer makes no sense: {0}")]
pub(super) struct Nonsense(&'static str);

/// `limits` of the functions.
pub(super) fn limits(limits: &Limits) -> String {
    let Limits { room_size, log_frames, log_bytes, resume_window, presence_grace, lease } = limits;
    let [window, grace, lease] = [resume_window, presence_grace, lease].map(|time| time.as_millis());
    format!("{room_size} {log_frames} {log_bytes} {window} {grace} {lease}")
}

pub(super) fn profile(profile: &Profile) -> Vec<u8> {
    let Profile { display_name, capabilities, identity_key, identity } = profile.clone();
    let identity_key = identity_key.to_vec();
    Participant { display_name, capabilities, identity_key, identity, ..Participant::default() }
        .encode_to_vec()
}

/// An answer, read from its beginning.
pub(super) struct Reply(std::vec::IntoIter<Value>);

impl Reply {
    pub(super) fn new(value: Value) -> Result<Self, Nonsense> {
        let Value::Array(values) = value else { return Err(Nonsense("no array")) };
        Ok(Self(values.into_iter()))
    }

    pub(super) fn joined(mut self, limits: &Limits) -> Result<Result<Answer, Refusal>, Nonsense> {
        if let Some(refusal) = self.refusal(limits, &[])? {
            return Ok(Err(refusal));
        }
        let session = self.session()?;
        let secret = <[u8; Secret::LENGTH]>::try_from(self.bytes()?).map_err(|_| Nonsense("a secret"))?;
        let epoch = self.number()?;
        let outcome = match self.letter()? {
            b'n' => Outcome::New,
            b'r' => Outcome::Resumed,
            b'y' => Outcome::Resync,
            _ => return Err(Nonsense("an outcome")),
        };
        let cursor = self.number()?;
        let lost = self.number()? != 0;
        let last_client_seq = self.number()?;
        let member = Member {
            session: session.clone(),
            ordinal: self.number()?,
            presence: presence(self.letter()?).ok_or(Nonsense("a presence"))?,
            profile: Arc::new(decode_profile(&self.bytes()?)?),
        };
        let (rooms, sessions) = (self.number()?, self.number()?);
        let mut others = Vec::new();
        for _ in 0..self.number()? {
            others.push(Member {
                session: self.session()?,
                ordinal: self.number()?,
                presence: presence(self.letter()?).ok_or(Nonsense("a presence"))?,
                profile: Arc::new(decode_profile(&self.bytes()?)?),
            });
        }
        let mut events = Vec::new();
        for value in self.0.by_ref() {
            match entry(0, bytes(value)?)?.body {
                Body::Participant(event) => events.push(event),
                Body::Message { .. } => return Err(Nonsense("a message among events")),
            }
        }
        undo_events(&mut others, events.iter().rev());
        let secret = Secret::new(secret);
        let joined =
            Joined { session, secret, epoch, outcome, cursor, lost, last_client_seq, member, others };
        Ok(Ok(Answer { joined, rooms, sessions }))
    }

    pub(super) fn sent(
        mut self,
        frames: &[Outgoing],
        limits: &Limits,
    ) -> Result<Result<Sent, Refusal>, Nonsense> {
        if let Some(refusal) = self.refusal(limits, frames)? {
            return Ok(Err(refusal));
        }
        let last_client_seq = self.number()?;
        let mut undeliverable = Vec::new();
        while self.0.len() > 0 {
            let frame = frame(frames, self.number()?)?;
            undeliverable.push((frame.client_seq, frame.to.clone()));
        }
        Ok(Ok(Sent { last_client_seq, undeliverable }))
    }

    /// How many rooms and sessions the shard has.
    pub(super) fn counted(mut self, limits: &Limits) -> Result<Result<(u64, u64), Refusal>, Nonsense> {
        if let Some(refusal) = self.refusal(limits, &[])? {
            return Ok(Err(refusal));
        }
        Ok(Ok((self.number()?, self.number()?)))
    }

    pub(super) fn read(mut self) -> Result<Result<Vec<Entry>, StreamEnd>, Nonsense> {
        if self.number()? != 0 {
            return Ok(Err(match self.letter()? {
                b's' => StreamEnd::Superseded,
                b'u' => StreamEnd::Unheard,
                b'f' => StreamEnd::Forgotten,
                reason => match presence(reason) {
                    Some(Presence::Left(reason)) => StreamEnd::Ended(reason),
                    _ => return Err(Nonsense("an end")),
                },
            }));
        }
        let skipped = self.number()?;
        let entries = self.0.zip(skipped + 1..).map(|(value, seq)| entry(seq, bytes(value)?));
        entries.collect::<Result<_, _>>().map(Ok)
    }

    /// How many rooms and sessions the shard has, and how many sessions were ended.
    pub(super) fn ended(mut self) -> Result<(u64, u64, u64), Nonsense> {
        match self.number()? {
            0 => Ok((self.number()?, self.number()?, self.number()?)),
            _ => Err(Nonsense("a refusal")),
        }
    }

    /// The shard's rooms, in no order.
    pub(super) fn rooms(mut self) -> Result<Vec<RoomSummary>, Nonsense> {
        let mut rooms = Vec::with_capacity(self.0.len() / 2);
        while self.0.len() > 0 {
            let room = self.bytes()?;
            let room = std::str::from_utf8(&room).map_err(|_| Nonsense("a room"))?.into();
            let sessions = usize::try_from(self.number()?).unwrap_or(usize::MAX);
            rooms.push(RoomSummary { room, sessions });
        }
        Ok(rooms)
    }

    /// Who is in a room.
    pub(super) fn view(mut self) -> Result<Vec<SessionView>, Nonsense> {
        let mut sessions = Vec::new();
        while self.0.len() > 0 {
            let member = Member {
                session: self.session()?,
                ordinal: self.number()?,
                presence: presence(self.letter()?).ok_or(Nonsense("a presence"))?,
                profile: Arc::new(decode_profile(&self.bytes()?)?),
            };
            sessions.push(SessionView {
                member,
                is_attached: self.number()? != 0,
                joined_at: Timestamp(self.number()?),
                waiting: usize::try_from(self.number()?).unwrap_or(usize::MAX),
            });
        }
        Ok(sessions)
    }

    /// Places in what was asked about.
    pub(super) fn places(mut self) -> Result<Vec<u64>, Nonsense> {
        let mut places = Vec::with_capacity(self.0.len());
        while self.0.len() > 0 {
            places.push(self.number()?);
        }
        Ok(places)
    }

    fn refusal(&mut self, limits: &Limits, frames: &[Outgoing]) -> Result<Option<Refusal>, Nonsense> {
        Ok(Some(match self.number()? {
            0 => return Ok(None),
            1 => Refusal::RoomFull { limit: limits.room_size },
            2 => Refusal::ServerFull,
            3 => Refusal::LogFull { client_seq: self.number()? },
            4 => Refusal::SessionNotFound,
            5 => Refusal::BadResumeSecret,
            6 => {
                let expected = self.number()?;
                Refusal::ClientSeqGap { expected, got: frame(frames, self.number()?)?.client_seq }
            }
            7 => Refusal::BeyondTheLog { last: self.number()? },
            8 => Refusal::MayNotCreate,
            _ => return Err(Nonsense("a refusal")),
        }))
    }

    fn number(&mut self) -> Result<u64, Nonsense> {
        match self.0.next() {
            Some(Value::Int(number)) => number.try_into().map_err(|_| Nonsense("a negative number")),
            _ => Err(Nonsense("no number")),
        }
    }

    fn bytes(&mut self) -> Result<Vec<u8>, Nonsense> {
        bytes(self.0.next().ok_or(Nonsense("too short"))?)
    }

    fn letter(&mut self) -> Result<u8, Nonsense> {
        match self.bytes()?.as_slice() {
            [letter] => Ok(*letter),
            _ => Err(Nonsense("no letter")),
        }
    }

    fn session(&mut self) -> Result<SessionId, Nonsense> {
        let id = self.bytes()?;
        Ok(std::str::from_utf8(&id).map_err(|_| Nonsense("a session id"))?.into())
    }
}

/// What a join came to, and how many rooms and sessions the shard has now.
pub(super) struct Answer {
    pub(super) joined: Joined,
    pub(super) rooms: u64,
    pub(super) sessions: u64,
}

fn frame(frames: &[Outgoing], index: u64) -> Result<&Outgoing, Nonsense> {
    usize::try_from(index).ok().and_then(|index| frames.get(index)).ok_or(Nonsense("a frame"))
}

fn bytes(value: Value) -> Result<Vec<u8>, Nonsense> {
    let Value::BulkString(bytes) = value else { return Err(Nonsense("no string")) };
    Ok(bytes)
}

fn decode_profile(bytes: &[u8]) -> Result<Profile, Nonsense> {
    let Participant { display_name, capabilities, identity_key, identity, .. } =
        Participant::decode(bytes).map_err(|_| Nonsense("a profile"))?;
    Ok(Profile { display_name, capabilities, identity_key: identity_key.into(), identity })
}

fn presence(letter: u8) -> Option<Presence> {
    Some(match letter {
        b'c' => Presence::Connected,
        b'r' => Presence::Reconnecting,
        b'l' => Presence::Left(LeaveReason::Left),
        b'x' => Presence::Left(LeaveReason::LeaseExpired),
        b'm' => Presence::Left(LeaveReason::Removed),
        b'o' => Presence::Left(LeaveReason::Overflow),
        b'p' => Presence::Left(LeaveReason::Replaced),
        _ => return None,
    })
}

/// A log's entry: a line that says what it is, and the bytes that it is about.
fn entry(seq: u64, bytes: Vec<u8>) -> Result<Entry, Nonsense> {
    let bad = || Nonsense("a log's entry");
    let mut bytes = Bytes::from(bytes);
    let end = bytes.iter().position(|byte| *byte == b'\n').ok_or_else(bad)?;
    let head = bytes.split_to(end);
    let rest = bytes.slice(1..);
    let head = std::str::from_utf8(&head).map_err(|_| bad())?;
    let (kind, head) = head.split_at_checked(1).ok_or_else(bad)?;
    let mut words = head.split(' ');
    let mut word = || words.next().ok_or_else(bad);
    let at = Timestamp(word()?.parse().map_err(|_| bad())?);
    let session = SessionId::from(word()?);
    let body = match kind {
        "M" => Body::Message { from: session, message: rest },
        "P" => {
            let ordinal = word()?.parse().map_err(|_| bad())?;
            let [presence, before] = [word()?, word()?].map(|word| word.bytes().next().and_then(presence));
            let profile = Arc::new(decode_profile(&rest)?);
            let member = Member { session, ordinal, profile, presence: presence.ok_or_else(bad)? };
            Body::Participant(ParticipantEvent { member, before })
        }
        _ => return Err(bad()),
    };
    Ok(Entry { seq, at, body })
}
