//! Schemas of a document as JSON Schema 2020-12, for the input of a tool.
//!
//! What a schema refers to goes into the tool's `$defs`, once, so cycles stay references and nothing is multiplied. Of
//! OpenAPI 3.0's dialect, `nullable` and boolean bounds are translated. Words that are not JSON Schema's (examples,
//! `xml`, `x-…`, so also `x-mcp-header`) are dropped, and what is `readOnly`, for it is nothing that is sent.
//! Specification: OpenAPI 3.0.4, "Schema Object"; JSON Schema 2020-12.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::document::Document;

/// Values in all schemas of one tool; those of real operations have some hundred.
pub(super) const NODES_MAX: usize = 10_000;
/// Words whose value is kept as it is.
const PLAIN: [&str; 27] = [
    "title",
    "description",
    "type",
    "enum",
    "const",
    "format",
    "pattern",
    "default",
    "multipleOf",
    "maximum",
    "minimum",
    "exclusiveMaximum",
    "exclusiveMinimum",
    "maxLength",
    "minLength",
    "maxItems",
    "minItems",
    "uniqueItems",
    "maxProperties",
    "minProperties",
    "required",
    "deprecated",
    "contentEncoding",
    "contentMediaType",
    "minContains",
    "maxContains",
    "dependentRequired",
];
/// Words whose value is a schema.
const ONE: [&str; 10] = [
    "items",
    "additionalProperties",
    "not",
    "contains",
    "propertyNames",
    "if",
    "then",
    "else",
    "unevaluatedItems",
    "unevaluatedProperties",
];
/// Words whose value is a list of schemas.
const SEVERAL: [&str; 4] = ["allOf", "anyOf", "oneOf", "prefixItems"];
/// Words whose value is schemas by name.
const NAMED: [&str; 3] = ["properties", "patternProperties", "dependentSchemas"];

/// Translates the schemas of one operation.
#[derive(Debug)]
pub(super) struct Schemas<'d> {
    document: &'d Document,
    /// By reference: the name in `$defs`, and the schema once it is translated.
    definitions: BTreeMap<String, (String, Option<Value>)>,
    /// References that are still to be translated: a list, for they may follow each other without end.
    pending: Vec<String>,
    nodes: usize,
}

impl<'d> Schemas<'d> {
    pub(super) fn new(document: &'d Document) -> Self {
        Self { document, definitions: BTreeMap::new(), pending: Vec::new(), nodes: 0 }
    }

    /// One schema.
    ///
    /// # Errors
    /// Why it cannot be one of a tool's.
    pub(super) fn translate(&mut self, schema: &Value) -> Result<Value, &'static str> {
        self.nodes += 1;
        if self.nodes > NODES_MAX {
            return Err("its schemas are too large");
        }
        let Value::Object(members) = schema else {
            return if schema.is_boolean() { Ok(schema.clone()) } else { Err("a schema is no object") };
        };
        let mut translated = Map::new();
        if let Some(reference) = members.get("$ref") {
            let name = self.define(reference.as_str().ok_or("a reference is no text")?)?;
            translated.insert("$ref".to_owned(), json!(format!("#/$defs/{name}")));
            if self.document.is_3_0 {
                // Nothing beside a reference counts there.
                return Ok(Value::Object(translated));
            }
        }
        for (word, value) in members {
            if let Some(value) = self.word(word, value)? {
                translated.insert(word.clone(), value);
            }
        }
        without_read_only(members, &mut translated, self.document);
        if self.document.is_3_0 { Ok(modernised(members, translated)) } else { Ok(Value::Object(translated)) }
    }

    fn word(&mut self, word: &str, value: &Value) -> Result<Option<Value>, &'static str> {
        if PLAIN.contains(&word) {
            return Ok(Some(value.clone()));
        }
        if ONE.contains(&word) {
            return self.translate(value).map(Some);
        }
        if SEVERAL.contains(&word) {
            let all = value.as_array().ok_or("a schema's alternatives are no list")?;
            let all: Result<Vec<Value>, _> = all.iter().map(|one| self.translate(one)).collect();
            return all.map(|all| Some(Value::Array(all)));
        }
        if NAMED.contains(&word) {
            let all = value.as_object().ok_or("a schema's properties are no object")?;
            let one = |(name, schema): (&String, &Value)| Ok((name.clone(), self.translate(schema)?));
            let all: Result<Map<String, Value>, &'static str> = all.iter().map(one).collect();
            return all.map(|all| Some(Value::Object(all)));
        }
        Ok(None)
    }

    /// The name in `$defs` of what is referred to.
    fn define(&mut self, reference: &str) -> Result<String, &'static str> {
        if let Some((name, _)) = self.definitions.get(reference) {
            return Ok(name.clone());
        }
        // Also tells whether it is there at all.
        self.document.at(reference)?;
        let name = self.free_name(reference);
        self.definitions.insert(reference.to_owned(), (name.clone(), None));
        self.pending.push(reference.to_owned());
        Ok(name)
    }

    fn free_name(&self, reference: &str) -> String {
        let last = reference.rsplit('/').next().unwrap_or_default();
        let fit = |c: char| if c.is_ascii_alphanumeric() || c == '_' || c == '-' { c } else { '_' };
        let wanted: String = last.chars().map(fit).take(64).collect();
        let is_taken = |name: &str| self.definitions.values().any(|(taken, _)| taken == name);
        let numbered = (2..).map(|number| format!("{wanted}-{number}"));
        std::iter::once(wanted.clone()).chain(numbered).find(|name| !is_taken(name)).unwrap_or(wanted)
    }

    /// Everything that was referred to, by name.
    ///
    /// # Errors
    /// Why one of them cannot be one of a tool's.
    pub(super) fn definitions(&mut self) -> Result<Map<String, Value>, &'static str> {
        while let Some(reference) = self.pending.pop() {
            let translated = self.translate(self.document.at(&reference)?)?;
            if let Some((_, schema)) = self.definitions.get_mut(&reference) {
                *schema = Some(translated);
            }
        }
        let all = std::mem::take(&mut self.definitions).into_values();
        Ok(all.filter_map(|(name, schema)| Some((name, schema?))).collect())
    }

    /// How many values were translated.
    pub(super) fn nodes(&self) -> usize {
        self.nodes
    }
}

/// Drops properties that only ever come from the API.
fn without_read_only(members: &Map<String, Value>, translated: &mut Map<String, Value>, document: &Document) {
    let properties = members.get("properties").and_then(Value::as_object);
    let read_only: Vec<&String> = properties
        .into_iter()
        .flatten()
        .filter(|(_, schema)| {
            let said = document.resolve(schema).ok().and_then(|schema| schema.get("readOnly"));
            said.or_else(|| schema.get("readOnly")).and_then(Value::as_bool) == Some(true)
        })
        .map(|(name, _)| name)
        .collect();
    if read_only.is_empty() {
        return;
    }
    if let Some(Value::Object(properties)) = translated.get_mut("properties") {
        properties.retain(|name, _| !read_only.contains(&name));
    }
    if let Some(Value::Array(required)) = translated.get_mut("required") {
        required.retain(|name| !read_only.iter().any(|gone| name.as_str() == Some(gone.as_str())));
    }
}

/// OpenAPI 3.0's own words as JSON Schema's.
fn modernised(members: &Map<String, Value>, mut translated: Map<String, Value>) -> Value {
    for (bound, exclusive) in [("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")] {
        if let Some(Value::Bool(is_exclusive)) = translated.remove(exclusive)
            && is_exclusive
            && let Some(limit) = translated.remove(bound)
        {
            translated.insert(exclusive.to_owned(), limit);
        }
    }
    if members.get("nullable").and_then(Value::as_bool) != Some(true) {
        return Value::Object(translated);
    }
    match translated.get_mut("type") {
        Some(kind @ Value::String(_)) => {
            *kind = json!([kind.clone(), "null"]);
            if let Some(Value::Array(values)) = translated.get_mut("enum")
                && !values.contains(&Value::Null)
            {
                values.push(Value::Null);
            }
            Value::Object(translated)
        }
        _ => json!({"anyOf": [translated, {"type": "null"}]}),
    }
}
