//! Hostile clients: lengths with two readings, floods, stray methods and paths, odd spellings, tokens out of place.

use anyhow::{Context, Result, ensure};
use bailiwick_tests::{Deployment, ScriptedServer, Shape, eventually, scripted::tool};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::{ANSWER_WAIT_MAX, CALL_HEADERS, JANE, World, call_body, client, people};

#[tokio::test(flavor = "multi_thread")]
async fn requests_with_two_readings_of_their_length_are_not_served() -> Result<()> {
    let world = World::start(vec![tool("read", "retrieval")]).await?;
    let (head, body) = (world.head()?, call_body(&json!({})));
    let (length, chunked) = (body.len(), format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len()));
    let good = format!("{head}connection: close\r\ncontent-length: {length}\r\n\r\n{body}");
    ensure!(world.send(good.as_bytes()).await?.starts_with("HTTP/1.1 200"));
    let good = format!("{head}connection: close\r\ntransfer-encoding: chunked\r\n\r\n{chunked}");
    ensure!(world.send(good.as_bytes()).await?.starts_with("HTTP/1.1 200"));
    let served = world.server.seen().len();
    let inner = format!("{head}content-length: {length}\r\n\r\n{body}");
    let lengths = [
        ("both", format!("content-length: {}\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{inner}", inner.len() + 5)),
        ("both, other order", format!("transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n{inner}")),
        ("two lengths", format!("content-length: {length}\r\ncontent-length: 1\r\n\r\n{body}")),
        ("a list of lengths", format!("content-length: {length}, 1\r\n\r\n{body}")),
        ("a signed length", format!("content-length: +{length}\r\n\r\n{body}")),
        ("a hexadecimal length", format!("content-length: 0x{length:x}\r\n\r\n{body}")),
        ("an unknown coding", format!("transfer-encoding: xchunked\r\n\r\n{chunked}")),
        ("chunked not last", format!("transfer-encoding: chunked, identity\r\n\r\n{chunked}")),
        (
            "chunked in a second header",
            format!("transfer-encoding: identity\r\ntransfer-encoding: xchunked\r\n\r\n{chunked}"),
        ),
        ("a space before the colon", format!("transfer-encoding : chunked\r\n\r\n{chunked}")),
        ("a folded header", format!("x: a\r\n content-length: {length}\r\n\r\n{body}")),
        ("a zero byte", format!("x: a\0b\r\ncontent-length: {length}\r\n\r\n{body}")),
        ("a chunk of signed length", format!("transfer-encoding: chunked\r\n\r\n+{chunked}")),
        ("a chunk too long to count", format!("transfer-encoding: chunked\r\n\r\n1{}\r\n{body}", "0".repeat(16))),
        ("a chunk that lies", format!("transfer-encoding: chunked\r\n\r\n5\r\n{body}\r\n0\r\n\r\n")),
        ("HTTP/1.0 with chunks", format!("transfer-encoding: chunked\r\n\r\n{chunked}")),
    ];
    let mut wrong = Vec::new();
    for (what, rest) in lengths {
        let head = if what.starts_with("HTTP/1.0") { head.replace("HTTP/1.1", "HTTP/1.0") } else { head.clone() };
        let answer = world.send(format!("{head}{rest}").as_bytes()).await?;
        let answers = answer.matches("HTTP/1.").count();
        if !answer.starts_with("HTTP/1.1 400") && !answer.starts_with("HTTP/1.0 400") || answers != 1 {
            wrong.push(format!("{what}: {answers} answers: {answer:.400}"));
        }
    }
    ensure!(wrong.is_empty(), "{wrong:#?}");
    ensure!(world.server.seen().len() == served, "an ambiguous request was served");
    // RFC 9112 §6.1: the chunks count, and nothing else is read from this connection.
    let both = format!("{head}transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n{chunked}{inner}");
    let answer = world.send(both.as_bytes()).await?;
    ensure!(answer.matches("HTTP/1.").count() == 1 && answer.contains("connection: close"), "{answer}");
    world.read().await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_of_headers_and_half_requests_leave_the_gateway_serving() -> Result<()> {
    let world = World::start(vec![tool("read", "retrieval")]).await?;
    let head = world.head()?;
    let floods = [
        ("ten thousand headers", format!("{head}{}\r\n", "x: y\r\n".repeat(10_000))),
        ("one endless header", format!("{head}x: {}\r\n\r\n", "y".repeat(4 * 1024 * 1024))),
        ("an endless path", format!("POST /mcp/{} HTTP/1.1\r\n\r\n", "a".repeat(1024 * 1024))),
        (
            "an endless token",
            format!("{}content-length: 0\r\n\r\n", head.replace(&world.client.token, &"a".repeat(300_000))),
        ),
    ];
    for (what, flood) in floods {
        let answer = world.send(flood.as_bytes()).await?;
        // The connection may break while the flood is still being written; then there is nothing to read.
        let status = answer.get(9..12).unwrap_or("cut");
        ensure!(["400", "401", "414", "431", "cut"].contains(&status), "{what}: {answer:.200}");
    }
    let authority = world.place()?.0.to_owned();
    let mut stalled = Vec::new();
    for index in 0..300 {
        let mut connection = TcpStream::connect(&authority).await?;
        let start = head.get(..index.min(head.len())).unwrap_or_default();
        connection.write_all(start.as_bytes()).await?;
        stalled.push(connection);
    }
    world.read().await?;
    let upgrade = format!(
        "{head}connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\ncontent-length: 2\r\n\r\n{{}}"
    );
    let mut connection = TcpStream::connect(&authority).await?;
    connection.write_all(upgrade.as_bytes()).await?;
    let mut status = [0; 12];
    timeout(ANSWER_WAIT_MAX, connection.read_exact(&mut status)).await??;
    ensure!(&status == b"HTTP/1.1 400", "h2c: {}", String::from_utf8_lossy(&status));
    drop(stalled);
    world.read().await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelined_requests_are_answered_in_their_order() -> Result<()> {
    let world = World::start(vec![tool("read", "retrieval")]).await?;
    let head = world.head()?;
    let mut pipeline = String::new();
    for index in 0..20 {
        let body = call_body(&json!({"turn": format!("turn-{index}-")}));
        let close = if index == 19 { "connection: close\r\n" } else { "" };
        pipeline.push_str(&format!("{head}{close}content-length: {}\r\n\r\n{body}", body.len()));
    }
    let answers = world.send(pipeline.as_bytes()).await?;
    let turns: Vec<_> = (0..20).map(|index| answers.find(&format!("turn-{index}-"))).collect();
    ensure!(turns.iter().all(Option::is_some) && turns.is_sorted(), "{turns:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn other_methods_paths_and_names_are_nothing() -> Result<()> {
    let world = World::start(vec![tool("read", "retrieval")]).await?;
    let path = world.place()?.1;
    let good = world.head()?.replace("POST ", "").replace(&format!("{path} HTTP/1.1\r\n"), "");
    let body = call_body(&json!({}));
    let rest = format!("{good}connection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let long = format!("POST /mcp/{}", "a".repeat(40_000));
    let wide = format!("POST /mcp/{}", "%F0%9F%92%A3".repeat(3_000));
    let absolute = format!("POST http://evil.example{path}");
    let requests = [
        ("GET /mcp/shop", "405"),
        ("PUT /mcp/shop", "405"),
        ("DELETE /mcp/shop", "405"),
        ("PATCH /mcp/shop", "405"),
        ("HEAD /mcp/shop", "405"),
        ("OPTIONS /mcp/shop", "405"),
        ("TRACE /mcp/shop", "405"),
        ("BREW /mcp/shop", "405"),
        ("post /mcp/shop", "405"),
        ("POST /", "404"),
        ("POST /mcp", "404"),
        ("POST /mcp/", "404"),
        ("POST /mcp/shop/", "404"),
        ("POST /mcp/shop/x", "404"),
        ("POST //mcp/shop", "404"),
        ("POST /MCP/shop", "404"),
        ("POST /mcp/./shop", "404"),
        ("POST /mcp/../mcp/shop", "404"),
        ("POST /mcp/shop%2F", "401"),
        ("POST /mcp/shop%00", "401"),
        ("POST /mcp/%2e%2e%2fshop", "401"),
        ("POST /mcp/SHOP", "401"),
        ("POST /mcp/shop%0d%0ax:y", "401"),
        ("POST /mcp/%22,error=%22", "401"),
        ("POST /mcp/%ff", "400"),
        ("POST /mcp/shop;a=b", "401"),
        ("POST /mcp/other", "401"),
        (long.as_str(), "401"),
        (wide.as_str(), "401"),
        (absolute.as_str(), "403"),
        ("POST *", "404"),
    ];
    let mut wrong = Vec::new();
    for (line, status) in requests {
        let answer = world.send(format!("{line} HTTP/1.1\r\n{rest}").as_bytes()).await?;
        if answer.get(9..12) != Some(status) {
            wrong.push(format!("{line:.60}: not {status}: {answer:.300}"));
        }
    }
    ensure!(wrong.is_empty(), "{wrong:#?}");
    ensure!(world.server.seen().is_empty(), "a request for something else reached the server");
    let denials = eventually("the refusals of an authentic token are on record", async || {
        let found = world.deployment.audit(&["--kind", "call.denied", "--user", JANE]).ok()?;
        found.iter().any(|record| record["virtual_server"] == "a".repeat(32)).then_some(found)
    })
    .await?;
    ensure!(denials.iter().all(|record| record["decision"]["reason"] == "token_audience"), "{denials:#?}");
    // The same name in other letters of the URL is the same name; a query is nobody's business.
    for line in ["POST /mcp/%73hop", "POST /mcp/shop?access_token=x"] {
        let answer = world.send(format!("{line} HTTP/1.1\r\n{rest}").as_bytes()).await?;
        ensure!(answer.starts_with("HTTP/1.1 200"), "{line}: {answer}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_hosts_and_origins_are_turned_away_however_they_are_written() -> Result<()> {
    let world = World::start(vec![tool("read", "retrieval")]).await?;
    let (authority, path) = world.place()?;
    let good = world.head()?.replace("POST ", "").replace(&format!("{path} HTTP/1.1\r\n"), "");
    let body = call_body(&json!({}));
    let rest = format!("{good}connection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    for (host, status) in
        [("evil.example", "403"), ("127.0.0.1.evil.example", "403"), ("localhost", "200"), ("", "403")]
    {
        let rest = rest.replacen(&format!("host: {authority}"), &format!("host: {host}"), 1);
        let answer = world.send(format!("POST {path} HTTP/1.1\r\n{rest}").as_bytes()).await?;
        ensure!(answer.get(9..12) == Some(status), "{host}: {answer}");
    }
    for origin in
        ["null", "http://127.0.0.1.evil.example", "http://localhost@evil.example", "http://evil.example/localhost", ""]
    {
        let answer = world.send(format!("POST {path} HTTP/1.1\r\norigin: {origin}\r\n{rest}").as_bytes()).await?;
        ensure!(answer.get(9..12) == Some("403"), "{origin}: {answer}");
    }
    let two = world.send(format!("POST {path} HTTP/1.1\r\nhost: {authority}\r\n{rest}").as_bytes()).await?;
    ensure!(two.get(9..12) == Some("400"), "two hosts: {two}");
    let origins = "origin: http://localhost\r\norigin: https://evil.example";
    let two = world.send(format!("POST {path} HTTP/1.1\r\n{origins}\r\n{rest}").as_bytes()).await?;
    ensure!(two.get(9..12) == Some("400"), "two origins: {two}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_counts_in_one_authorization_header_only() -> Result<()> {
    let world = World::start(vec![tool("read", "retrieval")]).await?;
    let (head, body) = (world.head()?, call_body(&json!({})));
    let token = &world.client.token;
    let bearer = format!("authorization: Bearer {token}");
    let rest = format!("connection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    for (authorization, status) in [
        (format!("authorization: bearer {token}"), "200"),
        (format!("Authorization: BEARER   {token} "), "200"),
        (format!("authorization: Bearer {token}\r\nauthorization: Bearer {token}"), "401"),
        (format!("authorization: Bearer {token}, Bearer {token}"), "401"),
        (format!("authorization: Bearer {token} x"), "401"),
        (format!("authorization: Basic {token}"), "401"),
        (format!("authorization: Bearer\t{token}"), "401"),
        (format!("authorization: Bearer{token}"), "401"),
        (format!("authorization: Bearer {token}="), "401"),
        (format!("authorization: Bearer {}", token.to_uppercase()), "401"),
        (format!("authorization: DPoP {token}"), "401"),
        (format!("proxy-authorization: Bearer {token}"), "401"),
        (format!("x-access-token: {token}\r\ncookie: access_token={token}"), "401"),
    ] {
        let answer = world.send(format!("{}{rest}", head.replace(&bearer, &authorization)).as_bytes()).await?;
        ensure!(answer.get(9..12) == Some(status), "{authorization:.60}: {answer}");
        ensure!(!answer.contains(token), "an answer repeats the token");
    }
    let in_url = head.replace(&bearer, "x: y").replacen("/mcp/shop", &format!("/mcp/shop?access_token={token}"), 1);
    let answer = world.send(format!("{in_url}{rest}").as_bytes()).await?;
    ensure!(answer.get(9..12) == Some("401"), "a token in the URL: {answer}");
    ensure!(world.server.seen().len() == 2, "a request without a good token reached the server");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_and_spellings_have_one_reading_and_come_back_as_they_were() -> Result<()> {
    let world = World::start(vec![tool("read", "retrieval")]).await?;
    let good = call_body(&json!({}));
    let nines = "9".repeat(200);
    let long = format!("\"{}\"", "i".repeat(254));
    for id in ["-1", "0", "-0", "9007199254740993", nines.as_str(), "\"\"", "\"\\u0000\"", "\"💣\"", long.as_str()] {
        let answer = world.client.raw(good.replacen("\"id\":1", &format!("\"id\":{id}"), 1), &CALL_HEADERS).await?;
        ensure!(answer.status.as_u16() == 200 && answer.body.get("result").is_some(), "{id}: {}", answer.text);
        let same = id == "\"\\u0000\"" || answer.text.contains(&format!("\"id\":{id},"));
        ensure!(same, "{id} came back as {}", answer.text);
    }
    let served = world.server.seen().len();
    for id in ["1e3", "1.0", "[1]", "{}", "true", "null", &format!("\"{}\"", "i".repeat(255)), &"9".repeat(300)] {
        let answer = world.client.raw(good.replacen("\"id\":1", &format!("\"id\":{id}"), 1), &CALL_HEADERS).await?;
        ensure!((answer.status.as_u16(), answer.code()) == (400, Some(-32600)), "{id}: {}", answer.text);
    }
    ensure!(world.server.seen().len() == served, "a call with an ill-formed id reached the server");

    let escaped = good.replacen("tools/call", "tools\\u002fcall", 1).replacen("\"read\"", "\"\\u0072ead\"", 1);
    let encoded = format!("=?base64?{}?=", STANDARD.encode("read"));
    let names = [
        ("read", true),
        (encoded.as_str(), true),
        ("=?base64?!!!?=", false),
        ("=?BASE64?cmVhZA==?=", false),
        ("Read", false),
    ];
    for (name, serves) in names {
        let headers = [CALL_HEADERS[0], CALL_HEADERS[1], ("mcp-name", name)];
        let answer = world.client.raw(escaped.clone(), &headers).await?;
        ensure!(answer.body.get("result").is_some() == serves, "{name}: {}", answer.text);
        ensure!(serves || answer.code() == Some(-32020), "{name}: {}", answer.text);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn mirrored_arguments_are_checked_and_written_anew_and_unknown_ones_pass() -> Result<()> {
    let mut mirrored = tool("read", "retrieval");
    mirrored["inputSchema"] = json!({"type": "object", "properties": {
        "region": {"type": "string", "x-mcp-header": "Region"}, "count": {"type": "integer", "x-mcp-header": "Count"}}});
    let server = ScriptedServer::start(vec![mirrored]).await?;
    server.speak_modern(true);
    let deployment = Deployment::start(Shape::Embedded).await?;
    deployment.apply(&(server.manifests("shop", "plain") + &people(&[JANE])))?;
    let client = client(&deployment, JANE).await?;
    let arguments = json!({"region": "Zürich", "count": 9_007_199_254_740_993_u64});
    let region = format!("=?base64?{}?=", STANDARD.encode("Zürich"));
    let good = [("mcp-param-region", region.as_str()), ("mcp-param-count", "9007199254740993")];
    let send = async |more: &[(&str, &str)]| {
        let headers: Vec<_> = CALL_HEADERS.iter().chain(more).copied().collect();
        client.raw(call_body(&arguments), &headers).await
    };
    for wrong in [
        &[][..],
        &good[..1],
        &[good[0], ("mcp-param-count", "9007199254740992")],
        &[good[1], ("mcp-param-region", "Bern")],
        &[good[1], ("mcp-param-region", "=?base64?%?=")],
    ] {
        let answer = send(wrong).await?;
        ensure!((answer.status.as_u16(), answer.code()) == (400, Some(-32020)), "{wrong:?}: {}", answer.text);
    }
    ensure!(server.seen().is_empty(), "a call with untrue headers reached the server");
    let unknown = ("mcp-param-zone", "eu-1");
    let answer = send(&[good[0], good[1], unknown, ("x-other", "secret"), ("cookie", "a=b")]).await?;
    ensure!(answer.body.get("result").is_some(), "{}", answer.text);
    let seen = server.seen().pop().context("not called")?;
    for (name, value) in good.into_iter().chain([unknown]) {
        ensure!(seen.headers.get(name).is_some_and(|sent| sent == value), "{name}: {:?}", seen.headers);
    }
    for name in ["authorization", "cookie", "x-other", "mcp-session-id"] {
        ensure!(!seen.headers.contains_key(name), "{name} was forwarded");
    }
    Ok(())
}
