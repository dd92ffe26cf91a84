//! What happens when everybody is honest.

use std::time::Duration;

use anyhow::{Context, Result};
use bailiwick_tests::{Answer, McpClient, eventually, visitor::Visitor};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{AGENT, CLIENT, JANE, REDIRECT, World, text};

#[tokio::test]
async fn a_person_allows_and_every_call_names_the_consent() -> Result<()> {
    let world = World::start().await?;
    let tokens = world.tokens(CLIENT, "transactional").await?;
    assert_eq!((text(&tokens, "token_type"), text(&tokens, "scope")), ("Bearer", "mcp:write"));
    assert!(tokens["expires_in"].as_u64().is_some_and(|seconds| (590..=600).contains(&seconds)), "{tokens}");
    let mcp = world.mcp(&tokens);
    mcp.until_listed(&["charge", "read"]).await?;
    let called = mcp.call("charge", json!({})).await?;
    assert_eq!(called.status, 200, "{}", called.text);
    assert!(called.body["result"].is_object(), "{}", called.text);

    let granted = world.event("consent_granted").await?;
    assert_eq!(
        [text(&granted, "user"), text(&granted, "agent"), text(&granted, "client"), text(&granted, "reason")],
        [JANE, AGENT, CLIENT, "OPS-12"]
    );
    assert_eq!(text(&granted, "actor"), format!("user:{JANE}"));
    let issued = world.event("code_issued").await?;
    assert_eq!((text(&issued, "redirect_uri"), text(&issued, "challenge").len()), (REDIRECT, 43));
    let consent = text(&granted, "consent").to_owned();
    let record = eventually("the call's record", async || {
        let calls = world.deployment.audit(&["--tool", "charge"]).ok()?;
        calls.into_iter().find(|record| record["consent"] == consent.as_str())
    })
    .await?;
    assert_eq!((text(&record, "user"), text(&record, "agent")), (JANE, AGENT), "{record}");
    assert!(world.event("person_signed_in").await?["session"].is_string());
    Ok(())
}

#[tokio::test]
async fn a_client_goes_on_without_the_person_until_they_take_it_back() -> Result<()> {
    let world = World::start().await?;
    let first = world.tokens(CLIENT, "retrieval").await?;
    let answer = world.refresh(CLIENT, text(&first, "refresh_token")).await?;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let second = answer.body;
    assert_ne!(text(&second, "refresh_token"), text(&first, "refresh_token"));
    world.mcp(&second).until_listed(&["read"]).await?;

    let mut jane = Visitor::new()?;
    let page = jane.go(&format!("{}/consents", world.issuer)).await?;
    let page = jane.sign_in(&page, JANE, &world.code).await?;
    assert!(page.text.contains("OPS-12") && page.text.contains(CLIENT), "{}", page.text);
    let (token, one) = (page.field("token")?, text(&world.event("consent_granted").await?, "consent").to_owned());
    let page = jane.send(&format!("{}/consents", world.issuer), &[("token", &token), ("one", &one)]).await?;
    assert!(page.text.contains("One consent was taken back"), "{}", page.text);
    let refused = eventually("the consent ends at the data plane", async || {
        let answer = world.mcp(&second).call("read", json!({})).await.ok()?;
        (answer.reason() == "consent_revoked").then_some(answer)
    })
    .await?;
    assert!(refused.text.contains(&one), "the refusal names the consent: {}", refused.text);
    let ended = world.refresh(CLIENT, text(&second, "refresh_token")).await?;
    assert_eq!((ended.status.as_u16(), text(&ended.body, "error")), (400, "invalid_grant"));
    Ok(())
}

#[tokio::test]
async fn the_person_narrows_to_single_tools() -> Result<()> {
    let world = World::start().await?;
    let (mut jane, page) = world.asked(CLIENT).await?;
    for tool in ["shop/charge", "shop/erase", "shop/read"] {
        assert!(page.text.contains(&format!("value=\"{tool}\"")) || page.text.contains("shop&#47;"), "{}", page.text);
    }
    let narrowed = [("level", "transactional"), ("only", "listed"), ("tool", "shop/charge"), ("decision", "allow")];
    let page = world.answer(&mut jane, &page, &narrowed).await?;
    let code = page.parameter("code")?.context("a code")?;
    let tokens = world.redeem(CLIENT, &code).await?.body;
    let mcp = world.mcp(&tokens);
    mcp.until_listed(&["charge"]).await?;
    let other = mcp.call("read", json!({})).await?;
    assert_eq!(other.reason(), "consent_tool_not_listed", "{}", other.text);
    assert!(mcp.call("charge", json!({})).await?.body["result"].is_object());
    let granted = world.event("consent_granted").await?;
    assert_eq!(granted["tools"], json!(["shop/charge"]));
    Ok(())
}

#[tokio::test]
async fn what_a_person_does_not_allow_is_told_to_the_client_and_on_record() -> Result<()> {
    let world = World::start().await?;
    let (mut jane, page) = world.asked(CLIENT).await?;
    let page = world.answer(&mut jane, &page, &[("decision", "deny"), ("reason", "I did not ask for this")]).await?;
    assert_eq!(page.parameter("error")?.as_deref(), Some("access_denied"));
    assert_eq!(page.parameter("state")?.as_deref(), Some("st-1"));
    assert_eq!(page.parameter("iss")?.as_deref(), Some(world.issuer.as_str()));
    let declined = world.event("consent_declined").await?;
    assert_eq!((text(&declined, "user"), text(&declined, "client")), (JANE, CLIENT));
    assert_eq!(text(&declined, "reason"), "I did not ask for this");
    Ok(())
}

#[tokio::test]
async fn a_program_registers_itself_and_asks() -> Result<()> {
    let world = World::start().await?;
    world.deployment.apply(&bailiwick_tests::manifests::manifest(
        "Agent",
        AGENT,
        &format!("{{owner: {JANE}, project: shop, ceiling: destructive, clients: {{self_registered: true}}}}"),
    ))?;
    let metadata = json!({
        "client_name": "Some <b>editor</b>", "redirect_uris": [REDIRECT], "token_endpoint_auth_method": "none",
        "grant_types": ["authorization_code", "refresh_token"], "response_types": ["code"],
    });
    let request = world.http.post(format!("{}/oauth/register", world.issuer)).json(&metadata);
    let registered = Answer::to(request).await?;
    assert_eq!(registered.status, 201, "{}", registered.text);
    let id = text(&registered.body, "client_id").to_owned();
    assert!(registered.body.get("client_secret").is_none());
    let (_, page) = world.asked(&id).await?;
    assert!(page.text.contains("registered itself"), "{}", page.text);
    assert!(!page.text.contains("<b>editor"), "{}", page.text);
    let tokens = world.tokens(&id, "retrieval").await?;
    world.mcp(&tokens).until_listed(&["read"]).await?;
    // The administrator sees it, and can end it.
    let listed: Value = serde_json::from_str(&world.deployment.cli_ok(&["get", "clients", "-o", "json"])?)?;
    assert!(listed.to_string().contains(&id), "{listed}");
    world.deployment.cli_ok(&["delete", "client", &id])?;
    let refused = world.refresh(&id, text(&tokens, "refresh_token")).await?;
    assert_eq!((refused.status.as_u16(), text(&refused.body, "error")), (401, "invalid_client"));
    Ok(())
}

#[tokio::test]
async fn a_client_gives_up_its_token_and_asks_about_it() -> Result<()> {
    let world = World::start().await?;
    let secret = "1e9bd2a2c0f04f6a8c5d";
    let hash = hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, secret.as_bytes()));
    let spec =
        format!("{{agent: {AGENT}, auth: client_secret, secret_sha256: \"{hash}\", redirect_uris: [\"{REDIRECT}\"]}}");
    world.deployment.apply(&bailiwick_tests::manifests::manifest("Client", "portal", &spec))?;
    let code = world.code("portal", "retrieval").await?;
    let as_portal = |path: &str, more: &[(&str, &str)]| {
        let form: Vec<_> = [("client_id", "portal"), ("client_secret", secret)].iter().chain(more).copied().collect();
        Answer::to(world.http.post(format!("{}{path}", world.issuer)).form(&form))
    };
    let redeemed = as_portal(
        "/oauth/token",
        &[("grant_type", "authorization_code"), ("code", &code), ("code_verifier", crate::VERIFIER)],
    );
    let tokens = redeemed.await?.body;
    let (access, refresh) = (text(&tokens, "access_token"), text(&tokens, "refresh_token"));
    let told = as_portal("/oauth/introspect", &[("token", access)]).await?.body;
    assert_eq!(
        (told["active"].as_bool(), text(&told, "sub"), text(&told, "aud")),
        (Some(true), JANE, world.resource.as_str())
    );
    let told = as_portal("/oauth/introspect", &[("token", refresh)]).await?.body;
    assert_eq!(told["active"], true, "{told}");
    let others = world.tokens(CLIENT, "retrieval").await?;
    let foreign = as_portal("/oauth/introspect", &[("token", text(&others, "access_token"))]).await?;
    assert_eq!(foreign.body, json!({"active": false}), "another client's token is nobody else's business");
    let public = world.post("/oauth/introspect", &[("client_id", CLIENT), ("token", access)]).await?;
    assert_eq!(public.status, 401);

    assert_eq!(as_portal("/oauth/revoke", &[("token", "nonsense")]).await?.status, 200);
    assert_eq!(as_portal("/oauth/revoke", &[("token", text(&others, "refresh_token"))]).await?.status, 200);
    assert_eq!(world.refresh(CLIENT, text(&others, "refresh_token")).await?.status, 200, "it was not the portal's");
    assert_eq!(as_portal("/oauth/revoke", &[("token", access)]).await?.status, 200);
    for token in [access, refresh] {
        let told = as_portal("/oauth/introspect", &[("token", token)]).await?;
        assert_eq!(told.body, json!({"active": false}));
    }
    let mcp: McpClient = world.mcp(&tokens);
    eventually("its tokens end", async || {
        let answer = mcp.modern("tools/list", json!({})).await.ok()?;
        answer.tools().is_empty().then_some(())
    })
    .await
}

#[tokio::test]
async fn the_first_answer_of_discovery_leaves_the_connection_as_it_was() -> Result<()> {
    let world = World::start().await?;
    let base = world.deployment.mcp[0].strip_prefix("http://").and_then(|url| url.strip_suffix("/mcp"));
    let address = base.context("an address")?;
    let mut stream = TcpStream::connect(address).await?;
    let body = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    let length = body.len();
    let head = format!("POST /mcp/shop HTTP/1.1\r\nhost: {address}\r\ncontent-length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    // A client's body comes when it comes, also after the server has looked at the head.
    let mut early = [0; 1];
    drop(tokio::time::timeout(Duration::from_millis(300), stream.peek(&mut early)).await);
    stream.write_all(body.as_bytes()).await?;
    let next = format!(
        "GET /.well-known/oauth-protected-resource/mcp/shop HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(next.as_bytes()).await?;
    let mut answers = String::new();
    stream.read_to_string(&mut answers).await?;
    let (first, second) = answers.split_at(answers.rfind("HTTP/1.1 ").context("an answer")?);
    assert!(first.starts_with("HTTP/1.1 401 ") && second.starts_with("HTTP/1.1 200 "), "{answers}");
    Ok(())
}
