//! Questions as they are read: what is malformed, what stands in for what, and how many there may be.

use super::{
    super::question::{Malformed, QUESTIONS_MAX, Semantic},
    *,
};

fn one(body: &str) -> Result<Asked, Malformed> {
    read(body.as_bytes(), false)
}

#[test]
fn a_body_that_asks_nothing_is_malformed() {
    let good = call("query_data");
    let without = |part: &str| {
        let mut body = good.clone();
        body.as_object_mut().unwrap().remove(part);
        body.to_string()
    };
    let odd = |pointer: &str, value: Value| with(good.clone(), pointer, value).to_string();
    for body in [
        String::new(),
        "{".into(),
        "null".into(),
        "[]".into(),
        without("subject"),
        without("action"),
        without("resource"),
        odd("/subject", "alice".into()),
        odd("/subject/type", Value::Null),
        odd("/subject/id", "".into()),
        odd("/subject/id", "x".repeat(255).into()),
        odd("/subject/id", "a\nb".into()),
        odd("/action/name", 123.into()),
        odd("/resource/id", 1.into()),
        odd("/resource/properties", "x".into()),
        odd("/subject/properties/agent", json!(["coder"])),
        odd("/context", "x".into()),
        odd("/context", json!({"bound": "yes"})),
        odd("/context", json!({"arguments": []})),
        // Two words for one thing.
        odd("/context", json!({"agent": "writer"})),
        r#"{"subject":{"type":"user","id":"a","id":"b"},"action":{"name":"x"},"resource":{"type":"t","id":"1"}}"#
            .into(),
        format!("{}1{}", "[".repeat(65), "]".repeat(65)),
        good.to_string() + "x",
    ] {
        assert!(one(&body).is_err(), "{body}");
    }
    assert!(one(&odd("/futureField", json!({"nested": true}))).is_ok());
    assert!(one(&odd("/context", json!({"agent": "coder", "time": "2026-11-22"}))).is_ok());
}

#[test]
fn defaults_stand_in_for_whole_parts_and_for_what_each_part_needs() {
    let body = json!({
        "subject": {"type": "user", "id": JANE, "properties": {"agent": "coder"}},
        "action": {"name": "tools/call"},
        "resource": {"type": "tool", "id": "default", "properties": {"virtual_server": "finance"}},
        "context": {"bound": true},
        "evaluations": [
            {},
            {"resource": {"id": "query_data"}},
            {"resource": {"id": "x", "properties": {"virtual_server": "all"}}, "context": {}},
            {"subject": {"id": "eve@example.com"}, "action": {"name": "prompts/get"}},
            {"resource": {"id": 7}},
            {"context": 7},
            7,
        ],
    });
    let Ok(Asked::Several { questions, semantic }) = read(body.to_string().as_bytes(), true) else { panic!() };
    assert_eq!(semantic, Semantic::ExecuteAll);
    let shown: Vec<_> = questions
        .iter()
        .map(|question| match question {
            Question::Malformed => String::new(),
            Question::Read(words) => {
                let Words { user, action, id, virtual_server, agent, bound, .. } = &**words;
                format!("{user} {agent:?} {action} {id} {virtual_server:?} {bound}")
            }
        })
        .collect();
    assert_eq!(
        shown,
        [
            r#"jane@example.com Some("coder") tools/call default Some("finance") true"#,
            r#"jane@example.com Some("coder") tools/call query_data None true"#,
            r#"jane@example.com Some("coder") tools/call x Some("all") false"#,
            r#"eve@example.com None prompts/get default Some("finance") true"#,
            "",
            "",
            "",
        ]
    );
    assert!(
        matches!(read(body.to_string().as_bytes(), false), Ok(Asked::One(_))),
        "one is asked, the list is not known"
    );
}

#[test]
fn lists_are_bounded_and_an_empty_one_is_none() {
    let listing = |count: usize, more: Value| {
        let mut body = call("query_data");
        body["evaluations"] = vec![json!({}); count].into();
        body["options"] = more;
        read(body.to_string().as_bytes(), true)
    };
    assert!(matches!(listing(0, json!({})), Ok(Asked::One(_))));
    assert!(matches!(listing(QUESTIONS_MAX, json!({})), Ok(Asked::Several { .. })));
    assert_eq!(listing(QUESTIONS_MAX + 1, json!({})), Err(Malformed::TooMany));
    for (word, expected) in [
        ("execute_all", Ok(Semantic::ExecuteAll)),
        ("deny_on_first_deny", Ok(Semantic::DenyOnFirstDeny)),
        ("permit_on_first_permit", Ok(Semantic::PermitOnFirstPermit)),
        ("all", Err(Malformed::Semantic)),
    ] {
        let read = listing(2, json!({"evaluations_semantic": word, "another_option": 1}));
        let semantic = read.map(|asked| match asked {
            Asked::Several { semantic, .. } => semantic,
            Asked::One(_) => panic!(),
        });
        assert_eq!(semantic, expected, "{word}");
    }
    assert_eq!(listing(1, json!({"evaluations_semantic": 1})), Err(Malformed::Semantic));
    assert_eq!(listing(1, json!("x")), Err(Malformed::Part));
    let body = with(call("x"), "/evaluations", json!({})).to_string();
    assert_eq!(read(body.as_bytes(), true), Err(Malformed::NoList));
    for (semantic, ends) in [
        (Semantic::ExecuteAll, [false, false]),
        (Semantic::DenyOnFirstDeny, [false, true]),
        (Semantic::PermitOnFirstPermit, [true, false]),
    ] {
        assert_eq!([true, false].map(|permitted| semantic.ends_with(permitted)), ends, "{semantic:?}");
    }
}
