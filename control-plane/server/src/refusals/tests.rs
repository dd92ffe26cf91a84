//! What is merged and what is not, what has no room, and what becomes of a write that fails or never ends.

use std::sync::Mutex as Lock;

use axum::{Router, body::Body, middleware, routing::get};
use bailiwick_control_plane_core::refusal::BATCH_MAX;
use tower::ServiceExt as _;

use super::{
    held::{KINDS_MAX, OTHERS, STRANGERS_MAX},
    *,
};

fn of_client(client: &str) -> Refusal {
    Refusal {
        endpoint: Endpoint::Token,
        client: client.into(),
        error: "invalid_client".into(),
        why: "wrong secret".into(),
        ..Refusal::default()
    }
}

/// What a batch says: client or reason, count, first and last.
fn said(batch: &NoteRefusals) -> Vec<(String, u64, u64, u64)> {
    let one = |refused: &bailiwick_control_plane_core::refusal::RequestRefused| {
        let refusal = &refused.refusal;
        let name = if refusal.client.is_empty() { &refusal.why } else { &refusal.client };
        (name.clone(), refused.count, refused.first, refused.last)
    };
    batch.refused.iter().map(one).collect()
}

fn id(id: &str) -> impl FnOnce() -> Option<String> {
    let id = id.to_owned();
    || Some(id)
}

#[test]
fn equal_refusals_are_one_with_a_count_and_its_times() {
    let mut held = Held::default();
    assert_eq!(held.batch("cp-1", id("n-0")), None);
    for now in [20, 30, 25] {
        held.note(of_client("a"), now);
    }
    held.note(of_client("b"), 10);
    held.note(Refusal { why: "another".into(), ..of_client("a") }, 40);
    let batch = held.batch("cp-1", id("n-1")).unwrap();
    let own = |name: &str, count, first, last| (name.to_owned(), count, first, last);
    assert_eq!(said(&batch), [own("b", 1, 10, 10), own("a", 3, 20, 30), own("a", 1, 40, 40)], "the oldest first");
    assert_eq!((batch.batch.as_str(), batch.refused[0].node.as_str()), ("n-1", "cp-1"));
}

#[test]
fn what_was_handed_out_stays_as_it_is_until_it_is_settled() {
    let mut held = Held::default();
    held.note(of_client("a"), 1);
    let batch = held.batch("cp-1", id("n-1")).unwrap();
    held.note(of_client("a"), 2);
    assert_eq!(held.batch("cp-1", id("n-2")), Some(batch), "under its id, and without what came later");
    held.settled();
    assert_eq!(held.batch("cp-1", || None), None, "without an id it waits");
    let next = held.batch("cp-1", id("n-3")).unwrap();
    assert_eq!((next.batch.as_str(), said(&next)), ("n-3", vec![("a".to_owned(), 1, 2, 2)]));
}

#[test]
fn what_has_no_room_is_counted_all_the_same() {
    let mut held = Held::default();
    let kinds = KINDS_MAX + 50;
    for number in 0..kinds {
        held.note(of_client(&format!("c-{number}")), number as u64);
        held.note(of_client("c-0"), number as u64);
    }
    let (mut batches, mut all) = (0, Vec::new());
    while let Some(batch) = held.batch("cp-1", id("n")) {
        assert!(batch.refused.len() <= BATCH_MAX);
        all.extend(said(&batch));
        batches += 1;
        held.settled();
    }
    assert_eq!((batches, all.len()), (5, KINDS_MAX + 1));
    assert_eq!(all.iter().map(|(_, count, ..)| count).sum::<u64>(), 2 * kinds as u64, "no refusal is lost");
    assert_eq!(all.last().unwrap(), &(OTHERS.to_owned(), 50, KINDS_MAX as u64, kinds as u64 - 1));
    assert_eq!(all[0].1, kinds as u64 + 1, "of a kind that is known there may be any number");
}

#[test]
fn what_strangers_do_takes_no_place_of_what_is_about_somebody() {
    let mut held = Held::default();
    for number in 0..1_000 {
        held.note(Refusal { claimed: true, ..of_client(&format!("c-{number}")) }, number);
    }
    let stolen = Refusal { consent: "c-jane".into(), client: String::new(), ..of_client("") };
    held.note(stolen.clone(), 1_000);
    let batch = held.batch("cp-1", id("n")).unwrap();
    assert_eq!(batch.refused[0].refusal, stolen, "first, although it came last");
    assert_eq!(batch.refused.len(), 1 + STRANGERS_MAX + 1);
    let (why, count) = (&batch.refused.last().unwrap().refusal.why, batch.refused.last().unwrap().count);
    assert_eq!((why.as_str(), count), (OTHERS, 1_000 - STRANGERS_MAX as u64));
}

#[test]
fn what_the_leader_would_not_take_is_made_so_that_it_does() {
    let mut held = Held::default();
    let refusal = Refusal {
        grant: "two words".into(),
        client: "x".repeat(401),
        claimed: true,
        user: "a\nb".into(),
        error: String::new(),
        why: format!("é\n{}", "é".repeat(400)),
        ..Refusal::default()
    };
    held.note(refusal, 1);
    held.note(Refusal::default(), 2);
    let batch = held.batch("cp-1", id("n-1")).unwrap();
    let expected =
        Refusal { grant: "other".into(), error: "other".into(), why: "é".repeat(200), ..Refusal::default() };
    assert_eq!(batch.refused[0].refusal, expected);
    assert!(!batch.refused[1].refusal.why.is_empty());
}

/// A leader that answers each write with the next of these, and then takes all.
#[derive(Clone, Default)]
struct Leader(Arc<Lock<Asked>>);

#[derive(Default)]
struct Asked {
    answers: Vec<Result<(), Undecided>>,
    batches: Vec<NoteRefusals>,
}

impl Leader {
    fn answering(answers: impl IntoIterator<Item = Result<(), Undecided>>) -> Self {
        Self(Arc::new(Lock::new(Asked { answers: answers.into_iter().collect(), batches: Vec::new() })))
    }

    fn asked(&self) -> Vec<NoteRefusals> {
        self.0.lock().unwrap().batches.clone()
    }

    fn write(&self) -> impl Fn(NoteRefusals) -> std::future::Ready<Result<(), Undecided>> + Send + Sync + 'static {
        let leader = self.clone();
        move |batch| {
            let mut known = leader.0.lock().unwrap();
            known.batches.push(batch);
            let answer = if known.answers.is_empty() { Ok(()) } else { known.answers.remove(0) };
            std::future::ready(answer)
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_that_failed_is_sent_again_as_it_was_and_later_ones_wait() {
    let (refusals, noting) = refusals("cp-1");
    let leader = Leader::answering([Err(Undecided::Unavailable), Err(Undecided::Unavailable)]);
    let stop = Shutdown::new();
    let running = noting.run_with(leader.write(), stop.clone());
    refusals.note(of_client("a"), 1);
    let meanwhile = async {
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        assert_eq!(leader.asked().len(), 1);
        refusals.note(of_client("a"), 2);
        tokio::time::sleep(Duration::from_secs(30)).await;
        let asked = leader.asked();
        assert_eq!(asked.len(), 4);
        assert_eq!((&asked[0], &asked[0]), (&asked[1], &asked[2]));
        assert_ne!(asked[2].batch, asked[3].batch);
        assert_eq!(said(&asked[3]), [("a".to_owned(), 1, 2, 2)]);
        drop(refusals);
        stop.request();
    };
    tokio::join!(running, meanwhile);
    assert_eq!(leader.asked().len(), 4, "nothing was left");
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_will_never_be_taken_does_not_keep_others_from_it() {
    let (refusals, noting) = refusals("cp-1");
    let leader = Leader::answering([Err(Undecided::Refused("no".into()))]);
    let stop = Shutdown::new();
    let running = noting.run_with(leader.write(), stop.clone());
    refusals.note(of_client("a"), 1);
    let meanwhile = async {
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        refusals.note(of_client("b"), 2);
        tokio::time::sleep(Duration::from_secs(9)).await;
        drop(refusals);
        stop.request();
    };
    tokio::join!(running, meanwhile);
    let asked: Vec<_> = leader.asked().iter().flat_map(said).map(|(name, ..)| name).collect();
    assert_eq!(asked, ["a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn a_flood_is_a_write_now_and_then_and_all_of_it_is_counted() {
    let (refusals, noting) = refusals("cp-1");
    let (leader, stop) = (Leader::default(), Shutdown::new());
    let running = noting.run_with(leader.write(), stop.clone());
    let flood = async {
        for now in 0..60_000 {
            refusals.note(of_client("a"), now);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        drop(refusals);
        stop.request();
    };
    tokio::join!(running, flood);
    let asked = leader.asked();
    assert!((5..=12).contains(&asked.len()), "{} writes in a minute", asked.len());
    assert_eq!(asked.iter().flat_map(said).map(|(_, count, ..)| count).sum::<u64>(), 60_000);
}

#[tokio::test(start_paused = true)]
async fn a_stop_waits_for_the_last_requests_and_writes_what_they_leave() {
    let (refusals, noting) = refusals("cp-1");
    let (leader, stop) = (Leader::default(), Shutdown::new());
    stop.request();
    let running = noting.run_with(leader.write(), stop);
    let last = async {
        (0..BATCH_MAX + 1).for_each(|number| refusals.note(of_client(&format!("c-{number}")), 1));
        tokio::time::sleep(Duration::from_millis(500)).await;
        refusals.note(of_client("late"), 2);
        drop(refusals);
    };
    tokio::join!(running, last);
    assert_eq!(leader.asked().iter().map(|batch| batch.refused.len()).collect::<Vec<_>>(), [BATCH_MAX, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_stop_does_not_wait_for_ever() {
    let (refusals, noting) = refusals("cp-1");
    let stop = Shutdown::new();
    stop.request();
    refusals.note(of_client("a"), 1);
    let began = tokio::time::Instant::now();
    noting.run_with(|_| std::future::pending(), stop).await;
    assert_eq!(began.elapsed(), 2 * LAST_WAIT_MAX, "for the handle that is still here, and for the write");
}

#[tokio::test]
async fn an_answer_with_an_error_is_noted_whether_it_says_why_or_not() {
    let (refusals, noting) = refusals("cp-1");
    let own = async || {
        let about = Refusal { user: "jane@example.com".into(), ..Refusal::default() };
        told_why(Response::new(Body::empty()), "not like this", about)
    };
    let failed = async || StatusCode::FORBIDDEN;
    let layer = middleware::from_fn_with_state(refusals.clone(), note);
    let routes = Router::new()
        .route("/oauth/consent", get(own))
        .route("/sign-in/local", get(failed))
        .route("/oauth/token", get(async || "fine"))
        .route("/mcp/audit", get(async || "fine"))
        .layer(layer);
    for (path, method) in [
        ("/oauth/consent", "GET"),
        ("/sign-in/local", "GET"),
        ("/oauth/token", "GET"),
        ("/oauth/token", "PUT"),
        ("/mcp/audit", "PUT"),
    ] {
        let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
        routes.clone().oneshot(request).await.unwrap();
    }
    let batch = locked(&noting.held).batch("cp-1", id("n-1")).unwrap();
    let mut seen: Vec<_> = batch
        .refused
        .iter()
        .map(|one| &one.refusal)
        .map(|one| (one.endpoint, one.user.as_str(), one.error.as_str(), one.why.as_str()))
        .collect();
    seen.sort_unstable();
    let expected = [
        (Endpoint::Token, "", "invalid_request", "the request cannot be read, or is for nothing that is here"),
        (Endpoint::SignIn, "", "access_denied", "the request is not one that a page of ours makes now"),
        (Endpoint::Consent, "jane@example.com", "access_denied", "not like this"),
    ];
    assert_eq!(seen, expected);
}
