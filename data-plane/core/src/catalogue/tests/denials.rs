//! Denials of the revocation lane, before, between and after the frames of the config stream.

use proptest::prelude::*;

use super::*;
use crate::{Wanted, What};

fn holding(world: &World, revision: u64) -> Catalogue {
    let mut catalogue = Catalogue::new();
    world.apply(&mut catalogue, revision);
    catalogue
}

fn inactive() -> v1::Entry {
    entry("agent/coder", fixture::agent("destructive", false))
}

fn deny(catalogue: &mut Catalogue, revision: u64, changes: Vec<v1::EntryChange>) -> usize {
    catalogue.deny(&v1::Denials { revision, changes, ..v1::Denials::default() }).unwrap()
}

fn delta(catalogue: &mut Catalogue, after: &World, changes: Vec<v1::EntryChange>) {
    let from = catalogue.revision();
    catalogue.delta(&v1::Delta { from, to: from + 1, changes, digest: after.digest() }).unwrap();
}

#[test]
fn a_denial_is_in_force_before_its_delta_and_stays_in_force_through_it() {
    let mut catalogue = holding(&world(), 7);
    assert_eq!(deny(&mut catalogue, 8, vec![set(revoked())]), 1);
    assert_eq!(reason(&catalogue, "query_data"), Some(Reason::ConsentRevoked));
    assert_eq!((catalogue.revision(), catalogue.digest()), (7, world().digest()), "the stream is not disturbed");
    assert_eq!(catalogue.config().revision, 7);
    delta(&mut catalogue, &world().with(revoked()), vec![set(revoked())]);
    assert_eq!(reason(&catalogue, "query_data"), Some(Reason::ConsentRevoked));
    assert_eq!(catalogue.overlay.len(), 0);
}

#[test]
fn a_denial_after_its_delta_changes_nothing() {
    let mut catalogue = holding(&world(), 7);
    delta(&mut catalogue, &world().with(inactive()), vec![set(inactive())]);
    let active = entry("agent/coder", fixture::agent("destructive", true));
    delta(&mut catalogue, &world(), vec![set(active)]);
    let before = catalogue.config();
    assert_eq!(deny(&mut catalogue, 8, vec![set(inactive())]), 0);
    assert_eq!(reason(&catalogue, "query_data"), None, "revision 9 gave it back");
    assert!(Arc::ptr_eq(&catalogue.config().contents, &before.contents));
}

#[test]
fn a_lane_ahead_by_several_revisions_holds_each_denial_until_its_own() {
    let mut catalogue = holding(&world(), 7);
    deny(&mut catalogue, 9, vec![set(inactive())]);
    deny(&mut catalogue, 11, vec![set(revoked()), gone("agent/coder")]);
    delta(&mut catalogue, &world(), Vec::new());
    assert_eq!(reason(&catalogue, "query_data"), Some(Reason::AgentInactive));
    delta(&mut catalogue, &world().with(inactive()), vec![set(inactive())]);
    // Revision 10 gives it back, but 11 has taken it away for good.
    delta(&mut catalogue, &world(), vec![set(entry("agent/coder", fixture::agent("destructive", true)))]);
    assert_eq!((catalogue.revision(), reason(&catalogue, "query_data")), (10, Some(Reason::AgentInactive)));
    let last = world().with(revoked()).without("agent/coder");
    delta(&mut catalogue, &last, vec![set(revoked()), gone("agent/coder")]);
    assert_eq!(reason(&catalogue, "query_data"), Some(Reason::AgentUnknown));
}

#[test]
fn what_a_later_revision_gave_back_is_given_back_once_that_is_held() {
    let mut catalogue = holding(&world(), 7);
    deny(&mut catalogue, 8, vec![set(inactive())]);
    // 8 and 9 in one: the digest is the same as at 7, and still it has to be compiled again.
    let both = v1::Delta { from: 7, to: 9, changes: Vec::new(), digest: world().digest() };
    catalogue.delta(&both).unwrap();
    assert_eq!(reason(&catalogue, "query_data"), None);
}

#[test]
fn a_snapshot_before_the_denials_revision_does_not_undo_it() {
    let mut catalogue = Catalogue::new();
    assert_eq!(deny(&mut catalogue, 8, vec![set(revoked())]), 1);
    assert_eq!(catalogue.config().revision, 0, "a denial is no configuration");
    world().apply(&mut catalogue, 7);
    assert_eq!(reason(&catalogue, "query_data"), Some(Reason::ConsentRevoked));
    let half = v1::Snapshot { last: false, digest: Vec::new(), ..world().snapshot(9) };
    catalogue.snapshot(half).unwrap();
    assert_eq!(reason(&catalogue, "query_data"), Some(Reason::ConsentRevoked), "half a snapshot is nothing");
    let rest = v1::Snapshot { entries: Vec::new(), ..world().snapshot(9) };
    catalogue.snapshot(rest).unwrap().unwrap();
    assert_eq!(reason(&catalogue, "query_data"), None, "revision 9 says so");
}

#[test]
fn a_consent_that_is_granted_and_revoked_before_the_stream_gets_there_never_permits() {
    let mut catalogue = holding(&world().without("consent/c-1"), 7);
    deny(&mut catalogue, 9, vec![set(revoked())]);
    assert_eq!(reason(&catalogue, "query_data"), Some(Reason::ConsentMissing));
    let granted = entry("consent/c-1", Kind::Consent(fixture::consent()));
    delta(&mut catalogue, &world(), vec![set(granted)]);
    assert_eq!(reason(&catalogue, "query_data"), Some(Reason::ConsentRevoked));
}

#[test]
fn denials_in_parts_are_in_force_with_the_last_one() {
    let mut catalogue = holding(&world(), 7);
    let part = |changes, more| v1::Denials { revision: 8, changes, more, ..v1::Denials::default() };
    catalogue.deny(&part(vec![gone("tool/finance/create_charge")], true)).unwrap();
    catalogue.deny(&part(vec![gone("tool/finance/drop_ledger")], false)).unwrap();
    for tool in ["create_charge", "drop_ledger"] {
        assert_eq!(reason(&catalogue, tool), Some(Reason::ToolQuarantined));
    }
    assert_eq!(reason(&catalogue, "query_data"), None);
}

#[test]
fn what_a_delta_granted_cannot_come_by_the_lane() {
    let mut catalogue = holding(&world().with(revoked()), 7);
    let back = entry("consent/c-1", Kind::Consent(fixture::consent()));
    let policy = fixture::policy("finance", 9, "permit (principal, action, resource);");
    assert_eq!(deny(&mut catalogue, 8, vec![set(back), set(policy), gone("policy/finance")]), 0);
    assert_eq!(reason(&catalogue, "query_data"), Some(Reason::ConsentRevoked));
}

#[test]
fn a_delta_applied_twice_and_a_delta_too_early_deny_and_change_nothing_else() {
    let mut catalogue = holding(&world(), 7);
    let after = world().with(inactive());
    let once = v1::Delta { from: 7, to: 8, changes: vec![set(inactive())], digest: after.digest() };
    catalogue.delta(&once).unwrap();
    assert_eq!(catalogue.delta(&once).unwrap_err(), CatalogueError::Gap { from: 7, held: 8 });
    assert_eq!((catalogue.digest(), catalogue.overlay.len()), (after.digest(), 0));
    let early = v1::Delta { from: 12, to: 13, changes: vec![set(revoked())], digest: vec![0; 32] };
    assert_eq!(catalogue.delta(&early).unwrap_err(), CatalogueError::Gap { from: 12, held: 8 });
    assert_eq!((catalogue.revision(), catalogue.overlay.denies("consent/c-1")), (8, true));
    world().apply(&mut catalogue, 13);
    assert_eq!(reason(&catalogue, "query_data"), None);
}

#[test]
fn denying_any_entry_permits_nothing_that_was_not_permitted() {
    // What would widen if a denied entry were merely dropped: two tools of one name, of which neither is offered, and a
    // policy that forbids by the groups of the agent's owner.
    let same = fixture::tool_entry(fixture::tool("hr", &fixture::definition("query_data"), "retrieval"));
    let plain = entry("virtual_server/finance", fixture::virtual_server("finance", &["hr", "finance"], "plain"));
    let (name, groups) = ("boss@example.com".to_owned(), vec!["contractors".to_owned()]);
    let owner = entry("user/boss@example.com", Kind::User(v1::User { name, groups, active: true }));
    let (name, owned_by, project) = ("coder".into(), "boss@example.com".into(), "platform".into());
    let agent = v1::Agent { name, owner: owned_by, project, ceiling: "destructive".into(), active: true };
    let forbid = r#"forbid (principal, action, resource) when { context.agent.owner in Group::"contractors" };"#;
    let forbid = fixture::policy("forbid", 4, forbid);
    let owned = world().with(owner).with(entry("agent/coder", Kind::Agent(agent))).with(forbid);
    let permit = r#"permit (principal, action in [Action::"get_prompt", Action::"read_resource"], resource);"#;
    let world = || world().with(fixture::policy("reads", 5, permit));
    for (whole, expected) in [
        (world().with(same).with(plain), Some(Reason::ToolUnknown)),
        (owned, Some(Reason::PolicyDenied)),
        (world(), None),
    ] {
        let before = holding(&whole, 7);
        assert_eq!(reason(&before, "query_data"), expected);
        for denied in whole.0.iter().filter(|entry| !entry.key.starts_with("policy/")) {
            let mut catalogue = holding(&whole, 7);
            deny(&mut catalogue, 8, vec![gone(&denied.key)]);
            for name in ["query_data", "by_region", "create_charge", "drop_ledger", "list_people"] {
                let widened = reason(&before, name).is_some() && reason(&catalogue, name).is_none();
                assert!(!widened, "{name} without {}", denied.key);
            }
            let reads = |catalogue: &Catalogue, what| {
                let wanted = Wanted { virtual_server: "finance", what };
                admit(&catalogue.config(), &caller(), wanted, NOW).permits()
            };
            for what in [What::Prompt("summary"), What::Prompt("hr__summary"), What::Resource("file:///a")] {
                let widened = !reads(&before, what) && reads(&catalogue, what);
                assert!(!widened, "{what:?} without {}", denied.key);
            }
        }
    }
}

#[test]
fn a_denied_server_takes_its_tools_and_all_that_is_read_of_it_with_it() {
    let mut catalogue = holding(&world(), 7);
    let of_prompt = |catalogue: &Catalogue| {
        let wanted = Wanted { virtual_server: "finance", what: What::Prompt("summary") };
        admit(&catalogue.config(), &fixture::caller(), wanted, NOW).reason
    };
    assert_eq!(of_prompt(&catalogue), Some(Reason::PolicyDenied));
    deny(&mut catalogue, 8, vec![gone("server/finance")]);
    assert_eq!(reason(&catalogue, "query_data"), Some(Reason::ToolQuarantined));
    assert_eq!(of_prompt(&catalogue), Some(Reason::PromptUnknown));
    deny(&mut catalogue, 9, vec![gone("virtual_server/finance")]);
    assert_eq!(reason(&catalogue, "query_data"), Some(Reason::ToolUnknown));
}

#[test]
fn a_bookmark_with_another_digest_shows_drift() {
    let catalogue = holding(&world(), 7);
    let mark = |revision, digest| v1::Heartbeat { revision, digest };
    assert_eq!(catalogue.bookmark(&mark(7, world().digest())), Ok(()));
    let gap = CatalogueError::Gap { from: 8, held: 7 };
    assert_eq!(catalogue.bookmark(&mark(8, vec![1; 32])), Err(gap), "what leads there was lost on the way");
    assert_eq!(catalogue.bookmark(&mark(7, vec![1; 32])), Err(CatalogueError::Digest { revision: 7 }));
    assert_eq!(Catalogue::new().bookmark(&mark(7, vec![1; 32])), Ok(()));
}

proptest! {
    #[test]
    fn what_is_patched_is_what_would_be_compiled_from_all(
        steps in prop::collection::vec((0_usize..9, 0_u8..4, 1_u64..4), 1..40),
    ) {
        let mut whole = world();
        let mut catalogue = holding(&whole, 7);
        for (at, what, ahead) in steps {
            let revision = catalogue.revision() + ahead;
            let Some(changed) = variants().get(at).cloned() else { continue };
            match what {
                0 => drop(deny(&mut catalogue, revision, vec![gone(&changed.key)])),
                1 => {
                    whole = whole.without(&changed.key);
                    delta(&mut catalogue, &whole, vec![gone(&changed.key)]);
                }
                2 => {
                    let wrong = v1::Delta { from: 0, to: revision, changes: vec![gone(&changed.key)], digest: Vec::new() };
                    catalogue.delta(&wrong).unwrap_err();
                }
                _ => {
                    whole = whole.with(changed.clone());
                    delta(&mut catalogue, &whole, vec![set(changed)]);
                }
            }
            let mut faults = Faults::new();
            for (key, value) in catalogue.entries.iter() {
                find_fault(&mut faults, key, Some(value));
            }
            let before = catalogue.config();
            let (fresh, _) = compile::compile(&catalogue.entries, &faults, &catalogue.overlay, &before, "");
            let patched = catalogue.config();
            prop_assert_eq!(&patched.people, &fresh.people);
            prop_assert_eq!(&patched.warnings, &fresh.warnings);
            prop_assert_eq!(&patched.digest, &fresh.digest);
            let quarantined = |config: &crate::config::Offer| config.tools.values().filter(|tool| tool.quarantined).count();
            prop_assert_eq!(quarantined(&patched), quarantined(&fresh));
        }
    }
}

/// Entries that may stand in a world: good ones, denied ones and some that cannot be read.
fn variants() -> Vec<v1::Entry> {
    let bad_level = v1::Consent { level: "all".into(), ..fixture::consent() };
    vec![
        entry("user/jane@example.com", fixture::user(true)),
        entry("user/jane@example.com", fixture::user(false)),
        entry("user/eve@example.com", fixture::user(true)),
        entry("agent/coder", fixture::agent("retrieval", true)),
        entry("consent/c-1", Kind::Consent(fixture::consent())),
        entry("consent/c-1", Kind::Consent(bad_level)),
        entry("consent/c-1", fixture::user(true)),
        fixture::tool_entry(fixture::tool("finance", &fixture::definition("query_data"), "transactional")),
        fixture::server("hr"),
    ]
}

#[test]
fn a_changed_consent_among_many_reads_nothing_else() {
    let mut catalogue = holding(&world(), 7);
    let before = catalogue.config();
    deny(&mut catalogue, 8, vec![set(revoked())]);
    assert!(Arc::ptr_eq(&before.offer, &catalogue.config().offer));
    delta(&mut catalogue, &world().with(revoked()), vec![set(revoked())]);
    assert!(Arc::ptr_eq(&before.offer, &catalogue.config().offer));
}
