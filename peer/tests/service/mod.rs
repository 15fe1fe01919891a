//! A signaling service in the test's own process: as much of the protocol as peers use, and ways to break it.

pub(crate) mod road;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use farcall_proto::reason;
use farcall_proto::signaling::v1 as proto;
use farcall_proto::signaling::v1::join_response::Body;
use farcall_proto::signaling::v1::signaling_service_server::{SignalingService, SignalingServiceServer};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::{TcpListenerStream, UnboundedReceiverStream};
use tonic::transport::{Identity, ServerTlsConfig};
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

/// Serves until it goes out of scope.
pub(crate) struct Service {
    url: String,
    rooms: Rooms,
    serving: JoinHandle<()>,
}

impl Service {
    pub(crate) async fn start(room_size: usize) -> Self {
        Self::start_on(room_size, "http", tonic::transport::Server::builder()).await
    }

    /// Over TLS, with a certificate for 127.0.0.1.
    pub(crate) async fn start_encrypted(room_size: usize, identity: Identity) -> Self {
        let tls = ServerTlsConfig::new().identity(identity);
        let server = tonic::transport::Server::builder().tls_config(tls).unwrap();
        Self::start_on(room_size, "https", server).await
    }

    async fn start_on(room_size: usize, scheme: &str, mut server: tonic::transport::Server) -> Self {
        let rooms = Rooms(Arc::new(Mutex::new(State { room_size, ..State::default() })));
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address: SocketAddr = listener.local_addr().unwrap();
        let service = SignalingServiceServer::new(rooms.clone());
        let server = server.add_service(service);
        let serving = tokio::spawn(async move {
            server.serve_with_incoming(TcpListenerStream::new(listener)).await.unwrap();
        });
        Self { url: format!("{scheme}://{address}"), rooms, serving }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Ends every stream without a word; the sessions stay.
    pub(crate) fn cut_streams(&self) {
        for session in self.rooms.state().sessions.values_mut() {
            session.stream = None;
        }
    }

    /// Waits until somebody has no stream any more; they have left then, as after the end of a lease.
    pub(crate) async fn remove_the_absent(&self) {
        let streams: Vec<_> =
            self.rooms.state().sessions.values().filter_map(|session| session.stream.clone()).collect();
        let ends = streams.iter().map(|stream| Box::pin(stream.closed()));
        tokio::time::timeout(DEADLINE, futures_util::future::select_all(ends)).await.unwrap();
        let mut state = self.rooms.state();
        let absent = |session: &Session| session.stream.as_ref().is_none_or(mpsc::UnboundedSender::is_closed);
        let gone: Vec<String> =
            state.sessions.iter().filter(|(_, session)| absent(session)).map(|(id, _)| id.clone()).collect();
        for id in gone {
            let Some(session) = state.sessions.remove(&id) else { continue };
            let mut participant = session.participant;
            participant.set_state(proto::ParticipantState::Left);
            state.tell_others(&session.room, &participant, proto::LeaveReason::LeaseExpired);
        }
    }

    /// What a restart does to a server that keeps everything in memory.
    pub(crate) fn forget_everything(&self) {
        self.rooms.state().sessions.clear();
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

const DEADLINE: std::time::Duration = std::time::Duration::from_secs(30);

type Frame = Result<proto::JoinResponse, Status>;

#[derive(Clone)]
struct Rooms(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    room_size: usize,
    made: u64,
    sessions: BTreeMap<String, Session>,
}

struct Session {
    room: String,
    participant: proto::Participant,
    log: Vec<proto::JoinResponse>,
    last_client_seq: u64,
    stream: Option<mpsc::UnboundedSender<Frame>>,
}

impl Session {
    fn push(&mut self, body: Body) {
        let seq = self.log.len() as u64 + 1;
        let frame = proto::JoinResponse { seq, body: Some(body), ..Default::default() };
        self.log.push(frame.clone());
        if let Some(stream) = &self.stream {
            let _ = stream.send(Ok(frame));
        }
    }
}

impl Rooms {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }
}

impl State {
    fn others<'a>(&'a mut self, room: &'a str, me: &'a str) -> impl Iterator<Item = &'a mut Session> {
        self.sessions
            .iter_mut()
            .filter(move |(id, session)| session.room == room && *id != me)
            .map(|(_, session)| session)
    }

    fn tell_others(&mut self, room: &str, participant: &proto::Participant, reason: proto::LeaveReason) {
        let me = participant.session_id.clone();
        for session in self.others(room, &me) {
            let participant = Some(participant.clone());
            session.push(Body::Participant(proto::ParticipantEvent { participant, reason: reason.into() }));
        }
    }

    fn enter(&mut self, request: proto::JoinRequest) -> Result<String, Status> {
        let present = self.others(&request.room, "").count();
        if present >= self.room_size {
            return Err(refuse(Code::ResourceExhausted, reason::ROOM_FULL));
        }
        self.made += 1;
        let id = format!("session-{}", self.made);
        let mut participant = proto::Participant {
            session_id: id.clone(),
            ordinal: self.made,
            display_name: request.display_name,
            capabilities: request.capabilities,
            ..Default::default()
        };
        participant.set_state(proto::ParticipantState::Connected);
        self.tell_others(&request.room, &participant, proto::LeaveReason::Unspecified);
        let session =
            Session { room: request.room, participant, log: Vec::new(), last_client_seq: 0, stream: None };
        self.sessions.insert(id.clone(), session);
        Ok(id)
    }

    fn stream(
        &mut self,
        id: &str,
        result: proto::ResumeResult,
        last_received: u64,
    ) -> UnboundedReceiverStream<Frame> {
        let room = self.sessions[id].room.clone();
        let others = self.others(&room, id).map(|session| session.participant.clone()).collect();
        let session = self.sessions.get_mut(id).unwrap();
        let welcome = proto::Welcome {
            session_id: id.to_owned(),
            resume_secret: id.as_bytes().to_vec(),
            resume_result: result.into(),
            last_client_seq: session.last_client_seq,
            next_seq: session.log.len() as u64 + 1,
            self_: Some(session.participant.clone()),
            others,
            ..Default::default()
        };
        let (sender, receiver) = mpsc::unbounded_channel();
        let body = Some(Body::Welcome(welcome));
        sender.send(Ok(proto::JoinResponse { body, ..Default::default() })).unwrap();
        for frame in session.log.iter().filter(|frame| frame.seq > last_received) {
            sender.send(Ok(frame.clone())).unwrap();
        }
        session.stream = Some(sender);
        UnboundedReceiverStream::new(receiver)
    }

    fn deliver(&mut self, from: &str, mut message: proto::PeerMessage) {
        message.from_session_id = from.to_owned();
        if let Some(receiver) = self.sessions.get_mut(&message.to_session_id) {
            receiver.push(Body::Message(message));
        }
    }
}

#[tonic::async_trait]
impl SignalingService for Rooms {
    type JoinStream = UnboundedReceiverStream<Frame>;

    async fn join(&self, request: Request<proto::JoinRequest>) -> Result<Response<Self::JoinStream>, Status> {
        if request.metadata().get("authorization").is_some_and(|token| token == "Bearer wrong") {
            return Err(refuse(Code::Unauthenticated, reason::BAD_TOKEN));
        }
        let request = request.into_inner();
        let mut state = self.state();
        let stream = match &request.resume {
            Some(token) if state.sessions.contains_key(&token.session_id) => {
                state.stream(&token.session_id, proto::ResumeResult::Resumed, token.last_received_seq)
            }
            Some(_) => {
                let id = state.enter(request)?;
                state.stream(&id, proto::ResumeResult::ResyncRequired, 0)
            }
            None => {
                let id = state.enter(request)?;
                state.stream(&id, proto::ResumeResult::New, 0)
            }
        };
        Ok(Response::new(stream))
    }

    async fn send(
        &self,
        request: Request<proto::SendRequest>,
    ) -> Result<Response<proto::SendResponse>, Status> {
        let request = request.into_inner();
        let mut state = self.state();
        let unknown = || refuse(Code::NotFound, reason::SESSION_NOT_FOUND);
        for frame in request.frames {
            let session = state.sessions.get_mut(&request.session_id).ok_or_else(unknown)?;
            if frame.client_seq <= session.last_client_seq {
                continue;
            }
            if frame.client_seq != session.last_client_seq + 1 {
                return Err(refuse(Code::FailedPrecondition, reason::CLIENT_SEQ_GAP));
            }
            session.last_client_seq = frame.client_seq;
            if let Some(proto::client_frame::Body::Message(message)) = frame.body {
                state.deliver(&request.session_id, message);
            }
        }
        let session = state.sessions.get(&request.session_id).ok_or_else(unknown)?;
        let last_client_seq = session.last_client_seq;
        Ok(Response::new(proto::SendResponse { last_client_seq, ..Default::default() }))
    }

    async fn leave(
        &self,
        request: Request<proto::LeaveRequest>,
    ) -> Result<Response<proto::LeaveResponse>, Status> {
        let mut state = self.state();
        if let Some(mut session) = state.sessions.remove(&request.into_inner().session_id) {
            session.participant.set_state(proto::ParticipantState::Left);
            state.tell_others(&session.room, &session.participant, proto::LeaveReason::Left);
        }
        Ok(Response::new(proto::LeaveResponse {}))
    }

    async fn get_ice_servers(
        &self,
        _request: Request<proto::GetIceServersRequest>,
    ) -> Result<Response<proto::GetIceServersResponse>, Status> {
        Ok(Response::new(proto::GetIceServersResponse::default()))
    }
}

fn refuse(code: Code, reason: &str) -> Status {
    let details = ErrorDetails::with_error_info(reason, reason::DOMAIN, std::collections::HashMap::new());
    Status::with_error_details(code, reason, details)
}
