//! Two people over the same connections, in any order, some of whom go away in the middle: what is one's never comes
//! to the other.

use proptest::prelude::*;
use tokio::time::timeout;

use super::*;

/// What one of them does.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Waits for the answer.
    Call,
    /// Goes away while the server still thinks.
    GoAway,
    /// Asks which tools there are.
    List,
}

fn steps() -> impl Strategy<Value = Vec<(bool, Step)>> {
    let step = prop_oneof![4 => Just(Step::Call), 2 => Just(Step::GoAway), 1 => Just(Step::List)];
    prop::collection::vec((any::<bool>(), step), 4..24)
}

/// A call whose arguments say whose it is comes back with the same, or not at all.
async fn step(upstream: &Upstream, to: &Server, user: &str, number: usize, step: Step) {
    let arguments = format!(r#"{{"user":"{user}","number":{number}}}"#);
    let gate = Gate::new(|| None);
    let asked = ask_through(upstream, to, user, &gate, &arguments);
    let answer = match step {
        Step::List => {
            upstream.list_tools(to).await.unwrap();
            return;
        }
        Step::Call => asked.await,
        Step::GoAway => match timeout(Duration::from_millis(1), asked).await {
            Ok(answer) => answer,
            Err(_gone) => return,
        },
    };
    let Ok((Response::Result(result), _)) = &answer else { panic!("{answer:?}") };
    assert_eq!(result.get(), result_text(&arguments));
}

async fn interleave(speaks: Speaks, steps: Vec<(bool, Step)>, together: usize) {
    let (fake, upstream) = (FakeServer::start(speaks).await, upstream());
    let to = server(&fake.url);
    for (user, warm) in [("jane", 0), ("max", 1)] {
        step(&upstream, &to, user, warm, Step::Call).await;
    }
    fake.set(Mode::Slow(Duration::from_millis(2)));
    let of = |is_jane: bool| if is_jane { "jane" } else { "max" };
    let all = stream::iter(steps.into_iter().enumerate())
        .for_each_concurrent(together, |(number, (is_jane, what))| step(&upstream, &to, of(is_jane), number, what));
    all.await;
    let mut sessions = std::collections::BTreeMap::new();
    for seen in fake.seen("tools/call") {
        assert!(!seen.headers.contains_key("authorization"));
        let user = seen.body["params"]["arguments"]["user"].as_str().unwrap().to_owned();
        if let Some(session) = seen.headers.get("mcp-session-id") {
            let owner = sessions.entry(session.to_str().unwrap().to_owned()).or_insert_with(|| user.clone());
            assert_eq!(*owner, user, "a session is one person's");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn nothing_crosses_between_people_on_shared_connections(
        steps in steps(), together in 1_usize..6, is_modern: bool,
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let speaks = if is_modern { Speaks::Modern } else { Speaks::Legacy };
        runtime.block_on(interleave(speaks, steps, together));
    }
}

/// A server that says more than one answer: what is left over is nobody's.
#[tokio::test]
async fn an_answer_to_somebody_else_is_never_taken_for_ones_own() {
    let twice: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 36\r\n\r\n{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}\
        HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 36\r\n\r\n{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}";
    let (bad, upstream) = (bad::Bad::start(bad::Does::Answer(twice)).await, upstream());
    let to = server(&bad.url("http"));
    let known = upstream.known(&to);
    for user in ["jane", "max"] {
        let peer = Peer::linked_to_modern(known.origin.as_ref().unwrap(), upstream.room.clone());
        known.peers().insert(principal(user), Arc::new(peer));
    }
    let ask = async |user: &str, id: u64| {
        let (id, principal, permitted) = (RequestId::from(id), principal(user), call("{}"));
        upstream.call(&to, &principal, &permitted, &id, Aside::default()).await
    };
    assert!(ask("jane", 1).await.is_ok());
    for id in 2..6 {
        let crossed = ask("max", id).await;
        assert!(crossed.is_err(), "{crossed:?}");
    }
}
