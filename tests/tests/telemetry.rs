//! Telemetry with real processes and a real OTLP receiver: one call is one trace with the right parents, in both eras;
//! nothing secret is told; a collector that is dead harms nobody.

#![expect(clippy::indexing_slicing, reason = "a test that panics fails, as it should")]

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bailiwick_tests::{
    Collector, Deployment, McpClient, ScriptedServer, Shape,
    collector::attribute,
    deployment::as_url,
    eventually,
    mcp::{MODERN, modern_meta},
    scripted::tool,
    upstream::free_port,
};
use opentelemetry_proto::tonic::trace::v1::{Span, span::SpanKind};
use serde_json::{Value, json};

const ENDPOINT: &str = "BAILIWICK_DATA_PLANE__TELEMETRY__ENDPOINT";
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";
const SECRET: &str = "hunter2-of-an-argument";

struct World {
    deployment: Deployment,
    server: ScriptedServer,
    token: String,
}

impl World {
    async fn start(environment: &[(&str, &str)], speaks_modern: bool) -> Result<Self> {
        let deployment = Deployment::start_with(Shape::Processes, environment).await?;
        let server = ScriptedServer::start(vec![tool("read", "retrieval")]).await?;
        server.speak_modern(speaks_modern);
        deployment.apply(&server.manifests("shop", "plain"))?;
        deployment.apply(
            "apiVersion: bailiwick/v1\nkind: User\nmetadata: {name: jane@example.com}\nspec: {groups: [staff]}\n\
             ---\napiVersion: bailiwick/v1\nkind: Agent\nmetadata: {name: coding-assistant}\nspec: {owner: jane@example.com, project: p, ceiling: retrieval}\n",
        )?;
        let token = deployment.token("shop", "retrieval")?;
        let world = Self { deployment, server, token };
        eventually("the tool is there", async || {
            world.client().ok()?.modern("tools/list", json!({})).await.ok().filter(|answer| !answer.tools().is_empty())
        })
        .await?;
        Ok(world)
    }

    fn client(&self) -> Result<McpClient> {
        let mcp = self.deployment.mcp.first().context("no data plane")?;
        Ok(McpClient::new(mcp, "shop", &self.token))
    }

    /// What the first data plane tells Prometheus.
    async fn metrics(&self) -> Result<String> {
        let node = self.deployment.role("data-plane").into_iter().next().context("no data plane")?;
        let ops = as_url(node.listen["ops"].as_str().context("no ops listener")?);
        Ok(reqwest::get(format!("{ops}/metrics")).await?.text().await?)
    }

    /// The trace context the server was sent with its last call.
    fn hop(&self) -> Result<Value> {
        let seen = self.server.seen().pop().context("no call reached the server")?;
        let body: Value = serde_json::from_str(&seen.body)?;
        Ok(body["params"]["_meta"].clone())
    }
}

fn call_params() -> Value {
    json!({"name": "read", "arguments": {"password": SECRET}, "_meta": {
        "traceparent": format!("00-{TRACE}-{PARENT}-01"), "tracestate": "rojo=1", "baggage": "tenant=7",
    }})
}

fn of_kind(spans: &[Span], kind: SpanKind) -> Result<&Span> {
    spans.iter().find(|span| span.kind == i32::from(kind)).with_context(|| format!("no {kind:?} span in {spans:?}"))
}

/// Both spans of the trace, once they have arrived.
async fn both(collector: &Collector) -> Result<(Span, Span)> {
    let spans =
        eventually("both spans arrive", async || Some(collector.trace(TRACE)).filter(|spans| spans.len() >= 2)).await?;
    ensure!(spans.len() == 2, "one call makes two spans: {spans:?}");
    Ok((of_kind(&spans, SpanKind::Server)?.clone(), of_kind(&spans, SpanKind::Client)?.clone()))
}

fn check_trace(served: &Span, asked: &Span, hop: &Value, versions: (&str, &str)) -> Result<()> {
    ensure!(hex::encode(&served.parent_span_id) == PARENT, "the client's span is the parent: {served:?}");
    ensure!(asked.parent_span_id == served.span_id, "the gateway's own span is the parent: {asked:?}");
    let expected = format!("00-{TRACE}-{}-01", hex::encode(&asked.span_id));
    ensure!(hop["traceparent"] == expected, "the server is told of {expected}: {hop}");
    ensure!(hop["tracestate"] == "rojo=1" && hop["baggage"] == "tenant=7", "{hop}");
    for (span, version) in [(served, versions.0), (asked, versions.1)] {
        ensure!(span.name == "tools/call read", "{span:?}");
        let attributes = [
            ("mcp.method.name", "tools/call"),
            ("mcp.protocol.version", version),
            ("gen_ai.tool.name", "read"),
            ("gen_ai.operation.name", "execute_tool"),
            ("network.transport", "tcp"),
            ("network.protocol.name", "http"),
            ("error.type", ""),
        ];
        for (name, value) in attributes {
            ensure!(attribute(&span.attributes, name) == value, "{name} is {value}: {span:?}");
        }
        ensure!(span.start_time_unix_nano <= span.end_time_unix_nano && span.status.is_none(), "{span:?}");
    }
    ensure!(attribute(&asked.attributes, "server.address") == "127.0.0.1", "{asked:?}");
    ensure!(served.start_time_unix_nano <= asked.start_time_unix_nano, "{served:?} {asked:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_modern_call_is_one_trace_from_client_to_server_and_tells_no_secret() -> Result<()> {
    let collector = Collector::start().await?;
    let mut world = World::start(&[(ENDPOINT, collector.url())], true).await?;
    let client = world.client()?;
    let mut params = call_params();
    for (key, value) in modern_meta().as_object().into_iter().flatten() {
        params["_meta"][key] = value.clone();
    }
    let body = json!({"jsonrpc": "2.0", "id": "call-7", "method": "tools/call", "params": params});
    let headers = [("mcp-protocol-version", MODERN), ("mcp-method", "tools/call"), ("mcp-name", "read")];
    let answer = client.raw(body.to_string(), &headers).await?;
    ensure!(answer.body["result"]["structuredContent"]["password"] == SECRET, "{}", answer.text);
    let (served, asked) = both(&collector).await?;
    check_trace(&served, &asked, &world.hop()?, (MODERN, MODERN))?;
    ensure!(attribute(&served.attributes, "jsonrpc.request.id") == "call-7", "{served:?}");
    let looks = |span: &Span| span.name == "tools/list" && span.kind == i32::from(SpanKind::Client);
    let look = collector.spans().into_iter().find(looks).context("the gateway's own look at the tools is told")?;
    ensure!(look.parent_span_id.is_empty() && look.status.is_none(), "{look:?}");
    let denied = client.call("nothing-like-it", json!({"password": SECRET})).await?;
    let refused = eventually("the refusal's span arrives", async || {
        collector.spans().into_iter().find(|span| span.name == "tools/call nothing-like-it")
    })
    .await?;
    let code = denied.code().context("no error")?.to_string();
    ensure!(attribute(&refused.attributes, "error.type") == code && refused.status.is_some(), "{refused:?}");
    ensure!(attribute(&refused.attributes, "bailiwick.reason") == denied.reason(), "{refused:?}");
    let record = eventually("the call is on record", async || {
        world.deployment.audit(&["--tool", "read", "--kind", "call.outcome"]).ok()?.first().cloned()
    })
    .await?;
    ensure!(record["trace"]["trace_id"] == TRACE, "record and trace name each other: {record}");
    ensure!(record["request_id"] == attribute(&served.attributes, "bailiwick.request_id"), "{record} {served:?}");
    world.deployment.stop()?;
    let calls = collector.histogram("mcp.server.operation.duration");
    let made = calls.iter().find(|series| {
        attribute(&series.attributes, "gen_ai.tool.name") == "read"
            && attribute(&series.attributes, "error.type").is_empty()
    });
    let made = made.with_context(|| format!("no duration of the call: {calls:?}"))?;
    ensure!(made.count == 1 && made.explicit_bounds.len() == 14, "{made:?}");
    ensure!(!format!("{calls:?}").contains("nothing-like-it"), "a client makes no series: {calls:?}");
    let told = collector.everything();
    for secret in [SECRET, &world.token, "hunter2", "Bearer"] {
        ensure!(!told.contains(secret), "{secret} is told");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_legacy_call_is_one_trace_and_its_session_ids_stay_secret() -> Result<()> {
    let collector = Collector::start().await?;
    let mut world = World::start(&[(ENDPOINT, collector.url())], false).await?;
    let mut client = world.client()?;
    client.initialize().await?;
    let answer = client.legacy("tools/call", call_params()).await?;
    ensure!(answer.body.get("result").is_some(), "{}", answer.text);
    let (served, asked) = both(&collector).await?;
    check_trace(&served, &asked, &world.hop()?, ("2025-11-25", "2025-11-25"))?;
    ensure!(attribute(&served.attributes, "mcp.session.id").len() == 16, "{served:?}");
    let text = world.metrics().await?;
    for name in ["mcp_server_operation_duration_seconds", "mcp_client_operation_duration_seconds"] {
        ensure!(text.contains(&format!("{name}_bucket{{le=\"300.0\",mcp_method_name=\"tools/call\"")), "{text}");
    }
    world.deployment.stop()?;
    let (told, session) = (collector.everything(), client.session.context("no session")?);
    for secret in [SECRET, world.token.as_str(), session.as_str(), "\"s-"] {
        ensure!(!told.contains(secret), "{secret} is told");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_collector_harms_nobody() -> Result<()> {
    let nobody = format!("http://127.0.0.1:{}", free_port()?);
    let mut world = World::start(&[(ENDPOINT, &nobody)], true).await?;
    let client = world.client()?;
    for _ in 0..200 {
        let answer = client.call("read", json!({})).await?;
        ensure!(answer.body.get("result").is_some(), "{}", answer.text);
    }
    let stopping = tokio::time::Instant::now();
    world.deployment.stop()?;
    ensure!(stopping.elapsed() < Duration::from_secs(20), "the stop took {:?}", stopping.elapsed());
    ensure!(world.deployment.log().contains("the collector does not take spans"), "the log says so");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_collector_the_clients_trace_passes_through_unchanged() -> Result<()> {
    let world = World::start(&[], true).await?;
    let client = world.client()?;
    let mut params = call_params();
    for (key, value) in modern_meta().as_object().into_iter().flatten() {
        params["_meta"][key] = value.clone();
    }
    let body = json!({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params});
    let headers = [("mcp-protocol-version", MODERN), ("mcp-method", "tools/call"), ("mcp-name", "read")];
    client.raw(body.to_string(), &headers).await?;
    let hop = world.hop()?;
    ensure!(hop["traceparent"] == format!("00-{TRACE}-{PARENT}-01") && hop["tracestate"] == "rojo=1", "{hop}");
    client.modern("tools/call", json!({"name": "read", "arguments": {}})).await?;
    ensure!(world.hop()?.get("traceparent").is_none(), "nothing is made up");
    Ok(())
}
