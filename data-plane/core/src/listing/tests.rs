//! What is listed is what may be used; names lead back; pages over several servers; servers that fail; both eras.

use bailiwick_proto::mcp::VERSION_2025_11_25;
use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::{
    caller::Caller,
    config::Config,
    fixture::{self, NOW, World, world},
};

const OPEN: &str = r#"permit (principal, action in [Action::"get_prompt", Action::"read_resource"], resource);"#;

fn reads(cedar: &str) -> World {
    world().with(fixture::policy("reads", 1, cedar))
}

fn caller(virtual_server: &str) -> Caller {
    Caller { virtual_server: virtual_server.into(), ..fixture::caller() }
}

/// The world's consent is for `finance`; this one is for `all`.
fn consented(world: World, virtual_server: &str) -> World {
    let consent = bailiwick_proto::v1::Consent { virtual_server: virtual_server.into(), ..fixture::consent() };
    world.with(fixture::entry("consent/c-1", bailiwick_proto::v1::resource::Resource::Consent(consent)))
}

fn result(text: &str) -> Result<Response, Reason> {
    Ok(Response::Result(RawValue::from_string(text.to_owned()).unwrap()))
}

fn error(code: i64) -> Result<Response, Reason> {
    Ok(Response::Error(RpcError { code, message: "no".into(), data: None }))
}

/// One page for the client; `answer` is asked for each server's page, as (server, cursor).
fn page(
    config: &Config,
    virtual_server: &str,
    listed: Listed,
    from: Option<Cursor>,
    mut answer: impl FnMut(&str, Option<&str>) -> Result<Response, Reason>,
) -> Result<Page, Failure> {
    let caller = caller(virtual_server);
    let admission = Admission::of(config, &caller, NOW);
    let place = (virtual_server, &config.virtual_servers[virtual_server]);
    let mut listing = Listing::begin(listed, &admission, place, from);
    while !listing.is_complete() {
        for cursor in listing.asks() {
            if listing.is_complete() {
                break;
            }
            let answer = answer(&cursor.server, cursor.cursor.as_deref());
            listing.take(answer.as_ref().map_err(|reason| *reason));
        }
    }
    listing.finish()
}

fn shown(page: &Page, era: Era) -> Value {
    serde_json::from_str(page.result(era, None).get()).unwrap()
}

fn names(page: &Page) -> Vec<String> {
    let result = shown(page, Era::Modern);
    let items = result[page.listed.member()].as_array().unwrap();
    items.iter().map(|item| item[page.listed.key()].as_str().unwrap().to_owned()).collect()
}

#[test]
fn without_a_policy_for_them_nothing_is_shown() {
    let config = world().config();
    let prompts = page(&config, "finance", Listed::Prompts, None, |_, _| result(r#"{"prompts":[{"name":"a"}]}"#));
    let prompts = prompts.unwrap();
    assert_eq!((names(&prompts), prompts.hidden_thousandths), (Vec::new(), 1_000));
}

#[test]
fn one_server_s_items_pass_as_they_are_where_naming_is_plain() {
    let config = reads(OPEN).config();
    let item =
        r#"{"uri":"file:///a","name":"A","icons":[{"src":"x"}],"_meta":{"vendor/x":1.50},"size":12345678901234567890}"#;
    let body = format!(r#"{{"resources":[{item}],"nextCursor":"n","ttlMs":70000}}"#);
    let resources = page(&config, "finance", Listed::Resources, None, |server, cursor| {
        assert_eq!((server, cursor), ("finance", None));
        result(&body)
    });
    let resources = resources.unwrap();
    assert_eq!(resources.next, Some(Cursor { server: "finance".into(), cursor: Some("n".into()) }));
    let legacy = resources.result(Era::Legacy(VERSION_2025_11_25), Some("sealed"));
    assert_eq!(legacy.get(), format!(r#"{{"resources":[{item}],"nextCursor":"sealed"}}"#));
    let modern = resources.result(Era::Modern, None);
    let start = format!(
        r#"{{"resultType":"complete","resources":[{item}],"ttlMs":5000,"cacheScope":"private","_meta":{{"io.modelcontextprotocol/serverInfo""#
    );
    assert!(modern.get().starts_with(&start), "{modern}");
}

#[test]
fn several_servers_are_shown_under_names_that_lead_back() {
    let config = consented(reads(OPEN), "all").config();
    let prompts = page(&config, "all", Listed::Prompts, None, |server, _| {
        result(&format!(r#"{{"prompts":[{{"title":"T","name":"{server}-a","arguments":[]}}]}}"#))
    });
    let prompts = prompts.unwrap();
    assert_eq!(names(&prompts), ["finance__finance-a", "hr__hr-a"]);
    assert_eq!(shown(&prompts, Era::Modern)["prompts"][0]["title"], "T");
    let templates = page(&config, "all", Listed::Templates, None, |_, _| {
        result(r#"{"resourceTemplates":[{"uriTemplate":"file:///{name}","name":"x"}]}"#)
    });
    assert_eq!(names(&templates.unwrap()), ["mcp+finance+file:///{name}", "mcp+hr+file:///{name}"]);
}

#[test]
fn a_page_ends_where_a_server_has_more_and_the_cursor_goes_on_there() {
    let config = consented(reads(OPEN), "all").config();
    let mut asked = Vec::new();
    let mut answer = |server: &str, cursor: Option<&str>| {
        asked.push(format!("{server} {}", cursor.unwrap_or("-")));
        let more = if server == "finance" && cursor.is_none() { r#","nextCursor":"2""# } else { "" };
        result(&format!(r#"{{"prompts":[{{"name":"p{}"}}]{more}}}"#, cursor.unwrap_or_default()))
    };
    let first = page(&config, "all", Listed::Prompts, None, &mut answer).unwrap();
    assert_eq!(names(&first), ["finance__p"]);
    let second = page(&config, "all", Listed::Prompts, first.next, &mut answer).unwrap();
    assert_eq!((names(&second), second.next), (vec!["finance__p2".to_owned(), "hr__p".to_owned()], None));
    let gone = Cursor { server: "gone".into(), cursor: Some("x".into()) };
    let rest = page(&config, "all", Listed::Prompts, Some(gone), &mut answer).unwrap();
    assert_eq!(names(&rest), ["hr__p"]);
    assert_eq!(asked, ["finance -", "finance 2", "hr -", "hr -"]);
}

#[test]
fn of_several_servers_one_that_fails_is_left_out_and_the_only_one_s_error_is_the_list_s() {
    let config = consented(reads(OPEN), "all").config();
    let some = |finance: Result<Response, Reason>| {
        let mut finance = Some(finance);
        page(&config, "all", Listed::Prompts, None, move |server, _| match server {
            "finance" => finance.take().unwrap(),
            _ => result(r#"{"prompts":[{"name":"p"}]}"#),
        })
    };
    for (fails, is_named) in [
        (error(-32601), false),
        (error(-32603), true),
        (Err(Reason::UpstreamTimeout), true),
        (result("{}"), true),
        (result(r#"{"prompts":{}}"#), true),
        (result(r#"{"prompts":[],"nextCursor":7}"#), true),
        (result(r#"{"prompts":[],"resultType":"input_required"}"#), true),
        (result(&format!(r#"{{"prompts":[],"nextCursor":"{}"}}"#, "x".repeat(CURSOR_BYTES_MAX + 1))), true),
        (result(&format!(r#"{{"prompts":[{}1]}}"#, "1,".repeat(ITEMS_MAX))), true),
    ] {
        let page = some(fails).unwrap();
        assert_eq!(names(&page), ["hr__p"]);
        assert_eq!(!page.left_out.is_empty(), is_named, "{:?}", page.left_out);
        for era in [Era::Modern, Era::Legacy(VERSION_2025_11_25)] {
            let told = shown(&page, era)["_meta"][LEFT_OUT].as_u64();
            assert_eq!(told, is_named.then_some(1), "the client is told");
        }
    }
    let all_fail =
        |answer: fn() -> Result<Response, Reason>| page(&config, "all", Listed::Prompts, None, move |_, _| answer());
    assert!(matches!(all_fail(|| Err(Reason::UpstreamTimeout)), Err(Failure::Fault(Reason::UpstreamTimeout))));
    assert!(names(&all_fail(|| error(-32601)).unwrap()).is_empty(), "no server has any, which is a list");
    let only = page(&reads(OPEN).config(), "finance", Listed::Prompts, None, |_, _| error(-32601));
    assert!(matches!(only, Err(Failure::Refused(RpcError { code: -32601, .. }))));
}

#[test]
fn items_that_name_nothing_or_in_more_than_one_way_are_not_shown() {
    let config = reads(OPEN).config();
    let body =
        r#"{"resources":[{"uri":"file:///a/../b"},{"uri":7},{},7,null,{"uri":""},{"uri":"/a"},{"uri":"file:///c"}]}"#;
    let resources = page(&config, "finance", Listed::Resources, None, |_, _| result(body)).unwrap();
    assert_eq!((names(&resources), resources.hidden_thousandths), (vec!["file:///c".to_owned()], 875));
}

#[test]
fn a_denied_server_is_asked_for_nothing_any_more() {
    let mut catalogue = crate::catalogue::Catalogue::new();
    consented(reads(OPEN), "all").apply(&mut catalogue, 7);
    let key = "server/finance".to_owned();
    let change = bailiwick_proto::v1::EntryChange { key, ..Default::default() };
    catalogue.deny(&bailiwick_proto::v1::Denials { revision: 8, changes: vec![change], ..Default::default() }).unwrap();
    let config = catalogue.config();
    let mut asked = Vec::new();
    let prompts = page(&config, "all", Listed::Prompts, None, |server, _| {
        asked.push(server.to_owned());
        result(r#"{"prompts":[{"name":"p"}]}"#)
    });
    assert_eq!(names(&prompts.unwrap()), ["hr__p"]);
    assert_eq!(asked, ["hr"]);
}

#[test]
fn for_a_caller_without_any_authority_no_server_is_asked() {
    let revoked = bailiwick_proto::v1::Consent { revoked: true, ..fixture::consent() };
    let expired = bailiwick_proto::v1::Consent { expires_at: NOW, ..fixture::consent() };
    for consent in [revoked, expired] {
        let consent = bailiwick_proto::v1::resource::Resource::Consent(consent);
        let config = reads(OPEN).with(fixture::entry("consent/c-1", consent)).config();
        let from = Cursor { server: "finance".into(), cursor: None };
        for from in [None, Some(from)] {
            let page = page(&config, "finance", Listed::Prompts, from, |_, _| panic!("a server is asked")).unwrap();
            assert_eq!((names(&page), page.next), (Vec::new(), None));
        }
    }
}

#[test]
fn servers_beyond_the_bound_are_asked_for_on_the_next_page() {
    let many: Vec<String> = (0..ASKS_MAX + 3).map(|n| format!("s{n:02}")).collect();
    let servers: Vec<&str> = many.iter().map(String::as_str).collect();
    let mut world = consented(reads(OPEN), "all");
    for server in &servers {
        world = world.with(fixture::server(server));
    }
    let listed = fixture::virtual_server("all", &servers, "plain");
    let config = world.with(fixture::entry("virtual_server/all", listed)).config();
    let answer = |_: &str, _: Option<&str>| result(r#"{"prompts":[{"name":"p"}]}"#);
    let first = page(&config, "all", Listed::Prompts, None, answer).unwrap();
    assert_eq!((names(&first).len(), &first.next.as_ref().unwrap().server), (ASKS_MAX, &many[ASKS_MAX]));
    let second = page(&config, "all", Listed::Prompts, first.next, answer).unwrap();
    assert_eq!((names(&second).len(), second.next), (3, None));
}

#[test]
fn all_servers_of_a_page_are_asked_at_once_and_shown_in_the_order_of_their_names() {
    let many: Vec<String> = (0..ASKS_MAX + 1).map(|n| format!("s{n:02}")).collect();
    let servers: Vec<&str> = many.iter().map(String::as_str).collect();
    let mut world = consented(reads(OPEN), "all");
    for server in &servers {
        world = world.with(fixture::server(server));
    }
    let listed = fixture::virtual_server("all", &servers, "prefixed");
    let config = world.with(fixture::entry("virtual_server/all", listed)).config();
    let caller = caller("all");
    let admission = Admission::of(&config, &caller, NOW);
    let begin = |from| Listing::begin(Listed::Prompts, &admission, ("all", &config.virtual_servers["all"]), from);
    let asked = |listing: &Listing<'_>| listing.asks().into_iter().map(|cursor| cursor.server).collect::<Vec<_>>();
    let answer = |more: &str| result(&format!(r#"{{"prompts":[{{"name":"p"}}]{more}}}"#)).unwrap();

    let mut first = begin(None);
    assert_eq!(asked(&first), many[..ASKS_MAX]);
    first.take(Ok(&answer("")));
    first.take(Err(Reason::UpstreamTimeout));
    assert_eq!(asked(&first), many[2..ASKS_MAX], "what is asked for already counts");
    first.take(Ok(&answer(r#","nextCursor":"2""#)));
    assert!(first.is_complete() && asked(&first).is_empty());
    first.take(Ok(&answer("")));
    let first = first.finish().unwrap();
    assert_eq!(names(&first), ["s00__p", "s02__p"], "answers of later servers are of no use to this page");

    let mut second = begin(first.next);
    assert_eq!(asked(&second), ["s02"], "it may have still more");
    second.take(Ok(&answer("")));
    assert_eq!(asked(&second), many[3..=ASKS_MAX]);

    let mut dead = begin(None);
    (0..ASKS_MAX).for_each(|_| dead.take(Err(Reason::UpstreamUnreachable)));
    let dead = dead.finish().unwrap();
    assert_eq!((dead.left_out.len(), dead.next.unwrap().server), (ASKS_MAX, many[ASKS_MAX].clone()));
}

#[test]
fn a_server_that_the_consent_does_not_lead_to_is_as_if_it_were_not_there() {
    let narrowed = |tools: &[&str]| {
        let consent = bailiwick_proto::v1::Consent { virtual_server: "all".into(), ..fixture::narrowed(tools) };
        reads(OPEN)
            .with(fixture::entry("consent/c-1", bailiwick_proto::v1::resource::Resource::Consent(consent)))
            .config()
    };
    let asked_for = |config: &Config, from: Option<&str>| {
        let mut asked = Vec::new();
        let from = from.map(|server| Cursor { server: server.to_owned(), cursor: Some("2".into()) });
        let prompts = page(config, "all", Listed::Prompts, from, |server, cursor| {
            asked.push((server.to_owned(), cursor.is_some()));
            result(r#"{"prompts":[{"name":"p"}]}"#)
        });
        (asked, prompts.map(|page| names(&page)).unwrap())
    };
    let first = |server: &str| vec![(server.to_owned(), false)];
    let hr = narrowed(&["hr/list_people"]);
    assert_eq!(asked_for(&hr, None), (first("hr"), vec!["hr__p".to_owned()]));
    assert_eq!(asked_for(&hr, Some("finance")), (first("hr"), vec!["hr__p".to_owned()]), "a cursor leads past it");
    let finance = narrowed(&["finance/query_data"]);
    assert_eq!(asked_for(&finance, None), (first("finance"), vec!["finance__p".to_owned()]));
    assert_eq!(asked_for(&finance, Some("hr")), (Vec::new(), Vec::new()));
    assert_eq!(asked_for(&narrowed(&["other/x"]), None), (Vec::new(), Vec::new()));
    let refused = page(&finance, "all", Listed::Prompts, None, |_, _| error(-32601));
    let is_its_own = |failure: &Failure| matches!(failure, Failure::Refused(error) if error.code == -32601);
    assert!(refused.err().as_ref().is_some_and(is_its_own), "the only one's error is the list's");
}

fn clause() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        r#"permit (principal, action, resource);"#,
        OPEN,
        r#"permit (principal, action in Action::"call_tool", resource);"#,
        r#"permit (principal, action == Action::"get_prompt", resource == Server::"hr");"#,
        r#"permit (principal, action == Action::"get_prompt", resource) when { context.name like "a*" };"#,
        r#"permit (principal, action == Action::"read_resource", resource) when { context.uri like "file:///public/*" };"#,
        r#"permit (principal, action, resource) when { context.virtual_server == "all" };"#,
        r#"forbid (principal, action == Action::"read_resource", resource) when { context.uri like "*secret*" };"#,
        r#"forbid (principal, action, resource in Server::"finance");"#,
        r#"forbid (principal, action, resource) when { context.level == "destructive" };"#,
    ])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn what_is_listed_is_what_may_be_used(
        clauses in prop::collection::vec(clause(), 0..3),
        virtual_server in prop::sample::select(vec!["finance", "all"]),
        listed in prop::sample::select(vec![Listed::Prompts, Listed::Resources, Listed::Templates]),
        own in prop::collection::vec("(file:///(public|secret)/[a.]{0,3}|[a-c_]{1,3}|(file:///)?\\PC{0,6}|a:\\{x\\})", 0..8),
        revoked in prop::bool::weighted(0.1),
        expires in prop::sample::select(vec![NOW, NOW + 9]),
        level in prop::sample::select(vec!["retrieval", "destructive"]),
        tools in prop::sample::subsequence(vec!["finance/query_data", "finance/gone", "hr/list_people"], 0..=3),
    ) {
        let mut world = world().without("policy/finance");
        if !clauses.is_empty() {
            world = world.with(fixture::policy("p", 1, &clauses.join("\n")));
        }
        let of_all = bailiwick_proto::v1::Consent { level: level.into(), ..fixture::consent() };
        let listed_level = level.into();
        let of_some = bailiwick_proto::v1::Consent { listed_level, ..fixture::narrowed(&tools) };
        let consent = if tools.is_empty() { of_all } else { of_some };
        let consent = bailiwick_proto::v1::Consent {
            virtual_server: virtual_server.into(), revoked, expires_at: expires, ..consent
        };
        let consent = bailiwick_proto::v1::resource::Resource::Consent(consent);
        let config = world.with(fixture::entry("consent/c-1", consent)).config();
        let items: Vec<_> = own.iter().map(|own| serde_json::json!({(listed.key()): own})).collect();
        let body = serde_json::json!({(listed.member()): items}).to_string();
        let page = page(&config, virtual_server, listed, None, |_, _| result(&body)).unwrap();

        let caller = caller(virtual_server);
        let mut usable = Vec::new();
        for server in &config.virtual_servers[virtual_server].servers {
            for own in &own {
                let naming = &config.virtual_servers[virtual_server].naming;
                let name = match listed {
                    Listed::Prompts => naming.prompt(server, own),
                    Listed::Resources | Listed::Templates => naming.uri(server, own),
                };
                let wanted = Wanted { virtual_server, what: listed.what(&name) };
                let decision = crate::admission::admit(&config, &caller, wanted, NOW);
                if decision.permits() {
                    prop_assert!(tools.is_empty() || tools.iter().any(|tool| tool.starts_with(server.as_str())));
                    prop_assert_eq!(decision.server(), Some(server.as_str()));
                    usable.push(name.into_owned());
                }
            }
        }
        prop_assert_eq!(names(&page), usable);
    }
}
