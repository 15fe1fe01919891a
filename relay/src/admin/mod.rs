//! The operator's service over gRPC: what `proto/farcall/relay/v1/admin.proto` promises, on top of the crew of workers.
//!
//! It listens only where it was told to, and away from this machine only for whoever has the token.

mod convert;
mod service;
mod token;
mod unix;

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use farcall_proto::relay::v1::relay_admin_service_server::RelayAdminServiceServer;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;
use tracing::warn;

pub use service::Service;
pub use token::AdminToken;
pub use unix::listen_privately;

use crate::config::AdminListen;
use crate::operate::Readiness;

/// A socket for the operator.
#[derive(Debug)]
pub enum Listener {
    /// At an address.
    Tcp(TcpListener, SocketAddr),
    /// In the file system, for this user alone.
    Unix(UnixListener, PathBuf),
}

impl Listener {
    /// Opens it.
    pub async fn bind(at: &AdminListen, other: Option<OwnedFd>) -> io::Result<Self> {
        match (at, other) {
            // Of the process before, if it is the right one.
            (AdminListen::Unix(path), Some(other)) => {
                let listener = std::os::unix::net::UnixListener::from(other);
                if listener.local_addr()?.as_pathname() == Some(path) {
                    return Ok(Self::Unix(UnixListener::from_std(listener)?, path.clone()));
                }
                Self::open(at).await
            }
            (AdminListen::Tcp(address), Some(other)) => {
                let listener = std::net::TcpListener::from(other);
                let bound = listener.local_addr()?;
                if bound.ip() == address.ip() && [0, bound.port()].contains(&address.port()) {
                    return Ok(Self::Tcp(TcpListener::from_std(listener)?, bound));
                }
                Self::open(at).await
            }
            (at, None) => Self::open(at).await,
        }
    }

    async fn open(at: &AdminListen) -> io::Result<Self> {
        match at {
            AdminListen::Tcp(address) => {
                let listener = TcpListener::bind(address).await?;
                let address = listener.local_addr()?;
                Ok(Self::Tcp(listener, address))
            }
            AdminListen::Unix(path) => {
                let listener = UnixListener::from_std(listen_privately(path)?)?;
                Ok(Self::Unix(listener, path.clone()))
            }
        }
    }

    /// Its socket.
    fn as_descriptor(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(listener, _) => listener.as_fd(),
            Self::Unix(listener, _) => listener.as_fd(),
        }
    }

    /// Where it is, as the flag names it.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Tcp(_, address) => address.to_string(),
            Self::Unix(_, path) => format!("unix:{}", path.display()),
        }
    }

    /// The address, if it has one.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(_, address) => Some(*address),
            Self::Unix(..) => None,
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.as_descriptor()
    }
}

/// Serves for as long as it is polled. Health is for everybody who gets here; the rest wants the token.
pub async fn serve(
    listener: Listener,
    service: Service,
    token: Option<AdminToken>,
    mut readiness: watch::Receiver<Readiness>,
) {
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(farcall_proto::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            // What is served here, and not all that the files describe.
            .with_service_name("farcall.relay.v1.RelayAdminService")
            .with_service_name("grpc.health.v1.Health")
    };
    let (v1, v1alpha) = match (reflection().build_v1(), reflection().build_v1alpha()) {
        (Ok(v1), Ok(v1alpha)) => (v1, v1alpha),
        (Err(error), _) | (_, Err(error)) => {
            return warn!(%error, "The operator's service cannot describe itself");
        }
    };
    let (reporter, health) = tonic_health::server::health_reporter();
    let check = token::Check::new(token);
    let routes = Server::builder()
        .add_service(health)
        .add_service(InterceptedService::new(v1, check.clone()))
        .add_service(InterceptedService::new(v1alpha, check.clone()))
        .add_service(InterceptedService::new(RelayAdminServiceServer::new(service), check));
    let mut until = readiness.clone();
    let over = async move { while until.changed().await.is_ok() {} };
    let report = async {
        loop {
            let is_ready = *readiness.borrow_and_update() == Readiness::Serving;
            match is_ready {
                true => reporter.set_serving::<RelayAdminServiceServer<Service>>().await,
                false => reporter.set_not_serving::<RelayAdminServiceServer<Service>>().await,
            }
            let status = if is_ready {
                tonic_health::ServingStatus::Serving
            } else {
                tonic_health::ServingStatus::NotServing
            };
            reporter.set_service_status("", status).await;
            if readiness.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    };
    // Whoever asked for the end is to have the answer.
    let served = async {
        match listener {
            Listener::Tcp(listener, _) => {
                routes.serve_with_incoming_shutdown(TcpListenerStream::new(listener), over).await
            }
            Listener::Unix(listener, _) => {
                routes.serve_with_incoming_shutdown(UnixListenerStream::new(listener), over).await
            }
        }
    };
    tokio::select! {
        () = report => {}
        ended = served => if let Err(error) = ended {
            warn!(%error, "The operator's service ended");
        }
    }
}
