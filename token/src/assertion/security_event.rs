//! Security event tokens (SET): what a transmitter of Shared Signals says has happened, signed.
//!
//! Called by the control plane with a token that was pushed or polled: [`verify_event`] believes it or says why not, in
//! the order of `assertion`'s header. Invariants: `typ` is exactly `secevent+jwt`; `sub` and `exp` are not there, so
//! that no SET passes as another kind of token nor any of those as a SET; one audience, one event; `jti`, `iat` and
//! `sub_id` are there. Absent: what an event means, who its subject is, and the memory of what was taken
//! (`control-plane/core`). Specifications: RFC 8417 §2.2, §4; RFC 9493 §3; OpenID SSF 1.0 §4, §7; CAEP 1.0 §2.

use std::fmt;

use serde_json::{Map, Value};

use super::{
    AssertionError, AssertionKeys, TypRule,
    claims::{IDENTIFIER_BYTES_MAX, audience, identifier, time},
    envelope::{Envelope, is_plain},
};

/// The type of a SET (RFC 8417 §2.3).
const TYPE: &str = "secevent+jwt";
/// Claims that a SET must not have (OpenID SSF 1.0 §4.1): with them it could be taken for something else.
const FORBIDDEN: [&str; 2] = ["sub", "exp"];

/// What a SET must say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventRule<'a> {
    /// The transmitter whose keys are used.
    pub issuer: &'a str,
    /// What we are called there: the one audience.
    pub audience: &'a str,
    /// How long ago it may have been made, in seconds.
    pub age_max: i64,
    /// How far the transmitter's clock may be ahead of ours, in seconds.
    pub skew: i64,
}

/// A verified SET.
#[derive(Clone, PartialEq)]
pub struct SecurityEvent {
    /// The transmitter: the rule's.
    pub iss: String,
    /// Its identifier, which counts once.
    pub jti: String,
    /// When it was made, seconds since the Unix epoch.
    pub iat: i64,
    /// When the event happened, if it says so (`toe`), seconds since the Unix epoch.
    pub toe: Option<i64>,
    /// The event's type, a URI.
    pub event_type: String,
    /// What is said of the event.
    pub event: Map<String, Value>,
    /// Whom it is about (RFC 9493).
    pub subject: Map<String, Value>,
}

impl fmt::Debug for SecurityEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecurityEvent").field("iss", &self.iss).field("iat", &self.iat).finish_non_exhaustive()
    }
}

/// Verifies a SET as received, with the keys of the rule's issuer, at `now_unix` seconds since the epoch.
///
/// # Errors
/// The first of the checks that fails, in the order of this module's header. One that is too old is `Expired`.
pub fn verify_event(
    jwt: &str,
    keys: &AssertionKeys,
    rule: &EventRule<'_>,
    now_unix: i64,
) -> Result<SecurityEvent, AssertionError> {
    let envelope = Envelope::open(jwt)?;
    if !TypRule::Exactly(TYPE).admits(envelope.header.typ.as_deref()) {
        return Err(AssertionError::Type);
    }
    keys.check(&envelope)?;
    read(envelope.claims()?, rule, now_unix)
}

fn read(mut claims: Map<String, Value>, rule: &EventRule<'_>, now_unix: i64) -> Result<SecurityEvent, AssertionError> {
    if let Some(name) = FORBIDDEN.into_iter().find(|name| claims.contains_key(*name)) {
        return Err(AssertionError::Claim(name));
    }
    let needed = |name| identifier(&claims, name)?.ok_or(AssertionError::Missing(name));
    let (iss, aud, jti) = (needed("iss")?, audience(&claims)?, needed("jti")?);
    if iss != rule.issuer {
        return Err(AssertionError::Issuer);
    }
    if aud != rule.audience {
        return Err(AssertionError::Audience);
    }
    let iat = time(&claims, "iat")?.ok_or(AssertionError::Missing("iat"))?;
    let toe = time(&claims, "toe")?;
    if iat > now_unix.saturating_add(rule.skew.max(0)) {
        return Err(AssertionError::NotYetValid);
    }
    if now_unix.saturating_sub(iat) > rule.age_max {
        return Err(AssertionError::Expired);
    }
    let subject = object(&mut claims, "sub_id")?;
    let mut events = object(&mut claims, "events")?.into_iter();
    let (Some((event_type, Value::Object(event))), None) = (events.next(), events.next()) else {
        return Err(AssertionError::Claim("events"));
    };
    if !is_plain(&event_type, IDENTIFIER_BYTES_MAX) {
        return Err(AssertionError::Claim("events"));
    }
    Ok(SecurityEvent { iss, jti, iat, toe, event_type, event, subject })
}

fn object(claims: &mut Map<String, Value>, name: &'static str) -> Result<Map<String, Value>, AssertionError> {
    match claims.remove(name) {
        Some(Value::Object(members)) => Ok(members),
        Some(_) => Err(AssertionError::Claim(name)),
        None => Err(AssertionError::Missing(name)),
    }
}
