//! A peer: joins a room, connects to whoever else is there, and tells what happens.
//!
//! One task does what the session core wants; everything else is on either side of it.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::json;
use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::sleep_until;

use crate::channel;
use crate::clock;
use crate::connection::{self, Connection, Ends, Happening, Message};
use crate::failure::{Failure, Reason};
use crate::identity::{Code, Folder, Identity, Introduction, PublicKey, Trust};
use crate::media::{Feed, Feeds, Tones};
use crate::net::{
    self, BindAddresses, Change, Changes, Eagerness, IcePolicy, IceServer, ServerOutcome, UsableServers,
};
use crate::report::{Event, MediaKind, PathReport, SignalingState, milliseconds};
use crate::session::{self, Command, Intent, LinkEvent, LinkId, OfferPolicy, Payload, Session};
use crate::signaling::{self, Client, Notice};

/// Where to meet whom, and how.
#[derive(Debug, Clone)]
pub struct Config {
    /// The signaling server: `http://host:port` or `https://host:port`.
    pub server: String,
    /// A bearer token, where the server wants one.
    pub token: Option<String>,
    /// File with the authorities in PEM that certificates must come from, of signaling and of `turns:` servers; the
    /// usual ones if there is none.
    pub ca: Option<PathBuf>,
    /// The room key.
    pub room: String,
    /// What the others are shown.
    pub display_name: String,
    /// Who makes the first offer.
    pub offer: OfferPolicy,
    /// Which paths are acceptable.
    pub policy: IcePolicy,
    /// Local addresses to use; every interface's if empty.
    pub bind: Vec<IpAddr>,
    /// What to send.
    pub feeds: Feeds,
    /// Whether to send and take media at all.
    pub media: bool,
    /// Where to record what comes.
    pub record: Option<PathBuf>,
    /// How often to tell what the connection carries, if at all.
    pub stats: Option<Duration>,
    /// How long after both are in the room a connection must be up.
    pub connect_timeout: Duration,
    /// To prove who this side is.
    pub identity: Option<Arc<Identity>>,
    /// Whom to talk to.
    pub trust: Trust,
    /// Where to note whom [`Trust::Known`] meets for the first time.
    pub folder: Option<Folder>,
    /// A code that takes the place of the room key.
    pub code: Option<CodeSide>,
    /// Goes on when a call cannot be made or the other side is not trusted: somebody else may call.
    pub unattended: bool,
}

/// What a code is to this side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CodeSide {
    /// It was made here; whoever comes must know it.
    Made(Code),
    /// It was told to this side.
    Told(Code),
}

impl CodeSide {
    /// Whichever it is.
    #[must_use]
    pub fn code(&self) -> &Code {
        let (Self::Made(code) | Self::Told(code)) = self;
        code
    }
}

impl Config {
    /// A peer that sends nothing but text and data, with what suits most for the rest.
    #[must_use]
    pub fn new(server: &str, room: &str) -> Self {
        Self {
            server: server.to_owned(),
            token: None,
            ca: None,
            room: room.to_owned(),
            display_name: String::new(),
            offer: OfferPolicy::Auto,
            policy: IcePolicy::default(),
            bind: Vec::new(),
            feeds: Feeds::default(),
            media: true,
            record: None,
            stats: None,
            connect_timeout: CONNECT_TIMEOUT,
            identity: None,
            trust: Trust::Anybody,
            folder: None,
            code: None,
            unattended: false,
        }
    }
}

/// A peer that is running. Dropping it ends it without a word to anybody; [`Peer::hang_up`] says goodbye.
#[derive(Debug)]
pub struct Peer {
    commands: mpsc::UnboundedSender<Command>,
    feed_changes: mpsc::UnboundedSender<FeedChange>,
    outgoing: mpsc::Sender<Message>,
    tones: mpsc::Sender<Tones>,
    data: mpsc::Receiver<Bytes>,
    connections: Connections,
    events: mpsc::Receiver<Event>,
    task: JoinHandle<Result<(), Failure>>,
}

impl Peer {
    /// Begins to join. How it goes is told by [`Peer::event`].
    pub fn start(config: Config) -> Result<Self, Failure> {
        let authorities = net::Trust::of(config.ca.as_deref())
            .map_err(|error| Failure::new(Reason::BadUsage, error.to_string()))?;
        let (commands, command_queue) = mpsc::unbounded_channel();
        let (feed_changes, changes_of_feeds) = mpsc::unbounded_channel();
        let (outgoing, outgoing_queue) = mpsc::channel(MESSAGES);
        let (tones, wanted_tones) = mpsc::channel(MESSAGES);
        let (text_sender, texts) = mpsc::channel(MESSAGES);
        let (data_sender, data) = mpsc::channel(MESSAGES);
        let (connection_sender, connections) = watch::channel(None);
        let (event_sender, events) = mpsc::channel(EVENTS);
        let (happening_sender, happenings) = mpsc::unbounded_channel();
        let instance = format!("{:016x}", rand::random::<u64>());
        let room = config.code.as_ref().map_or(config.room, |code| code.code().room());
        let identity_key = config.identity.as_ref().map(|own| own.public_key().as_bytes().to_vec());
        let signaling = Client::start(signaling::Config {
            server: config.server.clone(),
            token: config.token,
            ca: config.ca,
            room: room.clone(),
            display_name: config.display_name,
            identity_key: identity_key.unwrap_or_default(),
            instance: instance.clone(),
        })?;
        let addresses = if config.bind.is_empty() {
            BindAddresses::Interfaces { loopback: is_on_loopback(&config.server) }
        } else {
            BindAddresses::Given(config.bind)
        };
        let changes = Changes::new(addresses.clone());
        let agent = Agent {
            session: Session::new(session::Config {
                room: room.clone(),
                instance,
                offer: config.offer,
                connect_timeout: config.connect_timeout,
                identity: config.identity,
                trust: config.trust,
                introduction: config.code.map(|code| match code {
                    CodeSide::Made(code) => Introduction::new(code, true),
                    CodeSide::Told(code) => Introduction::new(code, false),
                }),
                unattended: config.unattended,
            }),
            signaling,
            connection: None,
            connecting: connection::Config {
                policy: config.policy,
                addresses,
                trust: authorities,
                eagerness: Eagerness::WhenUdpIsSilent,
                feeds: config.feeds,
                tones: Arc::new(Mutex::new(wanted_tones)),
                media: config.media,
                record: config.record,
                ends: Ends {
                    outgoing: Arc::new(Mutex::new(outgoing_queue)),
                    texts: text_sender,
                    data: data_sender,
                },
                happenings: happening_sender,
            },
            servers: Vec::new(),
            turn: Vec::new(),
            commands: command_queue,
            feed_changes: changes_of_feeds,
            texts,
            happenings,
            connections: connection_sender,
            events: event_sender,
            stats: config.stats.map(|interval| interval.max(SHORTEST_STATS)),
            stats_due: None,
            changes,
            notebook: config.folder.map(|folder| Notebook { folder, server: config.server, room }),
        };
        let task = tokio::spawn(agent.run());
        let connections = Connections(connections);
        Ok(Self { commands, feed_changes, outgoing, tones, data, connections, events, task })
    }

    /// The next thing that happened; nothing after the end.
    pub async fn event(&mut self) -> Option<Event> {
        self.events.recv().await
    }

    /// The next application data of the other side; nothing after the end.
    pub async fn data(&mut self) -> Option<Bytes> {
        self.data.recv().await
    }

    /// Events and application data, for those who wait for both.
    pub(crate) fn sources(&mut self) -> (&mut mpsc::Receiver<Event>, &mut mpsc::Receiver<Bytes>) {
        (&mut self.events, &mut self.data)
    }

    /// Where each connection appears when it is established.
    #[must_use]
    pub fn connections(&self) -> Connections {
        self.connections.clone()
    }

    /// Where to put what is to be sent. It waits there until a channel is open and has room.
    #[must_use]
    pub fn outgoing(&self) -> mpsc::Sender<Message> {
        self.outgoing.clone()
    }

    /// Presses the keys of a telephone as soon as sound is sent, which takes a clip of it: says whether there was room
    /// among those that wait.
    pub fn dial(&self, tones: Tones) -> bool {
        self.tones.try_send(tones).is_ok()
    }

    /// Sends this from now on, instead of what was sent of its kind, if anything: at once where there is a connection,
    /// which is negotiated anew, and on those to come. Does nothing where [`Config::media`] is false.
    pub fn add_track(&self, feed: Feed) {
        let _ = self.feed_changes.send(FeedChange { kind: feed.codec().kind(), feed: Some(feed) });
    }

    /// Sends no more of this kind of media, which the other side hears of.
    pub fn remove_track(&self, kind: MediaKind) {
        let _ = self.feed_changes.send(FeedChange { kind, feed: None });
    }

    /// Ends the call and leaves the room. [`Peer::event`] tells the rest and then nothing more.
    pub fn hang_up(&self, reason: &str) {
        let _ = self.commands.send(Command::HangUp { reason: reason.to_owned() });
    }

    /// After the last event: whether it ended as it was asked to.
    pub async fn finish(self) -> Result<(), Failure> {
        drop(self.events);
        self.task.await.unwrap_or_else(|error| Err(Failure::new(Reason::Internal, error.to_string())))
    }
}

/// The connections of a peer, one after the other: another one follows when the first is lost, or when the other
/// side comes back. Whoever is slow sees the latest alone.
#[derive(Debug, Clone)]
pub struct Connections(watch::Receiver<Option<channel::Connection>>);

impl Connections {
    /// The connection that there is, or the next one; nothing after the end of the peer.
    pub async fn latest(&mut self) -> Option<channel::Connection> {
        self.0.wait_for(Option::is_some).await.ok()?.clone()
    }

    /// The next connection, when it is established; nothing after the end of the peer.
    pub async fn next(&mut self) -> Option<channel::Connection> {
        loop {
            self.0.changed().await.ok()?;
            if let Some(connection) = self.0.borrow_and_update().clone() {
                return Some(connection);
            }
        }
    }
}

/// What is to be sent of one kind of media from now on.
#[derive(Debug)]
struct FeedChange {
    kind: MediaKind,
    feed: Option<Feed>,
}

/// Does what the session core wants.
struct Agent {
    session: Session,
    signaling: Client,
    connection: Option<Connection>,
    connecting: connection::Config,
    /// As signaling handed them out last.
    servers: Vec<IceServer>,
    /// How asking the TURN servers of the last connection went.
    turn: Vec<ServerOutcome>,
    commands: mpsc::UnboundedReceiver<Command>,
    feed_changes: mpsc::UnboundedReceiver<FeedChange>,
    texts: mpsc::Receiver<String>,
    happenings: mpsc::UnboundedReceiver<(LinkId, Happening)>,
    connections: watch::Sender<Option<channel::Connection>>,
    events: mpsc::Sender<Event>,
    changes: Changes,
    notebook: Option<Notebook>,
    stats: Option<Duration>,
    /// When to tell them next.
    stats_due: Option<Instant>,
}

/// Where it is noted whom the room belongs to.
#[derive(Clone)]
struct Notebook {
    folder: Folder,
    server: String,
    room: String,
}

/// How it ended.
enum End {
    Wanted { reason: String },
    Failed(Failure),
}

impl Agent {
    async fn run(mut self) -> Result<(), Failure> {
        let end = loop {
            let due = self.session.poll_timeout();
            tokio::select! {
                notice = self.signaling.notice() => match notice {
                    Some(Notice::Failed(failure)) => break End::Failed(failure),
                    Some(notice) => self.notice(notice).await,
                    None => break End::Failed(Failure::new(Reason::Internal, "signaling ended by itself")),
                },
                Some((link, happening)) = self.happenings.recv() => self.happening(link, happening).await,
                Some(text) = self.texts.recv() => self.tell(Event::Text { text }).await,
                Some(change) = self.feed_changes.recv() => self.change_feed(change).await,
                command = self.commands.recv() => match command {
                    Some(command) => self.session.handle_command(command),
                    // The peer was dropped.
                    None => break End::Wanted { reason: "dropped".to_owned() },
                },
                change = self.changes.next() => self.follow_network(change),
                () = sleep_until(self.stats_due.unwrap_or_else(clock::now).into()), if self.stats_due.is_some() => {
                    self.tell_stats().await;
                }
                () = sleep_until(due.unwrap_or_else(clock::now).into()), if due.is_some() => {
                    self.session.handle_timeout(clock::now());
                }
            }
            if let Some(end) = self.do_what_is_wanted().await {
                break end;
            }
        };
        self.close().await;
        self.signaling.leave().await;
        match end {
            End::Wanted { reason } => {
                let _ = self.events.send(Event::Ended { reason }).await;
                Ok(())
            }
            End::Failed(failure) => Err(failure),
        }
    }

    async fn notice(&mut self, notice: Notice) {
        match notice {
            Notice::IceServers(servers) => {
                self.servers = servers;
                if let Some(connection) = &self.connection {
                    let usable = UsableServers::select(&self.servers, self.connecting.policy);
                    connection.renew_servers(usable, self.connecting.policy);
                }
            }
            Notice::Signal(signal) => self.session.handle_signal(clock::now(), signal),
            Notice::Lost => {
                self.tell(Event::Signaling { state: SignalingState::Lost }).await;
                self.session.handle_signaling(clock::now(), false);
            }
            Notice::Resumed => {
                self.tell(Event::Signaling { state: SignalingState::Resumed }).await;
                self.session.handle_signaling(clock::now(), true);
            }
            Notice::Rejoined => self.tell(Event::Signaling { state: SignalingState::Rejoined }).await,
            Notice::Warning(message) => self.tell(Event::Warning { message }).await,
            // Its own case in the loop.
            Notice::Failed(_) => {}
        }
    }

    async fn happening(&mut self, link: LinkId, happening: Happening) {
        let elapsed = || {
            let since = self.session.together_since();
            since.map_or(0.0, |since| milliseconds(clock::now().saturating_duration_since(since)))
        };
        match happening {
            Happening::Link(LinkEvent::LocalCandidate(candidate)) => {
                let ready = match self.connection_mut(link) {
                    Some(connection) => connection.keep_back(candidate),
                    None => Some(candidate),
                };
                if let Some(candidate) = ready {
                    self.session.handle_link(clock::now(), link, LinkEvent::LocalCandidate(candidate));
                }
            }
            Happening::LateCandidate(candidate) => {
                self.session.handle_link(clock::now(), link, LinkEvent::LocalCandidate(candidate));
            }
            Happening::Link(event) => {
                if event == LinkEvent::GatheringComplete {
                    self.complain_about_turn().await;
                }
                if matches!(event, LinkEvent::Disconnected | LinkEvent::Failed) {
                    // A router that forgot the path has forgotten the way to the server, too, and a restart needs it.
                    self.signaling.probe();
                }
                if event == LinkEvent::NegotiationNeeded
                    && let Some(connection) = self.connection_of(link)
                    && !connection.needs_negotiation().await
                {
                    return;
                }
                self.session.handle_link(clock::now(), link, event);
            }
            Happening::Tell(event) => self.tell(event).await,
            Happening::Ice(state) => self.tell(Event::Ice { state }).await,
            Happening::ChannelOpen { label } => {
                if let Some(connection) = self.connection_of(link) {
                    self.connections.send_replace(Some(connection.face()));
                }
                let elapsed_ms = elapsed();
                self.tell(Event::ChannelOpen { label, elapsed_ms }).await;
            }
            Happening::FirstFrame { kind } => {
                let elapsed_ms = elapsed();
                self.tell(Event::FirstFrame { kind, elapsed_ms }).await;
            }
        }
    }

    /// Carries out intents until there are none; each step is told to the core before the next.
    async fn do_what_is_wanted(&mut self) -> Option<End> {
        while let Some(intent) = self.session.poll_intent() {
            match intent {
                Intent::Send { to, negotiation, payload } => {
                    let is_awaited = matches!(payload, Payload::Offer { .. } | Payload::Answer { .. });
                    self.signaling.say(to, negotiation, payload);
                    if is_awaited {
                        self.signaling.hurry();
                    }
                }
                Intent::Report(event) => self.tell(event).await,
                Intent::Open { link } => self.open(link).await,
                Intent::Close { link } => {
                    if self.connection_of(link).is_some() {
                        self.close().await;
                    }
                }
                Intent::Certify { link } => {
                    let Some(connection) = self.connection_of(link) else { continue };
                    let event = connection.certificate_of_other().await;
                    self.session.handle_link(clock::now(), link, event);
                }
                Intent::Remember { key } => self.remember(key).await,
                Intent::Established { link, elapsed } => self.established(link, elapsed).await,
                Intent::Settled { link } => self.settled(link).await,
                Intent::AddCandidate { link, candidate } => {
                    if let Some(connection) = self.connection_mut(link) {
                        connection.add_candidate(candidate).await;
                    }
                }
                Intent::CreateOffer { link, restart } => {
                    let Some(connection) = self.connection_of(link) else { continue };
                    let event = connection.create_offer(restart).await;
                    self.session.handle_link(clock::now(), link, event);
                }
                Intent::CreateAnswer { link } => {
                    let Some(connection) = self.connection_of(link) else { continue };
                    let event = connection.create_answer().await;
                    self.session.handle_link(clock::now(), link, event);
                    self.agreed(link).await;
                }
                Intent::Rollback { link } => {
                    let Some(connection) = self.connection_of(link) else { continue };
                    let event = connection.roll_back().await;
                    self.session.handle_link(clock::now(), link, event);
                }
                Intent::SetRemoteOffer { link, sdp } => {
                    let Some(connection) = self.connection_of(link) else { continue };
                    let event = connection.set_remote_offer(sdp).await;
                    self.session.handle_link(clock::now(), link, event);
                }
                Intent::SetRemoteAnswer { link, sdp } => {
                    let Some(connection) = self.connection_of(link) else { continue };
                    let event = connection.set_remote_answer(sdp).await;
                    self.session.handle_link(clock::now(), link, event);
                    self.agreed(link).await;
                }
                Intent::End { reason } => return Some(End::Wanted { reason }),
                Intent::Fail(failure) => return Some(End::Failed(self.explain(failure))),
            }
        }
        None
    }

    async fn open(&mut self, link: LinkId) {
        let servers = UsableServers::select(&self.servers, self.connecting.policy);
        for message in servers.warnings.clone() {
            self.tell(Event::Warning { message }).await;
        }
        let event = match Connection::open(&self.connecting, link, servers).await {
            Ok(connection) => {
                self.connection = Some(connection);
                LinkEvent::Opened
            }
            Err(error) => {
                LinkEvent::CannotOpen { message: format!("no peer connection can be made: {error}") }
            }
        };
        self.session.handle_link(clock::now(), link, event);
    }

    async fn established(&mut self, link: LinkId, elapsed: Duration) {
        let Some(connection) = self.connection.as_mut().filter(|connection| connection.link() == link) else {
            return;
        };
        let session = &self.session;
        let path = connection.established(|address| session.remote_candidate_kind(address)).await;
        self.stats_due = self.stats.map(|interval| clock::now() + interval);
        let unknown = || "unknown".to_owned();
        let (local, remote, protocol) = match path {
            Some(path) => (path.local, path.remote, path.protocol),
            None => (unknown(), unknown(), unknown()),
        };
        self.tell(Event::Connected { local, remote, protocol, elapsed_ms: milliseconds(elapsed) }).await;
    }

    /// It was up before: tells if another path carries it.
    async fn settled(&mut self, link: LinkId) {
        let Some(connection) = self.connection.as_mut().filter(|connection| connection.link() == link) else {
            return;
        };
        let session = &self.session;
        let path = connection.settled(|address| session.remote_candidate_kind(address)).await;
        if let Some(PathReport { local, remote, protocol }) = path {
            self.tell(Event::Path { local, remote, protocol }).await;
        }
    }

    async fn change_feed(&mut self, FeedChange { kind, feed }: FeedChange) {
        self.connecting.feeds.set(kind, feed.clone());
        let Some(connection) = self.connection.as_mut().filter(|_| self.connecting.media) else { return };
        let link = connection.link();
        if let Err(error) = connection.change_feed(kind, feed).await {
            let message = format!("the {} that is sent cannot be changed: {error}", kind.text());
            self.tell(Event::Warning { message }).await;
        }
        self.session.handle_link(clock::now(), link, LinkEvent::NegotiationNeeded);
    }

    /// An offer was answered: what it settles begins, and what it had no place for is offered.
    async fn agreed(&mut self, link: LinkId) {
        let Some(connection) = self.connection_mut(link) else { return };
        connection.send_what_is_agreed().await;
        if connection.needs_negotiation().await {
            self.session.handle_link(clock::now(), link, LinkEvent::NegotiationNeeded);
        }
    }

    async fn remember(&mut self, key: PublicKey) {
        let Some(Notebook { folder, server, room }) = self.notebook.clone() else { return };
        let note = move || folder.change_known_peers(|known| known.remember(&server, &room, key));
        let noted = tokio::task::spawn_blocking(note).await;
        if let Ok(Err(failure)) = noted {
            self.tell(Event::Warning { message: format!("the other side is not noted: {failure}") }).await;
        }
    }

    fn follow_network(&mut self, change: Change) {
        tracing::debug!(?change, "The machine's addresses have changed");
        let gone = change == Change::Gone;
        if gone {
            self.signaling.reconnect();
        }
        self.session.handle_network_change(clock::now(), gone);
    }

    async fn tell_stats(&mut self) {
        let Some(connection) = &self.connection else {
            self.stats_due = None;
            return;
        };
        let report = connection.stats().await;
        self.stats_due = self.stats.map(|interval| clock::now() + interval);
        self.tell(Event::StatsReport { report }).await;
    }

    /// Closes the connection, if there is one, and tells what it carried.
    async fn close(&mut self) {
        let Some(connection) = self.connection.take() else { return };
        self.connections.send_replace(None);
        self.turn = connection.turn().outcomes_so_far();
        let was_up = connection.was_up();
        let stats = connection.close().await;
        // What its last readers had to say comes before the sum.
        while let Ok((_, happening)) = self.happenings.try_recv() {
            if let Happening::Tell(event) = happening {
                self.tell(event).await;
            }
        }
        if was_up {
            self.tell(Event::Stats(Box::new(stats))).await;
        }
    }

    async fn complain_about_turn(&mut self) {
        let Some(connection) = &self.connection else { return };
        let outcomes = connection.turn().outcomes_so_far();
        for message in outcomes.iter().filter_map(ServerOutcome::complaint) {
            self.tell(Event::Warning { message }).await;
        }
    }

    /// Adds what TURN servers have to do with it.
    fn explain(&self, mut failure: Failure) -> Failure {
        if failure.reason != Reason::IceFailed || self.turn.is_empty() {
            return failure;
        }
        for complaint in self.turn.iter().filter_map(ServerOutcome::complaint) {
            failure.message = format!("{}; {complaint}", failure.message);
        }
        if let Some(details) = failure.details.as_mut().and_then(serde_json::Value::as_object_mut) {
            details.insert("turn_servers".to_owned(), json!(self.turn));
        }
        failure
    }

    fn connection_of(&self, link: LinkId) -> Option<&Connection> {
        self.connection.as_ref().filter(|connection| connection.link() == link)
    }

    fn connection_mut(&mut self, link: LinkId) -> Option<&mut Connection> {
        self.connection.as_mut().filter(|connection| connection.link() == link)
    }

    async fn tell(&self, event: Event) {
        // Nobody may listen any more; then the commands have ended too.
        let _ = self.events.send(event).await;
    }
}

/// Whether a server is on this machine, so that the other side may be as well.
pub(crate) fn is_on_loopback(server: &str) -> bool {
    let Ok(uri) = server.parse::<tonic::transport::Uri>() else { return false };
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    host.eq_ignore_ascii_case("localhost") || host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

/// A report takes the connection a moment.
const SHORTEST_STATS: Duration = Duration::from_millis(100);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
const EVENTS: usize = 256;
const MESSAGES: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_on_this_machine_is_recognised() {
        for server in ["http://127.0.0.1:8080", "http://localhost:1", "http://[::1]:8080"] {
            assert!(is_on_loopback(server), "{server}");
        }
        for server in ["http://10.0.0.1:8080", "https://localhost.example", "nonsense"] {
            assert!(!is_on_loopback(server), "{server}");
        }
    }
}
