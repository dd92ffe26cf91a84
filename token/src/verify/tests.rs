//! What a verifier refuses: a table of forgeries, a golden token, any flipped byte, and a second implementation.

use aws_lc_rs::hmac;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::{ACT_DEPTH_MAX, Actor, MintError, SigningKey, mint};

const NOW: i64 = 1_800_000_000;
const EXPECT: Expect<'_> = Expect { issuer: "http://127.0.0.1:8430", audience: "http://127.0.0.1:8420/mcp/finance" };

pub(crate) fn claims() -> Claims {
    Claims {
        iss: EXPECT.issuer.into(),
        aud: EXPECT.audience.into(),
        sub: "jane@example.com".into(),
        agent_sub: "coding-assistant".into(),
        project_id: "platform".into(),
        client_id: "bailiwick-cli".into(),
        consent_id: "c-1".into(),
        sid: "s-1".into(),
        scope: "mcp:tools".into(),
        act: Actor { sub: "coding-assistant".into(), act: None },
        jti: "t-1".into(),
        iat: NOW,
        nbf: None,
        exp: NOW + 600,
        min_revision: None,
        cnf: None,
        binding_alg: None,
        binding: None,
    }
}

fn ed() -> SigningKey {
    SigningKey::from_ed25519_seed(&[7; 32]).unwrap()
}

fn es() -> SigningKey {
    SigningKey::from_pkcs8(Algorithm::Es256, &SigningKey::generate_pkcs8(Algorithm::Es256).unwrap()).unwrap()
}

fn keys_of(keys: &[&SigningKey]) -> VerifyingKeys {
    let jwks: Vec<String> = keys.iter().map(|key| key.public_jwk().to_json().unwrap()).collect();
    let parts = keys.iter().zip(&jwks).map(|(key, jwk)| (key.kid(), key.algorithm().as_str(), jwk.as_str()));
    VerifyingKeys::from_jwks(parts).unwrap()
}

fn minted(key: &SigningKey, change: impl FnOnce(&mut Claims)) -> String {
    let mut claims = claims();
    change(&mut claims);
    mint(&claims, key).unwrap().expose().to_owned()
}

fn b64(text: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(text)
}

/// A token with any header and payload, correctly signed: what a confused or hostile issuer could write.
fn signed(key: &SigningKey, header: &str, payload: &str) -> String {
    let message = format!("{}.{}", b64(header), b64(payload));
    let signature = b64(key.sign(message.as_bytes()).unwrap());
    format!("{message}.{signature}")
}

fn header(key: &SigningKey) -> String {
    json!({"alg": key.algorithm().as_str(), "kid": key.kid(), "typ": "at+jwt"}).to_string()
}

fn payload() -> String {
    serde_json::to_string(&claims()).unwrap()
}

#[test]
fn a_minted_token_gives_back_its_claims() {
    for key in [ed(), es()] {
        let token = minted(&key, |_| {});
        assert_eq!(keys_of(&[&key]).verify(&token, &EXPECT, NOW), Ok(claims()));
    }
}

#[test]
fn the_golden_token_stays_readable_and_is_minted_the_same() {
    let golden = include_str!("golden.jwt").trim();
    assert_eq!(minted(&ed(), |_| {}), golden);
    assert_eq!(keys_of(&[&ed()]).verify(golden, &EXPECT, NOW + 599), Ok(claims()));
}

#[test]
fn a_chain_of_actors_is_bounded_where_it_is_minted_and_where_it_is_read() {
    let key = ed();
    let keys = keys_of(&[&key]);
    let chain = |depth: usize| {
        let first = Actor { sub: "a-1".into(), act: None };
        (2..=depth).fold(first, |inner, at| Actor { sub: format!("a-{at}"), act: Some(Box::new(inner)) })
    };
    let longest = Claims { act: chain(ACT_DEPTH_MAX), ..claims() };
    let token = mint(&longest, &key).unwrap();
    assert_eq!(keys.verify(token.expose(), &EXPECT, NOW), Ok(longest));

    for depth in [ACT_DEPTH_MAX + 1, 100, 200] {
        let longer = Claims { act: chain(depth), ..claims() };
        assert_eq!(mint(&longer, &key).err(), Some(MintError::Actors));
        let token = signed(&key, &header(&key), &serde_json::to_string(&longer).unwrap());
        assert!(token.len() <= TOKEN_BYTES_MAX);
        assert_eq!(keys.verify(&token, &EXPECT, NOW), Err(TokenError::Malformed), "{depth}");
    }
    let more = payload().replace(r#""act":{"#, r#""act":{"act":{"sub":"b","iss":"x"},"#);
    assert_eq!(keys.verify(&signed(&key, &header(&key), &more), &EXPECT, NOW), Err(TokenError::Malformed));
}

#[test]
fn time_is_checked_without_leeway_at_the_end_and_with_a_little_at_the_start() {
    let keys = keys_of(&[&ed()]);
    let token = minted(&ed(), |_| {});
    let cases = [
        (NOW, Ok(claims())),
        (NOW + 599, Ok(claims())),
        (NOW + 600, Err(TokenError::Expired)),
        (i64::MAX, Err(TokenError::Expired)),
        (NOW - 5, Ok(claims())),
        (NOW - 6, Err(TokenError::NotYetValid)),
        (i64::MIN, Err(TokenError::NotYetValid)),
    ];
    for (now, expected) in cases {
        assert_eq!(keys.verify(&token, &EXPECT, now), expected, "{now}");
    }
    let later = minted(&ed(), |claims| claims.nbf = Some(NOW + 60));
    assert_eq!(keys.verify(&later, &EXPECT, NOW + 54), Err(TokenError::NotYetValid));
    assert!(keys.verify(&later, &EXPECT, NOW + 55).is_ok());
}

#[test]
fn another_audience_or_issuer_is_refused_byte_for_byte() {
    let keys = keys_of(&[&ed()]);
    for aud in
        ["http://127.0.0.1:8420/mcp/hr", "http://127.0.0.1:8420/mcp/finance/", "", "HTTP://127.0.0.1:8420/mcp/finance"]
    {
        assert_eq!(
            keys.verify(&minted(&ed(), |c| c.aud = aud.into()), &EXPECT, NOW),
            Err(TokenError::Audience),
            "{aud}"
        );
    }
    assert_eq!(keys.verify(&minted(&ed(), |c| c.iss += "/"), &EXPECT, NOW), Err(TokenError::Issuer));
}

#[test]
fn forged_headers_are_refused() {
    let (key, other) = (ed(), es());
    let keys = keys_of(&[&key, &other]);
    let (kid, other_kid) = (key.kid(), other.kid());
    let raw = raw_public_key(kid, Algorithm::EdDsa, &key.public_jwk().to_json().unwrap()).unwrap();
    let hs256 = {
        let message =
            format!("{}.{}", b64(format!(r#"{{"alg":"HS256","kid":"{kid}","typ":"at+jwt"}}"#)), b64(payload()));
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &raw), message.as_bytes());
        format!("{message}.{}", b64(tag))
    };
    let none = format!("{}.{}.", b64(format!(r#"{{"alg":"none","kid":"{kid}","typ":"at+jwt"}}"#)), b64(payload()));
    let with = |header: String| signed(&key, &header, &payload());
    let cases = [
        ("alg none", none, TokenError::Malformed),
        ("alg none, signed", with(format!(r#"{{"alg":"none","kid":"{kid}","typ":"at+jwt"}}"#)), TokenError::Malformed),
        ("public key as HMAC secret", hs256, TokenError::Malformed),
        (
            "another key's algorithm",
            with(format!(r#"{{"alg":"ES256","kid":"{kid}","typ":"at+jwt"}}"#)),
            TokenError::Signature,
        ),
        (
            "another key's id",
            with(format!(r#"{{"alg":"EdDSA","kid":"{other_kid}","typ":"at+jwt"}}"#)),
            TokenError::Signature,
        ),
        (
            "both of another key",
            with(format!(r#"{{"alg":"ES256","kid":"{other_kid}","typ":"at+jwt"}}"#)),
            TokenError::Signature,
        ),
        ("unknown key id", with(r#"{"alg":"EdDSA","kid":"x","typ":"at+jwt"}"#.into()), TokenError::Signature),
        ("no key id", with(r#"{"alg":"EdDSA","typ":"at+jwt"}"#.into()), TokenError::Malformed),
        ("no type", with(format!(r#"{{"alg":"EdDSA","kid":"{kid}"}}"#)), TokenError::Malformed),
        ("an id token", with(format!(r#"{{"alg":"EdDSA","kid":"{kid}","typ":"JWT"}}"#)), TokenError::Malformed),
        (
            "crit",
            with(format!(r#"{{"alg":"EdDSA","kid":"{kid}","typ":"at+jwt","crit":["exp"]}}"#)),
            TokenError::Malformed,
        ),
        (
            "own key",
            with(format!(r#"{{"alg":"EdDSA","kid":"{kid}","typ":"at+jwt","jwk":{{}}}}"#)),
            TokenError::Malformed,
        ),
        (
            "unencoded payload",
            with(format!(r#"{{"alg":"EdDSA","kid":"{kid}","typ":"at+jwt","b64":false}}"#)),
            TokenError::Malformed,
        ),
        (
            "alg twice",
            with(format!(r#"{{"alg":"none","alg":"EdDSA","kid":"{kid}","typ":"at+jwt"}}"#)),
            TokenError::Malformed,
        ),
        ("an array", with(format!(r#"["EdDSA","{kid}","at+jwt"]"#)), TokenError::Malformed),
        ("not JSON", with("x".into()), TokenError::Malformed),
    ];
    for (what, token, error) in cases {
        assert_eq!(keys.verify(&token, &EXPECT, NOW), Err(error), "{what}");
    }
}

#[test]
fn forged_claims_are_refused_even_when_signed() {
    let key = ed();
    let keys = keys_of(&[&key]);
    let change = |name: &str, value: Value| {
        let mut claims = serde_json::to_value(claims()).unwrap();
        claims[name] = value;
        claims.to_string()
    };
    let twice = |member: &str| payload().replacen('{', &format!("{{{member},"), 1);
    let cases = [
        ("two audiences", change("aud", json!([EXPECT.audience, "x"]))),
        ("a list of one audience", change("aud", json!([EXPECT.audience]))),
        ("no expiry", change("exp", Value::Null)),
        ("expiry as text", change("exp", json!("1900000000"))),
        ("expiry as fraction", change("exp", json!(1.9e9))),
        ("unknown claim", change("may_act", json!({"sub": "x"}))),
        ("a confirmation that is no thumbprint", change("cnf", json!({"jkt": "x"}))),
        ("an unknown confirmation", change("cnf", json!({"kid": URL_SAFE_NO_PAD.encode([0; 32])}))),
        ("a confirmation of nothing", change("cnf", json!({}))),
        (
            "two confirmations",
            change("cnf", json!({"jkt": URL_SAFE_NO_PAD.encode([0; 32]), "x5t#S256": URL_SAFE_NO_PAD.encode([0; 32])})),
        ),
        ("expiry twice", twice(r#""exp":9999999999"#)),
        ("subject twice", twice(r#""sub":"root@example.com""#)),
        ("actor twice", payload().replace(r#""act":{"#, r#""act":{"sub":"other","#)),
        ("trailing bytes", payload() + "x"),
        ("an array", json!(["a"]).to_string()),
        ("nothing", String::new()),
    ];
    for (what, payload) in cases {
        assert_eq!(
            keys.verify(&signed(&key, &header(&key), &payload), &EXPECT, NOW),
            Err(TokenError::Malformed),
            "{what}"
        );
    }
}

#[test]
fn damaged_tokens_are_refused() {
    let keys = keys_of(&[&ed()]);
    let token = minted(&ed(), |_| {});
    for end in 0..token.len() {
        assert!(keys.verify(token.get(..end).unwrap(), &EXPECT, NOW).is_err(), "cut at {end}");
    }
    let parts: Vec<&str> = token.split('.').collect();
    let big = minted(&ed(), |claims| claims.scope = "x ".repeat(2_800));
    let cases = [
        format!("{token}."),
        format!("{token}="),
        format!("{token} "),
        format!(" {token}"),
        format!("{token}\n"),
        format!("{token}AAAA"),
        format!("{token}.{token}"),
        format!("{}.{}", parts[0], parts[1]),
        format!("{}..{}", parts[0], parts[2]),
        format!(".{}.{}", parts[1], parts[2]),
        format!("{}.{}.{}", parts[1], parts[0], parts[2]),
        format!("{}{}", big, "A".repeat(TOKEN_BYTES_MAX)),
        "é.é.é".into(),
        ".".repeat(100),
    ];
    for case in cases {
        assert!(keys.verify(&case, &EXPECT, NOW).is_err(), "{case}");
    }
}

#[test]
fn oversize_is_refused_before_anything_is_read() {
    let key = ed();
    let long =
        signed(&key, &header(&key), &serde_json::to_string(&Claims { scope: "x".repeat(8_000), ..claims() }).unwrap());
    assert_eq!(keys_of(&[&key]).verify(&long, &EXPECT, NOW), Err(TokenError::Malformed));
    assert!(mint(&Claims { scope: "x".repeat(8_000), ..claims() }, &key).is_err());
    assert!(mint(&Claims { exp: NOW, ..claims() }, &key).is_err());
}

#[test]
fn another_signer_is_refused_and_no_keys_refuse_everything() {
    let stranger = SigningKey::from_ed25519_seed(&[8; 32]).unwrap();
    let forged = signed(&stranger, &header(&ed()), &payload());
    assert_eq!(keys_of(&[&ed()]).verify(&forged, &EXPECT, NOW), Err(TokenError::Signature));
    assert_eq!(VerifyingKeys::default().verify(&minted(&ed(), |_| {}), &EXPECT, NOW), Err(TokenError::Signature));
}

#[test]
fn key_sets_with_a_bad_key_are_refused_whole() {
    let key = ed();
    let jwk = key.public_jwk().to_json().unwrap();
    let read = |keys: &[(&str, &str, &str)]| VerifyingKeys::from_jwks(keys.iter().copied()).err();
    assert_eq!(read(&[(key.kid(), "EdDSA", &jwk), (key.kid(), "EdDSA", &jwk)]), Some(KeyError::Duplicate));
    assert_eq!(read(&[(key.kid(), "HS256", &jwk)]), Some(KeyError::Algorithm));
    assert_eq!(read(&[("other", "EdDSA", &jwk)]), Some(KeyError::Jwk));
}

/// jsonwebtoken, which shares no code with this crate, accepts what we mint and reads the same claims.
#[test]
fn a_second_implementation_accepts_our_tokens() {
    for (key, alg) in [(ed(), jsonwebtoken::Algorithm::EdDSA), (es(), jsonwebtoken::Algorithm::ES256)] {
        let jwk: jsonwebtoken::jwk::Jwk = serde_json::from_str(&key.public_jwk().to_json().unwrap()).unwrap();
        let mut rules = jsonwebtoken::Validation::new(alg);
        rules.validate_exp = false; // it would read the real clock
        rules.set_audience(&[EXPECT.audience]);
        rules.set_issuer(&[EXPECT.issuer]);
        let decoded = jsonwebtoken::decode::<Claims>(
            &minted(&key, |_| {}),
            &jsonwebtoken::DecodingKey::from_jwk(&jwk).unwrap(),
            &rules,
        );
        assert_eq!(decoded.unwrap().claims, claims());
    }
}

proptest! {
    #[test]
    fn any_flipped_byte_is_refused(at in any::<prop::sample::Index>(), mask in 1..128_u8, es256 in any::<bool>()) {
        let key = if es256 { es() } else { ed() };
        let mut bytes = minted(&key, |_| {}).into_bytes();
        let at = at.index(bytes.len());
        bytes[at] ^= mask;
        let token = String::from_utf8(bytes).unwrap();
        prop_assert!(keys_of(&[&key]).verify(&token, &EXPECT, NOW).is_err());
    }

    #[test]
    fn no_text_is_a_token(text in "\\PC{0,200}|[A-Za-z0-9_.-]{0,400}") {
        prop_assert!(keys_of(&[&ed()]).verify(&text, &EXPECT, NOW).is_err());
    }
}
