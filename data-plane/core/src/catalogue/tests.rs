//! Snapshots, deltas and what of them comes into force when something is wrong.

mod denials;
mod rollouts;

use bailiwick_proto::{Reason, v1::resource::Resource as Kind};
use serde_json::json;

use super::*;
use crate::{
    admission::{ToolRef, admit},
    fixture::{self, NOW, World, caller, entry, tool_entry, world},
};

fn reason(catalogue: &Catalogue, name: &str) -> Option<Reason> {
    admit(&catalogue.config(), &caller(), ToolRef { virtual_server: "finance", name }, NOW).reason
}

/// A catalogue that holds `world` at revision 7.
fn holding(world: &World) -> Catalogue {
    let mut catalogue = Catalogue::new();
    world.apply(&mut catalogue, 7);
    catalogue
}

fn delta(from: u64, after: &World, changes: Vec<v1::EntryChange>) -> v1::Delta {
    v1::Delta { from, to: from + 1, changes, digest: after.digest() }
}

fn set(entry: v1::Entry) -> v1::EntryChange {
    v1::EntryChange { key: entry.key, value: Some(entry.value) }
}

fn gone(key: &str) -> v1::EntryChange {
    v1::EntryChange { key: key.into(), value: None }
}

fn revoked() -> v1::Entry {
    entry("consent/c-1", Kind::Consent(v1::Consent { revoked: true, ..fixture::consent() }))
}

#[test]
fn a_snapshot_in_chunks_comes_into_force_with_the_last_one() {
    let whole = world();
    let mut catalogue = Catalogue::new();
    for (index, entry) in whole.0.iter().enumerate() {
        let last = index + 1 == whole.0.len();
        let digest = if last { whole.digest() } else { Vec::new() };
        let chunk = v1::Snapshot { revision: 7, entries: vec![entry.clone()], last, digest };
        assert_eq!(catalogue.snapshot(chunk).unwrap().is_some(), last);
    }
    assert_eq!((catalogue.revision(), catalogue.digest()), (7, whole.digest()));
    assert_eq!(catalogue.config().warnings, Vec::<String>::new());
    assert_eq!(reason(&catalogue, "query_data"), None);
}

#[test]
fn an_unfinished_snapshot_does_not_mix_with_the_next() {
    let mut catalogue = Catalogue::new();
    let stray = v1::Snapshot { revision: 6, entries: vec![fixture::server("stray")], last: false, digest: Vec::new() };
    assert!(catalogue.snapshot(stray.clone()).unwrap().is_none());
    world().apply(&mut catalogue, 7);
    let again = v1::Snapshot { revision: 8, ..stray };
    assert!(catalogue.snapshot(again).unwrap().is_none());
    catalogue.stream_ended();
    world().apply(&mut catalogue, 8);
    assert!(!catalogue.config().servers.contains_key("stray"));
}

#[test]
fn a_snapshot_with_another_digest_changes_nothing() {
    let mut catalogue = holding(&world());
    let forged = v1::Snapshot { digest: vec![0; 32], ..world().without("user/jane@example.com").snapshot(8) };
    assert_eq!(catalogue.snapshot(forged).unwrap_err(), CatalogueError::Digest { revision: 8 });
    assert_eq!((catalogue.revision(), reason(&catalogue, "query_data")), (7, None));
}

#[test]
fn a_delta_leads_to_what_a_snapshot_would() {
    let mut catalogue = holding(&world());
    let after = world().with(revoked()).without("tool/hr/list_people");
    let applied = catalogue.delta(&delta(7, &after, vec![set(revoked()), gone("tool/hr/list_people")])).unwrap();
    assert_eq!((applied.revision, applied.refused.len()), (8, 0));
    assert_eq!(catalogue.digest(), after.digest());
    assert_eq!(reason(&catalogue, "query_data"), Some(Reason::ConsentRevoked));
    assert!(!catalogue.config().virtual_servers["all"].tools.contains_key("hr__list_people"));
}

#[test]
fn a_delta_without_changes_compiles_nothing() {
    let broken = entry(
        "policy/finance",
        Kind::Policy(v1::Policy { name: "finance".into(), cedar: "permit (".into(), version: 9 }),
    );
    for whole in [world(), world().with(broken.clone())] {
        let mut catalogue = holding(&world());
        let refused = catalogue
            .delta(&delta(7, &whole, vec![set(whole.0.iter().find(|entry| entry.key == broken.key).unwrap().clone())]))
            .unwrap()
            .refused;
        let before = catalogue.config();
        catalogue.delta(&delta(8, &whole, Vec::new())).unwrap();
        let applied = catalogue.delta(&delta(9, &whole, vec![set(whole.0[0].clone())])).unwrap();
        assert_eq!((applied.revision, applied.config.revision, catalogue.revision()), (10, 10, 10));
        assert!(Arc::ptr_eq(&applied.config.contents, &before.contents), "the same entries were compiled again");
        assert_eq!(applied.refused, refused, "a refusal must not look healed");
        assert_eq!(applied.config.policies.are_kept(), !refused.is_empty());
    }
}

#[test]
fn a_delta_from_another_revision_is_refused() {
    let mut catalogue = holding(&world());
    let fault = catalogue.delta(&delta(9, &world(), Vec::new())).unwrap_err();
    assert_eq!(fault, CatalogueError::Gap { from: 9, held: 7 });
}

#[test]
fn a_refused_delta_still_revokes_but_grants_nothing() {
    let user = |active| entry("user/jane@example.com", fixture::user(active));
    let open = entry("agent/coder", fixture::agent("destructive", true));
    let narrow = world().with(entry("agent/coder", fixture::agent("retrieval", true)));
    let quarantined =
        v1::Tool { quarantined: true, ..fixture::tool("finance", &fixture::definition("query_data"), "retrieval") };
    for (changes, tool, expected) in [
        (vec![set(revoked())], "query_data", Some(Reason::ConsentRevoked)),
        (vec![set(user(false))], "query_data", Some(Reason::UserInactive)),
        (vec![gone("agent/coder")], "query_data", Some(Reason::AgentInactive)),
        (vec![gone("tool/finance/query_data")], "query_data", Some(Reason::ToolQuarantined)),
        (vec![set(tool_entry(quarantined))], "query_data", Some(Reason::ToolQuarantined)),
        (vec![set(open)], "create_charge", Some(Reason::CeilingExceeded)),
        (vec![gone("policy/finance")], "query_data", None),
        (vec![set(user(true))], "query_data", None),
    ] {
        let mut catalogue = holding(&narrow);
        let wrong = v1::Delta { from: 7, to: 8, changes, digest: vec![1; 32] };
        assert_eq!(catalogue.delta(&wrong).unwrap_err(), CatalogueError::Digest { revision: 8 });
        assert_eq!((catalogue.revision(), reason(&catalogue, tool)), (7, expected), "{wrong:?}");
        // The snapshot that follows sets everything right.
        narrow.apply(&mut catalogue, 8);
        let ceiling = Some(Reason::CeilingExceeded).filter(|_| tool == "create_charge");
        assert_eq!((catalogue.digest(), reason(&catalogue, tool)), (narrow.digest(), ceiling));
    }
}

#[test]
fn a_bad_policy_never_replaces_a_good_one_but_the_rest_applies() {
    let mut catalogue = holding(&world());
    let bad = fixture::policy("finance", 8, "permit (principal, action");
    let after = world().with(bad.clone());
    let applied = catalogue.delta(&delta(7, &after, vec![set(bad)])).unwrap();
    assert_eq!(applied.refused.len(), 1, "{:?}", applied.refused);
    assert!(applied.config.policies.are_kept());
    assert_eq!(reason(&catalogue, "query_data"), None);

    let after = after.with(revoked());
    let applied = catalogue.delta(&delta(8, &after, vec![set(revoked())])).unwrap();
    assert_eq!(applied.refused.len(), 1);
    assert_eq!(reason(&catalogue, "query_data"), Some(Reason::ConsentRevoked));

    let good = fixture::policy("finance", 10, fixture::PERMIT_FINANCE);
    let after = world().with(good.clone());
    let back = entry("consent/c-1", Kind::Consent(fixture::consent()));
    let applied = catalogue.delta(&delta(9, &after, vec![set(good), set(back)])).unwrap();
    assert_eq!((applied.refused.len(), applied.config.policies.are_kept()), (0, false));
    assert_eq!(reason(&catalogue, "query_data"), None);
}

#[test]
fn a_kept_policy_set_does_not_permit_through_a_removed_policy() {
    let mut catalogue = holding(&world());
    let bad = fixture::policy("other", 8, "nonsense");
    let after = world().with(bad.clone()).without("policy/finance");
    catalogue.delta(&delta(7, &after, vec![set(bad), gone("policy/finance")])).unwrap();
    assert_eq!(reason(&catalogue, "query_data"), Some(Reason::PolicyDenied));
}

#[test]
fn a_kept_policy_set_knows_the_present_tiers() {
    let reads = r#"permit (principal, action, resource) when { resource.tier == "retrieval" };"#;
    let mut catalogue = holding(&world().with(fixture::policy("finance", 3, reads)));
    let raised = tool_entry(fixture::tool("finance", &fixture::definition("query_data"), "transactional"));
    let bad = fixture::policy("other", 8, "nonsense");
    let after = world().with(fixture::policy("finance", 3, reads)).with(raised.clone()).with(bad.clone());
    catalogue.delta(&delta(7, &after, vec![set(raised), set(bad)])).unwrap();
    assert_eq!(reason(&catalogue, "query_data"), Some(Reason::PolicyDenied));
    assert_eq!(reason(&catalogue, "by_region"), None);
}

#[test]
fn without_any_good_policies_everything_is_denied() {
    let catalogue = holding(&world().with(fixture::policy("finance", 3, "nonsense")));
    assert_eq!(reason(&catalogue, "query_data"), Some(Reason::PolicyError));
}

#[test]
fn tools_are_named_by_the_virtual_servers_rule() {
    let config = world().config();
    let names = |server: &str| config.virtual_servers[server].tools.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names("finance"), ["by_region", "create_charge", "drop_ledger", "query_data"]);
    assert_eq!(
        names("all"),
        [
            "finance__by_region",
            "finance__create_charge",
            "finance__drop_ledger",
            "finance__query_data",
            "hr__list_people"
        ]
    );
    let shown = config.exposed("all", "hr__list_people").unwrap();
    assert_eq!(
        shown.definition.get(),
        r#"{"description":"Does list_people.","inputSchema":{"type":"object"},"name":"hr__list_people"}"#
    );
    assert_eq!(shown.tool.name, "list_people");
}

#[test]
fn two_tools_of_one_name_are_both_left_out() {
    let same = tool_entry(fixture::tool("hr", &fixture::definition("query_data"), "destructive"));
    let plain = entry("virtual_server/all", fixture::virtual_server("all", &["hr", "finance"], "plain"));
    let config = world().with(same).with(plain).config();
    assert!(config.exposed("all", "query_data").is_none());
    assert!(config.exposed("all", "list_people").is_some());
    assert!(config.exposed("finance", "query_data").is_some());
    assert_eq!(config.warnings.len(), 1, "{:?}", config.warnings);
}

#[test]
fn tools_that_cannot_be_offered_safely_are_left_out_with_a_warning() {
    let good = || fixture::tool("finance", &fixture::definition("query_data"), "retrieval");
    let bad_header =
        json!({"name": "query_data", "inputSchema": {"properties": {"n": {"type": "number", "x-mcp-header": "N"}}}});
    for broken in [
        v1::Tool { hash: "0".repeat(64), ..good() },
        v1::Tool { json: good().json.replace("Does", "Undoes"), ..good() },
        v1::Tool { name: "query_data".into(), ..fixture::tool("finance", &fixture::definition("other"), "retrieval") },
        v1::Tool { cost: "cheap".into(), ..good() },
        fixture::tool("finance", &bad_header, "retrieval"),
    ] {
        let catalogue = holding(&world().with(tool_entry(broken.clone())));
        assert_ne!(reason(&catalogue, "query_data"), None, "{broken:?}");
        assert_eq!(reason(&catalogue, "create_charge"), None);
        assert_eq!(catalogue.config().warnings.len(), 1, "{:?}", catalogue.config().warnings);
    }
    let untiered = v1::Tool { tier: "harmless".into(), ..good() };
    let config = world().with(tool_entry(untiered)).config();
    assert_eq!(config.exposed("finance", "query_data").unwrap().tool.tier, bailiwick_proto::Tier::Destructive);
}

#[test]
fn entries_that_cannot_be_read_are_left_out_with_a_warning() {
    let misplaced = entry("user/eve@example.com", fixture::user(true));
    let garbage = v1::Entry { key: "consent/c-2".into(), value: vec![0xff; 9] };
    let unknown = v1::Entry { key: "rocket/r".into(), value: Vec::new() };
    let no_kind = entry("jane@example.com", fixture::user(true));
    let key = v1::TokenKey { kid: "k".into(), alg: "none".into(), jwk: "{}".into() };
    let key = entry("token_key/k", Kind::TokenKey(key));
    let config = world().with(misplaced).with(garbage).with(unknown).with(no_kind).with(key).config();
    assert_eq!(config.warnings.len(), 5, "{:?}", config.warnings);
    assert!(config.people.user("eve@example.com").is_none() && config.token_keys.is_empty());
    assert!(config.people.user("jane@example.com").is_some());
}

#[test]
fn what_has_not_changed_is_taken_over() {
    let mut catalogue = holding(&world());
    let before = catalogue.config();
    let raised = tool_entry(fixture::tool("finance", &fixture::definition("query_data"), "transactional"));
    let after = world().with(revoked()).with(raised.clone());
    let applied = catalogue.delta(&delta(7, &after, vec![set(revoked()), set(raised)])).unwrap();
    let same = |name: &str| {
        let exposed = |config: &Config| Arc::clone(config.exposed("all", name).unwrap());
        Arc::ptr_eq(&exposed(&before), &exposed(&applied.config))
    };
    assert!(same("finance__create_charge") && !same("finance__query_data"));
    assert_eq!(
        applied.config.exposed("all", "finance__query_data").unwrap().tool.tier,
        bailiwick_proto::Tier::Transactional
    );
}

#[test]
fn the_audience_is_the_mcp_url_and_the_virtual_server() {
    assert_eq!(Config::default().audience("finance"), None);
    let issuer = v1::Issuer { issuer: "http://issuer".into(), mcp_url: "http://mcp/mcp/".into() };
    let config = world().with(entry("issuer/", Kind::Issuer(issuer))).config();
    assert_eq!(config.audience("finance").as_deref(), Some("http://mcp/mcp/finance"));
}

/// A world with many consents besides.
fn crowded(count: u32) -> World {
    let consent = |n: u32| {
        let id = format!("c-crowd-{n}");
        entry(&format!("consent/{id}"), Kind::Consent(v1::Consent { id, ..fixture::consent() }))
    };
    (0..count).map(consent).fold(world(), |mut world, entry| {
        world.0.push(entry);
        world
    })
}

#[test]
fn a_snapshot_in_small_chunks_replaces_another_and_a_wrong_one_leaves_everything_as_it_was() {
    let before = crowded(500);
    let mut catalogue = holding(&before);
    let after = before.clone().with(revoked()).without("consent/c-crowd-7");
    for (digest, expected) in [(vec![1; 32], before.digest()), (after.digest(), after.digest())] {
        for (number, entries) in after.0.chunks(20).enumerate() {
            let last = (number + 1) * 20 >= after.0.len();
            let digest = if last { digest.clone() } else { Vec::new() };
            let taken = catalogue.snapshot(v1::Snapshot { revision: 9, entries: entries.to_vec(), last, digest });
            assert_eq!(taken.is_err(), last && expected == before.digest());
        }
        assert_eq!(catalogue.digest(), expected);
    }
    assert_eq!(reason(&catalogue, "query_data"), Some(Reason::ConsentRevoked));
    assert!(catalogue.config().people.consent("c-crowd-7").is_none());
    assert!(catalogue.config().people.consent("c-crowd-8").is_some());
}

#[test]
fn a_policy_change_among_many_people_knows_what_is_wrong_with_some_of_them() {
    let bad = entry("consent/c-bad", Kind::Consent(v1::Consent { level: "all".into(), ..fixture::consent() }));
    let mut catalogue = holding(&crowded(50).with(bad.clone()));
    assert_eq!(catalogue.config().warnings.len(), 1);
    let policy = fixture::policy("other", 8, "forbid (principal, action, resource);");
    let after = crowded(50).with(bad).with(policy.clone());
    let applied = catalogue.delta(&delta(7, &after, vec![set(policy.clone())])).unwrap();
    assert_eq!(applied.config.warnings, ["consent/c-bad: stands under another key"]);
    let healed = crowded(50).with(policy);
    let applied = catalogue.delta(&delta(8, &healed, vec![gone("consent/c-bad")])).unwrap();
    assert_eq!(applied.config.warnings, Vec::<String>::new());
}
