//! PATCH as the specification, Okta and Entra ID have it, and as hostile people do.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn jane() -> Map<String, Value> {
    let value = json!({
        "userName": "jane@example.com", "active": true, "displayName": "Jane",
        "name": {"givenName": "Jane", "familyName": "Doe"},
        "emails": [{"value": "jane@example.com", "type": "work", "primary": true},
            {"value": "j@home.net", "type": "home"}],
    });
    value.as_object().unwrap().clone()
}

/// Jane after the operations, as read again.
fn patched(operations: Value) -> Result<Value, Fault> {
    let sent = json!({"schemas": [schema::PATCH], "Operations": operations});
    let operations = read(sent.as_object().unwrap(), Type::User)?;
    let mut document = jane();
    apply(&mut document, operations, Type::User, &mut Budget::default())?;
    document::read(&document, Type::User).map(Value::Object)
}

/// So many addresses for Jane.
fn emails(number: usize) -> Vec<Value> {
    (0..number).map(|number| json!({"value": format!("{number}@example.com")})).collect()
}

fn kind(refused: Result<Value, Fault>) -> Value {
    refused.unwrap_err().body()["scimType"].clone()
}

fn with(changes: Value) -> Value {
    let mut jane = Value::Object(jane());
    for (pointer, value) in changes.as_object().unwrap() {
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        let parent = jane.pointer_mut(parent).unwrap().as_object_mut().unwrap();
        if value.is_null() {
            parent.remove(key);
        } else {
            parent.insert(key.to_owned(), value.clone());
        }
    }
    jane
}

#[test]
fn directories_write_it_in_many_ways() {
    let enterprise = schema::ENTERPRISE;
    let home = json!({"value": "j@home.net", "type": "home"});
    let table = [
        // Okta deactivates.
        (json!([{"op": "replace", "value": {"active": false}}]), json!({"/active": false})),
        // Entra ID does.
        (json!([{"op": "Replace", "path": "active", "value": "False"}]), json!({"/active": false})),
        (json!([{"op": "Add", "path": "title", "value": "CFO"}]), json!({"/title": "CFO"})),
        (
            json!([{"op": "Replace", "path": "emails[type eq \"work\"].value", "value": "n@x"}]),
            json!({"/emails": [{"value": "n@x", "type": "work", "primary": true}, home]}),
        ),
        (
            json!([{"op": "Add", "path": "phoneNumbers[type eq \"mobile\"].value", "value": "1"}]),
            json!({"/phoneNumbers": [{"type": "mobile", "value": "1"}]}),
        ),
        (
            json!([{"op": "Add", "path": format!("{enterprise}:department"), "value": "Ops"}]),
            json!({format!("/{enterprise}"): {"department": "Ops"}}),
        ),
        (
            json!([{"op": "Add", "path": format!("{enterprise}:manager"), "value": "m-1"}]),
            json!({format!("/{enterprise}"): {"manager": {"value": "m-1"}}}),
        ),
        (
            json!([{"op": "replace", "value": {"name.givenName": "J", format!("{enterprise}:costCenter"): "7",
                "id": "x"}}]),
            json!({"/name/givenName": "J", format!("/{enterprise}"): {"costCenter": "7"}}),
        ),
        (
            json!([{"op": "add", "value": {(enterprise): {"division": "D"}, "groups": [{"value": "g"}]}}]),
            json!({format!("/{enterprise}"): {"division": "D"}}),
        ),
        (json!([{"op": "replace", "path": "name", "value": {"givenName": "J"}}]), json!({"/name/givenName": "J"})),
        (json!([{"op": "remove", "path": "name.givenName"}]), json!({"/name/givenName": null})),
        (json!([{"op": "remove", "path": "displayName"}]), json!({"/displayName": null})),
        (json!([{"op": "replace", "path": "displayName", "value": null}]), json!({"/displayName": null})),
        (json!([{"op": "remove", "path": "emails[type eq \"work\"]"}]), json!({"/emails": [home]})),
        (
            json!([{"op": "remove", "path": "emails", "value": [{"value": "jane@example.com"}]}]),
            json!({"/emails": [home]}),
        ),
        (json!([{"op": "remove", "path": "emails"}]), json!({"/emails": null})),
        (json!([{"op": "remove", "path": "emails[type eq \"other\"]"}]), json!({})),
        (json!([{"op": "add", "path": "emails", "value": [home]}]), json!({})),
        (
            json!([{"op": "replace", "path": "emails", "value": {"value": "n@x"}}]),
            json!({"/emails": [{"value": "n@x"}]}),
        ),
        (
            json!([{"op": "add", "path": "emails", "value": {"value": "n@x", "primary": true}}]),
            json!({"/emails": [{"value": "jane@example.com", "type": "work"}, home,
                {"value": "n@x", "primary": true}]}),
        ),
        (
            json!([{"op": "replace", "path": "emails[type eq \"home\"].primary", "value": true}]),
            json!({"/emails": [{"value": "jane@example.com", "type": "work"}, 
                {"value": "j@home.net", "type": "home", "primary": true}]}),
        ),
        (json!([{"op": "add", "path": "password", "value": "secret"}]), json!({})),
        (json!([{"op": "add", "path": "externalId", "value": "e"}]), json!({"/externalId": "e"})),
        (
            json!([{"op": "add", "path": "urn:ietf:params:scim:schemas:core:2.0:User:nickName", "value": "J"}]),
            json!({"/nickName": "J"}),
        ),
    ];
    for (operations, changes) in table {
        assert_eq!(patched(operations.clone()), Ok(with(changes)), "{operations}");
    }
}

#[test]
fn what_cannot_be_done_says_why() {
    let table = [
        (json!([]), "tooMany"),
        (json!(vec![json!({"op": "add", "path": "title", "value": "x"}); 1_001]), "tooMany"),
        (json!([7]), "invalidSyntax"),
        (json!([{"op": "move", "path": "title"}]), "invalidSyntax"),
        (json!([{"op": "remove"}]), "noTarget"),
        (json!([{"op": "add", "path": "title"}]), "invalidValue"),
        (json!([{"op": "replace", "value": "x"}]), "invalidValue"),
        (json!([{"op": "replace", "path": "shoeSize", "value": "x"}]), "invalidPath"),
        (json!([{"op": "replace", "path": "name.shoe", "value": "x"}]), "invalidPath"),
        (json!([{"op": "replace", "path": "title[x eq \"y\"]", "value": "x"}]), "invalidPath"),
        (json!([{"op": "replace", "path": 7, "value": "x"}]), "invalidPath"),
        (json!([{"op": "replace", "path": "emails[", "value": "x"}]), "invalidFilter"),
        (json!([{"op": "replace", "path": "emails[type eq \"x\"].value", "value": "x"}]), "noTarget"),
        (json!([{"op": "add", "path": "emails[type sw \"x\"].value", "value": "x"}]), "noTarget"),
        (json!([{"op": "replace", "path": "id", "value": "x"}]), "mutability"),
        (json!([{"op": "replace", "path": "meta.created", "value": "x"}]), "mutability"),
        (json!([{"op": "add", "path": "groups", "value": [{"value": "g"}]}]), "mutability"),
        (json!([{"op": "remove", "path": "userName"}]), "mutability"),
        (json!([{"op": "replace", "path": "title", "value": {"a": "b"}}]), "invalidValue"),
        (json!([{"op": "replace", "path": "active", "value": "perhaps"}]), "invalidValue"),
        (json!([{"op": "add", "path": "emails", "value": [[7]]}]), "invalidValue"),
    ];
    for (operations, kind) in table {
        let fault = patched(operations.clone()).unwrap_err();
        assert_eq!(fault.body()["scimType"], kind, "{operations}");
    }
    let sent = json!({"Operations": [{"op": "remove", "path": "title"}]});
    assert_eq!(read(sent.as_object().unwrap(), Type::User).unwrap_err().body()["scimType"], "invalidSyntax");
}

#[test]
fn what_is_written_into_each_of_many_values_is_no_more_than_one_person_may_have() {
    let many = emails(400);
    let into_all = |length: usize| {
        json!([{"op": "add", "path": "emails", "value": many},
            {"op": "replace", "path": "emails.display", "value": "x".repeat(length)}])
    };
    assert_eq!(patched(into_all(900_000)).unwrap_err().body()["scimType"], "tooMany");
    assert_eq!(patched(into_all(PROFILE_BYTES_MAX)).unwrap_err().body()["scimType"], "tooMany");
    assert!(patched(into_all(PROFILE_BYTES_MAX - 2)).is_ok(), "with its quotes");
    // Nor over and over.
    let write = |part: &str| json!({"op": "replace", "path": format!("emails.{part}"), "value": "x".repeat(8_000)});
    assert!(patched(json!([{"op": "add", "path": "emails", "value": many}, write("display")])).is_ok());
    let twice = json!([{"op": "add", "path": "emails", "value": many}, write("display"), write("type")]);
    assert_eq!(kind(patched(twice)), "tooMany");
}

#[test]
fn what_no_attribute_knows_is_not_written_into_each_of_many_values() {
    let mut operations = vec![json!({"op": "add", "path": "emails", "value": emails(500)})];
    for number in 0..60 {
        let value = json!({(format!("k{number}")): "x".repeat(8_000), "DISPLAY": "d"});
        let path = if number % 2 == 0 { "emails[value pr]" } else { "emails[value co \"@\"]" };
        operations.push(json!({"op": "add", "path": path, "value": value}));
    }
    let sent = json!({"schemas": [schema::PATCH], "Operations": operations});
    let operations = read(sent.as_object().unwrap(), Type::User).unwrap();
    let mut document = Map::new();
    apply(&mut document, operations, Type::User, &mut Budget::default()).unwrap();
    let bytes = Value::Object(document).to_string().len();
    assert!(bytes < 500 * 100, "{bytes}");
    // What is known is written in its own case, once.
    let home = |value: Value| json!([{"op": "replace", "path": "emails[type eq \"home\"]", "value": value}]);
    let work = json!({"value": "jane@example.com", "type": "work", "primary": true});
    let written = json!({"value": "n@x", "type": "home"});
    assert_eq!(patched(home(json!({"VALUE": "n@x", "shoe": 43}))), Ok(with(json!({"/emails": [work, written]}))));
    assert_eq!(kind(patched(home(json!({"VALUE": "n@x", "value": "m@x"})))), "invalidSyntax");
    for nested in [json!({"display": [[], [], []]}), json!({"display": {"a": "b"}})] {
        assert_eq!(kind(patched(home(nested))), "invalidValue");
    }
    let named = |key: &str| json!([{"op": "replace", "path": "name", "value": {(key): "J", "shoe": 43}}]);
    assert_eq!(patched(named("GIVENNAME")), Ok(with(json!({"/name/givenName": "J"}))));
}

#[test]
fn values_are_looked_for_so_often_in_one_request() {
    let remove = |filter: &str| json!({"op": "remove", "path": format!("emails[{filter}]")});
    assert!(patched(json!(vec![remove("type eq \"other\""); FILTERED_MAX])).is_ok());
    assert_eq!(kind(patched(json!(vec![remove("type eq \"other\""); FILTERED_MAX + 1]))), "tooMany");
    // The longest filter once on as many values as there may be, and no more.
    let widest = remove(&vec!["display sw \"x\""; 128].join(" or "));
    let add = json!({"op": "add", "path": "emails", "value": emails(498)});
    assert!(patched(json!([add, widest])).is_ok());
    assert_eq!(kind(patched(json!([add, widest, widest]))), "tooMany");
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<i32>().prop_map(Value::from),
        "[a-z]{0,5}".prop_map(Value::from)
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        let keys = prop::sample::select(vec!["value", "type", "primary", "name", "emails", "active", "id"]);
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            proptest::collection::vec((keys, inner), 0..4).prop_map(|members| members.into_iter().collect()),
        ]
    })
}

proptest! {
    #[test]
    fn nothing_breaks_it_and_what_comes_out_is_plain(
        operations in proptest::collection::vec((
            prop::sample::select(vec!["add", "replace", "remove"]),
            prop::sample::select(vec!["emails", "name", "emails.value", "emails[type eq \"work\"]",
                "emails[primary eq true].value",
                "active", "name.givenName", "addresses[type pr].primary", schema::ENTERPRISE]),
            any_value(),
        ), 1..6)
    ) {
        let operations: Vec<Value> =
            operations.into_iter().map(|(op, path, value)| json!({"op": op, "path": path, "value": value})).collect();
        if let Ok(read) = patched(Value::Array(operations)) {
            let again = document::read(read.as_object().unwrap(), Type::User).unwrap();
            prop_assert_eq!(Value::Object(again), read, "reading it again changes nothing");
        }
    }
}
