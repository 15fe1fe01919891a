//! A combined STUN and TURN server.

pub mod stun;
