//! Questions for decisions as they are asked: the request of AuthZEN, read strictly.
//!
//! Called by `data-plane/server` with a body, and by nobody else. The text has one reading (no repeated keys, bounded
//! depth), then members that nobody here knows are passed over, as the specification wants it. A fault of the whole is
//! an error; one of a single question of several makes only that one [`Question::Malformed`].
//! Absent: what the words lead to (`evaluation`). Specification: AuthZEN Authorization API 1.0 §5, §6.1, §7.1.

use bailiwick_proto::mcp;
use serde_json::{Map, Value};

/// Longest body.
pub const BODY_BYTES_MAX: usize = 64 * 1024;
/// Most questions in one request: a page of things that a service shows.
pub const QUESTIONS_MAX: usize = 100;
/// Longest name of anybody: as long as a person's may be.
const NAME_BYTES_MAX: usize = 254;

/// Why a body asks nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// No text with one reading.
    #[error("the body is not JSON with one reading, or is nested too deep")]
    NotJson,
    /// No object.
    #[error("the body is not a JSON object")]
    NoObject,
    /// Something that must be there is missing or is not what it should be.
    #[error("the body lacks a subject, an action or a resource with all that each needs, or has one of another form")]
    Part,
    /// `evaluations` is no list.
    #[error("`evaluations` is not a list")]
    NoList,
    /// More than [`QUESTIONS_MAX`].
    #[error("there are more than {QUESTIONS_MAX} evaluations")]
    TooMany,
    /// Options that cannot be followed.
    #[error("`options.evaluations_semantic` is not one of execute_all, deny_on_first_deny and permit_on_first_permit")]
    Semantic,
}

/// What is done with several questions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Semantic {
    /// All are answered.
    #[default]
    ExecuteAll,
    /// Those up to the first that is denied.
    DenyOnFirstDeny,
    /// Those up to the first that is permitted.
    PermitOnFirstPermit,
}

impl Semantic {
    /// Whether nothing more is answered after this decision.
    #[must_use]
    pub const fn ends_with(self, permitted: bool) -> bool {
        match self {
            Self::ExecuteAll => false,
            Self::DenyOnFirstDeny => !permitted,
            Self::PermitOnFirstPermit => permitted,
        }
    }
}

/// A body that asks something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// One question.
    One(Box<Question>),
    /// Several.
    Several {
        /// In their order; at least one.
        questions: Vec<Question>,
        /// When it is enough.
        semantic: Semantic,
    },
}

/// May this person's agent do this?
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// It cannot be read.
    Malformed,
    /// As asked.
    Read(Box<Words>),
}

/// The words of a question.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Words {
    /// What kind of subject, e.g. `user`.
    pub subject: String,
    /// The person.
    pub user: String,
    /// The agent that acts for them.
    pub agent: Option<String>,
    /// The client through which it acts.
    pub client: Option<String>,
    /// The consent it acts on.
    pub consent: Option<String>,
    /// E.g. `tools/call`.
    pub action: String,
    /// What kind of resource, e.g. `tool`.
    pub resource: String,
    /// Which one: by its name towards clients, or its server's own where `server` is there.
    pub id: String,
    /// The virtual server.
    pub virtual_server: Option<String>,
    /// The server whose own it is.
    pub server: Option<String>,
    /// Whether the token it was asked with is bound to a key.
    pub bound: bool,
    /// The names of the arguments.
    pub arguments: Vec<String>,
}

type Object = Map<String, Value>;

/// What is asked: by `evaluations` where `several` may be.
///
/// # Errors
/// Why nothing is.
pub fn read(body: &[u8], several: bool) -> Result<Asked, Malformed> {
    let text = mcp::check_json(body).map_err(|_fault| Malformed::NotJson)?;
    let body: Value = serde_json::from_str(text).map_err(|_fault| Malformed::NotJson)?;
    let body = body.as_object().ok_or(Malformed::NoObject)?;
    for part in ["subject", "action", "resource", "context", "options"] {
        if body.get(part).is_some_and(|value| !value.is_object()) {
            return Err(Malformed::Part);
        }
    }
    let listed = match body.get("evaluations").filter(|_| several) {
        None => &[],
        Some(Value::Array(listed)) => listed.as_slice(),
        Some(_) => return Err(Malformed::NoList),
    };
    if listed.is_empty() {
        let words = words(body, &Object::new()).ok_or(Malformed::Part)?;
        return Ok(Asked::One(Box::new(Question::Read(Box::new(words)))));
    }
    if listed.len() > QUESTIONS_MAX {
        return Err(Malformed::TooMany);
    }
    let semantic = semantic(body)?;
    let question = |one: &Value| {
        let words = one.as_object().and_then(|one| words(one, body));
        words.map_or(Question::Malformed, |words| Question::Read(Box::new(words)))
    };
    Ok(Asked::Several { questions: listed.iter().map(question).collect(), semantic })
}

fn semantic(body: &Object) -> Result<Semantic, Malformed> {
    match body.get("options").and_then(|options| options.get("evaluations_semantic")).map(Value::as_str) {
        None => Ok(Semantic::default()),
        Some(Some("execute_all")) => Ok(Semantic::ExecuteAll),
        Some(Some("deny_on_first_deny")) => Ok(Semantic::DenyOnFirstDeny),
        Some(Some("permit_on_first_permit")) => Ok(Semantic::PermitOnFirstPermit),
        Some(_) => Err(Malformed::Semantic),
    }
}

/// One question's words. What it does not say itself, the defaults say: a part as a whole, and of a part that is there
/// only what every such part needs.
fn words(one: &Object, defaults: &Object) -> Option<Words> {
    let (subject, action, resource) =
        (part(one, defaults, "subject"), part(one, defaults, "action"), part(one, defaults, "resource"));
    let ((subject, subject_by_default), (action, action_by_default)) = (subject?, action?);
    let (resource, resource_by_default) = resource?;
    let context = part(one, defaults, "context");
    if one.contains_key("context") && context.is_none() {
        return None;
    }
    let nothing = Object::new();
    let context = context.map_or(&nothing, |(context, _)| context);
    let of = |object: &Object| match object.get("properties") {
        None => Some(Object::new()),
        Some(Value::Object(properties)) => Some(properties.clone()),
        Some(_) => None,
    };
    let (whose, what, how) = (of(subject)?, of(resource)?, of(action)?);
    Some(Words {
        subject: needed(subject, subject_by_default, "type")?,
        user: needed(subject, subject_by_default, "id")?,
        agent: agreed(&[&whose, context], "agent")?,
        client: agreed(&[&whose, context], "client")?,
        consent: agreed(&[&whose, context], "consent")?,
        action: needed(action, action_by_default, "name")?,
        resource: needed(resource, resource_by_default, "type")?,
        id: resource.get("id").or_else(|| resource_by_default?.get("id"))?.as_str()?.to_owned(),
        virtual_server: agreed(&[&what, context], "virtual_server")?,
        server: agreed(&[&what], "server")?,
        bound: match context.get("bound") {
            None => false,
            Some(bound) => bound.as_bool()?,
        },
        arguments: match context.get("arguments").or_else(|| how.get("arguments")) {
            None => Vec::new(),
            Some(arguments) => arguments.as_object()?.keys().cloned().collect(),
        },
    })
}

type Part<'a> = (&'a Object, Option<&'a Object>);

/// A part and what stands in for it; `None` where it is nowhere or is no object.
fn part<'a>(one: &'a Object, defaults: &'a Object, name: &str) -> Option<Part<'a>> {
    let default = defaults.get(name).and_then(Value::as_object);
    match one.get(name) {
        None => default.map(|default| (default, None)),
        Some(part) => part.as_object().map(|part| (part, default)),
    }
}

/// A name that must be there.
fn needed(object: &Object, default: Option<&Object>, key: &str) -> Option<String> {
    let value = object.get(key).or_else(|| default?.get(key))?;
    name(value)
}

/// A name that may be there, and must be the same wherever it is. `None`: it cannot be read.
#[expect(clippy::option_option, reason = "not there and unreadable are different things here")]
fn agreed(objects: &[&Object], key: &str) -> Option<Option<String>> {
    let mut found = None;
    for value in objects.iter().filter_map(|object| object.get(key)) {
        let read = name(value)?;
        if found.as_ref().is_some_and(|known| *known != read) {
            return None;
        }
        found = Some(read);
    }
    Some(found)
}

fn name(value: &Value) -> Option<String> {
    let text = value.as_str()?;
    let is_name = !text.is_empty() && text.len() <= NAME_BYTES_MAX && !text.contains(char::is_control);
    is_name.then(|| text.to_owned())
}
