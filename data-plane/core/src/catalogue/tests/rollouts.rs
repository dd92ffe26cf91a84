//! Rollouts: what counts for the nodes of a share, for the others, and for those that cannot use it.

use bailiwick_proto::rollout::{PLACES, is_refusal};
use proptest::prelude::*;

use super::*;
use crate::config::Offer;

const NODE: &str = "data-plane-1";
/// Below this no node has its place.
const NOBODY: u64 = 0;

fn rollout(below: u64) -> v1::Entry {
    entry("rollout/7", Kind::Rollout(v1::Rollout { id: "7".into(), below, step: 0 }))
}

fn staged(changed: &v1::Entry) -> v1::Entry {
    let change = v1::RolloutChange { rollout: "7".into(), key: changed.key.clone(), value: changed.value.clone() };
    entry(&format!("rollout_change/7/{}", changed.key), Kind::RolloutChange(change))
}

fn at(node: &str, world: &World) -> Catalogue {
    let mut catalogue = Catalogue::of_node(node);
    world.apply(&mut catalogue, 7);
    catalogue
}

fn none_may() -> v1::Entry {
    fixture::policy("finance", 9, r#"forbid (principal, action, resource);"#)
}

fn quarantined(name: &str, quarantined: bool) -> v1::Entry {
    let tool = fixture::tool("finance", &fixture::definition(name), "retrieval");
    tool_entry(v1::Tool { quarantined, ..tool })
}

#[test]
fn a_candidate_counts_in_its_share_alone_and_decisions_name_it() {
    for (below, node, expected) in
        [(PLACES, NODE, Some(Reason::PolicyDenied)), (NOBODY, NODE, None), (PLACES, "", None)]
    {
        let catalogue = at(node, &world().with(rollout(below)).with(staged(&none_may())));
        let decision =
            admit(&catalogue.config(), &caller(), ToolRef { virtual_server: "finance", name: "query_data" }, NOW);
        assert_eq!(decision.reason, expected);
        assert_eq!(decision.rollout.as_deref(), expected.map(|_| "7"));
        let versions: Vec<u64> = decision.policies.iter().map(|policy| policy.version).collect();
        assert_eq!(versions, [if expected.is_some() { 9 } else { 3 }], "of the text that decided");
    }
}

#[test]
fn a_share_that_grows_and_a_rollout_that_ends_come_into_force_by_deltas() {
    let small = world().with(rollout(NOBODY)).with(staged(&none_may()));
    let mut catalogue = at(NODE, &small);
    let steps = [
        (small.clone().with(rollout(PLACES)), vec![set(rollout(PLACES))], Some(Reason::PolicyDenied)),
        (world(), vec![gone("rollout/7"), gone(&staged(&none_may()).key)], None),
        (small.with(rollout(PLACES)), vec![set(rollout(PLACES)), set(staged(&none_may()))], Some(Reason::PolicyDenied)),
        (
            world().with(none_may()),
            vec![set(none_may()), gone("rollout/7"), gone(&staged(&none_may()).key)],
            Some(Reason::PolicyDenied),
        ),
    ];
    for (after, changes, expected) in steps {
        let applied = catalogue.delta(&delta(catalogue.revision(), &after, changes)).unwrap();
        assert_eq!((reason(&catalogue, "query_data"), applied.refused.len()), (expected, 0));
        let is_staged = after.0.iter().any(|entry| entry.key == "rollout/7");
        assert_eq!(catalogue.config().staging.is_some(), is_staged);
    }
}

#[test]
fn a_candidate_that_cannot_be_used_is_refused_by_name_and_changes_nothing() {
    let base = at(NODE, &world());
    for unusable in [
        fixture::policy("finance", 9, "permit (principal, action"),
        entry("user/jane@example.com", fixture::user(false)),
        entry("consent/c-1", Kind::Consent(fixture::consent())),
        entry("issuer/", Kind::Issuer(v1::Issuer::default())),
        entry("policy/other", fixture::user(true)),
    ] {
        let world = world().with(rollout(PLACES)).with(staged(&unusable)).with(staged(&none_may_other()));
        let mut catalogue = Catalogue::of_node(NODE);
        let applied = world.apply(&mut catalogue, 7);
        assert!(is_refusal("7", &applied.refused.join("; ")), "{}: {:?}", unusable.key, applied.refused);
        assert!(catalogue.config().staging.is_none() && !catalogue.config().policies.are_kept());
        assert_eq!(catalogue.config().warnings, base.config().warnings);
        assert_eq!(reason(&catalogue, "query_data"), None, "nothing else of it counts either");
    }
}

#[test]
fn a_view_is_shown_by_the_share_alone_until_it_counts_for_all() {
    let viewed = fixture::finance_with(|listed| {
        listed.tools = "search".into();
        listed.views = vec![v1::ServerView {
            server: "finance".into(),
            only: vec!["query_data".into()],
            tools: vec![v1::ToolView { tool: "query_data".into(), name: "query".into(), ..v1::ToolView::default() }],
            ..v1::ServerView::default()
        }];
    });
    let names = |catalogue: &Catalogue| {
        let config = catalogue.config();
        let finance = &config.virtual_servers["finance"];
        (finance.tools.keys().cloned().collect::<Vec<_>>(), finance.search.is_some())
    };
    let all = names(&at(NODE, &world()));
    let seen = (vec!["query".to_owned()], true);
    let staging = world().with(rollout(PLACES)).with(staged(&viewed));
    assert_eq!(names(&at(NODE, &staging.clone().with(rollout(NOBODY)))), all);
    let mut catalogue = at(NODE, &staging);
    assert_eq!(names(&catalogue), seen);
    let ended = world().with(viewed.clone());
    let changes = vec![set(viewed.clone()), gone("rollout/7"), gone(&staged(&viewed).key)];
    catalogue.delta(&delta(7, &ended, changes)).unwrap();
    assert_eq!(names(&catalogue), seen);
    catalogue.delta(&delta(8, &world(), vec![set(fixture::finance_with(|_| ()))])).unwrap();
    assert_eq!(names(&catalogue), all);
}

fn none_may_other() -> v1::Entry {
    fixture::policy("zz-none", 9, r#"forbid (principal, action, resource);"#)
}

#[test]
fn a_candidate_that_is_refused_after_it_was_in_force_leaves_what_counts_for_all() {
    let good = world().with(rollout(PLACES)).with(staged(&none_may()));
    let mut catalogue = at(NODE, &good);
    let broken = fixture::policy("finance", 10, "permit (");
    let after = good.with(staged(&broken));
    let applied = catalogue.delta(&delta(7, &after, vec![set(staged(&broken))])).unwrap();
    assert!(is_refusal("7", &applied.refused.join("; ")));
    assert_eq!((reason(&catalogue, "query_data"), catalogue.config().policies.are_kept()), (None, false));
    // Even where the policies for all do not compile, what is kept is what counted for all, not the candidate.
    let good = world().with(rollout(PLACES)).with(staged(&none_may()));
    let mut catalogue = at(NODE, &good);
    let after = world().with(broken.clone());
    let changes = vec![set(broken), gone("rollout/7"), gone(&staged(&none_may()).key)];
    let applied = catalogue.delta(&delta(7, &after, changes)).unwrap();
    assert!(!applied.refused.is_empty() && !is_refusal("7", &applied.refused.join("; ")));
    assert_eq!((reason(&catalogue, "query_data"), catalogue.config().policies.are_kept()), (None, true));
}

#[test]
fn a_denial_holds_against_the_candidate() {
    let open = staged(&quarantined("query_data", false));
    // The lane is quicker than the stream.
    let mut catalogue = at(NODE, &world().with(rollout(PLACES)).with(open.clone()));
    assert!(catalogue.config().staging.is_some());
    let changes = vec![set(quarantined("query_data", true))];
    catalogue.deny(&v1::Denials { revision: 8, changes, ..v1::Denials::default() }).unwrap();
    assert_eq!(reason(&catalogue, "query_data"), Some(Reason::ToolQuarantined));
    let after = world().with(rollout(PLACES)).with(open.clone()).with(quarantined("query_data", true));
    catalogue.delta(&delta(7, &after, vec![set(quarantined("query_data", true))])).unwrap();
    assert_eq!(reason(&catalogue, "query_data"), Some(Reason::ToolQuarantined), "and the stream holds to it");
    // A server that goes takes its tools with it.
    let server = staged(&fixture::server("finance"));
    let mut catalogue = at(NODE, &world().with(rollout(PLACES)).with(open).with(server));
    let changes = vec![gone("server/finance")];
    catalogue.deny(&v1::Denials { revision: 8, changes, ..v1::Denials::default() }).unwrap();
    assert_eq!(reason(&catalogue, "query_data"), Some(Reason::ToolQuarantined));
    // People and consents are denied as ever.
    let mut catalogue = at(NODE, &world().with(rollout(PLACES)).with(staged(&none_may_other())));
    catalogue.deny(&v1::Denials { revision: 8, changes: vec![set(revoked())], ..v1::Denials::default() }).unwrap();
    assert_eq!(reason(&catalogue, "query_data"), Some(Reason::ConsentRevoked));
}

/// Changes that a rollout may bring, good and bad.
fn candidates() -> Vec<v1::Entry> {
    vec![
        none_may(),
        none_may_other(),
        fixture::policy("finance", 9, "permit ("),
        fixture::server("hr"),
        quarantined("query_data", false),
        entry("virtual_server/all", fixture::virtual_server("all", &["finance"], "plain")),
        entry("user/jane@example.com", fixture::user(false)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_node_outside_the_share_compiles_exactly_as_without_the_rollout(
        picked in prop::collection::btree_set(0_usize..7, 0..5),
        node in "[a-z]{1,8}",
        share in 0_u64..=PLACES,
    ) {
        let base = at(&node, &world());
        let changes = candidates();
        let of_picked = picked.iter().filter_map(|at| changes.get(*at));
        let world = of_picked.fold(world().with(rollout(share)), |world, changed| world.with(staged(changed)));
        let mut catalogue = Catalogue::of_node(&node);
        let applied = world.apply(&mut catalogue, 7);
        let (here, there) = (catalogue.config(), base.config());
        if bailiwick_proto::rollout::is_in_share("7", &node, share) {
            prop_assert!(here.staging.is_some() != applied.refused.iter().any(|said| is_refusal("7", said)));
            return Ok(());
        }
        prop_assert_eq!(&applied.refused, &Vec::<String>::new());
        prop_assert!(here.staging.is_none());
        prop_assert_eq!(&here.people, &there.people);
        let offer = |config: &Config| {
            let offer = config.offer.as_ref();
            let Offer { issuer, servers, tools, virtual_servers, warnings, .. } = offer;
            format!("{issuer:?} {servers:?} {tools:?} {virtual_servers:?} {warnings:?}")
        };
        prop_assert_eq!(offer(&here), offer(&there));
        for name in ["query_data", "create_charge", "drop_ledger"] {
            prop_assert_eq!(reason(&catalogue, name), reason(&base, name));
        }
    }
}
