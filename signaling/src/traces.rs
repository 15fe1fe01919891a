//! Traces: a span for each call and one for its way to the store, sent to an OpenTelemetry collector (OTLP over gRPC)
//! where one is configured.
//!
//! Whoever calls may send a W3C trace context, and the span is then part of that trace. Nothing waits for the
//! collector: spans queue up to a bound, and what finds no place there is dropped. Spans hold sessions and outcomes;
//! room keys, tokens, addresses and what participants say to each other are in none.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::{HeaderMap, Response};
use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::{SpanKind, Status, TraceContextExt, Tracer, TracerProvider};
use opentelemetry::{Context, KeyValue, Value};
use opentelemetry_otlp::tonic_types::transport::ClientTlsConfig;
use opentelemetry_otlp::{SpanExporter as Otlp, WithExportConfig, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracer, SdkTracerProvider, SpanData, SpanExporter,
};
use tonic::Code;
use tracing::{info, warn};

use crate::metrics::Metrics;

/// Where traces go, and how many.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// `http://` or `https://`, where a collector speaks OTLP over gRPC.
    pub endpoint: String,
    /// Which share of the calls that come without a trace begin one. A caller with a trace has decided.
    pub share: f64,
}

/// Makes spans, or nothing where no collector is configured. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Traces(Option<SdkTracer>);

/// What sends them, for as long as the server runs.
#[derive(Debug, Default)]
pub struct Exporting(Option<SdkTracerProvider>);

impl Traces {
    /// Begins to send. That the collector cannot be reached is no error: it may come.
    pub fn start(config: Option<Config>, metrics: Arc<Metrics>) -> anyhow::Result<(Self, Exporting)> {
        let Some(Config { endpoint, share }) = config else { return Ok(Default::default()) };
        let otlp = Otlp::builder().with_tonic().with_timeout(EXPORT).with_endpoint(&endpoint);
        let otlp = if endpoint.starts_with("https:") {
            otlp.with_tls_config(ClientTlsConfig::new().with_enabled_roots())
        } else {
            otlp
        };
        let reporting = Reporting { otlp: otlp.build()?, failing: AtomicBool::new(false), metrics };
        let batches = BatchConfigBuilder::default().with_max_queue_size(QUEUE).build();
        let provider = SdkTracerProvider::builder()
            .with_span_processor(BatchSpanProcessor::builder(reporting).with_batch_config(batches).build())
            .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(share))))
            .with_resource(
                Resource::builder()
                    .with_service_name(env!("CARGO_PKG_NAME"))
                    .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
                    .build(),
            )
            .build();
        Ok((Self(Some(provider.tracer(env!("CARGO_PKG_NAME")))), Exporting(Some(provider))))
    }

    /// The span of a call with this path, if it is one of ours.
    pub(crate) fn begin(&self, path: &str, headers: &HeaderMap) -> Call {
        let Some(tracer) = &self.0 else { return Call::default() };
        let method = path.strip_prefix("/farcall.signaling.v1.SignalingService/");
        let Some((method, name)) = METHODS.iter().find(|(known, _)| method == Some(known)) else {
            return Call::default();
        };
        let caller = TraceContextPropagator::new().extract_with_context(&Context::new(), &InHeaders(headers));
        let attributes = [
            KeyValue::new("rpc.system", "grpc"),
            KeyValue::new("rpc.service", "farcall.signaling.v1.SignalingService"),
            KeyValue::new("rpc.method", *method),
        ];
        let span = tracer.span_builder(*name).with_kind(SpanKind::Server).with_attributes(attributes);
        let span = span.start_with_context(tracer, &caller);
        Call(Some((tracer.clone(), caller.with_span(span))))
    }
}

impl Exporting {
    /// Sends what is left, within a bound.
    pub async fn finish(self) {
        let Some(provider) = self.0 else { return };
        let last = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(LAST_SPANS));
        let _ = last.await;
    }
}

/// A call's span, or none. It ends when the last of its clones is gone, if nobody ends it before.
#[derive(Debug, Clone, Default)]
pub(crate) struct Call(Option<(SdkTracer, Context)>);

impl Call {
    pub(crate) fn of<T>(request: &tonic::Request<T>) -> Self {
        request.extensions().get().cloned().unwrap_or_default()
    }

    /// What is known of it by now.
    pub(crate) fn note(&self, key: &'static str, value: impl Into<Value>) {
        if let Some((_, context)) = &self.0 {
            context.span().set_attribute(KeyValue::new(key, value));
        }
    }

    /// The way to the store and back, as a span of its own.
    pub(crate) async fn to_store<F: Future>(&self, name: &'static str, way: F) -> F::Output {
        let Some((tracer, context)) = &self.0 else { return way.await };
        let span = tracer.span_builder(name).with_kind(SpanKind::Client).start_with_context(tracer, context);
        let context = context.with_span(span);
        let output = way.await;
        context.span().end();
        output
    }

    /// An answer was found; of a stream, that it begins.
    pub(crate) fn end<B>(self, response: &Response<B>) {
        let Some((_, context)) = self.0 else { return };
        let status = response.headers().get("grpc-status");
        let code = status.map_or(Code::Ok, |status| Code::from_bytes(status.as_bytes()));
        let span = context.span();
        span.set_attribute(KeyValue::new("rpc.grpc.status_code", i64::from(i32::from(code))));
        // What a server has to answer for; the rest is the caller's.
        if matches!(code, Code::Unknown | Code::DeadlineExceeded | Code::Internal | Code::Unavailable) {
            span.set_status(Status::error(code.description()));
        }
        span.end();
    }
}

struct InHeaders<'a>(&'a HeaderMap);

impl Extractor for InHeaders<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(|value| value.to_str().ok())
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}

/// Says when the collector goes away and when it is back, and nothing in between.
#[derive(Debug)]
struct Reporting {
    otlp: Otlp,
    failing: AtomicBool,
    metrics: Arc<Metrics>,
}

impl SpanExporter for Reporting {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let count = batch.len() as u64;
        let exported = self.otlp.export(batch).await;
        match &exported {
            Ok(()) => {
                self.metrics.spans_exported.add(count);
                if self.failing.swap(false, Ordering::Relaxed) {
                    info!("Traces are taken again");
                }
            }
            Err(error) => {
                self.metrics.spans_lost.add(count);
                if !self.failing.swap(true, Ordering::Relaxed) {
                    warn!(%error, "Traces are not taken and get lost");
                }
            }
        }
        exported
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.otlp.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.otlp.set_resource(resource);
    }
}

/// What is traced, and what the spans are called; a name that a stranger makes up is none.
const METHODS: [(&str, &str); 4] = [
    ("Join", "farcall.signaling.v1.SignalingService/Join"),
    ("Send", "farcall.signaling.v1.SignalingService/Send"),
    ("Leave", "farcall.signaling.v1.SignalingService/Leave"),
    ("GetIceServers", "farcall.signaling.v1.SignalingService/GetIceServers"),
];
/// Spans that wait for the collector: a few megabytes.
const QUEUE: usize = 4096;
/// How long the collector may take for a batch.
const EXPORT: Duration = Duration::from_secs(5);
/// How long it may take for what is left when the server stops.
const LAST_SPANS: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn without_a_collector_nothing_is_made() {
        let (traces, exporting) = Traces::start(None, Arc::default()).unwrap();
        let call = traces.begin("/farcall.signaling.v1.SignalingService/Join", &HeaderMap::new());
        assert!(call.0.is_none());
        assert_eq!(call.to_store("join", async { 7 }).await, 7);
        exporting.finish().await;
    }

    #[tokio::test]
    async fn a_callers_trace_is_taken_up_and_a_malformed_one_is_not() {
        let config = Config { endpoint: "http://127.0.0.1:1".into(), share: 1.0 };
        let (traces, _exporting) = Traces::start(Some(config), Arc::default()).unwrap();
        let trace = |path: &str, parent: &str| {
            let headers = HeaderMap::from_iter([(
                http::HeaderName::from_static("traceparent"),
                parent.parse().unwrap(),
            )]);
            let Call(span) = traces.begin(path, &headers);
            span.map(|(_, context)| {
                let span = context.span();
                (span.span_context().trace_id().to_string(), span.is_recording())
            })
        };
        let send = "/farcall.signaling.v1.SignalingService/Send";
        let id = "0af7651916cd43dd8448eb211c80319c";
        let sampled = format!("00-{id}-b7ad6b7169203331-01");
        assert_eq!(trace(send, &sampled), Some((id.into(), true)));
        let not_sampled = format!("00-{id}-b7ad6b7169203331-00");
        assert_eq!(trace(send, &not_sampled), Some((id.into(), false)));
        for malformed in ["", "00-0-0-01", &format!("ff-{id}-b7ad6b7169203331-01")] {
            let (made, recording) = trace(send, malformed).unwrap();
            assert!(made != id && recording, "{malformed}");
        }
        assert_eq!(trace("/farcall.signaling.v1.SignalingService/Other", &sampled), None);
        assert_eq!(trace("/grpc.health.v1.Health/Check", &sampled), None);
    }
}
