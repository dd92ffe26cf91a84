//! Does what a policy names exist, and is it asked only what can be answered?
//!
//! Called by validation only: a name that disappears later makes a policy match less, never more.
//! Groups and projects come into being when they are named, so any name will do for them.
//!
//! A request knows the caller, the agent and the agent's owner, and nobody else. What a policy asks about another
//! person or agent by name (`User::"bob" in Group::"staff"`) would be answered "no" without being known, so it is
//! refused here. Comparing with a name (`principal == User::"bob"`) is fine.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::{
    catalogue::Universe,
    schema::{self, ACTION, AGENT, SERVER, TOOL, USER},
    text::{PolicyProblem, PolicyText},
};

/// An entity written out in a policy: `User::"bob"` has kind `User` and id `bob`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Literal {
    pub(crate) kind: String,
    pub(crate) id: String,
}

/// The members of a JSON syntax tree whose `left` side is asked for what it is in or what it has.
const QUESTIONS: [&str; 6] = ["in", "is", ".", "has", "getTag", "hasTag"];

/// A problem for each literal that names nothing. `tools` are the names of tools in policies.
pub(crate) fn unknown_names(
    text: &PolicyText,
    literals: &BTreeSet<Literal>,
    tools: &BTreeSet<String>,
    universe: &dyn Universe,
) -> Vec<PolicyProblem> {
    let exists = |literal: &Literal| match literal.kind.as_str() {
        USER => universe.has_user(&literal.id),
        AGENT => universe.has_agent(&literal.id),
        SERVER => universe.has_server(&literal.id),
        TOOL => tools.contains(&literal.id),
        ACTION => schema::is_own_action(&literal.id) || tools.contains(&literal.id),
        _ => true,
    };
    let unknown = literals.iter().filter(|literal| !exists(literal));
    unknown.map(|literal| text.problem(line_of(text, literal), unknown_message(literal))).collect()
}

/// A problem for each person or agent, named by literal, of whom something is asked that a request cannot tell.
/// `syntax` is a statement as JSON.
pub(crate) fn unanswerable(text: &PolicyText, syntax: &Value) -> Vec<PolicyProblem> {
    let mut asked = BTreeSet::new();
    find_asked(syntax.get("conditions").unwrap_or(&Value::Null), false, &mut asked);
    let message = |literal: &Literal| {
        format!(
            "`{}::\"{}\"` can only be compared with `==`: about others than the caller, its agent and that agent's owner nothing is known",
            literal.kind, literal.id
        )
    };
    asked.iter().map(|literal| text.problem(line_of(text, literal), message(literal))).collect()
}

fn find_asked(syntax: &Value, inside_question: bool, asked: &mut BTreeSet<Literal>) {
    match syntax {
        Value::Array(items) => items.iter().for_each(|item| find_asked(item, inside_question, asked)),
        Value::Object(members) => {
            if let Some(literal) = members.get("__entity").filter(|_| inside_question).and_then(person_or_agent) {
                asked.insert(literal);
            }
            for (name, member) in members {
                match member.get("left").filter(|_| QUESTIONS.contains(&name.as_str())) {
                    Some(left) => {
                        find_asked(left, true, asked);
                        let rest = ["right", "in"].iter().filter_map(|side| member.get(*side));
                        rest.for_each(|side| find_asked(side, inside_question, asked));
                    }
                    None => find_asked(member, inside_question, asked),
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn person_or_agent(entity: &Value) -> Option<Literal> {
    let kind = entity.get("type")?.as_str().filter(|kind| [USER, AGENT].contains(kind))?;
    Some(Literal { kind: kind.to_owned(), id: entity.get("id")?.as_str()?.to_owned() })
}

/// The line is found by the usual way of writing; Cedar also allows escapes, for which only the problem is told.
fn line_of(text: &PolicyText, literal: &Literal) -> Option<u32> {
    text.line_of(&format!("{}::\"{}\"", literal.kind, literal.id))
        .or_else(|| text.line_of(&format!("\"{}\"", literal.id)))
}

fn unknown_message(literal: &Literal) -> String {
    let Literal { kind, id } = literal;
    match kind.as_str() {
        TOOL | ACTION => {
            format!("`{kind}::\"{id}\"` does not exist: tools are named `server__tool`, as pinned at registration")
        }
        _ => format!("`{kind}::\"{id}\"` does not exist"),
    }
}
