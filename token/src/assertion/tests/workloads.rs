//! Workload tokens: their types, issuers that are not named, and the bundles their keys come from.

use super::*;
use AssertionError::{Claim, Issuer, Missing, Signature, Type};

const SPIFFE_ID: &str = "spiffe://acme.example/ns/agents/sa/report-writer";
const WORKLOAD: Rule<'static> = Rule { typ: TypRule::Workload, require: &[], ..RULE };

fn header(members: Value) -> String {
    changed(json!({"alg": "ES256", "kid": "k"}), members)
}

/// What SPIRE signs, with other or further claims; `null` takes one away.
fn svid(claims: Value) -> String {
    changed(json!({"sub": SPIFFE_ID, "aud": [AUDIENCE], "iat": NOW, "exp": NOW + 300}), claims)
}

fn verified(header: &str, payload: &str) -> Result<Assertion, AssertionError> {
    let signer = signer(Es256);
    verify_workload(&signer.sign(header, payload), &signer.keys(), &WORKLOAD, NOW)
}

#[test]
fn an_issuer_that_is_not_named_is_the_one_whose_keys_verify() {
    let read = verified(&header(json!({})), &svid(json!({}))).unwrap();
    assert_eq!((read.iss.as_str(), read.sub.as_str(), read.aud.as_str()), (ISSUER, SPIFFE_ID, AUDIENCE));
    let named = verified(&header(json!({})), &svid(json!({"iss": ISSUER}))).unwrap();
    assert_eq!(named.iss, ISSUER);
    let signer = signer(Es256);
    let jwt = signer.sign(&header(json!({})), &svid(json!({})));
    assert_eq!(verify(&jwt, &signer.keys(), &WORKLOAD, NOW), Err(Missing("iss")), "others name theirs");
    assert_eq!(verified(&header(json!({})), &svid(json!({"iss": "https://other.example"}))), Err(Issuer));
    for odd in [json!(""), json!(7), json!(["https://idp.example"])] {
        assert_eq!(verified(&header(json!({})), &svid(json!({"iss": odd}))), Err(Claim("iss")), "{odd}");
    }
    let null = svid(json!({})).replacen('{', r#"{"iss":null,"#, 1);
    assert_eq!(verified(&header(json!({})), &null), Err(Claim("iss")));
    assert_eq!(verified(&header(json!({})), &svid(json!({"sub": null}))), Err(Missing("sub")));
    assert_eq!(verified(&header(json!({})), &svid(json!({"exp": null}))), Err(Missing("exp")));
    let strangers = Signer::ec(Es256).sign(&header(json!({})), &svid(json!({})));
    assert_eq!(verify_workload(&strangers, &signer.keys(), &WORKLOAD, NOW), Err(Signature));
}

#[test]
fn types_of_other_kinds_are_no_workloads() {
    for typ in [Value::Null, json!("JWT"), json!("jwt"), json!("JOSE"), json!("application/jose")] {
        assert_eq!(verified(&header(json!({"typ": typ})), &svid(json!({}))).map(drop), Ok(()), "{typ}");
    }
    for typ in [TYP, "at+jwt", "secevent+jwt", "dpop+jwt", "wit+jwt", "JWT2", "JOSE+JSON"] {
        assert_eq!(verified(&header(json!({"typ": typ})), &svid(json!({}))), Err(Type), "{typ}");
    }
    let as_plain = |typ: &str| TypRule::Plain.admits(Some(typ));
    assert!(as_plain("JWT") && !as_plain("JOSE"), "of the others none has this type");
}

#[test]
fn a_look_at_a_workload_token_says_who_it_claims_to_be() {
    let look = |payload: &str| peek_workload(&signer(Es256).sign(&header(json!({"typ": "JOSE"})), payload));
    let peeked = look(&svid(json!({}))).unwrap();
    assert_eq!((peeked.iss.as_deref(), peeked.sub.as_str()), (None, SPIFFE_ID));
    assert_eq!((peeked.typ.as_deref(), peeked.kid.as_deref()), (Some("JOSE"), Some("k")));
    assert_eq!(format!("{peeked:?}"), "PeekedWorkload { .. }");
    assert_eq!(look(&svid(json!({"iss": ISSUER}))).unwrap().iss.as_deref(), Some(ISSUER));
    assert_eq!(look(&svid(json!({"sub": null}))).unwrap_err(), Missing("sub"));
    assert_eq!(look(&svid(json!({"iss": 7}))).unwrap_err(), Claim("iss"));
    assert_eq!(look(&svid(json!({"sub": "x".repeat(IDENTIFIER_BYTES_MAX + 1)}))).unwrap_err(), Claim("sub"));
}

#[test]
fn of_a_spiffe_bundle_the_keys_for_jwts_count_and_no_others() {
    let signer = signer(Es256);
    let bundle = |usage: &str| {
        let jwks = json!({"spiffe_sequence": 1, "keys": [signer.jwk_with(json!({"kid": "k", "use": usage}))]});
        let jwks = jwks.to_string();
        let read = |read: fn(&[u8], &[AssertionAlgorithm]) -> _| -> AssertionKeys {
            Result::<AssertionKeys, KeySetError>::unwrap(read(jwks.as_bytes(), &AssertionAlgorithm::ALL))
        };
        (!read(AssertionKeys::from_bundle).is_empty(), !read(AssertionKeys::from_jwks).is_empty())
    };
    assert_eq!(bundle("jwt-svid"), (true, false));
    assert_eq!(bundle("sig"), (true, true));
    for other in ["x509-svid", "enc", "wit-svid", ""] {
        assert_eq!(bundle(other), (false, false), "{other}");
    }
}
