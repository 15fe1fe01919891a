//! The session core: rooms, sessions, their logs and their presence. It decides, and does nothing else.
//!
//! No I/O, no clock, no randomness, no lock: time and fresh ids are arguments, and what is to be done comes out of
//! [`Rooms::poll_action`]. A mutation is one call that happens wholly or, frame by frame, up to the refusal it
//! returns; that is what lets the same rules run behind a mutex here and inside a database elsewhere.
//!
//! What it promises, each line with a property test in `model/`:
//!
//! 1. Frames from one sender to one receiver keep their order; a session's `seq` is contiguous from 1.
//! 2. When [`Rooms::handle_send`] returns, the frames are in the receivers' logs; a log is trimmed to the ack.
//! 3. Within the window a session resumes: what it has not acknowledged comes in order, before anything new.
//! 4. Nothing is dropped silently: a full log refuses the sender, a session beyond rescue is told so.
//! 5. The newest stream of a session fences the older ones.
//! 6. Presence is a lease; a blip shorter than the grace shows nothing.
//! 7. A room never holds more than its limit. Who comes back to a full room anew takes the place of its own session
//!    that has no stream.
//! 8. Who sent a frame is what the core knows, never what the sender says.

mod call;
mod event;
mod id;
mod log;
mod refusal;
mod rooms;
mod session;
mod timestamp;
mod view;

#[cfg(test)]
pub(crate) mod model;
#[cfg(test)]
mod tests;

pub use call::{Action, Fresh, Join, Joined, Limits, Outcome, Outgoing, Resume, Sent, Vacancy};
pub(crate) use event::undo_events;
pub use event::{LeaveReason, Member, ParticipantEvent, Presence, Profile};
pub use id::{RoomKey, Secret, SessionId};
pub use log::{Body, Entry};
pub use refusal::{Refusal, StreamEnd};
pub use rooms::Rooms;
pub use timestamp::Timestamp;
pub use view::{RoomSummary, SessionView};
