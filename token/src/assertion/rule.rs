//! What an assertion must say to be believed: the caller's rule for one kind of assertion of one issuer.
//!
//! Called by `verify` with claims whose signature holds. Texts are compared byte for byte; only the media type is
//! compared as one (RFC 7515 §4.1.9: without case, with or without `application/`). Times: `exp` has no leeway, `iat`
//! and `nbf` have `skew`. A lifetime is bounded twice, from `iat` and from now, so that an issuer that leaves `iat` out
//! (RFC 7523 §3 lets it) gains nothing.

use super::{Assertion, AssertionError};

const MEDIA_TYPE_PREFIX: &str = "application/";

/// Which `typ` an assertion must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TypRule<'a> {
    /// This media type, such as `oauth-id-jag+jwt`.
    Exactly(&'a str),
    /// None, or `JWT`: for kinds that have no type of their own (client assertions, ID tokens).
    Plain,
    /// None, `JWT` or `JOSE`: for workload tokens (SPIFFE JWT-SVID §2.2).
    Workload,
}

impl TypRule<'_> {
    /// Is this `typ` accepted?
    #[must_use]
    pub fn admits(self, typ: Option<&str>) -> bool {
        match (self, typ) {
            (Self::Exactly(wanted), Some(typ)) => is_media_type(typ, wanted),
            (Self::Exactly(_), None) => false,
            (Self::Plain, typ) => typ.is_none_or(|typ| is_media_type(typ, "JWT")),
            (Self::Workload, typ) => typ.is_none_or(|typ| ["JWT", "JOSE"].iter().any(|one| is_media_type(typ, one))),
        }
    }
}

/// What an assertion must say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule<'a> {
    /// Its type.
    pub typ: TypRule<'a>,
    /// The issuer whose keys are used.
    pub issuer: &'a str,
    /// What it may be for: it must name exactly one audience, and that one must be among these.
    pub audiences: &'a [&'a str],
    /// Longest time from `iat`, and from now, to `exp`, in seconds.
    pub lifetime_max: i64,
    /// How far the issuer's clock may be ahead of ours, in seconds; less than none counts as none.
    pub skew: i64,
    /// Claims that must be there beside `iss`, `sub`, `aud` and `exp`, with any value but `null`.
    pub require: &'a [&'static str],
}

impl Rule<'_> {
    pub(super) fn check(&self, assertion: &Assertion, now_unix: i64) -> Result<(), AssertionError> {
        if assertion.iss != self.issuer {
            return Err(AssertionError::Issuer);
        }
        if !self.audiences.contains(&assertion.aud.as_str()) {
            return Err(AssertionError::Audience);
        }
        let lacks = |name: &str| assertion.claims.get(name).is_none_or(serde_json::Value::is_null);
        if let Some(&name) = self.require.iter().find(|name| lacks(name)) {
            return Err(AssertionError::Missing(name));
        }
        self.check_times(assertion, now_unix)
    }

    fn check_times(&self, &Assertion { exp, iat, nbf, .. }: &Assertion, now_unix: i64) -> Result<(), AssertionError> {
        if exp <= now_unix {
            return Err(AssertionError::Expired);
        }
        let latest_start = now_unix.saturating_add(self.skew.max(0));
        if iat.max(nbf).is_some_and(|start| start > latest_start) {
            return Err(AssertionError::NotYetValid);
        }
        let short_enough = |from: i64| exp.saturating_sub(from) <= self.lifetime_max;
        if !short_enough(latest_start) || iat.is_some_and(|iat| exp <= iat || !short_enough(iat)) {
            return Err(AssertionError::Lifetime);
        }
        Ok(())
    }
}

fn is_media_type(typ: &str, wanted: &str) -> bool {
    subtype(typ).eq_ignore_ascii_case(subtype(wanted))
}

fn subtype(media_type: &str) -> &str {
    match media_type.split_at_checked(MEDIA_TYPE_PREFIX.len()) {
        Some((prefix, rest)) if prefix.eq_ignore_ascii_case(MEDIA_TYPE_PREFIX) => rest,
        _ => media_type,
    }
}
