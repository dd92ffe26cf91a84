//! Numbers for tools, the same for those that no statement can tell apart: what is settled of one is settled of all.
//!
//! Called by `Engine` when it is made. Two tools are alike when they and their actions are the same entities but for
//! their names and for attributes that nobody asks for, and no statement they meet (`slices.rs`) names one of them. One
//! in the place of the other then changes no answer: Cedar compares entities, looks at what they are in and reads
//! attributes, but makes no text of an entity's name. It may say one when a statement fails, so `settled.rs` keeps no
//! such verdict.
//!
//! What statements name and ask for is taken from their words, that is all texts in their syntax trees, whatever they
//! mean there. So what is misunderstood makes tools differ that are alike, never the reverse.
//! INVARIANT: only a statement's text brings a tool or its action into a question that is about another: no attribute,
//! context or group holds one. A test here looks at the schema.

use std::collections::{HashMap, HashSet};

use cedar_policy::{Entity, EntityUid, Policy};
use serde_json::Value;

use super::{entities::ToolEntities, slices, text_of};

/// Learns all statements about tools, then numbers tools.
#[derive(Default)]
pub(super) struct Alike<'a> {
    /// By what the statements' scope names.
    words: HashMap<Option<EntityUid>, HashSet<&'a str>>,
    /// By all that can tell tools apart.
    numbers: HashMap<String, u32>,
}

impl<'a> Alike<'a> {
    pub(super) fn learn(&mut self, statement: &Policy, words: &'a [String]) {
        for object in slices::objects(statement) {
            self.words.entry(object).or_default().extend(words.iter().map(String::as_str));
        }
    }

    /// `objects` are what a scope can name the tool by.
    pub(super) fn number(&mut self, tool: &ToolEntities, objects: &[EntityUid]) -> Result<u32, String> {
        let objects = objects.iter().cloned().map(Some).chain([None]);
        let met: Vec<_> = objects.filter_map(|object| self.words.get(&object)).collect();
        let is_said = |word: &str| met.iter().any(|words| words.contains(word));
        let seen = Value::from(vec![seen_of(&tool.tool, is_said)?, seen_of(&tool.action, is_said)?]).to_string();
        let next = u32::try_from(self.numbers.len()).map_err(text_of)?;
        Ok(*self.numbers.entry(seen).or_insert(next))
    }
}

/// What statements that say these words can see of an entity.
fn seen_of(entity: &Entity, is_said: impl Fn(&str) -> bool) -> Result<Value, String> {
    let mut seen = entity.to_json_value().map_err(text_of)?;
    if let Some(attributes) = seen.get_mut("attrs").and_then(Value::as_object_mut) {
        attributes.retain(|name, _| is_said(name));
    }
    if let Some(parts) = seen.as_object_mut().filter(|_| !is_said(entity.uid().id().unescaped())) {
        parts.remove("uid");
    }
    Ok(seen)
}

/// The words of a statement, from its syntax tree; those of its annotations decide nothing.
pub(crate) fn words(syntax: &Value) -> Vec<String> {
    let mut words = HashSet::new();
    let parts = syntax.as_object().into_iter().flatten().filter(|(name, _)| *name != "annotations");
    parts.for_each(|(_, part)| find_words(part, &mut words));
    words.into_iter().map(str::to_owned).collect()
}

fn find_words<'a>(syntax: &'a Value, words: &mut HashSet<&'a str>) {
    match syntax {
        Value::String(word) => drop(words.insert(word)),
        Value::Array(items) => items.iter().for_each(|item| find_words(item, words)),
        Value::Object(members) => members.iter().for_each(|(name, member)| {
            words.insert(name);
            find_words(member, words);
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::*;
    use crate::schema::{ACTION, Kind, TOOL, schema};

    /// The tool asked about is the resource, its action the action: everything else would need more than words.
    #[test]
    fn nothing_but_the_request_and_statements_speaks_of_tools_and_actions() {
        let mut schema = schema(&BTreeSet::new(), &Kind::ALL);
        for action in schema[""]["actions"].as_object_mut().unwrap().values_mut() {
            action["appliesTo"]["resourceTypes"] = json!([]);
        }
        for part in [schema[""]["entityTypes"].clone(), schema[""]["actions"].clone()] {
            for (name, declared) in part.as_object().unwrap() {
                let mut words = HashSet::new();
                find_words(declared, &mut words);
                assert!(!words.contains(TOOL) && !words.contains(ACTION), "{name}: {words:?}");
            }
        }
    }
}
