//! The claims of a verified assertion: the registered ones by type, all others by name and as what they must be.
//!
//! Made by `verify` only. `iss`, `sub`, `aud` and `exp` must be there; what is there must have its form, more strictly
//! than RFC 7519 §4.1 has it: times are integers, an audience is one text or a list of one. Absent: what claims mean.

use std::fmt;

use serde_json::{Map, Value};

use super::{AssertionError, envelope::is_plain};

/// Longest `iss`, `sub` and `jti`, in bytes: URLs and SPIFFE ids of practice are far below.
pub const IDENTIFIER_BYTES_MAX: usize = 1024;

/// A verified assertion.
#[derive(Clone, PartialEq)]
pub struct Assertion {
    /// Issuer: the rule's.
    pub iss: String,
    /// Subject, as the issuer names it.
    pub sub: String,
    /// The one audience: one of the rule's.
    pub aud: String,
    /// Its identifier, to be used once.
    pub jti: Option<String>,
    /// Issued at, seconds since the Unix epoch.
    pub iat: Option<i64>,
    /// Expires at: the first second in which it is no longer valid.
    pub exp: i64,
    /// Not valid before.
    pub nbf: Option<i64>,
    /// All claims, these too.
    pub claims: Map<String, Value>,
}

impl fmt::Debug for Assertion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Assertion").field("iss", &self.iss).field("exp", &self.exp).finish_non_exhaustive()
    }
}

impl Assertion {
    /// A claim that is a text, which may be empty; `None` where it is absent.
    ///
    /// # Errors
    /// [`AssertionError::Claim`] when it is something else or holds a control character.
    pub fn text(&self, name: &'static str) -> Result<Option<&str>, AssertionError> {
        let fit = |value| text_of(value).ok_or(AssertionError::Claim(name));
        self.claims.get(name).map(fit).transpose()
    }

    /// A claim that is a text or a list of at least one text; `None` where it is absent.
    ///
    /// # Errors
    /// [`AssertionError::Claim`] when it is something else, an empty list, or holds a control character.
    pub fn texts(&self, name: &'static str) -> Result<Option<Vec<&str>>, AssertionError> {
        let texts = match self.claims.get(name) {
            None => return Ok(None),
            Some(Value::Array(values)) if !values.is_empty() => values.iter().map(text_of).collect::<Option<Vec<_>>>(),
            Some(value) => text_of(value).map(|text| vec![text]),
        };
        texts.map(Some).ok_or(AssertionError::Claim(name))
    }

    /// The words of `scope` (RFC 6749 §3.3), none if it is an empty text; `None` where the claim is absent.
    ///
    /// # Errors
    /// [`AssertionError::Claim`] when it is not a text of such words.
    pub fn scope_words(&self) -> Result<Option<Vec<&str>>, AssertionError> {
        let Some(scope) = self.text("scope")? else { return Ok(None) };
        let is_token = |byte: u8| matches!(byte, 0x21 | 0x23..=0x5b | 0x5d..=0x7e);
        if !scope.bytes().all(|byte| byte == b' ' || is_token(byte)) {
            return Err(AssertionError::Claim("scope"));
        }
        Ok(Some(scope.split(' ').filter(|word| !word.is_empty()).collect()))
    }

    pub(super) fn read(claims: Map<String, Value>) -> Result<Self, AssertionError> {
        let needed = |name| identifier(&claims, name)?.ok_or(AssertionError::Missing(name));
        Ok(Self {
            iss: needed("iss")?,
            sub: needed("sub")?,
            aud: audience(&claims)?,
            jti: identifier(&claims, "jti")?,
            iat: time(&claims, "iat")?,
            exp: time(&claims, "exp")?.ok_or(AssertionError::Missing("exp"))?,
            nbf: time(&claims, "nbf")?,
            claims,
        })
    }
}

/// A claim that names something: not empty, bounded, no control characters.
pub(super) fn identifier(claims: &Map<String, Value>, name: &'static str) -> Result<Option<String>, AssertionError> {
    let fit = |value: &Value| match value {
        Value::String(text) if is_plain(text, IDENTIFIER_BYTES_MAX) => Ok(text.clone()),
        _ => Err(AssertionError::Claim(name)),
    };
    claims.get(name).map(fit).transpose()
}

pub(super) fn audience(claims: &Map<String, Value>) -> Result<String, AssertionError> {
    let one = match claims.get("aud") {
        None => return Err(AssertionError::Missing("aud")),
        Some(Value::Array(values)) => match values.as_slice() {
            [one] => one,
            _ => return Err(AssertionError::Audience),
        },
        Some(one) => one,
    };
    one.as_str().map(str::to_owned).ok_or(AssertionError::Claim("aud"))
}

pub(super) fn time(claims: &Map<String, Value>, name: &'static str) -> Result<Option<i64>, AssertionError> {
    claims.get(name).map(|value| value.as_i64().ok_or(AssertionError::Claim(name))).transpose()
}

fn text_of(value: &Value) -> Option<&str> {
    value.as_str().filter(|text| !text.contains(char::is_control))
}
