//! The core itself: what each call does to the rooms, the sessions and their logs.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use super::session::{Line, Session};
use super::{
    Action, Body, Entry, Fresh, Join, Joined, LeaveReason, Limits, Member, Outcome, Outgoing,
    ParticipantEvent, Presence, Profile, Refusal, RoomKey, Sent, SessionId, StreamEnd, Timestamp, Vacancy,
    undo_events,
};

/// Rooms with the sessions in them. See the module for what it promises.
#[derive(Debug, Clone)]
pub struct Rooms {
    limits: Limits,
    pub(super) rooms: HashMap<RoomKey, Room>,
    pub(super) sessions: HashMap<SessionId, Session>,
    /// Sessions that ended under a stream, until that stream has been told or has had the window's time.
    ended: HashMap<SessionId, Ended>,
    deadlines: BTreeSet<(Timestamp, SessionId)>,
    actions: VecDeque<Action>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Room {
    /// In the order they joined.
    pub(super) members: Vec<SessionId>,
    last_ordinal: u64,
}

#[derive(Debug, Clone)]
struct Ended {
    epoch: u64,
    reason: LeaveReason,
}

impl Rooms {
    /// No room yet.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            rooms: HashMap::new(),
            sessions: HashMap::new(),
            ended: HashMap::new(),
            deadlines: BTreeSet::new(),
            actions: VecDeque::new(),
        }
    }

    /// A participant enters a room or takes its session up again. Its new stream fences the older ones.
    pub fn handle_join(
        &mut self,
        now: Timestamp,
        join: Join,
        fresh: Fresh,
        vacancy: Vacancy,
    ) -> Result<Joined, Refusal> {
        if let Some(resume) = &join.resume
            && let Some(session) = self.sessions.get(&resume.session)
            && session.room == join.room
        {
            session.check_secret(&resume.secret)?;
            session.check_received(resume.last_received_seq)?;
            // The news of its return may be the last straw for a log of the others, and that news for its own.
            if let Some(joined) =
                self.attach(now, &resume.session, resume.last_received_seq, Outcome::Resumed)
            {
                return Ok(joined);
            }
        }
        let asked_for_another = join.resume.is_some();
        if let Some(session) = self.find_request(&join) {
            let outcome = if asked_for_another { Outcome::Resync } else { Outcome::Resumed };
            if let Some(joined) = self.attach(now, &session, 0, outcome) {
                return Ok(joined);
            }
        }
        let session = self.enter(now, join, fresh, vacancy)?;
        let outcome = if asked_for_another { Outcome::Resync } else { Outcome::New };
        self.attach(now, &session, 0, outcome).ok_or(Refusal::SessionNotFound)
    }

    /// Takes a client's frames and its ack, and renews its lease.
    ///
    /// Frame by frame, each for all of its receivers or for none. On a refusal the frames before it, and the ack,
    /// have been taken.
    pub fn handle_send(
        &mut self,
        now: Timestamp,
        sender: &SessionId,
        secret: &[u8],
        frames: Vec<Outgoing>,
        ack: u64,
    ) -> Result<Sent, Refusal> {
        let session = self.sessions.get_mut(sender).ok_or(Refusal::SessionNotFound)?;
        session.check_secret(secret)?;
        session.check_received(ack)?;
        session.log.trim(ack);
        session.renew(now, &self.limits);
        self.arm(sender);

        let mut undeliverable = Vec::new();
        for frame in frames {
            if !self.take(now, sender, &frame)? {
                undeliverable.push((frame.client_seq, frame.to));
            }
        }
        let last_client_seq = self.sessions.get(sender).map_or(0, |session| session.last_client_seq);
        Ok(Sent { last_client_seq, undeliverable })
    }

    /// A participant goes for good. Going twice is no error.
    pub fn handle_leave(
        &mut self,
        now: Timestamp,
        session: &SessionId,
        secret: &[u8],
    ) -> Result<(), Refusal> {
        let Some(leaving) = self.sessions.get(session) else { return Ok(()) };
        leaving.check_secret(secret)?;
        self.end(now, vec![session.clone()], LeaveReason::Left);
        Ok(())
    }

    /// A stream is gone. Nothing happens if it was not the session's newest.
    pub fn handle_detach(&mut self, now: Timestamp, session: &SessionId, epoch: u64) {
        if self.ended.get(session).is_some_and(|ended| ended.epoch == epoch) {
            self.ended.remove(session);
        }
        let Some(detached) = self.sessions.get_mut(session) else { return };
        if detached.epoch == epoch && detached.is_attached() {
            detached.line = Line::Detached { since: now };
            self.arm(session);
        }
    }

    /// Does what the passing of time alone does.
    pub fn handle_timeout(&mut self, now: Timestamp) {
        while let Some((due, id)) = self.deadlines.first().cloned()
            && due <= now
        {
            self.deadlines.pop_first();
            let Some(session) = self.sessions.get_mut(&id) else {
                self.ended.remove(&id);
                continue;
            };
            session.armed = None;
            match session.line {
                Line::Attached { .. } => {
                    session.line = Line::Detached { since: due };
                    self.actions.push_back(Action::Ring(id.clone()));
                    self.show(now, &id, Presence::Reconnecting);
                }
                Line::Detached { since } if since.after(self.limits.resume_window) <= due => {
                    self.end(now, vec![id], LeaveReason::LeaseExpired);
                    continue;
                }
                Line::Detached { .. } => self.show(now, &id, Presence::Reconnecting),
            }
            self.arm(&id);
        }
    }

    /// When to call [`Self::handle_timeout`].
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// Drain until `None` after every call that changes something.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Up to `max` frames that follow `after`, for the stream of this `epoch`.
    pub fn read(
        &self,
        session: &SessionId,
        epoch: u64,
        after: u64,
        max: usize,
    ) -> Result<Vec<Entry>, StreamEnd> {
        let Some(reader) = self.sessions.get(session) else {
            return Err(match self.ended.get(session) {
                Some(ended) if ended.epoch == epoch => StreamEnd::Ended(ended.reason),
                Some(_) => StreamEnd::Superseded,
                None => StreamEnd::Forgotten,
            });
        };
        if reader.epoch != epoch {
            Err(StreamEnd::Superseded)
        } else if !reader.is_attached() {
            Err(StreamEnd::Unheard)
        } else {
            Ok(reader.log.after(after).take(max).cloned().collect())
        }
    }

    /// How many rooms there are.
    #[must_use]
    pub fn room_count(&self) -> usize {
        self.rooms.len()
    }

    /// How many sessions there are, with or without a stream.
    #[must_use]
    pub fn session_count(&self) -> usize {
        self.sessions.len()
    }

    /// What has been acknowledged of a session's log, and what waits in it.
    #[cfg(test)]
    pub(super) fn log(&self, session: &SessionId) -> Option<(u64, Vec<Entry>)> {
        let log = &self.sessions.get(session)?.log;
        Some((log.acknowledged(), log.after(0).cloned().collect()))
    }

    fn find_request(&self, join: &Join) -> Option<SessionId> {
        let request_id = join.request_id.as_deref()?;
        let made_by = |id: &&SessionId| {
            self.sessions.get(*id).and_then(|s| s.request_id.as_deref()) == Some(request_id)
        };
        self.rooms.get(&join.room)?.members.iter().find(made_by).cloned()
    }

    /// Makes a session and tells the others.
    fn enter(
        &mut self,
        now: Timestamp,
        join: Join,
        fresh: Fresh,
        vacancy: Vacancy,
    ) -> Result<SessionId, Refusal> {
        let limit = self.limits.room_size;
        let mut replaced = None;
        match self.rooms.get(&join.room) {
            Some(room) if room.members.len() >= limit => {
                replaced = self.left_behind(room, &join.profile);
                if replaced.is_none() {
                    return Err(Refusal::RoomFull { limit });
                }
            }
            Some(_) => {}
            None if !join.may_create => return Err(Refusal::MayNotCreate),
            None if vacancy.rooms == 0 => return Err(Refusal::ServerFull),
            None => {}
        }
        if vacancy.sessions == 0 && replaced.is_none() {
            return Err(Refusal::ServerFull);
        }
        self.end(now, replaced.into_iter().collect(), LeaveReason::Replaced);
        let room = self.rooms.entry(join.room.clone()).or_default();
        room.last_ordinal += 1;
        room.members.push(fresh.session.clone());
        let member = Member {
            session: fresh.session.clone(),
            ordinal: room.last_ordinal,
            profile: Arc::new(join.profile),
            presence: Presence::Connected,
        };
        let mut session = Session::new(now, join.room, fresh.secret, member.clone());
        session.request_id = join.request_id;
        let room = session.room.clone();
        self.sessions.insert(fresh.session.clone(), session);
        let overgrown = self.announce(now, &room, ParticipantEvent { member, before: None });
        self.end(now, overgrown, LeaveReason::Overflow);
        Ok(fresh.session)
    }

    /// The session without a stream that this participant left in the room, the oldest if there are several.
    fn left_behind(&self, room: &Room, profile: &Profile) -> Option<SessionId> {
        let who = profile.who()?;
        let is_left_behind = |id: &&SessionId| {
            let session = self.sessions.get(*id).filter(|session| !session.is_attached());
            session.is_some_and(|session| session.member.profile.who().as_ref() == Some(&who))
        };
        room.members.iter().find(is_left_behind).cloned()
    }

    /// Gives a session a new stream, if the session survives that.
    fn attach(&mut self, now: Timestamp, id: &SessionId, received: u64, outcome: Outcome) -> Option<Joined> {
        let session = self.sessions.get_mut(id)?;
        if session.is_attached() {
            self.actions.push_back(Action::Ring(id.clone()));
        }
        session.epoch += 1;
        session.line = Line::Attached { lease_expires_at: now.after(self.limits.lease) };
        session.log.trim(received);
        self.arm(id);
        self.show(now, id, Presence::Connected);

        let session = self.sessions.get(id)?;
        let cursor = session.log.acknowledged();
        Some(Joined {
            session: id.clone(),
            secret: session.secret,
            epoch: session.epoch,
            outcome,
            cursor,
            lost: received < cursor,
            last_client_seq: session.last_client_seq,
            member: session.member.clone(),
            others: self.others_as_of(cursor, session),
        })
    }

    /// Everybody else in the room, before the frames that follow `cursor` said how that changed.
    fn others_as_of<'a>(&self, cursor: u64, session: &'a Session) -> Vec<Member> {
        let members = self.rooms.get(&session.room).map_or(&[][..], |room| &room.members);
        let mut others: Vec<Member> = members
            .iter()
            .filter(|id| **id != session.member.session)
            .filter_map(|id| self.sessions.get(id).map(|other| other.member.clone()))
            .collect();
        let event = |entry: &'a Entry| match &entry.body {
            Body::Participant(event) => Some(event),
            Body::Message { .. } => None,
        };
        undo_events(&mut others, session.log.after(cursor).rev().filter_map(event));
        others
    }

    /// Takes one frame, if it is the next, and says whether there was anybody to take it to.
    fn take(&mut self, now: Timestamp, sender: &SessionId, frame: &Outgoing) -> Result<bool, Refusal> {
        let session = self.sessions.get(sender).ok_or(Refusal::SessionNotFound)?;
        let expected = session.last_client_seq + 1;
        if frame.client_seq < expected {
            return Ok(!session.was_undelivered(frame.client_seq));
        }
        if frame.client_seq > expected {
            return Err(Refusal::ClientSeqGap { expected, got: frame.client_seq });
        }
        let receivers: Vec<SessionId> = self
            .rooms
            .get(&session.room)
            .map_or(&[][..], |room| &room.members)
            .iter()
            .filter(|member| *member != sender && frame.to.as_ref().is_none_or(|to| to == *member))
            .cloned()
            .collect();
        let Limits { log_frames, log_bytes, .. } = self.limits;
        let full = |receiver: &SessionId| {
            let log = self.sessions.get(receiver).map(|receiver| &receiver.log);
            log.is_some_and(|log| !log.has_room(frame.message.len(), log_frames, log_bytes))
        };
        if receivers.iter().any(full) {
            return Err(Refusal::LogFull { client_seq: frame.client_seq });
        }
        for receiver in &receivers {
            let body = Body::Message { from: sender.clone(), message: frame.message.clone() };
            self.append(now, receiver, body);
        }
        let session = self.sessions.get_mut(sender).ok_or(Refusal::SessionNotFound)?;
        session.last_client_seq = frame.client_seq;
        if receivers.is_empty() {
            session.note_undelivered(frame.client_seq);
        }
        Ok(!receivers.is_empty())
    }

    /// Changes what the others see of a session, if it is a change.
    fn show(&mut self, now: Timestamp, id: &SessionId, presence: Presence) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let before = session.member.presence;
        if before == presence {
            return;
        }
        session.member.presence = presence;
        let event = ParticipantEvent { member: session.member.clone(), before: Some(before) };
        let room = session.room.clone();
        let overgrown = self.announce(now, &room, event);
        self.end(now, overgrown, LeaveReason::Overflow);
    }

    /// Tells everybody else in the room, and returns whose log that was too much for.
    fn announce(&mut self, now: Timestamp, room: &RoomKey, event: ParticipantEvent) -> Vec<SessionId> {
        let members = self.rooms.get(room).map_or(&[][..], |room| &room.members);
        let mut others = members.to_vec();
        others.retain(|member| *member != event.member.session);
        for other in &others {
            self.append(now, other, Body::Participant(event.clone()));
        }
        // A receiver that is this far behind has been away for hundreds of comings and goings.
        let hard_bound = self.limits.log_frames.saturating_mul(2);
        others.retain(|id| self.sessions.get(id).is_some_and(|session| session.log.len() > hard_bound));
        others
    }

    fn append(&mut self, now: Timestamp, receiver: &SessionId, body: Body) {
        if let Some(session) = self.sessions.get_mut(receiver) {
            session.log.append(now, body);
            self.actions.push_back(Action::Ring(receiver.clone()));
        }
    }

    /// Ends sessions, and with them whatever the news of it is too much for.
    pub(super) fn end(&mut self, now: Timestamp, mut ending: Vec<SessionId>, mut reason: LeaveReason) {
        while let Some(id) = ending.pop() {
            let Some(session) = self.sessions.remove(&id) else { continue };
            if let Some(armed) = session.armed {
                self.deadlines.remove(&(armed, id.clone()));
            }
            if session.is_attached() {
                self.deadlines.insert((now.after(self.limits.resume_window), id.clone()));
                self.ended.insert(id.clone(), Ended { epoch: session.epoch, reason });
                self.actions.push_back(Action::Ring(id.clone()));
            }
            if let Some(room) = self.rooms.get_mut(&session.room) {
                room.members.retain(|member| *member != id);
                if room.members.is_empty() {
                    self.rooms.remove(&session.room);
                }
            }
            let before = Some(session.member.presence);
            let member = Member { presence: Presence::Left(reason), ..session.member };
            ending.extend(self.announce(now, &session.room, ParticipantEvent { member, before }));
            // Whoever follows is not the one that the reason was about.
            reason = LeaveReason::Overflow;
        }
    }

    /// Puts a session's deadline where it belongs now.
    fn arm(&mut self, id: &SessionId) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let deadline = session.deadline(&self.limits);
        if session.armed == Some(deadline) {
            return;
        }
        if let Some(armed) = session.armed.replace(deadline) {
            self.deadlines.remove(&(armed, id.clone()));
        }
        self.deadlines.insert((deadline, id.clone()));
    }
}
