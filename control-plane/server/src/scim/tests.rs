//! What a service makes of requests with a state at hand: bounds, and which version a request is about.

use bailiwick_control_plane_core::{
    Command, State, Wish,
    command::{Context, FreshIds},
    decide, evolve,
    provisioning::{
        version_of_person,
        wish::{MembersWritten, Operation, PersonWritten, Provision},
    },
};
use serde_json::{Map, Value, json};

use super::{
    budget::Budget,
    fault::Fault,
    filter::Filter,
    listing::{self, Search},
    resource::Wanted,
    schema,
    schema::Type,
    service,
};
use crate::config::ScimAgents;

fn object(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

fn carried_out(state: &mut State, operations: Vec<Operation>) {
    let context = Context {
        now_micros: 1_000_000,
        actor: "scim:okta".to_owned(),
        request_id: String::new(),
        ids: FreshIds::default(),
    };
    let wish = Command::Wish(Wish::Provision(Provision {
        operations,
        faults_max: None,
        reserved: std::collections::BTreeSet::new(),
    }));
    let revision = state.revision + 1;
    decide(state, wish, &context).unwrap().events.iter().for_each(|event| evolve(state, event, revision));
}

fn person(n: usize) -> Operation {
    let person = PersonWritten {
        user_name: format!("user-{n}@example.com"),
        external_id: String::new(),
        active: n != 0,
        profile: "{}".to_owned(),
    };
    Operation::CreatePerson { id: format!("p-{n}"), person }
}

/// People, the first of them inactive, who are all in so many groups.
fn state(people: usize, groups: usize) -> State {
    let mut state = State::default();
    for first in (0..people).step_by(250) {
        carried_out(&mut state, (first..people.min(first + 250)).map(person).collect());
    }
    for n in 0..groups {
        let (display, external_id) = (format!("group-{n}"), String::new());
        let members = (0..people).map(|n| format!("p-{n}")).collect();
        let id = format!("g-{n}");
        carried_out(&mut state, vec![Operation::CreateGroup { id, display, external_id, members }]);
    }
    state
}

#[test]
fn a_put_that_says_nothing_of_activity_is_about_the_version_it_was_made_from() {
    let state = state(1, 0);
    for (said, named) in [(None, true), (Some(Value::Null), true), (Some(json!(true)), false)] {
        let mut sent = object(json!({"schemas": [schema::USER], "userName": "user-0@example.com"}));
        sent.extend(said.map(|said| ("active".to_owned(), said)));
        let operation = service::replaced(&state, Type::User, "p-0", &sent, None, &ScimAgents::default()).unwrap();
        let Operation::ReplacePerson { version, person, .. } = operation else { panic!("no replacement") };
        assert_eq!(version, version_of_person(&state, "user-0@example.com").filter(|_| named));
        assert_eq!(person.active, !named);
    }
}

#[test]
fn an_attribute_has_so_many_values_and_no_more_whichever_way_they_come() {
    let state = state(1, 0);
    let patched = |operations: Vec<Value>| {
        let sent = object(json!({"schemas": [schema::PATCH], "Operations": operations}));
        service::patched(&state, Type::User, "p-0", &sent, None, &ScimAgents::default(), &mut Budget::default())
    };
    let add = |from: usize, to: usize| {
        let values: Vec<Value> = (from..to).map(|n| json!({"value": n.to_string()})).collect();
        json!({"op": "add", "path": "roles", "value": values})
    };
    assert!(patched(vec![add(0, 500), add(0, 500)]).is_ok());
    assert_eq!(patched(vec![add(0, 501)]).unwrap_err().body()["scimType"], "tooMany");
    assert_eq!(patched(vec![add(0, 400), add(400, 501)]).unwrap_err().body()["scimType"], "tooMany");
    let values: Vec<Value> = (0..501).map(|n| json!({"value": n.to_string()})).collect();
    let removed = patched(vec![json!({"op": "remove", "path": "roles", "value": values})]);
    assert_eq!(removed.unwrap_err().body()["scimType"], "tooMany");
}

#[test]
fn members_are_looked_at_so_often_in_one_request() {
    let state = state(3, 1);
    let with = |number: usize, filter: &str, budget: &mut Budget| {
        let remove = json!({"op": "remove", "path": format!("members[{filter}]")});
        let sent = object(json!({"schemas": [schema::PATCH], "Operations": vec![remove; number]}));
        service::patched(&state, Type::Group, "g-0", &sent, None, &ScimAgents::default(), budget)
    };
    let patched = |number: usize, filter: &str| with(number, filter, &mut Budget::default());
    let Operation::ChangeGroup { members: MembersWritten::Changed { removed, .. }, .. } =
        patched(16, "value sw \"p-1\"").unwrap()
    else {
        panic!("no change")
    };
    assert_eq!(removed.into_iter().collect::<Vec<_>>(), ["p-1"]);
    assert_eq!(patched(17, "value sw \"p-1\"").unwrap_err().body()["scimType"], "tooMany");
    assert!(patched(1_000, "value eq \"p-1\"").is_ok());
    // A bulk request has no more for all its operations.
    let mut budget = Budget::default();
    assert!(with(10, "value sw \"p-1\"", &mut budget).is_ok());
    assert!(with(6, "value sw \"p-1\"", &mut budget).is_ok());
    assert_eq!(with(1, "value sw \"p-1\"", &mut budget).unwrap_err().body()["scimType"], "tooMany");
    assert!(with(1_000, "value eq \"p-1\"", &mut budget).is_ok());
}

#[test]
fn a_look_at_everybody_has_few_terms() {
    let state = state(3, 1);
    let filter = |terms: usize| Filter::parse(&vec!["value sw \"p-1\""; terms].join(" or "), Type::Group).unwrap();
    let mut budget = Budget::default();
    assert_eq!(budget.look(250_000, &filter(1)), Ok(()));
    assert!(budget.look(250_000, &filter(16)).is_err());
    assert_eq!(budget.look(250_000, &filter(15)), Ok(()));
    assert!(budget.look(1, &filter(1)).is_err());
    let sent = json!({"op": "remove", "path": format!("members[{}]", vec!["value sw \"p-1\""; 128].join(" or "))});
    let sent = object(json!({"schemas": [schema::PATCH], "Operations": [sent]}));
    let mut left = Budget::default();
    assert!(service::patched(&state, Type::Group, "g-0", &sent, None, &ScimAgents::default(), &mut left).is_ok());
    let refused = service::patched(&state, Type::Group, "g-0", &sent, None, &ScimAgents::default(), &mut budget);
    assert_eq!(refused.unwrap_err().body()["scimType"], "tooMany");
}

#[test]
fn one_group_shows_so_many_members_too() {
    let mut large = state(10_000, 1);
    let wanted = |without: &str| Wanted::parse("".split(','), without.split(','), Type::Group).unwrap();
    let check = |state: &State, without: &str| listing::check_members(state, Type::Group, "g-0", &wanted(without));
    assert_eq!(check(&large, ""), Ok(()));
    carried_out(&mut large, vec![person(10_000)]);
    let (added, removed) = (["p-10000".to_owned()].into(), std::collections::BTreeSet::new());
    let members = MembersWritten::Changed { added, removed };
    let (id, version) = ("g-0".to_owned(), None);
    carried_out(&mut large, vec![Operation::ChangeGroup { id, version, display: None, external_id: None, members }]);
    let refused = check(&large, "").unwrap_err().body();
    assert_eq!((&refused["scimType"], &refused["status"]), (&json!("tooMany"), &json!("400")));
    assert!(refused["detail"].as_str().unwrap().contains("excludedAttributes=members"));
    assert_eq!(check(&large, "members"), Ok(()));
}

#[test]
fn an_answer_shows_so_many_members() {
    let state = state(5_001, 2);
    let found = |said: Value| Search::parse(&[Type::Group], &object(said)).unwrap().run(&state, "");
    assert_eq!(found(json!({})).unwrap_err(), found(json!({"filter": "displayName pr"})).unwrap_err());
    assert_eq!(found(json!({})).map_err(|fault: Fault| fault.body()).unwrap_err()["scimType"], "tooMany");
    assert_eq!(found(json!({"count": 1})).unwrap()["Resources"][0]["members"].as_array().unwrap().len(), 5_001);
    assert_eq!(found(json!({"excludedAttributes": "members"})).unwrap()["itemsPerPage"], 2);
}
