//! One document to one typed resource, or everything that is wrong with it.
//!
//! Called by `manifest::parse` with a tree from `yaml`. Types and keys are those of `resource` (serde, unknown keys
//! denied); after a wrong key the rest is read again without it, so that one mistake does not hide the next. Values are
//! checked by `Spec::faults`. A `status` is accepted and ignored, so what `get` printed can be applied.

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use serde_path_to_error::Segment;

use super::{Manifest, Source, suggest, yaml::Document};
use crate::{
    Kind, Spec,
    problem::{PROBLEMS_MAX, Problem},
    resource::{API_VERSION, SPEC_BYTES_MAX, name_fault},
};

const KEYS: [&str; 5] = ["apiVersion", "kind", "metadata", "spec", "status"];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Metadata {
    name: String,
}

/// Reads a document.
pub(super) fn read(document: Document) -> Result<Manifest, Vec<Problem>> {
    let Document { value, source } = document;
    let Value::Object(mut fields) = value else {
        return Err(vec![source.problem("", "a manifest must be a mapping with apiVersion, kind, metadata and spec")]);
    };
    let mut problems = Vec::new();
    for key in fields.keys().filter(|key| !KEYS.contains(&key.as_str())) {
        problems.push(source.problem(key, unknown_key(key, &KEYS)));
    }
    check_api_version(&fields, &source, &mut problems);
    let kind = read_kind(&fields, &source, &mut problems);
    let name = read_name(&mut fields, kind, &source, &mut problems);
    let spec = kind.and_then(|kind| read_spec(kind, &mut fields, &source, &mut problems));
    match (name, spec) {
        (Some(name), Some(spec)) if problems.is_empty() => Ok(Manifest { name, spec, source, read: None }),
        _ => {
            problems.sort_by_key(|problem| problem.line);
            Err(problems)
        }
    }
}

fn check_api_version(fields: &Map<String, Value>, source: &Source, problems: &mut Vec<Problem>) {
    match fields.get("apiVersion").map(Value::as_str) {
        Some(Some(API_VERSION)) => {}
        Some(_) => problems.push(source.problem("apiVersion", format!("must be \"{API_VERSION}\""))),
        None => problems.push(source.problem("apiVersion", format!("missing; write apiVersion: {API_VERSION}"))),
    }
}

fn read_kind(fields: &Map<String, Value>, source: &Source, problems: &mut Vec<Problem>) -> Option<Kind> {
    let kinds = || Kind::ALL.iter().filter(|kind| kind.can_be_applied()).map(|kind| kind.as_str());
    let problem = match fields.get("kind") {
        Some(Value::String(word)) => match Kind::ALL.into_iter().find(|kind| kind.as_str() == word) {
            Some(kind) if kind.can_be_applied() => return Some(kind),
            Some(kind) => format!("{kind} cannot be applied: {}", comes_from(kind)),
            None => match suggest::nearest(word, kinds()) {
                Some(meant) => format!("unknown kind \"{word}\"; did you mean \"{meant}\"?"),
                None => format!("unknown kind \"{word}\"; use one of {}", kinds().collect::<Vec<_>>().join(", ")),
            },
        },
        Some(_) => format!("must be one of {}", kinds().collect::<Vec<_>>().join(", ")),
        None => format!("missing; use one of {}", kinds().collect::<Vec<_>>().join(", ")),
    };
    problems.push(source.problem("kind", problem));
    None
}

const fn comes_from(kind: Kind) -> &'static str {
    match kind {
        Kind::Group => "a group exists while a User names it",
        Kind::Project => "a project exists while an Agent names it",
        Kind::Consent => "a consent comes from issuing a token",
        Kind::Node => "a node registers itself",
        Kind::Server
        | Kind::VirtualServer
        | Kind::User
        | Kind::Agent
        | Kind::Policy
        | Kind::Client
        | Kind::IdentityProvider
        | Kind::DecisionClient => "it is written by people",
    }
}

fn read_name(
    fields: &mut Map<String, Value>,
    kind: Option<Kind>,
    source: &Source,
    problems: &mut Vec<Problem>,
) -> Option<String> {
    let Some(metadata) = fields.remove("metadata") else {
        problems.push(source.problem("metadata.name", "missing; write metadata: {name: …}"));
        return None;
    };
    let metadata: Metadata = read_part(metadata, "metadata", source, problems)?;
    if let Some(fault) = kind.and_then(|kind| name_fault(kind, &metadata.name)) {
        problems.push(source.problem(&fault.key, fault.message));
    }
    Some(metadata.name)
}

fn read_spec(
    kind: Kind,
    fields: &mut Map<String, Value>,
    source: &Source,
    problems: &mut Vec<Problem>,
) -> Option<Spec> {
    let value = match fields.remove("spec") {
        Some(value @ Value::Object(_)) => value,
        // A user or so needs no spec at all.
        None | Some(Value::Null) => Value::Object(Map::new()),
        Some(_) => {
            problems.push(source.problem("spec", "must be a mapping"));
            return None;
        }
    };
    let bytes = value.to_string().len();
    if bytes > SPEC_BYTES_MAX {
        let message = format!("{bytes} bytes as JSON; at most {SPEC_BYTES_MAX} are accepted: divide the resource");
        problems.push(source.problem("spec", message));
        return None;
    }
    let spec = match kind {
        Kind::Server => Spec::Server(read_part(value, "spec", source, problems)?),
        Kind::VirtualServer => Spec::VirtualServer(read_part(value, "spec", source, problems)?),
        Kind::User => Spec::User(read_part(value, "spec", source, problems)?),
        Kind::Agent => Spec::Agent(read_part(value, "spec", source, problems)?),
        Kind::Policy => Spec::Policy(read_part(value, "spec", source, problems)?),
        Kind::Client => Spec::Client(read_part(value, "spec", source, problems)?),
        Kind::IdentityProvider => Spec::IdentityProvider(read_part(value, "spec", source, problems)?),
        Kind::DecisionClient => Spec::DecisionClient(read_part(value, "spec", source, problems)?),
        Kind::Group | Kind::Project | Kind::Consent | Kind::Node => return None,
    };
    problems.extend(spec.faults().into_iter().map(|fault| source.problem(&fault.key, fault.message)));
    Some(spec)
}

/// Reads a typed part; a key that is wrong is reported and left out, and the rest is read again.
fn read_part<T: DeserializeOwned>(
    mut value: Value,
    prefix: &str,
    source: &Source,
    problems: &mut Vec<Problem>,
) -> Option<T> {
    let before = problems.len();
    while problems.len() < PROBLEMS_MAX {
        let error = match serde_path_to_error::deserialize::<_, T>(&value) {
            Ok(part) if problems.len() == before => return Some(part),
            Ok(_) => return None,
            Err(error) => error,
        };
        let said = error.inner().to_string();
        if let Some(missing) = said.strip_prefix("missing field ").and_then(|rest| quoted(rest).next()) {
            let key = join(prefix, error.path(), Some(missing));
            // Left out above, because it was wrong: that was reported.
            if problems.get(before..).is_some_and(|found| found.iter().all(|problem| problem.key != key)) {
                problems.push(source.problem(&key, "missing"));
            }
            return None;
        }
        problems.push(source.problem(&join(prefix, error.path(), None), explain(&said)));
        if !remove(&mut value, error.path()) {
            return None;
        }
    }
    None
}

fn join(prefix: &str, path: &serde_path_to_error::Path, last: Option<&str>) -> String {
    let mut key = prefix.to_owned();
    for segment in path {
        match segment {
            Segment::Seq { index } => key.push_str(&format!("[{index}]")),
            Segment::Map { key: name } | Segment::Enum { variant: name } => key.push_str(&format!(".{name}")),
            Segment::Unknown => {}
        }
    }
    if let Some(last) = last {
        key.push_str(&format!(".{last}"));
    }
    key
}

/// Takes the value at a path out of its mapping; false where it is in no mapping.
fn remove(value: &mut Value, path: &serde_path_to_error::Path) -> bool {
    let segments = path.iter().collect::<Vec<_>>();
    let Some((Segment::Map { key: last }, above)) = segments.split_last() else { return false };
    let mut at = value;
    for segment in above {
        let next = match segment {
            Segment::Map { key } => at.get_mut(key),
            Segment::Seq { index } => at.get_mut(index),
            Segment::Enum { .. } | Segment::Unknown => None,
        };
        match next {
            Some(next) => at = next,
            None => return false,
        }
    }
    at.as_object_mut().and_then(|fields| fields.remove(last)).is_some()
}

/// A sentence of serde in our words.
fn explain(said: &str) -> String {
    let (what, expected) = said.split_once(", expected ").unwrap_or((said, ""));
    let known = quoted(expected).collect::<Vec<_>>();
    if let Some(key) = what.strip_prefix("unknown field ").and_then(|rest| quoted(rest).next()) {
        return unknown_key(key, &known);
    }
    if let Some(word) = what.strip_prefix("unknown variant ").and_then(|rest| quoted(rest).next()) {
        return match suggest::nearest(word, known.iter().copied()) {
            Some(meant) => format!("unknown word \"{word}\"; did you mean \"{meant}\"?"),
            None => format!("unknown word \"{word}\"; use one of {}", known.join(", ")),
        };
    }
    if let Some(found) = what.strip_prefix("invalid type: ") {
        let expected = match expected {
            "a map" => "a mapping",
            expected if expected.starts_with("struct ") => "a mapping",
            expected => expected,
        };
        let is_scalar = ["integer", "floating point", "boolean"].iter().any(|kind| found.starts_with(kind));
        let hint = if is_scalar && expected == "a string" { "; put it in quotes" } else { "" };
        return format!("must be {expected}, not {}{hint}", found.replace('`', ""));
    }
    said.to_owned()
}

fn unknown_key(key: &str, known: &[&str]) -> String {
    match suggest::nearest(key, known.iter().copied()) {
        Some(meant) => format!("unknown key; did you mean \"{meant}\"?"),
        None if known.is_empty() => "unknown key".to_owned(),
        None => format!("unknown key; known here: {}", known.join(", ")),
    }
}

/// The words between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}
