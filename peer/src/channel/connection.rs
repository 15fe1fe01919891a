//! An established connection, for whoever uses it: where channels are opened and accepted.

use std::fmt;
use std::sync::Arc;

use tokio::sync::{Mutex, mpsc, watch};
use webrtc::data_channel::DataChannel;
use webrtc::peer_connection::PeerConnection;

use super::{Channel, ChannelClosed, ChannelOptions};

/// Channels that the other side opened, as the engine tells of them.
type Incoming = mpsc::UnboundedReceiver<Arc<dyn DataChannel>>;

/// A connection to another peer. Clones are the same connection; it belongs to its [`crate::Peer`], which closes it.
#[derive(Clone)]
pub struct Connection {
    engine: Arc<dyn PeerConnection>,
    incoming: Arc<Mutex<Incoming>>,
    /// True when it is over.
    over: watch::Receiver<bool>,
}

impl Connection {
    pub(crate) fn new(
        engine: Arc<dyn PeerConnection>,
        incoming: mpsc::UnboundedReceiver<Arc<dyn DataChannel>>,
        over: watch::Receiver<bool>,
    ) -> Self {
        Self { engine, incoming: Arc::new(Mutex::new(incoming)), over }
    }

    /// Opens a channel, and waits until the other side has it too.
    pub async fn open(&self, label: &str, options: &ChannelOptions) -> Result<Channel, ChannelClosed> {
        let opening = async {
            let engine = self.engine.create_data_channel(label, Some(options.init())).await;
            Channel::opened(
                engine.map_err(|_| ChannelClosed)?,
                label.into(),
                options.protocol.as_str().into(),
            )
            .await
        };
        tokio::select! {
            channel = opening => channel,
            () = self.closed() => Err(ChannelClosed),
        }
    }

    /// The next channel that the other side opened; nothing once the connection is over.
    pub async fn accept(&self) -> Option<Channel> {
        let accepting = async {
            let mut incoming = self.incoming.lock().await;
            while let Some(engine) = incoming.recv().await {
                if let Ok(channel) = Channel::accepted(engine).await {
                    return Some(channel);
                }
            }
            None
        };
        tokio::select! {
            channel = accepting => channel,
            () = self.closed() => None,
        }
    }

    /// Waits until the connection is over.
    pub async fn closed(&self) {
        let mut over = self.over.clone();
        // That nobody is left to tell means the same.
        let _ = over.wait_for(|over| *over).await;
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("over", &*self.over.borrow()).finish_non_exhaustive()
    }
}
