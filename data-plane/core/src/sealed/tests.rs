//! What holds for every kind of envelope, and the bounds of each.

use bailiwick_proto::mcp::{Answered, Era, ID_BYTES_MAX, Members, RequestId, VERSION_2025_06_18, raw};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{
    answer::Answer,
    ask::{Ask, SERVER_ID_BYTES_MAX},
    cursor::Cursor,
    level::WantedLevel,
    note::{Newest, Note},
    request_state::{RequestState, SERVER_STATE_BYTES_MAX, Subject, salient},
    session::{CAPABILITIES_BYTES_MAX, CLIENT_TEXT_CHARS_MAX, Capabilities, SESSION_ID_BYTES_MAX, Session},
    subscription::{SUBSCRIPTION_BYTES_MAX, Subscription},
    task::Task,
    *,
};
use crate::{fixture, fixture::NOW, handshake::CURSOR_BYTES_MAX};

const NONCE: SealNonce = [7; NONCE_BYTES];
const DAY: i64 = 24 * 60 * 60;

fn keys(seeds: &[u8]) -> SealingKeys {
    let key = |seed: &u8| v1::SealingKey { id: seed.to_string(), key: vec![*seed; 32] };
    SealingKeys::new(&seeds.iter().map(key).collect::<Vec<_>>()).unwrap()
}

fn session() -> Session {
    Session {
        era: Era::Legacy(VERSION_2025_06_18),
        client_name: Some("inspector".into()),
        client_version: Some("2.12.0".into()),
        capabilities: Capabilities::of(Some(&raw(&json!({"roots": {"listChanged": true}, "elicitation": {}})))),
        issued_at: NOW,
    }
}

fn params(value: &Value) -> [u8; 32] {
    salient(&Members::of(&raw(value)).unwrap())
}

fn subject() -> Subject<'static> {
    Subject {
        server: "finance",
        method: "tools/call",
        salient: params(&json!({"name": "pay", "arguments": {"to": "x", "sum": 10}})),
    }
}

/// Every kind, sealed for a caller at `NOW`, with how long it is accepted.
fn seal_each(keys: &SealingKeys, caller: &Caller) -> [(&'static str, i64, String); 10] {
    let cursor = Cursor { server: "finance".into(), cursor: Some("page 2".into()) };
    let ask = Ask { server: "finance".into(), id: RequestId::Text("a\"b".into()), waiter: 9 };
    let task = Task { server: "finance".into(), tool: "pay".into(), id: "786512e2-9e0d".into(), lasts_seconds: None };
    let subscription = Subscription { visible: 5, uris: vec!["file:///a".into()] };
    let state = RequestState::Server(Some("opaque".into()));
    let answered = Answered::Result(raw(&json!({"action": "accept"})));
    let answer = Answer { waiter: 9, id: RequestId::from(3), answered };
    let note = Note { uri: "file:///a".into(), wished: true };
    [
        ("session", DAY, session().seal(keys, caller, NONCE).unwrap()),
        ("cursor", 3600, cursor.seal(keys, caller, "prompts/list", NOW, NONCE).unwrap()),
        ("state", 1800, state.seal(keys, caller, &subject(), NOW, NONCE).unwrap()),
        ("waiting", 1800, RequestState::Waiting(u64::MAX).seal(keys, caller, &subject(), NOW, NONCE).unwrap()),
        ("ask", 3600, ask.seal(keys, caller, NOW, NONCE).unwrap()),
        ("task", 7 * DAY, task.seal(keys, caller, NOW, NONCE).unwrap()),
        ("subscription", DAY, subscription.seal(keys, caller, NOW, NONCE).unwrap()),
        ("answer", 60, answer.seal(keys, caller, NOW, NONCE).unwrap()),
        ("note", 600, note.seal(keys, caller, &[0xab; 32], NOW, NONCE).unwrap()),
        ("newest", 60, Newest { stream: u64::MAX }.seal(keys, caller, &[0xab; 32], NOW, NONCE).unwrap()),
    ]
}

/// What the text opens as, each kind tried, as text to be compared.
fn open_each(keys: &SealingKeys, caller: &Caller, text: &str, now: i64) -> Vec<String> {
    [
        Session::open(keys, caller, text, now).map(|content| format!("{content:?}")),
        Cursor::open(keys, caller, "prompts/list", text, now).map(|content| format!("{content:?}")),
        RequestState::open(keys, caller, &subject(), text, now).map(|content| format!("{content:?}")),
        Ask::open(keys, caller, text, now).map(|content| format!("{content:?}")),
        Task::open(keys, caller, text, now).map(|content| format!("{content:?}")),
        Subscription::open(keys, caller, text, now).map(|content| format!("{content:?}")),
        Answer::open(keys, caller, text, now).map(|content| format!("{content:?}")),
        Note::open(keys, caller, text, now).map(|content| format!("{content:?}")),
        Newest::open(keys, caller, text, now).map(|content| format!("{content:?}")),
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[test]
fn any_node_with_the_key_opens_what_another_sealed_and_as_nothing_else() {
    let caller = fixture::caller();
    for (kind, _, text) in seal_each(&keys(&[1]), &caller) {
        assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)), "{text}");
        assert_eq!(open_each(&keys(&[2, 1]), &caller, &text, NOW + 5).len(), 1, "{kind}");
        assert!(open_each(&keys(&[2]), &caller, &text, NOW).is_empty(), "{kind}");
        assert!(open_each(&SealingKeys::default(), &caller, &text, NOW).is_empty(), "{kind}");
        let (_, rest) = text.rsplit_once('.').unwrap();
        for other in ["s2", "c2", "r2", "a2", "t2", "e2"].iter().filter(|word| !text.starts_with(**word)) {
            assert!(open_each(&keys(&[1]), &caller, &format!("{other}.{rest}"), NOW).is_empty(), "{kind} as {other}");
        }
    }
    let id = session().seal(&keys(&[1]), &caller, NONCE).unwrap();
    assert_eq!(Session::open(&keys(&[1]), &caller, &id, NOW), Ok(session()));
}

#[test]
fn an_envelope_is_of_no_use_to_another_user_agent_client_or_virtual_server() {
    let caller = fixture::caller();
    let shifted = Caller { user: "jane@example.comc".into(), agent: "oder".into(), ..caller.clone() };
    for other in [
        Caller { user: "eve@example.com".into(), ..caller.clone() },
        Caller { agent: "other".into(), ..caller.clone() },
        Caller { client: "other".into(), ..caller.clone() },
        Caller { virtual_server: "hr".into(), ..caller.clone() },
        Caller { bound: true, ..caller.clone() },
        shifted,
    ] {
        for (kind, _, text) in seal_each(&keys(&[1]), &caller) {
            assert!(open_each(&keys(&[1]), &other, &text, NOW).is_empty(), "{kind} for {other:?}");
        }
    }
}

#[test]
fn another_token_of_the_same_caller_opens_what_the_first_sealed() {
    let caller = fixture::caller();
    let later = Caller { token_id: "t-2".into(), session: "s-2".into(), min_revision: 9, ..caller.clone() };
    for (kind, _, text) in seal_each(&keys(&[1]), &caller) {
        assert_eq!(open_each(&keys(&[1]), &later, &text, NOW).len(), 1, "{kind}");
    }
}

#[test]
fn old_envelopes_and_those_from_the_future_are_refused() {
    let caller = fixture::caller();
    for (kind, seconds, text) in seal_each(&keys(&[1]), &caller) {
        for (now, known) in [
            (NOW + seconds - 1, true),
            (NOW + seconds, false),
            (NOW - CLOCK_SKEW_SECONDS, true),
            (NOW - CLOCK_SKEW_SECONDS - 1, false),
            (i64::MIN, false),
            (i64::MAX, false),
        ] {
            assert_eq!(!open_each(&keys(&[1]), &caller, &text, now).is_empty(), known, "{kind} at {now}");
        }
    }
}

#[test]
fn without_keys_of_the_right_length_nothing_is_sealed() {
    let caller = fixture::caller();
    assert_eq!(session().seal(&SealingKeys::default(), &caller, NONCE), Err(NotSealed::NoKey));
    for length in [0, 16, 31, 33, 64] {
        let key = |length| v1::SealingKey { id: "k".into(), key: vec![0; length] };
        assert!(SealingKeys::new(&[key(32), key(length)]).is_err(), "{length}");
    }
}

#[test]
fn nonces_of_one_request_differ() {
    let mut nonces = SealNonces::new([1; 16]);
    let (one, other) = (nonces.draw(), nonces.draw());
    assert_ne!(one, other);
    assert!(one.starts_with(&[1; 16]) && other.starts_with(&[1; 16]));
    let seal = |nonce| session().seal(&keys(&[1]), &fixture::caller(), nonce).unwrap();
    assert_ne!(seal(one), seal(other));
}

#[test]
fn a_list_goes_on_only_by_its_own_method() {
    let (keys, caller) = (keys(&[1]), fixture::caller());
    let cursor = Cursor { server: "hr".into(), cursor: None };
    let text = cursor.seal(&keys, &caller, "prompts/list", NOW, NONCE).unwrap();
    assert_eq!(Cursor::open(&keys, &caller, "prompts/list", &text, NOW), Ok(cursor));
    assert_eq!(Cursor::open(&keys, &caller, "resources/list", &text, NOW), Err(NotOurs));
}

#[test]
fn a_state_belongs_to_one_request_at_one_server() {
    let (keys, caller) = (keys(&[1]), fixture::caller());
    let text = RequestState::Server(None).seal(&keys, &caller, &subject(), NOW, NONCE).unwrap();
    let with = |arguments: Value| params(&json!({"name": "pay", "arguments": arguments}));
    for (other, same) in [
        (Subject { server: "hr", ..subject() }, false),
        (Subject { method: "prompts/get", ..subject() }, false),
        (Subject { salient: with(json!({"to": "x", "sum": 11})), ..subject() }, false),
        (Subject { salient: with(json!({"to": "x", "sum": 10.0})), ..subject() }, false),
        (Subject { salient: with(json!({"to": "x", "sum": "10"})), ..subject() }, false),
        (Subject { salient: params(&json!({"name": "pay"})), ..subject() }, false),
        (Subject { salient: with(json!({"sum": 10, "to": "x"})), ..subject() }, true),
    ] {
        assert_eq!(RequestState::open(&keys, &caller, &other, &text, NOW).is_ok(), same, "{other:?}");
    }
}

#[test]
fn how_parameters_are_written_makes_no_difference_and_what_they_say_does() {
    let of = |text: &str| salient(&Members::of(serde_json::from_str(text).unwrap()).unwrap());
    let one = of(r#"{"name":"a","arguments":{"x":[1,{"y":"z"}],"n":null}}"#);
    for same in [
        r#"{ "arguments" : {"n": null, "x": [ 1, {"\u0079":"\u007a"} ]}, "name": "\u0061" }"#,
        r#"{"name":"a","arguments":{"x":[1,{"y":"z"}],"n":null},"_meta":{"progressToken":1},"requestState":"r"}"#,
    ] {
        assert_eq!(of(same), one, "{same}");
    }
    for other in [
        r#"{"name":"a","arguments":{"x":[1,{"y":"z"}]}}"#,
        r#"{"name":"a","arguments":{"x":[{"y":"z"},1],"n":null}}"#,
        r#"{"name":"a","arguments":{"x":[1,{"y":"z","n":null}]}}"#,
        r#"{"uri":"a","arguments":{"x":[1,{"y":"z"}],"n":null}}"#,
        r#"{"name":"a","arguments":"{\"x\":[1,{\"y\":\"z\",},],\"n\":null,}"}"#,
    ] {
        assert_ne!(of(other), one, "{other}");
    }
    let numbers = ["9007199254740992", "9007199254740993", "18446744073709551616", "18446744073709551617"];
    let sums: std::collections::BTreeSet<_> =
        numbers.iter().map(|number| of(&format!(r#"{{"arguments":{{"n":{number}}}}}"#))).collect();
    assert_eq!(sums.len(), numbers.len());
}

#[test]
fn the_longest_session_fits_in_a_header() {
    let caller = fixture::caller();
    for text in ["🦀", "\u{1}", "\"", "\u{7f}"] {
        let wide = Some(text.repeat(CLIENT_TEXT_CHARS_MAX + 10));
        let capabilities = json!({"experimental": {"x": "y".repeat(CAPABILITIES_BYTES_MAX - 25)}});
        let session = Session {
            client_name: wide.clone(),
            client_version: wide,
            capabilities: Capabilities::of(Some(&raw(&capabilities))),
            ..session()
        };
        let id = session.seal(&keys(&[1]), &caller, NONCE).unwrap();
        assert!(id.len() <= SESSION_ID_BYTES_MAX, "{}", id.len());
        let opened = Session::open(&keys(&[1]), &caller, &id, NOW).unwrap();
        assert_eq!(opened.capabilities, session.capabilities);
    }
    let id = session().seal(&keys(&[1]), &caller, NONCE).unwrap();
    assert!(id.len() < 300, "{}", id.len());
}

#[test]
fn what_nodes_tell_each_other_of_a_level_opens_for_nodes_alone() {
    let capabilities = Some("\"".repeat(4 * 1024));
    let wanted = WantedLevel {
        user: "jane@example.com".into(),
        agent: "coder".into(),
        capabilities,
        virtual_server: "finance".into(),
        servers: Some(vec!["finance".into()]),
        level: crate::relay::Level::Notice,
    };
    let text = wanted.seal(&keys(&[1]), NOW, NONCE).unwrap();
    assert_eq!(WantedLevel::open(&keys(&[2, 1]), &text, NOW + 5), Ok(wanted));
    assert!(open_each(&keys(&[1]), &fixture::caller(), &text, NOW).is_empty());
    assert!(WantedLevel::open(&keys(&[2]), &text, NOW).is_err());
    assert!(WantedLevel::open(&keys(&[1]), &text, NOW + level::LEVEL_SECONDS_MAX).is_err());
    for (kind, _, text) in seal_each(&keys(&[1]), &fixture::caller()) {
        assert!(WantedLevel::open(&keys(&[1]), &text, NOW).is_err(), "{kind}");
    }
}

#[test]
fn what_a_client_can_answer_is_kept_as_far_as_it_fits() {
    let of = |value: Value| Capabilities::of(Some(&raw(&value)));
    assert_eq!(Capabilities::of(None).json().get(), "{}");
    assert_eq!(of(json!([1])).json().get(), "{}");
    let spaced = serde_json::from_str(r#"{ "sampling" : { "tools": {} } , "roots":{} }"#).unwrap();
    assert_eq!(Capabilities::of(Some(spaced)).json().get(), r#"{"roots":{},"sampling":{"tools":{}}}"#);
    let long = of(json!({"a": "x".repeat(CAPABILITIES_BYTES_MAX), "elicitation": {"form": {}}, "z": 1}));
    assert_eq!(long.json().get(), r#"{"elicitation":{"form":{}},"z":1}"#);
    assert!(long.has("elicitation") && !long.has("a"));
    let exact = of(json!({"a": "x".repeat(CAPABILITIES_BYTES_MAX - 9)}));
    assert!(exact.has("a") && exact.json().get().len() < CAPABILITIES_BYTES_MAX);
    assert!(!of(json!({"a": "x".repeat(CAPABILITIES_BYTES_MAX - 8)})).has("a"));
}

#[test]
fn what_servers_send_is_carried_up_to_its_bound() {
    let (keys, caller) = (keys(&[1]), fixture::caller());
    for filler in ["x", "\"", "\n"] {
        let state = |bytes: usize| RequestState::Server(Some(filler.repeat(bytes)));
        assert!(state(SERVER_STATE_BYTES_MAX).seal(&keys, &caller, &subject(), NOW, NONCE).is_ok());
        assert_eq!(
            state(SERVER_STATE_BYTES_MAX + 1).seal(&keys, &caller, &subject(), NOW, NONCE),
            Err(NotSealed::TooLong)
        );
        let cursor = |bytes: usize| Cursor { server: "finance".into(), cursor: Some(filler.repeat(bytes)) };
        assert!(cursor(CURSOR_BYTES_MAX).seal(&keys, &caller, "prompts/list", NOW, NONCE).is_ok());
        assert!(cursor(CURSOR_BYTES_MAX + 1).seal(&keys, &caller, "prompts/list", NOW, NONCE).is_err());
    }
    let task = |bytes: usize| Task {
        server: "s".repeat(32),
        tool: "t".repeat(128),
        id: "\"".repeat(bytes),
        lasts_seconds: Some(task::TASK_SECONDS_MAX),
    };
    assert!(task(task::SERVER_TASK_BYTES_MAX).seal(&keys, &caller, NOW, NONCE).is_ok());
    assert!(task(task::SERVER_TASK_BYTES_MAX + 1).seal(&keys, &caller, NOW, NONCE).is_err());
}

#[test]
fn the_longest_ask_is_an_id_that_is_read() {
    let (keys, caller) = (keys(&[1]), fixture::caller());
    let ask = |id| Ask { server: "s".repeat(32), id, waiter: u64::MAX };
    for id in [
        RequestId::Text("x".repeat(SERVER_ID_BYTES_MAX - 2).into()),
        RequestId::Integer("9".repeat(SERVER_ID_BYTES_MAX).into()),
    ] {
        let text = ask(id.clone()).seal(&keys, &caller, NOW, NONCE).unwrap();
        let json = raw(&text);
        assert!(json.get().len() <= ID_BYTES_MAX, "{}", json.get().len());
        assert_eq!(RequestId::read(&json), Some(RequestId::Text(text.as_str().into())));
        assert_eq!(Ask::open(&keys, &caller, &text, NOW), Ok(ask(id)));
    }
    let long = ask(RequestId::Text("x".repeat(SERVER_ID_BYTES_MAX - 1).into()));
    assert_eq!(long.seal(&keys, &caller, NOW, NONCE), Err(NotSealed::TooLong));
}

#[test]
fn subscriptions_beyond_a_header_lose_their_last_resources() {
    let (keys, caller) = (keys(&[1]), fixture::caller());
    for count in [1, 20, 500] {
        let uris: Vec<_> = (0..count).map(|n| format!("file:///{n}/{}", "\"".repeat(100))).collect();
        let text = Subscription { visible: 1, uris: uris.clone() }.seal(&keys, &caller, NOW, NONCE).unwrap();
        assert!(text.len() <= SUBSCRIPTION_BYTES_MAX);
        let opened = Subscription::open(&keys, &caller, &text, NOW).unwrap();
        assert!(!opened.uris.is_empty() && uris.starts_with(&opened.uris));
    }
    let huge = Subscription { visible: 1, uris: vec!["x".repeat(SUBSCRIPTION_BYTES_MAX)] };
    let text = huge.seal(&keys, &caller, NOW, NONCE).unwrap();
    assert_eq!(Subscription::open(&keys, &caller, &text, NOW), Ok(Subscription { visible: 1, uris: vec![] }));
}

proptest! {
    #[test]
    fn a_changed_envelope_does_not_open(which in 0_usize..10, at in any::<prop::sample::Index>(), with in 0x21_u8..0x7f) {
        let caller = fixture::caller();
        let (_, _, text) = &seal_each(&keys(&[1]), &caller)[which];
        let mut bytes = text.clone().into_bytes();
        let at = at.index(bytes.len());
        bytes[at] = with;
        let changed = String::from_utf8(bytes).unwrap();
        prop_assume!(&changed != text);
        prop_assert!(open_each(&keys(&[1]), &caller, &changed, NOW).is_empty());
    }

    #[test]
    fn a_cut_or_lengthened_envelope_does_not_open(which in 0_usize..10, cut in 1_usize..40, more in "[A-Za-z0-9_=-]{1,8}") {
        let caller = fixture::caller();
        let (_, _, text) = &seal_each(&keys(&[1]), &caller)[which];
        for changed in [text.chars().take(text.len().saturating_sub(cut)).collect(), format!("{text}{more}")] {
            prop_assert!(open_each(&keys(&[1]), &caller, &changed, NOW).is_empty());
        }
    }

    #[test]
    fn any_text_is_refused_without_panic(word in "(s2|c2|r2|a2|t2|e2|n2|l2|v1)?", rest in "(\\.[A-Za-z0-9_-]{0,90}|.*)") {
        let text = word + &rest;
        prop_assert!(open_each(&keys(&[1]), &fixture::caller(), &text, NOW).is_empty());
    }

    #[test]
    fn parties_never_run_into_each_other(
        one in prop::array::uniform4("[ab]{0,3}"), other in prop::array::uniform4("[ab]{0,3}"),
    ) {
        prop_assume!(one != other);
        let caller = |[user, agent, client, virtual_server]: [String; 4]| {
            Caller { user, agent, client, virtual_server, ..fixture::caller() }
        };
        let text = session().seal(&keys(&[1]), &caller(one), NONCE).unwrap();
        prop_assert!(Session::open(&keys(&[1]), &caller(other), &text, NOW).is_err());
    }

    #[test]
    fn keys_that_rotate_open_until_they_are_gone(seeds in prop::collection::vec(1_u8..6, 1..4), held in prop::collection::vec(1_u8..6, 0..4)) {
        let caller = fixture::caller();
        for (kind, _, text) in seal_each(&keys(&seeds), &caller) {
            let opened = !open_each(&keys(&held), &caller, &text, NOW).is_empty();
            prop_assert_eq!(opened, held.contains(&seeds[0]), "{}", kind);
        }
    }
}
