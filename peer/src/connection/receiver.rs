//! Takes what the other side sends: packets into order, frames together, files written.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use rtc::rtcp::payload_feedbacks::picture_loss_indication::PictureLossIndication;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep_until, timeout};
use webrtc::media_stream::track_remote::{TrackRemote, TrackRemoteEvent};

use super::Happening;
use super::described::Described;
use super::engine::codec_kind;
use super::tones::Agreed;
use crate::clock;
use crate::media::dtmf;
use crate::media::{Assembler, Assembly, Codec, Recording, Reorder, Unit};
use crate::report::{Event, MediaKind};
use crate::session::LinkId;

/// The readers of all remote tracks.
pub(super) struct Receivers {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
    frames: Arc<FramesReceived>,
}

/// Whole frames by kind.
#[derive(Debug, Default)]
pub(super) struct FramesReceived {
    pub(super) video: AtomicU64,
    pub(super) audio: AtomicU64,
}

impl Receivers {
    pub(super) fn start(
        link: LinkId,
        tracks: mpsc::UnboundedReceiver<Arc<dyn TrackRemote>>,
        tones: Arc<Agreed>,
        described: watch::Receiver<Described>,
        record: Option<PathBuf>,
        happenings: mpsc::UnboundedSender<(LinkId, Happening)>,
        accepted: watch::Receiver<bool>,
    ) -> Self {
        let (stop, stopped) = oneshot::channel();
        let frames = Arc::<FramesReceived>::default();
        let desk = Desk { link, tones, described, record, happenings, frames: Arc::clone(&frames) };
        let task = tokio::spawn(desk.run(tracks, stopped, accepted));
        Self { stop, task, frames }
    }

    /// After the engine has closed: waits until everything is written.
    pub(super) async fn finish(self) -> Arc<FramesReceived> {
        drop(self.stop);
        let _ = self.task.await;
        self.frames
    }
}

#[derive(Clone)]
struct Desk {
    link: LinkId,
    tones: Arc<Agreed>,
    described: watch::Receiver<Described>,
    record: Option<PathBuf>,
    happenings: mpsc::UnboundedSender<(LinkId, Happening)>,
    frames: Arc<FramesReceived>,
}

impl Desk {
    async fn run(
        self,
        mut tracks: mpsc::UnboundedReceiver<Arc<dyn TrackRemote>>,
        mut stopped: oneshot::Receiver<()>,
        mut accepted: watch::Receiver<bool>,
    ) {
        let mut readers = JoinSet::new();
        tokio::select! {
            _ = accepted.wait_for(|accepted| *accepted) => {}
            _ = &mut stopped => return,
        }
        loop {
            tokio::select! {
                track = tracks.recv() => match track {
                    Some(track) if readers.len() < MOST_TRACKS => {
                        readers.spawn(self.clone().read(track));
                    }
                    Some(_) => tracing::debug!("Track beyond the limit ignored"),
                    None => break,
                },
                _ = &mut stopped => break,
                Some(_) = readers.join_next() => {}
            }
        }
        // The tracks have ended with the engine; readers that do not notice are ended.
        if timeout(FINISH_TIMEOUT, async { while readers.join_next().await.is_some() {} }).await.is_err() {
            readers.shutdown().await;
        }
    }

    async fn read(self, track: Arc<dyn TrackRemote>) {
        let kind = track.kind().await;
        let known = [MediaKind::Video, MediaKind::Audio];
        let Some(kind) = known.into_iter().find(|known| codec_kind(*known) == kind) else { return };
        let ssrc = track.ssrcs().await.first().copied().unwrap_or_default();
        let codec = track.codec(ssrc).await.map(|codec| codec.mime_type).unwrap_or_default();
        // The engine names a track by its first packet, which may have been of a tone.
        let is_tones = codec.eq_ignore_ascii_case(dtmf::MIME_TYPE);
        let codec = if is_tones { Codec::Opus.mime_type().to_owned() } else { codec };
        let Some(known) = Codec::of_mime_type(&codec) else {
            tracing::debug!(codec, "Track in a codec that was not offered ignored");
            return;
        };
        let mut reader = Reader {
            desk: self,
            kind,
            codec: known,
            assembler: Assembler::new(known),
            recording: None,
            keys: dtmf::Listener::default(),
            key_frames: KeyFrames { ssrc, asked: None },
        };
        reader.run(&*track).await;
    }

    fn tell(&self, happening: Happening) {
        let _ = self.happenings.send((self.link, happening));
    }
}

/// Reads one track.
struct Reader {
    desk: Desk,
    kind: MediaKind,
    codec: Codec,
    assembler: Assembler,
    recording: Option<Recording>,
    keys: dtmf::Listener,
    key_frames: KeyFrames,
}

impl Reader {
    /// As long as the engine has the track: what is removed may come back under the same source.
    async fn run(&mut self, track: &dyn TrackRemote) {
        let mut described = self.desk.described.clone();
        loop {
            let source = self.key_frames.ssrc;
            let sent = |described: &Described| described.has(self.kind, source);
            tokio::select! {
                begun = described.wait_for(sent) => if begun.is_err() { return },
                event = track.poll() => match event {
                    // Of before it was removed, or without a description of it: whatever has no name is not ours to judge.
                    Some(TrackRemoteEvent::OnRtpPacket(packet)) => self.key_frames.ssrc = packet.header.ssrc,
                    Some(TrackRemoteEvent::OnEnded) | None => return,
                    Some(_) => {}
                },
            }
            if !described.borrow().has(self.kind, self.key_frames.ssrc) {
                continue;
            }
            self.begin();
            let over = self.take_all(track, &mut described).await;
            self.finish().await;
            if over {
                return;
            }
        }
    }

    fn begin(&mut self) {
        let codec = self.codec.mime_type().to_owned();
        self.desk.tell(Happening::Tell(Event::Track { kind: self.kind, codec }));
        self.assembler = Assembler::new(self.codec);
        self.recording = self.desk.record.clone().map(|directory| Recording::start(self.codec, directory));
    }

    /// Until the other side sends no more; says whether the track is over altogether.
    async fn take_all(
        &mut self,
        track: &dyn TrackRemote,
        described: &mut watch::Receiver<Described>,
    ) -> bool {
        let mut reorder = Reorder::new(patience(self.kind));
        loop {
            let due = reorder.poll_timeout();
            let (kind, source) = (self.kind, self.key_frames.ssrc);
            let mut switched = None;
            tokio::select! {
                removed = described.wait_for(|described| !described.has(kind, source)) => return removed.is_err(),
                event = track.poll() => match event {
                    Some(TrackRemoteEvent::OnRtpPacket(packet)) => {
                        let codec = self.desk.described.borrow().codec(packet.header.payload_type);
                        switched = codec.filter(|codec| *codec != self.codec);
                        if switched.is_some() {
                            reorder = Reorder::new(patience(self.kind));
                        }
                        let (sequence, timestamp) = (packet.header.sequence_number, packet.header.timestamp);
                        self.key_frames.ssrc = packet.header.ssrc;
                        reorder.handle_packet(clock::now(), sequence, timestamp, packet);
                    }
                    Some(TrackRemoteEvent::OnEnded) | None => return true,
                    Some(_) => {}
                },
                () = sleep_until(due.unwrap_or_else(clock::now).into()), if due.is_some() => {}
            }
            if let Some(codec) = switched {
                // The engine names a track by what was sent before in its place.
                self.finish().await;
                self.codec = codec;
                self.begin();
            }
            while let Some(ready) = reorder.poll(clock::now()) {
                if self.desk.tones.payload_type() == Some(ready.packet.header.payload_type) {
                    self.hear(ready.timestamp, &ready.packet.payload);
                    continue;
                }
                let marker = ready.packet.header.marker;
                self.take(track, ready.timestamp, marker, ready.lost, ready.packet.payload).await;
            }
        }
    }

    async fn take(
        &mut self,
        track: &dyn TrackRemote,
        at: u64,
        marker: bool,
        lost: bool,
        payload: bytes::Bytes,
    ) {
        if payload.is_empty() {
            return;
        }
        match self.kind {
            MediaKind::Audio => self.deliver(Unit { at, data: payload, dimensions: None }),
            MediaKind::Video => match self.assembler.handle_packet(at, marker, lost, &payload) {
                Assembly::Pending => {}
                Assembly::Frame { at, data, dimensions } => self.deliver(Unit { at, data, dimensions }),
                Assembly::NeedsKeyFrame => self.key_frames.ask(clock::now(), track).await,
            },
        }
    }

    fn hear(&mut self, at: u64, payload: &[u8]) {
        if let Some(tone) = self.keys.handle_packet(at, payload) {
            self.desk.tell(Happening::Tell(Event::Dtmf { tone: tone.key() }));
        }
    }

    fn deliver(&self, unit: Unit) {
        let frames = match self.kind {
            MediaKind::Video => &self.desk.frames.video,
            MediaKind::Audio => &self.desk.frames.audio,
        };
        if frames.fetch_add(1, Relaxed) == 0 {
            self.desk.tell(Happening::FirstFrame { kind: self.kind });
        }
        if let Some(recording) = &self.recording {
            recording.write(unit);
        }
    }

    async fn finish(&mut self) {
        self.desk.tell(Happening::Tell(Event::TrackEnded { kind: self.kind }));
        let Some(recording) = self.recording.take() else { return };
        let event = match recording.finish().await {
            Ok(Some((path, frames))) => {
                Event::Recorded { kind: self.kind, path: path.display().to_string(), frames }
            }
            Ok(None) => return,
            Err(error) => {
                Event::Warning { message: format!("the {} was not recorded: {error}", self.kind.text()) }
            }
        };
        self.desk.tell(Happening::Tell(event));
    }
}

/// How long to wait for what is missing. Pictures are asked for again, every 100 ms: time for that to be lost once or twice, and
/// for a round trip of 200 ms. Nobody repeats sound.
fn patience(kind: MediaKind) -> Duration {
    match kind {
        MediaKind::Video => Duration::from_millis(600),
        MediaKind::Audio => Duration::from_millis(200),
    }
}

/// Asks for key frames, and not more often than an encoder can make them.
struct KeyFrames {
    ssrc: u32,
    asked: Option<Instant>,
}

impl KeyFrames {
    async fn ask(&mut self, now: Instant, track: &dyn TrackRemote) {
        if self.asked.is_some_and(|asked| now.saturating_duration_since(asked) < PLI_INTERVAL) {
            return;
        }
        self.asked = Some(now);
        let indication = PictureLossIndication { sender_ssrc: 0, media_ssrc: self.ssrc };
        if let Err(error) = track.write_rtcp(vec![Box::new(indication)]).await {
            tracing::debug!(%error, "Key frame not asked for");
        }
    }
}

/// More than a call has; a hostile peer must not make us read any number.
const MOST_TRACKS: usize = 8;
const FINISH_TIMEOUT: Duration = Duration::from_secs(2);
const PLI_INTERVAL: Duration = Duration::from_millis(500);
