//! From what workers say to what the protocol says.

use std::time::{Duration, Instant};

use farcall_proto::relay::v1;
use prost_types::Timestamp;

use crate::io::{Listed, Traffic};
use crate::turn::{Peers, RelayProtocol, Transport};

pub(super) fn allocation(listed: &Listed, unix: u64) -> v1::Allocation {
    let Listed { summary, traffic: carried, now } = listed;
    let transport = match summary.flow.transport {
        Transport::Udp => v1::Transport::Udp,
        Transport::Tcp => v1::Transport::Tcp,
        Transport::Tls => v1::Transport::Tls,
        Transport::Dtls => v1::Transport::Dtls,
    };
    let relayed_transport = match summary.protocol {
        RelayProtocol::Udp => v1::Transport::Udp,
        RelayProtocol::Tcp => v1::Transport::Tcp,
    };
    v1::Allocation {
        id: summary.serial.to_string(),
        user: summary.user.name.to_string(),
        account: summary.user.account.to_string(),
        client: summary.flow.client.to_string(),
        server: summary.flow.server.to_string(),
        transport: transport.into(),
        relayed: summary.relayed.to_string(),
        created_at: Some(timestamp(unix.saturating_sub(summary.age(*now).as_secs()))),
        expires_in: Some(remaining(*now, summary.expires_at)),
        traffic: Some(traffic(*carried)),
        permissions: count(summary.permissions),
        channels: count(summary.channels),
        relayed_transport: relayed_transport.into(),
    }
}

pub(super) fn permissions(now: Instant, peers: &Peers) -> Vec<v1::Permission> {
    let permission = |(ip, expires_at): &(std::net::IpAddr, Instant)| v1::Permission {
        peer: ip.to_string(),
        expires_in: Some(remaining(now, *expires_at)),
    };
    peers.permissions.iter().map(permission).collect()
}

pub(super) fn channels(now: Instant, peers: &Peers) -> Vec<v1::Channel> {
    peers
        .channels
        .iter()
        .map(|(number, peer, expires_at)| v1::Channel {
            number: number.number().into(),
            peer: peer.to_string(),
            expires_in: Some(remaining(now, *expires_at)),
        })
        .collect()
}

pub(super) fn traffic(Traffic { to_peer, to_client }: Traffic) -> v1::Traffic {
    v1::Traffic {
        datagrams_to_peer: to_peer.datagrams,
        bytes_to_peer: to_peer.bytes,
        datagrams_to_client: to_client.datagrams,
        bytes_to_client: to_client.bytes,
    }
}

pub(super) fn timestamp(unix: u64) -> Timestamp {
    Timestamp { seconds: i64::try_from(unix).unwrap_or(i64::MAX), nanos: 0 }
}

pub(super) fn count(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn remaining(now: Instant, expires_at: Instant) -> prost_types::Duration {
    let left: Duration = expires_at.saturating_duration_since(now);
    prost_types::Duration { seconds: i64::try_from(left.as_secs()).unwrap_or(i64::MAX), nanos: 0 }
}
