//! The calls, one method each.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use farcall_proto::relay::v1::relay_admin_service_server::RelayAdminService;
use farcall_proto::relay::v1::{
    CloseAllocationRequest, CloseAllocationResponse, CloseUserRequest, CloseUserResponse, DrainRequest,
    DrainResponse, GetAllocationRequest, GetAllocationResponse, GetConfigRequest, GetConfigResponse,
    GetStatsRequest, GetStatsResponse, ListAllocationsRequest, ListAllocationsResponse, ReloadRequest,
    ReloadResponse,
};
use farcall_proto::turn_credentials::UnixTime;
use tokio::sync::{mpsc, oneshot, watch};
use tonic::{Request, Response, Status};
use tracing::info;

use super::convert;
use crate::clock;
use crate::config::Written;
use crate::crew::{Crew, Unheard};
use crate::io::{Count, Traffic, Wanted, Whose};
use crate::metrics::{self, AdminMethod, ProcessMetrics};
use crate::operate::{Event, Readiness};
use crate::turn::Serial;

/// What answers the operator.
#[derive(Debug)]
pub struct Service {
    /// Who knows.
    pub crew: Crew,
    /// Who decides about the process.
    pub events: mpsc::Sender<Event>,
    /// Whether it takes new allocations.
    pub readiness: watch::Receiver<Readiness>,
    /// The configuration in force.
    pub written: watch::Receiver<Written>,
    /// What is counted.
    pub metrics: Arc<ProcessMetrics>,
    /// When the process started.
    pub started_at: UnixTime,
}

#[tonic::async_trait]
impl RelayAdminService for Service {
    async fn list_allocations(
        &self,
        request: Request<ListAllocationsRequest>,
    ) -> Result<Response<ListAllocationsResponse>, Status> {
        self.metrics.asked(AdminMethod::ListAllocations);
        let ListAllocationsRequest { page_size, page_token, user, client } = request.into_inner();
        let page = match usize::try_from(page_size).unwrap_or(MAX_PAGE) {
            0 => DEFAULT_PAGE,
            size => size.min(MAX_PAGE),
        };
        let wanted = Wanted {
            after: some(page_token).map(|token| serial(&token)).transpose()?,
            user: some(user),
            client: some(client).map(|text| client_filter(&text)).transpose()?,
            // One more than the page tells whether there is another.
            limit: page + 1,
        };
        let mut found = self.crew.list(&wanted).await.map_err(unheard)?;
        let has_more = found.len() > page;
        found.truncate(page);
        let last = found.last().filter(|_| has_more).map(|listed| listed.summary.serial.to_string());
        let unix = clock::unix_time().0;
        Ok(Response::new(ListAllocationsResponse {
            allocations: found.iter().map(|listed| convert::allocation(listed, unix)).collect(),
            next_page_token: last.unwrap_or_default(),
        }))
    }

    async fn get_allocation(
        &self,
        request: Request<GetAllocationRequest>,
    ) -> Result<Response<GetAllocationResponse>, Status> {
        self.metrics.asked(AdminMethod::GetAllocation);
        let serial = serial(&request.into_inner().id)?;
        let (listed, peers) = self.crew.find(serial).await.map_err(unheard)?.ok_or_else(gone)?;
        Ok(Response::new(GetAllocationResponse {
            allocation: Some(convert::allocation(&listed, clock::unix_time().0)),
            permissions: convert::permissions(listed.now, &peers),
            channels: convert::channels(listed.now, &peers),
        }))
    }

    async fn close_allocation(
        &self,
        request: Request<CloseAllocationRequest>,
    ) -> Result<Response<CloseAllocationResponse>, Status> {
        self.metrics.asked(AdminMethod::CloseAllocation);
        let serial = serial(&request.into_inner().id)?;
        match self.crew.close(&Whose::Serial(serial)).await.map_err(unheard)? {
            0 => Err(gone()),
            _ => {
                info!(allocation = %serial, "The operator closed an allocation");
                Ok(Response::new(CloseAllocationResponse {}))
            }
        }
    }

    async fn close_user(
        &self,
        request: Request<CloseUserRequest>,
    ) -> Result<Response<CloseUserResponse>, Status> {
        self.metrics.asked(AdminMethod::CloseUser);
        let user = some(request.into_inner().user).ok_or_else(|| Status::invalid_argument("user: empty"))?;
        let closed = self.crew.close(&Whose::User(user)).await.map_err(unheard)?;
        info!(allocations = closed, "The operator closed the allocations of a user");
        Ok(Response::new(CloseUserResponse { closed: convert::count(closed) }))
    }

    async fn drain(&self, request: Request<DrainRequest>) -> Result<Response<DrainResponse>, Status> {
        self.metrics.asked(AdminMethod::Drain);
        let deadline = request.into_inner().deadline.map(|deadline| {
            let seconds = u64::try_from(deadline.seconds).map(|seconds| seconds.min(MAX_DEADLINE_SECONDS));
            let nanoseconds = u32::try_from(deadline.nanos).map(|nanos| nanos.min(999_999_999));
            seconds.ok().zip(nanoseconds.ok()).map(|(seconds, nanos)| Duration::new(seconds, nanos))
        });
        let within = match deadline {
            None => None,
            Some(None) => return Err(Status::invalid_argument("deadline: negative")),
            Some(Some(within)) => Some(within),
        };
        self.tell(Event::Drain { within })?;
        Ok(Response::new(DrainResponse { allocations: self.crew.allocation_count() }))
    }

    async fn get_stats(
        &self,
        _request: Request<GetStatsRequest>,
    ) -> Result<Response<GetStatsResponse>, Status> {
        self.metrics.asked(AdminMethod::GetStats);
        let sums = metrics::sum(self.crew.metrics());
        let count = |(datagrams, bytes)| Count { datagrams, bytes };
        let traffic = Traffic { to_peer: count(sums.to_peer), to_client: count(sums.to_client) };
        Ok(Response::new(GetStatsResponse {
            started_at: Some(convert::timestamp(self.started_at.0)),
            version: env!("CARGO_PKG_VERSION").into(),
            allocations: sums.allocations,
            allocations_created: sums.allocations_created,
            stream_clients: sums.streams,
            traffic: Some(convert::traffic(traffic)),
            dropped: sums.dropped.into_iter().map(|(reason, count)| (reason.into(), count)).collect(),
            workers: convert::count(self.crew.metrics().len()),
            draining: *self.readiness.borrow() == Readiness::Draining,
        }))
    }

    async fn get_config(
        &self,
        _request: Request<GetConfigRequest>,
    ) -> Result<Response<GetConfigResponse>, Status> {
        self.metrics.asked(AdminMethod::GetConfig);
        let written = self.written.borrow();
        let values = written.iter().map(|(key, shown)| (key.into(), shown.into())).collect();
        Ok(Response::new(GetConfigResponse { values }))
    }

    async fn reload(&self, _request: Request<ReloadRequest>) -> Result<Response<ReloadResponse>, Status> {
        self.metrics.asked(AdminMethod::Reload);
        let (answer, answered) = oneshot::channel();
        self.tell(Event::Reload { answer: Some(answer) })?;
        let reloaded = answered.await.map_err(|_| Status::unavailable("the relay is about to end"))?;
        let difference = reloaded.map_err(|error| Status::invalid_argument(error.to_string()))?;
        Ok(Response::new(ReloadResponse {
            changed: difference.changed,
            needs_restart: difference.needs_restart,
        }))
    }
}

impl Service {
    fn tell(&self, event: Event) -> Result<(), Status> {
        self.events.try_send(event).map_err(|_| Status::unavailable("the relay is busy, or about to end"))
    }
}

fn some(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

fn serial(text: &str) -> Result<Serial, Status> {
    text.parse().map(Serial).map_err(|_| Status::invalid_argument(format!("{text:?} names no allocation")))
}

fn client_filter(text: &str) -> Result<(IpAddr, Option<u16>), Status> {
    let with_port = text.parse::<SocketAddr>().map(|address| (address.ip(), Some(address.port())));
    with_port
        .or_else(|_| text.parse::<IpAddr>().map(|ip| (ip, None)))
        .map_err(|_| Status::invalid_argument(format!("client: {text:?} is no address")))
}

fn gone() -> Status {
    Status::not_found("no such allocation")
}

fn unheard(error: Unheard) -> Status {
    Status::unavailable(error.to_string())
}

const DEFAULT_PAGE: usize = 100;
const MAX_PAGE: usize = 1000;
/// A year.
const MAX_DEADLINE_SECONDS: u64 = 31_536_000;
