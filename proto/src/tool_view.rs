//! Which arguments of a tool a view may fix, so that clients neither see nor send them.
//!
//! Asked by the control plane when a view is applied, and by data planes when they compile one: a schema that clients
//! are shown without some of its parameters must still say just what it said of the others. So only parameters that
//! stand in the schema's own `properties` can be fixed, and only where no keyword beside them, and no reference, could
//! demand, forbid or reuse them. Absent: whether a value fits its schema (`control-plane/core`), and writing the schema
//! that is shown (`data-plane/core`).

use serde_json::{Map, Value};

/// Keywords beside `properties` by which a schema can speak of its parameters, so that leaving one out could leave
/// something behind that no client can fulfil.
const ENTANGLING: [&str; 17] = [
    "$dynamicRef",
    "$recursiveRef",
    "$ref",
    "allOf",
    "anyOf",
    "dependencies",
    "dependentRequired",
    "dependentSchemas",
    "else",
    "if",
    "maxProperties",
    "minProperties",
    "not",
    "oneOf",
    "propertyNames",
    "then",
    "unevaluatedProperties",
];

/// Keywords that refer to another part of the schema.
const REFERENCES: [&str; 3] = ["$ref", "$dynamicRef", "$recursiveRef"];
/// Keywords that give a part of the schema a name to refer to.
const ANCHORS: [&str; 4] = ["$id", "$anchor", "$dynamicAnchor", "$recursiveAnchor"];

/// Why a parameter cannot be fixed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfixable {
    /// The tool takes no such argument.
    #[error("the tool has no parameter \"{0}\"")]
    Unknown(String),
    /// Its schema speaks of its parameters otherwise than by listing them.
    #[error("the tool's input schema says more of its parameters by `{0}`, so none can be left out of it")]
    Entangled(&'static str),
    /// Another part of its schema refers to the parameter.
    #[error("another part of the tool's input schema refers to the parameter \"{0}\"")]
    Referred(String),
}

/// Whether all of these parameters can be fixed under this input schema.
///
/// # Errors
/// The first that cannot.
pub fn fixable<'n>(input_schema: &Value, names: impl IntoIterator<Item = &'n str>) -> Result<(), Unfixable> {
    let none = Map::new();
    let schema = input_schema.as_object().unwrap_or(&none);
    let properties = schema.get("properties").and_then(Value::as_object).unwrap_or(&none);
    for name in names {
        let unknown = || Unfixable::Unknown(name.to_owned());
        let parameter = properties.get(name).ok_or_else(unknown)?;
        if let Some(keyword) = ENTANGLING.into_iter().find(|keyword| schema.contains_key(*keyword)) {
            return Err(Unfixable::Entangled(keyword));
        }
        let place = format!("#/properties/{}", name.replace('~', "~0").replace('/', "~1"));
        if refers(input_schema, &place) || mentions(parameter, &|key, _| ANCHORS.contains(&key)) {
            return Err(Unfixable::Referred(name.to_owned()));
        }
    }
    Ok(())
}

/// Whether anything refers to this place, to something in it, or to the whole.
fn refers(schema: &Value, place: &str) -> bool {
    mentions(schema, &|key, value| {
        value.as_str().filter(|_| REFERENCES.contains(&key)).is_some_and(|target| {
            let rest = target.strip_prefix(place);
            let is_place = rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
            // One that is written with escapes may be any.
            is_place || ["#", "#/properties"].contains(&target) || target.contains('%')
        })
    })
}

/// Whether a member anywhere in a value is as asked for. Recursion is bounded by the depth that JSON is read with.
fn mentions(value: &Value, is_it: &impl Fn(&str, &Value) -> bool) -> bool {
    match value {
        Value::Object(members) => members.iter().any(|(key, value)| is_it(key, value) || mentions(value, is_it)),
        Value::Array(items) => items.iter().any(|item| mentions(item, is_it)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_parameters_that_nothing_else_speaks_of_can_be_fixed() {
        let region = json!({"type": "string"});
        let unknown = || Err(Unfixable::Unknown("region".into()));
        let referred = || Err(Unfixable::Referred("region".into()));
        for (schema, expected) in [
            (json!({"properties": {"region": region, "year": {}}, "required": ["region"]}), Ok(())),
            (json!({"properties": {"region": region, "a": {"$ref": "#/$defs/a"}}, "$defs": {"a": {}}}), Ok(())),
            (json!({"properties": {"region": region, "a": {"$ref": "#/properties/regional"}}}), Ok(())),
            (json!({"properties": {"year": {}}}), unknown()),
            (json!({"additionalProperties": true}), unknown()),
            (json!(true), unknown()),
            (
                json!({"properties": {"region": region}, "anyOf": [{"required": ["region"]}]}),
                Err(Unfixable::Entangled("anyOf")),
            ),
            (json!({"properties": {"region": region}, "minProperties": 1}), Err(Unfixable::Entangled("minProperties"))),
            (json!({"properties": {"region": region, "a": {"$ref": "#/properties/region"}}}), referred()),
            (json!({"properties": {"region": {"items": {}}, "a": {"$ref": "#/properties/region/items"}}}), referred()),
            (json!({"properties": {"region": region, "a": {"items": {"$ref": "#"}}}}), referred()),
            (json!({"properties": {"region": region, "a": {"$ref": "#/properties/regio%6E"}}}), referred()),
            (json!({"properties": {"region": {"$anchor": "r"}, "a": {"$ref": "#r"}}}), referred()),
        ] {
            assert_eq!(fixable(&schema, ["region"]), expected, "{schema}");
        }
        assert_eq!(fixable(&json!({"properties": {"a": {}, "b": {}}}), ["a", "b"]), Ok(()));
        let entangled = json!({"properties": {"a": {}}, "oneOf": []});
        assert_eq!(fixable(&entangled, []), Ok(()), "a schema is only asked where something is fixed");
    }

    #[test]
    fn names_with_special_characters_are_found_in_references() {
        let schema = json!({"properties": {"a/b~c": {}, "d": {"$ref": "#/properties/a~1b~0c"}}});
        assert_eq!(fixable(&schema, ["a/b~c"]), Err(Unfixable::Referred("a/b~c".into())));
    }
}
