//! One peer connection: does what the session core wants, and tells what happens on it.

mod bandwidth;
mod channel;
mod described;
mod engine;
mod gathering;
mod handler;
mod intake;
mod keys;
mod receiver;
mod repetitions;
mod sender;
mod stats;
#[cfg(test)]
mod tests;
mod tones;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use farcall_proto::safety_words::safety_words;
use rtc::peer_connection::configuration::{RTCConfiguration, RTCOfferOptions};
use rtc::rtp_transceiver::RTCRtpTransceiverDirection;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet, spawn_blocking};
use tokio::time::sleep_until;
use webrtc::error::Result;
use webrtc::peer_connection::{PeerConnection, RTCIceCandidateInit, RTCSessionDescription, StatsSelector};

use self::bandwidth::{Estimator, Feedback};
pub(crate) use self::channel::Ends;
pub use self::channel::Message;
use self::channel::{Greetings, Opening};
use self::described::Described;
use self::engine::Parts;
pub(crate) use self::gathering::Gathering;
use self::handler::Handler;
use self::intake::{Announced, Intake};
use self::receiver::Receivers;
use self::repetitions::Repetitions;
use self::sender::Sender;
pub(crate) use self::tones::Wanted as WantedTones;
use self::tones::{Agreed, Keypad};
use crate::clock;
use crate::media::{Feed, Feeds};
use crate::net::{
    BindAddresses, BurstGate, CuredRuntime, DirectPaths, Eagerness, Found, IcePolicy, Sockets, Trust,
    Tunnels, TurnWatch, UsableServers,
};
use crate::report::{Event, MediaKind, PathReport, StatsReport, milliseconds};
use crate::session::{Candidate, LinkEvent, LinkId, candidate, sdp};

/// What all connections of a peer have in common.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) policy: IcePolicy,
    pub(crate) addresses: BindAddresses,
    pub(crate) trust: Trust,
    /// When TURN servers are asked by streams.
    pub(crate) eagerness: Eagerness,
    pub(crate) feeds: Feeds,
    pub(crate) tones: WantedTones,
    /// Whether to send and take media at all.
    pub(crate) media: bool,
    pub(crate) record: Option<PathBuf>,
    pub(crate) ends: Ends,
    pub(crate) happenings: mpsc::UnboundedSender<(LinkId, Happening)>,
}

/// What happens on a connection.
#[derive(Debug)]
pub(crate) enum Happening {
    /// For the session core.
    Link(LinkEvent),
    /// For the user.
    Tell(Event),
    /// A local candidate that has waited for better ones.
    LateCandidate(Candidate),
    /// ICE changed.
    Ice(String),
    /// The channel is open.
    ChannelOpen { label: String },
    /// The first whole frame came.
    FirstFrame { kind: MediaKind },
}

/// See the module.
pub(crate) struct Connection {
    link: LinkId,
    engine: Arc<dyn PeerConnection>,
    /// The same for whoever uses it.
    face: crate::channel::Connection,
    over: watch::Sender<bool>,
    /// Set when the other side is whom it should be: nothing of it is used before.
    accepted: watch::Sender<bool>,
    watch: Arc<TurnWatch>,
    /// Where relayed paths are acceptable and direct ones as well.
    direct: Option<DirectPaths>,
    sockets: Arc<Sockets>,
    announced: Arc<Announced>,
    greetings: Arc<Greetings>,
    tones: Arc<Agreed>,
    senders: Vec<Sender>,
    /// Whether what is sent has changed since the last description of it.
    changed: AtomicBool,
    /// What senders listen to.
    feedback: Arc<Feedback>,
    keypad: Arc<Keypad>,
    /// What the other side says that it sends.
    described: watch::Sender<Described>,
    /// Whether the other side began the DTLS handshake.
    passive: AtomicBool,
    receivers: Receivers,
    /// Readers and writers of the channel.
    tasks: JoinSet<()>,
    /// Computes the words that the two can compare. Nobody waits for it at the end.
    words: Option<JoinHandle<()>>,
    happenings: mpsc::UnboundedSender<(LinkId, Happening)>,
    up_since: Option<Instant>,
    /// Whether ICE is connected now.
    up: Arc<AtomicBool>,
    opened: Instant,
    path: Option<PathReport>,
    /// Servers that the next ICE restart is to use.
    renewed: Mutex<Option<RTCConfiguration>>,
}

impl Connection {
    /// Makes a connection with local media attached.
    pub(crate) async fn open(config: &Config, link: LinkId, servers: UsableServers) -> Result<Self> {
        let UsableServers { servers, turn, warnings: _ } = servers;
        let watch = Arc::new(TurnWatch::new(turn.clone()));
        let tunnels = Tunnels::new(&turn, config.trust.clone(), config.eagerness, Arc::clone(&watch));
        let gate = Arc::<BurstGate>::default();
        let sockets = Arc::<Sockets>::default();
        let announced = Arc::<Announced>::default();
        let feedback = Arc::<Feedback>::default();
        let up = Arc::<AtomicBool>::default();
        let (tracks, remote_tracks) = mpsc::unbounded_channel();
        let (channels, incoming) = mpsc::unbounded_channel();
        let (over, is_over) = watch::channel(false);
        let (accepted, is_accepted) = watch::channel(false);
        let happenings = config.happenings.clone();
        let engine = engine::build(Parts {
            servers,
            policy: config.policy,
            addresses: config.addresses.clone(),
            runtime: Arc::new(CuredRuntime::new(
                Arc::clone(&watch),
                Arc::new(tunnels),
                Arc::clone(&gate),
                Arc::clone(&sockets),
            )),
            handler: Arc::new(Handler {
                link,
                happenings: happenings.clone(),
                tracks,
                channels,
                watch: Arc::clone(&watch),
                up: Arc::clone(&up),
            }),
            intake: Intake::new(Arc::clone(&feedback), Arc::clone(&announced)),
            estimator: Estimator::new(Arc::clone(&feedback)),
            repetitions: Repetitions::new(Arc::clone(&feedback)),
        })
        .await?;
        let tones = Arc::<Agreed>::default();
        let keypad = Arc::new(Keypad {
            wanted: Arc::clone(&config.tones),
            agreed: Arc::clone(&tones),
            link,
            happenings: happenings.clone(),
        });
        let mut senders = Vec::new();
        if config.media {
            for kind in [MediaKind::Audio, MediaKind::Video] {
                let feed = config.feeds.of(kind);
                senders.push(Sender::attach(&*engine, kind, feed, &feedback, &keypad).await?);
            }
        }
        let mut tasks = JoinSet::new();
        let chat = channel::create(&*engine).await?;
        let (opened, open) = oneshot::channel();
        let greetings = Arc::<Greetings>::default();
        let opening = Opening { gate, accepted: is_accepted.clone(), opened };
        tasks.spawn(channel::receive(
            Arc::clone(&chat),
            opening,
            Arc::clone(&greetings),
            config.ends.clone(),
            link,
            happenings.clone(),
        ));
        tasks.spawn(channel::send(chat, open, Arc::clone(&greetings), Arc::clone(&config.ends.outgoing)));
        let (described, descriptions) = watch::channel(Described::default());
        let receivers = Receivers::start(
            link,
            remote_tracks,
            Arc::clone(&tones),
            descriptions,
            config.record.clone(),
            happenings.clone(),
            is_accepted,
        );
        Ok(Self {
            link,
            face: crate::channel::Connection::new(Arc::clone(&engine), incoming, is_over),
            over,
            accepted,
            engine,
            watch,
            direct: (!config.policy.relay_only).then(|| DirectPaths::new(Arc::clone(&sockets))),
            sockets,
            announced,
            greetings,
            tones,
            senders,
            changed: AtomicBool::new(false),
            feedback,
            keypad,
            described,
            passive: AtomicBool::new(false),
            receivers,
            tasks,
            words: None,
            happenings,
            up_since: None,
            up,
            opened: clock::now(),
            path: None,
            renewed: Mutex::default(),
        })
    }

    /// For whoever uses it.
    pub(crate) fn face(&self) -> crate::channel::Connection {
        self.face.clone()
    }

    pub(crate) fn link(&self) -> LinkId {
        self.link
    }

    /// Keeps the servers and credentials that an ICE restart is to use. Not before: the engine would sign with them at
    /// the next description for the allocations that it has, whose servers know these by the name they were made with
    /// (RFC 8656, section 7.2), and refuse.
    pub(crate) fn renew_servers(&self, servers: UsableServers, policy: IcePolicy) {
        let configuration = engine::configuration(servers.servers, policy);
        *self.renewed.lock().unwrap_or_else(PoisonError::into_inner) = Some(configuration);
    }

    /// ICE begins anew, with new sockets and allocations.
    async fn take_up_renewed_servers(&self) {
        let renewed = self.renewed.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(configuration) = renewed
            && let Err(error) = self.engine.set_configuration(configuration).await
        {
            tracing::debug!(%error, "The servers in use stay as they are");
        }
    }

    /// Whether the other side's description begins ICE anew.
    async fn is_restart(&self, description: &str) -> bool {
        let before = self.engine.remote_description().await;
        before.is_some_and(|before| sdp::ice_ufrag(&before.sdp) != sdp::ice_ufrag(description))
    }

    pub(crate) async fn create_offer(&self, restart: bool) -> LinkEvent {
        let step = async {
            self.direct(None).await?;
            let options = restart.then_some(RTCOfferOptions { ice_restart: true });
            if restart {
                self.take_up_renewed_servers().await;
            }
            let offer = self.engine.create_offer(options).await?;
            let sdp = Greetings::announce(&offer.sdp);
            self.changed.store(false, Relaxed);
            self.engine.set_local_description(offer).await?;
            Ok(LinkEvent::OfferMade { sdp })
        };
        outcome("an offer cannot be made", step.await)
    }

    pub(crate) async fn create_answer(&self) -> LinkEvent {
        let step = async {
            let offer = self.described.borrow().clone();
            self.direct(Some(&offer)).await?;
            let answer = self.engine.create_answer(None).await?;
            let mut sdp = Greetings::announce(&answer.sdp);
            if self.passive.load(Relaxed) {
                sdp = described::waiting_for_handshake(&sdp);
            }
            self.changed.store(false, Relaxed);
            self.engine.set_local_description(answer).await?;
            Ok(LinkEvent::AnswerMade { sdp })
        };
        outcome("an answer cannot be made", step.await)
    }

    /// Explicitly, since the engine refuses a remote offer while its own is outstanding.
    pub(crate) async fn roll_back(&self) -> LinkEvent {
        let step = async {
            self.engine.set_local_description(RTCSessionDescription::rollback(None)?).await?;
            Ok(LinkEvent::RolledBack)
        };
        outcome("the own offer cannot be taken back", step.await)
    }

    pub(crate) async fn set_remote_offer(&self, sdp: String) -> LinkEvent {
        self.read(&sdp).await;
        let step = async {
            let offer = RTCSessionDescription::offer(described::without_directions(&sdp))?;
            if self.is_restart(&sdp).await {
                self.take_up_renewed_servers().await;
            }
            self.engine.set_remote_description(offer).await?;
            Ok(LinkEvent::RemoteSet)
        };
        outcome("the other side's offer is not acceptable", step.await)
    }

    pub(crate) async fn set_remote_answer(&self, sdp: String) -> LinkEvent {
        self.read(&sdp).await;
        let step = async {
            self.engine.set_remote_description(RTCSessionDescription::answer(sdp)?).await?;
            Ok(LinkEvent::RemoteSet)
        };
        outcome("the other side's answer is not acceptable", step.await)
    }

    /// Says which ways media goes, in an offer or in the answer to this one. The engine takes what the other side once
    /// offered for what this side prefers, and answers with more than was offered.
    async fn direct(&self, offer: Option<&Described>) -> Result<()> {
        for transceiver in self.engine.get_transceivers().await {
            let sends = transceiver.sender().await?.is_some();
            let offered = match (offer, transceiver.mid().await?) {
                (None, _) => RTCRtpTransceiverDirection::Sendrecv,
                (Some(offer), Some(mid)) => match offer.direction_in(&mid) {
                    Some(offered) => offered,
                    None => continue,
                },
                (Some(_), None) => continue,
            };
            let wanted =
                RTCRtpTransceiverDirection::from_send_recv(sends && offered.has_recv(), offered.has_send());
            if transceiver.direction().await? != wanted {
                transceiver.set_direction(wanted).await?;
            }
        }
        Ok(())
    }

    /// What we, and not the engine, must know of the other side's description.
    async fn read(&self, sdp: &str) {
        if let Some(direct) = self.direct.as_ref()
            && self.is_restart(sdp).await
        {
            direct.forget();
        }
        self.tones.read(sdp);
        self.greetings.read(sdp);
        self.described.send_replace(Described::read(sdp));
        if let Some(passive) = described::leaves_us_passive(sdp) {
            self.passive.store(passive, Relaxed);
        }
        // Some put their candidates into the description.
        for line in sdp.lines().filter_map(|line| line.strip_prefix("a=")) {
            self.hear_of(line);
        }
    }

    /// A candidate of the other side, if it is one.
    fn hear_of(&self, line: &str) {
        if let Some(address) = candidate::address(line) {
            self.watch.signaled(address);
        }
        if let (Some(direct), Some(address)) = (self.direct.as_ref(), candidate::direct_address(line)) {
            direct.learn(address);
        }
    }

    /// A candidate that cannot be tried is no misfortune: there are others.
    pub(crate) async fn add_candidate(&mut self, candidate: Candidate) {
        self.hear_of(&candidate.line);
        let is_tcp = candidate::is_tcp(&candidate.line);
        let init = RTCIceCandidateInit {
            candidate: candidate.line,
            sdp_mid: candidate.mid,
            sdp_mline_index: candidate.m_line_index,
            username_fragment: None,
            url: None,
        };
        let (engine, up) = (Arc::clone(&self.engine), Arc::clone(&self.up));
        let add = move |init| async move {
            if let Err(error) = engine.add_ice_candidate(init).await {
                tracing::debug!(%error, "Remote candidate not tried");
            }
        };
        if !is_tcp {
            return add(init).await;
        }
        let tcp_from = self.tcp_from();
        self.tasks.spawn(async move {
            sleep_until(tcp_from.into()).await;
            if !up.load(Relaxed) {
                add(init).await;
            }
        });
    }

    /// Until when UDP alone is tried, from the beginning or from now on if ICE restarts.
    fn tcp_from(&self) -> Instant {
        (if self.was_up() { clock::now() } else { self.opened }) + TCP_PATIENCE
    }

    /// Keeps a candidate of TCP back while UDP may still do: a stream that is up sooner by luck, since others connect as
    /// soon as they hear of it, would carry all of the call. Returns the candidate if there is nothing to wait for.
    pub(crate) fn keep_back(&mut self, candidate: Candidate) -> Option<Candidate> {
        if !candidate::is_tcp(&candidate.line) {
            return Some(candidate);
        }
        let (up, tcp_from) = (Arc::clone(&self.up), self.tcp_from());
        let (link, happenings) = (self.link, self.happenings.clone());
        self.tasks.spawn(async move {
            sleep_until(tcp_from.into()).await;
            if !up.load(Relaxed) {
                let _ = happenings.send((link, Happening::LateCandidate(candidate)));
            }
        });
        None
    }

    /// Whether something of ours is in no description yet. The engine asks for negotiation too often: after taking an
    /// offer back it does not look at what the answer then brought.
    pub(crate) async fn needs_negotiation(&self) -> bool {
        if self.changed.load(Relaxed) {
            return true;
        }
        let described = self.engine.local_description().await.map(|description| description.sdp);
        for transceiver in self.engine.get_transceivers().await {
            let Ok(mid) = transceiver.mid().await else { continue };
            let Some(mid) = mid else { return true };
            // An answer may have left out what the offer had no place for.
            let sends = matches!(transceiver.sender().await, Ok(Some(_)));
            let direction = described.as_ref().and_then(|sdp| described::direction_in(sdp, &mid));
            if sends && direction.is_some_and(|direction| !direction.has_send()) {
                return true;
            }
        }
        false
    }

    /// Sends this kind of media from another source, or no more of it, as soon as that is negotiated.
    pub(crate) async fn change_feed(&mut self, kind: MediaKind, feed: Option<Feed>) -> Result<()> {
        let Some(sender) = self.senders.iter_mut().find(|sender| sender.kind() == kind) else {
            return Ok(());
        };
        self.changed.store(true, Relaxed);
        sender.change(&*self.engine, feed, &self.feedback, &self.keypad).await
    }

    /// After a description was agreed on: begins to send what is new in it.
    pub(crate) async fn send_what_is_agreed(&mut self) {
        if !*self.accepted.borrow() || self.changed.load(Relaxed) {
            return;
        }
        let Some(agreed) = self.engine.current_local_description().await else { return };
        for transceiver in self.engine.get_transceivers().await {
            let (Ok(Some(mid)), Ok(Some(rtp))) = (transceiver.mid().await, transceiver.sender().await) else {
                continue;
            };
            if described::direction_in(&agreed.sdp, &mid).is_some_and(|direction| direction.has_send()) {
                for sender in self.senders.iter_mut().filter(|sender| sender.is(&rtp)) {
                    sender.start();
                }
            }
        }
    }

    /// The SHA-256 fingerprint of the certificate that the other side showed.
    pub(crate) async fn certificate_of_other(&self) -> LinkEvent {
        LinkEvent::Certified { other: keys::of_other(&*self.engine).await }
    }

    /// Packets pass between the right two: media may flow, and the path is known. `signaled` knows the kind of a remote address.
    pub(crate) async fn established(
        &mut self,
        signaled: impl Fn(&str) -> Option<String>,
    ) -> Option<PathReport> {
        self.up_since.get_or_insert_with(clock::now);
        self.accepted.send_replace(true);
        self.send_what_is_agreed().await;
        self.find_path(signaled).await;
        self.tell_safety_words().await;
        self.path.clone()
    }

    /// It is up again: the path that is in use now, if it is another than before.
    pub(crate) async fn settled(&mut self, signaled: impl Fn(&str) -> Option<String>) -> Option<PathReport> {
        self.sockets.say_again(clock::now());
        let before = self.path.take();
        self.find_path(signaled).await;
        self.path.clone().filter(|path| before.as_ref() != Some(path))
    }

    /// Finds out which it is; if it is relayed, a direct one is looked for.
    async fn find_path(&mut self, signaled: impl Fn(&str) -> Option<String>) {
        self.path = stats::path(&*self.engine, signaled, &self.watch).await;
        let Some(direct) = &self.direct else { return };
        if self.path.as_ref().is_some_and(PathReport::is_relayed) {
            let (link, happenings) = (self.link, self.happenings.clone());
            let found = Found::new(move || {
                let _ = happenings.send((link, Happening::Link(LinkEvent::DirectPath)));
            });
            direct.search(clock::now(), &found);
        } else {
            direct.rest();
        }
    }

    /// Tells them when they are computed, which takes a while on purpose.
    async fn tell_safety_words(&mut self) {
        let Some([own, other]) = keys::fingerprints(&*self.engine).await else {
            tracing::debug!("Certificates are not known, so there are no safety words");
            return;
        };
        let (link, happenings, over) = (self.link, self.happenings.clone(), self.over.subscribe());
        self.words = Some(spawn_blocking(move || {
            let words = safety_words(&own, &other).into_iter().map(str::to_owned).collect();
            if !*over.borrow() {
                let _ = happenings.send((link, Happening::Tell(Event::SafetyWords { words })));
            }
        }));
    }

    /// What the engine counts now, by the names of the W3C.
    pub(crate) async fn stats(&self) -> Vec<serde_json::Value> {
        let report = self.engine.get_stats(clock::now(), StatsSelector::None).await;
        stats::entries(&report, &self.announced, &self.greetings, &self.feedback)
    }

    /// Whether packets ever passed.
    pub(crate) fn was_up(&self) -> bool {
        self.up_since.is_some()
    }

    /// What the TURN servers said, as far as they did.
    pub(crate) fn turn(&self) -> &TurnWatch {
        &self.watch
    }

    /// Closes in order: nothing is sent any more, the numbers are taken, the engine ends, what came is written out.
    pub(crate) async fn close(mut self) -> StatsReport {
        let _ = self.over.send(true);
        let mut frames_sent = [0; 2];
        for (frames, sender) in frames_sent.iter_mut().zip(self.senders.drain(..)) {
            *frames = sender.stop().await;
        }
        let [audio_sent, video_sent] = frames_sent;
        let report = self.engine.get_stats(clock::now(), StatsSelector::None).await;
        if let Err(error) = self.engine.close().await {
            tracing::debug!(%error, "Peer connection not closed cleanly");
        }
        let received = self.receivers.finish().await;
        self.tasks.shutdown().await;
        if let Some(words) = self.words {
            // Once begun it goes on to its end, which may be seconds on a machine that is busy.
            words.abort();
        }
        let mut stats = StatsReport {
            duration_ms: self.up_since.map_or(0.0, |since| milliseconds(clock::now() - since)),
            path: self.path,
            video: stats::stream(&report, MediaKind::Video, &self.announced),
            audio: stats::stream(&report, MediaKind::Audio, &self.announced),
            data: stats::data(&report, &self.greetings),
            relay: self.watch.stats(),
        };
        stats.video.frames_sent = video_sent;
        stats.audio.frames_sent = audio_sent;
        stats.video.frames_received = received.video.load(Relaxed);
        stats.audio.frames_received = received.audio.load(Relaxed);
        stats
    }
}

/// Enough for a check over UDP and its answer half around the world.
const TCP_PATIENCE: Duration = Duration::from_millis(300);

fn outcome(what: &str, result: Result<LinkEvent>) -> LinkEvent {
    result.unwrap_or_else(|error| LinkEvent::StepFailed { message: format!("{what}: {error}") })
}
