//! What is found, and in which order.

use bailiwick_proto::v1::{self, resource::Resource as Kind};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::fixture::{World, entry, server, tool, tool_entry, world};

fn index(definitions: &[serde_json::Value]) -> Arc<SearchIndex> {
    let entries: Vec<_> = definitions.iter().map(|one| tool_entry(tool("shop", one, "retrieval"))).collect();
    let listed = v1::VirtualServer {
        name: "shop".into(),
        servers: vec!["shop".into()],
        naming: "plain".into(),
        tools: "search".into(),
        ..v1::VirtualServer::default()
    };
    let world =
        World([vec![server("shop"), entry("virtual_server/shop", Kind::VirtualServer(listed))], entries].concat());
    Arc::clone(world.config().virtual_servers["shop"].search.as_ref().unwrap())
}

fn found(index: &SearchIndex, query: &str) -> Vec<String> {
    index.find(query).map(|exposed| exposed.name.clone()).collect()
}

fn shop() -> Arc<SearchIndex> {
    let parameters = json!({"type": "object", "properties": {"customerId": {}, "currency": {}}});
    index(&[
        json!({"name": "create_charge", "description": "Takes money from a customer's card.", "inputSchema": parameters}),
        json!({"name": "list_charges", "title": "All charges", "description": "Lists what was taken."}),
        json!({"name": "refundPayment", "description": "Gives a charge back to the customer."}),
        json!({"name": "weather", "description": "Tells the weather of a city.", "annotations": {"title": "Forecast"}}),
    ])
}

#[test]
fn names_count_more_than_titles_parameters_and_descriptions() {
    let index = shop();
    for (query, expected) in [
        ("charge", &["list_charges", "create_charge", "refundPayment"][..]),
        ("refund", &["refundPayment"]),
        ("Payment!", &["refundPayment"]),
        ("customer", &["create_charge", "refundPayment"]),
        ("currency", &["create_charge"]),
        ("forecast", &["weather"]),
        ("create a charge", &["create_charge", "list_charges", "refundPayment", "weather"]),
        ("char", &["list_charges", "create_charge", "refundPayment"]),
        ("ch", &[]),
        ("submarine", &[]),
        ("", &["create_charge", "list_charges", "refundPayment", "weather"]),
        (" -!", &["create_charge", "list_charges", "refundPayment", "weather"]),
    ] {
        assert_eq!(found(&index, query), expected, "{query}");
    }
}

#[test]
fn words_are_read_as_people_write_them() {
    let words = |text: &str| words_of(text).collect::<Vec<_>>();
    assert_eq!(words("createHTTPCharge_v2 list-charges"), ["create", "httpcharge", "v2", "list", "charge"]);
    assert_eq!(words("Größe ÜBER access"), ["größe", "über", "access"]);
    assert_eq!(words(&"x".repeat(100)), ["x".repeat(WORD_CHARS_MAX)]);
    assert_eq!(words("_- "), [""; 0]);
}

#[test]
fn what_is_searched_is_kept_as_long_as_the_tools_stay_what_they_are() {
    let listed = |tools: &str| {
        let listed = v1::VirtualServer {
            name: "all".into(),
            servers: vec!["finance".into(), "hr".into()],
            naming: "prefixed".into(),
            tools: tools.into(),
            ..v1::VirtualServer::default()
        };
        entry("virtual_server/all", Kind::VirtualServer(listed))
    };
    let index = |config: &crate::Config| config.virtual_servers["all"].search.clone();
    let mut catalogue = crate::Catalogue::new();
    let first = index(&world().with(listed("search")).apply(&mut catalogue, 1).config).unwrap();
    let policy = crate::fixture::policy("other", 1, "permit (principal, action, resource);");
    let second = index(&world().with(listed("search")).with(policy).apply(&mut catalogue, 2).config).unwrap();
    assert!(Arc::ptr_eq(&first, &second));
    let fewer = world().with(listed("search")).without("tool/hr/list_people");
    let third = index(&fewer.apply(&mut catalogue, 3).config).unwrap();
    assert_eq!((first.find("people").count(), third.find("people").count()), (1, 0));
    assert!(index(&world().with(listed("")).apply(&mut catalogue, 4).config).is_none());
}

#[test]
fn a_beginning_of_very_many_words_costs_bounded_work_and_still_finds_the_rare_ones() {
    let mut index = SearchIndex { tools: shop().tools.clone(), words: BTreeMap::new() };
    for number in 0..PREFIX_WORDS_MAX {
        let postings = vec![Posting { tool: 0, weight: 1 }; 10_000];
        index.words.insert(format!("common{number:03}"), postings);
    }
    index.words.insert("common".into(), vec![Posting { tool: 3, weight: 1 }; 1]);
    index.words.insert("common000rare".into(), vec![Posting { tool: 2, weight: 1 }; 2]);
    assert_eq!(found(&index, "common"), ["weather", "refundPayment", "create_charge"]);
}

proptest! {
    #[test]
    fn any_query_finds_each_tool_at_most_once_and_always_in_the_same_order(query in "(\\PC|[a-z_ ]){0,40}") {
        let index = shop();
        let names = found(&index, &query);
        let different: BTreeSet<&String> = names.iter().collect();
        prop_assert_eq!(different.len(), names.len());
        prop_assert_eq!(found(&shop(), &query), names);
    }
}
