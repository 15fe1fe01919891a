//! Where a request goes. One port answers everything, and this file says what answers what: gRPC to the services,
//! by content type; anything else is told that it is in the wrong place.
//!
//! gRPC-Web and a page would be two more arms of [`Dispatch::call`].

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::Service;
use tonic::Status;
use tonic::body::Body;
use tonic::service::Routes;
use tonic_health::server::HealthReporter;
use tower::ServiceExt;

use crate::backplane::Backplane;
use crate::service::{self, Context};

/// Sends each request where it belongs.
#[derive(Debug, Clone)]
pub(crate) struct Dispatch {
    grpc: Routes,
}

impl Dispatch {
    /// Everything that speaks gRPC here, and the switch of its health.
    pub(crate) async fn new<B: Backplane>(
        context: Arc<Context<B>>,
    ) -> anyhow::Result<(Self, HealthReporter)> {
        let (health, health_service) = tonic_health::server::health_reporter();
        let signaling = service::server(context);
        set_serving(&health, &signaling).await;
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(farcall_proto::FILE_DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        let grpc = Routes::new(signaling)
            .add_service(health_service)
            .add_service(reflection().build_v1()?)
            // Older grpcurl and Postman know only this one.
            .add_service(reflection().build_v1alpha()?)
            .prepare();
        Ok((Self { grpc }, health))
    }
}

impl Service<Request<Incoming>> for Dispatch {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        match kind(&request) {
            Kind::Grpc if request.version() == Version::HTTP_2 => {
                Box::pin(answer(self.grpc.clone(), request))
            }
            Kind::Grpc => plain(StatusCode::HTTP_VERSION_NOT_SUPPORTED, "gRPC needs HTTP/2\n"),
            Kind::GrpcWeb => plain(StatusCode::UNSUPPORTED_MEDIA_TYPE, "gRPC-Web is not spoken here\n"),
            Kind::Other if request.method() == Method::GET => plain(
                StatusCode::NOT_FOUND,
                "this is a gRPC service: farcall.signaling.v1.SignalingService\n",
            ),
            Kind::Other => plain(StatusCode::UNSUPPORTED_MEDIA_TYPE, "this is a gRPC service\n"),
        }
    }
}

enum Kind {
    Grpc,
    GrpcWeb,
    Other,
}

fn kind(request: &Request<Incoming>) -> Kind {
    let content_type = request.headers().get(header::CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    match content_type.strip_prefix(b"application/grpc") {
        Some(rest) if rest.starts_with(b"-web") => Kind::GrpcWeb,
        Some(_) => Kind::Grpc,
        None => Kind::Other,
    }
}

/// Answers a call, within the time that a call may take to arrive and be answered. A stream may then go on for ever.
async fn answer(grpc: Routes, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    match tokio::time::timeout(ANSWER, grpc.oneshot(request)).await {
        Ok(Ok(response)) => Ok(response),
        Ok(Err(never)) => match never {},
        Err(_) => Ok(Status::deadline_exceeded("the call took too long to arrive").into_http()),
    }
}

fn plain(
    status: StatusCode,
    text: &'static str,
) -> Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>> {
    let mut response = Response::new(Body::new(Full::from(text)));
    *response.status_mut() = status;
    let plain_text = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain_text);
    Box::pin(std::future::ready(Ok(response)))
}

async fn set_serving<S: tonic::server::NamedService>(health: &HealthReporter, _: &S) {
    health.set_serving::<S>().await;
}

/// Whoever needs longer to say what it wants holds memory on purpose.
const ANSWER: Duration = Duration::from_secs(20);
