//! A headless WebRTC agent.
//!
//! Two peers that know the same room key find each other through a signaling server and connect directly, or through
//! a relay where no direct path exists. [`Peer`] is one side of that: it joins, negotiates, connects, and says what
//! happens as [`Event`]s. The verbs of the program `farcall-peer` are written on it.
//!
//! ```no_run
//! use farcall_peer::{Config, Event, Message, Peer};
//!
//! # async fn example() -> Result<(), farcall_peer::Failure> {
//! let mut peer = Peer::start(Config::new("https://signaling.example", "our room"))?;
//! while let Some(event) = peer.event().await {
//!     match event {
//!         Event::ChannelOpen { .. } => {
//!             let _ = peer.outgoing().send(Message::Text("hello".to_owned())).await;
//!         }
//!         Event::Text { .. } => peer.hang_up("heard enough"),
//!         _ => {}
//!     }
//! }
//! peer.finish().await
//! # }
//! ```

pub mod cli;
mod clock;
mod connection;
mod failure;
mod media;
mod net;
mod peer;
mod report;
mod session;
mod signaling;
pub mod verbs;

pub use self::connection::Message;
pub use self::failure::{Failure, Reason};
pub use self::media::{Clip, Codec, Feed, Feeds, Source, Tones};
pub use self::net::{IcePolicy, IceServer};
pub use self::peer::{Config, Peer};
pub use self::report::{
    CandidateReport, CandidateSide, DataStats, DescriptionKind, Direction, Event, Format, MediaKind,
    ParticipantState, PathReport, RelayStats, Reporter, SignalingState, StatsReport, Status, StreamStats,
};
pub use self::session::OfferPolicy;
