//! What one stranger can have, with a clock of the test.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicU16, Ordering},
};

use axum::{
    Router,
    body::Body,
    http::{HeaderMap, header},
    middleware,
    routing::post,
};
use bailiwick_runtime::metrics::Registry;
use tower::Service as _;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn limits(limits: &HttpLimits) -> (Limits, Registry) {
    let registry = Registry::new();
    (Limits::new(limits, Metrics::register(&registry)), registry)
}

fn origin(number: u32) -> Origin {
    Origin::of(Ipv4Addr::from_bits(number).into())
}

fn counted(registry: &Registry, limit: &str) -> String {
    let (rendered, name) = (registry.render(), format!("http_turned_away_total{{limit=\"{limit}\"}} "));
    rendered.lines().find_map(|line| Some(line.split_once(&name)?.1.to_owned())).unwrap_or_default()
}

#[test]
fn an_address_has_a_burst_and_a_rate_and_leaves_others_alone() {
    let ((limits, registry), start) = (limits(&HttpLimits::default()), Instant::now());
    let begun = |number: u32, at: Instant| (0..1_000).filter(|_| limits.begin(origin(number), at).is_ok()).count();
    assert_eq!(begun(1, start), 200);
    assert_eq!(counted(&registry, "address"), "800");
    assert_eq!(begun(2, start), 200);
    assert_eq!(begun(1, start + SECOND), 50);
}

#[test]
fn an_address_has_an_eighth_of_the_places_and_all_together_no_more_than_there_are() {
    let ((limits, registry), now) = (limits(&HttpLimits::default()), Instant::now());
    let mut held: HashMap<u32, Vec<Share>> = HashMap::new();
    for number in 0..9 {
        let shares = (0..100).filter_map(|_| limits.begin(origin(number), now).ok()).collect();
        held.insert(number, shares);
    }
    let counts: Vec<_> = (0..9).map(|number| held[&number].len()).collect();
    assert_eq!(counts, [32, 32, 32, 32, 32, 32, 32, 32, 0]);
    assert_eq!((counted(&registry, "share"), counted(&registry, "places")), ("544".into(), "100".into()));
    held.remove(&3);
    assert!(limits.begin(origin(8), now).is_ok(), "what is given back can be had");
}

#[test]
fn a_client_has_a_burst_and_a_rate_wherever_it_asks_from() {
    let ((limits, registry), start) = (limits(&HttpLimits::default()), Instant::now());
    let taken = |name: &str, at: Instant| (0..1_000).filter(|_| limits.client_at(name, at).is_ok()).count();
    assert_eq!(taken("gateway", start), 500);
    assert_eq!(counted(&registry, "client"), "500");
    assert_eq!(taken("another", start), 500);
    assert_eq!(taken("gateway", start + SECOND), 200);
}

#[test]
fn a_person_answers_some_questions_at_once_and_then_one_in_a_second() {
    let ((limits, registry), start) = (limits(&HttpLimits::default()), Instant::now());
    let taken = |user: &str, at: Instant| (0..100).filter(|_| limits.person_at(user, at).is_ok()).count();
    assert_eq!(taken("jane@example.com", start), 30);
    assert_eq!(counted(&registry, "person"), "70");
    assert_eq!(taken("joe@example.com", start), 30, "others have theirs");
    assert_eq!(taken("jane@example.com", start + SECOND), 1);
    assert_eq!(taken("jane@example.com", start + SECOND * 5), 4);
    assert_eq!(limits.person_at("jane@example.com", start + SECOND * 5).unwrap_err().retry_after(), 1);
}

/// Where every request is answered with the status that is set, and how often it was.
fn app(limits: Limits, status: &'static AtomicU16, answered: &'static AtomicU16) -> Router {
    let answer = async || {
        answered.fetch_add(1, Ordering::Relaxed);
        StatusCode::from_u16(status.load(Ordering::Relaxed)).unwrap()
    };
    Router::new().route("/", post(answer)).layer(middleware::from_fn_with_state(limits, limit))
}

async fn ask(app: &Router, from: Option<u32>) -> (StatusCode, HeaderMap, String) {
    let mut request = Request::post("/").body(Body::empty()).unwrap();
    if let Some(from) = from {
        request.extensions_mut().insert(ClientAddress(Ipv4Addr::from_bits(from).into()));
    }
    let response = app.clone().call(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = axum::body::to_bytes(body, 10_000).await.unwrap();
    (parts.status, parts.headers, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn who_fails_too_often_is_not_heard_any_more_and_told_when_to_come_back() {
    static STATUS: AtomicU16 = AtomicU16::new(401);
    static ANSWERED: AtomicU16 = AtomicU16::new(0);
    // One failure in a second, so that none comes back while this runs, or almost none.
    let config = HttpLimits { failures_per_second: 1, failures_burst: 30, ..HttpLimits::default() };
    let (limits, registry) = limits(&config);
    let app = app(limits.clone(), &STATUS, &ANSWERED);
    let mut asked = 0;
    let (status, headers, body) = loop {
        asked += 1;
        let (status, headers, body) = ask(&app, Some(1)).await;
        if status != StatusCode::UNAUTHORIZED {
            break (status, headers, body);
        }
        assert!(asked < 190, "nobody stops it");
    };
    assert!(asked > 30 && ANSWERED.load(Ordering::Relaxed) == asked - 1, "{asked}");
    assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(
        (&headers[header::RETRY_AFTER], &headers[header::CACHE_CONTROL]),
        (&"1".parse().unwrap(), &"no-store".parse().unwrap())
    );
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!((&body["error"], body["error_description"].is_string()), (&"temporarily_unavailable".into(), true));
    assert_eq!(counted(&registry, "failures"), "1");
    STATUS.store(200, Ordering::Relaxed);
    assert_eq!(ask(&app, Some(2)).await.0, StatusCode::OK, "others are heard");
    assert!(limits.begin(origin(1), Instant::now() + SECOND * 3).is_ok(), "and so is it, later");
}

#[tokio::test]
async fn what_succeeds_or_is_refused_for_another_reason_is_no_failure() {
    static STATUS: AtomicU16 = AtomicU16::new(200);
    static ANSWERED: AtomicU16 = AtomicU16::new(0);
    let config = HttpLimits { failures_per_second: 1, failures_burst: 1, ..HttpLimits::default() };
    let app = app(limits(&config).0, &STATUS, &ANSWERED);
    for status in [200, 400, 503, 303] {
        STATUS.store(status, Ordering::Relaxed);
        for _ in 0..20 {
            assert_eq!(ask(&app, Some(1)).await.0.as_u16(), status);
        }
    }
}

#[tokio::test]
async fn whoever_comes_from_nowhere_shares_a_limit_with_all_of_those() {
    static STATUS: AtomicU16 = AtomicU16::new(200);
    static ANSWERED: AtomicU16 = AtomicU16::new(0);
    let config = HttpLimits { requests_per_second: 1, requests_burst: 3, ..HttpLimits::default() };
    let app = app(limits(&config).0, &STATUS, &ANSWERED);
    let mut statuses = Vec::new();
    for _ in 0..10 {
        statuses.push(ask(&app, None).await.0);
    }
    assert!(statuses.contains(&StatusCode::TOO_MANY_REQUESTS), "{statuses:?}");
}

#[test]
fn when_to_come_back_is_whole_seconds_and_never_at_once() {
    for (wait, seconds) in [(SECOND / 5, "1"), (SECOND, "1"), (SECOND * 2 + SECOND / 10, "3")] {
        let response = OAuthError::too_many("often", wait).into_response();
        assert_eq!(response.headers()[header::RETRY_AFTER], seconds, "{wait:?}");
    }
}
