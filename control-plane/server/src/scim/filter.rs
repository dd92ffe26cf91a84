//! Filters and paths (RFC 7644 §3.4.2.2, §3.5.2): read into a tree, and asked of a resource. There is no language
//! beneath that anything could be written through to.
//!
//! Called by `listing` and `patch`. Invariants: reading takes time in the length of the text, and asking in the size of
//! the resource times that of the filter; both are bounded here. An attribute that is not there equals nothing.

mod reading;

use std::{borrow::Cow, cmp::Ordering};

use bailiwick_control_plane_core::provisioning::moment;
use serde_json::{Map, Value};

use self::reading::Reader;
use super::{
    fault::Fault,
    schema::{self, Type},
};

/// Longest filter or path.
pub(super) const TEXT_BYTES_MAX: usize = 4 * 1024;

/// A filter.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Filter {
    All(Vec<Filter>),
    Any(Vec<Filter>),
    Not(Box<Filter>),
    /// `pr`.
    Present(Path),
    Compare(Path, Operator, Literal),
    /// Of several values, one that matches.
    Among(Path, Box<Filter>),
}

/// What values of an attribute are compared with.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Literal {
    /// As written.
    pub(super) value: Value,
    /// A text as it is compared, made once for all values.
    folded: String,
    /// Case matters.
    is_exact: bool,
}

impl Literal {
    fn of(path: &Path, value: Value) -> Self {
        let is_exact = schema::is_exact(&path.name, path.part.as_deref());
        let folded = fold(value.as_str().unwrap_or_default(), is_exact).into_owned();
        Self { value, folded, is_exact }
    }
}

fn fold(text: &str, is_exact: bool) -> Cow<'_, str> {
    if is_exact { Cow::Borrowed(text) } else { Cow::Owned(text.to_lowercase()) }
}

/// How a value is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operator {
    Equal,
    NotEqual,
    Contains,
    Starts,
    Ends,
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
}

const OPERATORS: [(&str, Operator); 9] = [
    ("eq", Operator::Equal),
    ("ne", Operator::NotEqual),
    ("co", Operator::Contains),
    ("sw", Operator::Starts),
    ("ew", Operator::Ends),
    ("gt", Operator::Greater),
    ("ge", Operator::GreaterOrEqual),
    ("lt", Operator::Less),
    ("le", Operator::LessOrEqual),
];

/// An attribute as written, without the name of its schema.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Path {
    /// It is of the extension.
    pub(super) extension: bool,
    /// Empty: the extension as a whole.
    pub(super) name: String,
    pub(super) part: Option<String>,
}

impl Path {
    /// # Errors
    /// It is no attribute's path.
    pub(super) fn parse(text: &str, of: Type) -> Option<Self> {
        let (extension, rest) = match of.extension() {
            Some((schema, _)) if text.eq_ignore_ascii_case(schema) => {
                return Some(Self { extension: true, ..Self::default() });
            }
            Some((schema, _)) if let Some(rest) = behind(text, schema) => (true, rest),
            Some(_) | None => (false, behind(text, of.schema()).unwrap_or(text)),
        };
        let (name, part) = match rest.split_once('.') {
            Some((name, part)) => (name, Some(part)),
            None => (rest, None),
        };
        let is_name = |name: &str| {
            let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '$');
            name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '$') && name.chars().all(fits)
        };
        let fits = is_name(name) && part.is_none_or(is_name);
        fits.then(|| Self { extension, name: name.to_owned(), part: part.map(str::to_owned) })
    }

    /// What is there, with what is under `value` for those of several that have it.
    pub(super) fn values<'a>(&self, resource: &'a Map<String, Value>) -> Vec<&'a Value> {
        let resource = match self.extension {
            true => schema::EXTENSIONS.iter().find_map(|extension| resource.get(*extension)?.as_object()),
            false => Some(resource),
        };
        let Some(value) = resource.and_then(|resource| member(resource, &self.name)) else { return Vec::new() };
        let part = |value: &'a Value| match (value, &self.part) {
            (Value::Object(members), Some(part)) => member(members, part),
            (Value::Object(members), None) => member(members, "value").or(Some(value)),
            (_, Some(_)) => None,
            (value, None) => Some(value),
        };
        match value {
            Value::Array(values) => values.iter().filter_map(part).collect(),
            value => part(value).into_iter().collect(),
        }
    }

    fn is_moment(&self) -> bool {
        let is = |wanted: &str| self.part.as_ref().is_some_and(|part| part.eq_ignore_ascii_case(wanted));
        self.name.eq_ignore_ascii_case("meta") && (is("created") || is("lastModified"))
    }
}

fn behind<'a>(text: &'a str, schema: &str) -> Option<&'a str> {
    let (start, rest) = text.split_at_checked(schema.len())?;
    start.eq_ignore_ascii_case(schema).then(|| rest.strip_prefix(':')).flatten()
}

/// The member of a name, in any case.
pub(super) fn member<'a>(members: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    members.get(name).or_else(|| members.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value))
}

impl Filter {
    /// # Errors
    /// It cannot be read, or is too large.
    pub(super) fn parse(text: &str, of: Type) -> Result<Self, Fault> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(Fault::filter(format!("a filter has at most {TEXT_BYTES_MAX} bytes")));
        }
        let reader = Reader::of(text, of);
        reader.whole()
    }

    /// Whether a resource matches.
    pub(super) fn matches(&self, resource: &Map<String, Value>) -> bool {
        match self {
            Self::All(filters) => filters.iter().all(|filter| filter.matches(resource)),
            Self::Any(filters) => filters.iter().any(|filter| filter.matches(resource)),
            Self::Not(filter) => !filter.matches(resource),
            Self::Present(path) => path.values(resource).into_iter().any(is_there),
            Self::Compare(path, operator, literal) => compares(&path.values(resource), path, *operator, literal),
            Self::Among(path, filter) => {
                let whole = Path { part: None, ..path.clone() };
                whole.elements(resource).into_iter().any(|element| filter.matches(element))
            }
        }
    }

    /// What an attribute must equal for anything to match, if the filter says that.
    pub(super) fn wants(&self, name: &str) -> Option<&str> {
        match self {
            Self::All(filters) => filters.iter().find_map(|filter| filter.wants(name)),
            Self::Compare(path, Operator::Equal, Literal { value: Value::String(literal), .. }) => {
                let is_it = path.name.eq_ignore_ascii_case(name) && path.part.is_none() && !path.extension;
                is_it.then_some(literal.as_str())
            }
            Self::Compare(..) | Self::Any(_) | Self::Not(_) | Self::Present(_) | Self::Among(..) => None,
        }
    }

    /// How often one resource is compared at most.
    pub(super) fn terms(&self) -> usize {
        match self {
            Self::All(filters) | Self::Any(filters) => filters.iter().map(Self::terms).sum(),
            Self::Not(filter) | Self::Among(_, filter) => filter.terms(),
            Self::Present(_) | Self::Compare(..) => 1,
        }
    }

    /// Whether it asks for an attribute of this name anywhere.
    pub(super) fn names(&self, name: &str) -> bool {
        let is = |path: &Path| path.name.eq_ignore_ascii_case(name);
        match self {
            Self::All(filters) | Self::Any(filters) => filters.iter().any(|filter| filter.names(name)),
            Self::Not(filter) => filter.names(name),
            Self::Present(path) | Self::Compare(path, ..) | Self::Among(path, _) => is(path),
        }
    }
}

impl Path {
    /// Those of several that have parts.
    fn elements<'a>(&self, resource: &'a Map<String, Value>) -> Vec<&'a Map<String, Value>> {
        let resource = match self.extension {
            true => schema::EXTENSIONS.iter().find_map(|extension| resource.get(*extension)?.as_object()),
            false => Some(resource),
        };
        match resource.and_then(|resource| member(resource, &self.name)) {
            Some(Value::Array(values)) => values.iter().filter_map(Value::as_object).collect(),
            Some(Value::Object(members)) => vec![members],
            Some(_) | None => Vec::new(),
        }
    }
}

fn is_there(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(values) => !values.is_empty(),
        Value::Object(members) => !members.is_empty(),
        Value::Bool(_) | Value::Number(_) => true,
    }
}

fn compares(values: &[&Value], path: &Path, operator: Operator, literal: &Literal) -> bool {
    match (operator, &literal.value) {
        (Operator::Equal, Value::Null) => !values.iter().any(|value| is_there(value)),
        (Operator::NotEqual, Value::Null) => values.iter().any(|value| is_there(value)),
        (Operator::NotEqual, _) => !compares(values, path, Operator::Equal, literal),
        (operator, _) => values.iter().any(|value| compare(value, path, operator, literal)),
    }
}

fn compare(value: &Value, path: &Path, operator: Operator, literal: &Literal) -> bool {
    let (value, said) = match (value, &literal.value) {
        (Value::String(value), Value::String(said)) => (value, said),
        // Some write "true".
        (Value::Bool(value), said @ (Value::String(_) | Value::Bool(_))) => {
            let said = said.as_str().map_or_else(|| said.to_string(), str::to_owned);
            return operator == Operator::Equal && value.to_string().eq_ignore_ascii_case(&said);
        }
        _ => return false,
    };
    if path.is_moment()
        && let (Some(value), Some(said)) = (moment(value), moment(said))
    {
        return is_so(operator, value.cmp(&said));
    }
    let (value, said) = (fold(value, literal.is_exact), literal.folded.as_str());
    match operator {
        Operator::Contains => value.contains(said),
        Operator::Starts => value.starts_with(said),
        Operator::Ends => value.ends_with(said),
        Operator::Equal
        | Operator::NotEqual
        | Operator::Greater
        | Operator::GreaterOrEqual
        | Operator::Less
        | Operator::LessOrEqual => is_so(operator, (*value).cmp(said)),
    }
}

fn is_so(operator: Operator, ordering: Ordering) -> bool {
    match operator {
        Operator::Equal => ordering.is_eq(),
        Operator::NotEqual => ordering.is_ne(),
        Operator::Greater => ordering.is_gt(),
        Operator::GreaterOrEqual => ordering.is_ge(),
        Operator::Less => ordering.is_lt(),
        Operator::LessOrEqual => ordering.is_le(),
        Operator::Contains | Operator::Starts | Operator::Ends => false,
    }
}

/// What a PATCH operation is about: an attribute, those of its values that match, a part of it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Target {
    pub(super) path: Path,
    pub(super) among: Option<Filter>,
}

impl Target {
    /// # Errors
    /// It cannot be read.
    pub(super) fn parse(text: &str, of: Type) -> Result<Self, Fault> {
        let bad = || Fault::path("the path of an operation cannot be read");
        if text.len() > TEXT_BYTES_MAX {
            return Err(bad());
        }
        let Some((start, rest)) = text.split_once('[') else {
            return Path::parse(text.trim(), of).map(|path| Self { path, among: None }).ok_or_else(bad);
        };
        let path = Path::parse(start.trim(), of).filter(|path| path.part.is_none()).ok_or_else(bad)?;
        let mut reader = Reader::of(rest, of);
        let among = reader.within(']')?;
        let part = match reader.rest.strip_prefix('.') {
            Some(part) => {
                Path::parse(part, of).filter(|path| path.part.is_none()).map(|path| path.name).ok_or_else(bad)?
            }
            None if reader.rest.trim().is_empty() => return Ok(Self { path, among: Some(among) }),
            None => return Err(bad()),
        };
        Ok(Self { path: Path { part: Some(part), ..path }, among: Some(among) })
    }
}

#[cfg(test)]
mod tests;
