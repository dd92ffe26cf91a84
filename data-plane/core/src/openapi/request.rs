//! A call's arguments as an HTTP request.
//!
//! Strict: every argument is one that the binding has, every value is written in one way. In paths and queries all but
//! unreserved characters are encoded, so no value can add a segment, a parameter or a fragment; a segment that would be
//! empty, `.` or `..` is refused, and so is a header that is more than one line of visible ASCII. A JSON body is sent
//! exactly as it was authorised. Specification: OpenAPI 3.1.1, "Style Values"; RFC 3986, sections 2.3 and 3.3.

use std::fmt::Write as _;

use bailiwick_proto::mcp;
use serde_json::value::RawValue;

use super::{
    Binding, Method, Parameter, Place, Style,
    operations::{is_form, is_json},
};

/// Longest path and query together: more is refused by most servers.
const TARGET_BYTES_MAX: usize = 8 * 1024;
/// Longest value of a header.
const HEADER_BYTES_MAX: usize = 4 * 1024;
/// Headers that are HTTP's, the gateway's, a proxy's or a credential's.
const OURS: [&str; 25] = [
    "accept",
    "accept-encoding",
    "authorization",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "cookie",
    "date",
    "dpop",
    "expect",
    "forwarded",
    "host",
    "http2-settings",
    "keep-alive",
    "origin",
    "proxy-authorization",
    "referer",
    "set-cookie",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "via",
];
/// Beginnings of such names.
const OURS_BEGIN: [&str; 6] = ["proxy-", "sec-", "x-forwarded-", "mcp-", "bailiwick-", "x-real-"];

/// A request to be sent below an API's URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpRequest {
    /// The method.
    pub method: Method,
    /// Path and query, to be appended to the path of the API's URL.
    pub target: String,
    /// Of parameters: lower-case names.
    pub headers: Vec<(String, String)>,
    /// The body's media type, and the body.
    pub body: Option<(String, Vec<u8>)>,
}

/// Why arguments make no request. Told to the client, who can do better.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArgumentFault {
    /// No such argument.
    #[error("there is no argument `{0}`")]
    Unknown(String),
    /// It is needed.
    #[error("the argument `{0}` is missing")]
    Missing(String),
    /// It cannot be written where it belongs.
    #[error("the argument `{0}` {1}")]
    Value(String, &'static str),
    /// All together are too much.
    #[error("the arguments are too long for an address")]
    TooLong,
}

/// The request for a call with these arguments.
///
/// # Errors
/// What is wrong with them.
pub fn request(binding: &Binding, arguments: Option<&RawValue>) -> Result<HttpRequest, ArgumentFault> {
    let given = arguments.and_then(mcp::ordered_members).unwrap_or_default();
    for (name, _) in &given {
        let is_known = binding.parameters.iter().any(|parameter| parameter.argument == *name)
            || binding.body.as_ref().is_some_and(|body| body.argument == *name);
        if !is_known {
            return Err(ArgumentFault::Unknown(name.chars().take(100).collect()));
        }
    }
    let given = |argument: &str| given.iter().find(|(name, _)| name == argument).map(|(_, value)| *value);
    let mut writer = Writer { path: binding.path.clone(), query: String::new(), headers: Vec::new() };
    for parameter in &binding.parameters {
        let fault = |why| ArgumentFault::Value(parameter.argument.clone(), why);
        match given(&parameter.argument).map(|raw| Given::read(raw, parameter.style)).transpose().map_err(fault)? {
            Some(value) if value != Given::Null => writer.write(parameter, &value).map_err(fault)?,
            // An absent value and null are the same: there is no way to write null.
            _ if parameter.required => return Err(ArgumentFault::Missing(parameter.argument.clone())),
            _ => {}
        }
    }
    let body = match &binding.body {
        None => None,
        Some(body) => match given(&body.argument) {
            None if body.required => return Err(ArgumentFault::Missing(body.argument.clone())),
            None => None,
            Some(value) => Some((body.media_type.clone(), body_bytes(&body.media_type, &body.argument, value)?)),
        },
    };
    let Writer { path, query, headers } = writer;
    let target = if query.is_empty() { path } else { format!("{path}?{query}") };
    if target.len() > TARGET_BYTES_MAX {
        return Err(ArgumentFault::TooLong);
    }
    Ok(HttpRequest { method: binding.method, target, headers, body })
}

/// A value as it is written: numbers just as they came.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Given {
    Null,
    Plain(String),
    List(Vec<String>),
    Members(Vec<(String, String)>),
}

impl Given {
    fn read(raw: &RawValue, style: Style) -> Result<Self, &'static str> {
        let text = raw.get();
        match text.as_bytes().first() {
            Some(b'n') => Ok(Self::Null),
            _ if style == Style::Json => Ok(Self::Plain(text.to_owned())),
            Some(b'[') => {
                let items: Vec<&RawValue> = serde_json::from_str(text).map_err(|_unreadable| "cannot be read")?;
                items.into_iter().map(plain).collect::<Result<_, _>>().map(Self::List)
            }
            Some(b'{') => {
                let members = mcp::ordered_members(raw).ok_or("cannot be read")?;
                let members = members.into_iter().map(|(name, value)| Ok((name.into(), plain(value)?)));
                members.collect::<Result<_, _>>().map(Self::Members)
            }
            _ => plain(raw).map(Self::Plain),
        }
    }

    /// Items, or names and values in turns, with `between` between.
    fn joined(&self, between: &str, write: impl Fn(&str) -> String) -> String {
        let items: Vec<String> = match self {
            Self::Null => Vec::new(),
            Self::Plain(text) => vec![write(text)],
            Self::List(items) => items.iter().map(|item| write(item)).collect(),
            Self::Members(members) => members.iter().flat_map(|(name, value)| [write(name), write(value)]).collect(),
        };
        items.join(between)
    }
}

/// What can be written as one word.
fn plain(raw: &RawValue) -> Result<String, &'static str> {
    let text = raw.get();
    match text.as_bytes().first() {
        Some(b'"') => serde_json::from_str(text).map_err(|_unreadable| "cannot be read"),
        Some(b'n') => Err("holds null, which cannot be written there"),
        Some(b'[' | b'{') => Err("holds a list or object, which cannot be written there"),
        _ => Ok(text.to_owned()),
    }
}

struct Writer {
    path: String,
    query: String,
    headers: Vec<(String, String)>,
}

impl Writer {
    fn write(&mut self, parameter: &Parameter, value: &Given) -> Result<(), &'static str> {
        match parameter.place {
            Place::Query => self.write_query(&parameter.name, parameter.style, value),
            Place::Path => self.path = filled(&self.path, &parameter.name, &value.joined(",", encoded))?,
            Place::Header => {
                let text = value.joined(",", ToOwned::to_owned);
                let is_line = text.len() <= HEADER_BYTES_MAX
                    && text.chars().all(|c| c == ' ' || c == '\t' || c.is_ascii_graphic())
                    && text.trim() == text;
                if !is_line {
                    return Err("is not one line of ASCII, as a header is");
                }
                self.headers.push((parameter.name.to_ascii_lowercase(), text));
            }
        }
        Ok(())
    }

    fn write_query(&mut self, name: &str, style: Style, value: &Given) {
        match (style, value) {
            (Style::Repeated, Given::List(items)) => items.iter().for_each(|item| self.pair(name, item)),
            (Style::Repeated, Given::Members(members)) => {
                members.iter().for_each(|(name, value)| self.pair(name, value))
            }
            (Style::Deep, Given::Members(members)) => {
                members.iter().for_each(|(member, value)| self.pair(&format!("{name}[{member}]"), value));
            }
            (Style::Spaces, value) => self.listed(name, &value.joined("%20", encoded)),
            (Style::Bars, value) => self.listed(name, &value.joined("%7C", encoded)),
            (Style::Commas | Style::Json | Style::Repeated | Style::Deep, value) => {
                self.listed(name, &value.joined(",", encoded));
            }
        }
    }

    fn pair(&mut self, name: &str, value: &str) {
        self.listed(name, &encoded(value));
    }

    /// `value` is encoded already.
    fn listed(&mut self, name: &str, value: &str) {
        if !self.query.is_empty() {
            self.query.push('&');
        }
        self.query.push_str(&encoded(name));
        self.query.push('=');
        self.query.push_str(value);
    }
}

/// A path with one parameter in its place.
fn filled(path: &str, name: &str, text: &str) -> Result<String, &'static str> {
    if text.is_empty() {
        return Err("is empty, and stands in a path");
    }
    let path = path.replace(&format!("{{{name}}}"), text);
    let is_sound = path.split('/').all(|segment| segment != "." && segment != "..");
    if is_sound { Ok(path) } else { Err("would lead to another place") }
}

/// The names in braces; `None` where the template cannot be read, or holds what no path holds.
pub(super) fn placeholders(path: &str) -> Option<Vec<&str>> {
    let (mut names, mut rest) = (Vec::new(), path);
    loop {
        let Some((before, after)) = rest.split_once('{') else {
            return is_path_text(rest).then_some(names);
        };
        let (name, after) = after.split_once('}')?;
        if name.is_empty() || name.contains(['{', '/']) || names.contains(&name) || !is_path_text(before) {
            return None;
        }
        names.push(name);
        rest = after;
    }
}

/// Written as it is, so it has to be what a path can hold; percent signs only before two digits.
fn is_path_text(text: &str) -> bool {
    let is_fit = |c: char| c.is_ascii_alphanumeric() || "-._~!$&'()*+,;=:@/%".contains(c);
    let escapes = text.split('%').skip(1);
    let are_escapes = escapes.into_iter().all(|rest| rest.chars().take(2).filter(char::is_ascii_hexdigit).count() == 2);
    let is_sound = text.split('/').all(|segment| segment != "." && segment != "..");
    text.chars().all(is_fit) && are_escapes && is_sound && !text.contains("//")
}

/// Headers that are not a client's to choose.
pub(super) fn is_header_of_ours(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let is_token = name.chars().all(|c| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c));
    !is_token || OURS.contains(&name.as_str()) || OURS_BEGIN.iter().any(|begin| name.starts_with(begin))
}

/// All but unreserved characters as percent and two digits.
fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

fn body_bytes(media_type: &str, argument: &str, value: &RawValue) -> Result<Vec<u8>, ArgumentFault> {
    if is_json(media_type) {
        return Ok(value.get().as_bytes().to_vec());
    }
    let fault = |why| ArgumentFault::Value(argument.to_owned(), why);
    if is_form(media_type) {
        let members = mcp::ordered_members(value).ok_or_else(|| fault("must be an object"))?;
        let mut form = Writer { path: String::new(), query: String::new(), headers: Vec::new() };
        for (name, value) in members {
            let value = Given::read(value, Style::Repeated).map_err(fault)?;
            match value {
                Given::Null => {}
                Given::Members(_) => return Err(fault("holds an object, which cannot be written there")),
                value => form.write_query(&name, Style::Repeated, &value),
            }
        }
        return Ok(form.query.into_bytes());
    }
    serde_json::from_str::<String>(value.get()).map(String::into_bytes).map_err(|_other| fault("must be text"))
}
