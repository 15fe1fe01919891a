//! The one data channel: text and application data, both ways.
//!
//! Between two of us each side says that its end is open with an empty message, and sends nothing else before it has
//! heard from the other side: what reaches driver 0.21.1 ahead of the end of SCTP's handshake, which a line with
//! jitter or loss brings about, is acknowledged and thrown away. The empty message is sent again once the other side
//! was heard, since the first one may have been thrown away. A line in the description says who does so.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::{Mutex, mpsc, oneshot, watch};
use tokio::time::timeout;
use webrtc::data_channel::{DataChannel, DataChannelEvent, RTCDataChannelInit};
use webrtc::error::Result;
use webrtc::peer_connection::PeerConnection;

use super::Happening;
use crate::net::BurstGate;
use crate::session::LinkId;

/// Agreed beforehand by both sides, so that two offers at once make no second channel.
pub(super) const LABEL: &str = "chat";
const STREAM: u16 = 0;

/// What goes over the channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// For people.
    Text(String),
    /// For programs. An empty one does not arrive.
    Data(Bytes),
}

/// The empty messages, which the engine counts and nobody sent.
#[derive(Debug, Default)]
pub(super) struct Greetings {
    pub(super) sent: AtomicU32,
    pub(super) received: AtomicU32,
    /// Whether the other side does the same.
    expected: AtomicBool,
    /// Whether the other side has said anything at all.
    heard: watch::Sender<bool>,
}

impl Greetings {
    /// An own description, which says that we greet.
    pub(super) fn announce(sdp: &str) -> String {
        match sdp.split_once("\r\nm=") {
            Some((session, media)) => format!("{session}\r\n{ANNOUNCEMENT}\r\nm={media}"),
            None => sdp.to_owned(),
        }
    }

    /// The other side's description.
    pub(super) fn read(&self, sdp: &str) {
        self.expected.store(sdp.lines().any(|line| line.trim_end() == ANNOUNCEMENT), Relaxed);
    }
}

/// What must come, and what follows, before the channel is used.
pub(super) struct Opening {
    pub(super) gate: Arc<BurstGate>,
    /// Set when the other side is whom it should be.
    pub(super) accepted: watch::Receiver<bool>,
    /// For [`send`].
    pub(super) opened: oneshot::Sender<()>,
}

/// The user's ends of the channel, which outlive any one connection.
#[derive(Debug, Clone)]
pub(crate) struct Ends {
    /// What is to be sent; whichever connection is open takes it from here.
    pub(crate) outgoing: Arc<Mutex<mpsc::Receiver<Message>>>,
    /// What came for people.
    pub(crate) texts: mpsc::Sender<String>,
    /// What came for programs.
    pub(crate) data: mpsc::Sender<Bytes>,
}

pub(super) async fn create(connection: &dyn PeerConnection) -> Result<Arc<dyn DataChannel>> {
    let init = RTCDataChannelInit { negotiated: Some(STREAM), ..RTCDataChannelInit::default() };
    connection.create_data_channel(LABEL, Some(init)).await
}

/// Takes what comes until the channel closes; says when it is open and may be used, and when the other side is heard.
pub(super) async fn receive(
    channel: Arc<dyn DataChannel>,
    opening: Opening,
    greetings: Arc<Greetings>,
    ends: Ends,
    link: LinkId,
    happenings: mpsc::UnboundedSender<(LinkId, Happening)>,
) {
    let mut opening = Some(opening);
    while let Some(event) = channel.poll().await {
        if let DataChannelEvent::OnMessage(message) = event {
            greetings.heard.send_if_modified(|heard| !std::mem::replace(heard, true));
            // A slow reader holds up the channel and thereby its sender; none at all loses what comes.
            if message.is_string {
                let _ = ends.texts.send(String::from_utf8_lossy(&message.data).into_owned()).await;
            } else if message.data.is_empty() {
                greetings.received.fetch_add(1, Relaxed);
            } else {
                let _ = ends.data.send(message.data.freeze()).await;
            }
        } else if matches!(event, DataChannelEvent::OnOpen)
            && let Some(Opening { gate, mut accepted, opened }) = opening.take()
        {
            gate.open();
            if accepted.wait_for(|accepted| *accepted).await.is_err() {
                return;
            }
            let _ = happenings.send((link, Happening::ChannelOpen { label: LABEL.to_owned() }));
            let _ = opened.send(());
        } else if matches!(event, DataChannelEvent::OnClose) {
            return;
        }
    }
}

/// Sends what waits, from when the channel is open at both ends until it closes.
pub(super) async fn send(
    channel: Arc<dyn DataChannel>,
    opened: oneshot::Receiver<()>,
    greetings: Arc<Greetings>,
    outgoing: Arc<Mutex<mpsc::Receiver<Message>>>,
) {
    if opened.await.is_err() {
        return;
    }
    let mut heard = greetings.heard.subscribe();
    let mut rounds = if greetings.expected.load(Relaxed) { MOST_GREETINGS } else { 0 };
    while rounds > 0 {
        if channel.send(BytesMut::new()).await.is_err() {
            return;
        }
        greetings.sent.fetch_add(1, Relaxed);
        // Once more when the other side was heard: it may have been too early for what went before.
        let is_heard = *heard.borrow() || timeout(SILENCE, heard.wait_for(|heard| *heard)).await.is_ok();
        rounds = if is_heard { rounds.min(2) - 1 } else { rounds - 1 };
    }
    let mut outgoing = outgoing.lock().await;
    while let Some(message) = outgoing.recv().await {
        let sent = match message {
            Message::Text(text) => channel.send_text(&text).await,
            Message::Data(data) => channel.send(BytesMut::from(data)).await,
        };
        if sent.is_err() {
            return;
        }
    }
}

/// At the level of the session; others skip lines that they do not know (RFC 8866, section 5.13).
const ANNOUNCEMENT: &str = "a=farcall-greets";
/// What one lost datagram of a handshake costs, and some more.
const SILENCE: Duration = Duration::from_secs(1);
/// More is only lost where nothing arrives.
const MOST_GREETINGS: u32 = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_says_to_one_of_us_that_we_greet_and_others_do_not() {
        let sdp = "v=0\r\ns=-\r\nm=audio 9 X 111\r\na=mid:0\r\nm=application 9 X\r\n";
        let announced = Greetings::announce(sdp);
        assert_eq!(announced, sdp.replacen("m=audio", "a=farcall-greets\r\nm=audio", 1));
        let greetings = Greetings::default();
        for (sdp, expected) in [(announced.as_str(), true), (sdp, false)] {
            greetings.read(sdp);
            assert_eq!(greetings.expected.load(Relaxed), expected, "{sdp}");
        }
    }
}
