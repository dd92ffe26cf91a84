//! Reading filters: RFC 7644 §3.4.2.2, figure 1, by one function for each precedence.
//!
//! Called by `filter`. Invariant: brackets within each other and comparisons are counted, so neither stack nor time
//! grow with what is sent.

use serde_json::Value;

use super::{Filter, Literal, OPERATORS, Path};
use crate::scim::{fault::Fault, schema::Type};

/// Deepest nesting of brackets.
const DEPTH_MAX: usize = 16;
/// Most comparisons.
const TERMS_MAX: usize = 128;

/// A filter that is being read.
pub(super) struct Reader<'a> {
    pub(super) rest: &'a str,
    of: Type,
    terms: usize,
    depth: usize,
}

impl<'a> Reader<'a> {
    pub(super) const fn of(rest: &'a str, of: Type) -> Self {
        Self { rest, of, terms: 0, depth: 0 }
    }

    /// A filter and nothing behind it.
    pub(super) fn whole(mut self) -> Result<Filter, Fault> {
        let filter = self.any()?;
        self.skip();
        if self.rest.is_empty() { Ok(filter) } else { Err(self.fault("the end")) }
    }

    fn fault(&self, wanted: &str) -> Fault {
        let rest: String = self.rest.chars().take(20).collect();
        Fault::filter(format!("the filter cannot be read: {wanted} was expected at \"{rest}\""))
    }

    fn skip(&mut self) {
        self.rest = self.rest.trim_start_matches(' ');
    }

    fn takes(&mut self, c: char) -> bool {
        self.skip();
        let rest = self.rest.strip_prefix(c);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    /// What stands before a space or bracket.
    fn peek(&mut self) -> &'a str {
        self.skip();
        let end = self.rest.find([' ', '(', ')', '[', ']', '"']).unwrap_or(self.rest.len());
        self.rest.split_at_checked(end).map_or("", |(word, _)| word)
    }

    fn word(&mut self) -> &'a str {
        let word = self.peek();
        self.rest = self.rest.strip_prefix(word).unwrap_or(self.rest);
        word
    }

    fn takes_word(&mut self, wanted: &str) -> bool {
        let is_it = self.peek().eq_ignore_ascii_case(wanted);
        if is_it {
            self.word();
        }
        is_it
    }

    fn any(&mut self) -> Result<Filter, Fault> {
        let mut filters = vec![self.all()?];
        while self.takes_word("or") {
            filters.push(self.all()?);
        }
        Ok(if filters.len() > 1 { Filter::Any(filters) } else { filters.remove(0) })
    }

    fn all(&mut self) -> Result<Filter, Fault> {
        let mut filters = vec![self.term()?];
        while self.takes_word("and") {
            filters.push(self.term()?);
        }
        Ok(if filters.len() > 1 { Filter::All(filters) } else { filters.remove(0) })
    }

    fn term(&mut self) -> Result<Filter, Fault> {
        self.terms += 1;
        if self.terms > TERMS_MAX {
            return Err(Fault::filter(format!("a filter has at most {TERMS_MAX} comparisons")));
        }
        if self.takes('(') {
            return self.within(')');
        }
        let word = self.word();
        if word.eq_ignore_ascii_case("not") && self.takes('(') {
            return Ok(Filter::Not(Box::new(self.within(')')?)));
        }
        let path = Path::parse(word, self.of).ok_or_else(|| self.fault("an attribute"))?;
        if self.takes('[') {
            return Ok(Filter::Among(path, Box::new(self.within(']')?)));
        }
        if self.takes_word("pr") {
            return Ok(Filter::Present(path));
        }
        let operator = self.word();
        let operator = OPERATORS.iter().find(|(word, _)| word.eq_ignore_ascii_case(operator));
        let (_, operator) = operator.ok_or_else(|| self.fault("an operator"))?;
        let literal = Literal::of(&path, self.literal()?);
        Ok(Filter::Compare(path, *operator, literal))
    }

    /// What stands before a closing bracket.
    pub(super) fn within(&mut self, end: char) -> Result<Filter, Fault> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(Fault::filter(format!("a filter has at most {DEPTH_MAX} brackets within each other")));
        }
        let filter = self.any()?;
        self.depth -= 1;
        if self.takes(end) { Ok(filter) } else { Err(self.fault("a closing bracket")) }
    }

    fn literal(&mut self) -> Result<Value, Fault> {
        self.skip();
        if let Some(behind) = self.rest.strip_prefix('"') {
            let mut escaped = false;
            let end = behind.find(|c: char| {
                let ends = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                ends
            });
            let end = end.ok_or_else(|| self.fault("a closing quote"))?;
            let (text, rest) = self.rest.split_at_checked(end + 2).ok_or_else(|| self.fault("a text"))?;
            let value = serde_json::from_str::<String>(text).map_err(|_| self.fault("a text"))?;
            self.rest = rest;
            return Ok(Value::String(value));
        }
        let word = self.word();
        match word.to_ascii_lowercase().as_str() {
            "true" => Ok(Value::Bool(true)),
            "false" => Ok(Value::Bool(false)),
            "null" => Ok(Value::Null),
            other => other.parse::<serde_json::Number>().map(Value::Number).map_err(|_| self.fault("a value")),
        }
    }
}
