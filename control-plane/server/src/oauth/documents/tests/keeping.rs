//! Which are fetched and when; how long they count.

use tokio::time::advance;

use super::*;

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn agent(state: &mut State, name: &str, spec: Value) {
    let spec = serde_json::from_value(spec).unwrap();
    state.agents.insert(name.to_owned(), Agent { spec, changed: Changed { revision: 1, time: 1 }, owner_left: false });
}

#[test]
fn only_what_an_agent_that_acts_names_can_be_asked_for() {
    let mut state = State::default();
    assert_eq!(Named::of(&state, URL), None, "no agent");
    agent(&mut state, "other", json!({"owner": "jane", "project": "p"}));
    let names = |url: &str| json!({"owner": "jane", "project": "p", "clients": {"described_at": [url]}});
    agent(&mut state, "another", names("https://editor.example/other.json"));
    let mut asleep = names(URL);
    asleep["active"] = json!(false);
    agent(&mut state, "asleep", asleep);
    assert_eq!(Named::of(&state, URL), None, "no agent names just this, and acts");
    agent(&mut state, "assistant", names(URL));
    assert_eq!(Named::of(&state, URL), Some(Named(URL.to_owned())));
    for near in
        ["https://editor.example/client.json/", "https://editor.example/client.json?x", "HTTPS://editor.example"]
    {
        assert_eq!(Named::of(&state, near), None, "{near}");
    }
    // What an older version took as a manifest, or a golden history holds, is looked at again.
    agent(&mut state, "assistant", names("http://127.0.0.1/client.json"));
    assert_eq!(Named::of(&state, "http://127.0.0.1/client.json"), None);
}

#[tokio::test(start_paused = true)]
async fn a_document_is_kept_as_long_as_its_host_says_within_bounds() {
    for (max_age, good_for) in [(None, 600), (Some(0), 60), (Some(59), 60), (Some(90), 90), (Some(86_400), 3_600)] {
        let answer = max_age.map_or_else(|| said(&document()), |max_age| kept(&document(), max_age));
        let host = Host::that_says(answer);
        host.read().await.unwrap();
        advance(seconds(good_for - 1)).await;
        host.read().await.unwrap();
        assert_eq!(host.asked(), 1, "{max_age:?}");
        advance(seconds(1)).await;
        host.read().await.unwrap();
        assert_eq!(host.asked(), 2, "{max_age:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_document_that_changed_counts_as_it_is_and_one_that_is_gone_not_at_all() {
    let host = Host::that_says(kept(&document(), 60));
    assert!(host.read().await.unwrap().redirect_uris.contains(CALLBACK));
    host.says(kept(&but(json!({"redirect_uris": ["https://editor.example/done"]})), 60));
    advance(seconds(60)).await;
    let changed = host.read().await.unwrap();
    assert!(!changed.redirect_uris.contains(CALLBACK) && changed.redirect_uris.contains("https://editor.example/done"));
    host.says(Err(FetchError::Unreachable));
    advance(seconds(60)).await;
    assert_eq!(host.read().await, Err(DocumentFault::Fetch(FetchError::Unreachable)), "nothing stale is served");
}

#[tokio::test(start_paused = true)]
async fn failures_are_kept_for_a_second_only() {
    let not_found = Ok(Fetched { status: StatusCode::NOT_FOUND, ..kept(&document(), 3_600).unwrap() });
    let malformed = Ok(Fetched { body: "{".into(), ..kept(&document(), 3_600).unwrap() });
    for failure in [not_found, malformed, Err(FetchError::TooLarge)] {
        let host = Host::that_says(failure);
        let fault = host.read().await.unwrap_err();
        host.says(said(&document()));
        for _ in 0..1_000 {
            assert_eq!(host.read().await, Err(fault), "asked a moment ago");
        }
        assert_eq!(host.asked(), 1);
        advance(FETCH_EVERY).await;
        host.read().await.unwrap();
        assert_eq!(host.asked(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn fifty_who_ask_at_once_share_one_fetch_and_its_end() {
    for answer in [said(&document()), Err(FetchError::Late)] {
        let host = Host::that_says(answer.clone());
        host.written.gate.forget_permits(GATE);
        let mut asking = Box::pin(futures::future::join_all((0..50).map(|_| Box::pin(host.read()))));
        assert!(futures::poll!(&mut asking).is_pending());
        tokio::task::yield_now().await;
        host.written.gate.add_permits(GATE);
        assert!(asking.await.into_iter().all(|read| read.is_ok() == answer.is_ok()));
        assert_eq!(host.asked(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_asks_and_goes_away_stops_no_fetch() {
    let host = Host::that_says(said(&document()));
    host.written.gate.forget_permits(GATE);
    let mut impatient = Box::pin(host.read());
    assert!(futures::poll!(&mut impatient).is_pending());
    drop(impatient);
    host.written.gate.add_permits(GATE);
    host.read().await.unwrap();
    assert_eq!(host.asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn sixteen_slow_hosts_take_every_place_until_they_are_given_up() {
    let host = Host::that_says(said(&document()));
    host.written.gate.forget_permits(GATE);
    let urls: Vec<_> = (0..AT_ONCE_MAX).map(|number| format!("https://slow-{number}.example/c")).collect();
    let mut slow = Box::pin(futures::future::join_all(urls.iter().map(|url| Box::pin(host.read_at(url)))));
    assert!(futures::poll!(&mut slow).is_pending());
    tokio::task::yield_now().await;
    assert_eq!(host.written.under_way.load(Ordering::SeqCst), AT_ONCE_MAX);
    assert_eq!(host.read().await, Err(DocumentFault::Busy));
    let begun_at = Instant::now();
    assert!(slow.await.into_iter().all(|read| read == Err(DocumentFault::Late)));
    assert!((WAIT_MAX..WAIT_MAX + seconds(1)).contains(&begun_at.elapsed()), "{:?}", begun_at.elapsed());
    host.written.gate.add_permits(GATE);
    host.read().await.unwrap();
    assert_eq!(host.asked(), AT_ONCE_MAX + 1, "who found no place was not counted as an attempt");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_stops_waits_for_nobody() {
    let host = Host::that_says(said(&document()));
    host.written.gate.forget_permits(GATE);
    let mut asking = Box::pin(host.read());
    assert!(futures::poll!(&mut asking).is_pending());
    host.supervisor.shutdown().request();
    assert_eq!(asking.await, Err(DocumentFault::Stopped));
    assert_eq!(host.supervisor.ended().await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn the_document_that_was_not_asked_for_the_longest_time_is_forgotten() {
    let host = Host::new();
    let ask = async |number: usize| {
        advance(Duration::from_millis(1)).await;
        let url = format!("https://host-{number}.example/c");
        host.says_at(&url, said(&but(json!({"client_id": url}))));
        host.read_at(&url).await.unwrap();
    };
    for number in 0..DOCUMENTS_MAX {
        ask(number).await;
    }
    ask(0).await;
    ask(DOCUMENTS_MAX).await;
    assert_eq!(lock(&host.documents.known).len(), DOCUMENTS_MAX);
    assert_eq!(host.asked(), DOCUMENTS_MAX + 1);
    ask(0).await;
    assert_eq!(host.asked(), DOCUMENTS_MAX + 1, "asked for lately");
    ask(1).await;
    assert_eq!(host.asked(), DOCUMENTS_MAX + 2, "forgotten");
}
