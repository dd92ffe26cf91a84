//! Reads JSON, with comments or without, and says where each member stands.
//!
//! Called by `json`. Places are bytes of the text. Strict but for comments and a comma at the end, where those are
//! allowed: what is read here, its client reads too. Numbers are kept as serde_json reads them, which is all that is
//! compared. Nesting is bounded. Specification: RFC 8259.

use serde_json::{Map, Value};

use crate::clients::Malformed;

/// Deeper than any settings.
const DEPTH_MAX: usize = 64;

/// Whether comments, and a comma after the last member, are read over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Comments {
    Yes,
    No,
}

#[derive(Debug)]
pub(super) enum Node {
    Object(Object),
    /// Anything else, with its value.
    Other {
        start: usize,
        end: usize,
        value: Value,
    },
}

#[derive(Debug)]
pub(super) struct Object {
    /// Of `{`.
    pub(super) start: usize,
    /// After `}`.
    pub(super) end: usize,
    pub(super) members: Vec<Member>,
    /// Where the comma after the last member is.
    pub(super) ends_with_comma: Option<usize>,
}

#[derive(Debug)]
pub(super) struct Member {
    name: String,
    /// Of the name.
    pub(super) start: usize,
    pub(super) node: Node,
}

impl Object {
    pub(super) fn member(&self, name: &str) -> Option<&Member> {
        self.members.iter().find(|member| member.name == name)
    }

    pub(super) fn position(&self, name: &str) -> Option<usize> {
        self.members.iter().position(|member| member.name == name)
    }
}

impl Node {
    pub(super) const fn start(&self) -> usize {
        match self {
            Self::Object(object) => object.start,
            Self::Other { start, .. } => *start,
        }
    }

    pub(super) const fn end(&self) -> usize {
        match self {
            Self::Object(object) => object.end,
            Self::Other { end, .. } => *end,
        }
    }

    pub(super) fn value(&self) -> Value {
        match self {
            Self::Object(object) => {
                let members = object.members.iter().map(|member| (member.name.clone(), member.node.value()));
                Value::Object(members.collect::<Map<_, _>>())
            }
            Self::Other { value, .. } => value.clone(),
        }
    }
}

/// Reads a whole text.
pub(super) fn read(text: &str, comments: Comments) -> Result<Node, Malformed> {
    let mut scan = Scan { text, at: 0, comments };
    scan.skip()?;
    let node = scan.node(0)?;
    scan.skip()?;
    if scan.at == text.len() { Ok(node) } else { Err(scan.wrong("something stands after its end")) }
}

struct Scan<'a> {
    text: &'a str,
    at: usize,
    comments: Comments,
}

impl Scan<'_> {
    fn wrong(&self, what: &str) -> Malformed {
        let line = self.text.get(..self.at).unwrap_or_default().lines().count().max(1);
        Malformed(format!("{what} (line {line})"))
    }

    fn rest(&self) -> &str {
        self.text.get(self.at..).unwrap_or_default()
    }

    /// White space and comments.
    fn skip(&mut self) -> Result<(), Malformed> {
        loop {
            let rest = self.rest();
            let blank = rest.len() - rest.trim_start_matches([' ', '\t', '\r', '\n']).len();
            let comment = match rest.get(blank..blank + 2) {
                Some("//" | "/*") if self.comments == Comments::No => {
                    return Err(self.wrong("comments do not belong here"));
                }
                Some("//") => rest.get(blank..).and_then(|rest| rest.find('\n')).unwrap_or(rest.len() - blank),
                Some("/*") => {
                    let end = rest.get(blank + 2..).and_then(|rest| rest.find("*/"));
                    end.ok_or_else(|| self.wrong("a comment does not end"))? + 4
                }
                _ => 0,
            };
            self.at += blank + comment;
            if comment == 0 {
                return Ok(());
            }
        }
    }

    fn takes(&mut self, wanted: char) -> bool {
        let found = self.rest().starts_with(wanted);
        self.at += usize::from(found);
        found
    }

    fn node(&mut self, depth: usize) -> Result<Node, Malformed> {
        if depth > DEPTH_MAX {
            return Err(self.wrong("it is nested too deeply"));
        }
        match self.rest().chars().next() {
            Some('{') => self.object(depth).map(Node::Object),
            Some('[') => self.array(depth),
            _ => self.scalar(),
        }
    }

    fn object(&mut self, depth: usize) -> Result<Object, Malformed> {
        let start = self.at;
        self.at += 1;
        let (mut members, mut ends_with_comma) = (Vec::<Member>::new(), None);
        loop {
            self.skip()?;
            if self.takes('}') {
                return Ok(Object { start, end: self.at, members, ends_with_comma });
            }
            if !members.is_empty() && ends_with_comma.take().is_none() {
                return Err(self.wrong("a comma is missing"));
            }
            let name_at = self.at;
            let Node::Other { value: Value::String(name), .. } = self.scalar()? else {
                return Err(self.wrong("a name is missing"));
            };
            if members.iter().any(|member| member.name == name) {
                return Err(self.wrong("a name stands there twice"));
            }
            self.skip()?;
            if !self.takes(':') {
                return Err(self.wrong("a colon is missing"));
            }
            self.skip()?;
            members.push(Member { name, start: name_at, node: self.node(depth + 1)? });
            ends_with_comma = self.comma('}')?;
        }
    }

    fn array(&mut self, depth: usize) -> Result<Node, Malformed> {
        let start = self.at;
        self.at += 1;
        let (mut items, mut comma) = (Vec::new(), None);
        loop {
            self.skip()?;
            if self.takes(']') {
                return Ok(Node::Other { start, end: self.at, value: Value::Array(items) });
            }
            if !items.is_empty() && comma.is_none() {
                return Err(self.wrong("a comma is missing"));
            }
            items.push(self.node(depth + 1)?.value());
            comma = self.comma(']')?;
        }
    }

    /// The comma after a member, which the last one has only where comments are allowed.
    fn comma(&mut self, end: char) -> Result<Option<usize>, Malformed> {
        self.skip()?;
        let at = self.at;
        if !self.takes(',') {
            return Ok(None);
        }
        if self.comments == Comments::No {
            self.skip()?;
            if self.rest().starts_with(end) {
                return Err(self.wrong("a comma stands at the end"));
            }
        }
        Ok(Some(at))
    }

    fn scalar(&mut self) -> Result<Node, Malformed> {
        let (start, rest) = (self.at, self.rest());
        let length = match rest.strip_prefix('"') {
            Some(inner) => string_end(inner).map(|end| end + 2),
            None => {
                rest.find(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '-' | '+' | '.')).or(Some(rest.len()))
            }
        };
        let word = length.and_then(|length| rest.get(..length)).filter(|word| !word.is_empty());
        let value = word.and_then(read_scalar).ok_or_else(|| self.wrong("this is no value"))?;
        let end = start + word.map_or(0, str::len);
        self.at = end;
        Ok(Node::Other { start, end, value })
    }
}

/// Numbers that are too large for a float are compared as their text.
fn read_scalar(word: &str) -> Option<Value> {
    let is_number = word.starts_with(|c: char| c == '-' || c.is_ascii_digit());
    match serde_json::from_str::<&serde_json::value::RawValue>(word) {
        Ok(_) if is_number => {
            Some(serde_json::from_str(word).unwrap_or_else(|_| Value::from(format!("number {word}"))))
        }
        Ok(_) => serde_json::from_str(word).ok(),
        Err(_) => None,
    }
}

/// Where the string ends whose inside this begins with: the place of its quotation mark.
fn string_end(inner: &str) -> Option<usize> {
    let mut escaped = false;
    for (at, c) in inner.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return Some(at),
            _ => {}
        }
    }
    None
}
