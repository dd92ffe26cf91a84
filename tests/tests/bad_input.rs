//! What bad input gets from the data plane: a stable refusal, and nothing reaches the server.

#![expect(clippy::indexing_slicing, clippy::string_slice, reason = "a test that panics fails, as it should")]

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use bailiwick_tests::{
    Deployment, McpClient, SampleServer, Shape, both, eventually,
    mcp::{LEGACY, MODERN, modern_meta},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

both! {
    malformed_messages_are_refused_and_never_reach_the_server
    a_legacy_session_reads_as_strictly
    headers_that_contradict_the_body_are_refused
    unknown_methods_tools_and_sessions_are_refused
    a_session_of_another_person_is_not_accepted
    a_body_over_the_limit_is_refused
    tokens_that_are_not_good_are_refused_with_a_challenge
    an_expired_token_is_refused_at_its_second
    the_challenge_leads_to_metadata_that_names_the_issuer
}

async fn ready(shape: Shape) -> Result<(Deployment, SampleServer, McpClient)> {
    let (deployment, server) = (Deployment::start(shape).await?, SampleServer::start().await?);
    deployment.apply(&server.manifests())?;
    let token = deployment.token("finance", "retrieval")?;
    let client = McpClient::new(&deployment.mcp[0], "finance", &token);
    eventually("the token works", async || {
        client.modern("tools/list", json!({})).await.ok().filter(|answer| !answer.tools().is_empty())
    })
    .await?;
    Ok((deployment, server, client))
}

fn call(tool: &str) -> Value {
    json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call",
           "params": {"name": tool, "arguments": {"dataset": "invoices"}, "_meta": modern_meta()}})
}

const CALL_HEADERS: [(&str, &str); 3] =
    [("mcp-protocol-version", MODERN), ("mcp-method", "tools/call"), ("mcp-name", "query_data")];

async fn malformed_messages_are_refused_and_never_reach_the_server(shape: Shape) -> Result<()> {
    let (_deployment, server, client) = ready(shape).await?;
    let good = call("query_data").to_string();
    let duplicate = good.replacen("\"name\":\"query_data\"", "\"name\":\"query_data\",\"name\":\"query_data\"", 1);
    let escaped = good.replacen("\"dataset\":\"invoices\"", "\"dataset\":\"invoices\",\"d\\u0061taset\":\"q4\"", 1);
    assert!(duplicate != good && escaped != good);
    let deep = good.replacen("\"invoices\"", &format!("{}{}", "[".repeat(200), "]".repeat(200)), 1);
    let mut utf8 = good.clone().into_bytes();
    let place = good.find("invoices").context("dataset")?;
    utf8[place] = 0xff;
    let bodies: Vec<(&str, Vec<u8>, i64)> = vec![
        ("duplicate key", duplicate.into_bytes(), -32600),
        ("duplicate key once unescaped", escaped.into_bytes(), -32600),
        ("nested too deep", deep.into_bytes(), -32600),
        ("invalid UTF-8", utf8, -32700),
        ("trailing bytes", format!("{good} {{}}").into_bytes(), -32700),
        ("truncated", good.as_bytes()[..good.len() - 1].to_vec(), -32700),
        ("empty", Vec::new(), -32700),
        ("batch", format!("[{good}]").into_bytes(), -32600),
        ("null id", good.replacen("\"id\":1", "\"id\":null", 1).into_bytes(), -32600),
        ("float id", good.replacen("\"id\":1", "\"id\":1.5", 1).into_bytes(), -32600),
        ("wrong version", good.replacen("\"2.0\"", "\"1.0\"", 1).into_bytes(), -32600),
        ("no method", good.replacen("\"method\"", "\"methods\"", 1).into_bytes(), -32600),
        ("a response", br#"{"jsonrpc":"2.0","id":1,"result":{}}"#.to_vec(), -32600),
    ];
    let mut wrong = Vec::new();
    for (what, body, code) in bodies {
        let answer = client.raw(body, &CALL_HEADERS).await?;
        if (answer.status.as_u16(), answer.code()) != (400, Some(code)) {
            wrong.push(format!("{what}: {} {}", answer.status, answer.text));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(server.calls("query_data").await?, 0);
    Ok(())
}

async fn a_legacy_session_reads_as_strictly(shape: Shape) -> Result<()> {
    let (_deployment, server, mut client) = ready(shape).await?;
    client.initialize().await?;
    let session = client.session.clone().context("session")?;
    let good = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call",
                      "params": {"name": "query_data", "arguments": {"dataset": "invoices"}}})
    .to_string();
    let with_id = |id: &str| good.replacen("\"id\":1", &format!("\"id\":{id}"), 1).into_bytes();
    let bodies: Vec<(&str, Vec<u8>, i64)> = vec![
        ("two methods", good.replacen("\"method\"", "\"method\":\"ping\",\"method\"", 1).into_bytes(), -32600),
        ("two methods, one escaped", good.replacen('{', "{\"m\\u0065thod\":\"ping\",", 1).into_bytes(), -32600),
        ("two names", good.replacen("\"name\"", "\"name\":\"delete_ledger\",\"name\"", 1).into_bytes(), -32600),
        ("two ids", good.replacen("\"id\":1", "\"id\":1,\"id\":2", 1).into_bytes(), -32600),
        ("null id", with_id("null"), -32600),
        ("float id", with_id("1.0"), -32600),
        ("exponent id", with_id("1e400"), -32600),
        ("list as id", with_id("[1]"), -32600),
        ("endless id", with_id(&"9".repeat(300)), -32600),
        ("byte order mark", format!("\u{feff}{good}").into_bytes(), -32700),
        ("a comment", format!("/* */{good}").into_bytes(), -32700),
        (
            "a trailing comma",
            good.replacen("\"id\":1", "\"id\":1,", 1).replacen(",,", ",", 1).replacen('}', ",}", 1).into_bytes(),
            -32700,
        ),
        ("a lone surrogate", good.replacen("invoices", "\\ud800", 1).into_bytes(), -32700),
        ("a raw control character", good.replacen("invoices", "\u{1}", 1).into_bytes(), -32700),
        ("NaN", good.replacen("\"invoices\"", "NaN", 1).into_bytes(), -32700),
        ("UTF-16", good.encode_utf16().flat_map(u16::to_le_bytes).collect(), -32700),
        ("batch", format!("[{good}]").into_bytes(), -32600),
    ];
    let headers = [("mcp-session-id", session.as_str()), ("mcp-protocol-version", LEGACY)];
    let mut wrong = Vec::new();
    for (what, body, code) in bodies {
        let answer = client.raw(body, &headers).await?;
        // Which of the two a text is, that is no message, parsers may see differently; both refuse.
        if answer.status.as_u16() != 400 || !answer.code().is_some_and(|said| [code, -32600, -32700].contains(&said)) {
            wrong.push(format!("{what}: {} {}", answer.status, answer.text));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(server.calls("query_data").await? + server.calls("delete_ledger").await?, 0);
    // Ids that are odd and well-formed come back as they were; a method that is escaped is that method.
    for id in ["-1", "0", "9007199254740993", "\"\"", "\"💣\"", &"9".repeat(200)] {
        let answer = client.raw(with_id(id), &headers).await?;
        assert!(answer.text.contains(&format!("\"id\":{id},")), "{id}: {}", answer.text);
    }
    let escaped = good.replacen("tools/call", "tools\\u002fcall", 1);
    let answer = client.raw(escaped, &headers).await?;
    assert!(answer.body.get("result").is_some(), "{}", answer.text);
    assert_eq!(server.calls("query_data").await?, 7);
    // A header of the other era does not make it one of that era.
    let modern = [("mcp-session-id", session.as_str()), ("mcp-protocol-version", MODERN), ("mcp-method", "tools/list")];
    let answer = client.raw(good, &modern).await?;
    assert!(answer.status.as_u16() == 400 && answer.body.get("result").is_none(), "{}", answer.text);
    assert_eq!(server.calls("query_data").await?, 7);
    Ok(())
}

async fn headers_that_contradict_the_body_are_refused(shape: Shape) -> Result<()> {
    let (_deployment, server, client) = ready(shape).await?;
    let body = call("query_data").to_string();
    type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], u16, Option<i64>);
    let table: [Case<'_>; 9] = [
        ("another tool", &[("mcp-name", "delete_ledger")], 400, Some(-32020)),
        ("another method", &[("mcp-method", "tools/list")], 400, Some(-32020)),
        ("no method header", &[("mcp-method", "")], 400, Some(-32020)),
        ("no name header", &[("mcp-name", "")], 400, Some(-32020)),
        ("another version", &[("mcp-protocol-version", "2025-11-25")], 400, Some(-32020)),
        ("content type", &[("content-type", "text/plain")], 415, None),
        ("no content type", &[("content-type", "")], 415, None),
        ("accept", &[("accept", "text/html")], 406, None),
        ("foreign origin", &[("origin", "https://evil.example")], 403, None),
    ];
    for (what, headers, status, code) in table {
        let all: Vec<_> = CALL_HEADERS.iter().chain(headers).copied().collect();
        let answer = client.raw(body.clone(), &all).await?;
        assert_eq!(answer.status.as_u16(), status, "{what}: {}", answer.text);
        if code.is_some() {
            assert_eq!(answer.code(), code, "{what}: {}", answer.text);
        }
    }
    let unsupported = body.replace(MODERN, "2099-01-01");
    let answer =
        client.raw(unsupported, &[CALL_HEADERS[1], CALL_HEADERS[2], ("mcp-protocol-version", "2099-01-01")]).await?;
    assert_eq!((answer.status.as_u16(), answer.code()), (400, Some(-32022)), "{}", answer.text);
    assert!(answer.body["error"]["data"]["supported"].to_string().contains(MODERN), "{}", answer.text);
    assert_eq!(server.calls("query_data").await?, 0);
    Ok(())
}

async fn unknown_methods_tools_and_sessions_are_refused(shape: Shape) -> Result<()> {
    let (_deployment, _server, mut client) = ready(shape).await?;
    let unknown = client.modern("tools/erase", json!({})).await?;
    assert_eq!((unknown.status.as_u16(), unknown.code()), (404, Some(-32601)), "{}", unknown.text);
    let tool = client.call("no_such_tool", json!({})).await?;
    assert_eq!(tool.code(), Some(-32602), "{}", tool.text);

    client.initialize().await?;
    let unknown = client.legacy("tools/erase", json!({})).await?;
    assert_eq!(unknown.code(), Some(-32601), "{}", unknown.text);
    let session = client.session.clone().context("session")?;
    for forged in ["0".repeat(32), session.chars().rev().collect(), format!("{session}A"), "A".repeat(5000)] {
        let forging = McpClient { session: Some(forged), ..client.clone() };
        let answer = forging.legacy("tools/list", json!({})).await?;
        assert_eq!(answer.status.as_u16(), 404, "{}", answer.text);
    }
    let without = McpClient { session: None, ..client.clone() };
    assert_eq!(without.legacy("tools/list", json!({})).await?.status.as_u16(), 400);
    Ok(())
}

async fn a_session_of_another_person_is_not_accepted(shape: Shape) -> Result<()> {
    let (deployment, _server, mut jane) = ready(shape).await?;
    jane.initialize().await?;
    deployment.apply(
        "apiVersion: bailiwick/v1\nkind: User\nmetadata: {name: max@example.com}\nspec: {groups: [finance]}\n",
    )?;
    let issued = deployment.token_for("max@example.com", "coding-assistant", "finance", "retrieval", "10m")?;
    let max = McpClient { token: issued["access_token"].as_str().context("token")?.to_owned(), ..jane.clone() };
    eventually("his token works", async || {
        max.modern("tools/list", json!({})).await.ok().filter(|answer| !answer.tools().is_empty())
    })
    .await?;
    assert_eq!(max.legacy("tools/list", json!({})).await?.status.as_u16(), 404);
    assert_eq!(jane.legacy("tools/list", json!({})).await?.tools(), ["query_data"]);
    Ok(())
}

async fn a_body_over_the_limit_is_refused(shape: Shape) -> Result<()> {
    let (_deployment, server, client) = ready(shape).await?;
    let body =
        call("query_data").to_string().replacen("\"invoices\"", &format!("\"{}\"", "x".repeat(5 * 1024 * 1024)), 1);
    // The server may answer and close before it has read everything; then the client sees a broken connection.
    if let Ok(answer) = client.raw(body, &CALL_HEADERS).await {
        assert_eq!(answer.status.as_u16(), 413, "{}", answer.text);
    }
    assert_eq!(server.calls("query_data").await?, 0);
    let after = client.call("query_data", json!({"dataset": "invoices"})).await?;
    assert!(after.body.get("result").is_some(), "{}", after.text);
    Ok(())
}

async fn tokens_that_are_not_good_are_refused_with_a_challenge(shape: Shape) -> Result<()> {
    let (deployment, server, client) = ready(shape).await?;
    let parts: Vec<&str> = client.token.split('.').collect();
    let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(parts[1])?)?;
    let header: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(parts[0])?)?;
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let foreign = Ed25519KeyPair::generate()?;
    let signed = |header: &Value, claims: &Value| {
        let body = format!("{}.{}", encode(header), encode(claims));
        let signature = foreign.sign(body.as_bytes());
        format!("{body}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
    };
    let none = format!("{}.{}.", encode(&json!({"alg": "none", "typ": "at+jwt"})), parts[1]);
    let mut with_key = header.clone();
    with_key["jwk"] =
        json!({"kty": "OKP", "crv": "Ed25519", "x": URL_SAFE_NO_PAD.encode(foreign.public_key().as_ref())});
    deployment.apply(
        "apiVersion: bailiwick/v1\nkind: VirtualServer\nmetadata: {name: other}\nspec: {servers: [{server: finance}]}\n",
    )?;
    let tokens = [
        ("no token", String::new()),
        ("not a token", "hello".into()),
        ("alg none", none),
        ("truncated", client.token[..client.token.len() - 4].to_owned()),
        ("no signature", format!("{}.{}.", parts[0], parts[1])),
        ("another key", signed(&header, &claims)),
        ("another key, carried along", signed(&with_key, &claims)),
        ("for another audience", deployment.token("other", "retrieval")?),
    ];
    for (what, token) in tokens {
        let answer = McpClient { token, ..client.clone() }.call("query_data", json!({"dataset": "invoices"})).await?;
        assert_eq!(answer.status.as_u16(), 401, "{what}: {}", answer.text);
        let challenge = answer.headers.get("www-authenticate").context("no challenge")?.to_str()?;
        assert!(challenge.starts_with("Bearer ") && challenge.contains("resource_metadata="), "{what}: {challenge}");
    }
    assert_eq!(server.calls("query_data").await?, 0);
    Ok(())
}

async fn an_expired_token_is_refused_at_its_second(shape: Shape) -> Result<()> {
    let (deployment, _server, client) = ready(shape).await?;
    let issued = deployment.token_for("jane@example.com", "coding-assistant", "finance", "retrieval", "3s")?;
    let token = issued["access_token"].as_str().context("token")?.to_owned();
    let payload = token.split('.').nth(1).context("payload")?;
    let expires = serde_json::from_slice::<Value>(&URL_SAFE_NO_PAD.decode(payload)?)?["exp"].as_u64().context("exp")?;
    let short = McpClient { token, ..client };
    let answer = eventually("the token expires", async || {
        short.modern("tools/list", json!({})).await.ok().filter(|answer| answer.status.as_u16() == 401)
    })
    .await?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    assert!(now >= expires, "refused {}s early: {}", expires - now, answer.text);
    Ok(())
}

async fn the_challenge_leads_to_metadata_that_names_the_issuer(shape: Shape) -> Result<()> {
    let (_deployment, _server, client) = ready(shape).await?;
    let stranger = McpClient { token: String::new(), ..client.clone() };
    let answer = stranger.call("query_data", json!({})).await?;
    let challenge = answer.headers.get("www-authenticate").context("no challenge")?.to_str()?.to_owned();
    let url = challenge.split("resource_metadata=\"").nth(1).and_then(|rest| rest.split('"').next()).context("url")?;
    let metadata: Value = reqwest::get(url).await?.json().await?;
    assert_eq!(metadata["resource"], client.url.as_str(), "{metadata:#}");
    let issuer = metadata["authorization_servers"][0].as_str().context("issuer")?;
    let server: Value = reqwest::get(format!("{issuer}/.well-known/oauth-authorization-server")).await?.json().await?;
    assert_eq!(server["issuer"], issuer);
    let keys: Value = reqwest::get(server["jwks_uri"].as_str().context("jwks_uri")?).await?.json().await?;
    assert!(keys["keys"].as_array().is_some_and(|keys| !keys.is_empty()), "{keys:#}");
    assert!(
        keys["keys"].as_array().is_some_and(|keys| keys.iter().all(|key| key.get("d").is_none())),
        "a private key is served"
    );
    Ok(())
}
