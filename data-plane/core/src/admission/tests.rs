//! Every reason admission can give, and that listing and calling are one rule.

mod bound;
mod handed_on;
mod narrowed;

use bailiwick_proto::v1::resource::Resource as Kind;
use proptest::prelude::*;

use super::*;
use crate::fixture::{self, NOW, PERMIT_FINANCE, World, caller, entry, world};

fn ask(world: &World, name: &str) -> Decision {
    admit(&world.config(), &caller(), ToolRef { virtual_server: "finance", name }, NOW)
}

fn with_consent(change: impl FnOnce(&mut bailiwick_proto::v1::Consent)) -> World {
    let mut consent = fixture::consent();
    change(&mut consent);
    world().with(entry("consent/c-1", Kind::Consent(consent)))
}

#[test]
fn every_condition_refuses_with_its_own_reason() {
    let forbid = r#"forbid (principal, action, resource) when { context.agent == Agent::"coder" };"#;
    let quarantined = bailiwick_proto::v1::Tool {
        quarantined: true,
        ..fixture::tool("finance", &fixture::definition("query_data"), "retrieval")
    };
    for (world, tool, expected) in [
        (world(), "query_data", None),
        (world().without("user/jane@example.com"), "query_data", Some(Reason::UserUnknown)),
        (world().with(entry("user/jane@example.com", fixture::user(false))), "query_data", Some(Reason::UserInactive)),
        (world().without("agent/coder"), "query_data", Some(Reason::AgentUnknown)),
        (world().with(entry("agent/coder", fixture::agent("x", true))), "query_data", Some(Reason::AgentUnknown)),
        (
            world().with(entry("agent/coder", fixture::agent("retrieval", false))),
            "query_data",
            Some(Reason::AgentInactive),
        ),
        (world().without("consent/c-1"), "query_data", Some(Reason::ConsentMissing)),
        (with_consent(|consent| consent.user = "eve@example.com".into()), "query_data", Some(Reason::ConsentMissing)),
        (with_consent(|consent| consent.agent = "other".into()), "query_data", Some(Reason::ConsentMissing)),
        (with_consent(|consent| consent.client = "other".into()), "query_data", Some(Reason::ConsentMissing)),
        (with_consent(|consent| consent.client = String::new()), "query_data", Some(Reason::ConsentMissing)),
        (with_consent(|consent| consent.virtual_server = "all".into()), "query_data", Some(Reason::ConsentMissing)),
        (with_consent(|consent| consent.revoked = true), "query_data", Some(Reason::ConsentRevoked)),
        (with_consent(|consent| consent.expires_at = NOW), "query_data", Some(Reason::ConsentExpired)),
        (with_consent(|consent| consent.expires_at = NOW + 1), "query_data", None),
        (world(), "no_such_tool", Some(Reason::ToolUnknown)),
        (world(), "finance__query_data", Some(Reason::ToolUnknown)),
        (world().with(fixture::tool_entry(quarantined)), "query_data", Some(Reason::ToolQuarantined)),
        (
            with_consent(|consent| consent.level = "retrieval".into()),
            "create_charge",
            Some(Reason::ConsentLevelExceeded),
        ),
        (
            world().with(entry("agent/coder", fixture::agent("transactional", true))),
            "drop_ledger",
            Some(Reason::CeilingExceeded),
        ),
        (world().with(entry("agent/coder", fixture::agent("transactional", true))), "create_charge", None),
        (world().without("policy/finance"), "query_data", Some(Reason::PolicyDenied)),
        (world().with(fixture::policy("no", 9, forbid)), "query_data", Some(Reason::PolicyDenied)),
    ] {
        assert_eq!(ask(&world, tool).reason, expected, "{tool}");
    }
}

const READS: &str = r#"
    permit (principal, action == Action::"get_prompt", resource == Server::"finance") when { context.name == "summary" };
    permit (principal, action == Action::"read_resource", resource == Server::"finance")
    when { context.uri like "file:///public/*" };"#;

fn want(world: &World, what: What<'_>) -> Decision {
    admit(&world.config(), &caller(), Wanted { virtual_server: "finance", what }, NOW)
}

#[test]
fn prompts_and_resources_are_refused_for_the_same_reasons_in_the_same_order() {
    use What::{Prompt, Resource, Template};
    let reads = || world().with(fixture::policy("reads", 1, READS));
    let only_reading = |consent: &mut bailiwick_proto::v1::Consent| consent.level = "retrieval".into();
    let forbid = r#"forbid (principal, action, resource) when { context.agent == Agent::"coder" };"#;
    for (world, what, expected) in [
        (reads(), Prompt("summary"), None),
        (reads(), Prompt("other"), Some(Reason::PolicyDenied)),
        (reads(), Prompt(""), Some(Reason::PromptUnknown)),
        (reads(), Prompt("a\u{7}"), Some(Reason::PromptUnknown)),
        (reads(), Resource("file:///public/a"), None),
        (reads(), Resource("file:///private"), Some(Reason::PolicyDenied)),
        (reads(), Resource("file:///public/../private"), Some(Reason::ResourceUriInvalid)),
        (reads(), Resource("file:///public/%2e%2e/private"), Some(Reason::ResourceUriInvalid)),
        (reads(), Resource("file:///public/{a}"), Some(Reason::ResourceUriInvalid)),
        (reads(), Resource(""), Some(Reason::ResourceUnknown)),
        (reads(), Template("file:///public/{a}"), None),
        (reads(), Template("file:///{a}"), Some(Reason::PolicyDenied)),
        (world(), Prompt("summary"), Some(Reason::PolicyDenied)),
        (world(), Resource("file:///public/a"), Some(Reason::PolicyDenied)),
        (with_consent(only_reading).with(fixture::policy("reads", 1, READS)), Prompt("summary"), None),
        (with_consent(|consent| consent.revoked = true), Prompt(""), Some(Reason::ConsentRevoked)),
        (with_consent(|consent| consent.expires_at = NOW), Resource(""), Some(Reason::ConsentExpired)),
        (reads().with(entry("agent/coder", fixture::agent("retrieval", true))), Prompt("summary"), None),
        (reads().with(entry("agent/coder", fixture::agent("x", false))), Prompt("summary"), Some(Reason::AgentUnknown)),
        (reads().with(fixture::policy("no", 9, forbid)), Prompt("summary"), Some(Reason::PolicyDenied)),
        (reads().without("server/finance"), Prompt("summary"), Some(Reason::PromptUnknown)),
        (reads().without("server/finance"), Resource("file:///public/a"), Some(Reason::ResourceUnknown)),
    ] {
        assert_eq!(want(&world, what).reason, expected, "{what:?}");
    }
    let permitted = want(&reads(), Prompt("summary"));
    assert_eq!((permitted.server(), permitted.tier()), (Some("finance"), Tier::Retrieval));
    assert!(permitted.tool().is_none());
    assert_eq!((permitted.policies[0].name.as_str(), permitted.policies.len()), ("reads", 1));
}

#[test]
fn one_server_s_name_leads_to_no_other_server() {
    let permit = r#"permit (principal, action == Action::"read_resource", resource == Server::"finance");"#;
    let consent = bailiwick_proto::v1::Consent { virtual_server: "all".into(), ..fixture::consent() };
    let world = world().with(entry("consent/c-1", Kind::Consent(consent))).with(fixture::policy("reads", 1, permit));
    let caller = Caller { virtual_server: "all".into(), ..caller() };
    let config = world.config();
    for (uri, expected) in [
        ("mcp+finance+file:///a", None),
        ("mcp+hr+file:///a", Some(Reason::PolicyDenied)),
        ("mcp+finance+mcp+hr+file:///a", None),
        ("mcp+hr+mcp+finance+file:///a", Some(Reason::PolicyDenied)),
        ("mcp+other+file:///a", Some(Reason::ResourceUnknown)),
        ("file:///a", Some(Reason::ResourceUnknown)),
        ("mcp+finance+file:///a/../b", Some(Reason::ResourceUriInvalid)),
    ] {
        let wanted = Wanted { virtual_server: "all", what: What::Resource(uri) };
        assert_eq!(admit(&config, &caller, wanted, NOW).reason, expected, "{uri}");
    }
}

/// The world with an agent that another person owns.
fn owned_by_another(owner: Option<bool>) -> World {
    let (name, owner_name, project) = ("coder".into(), "max@example.com".to_owned(), "platform".into());
    let agent = bailiwick_proto::v1::Agent {
        name,
        owner: owner_name.clone(),
        project,
        ceiling: "destructive".into(),
        active: true,
    };
    let world = world().with(entry("agent/coder", Kind::Agent(agent)));
    let Some(active) = owner else { return world };
    let max = bailiwick_proto::v1::User { name: owner_name, groups: vec!["owners".into()], active };
    world.with(entry("user/max@example.com", Kind::User(max)))
}

#[test]
fn an_agent_acts_for_anybody_only_while_its_owner_answers_for_it() {
    for (owner, expected) in
        [(Some(true), None), (Some(false), Some(Reason::AgentInactive)), (None, Some(Reason::AgentInactive))]
    {
        let config = owned_by_another(owner).config();
        let wanted = ToolRef { virtual_server: "finance", name: "query_data" };
        assert_eq!(admit(&config, &caller(), wanted, NOW).reason, expected, "{owner:?}");
        assert_eq!(taken_away(&config, &caller()), expected, "calls under way are cut as well");
        assert_eq!(listable(&config, &caller(), "finance", NOW).is_empty(), expected.is_some());
        assert_eq!(Admission::of(&config, &caller(), NOW).stands("finance"), expected.is_none());
    }
    let by_owner = r#"permit (principal, action, resource) when { context.agent.owner in Group::"owners" };"#;
    let world = owned_by_another(Some(true)).with(fixture::policy("finance", 3, by_owner));
    assert!(ask(&world, "query_data").permits(), "policies know the groups of the owner, not of who acts");
}

#[test]
fn a_token_reaches_what_its_scope_does_and_where_only_that_is_missing_says_which_would_do() {
    use Tier::{Destructive, Retrieval, Transactional};
    let permit = r#"permit (principal, action, resource) unless { resource.name == "drop_ledger" };"#;
    let low = |level: &str| with_consent(|consent| consent.level = level.into());
    let insufficient = |tier| (Some(Reason::ScopeInsufficient), Some(tier));
    for (scope_level, world, tool, expected) in [
        (Retrieval, world(), "query_data", (None, None)),
        (Retrieval, world(), "create_charge", insufficient(Transactional)),
        (Retrieval, world(), "drop_ledger", insufficient(Destructive)),
        (Transactional, world(), "create_charge", (None, None)),
        (Transactional, world(), "drop_ledger", insufficient(Destructive)),
        (Destructive, world(), "drop_ledger", (None, None)),
        (Retrieval, low("transactional"), "create_charge", insufficient(Transactional)),
        // More scope would change nothing here.
        (Retrieval, low("retrieval"), "create_charge", (Some(Reason::ConsentLevelExceeded), None)),
        (
            Retrieval,
            world().with(entry("agent/coder", fixture::agent("retrieval", true))),
            "create_charge",
            (Some(Reason::CeilingExceeded), None),
        ),
        (
            Retrieval,
            world().with(fixture::policy("finance", 3, permit)),
            "drop_ledger",
            (Some(Reason::PolicyDenied), None),
        ),
        (Retrieval, world(), "no_such_tool", (Some(Reason::ToolUnknown), None)),
    ] {
        let caller = Caller { scope_level, ..caller() };
        let decision = admit(&world.config(), &caller, ToolRef { virtual_server: "finance", name: tool }, NOW);
        let needed = decision.scope_needed.map(|scope| scope.level().unwrap());
        assert_eq!((decision.reason, needed), expected, "{scope_level} {tool}");
        assert!(needed.is_none() || decision.policies.is_empty(), "no policy refused it");
    }
}

#[test]
fn the_least_scope_reaches_prompts_and_resources() {
    let config = world().with(fixture::policy("reads", 1, READS)).config();
    let caller = Caller { scope_level: Tier::Retrieval, ..caller() };
    for what in [What::Prompt("summary"), What::Resource("file:///public/a"), What::Template("file:///public/{a}")] {
        assert_eq!(admit(&config, &caller, Wanted { virtual_server: "finance", what }, NOW).reason, None, "{what:?}");
    }
}

#[test]
fn earlier_conditions_are_named_before_later_ones() {
    let nothing_right = with_consent(|consent| {
        consent.revoked = true;
        consent.level = "retrieval".into();
        consent.expires_at = 0;
    });
    assert_eq!(ask(&nothing_right, "no_such_tool").reason, Some(Reason::ConsentRevoked));
    let idle = nothing_right.with(entry("user/jane@example.com", fixture::user(false)));
    assert_eq!(ask(&idle, "no_such_tool").reason, Some(Reason::UserInactive));
}

#[test]
fn a_token_for_one_virtual_server_is_no_good_on_another() {
    let config = world().config();
    let elsewhere = ToolRef { virtual_server: "all", name: "finance__query_data" };
    assert_eq!(admit(&config, &caller(), elsewhere, NOW).reason, Some(Reason::ConsentMissing));
    assert!(listable(&config, &caller(), "all", NOW).is_empty());
    assert!(listable(&config, &caller(), "nowhere", NOW).is_empty());
}

#[test]
fn a_decision_names_what_its_record_needs() {
    let permitted = ask(&world(), "query_data");
    assert_eq!((permitted.revision, permitted.tier()), (7, Tier::Retrieval));
    assert_eq!(
        (permitted.owner.as_deref(), permitted.project.as_deref()),
        (Some("jane@example.com"), Some("platform"))
    );
    assert_eq!(*permitted.policies, [PolicyRef { name: "finance".into(), version: 3 }]);
    let unknown = ask(&world(), "no_such_tool");
    assert!(unknown.tool().is_none() && unknown.tier() == Tier::Destructive);
}

#[test]
fn an_empty_configuration_denies_and_lists_nothing() {
    let config = Config::default();
    assert!(listable(&config, &caller(), "finance", NOW).is_empty());
    let asked = ToolRef { virtual_server: "finance", name: "query_data" };
    assert_eq!(admit(&config, &caller(), asked, NOW).reason, Some(Reason::UserUnknown));
}

#[test]
fn a_node_in_trouble_forwards_only_what_its_condition_allows() {
    use Freshness::{Expired, Leased, Unleased};
    use SpoolLevel::{Free, Full, Pressed};
    for (freshness, spool, reads, changes) in [
        (Leased, Free, None, None),
        (Leased, Pressed, None, Some(Reason::SpoolPressure)),
        (Leased, Full, Some(Reason::SpoolFull), Some(Reason::SpoolFull)),
        (Unleased, Free, None, Some(Reason::ConfigStale)),
        (Unleased, Full, Some(Reason::SpoolFull), Some(Reason::ConfigStale)),
        (Expired, Free, Some(Reason::ConfigStale), Some(Reason::ConfigStale)),
    ] {
        assert_eq!(node_gate(Tier::Retrieval, freshness, spool), reads);
        assert_eq!(node_gate(Tier::Transactional, freshness, spool), changes);
        assert_eq!(node_gate(Tier::Destructive, freshness, spool), changes);
    }
}

fn any_tier() -> impl Strategy<Value = &'static str> {
    prop_oneof![Just("retrieval"), Just("transactional"), Just("destructive")]
}

prop_compose! {
    fn any_world()(
        user_active in prop::bool::weighted(0.9),
        agent_active in prop::bool::weighted(0.9),
        ceiling in any_tier(),
        level in any_tier(),
        tools in narrowed::any_tools(),
        revoked in prop::bool::weighted(0.1),
        seconds in -2_i64..20,
        policy in prop::option::weighted(0.9, prop_oneof![
            Just(PERMIT_FINANCE),
            Just(r#"permit (principal, action, resource) when { resource.tier == "retrieval" };"#),
            Just(r#"permit (principal, action == Action::"finance__create_charge", resource);"#),
            Just(r#"permit (principal, action, resource); forbid (principal, action, resource) when { context.level == "destructive" };"#),
        ]),
        tiers in prop::collection::vec((any_tier(), any::<bool>()), 3),
    ) -> World {
        let mut world = with_consent(|consent| {
            let level_of = if tools.is_empty() { &mut consent.level } else { &mut consent.listed_level };
            *level_of = level.into();
            if !tools.is_empty() {
                consent.level = String::new();
            }
            consent.tools = tools;
            consent.revoked = revoked;
            consent.expires_at = NOW + seconds;
        });
        world = world
            .with(entry("user/jane@example.com", fixture::user(user_active)))
            .with(entry("agent/coder", fixture::agent(ceiling, agent_active)))
            .without("policy/finance");
        for (name, (tier, quarantined)) in ["query_data", "create_charge", "drop_ledger"].into_iter().zip(tiers) {
            let tool = fixture::tool("finance", &fixture::definition(name), tier);
            world = world.with(fixture::tool_entry(bailiwick_proto::v1::Tool { quarantined, ..tool }));
        }
        match policy {
            Some(cedar) => world.with(fixture::policy("finance", 3, cedar)),
            None => world,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn what_is_listed_is_exactly_what_may_be_called(
        world in any_world(),
        virtual_server in prop_oneof![Just("finance"), Just("all")],
        scope_level in prop::sample::select(Tier::ALL.to_vec()),
    ) {
        let config = world.config();
        let caller = Caller { virtual_server: virtual_server.into(), scope_level, ..caller() };
        let listed: Vec<&str> = listable(&config, &caller, virtual_server, NOW).iter().map(|tool| tool.name.as_str()).collect();
        for name in config.virtual_servers[virtual_server].tools.keys() {
            let decision = admit(&config, &caller, ToolRef { virtual_server, name }, NOW);
            prop_assert_eq!(listed.contains(&name.as_str()), decision.permits(), "{}", name);
            prop_assert!(!decision.permits() || decision.tier() <= scope_level);
        }
        prop_assert!(listed.is_sorted());
    }

    #[test]
    fn the_same_question_gets_the_same_answer(world in any_world()) {
        let (one, other) = (ask(&world, "query_data"), ask(&world, "query_data"));
        prop_assert_eq!((one.reason, one.policies), (other.reason, other.policies));
    }
}
