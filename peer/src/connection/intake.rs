//! The last station of what comes in before the engine hands it out: cures one fault, and hears requests.
//!
//! The engine announces a track with its first packet. Where that came through a relay, driver 0.21.1 hands the packet
//! out in the same pass, before anybody can have the track, and drops it, which costs the first key frame. So the
//! first packet goes ahead as a copy, and the stream itself follows a pass later. The copy is dropped, or is a
//! repetition, which does no harm.
//!
//! Requests for key frames would end in the chain; they are what a sender must know.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rtc::interceptor::{Interceptor, Packet, StreamInfo, TaggedPacket};
use rtc::rtcp::payload_feedbacks::full_intra_request::FullIntraRequest;
use rtc::rtcp::payload_feedbacks::picture_loss_indication::PictureLossIndication;
use rtc::sansio::Protocol;
use webrtc::error::{Error, Result};

use super::bandwidth::Feedback;

/// The copies that went ahead, by synchronization source, for those who count packets.
#[derive(Debug, Default)]
pub(super) struct Announced(Mutex<BTreeMap<u32, Copies>>);

/// Of one stream.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Copies {
    pub(super) packets: u64,
    pub(super) bytes: u64,
}

impl Announced {
    pub(super) fn of(&self, ssrc: u32) -> Copies {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&ssrc).copied().unwrap_or_default()
    }

    fn add(&self, ssrc: u32, bytes: usize) {
        let mut streams = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let copies = streams.entry(ssrc).or_default();
        copies.packets += 1;
        copies.bytes += bytes as u64;
    }
}

/// See the module.
pub(super) struct Intake {
    announced: Arc<Announced>,
    feedback: Arc<Feedback>,
    /// By synchronization source.
    streams: BTreeMap<u32, Stream>,
    incoming: VecDeque<TaggedPacket>,
    outgoing: VecDeque<TaggedPacket>,
}

enum Stream {
    /// The copy is under way; these follow.
    Announced {
        held: Vec<TaggedPacket>,
        since: Instant,
    },
    Open,
}

impl Intake {
    pub(super) fn new(feedback: Arc<Feedback>, announced: Arc<Announced>) -> Self {
        Self {
            announced,
            feedback,
            streams: BTreeMap::new(),
            incoming: VecDeque::new(),
            outgoing: VecDeque::new(),
        }
    }

    fn handle_rtp(&mut self, ssrc: u32, bytes: usize, message: TaggedPacket) {
        if let Some(stream) = self.streams.get_mut(&ssrc) {
            match stream {
                Stream::Announced { held, .. } if held.len() < MOST_HELD => held.push(message),
                Stream::Announced { .. } | Stream::Open => self.incoming.push_back(message),
            }
        } else if self.streams.len() < MOST_STREAMS {
            let since = message.now;
            self.announced.add(ssrc, bytes);
            self.incoming.push_back(TaggedPacket {
                now: message.now,
                transport: message.transport,
                message: message.message.clone(),
            });
            self.streams.insert(ssrc, Stream::Announced { held: vec![message], since });
        } else {
            self.incoming.push_back(message);
        }
    }
}

impl Protocol<TaggedPacket, TaggedPacket, ()> for Intake {
    type Rout = TaggedPacket;
    type Wout = TaggedPacket;
    type Eout = ();
    type Error = Error;
    type Time = Instant;

    fn handle_read(&mut self, message: TaggedPacket) -> Result<()> {
        if let Packet::Rtp(packet) = &message.message.packet {
            self.handle_rtp(packet.header.ssrc, packet.payload.len(), message);
            return Ok(());
        }
        if let Packet::Rtcp(packets) = &message.message.packet {
            let mut kinds = packets.iter().map(|packet| packet.as_any());
            if kinds.any(|packet| packet.is::<PictureLossIndication>() || packet.is::<FullIntraRequest>()) {
                self.feedback.key_frame_wanted.notify_one();
            }
        }
        self.incoming.push_back(message);
        Ok(())
    }

    fn poll_read(&mut self) -> Option<TaggedPacket> {
        self.incoming.pop_front()
    }

    fn handle_write(&mut self, message: TaggedPacket) -> Result<()> {
        self.outgoing.push_back(message);
        Ok(())
    }

    fn poll_write(&mut self) -> Option<TaggedPacket> {
        self.outgoing.pop_front()
    }

    fn handle_timeout(&mut self, _now: Instant) -> Result<()> {
        for stream in self.streams.values_mut() {
            if let Stream::Announced { held, .. } = std::mem::replace(stream, Stream::Open) {
                self.incoming.extend(held);
            }
        }
        Ok(())
    }

    fn poll_timeout(&mut self) -> Option<Instant> {
        let due = |stream: &Stream| match stream {
            Stream::Announced { since, .. } => Some(*since + ANNOUNCEMENT),
            Stream::Open => None,
        };
        self.streams.values().filter_map(due).min()
    }
}

impl Interceptor for Intake {
    fn bind_local_stream(&mut self, _info: &StreamInfo) {}
    fn unbind_local_stream(&mut self, _info: &StreamInfo) {}
    fn bind_remote_stream(&mut self, _info: &StreamInfo) {}

    fn unbind_remote_stream(&mut self, info: &StreamInfo) {
        self.streams.remove(&info.ssrc);
    }
}

/// Behind everything that reads.
pub(super) const SLOT: usize = 14_000;
/// A hostile peer must not fill our memory with sources; those beyond are not cured.
const MOST_STREAMS: usize = 32;
const MOST_HELD: usize = 64;
const ANNOUNCEMENT: Duration = Duration::from_millis(1);
