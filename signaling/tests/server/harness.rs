//! A server process, and participants that wait for what they expect with a deadline.

use std::net::SocketAddr;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use farcall_proto::signaling::v1::client_frame::Body as Sent;
use farcall_proto::signaling::v1::join_response::Body;
use farcall_proto::signaling::v1::peer_message::Payload;
use farcall_proto::signaling::v1::signaling_service_client::SignalingServiceClient;
use farcall_proto::signaling::v1::{
    ClientFrame, JoinRequest, JoinResponse, LeaveRequest, ParticipantEvent, PeerMessage, ResumeToken,
    SendRequest, SendResponse, Welcome,
};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStderr, Command};
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};
use tonic_types::StatusExt;

pub(crate) type Client = SignalingServiceClient<Channel>;

/// A server that dies with the test.
pub(crate) struct Server {
    process: Child,
    pub(crate) ready: Value,
}

impl Server {
    pub(crate) async fn start(flags: &[&str]) -> Self {
        Self::launch(command(&["--listen", "127.0.0.1:0", "--log", "error"]).args(flags)).await
    }

    pub(crate) async fn launch(command: &mut Command) -> Self {
        let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let line = soon("a ready line", lines.next_line()).await.unwrap().expect("it ended");
        Self { process, ready: serde_json::from_str(&line).unwrap() }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.ready["ready"]["grpc"].as_str().unwrap().parse().unwrap()
    }

    pub(crate) async fn channel(&self) -> Channel {
        Channel::from_shared(format!("http://{}", self.address())).unwrap().connect().await.unwrap()
    }

    pub(crate) async fn client(&self) -> Client {
        Client::new(self.channel().await).max_decoding_message_size(usize::MAX)
    }

    pub(crate) async fn join(&self, room: &str) -> Participant {
        Participant::join(self.client().await, request(room)).await.unwrap()
    }

    pub(crate) async fn signal(&self, name: &str) {
        let pid = self.process.id().unwrap().to_string();
        // The shell's own, since a `kill` of its own is not on every machine.
        let kill = Command::new("sh").args(["-c", "kill -s $0 $1", name, &pid]).status();
        assert!(kill.await.unwrap().success());
    }

    pub(crate) async fn ended(&mut self) -> ExitStatus {
        soon("the end of the process", self.process.wait()).await.unwrap()
    }

    /// What it says on a stderr that was piped.
    pub(crate) fn stderr(&mut self) -> ChildStderr {
        self.process.stderr.take().unwrap()
    }

    /// How it ended, and what it said there.
    pub(crate) async fn ended_saying(&mut self) -> (Option<i32>, String) {
        let mut said = String::new();
        soon("the end of stderr", self.stderr().read_to_string(&mut said)).await.unwrap();
        (self.ended().await.code(), said)
    }
}

/// The binary, with an environment that says nothing.
pub(crate) fn command(flags: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_farcall-signaling"));
    command.args(flags).env_clear().kill_on_drop(true).stdin(Stdio::null());
    command
}

/// Runs the binary to its end and returns its exit code and what it said on stderr.
pub(crate) async fn run(flags: &[&str]) -> (Option<i32>, String) {
    let mut process = command(flags).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    let mut stderr = process.stderr.take().unwrap();
    soon("the end of the process", stderr.read_to_string(&mut said)).await.unwrap();
    (process.wait().await.unwrap().code(), said)
}

/// Somebody in a room.
pub(crate) struct Participant {
    pub(crate) client: Client,
    pub(crate) welcome: Welcome,
    /// Where it says it is, to a server that believes it.
    pub(crate) address: Option<String>,
    stream: Streaming<JoinResponse>,
    room: String,
    last_client_seq: u64,
}

impl Participant {
    pub(crate) async fn join(client: Client, request: JoinRequest) -> Result<Self, Status> {
        Self::join_with(client, Request::new(request)).await
    }

    pub(crate) async fn join_with(mut client: Client, request: Request<JoinRequest>) -> Result<Self, Status> {
        let room = request.get_ref().room.clone();
        let mut stream = soon("an answer to join", client.join(request)).await?.into_inner();
        let first = soon("a welcome", stream.message()).await?.expect("a first frame");
        assert_eq!(first.seq, 0);
        let Some(Body::Welcome(welcome)) = first.body else { panic!("{first:?}") };
        let last_client_seq = welcome.last_client_seq;
        Ok(Self { client, welcome, address: None, stream, room, last_client_seq })
    }

    pub(crate) fn id(&self) -> &str {
        &self.welcome.session_id
    }

    /// What a client shows to take this session up again.
    pub(crate) fn resumption(&self, last_received_seq: u64) -> JoinRequest {
        let resume = ResumeToken {
            session_id: self.welcome.session_id.clone(),
            resume_secret: self.welcome.resume_secret.clone(),
            last_received_seq,
        };
        JoinRequest { resume: Some(resume), ..request(&self.room) }
    }

    pub(crate) async fn resume(&self, last_received_seq: u64) -> Self {
        Self::join(self.client.clone(), self.resumption(last_received_seq)).await.unwrap()
    }

    /// The next frame that says anything.
    pub(crate) async fn next(&mut self) -> JoinResponse {
        soon("a frame", self.stream.message()).await.unwrap().expect("the stream ended")
    }

    /// The next frame, or how the stream ends.
    pub(crate) async fn try_next(&mut self) -> Result<Option<JoinResponse>, Status> {
        soon("a frame or the end", self.stream.message()).await
    }

    pub(crate) async fn next_message(&mut self) -> (u64, PeerMessage) {
        match self.next().await {
            JoinResponse { seq, body: Some(Body::Message(message)), .. } => (seq, message),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn next_text(&mut self) -> String {
        match self.next_message().await.1.payload {
            Some(Payload::Text(text)) => text,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn next_event(&mut self) -> ParticipantEvent {
        match self.next().await.body {
            Some(Body::Participant(event)) => event,
            other => panic!("{other:?}"),
        }
    }

    /// How the stream ends, if nothing more comes.
    pub(crate) async fn end(&mut self) -> Result<(), Status> {
        match soon("the end of the stream", self.stream.message()).await {
            Ok(None) => Ok(()),
            Ok(Some(frame)) => panic!("{frame:?}"),
            Err(status) => Err(status),
        }
    }

    pub(crate) async fn say(&mut self, payload: Payload) -> Result<SendResponse, Status> {
        let message = PeerMessage { payload: Some(payload), ..PeerMessage::default() };
        self.send(message).await
    }

    pub(crate) async fn text(&mut self, text: &str) {
        self.say_text(text).await.unwrap();
    }

    pub(crate) async fn say_text(&mut self, text: &str) -> Result<SendResponse, Status> {
        self.say(Payload::Text(text.into())).await
    }

    pub(crate) async fn send(&mut self, message: PeerMessage) -> Result<SendResponse, Status> {
        let frame = ClientFrame { client_seq: self.last_client_seq + 1, body: Some(Sent::Message(message)) };
        let response = self.call(vec![frame], 0).await?;
        self.last_client_seq = response.last_client_seq;
        Ok(response)
    }

    pub(crate) async fn call(&mut self, frames: Vec<ClientFrame>, ack: u64) -> Result<SendResponse, Status> {
        let request = SendRequest {
            session_id: self.welcome.session_id.clone(),
            resume_secret: self.welcome.resume_secret.clone(),
            frames,
            ack,
        };
        let mut request = Request::new(request);
        if let Some(address) = &self.address {
            request.metadata_mut().insert("x-forwarded-for", address.parse().unwrap());
        }
        Ok(soon("an answer to send", self.client.send(request)).await?.into_inner())
    }

    pub(crate) async fn leave(&mut self) {
        let request = LeaveRequest {
            session_id: self.welcome.session_id.clone(),
            resume_secret: self.welcome.resume_secret.clone(),
        };
        soon("an answer to leave", self.client.leave(request)).await.unwrap();
    }

    /// Breaks the stream as a lost connection would.
    pub(crate) fn cut(self) -> Cut {
        Cut { client: self.client, welcome: self.welcome, room: self.room }
    }
}

/// Somebody whose stream is gone.
pub(crate) struct Cut {
    client: Client,
    welcome: Welcome,
    room: String,
}

impl Cut {
    pub(crate) async fn resume(self, last_received_seq: u64) -> Participant {
        let resume = ResumeToken {
            session_id: self.welcome.session_id,
            resume_secret: self.welcome.resume_secret,
            last_received_seq,
        };
        let request = JoinRequest { resume: Some(resume), ..request(&self.room) };
        Participant::join(self.client, request).await.unwrap()
    }
}

pub(crate) fn request(room: &str) -> JoinRequest {
    JoinRequest { room: room.into(), ..JoinRequest::default() }
}

pub(crate) fn text_frame(client_seq: u64, text: &str) -> ClientFrame {
    let message = PeerMessage { payload: Some(Payload::Text(text.into())), ..PeerMessage::default() };
    ClientFrame { client_seq, body: Some(Sent::Message(message)) }
}

/// A status's code and reason.
pub(crate) fn reason(status: &Status) -> (tonic::Code, String) {
    let info = status.get_details_error_info().unwrap_or_else(|| panic!("no ErrorInfo: {status:?}"));
    assert_eq!(info.domain, "farcall");
    (status.code(), info.reason)
}

/// Everything here happens at once or never; the deadline is for a machine with better things to do.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(20), future).await.unwrap_or_else(|_| panic!("waited too long for {what}"))
}
