//! Spans and durations of one request: who is whose parent, and what is told where.

use std::time::Duration;

use bailiwick_data_plane_core::{edge::Params, operation::Seen};
use bailiwick_proto::mcp::{RequestId, read_message};
use bailiwick_runtime::metrics::Registry;
use prometheus_client::metrics::counter::Counter;
use serde_json::value::RawValue;
use tokio::sync::mpsc::Receiver;

use super::*;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

fn tracing(config: &TelemetryConfig) -> (Arc<Telemetry>, Receiver<Span>) {
    let (spans, queue) = Spans::queue(16, Counter::default());
    (Arc::new(Telemetry::new(Operations::new(), Some(spans), config)), queue)
}

fn call() -> Operation {
    let body = br#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"query_data","arguments":{"a":1}}}"#;
    let message = read_message(body).unwrap();
    let Seen { operation, .. } = Seen::of(&message, &Params::of(&message), None).unwrap();
    Operation { era: Some(Era::Modern), is_target_known: true, ..operation }
}

fn well() -> HttpReply {
    HttpReply::result(&RequestId::from(7), &RawValue::from_string("{}".to_owned()).unwrap())
}

fn seen(carried: Carried) -> Option<Seen> {
    Some(Seen { operation: call(), carried })
}

fn carried() -> Carried {
    let meta = format!(r#"{{"traceparent":"00-{TRACE}-{PARENT}-01","tracestate":"a=1","baggage":"b=2"}}"#);
    Carried::of_meta(Some(&RawValue::from_string(meta).unwrap()))
}

fn wire(headers: &[(&'static str, &str)]) -> Wire {
    let headers = headers.iter().map(|(name, value)| ((*name).parse().unwrap(), value.parse().unwrap())).collect();
    Wire::of(Version::HTTP_11, &headers)
}

fn text<'a>(span: &'a Span, wanted: &str) -> Option<&'a str> {
    span.attributes.iter().find_map(|(name, value)| match value {
        span::Value::Text(text) if *name == wanted => Some(&**text),
        _ => None,
    })
}

#[test]
fn one_call_is_one_trace_from_the_client_to_the_server() {
    let (telemetry, mut spans) = tracing(&TelemetryConfig::default());
    let served = telemetry.serve(seen(carried()), wire(&[]), Instant::now());
    let asked = served.cause().ask(call(), "https://finance.example:8443/mcp");
    let hop = asked.carry_on();
    asked.answered(Ok(&Response::Result(RawValue::from_string("{}".to_owned()).unwrap())));
    served.replied(&well());
    let (client, server) = (spans.try_recv().unwrap(), spans.try_recv().unwrap());
    let trace: [u8; 16] = hex::decode(TRACE).unwrap().try_into().unwrap();
    assert_eq!((server.own.trace_id, client.own.trace_id), (trace, trace));
    assert_eq!((server.kind, client.kind), (SpanKind::Server, SpanKind::Client));
    let parent = server.parent.unwrap();
    assert_eq!((hex::encode(parent.span_id), parent.is_remote), (PARENT.to_owned(), true));
    assert_eq!(client.parent, Some(Parent { span_id: server.own.span_id, is_remote: false }));
    let expected = format!("00-{TRACE}-{}-01", hex::encode(client.own.span_id));
    assert_eq!(hop.parent.unwrap().to_string(), expected, "the server is told of the span that asks it");
    assert_eq!((hop.state.as_deref(), hop.baggage.as_deref()), (Some("a=1"), Some("b=2")));
    assert_eq!((server.name.as_str(), client.name.as_str()), ("tools/call query_data", "tools/call query_data"));
    assert_eq!((text(&client, "server.address"), text(&server, "server.address")), (Some("finance.example"), None));
    assert!(client.attributes.contains(&("server.port", span::Value::Whole(8443))));
    assert!(server.failure.is_none() && server.began <= server.ended);
}

#[test]
fn the_http_requests_own_span_is_linked_or_is_the_parent_when_there_is_no_other() {
    let (telemetry, mut spans) = tracing(&TelemetryConfig::default());
    let header = format!("00-{TRACE}-00f067aa0ba902b7-01");
    let with_header = || wire(&[("traceparent", &header)]);
    telemetry.serve(seen(carried()), with_header(), Instant::now()).replied(&well());
    telemetry.serve(seen(Carried::default()), with_header(), Instant::now()).replied(&well());
    let (both, alone) = (spans.try_recv().unwrap(), spans.try_recv().unwrap());
    assert_eq!(hex::encode(both.parent.unwrap().span_id), PARENT);
    assert_eq!(both.links.iter().map(|link| hex::encode(link.span_id)).collect::<Vec<_>>(), ["00f067aa0ba902b7"]);
    assert_eq!((hex::encode(alone.parent.unwrap().span_id), alone.links.len()), ("00f067aa0ba902b7".to_owned(), 0));
}

#[test]
fn without_a_collector_the_clients_context_passes_as_it_came_and_durations_count() {
    let telemetry = Arc::new(Telemetry::new(Operations::new(), None, &TelemetryConfig::default()));
    let served = telemetry.serve(seen(carried()), wire(&[]), Instant::now());
    assert_eq!((served.carry_on(), served.trace_id().as_deref()), (carried(), Some(TRACE)));
    let asked = served.cause().ask(call(), "http://127.0.0.1:9/mcp");
    assert_eq!(asked.carry_on(), carried());
    asked.answered(Ok(&Response::Result(RawValue::from_string("{}".to_owned()).unwrap())));
    served.replied(&well());
    let registry = Registry::new();
    for durations in [&telemetry.operations.server, &telemetry.operations.client] {
        registry.register(&durations.prometheus_name(), durations.description(), durations.clone());
    }
    let text = registry.render();
    for word in [
        "mcp_server_operation_duration_seconds_count{mcp_method_name=\"tools/call\",gen_ai_tool_name=\"query_data\"",
        "mcp_client_operation_duration_seconds_bucket{le=\"300.0\"",
        "server_address=\"127.0.0.1\",server_port=\"9\"",
    ] {
        assert!(text.contains(word), "{word}\n{text}");
    }
}

#[test]
fn an_operation_nobody_waited_for_is_cancelled() {
    let (telemetry, mut spans) = tracing(&TelemetryConfig::default());
    drop(telemetry.serve(seen(Carried::default()), wire(&[]), Instant::now()));
    let span = spans.try_recv().unwrap();
    assert_eq!((text(&span, "error.type"), span.failure.is_some()), (Some(CANCELLED), true));
    assert!(spans.try_recv().is_err(), "an operation ends once");
}

#[test]
fn a_trace_that_is_not_sampled_is_carried_on_but_not_sent() {
    let (telemetry, mut spans) = tracing(&TelemetryConfig { sampled_thousandths: 0, ..TelemetryConfig::default() });
    let served = telemetry.serve(seen(Carried::default()), wire(&[]), Instant::now());
    assert!(served.carry_on().parent.is_some_and(|own| !own.is_sampled()));
    served.replied(&well());
    assert!(spans.try_recv().is_err());
}

#[test]
fn content_is_told_only_to_who_asked_for_it() {
    for captures in [false, true] {
        let (telemetry, mut spans) =
            tracing(&TelemetryConfig { capture_content: captures, ..TelemetryConfig::default() });
        let mut served = telemetry.serve(seen(Carried::default()), wire(&[]), Instant::now());
        let arguments = RawValue::from_string(r#"{"password":"hunter2"}"#.to_owned()).unwrap();
        served.note_content("gen_ai.tool.call.arguments", Some(&arguments));
        served.replied(&well());
        let told = format!("{:?}", spans.try_recv().unwrap()).contains("hunter2");
        assert_eq!(told, captures);
    }
}

#[test]
fn a_session_id_is_never_told() {
    let (telemetry, mut spans) = tracing(&TelemetryConfig::default());
    let sealed = "v1.c2VjcmV0LXNlc3Npb24taWQ";
    let legacy = Operation { era: Era::of_version("2025-11-25"), ..call() };
    let wire = wire(&[(header_name::SESSION_ID, sealed)]);
    let legacy = Some(Seen { operation: legacy, carried: Carried::default() });
    telemetry.serve(legacy, wire.clone(), Instant::now()).replied(&well());
    telemetry.serve(seen(Carried::default()), wire, Instant::now()).replied(&well());
    let (legacy, modern) = (spans.try_recv().unwrap(), spans.try_recv().unwrap());
    assert_eq!(text(&legacy, "mcp.session.id").map(str::len), Some(SESSION_DIGEST_BYTES * 2));
    assert!(text(&modern, "mcp.session.id").is_none() && !format!("{legacy:?}{modern:?}").contains(sealed));
}

#[test]
fn a_full_queue_delays_nobody() {
    let lost = Counter::default();
    let (spans, _queue) = Spans::queue(1, lost.clone());
    let telemetry = Arc::new(Telemetry::new(Operations::new(), Some(spans), &TelemetryConfig::default()));
    let began = Instant::now();
    for _ in 0..1_000 {
        telemetry.serve(seen(Carried::default()), wire(&[]), Instant::now()).replied(&well());
    }
    assert!(lost.get() == 999 && began.elapsed() < Duration::from_secs(5));
}
