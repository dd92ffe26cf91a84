//! Spans and durations on their way to an OpenTelemetry collector: OTLP over gRPC.
//!
//! Started once per role, if a collector is configured. Whoever ends a span hands it to [`Spans`], which never waits:
//! a full queue loses the span and counts it. One task ships spans in batches, tries again for a while when the
//! collector says that it is worth it, and gives up then; another reports durations, cumulative, so that a report that
//! is lost is made up for by the next. When the role stops, what is left is shipped within a bound. So a collector that
//! is slow, dead or never there costs a bounded queue and nothing else. Why not the OpenTelemetry SDK: it reads the
//! environment, has threads and an executor of its own, and would count what Prometheus counts a second time.
//! Deliberately absent: what is measured (the server packages), W3C contexts and sampling (`data-plane/core`).
//! Specification: OTLP 1.x over gRPC, "Failures"; W3C Trace Context for the flags.

mod messages;

use std::{
    io,
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use opentelemetry_proto::tonic::collector::{
    metrics::v1::metrics_service_client::MetricsServiceClient, trace::v1::trace_service_client::TraceServiceClient,
};
use prometheus_client::metrics::counter::Counter;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout, timeout_at},
};
use tonic::{
    Code, Status,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
};

use super::{config::TelemetryConfig, durations::Durations, span::Span};
use crate::{
    shutdown::Shutdown,
    tasks::{OnEnd, Supervisor},
};

/// Spans that wait. A span has about one KiB, and ten with arguments and results: at most some tens of MiB.
const SPANS_QUEUED_MAX: usize = 4_096;
/// Spans of one request to the collector: with arguments and results still below the 4 MiB that gRPC servers take.
const BATCH_SPANS_MAX: usize = 256;
/// How long a batch waits for company.
const BATCH_WAIT: Duration = Duration::from_secs(1);
/// Longest wait for a connection to the collector.
const CONNECT_WAIT_MAX: Duration = Duration::from_secs(3);
/// Longest wait for the collector to take a request.
const EXPORT_WAIT_MAX: Duration = Duration::from_secs(5);
/// How often a batch is offered; the pauses between grow from one second to four.
const ATTEMPTS_MAX: u32 = 4;
/// What is left may take this long when the role stops.
const LAST_WAIT_MAX: Duration = Duration::from_secs(2);

/// Who sends.
#[derive(Clone, Debug)]
pub struct Source {
    /// The instrumentation scope: the package's name.
    pub scope: &'static str,
    /// Its version.
    pub version: &'static str,
    /// `service.name` and the like.
    pub resource: Vec<(&'static str, String)>,
}

/// No exporter can be made.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The certificates cannot be read.
    #[error("`{path}` cannot be read")]
    CaFile {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No channel can be made to it.
    #[error("`{endpoint}` is no endpoint of a collector")]
    Endpoint {
        /// As configured.
        endpoint: String,
        /// Why.
        source: tonic::transport::Error,
    },
}

/// Where ended spans are handed in. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Spans {
    queue: mpsc::Sender<Span>,
    lost: Counter,
}

impl Spans {
    /// Takes a span along if there is room; never waits.
    pub fn offer(&self, span: Span) {
        if self.queue.try_send(span).is_err() {
            self.lost.inc();
        }
    }

    /// A queue that nobody ships from, for tests of what is handed in.
    #[must_use]
    pub fn queue(room: usize, lost: Counter) -> (Self, mpsc::Receiver<Span>) {
        let (queue, spans) = mpsc::channel(room);
        (Self { queue, lost }, spans)
    }
}

/// Starts shipping to the configured collector; where spans are handed in, if those are wanted. `lost` counts spans
/// that never arrived. The tasks end some seconds after `stop` at the latest.
///
/// # Errors
/// [`TelemetryError`]. A collector that cannot be reached is none.
pub async fn start(
    config: &TelemetryConfig,
    source: Source,
    durations: Vec<Durations>,
    lost: Counter,
    supervisor: &Supervisor,
    stop: &Shutdown,
) -> Result<Option<Spans>, TelemetryError> {
    let Some(endpoint) = &config.endpoint else { return Ok(None) };
    let channel = channel(endpoint, config.ca_file.as_ref()).await?;
    if config.metrics {
        let report = Reporter { channel: channel.clone(), source: source.clone(), durations, began: unix_nanos() };
        let (every, stop) = (Duration::from_millis(config.metrics_interval_ms), stop.clone());
        supervisor.spawn("telemetry-metrics", OnEnd::Finish, async move {
            bounded(&stop, report.run(every, &stop)).await;
        });
    }
    if !config.traces {
        return Ok(None);
    }
    let (spans, queue) = Spans::queue(SPANS_QUEUED_MAX, lost.clone());
    let mut shipper = Shipper { channel, source, queue, lost, is_failing: false };
    let stop = stop.clone();
    supervisor.spawn("telemetry-spans", OnEnd::Finish, async move {
        bounded(&stop, shipper.run(&stop)).await;
    });
    Ok(Some(spans))
}

/// Does the work, but not much longer than until `stop`.
async fn bounded(stop: &Shutdown, work: impl Future<Output = ()>) {
    let overdue = async {
        stop.requested().await;
        sleep(LAST_WAIT_MAX).await;
    };
    tokio::select! {
        () = work => {}
        () = overdue => tracing::info!("the collector did not take the last telemetry in time"),
    }
}

async fn channel(endpoint: &str, ca_file: Option<&PathBuf>) -> Result<Channel, TelemetryError> {
    let unfit = |source| TelemetryError::Endpoint { endpoint: endpoint.to_owned(), source };
    let mut channel = Endpoint::from_shared(endpoint.to_owned()).map_err(unfit)?.connect_timeout(CONNECT_WAIT_MAX);
    if let Some(path) = ca_file {
        let read = tokio::fs::read(path).await;
        let pem = read.map_err(|source| TelemetryError::CaFile { path: path.clone(), source })?;
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem));
        channel = channel.tls_config(tls).map_err(unfit)?;
    }
    Ok(channel.connect_lazy())
}

/// Ships spans.
#[derive(Debug)]
struct Shipper {
    channel: Channel,
    source: Source,
    queue: mpsc::Receiver<Span>,
    lost: Counter,
    /// Said once, not with every batch.
    is_failing: bool,
}

impl Shipper {
    async fn run(&mut self, stop: &Shutdown) {
        let mut batch = Vec::with_capacity(BATCH_SPANS_MAX);
        loop {
            if stop.or_stop(self.queue.recv_many(&mut batch, BATCH_SPANS_MAX)).await.is_none() {
                self.queue.close();
                self.queue.recv_many(&mut batch, BATCH_SPANS_MAX).await;
            }
            if batch.is_empty() {
                return;
            }
            stop.or_stop(self.wait_for_company(&mut batch)).await;
            self.deliver(&batch, stop).await;
            batch.clear();
        }
    }

    async fn wait_for_company(&mut self, batch: &mut Vec<Span>) {
        let until = Instant::now() + BATCH_WAIT;
        while batch.len() < BATCH_SPANS_MAX {
            let room = BATCH_SPANS_MAX - batch.len();
            match timeout_at(until, self.queue.recv_many(batch, room)).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
    }

    async fn deliver(&mut self, batch: &[Span], stop: &Shutdown) {
        let mut pause = Duration::from_secs(1);
        for attempt in 1..=ATTEMPTS_MAX {
            let request = messages::spans(&self.source, batch);
            let mut client = TraceServiceClient::new(self.channel.clone());
            let sent = timeout(EXPORT_WAIT_MAX, client.export(request)).await;
            let refused = match sent.unwrap_or_else(|_late| Err(Status::deadline_exceeded("no answer in time"))) {
                Ok(_taken) => {
                    if std::mem::take(&mut self.is_failing) {
                        tracing::info!("the collector takes spans again");
                    }
                    return;
                }
                Err(refused) => refused,
            };
            if !std::mem::replace(&mut self.is_failing, true) {
                tracing::warn!(code = %refused.code(), error = refused.message(), "the collector does not take spans");
            }
            let last = attempt == ATTEMPTS_MAX || !is_worth_another(refused.code());
            if last || stop.or_stop(sleep(pause)).await.is_none() {
                break;
            }
            pause *= 2;
        }
        self.lost.inc_by(batch.len() as u64);
    }
}

/// OTLP's list of what may pass.
const fn is_worth_another(code: Code) -> bool {
    matches!(
        code,
        Code::Cancelled
            | Code::DeadlineExceeded
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unavailable
            | Code::DataLoss
            | Code::ResourceExhausted
    )
}

/// Reports durations.
#[derive(Debug)]
struct Reporter {
    channel: Channel,
    source: Source,
    durations: Vec<Durations>,
    began: u64,
}

impl Reporter {
    async fn run(&self, every: Duration, stop: &Shutdown) {
        let mut is_failing = false;
        loop {
            let is_last = stop.or_stop(sleep(every)).await.is_none();
            if let Some(request) = messages::durations(&self.source, &self.durations, self.began, unix_nanos()) {
                let mut client = MetricsServiceClient::new(self.channel.clone());
                let sent = timeout(EXPORT_WAIT_MAX, client.export(request)).await;
                let failed = !matches!(sent, Ok(Ok(_)));
                if failed && !is_failing {
                    tracing::warn!("the collector does not take metrics");
                }
                is_failing = failed;
            }
            if is_last {
                return;
            }
        }
    }
}

fn unix_nanos() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
