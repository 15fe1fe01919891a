//! Sends a clip over and over, each frame in its time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use rtc::media::Sample;
use rtc::rtp::{Header, Packet};
use rtc::rtp_transceiver::rtp_sender::{RTCRtpCodingParameters, RTCRtpEncodingParameters};
use rtc::rtp_transceiver::{RTCRtpTransceiverDirection, RTCRtpTransceiverInit};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::sleep_until;
use webrtc::error::Result;
use webrtc::media_stream::MediaStreamTrack;
use webrtc::media_stream::track_local::TrackLocal;
use webrtc::media_stream::track_local::static_rtp::TrackLocalStaticRTP;
use webrtc::media_stream::track_local::static_sample::TrackLocalStaticSample;
use webrtc::peer_connection::PeerConnection;
use webrtc::rtp_transceiver::RtpSender;

use super::engine::{codec, codec_kind, tones};
use super::tones::Keypad;
use crate::clock;
use crate::media::dtmf::{Dialer, EventPackets};
use crate::media::{Clip, clock_rate};
use crate::report::MediaKind;

/// One kind of media on its way out; without a clip, one that only takes the other side's.
pub(super) struct Sender {
    outgoing: Option<Outgoing>,
    task: Option<JoinHandle<()>>,
    frames: Arc<AtomicU64>,
}

#[derive(Clone)]
struct Outgoing {
    clip: Arc<Clip>,
    ssrc: u32,
    stream: Stream,
    rtp: Arc<dyn RtpSender>,
    key_frame_wanted: Arc<Notify>,
}

/// How frames become packets.
#[derive(Clone)]
enum Stream {
    /// By the engine, since a frame takes many.
    Frames(Arc<TrackLocalStaticSample>),
    /// One for each frame, by us, since tones take their places.
    Packets(Arc<TrackLocalStaticRTP>, Arc<Keypad>),
}

impl Sender {
    /// `keypad` is for sound alone.
    pub(super) async fn attach(
        engine: &dyn PeerConnection,
        kind: MediaKind,
        clip: Option<Arc<Clip>>,
        key_frame_wanted: &Arc<Notify>,
        keypad: Option<Keypad>,
    ) -> Result<Self> {
        let outgoing = match clip {
            Some(clip) => {
                Some(Outgoing::attach(engine, kind, clip, Arc::clone(key_frame_wanted), keypad).await?)
            }
            None => {
                let init = RTCRtpTransceiverInit {
                    direction: RTCRtpTransceiverDirection::Recvonly,
                    ..RTCRtpTransceiverInit::default()
                };
                engine.add_transceiver_from_kind(codec_kind(kind), Some(init)).await?;
                None
            }
        };
        Ok(Self { outgoing, task: None, frames: Arc::default() })
    }

    /// Begins to send, if there is something and it has not begun.
    pub(super) fn start(&mut self) {
        if self.task.is_none()
            && let Some(outgoing) = self.outgoing.clone()
        {
            self.task = Some(tokio::spawn(outgoing.run(Arc::clone(&self.frames))));
        }
    }

    /// Ends, and says how many frames were sent.
    pub(super) async fn stop(self) -> u64 {
        if let Some(task) = self.task {
            task.abort();
            let _ = task.await;
        }
        self.frames.load(Relaxed)
    }
}

impl Outgoing {
    async fn attach(
        engine: &dyn PeerConnection,
        kind: MediaKind,
        clip: Arc<Clip>,
        key_frame_wanted: Arc<Notify>,
        keypad: Option<Keypad>,
    ) -> Result<Self> {
        let ssrc = rand::random();
        let encoding = RTCRtpEncodingParameters {
            rtp_coding_parameters: RTCRtpCodingParameters { ssrc: Some(ssrc), ..Default::default() },
            codec: codec(kind).rtp_codec,
            ..RTCRtpEncodingParameters::default()
        };
        let name = kind.text().to_owned();
        let track = MediaStreamTrack::new(
            "farcall".to_owned(),
            format!("farcall-{name}"),
            name,
            codec_kind(kind),
            vec![encoding],
        );
        let (stream, track) = match keypad {
            None => {
                let track = Arc::new(TrackLocalStaticSample::new(clock::now(), track)?);
                (Stream::Frames(Arc::clone(&track)), track as Arc<dyn TrackLocal>)
            }
            Some(keypad) => {
                let track = Arc::new(TrackLocalStaticRTP::new(track));
                (Stream::Packets(Arc::clone(&track), Arc::new(keypad)), track as Arc<dyn TrackLocal>)
            }
        };
        let rtp = engine.add_track(track).await?;
        if kind == MediaKind::Audio {
            offer_tones(engine, &rtp).await?;
        }
        Ok(Self { clip, ssrc, stream, rtp, key_frame_wanted })
    }

    /// Each frame is due by its place in the clip, not by the one before: pauses do not add up.
    async fn run(self, frames_sent: Arc<AtomicU64>) {
        let Some(payload_type) = self.payload_type().await else {
            tracing::debug!(kind = self.clip.kind.text(), "The other side does not take this kind of media");
            return;
        };
        let rate = clock_rate(self.clip.kind);
        let mut packets = Packets::new(self.ssrc, payload_type);
        let mut begun = clock::now();
        let mut sent = 0;
        let mut index = 0;
        loop {
            let Some(frame) = self.clip.frames.get(index) else {
                index = 0;
                continue;
            };
            let next = self.clip.frames.get(index + 1).map_or(self.clip.length, |next| next.at);
            let ticks = next - frame.at;
            let due = begun + exactly(sent, rate);
            let late = clock::now().saturating_duration_since(due);
            if late > LONGEST_DELAY {
                // The machine slept: going on from here beats sending all that was missed at once.
                begun += late;
            }
            tokio::select! {
                () = sleep_until(due.into()) => {}
                () = self.key_frame_wanted.notified(), if self.clip.kind == MediaKind::Video => {
                    index = self.clip.next_key_frame(index);
                    continue;
                }
            }
            let written = match &self.stream {
                Stream::Frames(track) => {
                    let sample = Sample {
                        data: frame.data.clone(),
                        duration: exactly(ticks, rate),
                        ..Sample::new(clock::now())
                    };
                    track.write_sample(self.ssrc, payload_type, &sample, &[]).await
                }
                Stream::Packets(track, keypad) => {
                    packets.write(track, keypad, &frame.data, sent, ticks).await
                }
            };
            if written.is_ok() {
                frames_sent.fetch_add(1, Relaxed);
            }
            sent += ticks;
            index += 1;
        }
    }

    async fn payload_type(&self) -> Option<u8> {
        let parameters = self.rtp.get_parameters().await.ok()?;
        let wanted = codec(self.clip.kind).rtp_codec.mime_type;
        let mut codecs = parameters.rtp_parameters.codecs.iter();
        let agreed = codecs.find(|codec| codec.rtp_codec.mime_type.eq_ignore_ascii_case(&wanted))?;
        Some(agreed.payload_type)
    }
}

/// Makes the packets of one stream: sound, and tones in its place, in one sequence. RFC 4733, section 2.6.1.1: tones
/// of another source would be another speaker's.
struct Packets {
    ssrc: u32,
    payload_type: u8,
    sequence_number: u16,
    /// The timestamp of the first.
    begun: u32,
    dialer: Dialer,
}

impl Packets {
    fn new(ssrc: u32, payload_type: u8) -> Self {
        let (sequence_number, begun) = (rand::random(), rand::random());
        Self { ssrc, payload_type, sequence_number, begun, dialer: Dialer::default() }
    }

    /// Writes the frame that begins at `at` and lasts for `ticks`, or the tone that is due then.
    async fn write(
        &mut self,
        track: &TrackLocalStaticRTP,
        keypad: &Keypad,
        sound: &Bytes,
        at: u64,
        ticks: u64,
    ) -> Result<()> {
        if let Some(payload_type) = keypad.look(&mut self.dialer)
            && let Some(EventPackets { since, marker, payload, times }) = self.dialer.handle_slot(at, ticks)
        {
            for _ in 0..times {
                let payload = Bytes::copy_from_slice(&payload);
                track.write_rtp(self.packet(payload_type, since, marker, payload)).await?;
            }
            return Ok(());
        }
        track.write_rtp(self.packet(self.payload_type, at, false, sound.clone())).await
    }

    fn packet(&mut self, payload_type: u8, at: u64, marker: bool, payload: Bytes) -> Packet {
        let sequence_number = self.sequence_number;
        self.sequence_number = sequence_number.wrapping_add(1);
        #[expect(clippy::cast_possible_truncation, reason = "timestamps wrap around")]
        let timestamp = self.begun.wrapping_add(at as u32);
        let header = Header {
            version: 2,
            marker,
            payload_type,
            sequence_number,
            timestamp,
            ssrc: self.ssrc,
            ..Header::default()
        };
        Packet { header, payload }
    }
}

/// The engine offers no more than what a track is made of, unless it is told to.
async fn offer_tones(engine: &dyn PeerConnection, rtp: &Arc<dyn RtpSender>) -> Result<()> {
    for transceiver in engine.get_transceivers().await {
        if transceiver.sender().await?.is_some_and(|sender| Arc::ptr_eq(&sender, rtp)) {
            transceiver.set_codec_preferences(vec![codec(MediaKind::Audio), tones()]).await?;
        }
    }
    Ok(())
}

/// A duration that the packetizer, which multiplies and rounds down, turns back into exactly these ticks.
fn exactly(ticks: u64, rate: u32) -> Duration {
    // A nanosecond more than rounded down, which no tick is short enough to notice.
    let nanoseconds = u128::from(ticks) * 1_000_000_000 / u128::from(rate) + 1;
    Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
}

const LONGEST_DELAY: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_survive_the_packetizers_rounding() {
        for rate in [90_000, 48_000] {
            for ticks in 1..20_000u64 {
                let back = (exactly(ticks, rate).as_secs_f64() * f64::from(rate)).floor();
                assert_eq!(back, ticks as f64);
            }
        }
    }
}
