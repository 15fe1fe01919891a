//! The bounds both sides of the rendezvous protocol know. A server may be configured to be stricter, and says so in
//! its `Welcome`.

use std::time::Duration;

/// Characters in any id: room, session, negotiation, request.
pub const MAX_ID_CHARS: usize = 64;
/// Bytes in one session description.
pub const MAX_SDP_BYTES: usize = 256 * 1024;
/// Bytes in one encoded frame.
pub const MAX_FRAME_BYTES: usize = 512 * 1024;
/// Frames that may wait for one receiver.
pub const MAX_LOG_FRAMES: usize = 512;
/// Bytes that may wait for one receiver.
pub const MAX_LOG_BYTES: usize = 1024 * 1024;
/// Participants in a room unless configured otherwise.
pub const DEFAULT_ROOM_SIZE: usize = 2;
/// How long a session without a stream is kept unless configured otherwise.
pub const DEFAULT_RESUME_WINDOW: Duration = Duration::from_secs(120);
/// How long a stream may be away before the others are told, unless configured otherwise.
pub const DEFAULT_PRESENCE_GRACE: Duration = Duration::from_secs(10);
