//! A signaling server that does what none may: it gives two who want to meet each other to somebody in between.
//!
//! It stands before a real server. Whoever comes first is led to one room there and whoever comes second to another, so
//! that somebody else can wait in both. What a victim asserts about itself is kept, and put in the place of what the one
//! in between asserts to the other victim.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result};
use farcall_proto::signaling::v1 as proto;
use farcall_proto::signaling::v1::client_frame::Body as Said;
use farcall_proto::signaling::v1::join_response::Body as Heard;
use farcall_proto::signaling::v1::peer_message::Payload;
use farcall_proto::signaling::v1::signaling_service_client::SignalingServiceClient;
use farcall_proto::signaling::v1::signaling_service_server::{SignalingService, SignalingServiceServer};
use tokio::runtime::{Builder, Runtime};
use tonic::codegen::tokio_stream::{Stream, StreamExt as _};
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Server};
use tonic::{Request, Response, Status};

use crate::host::Host;

/// Serves until it is dropped.
#[derive(Debug)]
pub struct Impostor {
    address: SocketAddr,
    desk: Desk,
    /// What serves.
    _runtime: Runtime,
}

impl Impostor {
    /// Stands before the server at `real`, and leads the victims to these rooms of it, in the order in which they come.
    pub fn before(host: &Host, real: &str, rooms: [&'static str; 2]) -> Result<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let channel = Channel::from_shared(real.to_owned())?.connect_lazy_in(&runtime);
        let desk = Desk { real: SignalingServiceClient::new(channel), rooms, book: Arc::default() };
        let (service, address) = (desk.clone(), SocketAddr::new(host.ip, 0));
        let listening = runtime.block_on(async { TcpIncoming::bind(address) });
        let incoming = listening.context("listening as an impostor")?;
        let address = incoming.local_addr()?;
        runtime.spawn(async move {
            let server = Server::builder().add_service(SignalingServiceServer::new(service));
            let _ = server.serve_with_incoming(incoming).await;
        });
        Ok(Self { address, desk, _runtime: runtime })
    }

    /// For `--signaling`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How many assertions it has put in the place of others.
    #[must_use]
    pub fn forged(&self) -> usize {
        self.desk.book().forged
    }
}

trait ConnectIn {
    /// A channel belongs to the runtime in which it was made.
    fn connect_lazy_in(&self, runtime: &Runtime) -> Channel;
}

impl ConnectIn for tonic::transport::Endpoint {
    fn connect_lazy_in(&self, runtime: &Runtime) -> Channel {
        let _inside = runtime.enter();
        self.connect_lazy()
    }
}

#[derive(Debug, Clone)]
struct Desk {
    real: SignalingServiceClient<Channel>,
    rooms: [&'static str; 2],
    book: Arc<Mutex<Book>>,
}

#[derive(Debug, Default)]
struct Book {
    /// The sessions of the victims.
    victims: Vec<String>,
    /// What each of them asserted last.
    assertions: [Option<proto::IdentityAssertion>; 2],
    /// Joins so far.
    joins: usize,
    forged: usize,
}

impl Desk {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a victim hears, with the other victim's assertion in the place of any.
    fn falsify(&self, victim: usize, frame: &mut proto::JoinResponse) {
        let mut book = self.book();
        match &mut frame.body {
            Some(Heard::Welcome(welcome)) => book.victims.push(welcome.session_id.clone()),
            Some(Heard::Message(message)) => {
                let other = book.assertions.get(1 - victim).cloned().flatten();
                if let (Some(Payload::IdentityAssertion(assertion)), Some(other)) =
                    (&mut message.payload, other)
                {
                    *assertion = other;
                    book.forged += 1;
                }
            }
            _ => {}
        }
    }

    fn note(&self, request: &proto::SendRequest) {
        let mut book = self.book();
        let Some(victim) = book.victims.iter().position(|session| *session == request.session_id) else {
            return;
        };
        for frame in &request.frames {
            if let Some(Said::Message(message)) = &frame.body
                && let Some(Payload::IdentityAssertion(assertion)) = &message.payload
                && let Some(place) = book.assertions.get_mut(victim)
            {
                *place = Some(assertion.clone());
            }
        }
    }
}

type Frames = Pin<Box<dyn Stream<Item = Result<proto::JoinResponse, Status>> + Send>>;

#[tonic::async_trait]
impl SignalingService for Desk {
    type JoinStream = Frames;

    async fn join(&self, request: Request<proto::JoinRequest>) -> Result<Response<Frames>, Status> {
        let mut request = request.into_inner();
        let victim = {
            let mut book = self.book();
            book.joins += 1;
            (book.joins - 1).min(1)
        };
        self.rooms.get(victim).copied().unwrap_or_default().clone_into(&mut request.room);
        let frames = self.real.clone().join(request).await?.into_inner();
        let desk = self.clone();
        Ok(Response::new(Box::pin(frames.map(move |frame| {
            frame.map(|mut frame| {
                desk.falsify(victim, &mut frame);
                frame
            })
        }))))
    }

    async fn send(
        &self,
        request: Request<proto::SendRequest>,
    ) -> Result<Response<proto::SendResponse>, Status> {
        let request = request.into_inner();
        self.note(&request);
        self.real.clone().send(request).await
    }

    async fn leave(
        &self,
        request: Request<proto::LeaveRequest>,
    ) -> Result<Response<proto::LeaveResponse>, Status> {
        self.real.clone().leave(request.into_inner()).await
    }

    async fn get_ice_servers(
        &self,
        request: Request<proto::GetIceServersRequest>,
    ) -> Result<Response<proto::GetIceServersResponse>, Status> {
        self.real.clone().get_ice_servers(request.into_inner()).await
    }
}
