//! What an operator sees of the rooms, and does to them.

use super::{LeaveReason, Member, RoomKey, Rooms, SessionId, Timestamp};

/// A room, from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoomSummary {
    /// Its name.
    pub room: RoomKey,
    /// How many are in it, with or without a stream.
    pub sessions: usize,
}

/// A session, from outside.
#[derive(Debug, Clone, PartialEq)]
pub struct SessionView {
    /// As the others see it.
    pub member: Member,
    /// Whether it has a stream.
    pub is_attached: bool,
    /// When it came in.
    pub joined_at: Timestamp,
    /// Frames in its log that it has not acknowledged.
    pub waiting: usize,
}

impl Rooms {
    /// Up to `max` rooms by name, those that follow `after` or the first.
    #[must_use]
    pub fn summaries(&self, after: Option<&RoomKey>, max: usize) -> Vec<RoomSummary> {
        let mut found: Vec<RoomSummary> = self
            .rooms
            .iter()
            .filter(|(key, _)| after.is_none_or(|after| key.as_str() > after.as_str()))
            .map(|(key, room)| RoomSummary { room: key.clone(), sessions: room.members.len() })
            .collect();
        found.sort_unstable_by(|a, b| a.room.as_str().cmp(b.room.as_str()));
        found.truncate(max);
        found
    }

    /// Who is in a room, in the order they joined; nobody if there is no such room.
    #[must_use]
    pub fn view(&self, room: &RoomKey) -> Vec<SessionView> {
        let members = self.rooms.get(room).map_or(&[][..], |room| &room.members);
        let view = |id: &SessionId| {
            let session = self.sessions.get(id)?;
            Some(SessionView {
                member: session.member.clone(),
                is_attached: session.is_attached(),
                joined_at: session.joined_at,
                waiting: session.log.len(),
            })
        };
        members.iter().filter_map(view).collect()
    }

    /// Ends a session by an operator's will; says whether there was one.
    pub fn handle_remove(&mut self, now: Timestamp, session: &SessionId) -> bool {
        let found = self.sessions.contains_key(session);
        self.end(now, vec![session.clone()], LeaveReason::Removed);
        found
    }

    /// Ends every session in a room by an operator's will; says how many there were.
    pub fn handle_close(&mut self, now: Timestamp, room: &RoomKey) -> usize {
        let members = self.rooms.get(room).map(|room| room.members.clone()).unwrap_or_default();
        // One by one: none of them is told of the others' end for a reason that is not theirs.
        for member in &members {
            self.end(now, vec![member.clone()], LeaveReason::Removed);
        }
        members.len()
    }
}
