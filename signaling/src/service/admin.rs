//! `farcall.signaling.v1.RoomAdminService`: what operators see and do, on a listener of their own.
//!
//! A bearer token opens it: one of the operator's, or a signed one that grants `admin`. Without a token of the
//! operator's it is open to this machine alone, and may listen nowhere else.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use farcall_proto::signaling::v1::{
    CloseRoomRequest, CloseRoomResponse, DrainRequest, DrainResponse, GetRoomRequest, GetRoomResponse,
    GetStatsRequest, GetStatsResponse, ListRoomsRequest, ListRoomsResponse, RemoveSessionRequest,
    RemoveSessionResponse, RoomSummary, Session,
};
use tokio::sync::Notify;
use tonic::service::Routes;
use tonic::{Request, Response, Status};
use tonic_types::FieldViolation;
use tracing::info;

use super::generated::room_admin_service_server::{RoomAdminService, RoomAdminServiceServer};
use super::status::Problem;
use super::{Context, authorization, convert, saturating_u32};
use crate::backplane::{Backplane, Unavailable};
use crate::credentials::JoinTokens;
use crate::live::Live;
use crate::room::{Refusal, RoomKey, Timestamp};
use crate::tokens::{Grant, Refused};

/// Where operators are served, and which of them.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// Nowhere unless it is said.
    pub listen: Option<SocketAddr>,
    /// Tokens of operators.
    pub tokens: Arc<Live<JoinTokens>>,
}

/// The service with reflection and health. `stop` is told when an operator wants the server to go away.
pub(crate) async fn routes<B: Backplane>(
    context: Arc<Context<B>>,
    config: Config,
    stop: Arc<Notify>,
) -> anyhow::Result<Routes> {
    let started_at = context.clock.now();
    let service = RoomAdminServiceServer::new(Admin { context, config, stop, started_at });
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<RoomAdminServiceServer<Admin<B>>>().await;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(farcall_proto::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .with_service_name("farcall.signaling.v1.RoomAdminService")
            .with_service_name("grpc.health.v1.Health")
    };
    let routes = Routes::new(service)
        .add_service(health_service)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?);
    Ok(routes.prepare())
}

struct Admin<B> {
    context: Arc<Context<B>>,
    config: Config,
    stop: Arc<Notify>,
    started_at: Timestamp,
}

impl<B: Backplane> Admin<B> {
    fn authorize<T>(&self, request: &Request<T>) -> Result<(), Status> {
        let Config { listen, tokens } = &self.config;
        let is_here = listen.is_some_and(|address| address.ip().is_loopback());
        let shown = authorization(request);
        let tokens = tokens.get();
        if tokens.admit(shown) && (is_here || !tokens.is_open()) {
            return Ok(());
        }
        let judged = self.context.settings.tokens.judge_signed(self.context.clock.unix_time(), shown);
        let refused = match judged {
            Ok(rights) if rights.has(Grant::Admin) => return Ok(()),
            Ok(_) => Refused::NotGranted,
            Err(refused) => refused,
        };
        Err(self.context.refuse(Problem::Token(refused)))
    }

    fn unavailable(&self, _: Unavailable) -> Status {
        self.context.refuse(Problem::Unavailable)
    }

    fn bad(&self, field: &str, rule: &str) -> Status {
        self.context.refuse(Problem::BadFields(vec![FieldViolation::new(field, rule)]))
    }
}

#[tonic::async_trait]
impl<B: Backplane> RoomAdminService for Admin<B> {
    async fn list_rooms(
        &self,
        request: Request<ListRoomsRequest>,
    ) -> Result<Response<ListRoomsResponse>, Status> {
        self.authorize(&request)?;
        let ListRoomsRequest { page_size, page_token } = request.into_inner();
        let after = decode_page_token(&page_token).map_err(|rule| self.bad("page_token", rule))?;
        let size = match page_size {
            0 => DEFAULT_PAGE,
            size => usize::try_from(size).unwrap_or(MAX_PAGE).min(MAX_PAGE),
        };
        let found = self.context.backplane.rooms(after.as_ref(), size).await;
        let found = found.map_err(|error| self.unavailable(error))?;
        let last = found.last().filter(|_| found.len() == size);
        let next_page_token = last.map(|last| encode_page_token(&last.room)).unwrap_or_default();
        let summary = |found: crate::room::RoomSummary| RoomSummary {
            room: found.room.as_str().into(),
            sessions: saturating_u32(found.sessions),
        };
        Ok(Response::new(ListRoomsResponse {
            rooms: found.into_iter().map(summary).collect(),
            next_page_token,
        }))
    }

    async fn get_room(&self, request: Request<GetRoomRequest>) -> Result<Response<GetRoomResponse>, Status> {
        self.authorize(&request)?;
        let room = request.into_inner().room;
        let found = self.context.backplane.room(&room.as_str().into()).await;
        let found = found.map_err(|error| self.unavailable(error))?;
        if found.is_empty() {
            return Err(self.context.refuse(Problem::RoomNotFound));
        }
        let session = |view: &crate::room::SessionView| Session {
            participant: Some(convert::participant(&view.member)),
            attached: view.is_attached,
            join_time: Some(convert::timestamp(view.joined_at)),
            waiting_frames: saturating_u32(view.waiting),
        };
        Ok(Response::new(GetRoomResponse { room, sessions: found.iter().map(session).collect() }))
    }

    async fn close_room(
        &self,
        request: Request<CloseRoomRequest>,
    ) -> Result<Response<CloseRoomResponse>, Status> {
        self.authorize(&request)?;
        let room = RoomKey::from(request.into_inner().room.as_str());
        let ended = self.context.backplane.close(&room).await.map_err(|error| self.unavailable(error))?;
        info!(sessions = ended, "An operator closed a room");
        Ok(Response::new(CloseRoomResponse { sessions: saturating_u32(ended) }))
    }

    async fn remove_session(
        &self,
        request: Request<RemoveSessionRequest>,
    ) -> Result<Response<RemoveSessionResponse>, Status> {
        self.authorize(&request)?;
        let session = request.into_inner().session_id.as_str().into();
        let removed = self.context.backplane.remove(&session).await;
        if !removed.map_err(|error| self.unavailable(error))? {
            return Err(self.context.refuse(Problem::Refused(Refusal::SessionNotFound)));
        }
        info!(%session, "An operator removed a session");
        Ok(Response::new(RemoveSessionResponse {}))
    }

    async fn drain(&self, request: Request<DrainRequest>) -> Result<Response<DrainResponse>, Status> {
        self.authorize(&request)?;
        info!("An operator drains this server");
        let streams = u32::try_from(self.context.metrics.streams.value()).unwrap_or_default();
        self.stop.notify_one();
        Ok(Response::new(DrainResponse { streams }))
    }

    async fn get_stats(
        &self,
        request: Request<GetStatsRequest>,
    ) -> Result<Response<GetStatsResponse>, Status> {
        self.authorize(&request)?;
        let context = &self.context;
        let occupancy = context.backplane.occupancy().await.map_err(|error| self.unavailable(error))?;
        let uptime: Duration = context.clock.now().since(self.started_at);
        Ok(Response::new(GetStatsResponse {
            server: concat!("farcall-signaling/", env!("CARGO_PKG_VERSION")).into(),
            uptime: Some(convert::duration(uptime)),
            draining: context.draining.has_begun(),
            rooms: occupancy.rooms as u64,
            sessions: occupancy.sessions as u64,
            streams: u64::try_from(context.metrics.streams.value()).unwrap_or_default(),
            connections: u64::try_from(context.metrics.connections.value()).unwrap_or_default(),
            counters: counters(&context.metrics.render(None)),
        }))
    }
}

/// The counters among what Prometheus is told.
fn counters(page: &str) -> std::collections::HashMap<String, u64> {
    let counter = |line: &str| {
        let (name, value) = line.rsplit_once(' ')?;
        let base = name.split('{').next()?;
        (!line.starts_with('#') && base.ends_with("_total")).then_some(())?;
        Some((name.to_owned(), value.parse().ok()?))
    };
    page.lines().filter_map(counter).collect()
}

/// The last room of the page before, for nobody to read.
fn encode_page_token(room: &RoomKey) -> String {
    URL_SAFE_NO_PAD.encode(room.as_str())
}

fn decode_page_token(token: &str) -> Result<Option<RoomKey>, &'static str> {
    if token.is_empty() {
        return Ok(None);
    }
    let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| "was not made here")?;
    let room = std::str::from_utf8(&bytes).map_err(|_| "was not made here")?;
    Ok(Some(room.into()))
}

const DEFAULT_PAGE: usize = 100;
const MAX_PAGE: usize = 1000;
