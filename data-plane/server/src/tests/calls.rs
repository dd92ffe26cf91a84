//! Calls from end to end: what is released, what is refused, and what the ledger is told of each.

use super::*;

#[tokio::test]
async fn a_permitted_call_returns_the_result_unchanged_between_its_two_records() {
    for speaks in [Speaks::Modern, Speaks::Legacy] {
        let world = World::start(speaks, PERMIT_ALL).await;
        for (tool, tier) in
            [("query_data", "retrieval"), ("create_charge", "transactional"), ("drop_ledger", "destructive")]
        {
            let answer = world.call(tool).send().await.unwrap();
            assert_eq!(answer.status(), 200);
            let text = answer.text().await.unwrap();
            let result = result_text(r#"{"q":1.50}"#);
            let rest = result.strip_prefix('{').unwrap();
            assert_eq!(text, format!(r#"{{"jsonrpc":"2.0","id":7,"result":{{"resultType":"complete",{rest}}}"#));
            let ledger = world.ledger.as_ref().unwrap();
            let outcome_of_tier = |record: &Record| record.tier.as_deref() == Some(tier);
            eventually("outcome", || ledger.of_kind(Kind::CallOutcome).iter().any(outcome_of_tier)).await;
            let outcome = ledger.of_kind(Kind::CallOutcome).into_iter().find(outcome_of_tier).unwrap();
            let records = ledger.of_request(outcome.request_id.as_deref().unwrap());
            let [intent, outcome] = records.as_slice() else { panic!("{records:?}") };
            assert_eq!((intent.kind, outcome.kind), (Kind::CallIntent, Kind::CallOutcome));
            assert_eq!(intent.decision.as_ref().unwrap().effect, Effect::Permit);
            assert_eq!(intent.decision.as_ref().unwrap().policies[0].name, "all");
            assert_eq!(outcome.outcome.as_ref().unwrap().status, Status::Ok);
            assert_eq!(outcome.outcome.as_ref().unwrap().cost.as_deref(), Some("0.02"));
            assert_eq!(intent.args.as_ref().unwrap().bytes, 10);
            assert_eq!(outcome.result.as_ref().unwrap().bytes, result.len() as u64);
            for record in [intent, outcome] {
                assert_eq!(record.user.as_deref(), Some("jane@example.com"));
                assert_eq!(
                    (record.agent.as_deref(), record.owner.as_deref()),
                    (Some("coder"), Some("jane@example.com"))
                );
                assert_eq!((record.server.as_deref(), record.tool.as_deref()), (Some("finance"), Some(tool)));
                assert_eq!((record.rev, record.consent.as_deref()), (Some(100), Some("c-1")));
            }
        }
    }
}

#[tokio::test]
async fn a_legacy_client_initialises_lists_and_calls() {
    let world = World::start(Speaks::Modern, PERMIT_READS).await;
    let bearer = token(&claims());
    let send = |body: Value, session: Option<String>| {
        let request = world.post(body.to_string()).bearer_auth(&bearer);
        match session {
            Some(session) => request.header("mcp-session-id", session).send(),
            None => request.send(),
        }
    };
    let params =
        json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "old", "version": "1"}});
    let opened =
        send(json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}), None).await.unwrap();
    let session = opened.headers()["mcp-session-id"].to_str().unwrap().to_owned();
    assert_eq!(opened.json::<Value>().await.unwrap()["result"]["protocolVersion"], "2025-11-25");
    let ready = send(json!({"jsonrpc": "2.0", "method": "notifications/initialized"}), Some(session.clone())).await;
    assert_eq!(ready.unwrap().status(), 202);
    let list = json!({"jsonrpc": "2.0", "id": 2, "method": "tools/list"});
    let (_, list) = json_of(send(list, Some(session.clone())).await.unwrap()).await;
    assert_eq!(list["result"]["tools"].as_array().unwrap().len(), 1);
    let call = json!({"jsonrpc": "2.0", "id": "x", "method": "tools/call", "params": {"name": "query_data"}});
    let (status, answer) = json_of(send(call.clone(), Some(session)).await.unwrap()).await;
    assert_eq!(
        (status, &answer["id"], answer["result"]["structuredContent"]["sent"].clone()),
        (200, &json!("x"), json!({}))
    );
    assert_eq!(world.last_outcome().await[0].trace.as_ref().unwrap().client_name.as_deref(), Some("old"));
    assert_eq!(send(call, Some("v1.unknown".into())).await.unwrap().status(), 404);
}

#[tokio::test]
async fn what_is_refused_never_reaches_the_server_and_is_recorded_with_its_reason() {
    let world = World::start(Speaks::Modern, PERMIT_READS).await;
    for (tool, code, reason) in [("create_charge", 403, "policy_denied"), ("nothing_here", -32602, "tool_unknown")] {
        let (status, body) = json_of(world.call(tool).send().await.unwrap()).await;
        let (found, word, request_id) = refusal(&body);
        assert_eq!((status, found, word), (200, code, reason));
        let records = world.records(request_id).await;
        assert_eq!((records.len(), records[0].kind), (1, Kind::CallDenied));
        let decision = records[0].decision.as_ref().unwrap();
        assert_eq!((decision.effect, decision.reason.as_deref()), (Effect::Deny, Some(reason)));
        assert_eq!(records[0].user.as_deref(), Some("jane@example.com"));
    }
    assert_eq!(world.server.seen("tools/call").len(), 0);
}

#[tokio::test]
async fn a_token_reaches_no_further_than_its_scope_and_is_told_which_would_do() {
    let world = World::start(Speaks::Modern, PERMIT_ALL).await;
    let of_scope = |scope: &str| token(&bailiwick_token::Claims { scope: scope.into(), ..claims() });
    // A header set again stands beside the first; so the token is put in its place.
    let send = async |request: RequestBuilder, scope: &str| {
        let mut request = request.build().unwrap();
        let bearer = format!("Bearer {}", of_scope(scope)).try_into().unwrap();
        request.headers_mut().insert("authorization", bearer);
        Client::new().execute(request).await.unwrap()
    };
    for (scope, tool, needed) in [
        ("mcp:read", "create_charge", "mcp:write"),
        ("openid mcp:read", "drop_ledger", "mcp:tools"),
        ("mcp:read mcp:write", "drop_ledger", "mcp:tools"),
    ] {
        let answer = send(world.call(tool), scope).await;
        let challenge = answer.headers()["www-authenticate"].to_str().unwrap().to_owned();
        let (start, end) = (
            r#"Bearer error="insufficient_scope", error_description=""#,
            format!(
                r#", resource_metadata="http://gateway.test/.well-known/oauth-protected-resource/mcp/finance", scope="{needed}""#
            ),
        );
        assert!(challenge.starts_with(start) && challenge.ends_with(&end), "{challenge}");
        let (status, body) = json_of(answer).await;
        let (code, reason, request_id) = refusal(&body);
        assert_eq!((status, code, reason, &body["id"]), (403, 403, "scope_insufficient", &json!(7)));
        let records = world.records(request_id).await;
        assert_eq!((records.len(), records[0].kind), (1, Kind::CallDenied));
        let decision = records[0].decision.as_ref().unwrap();
        assert_eq!((decision.effect, decision.reason.as_deref()), (Effect::Deny, Some("scope_insufficient")));
        assert_eq!((records[0].tool.as_deref(), records[0].user.as_deref()), (Some(tool), Some("jane@example.com")));
    }
    assert_eq!(world.server.seen("tools/call").len(), 0);
    for (scope, reached) in [("mcp:read", 1), ("mcp:write", 2), ("mcp:tools", 3)] {
        let (_, list) = json_of(send(world.modern("tools/list", None, ""), scope).await).await;
        let names: Vec<_> = list["result"]["tools"].as_array().unwrap().iter().map(|tool| &tool["name"]).collect();
        assert_eq!(names.len(), reached, "{scope}: {names:?}");
        for name in names {
            let answer = send(world.call(name.as_str().unwrap()), scope).await;
            assert_eq!((answer.status().as_u16(), answer.headers().get("www-authenticate")), (200, None));
        }
    }
}

#[tokio::test]
async fn a_token_of_another_client_than_consented_to_is_refused_with_the_consent() {
    let world = World::start(Speaks::Modern, PERMIT_ALL).await;
    let request = world.call("query_data").build().unwrap();
    let other = token(&bailiwick_token::Claims { client_id: "other".into(), ..claims() });
    let mut stolen = request.try_clone().unwrap();
    stolen.headers_mut().insert("authorization", format!("Bearer {other}").try_into().unwrap());
    let (status, body) = json_of(Client::new().execute(stolen).await.unwrap()).await;
    let (_, reason, request_id) = refusal(&body);
    assert_eq!((status, reason), (200, "consent_missing"));
    assert_eq!(body["error"]["data"]["consent"], "c-1");
    let records = world.records(request_id).await;
    assert_eq!((records[0].client.as_deref(), records[0].consent.as_deref()), (Some("other"), Some("c-1")));
    assert_eq!(Client::new().execute(request).await.unwrap().status(), 200);
    assert_eq!(world.server.seen("tools/call").len(), 1);
}

#[tokio::test]
async fn the_list_shows_exactly_what_may_be_called() {
    let world = World::start(Speaks::Modern, PERMIT_READS).await;
    let (status, body) = json_of(world.modern("tools/list", None, "").send().await.unwrap()).await;
    let names: Vec<_> = body["result"]["tools"].as_array().unwrap().iter().map(|tool| tool["name"].clone()).collect();
    assert_eq!((status, names), (200, vec![json!("query_data")]));
    assert_eq!(body["result"]["cacheScope"], "private");
    world.control.change(policy(PERMIT_ALL), true).await;
    eventually("applied", || world.control.acknowledged(101)).await;
    let (_, body) = json_of(world.modern("tools/list", None, "").send().await.unwrap()).await;
    assert_eq!(body["result"]["tools"].as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn servers_that_misbehave_become_errors_with_a_reason_and_recorded_outcomes() {
    let world = World::start(Speaks::Modern, PERMIT_ALL).await;
    for (mode, reason) in [
        (Mode::Malformed, "upstream_invalid"),
        (Mode::WrongId, "upstream_invalid"),
        (Mode::Hang, "upstream_timeout"),
        (Mode::Status(502), "upstream_refused"),
    ] {
        world.server.set(mode);
        let (status, body) = json_of(world.call("query_data").send().await.unwrap()).await;
        let (_, word, request_id) = refusal(&body);
        assert_eq!((status, word), (200, reason), "{mode:?}");
        let outcome = world.records(request_id).await.pop().unwrap().outcome.unwrap();
        assert_eq!((outcome.status, outcome.error_code.as_deref()), (Status::Error, Some(reason)));
    }
    world.server.set(Mode::ToolError);
    let (_, body) = json_of(world.call("query_data").send().await.unwrap()).await;
    assert_eq!(body["result"]["isError"], true);
}

#[tokio::test]
async fn without_a_ledger_reading_goes_on_and_destruction_does_not() {
    let world = World::with(Speaks::Modern, |url| entries(url, PERMIT_ALL, true), false).await;
    assert!(json_of(world.call("query_data").send().await.unwrap()).await.1["result"].is_object());
    assert!(json_of(world.call("create_charge").send().await.unwrap()).await.1["result"].is_object());
    let before = Instant::now();
    let (_, body) = json_of(world.call("drop_ledger").send().await.unwrap()).await;
    assert_eq!(refusal(&body).1, "ledger_unreachable");
    assert!(before.elapsed() < Duration::from_secs(8));
    let called: Vec<_> =
        world.server.seen("tools/call").iter().map(|seen| seen.body["params"]["name"].clone()).collect();
    assert_eq!(called, ["query_data", "create_charge"]);
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_a_recorded_outcome() {
    let world = World::start(Speaks::Modern, PERMIT_ALL).await;
    world.server.set(Mode::Hang);
    tokio::select! {
        answer = world.call("create_charge").send() => panic!("answered: {answer:?}"),
        () = eventually("forwarded", || !world.server.seen("tools/call").is_empty()) => {}
    }
    let records = world.last_outcome().await;
    let outcome = records[1].outcome.as_ref().unwrap();
    assert_eq!((outcome.status, outcome.error_code.as_deref()), (Status::Unknown, Some("cancelled")));
}

#[tokio::test]
async fn calls_beyond_the_bound_are_refused_on_record_and_the_node_recovers() {
    let world = World::start(Speaks::Modern, PERMIT_ALL).await;
    world.server.set(Mode::Hang);
    // Each takes 1.5 s, until the server's timeout; a place is waited for two seconds. So the third round finds none.
    let flood = (0..3 * CALLS_MAX).map(|_| async { json_of(world.call("query_data").send().await.unwrap()).await.1 });
    let answers = futures::future::join_all(flood).await;
    let overloaded: Vec<_> =
        answers.iter().map(refusal).filter(|(_, reason, _)| *reason == "node_overloaded").collect();
    assert_eq!((overloaded.len(), world.server.seen("tools/call").len()), (CALLS_MAX, 2 * CALLS_MAX));
    for (_, _, request_id) in overloaded {
        let records = world.records(request_id).await;
        assert_eq!(records.iter().map(|record| record.kind).collect::<Vec<_>>(), [Kind::CallDenied]);
        assert_eq!(records[0].decision.as_ref().unwrap().reason.as_deref(), Some("node_overloaded"));
    }
    world.server.set(Mode::Good);
    assert!(json_of(world.call("query_data").send().await.unwrap()).await.1["result"].is_object());
}
