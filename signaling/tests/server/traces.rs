//! Traces, as a collector receives them.

use std::net::SocketAddr;
use std::process::Stdio;

use farcall_proto::signaling::v1::JoinRequest;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use tokio::net::TcpListener;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use crate::harness::{Participant, Server, command, request, soon};

struct Collector(UnboundedSender<ExportTraceServiceRequest>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.0.send(request.into_inner()).unwrap();
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

/// Collects on a port of its own, or on one that was free a moment ago.
async fn collector(at: SocketAddr) -> (String, UnboundedReceiver<ExportTraceServiceRequest>) {
    let listener = TcpListener::bind(at).await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let (collected, batches) = unbounded_channel();
    let serving = tonic::transport::Server::builder()
        .add_service(TraceServiceServer::new(Collector(collected)))
        .serve_with_incoming(TcpListenerStream::new(listener));
    tokio::spawn(serving);
    (endpoint, batches)
}

fn anywhere() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

fn traced(room: &str) -> Request<JoinRequest> {
    let mut join = Request::new(request(room));
    join.metadata_mut().insert("traceparent", format!("00-{TRACE}-{PARENT}-01").parse().unwrap());
    join
}

fn hex(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn attribute(span: &Span, key: &str) -> Option<Value> {
    span.attributes.iter().find(|known| known.key == key)?.value.clone()?.value
}

#[tokio::test]
async fn a_call_is_a_span_of_its_callers_trace_and_is_sent_before_the_server_ends() {
    let (endpoint, mut batches) = collector(anywhere()).await;
    let mut server = Server::start(&["--otlp-endpoint", &endpoint, "--join-token", "very-secret"]).await;
    let mut join = traced("room of secrets");
    join.metadata_mut().insert("authorization", "Bearer very-secret".parse().unwrap());
    let mut ada = Participant::join_with(server.client().await, join).await.unwrap();
    ada.text("said in confidence").await;
    let refused = Participant::join(server.client().await, request("another room")).await;
    assert!(refused.is_err());
    let session = ada.id().to_owned();
    drop(ada);
    server.signal("TERM").await;
    assert_eq!(server.ended().await.code(), Some(0));

    let (mut spans, mut said) = (Vec::new(), String::new());
    while let Ok(batch) = batches.try_recv() {
        said += &format!("{batch:?}");
        for of_resource in batch.resource_spans {
            for of_scope in of_resource.scope_spans {
                spans.extend(of_scope.spans);
            }
        }
    }
    let named = |name: &str| -> Vec<&Span> {
        let name = format!("farcall.signaling.v1.SignalingService/{name}");
        spans.iter().filter(|span| span.name == name).collect()
    };
    let [join, refused] = named("Join")[..] else { panic!("{spans:?}") };
    assert_eq!((hex(&join.trace_id), hex(&join.parent_span_id)), (TRACE.into(), PARENT.into()));
    assert_eq!(attribute(join, "farcall.session"), Some(Value::StringValue(session.clone())));
    assert_eq!(attribute(join, "farcall.outcome"), Some(Value::StringValue("new".into())));
    assert_eq!(attribute(join, "rpc.grpc.status_code"), Some(Value::IntValue(0)));
    assert!(join.end_time_unix_nano >= join.start_time_unix_nano);
    let in_store = spans.iter().find(|span| span.name == "join").unwrap();
    assert_eq!((&in_store.trace_id, &in_store.parent_span_id), (&join.trace_id, &join.span_id));
    let [send] = named("Send")[..] else { panic!("{spans:?}") };
    assert!(hex(&send.trace_id) != TRACE && send.parent_span_id.is_empty(), "a trace of its own");
    assert_eq!(attribute(send, "farcall.session"), Some(Value::StringValue(session)));
    assert_eq!(attribute(send, "farcall.frames"), Some(Value::IntValue(1)));
    let unauthenticated = Some(Value::IntValue(i64::from(i32::from(tonic::Code::Unauthenticated))));
    assert_eq!(attribute(refused, "rpc.grpc.status_code"), unauthenticated);
    assert!(said.contains("farcall-signaling"), "{said}");
    for secret in ["room of secrets", "another room", "very-secret", "said in confidence"] {
        assert!(!said.contains(secret), "{secret} in {said}");
    }
}

#[tokio::test]
async fn calls_that_nobody_traces_are_traced_by_their_share() {
    let (endpoint, mut batches) = collector(anywhere()).await;
    let mut server = Server::start(&["--otlp-endpoint", &endpoint, "--otlp-share", "0"]).await;
    let untraced = server.join("red").await;
    let traced = Participant::join_with(server.client().await, traced("blue")).await.unwrap();
    let expected = traced.id().to_owned();
    let other = untraced.id().to_owned();
    drop((untraced, traced));
    server.signal("TERM").await;
    server.ended().await;
    let said = format!("{:?}", soon("spans", batches.recv()).await.unwrap());
    assert!(said.contains(&expected) && !said.contains(&other), "{said}");
}

#[tokio::test]
async fn a_collector_that_is_away_holds_nobody_up_and_is_said_once() {
    // One that takes connections and never answers.
    let listener = TcpListener::bind(anywhere()).await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let mut command = command(&["--listen", "127.0.0.1:0", "--otlp-endpoint", &endpoint]);
    command.env("OTEL_BSP_SCHEDULE_DELAY", "50").stderr(Stdio::piped());
    let mut server = Server::launch(&mut command).await;
    let mut ada = server.join("red").await;
    for number in 0..20 {
        ada.text(&number.to_string()).await;
    }
    drop(listener);
    ada.text("and on").await;
    drop(ada);
    server.signal("TERM").await;
    let (code, said) = server.ended_saying().await;
    assert_eq!(code, Some(0));
    assert_eq!(said.matches("Traces are not taken").count(), 1, "{said}");
}
