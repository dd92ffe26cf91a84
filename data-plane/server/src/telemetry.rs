//! Spans and durations of this node: one SERVER operation per client's request, one CLIENT operation per request to a
//! server.
//!
//! `listener` and `calls` begin an [`Underway`] and end it; one that is dropped was cancelled. Every operation counts
//! in the durations; it becomes a span if a collector is configured and its trace is sampled. What a span says is
//! decided by `data_plane_core::operation`, whose child it is by `trace`; here are the clock, the random ids and what is
//! known of the connection. With traces off, a client's trace context passes through as it came.
//! Specification: open-telemetry/semantic-conventions-genai, docs/gen-ai/mcp.md.

use std::{
    sync::Arc,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::{digest, rand};
use bailiwick_data_plane_core::{
    Decision,
    edge::{Call, HttpReply},
    operation::{self, Attributes, CANCELLED, DURATION_BUCKETS, Ended, OTHER, Operation, Seen, Value},
    trace::{Carried, FreshIds, Sampling, SpanContext},
};
use bailiwick_proto::{
    Reason,
    mcp::{Era, Response, header_name, meta_key, method},
};
use bailiwick_runtime::telemetry::{
    Durations, Span, Spans, TelemetryConfig,
    otlp::Source,
    span::{self, Parent, SpanKind, SpanRef},
};
use http::{HeaderMap, Uri, Version};
use serde_json::value::RawValue;

/// Bytes of a session id's digest that stand for it: enough to tell sessions apart, and no session id.
const SESSION_DIGEST_BYTES: usize = 8;

/// The durations of this node, which Prometheus and the collector are told alike.
#[derive(Clone, Debug)]
pub(crate) struct Operations {
    pub(crate) server: Durations,
    pub(crate) client: Durations,
}

impl Operations {
    pub(crate) fn new() -> Self {
        let served = "Time from a client's MCP request to the end of its answer, in seconds";
        let asked = "Time from a request to an MCP server to the end of its answer, in seconds";
        Self {
            server: Durations::new(operation::SERVER_DURATION, served, &DURATION_BUCKETS),
            client: Durations::new(operation::CLIENT_DURATION, asked, &DURATION_BUCKETS),
        }
    }
}

/// One per node, shared by reference.
#[derive(Debug)]
pub(crate) struct Telemetry {
    operations: Operations,
    /// None: traces are off.
    spans: Option<Spans>,
    sampling: Sampling,
    captures_content: bool,
}

/// What HTTP says about a client's request beside its body.
#[derive(Clone, Debug)]
pub(crate) struct Wire {
    version: Version,
    /// The span of whoever sent the HTTP request; the message's own may be another.
    ambient: Option<SpanContext>,
    /// Stands for the session id.
    session: Option<String>,
}

/// An operation that has begun. Dropped without an end, it was cancelled.
#[derive(Debug)]
pub(crate) struct Underway {
    telemetry: Option<Arc<Telemetry>>,
    /// None once it has ended, and of what is no operation.
    operation: Option<Operation>,
    kind: SpanKind,
    started: Instant,
    carried: Carried,
    own: Option<SpanContext>,
    parent: Option<Parent>,
    link: Option<SpanContext>,
    http_version: Option<Version>,
    /// For the span and, for servers, the duration.
    server: Option<(String, Option<u16>)>,
    noted: Attributes,
}

/// Who sends this node's telemetry.
pub(crate) fn source(node: &str) -> Source {
    Source {
        scope: env!("CARGO_PKG_NAME"),
        version: env!("CARGO_PKG_VERSION"),
        resource: vec![
            ("service.name", env!("CARGO_PKG_NAME").to_owned()),
            ("service.version", env!("CARGO_PKG_VERSION").to_owned()),
            ("service.instance.id", node.to_owned()),
        ],
    }
}

impl Telemetry {
    pub(crate) fn new(operations: Operations, spans: Option<Spans>, config: &TelemetryConfig) -> Self {
        let (thousandths, follows_client) = (config.sampled_thousandths, config.follow_client_sampling);
        let sampling = Sampling { thousandths, follows_client };
        Self { operations, spans, sampling, captures_content: config.capture_content }
    }

    /// A client's request that arrived at `arrived`; what is no request begins nothing.
    pub(crate) fn serve(self: &Arc<Self>, seen: Option<Seen>, wire: Wire, arrived: Instant) -> Underway {
        let Some(Seen { operation, carried }) = seen else { return Underway::nothing(Arc::clone(self)) };
        let is_legacy = matches!(operation.era, Some(Era::Legacy(_)));
        let asked_by = carried.parent.or(wire.ambient);
        let own = self.begin(asked_by.as_ref());
        let link = wire.ambient.filter(|ambient| carried.parent.is_some_and(|parent| parent != *ambient));
        let session = wire.session.filter(|_| is_legacy).map(|session| ("mcp.session.id", Value::Text(session.into())));
        let mut served = Underway::nothing(Arc::clone(self));
        served.operation = Some(operation);
        served.started = arrived;
        served.carried = carried;
        served.own = own;
        served.parent = asked_by.map(|parent| Parent { span_id: parent.span_id, is_remote: true });
        served.link = link;
        served.http_version = Some(wire.version);
        served.noted = session.into_iter().collect();
        served
    }

    /// The cause of what no client asked for.
    pub(crate) fn own_cause(self: &Arc<Self>) -> Cause {
        Underway::nothing(Arc::clone(self)).cause()
    }

    /// A span's place, if this node traces.
    fn begin(&self, parent: Option<&SpanContext>) -> Option<SpanContext> {
        self.spans.as_ref()?;
        let (mut trace_id, mut span_id) = ([0; 16], [0; 8]);
        rand::fill(&mut trace_id).ok()?;
        rand::fill(&mut span_id).ok()?;
        Some(SpanContext::begin(parent, FreshIds { trace_id, span_id }, self.sampling))
    }
}

impl Wire {
    pub(crate) fn of(version: Version, headers: &HeaderMap) -> Self {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let [traceparent, ..] = meta_key::TRACE;
        Self {
            version,
            ambient: text(traceparent).and_then(SpanContext::parse),
            session: text(header_name::SESSION_ID).map(session_digest),
        }
    }
}

/// What made a request to a server necessary, and what goes along with it. The default tells nobody.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cause {
    telemetry: Option<Arc<Telemetry>>,
    own: Option<SpanContext>,
    carried: Carried,
}

impl Cause {
    /// A request to the server at `url`.
    pub(crate) fn ask(&self, operation: Operation, url: &str) -> Underway {
        let own = self.telemetry.as_ref().and_then(|telemetry| telemetry.begin(self.own.as_ref()));
        Underway {
            telemetry: self.telemetry.clone(),
            operation: Some(operation),
            kind: SpanKind::Client,
            started: Instant::now(),
            carried: self.carried.clone(),
            own,
            parent: self.own.map(|parent| Parent { span_id: parent.span_id, is_remote: false }),
            link: None,
            http_version: None,
            server: server_of(url),
            noted: Vec::new(),
        }
    }
}

impl Underway {
    fn nothing(telemetry: Arc<Telemetry>) -> Self {
        Self {
            telemetry: Some(telemetry),
            operation: None,
            kind: SpanKind::Server,
            started: Instant::now(),
            carried: Carried::default(),
            own: None,
            parent: None,
            link: None,
            http_version: None,
            server: None,
            noted: Vec::new(),
        }
    }

    /// As the cause of other operations.
    pub(crate) fn cause(&self) -> Cause {
        Cause { telemetry: self.telemetry.clone(), own: self.own, carried: self.carried.clone() }
    }

    /// The trace context for the next hop: this span's, or without traces what came.
    pub(crate) fn carry_on(&self) -> Carried {
        self.own.map_or_else(|| self.carried.clone(), |own| self.carried.by(own))
    }

    /// The trace's id, as records and logs name it.
    pub(crate) fn trace_id(&self) -> Option<String> {
        self.own.or(self.carried.parent).map(|context| context.trace_id_text())
    }

    /// The revision that turned out to be spoken.
    pub(crate) fn speaks(&mut self, era: Option<Era>) {
        if let Some(operation) = &mut self.operation {
            operation.era = era.or(operation.era);
        }
    }

    /// It was a call, and this was decided; the call's records are to name the trace.
    pub(crate) fn judged(&mut self, call: &mut Call, decision: &Decision) {
        if let Some(operation) = &mut self.operation {
            (operation.era, operation.is_target_known) = (Some(call.era), decision.tool().is_some());
        }
        call.trace_id = self.trace_id();
        self.takes(call);
    }

    /// What a call takes along, for operators who want to see it.
    pub(crate) fn takes(&mut self, call: &Call) {
        if call.method == method::TOOLS_CALL {
            self.note_content("gen_ai.tool.call.arguments", call.arguments.as_deref());
        }
    }

    /// One more attribute of the span; in durations it does not show.
    pub(crate) fn note(&mut self, name: &'static str, text: &str) {
        if self.is_recorded() {
            self.noted.push((name, Value::text(text)));
        }
    }

    /// An argument or result, if the operator wants those.
    fn note_content(&mut self, name: &'static str, json: Option<&RawValue>) {
        let is_wanted =
            self.is_recorded() && self.telemetry.as_ref().is_some_and(|telemetry| telemetry.captures_content);
        if let Some(json) = json.filter(|_| is_wanted) {
            self.noted.push((name, Value::content(json.get())));
        }
    }

    /// The end of a client's wish for a stream: it has begun, or was refused. How long it then lasts tells nothing.
    pub(crate) fn opened(mut self, is_open: bool) {
        self.finish(&if is_open { Ended::well() } else { Ended::without_answer(OTHER) });
    }

    /// The end of a request to a server: its answer, or why there is none.
    pub(crate) fn answered(mut self, answer: Result<&Response, Reason>) {
        let ended = match answer {
            Ok(response) => Ended::of_response(response),
            Err(reason) => Ended::without_answer(reason.as_str()),
        };
        let is_tool_call = self.operation.as_ref().is_some_and(|operation| operation.method == method::TOOLS_CALL);
        if let (Ok(Response::Result(result)), true, None) = (answer, is_tool_call, ended.failure()) {
            self.note_content("gen_ai.tool.call.result", Some(result));
        }
        self.finish(&ended);
    }

    /// The end of a client's request: this is what the client gets.
    pub(crate) fn replied(mut self, reply: &HttpReply) {
        if let Some(reason) = reply.reason {
            self.note("bailiwick.reason", reason.as_str());
        }
        self.finish(&reply.ended);
    }

    fn is_recorded(&self) -> bool {
        self.own.is_some_and(|own| own.is_sampled())
    }

    fn finish(&mut self, ended: &Ended) {
        let (Some(operation), Some(telemetry)) = (self.operation.take(), self.telemetry.clone()) else { return };
        let took = self.started.elapsed();
        let durations = match self.kind {
            SpanKind::Server => &telemetry.operations.server,
            SpanKind::Client => &telemetry.operations.client,
        };
        let mut labels = operation.labels(ended);
        labels.push(("network.transport", "tcp".into()));
        labels.push(("network.protocol.name", "http".into()));
        labels.extend(self.http_version.and_then(version_text).map(|text| ("network.protocol.version", text.into())));
        if let Some((address, port)) = &self.server {
            labels.push(("server.address", address.clone().into()));
            labels.extend(port.map(|port| ("server.port", port.to_string().into())));
        }
        durations.record(labels, took);
        let (Some(spans), Some(own)) = (&telemetry.spans, self.own) else { return };
        if !own.is_sampled() {
            return;
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let nanos = |since: std::time::Duration| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX);
        let mut attributes = operation.attributes(ended);
        attributes.append(&mut self.noted);
        let mut attributes: Vec<_> = attributes.into_iter().map(|(name, value)| (name, exported(value))).collect();
        attributes.extend(self.transport());
        spans.offer(Span {
            own: reference(&own),
            parent: self.parent,
            state: self.carried.state.clone().unwrap_or_default(),
            name: operation.span_name(),
            kind: self.kind,
            began: nanos(now.saturating_sub(took)),
            ended: nanos(now),
            attributes,
            links: self.link.iter().map(reference).collect(),
            failure: ended.failure().map(Into::into),
        });
    }

    fn transport(&self) -> Vec<(&'static str, span::Value)> {
        let text = |text: &'static str| span::Value::Text(text.into());
        let mut all = vec![("network.transport", text("tcp")), ("network.protocol.name", text("http"))];
        all.extend(self.http_version.and_then(version_text).map(|version| ("network.protocol.version", text(version))));
        if let Some((address, port)) = &self.server {
            all.push(("server.address", span::Value::Text(address.clone().into())));
            all.extend(port.map(|port| ("server.port", span::Value::Whole(port.into()))));
        }
        all
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        if self.operation.is_some() {
            self.finish(&Ended::without_answer(CANCELLED));
        }
    }
}

fn reference(context: &SpanContext) -> SpanRef {
    SpanRef { trace_id: context.trace_id, span_id: context.span_id, flags: context.flags }
}

fn exported(value: Value) -> span::Value {
    match value {
        Value::Text(text) => span::Value::Text(text),
        Value::Whole(number) => span::Value::Whole(number),
    }
}

/// As the conventions write it.
fn version_text(version: Version) -> Option<&'static str> {
    match version {
        Version::HTTP_10 => Some("1.0"),
        Version::HTTP_11 => Some("1.1"),
        Version::HTTP_2 => Some("2"),
        Version::HTTP_3 => Some("3"),
        _ => None,
    }
}

fn server_of(url: &str) -> Option<(String, Option<u16>)> {
    let uri: Uri = url.parse().ok()?;
    let host = uri.host()?.trim_matches(['[', ']']).to_owned();
    let port = uri.port_u16().or(match uri.scheme_str() {
        Some("https") => Some(443),
        Some("http") => Some(80),
        _ => None,
    });
    Some((host, port))
}

/// Tells sessions apart and is none: whoever reads traces cannot speak in a session.
fn session_digest(session: &str) -> String {
    let digest = digest::digest(&digest::SHA256, session.as_bytes());
    hex::encode(digest.as_ref().get(..SESSION_DIGEST_BYTES).unwrap_or_default())
}

#[cfg(test)]
mod tests;
