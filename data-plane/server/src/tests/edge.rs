//! What the listener does before anything is decided: authentication, bodies, origins, hosts, protocols.

use super::*;

#[tokio::test]
async fn who_is_not_authenticated_is_told_where_to_sign_in() {
    let world = World::start(Speaks::Modern, PERMIT_ALL).await;
    let challenge = |response: &Response| response.headers()["www-authenticate"].to_str().unwrap().to_owned();
    let missing = world.post("{}").send().await.unwrap();
    assert_eq!(missing.status(), 401);
    let expected = r#"resource_metadata="http://gateway.test/.well-known/oauth-protected-resource/mcp/finance", scope="mcp:tools""#;
    assert_eq!(challenge(&missing), format!("Bearer {expected}"));
    assert_eq!(missing.json::<Value>().await.unwrap()["error"]["data"]["reason"], "token_missing");
    let narrow = token(&bailiwick_token::Claims { scope: "openid".into(), ..claims() });
    let narrow = world.post("{}").bearer_auth(narrow).send().await.unwrap();
    assert_eq!(narrow.status(), 403);
    assert!(challenge(&narrow).contains(r#"error="insufficient_scope""#));
    let get =
        |path: &str| Client::new().get(format!("{}/.well-known/oauth-protected-resource{path}", world.node.url)).send();
    let (status, metadata) = json_of(get("/mcp/finance").await.unwrap()).await;
    assert_eq!((status, &metadata["resource"]), (200, &json!("http://gateway.test/mcp/finance")));
    assert_eq!(metadata["authorization_servers"], json!(["http://issuer.test"]));
    assert_eq!(metadata["scopes_supported"], json!(["mcp:read", "mcp:write", "mcp:tools"]));
    assert_eq!(json_of(get("").await.unwrap()).await.1["resource"], "http://gateway.test/mcp");
    assert_eq!(get("/mcp/none").await.unwrap().status(), 404);
    let stranger = world.post("{}").bearer_auth("a.b.c").send().await.unwrap();
    assert_eq!(stranger.status(), 401);
}

#[tokio::test]
async fn an_authentic_but_expired_token_is_refused_and_attributed() {
    let world = World::start(Speaks::Modern, PERMIT_ALL).await;
    let expired = bailiwick_token::Claims { exp: claims().iat + 1, ..claims() };
    let (status, body) = json_of(world.post("{}").bearer_auth(token(&expired)).send().await.unwrap()).await;
    let (_, reason, request_id) = refusal(&body);
    assert_eq!((status, reason), (401, "token_expired"));
    let records = world.records(request_id).await;
    assert_eq!((records[0].kind, records[0].user.as_deref()), (Kind::CallDenied, Some("jane@example.com")));
}

#[tokio::test]
async fn malformed_bodies_are_refused_and_those_meant_as_calls_are_recorded() {
    let world = World::start(Speaks::Modern, PERMIT_ALL).await;
    let call = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","name":"b"}}"#;
    let bodies: [(Vec<u8>, u16, &str); 5] = [
        (call.into(), 400, "request_malformed"),
        (format!("[{call}]").into_bytes(), 400, "request_malformed"),
        (b"\xff\xfe tools/call".to_vec(), 400, "request_malformed"),
        (br#"{"jsonrpc":"2.0","method":"tools/call""#.to_vec(), 400, "request_malformed"),
        (vec![b' '; 4 * 1024 * 1024 + 1], 413, "request_too_large"),
    ];
    for (body, expected, word) in bodies {
        let (status, body) = json_of(world.post(body).bearer_auth(token(&claims())).send().await.unwrap()).await;
        let (_, reason, request_id) = refusal(&body);
        assert_eq!((status, reason), (expected, word));
        let records = world.records(request_id).await;
        assert_eq!(records[0].decision.as_ref().unwrap().reason.as_deref(), Some(word));
    }
    let request = world.post(call).bearer_auth(token(&claims()));
    assert_eq!(request.header("content-type", "text/plain").send().await.unwrap().status(), 415);
}

#[tokio::test]
async fn strangers_pages_foreign_hosts_and_other_methods_are_turned_away() {
    let world = World::start(Speaks::Modern, PERMIT_ALL).await;
    for (header, value, expected) in [
        ("origin", "https://evil.example", 403),
        ("origin", "https://app.example", 200),
        ("origin", "http://localhost:6274", 200),
        ("host", "rebound.evil.example", 403),
        ("host", "gateway.test", 200),
    ] {
        let answer = world.call("query_data").header(header, value).send().await.unwrap();
        assert_eq!(answer.status(), expected, "{header}: {value}");
    }
    let asked = Client::new()
        .request("OPTIONS".parse().unwrap(), format!("{}/mcp/finance", world.node.url))
        .header("origin", "https://app.example")
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "authorization, mcp-name");
    let asked = asked.send().await.unwrap();
    assert_eq!(asked.status(), 204);
    assert_eq!(asked.headers()["access-control-allow-origin"], "https://app.example");
    assert_eq!(asked.headers()["access-control-allow-headers"], "authorization, mcp-name");
    for method in ["GET", "DELETE", "PUT"] {
        let request = Client::new().request(method.parse().unwrap(), format!("{}/mcp/finance", world.node.url));
        assert_eq!(request.bearer_auth(token(&claims())).send().await.unwrap().status(), 405, "{method}");
    }
}

#[tokio::test]
async fn http_2_without_negotiation_is_served_too() {
    let world = World::start(Speaks::Modern, PERMIT_ALL).await;
    let request = world.call("query_data").build().unwrap();
    let client = Client::builder().http2_prior_knowledge().build().unwrap();
    let answer = client.execute(request).await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.version()), (200, reqwest::Version::HTTP_2));
}

#[tokio::test]
async fn a_token_that_is_newer_than_the_configuration_waits_for_it_and_is_refused_if_it_does_not_come() {
    let world = World::start(Speaks::Modern, PERMIT_ALL).await;
    let held = world.control.change(policy(PERMIT_READS), true).await;
    let of_revision = |revision| bailiwick_token::Claims { min_revision: Some(revision), ..claims() };
    let list = |revision| {
        let mut request = world.modern("tools/list", None, "").build().unwrap();
        let bearer = format!("Bearer {}", token(&of_revision(revision)));
        request.headers_mut().insert("authorization", bearer.parse().unwrap());
        async move { json_of(Client::new().execute(request).await.unwrap()).await }
    };
    let (answer, next) = tokio::join!(list(held + 1), world.control.change(policy(PERMIT_ALL), true));
    assert_eq!(next, held + 1);
    let listed = answer.1["result"]["tools"].as_array().unwrap().len();
    assert_eq!((answer.0, listed), (200, 3), "it sees what was granted with it");
    let (status, body) = list(held + 1_000).await;
    assert_eq!((status, &body["error"]), (503, &json!("not_ready")));
    let ledger = world.ledger.as_ref().unwrap();
    eventually("recorded", || !ledger.of_kind(Kind::CallDenied).is_empty()).await;
    let denied = ledger.of_kind(Kind::CallDenied).pop().unwrap();
    assert_eq!(denied.decision.unwrap().reason.as_deref(), Some("config_stale"));
}
