//! What is for bound tokens only, and what is said of that to nodes that know nothing of it.

use super::*;

fn requiring(from: &str) -> World {
    let listed = |listed: &mut bailiwick_proto::v1::VirtualServer| {
        (listed.bound_from, listed.bound_servers) = (from.to_owned(), std::mem::take(&mut listed.servers));
    };
    world().with(fixture::finance_with(listed)).with(fixture::policy("reads", 1, READS))
}

fn asked(world: &World, caller: &Caller, what: What<'_>) -> (Option<Reason>, Option<Scopes>) {
    let decision = admit(&world.config(), caller, Wanted { virtual_server: "finance", what }, NOW);
    assert!(decision.reason.is_none() || decision.policies.is_empty(), "no policy refused it");
    (decision.reason, decision.scope_needed)
}

#[test]
fn from_its_tier_on_only_bound_tokens_are_admitted_and_lists_say_the_same() {
    let tools =
        [("query_data", Tier::Retrieval), ("create_charge", Tier::Transactional), ("drop_ledger", Tier::Destructive)];
    let (bearer, bound) = (caller(), Caller { bound: true, ..caller() });
    for from in Tier::ALL {
        let world = requiring(from.as_str());
        for (name, tier) in tools {
            let refused = (Some(Reason::BindingRequired), Some(Scopes::of_level(tier)));
            let expected = if tier >= from { refused } else { (None, None) };
            assert_eq!(asked(&world, &bearer, What::Tool(name)), expected, "{from} {name}");
            assert_eq!(asked(&world, &bound, What::Tool(name)), (None, None), "{from} {name}");
        }
        let read = asked(&world, &bearer, What::Prompt("summary")).0;
        assert_eq!(read, (from == Tier::Retrieval).then_some(Reason::BindingRequired));
        let config = world.config();
        let shown: Vec<_> = listable(&config, &bearer, "finance", NOW).iter().map(|tool| tool.tool.tier).collect();
        assert!(shown.iter().all(|tier| *tier < from), "{shown:?}");
        assert_eq!(listable(&config, &bound, "finance", NOW).len(), 4);
    }
}

#[test]
fn scope_is_asked_first_and_everything_else_before_that() {
    let world = requiring("retrieval");
    let narrow = Caller { scope_level: Tier::Retrieval, ..caller() };
    assert_eq!(asked(&world, &narrow, What::Tool("drop_ledger")).0, Some(Reason::ScopeInsufficient));
    let revoked = bailiwick_proto::v1::Consent { revoked: true, ..fixture::consent() };
    let world = world.with(entry("consent/c-1", Kind::Consent(revoked)));
    assert_eq!(asked(&world, &caller(), What::Tool("query_data")).0, Some(Reason::ConsentRevoked));
}

#[test]
fn an_unknown_word_requires_binding_of_everything_and_servers_elsewhere_are_no_way_round_it() {
    assert_eq!(asked(&requiring("never"), &caller(), What::Tool("query_data")).0, Some(Reason::BindingRequired));
    let without = world().with(fixture::finance_with(|listed| {
        listed.bound_servers = std::mem::take(&mut listed.servers);
    }));
    assert_eq!(ask(&without, "query_data").reason, Some(Reason::ToolUnknown), "as an older node sees it");
}

#[test]
fn a_policy_can_ask_for_it_too() {
    let permit = r#"permit (principal, action, resource) when { context.bound };"#;
    let world = world().with(fixture::policy("finance", 3, permit));
    let bound = Caller { bound: true, ..caller() };
    for (caller, expected) in [(&caller(), Some(Reason::PolicyDenied)), (&bound, None)] {
        for what in [What::Tool("query_data"), What::Prompt("summary")] {
            assert_eq!(
                admit(&world.config(), caller, Wanted { virtual_server: "finance", what }, NOW).reason,
                expected
            );
        }
    }
}
