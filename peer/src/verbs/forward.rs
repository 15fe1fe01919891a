//! `forward`: ports of one side at the other. What is reached at this side, only this side decides.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::meeting::{config, meet};
use super::session;
use crate::channel::{Channel, ChannelClosed, Connection};
use crate::cli::{self, Common};
use crate::failure::{Failure, Reason};
use crate::forward::{self, Forward, Network, Rule, Target};
use crate::peer::{Config, Connections};
use crate::report::{Event, Reporter};

/// Runs until somebody interrupts, or it fails.
pub async fn run(common: &Common, forward: &cli::Forward, reporter: &Reporter) -> Result<(), Failure> {
    let cli::Forward { joining, local, remote, allow, allow_listen } = forward;
    if local.is_empty() && remote.is_empty() && allow.is_empty() && allow_listen.is_empty() {
        let message = "nothing to do: give -L or -R, or --allow what the other side may reach";
        return Err(Failure::new(Reason::BadUsage, message));
    }
    let mut listeners = Vec::new();
    for forward in local {
        let listener = Listener::bind(&forward.listen).await;
        let listener = listener.map_err(|error| {
            Failure::new(Reason::BadUsage, format!("cannot listen at {}: {error}", forward.listen))
        })?;
        let (address, target) = (listener.address(), forward.target.to_string());
        reporter.event(&Event::Listening { address, target, remote: false });
        listeners.push((listener, forward.target.clone()));
    }
    let shares = forward.local.is_empty() && forward.remote.is_empty();
    let config = Config { media: false, unattended: shares, ..config(common, &joining.manner)? };
    let peer = meet(config, joining.room.as_deref(), "forward CODE", reporter).await?;
    let mut connections = peer.connections();
    let mut tasks = JoinSet::new();
    for (listener, target) in listeners {
        let (connections, reporter) = (connections.clone(), reporter.clone());
        tasks.spawn(async move {
            let opener = move || reach(connections.clone(), target.clone(), reporter.clone());
            listener.serve(opener).await;
        });
    }
    let terms = Arc::new(Terms {
        remote: remote.clone(),
        allow: allow.clone(),
        allow_listen: allow_listen.clone(),
        reporter: reporter.clone(),
    });
    let work = async {
        while let Some(connection) = connections.next().await {
            terms.serve(&connection).await;
        }
        // The peer has ended, and says why.
        std::future::pending().await
    };
    session::run(peer, reporter, work).await.map(|_: Option<()>| ())
}

/// A channel to `target` through whichever connection there is, or soon will be.
async fn reach(
    mut connections: Connections,
    target: Target,
    reporter: Reporter,
) -> Result<Channel, ChannelClosed> {
    let latest = timeout(PATIENCE, connections.latest()).await;
    let Ok(Some(connection)) = latest else { return Err(ChannelClosed) };
    let options = forward::options(target.network, forward::FORWARD);
    let channel = connection.open(&target.to_string(), &options).await?;
    if target.network == Network::Tcp
        && let Err(why) = forward::answer(&channel).await
    {
        let message = format!("the other side does not connect to {target}: {why}");
        reporter.event(&Event::Warning { message });
        return Err(ChannelClosed);
    }
    Ok(channel)
}

/// What this side wants of the other, and what it allows it.
#[derive(Debug)]
struct Terms {
    remote: Vec<Forward>,
    allow: Vec<Rule>,
    allow_listen: Vec<Rule>,
    reporter: Reporter,
}

impl Terms {
    /// Until the connection is over, and everything that went over it with it.
    async fn serve(self: &Arc<Self>, connection: &Connection) {
        let mut tasks = JoinSet::new();
        for forward in self.remote.iter().cloned() {
            tasks.spawn(Arc::clone(self).ask_to_listen(connection.clone(), forward));
        }
        loop {
            tokio::select! {
                channel = connection.accept() => match channel {
                    Some(channel) if tasks.len() < MOST_FLOWS => {
                        tasks.spawn(Arc::clone(self).take(connection.clone(), channel));
                    }
                    Some(channel) => forward::refuse(&channel, "too many at once").await,
                    None => return,
                },
                Some(_) = tasks.join_next() => {}
            }
        }
    }

    async fn ask_to_listen(self: Arc<Self>, connection: Connection, forward: Forward) {
        let options = forward::options(Network::Tcp, forward::LISTEN);
        let Ok(channel) = connection.open(&forward.listen.to_string(), &options).await else { return };
        let event = match forward::answer(&channel).await {
            Ok(address) => Event::Listening { address, target: forward.target.to_string(), remote: true },
            Err(why) => Event::Warning {
                message: format!("the other side does not listen at {}: {why}", forward.listen),
            },
        };
        self.reporter.event(&event);
        // As long as it is open, the other side listens.
        while channel.receive().await.is_some() {}
    }

    async fn take(self: Arc<Self>, connection: Connection, channel: Channel) {
        let Ok(named) = channel.label().parse::<Target>() else {
            return forward::refuse(&channel, "that is no address").await;
        };
        let covered = |rules: &[Rule]| rules.iter().any(|rule| rule.covers(&named));
        match channel.protocol() {
            forward::FORWARD if covered(&self.allow) => connect(channel, &named).await,
            forward::ACCEPTED => match self.remote.iter().find(|forward| forward.listen == named) {
                Some(forward) => connect(channel, &forward.target).await,
                None => forward::refuse(&channel, "nobody asked for it").await,
            },
            forward::LISTEN if covered(&self.allow_listen) => listen(connection, channel, named).await,
            forward::FORWARD | forward::LISTEN => {
                tracing::debug!(%named, "Not allowed to the other side");
                forward::refuse(&channel, "it is not allowed there").await;
            }
            _ => forward::refuse(&channel, "this side forwards ports").await,
        }
    }
}

async fn connect(channel: Channel, target: &Target) {
    let address = (target.host.as_str(), target.port);
    let result = match target.network {
        Network::Tcp => match timeout(PATIENCE, TcpStream::connect(address)).await {
            Ok(Ok(socket)) => {
                forward::agree(&channel, "").await;
                return forward::splice(channel, socket).await;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "it does not answer".to_owned(),
        },
        Network::Udp => match connected_socket(address).await {
            Ok(socket) => {
                forward::agree(&channel, "").await;
                return forward::carry(channel, socket).await;
            }
            Err(error) => error.to_string(),
        },
    };
    forward::refuse(&channel, &result).await;
}

async fn connected_socket(address: (&str, u16)) -> std::io::Result<UdpSocket> {
    let mut addresses = tokio::net::lookup_host(address).await?;
    let address = addresses.next().ok_or_else(|| std::io::Error::other("it has no address"))?;
    let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(address).await?;
    Ok(socket)
}

/// For the other side, until it closes the channel on which it asked.
async fn listen(connection: Connection, channel: Channel, at: Target) {
    let listener = match Listener::bind(&at).await {
        Ok(listener) => listener,
        Err(error) => return forward::refuse(&channel, &error.to_string()).await,
    };
    forward::agree(&channel, &listener.address()).await;
    let opener = move || {
        let (connection, at) = (connection.clone(), at.clone());
        async move {
            let options = forward::options(at.network, forward::ACCEPTED);
            let channel = connection.open(&at.to_string(), &options).await?;
            if at.network == Network::Tcp {
                forward::answer(&channel).await.map_err(|_| ChannelClosed)?;
            }
            Ok(channel)
        }
    };
    let wanted = async { while channel.receive().await.is_some() {} };
    tokio::select! {
        () = listener.serve(opener) => {}
        () = wanted => {}
    }
}

/// Where programs of this side come in.
#[derive(Debug)]
enum Listener {
    Tcp(TcpListener),
    Udp(UdpSocket),
}

impl Listener {
    async fn bind(at: &Target) -> std::io::Result<Self> {
        let address = (at.host.as_str(), at.port);
        Ok(match at.network {
            Network::Tcp => Self::Tcp(TcpListener::bind(address).await?),
            Network::Udp => Self::Udp(UdpSocket::bind(address).await?),
        })
    }

    fn address(&self) -> String {
        let address = match self {
            Self::Tcp(listener) => listener.local_addr(),
            Self::Udp(socket) => socket.local_addr(),
        };
        address.map_or_else(|_| String::new(), |address| address.to_string())
    }

    /// A channel from `open` for each who comes.
    async fn serve<F>(self, open: impl Fn() -> F)
    where
        F: Future<Output = Result<Channel, ChannelClosed>> + Send + 'static,
    {
        let listener = match self {
            Self::Tcp(listener) => listener,
            Self::Udp(socket) => return forward::spread(socket, open).await,
        };
        let mut flows = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept(), if flows.len() < MOST_FLOWS => match accepted {
                    Ok((socket, _)) => {
                        let opening = open();
                        flows.spawn(async move {
                            if let Ok(channel) = opening.await {
                                forward::splice(channel, socket).await;
                            }
                        });
                    }
                    // Out of descriptors: they come back when a connection ends.
                    Err(error) => {
                        tracing::debug!(%error, "Connection not accepted");
                        tokio::time::sleep(PAUSE).await;
                    }
                },
                Some(_) = flows.join_next() => {}
            }
        }
    }
}

const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(100);
/// At a time, each way.
const MOST_FLOWS: usize = 1024;
