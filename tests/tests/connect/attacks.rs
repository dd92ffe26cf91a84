//! What nobody honest does: forged answers to the sign-in, other users and web pages at the local endpoint, keys that
//! others could have read.

use std::{fs, os::unix::fs::PermissionsExt as _};

use anyhow::{Context, Result, ensure};
use bailiwick_tests::{Answer, eventually, upstream::free_port};
use serde_json::json;

use crate::{Bridge, World, modern, visit};

/// Where the browser is to come back to, and with which state.
fn asked(url: &str) -> Result<(String, String)> {
    let url = url::Url::parse(url)?;
    let parameter =
        |name: &str| url.query_pairs().find(|(known, _)| known == name).map(|(_, value)| value.into_owned());
    Ok((parameter("redirect_uri").context("redirect_uri")?, parameter("state").context("state")?))
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_true_answer_to_a_sign_in_counts_and_only_once() -> Result<()> {
    let world = World::start().await?;
    let mut bridge = world.desk.bridge(&world.url, &[])?;
    bridge.say(&json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": modern(json!({}))})).await?;
    let question = world.desk.visit(0).await?;
    let (redirect, state) = asked(&question)?;
    ensure!(redirect.starts_with("http://127.0.0.1:") && redirect.ends_with("/callback"), "{redirect}");
    let origin = redirect.strip_suffix("/callback").context("an origin")?;
    let host = origin.strip_prefix("http://").context("a host")?;
    let forged = [
        (format!("{redirect}?code=x&state=forged"), host),
        (format!("{redirect}?code=x"), host),
        (format!("{redirect}?code=x&state={state}&state=forged"), host),
        (format!("{origin}/?code=x&state={state}"), host),
        (format!("{origin}/favicon.ico"), host),
        (format!("{redirect}?code=x&state={state}"), "evil.example"),
        (format!("{redirect}?code=x&state={state}"), "localhost"),
    ];
    for (url, host) in forged {
        let answer = visit(&url, &[("host", host)]).await?;
        ensure!(answer.status == 404 && answer.text.is_empty(), "{url} {host}: {} {}", answer.status, answer.text);
    }
    let http = reqwest::Client::builder().no_proxy().build()?;
    let posted = Answer::to(http.post(format!("{redirect}?code=x&state={state}"))).await?;
    ensure!(posted.status == 404, "{}", posted.status);
    // None of it was in the way of the true one, after which nobody listens.
    let back = world.allowed(&question, "retrieval").await?;
    let answer = visit(&back, &[]).await?;
    ensure!(answer.status == 200, "{}", answer.status);
    ensure!(answer.headers["cache-control"] == "no-store" && answer.headers["referrer-policy"] == "no-referrer");
    let listed = bridge.hear().await?;
    ensure!(listed["result"].is_object(), "{listed:#}");
    ensure!(visit(&back, &[]).await.is_err(), "somebody still listens");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_from_another_server_ends_the_sign_in() -> Result<()> {
    let world = World::start().await?;
    let mut bridge = world.desk.bridge(&world.url, &[])?;
    bridge.say(&json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": modern(json!({}))})).await?;
    let (redirect, state) = asked(&world.desk.visit(0).await?)?;
    visit(&format!("{redirect}?code=stolen&state={state}&iss=https%3A%2F%2Fevil.example"), &[]).await?;
    let refused = bridge.hear().await?;
    let message = refused["error"]["message"].as_str().unwrap_or_default();
    ensure!(message.contains("from another server"), "{refused:#}");
    let again = bridge.call(2, "read").await?;
    ensure!(again["error"]["data"]["reason"] == "sign_in_required", "nobody is asked again at once: {again:#}");
    ensure!(world.desk.visits().len() == 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_local_endpoint_is_for_whoever_has_the_secret_and_no_page() -> Result<()> {
    let world = World::start().await?;
    world.sign_in("retrieval").await?;
    let address = format!("127.0.0.1:{}", free_port()?);
    let bridge = Bridge::start(world.desk.command(&["connect", &world.url, "--keys", "file", "--http", &address]))?;
    let secret = eventually("the secret is made", async || {
        world.desk.kept().ok()?["endpoint_secret"].as_str().map(str::to_owned)
    })
    .await?;
    let http = reqwest::Client::builder().no_proxy().build()?;
    let url = format!("http://{address}/mcp");
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": modern(json!({}))}).to_string();
    let send = async |url: &str, headers: &[(&str, &str)]| {
        let usual = [
            ("content-type", "application/json"),
            ("accept", "application/json, text/event-stream"),
            ("mcp-protocol-version", "2026-07-28"),
            ("mcp-method", "tools/list"),
        ];
        let all = usual.iter().chain(headers);
        let request = all.fold(http.post(url), |request, (name, value)| request.header(*name, *value));
        Answer::to(request.body(body.clone())).await
    };
    let bearer = format!("Bearer {secret}");
    let good = ("authorization", bearer.as_str());
    eventually("it listens", async || send(&url, &[good]).await.ok()).await?;
    for (url, headers, status) in [
        (url.clone(), vec![good], 200),
        (format!("{url}/{secret}"), vec![], 200),
        (url.clone(), vec![good, ("host", &address.replace("127.0.0.1", "localhost"))], 200),
        (url.clone(), vec![], 401),
        (url.clone(), vec![("authorization", "Bearer wrong")], 401),
        (format!("{url}/wrong"), vec![], 404),
        (format!("{url}/wrong"), vec![good], 404),
        (url.replace("/mcp", "/other"), vec![good], 404),
        // A page whose name was made to lead here, and a page as such.
        (url.clone(), vec![good, ("host", "evil.example:8410")], 403),
        (url.clone(), vec![good, ("host", "127.0.0.1")], 403),
        (url.clone(), vec![good, ("origin", "https://evil.example")], 403),
        (url.clone(), vec![good, ("origin", "null")], 403),
        (url.clone(), vec![good, ("origin", &format!("http://{address}"))], 403),
    ] {
        let answer = send(&url, &headers).await?;
        ensure!(answer.status.as_u16() == status, "{url} {headers:?}: {} {}", answer.status, answer.text);
        ensure!(!answer.headers.keys().any(|name| name.as_str().starts_with("access-control")), "no page is let in");
        ensure!((status == 200) == answer.body["result"]["tools"].is_array(), "{}", answer.text);
    }
    let preflight = http.request(reqwest::Method::OPTIONS, &url).bearer_auth(&secret).send().await?;
    ensure!(preflight.status() == 405, "{}", preflight.status());
    // Last, as it ends its connection.
    let large = http.post(&url).bearer_auth(&secret).body(vec![b' '; 5 * 1024 * 1024]).send().await;
    ensure!(large.is_err() || large.is_ok_and(|answer| answer.status() == 413), "a body has a largest size");
    ensure!(world.server.seen().is_empty());
    drop(bridge);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_endpoint_listens_on_this_machine_alone() -> Result<()> {
    let desk = crate::Desk::new()?;
    let arguments = ["connect", "https://mcp.example/mcp/shop", "--keys", "file", "--http", "0.0.0.0:0"];
    let (status, text) = desk.run(&arguments).await?;
    ensure!(status == 2 && text.contains("this machine alone"), "{status}: {text}");
    for url in ["http://mcp.example/mcp", "https://jane:x@mcp.example/", "ftp://mcp.example/"] {
        let (status, text) = desk.run(&["connect", url, "--keys", "file"]).await?;
        ensure!(status == 2 && text.contains("https"), "{url}: {status}: {text}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_others_could_have_read_are_not_used() -> Result<()> {
    let world = World::start().await?;
    world.sign_in("retrieval").await?;
    let mode = |path: &std::path::Path| fs::metadata(path).map(|found| found.permissions().mode() & 0o777);
    let folder = world.desk.keys();
    ensure!(mode(&folder)? == 0o700);
    for file in fs::read_dir(&folder)? {
        ensure!(mode(&file?.path())? == 0o600);
    }
    let files = fs::read_dir(&folder)?.filter_map(|entry| Some(entry.ok()?.path()));
    let file = files.into_iter().find(|path| path.extension().is_some_and(|end| end == "json")).context("keys")?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644))?;
    let mut bridge = world.desk.bridge(&world.url, &[])?;
    let refused = bridge.call(1, "read").await?;
    ensure!(refused["error"]["data"]["reason"] == "keys_unusable", "{refused:#}");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755))?;
    let (status, text) = world.desk.run(&["connect", &world.url, "--keys", "file", "--sign-in"]).await?;
    ensure!(status == 1 && text.contains("mode 0700"), "{status}: {text}");
    Ok(())
}
