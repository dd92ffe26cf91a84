//! Shipping to a real OTLP receiver on loopback: what arrives, and what a slow, dead or late collector costs.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use opentelemetry_proto::tonic::{
    collector::{
        metrics::v1::{
            ExportMetricsServiceRequest, ExportMetricsServiceResponse,
            metrics_service_server::{MetricsService, MetricsServiceServer},
        },
        trace::v1::{
            ExportTraceServiceRequest, ExportTraceServiceResponse,
            trace_service_server::{TraceService, TraceServiceServer},
        },
    },
    metrics::v1::metric,
};
use tokio::{net::TcpListener, sync::Notify};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    Request, Response,
    transport::{Identity, Server, ServerTlsConfig},
};

use super::*;
use crate::telemetry::span::{Parent, SpanKind, SpanRef, Value};

/// Keeps what it is sent; refuses as often as it is told.
#[derive(Clone, Debug, Default)]
struct Collector {
    spans: Arc<Mutex<Vec<ExportTraceServiceRequest>>>,
    metrics: Arc<Mutex<Vec<ExportMetricsServiceRequest>>>,
    refusals: Arc<Mutex<Vec<Code>>>,
    arrived: Arc<Notify>,
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let refusal = self.refusals.lock().unwrap().pop();
        if let Some(code) = refusal {
            return Err(Status::new(code, "not now"));
        }
        self.spans.lock().unwrap().push(request.into_inner());
        self.arrived.notify_one();
        Ok(Response::new(Default::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Collector {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        self.metrics.lock().unwrap().push(request.into_inner());
        self.arrived.notify_one();
        Ok(Response::new(Default::default()))
    }
}

impl Collector {
    async fn serve(&self, supervisor: &Supervisor) -> SocketAddr {
        self.serve_over(Server::builder(), supervisor).await
    }

    async fn serve_over(&self, mut server: Server, supervisor: &Supervisor) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = server
            .add_service(TraceServiceServer::new(self.clone()))
            .add_service(MetricsServiceServer::new(self.clone()))
            .serve_with_incoming(TcpListenerStream::new(listener));
        let stop = supervisor.shutdown().clone();
        supervisor.spawn("collector", OnEnd::Finish, async move {
            stop.or_stop(serving).await;
        });
        address
    }

    fn names(&self) -> Vec<String> {
        let all = self.spans.lock().unwrap();
        let spans = all.iter().flat_map(|one| &one.resource_spans).flat_map(|one| &one.scope_spans);
        spans.flat_map(|one| &one.spans).map(|span| span.name.clone()).collect()
    }
}

struct Bench {
    supervisor: Supervisor,
    stop: Shutdown,
    lost: Counter,
}

impl Bench {
    fn new() -> Self {
        let supervisor = Supervisor::new(Shutdown::new());
        Self { supervisor, stop: Shutdown::new(), lost: Counter::default() }
    }

    async fn start(&self, endpoint: &str, durations: Vec<Durations>) -> Spans {
        self.start_as(&TelemetryConfig { endpoint: Some(endpoint.to_owned()), ..TelemetryConfig::default() }, durations)
            .await
    }

    async fn start_as(&self, config: &TelemetryConfig, durations: Vec<Durations>) -> Spans {
        let resource = vec![("service.name", "bailiwick-data-plane".to_owned())];
        let source = Source { scope: "test", version: "1", resource };
        let started = start(config, source, durations, self.lost.clone(), &self.supervisor, &self.stop).await;
        started.unwrap().unwrap()
    }
}

fn span(name: &str) -> Span {
    Span {
        own: SpanRef { trace_id: [1; 16], span_id: [2; 8], flags: 1 },
        parent: Some(Parent { span_id: [3; 8], is_remote: true }),
        state: "a=1".into(),
        name: name.into(),
        kind: SpanKind::Server,
        began: 1_000,
        ended: 2_000,
        attributes: vec![("mcp.method.name", Value::Text("tools/call".into())), ("server.port", Value::Whole(443))],
        links: vec![SpanRef { trace_id: [4; 16], span_id: [5; 8], flags: 0 }],
        failure: Some("refused".into()),
    }
}

#[tokio::test]
async fn what_is_handed_in_arrives_as_the_protocol_says() {
    let (collector, bench) = (Collector::default(), Bench::new());
    let address = collector.serve(&bench.supervisor).await;
    let durations = Durations::new("mcp.server.operation.duration", "how long", &[0.01, 1.0]);
    durations.record(vec![("mcp.method.name", "tools/call".into())], Duration::from_millis(500));
    let spans = bench.start(&format!("http://{address}"), vec![durations]).await;
    spans.offer(span("tools/call a"));
    collector.arrived.notified().await;
    bench.stop.request();
    collector.arrived.notified().await;
    let sent = collector.spans.lock().unwrap().remove(0).resource_spans.remove(0);
    assert_eq!(sent.resource.unwrap().attributes[0].key, "service.name");
    let one = &sent.scope_spans[0].spans[0];
    assert_eq!((one.trace_id.as_slice(), one.span_id.as_slice()), ([1; 16].as_slice(), [2; 8].as_slice()));
    assert_eq!((one.parent_span_id.as_slice(), one.kind, one.flags), ([3; 8].as_slice(), 2, 0x301));
    assert_eq!((one.start_time_unix_nano, one.end_time_unix_nano, one.trace_state.as_str()), (1_000, 2_000, "a=1"));
    assert_eq!((one.links[0].trace_id.as_slice(), one.links.len()), ([4; 16].as_slice(), 1));
    assert_eq!(one.status.as_ref().map(|status| (status.code, status.message.as_str())), Some((2, "refused")));
    let metric = collector.metrics.lock().unwrap().remove(0).resource_metrics.remove(0).scope_metrics.remove(0).metrics;
    assert_eq!((metric[0].name.as_str(), metric[0].unit.as_str()), ("mcp.server.operation.duration", "s"));
    let Some(metric::Data::Histogram(histogram)) = &metric[0].data else { panic!("no histogram") };
    let point = &histogram.data_points[0];
    assert_eq!((histogram.aggregation_temporality, point.count, point.sum), (2, 1, Some(0.5)));
    assert_eq!((point.bucket_counts.as_slice(), point.explicit_bounds.as_slice()), (&[0, 1, 0][..], &[0.01, 1.0][..]));
    assert_eq!(bench.lost.get(), 0);
}

#[tokio::test]
async fn what_is_left_at_the_stop_is_shipped() {
    let (collector, bench) = (Collector::default(), Bench::new());
    let address = collector.serve(&bench.supervisor).await;
    let spans = bench.start(&format!("http://{address}"), Vec::new()).await;
    for number in 0..BATCH_SPANS_MAX + 10 {
        spans.offer(span(&number.to_string()));
    }
    bench.stop.request();
    while collector.names().len() < BATCH_SPANS_MAX + 10 {
        collector.arrived.notified().await;
    }
    assert_eq!(bench.lost.get(), 0);
}

#[tokio::test]
async fn a_collector_that_is_away_for_a_moment_loses_nothing() {
    let (collector, bench) = (Collector::default(), Bench::new());
    *collector.refusals.lock().unwrap() = vec![Code::Unavailable];
    let address = collector.serve(&bench.supervisor).await;
    let spans = bench.start(&format!("http://{address}"), Vec::new()).await;
    spans.offer(span("kept"));
    collector.arrived.notified().await;
    assert_eq!((collector.names(), bench.lost.get()), (vec!["kept".to_owned()], 0));
}

#[tokio::test]
async fn what_the_collector_will_never_take_is_not_offered_again() {
    let (collector, bench) = (Collector::default(), Bench::new());
    *collector.refusals.lock().unwrap() = vec![Code::InvalidArgument];
    let address = collector.serve(&bench.supervisor).await;
    let spans = bench.start(&format!("http://{address}"), Vec::new()).await;
    spans.offer(span("bad"));
    while bench.lost.get() == 0 {
        tokio::task::yield_now().await;
    }
    spans.offer(span("good"));
    collector.arrived.notified().await;
    assert_eq!((collector.names(), bench.lost.get()), (vec!["good".to_owned()], 1));
}

#[tokio::test]
async fn a_dead_or_silent_collector_costs_a_bounded_queue_and_delays_no_stop() {
    // Bound, never accepted from: connections are made and nothing answers.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dead = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (silent_at, dead_at) = (silent.local_addr().unwrap(), dead.local_addr().unwrap());
    drop(dead);
    for address in [silent_at, dead_at] {
        let bench = Bench::new();
        let spans = bench.start(&format!("http://{address}"), Vec::new()).await;
        let (handing_in, offered) = (std::time::Instant::now(), SPANS_QUEUED_MAX * 4);
        for _ in 0..offered {
            spans.offer(span("nobody wants it"));
        }
        assert!(handing_in.elapsed() < Duration::from_secs(2), "handing in never waits");
        assert!(bench.lost.get() >= (offered - SPANS_QUEUED_MAX - BATCH_SPANS_MAX) as u64);
        let stopping = std::time::Instant::now();
        bench.stop.request();
        bench.supervisor.shutdown().request();
        bench.supervisor.ended().await.unwrap();
        assert!(stopping.elapsed() < LAST_WAIT_MAX * 2, "{:?}", stopping.elapsed());
    }
}

#[tokio::test]
async fn a_collector_behind_https_is_believed_by_its_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let certificate = |file: &str| {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let path = folder.path().join(file);
        std::fs::write(&path, made.cert.pem()).unwrap();
        (path, Identity::from_pem(made.cert.pem(), made.signing_key.serialize_pem()))
    };
    let ((own, identity), (strangers, _)) = (certificate("own.pem"), certificate("strangers.pem"));
    for (ca_file, is_believed) in [(own, true), (strangers, false)] {
        let (collector, bench) = (Collector::default(), Bench::new());
        let tls = ServerTlsConfig::new().identity(identity.clone());
        let address = collector.serve_over(Server::builder().tls_config(tls).unwrap(), &bench.supervisor).await;
        let endpoint = Some(format!("https://localhost:{}", address.port()));
        let config = TelemetryConfig { endpoint, ca_file: Some(ca_file), ..TelemetryConfig::default() };
        let spans = bench.start_as(&config, Vec::new()).await;
        spans.offer(span("sealed"));
        if is_believed {
            collector.arrived.notified().await;
            assert_eq!(collector.names(), ["sealed"]);
        } else {
            while bench.lost.get() == 0 {
                bench.stop.request();
                tokio::task::yield_now().await;
            }
            assert!(collector.names().is_empty());
        }
    }
}

#[tokio::test]
async fn certificates_that_cannot_be_read_are_said_at_the_start() {
    let bench = Bench::new();
    let config = TelemetryConfig {
        endpoint: Some("https://collector.example:4317".to_owned()),
        ca_file: Some("/nonexistent/ca.pem".into()),
        ..TelemetryConfig::default()
    };
    let source = Source { scope: "test", version: "1", resource: Vec::new() };
    let started = start(&config, source, Vec::new(), Counter::default(), &bench.supervisor, &bench.stop).await;
    assert!(matches!(started, Err(TelemetryError::CaFile { .. })));
}
