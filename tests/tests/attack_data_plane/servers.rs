//! Hostile, careless and restarting servers: what they say becomes an answer or a named refusal, never more.

use anyhow::{Context, Result, ensure};
use bailiwick_tests::{Reply, ScriptedServer, eventually, scripted::tool};
use serde_json::{Value, json};

use super::World;

#[tokio::test(flavor = "multi_thread")]
async fn tools_with_odd_names_get_safe_ones_and_are_called_by_their_own() -> Result<()> {
    let (long, longer) = ("x".repeat(128), format!("{}y", "x".repeat(127)));
    let names = ["read", "a.b", "a/b", "a b", "münzen", "🎉", "q\"uote", "../../x", "<script>", "a__b", &long, &longer];
    let tools = names.iter().map(|name| tool(name, "retrieval")).collect();
    let world = World::start_with(tools, "prefixed", &[]).await?;
    let listed = eventually("all are pinned", async || {
        let listed = world.client.modern("tools/list", json!({})).await.ok()?.tools();
        (listed.len() == names.len()).then_some(listed)
    })
    .await?;
    let safe =
        |name: &String| name.len() <= 64 && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'));
    ensure!(listed.iter().all(safe), "{listed:?}");
    let mut called = Vec::new();
    for name in &listed {
        let answer = world.client.call(name, json!({})).await?;
        ensure!(answer.body.get("result").is_some(), "{name}: {}", answer.text);
        let seen: Value = serde_json::from_str(&world.server.seen().pop().context("not called")?.body)?;
        called.push(seen["params"]["name"].as_str().context("name")?.to_owned());
    }
    called.sort();
    let mut expected = names.map(str::to_owned);
    expected.sort();
    ensure!(called == expected, "{called:?}");
    for (own, ..) in [("a.b", ()), ("read", ()), ("shop__a.b", ())] {
        ensure!(world.client.call(own, json!({})).await?.code() == Some(-32602), "{own} is callable by its own name");
    }
    Ok(())
}

/// What a server says, and the reason its caller gets. Redirects lead to `away`.
fn hostile_answers(away: &'static str) -> Vec<(&'static str, Reply, &'static str)> {
    let json = "application/json";
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(100), "]".repeat(100));
    let redirect = |status| Reply::Http { status, headers: vec![("location", away)], body: Vec::new() };
    vec![
        ("repeated key", Reply::ok(json, answer(r#"{"a":{"b":1,"\u0062":2}}"#)), "upstream_invalid"),
        ("NaN", Reply::ok(json, answer(r#"{"a":NaN}"#)), "upstream_invalid"),
        ("infinite number", Reply::ok(json, answer(r#"{"a":1e999}"#)), "upstream_invalid"),
        ("deep", Reply::ok(json, answer(&deep)), "upstream_invalid"),
        (
            "result and error",
            Reply::ok(json, r#"{"jsonrpc":"2.0","id":$ID,"result":{},"error":{"code":1,"message":""}}"#),
            "upstream_invalid",
        ),
        ("result is a list", Reply::ok(json, answer("[]")), "upstream_invalid"),
        ("unknown result type", Reply::ok(json, answer(r#"{"resultType":"input_required"}"#)), "upstream_invalid"),
        ("batch", Reply::ok(json, format!("[{}]", answer("{}"))), "upstream_invalid"),
        (
            "not UTF-8",
            Reply::ok(json, b"{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"a\":\"\xff\"}}".to_vec()),
            "upstream_invalid",
        ),
        ("byte order mark", Reply::ok(json, format!("\u{feff}{}", answer("{}"))), "upstream_invalid"),
        ("HTML", Reply::ok("text/html", "<html>"), "upstream_invalid"),
        ("empty", Reply::ok(json, ""), "upstream_invalid"),
        ("202 and nothing", Reply::status(202), "upstream_invalid"),
        ("204", Reply::status(204), "upstream_invalid"),
        (
            "compressed",
            Reply::Http {
                status: 200,
                headers: vec![("content-type", json), ("content-encoding", "gzip")],
                body: vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3],
            },
            "upstream_invalid",
        ),
        ("stream of comments", Reply::ok("text/event-stream", ": a\n\n:b\n\n"), "upstream_invalid"),
        (
            "stream of another id",
            Reply::ok("text/event-stream", "data: {\"jsonrpc\":\"2.0\",\"id\":\"x\",\"result\":{}}\n\n"),
            "upstream_invalid",
        ),
        ("401", Reply::status(401), "upstream_refused"),
        ("403", Reply::status(403), "upstream_refused"),
        ("429", Reply::status(429), "upstream_refused"),
        ("500", Reply::status(500), "upstream_refused"),
        (
            "500 with a result",
            Reply::Http { status: 500, headers: vec![("content-type", json)], body: answer("{}").into() },
            "upstream_refused",
        ),
        ("302", redirect(302), "upstream_refused"),
        ("307", redirect(307), "upstream_refused"),
        ("308", redirect(308), "upstream_refused"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_of_hostile_servers_become_refusals_and_the_next_call_works() -> Result<()> {
    let world = World::start(vec![tool("read", "retrieval")]).await?;
    let elsewhere = ScriptedServer::start(Vec::new()).await?;
    let away: &'static str = Box::leak(elsewhere.url().to_owned().into_boxed_str());
    let mut wrong = Vec::new();
    for (what, reply, reason) in hostile_answers(away) {
        world.server.reply_once(reply);
        let answer = world.client.call("read", json!({})).await?;
        if answer.reason() != reason {
            wrong.push(format!("{what}: not {reason}: {}", answer.text));
        }
        world.read().await.with_context(|| format!("after {what}"))?;
    }
    ensure!(wrong.is_empty(), "{wrong:#?}");
    ensure!(elsewhere.seen().is_empty() && elsewhere.sessions_opened() == 0, "a redirect was followed");
    let refused = r#"{"jsonrpc":"2.0","id":$ID,"error":{"code":-32000,"message":"no money","data":{"n":1.0}}}"#;
    world.server.reply_once(Reply::ok("application/json", refused));
    let answer = world.client.call("read", json!({})).await?;
    ensure!(answer.code() == Some(-32000) && answer.text.contains(r#""data":{"n":1.0}"#), "{}", answer.text);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn results_pass_unchanged_however_they_are_framed() -> Result<()> {
    let world = World::start(vec![tool("read", "retrieval")]).await?;
    let result = r#"{"content":[],"structuredContent":{"big":123456789012345678901234567890,"one":1.0,"small":-0.0,"e":1E5,"text":"\u00e9\ud83d\ude00\/"},"isError":false}"#;
    let whole = answer(result);
    let (start, end) = whole.split_once("\"result\"").context("result")?;
    let progress = r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1,"progress":1}}"#;
    let stream = "text/event-stream";
    let framings = [
        ("JSON", Reply::ok("application/json; charset=utf-8", whole.clone())),
        ("JSON in capitals", Reply::ok("Application/JSON", format!("\r\n{whole}\n "))),
        ("LF", Reply::ok(stream, format!("data: {whole}\n\n"))),
        ("CRLF", Reply::ok(stream, format!("event: message\r\nid: 1\r\ndata:{whole}\r\n\r\n"))),
        ("CR", Reply::ok(stream, format!("retry: 1\rdata: {whole}\r\r"))),
        ("byte order mark", Reply::ok(stream, format!("\u{feff}data: {whole}\n\n"))),
        ("several lines", Reply::ok(stream, format!("data: {start}\ndata: \"result\"{end}\n\n"))),
        (
            "comments and noise",
            Reply::ok(
                stream,
                format!(": hi\n\ndata: {progress}\n\nfoo: bar\n\ndata:\n\ndata: {whole}\n\ndata: {{}}\n\n"),
            ),
        ),
        ("parameters of the type", Reply::ok("text/event-stream;charset=utf-8", format!("data: {whole}\n\n"))),
    ];
    for (what, reply) in framings {
        world.server.reply_once(reply);
        let answer = world.client.call("read", json!({})).await?;
        let rest = result.strip_prefix('{').context("object")?;
        ensure!(answer.text.contains(rest), "{what}: {}", answer.text);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_restart_or_change_era_are_met_again_without_their_clients() -> Result<()> {
    let world = World::start(vec![tool("read", "retrieval")]).await?;
    world.read().await?;
    let opened = world.server.sessions_opened();
    for turn in 1..=3 {
        world.server.forget_sessions();
        world.read().await.with_context(|| format!("restart {turn}"))?;
        ensure!(world.server.sessions_opened() == opened + turn, "no new session was opened");
    }
    for modern in [true, false, true] {
        let before = world.server.seen().len();
        world.server.speak_modern(modern);
        // The first call may be lost to what was remembered; it must not run twice.
        let first = world.client.call("read", json!({})).await?;
        ensure!(world.server.seen().len() <= before + 1, "a call ran twice");
        ensure!(first.body.get("result").is_some() || !first.reason().is_empty() || first.code().is_some());
        world.read().await.with_context(|| format!("modern: {modern}"))?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_cancels_its_call_and_the_outcome_is_on_record() -> Result<()> {
    let world = World::start(vec![tool("read", "retrieval")]).await?;
    world.server.reply(Reply::Held);
    let client = world.client.clone();
    let call = tokio::spawn(async move { client.call("read", json!({})).await });
    eventually("the call is under way", async || (world.server.underway() == 1).then_some(())).await?;
    call.abort();
    drop(call.await);
    eventually("the server sees it end", async || (world.server.abandoned() == 1).then_some(())).await?;
    let outcome = eventually("the outcome is on record", async || {
        world.deployment.audit(&["--kind", "call.outcome"]).ok()?.into_iter().next()
    })
    .await?;
    ensure!(
        outcome["outcome"]["status"] == "unknown" && outcome["outcome"]["error_code"] == "cancelled",
        "{outcome:#}"
    );
    world.server.release();
    world.read().await.map(drop)
}

/// The words of an answer with this result.
pub(super) fn answer(result: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":$ID,"result":{result}}}"#)
}
