//! An OpenTelemetry collector for tests: takes OTLP over gRPC on loopback and keeps what it is sent.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Result;
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
    common::v1::{KeyValue, any_value},
    metrics::v1::{HistogramDataPoint, metric},
    trace::v1::Span,
};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Server};

/// See the file's header; stopped when dropped.
#[derive(Debug)]
pub struct Collector {
    url: String,
    kept: Kept,
    task: JoinHandle<()>,
}

#[derive(Clone, Debug, Default)]
struct Kept {
    spans: Arc<Mutex<Vec<Span>>>,
    metrics: Arc<Mutex<Vec<ExportMetricsServiceRequest>>>,
}

#[tonic::async_trait]
impl TraceService for Kept {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let scopes = request.into_inner().resource_spans.into_iter().flat_map(|resource| resource.scope_spans);
        lock(&self.spans).extend(scopes.flat_map(|scope| scope.spans));
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Kept {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        lock(&self.metrics).push(request.into_inner());
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

impl Collector {
    /// Starts it on a free port.
    ///
    /// # Errors
    /// No port is free.
    #[expect(clippy::disallowed_methods, reason = "tests have no supervisor; the task ends with the collector's value")]
    pub async fn start() -> Result<Self> {
        let (listener, kept) = (TcpListener::bind(("127.0.0.1", 0)).await?, Kept::default());
        let url = format!("http://{}", listener.local_addr()?);
        let services = Server::builder()
            .add_service(TraceServiceServer::new(kept.clone()))
            .add_service(MetricsServiceServer::new(kept.clone()));
        let serving = services.serve_with_incoming(TcpListenerStream::new(listener));
        let task = tokio::spawn(async move { drop(serving.await) });
        Ok(Self { url, kept, task })
    }

    /// Its endpoint.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// All spans so far.
    #[must_use]
    pub fn spans(&self) -> Vec<Span> {
        lock(&self.kept.spans).clone()
    }

    /// The spans of one trace.
    #[must_use]
    pub fn trace(&self, trace_id: &str) -> Vec<Span> {
        self.spans().into_iter().filter(|span| hex::encode(&span.trace_id) == trace_id).collect()
    }

    /// Everything it was sent, as text, to look for what must not be there.
    #[must_use]
    pub fn everything(&self) -> String {
        format!("{:?}{:?}", lock(&self.kept.spans), lock(&self.kept.metrics))
    }

    /// The series of a histogram in the newest report that holds it.
    #[must_use]
    pub fn histogram(&self, name: &str) -> Vec<HistogramDataPoint> {
        let reports = lock(&self.kept.metrics);
        let series = |report: &ExportMetricsServiceRequest| {
            let scopes = report.resource_metrics.iter().flat_map(|resource| &resource.scope_metrics);
            let metric = scopes.flat_map(|scope| &scope.metrics).find(|metric| metric.name == name)?;
            match &metric.data {
                Some(metric::Data::Histogram(histogram)) => Some(histogram.data_points.clone()),
                _ => None,
            }
        };
        reports.iter().rev().find_map(series).unwrap_or_default()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// An attribute as text; empty when it is absent.
#[must_use]
pub fn attribute(attributes: &[KeyValue], name: &str) -> String {
    let found = attributes.iter().find(|attribute| attribute.key == name);
    match found.and_then(|attribute| attribute.value.as_ref()?.value.as_ref()) {
        Some(any_value::Value::StringValue(text)) => text.clone(),
        Some(any_value::Value::IntValue(number)) => number.to_string(),
        _ => String::new(),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
