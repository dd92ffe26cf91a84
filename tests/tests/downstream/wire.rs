//! What is on the wire between the gateway and servers, to the byte.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use aws_lc_rs::digest::{SHA256, digest};
use bailiwick_tests::{
    Deployment, Events, Reply, ScriptedServer, Shape, Tap, Tapped, eventually, manifests::JANE, peers::PeerServer,
    scripted::tool,
};
use bailiwick_token::{
    TokenHash,
    binding::BindingKey,
    context::ContextError,
    proof::{self, ProofNonce, Proven},
};
use serde_json::{Value, json};

use super::{World, kid_of, until_signed_with};

const NOT_TOLD: [&str; 6] =
    ["server/discover", "initialize", "notifications/initialized", "tools/list", "prompts/list", "resources/list"];

/// A server of the test's own, listened to, and the spec of it.
async fn shop(modern: bool, more: Value) -> Result<(ScriptedServer, Tap, Value)> {
    let server = ScriptedServer::start(vec![tool("read", "retrieval"), tool("write", "destructive")]).await?;
    server.speak_modern(modern);
    let tap = Tap::before(server.url()).await?;
    let mut spec = json!({"endpoint": {"url": tap.url}});
    if let (Some(spec), Value::Object(more)) = (spec.as_object_mut(), more) {
        spec.extend(more);
    }
    Ok((server, tap, spec))
}

fn last(tap: &Tap, rpc_method: &str) -> Result<Tapped> {
    tap.of(rpc_method).pop().with_context(|| format!("no {rpc_method} came"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_says_for_whom_it_is_and_nothing_the_gateway_does_by_itself_says_anything() -> Result<()> {
    for (shape, modern) in [(Shape::Processes, true), (Shape::Embedded, false)] {
        let (_server, tap, spec) = shop(modern, json!({})).await?;
        let world = World::start(shape, &spec, &["read", "write"]).await?;
        for name in ["read", "write"] {
            let answer = world.client.call(name, json!({"n": 1.50})).await?;
            ensure!(answer.body.get("result").is_some(), "{}", answer.text);
        }
        let calls = tap.of("tools/call");
        let told = [world.told(&calls[0]).await?, world.told(&calls[1]).await?];
        ensure!((&*told[0].sub, &*told[0].agent) == ("jane@example.com", "coding-assistant"), "{told:?}");
        ensure!((told[0].tool.as_deref(), &*told[0].tier) == (Some("read"), "retrieval"), "{told:?}");
        ensure!((told[1].tool.as_deref(), &*told[1].tier) == (Some("write"), "destructive"), "{told:?}");
        ensure!(told[0].jti != told[1].jti && told[0].request_id != told[1].request_id);
        let recorded = eventually("the record", async || {
            let records = world.deployment.audit(&["--kind", "call.intent"]).ok()?;
            records.into_iter().find(|record| record["request_id"] == told[0].request_id.as_ref())
        })
        .await?;
        for (claim, member) in [
            (&told[0].consent, "consent"),
            (&told[0].session, "session"),
            (&told[0].project, "project"),
            (&told[0].client_id, "client"),
            (&told[0].binding, "binding"),
            (&told[0].server, "server"),
        ] {
            ensure!(recorded[member] == claim.as_ref(), "{member}: {recorded} {:?}", told[0]);
        }
        let policy = &told[0].decision.policies[0];
        ensure!(recorded["decision"]["policies"][0]["name"] == policy.name.as_ref(), "{recorded}");
        for rpc_method in NOT_TOLD {
            for request in tap.of(rpc_method) {
                ensure!(request.header("bailiwick-context").is_empty(), "{request:?}");
            }
        }
        ensure!(tap.of("tools/list").len() + tap.of("server/discover").len() > 1, "it was looked at");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_attempt_has_a_context_of_its_own() -> Result<()> {
    let (server, tap, spec) = shop(true, json!({"retry": {"attempts": 3, "pause": "1ms"}})).await?;
    let world = World::start(Shape::Embedded, &spec, &["read", "write"]).await?;
    server.reply_once(Reply::status(503));
    server.reply_once(Reply::status(503));
    let answer = world.client.call("read", json!({})).await?;
    ensure!(answer.body.get("result").is_some(), "{}", answer.text);
    let calls = tap.of("tools/call");
    ensure!(calls.len() == 3, "{calls:?}");
    let mut names = Vec::new();
    for call in &calls {
        let told = world.told(call).await?;
        names.push((told.jti.into_owned(), told.request_id.into_owned()));
    }
    ensure!(names[0].0 != names[1].0 && names[1].0 != names[2].0 && names[0].0 != names[2].0, "{names:?}");
    ensure!(names.iter().all(|(_, request)| *request == names[0].1), "one call: {names:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_answers_goes_with_the_context_of_the_call_that_asked() -> Result<()> {
    let (server, tap, spec) = shop(false, json!({})).await?;
    let world = World::start(Shape::Embedded, &spec, &["read", "write"]).await?;
    server.reply(Reply::Asks);
    let mut legacy = world.client.clone();
    legacy.initialize_with(json!({"elicitation": {}})).await?;
    let session = legacy.session.clone().context("no session")?;
    let call = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "read"}});
    let mut stream = Events::of(legacy.post(call.to_string()).header("mcp-session-id", &session)).await?;
    let question = stream.message().await?;
    let given = json!({"action": "accept", "content": {"name": "jane"}});
    let answer = json!({"jsonrpc": "2.0", "id": question["id"], "result": given});
    let taken = legacy.raw(answer.to_string(), &[("mcp-session-id", &session)]).await?;
    ensure!(taken.status == 202, "{taken:?}");
    stream.message().await?;
    let asked = world.told(&last(&tap, "tools/call")?).await?;
    let answers = tap.requests().into_iter().filter(|request| request.body.contains(r#""action":"accept""#));
    let answers: Vec<_> = answers.collect();
    ensure!(answers.len() == 1, "{answers:?}");
    let told = world.told(&answers[0]).await?;
    ensure!(told.request_id == asked.request_id && told.jti != asked.jti, "{told:?} {asked:?}");
    ensure!(told.method == "tools/call" && told.body != asked.body, "{told:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn prompts_resources_and_calls_over_http_and_sse_are_told_of() -> Result<()> {
    let server = PeerServer::everything_over_sse().await?;
    let tap = Tap::before(&server.url).await?;
    let deployment = Deployment::start(Shape::Embedded).await?;
    let spec = json!({"endpoint": {"url": tap.url, "transport": "sse"}});
    let reads = "permit (principal, action, resource);";
    let others = bailiwick_tests::manifests::virtual_server("shop", "plain", "shop")
        + JANE
        + &bailiwick_tests::manifests::policy("all", reads);
    deployment.apply(&(bailiwick_tests::manifests::manifest("Server", "shop", &spec.to_string()) + &others))?;
    let token = deployment.token("shop", "destructive")?;
    let client = bailiwick_tests::McpClient::new(&deployment.mcp[0], "shop", &token);
    let echo = eventually("a call", async || {
        let answer = client.call("echo", json!({"message": "hi"})).await.ok()?;
        answer.body.get("result").map(|_| ())
    });
    echo.await?;
    let issuer = super::issuer(&client).await?;
    let world = World { deployment, client, audience: tap.url.clone(), issuer };
    let call = last(&tap, "tools/call")?;
    ensure!(!call.target.ends_with("/sse"), "to the address that the server named: {}", call.target);
    ensure!(world.told(&call).await?.tool.as_deref() == Some("echo"));
    let prompt = world.client.modern("prompts/get", json!({"name": "simple-prompt"})).await?;
    ensure!(prompt.body.get("result").is_some(), "{}", prompt.text);
    let told = world.told(&last(&tap, "prompts/get")?).await?;
    ensure!((told.prompt.as_deref(), &*told.method) == (Some("simple-prompt"), "prompts/get"), "{told:?}");
    for rpc_method in NOT_TOLD {
        for request in tap.of(rpc_method) {
            ensure!(request.header("bailiwick-context").is_empty(), "{request:?}");
        }
    }
    ensure!(tap.requests().iter().filter(|request| request.method == "GET").count() > 0, "the stream");
    Ok(())
}

fn document() -> Value {
    let text = json!({"type": "string"});
    let header =
        |name: &str, required: bool| json!({"name": name, "in": "header", "required": required, "schema": text});
    let query = json!({"name": "q", "in": "query", "schema": text});
    let ours = ["Bailiwick-Context", "bailiwick-proof", "Authorization", "DPoP", "Cookie"];
    let smuggled: Vec<Value> = ours.iter().map(|name| header(name, false)).chain([query]).collect();
    let body = json!({"content": {"application/json": {"schema": {"type": "object"}}}});
    json!({
        "openapi": "3.1.0",
        "info": {"title": "Shop", "version": "1"},
        "paths": {"/items": {
            "get": {"operationId": "find", "parameters": smuggled},
            "post": {"operationId": "add", "requestBody": body},
            "delete": {"operationId": "clear", "parameters": [header("Bailiwick-Context", true)]},
        }},
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_to_apis_are_told_of_with_their_query_and_their_body() -> Result<()> {
    let server = ScriptedServer::start(vec![]).await?;
    let tap = Tap::before(&server.url().replace("/mcp", "/v1")).await?;
    let spec = json!({"endpoint": {"url": tap.url, "openapi": {"document": document().to_string()}}});
    let world = World::start(Shape::Embedded, &spec, &["add", "find"]).await?;
    world.client.call("find", json!({"q": "a b&c", "Bailiwick-Context": "mine", "Cookie": "mine"})).await?;
    world.client.call("add", json!({"body": {"n": 1}})).await?;
    world.client.call("find", json!({"q": "a b&c"})).await?;
    let requests = tap.requests();
    for request in &requests {
        let told = world.told(request).await?;
        ensure!(told.htm == request.method, "{told:?}");
        for name in ["cookie", "dpop", "authorization", "bailiwick-proof"] {
            ensure!(request.header(name).is_empty(), "{request:?}");
        }
    }
    let find = requests.iter().find(|request| request.method == "GET").context("GET")?;
    ensure!(find.target.contains("/items?q=a"), "{}", find.target);
    let moved = Tapped { target: find.target.replace("q=a", "q=b"), ..find.clone() };
    ensure!(world.judged(&moved, &world.audience).await? == Err(ContextError::Request), "another query");
    ensure!(requests.iter().any(|request| request.method == "POST" && request.body == r#"{"n":1}"#), "{requests:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_not_to_know_is_told_nothing() -> Result<()> {
    let (_server, tap, spec) = shop(true, json!({"context": false})).await?;
    let world = World::start(Shape::Embedded, &spec, &["read", "write"]).await?;
    world.client.call("read", json!({})).await?;
    let call = last(&tap, "tools/call")?;
    ensure!(call.header("bailiwick-context").is_empty(), "{call:?}");
    let sent = tap.bytes().concat();
    for said in ["jane@example.com", "coding-assistant"] {
        ensure!(!contains(&sent, said.as_bytes()), "{said} is on the wire");
    }
    Ok(())
}

fn contains(all: &[u8], part: &[u8]) -> bool {
    all.windows(part.len()).any(|window| window == part)
}

/// The claims of a request's context, as JSON.
fn payload_of(request: &Tapped) -> Option<Vec<u8>> {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
    URL_SAFE_NO_PAD.decode(request.header("bailiwick-context").first()?.split('.').nth(1)?).ok()
}

/// A person's token that is bound, and the key.
fn bound(deployment: &Deployment) -> Result<(String, BindingKey, String)> {
    let issue = ["token", "issue", "--user", "jane@example.com", "--agent", "coding-assistant"];
    let more = ["--virtual-server", "shop", "--level", "destructive", "--bind", "-o", "json"];
    let issued: Value = serde_json::from_str(&deployment.cli_ok(&[&issue[..], &more].concat())?)?;
    let text = |member: &str| issued[member].as_str().map(str::to_owned).with_context(|| format!("{member}: {issued}"));
    let key = text("binding_key")?;
    Ok((text("access_token")?, BindingKey::from_base64url(&key).context("key")?, key))
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_the_callers_token_nor_anything_that_a_client_sends_beside_its_call_travels_on() -> Result<()> {
    for modern in [true, false] {
        let (_server, tap, spec) = shop(modern, json!({})).await?;
        let world = World::start(Shape::Processes, &spec, &["read", "write"]).await?;
        let (token, key, key_text) = bound(&world.deployment)?;
        let client = bailiwick_tests::McpClient { token: token.clone(), ..world.client.clone() };
        let request = client.modern_request(json!({}), "tools/call", json!({"name": "read", "arguments": {}}));
        let body = request.try_clone().context("body")?.build()?;
        let body = body.body().and_then(|body| body.as_bytes()).context("body")?.to_vec();
        let hash = TokenHash::of(&token);
        let digest = digest(&SHA256, &body).as_ref().try_into()?;
        let proven = Proven { token: &hash, method: "POST", path: "/mcp/shop", body: &digest };
        let millis = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?;
        let nonce: ProofNonce = [7; 12];
        let proof = proof::prove(&key, &proven, millis, nonce).context("proof")?.to_string();
        let smuggled = [
            ("bailiwick-proof", proof.as_str()),
            ("bailiwick-context", "eyJhbGciOiJub25lIn0.c211Z2dsZWQtY29udGV4dA."),
            ("bailiwick-other", "smuggled-other"),
            ("cookie", "session=smuggled-cookie"),
            ("x-forwarded-for", "203.0.113.77"),
            ("forwarded", "for=203.0.113.78"),
            ("mcp-session-id", "smuggled-session"),
            ("user-agent", "smuggled-agent"),
        ];
        let request = smuggled.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let answer = bailiwick_tests::Answer::to(request).await?;
        ensure!(answer.body.get("result").is_some(), "{}", answer.text);
        // Beside such a token this is refused; beside others it is nothing to the gateway.
        let request = world.client.modern_request(json!({}), "tools/call", json!({"name": "read", "arguments": {}}));
        bailiwick_tests::Answer::to(request.header("dpop", "smuggled-dpop")).await?;
        ensure!(!contains(&tap.bytes().concat(), b"smuggled-dpop"), "a client's proof travels on");

        let calls = tap.of("tools/call");
        let call = &calls[0];
        let told = world.told(call).await?;
        ensure!(told.binding == "bound", "{told:?}");
        // What the server is told is read as well.
        let payloads = tap.requests().into_iter().flat_map(|request| payload_of(&request)).flatten();
        let sent: Vec<u8> = tap.bytes().into_iter().flatten().chain(payloads).collect();
        ensure!(contains(&sent, b"jane@example.com"), "a context was read");
        let parts = token.split('.').chain([token.as_str(), key_text.as_str()]);
        let proof_parts = proof.split('.').skip(2).chain([proof.as_str()]);
        for secret in parts.chain(proof_parts) {
            ensure!(secret.len() > 10 && !contains(&sent, secret.as_bytes()), "part of a secret is on the wire");
        }
        for (name, value) in smuggled {
            ensure!(!contains(&sent, value.as_bytes()), "{name} travels on: {call:?}");
        }
        ensure!(call.header("authorization").is_empty() && call.header("bailiwick-proof").is_empty(), "{call:?}");
        // What is told is another thing: nobody takes it for a token.
        let replayed = bailiwick_tests::McpClient { token: call.header("bailiwick-context")[0].to_owned(), ..client };
        let refused = replayed.call("read", json!({})).await?;
        ensure!(refused.status == 401, "{refused:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_key_verifies_on_and_one_replaced_at_once_does_not() -> Result<()> {
    let (_server, tap, spec) = shop(true, json!({})).await?;
    let world = World::start(Shape::Processes, &spec, &["read", "write"]).await?;
    world.client.call("read", json!({})).await?;
    let before = last(&tap, "tools/call")?;
    let first = kid_of(&before).context("kid")?;
    ensure!(world.key_ids().await? == [first.clone()], "{first}");

    let rotate = ["keys", "rotate", "context-signing", "--reason", "yearly", "-o", "json"];
    let rotated: Value = serde_json::from_str(&world.deployment.cli_ok(&rotate)?)?;
    let second = rotated["id"].as_str().context("id")?.to_owned();
    ensure!(rotated["kept"][0]["id"] == first.as_str() && second != first, "{rotated}");
    ensure!(world.key_ids().await? == [second.clone(), first.clone()]);
    world.told(&before).await?;
    until_signed_with(&world, &second, || last(&tap, "tools/call").ok()).await?;
    world.told(&last(&tap, "tools/call")?).await?;

    let rotated: Value = serde_json::from_str(&world.deployment.cli_ok(&[&rotate[..], &["--at-once"]].concat())?)?;
    let third = rotated["id"].as_str().context("id")?.to_owned();
    ensure!(rotated["kept"].as_array().is_some_and(Vec::is_empty), "{rotated}");
    ensure!(world.key_ids().await? == std::slice::from_ref(&third));
    ensure!(world.judged(&before, &world.audience).await? == Err(ContextError::Signature), "it counts no more");
    until_signed_with(&world, &third, || last(&tap, "tools/call").ok()).await?;
    let listed: Value = serde_json::from_str(&world.deployment.cli_ok(&["keys", "list", "-o", "json"])?)?;
    ensure!(listed.to_string().contains(&third) && !listed.to_string().contains(&first), "{listed}");
    Ok(())
}
