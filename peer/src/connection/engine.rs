//! How the WebRTC engine is set up: codecs, timers, buffers.

use std::sync::Arc;
use std::time::Duration;

use rtc::ice::mdns::MulticastDnsMode;
use rtc::interceptor::{
    CongestionControlBuilder, NackGeneratorBuilder, NackResponderBuilder, Slot, TwccSenderBuilder,
};
use rtc::peer_connection::configuration::interceptor_registry::{
    configure_rtcp_reports, configure_simulcast_extension_headers, configure_twcc_receiver_only,
};
use rtc::rtp_transceiver::rtp_sender::{RTCPFeedback, RTCRtpCodec, RTCRtpCodecParameters, RtpCodecKind};
use webrtc::error::Result;
use webrtc::peer_connection::{
    MediaEngine, PeerConnection, PeerConnectionBuilder, PeerConnectionEventHandler, RTCConfiguration,
    RTCConfigurationBuilder, RTCIceServer, RTCIceTransportPolicy, Registry, SettingEngine,
    SettingEngineBuilder,
};

use super::bandwidth::Estimator;
use super::intake::{self, Intake};
use super::repetitions::{self, Repetitions};
use crate::media::{AUDIO_CLOCK, Codec, clock_rate, dtmf};
use crate::net::{BindAddresses, CuredRuntime, IcePolicy};
use crate::report::MediaKind;

/// What a peer connection is made of.
pub(super) struct Parts {
    pub(super) servers: Vec<RTCIceServer>,
    pub(super) policy: IcePolicy,
    pub(super) addresses: BindAddresses,
    pub(super) runtime: Arc<CuredRuntime>,
    pub(super) handler: Arc<dyn PeerConnectionEventHandler>,
    pub(super) intake: Intake,
    pub(super) estimator: Estimator,
    pub(super) repetitions: Repetitions,
}

pub(super) async fn build(parts: Parts) -> Result<Arc<dyn PeerConnection>> {
    let mut media = MediaEngine::default();
    for kind in [MediaKind::Audio, MediaKind::Video] {
        for known in Codec::of(kind) {
            media.register_codec(codec(*known), codec_kind(kind))?;
        }
    }
    media.register_codec(tones(), RtpCodecKind::Audio)?;
    let interceptors = interceptors(&mut media)?
        // Numbers for what leaves, which the reports are about; nothing is held back, since recorded media has no other rate.
        .with(Slot::TwccSender, TwccSenderBuilder::new().build())
        .with(Slot::CongestionControl, CongestionControlBuilder::new(parts.estimator).build())
        .with(Slot::from(repetitions::SLOT), parts.repetitions)
        .with(Slot::from(intake::SLOT), parts.intake);
    let configuration = configuration(parts.servers, parts.policy);
    let tcp_addresses = if parts.policy.relay_only { Vec::new() } else { vec![parts.addresses.clone()] };
    let connection = PeerConnectionBuilder::new()
        .with_configuration(configuration)
        .with_media_engine(media)
        .with_interceptor_registry(interceptors)
        .with_setting_engine(settings(parts.policy))
        .with_runtime(parts.runtime)
        .with_handler(parts.handler)
        .with_udp_addrs(vec![parts.addresses])
        .with_tcp_addrs(tcp_addresses)
        .with_data_channel_send_buffer_limit(SEND_BUFFER)
        .build()
        .await?;
    Ok(Arc::new(connection))
}

/// The engine's usual ones; only that what is missing is not asked for all the time that there is.
fn interceptors(media: &mut MediaEngine) -> Result<Registry> {
    for parameter in ["", "pli"] {
        let feedback = RTCPFeedback { typ: "nack".to_owned(), parameter: parameter.to_owned() };
        media.register_feedback(feedback, RtpCodecKind::Video);
    }
    configure_simulcast_extension_headers(media)?;
    let registry = configure_rtcp_reports(configure_twcc_receiver_only(Registry::new(), media)?)
        .with(Slot::NackResponder, NackResponderBuilder::new().build())
        .with(Slot::NackGenerator, NackGeneratorBuilder::new().with_max_nacks_per_packet(MOST_NACKS).build());
    Ok(registry)
}

pub(super) fn configuration(servers: Vec<RTCIceServer>, policy: IcePolicy) -> RTCConfiguration {
    let policy = if policy.relay_only { RTCIceTransportPolicy::Relay } else { RTCIceTransportPolicy::All };
    RTCConfigurationBuilder::new().with_ice_servers(servers).with_ice_transport_policy(policy).build()
}

fn settings(policy: IcePolicy) -> SettingEngine {
    // How long better kinds of path have, before one of this kind is accepted. A relayed path always works first
    // where the server is near; a peer-reflexive one may be relayed at its far end.
    let (reflexive, relayed) = if policy.relay_only {
        (Duration::ZERO, Duration::ZERO)
    } else {
        (PATIENCE_REFLEXIVE, PATIENCE_RELAYED)
    };
    SettingEngineBuilder::new()
        .with_ice_connection_attempts(Some(CHECK_INTERVAL), Some(CHECKS_PER_PAIR))
        .with_ice_timeouts(Some(SILENCE), Some(HOPELESS), Some(KEEPALIVE))
        .with_host_acceptance_min_wait(Some(Duration::ZERO))
        .with_srflx_acceptance_min_wait(Some(reflexive))
        .with_prflx_acceptance_min_wait(Some(reflexive))
        .with_relay_acceptance_min_wait(Some(relayed))
        // New sockets for an ICE restart: the old ones may belong to a network that is gone.
        .with_discard_local_candidates_during_ice_restart(true)
        // It would take port 5353 for each connection; names of others are found out by their checks.
        .with_multicast_dns_mode(MulticastDnsMode::Disabled)
        .with_sctp_max_receive_buffer_size(RECEIVE_WINDOW)
        .build()
}

/// VP8, H.264 and Opus, which every other WebRTC endpoint has as well (RFC 7742, RFC 7874), and VP9.
pub(super) fn codec(codec: Codec) -> RTCRtpCodecParameters {
    let (channels, fmtp, payload_type) = match codec {
        Codec::Vp8 => (0, "", 96),
        Codec::Vp9 => (0, "profile-id=0", 98),
        Codec::H264 => (0, "level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f", 102),
        Codec::Opus => (2, "minptime=10;useinbandfec=1", 111),
    };
    RTCRtpCodecParameters {
        rtp_codec: RTCRtpCodec {
            mime_type: codec.mime_type().to_owned(),
            clock_rate: clock_rate(codec.kind()),
            channels,
            sdp_fmtp_line: fmtp.to_owned(),
            rtcp_feedback: Vec::new(),
        },
        payload_type,
    }
}

/// The keys of a telephone, RFC 4733, with the clock of Opus, whose timestamps they share.
pub(super) fn tones() -> RTCRtpCodecParameters {
    RTCRtpCodecParameters {
        rtp_codec: RTCRtpCodec {
            mime_type: dtmf::MIME_TYPE.to_owned(),
            clock_rate: AUDIO_CLOCK,
            channels: 0,
            sdp_fmtp_line: "0-15".to_owned(),
            rtcp_feedback: Vec::new(),
        },
        payload_type: 110,
    }
}

pub(super) fn codec_kind(kind: MediaKind) -> RtpCodecKind {
    match kind {
        MediaKind::Video => RtpCodecKind::Video,
        MediaKind::Audio => RtpCodecKind::Audio,
    }
}

/// ICE nominates on its tick alone: the shorter, the sooner a call is up.
const CHECK_INTERVAL: Duration = Duration::from_millis(20);
/// Ten seconds of checks: one side may start long before the other has heard of it.
const CHECKS_PER_PAIR: u16 = 500;
const PATIENCE_REFLEXIVE: Duration = Duration::from_millis(50);
/// A direct path needs one round trip and a half once both sides have begun; this is enough for one of 300 ms.
const PATIENCE_RELAYED: Duration = Duration::from_millis(600);
/// Both ends ask and answer that often (RFC 7675): of six messages in [`SILENCE`] one arrives on any line that is of use.
const KEEPALIVE: Duration = Duration::from_secs(1);
/// Then a path counts as disconnected, and ICE is restarted soon …
const SILENCE: Duration = Duration::from_secs(3);
/// … and after that time as failed.
const HOPELESS: Duration = Duration::from_secs(25);
/// One every 100 ms: what comes later is of no use to a picture.
const MOST_NACKS: u16 = 10;
/// Bytes that a data channel takes before its sender must wait.
const SEND_BUFFER: usize = 1 << 20;
/// What the other side may have in flight towards us, as much as a sender of ours has, see [`SEND_BUFFER`].
const RECEIVE_WINDOW: u32 = 1 << 20;
