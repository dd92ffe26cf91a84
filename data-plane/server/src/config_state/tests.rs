//! The lease rule on a clock that the test moves, and both streams meeting in one state.

use bailiwick_proto::config_digest;

use super::*;
use crate::fakes::world::{PERMIT_ALL, claims, consent, entries};

const LEASE: Duration = Duration::from_secs(3);
const STALENESS: Duration = Duration::from_secs(100);

fn snapshot(revision: u64, revoked: bool) -> v1::Snapshot {
    let mut entries = entries("http://127.0.0.1:1/mcp", PERMIT_ALL, true);
    entries.retain(|entry| entry.key != "consent/c-1");
    entries.push(consent(revoked));
    let digest = config_digest::of_entries(&entries).to_vec();
    v1::Snapshot { revision, entries, last: true, digest }
}

fn at(revision: u64) -> ConfigState {
    let state = ConfigState::new(STALENESS);
    state.snapshot(snapshot(revision, false)).unwrap().unwrap();
    state
}

fn denials(revision: u64) -> v1::Denials {
    let changes = vec![v1::EntryChange { key: "consent/c-1".into(), value: Some(consent(true).value) }];
    v1::Denials { revision, changes, ..v1::Denials::default() }
}

fn caller() -> Caller {
    Caller::from_claims(&claims(), "finance").unwrap()
}

fn permits(state: &ConfigState) -> bool {
    state.config().is_some_and(|config| taken_away(&config, &caller()).is_none())
}

async fn pass(seconds: u64) {
    tokio::time::advance(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn a_configuration_without_a_lease_is_not_fresh_and_with_one_ages() {
    let state = ConfigState::new(STALENESS);
    assert_eq!((state.freshness(), state.age(), state.held()), (Freshness::Expired, None, (0, Vec::new())));
    state.snapshot(snapshot(7, false)).unwrap().unwrap();
    assert_eq!((state.freshness(), state.age_ms()), (Freshness::Expired, INTEGER_MAX));
    let lane = state.lane_opened(7);
    state.grant(lane, Instant::now(), LEASE).unwrap();
    pass(2).await;
    assert_eq!((state.freshness(), state.age_ms()), (Freshness::Leased, 2_000));
    pass(1).await;
    assert_eq!(state.freshness(), Freshness::Unleased, "at its end it is over");
    pass(97).await;
    assert_eq!(state.freshness(), Freshness::Unleased);
    pass(1).await;
    assert_eq!(state.freshness(), Freshness::Expired);
    state.grant(lane, Instant::now(), LEASE).unwrap();
    assert_eq!(state.freshness(), Freshness::Leased);
}

#[tokio::test(start_paused = true)]
async fn a_lease_counts_from_the_question_however_late_the_answer() {
    let state = at(7);
    let (lane, asked) = (state.lane_opened(7), Instant::now());
    pass(2).await;
    state.grant(lane, asked, LEASE).unwrap();
    assert_eq!((state.freshness(), state.age_ms()), (Freshness::Leased, 2_000));
    pass(1).await;
    assert_eq!(state.freshness(), Freshness::Unleased);
    let asked = Instant::now();
    pass(10).await;
    state.grant(lane, asked, LEASE).unwrap();
    assert_eq!((state.freshness(), state.age_ms()), (Freshness::Unleased, 10_000));
}

#[tokio::test(start_paused = true)]
async fn neither_configuration_nor_denials_make_an_old_lease_young() {
    let state = at(7);
    let lane = state.lane_opened(7);
    state.grant(lane, Instant::now(), LEASE).unwrap();
    pass(4).await;
    state.deny(&denials(8)).unwrap();
    state.bookmark(&v1::Heartbeat { revision: 7, digest: state.held().1 }).unwrap();
    state.snapshot(snapshot(9, false)).unwrap().unwrap();
    assert_eq!((state.freshness(), state.age_ms()), (Freshness::Unleased, 4_000));
}

#[tokio::test(start_paused = true)]
async fn a_lease_before_the_catch_up_counts_once_caught_up() {
    let state = at(7);
    let lane = state.lane_opened(9);
    state.grant(lane, Instant::now(), LEASE).unwrap();
    assert_eq!(state.freshness(), Freshness::Expired);
    state.snapshot(snapshot(8, false)).unwrap().unwrap();
    assert_eq!(state.freshness(), Freshness::Expired, "what 9 denied may be missing");
    pass(1).await;
    state.snapshot(snapshot(9, false)).unwrap().unwrap();
    assert_eq!((state.freshness(), state.age_ms()), (Freshness::Leased, 1_000));
}

#[tokio::test(start_paused = true)]
async fn a_configuration_that_goes_back_takes_every_lease_with_it() {
    let state = at(10);
    let lane = state.lane_opened(5);
    state.grant(lane, Instant::now(), LEASE).unwrap();
    assert_eq!(state.freshness(), Freshness::Leased);
    state.snapshot(snapshot(8, false)).unwrap().unwrap();
    assert_eq!(state.freshness(), Freshness::Expired);
    assert_eq!(state.grant(lane, Instant::now(), LEASE), Err(LaneOutdated));
    let lane = state.lane_opened(8);
    state.grant(lane, Instant::now(), LEASE).unwrap();
    assert_eq!(state.freshness(), Freshness::Leased);
}

#[tokio::test]
async fn a_denial_holds_whichever_stream_is_quicker() {
    let state = at(7);
    state.deny(&denials(9)).unwrap();
    assert!(!permits(&state), "before the delta");
    state.snapshot(snapshot(8, false)).unwrap().unwrap();
    assert!(!permits(&state), "a snapshot of before does not undo it");
    state.snapshot(snapshot(9, true)).unwrap().unwrap();
    assert!(!permits(&state));
    state.deny(&denials(9)).unwrap();
    state.snapshot(snapshot(10, false)).unwrap().unwrap();
    assert!(permits(&state), "the lane's word came late and was of an older revision");
}

#[tokio::test]
async fn denials_before_any_configuration_are_none_and_wait_for_it() {
    let state = ConfigState::new(STALENESS);
    state.deny(&denials(8)).unwrap();
    assert!(state.config().is_none() && state.held() == (0, Vec::new()));
    state.snapshot(snapshot(7, false)).unwrap().unwrap();
    assert!(!permits(&state));
}

#[tokio::test]
async fn whoever_waits_for_a_revocation_hears_of_it_and_of_nothing_else() {
    let state = at(7);
    let caller = caller();
    let (reason, ()) = tokio::join!(state.taken_away(&caller), async {
        state.snapshot(snapshot(8, false)).unwrap().unwrap();
        tokio::task::yield_now().await;
        state.deny(&denials(9)).unwrap();
    });
    assert_eq!(reason, Reason::ConsentRevoked);
    assert_eq!(state.taken_away(&caller).await, Reason::ConsentRevoked, "also when it happened before");
}

#[tokio::test]
async fn a_refused_delta_still_denies() {
    let state = at(7);
    let changes = denials(8).changes;
    let wrong = v1::Delta { from: 7, to: 8, changes, digest: vec![0; 32] };
    assert_eq!(state.delta(&wrong).unwrap_err(), CatalogueError::Digest { revision: 8 });
    assert!(!permits(&state) && state.held().0 == 7);
}
