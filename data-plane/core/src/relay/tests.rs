//! What of a server's talk reaches a client, and for how long a server is waited for.

use bailiwick_proto::mcp::{Answered, Response, VERSION_2025_11_25, read_incoming};
use serde_json::{Value, json};

use super::{
    input::{INPUTS_MAX, Input, NoInput},
    *,
};
use crate::{forward, naming::Naming, sealed::request_state::RequestState};

const LEGACY: Era = Era::Legacy(VERSION_2025_11_25);
const PATIENCE: Duration = Duration::from_secs(30);
const NO_TIME: Duration = Duration::ZERO;

fn text(value: &Value) -> Box<RawValue> {
    mcp::raw(value)
}

fn call(era: Era, meta: &Value, capabilities: &Value) -> Call {
    Call {
        id: RequestId::from(1),
        era,
        virtual_server: "finance".into(),
        method: method::TOOLS_CALL,
        name: "query_data".into(),
        arguments: None,
        completion: None,
        task: None,
        retry: crate::edge::Retry::default(),
        meta: Some(text(meta)),
        client_name: None,
        client_version: None,
        trace_id: None,
        capabilities: Some(text(capabilities)),
        unrecognised_params: Vec::new(),
    }
}

fn own() -> RequestId {
    RequestId::from(7)
}

fn said(message: &Value) -> Incoming {
    read_incoming(message.to_string().as_bytes(), &own()).unwrap()
}

fn notified(of: &str, params: &Value) -> Incoming {
    said(&json!({"jsonrpc": "2.0", "method": of, "params": params}))
}

fn asked(of: &str) -> Incoming {
    said(&json!({"jsonrpc": "2.0", "id": "s-1", "method": of, "params": {"message": "which?"}}))
}

fn told(act: &Act) -> Option<Value> {
    match act {
        Act::Tell(body) => Some(serde_json::from_slice(body).unwrap()),
        Act::Ask(_) | Act::Answer(_) | Act::Drop | Act::Cut(_) => None,
    }
}

#[test]
fn progress_reaches_who_asked_for_it_under_their_own_token() {
    let progress = |token: Value| notified(method::PROGRESS, &json!({"progressToken": token, "progress": 0.50}));
    let mut asking = Relay::new(&call(LEGACY, &json!({"progressToken": "mine"}), &json!({})), PATIENCE);
    let heard = asking.heard(LEGACY, &own(), &progress(json!(7)), NO_TIME);
    assert_eq!(told(&heard).unwrap()["params"], json!({"progressToken": "mine", "progress": 0.5}));
    for of_another in [json!(8), json!("7"), json!(null)] {
        assert_eq!(asking.heard(LEGACY, &own(), &progress(of_another), NO_TIME), Act::Drop);
    }
    let mut silent = Relay::new(&call(LEGACY, &json!({}), &json!({})), PATIENCE);
    assert_eq!(silent.heard(LEGACY, &own(), &progress(json!(7)), NO_TIME), Act::Drop);
}

#[test]
fn a_modern_client_hears_log_lines_from_the_level_on_that_it_wants() {
    let line = |level: &str| notified(method::LOG, &json!({"level": level, "data": "x"}));
    let level = |wanted: Option<&str>| {
        let meta = wanted.map_or(json!({}), |wanted| json!({"io.modelcontextprotocol/logLevel": wanted}));
        Relay::new(&call(Era::Modern, &meta, &json!({})), PATIENCE)
    };
    for (wanted, said, heard) in [
        (None, "emergency", false),
        (Some("warning"), "info", false),
        (Some("warning"), "warning", true),
        (Some("debug"), "debug", true),
        (Some("loud"), "emergency", false),
        (Some("debug"), "loud", false),
    ] {
        let act = level(wanted).heard(Era::Modern, &own(), &line(said), NO_TIME);
        assert_eq!(told(&act).is_some(), heard, "{wanted:?} {said}");
    }
    let mut legacy = Relay::new(&call(LEGACY, &json!({}), &json!({})), PATIENCE);
    assert!(told(&legacy.heard(LEGACY, &own(), &line("debug"), NO_TIME)).is_some());
}

#[test]
fn what_becomes_of_a_task_is_told_to_listeners_and_not_with_a_call() {
    let news = notified(method::TASK_TOLD, &json!({"taskId": "own-1", "status": "working"}));
    for (client, server) in [(Era::Modern, Era::Modern), (LEGACY, Era::Modern), (LEGACY, LEGACY)] {
        let mut relay = Relay::new(&call(client, &json!({}), &json!({})), PATIENCE);
        assert_eq!(relay.heard(server, &own(), &news, NO_TIME), Act::Drop);
    }
}

#[test]
fn changes_are_told_on_the_stream_of_a_request_in_the_legacy_era_only_and_unknown_words_in_both() {
    for (of, in_modern) in [
        ("notifications/tools/list_changed", false),
        ("notifications/resources/updated", false),
        ("notifications/com.example/anything", true),
    ] {
        for (era, expected) in [(LEGACY, true), (Era::Modern, in_modern)] {
            let mut relay = Relay::new(&call(era, &json!({}), &json!({})), PATIENCE);
            let act = relay.heard(LEGACY, &own(), &notified(of, &json!({"x": 1})), NO_TIME);
            assert_eq!(told(&act).is_some(), expected, "{of} {era:?}");
        }
    }
    let mut relay = Relay::new(&call(LEGACY, &json!({}), &json!({})), PATIENCE);
    let cancelled = notified(method::CANCELLED, &json!({"requestId": 3}));
    assert_eq!(relay.heard(LEGACY, &own(), &cancelled, NO_TIME), Act::Drop);
}

#[test]
fn a_flood_of_notifications_is_cut_off_and_the_answer_still_waited_for() {
    let mut relay = Relay::new(&call(LEGACY, &json!({}), &json!({})), PATIENCE);
    let line = notified(method::LOG, &json!({"level": "info", "data": "x"}));
    let passed = (0..NOTIFICATIONS_MAX * 2)
        .filter(|_| matches!(relay.heard(LEGACY, &own(), &line, NO_TIME), Act::Tell(_)))
        .count();
    assert_eq!(passed, NOTIFICATIONS_MAX as usize);
    assert_eq!(relay.until(), PATIENCE);
}

#[test]
fn a_legacy_client_is_asked_what_it_declared_that_it_answers() {
    for (of, declared, is_asked) in [
        (method::ELICIT, json!({"elicitation": {}}), true),
        (method::ELICIT, json!({"sampling": {}}), false),
        (method::SAMPLE, json!({"sampling": {}}), true),
        (method::ROOTS, json!({"roots": {"listChanged": true}}), true),
        (method::ROOTS, json!({}), false),
        ("com.example/secrets", json!({"com.example/secrets": {}}), false),
    ] {
        let mut relay = Relay::new(&call(LEGACY, &json!({}), &declared), PATIENCE);
        match relay.heard(LEGACY, &own(), &asked(of), NO_TIME) {
            Act::Ask(question) => {
                assert!(is_asked, "{of} {declared}");
                let body: Value = serde_json::from_slice(&question.body("sealed")).unwrap();
                assert_eq!(
                    body,
                    json!({"jsonrpc": "2.0", "id": "sealed", "method": of, "params": {"message": "which?"}})
                );
            }
            Act::Answer(body) => {
                assert!(!is_asked, "{of} {declared}");
                let body: Value = serde_json::from_slice(&body).unwrap();
                assert_eq!((&body["id"], &body["error"]["code"]), (&json!("s-1"), &json!(-32601)));
            }
            act @ (Act::Tell(_) | Act::Drop | Act::Cut(_)) => panic!("{act:?}"),
        }
    }
    let mut relay = Relay::new(&call(LEGACY, &json!({}), &json!({})), PATIENCE);
    let Act::Answer(body) = relay.heard(LEGACY, &own(), &asked(method::PING), NO_TIME) else { panic!("no answer") };
    assert_eq!(serde_json::from_slice::<Value>(&body).unwrap()["result"], json!({}));
}

#[test]
fn a_server_that_asks_what_it_may_not_is_cut_off() {
    let declared = json!({"elicitation": {}});
    let mut modern = Relay::new(&call(LEGACY, &json!({}), &declared), PATIENCE);
    assert!(matches!(modern.heard(Era::Modern, &own(), &asked(method::ELICIT), NO_TIME), Act::Cut(_)));
    let mut endless = Relay::new(&call(LEGACY, &json!({}), &declared), PATIENCE);
    let acts: Vec<Act> =
        (0..=ASKS_MAX).map(|_| endless.heard(LEGACY, &own(), &asked(method::ELICIT), NO_TIME)).collect();
    assert_eq!(acts.iter().filter(|act| matches!(act, Act::Ask(_))).count(), ASKS_MAX as usize);
    assert!(matches!(acts.last(), Some(Act::Cut(_))));
}

#[test]
fn progress_and_questions_lengthen_the_wait_but_never_beyond_the_longest() {
    let declared = json!({"elicitation": {}});
    let mut relay = Relay::new(&call(LEGACY, &json!({"progressToken": 1}), &declared), PATIENCE);
    let progress = notified(method::PROGRESS, &json!({"progressToken": 7, "progress": 1}));
    let at = Duration::from_secs(20);
    relay.heard(LEGACY, &own(), &notified(method::LOG, &json!({"level": "info", "data": ""})), at);
    assert_eq!(relay.until(), PATIENCE, "talk alone does not lengthen it");
    relay.heard(LEGACY, &own(), &progress, at);
    assert_eq!(relay.until(), at + PATIENCE);
    relay.heard(LEGACY, &own(), &asked(method::ELICIT), at);
    assert_eq!(relay.until(), at + ANSWER_WAIT_MAX);
    relay.heard(LEGACY, &own(), &progress, TOTAL_MAX * 2);
    assert_eq!(relay.until(), TOTAL_MAX);
}

#[test]
fn all_rounds_of_a_call_share_its_bounds() {
    let mut relay = Relay::new(&call(LEGACY, &json!({}), &json!({"elicitation": {}})), PATIENCE);
    let line = notified(method::LOG, &json!({"level": "info", "data": "x"}));
    let tell = |relay: &mut Relay, count: u32| {
        (0..count).filter(|_| matches!(relay.heard(Era::Modern, &own(), &line, NO_TIME), Act::Tell(_))).count()
    };
    assert_eq!(tell(&mut relay, NOTIFICATIONS_MAX - 1), NOTIFICATIONS_MAX as usize - 1);
    assert!(relay.may_ask(INPUTS_MAX) && relay.may_ask(ASKS_MAX as usize - INPUTS_MAX));
    relay.resumed(Duration::from_secs(100));
    assert_eq!((tell(&mut relay, 5), relay.until()), (1, Duration::from_secs(100) + PATIENCE));
    assert!(!relay.may_ask(1));
    relay.resumed(2 * TOTAL_MAX);
    assert_eq!(relay.until(), TOTAL_MAX);
}

fn wants(inputs: &Value) -> Box<RawValue> {
    text(&json!({"resultType": "input_required", "inputRequests": inputs, "requestState": "st"}))
}

#[test]
fn what_a_modern_server_wants_a_legacy_client_is_asked_and_the_call_sent_again_with_it() {
    let call = call(LEGACY, &json!({}), &json!({"elicitation": {}, "roots": {}}));
    let result = wants(&json!({
        "name": {"method": "elicitation/create", "params": {"message": "who?"}},
        "roots": {"method": "roots/list"},
    }));
    let mut input = Input::wanted(&call, &result).unwrap().unwrap();
    let methods: Vec<&str> = input.questions().map(|question| question.method.as_str()).collect();
    assert_eq!(methods, ["elicitation/create", "roots/list"]);
    let refused = || Answered::Error(text(&json!({"code": -1, "message": "no"})));
    input.answered(&RequestId::Text("other".into()), refused()).unwrap();
    input.answered(&RequestId::Text("name".into()), refused()).unwrap();
    assert!(!input.is_complete());
    input.answered(&RequestId::Text("roots".into()), Answered::Result(text(&json!({"roots": []})))).unwrap();
    assert!(input.is_complete());
    let retry = input.retry([4; 32]);
    let given: Value = serde_json::from_str(retry.responses.unwrap().get()).unwrap();
    assert_eq!(given, json!({"name": {"action": "cancel"}, "roots": {"roots": []}}));
    assert_eq!(retry.state, Some(RequestState::Server(Some("st".into()))));
}

#[test]
fn input_nobody_can_or_will_give_ends_the_call() {
    let call = call(LEGACY, &json!({}), &json!({"sampling": {}}));
    let wanted = |inputs: Value| Input::wanted(&call, &wants(&inputs)).err();
    assert_eq!(wanted(json!({"a": {"method": "elicitation/create"}})), Some(NoInput::Undeclared));
    assert_eq!(wanted(json!({"a": {"method": "tools/call"}})), Some(NoInput::Malformed));
    assert_eq!(wanted(json!({"a": 1})), Some(NoInput::Malformed));
    assert_eq!(wanted(json!([])), Some(NoInput::Malformed));
    let many: Value = (0..=INPUTS_MAX)
        .map(|n| (n.to_string(), json!({"method": "sampling/createMessage"})))
        .collect::<serde_json::Map<_, _>>()
        .into();
    assert_eq!(wanted(many), Some(NoInput::Malformed));
    let nothing = text(&json!({"resultType": "input_required"}));
    assert_eq!(Input::wanted(&call, &nothing).err(), Some(NoInput::Malformed));
    assert!(Input::wanted(&call, &text(&json!({"content": []}))).unwrap().is_none());
    let mut input = Input::wanted(&call, &wants(&json!({"a": {"method": "sampling/createMessage"}}))).unwrap().unwrap();
    let refused = Answered::Error(text(&json!({"code": -1, "message": "no"})));
    assert_eq!(input.answered(&RequestId::Text("a".into()), refused), Err(NoInput::Refused));
}

#[test]
fn a_modern_client_gets_the_wish_for_input_with_the_server_s_state_sealed_if_it_can_answer() {
    let declared = json!({"elicitation": {}});
    let asking = wants(&json!({"a": {"method": "elicitation/create"}}));
    let give = |capabilities: &Value| {
        let call = call(Era::Modern, &json!({}), capabilities);
        let sealed = |keepsake: forward::Keepsake| {
            assert_eq!(keepsake, forward::Keepsake::State(RequestState::Server(Some("st".into()))));
            Some("sealed".to_owned())
        };
        let answer = forward::answer(
            &call,
            "r-1",
            Ok(Response::Result(asking.clone())),
            forward::Answerer { naming: &Naming::default(), server: "finance", era: None },
            sealed,
        );
        (serde_json::from_slice::<Value>(answer.reply.body.as_deref().unwrap()).unwrap(), answer.error_code)
    };
    let (body, code) = give(&declared);
    assert_eq!(body["result"]["requestState"], "sealed");
    assert_eq!(body["result"]["inputRequests"], json!({"a": {"method": "elicitation/create"}}));
    assert_eq!(code.as_deref(), Some("input_required"));
    let (body, code) = give(&json!({}));
    assert_eq!(
        (&body["error"]["data"]["reason"], code.as_deref()),
        (&json!("upstream_invalid"), Some("upstream_invalid"))
    );
}
