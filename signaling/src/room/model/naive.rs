//! What ought to happen, in the simplest words: logs that forget nothing, time by looking at everybody.

use std::collections::BTreeSet;

use super::super::{
    Body, LeaveReason, Limits, Member, Outcome, Outgoing, ParticipantEvent, Presence, Profile, Refusal,
    RoomKey, Sent, SessionId, StreamEnd, Timestamp,
};

pub(crate) struct Naive {
    limits: Limits,
    /// Everybody there ever was, in the order of joining.
    pub(crate) sessions: Vec<Session>,
}

pub(crate) struct Session {
    pub(crate) room: RoomKey,
    request_id: Option<Box<str>>,
    pub(crate) member: Member,
    pub(crate) life: Life,
    pub(crate) epoch: u64,
    pub(crate) taken: u64,
    undelivered: BTreeSet<u64>,
    /// The others when it came in.
    found: Vec<Member>,
    /// Whatever was said to it since: the frame with `seq` n is at n - 1.
    pub(crate) said: Vec<Body>,
    pub(crate) acked: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Life {
    Attached {
        heard_at: Timestamp,
    },
    Detached {
        since: Timestamp,
    },
    /// Ended under a stream, which has not been told yet.
    Ending {
        reason: LeaveReason,
        at: Timestamp,
    },
    Over,
}

impl Naive {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, sessions: Vec::new() }
    }

    pub(crate) fn find(&self, id: &SessionId) -> Option<usize> {
        self.sessions.iter().position(|session| session.member.session == *id)
    }

    pub(crate) fn live(&self, at: usize) -> bool {
        matches!(self.sessions[at].life, Life::Attached { .. } | Life::Detached { .. })
    }

    pub(crate) fn members(&self, room: &RoomKey) -> Vec<usize> {
        (0..self.sessions.len()).filter(|at| self.live(*at) && self.sessions[*at].room == *room).collect()
    }

    pub(crate) fn others(&self, at: usize) -> Vec<usize> {
        let mut members = self.members(&self.sessions[at].room);
        members.retain(|member| *member != at);
        members
    }

    /// The others as `at` knows them once it has processed everything up to `seq`.
    pub(crate) fn known_others(&self, at: usize, seq: u64) -> Vec<Member> {
        let session = &self.sessions[at];
        let mut known = session.found.clone();
        for body in &session.said[..usize::try_from(seq).unwrap()] {
            if let Body::Participant(event) = body {
                apply(&mut known, event);
            }
        }
        known
    }

    pub(crate) fn due(&self, at: usize) -> Option<Timestamp> {
        let Limits { lease, presence_grace, resume_window, .. } = self.limits;
        let session = &self.sessions[at];
        match (session.life, session.member.presence) {
            (Life::Attached { heard_at }, _) => Some(heard_at.after(lease)),
            (Life::Detached { since }, Presence::Connected) => {
                Some(since.after(presence_grace.min(resume_window)))
            }
            (Life::Detached { since }, _) => Some(since.after(resume_window)),
            (Life::Ending { at, .. }, _) => Some(at.after(resume_window)),
            (Life::Over, _) => None,
        }
    }

    pub(crate) fn pass(&mut self, now: Timestamp) {
        loop {
            let dues = (0..self.sessions.len()).filter_map(|at| self.due(at).map(|due| (due, at)));
            let Some((due, at)) = dues.min().filter(|(due, _)| *due <= now) else { return };
            match self.sessions[at].life {
                Life::Attached { .. } => {
                    self.sessions[at].life = Life::Detached { since: due };
                    self.show(now, at, Presence::Reconnecting);
                }
                Life::Detached { since } if since.after(self.limits.resume_window) <= due => {
                    self.end(now, at, LeaveReason::LeaseExpired);
                }
                Life::Detached { .. } => self.show(now, at, Presence::Reconnecting),
                Life::Ending { .. } | Life::Over => self.sessions[at].life = Life::Over,
            }
        }
    }

    pub(crate) fn resumed(&mut self, now: Timestamp, at: usize, received: u64) {
        let session = &mut self.sessions[at];
        session.epoch += 1;
        session.life = Life::Attached { heard_at: now };
        session.acked = session.acked.max(received);
        self.show(now, at, Presence::Connected);
    }

    /// Whose place in a full room this one may take: its own, the oldest that nobody is at.
    fn place_of(&self, room: &RoomKey, profile: &Profile) -> Option<usize> {
        let members = self.members(room);
        if members.len() < self.limits.room_size {
            return None;
        }
        let mut of_its_own =
            members.into_iter().filter(|at| is_same(&self.sessions[*at].member.profile, profile));
        of_its_own.find(|at| matches!(self.sessions[*at].life, Life::Detached { .. }))
    }

    /// Which session this asks for, and how that is to be called, or why there is none.
    pub(crate) fn join(
        &self,
        room: &RoomKey,
        profile: &Profile,
        request_id: Option<&str>,
        resume: Option<(&SessionId, u64)>,
    ) -> Result<(Option<usize>, Outcome), Refusal> {
        if let Some((id, received)) = resume
            && let Some(at) = self.find(id).filter(|at| self.live(*at) && self.sessions[*at].room == *room)
        {
            let last = self.sessions[at].said.len() as u64;
            return if received > last {
                Err(Refusal::BeyondTheLog { last })
            } else {
                Ok((Some(at), Outcome::Resumed))
            };
        }
        let members = self.members(room);
        let asked = members
            .iter()
            .find(|at| request_id.is_some() && self.sessions[**at].request_id.as_deref() == request_id);
        match (asked, resume) {
            (Some(at), None) => Ok((Some(*at), Outcome::Resumed)),
            (Some(at), Some(_)) => Ok((Some(*at), Outcome::Resync)),
            (None, _) if members.len() == self.limits.room_size && self.place_of(room, profile).is_none() => {
                Err(Refusal::RoomFull { limit: self.limits.room_size })
            }
            (None, None) => Ok((None, Outcome::New)),
            (None, Some(_)) => Ok((None, Outcome::Resync)),
        }
    }

    pub(crate) fn entered(
        &mut self,
        now: Timestamp,
        room: RoomKey,
        request_id: Option<Box<str>>,
        member: Member,
    ) -> usize {
        if let Some(at) = self.place_of(&room, &member.profile) {
            self.end(now, at, LeaveReason::Replaced);
        }
        let found = self.members(&room).into_iter().map(|at| self.sessions[at].member.clone()).collect();
        let event = ParticipantEvent { member: member.clone(), before: None };
        self.sessions.push(Session {
            room,
            request_id,
            member,
            life: Life::Detached { since: now },
            epoch: 0,
            taken: 0,
            undelivered: BTreeSet::new(),
            found,
            said: Vec::new(),
            acked: 0,
        });
        let at = self.sessions.len() - 1;
        self.announce(now, at, &event);
        at
    }

    pub(crate) fn send(
        &mut self,
        now: Timestamp,
        at: usize,
        frames: &[Outgoing],
        ack: u64,
    ) -> Result<Sent, Refusal> {
        if !self.live(at) {
            return Err(Refusal::SessionNotFound);
        }
        let session = &mut self.sessions[at];
        let last = session.said.len() as u64;
        if ack > last {
            return Err(Refusal::BeyondTheLog { last });
        }
        session.acked = session.acked.max(ack);
        if let Life::Attached { heard_at } = &mut session.life {
            *heard_at = now;
        }
        let mut undeliverable = Vec::new();
        for frame in frames {
            let expected = self.sessions[at].taken + 1;
            if frame.client_seq > expected {
                return Err(Refusal::ClientSeqGap { expected, got: frame.client_seq });
            }
            if frame.client_seq == expected {
                self.take(at, frame)?;
            }
            if self.sessions[at].undelivered.contains(&frame.client_seq) {
                undeliverable.push((frame.client_seq, frame.to.clone()));
            }
        }
        Ok(Sent { last_client_seq: self.sessions[at].taken, undeliverable })
    }

    fn take(&mut self, at: usize, frame: &Outgoing) -> Result<(), Refusal> {
        let mut receivers = self.others(at);
        receivers
            .retain(|other| frame.to.as_ref().is_none_or(|to| *to == self.sessions[*other].member.session));
        if receivers.iter().any(|receiver| !self.has_room(*receiver, frame.message.len())) {
            return Err(Refusal::LogFull { client_seq: frame.client_seq });
        }
        let from = self.sessions[at].member.session.clone();
        for receiver in &receivers {
            let body = Body::Message { from: from.clone(), message: frame.message.clone() };
            self.sessions[*receiver].said.push(body);
        }
        self.sessions[at].taken = frame.client_seq;
        if receivers.is_empty() {
            self.sessions[at].undelivered.insert(frame.client_seq);
        }
        Ok(())
    }

    pub(crate) fn waiting(&self, at: usize) -> &[Body] {
        let session = &self.sessions[at];
        &session.said[usize::try_from(session.acked).unwrap()..]
    }

    fn has_room(&self, at: usize, size: usize) -> bool {
        let waiting = self.waiting(at);
        let bytes: usize = waiting.iter().map(size_of).sum();
        waiting.len() < self.limits.log_frames && bytes + size <= self.limits.log_bytes
    }

    pub(crate) fn read(&self, at: usize, epoch: u64) -> Result<(), StreamEnd> {
        let session = &self.sessions[at];
        match session.life {
            Life::Over => Err(StreamEnd::Forgotten),
            _ if session.epoch != epoch => Err(StreamEnd::Superseded),
            Life::Ending { reason, .. } => Err(StreamEnd::Ended(reason)),
            Life::Detached { .. } => Err(StreamEnd::Unheard),
            Life::Attached { .. } => Ok(()),
        }
    }

    pub(crate) fn detach(&mut self, now: Timestamp, at: usize, epoch: u64) {
        let session = &mut self.sessions[at];
        if session.epoch == epoch {
            match session.life {
                Life::Attached { .. } => session.life = Life::Detached { since: now },
                Life::Ending { .. } => session.life = Life::Over,
                Life::Detached { .. } | Life::Over => {}
            }
        }
    }

    pub(crate) fn show(&mut self, now: Timestamp, at: usize, presence: Presence) {
        let before = std::mem::replace(&mut self.sessions[at].member.presence, presence);
        if before != presence {
            let event = ParticipantEvent { member: self.sessions[at].member.clone(), before: Some(before) };
            self.announce(now, at, &event);
        }
    }

    pub(crate) fn end(&mut self, now: Timestamp, at: usize, reason: LeaveReason) {
        if !self.live(at) {
            return;
        }
        let others = self.others(at);
        let session = &mut self.sessions[at];
        session.life = match session.life {
            Life::Attached { .. } => Life::Ending { reason, at: now },
            Life::Detached { .. } | Life::Ending { .. } | Life::Over => Life::Over,
        };
        let before = Some(std::mem::replace(&mut session.member.presence, Presence::Left(reason)));
        let event = ParticipantEvent { member: session.member.clone(), before };
        self.tell(now, others, &event);
    }

    fn announce(&mut self, now: Timestamp, at: usize, event: &ParticipantEvent) {
        self.tell(now, self.others(at), event);
    }

    fn tell(&mut self, now: Timestamp, others: Vec<usize>, event: &ParticipantEvent) {
        for other in &others {
            self.sessions[*other].said.push(Body::Participant(event.clone()));
        }
        for other in others.into_iter().rev() {
            if self.waiting(other).len() > 2 * self.limits.log_frames {
                self.end(now, other, LeaveReason::Overflow);
            }
        }
    }
}

/// Whether both are the same one: by what their tokens say, and where neither has one, by their keys.
pub(crate) fn is_same(one: &Profile, other: &Profile) -> bool {
    match (one.identity.as_str(), other.identity.as_str()) {
        ("", "") => !one.identity_key.is_empty() && one.identity_key == other.identity_key,
        (one, other) => one == other,
    }
}

/// What an application does with an event.
pub(crate) fn apply(known: &mut Vec<Member>, event: &ParticipantEvent) {
    known.retain(|member| member.session != event.member.session);
    match event.member.presence {
        Presence::Left(_) => {}
        Presence::Waiting | Presence::Connected | Presence::Reconnecting => known.push(event.member.clone()),
    }
    known.sort_by_key(|member| member.ordinal);
}

fn size_of(body: &Body) -> usize {
    match body {
        Body::Message { message, .. } => message.len(),
        Body::Participant(_) => 0,
    }
}
