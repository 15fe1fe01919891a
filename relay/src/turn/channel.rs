//! Channels: numbers that stand for peers, so that their data needs a header of four bytes only.
//!
//! While bound, a number belongs to one peer and a peer to one number. RFC 8656, section 12.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::PeerAddr;
use crate::sorted_map::SortedMap;
use crate::stun::ChannelNumber;

/// Which numbers a client may bind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChannelRange {
    /// 0x4000 to 0x4FFF.
    Rfc8656,
    /// 0x4000 to 0x7FFF, from which older clients pick.
    Rfc5766,
}

impl ChannelRange {
    pub(super) fn contains(self, channel: ChannelNumber) -> bool {
        match self {
            Self::Rfc8656 => channel.is_in_rfc8656_range(),
            Self::Rfc5766 => true,
        }
    }
}

/// The channels of one allocation, findable from both ends.
#[derive(Debug, Default)]
pub(super) struct Channels {
    by_number: SortedMap<ChannelNumber, ChannelBinding>,
    by_peer: SortedMap<PeerAddr, ChannelNumber>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct ChannelBinding {
    pub(super) peer: PeerAddr,
    pub(super) expires_at: Instant,
}

/// Why a channel cannot be bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BindError {
    /// The number is another peer's, or the peer has another number.
    Conflict,
    /// One client has as many as it may.
    Full,
}

impl Channels {
    /// Says whether `bind` would succeed.
    pub(super) fn check(&self, channel: ChannelNumber, peer: PeerAddr) -> Result<(), BindError> {
        match (self.peer(channel), self.number(peer)) {
            (None, None) if self.by_number.len() >= MAX_CHANNELS => Err(BindError::Full),
            (None, None) => Ok(()),
            (Some(bound_peer), Some(bound_channel)) if bound_peer == peer && bound_channel == channel => {
                Ok(())
            }
            _ => Err(BindError::Conflict),
        }
    }

    /// Binds or renews. Returns when it would have expired, if it was bound.
    pub(super) fn bind(&mut self, channel: ChannelNumber, peer: PeerAddr, now: Instant) -> Option<Instant> {
        self.by_peer.insert(peer, channel);
        let binding = ChannelBinding { peer, expires_at: now + LIFETIME };
        self.by_number.insert(channel, binding).map(|before| before.expires_at)
    }

    /// Puts one back as it was in another process.
    pub(super) fn restore(&mut self, channel: ChannelNumber, peer: PeerAddr, expires_at: Instant) {
        self.by_peer.insert(peer, channel);
        self.by_number.insert(channel, ChannelBinding { peer, expires_at });
    }

    /// Unbinds. Returns whose it was.
    pub(super) fn remove(&mut self, channel: ChannelNumber) -> Option<PeerAddr> {
        let binding = self.by_number.remove(channel)?;
        self.by_peer.remove(binding.peer);
        Some(binding.peer)
    }

    /// Whom a number stands for.
    pub(super) fn peer(&self, channel: ChannelNumber) -> Option<PeerAddr> {
        self.by_number.get(channel).map(|binding| binding.peer)
    }

    /// What stands for a peer.
    pub(super) fn number(&self, peer: PeerAddr) -> Option<ChannelNumber> {
        self.by_peer.get(peer).copied()
    }

    /// The channels of all peers at one IP address.
    pub(super) fn at(&self, ip: IpAddr) -> impl Iterator<Item = (ChannelNumber, PeerAddr)> {
        self.iter()
            .map(|(channel, binding)| (channel, binding.peer))
            .filter(move |(_, peer)| peer.0.ip() == ip)
    }

    /// All of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = (ChannelNumber, ChannelBinding)> {
        self.by_number.iter().map(|(channel, binding)| (channel, *binding))
    }
}

pub(super) const LIFETIME: Duration = Duration::from_secs(600);
/// Channels of one allocation. A call needs a handful.
pub(super) const MAX_CHANNELS: usize = 1024;
