//! Data channels: any number of them on a connection, each with its own promise about order and loss.
//!
//! A channel carries whole messages, text or bytes. [`Stream`] makes a byte stream with half-close of one.

mod connection;
mod stream;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use webrtc::data_channel::{DataChannel, DataChannelEvent, RTCDataChannelInit};

pub use self::connection::Connection;
pub use self::stream::{Stream, StreamError, StreamReader, StreamWriter};
use crate::connection::Message;

/// What a channel promises. The default is reliable and ordered, as TCP is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ChannelOptions {
    /// Whether a message may overtake an earlier one.
    pub order: Order,
    /// How hard is tried to bring each message over.
    pub reliability: Reliability,
    /// What is spoken on it, for the side that accepts it; may be empty.
    pub protocol: String,
}

/// Whether a message may overtake an earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    /// Messages arrive in the order in which they were sent.
    #[default]
    Kept,
    /// A message arrives as soon as it is there.
    Any,
}

/// How hard is tried to bring each message over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reliability {
    /// Until it is there, or the connection is gone.
    #[default]
    Full,
    /// At most so many times after the first.
    Retransmits(u16),
    /// At most so many milliseconds.
    Milliseconds(u16),
}

impl ChannelOptions {
    /// Reliable and ordered, for what is called `protocol`.
    #[must_use]
    pub fn reliable(protocol: &str) -> Self {
        Self { protocol: protocol.to_owned(), ..Self::default() }
    }

    /// As datagrams are: each message is sent once and may be lost or overtaken.
    #[must_use]
    pub fn datagrams(protocol: &str) -> Self {
        Self { order: Order::Any, reliability: Reliability::Retransmits(0), protocol: protocol.to_owned() }
    }

    fn init(&self) -> RTCDataChannelInit {
        let (max_retransmits, max_packet_life_time) = match self.reliability {
            Reliability::Full => (None, None),
            Reliability::Retransmits(times) => (Some(times), None),
            Reliability::Milliseconds(time) => (None, Some(time)),
        };
        RTCDataChannelInit {
            ordered: self.order == Order::Kept,
            max_retransmits,
            max_packet_life_time,
            protocol: self.protocol.clone(),
            ..RTCDataChannelInit::default()
        }
    }
}

/// A data channel. Clones are the same channel; dropping all of them does not close it, [`Channel::close`] does.
#[derive(Clone)]
pub struct Channel {
    engine: Arc<dyn DataChannel>,
    label: Arc<str>,
    protocol: Arc<str>,
}

impl Channel {
    /// One that the other side opened, once it is open here.
    async fn accepted(engine: Arc<dyn DataChannel>) -> Result<Self, ChannelClosed> {
        // Asked before anything else: the engine forgets a channel that the other side closes at once.
        let label: Arc<str> = engine.label().await.map_err(|_| ChannelClosed)?.into();
        let protocol: Arc<str> = engine.protocol().await.map_err(|_| ChannelClosed)?.into();
        Self::opened(engine, label, protocol).await
    }

    /// Of a channel that the engine has, once it is open.
    async fn opened(
        engine: Arc<dyn DataChannel>,
        label: Arc<str>,
        protocol: Arc<str>,
    ) -> Result<Self, ChannelClosed> {
        loop {
            match engine.poll().await {
                Some(DataChannelEvent::OnOpen) => return Ok(Self { engine, label, protocol }),
                Some(DataChannelEvent::OnClose) | None => return Err(ChannelClosed),
                Some(_) => {}
            }
        }
    }

    /// The name that its opener gave it.
    #[must_use]
    pub fn label(&self) -> &str {
        &self.label
    }

    /// What its opener says is spoken on it.
    #[must_use]
    pub fn protocol(&self) -> &str {
        &self.protocol
    }

    /// Takes a message of at most [`LARGEST_MESSAGE`] bytes to send. Waits while too much of this channel is under
    /// way already, which is how a slow receiver or network slows a sender down.
    pub async fn send(&self, message: Message) -> Result<(), ChannelClosed> {
        let sent = match message {
            Message::Text(text) => self.engine.send_text(&text).await,
            Message::Data(data) => self.engine.send(BytesMut::from(data)).await,
        };
        sent.map_err(|_| ChannelClosed)
    }

    /// The next message of the other side; nothing once the channel is closed and all that came was taken. What is
    /// not taken holds up the other side's sender. Cancelling the wait loses nothing.
    pub async fn receive(&self) -> Option<Message> {
        loop {
            let event = self.engine.poll().await?;
            if let DataChannelEvent::OnMessage(message) = event {
                return Some(if message.is_string {
                    Message::Text(String::from_utf8_lossy(&message.data).into_owned())
                } else {
                    Message::Data(message.data.freeze())
                });
            }
            if matches!(event, DataChannelEvent::OnClose) {
                return None;
            }
        }
    }

    /// Bytes taken by [`Channel::send`] that the other side has not acknowledged.
    pub async fn outstanding(&self) -> usize {
        self.engine.outstanding_bytes().await.unwrap_or(0)
    }

    /// Waits until the other side has acknowledged everything, or the channel is closed.
    pub async fn drained(&self) {
        let mut pause = FIRST_LOOK;
        while self.outstanding().await > 0 {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LAST_LOOK);
        }
    }

    /// Closes the channel for both sides, after what was sent has arrived.
    pub async fn close(&self) {
        self.drained().await;
        // It may be closed already.
        let _ = self.engine.close().await;
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel").field("label", &self.label).field("protocol", &self.protocol).finish()
    }
}

/// The channel, or the connection under it, is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the channel is closed")]
pub struct ChannelClosed;

/// Bytes that every WebRTC endpoint takes as one message.
pub const LARGEST_MESSAGE: usize = 64 << 10;
const FIRST_LOOK: Duration = Duration::from_millis(1);
const LAST_LOOK: Duration = Duration::from_millis(50);
