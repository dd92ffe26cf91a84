//! Spans and durations as OTLP's protobuf messages. Pure: times are arguments.

use opentelemetry_proto::tonic::{
    collector::{metrics::v1::ExportMetricsServiceRequest, trace::v1::ExportTraceServiceRequest},
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value},
    metrics::v1::{
        AggregationTemporality, Histogram, HistogramDataPoint, Metric, ResourceMetrics, ScopeMetrics, metric,
    },
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span as SpanMessage, Status, span, status},
};

use super::{
    super::{
        durations::{Durations, Labels, Series},
        span::{Span, SpanKind, SpanRef, Value},
    },
    Source,
};

/// OTLP: bits of `flags` beside the W3C ones, which say whether the parent is remote, and that this is known.
const REMOTENESS_IS_KNOWN: u32 = 0x100;
const IS_REMOTE: u32 = 0x200;

pub(super) fn spans(source: &Source, spans: &[Span]) -> ExportTraceServiceRequest {
    let spans = spans.iter().map(span_message).collect();
    let scope_spans = vec![ScopeSpans { scope: Some(scope(source)), spans, ..ScopeSpans::default() }];
    let all = ResourceSpans { resource: Some(resource(source)), scope_spans, ..ResourceSpans::default() };
    ExportTraceServiceRequest { resource_spans: vec![all] }
}

pub(super) fn durations(
    source: &Source,
    all: &[Durations],
    began: u64,
    now: u64,
) -> Option<ExportMetricsServiceRequest> {
    let metrics: Vec<Metric> = all.iter().filter_map(|one| histogram(one, began, now)).collect();
    if metrics.is_empty() {
        return None;
    }
    let scope_metrics = vec![ScopeMetrics { scope: Some(scope(source)), metrics, ..ScopeMetrics::default() }];
    let all = ResourceMetrics { resource: Some(resource(source)), scope_metrics, ..ResourceMetrics::default() };
    Some(ExportMetricsServiceRequest { resource_metrics: vec![all] })
}

fn resource(source: &Source) -> Resource {
    let attributes = source.resource.iter().map(|(name, value)| text(name, value.clone())).collect();
    Resource { attributes, ..Resource::default() }
}

fn scope(source: &Source) -> InstrumentationScope {
    InstrumentationScope {
        name: source.scope.to_owned(),
        version: source.version.to_owned(),
        ..InstrumentationScope::default()
    }
}

fn span_message(one: &Span) -> SpanMessage {
    let remoteness = match one.parent {
        Some(parent) if parent.is_remote => REMOTENESS_IS_KNOWN | IS_REMOTE,
        Some(_) | None => REMOTENESS_IS_KNOWN,
    };
    let kind = match one.kind {
        SpanKind::Server => span::SpanKind::Server,
        SpanKind::Client => span::SpanKind::Client,
    };
    let status = one
        .failure
        .as_ref()
        .map(|failure| Status { message: failure.clone().into_owned(), code: status::StatusCode::Error.into() });
    SpanMessage {
        trace_id: one.own.trace_id.to_vec(),
        span_id: one.own.span_id.to_vec(),
        trace_state: one.state.clone(),
        parent_span_id: one.parent.map(|parent| parent.span_id.to_vec()).unwrap_or_default(),
        flags: u32::from(one.own.flags) | remoteness,
        name: one.name.clone(),
        kind: kind.into(),
        start_time_unix_nano: one.began,
        end_time_unix_nano: one.ended,
        attributes: one.attributes.iter().map(|(name, value)| attribute(name, value)).collect(),
        links: one.links.iter().map(link).collect(),
        status,
        ..SpanMessage::default()
    }
}

fn link(to: &SpanRef) -> span::Link {
    span::Link {
        trace_id: to.trace_id.to_vec(),
        span_id: to.span_id.to_vec(),
        flags: u32::from(to.flags) | REMOTENESS_IS_KNOWN | IS_REMOTE,
        ..span::Link::default()
    }
}

fn histogram(durations: &Durations, began: u64, now: u64) -> Option<Metric> {
    let point = |(labels, series): (Labels, Series)| HistogramDataPoint {
        attributes: labels.into_iter().map(|(name, value)| text(name, value.into_owned())).collect(),
        start_time_unix_nano: began,
        time_unix_nano: now,
        count: series.count,
        sum: Some(series.sum),
        min: Some(series.min),
        max: Some(series.max),
        bucket_counts: series.buckets,
        explicit_bounds: durations.bounds().to_vec(),
        ..HistogramDataPoint::default()
    };
    let data_points: Vec<_> = durations.all().into_iter().map(point).collect();
    if data_points.is_empty() {
        return None;
    }
    let aggregation_temporality = AggregationTemporality::Cumulative.into();
    Some(Metric {
        name: durations.name().to_owned(),
        description: durations.description().to_owned(),
        unit: "s".to_owned(),
        data: Some(metric::Data::Histogram(Histogram { data_points, aggregation_temporality })),
        ..Metric::default()
    })
}

fn attribute(name: &str, value: &Value) -> KeyValue {
    match value {
        Value::Text(value) => text(name, value.clone().into_owned()),
        Value::Whole(number) => key_value(name, any_value::Value::IntValue(*number)),
    }
}

fn text(name: &str, value: String) -> KeyValue {
    key_value(name, any_value::Value::StringValue(value))
}

fn key_value(name: &str, value: any_value::Value) -> KeyValue {
    KeyValue { key: name.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}
