//! The task behind the client: join, listen and talk, and again when the stream breaks.

use std::time::{Duration, Instant};

use farcall_proto::signaling::v1 as proto;
use farcall_proto::signaling::v1::join_response::Body;
use farcall_proto::signaling::v1::signaling_service_client::SignalingServiceClient;
use futures_util::future::{BoxFuture, FutureExt as _};
use rand::RngExt as _;
use rand::rngs::StdRng;
use tokio::sync::mpsc;
use tokio::time::{sleep_until, timeout};
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};

use super::backoff::Backoff;
use super::error::{Refusal, RefusalKind};
use super::inbox::{Inbox, Verdict};
use super::outbox::Outbox;
use super::{CALL_TIMEOUT, Config, Notice, Outgoing, convert};
use crate::clock;
use crate::failure::{Failure, Reason};
use crate::session::{SessionId, Signal};

/// Runs until told to leave, or until there is no way on.
pub(super) async fn run(
    config: Config,
    endpoint: Endpoint,
    mut commands: mpsc::UnboundedReceiver<Outgoing>,
    notify: mpsc::Sender<Notice>,
) {
    let mut rng: StdRng = rand::make_rng();
    let mut seat = Seat {
        client: client(&endpoint),
        endpoint,
        config,
        request_id: request_id(&mut rng),
        notify,
        identity: None,
        joined_before: false,
        outbox: Outbox::default(),
        inbox: Inbox::default(),
        heartbeat: DEFAULT_HEARTBEAT,
        send_not_before: None,
        one_by_one: false,
    };
    let mut backoff = Backoff::default();
    loop {
        let end = seat.attend(&mut commands, &mut backoff).await;
        let asked = match end {
            StreamEnd::Left => return,
            StreamEnd::Failed(failure) => {
                let _ = seat.notify.send(Notice::Failed(failure)).await;
                return;
            }
            StreamEnd::Broken { retry_after } => retry_after,
        };
        if seat.identity.is_none() {
            // The next join makes a new session, rather than continue one made with the same request.
            seat.request_id = request_id(&mut rng);
        }
        let pause = backoff.next(asked, &mut rng);
        if seat.wait(pause, &mut commands).await {
            return;
        }
    }
}

/// A session at the server and what belongs to it.
struct Seat {
    client: SignalingServiceClient<Channel>,
    endpoint: Endpoint,
    config: Config,
    request_id: String,
    notify: mpsc::Sender<Notice>,
    identity: Option<Identity>,
    joined_before: bool,
    outbox: Outbox,
    inbox: Inbox,
    heartbeat: Duration,
    /// The server asked for patience, or a call has just failed.
    send_not_before: Option<Instant>,
    /// A call with several frames was refused: which of them is bad is to be found out.
    one_by_one: bool,
}

#[derive(Clone)]
struct Identity {
    session_id: String,
    resume_secret: Vec<u8>,
}

/// What a command leads to.
enum Then {
    GoOn,
    Reconnect,
    Probe,
    Hurry,
    Leave,
}

enum StreamEnd {
    Left,
    Broken { retry_after: Option<Duration> },
    Failed(Failure),
}

impl StreamEnd {
    const BROKEN: Self = Self::Broken { retry_after: None };
}

type Call = BoxFuture<'static, Result<proto::SendResponse, Refusal>>;

impl Seat {
    /// One stream from its join to its end.
    async fn attend(
        &mut self,
        commands: &mut mpsc::UnboundedReceiver<Outgoing>,
        backoff: &mut Backoff,
    ) -> StreamEnd {
        let mut joining = self.join();
        let joined = loop {
            tokio::select! {
                joined = &mut joining => break joined,
                command = commands.recv() => match self.collect(command) {
                    // Joining has a deadline of its own.
                    Then::GoOn | Then::Probe | Then::Hurry => {}
                    Then::Leave => return StreamEnd::Left,
                    Then::Reconnect => joining = self.join(),
                },
            }
        };
        let mut stream = match joined {
            Ok((stream, welcome)) => {
                self.welcome(welcome).await;
                stream
            }
            Err(refusal) => return self.refused(refusal),
        };
        backoff.reset();
        let mut leave_by = None;
        let end = self.listen_and_talk(&mut stream, commands, &mut leave_by).await;
        self.outbox.failed();
        self.send_not_before = None;
        if let StreamEnd::Broken { .. } = end {
            if leave_by.is_some() {
                // Who wants to leave does not come back in order to say so.
                return StreamEnd::Left;
            }
            self.notify(Notice::Lost).await;
        }
        end
    }

    async fn listen_and_talk(
        &mut self,
        stream: &mut Streaming<proto::JoinResponse>,
        commands: &mut mpsc::UnboundedReceiver<Outgoing>,
        leave_by: &mut Option<Instant>,
    ) -> StreamEnd {
        let mut call: Option<(u64, Call)> = None;
        let mut heartbeat_at = clock::now() + self.heartbeat;
        let mut answer_by: Option<Instant> = None;
        // Whether the call that is under way began after somebody wanted an answer.
        let mut is_awaited = false;
        loop {
            if call.is_none() {
                let now = clock::now();
                let may_send = self.send_not_before.is_none_or(|time| time <= now);
                let owes_ack = self.inbox.unacknowledged() >= ACK_EVERY;
                if (may_send && self.outbox.is_due()) || owes_ack || heartbeat_at <= now {
                    heartbeat_at = now + self.heartbeat;
                    is_awaited = answer_by.is_some();
                    call = Some((self.inbox.last(), self.send(may_send)));
                } else if leave_by.is_some() && self.outbox.is_empty() {
                    self.leave().await;
                    return StreamEnd::Left;
                }
            }
            let wake_at = match self.send_not_before {
                Some(time) if !self.outbox.is_empty() => time.min(heartbeat_at),
                Some(_) | None => heartbeat_at,
            };
            tokio::select! {
                frame = stream.message() => match frame {
                    Ok(Some(frame)) => if let Some(end) = self.take(frame).await {
                        return end;
                    },
                    Ok(None) => return StreamEnd::BROKEN,
                    Err(status) => return self.stream_failed(status),
                },
                answer = answer_of(&mut call), if call.is_some() => {
                    let ack = call.take().map_or(0, |(ack, _)| ack);
                    match answer {
                        Ok(answer) => {
                            self.outbox.answered(answer.last_client_seq);
                            self.inbox.acknowledged(ack);
                            self.send_not_before = None;
                            answer_by = answer_by.filter(|_| !is_awaited);
                            self.one_by_one &= !self.outbox.is_empty();
                        }
                        Err(refusal) => if let Some(end) = self.send_refused(refusal).await {
                            return end;
                        },
                    }
                }
                command = commands.recv(), if leave_by.is_none() => {
                    // What is said at the same moment travels together: a description with its candidates.
                    if self.outbox.is_empty() {
                        self.send_not_before = Some(clock::now() + LINGER);
                    }
                    match self.collect(command) {
                        Then::GoOn => {}
                        Then::Leave => *leave_by = Some(clock::now() + LEAVE_TIMEOUT),
                        Then::Reconnect => return StreamEnd::BROKEN,
                        Then::Probe => {
                            let now = clock::now();
                            heartbeat_at = now;
                            answer_by = Some(now + PROBE_TIMEOUT);
                        }
                        Then::Hurry => {
                            answer_by.get_or_insert_with(|| clock::now() + ARRIVAL_TIMEOUT);
                        }
                    }
                }
                () = sleep_until(answer_by.unwrap_or(wake_at).into()), if answer_by.is_some() => {
                    self.client = client(&self.endpoint);
                    return StreamEnd::BROKEN;
                }
                () = sleep_until(wake_at.into()), if call.is_none() => {}
                // A server that hangs must not keep us from leaving.
                () = sleep_until(leave_by.unwrap_or(wake_at).into()), if leave_by.is_some() => {
                    self.leave().await;
                    return StreamEnd::Left;
                }
            }
        }
    }

    /// Joins, and takes the stream's first frame.
    fn join(&self) -> BoxFuture<'static, Result<(Streaming<proto::JoinResponse>, proto::Welcome), Refusal>> {
        let resume = self.identity.as_ref().map(|identity| proto::ResumeToken {
            session_id: identity.session_id.clone(),
            resume_secret: identity.resume_secret.clone(),
            last_received_seq: self.inbox.last(),
        });
        let mut request = Request::new(proto::JoinRequest {
            room: self.config.room.clone(),
            display_name: self.config.display_name.clone(),
            request_id: self.request_id.clone(),
            resume,
            capabilities: Some(convert::capabilities(&self.config.instance)),
            identity_key: self.config.identity_key.clone(),
        });
        let authorized = self.authorize(&mut request);
        let mut client = self.client.clone();
        async move {
            authorized?;
            let answer =
                timeout(CALL_TIMEOUT, client.join(request)).await.map_err(|_| Refusal::timed_out())?;
            let mut stream = answer?.into_inner();
            let first = timeout(CALL_TIMEOUT, stream.message()).await.map_err(|_| Refusal::timed_out())?;
            match first?.and_then(|frame| frame.body) {
                Some(Body::Welcome(welcome)) => Ok((stream, welcome)),
                Some(_) | None => Err(Refusal::protocol("the stream does not begin with a welcome")),
            }
        }
        .boxed()
    }

    async fn welcome(&mut self, welcome: proto::Welcome) {
        let resumed = welcome.resume_result() == proto::ResumeResult::Resumed;
        let rejoined = std::mem::replace(&mut self.joined_before, true) && !resumed;
        if let Some(interval) =
            welcome.heartbeat_interval.and_then(|interval| Duration::try_from(interval).ok())
            && !interval.is_zero()
        {
            self.heartbeat = interval;
        }
        self.identity =
            Some(Identity { session_id: welcome.session_id.clone(), resume_secret: welcome.resume_secret });
        let servers = welcome.ice_servers.into_iter().map(convert::ice_server).collect();
        self.notify(Notice::IceServers(servers)).await;
        if resumed {
            self.outbox.answered(welcome.last_client_seq);
            self.notify(Notice::Resumed).await;
            return;
        }
        let others: Vec<_> = welcome.others.into_iter().map(convert::participant).collect();
        self.inbox.restart(welcome.next_seq);
        self.outbox.restart(|session| others.iter().any(|other| other.session.as_str() == session));
        if rejoined {
            self.notify(Notice::Rejoined).await;
        }
        let signal = Signal::Joined {
            session: SessionId::new(&welcome.session_id),
            ordinal: welcome.self_.map(|own| own.ordinal).unwrap_or_default(),
            others,
        };
        self.notify(Notice::Signal(signal)).await;
    }

    /// Takes a frame; says whether the stream is of no use any more.
    async fn take(&mut self, frame: proto::JoinResponse) -> Option<StreamEnd> {
        match self.inbox.handle(frame.seq) {
            Verdict::Take => {}
            Verdict::Repeated => return None,
            // Resuming brings what is missing.
            Verdict::Gap => return Some(StreamEnd::BROKEN),
        }
        match frame.body {
            Some(Body::Message(message)) => {
                if let Some(payload) = message.payload.and_then(convert::payload) {
                    let from = SessionId::new(&message.from_session_id);
                    let signal = Signal::Message { from, negotiation: message.negotiation_id, payload };
                    self.notify(Notice::Signal(signal)).await;
                }
                None
            }
            Some(Body::Participant(event)) => {
                let reason = event.reason();
                let participant = convert::participant(event.participant?);
                let left = (participant.state == crate::report::ParticipantState::Left)
                    .then(|| convert::leave_reason(reason));
                self.notify(Notice::Signal(Signal::Participant { participant, left })).await;
                None
            }
            Some(Body::IceServers(update)) => {
                let servers = update.ice_servers.into_iter().map(convert::ice_server).collect();
                self.notify(Notice::IceServers(servers)).await;
                None
            }
            Some(Body::ResyncRequired(resync)) => {
                let reason = resync.reason;
                self.notify(Notice::Warning(format!("signaling lost messages, joining anew: {reason}")))
                    .await;
                // The old session must not keep its place in the room.
                self.leave().await;
                self.identity = None;
                Some(StreamEnd::BROKEN)
            }
            Some(Body::GoAway(go_away)) => self.go_away(&go_away).await,
            Some(Body::KeepAlive(_) | Body::Welcome(_)) | None => None,
        }
    }

    async fn go_away(&mut self, go_away: &proto::GoAway) -> Option<StreamEnd> {
        let retry_after = go_away.delay.and_then(|delay| Duration::try_from(delay).ok());
        match go_away.action() {
            proto::GoAwayAction::Resume | proto::GoAwayAction::Unspecified => {
                Some(StreamEnd::Broken { retry_after })
            }
            proto::GoAwayAction::Reconnect => {
                self.leave().await;
                self.identity = None;
                Some(StreamEnd::Broken { retry_after })
            }
            proto::GoAwayAction::Stop => {
                let message = format!("the signaling server ended the session: {}", go_away.reason);
                Some(StreamEnd::Failed(Failure::new(Reason::SessionLost, message)))
            }
        }
    }

    /// Begins a call with what waits and what is to be acknowledged.
    fn send(&mut self, may_send: bool) -> Call {
        let identity = self.identity.clone();
        let (session_id, resume_secret) =
            identity.map(|identity| (identity.session_id, identity.resume_secret)).unwrap_or_default();
        let frames = if may_send {
            self.outbox.batch(if self.one_by_one { 1 } else { MOST_FRAMES })
        } else {
            Vec::new()
        };
        let mut request =
            Request::new(proto::SendRequest { session_id, resume_secret, frames, ack: self.inbox.last() });
        let authorized = self.authorize(&mut request);
        let mut client = self.client.clone();
        async move {
            authorized?;
            let answer =
                timeout(CALL_TIMEOUT, client.send(request)).await.map_err(|_| Refusal::timed_out())??;
            Ok(answer.into_inner())
        }
        .boxed()
    }

    /// Says whether the stream is of no use any more.
    async fn send_refused(&mut self, refusal: Refusal) -> Option<StreamEnd> {
        match refusal.kind {
            // Joining again tells what the server has taken, or makes a new session.
            RefusalKind::SessionUnknown => return Some(StreamEnd::BROKEN),
            RefusalKind::BadField => {
                if self.outbox.in_flight() > 1 {
                    self.one_by_one = true;
                    self.outbox.failed();
                } else {
                    self.outbox.refuse_first();
                    let text = format!("the signaling server refused a message: {refusal}");
                    self.notify(Notice::Warning(text)).await;
                }
            }
            RefusalKind::Superseded => return Some(self.refused(refusal)),
            RefusalKind::Unavailable
            | RefusalKind::RoomFull
            | RefusalKind::BadToken
            | RefusalKind::LogFull => {
                self.outbox.failed();
                let pause = refusal.retry_after.unwrap_or(SEND_AGAIN_AFTER).min(LONGEST_PAUSE);
                self.send_not_before = Some(clock::now() + pause);
            }
        }
        None
    }

    fn stream_failed(&mut self, status: Status) -> StreamEnd {
        let refusal = Refusal::from(status);
        if refusal.kind == RefusalKind::Superseded {
            return self.refused(refusal);
        }
        StreamEnd::Broken { retry_after: refusal.retry_after }
    }

    /// A join that was refused is the end only if it was the first.
    fn refused(&mut self, refusal: Refusal) -> StreamEnd {
        if !self.joined_before || refusal.kind == RefusalKind::Superseded {
            return StreamEnd::Failed(refusal.into_failure(&self.config.server));
        }
        if refusal.kind == RefusalKind::SessionUnknown {
            self.identity = None;
        }
        StreamEnd::Broken { retry_after: refusal.retry_after }
    }

    async fn leave(&mut self) {
        let Some(identity) = self.identity.clone() else { return };
        let mut request = Request::new(proto::LeaveRequest {
            session_id: identity.session_id,
            resume_secret: identity.resume_secret,
        });
        if self.authorize(&mut request).is_ok() {
            // If it fails, the lease runs out by itself.
            let _ = timeout(LEAVE_TIMEOUT, self.client.leave(request)).await;
        }
    }

    /// Waits, while what is to be said collects. Says whether to leave instead.
    async fn wait(&mut self, pause: Duration, commands: &mut mpsc::UnboundedReceiver<Outgoing>) -> bool {
        let until = clock::now() + pause;
        loop {
            tokio::select! {
                () = sleep_until(until.into()) => return false,
                command = commands.recv() => match self.collect(command) {
                    Then::GoOn | Then::Probe | Then::Hurry => {}
                    Then::Leave => return true,
                    Then::Reconnect => return false,
                },
            }
        }
    }

    /// Keeps what is to be said, and says what to do about the rest.
    fn collect(&mut self, command: Option<Outgoing>) -> Then {
        match command {
            Some(Outgoing::Say { to, negotiation, payload }) => {
                self.outbox.push(convert::message(&to, negotiation, payload));
                Then::GoOn
            }
            Some(Outgoing::Reconnect) => {
                self.client = client(&self.endpoint);
                Then::Reconnect
            }
            Some(Outgoing::Probe) => Then::Probe,
            Some(Outgoing::Hurry) => Then::Hurry,
            Some(Outgoing::Leave) | None => Then::Leave,
        }
    }

    async fn notify(&self, notice: Notice) {
        // The application may have gone; then the commands end as well.
        let _ = self.notify.send(notice).await;
    }

    fn authorize<T>(&self, request: &mut Request<T>) -> Result<(), Refusal> {
        let Some(token) = &self.config.token else { return Ok(()) };
        let value: MetadataValue<_> = format!("Bearer {token}").parse().map_err(|_| {
            Refusal::from(Status::unauthenticated("a token has visible ASCII characters alone"))
        })?;
        request.metadata_mut().insert("authorization", value);
        Ok(())
    }
}

fn client(endpoint: &Endpoint) -> SignalingServiceClient<Channel> {
    SignalingServiceClient::new(endpoint.connect_lazy())
        .max_decoding_message_size(4 * farcall_proto::limits::MAX_FRAME_BYTES)
}

fn request_id(rng: &mut StdRng) -> String {
    format!("{:032x}", rng.random::<u128>())
}

async fn answer_of(call: &mut Option<(u64, Call)>) -> Result<proto::SendResponse, Refusal> {
    match call {
        Some((_, call)) => call.await,
        None => std::future::pending().await,
    }
}

/// Until the server says otherwise.
const DEFAULT_HEARTBEAT: Duration = Duration::from_secs(10);
/// Frames taken before they are acknowledged without being asked; heartbeats and messages carry the rest.
const ACK_EVERY: u64 = 32;
/// Frames in one call.
const MOST_FRAMES: usize = 64;
/// A stream whose other end does not answer in this time is not worth waiting for: resuming loses nothing.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
const ARRIVAL_TIMEOUT: Duration = Duration::from_secs(4);
/// How long the first thing said waits for what is said together with it.
const LINGER: Duration = Duration::from_millis(1);
/// The pause after a call that failed without a word about when to come back.
const SEND_AGAIN_AFTER: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
const LEAVE_TIMEOUT: Duration = Duration::from_secs(1);
