//! One provider whose answers the test writes, and time that only the test moves.

use tokio::{sync::Semaphore, time::advance};

use super::*;

const URL: &str = "https://keys.example/";
/// How many fetches may be answered at once.
const GATE: usize = 100;

/// Answers with what was written last, once the gate lets it.
#[derive(Debug)]
struct Written {
    answer: Mutex<Result<Fetched, FetchError>>,
    asked: AtomicUsize,
    gate: Semaphore,
}

impl Source for Written {
    fn get<'a>(&'a self, url: &'a str, _leave: Leave<'a>, _limits: Limits) -> Fetching<'a> {
        assert!(url.starts_with(URL), "{url}");
        self.asked.fetch_add(1, Ordering::SeqCst);
        Box::pin(async {
            let _open = self.gate.acquire().await.unwrap();
            self.answer.lock().unwrap().clone()
        })
    }

    fn post<'a>(&'a self, _url: &'a str, _form: &'a Form, _leave: Leave<'a>, _limits: Limits) -> Fetching<'a> {
        panic!("nothing is sent for keys")
    }
}

struct Provider {
    written: Arc<Written>,
    providers: Providers,
    supervisor: Supervisor,
}

impl Provider {
    fn that_says(answer: Result<Fetched, FetchError>) -> Self {
        let written = Written { answer: Mutex::new(answer), asked: AtomicUsize::new(0), gate: Semaphore::new(GATE) };
        let (written, supervisor) = (Arc::new(written), Supervisor::new(Shutdown::new()));
        Self { providers: Providers::new(written.clone(), supervisor.clone()), written, supervisor }
    }

    fn says(&self, answer: Result<Fetched, FetchError>) {
        *self.written.answer.lock().unwrap() = answer;
    }

    fn asked(&self) -> usize {
        self.written.asked.load(Ordering::SeqCst)
    }

    async fn keys(&self, kid: Option<&str>) -> Result<Arc<AssertionKeys>, ProviderUnavailable> {
        self.providers.keys("acme", &spec_with(URL), kid).await
    }

    /// Whether the keys given for this id hold it.
    async fn has(&self, kid: &str) -> bool {
        self.keys(Some(kid)).await.unwrap().has_kid(kid)
    }
}

fn spec_with(jwks_url: &str) -> IdentityProviderSpec {
    IdentityProviderSpec { jwks_url: Some(jwks_url.to_owned()), ..spec("https://issuer.example") }
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[tokio::test(start_paused = true)]
async fn keys_are_kept_for_ten_minutes_or_for_less_if_the_provider_says_so() {
    for (said, kept) in [
        (None, 600),
        (Some(seconds(86_400)), 600),
        (Some(seconds(60)), 60),
        (Some(seconds(1)), 30),
        (Some(Duration::ZERO), 30),
    ] {
        let provider = Provider::that_says(Ok(Fetched { cache_max_age: said, ..ok(key_set(&["a"])).unwrap() }));
        assert!(provider.has("a").await);
        advance(seconds(kept - 1)).await;
        assert!(provider.has("a").await && provider.keys(None).await.is_ok());
        assert_eq!(provider.asked(), 1, "{said:?}");
        advance(seconds(1)).await;
        assert!(provider.has("a").await);
        assert_eq!(provider.asked(), 2, "{said:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_key_is_found_when_it_is_first_used_and_one_that_is_gone_is_not_used_any_more() {
    let provider = Provider::that_says(ok(key_set(&["old"])));
    assert!(provider.has("old").await);
    provider.says(ok(key_set(&["old", "new"])));
    assert!(!provider.has("new").await, "just fetched");
    advance(FETCH_EVERY).await;
    assert!(provider.has("new").await && provider.has("old").await);
    assert_eq!(provider.asked(), 2);
    provider.says(ok(key_set(&["new"])));
    advance(FRESH_MAX).await;
    assert!(provider.has("new").await && !provider.has("old").await);
    assert_eq!(provider.asked(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_provider_that_shows_no_key_any_more_has_none() {
    let provider = Provider::that_says(ok(key_set(&["a"])));
    assert!(provider.has("a").await);
    provider.says(ok(key_set(&[])));
    advance(FRESH_MAX).await;
    assert!(provider.keys(Some("a")).await.unwrap().is_empty());
    provider.says(Err(FetchError::Unreachable));
    advance(FRESH_MAX).await;
    assert!(provider.keys(Some("a")).await.unwrap().is_empty(), "nor when it cannot be asked again");
}

#[tokio::test(start_paused = true)]
async fn keys_of_a_provider_that_is_gone_are_used_for_an_hour() {
    let provider = Provider::that_says(ok(key_set(&["a"])));
    assert!(provider.has("a").await);
    provider.says(Err(FetchError::Unreachable));
    advance(KEPT_MAX - seconds(1)).await;
    assert!(provider.has("a").await);
    assert_eq!(provider.asked(), 2);
    advance(seconds(1)).await;
    let gone = ProviderUnavailable::Fetch(FetchError::Unreachable);
    assert_eq!(provider.keys(Some("a")).await.unwrap_err(), gone);
    assert_eq!(provider.asked(), 2, "asked a second ago");
    provider.says(ok(key_set(&["a"])));
    advance(FETCH_EVERY).await;
    assert!(provider.has("a").await);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_counts_as_no_answer() {
    for (answer, word) in [
        (ok("{"), "provider_keys_unreadable"),
        (ok(r#"{"keys": {}}"#), "provider_keys_unreadable"),
        (Ok(Fetched { status: StatusCode::FOUND, ..ok("").unwrap() }), "provider_status"),
        (Ok(Fetched { content_type: Some("text/html".into()), ..ok("").unwrap() }), "provider_content_type"),
        (Ok(Fetched { content_type: None, ..ok(key_set(&["a"])).unwrap() }), "provider_content_type"),
        (Err(FetchError::TooLarge), "answer_too_large"),
    ] {
        let provider = Provider::that_says(answer.clone());
        assert_eq!(provider.keys(None).await.unwrap_err().word(), word);
        provider.says(ok(key_set(&["a"])));
        advance(FETCH_EVERY).await;
        assert!(provider.has("a").await);
        provider.says(answer);
        advance(FRESH_MAX).await;
        assert!(provider.has("a").await, "{word}");
        assert_eq!(provider.asked(), 3);
    }
}

#[tokio::test(start_paused = true)]
async fn of_a_provider_that_shows_a_private_key_nothing_is_used() {
    let provider = Provider::that_says(ok(key_set(&["a"])));
    assert!(provider.has("a").await);
    let mut leaked: serde_json::Value = serde_json::from_str(&key_set(&["a"])).unwrap();
    leaked["keys"][0]["d"] = json!("AAAA");
    provider.says(ok(leaked.to_string()));
    advance(FRESH_MAX).await;
    assert_eq!(provider.keys(Some("a")).await.unwrap_err().word(), "provider_keys_private");
}

#[tokio::test(start_paused = true)]
async fn strangers_with_unknown_keys_cause_one_fetch_per_half_minute() {
    let provider = Provider::that_says(ok(key_set(&["a"])));
    let flood = async || {
        for stranger in 0..1_000 {
            assert!(!provider.has(&stranger.to_string()).await);
        }
    };
    assert!(provider.has("a").await);
    for round in 1..=3 {
        advance(FETCH_EVERY - seconds(1)).await;
        flood().await;
        assert_eq!(provider.asked(), round);
        advance(seconds(1)).await;
        flood().await;
        assert_eq!(provider.asked(), round + 1);
    }
    // Nor more when it gives nothing.
    provider.says(Err(FetchError::Late));
    advance(FETCH_EVERY).await;
    flood().await;
    assert_eq!(provider.asked(), 5);
    let none = Provider::that_says(Err(FetchError::Late));
    for stranger in 0..1_000 {
        none.keys(Some(&stranger.to_string())).await.unwrap_err();
    }
    assert_eq!(none.asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn fifty_who_ask_at_once_share_one_fetch() {
    let provider = Provider::that_says(ok(key_set(&["a"])));
    provider.written.gate.forget_permits(GATE);
    let asking = (0..50).map(|_| Box::pin(provider.keys(Some("a"))));
    let mut asking = Box::pin(futures::future::join_all(asking));
    assert!(futures::poll!(&mut asking).is_pending());
    tokio::task::yield_now().await;
    assert_eq!(provider.asked(), 1);
    provider.written.gate.add_permits(GATE);
    let keys: Vec<_> = asking.await.into_iter().map(Result::unwrap).collect();
    assert_eq!(keys.len(), 50);
    assert!(keys.iter().all(|given| Arc::ptr_eq(given, &keys[0]) && given.has_kid("a")));
    assert_eq!(provider.asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn whoever_asks_and_goes_away_stops_no_fetch() {
    let provider = Provider::that_says(ok(key_set(&["a"])));
    provider.written.gate.forget_permits(GATE);
    let mut impatient = Box::pin(provider.keys(Some("a")));
    assert!(futures::poll!(&mut impatient).is_pending());
    drop(impatient);
    provider.written.gate.add_permits(GATE);
    assert!(provider.has("a").await);
    assert_eq!(provider.asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_a_provider_for_long_nor_when_the_node_stops() {
    let provider = Provider::that_says(ok(key_set(&["a"])));
    provider.written.gate.forget_permits(GATE);
    let begun_at = Instant::now();
    assert_eq!(provider.keys(None).await.unwrap_err(), ProviderUnavailable::Late);
    assert!((FETCH_WAIT_MAX..FETCH_WAIT_MAX + seconds(1)).contains(&begun_at.elapsed()));
    let stopping = Provider::that_says(ok(key_set(&["a"])));
    stopping.written.gate.forget_permits(GATE);
    let mut asking = Box::pin(stopping.keys(None));
    assert!(futures::poll!(&mut asking).is_pending());
    stopping.supervisor.shutdown().request();
    assert_eq!(asking.await.unwrap_err(), ProviderUnavailable::Stopped);
    assert_eq!(stopping.supervisor.ended().await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn another_manifest_begins_anew() {
    let provider = Provider::that_says(ok(key_set(&["a"])));
    assert!(provider.has("a").await);
    provider.says(ok(key_set(&["b"])));
    let elsewhere = spec_with(&format!("{URL}elsewhere"));
    let keys = provider.providers.keys("acme", &elsewhere, Some("a")).await.unwrap();
    assert!(keys.has_kid("b") && !keys.has_kid("a"));
    assert_eq!(provider.asked(), 2);
    provider.says(Err(FetchError::Unreachable));
    let other = IdentityProviderSpec { algorithms: [ProviderAlgorithm::ES256].into(), ..elsewhere };
    provider.providers.keys("acme", &other, Some("b")).await.unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn the_provider_that_was_not_asked_for_the_longest_time_is_forgotten() {
    let provider = Provider::that_says(ok(key_set(&["a"])));
    let ask = async |name: &str| {
        advance(Duration::from_millis(1)).await;
        provider.providers.keys(name, &spec_with(URL), Some("a")).await.unwrap()
    };
    for number in 0..PROVIDERS_MAX {
        ask(&number.to_string()).await;
    }
    assert_eq!(provider.asked(), PROVIDERS_MAX);
    ask("0").await;
    ask("another").await;
    assert_eq!(lock(&provider.providers.known).len(), PROVIDERS_MAX);
    assert_eq!(provider.asked(), PROVIDERS_MAX + 1);
    ask("0").await;
    assert_eq!(provider.asked(), PROVIDERS_MAX + 1, "asked for lately");
    ask("1").await;
    assert_eq!(provider.asked(), PROVIDERS_MAX + 2, "forgotten");
}
