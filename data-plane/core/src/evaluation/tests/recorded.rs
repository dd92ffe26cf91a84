//! What is on record of a decision: what was judged, as a call's record has it, and nothing that only a service says.

use bailiwick_ledger_core::{
    commitment::{SALT_BYTES, opens},
    record::{Effect, Kind, RECORD_BYTES_MAX, Record},
    time::format_ts,
};

use super::*;
use crate::records::committed;

const SALT: [u8; SALT_BYTES] = [6; SALT_BYTES];

/// The record of the decision, as the chain would write it.
fn written(world: &World, question: &Question, body: &str) -> Record {
    let config = world.config();
    let service = config.decision_clients.whose(b"secret").unwrap();
    let evaluated = evaluate(&config, service, question, (Freshness::Leased, NOW), &mut TRIES_MAX.clone());
    let recorded =
        Recorded { service, question, evaluated: &evaluated, config: &config, config_age_ms: 12, request_id: "r-1" };
    let record = recorded.record(format_ts(NOW * 1_000_000), committed(&SALT, Some(body)));
    let bytes = Record { node: "dp-1".into(), prev: "0".repeat(64), ..record }.to_canonical().unwrap();
    assert!(bytes.len() < RECORD_BYTES_MAX);
    Record::parse(&bytes).unwrap()
}

fn recorded(world: &World, body: &Value) -> Record {
    written(world, &asked(body), &body.to_string())
}

fn text(record: &Record) -> String {
    String::from_utf8(record.to_canonical().unwrap()).unwrap()
}

#[test]
fn a_permit_names_who_what_and_by_which_policies_as_a_calls_record_does() {
    let body = call("query_data");
    let record = recorded(&example(), &body);
    assert_eq!((record.kind, record.decision_client.as_deref()), (Kind::DecisionEvaluated, Some("billing")));
    assert_eq!((record.user.as_deref(), record.agent.as_deref()), (Some(JANE), Some("coder")));
    let consent = fixture::consent();
    assert_eq!((record.consent.as_deref(), record.client), (Some("c-1"), Some(consent.client)));
    assert_eq!((record.owner.as_deref(), record.project.as_deref()), (Some(JANE), Some("platform")));
    assert_eq!((record.server.as_deref(), record.tool.as_deref()), (Some("finance"), Some("query_data")));
    assert_eq!((record.tier.as_deref(), record.virtual_server.as_deref()), (Some("retrieval"), Some("finance")));
    assert!(record.tool_hash.is_some_and(|hash| hash.len() == 64));
    assert_eq!((record.rev, record.rev_age_ms, record.request_id.as_deref()), (Some(7), Some(12), Some("r-1")));
    assert_eq!(record.trace.unwrap().method.as_deref(), Some("tools/call"));
    let decision = record.decision.unwrap();
    assert_eq!((decision.effect, decision.reason), (Effect::Permit, None));
    assert_eq!((decision.policies[0].name.as_str(), decision.policies[0].version), ("finance", 3));
    assert!(opens(&record.args.unwrap(), &SALT, body.to_string().as_bytes()));
    assert_eq!((record.session, record.binding, record.outcome, record.intent), (None, None, None, None));
}

#[test]
fn a_denial_says_why_and_names_what_is_known() {
    let world = example();
    let denied = |body: &Value| {
        let record = recorded(&world, body);
        let decision = record.decision.clone().unwrap();
        assert_eq!(decision.effect, Effect::Deny, "{body}");
        (decision.reason.unwrap(), record)
    };
    let agent = with(call("query_data"), "/subject/properties/agent", "nobodys".into());
    let (reason, record) = denied(&agent);
    assert_eq!((reason.as_str(), record.user.as_deref(), record.agent), ("agent_unknown", Some(JANE), None));
    let (reason, record) = denied(&with(call("query_data"), "/resource/properties/virtual_server", "hr".into()));
    assert_eq!((reason.as_str(), record.virtual_server), ("decision_not_for_client", None));
    assert_eq!((record.user.as_deref(), record.agent.as_deref()), (Some(JANE), Some("coder")));
    let (reason, record) = denied(&call("no_such_tool"));
    assert_eq!((reason.as_str(), record.tool, record.server), ("tool_unknown", None, None));
    assert_eq!(record.virtual_server.as_deref(), Some("finance"));
    // Not judged, but known: an auditor sees what the service tried to find out.
    let others = world.clone().with(asking(&["all"], &[]));
    let record = recorded(&others, &call("query_data"));
    assert_eq!(record.decision.unwrap().reason.as_deref(), Some("decision_not_for_client"));
    assert_eq!((record.tool.as_deref(), record.virtual_server.as_deref()), (Some("query_data"), Some("finance")));
    assert_eq!((record.tier, record.owner), (None, None));
}

#[test]
fn what_cannot_be_read_is_on_record_without_names() {
    let record = written(&example(), &Question::Malformed, "{}");
    assert_eq!(record.decision.clone().unwrap().reason.as_deref(), Some("question_malformed"));
    assert_eq!((record.user, record.agent, record.tool, record.trace), (None, None, None, None));
    assert_eq!(record.decision_client.as_deref(), Some("billing"));
}

#[test]
fn nothing_that_only_the_service_says_is_in_a_ledger() {
    let world = example();
    let odd = "hunter2";
    let said = json!({"note": odd, "arguments": {odd: odd}});
    for (pointer, value) in [
        ("/subject/id", json!(odd)),
        ("/subject/type", json!(odd)),
        ("/subject/properties/agent", json!(odd)),
        ("/subject/properties/client", json!(odd)),
        ("/subject/properties/consent", json!(odd)),
        ("/subject/properties/of", json!(odd)),
        ("/action/name", json!(odd)),
        ("/action/properties", said.clone()),
        ("/resource/id", json!(odd)),
        ("/resource/type", json!(odd)),
        ("/resource/properties/virtual_server", json!(odd)),
        ("/resource/properties/server", json!(odd)),
        ("/resource/properties/of", json!(odd)),
        ("/context", said),
    ] {
        let body = with(call("query_data"), pointer, value);
        let record = recorded(&world, &body);
        assert!(!text(&record).contains(odd), "{pointer}: {}", text(&record));
        assert!(opens(&record.args.unwrap(), &SALT, body.to_string().as_bytes()), "{pointer}");
    }
    let prompt = with(with(call(odd), "/action/name", "prompts/get".into()), "/resource/type", "prompt".into());
    let uri = with(call("file:///hunter2"), "/action/name", "resources/read".into());
    let uri = with(uri, "/resource/type", "resource".into());
    for (body, method) in [(prompt, "prompts/get"), (uri, "resources/read")] {
        let record = recorded(&world, &body);
        assert_eq!(record.trace.clone().unwrap().method.as_deref(), Some(method));
        assert!(!text(&record).contains(odd), "{}", text(&record));
    }
}

#[test]
fn the_largest_record_fits() {
    let (world, body) = (example(), call("query_data"));
    let config = world.config();
    let (service, question) = (config.decision_clients.whose(b"secret").unwrap(), asked(&body));
    let mut evaluated = evaluate(&config, service, &question, (Freshness::Leased, NOW), &mut TRIES_MAX.clone());
    evaluated.policies =
        (0..10_000).map(|number| PolicyRef { name: "p".repeat(63), version: u64::MAX - number }).collect();
    let admitted = evaluated.admitted.as_mut().unwrap();
    admitted.decision.earlier_agents = (0..3).map(|_| "a".repeat(63)).collect();
    let recorded = Recorded {
        service,
        question: &question,
        evaluated: &evaluated,
        config: &config,
        config_age_ms: u64::MAX,
        request_id: "r-1",
    };
    let record = recorded.record(format_ts(NOW * 1_000_000), committed(&SALT, None));
    let bytes = Record { node: "dp-1".into(), prev: "0".repeat(64), ..record }.to_canonical().unwrap();
    assert!(bytes.len() < RECORD_BYTES_MAX, "{}", bytes.len());
}
