//! The signaling client: keeps this process in its room, whatever the network does.
//!
//! One task owns the session. It resumes a stream that broke, repeats what the server may not have taken, drops what it
//! sees twice, and joins anew when the server lost the session. Only the first join may fail.

mod backoff;
mod convert;
mod error;
mod inbox;
mod outbox;
mod session;

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};

use crate::failure::{Failure, Reason};
use crate::net::IceServer;
use crate::session::{Payload, SessionId, Signal};

/// Where and as whom to join.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    /// `http://host:port` or `https://host:port`.
    pub(crate) server: String,
    pub(crate) token: Option<String>,
    /// Authorities in PEM to trust instead of the usual ones.
    pub(crate) ca: Option<PathBuf>,
    pub(crate) room: String,
    pub(crate) display_name: String,
    /// The public key, 32 bytes, or nothing.
    pub(crate) identity_key: Vec<u8>,
    /// Tells this process from any other.
    pub(crate) instance: String,
}

/// What the client tells.
#[derive(Debug)]
pub(crate) enum Notice {
    /// The servers to find candidates with, from now on.
    IceServers(Vec<IceServer>),
    /// For the session core.
    Signal(Signal),
    /// The stream broke; it is being brought back.
    Lost,
    /// The stream is back and nothing was lost.
    Resumed,
    /// The stream is back as a new session.
    Rejoined,
    /// For people.
    Warning(String),
    /// There is no way on.
    Failed(Failure),
}

/// What the client is told.
#[derive(Debug)]
enum Outgoing {
    Say {
        to: SessionId,
        negotiation: String,
        payload: Payload,
    },
    /// The network is another: what the old connection says may never arrive.
    Reconnect,
    /// The network may be another: does the old connection still work?
    Probe,
    /// Somebody waits for what was just said to arrive.
    Hurry,
    Leave,
}

/// A participant's place in its room.
#[derive(Debug)]
pub(crate) struct Client {
    outgoing: mpsc::UnboundedSender<Outgoing>,
    notices: mpsc::Receiver<Notice>,
    task: JoinHandle<()>,
}

impl Client {
    /// Begins to join; how it went is the first notice.
    pub(crate) fn start(config: Config) -> Result<Self, Failure> {
        let endpoint = endpoint(&config.server, config.ca.as_deref())?;
        let (outgoing, commands) = mpsc::unbounded_channel();
        let (notify, notices) = mpsc::channel(NOTICES);
        let task = tokio::spawn(session::run(config, endpoint, commands, notify));
        Ok(Self { outgoing, notices, task })
    }

    /// The next notice; nothing after the end.
    pub(crate) async fn notice(&mut self) -> Option<Notice> {
        self.notices.recv().await
    }

    /// Says something to a participant, now or when the stream is back.
    pub(crate) fn say(&self, to: SessionId, negotiation: String, payload: Payload) {
        // After its end the client has nobody to talk to.
        let _ = self.outgoing.send(Outgoing::Say { to, negotiation, payload });
    }

    /// Goes to the server by a new connection.
    pub(crate) fn reconnect(&self) {
        let _ = self.outgoing.send(Outgoing::Reconnect);
    }

    /// Goes to the server by a new connection if the old one brings no answer soon: the network may be another.
    pub(crate) fn probe(&self) {
        let _ = self.outgoing.send(Outgoing::Probe);
    }

    /// Goes by a new connection if what was just said does not arrive soon. Where a handshake of TCP was lost, it waits
    /// three seconds before it sends anything again, and then six (RFC 6298, section 5.7).
    pub(crate) fn hurry(&self) {
        let _ = self.outgoing.send(Outgoing::Hurry);
    }

    /// Says what waits to be said, leaves the room and ends.
    pub(crate) async fn leave(mut self) {
        let _ = self.outgoing.send(Outgoing::Leave);
        while self.notices.recv().await.is_some() {}
        let _ = self.task.await;
    }
}

/// Notices that may wait for the application before the client waits for it.
const NOTICES: usize = 256;
/// For connecting, and for any single call.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

fn endpoint(server: &str, ca: Option<&Path>) -> Result<Endpoint, Failure> {
    let bad = |error: &dyn std::fmt::Display| {
        Failure::new(Reason::BadUsage, format!("{server} is no signaling server: {error}"))
    };
    let endpoint = Endpoint::from_shared(server.to_owned()).map_err(|error| bad(&error))?;
    if !matches!(endpoint.uri().scheme_str(), Some("http" | "https")) {
        return Err(bad(&"it must begin with http:// or https://"));
    }
    let endpoint = endpoint
        .connect_timeout(CALL_TIMEOUT)
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(5))
        .keep_alive_while_idle(true)
        .tcp_nodelay(true);
    if endpoint.uri().scheme_str() == Some("https") {
        let tls = match ca {
            // Where there is one of its own, no other authority has a say.
            Some(path) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(path)?)),
            // The machine's, and those that browsers know where the machine has none.
            None => ClientTlsConfig::new().with_enabled_roots(),
        };
        return endpoint.tls_config(tls).map_err(|error| bad(&error));
    }
    Ok(endpoint)
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let bad = |rule: &dyn std::fmt::Display| {
        Failure::new(Reason::BadUsage, format!("{} holds no authorities: {rule}", path.display()))
    };
    let content = std::fs::read(path).map_err(|error| bad(&error))?;
    let marker = b"-----BEGIN CERTIFICATE-----";
    if !content.windows(marker.len()).any(|window| window == marker) {
        return Err(bad(&"no certificate in PEM"));
    }
    Ok(content)
}
