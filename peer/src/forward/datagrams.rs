//! UDP: a channel for each sender of datagrams, which ends when nothing has passed for a while.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::channel::{Channel, ChannelClosed};
use crate::connection::Message;

/// Between a channel and a socket that is connected to the target.
pub(crate) async fn carry(channel: Channel, socket: UdpSocket) {
    let mut buffer = vec![0; LARGEST];
    loop {
        let step = async {
            tokio::select! {
                received = socket.recv(&mut buffer) => {
                    // A target that is not there yet says so here, and may be there later.
                    let Ok(length) = received else { return true };
                    let datagram = Bytes::copy_from_slice(buffer.get(..length).unwrap_or_default());
                    channel.send(Message::Data(datagram)).await.is_ok()
                }
                message = channel.receive() => match message {
                    Some(Message::Data(datagram)) => {
                        let _ = socket.send(&datagram).await;
                        true
                    }
                    Some(Message::Text(_)) => true,
                    None => false,
                },
            }
        };
        if timeout(IDLE, step).await != Ok(true) {
            break;
        }
    }
    channel.close().await;
}

/// Between a socket that anybody may send to and a channel of its own for each who does.
pub(crate) async fn spread<F>(socket: UdpSocket, open: impl Fn() -> F)
where
    F: Future<Output = Result<Channel, ChannelClosed>> + Send + 'static,
{
    let socket = Arc::new(socket);
    let mut senders: HashMap<SocketAddr, mpsc::Sender<Bytes>> = HashMap::new();
    let mut flows = JoinSet::new();
    let mut buffer = vec![0; LARGEST];
    loop {
        tokio::select! {
            received = socket.recv_from(&mut buffer) => {
                let Ok((length, from)) = received else { continue };
                let datagram = Bytes::copy_from_slice(buffer.get(..length).unwrap_or_default());
                if !senders.contains_key(&from) {
                    if senders.len() >= MOST_FLOWS {
                        continue;
                    }
                    let (sender, datagrams) = mpsc::channel(QUEUE);
                    senders.insert(from, sender);
                    flows.spawn(flow(Arc::clone(&socket), from, datagrams, open()));
                }
                // What does not fit is lost, as datagrams are.
                if let Some(sender) = senders.get(&from) {
                    let _ = sender.try_send(datagram);
                }
            }
            Some(ended) = flows.join_next() => {
                if let Ok(from) = ended {
                    senders.remove(&from);
                }
            }
        }
    }
}

/// What passes between one sender of datagrams and its channel.
async fn flow(
    socket: Arc<UdpSocket>,
    from: SocketAddr,
    mut datagrams: mpsc::Receiver<Bytes>,
    opening: impl Future<Output = Result<Channel, ChannelClosed>>,
) -> SocketAddr {
    let Ok(channel) = opening.await else { return from };
    loop {
        let step = async {
            tokio::select! {
                datagram = datagrams.recv() => match datagram {
                    Some(datagram) => channel.send(Message::Data(datagram)).await.is_ok(),
                    None => false,
                },
                message = channel.receive() => match message {
                    Some(Message::Data(datagram)) => {
                        let _ = socket.send_to(&datagram, from).await;
                        true
                    }
                    Some(Message::Text(text)) => super::read(&text).is_ok(),
                    None => false,
                },
            }
        };
        if timeout(IDLE, step).await != Ok(true) {
            break;
        }
    }
    channel.close().await;
    from
}

const LARGEST: usize = 64 << 10;
const IDLE: Duration = Duration::from_secs(60);
const MOST_FLOWS: usize = 1024;
const QUEUE: usize = 64;
