//! Decisions for services: the same as calls get, about what is theirs to ask about, and nothing else. How questions
//! are read is in `reading`, what is on record of them in `recorded`.

mod reading;
mod recorded;

use aws_lc_rs::digest;
use bailiwick_proto::v1::{self, resource::Resource as Kind};

use super::{
    question::{Asked, read},
    *,
};
use crate::fixture::{self, NOW, World, caller, entry, narrowed, policy, server, world};

const JANE: &str = "jane@example.com";

fn asking(virtual_servers: &[&str], servers: &[&str]) -> v1::Entry {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    entry(
        "decision_client/billing",
        Kind::DecisionClient(v1::DecisionClient {
            name: "billing".into(),
            secret_sha256: vec![hex::encode(digest::digest(&digest::SHA256, b"secret"))],
            virtual_servers: names(virtual_servers),
            servers: names(servers),
        }),
    )
}

fn asked(body: &Value) -> Question {
    match read(body.to_string().as_bytes(), false) {
        Ok(Asked::One(question)) => *question,
        other => panic!("{other:?}"),
    }
}

/// Jane's coder wants to call a tool at `finance`.
fn call(tool: &str) -> Value {
    json!({
        "subject": {"type": "user", "id": JANE, "properties": {"agent": "coder"}},
        "action": {"name": "tools/call"},
        "resource": {"type": "tool", "id": tool, "properties": {"virtual_server": "finance"}},
    })
}

fn with(mut body: Value, pointer: &str, value: Value) -> Value {
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    body.pointer_mut(parent).unwrap()[key] = value;
    body
}

fn evaluated_at(world: &World, body: &Value, freshness: Freshness, now: i64) -> Evaluated {
    let config = world.config();
    let service = config.decision_clients.whose(b"secret").unwrap();
    evaluate(&config, service, &asked(body), (freshness, now), &mut TRIES_MAX.clone())
}

fn evaluated(world: &World, body: &Value) -> Evaluated {
    evaluated_at(world, body, Freshness::Leased, NOW)
}

fn reason(world: &World, body: &Value) -> Option<Reason> {
    evaluated(world, body).reason
}

fn example() -> World {
    world().with(asking(&["finance"], &[]))
}

fn consent_with(change: impl FnOnce(&mut v1::Consent)) -> v1::Entry {
    let mut consent = fixture::consent();
    change(&mut consent);
    entry(&format!("consent/{}", consent.id), Kind::Consent(consent))
}

#[test]
fn the_answer_is_the_one_that_a_call_gets() {
    let agent = |ceiling: &str, active| entry("agent/coder", fixture::agent(ceiling, active));
    let quarantined =
        v1::Tool { quarantined: true, ..fixture::tool("finance", &fixture::definition("query_data"), "retrieval") };
    for (world, tool) in [
        (example(), "query_data"),
        (example(), "drop_ledger"),
        (example(), "no_such_tool"),
        (example().without("user/jane@example.com"), "query_data"),
        (example().with(entry("user/jane@example.com", fixture::user(false))), "query_data"),
        (example().without("agent/coder"), "query_data"),
        (example().with(agent("destructive", false)), "query_data"),
        (example().with(agent("retrieval", true)), "create_charge"),
        (example().without("consent/c-1"), "query_data"),
        (example().with(consent_with(|consent| consent.revoked = true)), "query_data"),
        (example().with(consent_with(|consent| consent.expires_at = NOW)), "query_data"),
        (example().with(consent_with(|consent| consent.level = "retrieval".into())), "create_charge"),
        (example().with(entry("consent/c-1", Kind::Consent(narrowed(&["finance/query_data"])))), "create_charge"),
        (example().with(entry("consent/c-1", Kind::Consent(narrowed(&["finance/query_data"])))), "query_data"),
        (example().with(policy("finance", 4, "permit (principal, action, resource) when { false };")), "query_data"),
        (example().without("policy/finance"), "query_data"),
        (example().with(fixture::tool_entry(quarantined)), "query_data"),
    ] {
        let config = world.config();
        let wanted = Wanted { virtual_server: "finance", what: What::Tool(tool) };
        let called = admit(&config, &caller(), wanted, NOW);
        for body in [call(tool), with(call(tool), "/subject/properties/consent", "c-1".into())] {
            let evaluated = evaluated(&world, &body);
            assert_eq!(evaluated.reason, called.reason, "{tool} {body}");
            assert_eq!(evaluated.policies, called.policies.to_vec());
            assert_eq!(evaluated.tier, called.found.as_ref().map(Found::tier));
        }
    }
}

#[test]
fn without_a_name_each_consent_that_there_is_counts_and_one_that_permits_is_enough() {
    let more = |id: &str, level: &str, client: &str| {
        consent_with(|consent| {
            (consent.id, consent.level, consent.client) = (id.into(), level.into(), client.into());
            consent.expires_at += 60;
        })
    };
    let revoked = consent_with(|consent| consent.revoked = true);
    let world = example().with(revoked).with(more("c-2", "retrieval", "ide")).with(more("c-3", "destructive", "cli"));
    let found = evaluated(&world, &call("create_charge"));
    assert_eq!((found.reason, found.consent.as_deref()), (None, Some("c-3")));
    let of_ide = with(call("create_charge"), "/subject/properties/client", "ide".into());
    let found = evaluated(&world, &of_ide);
    assert_eq!((found.reason, found.consent.as_deref()), (Some(Reason::ConsentLevelExceeded), Some("c-2")));
    let named = |id: &str| reason(&world, &with(call("create_charge"), "/subject/properties/consent", id.into()));
    assert_eq!(named("c-1"), Some(Reason::ConsentRevoked));
    assert_eq!(named("c-2"), Some(Reason::ConsentLevelExceeded));
    assert_eq!(named("c-3"), None);
    assert_eq!(named("c-4"), Some(Reason::ConsentMissing));
    // The consent says whose agent acts, where the service does not.
    let by_consent = with(call("query_data"), "/subject/properties", json!({"consent": "c-3"}));
    assert_eq!(reason(&world, &by_consent), None);
    assert_eq!(reason(&world, &with(by_consent, "/subject/id", "eve@example.com".into())), Some(Reason::UserUnknown));
    let nobodys = with(call("query_data"), "/subject/properties", json!({}));
    assert_eq!(reason(&world, &nobodys), Some(Reason::AgentUnknown), "no agent's consent stands for another's");
}

#[test]
fn one_consent_of_many_thousands_is_found_and_many_of_one_person_are_bounded() {
    let mut world = example();
    for number in 0..2_000 {
        world.0.push(consent_with(|consent| {
            (consent.id, consent.user) = (format!("o-{number}"), format!("p{number}@example.com"));
        }));
        world.0.push(consent_with(|consent| {
            (consent.id, consent.revoked) = (format!("r-{number}"), number % 2 == 0);
            consent.virtual_server = "all".into();
        }));
    }
    world.0.retain(|entry| entry.key != "consent/r-1999");
    let config = world.config();
    assert_eq!(config.people.consents(JANE, "coder", CONSENTS_READ_MAX).len(), CONSENTS_READ_MAX);
    let of_one = with(call("query_data"), "/subject/id", "p7@example.com".into());
    assert_eq!(reason(&world, &of_one), Some(Reason::UserUnknown));
    assert_eq!(config.people.consents("p7@example.com", "coder", 9).len(), 1);
}

#[test]
fn what_does_not_count_any_more_is_not_tried_and_a_request_has_so_many_tries() {
    let of = |number: usize, change: fn(&mut v1::Consent)| {
        consent_with(|consent| {
            consent.id = format!("x-{number}");
            change(consent);
        })
    };
    let mut world = example();
    world.0.extend((0..70).map(|number| of(number, |consent| consent.revoked = true)));
    world.0.extend((70..140).map(|number| of(number, |consent| consent.expires_at = NOW)));
    let evaluated = |world: &World, body: &Value, tries: &mut usize| {
        let config = world.config();
        let service = config.decision_clients.whose(b"secret").unwrap();
        evaluate(&config, service, &asked(body), (Freshness::Leased, NOW), tries)
    };
    let mut tries = 10;
    let found = evaluated(&world, &call("query_data"), &mut tries);
    assert_eq!((found.reason, found.consent.as_deref(), tries), (None, Some("c-1"), 9));
    // None of these is enough, and each is tried.
    world.0.extend((140..240).map(|number| of(number, |consent| consent.level = "retrieval".into())));
    let world = world.without("consent/c-1");
    let found = evaluated(&world, &call("create_charge"), &mut tries);
    assert_eq!((found.reason, found.consent, tries), (Some(Reason::QuestionTooBroad), None, 0));
    assert_eq!(evaluated(&world, &call("query_data"), &mut tries).reason, Some(Reason::QuestionTooBroad));
    let mut tries = TRIES_MAX;
    let found = evaluated(&world, &call("create_charge"), &mut tries);
    assert_eq!((found.reason, TRIES_MAX - tries), (Some(Reason::ConsentLevelExceeded), CONSENTS_TRIED_MAX));
    // Whoever has none costs nothing.
    assert_eq!(
        evaluated(&world, &with(call("query_data"), "/subject/id", "eve".into()), &mut 0).reason,
        Some(Reason::UserUnknown)
    );
}

#[test]
fn a_service_is_told_only_about_what_is_its_own_to_ask_about() {
    let not_its_own = Some(Reason::DecisionNotForClient);
    let about = |tool: &str, place: Value| with(call(tool), "/resource/properties", place);
    let both = World(example().0).with(asking(&["finance"], &["hr"]));
    let of_hr = example().with(asking(&[], &["hr"]));
    let named = with(
        about("list_people", json!({"virtual_server": "finance", "server": "hr"})),
        "/subject/properties/consent",
        "c-1".into(),
    );
    let of_finance = example().with(asking(&[], &["finance"]));
    for (world, body, expected) in [
        (&example(), about("finance__query_data", json!({"virtual_server": "all"})), not_its_own),
        (&example(), about("nothing", json!({"virtual_server": "all"})), not_its_own),
        (&example(), about("nothing", json!({"virtual_server": "nowhere"})), not_its_own),
        (&example(), about("list_people", json!({"server": "hr"})), not_its_own),
        (&example(), about("query_data", json!({"server": "finance"})), None),
        (&example(), about("query_data", json!({})), None),
        (&of_finance, about("query_data", json!({"virtual_server": "finance"})), None),
        (&of_finance, about("query_data", json!({})), None),
        (&of_finance, about("list_people", json!({"server": "hr"})), not_its_own),
        (&of_finance, about("hr__list_people", json!({"virtual_server": "all"})), not_its_own),
        (&of_finance, about("nothing", json!({"virtual_server": "finance"})), not_its_own),
        (&of_finance, about("nothing", json!({"server": "finance"})), Some(Reason::ToolUnknown)),
        (&of_hr, about("list_people", json!({"virtual_server": "finance", "server": "hr"})), not_its_own),
        (&of_hr, about("nothing", json!({"virtual_server": "nowhere", "server": "hr"})), not_its_own),
        (&of_hr, named, not_its_own),
        (&both, about("query_data", json!({})), Some(Reason::QuestionMalformed)),
        (&both, about("list_people", json!({"server": "hr"})), Some(Reason::ConsentMissing)),
    ] {
        let found = evaluated(world, &body);
        assert_eq!(found.reason, expected, "{body}");
        if expected == not_its_own {
            assert!(found.policies.is_empty() && found.tier.is_none() && found.consent.is_none());
        }
    }
}

#[test]
fn a_servers_own_prompts_and_resources_are_found_under_each_naming() {
    let cedar = r#"permit (principal, action in [Action::"get_prompt", Action::"read_resource"], resource);"#;
    let world = example().with(policy("finance", 4, cedar)).with(server("finance"));
    let body = |action: &str, kind: &str, id: &str, place: Value| {
        json!({
            "subject": {"type": "identity", "id": JANE}, "context": {"agent": "coder"},
            "action": {"name": action}, "resource": {"type": kind, "id": id, "properties": place},
        })
    };
    for place in [json!({"virtual_server": "finance"}), json!({"server": "finance"})] {
        assert_eq!(reason(&world, &body("prompts/get", "prompt", "summary", place.clone())), None, "{place}");
        assert_eq!(reason(&world, &body("resources/read", "resource", "file:///a", place)), None);
    }
    let all = consent_with(|consent| (consent.id, consent.virtual_server) = ("c-2".into(), "all".into()));
    let world = world.with(all).with(asking(&["all"], &[])).without("consent/c-1");
    let of_server = json!({"virtual_server": "all", "server": "finance"});
    for (action, kind, own, given) in [
        ("prompts/get", "prompt", "summary", "finance__summary"),
        ("resources/read", "resource", "file:///a", "mcp+finance+file:///a"),
    ] {
        assert_eq!(reason(&world, &body(action, kind, own, of_server.clone())), None, "{own}");
        assert_eq!(reason(&world, &body(action, kind, given, json!({"virtual_server": "all"}))), None, "{given}");
        let unknown = reason(&world, &body(action, kind, own, json!({"virtual_server": "all"})));
        assert!(matches!(unknown, Some(Reason::PromptUnknown | Reason::ResourceUnknown)), "{unknown:?}");
    }
    let two_readings = body("resources/read", "resource", "file:///a/../b", of_server);
    assert_eq!(reason(&world, &two_readings), Some(Reason::ResourceUriInvalid));
}

#[test]
fn what_is_not_decided_about_is_denied_by_name() {
    for (pointer, value, expected) in [
        ("/action/name", "tools/list", Reason::MethodUnsupported),
        ("/action/name", "can_read", Reason::MethodUnsupported),
        ("/resource/type", "document", Reason::QuestionUnsupported),
        ("/resource/type", "prompt", Reason::QuestionUnsupported),
        ("/subject/type", "group", Reason::QuestionUnsupported),
    ] {
        assert_eq!(reason(&example(), &with(call("query_data"), pointer, value.into())), Some(expected), "{value}");
    }
}

#[test]
fn a_node_that_is_not_current_permits_only_what_it_would_let_go() {
    let at = |tool: &str, freshness| evaluated_at(&example(), &call(tool), freshness, NOW).reason;
    for (tool, freshness, expected) in [
        ("query_data", Freshness::Leased, None),
        ("query_data", Freshness::Unleased, None),
        ("query_data", Freshness::Expired, Some(Reason::ConfigStale)),
        ("drop_ledger", Freshness::Leased, None),
        ("drop_ledger", Freshness::Unleased, Some(Reason::ConfigStale)),
    ] {
        assert_eq!(at(tool, freshness), expected, "{tool} {freshness:?}");
    }
}

#[test]
fn an_argument_that_the_virtual_server_sets_is_refused_as_in_a_call() {
    let fixing = fixture::finance_with(|listed| {
        let fixed = r#"{"region":"eu"}"#.into();
        let view = v1::ToolView { tool: "by_region".into(), fixed, ..v1::ToolView::default() };
        listed.views =
            vec![v1::ServerView { server: "finance".into(), tools: vec![view], ..v1::ServerView::default() }];
    });
    let world = example().with(fixing);
    let sending = |arguments: Value| with(call("by_region"), "/context", json!({"arguments": arguments}));
    assert_eq!(reason(&world, &sending(json!({}))), None);
    assert_eq!(reason(&world, &sending(json!({"region": "eu"}))), Some(Reason::ArgumentFixed));
    assert_eq!(reason(&example(), &sending(json!({"region": "eu"}))), None);
}

#[test]
fn an_answer_says_what_decided_and_no_more() {
    let permitted = evaluated(&example(), &call("query_data")).to_json(7, 12, "r-1");
    assert_eq!(
        permitted,
        json!({"decision": true, "context": {
            "revision": "7", "config_age_ms": 12, "request_id": "r-1", "policies": ["finance"], "tier": "retrieval", "consent": "c-1",
        }})
    );
    let foreign = with(call("query_data"), "/resource/properties/virtual_server", "all".into());
    let denied = evaluated(&example(), &foreign).to_json(7, 12, "r-1");
    assert_eq!(
        denied,
        json!({"decision": false, "context": {
            "reason": "decision_not_for_client", "sentence": Reason::DecisionNotForClient.sentence(),
            "revision": "7", "config_age_ms": 12, "request_id": "r-1", "policies": [],
        }})
    );
}
