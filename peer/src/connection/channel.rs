//! The one data channel: text and application data, both ways.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::sync::{Mutex, mpsc, oneshot, watch};
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
    /// For programs.
    Data(Bytes),
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

/// Takes what comes until the channel closes; says when it is open and may be used.
pub(super) async fn receive(
    channel: Arc<dyn DataChannel>,
    opened: oneshot::Sender<()>,
    ends: Ends,
    link: LinkId,
    happenings: mpsc::UnboundedSender<(LinkId, Happening)>,
    gate: Arc<BurstGate>,
    mut accepted: watch::Receiver<bool>,
) {
    let mut opened = Some(opened);
    while let Some(event) = channel.poll().await {
        if let DataChannelEvent::OnMessage(message) = event {
            // A slow reader holds up the channel and thereby its sender; none at all loses what comes.
            if message.is_string {
                let _ = ends.texts.send(String::from_utf8_lossy(&message.data).into_owned()).await;
            } else {
                let _ = ends.data.send(message.data.freeze()).await;
            }
        } else if matches!(event, DataChannelEvent::OnOpen)
            && let Some(opened) = opened.take()
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

/// Sends what waits, from when the channel is open until it closes.
pub(super) async fn send(
    channel: Arc<dyn DataChannel>,
    opened: oneshot::Receiver<()>,
    outgoing: Arc<Mutex<mpsc::Receiver<Message>>>,
) {
    if opened.await.is_err() {
        return;
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
