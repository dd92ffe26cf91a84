//! What a directory writes of a person, read by the table of attributes (RFC 7643 §2): names in their own case, values
//! of their types, nothing that is not in the table.
//!
//! Called for whole resources and after each PATCH. Invariants: what is read-only is passed over, as RFC 7644 §3.5.1
//! wants it; a password is looked at and dropped; what comes out has texts, truth values, lists and objects alone.

use bailiwick_control_plane_core::provisioning::wish::PersonWritten;
use serde_json::{Map, Value};

use super::{
    fault::Fault,
    filter::member,
    schema::{Attribute, Kind, Mutability, Type},
};

/// What is written, in the order and the case of the table.
///
/// # Errors
/// A value is of another type than its attribute, or an attribute is there twice.
pub(super) fn read(sent: &Map<String, Value>, of: Type) -> Result<Map<String, Value>, Fault> {
    let mut read = attributes(sent, of.attributes())?;
    let external_id = match member(sent, "externalId") {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => Some(text.clone()),
        Some(_) => return Err(Fault::value("externalId must be a text")),
    };
    read.extend(external_id.map(|id| ("externalId".to_owned(), Value::String(id))));
    let Some((schema, extension)) = of.extension() else { return Ok(read) };
    match member(sent, schema) {
        None | Some(Value::Null) => {}
        Some(Value::Object(sent)) => {
            let extended = attributes(sent, extension)?;
            if !extended.is_empty() {
                read.insert(schema.to_owned(), Value::Object(extended));
            }
        }
        Some(_) => return Err(Fault::value(format!("{schema} must be an object"))),
    }
    Ok(read)
}

/// That a resource says what it is.
///
/// # Errors
/// Its `schemas` do not.
pub(super) fn check_schemas(sent: &Map<String, Value>, wanted: &str) -> Result<(), Fault> {
    let Some(Value::Array(schemas)) = member(sent, "schemas") else {
        return Err(Fault::syntax(format!("`schemas` must list {wanted}")));
    };
    let is_it = |one: &Value| one.as_str().is_some_and(|one| one.eq_ignore_ascii_case(wanted));
    if schemas.iter().any(is_it) { Ok(()) } else { Err(Fault::syntax(format!("`schemas` must list {wanted}"))) }
}

/// The value of one attribute of those that were sent.
///
/// # Errors
/// It is of another type.
pub(super) fn read_attribute(sent: &Map<String, Value>, attribute: &'static Attribute) -> Result<Option<Value>, Fault> {
    let read = attributes(sent, std::slice::from_ref(attribute))?;
    Ok(read.into_iter().next().map(|(_, value)| value))
}

fn attributes(sent: &Map<String, Value>, known: &'static [Attribute]) -> Result<Map<String, Value>, Fault> {
    let mut read = Map::new();
    for attribute in known.iter().filter(|attribute| attribute.mutability != Mutability::ReadOnly) {
        let mut named = sent.iter().filter(|(key, _)| key.eq_ignore_ascii_case(attribute.name));
        let Some((_, value)) = named.next() else { continue };
        if named.next().is_some() {
            return Err(Fault::syntax(format!("{} is there twice", attribute.name)));
        }
        let value = if attribute.multi { several(value, attribute)? } else { one(value, attribute)? };
        if attribute.mutability != Mutability::WriteOnly {
            read.extend(value.map(|value| (attribute.name.to_owned(), value)));
        }
    }
    Ok(read)
}

fn several(value: &Value, attribute: &'static Attribute) -> Result<Option<Value>, Fault> {
    let values = match value {
        Value::Null => return Ok(None),
        Value::Array(values) => values.iter().map(|value| one(value, attribute)).collect::<Result<Vec<_>, _>>()?,
        single => vec![one(single, attribute)?],
    };
    let values: Vec<Value> = values.into_iter().flatten().collect();
    if values.iter().filter(|value| value.get("primary") == Some(&Value::Bool(true))).count() > 1 {
        return Err(Fault::value(format!("at most one of {} is primary", attribute.name)));
    }
    Ok((!values.is_empty()).then_some(Value::Array(values)))
}

fn one(value: &Value, attribute: &'static Attribute) -> Result<Option<Value>, Fault> {
    let wrong = |what: &str| Err(Fault::value(format!("{} must be {what}", attribute.name)));
    match (attribute.kind, value) {
        (_, Value::Null) => Ok(None),
        (Kind::Text | Kind::Reference, Value::String(_)) | (Kind::Flag, Value::Bool(_)) => Ok(Some(value.clone())),
        (Kind::Text | Kind::Reference, _) => wrong("a text"),
        // Entra ID writes "False".
        (Kind::Flag, Value::String(text)) if text.eq_ignore_ascii_case("true") => Ok(Some(Value::Bool(true))),
        (Kind::Flag, Value::String(text)) if text.eq_ignore_ascii_case("false") => Ok(Some(Value::Bool(false))),
        (Kind::Flag, _) => wrong("true or false"),
        (Kind::Complex, Value::Object(members)) => {
            let parts = attributes(members, attribute.sub)?;
            Ok((!parts.is_empty()).then_some(Value::Object(parts)))
        }
        // Some write a manager or a role as its value alone.
        (Kind::Complex, Value::String(text)) if attribute.part("value").is_some() => {
            Ok((!text.is_empty()).then(|| Value::Object(Map::from_iter([("value".to_owned(), text.clone().into())]))))
        }
        (Kind::Complex, _) => wrong("an object"),
    }
}

/// A person as the domain takes them; `active` where nothing is said of that.
///
/// # Errors
/// There is no name.
pub(super) fn person(mut read: Map<String, Value>, active: bool) -> Result<PersonWritten, Fault> {
    let mut text = |name: &str| match read.remove(name) {
        Some(Value::String(text)) => Some(text),
        Some(_) | None => None,
    };
    let user_name = text("userName").filter(|name| !name.is_empty());
    let user_name = user_name.ok_or_else(|| Fault::value("userName is missing"))?;
    let external_id = text("externalId").unwrap_or_default();
    let active = read.remove("active").and_then(|value| value.as_bool()).unwrap_or(active);
    let profile = Value::Object(read).to_string();
    Ok(PersonWritten { user_name, external_id, active, profile })
}

/// The other way round: what was written of a person.
pub(super) fn written(user_name: &str, external_id: &str, active: bool, profile: &str) -> Map<String, Value> {
    let mut document = match serde_json::from_str(profile) {
        Ok(Value::Object(document)) => document,
        Ok(_) | Err(_) => Map::new(),
    };
    document.insert("userName".to_owned(), user_name.into());
    document.insert("active".to_owned(), active.into());
    if !external_id.is_empty() {
        document.insert("externalId".to_owned(), external_id.into());
    }
    document
}

/// The schemas that a resource has values of.
pub(super) fn schemas(document: &Map<String, Value>, of: Type) -> Vec<&'static str> {
    let extension = of.extension().map(|(schema, _)| schema).filter(|schema| document.contains_key(*schema));
    [of.schema()].into_iter().chain(extension).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::schema, *};

    fn read_user(value: Value) -> Result<Value, Fault> {
        read(value.as_object().unwrap(), Type::User).map(Value::Object)
    }

    #[test]
    fn names_have_one_case_and_what_is_not_known_or_not_to_be_written_is_not_there() {
        let sent = json!({"USERNAME": "j", "ID": "x", "groups": [{"value": "g"}], "password": "secret", "shoe": 43,
            "Emails": [{"Value": "a@b", "PRIMARY": "True"}, null, {}], "active": "False", "title": null, "name": {}});
        let expected = json!({"userName": "j", "emails": [{"value": "a@b", "primary": true}], "active": false});
        assert_eq!(read_user(sent).unwrap(), expected);
        let manager = json!({(schema::ENTERPRISE): {"manager": "m", "department": "d", "displayName": "x"}});
        let expected = json!({(schema::ENTERPRISE): {"manager": {"value": "m"}, "department": "d"}});
        assert_eq!(read_user(manager).unwrap(), expected);
    }

    #[test]
    fn values_of_other_types_are_refused() {
        for bad in [
            json!({"userName": 7}),
            json!({"userName": ["a"]}),
            json!({"active": "maybe"}),
            json!({"name": "Jane"}),
            json!({"emails": "7", "EMAILS": []}),
            json!({"emails": [[]]}),
            json!({"emails": [{"value": {"a": "b"}}]}),
            json!({"emails": [{"value": "a", "primary": true}, {"value": "b", "primary": true}]}),
            json!({"userName": "a", "username": "b"}),
            json!({"password": {"a": 1}}),
            json!({"externalId": 7}),
            json!({(schema::ENTERPRISE): "x"}),
        ] {
            assert!(read_user(bad.clone()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_person_keeps_no_password_and_comes_back_as_written() {
        let read =
            read_user(json!({"userName": "j", "externalId": "e", "password": "secret", "title": "CFO"})).unwrap();
        let person = person(read.as_object().unwrap().clone(), true).unwrap();
        assert_eq!(
            (person.user_name.as_str(), person.active, person.profile.as_str()),
            ("j", true, r#"{"title":"CFO"}"#)
        );
        let again = written(&person.user_name, &person.external_id, person.active, &person.profile);
        assert_eq!(Value::Object(again), json!({"userName": "j", "externalId": "e", "active": true, "title": "CFO"}));
    }
}
