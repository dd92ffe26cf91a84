//! Records of calls name the whole chain, hold no payload, and always fit.

use bailiwick_ledger_core::{
    commitment::opens,
    record::{RECORD_BYTES_MAX, Status, record_id},
    time::format_ts,
};
use bailiwick_proto::mcp::{Era, RequestId, method};
use serde_json::value::RawValue;

use super::*;
use crate::{
    admission::{ToolRef, Wanted, admit},
    fixture::{NOW, caller, world},
};

const SALT: [u8; SALT_BYTES] = [5; SALT_BYTES];

fn call(name: &str) -> Call {
    Call {
        id: RequestId::from(9),
        era: Era::Modern,
        virtual_server: "finance".into(),
        name: name.into(),
        arguments: RawValue::from_string(r#"{"secret":"hunter2"}"#.into()).ok(),
        meta: None,
        client_name: Some("probe".into()),
        client_version: None,
        capabilities: None,
        method: method::TOOLS_CALL,
        completion: None,
        task: None,
        retry: crate::edge::Retry::default(),
        trace_id: Some("0af7651916cd43dd8448eb211c80319c".into()),
        unrecognised_params: Vec::new(),
    }
}

fn decided(call: &Call) -> Decision {
    admit(&world().config(), &caller(), ToolRef { virtual_server: "finance", name: &call.name }, NOW)
}

/// As the chain would write it.
fn written(record: Record) -> Vec<u8> {
    Record { node: "dp-1".into(), prev: "0".repeat(64), ..record }.to_canonical().unwrap()
}

fn ts() -> String {
    format_ts(NOW * 1_000_000)
}

#[test]
fn intent_and_outcome_name_the_whole_chain_and_hold_no_payload() {
    let (caller, call) = (caller(), call("query_data"));
    let decision = decided(&call);
    let attempt =
        Attempt { caller: &caller, call: (&call).into(), decision: &decision, request_id: "r-1", config_age_ms: 12 };
    let arguments = call.arguments.as_ref().unwrap().get();
    let intent = attempt.intent(ts(), committed(&SALT, Some(arguments)));
    assert_eq!(intent.user.as_deref(), Some("jane@example.com"));
    assert_eq!((intent.owner.as_deref(), intent.project.as_deref()), (Some("jane@example.com"), Some("platform")));
    assert_eq!((intent.server.as_deref(), intent.tool.as_deref()), (Some("finance"), Some("query_data")));
    assert_eq!((intent.rev, intent.rev_age_ms, intent.tier.as_deref()), (Some(7), Some(12), Some("retrieval")));
    let taken = intent.decision.clone().unwrap();
    assert_eq!((taken.effect, taken.reason), (Effect::Permit, None));
    assert_eq!((taken.policies[0].name.as_str(), taken.policies[0].version), ("finance", 3));
    assert!(opens(intent.args.as_ref().unwrap(), &SALT, arguments.as_bytes()));
    let bytes = written(intent);
    assert!(!String::from_utf8(bytes.clone()).unwrap().contains("hunter2"));
    assert!(Record::parse(&bytes).is_ok());

    let outcome = Outcome { status: Status::Ok, error_code: None, latency_us: Some(5), bytes: Some(2), cost: None };
    let outcome = attempt.outcome(ts(), record_id(&bytes), outcome, Some(committed(&SALT, Some("{}"))));
    assert_eq!(outcome.intent, Some(record_id(&bytes)));
    assert!(outcome.decision.is_none());
    assert!(Record::parse(&written(outcome)).is_ok());
}

#[test]
fn a_denial_of_an_unknown_tool_says_what_was_asked() {
    let (caller, call) = (caller(), call("no_such_tool"));
    let decision = decided(&call);
    let attempt =
        Attempt { caller: &caller, call: (&call).into(), decision: &decision, request_id: "r-1", config_age_ms: 0 };
    let denied = attempt.denied(ts(), Reason::ToolUnknown, committed(&SALT, None));
    assert_eq!((denied.server.as_deref(), denied.tool.as_deref()), (None, Some("no_such_tool")));
    let taken = denied.decision.clone().unwrap();
    assert_eq!((taken.effect, taken.reason.as_deref()), (Effect::Deny, Some("tool_unknown")));
    assert_eq!(denied.args.as_ref().unwrap().summary, "absent");
    assert!(Record::parse(&written(denied)).is_ok());
}

#[test]
fn a_use_of_a_prompt_or_resource_is_recorded_under_its_method_and_without_a_tool() {
    let permit = r#"permit (principal, action == Action::"get_prompt", resource);"#;
    let config = world().with(crate::fixture::policy("prompts", 4, permit)).config();
    for (rpc_method, name, expected) in [
        (method::PROMPTS_GET, "summary", None),
        (method::RESOURCES_READ, "file:///hunter2", Some(Reason::PolicyDenied)),
        (method::RESOURCES_READ, "file:///hunter2/..", Some(Reason::ResourceUriInvalid)),
        (method::PROMPTS_GET, "", Some(Reason::PromptUnknown)),
    ] {
        let caller = caller();
        let call = Call { method: rpc_method, ..call(name) };
        let wanted = Wanted { virtual_server: "finance", what: call.what() };
        let decision = admit(&config, &caller, wanted, NOW);
        assert_eq!(decision.reason, expected, "{name}");
        let is_known = decision.found.is_some();
        let attempt =
            Attempt { caller: &caller, call: (&call).into(), decision: &decision, request_id: "r-1", config_age_ms: 0 };
        let args = committed(&SALT, call.recorded().as_ref().map(|recorded| recorded.get()));
        let record = match expected {
            None => attempt.intent(ts(), args),
            Some(reason) => attempt.denied(ts(), reason, args),
        };
        assert_eq!((record.tool.as_deref(), record.tool_hash.as_deref()), (None, None));
        assert_eq!(record.server.as_deref(), is_known.then_some("finance"));
        assert_eq!(record.tier.as_deref(), is_known.then_some("retrieval"));
        assert_eq!(record.trace.as_ref().unwrap().method.as_deref(), Some(rpc_method));
        assert_eq!(record.decision.as_ref().unwrap().reason.as_deref(), expected.map(Reason::as_str));
        assert!(record.args.is_some());
        let bytes = written(record);
        assert!(Record::parse(&bytes).is_ok());
        assert!(!String::from_utf8(bytes).unwrap().contains("hunter2"));
    }
}

#[test]
fn the_largest_record_fits() {
    let wide = "🦀".repeat(10_000);
    let call = Call {
        id: RequestId::Text("\u{1}".repeat(42).into()),
        client_name: Some(wide.clone()),
        client_version: Some("\u{1}".repeat(10_000)),
        ..call("no_such_tool")
    };
    let call = Call { name: wide, ..call };
    let policy = |number: u64| bailiwick_policy::PolicyRef { name: "p".repeat(63), version: u64::MAX - number };
    let decision = Decision { policies: (0..10_000).map(policy).collect(), ..decided(&call) };
    let caller = Caller { user: "u".repeat(254), agent: "a".repeat(63), ..caller() };
    let attempt = Attempt {
        caller: &caller,
        call: (&call).into(),
        decision: &decision,
        request_id: "r-1",
        config_age_ms: u64::MAX,
    };
    let bytes = written(attempt.denied(ts(), Reason::PolicyDenied, committed(&SALT, Some("\"x\""))));
    assert!(bytes.len() < RECORD_BYTES_MAX, "{}", bytes.len());
}

#[test]
fn a_record_says_whether_the_token_was_bound_and_what_was_wrong_with_its_proof() {
    let (bearer, bound) = (caller(), Caller { bound: true, ..caller() });
    let call = call("query_data");
    let decision = decided(&call);
    let attempt =
        |caller| Attempt { caller, call: (&call).into(), decision: &decision, request_id: "r-1", config_age_ms: 1 };
    let args = || committed(&SALT, None);
    for (caller, expected) in [(&bearer, Binding::NotRequired), (&bound, Binding::Bound)] {
        assert_eq!(attempt(caller).intent(String::new(), args()).binding, Some(expected));
        let denied = attempt(caller).denied(String::new(), Reason::PolicyDenied, args());
        assert_eq!(denied.binding, Some(expected));
    }
    assert_eq!(binding_unproven(true, Reason::RequestTooLarge), None, "its proof was not looked at to the end");
    assert_eq!(binding_unproven(false, Reason::RequestTooLarge), Some(Binding::NotRequired));
    let denied = attempt(&bearer).denied(String::new(), Reason::BindingRequired, args());
    assert_eq!(denied.binding, Some(Binding::Missing));
    for (reason, expected) in [
        (Reason::ProofMissing, Binding::Missing),
        (Reason::ProofInvalid, Binding::Invalid),
        (Reason::ProofStale, Binding::Stale),
        (Reason::ProofReplayed, Binding::Replayed),
    ] {
        assert_eq!(binding_of(true, Some(reason)), expected);
        assert_eq!(binding_unproven(true, reason), Some(expected));
    }
}
