//! Whom each message is for, and where lines end.

use proptest::prelude::*;

use super::*;

fn legacy(shared: bool, calls: &[(u64, Sort)]) -> Conversation {
    let mut conversation = Conversation::new(shared);
    for (id, of) in calls {
        conversation.begin(RequestId::from(*id), *of).unwrap();
    }
    conversation
}

fn modern(calls: &[(u64, Sort)]) -> Conversation {
    let mut conversation = legacy(false, calls);
    conversation.speaks(Era::Modern);
    conversation
}

/// In one word, with the id where there is one.
fn word(said: &Said) -> String {
    match said {
        Said::Answer(id, Ok(Response::Result(result))) => format!("result {id} {}", result.get()),
        Said::Answer(id, Ok(Response::Error(error))) => format!("error {id} {}", error.code),
        Said::Answer(id, Err(_)) => format!("invalid {id}"),
        Said::Beside(id, Incoming::Notification(_)) => format!("told {id}"),
        Said::Beside(id, _) => format!("asks {id}"),
        Said::Change(change) => format!("change {}", change.method),
        Said::Reply(body) => format!("reply {}", String::from_utf8_lossy(body).contains("\"error\"")),
        Said::Over(id) => format!("over {id}"),
        Said::Nothing => "nothing".to_owned(),
        Said::Broken(_) => "broken".to_owned(),
    }
}

fn check(conversation: &mut Conversation, message: &str, expected: &str) {
    assert_eq!(word(&conversation.heard(message.as_bytes())), expected, "{message}");
}

const LOG: &str = r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"x"}}"#;
const CHANGED: &str = r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#;
const QUESTION: &str = r#"{"jsonrpc":"2.0","id":1,"method":"elicitation/create","params":{}}"#;

fn progress(token: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","method":"notifications/progress","params":{{"progressToken":{token},"progress":1}}}}"#
    )
}

#[test]
fn an_answer_belongs_to_the_request_with_its_id_once() {
    let mut conversation = legacy(false, &[(7, Sort::Call), (8, Sort::Plain)]);
    check(&mut conversation, r#"{"jsonrpc":"2.0","id":8,"result":{"n": 1.0}}"#, r#"result 8 {"n": 1.0}"#);
    check(&mut conversation, r#"{"jsonrpc":"2.0","id":8,"result":{}}"#, "nothing");
    check(&mut conversation, r#"{"jsonrpc":"2.0","id":9,"result":{}}"#, "nothing");
    check(&mut conversation, r#"{"jsonrpc":"2.0","id":"7","result":{}}"#, "nothing");
    check(&mut conversation, r#"{"jsonrpc":"2.0","id":7,"error":{"code":-32602,"message":"no"}}"#, "error 7 -32602");
    assert_eq!(conversation.under_way(), 0);
}

#[test]
fn an_answer_that_breaks_a_rule_ends_its_request_alone() {
    for broken in [
        r#"{"jsonrpc":"2.0","id":7}"#,
        r#"{"id":7,"result":{}}"#,
        r#"{"jsonrpc":"2.0","id":7,"result":[]}"#,
        r#"{"jsonrpc":"2.0","id":7,"result":{},"error":{}}"#,
        r#"{"jsonrpc":"2.0","id":7,"result":{"a":1,"a":2}}"#,
        r#"{"jsonrpc":"2.0","id":7,"error":{"code":"x","message":1}}"#,
    ] {
        let mut conversation = legacy(false, &[(7, Sort::Call), (8, Sort::Call)]);
        check(&mut conversation, broken, "invalid 7");
        assert_eq!(conversation.under_way(), 1);
    }
}

#[test]
fn an_error_without_an_id_is_the_only_request_s() {
    for message in [
        r#"{"jsonrpc":"2.0","error":{"code":-32700,"message":"?"}}"#,
        r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"?"}}"#,
    ] {
        check(&mut legacy(false, &[(7, Sort::Plain)]), message, "error 7 -32700");
        check(&mut legacy(false, &[(7, Sort::Plain), (8, Sort::Plain)]), message, "nothing");
    }
}

#[test]
fn progress_goes_to_the_request_that_is_its_token_and_log_lines_to_the_last_call() {
    let mut conversation = legacy(false, &[(9, Sort::Call), (7, Sort::Call), (8, Sort::Plain)]);
    check(&mut conversation, &progress("9"), "told 9");
    check(&mut conversation, &progress("8"), "nothing");
    check(&mut conversation, &progress("\"9\""), "nothing");
    check(&mut conversation, LOG, "told 7");
    conversation.forget(&RequestId::from(7));
    check(&mut conversation, LOG, "told 9");
    check(&mut conversation, CHANGED, "change notifications/tools/list_changed");
}

#[test]
fn who_shares_a_channel_hears_nothing_of_others_and_is_asked_nothing() {
    let mut conversation = legacy(true, &[(7, Sort::Call)]);
    check(&mut conversation, LOG, "nothing");
    check(&mut conversation, QUESTION, "reply true");
    check(&mut conversation, &progress("7"), "told 7");
    check(&mut conversation, CHANGED, "change notifications/tools/list_changed");
}

#[test]
fn a_question_goes_to_the_only_call() {
    check(&mut legacy(false, &[(7, Sort::Call), (8, Sort::Plain)]), QUESTION, "asks 7");
    check(&mut legacy(false, &[(7, Sort::Call), (8, Sort::Call)]), QUESTION, "reply true");
    check(&mut legacy(false, &[]), QUESTION, "reply true");
    check(&mut modern(&[(7, Sort::Call)]), QUESTION, "reply true");
    let ping = r#"{"jsonrpc":"2.0","id":"p","method":"ping"}"#;
    check(&mut legacy(false, &[(7, Sort::Call)]), ping, "reply false");
}

#[test]
fn what_a_subscription_hears_says_whose_it_is() {
    let told = |id: &str| {
        let meta = format!(r#"{{"io.modelcontextprotocol/subscriptionId":{id}}}"#);
        format!(r#"{{"jsonrpc":"2.0","method":"notifications/tools/list_changed","params":{{"_meta":{meta}}}}}"#)
    };
    let mut conversation = modern(&[(7, Sort::Call), (8, Sort::Subscription), (9, Sort::Subscription)]);
    check(&mut conversation, &told("8"), "told 8");
    check(&mut conversation, &told("6"), "nothing");
    check(&mut conversation, CHANGED, "nothing");
    check(&mut conversation, LOG, "told 7");
    let over =
        |id: &str| format!(r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{id}}}}}"#);
    check(&mut conversation, &over("9"), "over 9");
    check(&mut conversation, &over("6"), "nothing");
    check(&mut legacy(false, &[(7, Sort::Call)]), &over("7"), "nothing");
}

#[test]
fn what_is_no_message_is_read_over_until_it_is_too_much() {
    let mut conversation = legacy(false, &[(7, Sort::Call)]);
    for junk in ["Server running on stdio", "{}", "[]", r#"{"level":30,"msg":"started"}"#, "\u{0}", "{\"json\":"] {
        check(&mut conversation, junk, "nothing");
    }
    let broken = (0..=JUNK_MAX).find(|_| matches!(conversation.heard(b"debug"), Said::Broken(_)));
    assert_eq!(broken, Some(JUNK_MAX - 6));
}

#[test]
fn half_a_message_ends_the_channel() {
    for half in [
        r#"{"jsonrpc":"2.0","id":7,"result":{"content"{"jsonrpc":"2.0","id":8,"result":{}}"#,
        r#"{"id":7,"jsonrpc":"2.0""#,
        r#"{"jsonrpc":"2.0","id":7,"result":{}} trailing"#,
    ] {
        check(&mut legacy(false, &[(7, Sort::Call), (8, Sort::Call)]), half, "broken");
    }
}

#[test]
fn requests_under_way_are_bounded() {
    let mut conversation = Conversation::new(false);
    for id in 0..REQUESTS_MAX {
        conversation.begin(RequestId::from(id as u64), Sort::Call).unwrap();
    }
    assert_eq!(conversation.begin(RequestId::from(9_999), Sort::Call), Err(Full));
}

#[test]
fn a_cancellation_names_the_request() {
    let text = String::from_utf8(cancelled(&RequestId::from(7))).unwrap();
    assert!(text.contains(r#""requestId":7"#) && text.contains("notifications/cancelled"), "{text}");
}

#[test]
fn lines_end_at_line_feeds() {
    for (text, expected) in [
        ("a\nb\n", vec!["a", "b"]),
        ("a\r\n\r\n \n\nb\n", vec!["a", "b"]),
        ("unfinished", vec![]),
        ("a\rb\n", vec!["a\rb"]),
    ] {
        let lines = Lines::new(100).feed(text.as_bytes()).unwrap();
        let lines: Vec<_> = lines.into_iter().map(|line| String::from_utf8(line).unwrap()).collect();
        assert_eq!(lines, expected, "{text:?}");
    }
}

#[test]
fn a_line_has_a_bound_however_it_comes() {
    let mut lines = Lines::new(4);
    assert_eq!(lines.feed(b"abcd\nab"), Ok(vec![b"abcd".to_vec()]));
    assert_eq!(lines.feed(b"cd"), Ok(Vec::new()));
    assert_eq!(lines.feed(b"e\n"), Err(TooLong(4)));
}

proptest! {
    #[test]
    fn how_bytes_are_cut_into_chunks_does_not_matter(text in "[ab\r\n]{0,40}", cut in 0usize..40) {
        let cut = cut.min(text.len());
        let mut lines = Lines::new(100);
        let mut pieces = lines.feed(&text.as_bytes()[..cut]).unwrap();
        pieces.extend(lines.feed(&text.as_bytes()[cut..]).unwrap());
        prop_assert_eq!(pieces, Lines::new(100).feed(text.as_bytes()).unwrap());
    }

    #[test]
    fn no_message_reaches_a_request_that_is_not_under_way(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let said = legacy(false, &[]).heard(&bytes);
        prop_assert!(!matches!(said, Said::Answer(..) | Said::Beside(..) | Said::Over(_)), "{said:?}");
    }

    #[test]
    fn two_callers_on_one_channel_never_hear_each_other(order in proptest::collection::vec(0u64..4, 1..40)) {
        // Answers in any order, repeated or made up, under shared use: each request ends at most once, by its own.
        let mut conversation = legacy(true, &[(0, Sort::Call), (1, Sort::Call), (2, Sort::Call)]);
        let mut seen = std::collections::BTreeSet::new();
        for id in order {
            let answer = format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"of":{id}}}}}"#);
            if let Said::Answer(of, Ok(Response::Result(result))) = conversation.heard(answer.as_bytes()) {
                prop_assert_eq!(result.get(), format!(r#"{{"of":{of}}}"#));
                prop_assert!(seen.insert(of.clone()), "{} answered twice", of);
            }
        }
    }
}
