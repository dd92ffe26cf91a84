//! Consents that are narrowed to tools: what they are for, and that nobody is answered by another's, or by what was.

use bailiwick_proto::v1;

use super::*;
use crate::catalogue::Catalogue;

const ALL: &str = "permit (principal, action, resource);";

/// What consents list in tests of properties: sometimes nothing, which is everything.
pub(super) fn any_tools() -> impl Strategy<Value = Vec<String>> {
    let known = ["finance/query_data", "finance/create_charge", "finance/drop_ledger", "finance/gone", "hr/query_data"];
    let some = prop::sample::subsequence(known.to_vec(), 1..=known.len());
    let some = some.prop_map(|some| some.into_iter().map(str::to_owned).collect());
    prop_oneof![Just(Vec::new()), some]
}

fn listing(tools: &[&str]) -> World {
    with_consent(|consent| *consent = fixture::narrowed(tools))
}

#[test]
fn only_listed_tools_may_be_called_and_all_else_is_asked_in_its_order() {
    use Reason::{CeilingExceeded, ConsentLevelExceeded, ConsentRevoked, ConsentToolNotListed, PolicyDenied};
    let reading = |tools: &[&str]| {
        let consent = v1::Consent { listed_level: "retrieval".into(), ..fixture::narrowed(tools) };
        world().with(entry("consent/c-1", Kind::Consent(consent)))
    };
    let low_agent = |world: World| world.with(entry("agent/coder", fixture::agent("retrieval", true)));
    let quarantined = |world: World| {
        let tool = fixture::tool("finance", &fixture::definition("query_data"), "retrieval");
        world.with(fixture::tool_entry(v1::Tool { quarantined: true, ..tool }))
    };
    let revoked = v1::Consent { revoked: true, ..fixture::narrowed(&["hr/list_people"]) };
    let query = ["finance/query_data"];
    for (world, tool, expected) in [
        (listing(&query), "query_data", None),
        (listing(&query), "create_charge", Some(ConsentToolNotListed)),
        (listing(&query), "no_such_tool", Some(Reason::ToolUnknown)),
        (listing(&["finance/gone"]), "gone", Some(Reason::ToolUnknown)),
        (listing(&["hr/query_data"]), "query_data", Some(ConsentToolNotListed)),
        (listing(&["finance/query_dat", "finance/query_data2"]), "query_data", Some(ConsentToolNotListed)),
        (listing(&["finance/create_charge", "finance/by_region"]), "create_charge", None),
        (quarantined(listing(&["finance/by_region"])), "query_data", Some(Reason::ToolQuarantined)),
        (quarantined(listing(&query)), "query_data", Some(Reason::ToolQuarantined)),
        (reading(&["finance/create_charge"]), "create_charge", Some(ConsentLevelExceeded)),
        (reading(&query), "create_charge", Some(ConsentToolNotListed)),
        (low_agent(listing(&query)), "create_charge", Some(ConsentToolNotListed)),
        (low_agent(listing(&["finance/create_charge"])), "create_charge", Some(CeilingExceeded)),
        (listing(&query).without("policy/finance"), "query_data", Some(PolicyDenied)),
        (listing(&query).without("policy/finance"), "create_charge", Some(ConsentToolNotListed)),
        (world().with(entry("consent/c-1", Kind::Consent(revoked))), "query_data", Some(ConsentRevoked)),
        // What cannot be understood is no consent.
        (listing(&["finance/query_data", "query_data"]), "query_data", Some(Reason::ConsentMissing)),
    ] {
        let decision = ask(&world, tool);
        assert_eq!(decision.reason, expected, "{tool}");
        let by_policy = matches!(expected, None | Some(PolicyDenied));
        assert!(by_policy || decision.policies.is_empty(), "no policy was asked");
    }
    let caller = Caller { scope_level: Tier::Retrieval, ..caller() };
    let wanted = ToolRef { virtual_server: "finance", name: "create_charge" };
    let decision = admit(&listing(&query).config(), &caller, wanted, NOW);
    assert_eq!((decision.reason, decision.scope_needed), (Some(ConsentToolNotListed), None), "more scope is no help");
}

/// What views call tools may mislead: `query_data` is another tool here.
#[test]
fn a_tool_goes_by_its_servers_name_for_it_whatever_the_virtual_server_calls_it() {
    let view =
        |tool: &str, name: &str| v1::ToolView { tool: tool.into(), name: name.into(), ..v1::ToolView::default() };
    let tools = vec![view("query_data", "ask"), view("create_charge", "query_data")];
    let views = vec![v1::ServerView { server: "finance".into(), tools, ..v1::ServerView::default() }];
    let config = listing(&["finance/query_data"]).with(fixture::finance_with(|listed| listed.views = views)).config();
    let reason = |name| admit(&config, &caller(), ToolRef { virtual_server: "finance", name }, NOW).reason;
    assert_eq!((reason("ask"), reason("query_data")), (None, Some(Reason::ConsentToolNotListed)));
    let names: Vec<_> = listable(&config, &caller(), "finance", NOW).into_iter().map(|tool| &tool.name).collect();
    assert_eq!(names, ["ask"]);

    let consent = v1::Consent { virtual_server: "all".into(), ..fixture::narrowed(&["finance/query_data"]) };
    let config = world().with(entry("consent/c-1", Kind::Consent(consent))).config();
    let caller = Caller { virtual_server: "all".into(), ..caller() };
    let names: Vec<_> = listable(&config, &caller, "all", NOW).into_iter().map(|tool| &tool.name).collect();
    assert_eq!(names, ["finance__query_data"]);
}

#[test]
fn tools_of_servers_of_every_kind_are_listed_alike() {
    let command = v1::Command { program: "/bin/true".into(), ..v1::Command::default() };
    let openapi = v1::OpenApi { path: "/openapi.json".into(), ..v1::OpenApi::default() };
    let server = || v1::Server { name: "finance".into(), timeout_ms: 1000, ..v1::Server::default() };
    let url = || "http://finance.test/".to_owned();
    for server in [
        v1::Server { command: Some(command), ..server() },
        v1::Server { openapi: Some(openapi), url: url(), ..server() },
        v1::Server { transport: "sse".into(), url: url(), ..server() },
    ] {
        let world = listing(&["finance/query_data"]).with(entry("server/finance", Kind::Server(server)));
        assert_eq!(ask(&world, "query_data").reason, None);
        assert_eq!(ask(&world, "by_region").reason, Some(Reason::ConsentToolNotListed));
    }
}

#[test]
fn prompts_and_resources_go_with_a_server_of_which_any_tool_is_listed() {
    let consent = v1::Consent { virtual_server: "all".into(), ..fixture::narrowed(&["finance/gone"]) };
    let open = fixture::policy("reads", 1, ALL);
    let world = world().with(entry("consent/c-1", Kind::Consent(consent))).with(open);
    let closed = world.clone().without("policy/reads").config();
    let (config, caller) = (world.config(), Caller { virtual_server: "all".into(), ..caller() });
    let ask = |config: &Config, what| admit(config, &caller, Wanted { virtual_server: "all", what }, NOW).reason;
    let uri = |server: &str, path: &str| format!("mcp+{server}+file:///{path}");
    let [listed, unlisted] =
        ["finance", "hr"].map(|server| (format!("{server}__p"), uri(server, "a"), uri(server, "{a}")));
    for what in [What::Prompt(&listed.0), What::Resource(&listed.1), What::Template(&listed.2)] {
        assert_eq!(ask(&config, what), None, "{what:?}: as without the list");
        assert_eq!(ask(&closed, what), Some(Reason::PolicyDenied), "{what:?}: policies decide as ever");
    }
    for what in [What::Prompt(&unlisted.0), What::Resource(&unlisted.1), What::Template(&unlisted.2)] {
        assert_eq!(ask(&config, what), Some(Reason::ConsentToolNotListed), "{what:?}");
    }
    assert_eq!(ask(&config, What::Prompt("other")), Some(Reason::PromptUnknown));
    assert_eq!(ask(&config, What::Resource("other")), Some(Reason::ResourceUnknown));
    for (server, tool) in [("finance", "query_data"), ("hr", "list_people")] {
        let task = What::Task { server, tool };
        assert_eq!(ask(&config, task), Some(Reason::ConsentToolNotListed), "a task is its tool's");
    }
}

#[test]
fn only_servers_that_the_consent_leads_to_may_be_asked_anything() {
    let of = |consent: v1::Consent| {
        let consent = v1::Consent { virtual_server: "all".into(), ..consent };
        world().with(entry("consent/c-1", Kind::Consent(consent))).config()
    };
    let names = |config: &Config| {
        let servers = reachable(config, &caller(), "all").into_iter().map(|server| server.name.clone());
        let servers: Vec<String> = servers.collect();
        let (caller, offered) = (caller(), &config.virtual_servers["all"]);
        assert_eq!(Admission::of(config, &caller, NOW).servers(offered).collect::<Vec<_>>(), servers);
        servers
    };
    assert_eq!(names(&of(fixture::consent())), ["finance", "hr"]);
    assert_eq!(names(&of(fixture::narrowed(&["hr/list_people"]))), ["hr"]);
    assert_eq!(names(&of(fixture::narrowed(&["other/x"]))), [""; 0]);
    assert_eq!(names(&world().without("consent/c-1").config()), [""; 0]);
    assert!(reachable(&world().config(), &caller(), "nowhere").is_empty());
}

/// One of two consents that differ in nothing but this.
#[derive(Clone, Debug)]
struct Narrow {
    level: &'static str,
    tools: Vec<String>,
    revoked: bool,
}

const TOOLS: [(&str, Tier); 4] = [
    ("by_region", Tier::Retrieval),
    ("create_charge", Tier::Transactional),
    ("drop_ledger", Tier::Destructive),
    ("query_data", Tier::Retrieval),
];

impl Narrow {
    fn to_entry(&self, id: &str) -> v1::Entry {
        let level = self.level.to_owned();
        let (level, listed_level) = if self.tools.is_empty() { (level, String::new()) } else { (String::new(), level) };
        let (id, tools, revoked) = (id.to_owned(), self.tools.clone(), self.revoked);
        let consent = v1::Consent { id, level, listed_level, tools, revoked, ..fixture::consent() };
        entry(&format!("consent/{}", consent.id), Kind::Consent(consent))
    }

    /// The rule as slowly as it can be said.
    fn refuses(&self, name: &str, tier: Tier, forbidden: &str) -> Option<Reason> {
        if self.tools.iter().any(|tool| !tool.contains('/')) {
            return Some(Reason::ConsentMissing);
        }
        if self.revoked {
            return Some(Reason::ConsentRevoked);
        }
        if !self.tools.is_empty() && !self.tools.contains(&format!("finance/{name}")) {
            return Some(Reason::ConsentToolNotListed);
        }
        if tier > self.level.parse().unwrap() {
            return Some(Reason::ConsentLevelExceeded);
        }
        (name == forbidden).then_some(Reason::PolicyDenied)
    }
}

fn any_narrow() -> impl Strategy<Value = Narrow> {
    let tools = prop_oneof![
        8 => any_tools(),
        1 => Just(vec!["finance/by_region".to_owned()]),
        1 => Just(vec!["finance/by_region".to_owned(), "finance".to_owned()]),
    ];
    let revoked = prop::bool::weighted(0.1);
    (any_tier(), tools, revoked).prop_map(|(level, tools, revoked)| Narrow { level, tools, revoked })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Verdicts and parties are kept from one question to the next. One node is asked for two callers who differ in
    /// their consents alone, while these change; every answer is the slow rule's.
    #[test]
    fn no_answer_is_anothers_nor_from_before(
        first in (any_narrow(), any_narrow()),
        steps in prop::collection::vec((0_usize..2, prop::option::of(any_narrow())), 1..12),
        forbidden in prop::sample::select(vec!["query_data", "drop_ledger"]),
    ) {
        let forbid = format!(r#"forbid (principal, action == Action::"finance__{forbidden}", resource);"#);
        let (ids, mut narrow) = (["c-1", "c-2"], [first.0, first.1]);
        let mut world = world().with(fixture::policy("finance", 3, ALL)).with(fixture::policy("no", 1, &forbid));
        for (id, narrow) in ids.into_iter().zip(&narrow) {
            world = world.with(narrow.to_entry(id));
        }
        let (mut catalogue, mut revision) = (Catalogue::new(), 7);
        world.apply(&mut catalogue, revision);
        for (which, change) in steps {
            if let Some(change) = change {
                let changed = change.to_entry(ids[which]);
                world = world.with(changed.clone());
                let changes = vec![v1::EntryChange { key: changed.key, value: Some(changed.value) }];
                let delta = v1::Delta { from: revision, to: revision + 1, changes, digest: world.digest() };
                catalogue.delta(&delta).unwrap();
                (narrow[which], revision) = (change, revision + 1);
            }
            let (config, caller) = (catalogue.config(), Caller { consent: ids[which].into(), ..caller() });
            let mut may = Vec::new();
            for (name, tier) in TOOLS {
                let expected = narrow[which].refuses(name, tier, forbidden);
                let decision = admit(&config, &caller, ToolRef { virtual_server: "finance", name }, NOW);
                prop_assert_eq!(decision.reason, expected, "{} {:?}", name, &narrow[which]);
                may.extend(expected.is_none().then_some(name));
            }
            let listed = listable(&config, &caller, "finance", NOW);
            let listed: Vec<_> = listed.into_iter().map(|tool| tool.name.as_str()).collect();
            prop_assert_eq!(listed, may);
        }
    }
}
