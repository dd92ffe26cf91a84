//! Security event tokens: what is one, and that nothing else is.

use super::*;

const SESSION_REVOKED: &str = "https://schemas.openid.net/secevent/caep/event-type/session-revoked";
const EVENT_RULE: EventRule<'static> = EventRule { issuer: ISSUER, audience: AUDIENCE, age_max: 86_400, skew: 30 };

/// The claims of an ordinary SET, with other or further ones; `null` takes one away.
fn said(claims: Value) -> String {
    let ordinary = json!({
        "iss": ISSUER, "aud": AUDIENCE, "jti": "j-1", "iat": NOW, "txn": "t-1",
        "sub_id": {"format": "email", "email": "jane@example.com"},
        "events": {SESSION_REVOKED: {"event_timestamp": NOW - 5}},
    });
    changed(ordinary, claims)
}

fn header(members: Value) -> String {
    let mut all = json!({"typ": "secevent+jwt"});
    for (name, value) in members.as_object().unwrap() {
        all[name] = value.clone();
    }
    signer(Es256).header_with(all)
}

fn event(claims: Value) -> Result<SecurityEvent, AssertionError> {
    let jwt = signer(Es256).sign(&header(json!({})), &said(claims));
    verify_event(&jwt, &signer(Es256).keys(), &EVENT_RULE, NOW)
}

#[test]
fn a_set_of_every_algorithm_is_read() {
    for signer in SIGNERS.iter() {
        let header = signer.header_with(json!({"typ": "application/SecEvent+jwt"}));
        let jwt = signer.sign(&header, &said(json!({"toe": NOW - 7, "aud": [AUDIENCE]})));
        let read = verify_event(&jwt, &signer.keys(), &EVENT_RULE, NOW).unwrap();
        assert_eq!((read.iss.as_str(), read.jti.as_str(), read.iat, read.toe), (ISSUER, "j-1", NOW, Some(NOW - 7)));
        assert_eq!(read.event_type, SESSION_REVOKED);
        assert_eq!(read.event["event_timestamp"], NOW - 5);
        assert_eq!(read.subject["email"], "jane@example.com");
        assert_eq!(format!("{read:?}"), format!("SecurityEvent {{ iss: \"{ISSUER}\", iat: {NOW}, .. }}"));
    }
}

#[test]
fn what_a_set_must_and_must_not_say() {
    use AssertionError::{Audience, Claim, Expired, Issuer, Missing, NotYetValid};
    let two = json!({SESSION_REVOKED: {}, "https://example.com/other": {}});
    let long = "x".repeat(IDENTIFIER_BYTES_MAX + 1);
    for (claims, fault) in [
        (json!({"sub": "u-1"}), Claim("sub")),
        (json!({"sub": ""}), Claim("sub")),
        (json!({"exp": NOW + 300}), Claim("exp")),
        (json!({"exp": NOW + 300, "sub": "u-1"}), Claim("sub")),
        (json!({"iss": "https://other.example"}), Issuer),
        (json!({"iss": null}), Missing("iss")),
        (json!({"aud": "https://other.example"}), Audience),
        (json!({"aud": [AUDIENCE, "https://other.example"]}), Audience),
        (json!({"aud": []}), Audience),
        (json!({"aud": null}), Missing("aud")),
        (json!({"jti": null}), Missing("jti")),
        (json!({"jti": ""}), Claim("jti")),
        (json!({"jti": long}), Claim("jti")),
        (json!({"jti": "a\nb"}), Claim("jti")),
        (json!({"iat": null}), Missing("iat")),
        (json!({"iat": "1800000000"}), Claim("iat")),
        (json!({"iat": NOW + 31}), NotYetValid),
        (json!({"iat": NOW - 86_401}), Expired),
        (json!({"iat": i64::MIN}), Expired),
        (json!({"toe": "then"}), Claim("toe")),
        (json!({"sub_id": null}), Missing("sub_id")),
        (json!({"sub_id": "jane@example.com"}), Claim("sub_id")),
        (json!({"events": null}), Missing("events")),
        (json!({"events": {}}), Claim("events")),
        (json!({"events": two}), Claim("events")),
        (json!({"events": {SESSION_REVOKED: "now"}}), Claim("events")),
        (json!({"events": {long: {}}}), Claim("events")),
        (json!({"events": [SESSION_REVOKED]}), Claim("events")),
    ] {
        assert_eq!(event(claims.clone()), Err(fault), "{claims}");
    }
    for claims in [json!({"iat": NOW + 30}), json!({"iat": NOW - 86_400}), json!({"nonce": "n", "scope": "mcp:read"})] {
        assert!(event(claims.clone()).is_ok(), "{claims}");
    }
}

#[test]
fn a_set_is_signed_by_a_known_key_with_its_own_algorithm() {
    let known = signer(Es256).keys();
    let check = |jwt: &str| verify_event(jwt, &known, &EVENT_RULE, NOW).map(|_| ());
    let none = format!("{}.{}.", b64(header(json!({"alg": "none"}))), b64(said(json!({}))));
    assert_eq!(check(&none), Err(AssertionError::Algorithm));
    let hmac = signer(Es256).sign(&header(json!({"alg": "HS256"})), &said(json!({})));
    assert_eq!(check(&hmac), Err(AssertionError::Algorithm));
    let unknown = signer(Es256).sign(&header(json!({"kid": "other"})), &said(json!({})));
    assert_eq!(check(&unknown), Err(AssertionError::UnknownKey));
    let stranger = Signer::ec(Es256).sign(&header(json!({})), &said(json!({})));
    assert_eq!(check(&stranger), Err(AssertionError::Signature));
    let own_key = signer(Es256).sign(&header(json!({"jwk": {"kty": "EC"}})), &said(json!({})));
    assert_eq!(check(&own_key), Err(AssertionError::Header));
    let twice = said(json!({})).replacen('{', "{\"jti\":\"j-0\",", 1);
    assert_eq!(check(&signer(Es256).sign(&header(json!({})), &twice)), Err(AssertionError::Malformed));
    assert_eq!(check(&"x".repeat(ASSERTION_BYTES_MAX + 1)), Err(AssertionError::TooLong));
    assert_eq!(check("a.b"), Err(AssertionError::Malformed));
}

#[test]
fn no_other_kind_of_token_passes_as_a_set_and_no_set_as_another_kind() {
    let keys = signer(Es256).keys();
    for typ in [json!(null), json!("JWT"), json!("JOSE"), json!(TYP), json!("at+jwt"), json!("dpop+jwt")] {
        let jwt = signer(Es256).sign(&header(json!({"typ": typ})), &said(json!({})));
        assert_eq!(verify_event(&jwt, &keys, &EVENT_RULE, NOW), Err(AssertionError::Type), "{typ}");
    }
    // Even one that says all that the others must say.
    let set =
        signer(Es256).sign(&header(json!({})), &said(json!({"sub": "u-1", "exp": NOW + 300, "client_id": "app"})));
    for typ in [TypRule::Exactly(TYP), TypRule::Plain, TypRule::Workload] {
        assert_eq!(verify(&set, &keys, &Rule { typ, ..RULE }, NOW).unwrap_err(), AssertionError::Type);
    }
    assert_eq!(verify_workload(&set, &keys, &Rule { typ: TypRule::Workload, ..RULE }, NOW), Err(AssertionError::Type));
}
