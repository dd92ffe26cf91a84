//! What nobody honest sends, and what strangers learn: nothing.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bailiwick_tests::{
    Answer, McpClient, Shape, both, eventually,
    manifests::{manifest, virtual_server},
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::Instant,
};

use super::{JANE, SECRET, World, asks, verdict};

/// Whoever shows no good secret gets one answer, whatever is asked, and however well.
async fn strangers_learn_nothing(shape: Shape) -> Result<()> {
    let world = World::start(shape).await?;
    let (clients, _) = world.consent("destructive").await?;
    let service = &world.services[0];
    let hash = hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, SECRET.as_bytes()));
    let mut seen = Vec::new();
    for secret in ["", "wrong", SECRET.trim_start_matches('4'), &format!("{SECRET}0"), &hash, &clients[0].token] {
        let nobody = service.with_secret(secret);
        for question in [asks("read"), asks("none"), json!({}), json!({"evaluations": []})] {
            for path in ["/access/v1/evaluation", "/access/v1/evaluations"] {
                let answer = Answer::to(nobody.post(path).body(question.to_string())).await?;
                ensure!(answer.status == 401, "{secret}: {} {}", answer.status, answer.text);
                let challenge = answer.headers.get("www-authenticate").context("no challenge")?;
                ensure!(challenge.to_str()?.starts_with("Bearer"), "{challenge:?}");
                let word = if secret.is_empty() { "token_missing" } else { "decision_client_unknown" };
                ensure!(answer.body["error"] == word, "{}", answer.text);
                seen.push(answer.text);
            }
        }
    }
    seen.sort();
    seen.dedup();
    ensure!(seen.len() == 2, "strangers are told different things: {seen:?}");
    let twice = service.post("/access/v1/evaluation").header("authorization", format!("Bearer {SECRET}"));
    let answer = Answer::to(twice.body(asks("read").to_string())).await?;
    ensure!(answer.status == 401, "two secrets: {}", answer.text);
    // The service's secret is no token, and a page of somebody may not ask at all.
    let as_token = McpClient::new(&world.deployment.mcp[0], "shop", SECRET).call("read", json!({})).await?;
    ensure!(as_token.status == 401, "{}", as_token.text);
    let page = service.post("/access/v1/evaluation").header("origin", "https://evil.example");
    ensure!(Answer::to(page.body(asks("read").to_string())).await?.status == 403, "a page asks");
    for (method, path) in [
        ("GET", "/access/v1/evaluation"),
        ("PUT", "/access/v1/evaluations"),
        ("POST", "/.well-known/authzen-configuration"),
    ] {
        let request = service.http.request(method.parse()?, format!("{}{path}", service.base)).bearer_auth(SECRET);
        ensure!(Answer::to(request).await?.status == 405, "{method} {path}");
    }
    Ok(())
}

/// What is not the service's to ask about is denied alike, whether it is there or not.
async fn other_places_are_denied_alike_whether_they_are_there_or_not(shape: Shape) -> Result<()> {
    let world = World::start(shape).await?;
    let issued = world.deployment.cli_ok(&["get", "virtual-servers", "-o", "json"])?;
    ensure!(issued.contains("shop"), "{issued}");
    world.deployment.apply(&virtual_server("other", "prefixed", "shop"))?;
    world.deployment.token_for(JANE, super::AGENT, "other", "destructive", "10m")?;
    let service = &world.services[0];
    let mut seen = Vec::new();
    for (tool, place) in [("shop__read", "other"), ("none", "other"), ("read", "nowhere"), ("shop__read", "nowhere")] {
        let mut question = asks(tool);
        question["resource"]["properties"]["virtual_server"] = place.into();
        let mut answer = service.one(&question).await?;
        ensure!(answer.status == 200 && verdict(&answer.body) == "decision_not_for_client", "{}", answer.text);
        for changing in ["revision", "config_age_ms", "request_id"] {
            answer.body["context"].as_object_mut().context("a context")?.remove(changing);
        }
        seen.push(answer.body.to_string());
    }
    seen.dedup();
    ensure!(seen.len() == 1, "{seen:?}");
    Ok(())
}

/// Who may ask about a server learns nothing of a place that does not offer it, also by naming both.
async fn a_server_is_asked_about_only_where_it_is_offered(shape: Shape) -> Result<()> {
    let world = World::start(shape).await?;
    let hr = manifest("Server", "hr", r#"{endpoint: {url: "http://127.0.0.1:9/mcp"}}"#);
    world.deployment.apply(&(hr + &virtual_server("hr", "plain", "hr")))?;
    let consent = world.deployment.token_for(JANE, super::AGENT, "hr", "destructive", "10m")?["consent_id"].clone();
    let secret = "ffeeddccbbaa99887766554433221100";
    world.deployment.apply(&super::service("of-shop", &[secret], "servers: [shop]"))?;
    let service = world.services[0].with_secret(secret);
    let mut question = asks("read");
    eventually("the service and the consent are known", async || {
        service.one(&question).await.ok().filter(|answer| answer.status == 200)
    })
    .await?;
    question["resource"]["properties"] = json!({"virtual_server": "hr", "server": "shop"});
    let mut seen = Vec::new();
    for named in [json!(null), json!("none"), consent] {
        if named.is_string() {
            question["subject"]["properties"]["consent"] = named;
        }
        let mut answer = service.one(&question).await?;
        ensure!(verdict(&answer.body) == "decision_not_for_client", "{}", answer.text);
        for changing in ["revision", "config_age_ms", "request_id"] {
            answer.body["context"].as_object_mut().context("a context")?.remove(changing);
        }
        seen.push(answer.body.to_string());
    }
    seen.dedup();
    ensure!(seen.len() == 1, "{seen:?}");
    Ok(())
}

async fn bodies_are_bounded_and_have_one_reading(shape: Shape) -> Result<()> {
    let world = World::start(shape).await?;
    world.consent("destructive").await?;
    let service = &world.services[0];
    let padded = |bytes: usize| {
        let mut question = asks("read");
        question["padding"] = "x".repeat(bytes).into();
        question.to_string()
    };
    let deep = format!("{{\"a\":{}1{}}}", "[".repeat(100), "]".repeat(100));
    let twice = asks("read").to_string().replacen("\"id\":", "\"id\":\"eve@example.com\",\"id\":", 1);
    let bomb = |count: usize| json!({"evaluations": vec![json!({}); count]}).to_string();
    let list = |count: usize| {
        let mut body = asks("read");
        body["evaluations"] = vec![json!({}); count].into();
        body.to_string()
    };
    for (name, path, body, expected) in [
        ("a body of 60 KiB", "/access/v1/evaluation", padded(60 * 1024), 200),
        ("a body of 65 KiB", "/access/v1/evaluation", padded(65 * 1024), 413),
        ("a giant body", "/access/v1/evaluation", padded(8 * 1024 * 1024), 413),
        ("deep JSON", "/access/v1/evaluation", deep, 400),
        ("a repeated key", "/access/v1/evaluation", twice.clone(), 400),
        ("a repeated key in a batch", "/access/v1/evaluations", format!("{{\"evaluations\":[{twice}]}}"), 400),
        ("no body", "/access/v1/evaluation", String::new(), 400),
        ("no JSON", "/access/v1/evaluation", "{\"subject\":".to_owned(), 400),
        ("two values", "/access/v1/evaluation", format!("{0}{0}", asks("read")), 400),
        ("100 questions", "/access/v1/evaluations", list(100), 200),
        ("101 questions", "/access/v1/evaluations", list(101), 400),
        ("a batch bomb", "/access/v1/evaluations", bomb(20_000), 400),
        ("a list that is none", "/access/v1/evaluations", json!({"evaluations": {"0": {}}}).to_string(), 400),
    ] {
        // A giant body may be cut off before it was sent; then there is no answer, which is a refusal too.
        match Answer::to(service.post(path).body(body)).await {
            Ok(answer) => ensure!(answer.status == expected, "{name}: {} {}", answer.status, answer.text),
            Err(error) => ensure!(expected == 413, "{name}: {error}"),
        }
    }
    let answer = service.one(&asks("read")).await?;
    ensure!(verdict(&answer.body) == "permit", "the service goes on: {}", answer.text);
    Ok(())
}

/// A body that comes drop by drop holds nobody up, and is not waited for without end.
async fn a_slow_body_holds_nobody_up(shape: Shape) -> Result<()> {
    let world = World::start(shape).await?;
    world.consent("destructive").await?;
    let service = &world.services[0];
    let address = service.base.strip_prefix("http://").context("a plain URL")?;
    let mut slow = Vec::new();
    for _ in 0..20 {
        let mut stream = TcpStream::connect(address).await?;
        let head = format!(
            "POST /access/v1/evaluation HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {SECRET}\r\n\
             content-type: application/json\r\ncontent-length: 500\r\n\r\n{{"
        );
        stream.write_all(head.as_bytes()).await?;
        slow.push(stream);
    }
    let began = Instant::now();
    for _ in 0..20 {
        ensure!(verdict(&service.one(&asks("read")).await?.body) == "permit", "somebody else waits");
    }
    ensure!(began.elapsed() < Duration::from_secs(10), "slow bodies hold others up: {:?}", began.elapsed());
    let mut said = Vec::new();
    let last = slow.last_mut().context("a slow one")?;
    tokio::time::timeout(Duration::from_secs(45), last.read_to_end(&mut said))
        .await
        .context("waited without end")??;
    ensure!(!String::from_utf8_lossy(&said).contains("200 OK"), "{}", String::from_utf8_lossy(&said));
    Ok(())
}

/// One service that asks without end gets its share, and others theirs.
async fn a_service_that_asks_too_often_is_told_and_others_are_answered(shape: Shape) -> Result<()> {
    let world = World::start(shape).await?;
    world.consent("destructive").await?;
    let other = "ffeeddccbbaa99887766554433221100";
    world.deployment.apply(&super::service("other", &[other], "virtual_servers: [shop]"))?;
    let service = &world.services[0];
    let second = service.with_secret(other);
    eventually("the other service is known", async || {
        second.one(&asks("read")).await.ok().filter(|answer| answer.status == 200)
    })
    .await?;
    let mut batch = asks("read");
    batch["evaluations"] = vec![json!({}); 100].into();
    let flood = async || {
        let asked = (0..200).map(|_| service.several(&batch));
        futures::future::join_all(asked).await.into_iter().collect::<Result<Vec<_>>>()
    };
    // How quickly a machine decides differs; 20,000 in less than a second are more than a share.
    let refused =
        eventually("a refusal", async || flood().await.ok()?.into_iter().find(|answer| answer.status == 429)).await?;
    ensure!(
        refused.body["error"] == "asked_too_often" && refused.headers.contains_key("retry-after"),
        "{}",
        refused.text
    );
    let question = asks("read");
    let (_, answer) = tokio::join!(flood(), second.one(&question));
    ensure!(answer?.status == 200, "the other service is refused too");
    Ok(())
}

/// What a service puts into a question comes out nowhere else: no header, no log line of its own.
async fn words_of_a_question_cannot_break_out(shape: Shape) -> Result<()> {
    let world = World::start(shape).await?;
    let service = &world.services[0];
    for id in ["a\nlevel=error forged", "a\r\nx-forged: 1", "\u{0}"] {
        let mut question = asks("read");
        question["subject"]["id"] = id.into();
        ensure!(service.one(&question).await?.status == 400, "{id:?}");
    }
    let long = "i".repeat(2_000);
    let answer = Answer::to(service.post("/access/v1/evaluation").header("x-request-id", long).body("{}")).await?;
    ensure!(answer.status == 400 && !answer.headers.contains_key("x-request-id"), "{:?}", answer.headers);
    ensure!(!world.deployment.log().contains("forged") && !world.deployment.log().contains(SECRET), "the log says it");
    Ok(())
}

both! {
    strangers_learn_nothing
    a_server_is_asked_about_only_where_it_is_offered
    other_places_are_denied_alike_whether_they_are_there_or_not
    bodies_are_bounded_and_have_one_reading
    words_of_a_question_cannot_break_out
}

mod nodes {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_slow_body_holds_nobody_up() -> Result<()> {
        super::a_slow_body_holds_nobody_up(Shape::Embedded).await
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_service_that_asks_too_often_is_told_and_others_are_answered() -> Result<()> {
        super::a_service_that_asks_too_often_is_told_and_others_are_answered(Shape::Embedded).await
    }
}
