//! Forwarding of TCP and UDP over data channels: each connection, or each sender of datagrams, has a channel.
//!
//! Who wants a connection made at the other side opens a channel with the protocol `farcall.forward.v1` and the target
//! as its label, `tcp:HOST:PORT` or `udp:HOST:PORT`. Who wants the other side to listen opens one with
//! `farcall.listen.v1` and the address as its label, and keeps it open as long as it wants that; for whatever comes
//! there, the other side opens a channel with `farcall.accepted.v1` and the same label. Whoever accepts a channel
//! answers with the text `ok` (for a listener, `ok` and its address) or `refused` and the reason. After it, TCP is
//! a [`Stream`](crate::Stream), and a datagram is a message on an unordered channel without retransmission.

mod datagrams;
mod spec;
mod tcp;

pub(crate) use self::datagrams::{carry, spread};
pub(crate) use self::spec::Target;
pub use self::spec::{Forward, Network, Rule};
pub(crate) use self::tcp::splice;
use crate::channel::{Channel, ChannelOptions};
use crate::connection::Message;

pub(crate) const FORWARD: &str = "farcall.forward.v1";
pub(crate) const LISTEN: &str = "farcall.listen.v1";
pub(crate) const ACCEPTED: &str = "farcall.accepted.v1";
const OK: &str = "ok";
const REFUSED: &str = "refused";

/// The channel that suits.
pub(crate) fn options(network: Network, protocol: &str) -> ChannelOptions {
    match network {
        Network::Tcp => ChannelOptions::reliable(protocol),
        Network::Udp => ChannelOptions::datagrams(protocol),
    }
}

pub(crate) async fn agree(channel: &Channel, what: &str) {
    let _ = channel.send(Message::Text(format!("{OK} {what}").trim_end().to_owned())).await;
}

pub(crate) async fn refuse(channel: &Channel, why: &str) {
    let _ = channel.send(Message::Text(format!("{REFUSED} {why}"))).await;
    channel.close().await;
}

/// What whoever accepted the channel says first: what follows `ok`, or why not.
pub(crate) async fn answer(channel: &Channel) -> Result<String, String> {
    match channel.receive().await {
        Some(Message::Text(text)) => read(&text),
        Some(Message::Data(_)) => Err("it does not speak this protocol".to_owned()),
        None => Err("the connection is gone".to_owned()),
    }
}

fn read(text: &str) -> Result<String, String> {
    let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
    if word == OK { Ok(rest.to_owned()) } else { Err(rest.to_owned()) }
}
