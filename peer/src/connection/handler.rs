//! What the WebRTC engine calls back: passed on at once, since it waits for each answer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use tokio::sync::mpsc;
use webrtc::data_channel::DataChannel;
use webrtc::media_stream::track_remote::TrackRemote;
use webrtc::peer_connection::{
    PeerConnectionEventHandler, RTCIceConnectionState, RTCIceGatheringState, RTCPeerConnectionIceEvent,
    RTCPeerConnectionState,
};

use super::Happening;
use crate::net::TurnWatch;
use crate::session::{Candidate, LinkEvent, LinkId};

/// Passes the engine's events on under the id of their link.
#[derive(Clone)]
pub(super) struct Handler {
    pub(super) link: LinkId,
    pub(super) happenings: mpsc::UnboundedSender<(LinkId, Happening)>,
    pub(super) tracks: mpsc::UnboundedSender<Arc<dyn TrackRemote>>,
    pub(super) channels: mpsc::UnboundedSender<Arc<dyn DataChannel>>,
    pub(super) watch: Arc<TurnWatch>,
    /// Whether ICE is connected now.
    pub(super) up: Arc<AtomicBool>,
}

impl Handler {
    fn pass_on(&self, happening: Happening) {
        // Whoever listened has closed this connection.
        let _ = self.happenings.send((self.link, happening));
    }
}

#[async_trait::async_trait]
impl PeerConnectionEventHandler for Handler {
    async fn on_negotiation_needed(&self) {
        self.pass_on(Happening::Link(LinkEvent::NegotiationNeeded));
    }

    async fn on_ice_candidate(&self, event: RTCPeerConnectionIceEvent) {
        let Ok(init) = event.candidate.to_json() else { return };
        let url = [Some(event.url), event.candidate.url].into_iter().flatten().find(|url| !url.is_empty());
        let address =
            event.candidate.address.parse().map(|ip| SocketAddr::new(ip, event.candidate.port)).ok();
        let url = url.map(|url| self.watch.lent(address, &url).map_or_else(|| url.clone(), str::to_owned));
        let candidate = Candidate { line: init.candidate, mid: None, m_line_index: Some(0), url };
        self.pass_on(Happening::Link(LinkEvent::LocalCandidate(candidate)));
    }

    async fn on_ice_gathering_state_change(&self, state: RTCIceGatheringState) {
        if state == RTCIceGatheringState::Complete {
            self.pass_on(Happening::Link(LinkEvent::GatheringComplete));
        }
    }

    async fn on_ice_connection_state_change(&self, state: RTCIceConnectionState) {
        let up = matches!(state, RTCIceConnectionState::Connected | RTCIceConnectionState::Completed);
        self.up.store(up, Relaxed);
        self.pass_on(Happening::Ice(state.to_string()));
    }

    async fn on_connection_state_change(&self, state: RTCPeerConnectionState) {
        if state == RTCPeerConnectionState::Connected {
            self.pass_on(Happening::Link(LinkEvent::Up));
        } else if state == RTCPeerConnectionState::Disconnected {
            self.pass_on(Happening::Link(LinkEvent::Disconnected));
        } else if state == RTCPeerConnectionState::Failed {
            self.pass_on(Happening::Link(LinkEvent::Failed));
        }
    }

    async fn on_data_channel(&self, channel: Arc<dyn DataChannel>) {
        let _ = self.channels.send(channel);
    }

    async fn on_track(&self, track: Arc<dyn TrackRemote>) {
        let _ = self.tracks.send(track);
    }
}
