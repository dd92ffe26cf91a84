//! Which tools share a number, how much that saves, and that it changes no verdict.

use super::*;

const SERVERS: [&str; 2] = ["finance", "hr"];
const NAMES: [&str; 4] = ["read", "list", "pay", "a.b"];

fn tool(server: &str, name: &str, tier: Tier, cost: Option<&str>) -> CatalogueTool {
    CatalogueTool { server: server.into(), name: name.into(), tier, cost: cost.map(Into::into) }
}

/// For each tool of the catalogue, which one is the first like it.
fn firsts(catalogue: &[CatalogueTool], cedar: &str) -> Vec<usize> {
    let policies = CompiledPolicies::compile(catalogue, &[text("p", cedar)]).unwrap();
    let number = |tool: &CatalogueTool| policies.engine.number(&tool.server, &tool.name).unwrap();
    let first = |tool| catalogue.iter().position(|other| number(other) == number(tool)).unwrap();
    catalogue.iter().map(first).collect()
}

#[test]
fn tools_are_alike_until_a_statement_they_meet_tells_them_apart() {
    let (low, high) = (Tier::Retrieval, Tier::Destructive);
    let catalogue = [
        tool("finance", "read", low, None),
        tool("finance", "list", low, None),
        tool("finance", "pay", high, Some("0.02")),
        tool("finance", "a.b", high, Some("5")),
        tool("hr", "read", low, None),
        tool("hr", "list", low, None),
    ];
    let (by_server, by_tier, by_cost) = ([0, 0, 0, 0, 4, 4], [0, 0, 2, 2, 4, 4], [0, 0, 2, 3, 4, 4]);
    let (by_name, pay, hr_apart) = ([0, 1, 2, 3, 4, 5], [0, 0, 2, 0, 4, 4], [0, 0, 0, 0, 4, 5]);
    for (condition, expected) in [
        ("true", by_server),
        (r#"principal in Group::"staff" && context.virtual_server == "finance""#, by_server),
        (r#"resource in Server::"finance" || resource.server == Server::"hr""#, by_server),
        ("resource is Tool && action in Action::\"call_tool\"", by_server),
        (r#"context.name == "summary""#, by_server),
        (r#"resource.tier == "retrieval""#, by_tier),
        (r#"(if principal in Group::"staff" then resource.tier else "") == "retrieval""#, by_tier),
        ("resource has cost", by_cost),
        (r#"resource has cost && resource.cost.lessThan(decimal("1.0"))"#, by_cost),
        (r#"resource.name == "other""#, by_name),
        (r#"resource["name"] == "other""#, by_name),
        (r#"resource.name like "x*""#, by_name),
        ("resource has name", by_name),
        (r#"resource == Tool::"finance__pay""#, pay),
        (r#"!(action == Action::"finance__pay")"#, pay),
        (r#"[Tool::"finance__pay"].contains(resource)"#, pay),
        (r#"{held: resource}.held == Tool::"finance__pay""#, pay),
        (r#"resource in [Tool::"finance__pay"]"#, pay),
        (r#"Tool::"finance__pay".server == resource.server"#, pay),
        (r#"resource == Tool::"finance__\u{70}ay""#, pay),
    ] {
        assert_eq!(firsts(&catalogue, &permit_when(condition)), expected, "{condition}");
    }
    for (statement, expected) in [
        (r#"forbid (principal, action, resource == Tool::"finance__pay");"#, pay),
        (r#"permit (principal, action == Action::"finance__pay", resource);"#, pay),
        (r#"permit (principal, action in [Action::"finance__pay"], resource in Server::"finance");"#, pay),
        (r#"permit (principal, action in [Action::"call_tool", Action::"finance__pay"], resource);"#, pay),
        (r#"permit (principal, action, resource in Server::"hr") when { resource.name == "x" };"#, hr_apart),
        (r#"permit (principal, action in Action::"call_tool", resource) unless { resource.name == "x" };"#, by_name),
        (r#"permit (principal, action == Action::"hr__read", resource) when { resource.name == "x" };"#, hr_apart),
        (r#"permit (principal, action == Action::"get_prompt", resource) when { context.name == "x" };"#, by_server),
        (r#"@name("finance__pay") permit (principal, action, resource);"#, by_server),
    ] {
        assert_eq!(firsts(&catalogue, statement), expected, "{statement}");
    }
}

/// How many verdicts are settled when somebody new, and then somebody else, lists all these tools.
fn settled_by_lists(catalogue: &[CatalogueTool], policies: &[PolicyText]) -> [usize; 2] {
    let policies = CompiledPolicies::compile(catalogue, policies).unwrap();
    ["jane@example.com", "bob@example.com"].map(|user| {
        for tool in catalogue {
            let asked = Request { user, ..request(&[], (&tool.server, &tool.name)) };
            let _ = policies.decide(&asked);
        }
        policies.settled.verdicts()
    })
}

#[test]
fn a_list_of_a_thousand_tools_asks_once_for_each_server_and_tier() {
    let catalogue: Vec<_> = (0..1000)
        .map(|n| tool(["finance", "hr", "crm", "git"][n % 4], &format!("tool-{n}"), Tier::ALL[n % 3], None))
        .collect();
    let mut policies = vec![
        text("reads", &permit_when(r#"resource.tier == "retrieval""#)),
        text("finance", r#"permit (principal in Group::"finance", action, resource in Server::"finance");"#),
    ];
    assert_eq!(settled_by_lists(&catalogue, &policies), [12, 24]);
    policies.push(text("no-seven", r#"forbid (principal, action == Action::"git__tool-7", resource);"#));
    assert_eq!(settled_by_lists(&catalogue, &policies), [13, 26]);
    policies.push(text(
        "named",
        r#"permit (principal, action, resource in Server::"hr") when { resource.name like "*5" };"#,
    ));
    assert_eq!(settled_by_lists(&catalogue, &policies), [260, 520]);
}

fn catalogues() -> impl Strategy<Value = Vec<CatalogueTool>> {
    let attributes =
        || (prop::sample::select(&Tier::ALL[..2]), prop::option::of(prop::sample::select(&["0.001", "5"])));
    let all = SERVERS.into_iter().flat_map(|server| NAMES.map(|name| (server, name)));
    let all: Vec<_> =
        all.map(|(server, name)| attributes().prop_map(move |(tier, cost)| tool(server, name, tier, cost))).collect();
    all.prop_shuffle()
}

/// A tool's name in policies, as it stands in a text.
fn literal() -> impl Strategy<Value = String> {
    let names = (prop::sample::select(&SERVERS), prop::sample::select(&NAMES));
    names.prop_map(|(server, name)| format!("{:?}", tool(server, name, Tier::Retrieval, None).policy_name()))
}

fn condition() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(&[
            "true",
            FAILS,
            "resource.tier == \"retrieval\"",
            "resource has cost",
            "resource has cost && resource.cost.lessThan(decimal(\"0.01\"))",
            "resource.name == \"pay\"",
            "resource[\"name\"] like \"*a*\"",
            "resource in Server::\"finance\"",
            "resource.server == Server::\"hr\"",
            "principal in Group::\"staff\" && resource.name == \"read\"",
            "(if principal in Group::\"staff\" then resource.tier else resource.name) == \"retrieval\"",
        ])
        .prop_map(str::to_owned),
        literal().prop_map(|tool| format!("resource == Tool::{tool}")),
        literal().prop_map(|tool| format!("action == Action::{tool}")),
        literal().prop_map(|tool| format!("resource in [Tool::{tool}]")),
        literal().prop_map(|tool| format!("action in [Action::{tool}]")),
        literal().prop_map(|tool| format!("{{held: [resource]}}.held.contains(Tool::{tool})")),
        literal().prop_map(|tool| format!("Tool::{tool}.tier == resource.tier")),
        literal().prop_map(|tool| format!("Tool::{tool}.name == resource.name")),
        literal()
            .prop_map(|tool| format!("(if resource.tier == \"retrieval\" then resource else Tool::{tool}) has cost")),
        (literal(), literal()).prop_map(|(one, other)| format!("[Tool::{one}, Tool::{other}].contains(resource)")),
    ]
}

fn statement() -> impl Strategy<Value = String> {
    let effect = prop_oneof![3 => Just("permit"), 1 => Just("forbid")];
    let principal = prop::sample::select(&["", " in Group::\"staff\"", " == User::\"jane@example.com\""]);
    let action = prop_oneof![
        3 => Just(String::new()),
        1 => Just(" in Action::\"call_tool\"".to_owned()),
        1 => literal().prop_map(|tool| format!(" == Action::{tool}")),
        1 => (literal(), literal()).prop_map(|(one, other)| format!(" in [Action::{one}, Action::{other}]")),
        1 => literal().prop_map(|tool| format!(" in [Action::{tool}, Action::\"call_tool\"]")),
    ];
    let resource = prop_oneof![
        3 => Just(String::new()),
        2 => prop::sample::select(&SERVERS).prop_map(|server| format!(" in Server::{server:?}")),
        1 => literal().prop_map(|tool| format!(" == Tool::{tool}")),
        1 => literal().prop_map(|tool| format!(" in Tool::{tool}")),
    ];
    let clause = (prop::sample::select(&["when", "unless"]), condition());
    let clauses = prop::collection::vec(clause.prop_map(|(word, what)| format!(" {word} {{ {what} }}")), 0..3);
    (effect, principal, action, resource, clauses).prop_map(|(effect, principal, action, resource, clauses)| {
        format!("{effect} (principal{principal}, action{action}, resource{resource}){};", clauses.concat())
    })
}

proptest! {
    /// Tools of a server often differ in nothing but their names.
    #[test]
    fn a_verdict_is_the_tool_s_own_whichever_like_it_was_asked_about_before(
        tools in catalogues(),
        statements in prop::collection::vec(statement(), 0..5),
    ) {
        let texts: Vec<_> = statements.iter().enumerate().map(|(n, cedar)| text(&format!("p{n}"), cedar)).collect();
        let policies = CompiledPolicies::compile(&tools, &texts);
        // Few are refused: statements that can never match, whatever they are about.
        prop_assume!(policies.is_ok());
        let policies = policies.unwrap();
        let staff = groups(&["staff"]);
        let jane = "jane@example.com";
        for (user, groups) in [(jane, &[][..]), (jane, &staff), ("bob@example.com", &staff)] {
            for tool in &tools {
                let asked = Request { user, ..request(groups, (&tool.server, &tool.name)) };
                prop_assert_eq!(policies.decide(&asked), policies.decide_plainly(&asked), "{:?}", tool);
            }
        }
    }
}
