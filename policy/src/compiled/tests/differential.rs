//! Verdicts against a slow, obvious evaluator, and against Cedar given everything at once, over a family of generated
//! policies.
//!
//! Each generated statement is written out as Cedar text and also evaluated here, straight from its parts; verdicts,
//! named policies and failures must agree for every tool, prompt and resource.

use super::*;

#[derive(Clone, Debug)]
enum Principal {
    Any,
    Is(&'static str),
    In(&'static str),
}

#[derive(Clone, Debug)]
enum Action {
    Any,
    Is(usize),
    In(Vec<usize>),
    CallTool,
    GetPrompt,
    ReadResource,
    Read,
}

#[derive(Clone, Debug)]
enum Resource {
    Any,
    Is(usize),
    In(&'static str),
}

#[derive(Clone, Debug)]
enum Atom {
    Tier(Tier),
    Ceiling(Tier),
    Level(Tier),
    Named(&'static str),
    OwnerCalls,
    OwnerIn(&'static str),
    Project(&'static str),
    CheaperThanOneCent,
    Fails,
    UriBelow(&'static str),
}

#[derive(Clone, Copy, Debug)]
enum Wanted {
    Tool(usize),
    Prompt(&'static str),
    Resource(&'static str, &'static str),
}

#[derive(Clone, Debug)]
struct Rule {
    permit: bool,
    principal: Principal,
    action: Action,
    resource: Resource,
    /// (`when` or `unless`, what), in order.
    clauses: Vec<(bool, Atom)>,
}

#[derive(Clone, Debug)]
struct Asked {
    user: &'static str,
    groups: Vec<String>,
    owner: &'static str,
    owner_groups: Vec<String>,
    project: &'static str,
    ceiling: Tier,
    level: Tier,
    wanted: Wanted,
}

const USERS: [&str; 2] = ["jane@example.com", "bob@example.com"];
const GROUPS: [&str; 3] = ["finance", "staff", "hr"];
const SERVERS: [&str; 2] = ["finance", "hr"];
const PROJECTS: [&str; 2] = ["platform", "apps"];
const FOLDERS: [&str; 2] = ["file:///public/", "file:///public/a/"];
const URIS: [&str; 4] = ["file:///public/a/b", "file:///public/c", "file:///private", "*"];

impl Wanted {
    fn tool(self) -> Option<usize> {
        match self {
            Self::Tool(tool) => Some(tool),
            Self::Prompt(_) | Self::Resource(..) => None,
        }
    }

    fn server(self) -> String {
        match self {
            Self::Tool(tool) => catalogue()[tool].server.clone(),
            Self::Prompt(server) | Self::Resource(server, _) => server.into(),
        }
    }
}

impl Rule {
    fn cedar(&self) -> String {
        let tools = catalogue();
        let name = |index: &usize| tools[*index].policy_name();
        let principal = match &self.principal {
            Principal::Any => String::new(),
            Principal::Is(user) => format!(" == User::{user:?}"),
            Principal::In(group) => format!(" in Group::{group:?}"),
        };
        let action = match &self.action {
            Action::Any => String::new(),
            Action::Is(tool) => format!(" == Action::{:?}", name(tool)),
            Action::In(some) => {
                let names: Vec<_> = some.iter().map(|tool| format!("Action::{:?}", name(tool))).collect();
                format!(" in [{}]", names.join(", "))
            }
            Action::CallTool => " in Action::\"call_tool\"".into(),
            Action::GetPrompt => " == Action::\"get_prompt\"".into(),
            Action::ReadResource => " == Action::\"read_resource\"".into(),
            Action::Read => " in [Action::\"read_resource\", Action::\"get_prompt\"]".into(),
        };
        let resource = match &self.resource {
            Resource::Any => String::new(),
            Resource::Is(tool) => format!(" == Tool::{:?}", name(tool)),
            Resource::In(server) => format!(" in Server::{server:?}"),
        };
        let effect = if self.permit { "permit" } else { "forbid" };
        let clause =
            |(when, atom): &(bool, Atom)| format!(" {} {{ {} }}", if *when { "when" } else { "unless" }, atom.cedar());
        let clauses: String = self.clauses.iter().map(clause).collect();
        format!("{effect} (principal{principal}, action{action}, resource{resource}){clauses};")
    }

    /// Does the statement match? `Err` when it fails.
    fn matches(&self, asked: &Asked) -> Result<bool, ()> {
        let principal = match &self.principal {
            Principal::Any => true,
            Principal::Is(user) => asked.user == *user,
            Principal::In(group) => asked.groups.iter().any(|of| of == group),
        };
        let tool = asked.wanted.tool();
        let action = match &self.action {
            Action::Any => tool.is_some() || self.means_something_for_reading(),
            Action::CallTool => tool.is_some(),
            Action::Is(one) => tool == Some(*one),
            Action::In(some) => tool.is_some_and(|tool| some.contains(&tool)),
            Action::GetPrompt => matches!(asked.wanted, Wanted::Prompt(_)),
            Action::ReadResource => matches!(asked.wanted, Wanted::Resource(..)),
            Action::Read => tool.is_none(),
        };
        let resource = match &self.resource {
            Resource::Any => true,
            Resource::Is(one) => tool == Some(*one),
            Resource::In(server) => asked.wanted.server() == *server,
        };
        if !(principal && action && resource) {
            return Ok(false);
        }
        for (when, atom) in &self.clauses {
            if atom.holds(asked)? != *when {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl Rule {
    /// Only tools have names; what comes after a condition that a server cannot meet is not asked any more.
    fn means_something_for_reading(&self) -> bool {
        for (when, atom) in &self.clauses {
            match atom {
                Atom::Named(_) => return false,
                Atom::CheaperThanOneCent if *when => return true,
                _ => {}
            }
        }
        true
    }

    /// The same statement about what is read, without what only tools have and with a folder.
    fn about_reading(self, action: Action, folder: Option<&'static str>) -> Self {
        let resource = match self.resource {
            Resource::Is(_) => Resource::Any,
            other => other,
        };
        let of_tools = |atom: &Atom| matches!(atom, Atom::Named(_) | Atom::CheaperThanOneCent);
        let mut clauses: Vec<_> = self.clauses.into_iter().filter(|(_, atom)| !of_tools(atom)).collect();
        if let (Action::ReadResource, Some(folder)) = (&action, folder) {
            clauses.push((true, Atom::UriBelow(folder)));
        }
        Self { action, resource, clauses, ..self }
    }
}

impl Atom {
    fn cedar(&self) -> String {
        match self {
            Self::Tier(tier) => format!("resource.tier == \"{tier}\""),
            Self::Ceiling(tier) => format!("context.agent.ceiling == \"{tier}\""),
            Self::Level(tier) => format!("context.level == \"{tier}\""),
            Self::Named(name) => format!("resource.name == {name:?}"),
            Self::OwnerCalls => "context.agent.owner == principal".into(),
            Self::OwnerIn(group) => format!("context.agent.owner in Group::{group:?}"),
            Self::Project(project) => format!("context.agent.project == Project::{project:?}"),
            Self::CheaperThanOneCent => "resource has cost && resource.cost.lessThan(decimal(\"0.01\"))".into(),
            Self::Fails => FAILS.into(),
            Self::UriBelow(folder) => format!("context.uri like \"{folder}*\""),
        }
    }

    fn holds(&self, asked: &Asked) -> Result<bool, ()> {
        let tools = catalogue();
        let tool = asked.wanted.tool().map(|tool| &tools[tool]);
        let owner_groups = if asked.owner == asked.user { &asked.groups } else { &asked.owner_groups };
        Ok(match self {
            Self::Tier(tier) => tool.map_or(Tier::Retrieval, |tool| tool.tier) == *tier,
            Self::Ceiling(tier) => asked.ceiling == *tier,
            Self::Level(tier) => asked.level == *tier,
            Self::Named(name) => tool.is_some_and(|tool| tool.name == *name),
            Self::OwnerCalls => asked.owner == asked.user,
            Self::OwnerIn(group) => owner_groups.iter().any(|of| of == group),
            Self::Project(project) => asked.project == *project,
            Self::CheaperThanOneCent => {
                let cost = tool.and_then(|tool| tool.cost.as_ref());
                cost.is_some_and(|cost| cost.parse::<f64>().unwrap() < 0.01)
            }
            Self::Fails => return Err(()),
            Self::UriBelow(folder) => matches!(asked.wanted, Wanted::Resource(_, uri) if uri.starts_with(folder)),
        })
    }
}

/// The verdict by the rules of this crate's header, one after the other.
fn obvious(rules: &[Rule], asked: &Asked) -> (bool, Vec<String>, bool) {
    let named = |want: &dyn Fn(&Rule) -> bool| -> Vec<String> {
        rules.iter().enumerate().filter(|(_, rule)| want(rule)).map(|(n, _)| format!("p{n}")).collect()
    };
    let failed = named(&|rule| rule.matches(asked).is_err());
    if !failed.is_empty() {
        return (false, failed, true);
    }
    let forbids = named(&|rule| !rule.permit && rule.matches(asked) == Ok(true));
    if !forbids.is_empty() {
        return (false, forbids, false);
    }
    let permits = named(&|rule| rule.permit && rule.matches(asked) == Ok(true));
    (!permits.is_empty(), permits, false)
}

fn tier() -> impl Strategy<Value = Tier> {
    prop::sample::select(&Tier::ALL)
}

fn atom() -> impl Strategy<Value = Atom> {
    prop_oneof![
        4 => tier().prop_map(Atom::Tier),
        1 => tier().prop_map(Atom::Ceiling),
        1 => tier().prop_map(Atom::Level),
        2 => prop::sample::select(vec!["query_data", "close_books"]).prop_map(Atom::Named),
        1 => Just(Atom::OwnerCalls),
        1 => prop::sample::select(&GROUPS).prop_map(Atom::OwnerIn),
        1 => prop::sample::select(&PROJECTS).prop_map(Atom::Project),
        1 => Just(Atom::CheaperThanOneCent),
        1 => Just(Atom::Fails),
    ]
}

fn rule() -> impl Strategy<Value = Rule> {
    let principal = prop_oneof![
        Just(Principal::Any),
        prop::sample::select(&USERS).prop_map(Principal::Is),
        prop::sample::select(&GROUPS).prop_map(Principal::In),
    ];
    let action = prop_oneof![
        Just(Action::Any),
        Just(Action::CallTool),
        (0..4_usize).prop_map(Action::Is),
        prop::collection::vec(0..4_usize, 1..3).prop_map(Action::In),
    ];
    let resource = prop_oneof![
        Just(Resource::Any),
        (0..4_usize).prop_map(Resource::Is),
        prop::sample::select(&SERVERS).prop_map(Resource::In),
    ];
    let clauses = prop::collection::vec((any::<bool>(), atom()), 0..3);
    let reading = prop_oneof![Just(Action::GetPrompt), Just(Action::ReadResource), Just(Action::Read)];
    let reading = prop::option::weighted(0.4, (reading, prop::option::of(prop::sample::select(&FOLDERS))));
    (prop::bool::weighted(0.75), principal, action, resource, clauses, reading).prop_map(
        |(permit, principal, action, resource, clauses, reading)| {
            let rule = Rule { permit, principal, action, resource, clauses };
            match reading {
                Some((action, folder)) => rule.about_reading(action, folder),
                None => rule,
            }
        },
    )
}

fn wanted() -> impl Strategy<Value = Wanted> {
    let server = || prop::sample::select(&SERVERS);
    prop_oneof![
        2 => (0..4_usize).prop_map(Wanted::Tool),
        1 => server().prop_map(Wanted::Prompt),
        1 => (server(), prop::sample::select(&URIS)).prop_map(|(server, uri)| Wanted::Resource(server, uri)),
    ]
}

fn asked() -> impl Strategy<Value = Asked> {
    let user = || prop::sample::select(&USERS);
    let some = || prop::sample::subsequence(GROUPS.to_vec(), 0..=3).prop_map(|names| groups(&names));
    (user(), some(), user(), some(), prop::sample::select(&PROJECTS), tier(), tier(), wanted()).prop_map(
        |(user, groups, owner, owner_groups, project, ceiling, level, wanted)| Asked {
            user,
            groups,
            owner,
            owner_groups,
            project,
            ceiling,
            level,
            wanted,
        },
    )
}

proptest! {
    #[test]
    fn cedar_and_the_obvious_evaluator_agree(rules in prop::collection::vec(rule(), 0..6), questions in prop::collection::vec(asked(), 8)) {
        let texts: Vec<_> = rules.iter().enumerate().map(|(n, rule)| text(&format!("p{n}"), &rule.cedar())).collect();
        for text in &texts {
            prop_assert_eq!(validate(text, &catalogue(), &universe()), vec![]);
        }
        let policies = CompiledPolicies::compile(&catalogue(), &texts).unwrap();
        let tools = catalogue();
        // The second time, what was remembered has to be the same, and belong to the same question.
        for asked in questions.iter().chain(&questions) {
            let wanted = match asked.wanted {
                Wanted::Tool(tool) => Use::Tool { server: &tools[tool].server, tool: &tools[tool].name },
                Wanted::Prompt(server) => Use::Prompt { server, name: "summary" },
                Wanted::Resource(server, uri) => Use::Resource { server, uri },
            };
            let request = Request {
                user: asked.user,
                groups: &asked.groups,
                agent: RequestAgent {
                    name: "coding-assistant",
                    owner: asked.owner,
                    owner_groups: &asked.owner_groups,
                    project: asked.project,
                    ceiling: asked.ceiling,
                },
                virtual_server: "finance",
                level: asked.level,
                bound: false,
                wanted,
            };
            let verdict = policies.decide(&request);
            prop_assert_eq!(&verdict, &policies.decide_plainly(&request));
            let names: Vec<String> = verdict.policies.iter().map(|policy| policy.name.clone()).collect();
            prop_assert_eq!((verdict.permit, names, verdict.error.is_some()), obvious(&rules, asked));
        }
    }
}
