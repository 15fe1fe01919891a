//! `farcall.signaling.v1.SignalingService` on a backplane: between gRPC and the core, and nothing that either decides.

pub mod admin;
mod check;
mod convert;
mod outbound;
mod status;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use farcall_proto::limits::{MAX_FRAME_BYTES, MAX_SDP_BYTES};
use farcall_proto::signaling::v1::{
    self, GetIceServersRequest, GetIceServersResponse, IceServer, JoinRequest, LeaveRequest, LeaveResponse,
    ResumeResult, SendResponse, UndeliverableFrame, Welcome,
};
use futures_util::Stream;
use tonic::{Request, Response, Status};
use tracing::debug;

pub use status::Reason;

use crate::backplane::Backplane;
use crate::clock::Clock;
use crate::credentials::{IceServers, Relay};
use crate::drain::Draining;
use crate::limits::{self, ClientAddr, Excess, Quotas};
use crate::live::Live;
use crate::metrics::Metrics;
use crate::room::{Joined, Limits, Outcome, Presence, SessionId};
use crate::tokens::{Grant, Refused, Rights, Tokens};
use crate::traces::{Call, Traces};
use crate::wire::{Body, JoinResponse, SendRequest};
use generated::signaling_service_server::{SignalingService, SignalingServiceServer};
use outbound::Outbound;
use status::Problem;

/// The service with the limits of its messages, ready to be routed to.
pub fn server<B: Backplane>(context: Arc<Context<B>>) -> SignalingServiceServer<Service<B>> {
    SignalingServiceServer::new(Service(context)).max_decoding_message_size(MAX_CALL_BYTES)
}

/// What every call and every stream needs.
pub struct Context<B> {
    /// Where the sessions are.
    pub backplane: B,
    /// What participants are told and asked for.
    pub settings: Settings,
    /// What time it is.
    pub clock: Clock,
    /// What one may ask for.
    pub limits: Arc<limits::Limits>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Where a call's span comes from.
    pub traces: Traces,
    /// Whether the server is going away.
    pub draining: Draining,
}

/// What participants are told and asked for.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What the backplane enforces.
    pub limits: Limits,
    /// How often a participant is asked to call `Send`.
    pub heartbeat_interval: Duration,
    /// How long a stream may say nothing.
    pub keep_alive: Duration,
    /// STUN and TURN servers.
    pub ice: Arc<Live<IceServers>>,
    /// How much one may ask for.
    pub quotas: Quotas,
    /// Who may join.
    pub tokens: Arc<Tokens>,
}

impl<B: Backplane> Context<B> {
    fn ice_servers(&self, session: &SessionId, relay: Relay) -> Vec<IceServer> {
        self.settings.ice.get().for_session(self.clock.unix_time(), session.as_str(), relay)
    }

    /// What the caller may do, by its token.
    fn rights<T>(&self, request: &Request<T>) -> Result<Rights, Status> {
        let judged = self.settings.tokens.judge(self.clock.unix_time(), authorization(request));
        judged.map_err(|refused| self.refuse(Problem::Token(refused)))
    }

    fn exceeded(&self, excess: Excess) -> Status {
        self.metrics.exceeded(excess.quota);
        self.refuse(Problem::Exceeded(excess))
    }

    fn refuse(&self, problem: impl Into<Problem>) -> Status {
        let problem = problem.into();
        let reason = problem.reason();
        self.metrics.refused(reason);
        debug!(reason = reason.as_str(), ?problem, "Call refused");
        problem.to_status()
    }

    fn welcome(&self, joined: &Joined, relay: Relay) -> Welcome {
        let Settings { limits, heartbeat_interval, .. } = &self.settings;
        let mut myself = joined.member.clone();
        myself.presence = if joined.others.is_empty() { Presence::Waiting } else { Presence::Connected };
        Welcome {
            session_id: joined.session.as_str().into(),
            resume_secret: joined.secret.as_bytes().to_vec(),
            resume_result: match joined.outcome {
                Outcome::New => ResumeResult::New,
                Outcome::Resumed => ResumeResult::Resumed,
                Outcome::Resync => ResumeResult::ResyncRequired,
            }
            .into(),
            resume_window: Some(convert::duration(limits.resume_window)),
            heartbeat_interval: Some(convert::duration(*heartbeat_interval)),
            last_client_seq: joined.last_client_seq,
            next_seq: joined.cursor + 1,
            self_: Some(convert::participant(&myself)),
            others: joined.others.iter().map(convert::participant).collect(),
            ice_servers: self.ice_servers(&joined.session, relay),
            limits: Some(v1::Limits {
                max_participants: saturating_u32(limits.room_size),
                max_frame_bytes: saturating_u32(MAX_FRAME_BYTES),
                max_sdp_bytes: saturating_u32(MAX_SDP_BYTES),
                max_log_frames: saturating_u32(limits.log_frames),
                max_log_bytes: saturating_u32(limits.log_bytes),
            }),
            server: concat!("farcall-signaling/", env!("CARGO_PKG_VERSION")).into(),
        }
    }
}

impl<B> fmt::Debug for Context<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// The service. Cheap to clone, since tonic does.
#[derive(Debug)]
pub struct Service<B>(Arc<Context<B>>);

#[tonic::async_trait]
impl<B: Backplane> SignalingService for Service<B> {
    type JoinStream = Pin<Box<dyn Stream<Item = Result<JoinResponse, Status>> + Send>>;

    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<Self::JoinStream>, Status> {
        let (context, call) = (&self.0, Call::of(&request));
        if context.draining.has_begun() {
            return Err(context.refuse(Problem::Draining));
        }
        let (rights, client) = (context.rights(&request)?, client(&request));
        let mut join = check::join(request.into_inner()).map_err(|problem| context.refuse(problem))?;
        if !rights.opens(join.room.as_str()) {
            return Err(context.refuse(Problem::Token(Refused::NotGranted)));
        }
        let Rights { identity, max_sessions, .. } = &rights;
        let room = join.room.as_str();
        let permit = context.limits.join(context.clock.now(), client, identity, *max_sessions, room);
        let permit = permit.map_err(|excess| context.exceeded(excess))?;
        join.profile.identity.clone_from(identity);
        join.may_create = rights.has(Grant::Create);
        let relay = rights.relay();
        let entered = call.to_store("join", context.backplane.join(join)).await;
        let (joined, doorbell) = entered.map_err(|failure| {
            context.refuse(Problem::from(failure).about_seq("resume.last_received_seq"))
        })?;

        let Joined { session, epoch, outcome, cursor, .. } = &joined;
        let mut outbound =
            Outbound::new(context.clone(), session.clone(), *epoch, doorbell, *cursor).holding(permit, relay);
        context.metrics.joined(*outcome);
        call.note("farcall.session", session.as_str().to_owned());
        call.note("farcall.outcome", outcome.as_str());
        debug!(%session, epoch, ?outcome, "Participant joined");
        outbound.push(Body::Welcome(Box::new(context.welcome(&joined, relay))));
        if joined.lost {
            outbound.push_lost(cursor + 1, "these frames were acknowledged and are gone");
        }
        Ok(Response::new(Box::pin(outbound.into_stream())))
    }

    async fn send(&self, request: Request<SendRequest>) -> Result<Response<SendResponse>, Status> {
        let (context, client, call) = (&self.0, client(&request), Call::of(&request));
        let SendRequest { session_id, resume_secret, frames, ack } = request.into_inner();
        check::caller(&session_id, &resume_secret).map_err(|problem| context.refuse(problem))?;
        let bytes = frames.iter().filter_map(|frame| frame.message.as_ref()).map(Bytes::len).sum();
        call.note("farcall.session", session_id.clone());
        call.note("farcall.frames", saturating_i64(frames.len()));
        call.note("farcall.bytes", saturating_i64(bytes));
        // With the secret, so that nobody uses up what is another's.
        let whose = (&session_id, &resume_secret);
        let allowed = context.limits.send(context.clock.now(), client, whose, frames.len(), bytes);
        allowed.map_err(|excess| context.exceeded(excess))?;
        let (frames, rest) = check::frames(frames);
        let count = frames.len();
        let session = session_id.as_str().into();
        let sent = context.backplane.send(&session, &resume_secret, frames, ack);
        let sent = call.to_store("send", sent).await;
        let sent = sent.map_err(|failure| context.refuse(failure))?;
        context.metrics.frames_received.add(count as u64);
        context.metrics.frames_undeliverable.add(sent.undeliverable.len() as u64);
        // The frames before the one that broke a rule have been taken, as promised.
        rest.map_err(|problem| context.refuse(problem))?;
        let undeliverable = sent.undeliverable.into_iter().map(|(client_seq, to)| UndeliverableFrame {
            client_seq,
            to_session_id: to.map(|to| to.as_str().into()).unwrap_or_default(),
        });
        Ok(Response::new(SendResponse {
            last_client_seq: sent.last_client_seq,
            undeliverable: undeliverable.collect(),
        }))
    }

    async fn leave(&self, request: Request<LeaveRequest>) -> Result<Response<LeaveResponse>, Status> {
        let (context, call) = (&self.0, Call::of(&request));
        let LeaveRequest { session_id, resume_secret } = request.into_inner();
        check::caller(&session_id, &resume_secret).map_err(|problem| context.refuse(problem))?;
        let session = session_id.as_str().into();
        call.note("farcall.session", session_id);
        let left = call.to_store("leave", context.backplane.leave(&session, &resume_secret)).await;
        left.map_err(|failure| context.refuse(failure))?;
        debug!(%session, "Participant left");
        Ok(Response::new(LeaveResponse {}))
    }

    async fn get_ice_servers(
        &self,
        request: Request<GetIceServersRequest>,
    ) -> Result<Response<GetIceServersResponse>, Status> {
        let (context, client, call) = (&self.0, client(&request), Call::of(&request));
        let relay = context.rights(&request)?.relay();
        let GetIceServersRequest { session_id, resume_secret } = request.into_inner();
        check::caller(&session_id, &resume_secret).map_err(|problem| context.refuse(problem))?;
        let whose = (&session_id, &resume_secret);
        let allowed = context.limits.send(context.clock.now(), client, whose, 0, 0);
        allowed.map_err(|excess| context.exceeded(excess))?;
        let session = session_id.as_str().into();
        // An empty send is a heartbeat, and proves that the session is the caller's.
        call.note("farcall.session", session_id);
        let alive = context.backplane.send(&session, &resume_secret, Vec::new(), 0);
        let alive = call.to_store("send", alive).await;
        alive.map_err(|failure| context.refuse(failure))?;
        Ok(Response::new(GetIceServersResponse { ice_servers: context.ice_servers(&session, relay) }))
    }
}

fn authorization<T>(request: &Request<T>) -> Option<&str> {
    request.metadata().get("authorization").and_then(|value| value.to_str().ok())
}

/// Whom a call is from; one that came over no connection is from this machine.
fn client<T>(request: &Request<T>) -> ClientAddr {
    request.extensions().get().copied().unwrap_or(ClientAddr(IpAddr::V4(Ipv4Addr::LOCALHOST)))
}

fn saturating_i64(size: usize) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

fn saturating_u32(size: usize) -> u32 {
    u32::try_from(size).unwrap_or(u32::MAX)
}

/// A call may carry several frames, each with its bound; all of them together may be a little over one.
const MAX_CALL_BYTES: usize = MAX_FRAME_BYTES + 16 * 1024;

mod generated {
    #![allow(
        missing_docs,
        missing_debug_implementations,
        unreachable_pub,
        unused_qualifications,
        clippy::allow_attributes,
        clippy::allow_attributes_without_reason,
        clippy::pedantic,
        clippy::all,
        reason = "generated code"
    )]
    tonic::include_proto!("farcall.signaling.v1");
}

#[cfg(test)]
pub(crate) mod testing {
    //! A service without a server, on a clock that stands still.

    use super::*;
    use crate::backplane::{Bounds, Memory};
    use crate::config::{Config, Raw};
    use crate::drain::Drain;
    use crate::room::Timestamp;

    pub(crate) fn settings() -> Settings {
        Config::try_from(Raw::default()).unwrap().settings
    }

    pub(crate) fn context(settings: Settings) -> (Arc<Context<Memory>>, Drain) {
        let (drain, draining) = Drain::new();
        let clock = Clock::manual(Timestamp(0));
        let bounds = Bounds { rooms: 9, sessions: 9 };
        let backplane = Memory::new(settings.limits, bounds, clock.clone());
        (
            Arc::new(Context {
                limits: Arc::new(limits::Limits::new(settings.quotas)),
                backplane,
                settings,
                clock,
                metrics: Arc::default(),
                traces: Traces::default(),
                draining,
            }),
            drain,
        )
    }
}
