//! Times: no leeway at the end, a little at the start, and lifetimes bounded from both sides.

use super::*;

fn at(claims: Value, now: i64) -> Result<(), AssertionError> {
    verify(&signer(EdDsa).assert(claims), &signer(EdDsa).keys(), &RULE, now).map(drop)
}

#[test]
fn expiry_has_no_leeway_and_a_start_has_the_rules_skew() {
    use AssertionError::{Expired, Lifetime, NotYetValid};
    let cases = [
        (json!({}), NOW, Ok(())),
        (json!({}), NOW + 299, Ok(())),
        (json!({}), NOW + 300, Err(Expired)),
        (json!({}), i64::MAX, Err(Expired)),
        (json!({}), NOW - 30, Ok(())),
        (json!({}), NOW - 31, Err(NotYetValid)),
        (json!({}), i64::MIN, Err(NotYetValid)),
        (json!({"nbf": NOW + 30}), NOW, Ok(())),
        (json!({"nbf": NOW + 31}), NOW, Err(NotYetValid)),
        (json!({"nbf": NOW - 31, "iat": NOW + 31}), NOW, Err(NotYetValid)),
        (json!({"exp": NOW + 600}), NOW, Ok(())),
        (json!({"exp": NOW + 601}), NOW, Err(Lifetime)),
        (json!({"iat": NOW - 301}), NOW, Err(Lifetime)),
        (json!({"iat": NOW + 30, "exp": NOW + 630}), NOW, Ok(())),
        (json!({"iat": NOW + 20, "exp": NOW + 20}), NOW, Err(Lifetime)),
        (json!({"iat": NOW + 20, "exp": NOW + 10}), NOW, Err(Lifetime)),
        (json!({"exp": i64::MAX}), NOW, Err(Lifetime)),
        (json!({"iat": i64::MIN, "exp": i64::MAX}), NOW, Err(Lifetime)),
        (json!({"exp": i64::MIN}), NOW, Err(Expired)),
        (json!({"exp": -1, "iat": -2}), NOW, Err(Expired)),
        (json!({"nbf": i64::MAX}), NOW, Err(NotYetValid)),
    ];
    for (claims, now, expected) in cases {
        assert_eq!(at(claims.clone(), now), expected, "{claims} at {now}");
    }
}

#[test]
fn without_iat_the_lifetime_is_bounded_from_now() {
    let rule = Rule { require: &[], ..RULE };
    let read = |exp: i64| {
        let jwt = signer(EdDsa).assert(json!({"iat": null, "exp": exp}));
        verify(&jwt, &signer(EdDsa).keys(), &rule, NOW).map(|assertion| assertion.iat)
    };
    assert_eq!(read(NOW + 630), Ok(None));
    assert_eq!(read(NOW + 631), Err(AssertionError::Lifetime));
    assert_eq!(read(i64::MAX), Err(AssertionError::Lifetime));
}

#[test]
fn a_negative_skew_is_none() {
    let rule = Rule { skew: i64::MIN, ..RULE };
    let read = |now: i64| verify(&signer(EdDsa).assert(json!({})), &signer(EdDsa).keys(), &rule, now).map(drop);
    assert_eq!(read(NOW), Ok(()));
    assert_eq!(read(NOW - 1), Err(AssertionError::NotYetValid));
}

#[test]
fn no_lifetime_means_no_assertion() {
    let rule = Rule { lifetime_max: 0, ..RULE };
    let read = verify(&signer(EdDsa).assert(json!({})), &signer(EdDsa).keys(), &rule, NOW).map(drop);
    assert_eq!(read, Err(AssertionError::Lifetime));
}
