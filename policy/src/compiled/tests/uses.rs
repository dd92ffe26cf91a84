//! Prompts and resources: what permits them, what does not, and which statements are about them.

use super::*;

/// What jane, in group finance, may use: tools, then the prompt `summary` and two resources of each server.
fn used(policies: &[(&str, &str)]) -> Vec<String> {
    let (policies, groups) = (compile(policies), groups(&["finance", "staff"]));
    let tools = catalogue();
    let mut all: Vec<(String, Use<'_>)> = Vec::new();
    for tool in &tools {
        all.push((tool.policy_name(), Use::Tool { server: &tool.server, tool: &tool.name }));
    }
    for server in ["finance", "hr"] {
        all.push((format!("{server} summary"), Use::Prompt { server, name: "summary" }));
        for uri in ["file:///public/a", "file:///private"] {
            all.push((format!("{server} {uri}"), Use::Resource { server, uri }));
        }
    }
    let may = |wanted| {
        let verdict = policies.decide(&Request { wanted, ..request(&groups, ("", "")) });
        assert_eq!(verdict.error, None);
        verdict.permit
    };
    all.into_iter().filter(|(_, wanted)| may(*wanted)).map(|(name, _)| name).collect()
}

/// Indexes into what `used` asks about: the reading of both servers.
const READS: [&str; 6] = [
    "finance summary",
    "finance file:///public/a",
    "finance file:///private",
    "hr summary",
    "hr file:///public/a",
    "hr file:///private",
];

fn reads_under(policies: &[(&str, &str)]) -> Vec<String> {
    used(policies).into_iter().filter(|name| READS.contains(&name.as_str())).collect()
}

#[test]
fn what_permits_tools_alone_permits_no_prompt_and_no_resource() {
    for cedar in [
        FINANCE_READS,
        r#"permit (principal, action in Action::"call_tool", resource);"#,
        r#"permit (principal, action in [Action::"call_tool", Action::"finance__query_data"], resource);"#,
        r#"permit (principal, action == Action::"finance__query_data", resource);"#,
        r#"permit (principal, action, resource is Tool);"#,
        r#"permit (principal, action, resource) when { action in Action::"call_tool" };"#,
        r#"permit (principal, action, resource) when { resource.name == "summary" };"#,
    ] {
        assert_eq!(problems(cedar), Vec::<String>::new(), "{cedar}");
        assert_eq!(reads_under(&[("p", cedar)]), Vec::<String>::new(), "{cedar}");
    }
    assert_eq!(used(&[]), Vec::<String>::new());
}

#[test]
fn prompts_and_resources_are_permitted_by_their_own_actions() {
    let cases: &[(&str, &[&str])] = &[
        (r#"permit (principal, action == Action::"get_prompt", resource);"#, &[READS[0], READS[3]]),
        (r#"permit (principal, action == Action::"get_prompt", resource == Server::"hr");"#, &READS[3..4]),
        (r#"permit (principal, action == Action::"read_resource", resource in Server::"finance");"#, &READS[1..3]),
        (
            r#"permit (principal in Group::"finance", action == Action::"read_resource", resource == Server::"finance")
               when { context.uri like "file:///public/*" };"#,
            &READS[1..2],
        ),
        (
            r#"permit (principal, action in [Action::"get_prompt", Action::"read_resource"], resource == Server::"hr");"#,
            &READS[3..],
        ),
        (
            r#"permit (principal, action == Action::"get_prompt", resource) when { context.name == "summary" };"#,
            &[READS[0], READS[3]],
        ),
        (r#"permit (principal, action == Action::"get_prompt", resource) when { context.name == "other" };"#, &[]),
        (
            r#"permit (principal, action == Action::"get_prompt", resource)
               when { context.agent.owner == principal && context.virtual_server == "finance" && context.level == "retrieval" };"#,
            &[READS[0], READS[3]],
        ),
        (r#"permit (principal in Group::"hr", action == Action::"get_prompt", resource);"#, &[]),
    ];
    for (cedar, expected) in cases {
        assert_eq!(problems(cedar), Vec::<String>::new(), "{cedar}");
        assert_eq!(used(&[("p", cedar)]), *expected, "{cedar}");
    }
}

#[test]
fn a_statement_that_leaves_the_action_open_is_about_all_it_has_a_meaning_for() {
    let cases: &[(&str, &[&str])] = &[
        ("true", &READS),
        (r#"resource.tier == "retrieval""#, &READS),
        (r#"resource.tier == "destructive""#, &[]),
        (r#"resource in Server::"hr""#, &READS[3..]),
        (r#"resource.server == Server::"hr""#, &READS[3..]),
        (r#"resource.server.tier == "retrieval""#, &READS),
        (r#"Server::"finance".tier == resource.tier"#, &READS),
        (r#"Tool::"finance__query_data".server.tier == "retrieval""#, &READS),
        (r#"context.uri like "*/public/*""#, &[READS[1], READS[4]]),
        (r#"context.name == "summary""#, &[READS[0], READS[3]]),
        (r#"context has uri && context.uri == "file:///private""#, &[READS[2], READS[5]]),
        (r#"resource has cost && resource.cost.lessThan(decimal("0.01"))"#, &[]),
        (r#"resource == Tool::"finance__create_charge""#, &[]),
        (r#"action == Action::"read_resource" && context.uri like "*private""#, &[READS[2], READS[5]]),
    ];
    for (condition, expected) in cases {
        let cedar = permit_when(condition);
        assert_eq!(problems(&cedar), Vec::<String>::new(), "{condition}");
        assert_eq!(reads_under(&[("p", &cedar)]), *expected, "{condition}");
    }
}

#[test]
fn a_forbid_beats_the_permits_of_prompts_and_resources_too() {
    let all = ("all", "permit (principal, action, resource);");
    let cases: &[(&str, &[&str])] = &[
        (r#"forbid (principal, action == Action::"get_prompt", resource);"#, &[READS[1], READS[2], READS[4], READS[5]]),
        (r#"forbid (principal, action, resource in Server::"hr");"#, &READS[..3]),
        (r#"forbid (principal, action, resource) when { resource.server == Server::"hr" };"#, &READS[..3]),
        (r#"forbid (principal, action, resource) unless { resource.tier == "retrieval" };"#, &READS),
        (
            r#"forbid (principal, action == Action::"read_resource", resource) unless { context.uri like "file:///public/*" };"#,
            &[READS[0], READS[1], READS[3], READS[4]],
        ),
        (r#"forbid (principal, action, resource) when { context.agent.owner == principal };"#, &[]),
    ];
    for (cedar, expected) in cases {
        assert_eq!(problems(cedar), Vec::<String>::new(), "{cedar}");
        assert_eq!(reads_under(&[all, ("no", cedar)]), *expected, "{cedar}");
    }
}

#[test]
fn what_means_nothing_for_an_action_that_is_named_is_refused() {
    for statement in [
        r#"(principal, action == Action::"get_prompt", resource) when { context.uri like "file:*" };"#,
        r#"(principal, action == Action::"read_resource", resource) when { context.name == "summary" };"#,
        r#"(principal, action == Action::"read_resource", resource) when { resource.name == "finance" };"#,
        r#"(principal, action in Action::"call_tool", resource) when { context.uri like "file:*" };"#,
        r#"(principal, action in [Action::"call_tool", Action::"read_resource"], resource) when { resource.name == "x" };"#,
        r#"(principal, action in [Action::"get_prompt", Action::"read_resource"], resource) when { context.uri == "x" };"#,
        r#"(principal, action == Action::"read_resource", resource) when { context.url == "x" };"#,
        r#"(principal, action == Action::"read_resource", resource) when { context.uri == 1 };"#,
        // Of an open action, what means nothing for any of the three.
        r#"(principal, action, resource) when { context.uri == "x" && context.name == "y" };"#,
        r#"(principal, action, resource) when { context.uri == "x" || resource.name == "y" };"#,
        r#"(principal, action, resource) when { context.url == "x" };"#,
    ] {
        for effect in ["permit", "forbid"] {
            let cedar = format!("permit (principal, action, resource);\n{effect} {statement}");
            let found = problems(&cedar);
            assert!(!found.is_empty() && found.iter().all(|found| found.starts_with("2: ")), "{cedar}: {found:#?}");
            assert!(!found[0].contains("never match"), "{cedar}: {found:#?}");
            assert!(CompiledPolicies::compile(&catalogue(), &[text("p", &cedar)]).is_err(), "{cedar}");
        }
    }
}

#[test]
fn a_statement_about_reading_that_can_never_match_is_refused() {
    for policy in [
        r#"forbid (principal, action == Action::"get_prompt", resource == Tool::"finance__query_data");"#,
        r#"forbid (principal, action == Action::"read_resource", resource is Tool);"#,
        r#"forbid (principal, action in Action::"call_tool", resource == Server::"finance");"#,
        r#"forbid (principal, action == Action::"get_prompt", resource) when { resource has cost };"#,
    ] {
        let found = problems(policy);
        assert_eq!(found, ["1: this statement can never match: see the types of principal, action and resource"]);
    }
    let unknown = r#"permit (principal, action == Action::"get_prompt", resource == Server::"crm");"#;
    assert_eq!(problems(unknown), [r#"1: `Server::"crm"` does not exist"#]);
}

#[test]
fn a_policy_that_fails_for_resources_denies_resources_and_nothing_else() {
    let fails = format!(r#"permit (principal, action == Action::"read_resource", resource) when {{ {FAILS} }};"#);
    let policies = compile(&[("all", "permit (principal, action, resource);"), ("bad", &fails)]);
    let decide = |wanted| policies.decide(&Request { wanted, ..request(&[], ("", "")) });
    let read = decide(Use::Resource { server: "finance", uri: "file:///a" });
    assert!(!read.permit && read.error.is_some());
    assert!(decide(Use::Prompt { server: "finance", name: "summary" }).permit);
    assert!(decide(Use::Tool { server: "finance", tool: "query_data" }).permit);
}

#[test]
fn the_decision_names_the_policy_and_its_version() {
    let policies = compile(&[("prompts", r#"permit (principal, action == Action::"get_prompt", resource);"#)]);
    let wanted = Use::Prompt { server: "finance", name: "summary" };
    let verdict = policies.decide(&Request { wanted, ..request(&[], ("", "")) });
    let by = PolicyRef { name: "prompts".into(), version: 3 };
    assert_eq!(verdict, Verdict { permit: true, policies: vec![by].into(), error: None });
}

/// Texts that were accepted before prompts and resources could be governed stay accepted: a data plane must be able to
/// compile what is in its configuration.
#[test]
fn what_was_accepted_for_tools_alone_is_still_accepted() {
    for condition in [
        r#"resource has cost && resource.cost.lessThan(decimal("0.01"))"#,
        r#"resource.name like "query_*" && resource.tier == "retrieval""#,
        r#"[Tool::"finance__close_books"].contains(resource)"#,
        r#"resource.name == context.virtual_server"#,
        r#"resource in [Server::"hr", Server::"finance"]"#,
    ] {
        assert_eq!(problems(&permit_when(condition)), Vec::<String>::new(), "{condition}");
    }
}
