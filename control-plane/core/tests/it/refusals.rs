//! Refusals on record: what may stand in them, that nothing follows from them, and that a batch counts once.

use bailiwick_control_plane_core::{
    Change, Command, Context, Decision, Fulfilled, Rejection, Wish,
    command::Answer,
    recorded,
    refusal::{BATCH_MAX, Endpoint, NAME_BYTES_MAX, NoteRefusals, Refusal, RequestRefused, WHY_BYTES_MAX},
};

use crate::world::{World, document, types};

/// A client that guesses.
fn guessed() -> RequestRefused {
    let refusal = Refusal {
        endpoint: Endpoint::Token,
        grant: "urn:ietf:params:oauth:grant-type:jwt-bearer".into(),
        client: "editor".into(),
        claimed: true,
        user: "jane@example.com".into(),
        provider: "acme".into(),
        consent: "c-lived".into(),
        error: "invalid_client".into(),
        why: "unknown client, wrong secret or not active".into(),
    };
    let (first, last) = (1_795_219_200_000_000, 1_795_219_201_000_000);
    RequestRefused { refusal, count: 17, first, last, node: "cp-1".into() }
}

fn note(world: &mut World, batch: &str, refused: Vec<RequestRefused>) -> Result<Decision, Rejection> {
    let context = Context { request_id: batch.into(), actor: "node:cp-1".into(), ..world.context() };
    let wish = NoteRefusals { batch: batch.into(), refused };
    world.run_as(Command::Wish(Wish::NoteRefusals(wish)), &context)
}

/// With somebody to refuse.
fn served() -> World {
    let mut world = World::example();
    let provider = document("IdentityProvider", "acme", "{issuer: \"https://acme.example\"}");
    world.apply(&provider).unwrap();
    world
}

pub(crate) fn one_of_each(world: &mut World) {
    note(world, "n-1", vec![guessed()]).unwrap();
}

#[test]
fn each_kind_is_an_event_and_nothing_follows_from_it() {
    let mut world = served();
    let before = world.state.clone();
    let other = RequestRefused {
        refusal: Refusal { error: "other".into(), why: "many".into(), ..Refusal::default() },
        ..guessed()
    };
    let decision = note(&mut world, "n-1", vec![guessed(), other.clone()]).unwrap();
    assert_eq!(types(&decision), ["request_refused", "request_refused"]);
    assert_eq!(decision.answer, Answer::Fulfilled(Fulfilled::Done));
    let told: Vec<_> = decision.events.iter().map(|event| (event.actor.as_str(), event.change.clone())).collect();
    let node = "node:cp-1";
    assert_eq!(told, [(node, Change::RequestRefused(guessed())), (node, Change::RequestRefused(other))]);
    let mut after = world.state.clone();
    (after.revision, after.requests) = (before.revision, before.requests.clone());
    assert_eq!(after, before);
    let sparse = recorded(&decision.events[1], 7).unwrap();
    for absent in ["grant", "client", "claimed", "user", "provider", "consent"] {
        assert!(sparse.get(absent).is_none(), "{sparse}");
    }
}

#[test]
fn while_nobody_is_served_strangers_leave_nothing_that_an_older_node_cannot_read() {
    let mut world = World::example();
    let decision = note(&mut world, "n-1", vec![guessed()]).unwrap();
    assert_eq!((types(&decision), decision.answer), (vec![], Answer::Fulfilled(Fulfilled::Done)));
    let agent = "{owner: jane@example.com, project: platform, clients: {described_at: [\"https://a.example/client\"]}}";
    world.apply(&document("Agent", "coding-assistant", agent)).unwrap();
    let decision = note(&mut world, "n-2", vec![guessed()]).unwrap();
    assert_eq!(types(&decision), ["request_refused"]);
}

#[test]
fn a_batch_that_is_sent_again_counts_once() {
    let mut world = served();
    note(&mut world, "n-1", vec![guessed()]).unwrap();
    let revision = world.state.revision;
    let again = note(&mut world, "n-1", vec![guessed()]).unwrap();
    assert_eq!((again.repeated, again.answer), (Some(revision), Answer::Done));
    note(&mut world, "n-2", vec![guessed()]).unwrap();
    let refused = world.events.iter().filter(|event| matches!(event.change, Change::RequestRefused(_)));
    assert_eq!(refused.count(), 2);
}

#[test]
fn the_leader_takes_nothing_beyond_the_bounds() {
    let mut world = served();
    let changed = |change: &dyn Fn(&mut RequestRefused)| {
        let mut refused = guessed();
        change(&mut refused);
        vec![refused]
    };
    let cases = [
        ("none", vec![]),
        ("too many", vec![guessed(); BATCH_MAX + 1]),
        ("no count", changed(&|one| one.count = 0)),
        ("over before it began", changed(&|one| one.last = one.first - 1)),
        ("no node", changed(&|one| one.node = String::new())),
        ("no error", changed(&|one| one.refusal.error = String::new())),
        ("a text for an error", changed(&|one| one.refusal.error = "not allowed".into())),
        ("a long grant", changed(&|one| one.refusal.grant = "x".repeat(65))),
        ("no reason", changed(&|one| one.refusal.why = String::new())),
        ("a long reason", changed(&|one| one.refusal.why = "x".repeat(WHY_BYTES_MAX + 1))),
        ("two lines", changed(&|one| one.refusal.why = "a\nb".into())),
        ("a long client", changed(&|one| one.refusal.client = "x".repeat(NAME_BYTES_MAX + 1))),
        ("a client that is none", changed(&|one| one.refusal.client = String::new())),
        ("a person of two lines", changed(&|one| one.refusal.user = "a\u{7f}".into())),
    ];
    for (what, refused) in cases {
        let rejected = note(&mut world, "n-1", refused);
        assert!(matches!(rejected, Err(Rejection::Malformed { .. })), "{what}: {rejected:?}");
    }
    let context = Context { request_id: "n-2".into(), ..world.context() };
    let wish = NoteRefusals { batch: "n-1".into(), refused: vec![guessed()] };
    let rejected = world.run_as(Command::Wish(Wish::NoteRefusals(wish)), &context);
    assert!(rejected.is_err(), "under another id it might count twice");
    let most = changed(&|one| {
        one.refusal.why = "x".repeat(WHY_BYTES_MAX);
        one.refusal.client = "x".repeat(NAME_BYTES_MAX);
    });
    let decision = note(&mut world, "n-3", vec![most[0].clone(); BATCH_MAX]).unwrap();
    assert_eq!(decision.events.len(), BATCH_MAX);
}
