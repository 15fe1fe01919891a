//! A byte stream with half-close on a reliable, ordered channel.
//!
//! Messages of bytes are the stream. Data channels know no half-close, so the text `end` says that no more will come
//! from this side, and a text that begins with `reset ` that nothing more can be taken or sent. Once both sides have
//! ended, either closes the channel.

use bytes::Bytes;

use super::{Channel, ChannelClosed, LARGEST_MESSAGE};
use crate::connection::Message;

/// A byte stream in both directions, each of which ends by itself.
#[derive(Debug)]
pub struct Stream {
    channel: Channel,
}

impl Stream {
    /// On a channel that is used for nothing else, at both ends.
    #[must_use]
    pub fn new(channel: Channel) -> Self {
        Self { channel }
    }

    /// The two directions, for two tasks.
    #[must_use]
    pub fn split(self) -> (StreamReader, StreamWriter) {
        (StreamReader { channel: self.channel.clone(), ended: false }, StreamWriter { channel: self.channel })
    }
}

/// What comes from the other side.
#[derive(Debug)]
pub struct StreamReader {
    channel: Channel,
    ended: bool,
}

impl StreamReader {
    /// The next bytes; nothing after the other side's [`StreamWriter::finish`].
    pub async fn read(&mut self) -> Result<Option<Bytes>, StreamError> {
        while !self.ended {
            match self.channel.receive().await {
                Some(Message::Data(data)) if data.is_empty() => {}
                Some(Message::Data(data)) => return Ok(Some(data)),
                Some(Message::Text(text)) if text == END => self.ended = true,
                Some(Message::Text(text)) => {
                    let reason = text.strip_prefix(RESET).unwrap_or("it does not speak this protocol");
                    return Err(StreamError::Reset(reason.to_owned()));
                }
                None => return Err(StreamError::Closed),
            }
        }
        Ok(None)
    }

    /// Tells the other side that nothing more is taken.
    pub async fn reset(self, reason: &str) {
        let _ = self.channel.send(Message::Text(format!("{RESET}{reason}"))).await;
        self.channel.close().await;
    }
}

/// What goes to the other side.
#[derive(Debug)]
pub struct StreamWriter {
    channel: Channel,
}

impl StreamWriter {
    /// Sends bytes, as many as there are; waits while too many are under way.
    pub async fn write(&mut self, mut bytes: Bytes) -> Result<(), ChannelClosed> {
        while !bytes.is_empty() {
            let part = bytes.split_to(bytes.len().min(LARGEST_MESSAGE));
            self.channel.send(Message::Data(part)).await?;
        }
        Ok(())
    }

    /// Ends this direction, and waits until everything has arrived. The other direction goes on.
    pub async fn finish(self) -> Result<(), ChannelClosed> {
        self.channel.send(Message::Text(END.to_owned())).await?;
        self.channel.drained().await;
        Ok(())
    }

    /// Breaks the stream off.
    pub async fn reset(self, reason: &str) {
        let _ = self.channel.send(Message::Text(format!("{RESET}{reason}"))).await;
        self.channel.close().await;
    }
}

/// Why nothing more comes from a stream that was not finished.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// The other side broke it off.
    #[error("the other side broke it off: {0}")]
    Reset(String),
    /// The channel or the connection ended before the stream did.
    #[error("the connection ended before the stream did")]
    Closed,
}

const END: &str = "end";
const RESET: &str = "reset ";
