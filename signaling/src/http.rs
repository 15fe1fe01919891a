//! Where a request goes. One port answers everything, and this file says what answers what: gRPC and gRPC-Web to the
//! services, by content type, everything else to the page. What pages of other sites may do is decided before both.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version, header};
use hyper::body::Incoming;
use hyper::service::Service;
use tonic::Status;
use tonic::body::Body;
use tonic::service::Routes;
use tonic_health::server::HealthReporter;
use tonic_web::{GrpcWebLayer, GrpcWebService};
use tower::{Layer, ServiceExt};

use crate::backplane::Backplane;
use crate::live::Live;
use crate::service::{self, Context};
use crate::traces::Traces;
use crate::web::{self, Page};

/// Sends each request where it belongs.
#[derive(Debug, Clone)]
pub(crate) struct Dispatch {
    /// Translates gRPC-Web and answers 400 to anything over HTTP/1.1 that is none: nothing else may come here.
    grpc: GrpcWebService<Routes>,
    page: Page,
    origins: Arc<Live<web::Origins>>,
    traces: Traces,
}

impl Dispatch {
    /// Everything that speaks gRPC here, the page, and the switch of the services' health.
    pub(crate) async fn new<B: Backplane>(
        context: Arc<Context<B>>,
        web: web::Config,
    ) -> anyhow::Result<(Self, HealthReporter)> {
        let traces = context.traces.clone();
        let (health, health_service) = tonic_health::server::health_reporter();
        let signaling = service::server(context);
        set_serving(&health, &signaling).await;
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(farcall_proto::FILE_DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
                // What is served here, and not all that the files describe.
                .with_service_name("farcall.signaling.v1.SignalingService")
                .with_service_name("grpc.health.v1.Health")
        };
        let grpc = Routes::new(signaling)
            .add_service(health_service)
            .add_service(reflection().build_v1()?)
            // Older grpcurl and Postman know only this one.
            .add_service(reflection().build_v1alpha()?)
            .prepare();
        let dispatch = Self {
            grpc: GrpcWebLayer::new().layer(grpc),
            page: Page::new(web.dir.as_deref())?,
            origins: web.origins,
            traces,
        };
        Ok((dispatch, health))
    }
}

impl Service<Request<Incoming>> for Dispatch {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            let cors = this.origins.get().judge(request.method(), request.headers());
            if let Some(answer) = cors.preflight() {
                return Ok(answer);
            }
            let mut response = this.route(request).await;
            cors.mark(response.headers_mut());
            Ok(response)
        })
    }
}

impl Dispatch {
    async fn route(self, request: Request<Incoming>) -> Response<Body> {
        match kind(request.headers()) {
            Kind::Grpc if request.version() != Version::HTTP_2 => {
                web::text(StatusCode::HTTP_VERSION_NOT_SUPPORTED, "gRPC needs HTTP/2; gRPC-Web does not\n")
            }
            Kind::Grpc | Kind::GrpcWeb => self.call_service(request).await,
            Kind::Other => self.page.answer(request.method(), request.uri().path(), request.headers()).await,
        }
    }
}

impl Dispatch {
    async fn call_service(self, mut request: Request<Incoming>) -> Response<Body> {
        let call = self.traces.begin(request.uri().path(), request.headers());
        request.extensions_mut().insert(call.clone());
        let response = answer(self.grpc, request).await;
        call.end(&response);
        response
    }
}

enum Kind {
    Grpc,
    GrpcWeb,
    Other,
}

fn kind(headers: &HeaderMap) -> Kind {
    let content_type = headers.get(header::CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    match content_type.strip_prefix(b"application/grpc") {
        Some(rest) if rest.starts_with(b"-web") => Kind::GrpcWeb,
        Some(_) => Kind::Grpc,
        None => Kind::Other,
    }
}

/// Answers a call, within the time that a call may take to arrive and be answered. A stream may then go on for ever.
async fn answer(grpc: GrpcWebService<Routes>, request: Request<Incoming>) -> Response<Body> {
    match tokio::time::timeout(ANSWER, grpc.oneshot(request)).await {
        Ok(Ok(response)) => response,
        Ok(Err(never)) => match never {},
        Err(_) => Status::deadline_exceeded("the call took too long to arrive").into_http(),
    }
}

async fn set_serving<S: tonic::server::NamedService>(health: &HealthReporter, _: &S) {
    health.set_serving::<S>().await;
}

/// Whoever needs longer to say what it wants holds memory on purpose.
const ANSWER: Duration = Duration::from_secs(20);
