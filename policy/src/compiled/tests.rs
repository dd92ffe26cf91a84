//! What is accepted, what is refused and where, what is decided: tables, then properties, then hostile texts.

use std::sync::Arc;

use bailiwick_proto::Tier;
use proptest::prelude::*;

use super::*;
use crate::{KnownNames, POLICY_NESTING_MAX, POLICY_OPERATORS_MAX, POLICY_TEXT_BYTES_MAX, RequestAgent, Use, validate};

mod alike;
mod differential;
mod uses;

/// The policy of the README and of the first steps.
const FINANCE_READS: &str = r#"permit (principal in Group::"finance", action in Action::"call_tool", resource in Server::"finance")
when { resource.tier == "retrieval" };
"#;
/// Type-correct, and fails whenever it is evaluated.
const FAILS: &str = "9223372036854775807 + 1 == 0";

fn catalogue() -> Vec<CatalogueTool> {
    let tool = |server: &str, name: &str, tier, cost: Option<&str>| CatalogueTool {
        server: server.into(),
        name: name.into(),
        tier,
        cost: cost.map(Into::into),
    };
    vec![
        tool("finance", "query_data", Tier::Retrieval, None),
        tool("finance", "create_charge", Tier::Transactional, Some("0.02")),
        tool("finance", "close_books", Tier::Destructive, Some("5")),
        tool("hr", "query_data", Tier::Retrieval, Some("0.0001")),
    ]
}

fn universe() -> KnownNames {
    let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    KnownNames {
        users: set(&["jane@example.com", "bob@example.com"]),
        agents: set(&["coding-assistant"]),
        servers: set(&["finance", "hr"]),
    }
}

fn text(name: &str, cedar: &str) -> PolicyText {
    PolicyText { name: name.into(), version: 3, cedar: cedar.into() }
}

fn compile(policies: &[(&str, &str)]) -> CompiledPolicies {
    let policies: Vec<_> = policies.iter().map(|(name, cedar)| text(name, cedar)).collect();
    CompiledPolicies::compile(&catalogue(), &policies).unwrap()
}

fn problems(cedar: &str) -> Vec<String> {
    let problems = validate(&text("p", cedar), &catalogue(), &universe());
    let line = |problem: &PolicyProblem| problem.line.map_or("-".to_owned(), |line| line.to_string());
    problems.iter().map(|problem| format!("{}: {}", line(problem), problem.message)).collect()
}

const AGENT: RequestAgent<'_> = RequestAgent {
    name: "coding-assistant",
    owner: "jane@example.com",
    owner_groups: &[],
    project: "platform",
    ceiling: Tier::Destructive,
};

fn request<'a>(groups: &'a [String], (server, tool): (&'a str, &'a str)) -> Request<'a> {
    let wanted = Use::Tool { server, tool };
    let level = Tier::Retrieval;
    Request { user: "jane@example.com", groups, agent: AGENT, virtual_server: "finance", level, bound: false, wanted }
}

fn groups(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// The tools of the catalogue that jane, in group finance, may call.
fn permitted(policies: &[(&str, &str)]) -> Vec<String> {
    let (policies, groups) = (compile(policies), groups(&["finance", "staff"]));
    let tools = catalogue();
    let may = |tool: &&CatalogueTool| policies.decide(&request(&groups, (&tool.server, &tool.name))).permit;
    tools.iter().filter(may).map(CatalogueTool::policy_name).collect()
}

fn permit_when(condition: &str) -> String {
    format!("permit (principal, action, resource) when {{ {condition} }};")
}

#[test]
fn the_first_policy_validates_and_lets_finance_read() {
    assert_eq!(problems(FINANCE_READS), Vec::<String>::new());
    assert_eq!(permitted(&[("finance-reads", FINANCE_READS)]), ["finance__query_data"]);
    let policies = compile(&[("finance-reads", FINANCE_READS)]);
    let verdict = policies.decide(&request(&groups(&["finance"]), ("finance", "query_data")));
    let by = PolicyRef { name: "finance-reads".into(), version: 3 };
    assert_eq!(verdict, Verdict { permit: true, policies: vec![by].into(), error: None });
    let stranger = policies.decide(&request(&groups(&["hr"]), ("finance", "query_data")));
    assert_eq!(stranger, Verdict { permit: false, policies: Arc::default(), error: None });
}

#[test]
fn every_word_of_the_schema_can_be_asked() {
    let all = ["finance__query_data", "finance__create_charge", "finance__close_books", "hr__query_data"];
    let cases: &[(&str, &[&str])] = &[
        (r#"resource.tier == "destructive""#, &all[2..3]),
        (r#"resource.name == "query_data""#, &[all[0], all[3]]),
        (r#"resource.server == Server::"hr""#, &all[3..]),
        (r#"resource has cost && resource.cost.lessThan(decimal("0.01"))"#, &all[3..]),
        (r#"resource has cost && resource.cost == decimal("5.0")"#, &all[2..3]),
        (r#"resource == Tool::"finance__create_charge""#, &all[1..2]),
        (r#"action == Action::"finance__create_charge""#, &all[1..2]),
        (r#"action in [Action::"finance__create_charge", Action::"hr__query_data"]"#, &[all[1], all[3]]),
        (r#"action in Action::"call_tool""#, &all),
        (r#"Tool::"finance__close_books".tier == resource.tier"#, &all[2..3]),
        (r#"Tool::"finance__close_books" in Server::"finance" && resource.name == "close_books""#, &all[2..3]),
        (r#"principal == User::"jane@example.com" && resource.tier == "destructive""#, &all[2..3]),
        (r#"principal == User::"bob@example.com""#, &[]),
        (r#"principal in Group::"staff" && resource.tier == "destructive""#, &all[2..3]),
        (r#"context.agent == Agent::"coding-assistant""#, &all),
        (r#"context.agent.owner == principal"#, &all),
        (r#"context.agent.owner in Group::"staff""#, &all),
        (r#"context.agent.project == Project::"platform""#, &all),
        (r#"context.agent.ceiling == "destructive""#, &all),
        (r#"context.agent.ceiling == "retrieval""#, &[]),
        (r#"context.virtual_server == "finance" && context.level == "retrieval""#, &all),
    ];
    for (condition, expected) in cases {
        assert_eq!(problems(&permit_when(condition)), Vec::<String>::new(), "{condition}");
        assert_eq!(permitted(&[("p", &permit_when(condition))]), *expected, "{condition}");
    }
}

#[test]
fn the_owner_s_groups_are_the_owner_s_own() {
    let policies = compile(&[("p", &permit_when(r#"context.agent.owner in Group::"staff""#))]);
    let staff = groups(&["staff"]);
    let asked = |user, groups, owner_groups| {
        let agent = RequestAgent { owner_groups, ..AGENT };
        policies.decide(&Request { user, agent, ..request(groups, ("finance", "query_data")) }).permit
    };
    assert!(!asked("bob@example.com", &staff, &[]), "the caller's groups are not the owner's");
    assert!(asked("bob@example.com", &[], &staff));
    assert!(asked("jane@example.com", &staff, &[]), "the owner is the caller");
    assert!(!asked("jane@example.com", &[], &staff));
}

#[test]
fn forbid_beats_permit_and_is_named() {
    let policies = compile(&[
        ("all", "permit (principal, action, resource);"),
        ("no-books", r#"forbid (principal, action == Action::"finance__close_books", resource);"#),
    ]);
    let verdict = policies.decide(&request(&[], ("finance", "close_books")));
    let by = PolicyRef { name: "no-books".into(), version: 3 };
    assert_eq!(verdict, Verdict { permit: false, policies: vec![by].into(), error: None });
    assert!(policies.decide(&request(&[], ("finance", "query_data"))).permit);
}

#[test]
fn a_policy_of_several_statements_is_named_once() {
    let several = "permit (principal, action, resource);\npermit (principal, action, resource) when { true };";
    let verdict = compile(&[("b", several), ("a", several)]).decide(&request(&[], ("hr", "query_data")));
    let names: Vec<_> = verdict.policies.iter().map(|policy| policy.name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
}

#[test]
fn a_failing_policy_denies_whatever_the_others_say() {
    let fails_on_books = r#"forbid (principal, action == Action::"finance__close_books", resource) when { 9223372036854775807 + 1 == 0 };"#;
    for failing in [permit_when(FAILS), permit_when(FAILS).replace("permit", "forbid")] {
        let verdict = compile(&[("all", "permit (principal, action, resource);"), ("bad", &failing)])
            .decide(&request(&[], ("hr", "query_data")));
        assert!(!verdict.permit);
        assert_eq!(*verdict.policies, [PolicyRef { name: "bad".into(), version: 3 }]);
        assert!(verdict.error.unwrap().starts_with("policy `bad` version 3: "));
    }
    let policies = compile(&[("all", "permit (principal, action, resource);"), ("bad", fails_on_books)]);
    assert!(policies.decide(&request(&[], ("hr", "query_data"))).permit, "a policy that is not asked cannot fail");
}

#[test]
fn a_tool_outside_the_catalogue_is_a_fault() {
    let policies = compile(&[("all", "permit (principal, action, resource);")]);
    for tool in [("finance", "other"), ("other", "query_data"), ("", "")] {
        let verdict = policies.decide(&request(&[], tool));
        assert!(!verdict.permit && verdict.error.is_some(), "{tool:?}");
    }
}

#[test]
fn compiled_policies_are_shared_between_threads() {
    let policies = Arc::new(compile(&[("finance-reads", FINANCE_READS)]));
    let other = Arc::clone(&policies);
    let asked = std::thread::spawn(move || other.decide(&request(&groups(&["finance"]), ("finance", "query_data"))));
    assert!(asked.join().unwrap().permit);
}

#[test]
fn problems_name_the_line_and_what_is_wrong() {
    let cases: &[(&str, &[&str])] = &[
        ("", &["-: the text holds no policy: write `permit (…);` or `forbid (…);`"]),
        ("// nothing", &["-: the text holds no policy: write `permit (…);` or `forbid (…);`"]),
        ("permit (principal, action, resource)\nwhen { resource.tier == };", &["2: unexpected token `}`"]),
        (
            "permit (principal == ?principal, action, resource);",
            &["1: templates (`?principal`, `?resource`) are not accepted: write the policy out"],
        ),
        (&permit_when(r#"principal == User::"eve""#), &[r#"1: `User::"eve"` does not exist"#]),
        ("permit (principal,\naction,\nresource in Server::\"crm\");", &[r#"3: `Server::"crm"` does not exist"#]),
        (&permit_when(r#"context.agent == Agent::"x""#), &[r#"1: `Agent::"x"` does not exist"#]),
        (
            r#"permit (principal, action == Action::"finance__x", resource);"#,
            &[r#"1: `Action::"finance__x"` does not exist: tools are named `server__tool`, as pinned at registration"#],
        ),
        (
            r#"permit (principal, action, resource == Tool::"query_data");"#,
            &[r#"1: `Tool::"query_data"` does not exist: tools are named `server__tool`, as pinned at registration"#],
        ),
    ];
    for (cedar, expected) in cases {
        let found = problems(cedar);
        assert_eq!(found.len(), expected.len(), "{cedar}: {found:#?}");
        for (found, expected) in found.iter().zip(*expected) {
            assert!(found.starts_with(expected), "{cedar}\n     {found}\nnot  {expected}");
        }
    }
}

#[test]
fn what_the_schema_does_not_know_is_refused_on_its_line() {
    for condition in [
        "resource.colour == \"red\"",
        "resource.tier == 1",
        "resource.cost.lessThan(decimal(\"1.0\"))",
        "principal.name == \"x\"",
        "context.time == 1",
        "context.agent.tier == \"retrieval\"",
        "principal == Robot::\"r2\"",
        "action == Other::Action::\"x\"",
        "decimal(\"x\") == decimal(\"1.0\")",
        "\"text\"",
    ] {
        let found = problems(&format!("\n\n{}", permit_when(condition)));
        assert!(!found.is_empty() && found.iter().all(|found| found.starts_with("3: ")), "{condition}: {found:#?}");
    }
}

#[test]
fn a_statement_that_can_never_match_is_refused() {
    for policy in [
        r#"forbid (principal == Agent::"coding-assistant", action, resource);"#,
        r#"forbid (principal in Server::"finance", action, resource);"#,
        r#"forbid (principal, action, resource in Group::"x");"#,
        r#"forbid (principal, action, resource == User::"bob@example.com");"#,
        "forbid (principal, action, resource) when { principal == resource };",
        "forbid (principal, action, resource) when { false };",
        "forbid (principal is Agent, action, resource);",
    ] {
        let found = problems(&format!("permit (principal, action, resource);\n{policy}"));
        let expected = ["2: this statement can never match: see the types of principal, action and resource"];
        assert_eq!(found, expected, "{policy}");
        assert!(CompiledPolicies::compile(&catalogue(), &[text("p", policy)]).is_ok(), "{policy}");
    }
}

#[test]
fn every_example_of_the_guide_is_accepted() {
    let guide = include_str!("../../../docs/security/policies.md");
    let examples: Vec<_> = guide.split("```cedar\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert_eq!(examples.len(), 2);
    for example in examples {
        assert_eq!(problems(example), Vec::<String>::new(), "{example}");
    }
}

#[test]
fn text_that_reads_other_than_it_means_is_refused() {
    assert!(problems(&format!("// \u{202e}\n{FINANCE_READS}"))[0].starts_with("1: the text holds a character"));
}

#[test]
fn what_no_request_can_tell_may_not_be_asked() {
    for condition in [
        r#"User::"bob@example.com" in Group::"staff""#,
        r#"[User::"bob@example.com"].contains(principal) && User::"bob@example.com" in Group::"x""#,
        r#"Agent::"coding-assistant".owner == principal"#,
        r#"(if resource.tier == "retrieval" then User::"bob@example.com" else principal) in Group::"staff""#,
        r#"Agent::"coding-assistant".owner in Group::"x""#,
        r#"Agent::"coding-assistant" has owner"#,
    ] {
        let found = problems(&permit_when(condition));
        assert_eq!(found.len(), 1, "{condition}: {found:#?}");
        assert!(found[0].contains("can only be compared with `==`"), "{condition}: {found:#?}");
    }
    for condition in [
        r#"[User::"bob@example.com", User::"jane@example.com"].contains(principal)"#,
        r#"principal in [Group::"a", Group::"b"]"#,
        r#"{"in": principal}["in"] == User::"bob@example.com""#,
    ] {
        assert_eq!(problems(&permit_when(condition)), Vec::<String>::new(), "{condition}");
    }
}

#[test]
fn an_empty_catalogue_still_validates_policies_about_servers() {
    assert!(validate(&text("p", FINANCE_READS), &[], &universe()).is_empty());
    assert!(CompiledPolicies::compile(&[], &[text("p", FINANCE_READS)]).is_ok());
}

#[test]
fn compilation_refuses_the_whole_set_with_every_problem() {
    let mut tools = catalogue();
    tools.push(tools[0].clone());
    tools[1].cost = Some("much".into());
    let policies =
        [text("a", "permit"), text("b", FINANCE_READS), text("b", "permit (principal, action, resource) when { 1 };")];
    let found = CompiledPolicies::compile(&tools, &policies).unwrap_err();
    let of: Vec<_> = found.iter().map(|problem| problem.policy.as_str()).collect();
    assert_eq!(of, [CATALOGUE, CATALOGUE, "a", "b", "b"], "{found:#?}");
}

#[test]
fn a_name_that_is_gone_keeps_no_configuration_from_being_applied() {
    let policy = text("p", r#"permit (principal == User::"gone", action == Action::"gone__tool", resource);"#);
    let policies = CompiledPolicies::compile(&catalogue(), &[policy]).unwrap();
    assert!(!policies.decide(&request(&[], ("finance", "query_data"))).permit);
}

#[test]
fn texts_beyond_the_bounds_are_refused_before_they_are_parsed() {
    let long = format!("// {}\n{FINANCE_READS}", "x".repeat(POLICY_TEXT_BYTES_MAX));
    let deep = permit_when(&format!("{}true{}", "(".repeat(POLICY_NESTING_MAX), ")".repeat(POLICY_NESTING_MAX)));
    let many = permit_when(&vec!["true"; POLICY_OPERATORS_MAX + 2].join(" && "));
    for (cedar, word) in [(long, "bytes"), (deep, "nested"), (many, "operators")] {
        let found = problems(&cedar);
        assert!(found.len() == 1 && found[0].contains(word), "{found:#?}");
    }
    let quoted = permit_when(
        &format!("resource.name == \"{}\\\"((((\" // (((( {}", "(".repeat(100), "&&".repeat(2_000))
            .replace(" };", "\n };"),
    );
    assert_eq!(problems(&quoted.replace("//", "\n//").replace(" };", "\n};")), Vec::<String>::new());
    let policy = text("p", FINANCE_READS);
    let too_many: Vec<_> = (0..=POLICIES_MAX).map(|n| PolicyText { name: format!("p{n}"), ..policy.clone() }).collect();
    assert_eq!(CompiledPolicies::compile(&catalogue(), &too_many).unwrap_err().len(), 1);
}

/// The worst texts within the bounds are parsed, checked, evaluated and dropped on a small stack.
#[test]
fn no_text_within_the_bounds_overflows_a_small_stack() {
    let most = POLICY_OPERATORS_MAX - 2;
    let deepest = POLICY_NESTING_MAX - 2;
    let chain = |operator: &str, operand: &str| vec![operand; most].join(operator);
    let worst = [
        chain(" && ", "true"),
        chain(" || ", "false"),
        format!("{} > 0", chain(" + ", "1")),
        format!("{} > 0", chain(" - ", "1")),
        format!("{} == 0", chain(" * ", "1")),
        format!("{}true", "if true then true else ".repeat(most / 3)),
        format!("{}true{}", "if ".repeat(most / 3), " then true else false".repeat(most / 3)),
        format!("context{}", ".agent".repeat(most)),
        format!("context{}", "[\"agent\"]".repeat(most)),
        format!("{}true{}", "(".repeat(deepest), ")".repeat(deepest)),
        format!("{}true{}", "(!".repeat(deepest), ")".repeat(deepest)),
        format!("{}true{} == true", "[".repeat(deepest), "]".repeat(deepest)),
        format!("{}1{} == 1", "{a: ".repeat(deepest), "}".repeat(deepest)),
        format!("{}true{}", "(true && (if true then ".repeat(deepest / 2), " else false))".repeat(deepest / 2)),
        format!("{}true", "!".repeat(most)),
        format!("{}1 == 1", "-".repeat(most - 2)),
        format!("[{}].contains(resource.name)", vec!["\"x\""; 10_000].join(",")),
        format!("resource.name like \"{}\"", "*a".repeat(20_000)),
    ];
    let check = move || {
        for condition in &worst {
            let text = text("p", &permit_when(condition));
            let _ = validate(&text, &catalogue(), &universe());
            if let Ok(policies) = CompiledPolicies::compile(&catalogue(), &[text]) {
                let _ = policies.decide(&request(&[], ("finance", "query_data")));
            }
        }
    };
    std::thread::Builder::new().stack_size(512 * 1024).spawn(check).unwrap().join().unwrap();
}

proptest! {
    #[test]
    fn without_policies_everything_is_denied(at in 0..4_usize, user in "\\PC{0,20}", names in prop::collection::vec("\\PC{0,10}", 0..4)) {
        let tools = catalogue();
        let asked = Request { user: &user, ..request(&names, (&tools[at].server, &tools[at].name)) };
        prop_assert_eq!(compile(&[]).decide(&asked), Verdict { permit: false, policies: Arc::default(), error: None });
    }

    #[test]
    fn no_text_breaks_validation(cedar in "\\PC{0,200}|(permit|forbid) \\((principal|action|resource|,|in|==|\\?|\"|::| ){0,30}\\);") {
        let _ = validate(&text("p", &cedar), &catalogue(), &universe());
    }
}
