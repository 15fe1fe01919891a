//! Sends a feed, each frame in its time.

use std::iter;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use rtc::media::Sample;
use rtc::rtp::{Header, Packet};
use rtc::rtp_transceiver::rtp_sender::{RTCRtpCodingParameters, RTCRtpEncodingParameters};
use rtc::rtp_transceiver::{RTCRtpTransceiverDirection, RTCRtpTransceiverInit};
use tokio::task::JoinHandle;
use tokio::time::sleep_until;
use webrtc::error::Result;
use webrtc::media_stream::MediaStreamTrack;
use webrtc::media_stream::track_local::TrackLocal;
use webrtc::media_stream::track_local::static_rtp::TrackLocalStaticRTP;
use webrtc::media_stream::track_local::static_sample::TrackLocalStaticSample;
use webrtc::peer_connection::PeerConnection;
use webrtc::rtp_transceiver::RtpSender;

use super::bandwidth::Feedback;
use super::engine::{codec, codec_kind, tones};
use super::tones::Keypad;
use crate::clock;
use crate::media::dtmf::{Dialer, EventPackets};
use crate::media::{AUDIO_CLOCK, Codec, Feed, Player, clock_rate};
use crate::report::{Event, MediaKind};

/// One kind of media on its way out; without a feed, one that only takes the other side's.
pub(super) struct Sender {
    kind: MediaKind,
    outgoing: Option<Outgoing>,
    task: Option<JoinHandle<()>>,
    frames: Arc<AtomicU64>,
}

#[derive(Clone)]
struct Outgoing {
    feed: Feed,
    ssrc: u32,
    stream: Stream,
    rtp: Arc<dyn RtpSender>,
    feedback: Arc<Feedback>,
    keypad: Arc<Keypad>,
}

/// How frames become packets.
#[derive(Clone)]
enum Stream {
    /// By the engine, since a frame takes many.
    Frames(Arc<TrackLocalStaticSample>),
    /// One for each frame, by us, since tones take their places.
    Packets(Arc<TrackLocalStaticRTP>),
}

impl Sender {
    pub(super) async fn attach(
        engine: &dyn PeerConnection,
        kind: MediaKind,
        feed: Option<Feed>,
        feedback: &Arc<Feedback>,
        keypad: &Arc<Keypad>,
    ) -> Result<Self> {
        let outgoing = match feed {
            Some(feed) => {
                let (feedback, keypad) = (Arc::clone(feedback), Arc::clone(keypad));
                Some(Outgoing::attach(engine, feed, feedback, keypad).await?)
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
        Ok(Self { kind, outgoing, task: None, frames: Arc::default() })
    }

    pub(super) fn kind(&self) -> MediaKind {
        self.kind
    }

    /// Whether it is the engine's sender.
    pub(super) fn is(&self, rtp: &Arc<dyn RtpSender>) -> bool {
        self.outgoing.as_ref().is_some_and(|outgoing| Arc::ptr_eq(&outgoing.rtp, rtp))
    }

    /// Sends this instead, or nothing more. The other side hears of it by the next description, after which it is to
    /// be started: what follows is a stream of its own, whose numbers have nothing to do with the last one's.
    pub(super) async fn change(
        &mut self,
        engine: &dyn PeerConnection,
        feed: Option<Feed>,
        feedback: &Arc<Feedback>,
        keypad: &Arc<Keypad>,
    ) -> Result<()> {
        self.halt().await;
        if let Some(outgoing) = self.outgoing.take() {
            engine.remove_track(&outgoing.rtp).await?;
        }
        if let Some(feed) = feed {
            let (feedback, keypad) = (Arc::clone(feedback), Arc::clone(keypad));
            self.outgoing = Some(Outgoing::attach(engine, feed, feedback, keypad).await?);
        }
        Ok(())
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
    pub(super) async fn stop(mut self) -> u64 {
        self.halt().await;
        self.frames.load(Relaxed)
    }

    async fn halt(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
            let _ = task.await;
        }
    }
}

impl Outgoing {
    async fn attach(
        engine: &dyn PeerConnection,
        feed: Feed,
        feedback: Arc<Feedback>,
        keypad: Arc<Keypad>,
    ) -> Result<Self> {
        let ssrc = rand::random();
        let encoding = RTCRtpEncodingParameters {
            rtp_coding_parameters: RTCRtpCodingParameters { ssrc: Some(ssrc), ..Default::default() },
            codec: codec(feed.codec()).rtp_codec,
            ..RTCRtpEncodingParameters::default()
        };
        let kind = feed.codec().kind();
        let name = kind.text().to_owned();
        let track = MediaStreamTrack::new(
            "farcall".to_owned(),
            format!("farcall-{name}"),
            name,
            codec_kind(kind),
            vec![encoding],
        );
        let (stream, track) = match kind {
            MediaKind::Video => {
                let track = Arc::new(TrackLocalStaticSample::new(clock::now(), track)?);
                (Stream::Frames(Arc::clone(&track)), track as Arc<dyn TrackLocal>)
            }
            MediaKind::Audio => {
                let track = Arc::new(TrackLocalStaticRTP::new(track));
                (Stream::Packets(Arc::clone(&track)), track as Arc<dyn TrackLocal>)
            }
        };
        let rtp = engine.add_track(track).await?;
        offer_all_codecs(engine, &rtp, feed.codec()).await?;
        Ok(Self { feed, ssrc, stream, rtp, feedback, keypad })
    }

    async fn run(self, frames_sent: Arc<AtomicU64>) {
        if let Err(problem) = self.play(frames_sent).await {
            self.keypad.tell(Event::Warning { message: problem });
        }
    }

    /// Each frame is due by its place in the feed, not by the one before: pauses do not add up.
    async fn play(&self, frames_sent: Arc<AtomicU64>) -> std::result::Result<(), String> {
        let codec = self.feed.codec();
        let (kind, rate) = (codec.kind(), clock_rate(codec.kind()));
        let payload_type = self.payload_type().await.ok_or_else(|| {
            format!("the other side takes no {}, so no {} is sent", codec.name(), kind.text())
        })?;
        let stopped = |problem: String| format!("no more {} is sent: {problem}", kind.text());
        let mut player = Player::new(&self.feed).map_err(stopped)?;
        let mut packets = Packets::new(self.ssrc, payload_type);
        let mut begun = clock::now();
        let mut sent = 0;
        loop {
            let due = begun + exactly(sent, rate);
            let late = clock::now().saturating_duration_since(due);
            if late > LONGEST_DELAY {
                // The machine slept: going on from here beats sending all that was missed at once.
                begun += late;
            }
            tokio::select! {
                () = sleep_until(due.into()) => {}
                () = self.feedback.key_frame_wanted.notified(), if kind == MediaKind::Video => {
                    player.want_key_frame();
                    continue;
                }
            }
            if kind == MediaKind::Video
                && let Some(bits) = self.feedback.bandwidth.for_pictures()
            {
                player.aim_at(bits);
            }
            let frame = player.next().await.map_err(stopped)?;
            if let Some(bits) = player.rate() {
                self.feedback.aim_at(bits);
            }
            let written = match &self.stream {
                Stream::Frames(track) => {
                    let duration = exactly(frame.ticks, rate);
                    let sample = Sample { data: frame.data, duration, ..Sample::new(clock::now()) };
                    track.write_sample(self.ssrc, payload_type, &sample, &[]).await
                }
                Stream::Packets(track) => {
                    packets.write(track, &self.keypad, frame.data, sent, frame.ticks).await
                }
            };
            if written.is_ok() {
                frames_sent.fetch_add(1, Relaxed);
            }
            sent += frame.ticks;
        }
    }

    async fn payload_type(&self) -> Option<u8> {
        let parameters = self.rtp.get_parameters().await.ok()?;
        let wanted = Some(self.feed.codec());
        let mut codecs = parameters.rtp_parameters.codecs.iter();
        let agreed = codecs.find(|codec| Codec::of_mime_type(&codec.rtp_codec.mime_type) == wanted)?;
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
        sound: Bytes,
        at: u64,
        ticks: u64,
    ) -> Result<()> {
        if at >= LEAD_IN
            && let Some(payload_type) = keypad.look(&mut self.dialer)
            && let Some(EventPackets { since, marker, payload, times }) = self.dialer.handle_slot(at, ticks)
        {
            for _ in 0..times {
                let payload = Bytes::copy_from_slice(&payload);
                track.write_rtp(self.packet(payload_type, since, marker, payload)).await?;
            }
            return Ok(());
        }
        track.write_rtp(self.packet(self.payload_type, at, false, sound)).await
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

/// The engine offers no more than what a track is made of, unless it is told to; and the other side may send any.
async fn offer_all_codecs(engine: &dyn PeerConnection, rtp: &Arc<dyn RtpSender>, first: Codec) -> Result<()> {
    let kind = first.kind();
    let others = Codec::of(kind).iter().copied().filter(|other| *other != first);
    let mut codecs: Vec<_> = iter::once(first).chain(others).map(codec).collect();
    if kind == MediaKind::Audio {
        codecs.push(tones());
    }
    for transceiver in engine.get_transceivers().await {
        if transceiver.sender().await?.is_some_and(|sender| Arc::ptr_eq(&sender, rtp)) {
            transceiver.set_codec_preferences(codecs.clone()).await?;
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

/// A stream that began with a tone would be taken for one of tones: 200 ms of sound come before any.
const LEAD_IN: u64 = AUDIO_CLOCK as u64 / 5;
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
