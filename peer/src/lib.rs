//! A headless WebRTC agent.
//!
//! Two peers that know the same room key find each other through a signaling server and connect directly, or through
//! a relay where no direct path exists. [`Peer`] is one side of that: it joins, negotiates, connects, and says what
//! happens as [`Event`]s. The verbs of the program `farcall-peer` are written on it.
//!
//! Each connection carries any number of data [`Channel`]s, and [`Stream`]s on them:
//!
//! ```no_run
//! use farcall_peer::{ChannelOptions, Config, Message, Peer};
//!
//! # async fn example() -> Result<(), farcall_peer::Failure> {
//! let mut peer = Peer::start(Config::new("https://signaling.example", "our room"))?;
//! let mut connections = peer.connections();
//! let work = tokio::spawn(async move {
//!     while let Some(connection) = connections.next().await {
//!         let Ok(channel) = connection.open("positions", &ChannelOptions::datagrams("")).await else { continue };
//!         // Waits while too much is under way.
//!         while channel.send(Message::Data(vec![1, 2, 3].into())).await.is_ok() {}
//!     }
//! });
//! // The events must be taken, or the peer waits for them to be.
//! while let Some(event) = peer.event().await {
//!     println!("{event:?}");
//! }
//! work.abort();
//! peer.finish().await
//! # }
//! ```
//!
//! Text for people has a channel of its own:
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

mod channel;
pub mod cli;
mod clock;
mod connection;
mod failure;
mod forward;
pub mod identity;
mod media;
mod net;
mod peer;
mod report;
mod session;
mod signaling;
mod transfer;
pub mod verbs;

pub use self::channel::{
    Channel, ChannelClosed, ChannelOptions, Connection, LARGEST_MESSAGE, Order, Reliability, Stream,
    StreamError, StreamReader, StreamWriter,
};
pub use self::connection::Message;
pub use self::failure::{Failure, Reason};
pub use self::forward::{Forward, Network, Rule};
pub use self::media::{Clip, Codec, Feed, Feeds, Source, Tones};
pub use self::net::{IcePolicy, IceServer};
pub use self::peer::{CodeSide, Config, Connections, Peer};
pub use self::report::{
    CandidateReport, CandidateSide, DataStats, DescriptionKind, Direction, Event, Format, MediaKind,
    NatBehaviour, ParticipantState, PathReport, RelayStats, Reporter, SignalingState, StatsReport, Status,
    StreamStats,
};
pub use self::session::OfferPolicy;
