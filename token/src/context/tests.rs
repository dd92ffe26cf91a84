//! Contexts: what is signed verifies for the request it was signed for, at its service, in its minute, and nowhere
//! else; and the vectors that the libraries in `docs/downstream/` are tested with.

use serde_json::{Value, json};

use super::*;
use crate::{mint, verify::tests::claims as token_claims};

const NOW: i64 = 1_800_000_000;
const EXPECT: ExpectContext<'_> = ExpectContext {
    issuer: "https://bailiwick.example.com",
    audience: "https://finance.internal/mcp",
    htm: "POST",
    target: "/mcp",
    body: BODY.as_bytes(),
};
const BODY: &str =
    r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"query_data","arguments":{"q":1.50}}}"#;

fn key(seed: u8) -> ContextKey {
    ContextKey::from_seed(format!("context-{seed}"), &[seed; 32]).unwrap()
}

fn keys(of: &[&ContextKey]) -> VerifyingKeys {
    let jwks: Vec<_> =
        of.iter().map(|key| (key.public_jwk().kid.clone(), key.public_jwk().to_json().unwrap())).collect();
    VerifyingKeys::from_jwks(jwks.iter().map(|(kid, jwk)| (kid.as_str(), "EdDSA", jwk.as_str()))).unwrap()
}

fn claims() -> ContextClaims<'static> {
    ContextClaims {
        iss: EXPECT.issuer.into(),
        aud: EXPECT.audience.into(),
        iat: NOW,
        exp: NOW + LIFETIME_SECONDS,
        jti: "r-1.7".into(),
        sub: "jane@example.com".into(),
        agent: "coder".into(),
        earlier_agents: Cow::Borrowed(&[]),
        client_id: "cli".into(),
        project: "platform".into(),
        consent: "c-1".into(),
        session: "s-1".into(),
        virtual_server: "finance".into(),
        server: "finance".into(),
        method: "tools/call".into(),
        tool: Some("query_data".into()),
        prompt: None,
        uri: None,
        tier: "retrieval".into(),
        decision: ContextDecision {
            effect: "permit".into(),
            policies: vec![ContextPolicy { name: "reads".into(), version: 3 }],
        },
        revision: 42,
        digest: "00ff".into(),
        request_id: "r-1".into(),
        binding: "bound".into(),
        htm: EXPECT.htm.into(),
        target: digest(EXPECT.target.as_bytes()).into(),
        body: digest(EXPECT.body).into(),
    }
}

fn signed(claims: &ContextClaims<'_>) -> String {
    key(9).sign(claims).unwrap()
}

/// A part of a JWT. Members are in the order of their names, whichever order the JSON library keeps in this build.
fn part(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(sorted(value))
}

fn sorted(value: &Value) -> String {
    match value {
        Value::Object(members) => {
            let members: std::collections::BTreeMap<_, _> = members.iter().collect();
            let members = members.into_iter().map(|(name, value)| format!("{}:{}", json!(name), sorted(value)));
            format!("{{{}}}", members.collect::<Vec<_>>().join(","))
        }
        Value::Array(values) => format!("[{}]", values.iter().map(sorted).collect::<Vec<_>>().join(",")),
        other => other.to_string(),
    }
}

/// Anything as a JWT, signed with the context key of these tests.
fn forged(header: &Value, claims: &Value) -> String {
    let said = format!("{}.{}", part(header), part(claims));
    let signature = SigningKey::from_ed25519_seed(&[9; 32]).unwrap().sign(said.as_bytes()).unwrap();
    format!("{said}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn check(context: &str, expect: &ExpectContext<'_>, now: i64) -> Result<ContextClaims<'static>, ContextError> {
    verify(&keys(&[&key(9)]), context, expect, now)
}

#[test]
fn what_is_signed_verifies_for_its_own_request_in_its_minute() {
    let (claims, context) = (claims(), signed(&claims()));
    for now in [NOW - CLOCK_SKEW_SECONDS, NOW, NOW + LIFETIME_SECONDS + CLOCK_SKEW_SECONDS - 1] {
        assert_eq!(check(&context, &EXPECT, now).unwrap(), claims);
    }
    for now in [NOW - CLOCK_SKEW_SECONDS - 1, NOW + LIFETIME_SECONDS + CLOCK_SKEW_SECONDS] {
        assert_eq!(check(&context, &EXPECT, now), Err(ContextError::Time));
    }
}

#[test]
fn another_request_service_or_issuer_refuses_it() {
    let context = signed(&claims());
    for (expect, error) in [
        (ExpectContext { issuer: "https://other.example.com", ..EXPECT }, ContextError::Issuer),
        (ExpectContext { audience: "https://hr.internal/mcp", ..EXPECT }, ContextError::Audience),
        (ExpectContext { htm: "GET", ..EXPECT }, ContextError::Request),
        (ExpectContext { target: "/mcp?x=1", ..EXPECT }, ContextError::Request),
        (ExpectContext { body: b"{}", ..EXPECT }, ContextError::Request),
        (ExpectContext { body: b"", ..EXPECT }, ContextError::Request),
    ] {
        assert_eq!(check(&context, &expect, NOW), Err(error), "{expect:?}");
    }
}

#[test]
fn a_long_life_is_refused_however_well_signed() {
    let long = ContextClaims { exp: NOW + LIFETIME_SECONDS + 1, ..claims() };
    assert_eq!(check(&signed(&long), &EXPECT, NOW), Err(ContextError::Time));
}

#[test]
fn access_tokens_and_contexts_are_not_taken_for_each_other_even_under_one_key() {
    let one_key = SigningKey::from_ed25519_seed(&[9; 32]).unwrap();
    let token = mint(&token_claims(), &one_key).unwrap();
    assert_eq!(check(token.expose(), &EXPECT, NOW), Err(ContextError::Malformed));
    let expect = crate::Expect { issuer: EXPECT.issuer, audience: EXPECT.audience };
    let as_token = keys(&[&key(9)]).verify(&signed(&claims()), &expect, NOW);
    assert_eq!(as_token, Err(crate::TokenError::Malformed));
}

#[test]
fn forgeries_are_refused() {
    for (name, context, error) in forgeries() {
        let error = if error == "signature" { ContextError::Signature } else { ContextError::Malformed };
        assert_eq!(check(&context, &EXPECT, NOW), Err(error), "{name}");
    }
}

#[test]
fn what_could_not_be_sent_is_not_signed() {
    let long = "x".repeat(CONTEXT_BYTES_MAX);
    let long = ContextClaims { uri: Some(long.into()), ..claims() };
    assert_eq!(key(9).sign(&long), Err(ContextError::TooLong));
    assert_eq!(ContextKey::from_seed("k".into(), &[1; 31]).unwrap_err(), KeyError::Private);
}

#[test]
fn a_key_that_signs_contexts_cannot_be_printed() {
    let printed = format!("{:?}", key(9));
    assert!(printed.contains("kid") && !printed.contains("pair"), "{printed}");
}

/// Each with its name, and which of the checks refuses it.
fn forgeries() -> Vec<(&'static str, String, &'static str)> {
    let kid = key(9).public_jwk().kid.clone();
    let good = json!({"alg": "EdDSA", "kid": kid, "typ": TYPE});
    let with = |name: &str, value: Value| {
        let mut header = good.clone();
        header[name] = value;
        header
    };
    let said = serde_json::to_value(claims()).unwrap();
    let context = signed(&claims());
    let (head, signature) = context.rsplit_once('.').unwrap();
    let (header, _) = head.split_once('.').unwrap();
    let mut other = said.clone();
    other["sub"] = json!("mallory@example.com");
    let other_claims = part(&other);
    let unsigned = |header: &Value| format!("{}.{}.", part(header), part(&said));
    let unsigned_none = unsigned(&with("alg", json!("none")));
    vec![
        ("changed claims", format!("{header}.{other_claims}.{signature}"), "signature"),
        ("no signature", format!("{head}."), "malformed"),
        ("algorithm none", unsigned_none, "malformed"),
        ("algorithm HS256, keyed with the public key", hs256(&kid, &said), "malformed"),
        ("unknown key", key(8).sign(&claims()).unwrap(), "signature"),
        (
            "another key under a known id",
            {
                let forger = SigningKey::from_ed25519_seed(&[8; 32]).unwrap();
                format!("{head}.{}", URL_SAFE_NO_PAD.encode(forger.sign(head.as_bytes()).unwrap()))
            },
            "signature",
        ),
        ("type of an access token", forged(&with("typ", json!("at+jwt")), &said), "malformed"),
        ("type JWT", forged(&with("typ", json!("JWT")), &said), "malformed"),
        ("no type", forged(&json!({"alg": "EdDSA", "kid": kid}), &said), "malformed"),
        ("a critical extension", forged(&with("crit", json!(["x"])), &said), "malformed"),
        ("a key of its own", forged(&with("jwk", json!({"kty": "OKP"})), &said), "malformed"),
        ("two contexts in one header", format!("{context}, {context}"), "signature"),
        ("nothing", String::new(), "malformed"),
    ]
}

/// Signed with HMAC, the secret being the public key as everybody can read it.
fn hs256(kid: &str, claims: &Value) -> String {
    use aws_lc_rs::hmac;
    let said = format!("{}.{}", part(&json!({"alg": "HS256", "kid": kid, "typ": TYPE})), part(claims));
    let secret = URL_SAFE_NO_PAD.decode(&key(9).public_jwk().x).unwrap();
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &secret), said.as_bytes());
    format!("{said}.{}", URL_SAFE_NO_PAD.encode(tag))
}

/// The vectors: requests as a service gets them, and whether it is to believe them.
fn vectors() -> Value {
    let context = signed(&claims());
    let case = |name: &str, contexts: &[&str], changed: Value, is_valid: bool| {
        let mut case = json!({
            "name": name, "contexts": contexts, "method": EXPECT.htm, "target": EXPECT.target, "body": BODY,
            "now": NOW, "valid": is_valid,
        });
        for (key, value) in changed.as_object().into_iter().flatten() {
            case[key] = value.clone();
        }
        case
    };
    let mut cases = vec![
        case("as it was signed", &[&context], json!({}), true),
        case("five seconds before it was signed", &[&context], json!({"now": NOW - 5}), true),
        case("in its last second and four more", &[&context], json!({"now": NOW + 64}), true),
        case("an hour before it was signed", &[&context], json!({"now": NOW - 3_600}), false),
        case("expired", &[&context], json!({"now": NOW + 65}), false),
        case("no header", &[], json!({}), false),
        case("the header twice", &[&context, &context], json!({}), false),
        case("another body", &[&context], json!({"body": BODY.replace("1.50", "1.5")}), false),
        case("an empty body", &[&context], json!({"body": ""}), false),
        case("another method", &[&context], json!({"method": "PUT"}), false),
        case("another target", &[&context], json!({"target": "/mcp?admin=1"}), false),
    ];
    let get = ContextClaims { htm: "GET".into(), body: digest(b"").into(), ..claims() };
    cases.push(case("a request without a body", &[&signed(&get)], json!({"method": "GET", "body": ""}), true));
    for (name, changed) in [
        ("for another service", ContextClaims { aud: "https://hr.internal/mcp".into(), ..claims() }),
        ("from another issuer", ContextClaims { iss: "https://other.example.com".into(), ..claims() }),
        ("with a life of an hour", ContextClaims { exp: NOW + 3_600, ..claims() }),
    ] {
        cases.push(case(name, &[&signed(&changed)], json!({}), false));
    }
    for (name, context, _) in forgeries() {
        cases.push(case(name, &[&context], json!({}), false));
    }
    let jwk = serde_json::to_value(key(9).public_jwk()).unwrap();
    json!({
        "about": "Signed contexts (docs/security/downstream.md). A service of this issuer and audience gets `contexts` \
                  as values of the header Bailiwick-Context, with this method, target and body, at `now`.",
        "issuer": EXPECT.issuer, "audience": EXPECT.audience, "jwks": {"keys": [jwk]}, "cases": cases,
    })
}

#[test]
fn the_vectors_are_those_in_docs() {
    let text = serde_json::to_string_pretty(&vectors()).unwrap() + "\n";
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/downstream/vectors.json");
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(path, &text).unwrap();
    }
    let written: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    assert!(written == vectors(), "run this test once with UPDATE_EXPECT=1");
    for case in vectors()["cases"].as_array().unwrap() {
        let text = |key: &str| case[key].as_str().unwrap();
        let expect =
            ExpectContext { htm: text("method"), target: text("target"), body: text("body").as_bytes(), ..EXPECT };
        let believed = match case["contexts"].as_array().unwrap().as_slice() {
            [one] => check(one.as_str().unwrap(), &expect, case["now"].as_i64().unwrap()).is_ok(),
            _ => false,
        };
        assert_eq!(believed, case["valid"], "{case}");
    }
}
