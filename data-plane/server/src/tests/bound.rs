//! Bound tokens at a whole node: who proves that a token is theirs is served, once for each proof; a thief is not.

use bailiwick_ledger_core::record::Binding;
use bailiwick_proto::v1::{VirtualServer, resource::Resource};

use bailiwick_token::{Claims, binding::BindingKey};

use super::*;
use crate::{
    auth::proofs::unix_ms,
    fakes::{
        holder::{self, BINDING, Bound, DpopKey, Says},
        world::entry,
    },
    random,
};

const META: &str = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{},"io.modelcontextprotocol/clientInfo":{"name":"t","version":"1"}}"#;

fn body_of(tool: &str) -> String {
    let params = format!(r#""name":"{tool}","arguments":{{"q":1.50}},{META}"#);
    format!(r#"{{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{{{params}}}}}"#)
}

/// A call with the headers of a client of its own.
async fn send(url: &str, tool: &str, body: &str, own: &[(&str, &str)]) -> Response {
    let mut request = Client::new()
        .post(format!("{url}/mcp/finance"))
        .header("content-type", "application/json")
        .header("accept", "application/json, text/event-stream")
        .header("mcp-protocol-version", "2026-07-28")
        .header("mcp-method", "tools/call")
        .header("mcp-name", tool);
    for (name, value) in own {
        request = request.header(*name, *value);
    }
    request.body(body.to_owned()).send().await.unwrap()
}

async fn call(world: &World, own: &[(&str, &str)]) -> (u16, Value) {
    json_of(send(&world.node.url, "query_data", &body_of("query_data"), own).await).await
}

async fn call_bound(url: &str, bound: &Bound, proof: &str) -> (u16, Value) {
    let bearer = format!("Bearer {}", bound.token);
    let own = [("authorization", bearer.as_str()), ("bailiwick-proof", proof)];
    json_of(send(url, "query_data", &body_of("query_data"), &own).await).await
}

/// What the record of a refused request says of the token's binding.
async fn binding_of(world: &World, body: &Value) -> Option<Binding> {
    let request_id = refusal(body).2.to_owned();
    world.records(&request_id).await.last().unwrap().binding
}

#[tokio::test]
async fn a_bound_call_is_served_recorded_as_bound_and_its_proof_goes_no_further() {
    let world = World::start(Speaks::Modern, PERMIT_ALL).await;
    let bound = Bound::new();
    let proof = bound.proof(Says::post(body_of("query_data").as_bytes()));
    let (status, body) = call_bound(&world.node.url, &bound, &proof).await;
    assert_eq!((status, body["result"].is_object()), (200, true), "{body}");
    let records = world.last_outcome().await;
    assert!(records.iter().all(|record| record.binding == Some(Binding::Bound)), "{records:?}");
    let seen = world.server.seen("tools/call");
    for name in ["authorization", "bailiwick-proof", "dpop"] {
        assert!(seen.iter().all(|seen| !seen.headers.contains_key(name)), "{name}");
    }
    assert!(!format!("{seen:?}").contains(&bound.token));
    // Whoever is not bound is told so on record, too.
    let (status, _) = json_of(world.call("query_data").send().await.unwrap()).await;
    let ledger = world.ledger.as_ref().unwrap();
    eventually("recorded", || ledger.of_kind(Kind::CallOutcome).len() == 2).await;
    let last = ledger.of_kind(Kind::CallOutcome).pop().unwrap();
    assert_eq!((status, last.binding), (200, Some(Binding::NotRequired)));
}

#[tokio::test]
async fn a_token_without_its_own_proof_of_this_very_request_is_refused_on_record() {
    let world = World::start(Speaks::Modern, PERMIT_ALL).await;
    let (bound, thief) = (Bound::new(), Bound::new());
    let body = body_of("query_data");
    let says = Says::post(body.as_bytes());
    let now = unix_ms();
    let elsewhere = Bound { token: bound.token.clone(), key: thief.key.clone() };
    let table = [
        (bound.proof(Says { path: "/mcp/hr", ..says }), "proof_invalid", Binding::Invalid),
        (bound.proof(Says { method: "GET", ..says }), "proof_invalid", Binding::Invalid),
        (bound.proof(Says { body: b"{}", ..says }), "proof_invalid", Binding::Invalid),
        (bound.proof(Says { unix_ms: now - 61_000, ..says }), "proof_stale", Binding::Stale),
        (bound.proof(Says { unix_ms: now + 20_000, ..says }), "proof_stale", Binding::Stale),
        (elsewhere.proof(says), "proof_invalid", Binding::Invalid),
        (thief.proof(says), "proof_invalid", Binding::Invalid),
        ("v1.nonsense".to_owned(), "proof_invalid", Binding::Invalid),
    ];
    for (proof, expected, status) in table {
        let (code, answer) = call_bound(&world.node.url, &bound, &proof).await;
        assert_eq!((code, refusal(&answer).1), (401, expected), "{proof}");
        assert_eq!(binding_of(&world, &answer).await, Some(status));
        let server_time = answer["error"]["data"]["serverTime"].as_u64();
        assert_eq!(server_time.is_some_and(|time| time >= now), expected == "proof_stale");
    }
    let bearer = format!("Bearer {}", bound.token);
    let (code, answer) = call(&world, &[("authorization", &bearer)]).await;
    assert_eq!((code, refusal(&answer).1), (401, "proof_missing"), "a bound token is no bearer token");
    assert_eq!(binding_of(&world, &answer).await, Some(Binding::Missing));
    let (one, two) = (bound.proof(says), bound.proof(says));
    let own = [("authorization", bearer.as_str()), ("bailiwick-proof", &one), ("bailiwick-proof", &two)];
    let (code, answer) = call(&world, &own).await;
    assert_eq!((code, refusal(&answer).1), (401, "proof_invalid"), "of two proofs none counts");
    assert!(world.server.seen("tools/call").is_empty(), "nothing of it reached the server");
    assert_eq!(call_bound(&world.node.url, &bound, &one).await.0, 200, "neither was used up by that");
}

type Change = fn(&mut Claims);

/// What the issuer's key has signed is not enough: the key in the token opens with its own claims alone.
#[tokio::test]
async fn a_bound_token_with_another_claim_is_nobody_s_though_the_issuer_signed_it() {
    let world = World::start(Speaks::Modern, PERMIT_ALL).await;
    let key = BindingKey::new(random().unwrap());
    let mut sealed = claims();
    holder::seal(BINDING).seal(&mut sealed, &key, random().unwrap()).unwrap();
    let body = body_of("query_data");
    let call = async |change: Change| {
        let mut said = sealed.clone();
        change(&mut said);
        let bound = Bound { token: token(&said), key: key.clone() };
        call_bound(&world.node.url, &bound, &bound.proof(Says::post(body.as_bytes()))).await
    };
    let changes: [(&str, Change); 8] = [
        ("agent_sub", |said| (said.agent_sub, said.act.sub) = ("other".into(), "other".into())),
        ("sub", |said| said.sub = "eve@example.com".into()),
        ("project_id", |said| said.project_id = "other".into()),
        ("exp", |said| said.exp += 3_600),
        ("client_id", |said| said.client_id = "other".into()),
        ("consent_id", |said| said.consent_id = "c-2".into()),
        ("scope", |said| said.scope = "mcp:read".into()),
        ("jti", |said| said.jti = "t-2".into()),
    ];
    for (name, change) in changes {
        let (code, answer) = call(change).await;
        assert_eq!((code, refusal(&answer).1), (401, "proof_invalid"), "{name}");
        assert_eq!(binding_of(&world, &answer).await, Some(Binding::Invalid), "{name}");
    }
    assert!(world.server.seen("tools/call").is_empty());
    let (code, answer) = call(|_| {}).await;
    assert_eq!((code, answer["result"].is_object()), (200, true), "nothing changed: {answer}");
}

#[tokio::test]
async fn a_proof_counts_once_and_so_does_its_nonce() {
    let world = World::start(Speaks::Modern, PERMIT_ALL).await;
    let bound = Bound::new();
    let body = body_of("query_data");
    let says = Says::post(body.as_bytes());
    let proof = bound.proof_with(says, [1; 12]);
    assert_eq!(call_bound(&world.node.url, &bound, &proof).await.0, 200);
    let (code, answer) = call_bound(&world.node.url, &bound, &proof).await;
    assert_eq!((code, refusal(&answer).1), (401, "proof_replayed"));
    assert_eq!(binding_of(&world, &answer).await, Some(Binding::Replayed));
    let same = bound.proof_with(Says { unix_ms: says.unix_ms + 3_000, ..says }, [1; 12]);
    let (code, answer) = call_bound(&world.node.url, &bound, &same).await;
    assert_eq!((code, refusal(&answer).1), (401, "proof_replayed"), "a nonce counts once, whatever time is said");
    let other = Bound::new();
    let same = other.proof_with(says, [1; 12]);
    assert_eq!(call_bound(&world.node.url, &other, &same).await.0, 200, "somebody else's nonce is another one");
    assert_eq!(world.server.seen("tools/call").len(), 2);
}

#[tokio::test]
async fn a_proof_that_was_used_at_one_node_counts_at_no_other_once_that_was_told() {
    let world = World::start(Speaks::Modern, PERMIT_ALL).await;
    let second = Node::start_as(&world.control.url, world.node.stream.clone(), |config| DataPlaneConfig {
        node: "dp-2".into(),
        ..config
    })
    .await;
    eventually("ready", || second.running.as_ref().unwrap().is_ready()).await;
    let (bound, body) = (Bound::new(), body_of("query_data"));
    let told = async {
        loop {
            let proof = bound.proof(Says::post(body.as_bytes()));
            assert_eq!(call_bound(&world.node.url, &bound, &proof).await.0, 200);
            // The window: some 50 ms after its first use.
            tokio::time::sleep(Duration::from_millis(100)).await;
            let (code, answer) = call_bound(&second.url, &bound, &proof).await;
            if code == 401 {
                return refusal(&answer).1.to_owned();
            }
        }
    };
    let reason = tokio::time::timeout(Duration::from_secs(20), told).await.unwrap();
    assert_eq!(reason, "proof_replayed");
}

#[tokio::test]
async fn a_node_takes_no_proof_from_before_its_start() {
    let mut world = World::start(Speaks::Modern, PERMIT_ALL).await;
    let (bound, body) = (Bound::new(), body_of("query_data"));
    let proof = bound.proof(Says::post(body.as_bytes()));
    assert_eq!(call_bound(&world.node.url, &bound, &proof).await.0, 200);
    world.node.stop().await;
    world.node = Node::start(&world.control.url, EventStream::in_process()).await;
    eventually("ready", || world.node.running.as_ref().unwrap().is_ready()).await;
    let (code, answer) = call_bound(&world.node.url, &bound, &proof).await;
    assert_eq!((code, refusal(&answer).1), (401, "proof_stale"));
    // Without a ledger a call is still decided: it is let in.
    let fresh = bound.proof(Says::post(body.as_bytes()));
    let (code, _) = call_bound(&world.node.url, &bound, &fresh).await;
    assert_eq!(code, 200);
}

async fn call_dpop(world: &World, token: &str, proof: Option<&str>) -> Response {
    let scheme = format!("DPoP {token}");
    let mut own = vec![("authorization", scheme.as_str())];
    own.extend(proof.map(|proof| ("dpop", proof)));
    send(&world.node.url, "query_data", &body_of("query_data"), &own).await
}

/// What the first challenge says is wrong, and the nonce that comes with it.
fn challenged(response: &Response) -> (String, String) {
    let challenge = response.headers()["www-authenticate"].to_str().unwrap();
    assert!(
        challenge.starts_with("DPoP error=") && challenge.contains(r#"algs="ES256 EdDSA PS256 RS256""#),
        "{challenge}"
    );
    assert!(challenge.contains("resource_metadata="), "{challenge}");
    let error = challenge.split('"').nth(1).unwrap().to_owned();
    (error, response.headers()["dpop-nonce"].to_str().unwrap().to_owned())
}

#[tokio::test]
async fn a_dpop_client_is_given_a_nonce_and_proves_each_call_once() {
    let world = World::start(Speaks::Modern, PERMIT_ALL).await;
    let key = DpopKey::new(1);
    let token = key.token();
    let (error, _) = challenged(&call_dpop(&world, &token, None).await);
    assert_eq!(error, "invalid_dpop_proof");
    let first = call_dpop(&world, &token, Some(&key.sign(&key.claims(&token, None)))).await;
    let (error, nonce) = challenged(&first);
    assert_eq!((first.status().as_u16(), error.as_str()), (401, "use_dpop_nonce"));
    assert_eq!(refusal(&json_of(first).await.1).1, "proof_stale");
    let proof = key.sign(&key.claims(&token, Some(&nonce)));
    let answer = call_dpop(&world, &token, Some(&proof)).await;
    assert!(!answer.headers().contains_key("dpop-nonce"), "the one it has lasts for a while");
    assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap());
    let records = world.last_outcome().await;
    assert!(records.iter().all(|record| record.binding == Some(Binding::Bound)));
    let again = call_dpop(&world, &token, Some(&proof)).await;
    assert_eq!(challenged(&again).0, "invalid_dpop_proof");
    assert_eq!(refusal(&json_of(again).await.1).1, "proof_replayed");
    let next = key.sign(&key.claims(&token, Some(&nonce)));
    assert_eq!(call_dpop(&world, &token, Some(&next)).await.status(), 200, "a nonce is good for many proofs");
}

#[tokio::test]
async fn a_dpop_proof_of_anything_else_is_refused() {
    let world = World::start(Speaks::Modern, PERMIT_ALL).await;
    let (key, thief) = (DpopKey::new(1), DpopKey::new(2));
    let token = key.token();
    let (_, nonce) = challenged(&call_dpop(&world, &token, None).await);
    let good = || key.claims(&token, Some(&nonce));
    let with = |name: &str, value: Value| {
        let mut claims = good();
        claims[name] = value;
        key.sign(&claims)
    };
    let digest = "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:";
    for (proof, expected) in [
        (thief.sign(&good()), "proof_invalid"),
        (with("htm", "GET".into()), "proof_invalid"),
        (with("htu", "http://gateway.test/mcp/hr".into()), "proof_invalid"),
        (with("htu", "http://evil.test/mcp/finance".into()), "proof_invalid"),
        (with("ath", "x".into()), "proof_invalid"),
        (with("content_digest", digest.into()), "proof_invalid"),
        (with("iat", (unix_ms() / 1000 - 400).into()), "proof_stale"),
        (with("iat", (unix_ms() / 1000 + 400).into()), "proof_stale"),
        (with("nonce", "p1.x".into()), "proof_stale"),
    ] {
        let (status, answer) = json_of(call_dpop(&world, &token, Some(&proof)).await).await;
        assert_eq!((status, refusal(&answer).1), (401, expected), "{proof}");
    }
    // Its own key with the thief's token, and the other way round.
    let theirs = thief.token();
    let proof = key.sign(&key.claims(&theirs, Some(&nonce)));
    let (_, answer) = json_of(call_dpop(&world, &theirs, Some(&proof)).await).await;
    assert_eq!(refusal(&answer).1, "proof_invalid");
    assert!(world.server.seen("tools/call").is_empty());
}

#[tokio::test]
async fn a_token_that_is_bound_one_way_does_not_count_the_other() {
    let world = World::start(Speaks::Modern, PERMIT_ALL).await;
    let (key, bound, body) = (DpopKey::new(1), Bound::new(), body_of("query_data"));
    let (_, nonce) = challenged(&call_dpop(&world, &key.token(), None).await);
    let dpop = |token: &str| key.sign(&key.claims(token, Some(&nonce)));
    let tag = bound.proof(Says::post(body.as_bytes()));
    let plain = token(&claims());
    let named = |scheme: &str, token: &str| format!("{scheme} {token}");
    let table = [
        (named("Bearer", &key.token()), vec![("dpop", dpop(&key.token()))], "proof_missing"),
        (named("Bearer", &key.token()), vec![("bailiwick-proof", tag.clone())], "proof_missing"),
        (named("DPoP", &key.token()), vec![("bailiwick-proof", tag.clone())], "proof_missing"),
        (named("DPoP", &bound.token), vec![("dpop", dpop(&bound.token))], "proof_invalid"),
        (named("DPoP", &bound.token), vec![("bailiwick-proof", tag.clone())], "proof_invalid"),
        (named("Bearer", &bound.token), vec![("dpop", dpop(&bound.token))], "proof_missing"),
        (
            named("Bearer", &bound.token),
            vec![("bailiwick-proof", tag.clone()), ("dpop", dpop(&bound.token))],
            "proof_invalid",
        ),
        (named("DPoP", &plain), vec![("dpop", dpop(&plain))], "proof_invalid"),
    ];
    for (authorization, proofs, expected) in table {
        let mut own = vec![("authorization", authorization.as_str())];
        own.extend(proofs.iter().map(|(name, value)| (*name, value.as_str())));
        let (status, answer) = call(&world, &own).await;
        assert_eq!((status, refusal(&answer).1), (401, expected), "{authorization} {proofs:?}");
    }
    let cut = Claims { cnf: None, binding: None, binding_alg: None, ..claims() };
    let forged = bailiwick_token::SigningKey::from_ed25519_seed(&[9; 32]).unwrap();
    let forged = bailiwick_token::mint(&cut, &forged).unwrap();
    let (status, answer) = call(&world, &[("authorization", &format!("Bearer {}", forged.expose()))]).await;
    assert_eq!((status, refusal(&answer).1), (401, "token_signature"), "a binding cannot be cut off");
    assert!(world.server.seen("tools/call").is_empty());
}

/// Everything of this tier and above is for bound tokens only.
async fn require(world: &World, from: &str) {
    let listed = VirtualServer {
        name: "finance".into(),
        naming: "plain".into(),
        bound_from: from.into(),
        bound_servers: vec!["finance".into()],
        ..VirtualServer::default()
    };
    let revision = world.control.change(entry("virtual_server/finance", Resource::VirtualServer(listed)), true).await;
    eventually("configured", || world.control.acknowledged(revision)).await;
}

#[tokio::test]
async fn where_binding_is_required_a_bearer_token_neither_sees_nor_calls() {
    let world = World::start(Speaks::Modern, PERMIT_ALL).await;
    require(&world, "transactional").await;
    let (_, body) = json_of(world.modern("tools/list", None, "").send().await.unwrap()).await;
    let names: Vec<_> = body["result"]["tools"].as_array().unwrap().iter().map(|tool| &tool["name"]).collect();
    assert_eq!(names, ["query_data"], "lists show what may be called");
    assert_eq!(json_of(world.call("query_data").send().await.unwrap()).await.0, 200);
    let answer = world.call("create_charge").send().await.unwrap();
    let challenges: Vec<_> = answer.headers().get_all("www-authenticate").iter().cloned().collect();
    let challenges: Vec<_> = challenges.iter().map(|value| value.to_str().unwrap()).collect();
    assert!(challenges[0].starts_with(r#"Bearer error="invalid_token""#) && challenges[1].starts_with("DPoP algs="));
    let (status, body) = json_of(answer).await;
    assert_eq!((status, refusal(&body).1), (401, "binding_required"));
    assert_eq!(binding_of(&world, &body).await, Some(Binding::Missing));
    let (bound, sent) = (Bound::new(), body_of("create_charge"));
    let bearer = format!("Bearer {}", bound.token);
    let proof = bound.proof(Says::post(sent.as_bytes()));
    let own = [("authorization", bearer.as_str()), ("bailiwick-proof", proof.as_str())];
    let (status, body) = json_of(send(&world.node.url, "create_charge", &sent, &own).await).await;
    assert_eq!((status, body["result"].is_object()), (200, true), "{body}");
    require(&world, "some later tier").await;
    let (status, body) = json_of(world.call("query_data").send().await.unwrap()).await;
    assert_eq!((status, refusal(&body).1), (401, "binding_required"), "an unknown word requires it of everything");
}

#[tokio::test]
async fn metadata_says_what_a_virtual_server_requires_and_supports() {
    let world = World::start(Speaks::Modern, PERMIT_ALL).await;
    let url = format!("{}/.well-known/oauth-protected-resource/mcp/finance", world.node.url);
    let said = async || json_of(Client::new().get(&url).send().await.unwrap()).await.1;
    for (from, expected) in [(None, None), (Some("transactional"), Some(false)), (Some("retrieval"), Some(true))] {
        if let Some(from) = from {
            require(&world, from).await;
        }
        let said = said().await;
        assert_eq!(said["dpop_bound_access_tokens_required"], expected.unwrap_or(false), "{said}");
        assert_eq!(said["tls_client_certificate_bound_access_tokens"], false, "clients are asked for none here");
        assert_eq!(said["bailiwick_binding_required_from"].as_str(), from);
        assert_eq!(said["dpop_signing_alg_values_supported"], serde_json::json!(["ES256", "EdDSA", "PS256", "RS256"]));
    }
}

#[tokio::test]
async fn policies_see_whether_a_token_is_bound() {
    const CEDAR: &str = r#"permit (principal, action in Action::"call_tool", resource) when { context.bound };"#;
    let world = World::start(Speaks::Modern, CEDAR).await;
    let (_, body) = json_of(world.call("query_data").send().await.unwrap()).await;
    assert_eq!(refusal(&body).1, "policy_denied");
    let (bound, sent) = (Bound::new(), body_of("query_data"));
    let (status, body) = call_bound(&world.node.url, &bound, &bound.proof(Says::post(sent.as_bytes()))).await;
    assert_eq!((status, body["result"].is_object()), (200, true), "{body}");
}
