//! Assertions and the key sets they are verified with.
//!
//! An input of `assertion` is a header, claims and a last part, with an empty line between them. The last part is a
//! signature, or names who signs (`@ed`, `@ec`, or `@other`, whose key is in no set), with what comes behind the
//! signature. Promised: only what a key of the set signed is believed, with the algorithm and the id of that key; it
//! says what an ordinary reader finds in it, once; whoever peeks sees the same; and no other key of the same id
//! verifies it. Of a set: it is as good as each of its keys alone, holds nothing private, and verifies what was signed
//! only if it holds that key.

use std::sync::OnceLock;

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _},
};
use bailiwick_token::assertion::{
    Assertion, AssertionAlgorithm, AssertionError, AssertionKeys, JWKS_KEYS_MAX, Rule, TypRule, peek, peek_workload,
    verify, verify_workload,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value, json};

use crate::{
    mutate::{Random, changed},
    oracles,
    targets::{Broken, Checked, from, promise},
};

const NOW: i64 = 1_800_000_000;
const ISSUER: &str = "https://idp.example";
const AUDIENCE: &str = "https://as.example";
const TYP: &str = "oauth-id-jag+jwt";
const LIFETIME_MAX: i64 = 600;
const SKEW: i64 = 5;
const BETWEEN: &str = "\n\n";
/// Whose private key is one: its public key is the curve's generator.
const EC_PRIVATE: [u8; 32] = {
    let mut one = [0; 32];
    one[31] = 1;
    one
};
const EC_X: &str = "axfR8uEsQkf4vOblY6RA8ncDfYEt6zOg9KE5RdiYwpY";
const EC_Y: &str = "T-NC4v4af5uO5-tKfA-eFivOM1drMV7Oy7ZAaDe_UfU";

const HEADERS: [&str; 9] = [
    r#"{"alg":"EdDSA","typ":"oauth-id-jag+jwt","kid":"ed"}"#,
    r#"{"typ":"application/OAuth-ID-JAG+jwt","alg":"Ed25519"}"#,
    r#"{"alg":"ES256","typ":"oauth-id-jag+jwt","kid":"ec","x5t":"abc"}"#,
    r#"{"alg":"EdDSA","typ":"JWT","kid":"ed"}"#,
    r#"{"alg":"ES256","typ":"JOSE"}"#,
    r#"{"alg":"none","typ":"oauth-id-jag+jwt"}"#,
    r#"{"alg":"HS256","typ":"oauth-id-jag+jwt","kid":"ed"}"#,
    r#"{"alg":"EdDSA","typ":"oauth-id-jag+jwt","kid":"ec"}"#,
    r#"{"alg":"EdDSA","typ":"oauth-id-jag+jwt","crit":["exp"],"jwk":{"kty":"OKP","crv":"Ed25519","x":"AA"}}"#,
];
const CLAIMS: [&str; 5] = [
    r#"{"iss":"https://idp.example","sub":"jane","aud":"https://as.example","exp":1800000300,"iat":1800000000,"jti":"j"}"#,
    r#"{"iss":"https://idp.example","sub":"ja\u006ee","aud":["https://as.example"],"exp":1800000300,"jti":"j","act":{"sub":"x"}}"#,
    r#"{"sub":"spiffe://a/b","aud":["https://as.example"],"exp":1800000300,"iat":1799999999,"nbf":1800000000,"jti":"j"}"#,
    r#"{"iss":"https://idp.example","sub":"jane","aud":["https://as.example","x"],"exp":1800000300,"jti":"j"}"#,
    r#"{"iss":"https://idp.example","sub":"jane","aud":"https://as.example","exp":1800000000,"iat":1800000009,"jti":""}"#,
];
const LAST: [&str; 5] = ["@ed", "@ec", "@other", "", "AAAA"];
/// What is believed as it is: header, claims, last part.
const TOGETHER: [(usize, usize, usize); 8] =
    [(0, 0, 0), (0, 1, 0), (1, 0, 0), (1, 1, 0), (2, 0, 1), (3, 2, 0), (4, 2, 1), (4, 1, 1)];

/// Of sets, where `@ed` stands for the coordinate of that key.
const SETS: [&str; 8] = [
    r#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"ed","x":"@ed"}]}"#,
    r#"{"keys":[{"kty":"OKP","crv":"Ed25519","alg":"EdDSA","use":"sig","x":"@ed"},{"kty":"EC","crv":"P-256","kid":"ec","x":"axfR8uEsQkf4vOblY6RA8ncDfYEt6zOg9KE5RdiYwpY","y":"T-NC4v4af5uO5-tKfA-eFivOM1drMV7Oy7ZAaDe_UfU"}]}"#,
    r#"{"keys":[{"kty":"RSA","kid":"r","e":"AQAB","n":"ymDq43f0HArkWcqEVi0UNzRFpmqqPITTTYYi4DTKkU9JPCFX32-9yMlVzFvAtPf56FAl6qfl6jIbIGWhXWDc7uBhv42z997D5AYzSEmrCS1Oe84i9Fp_Xs1tCL4SAGH3HZcMeuiiR7wtnm8-3tbIYaL5ePXCPTLN11wLHfM_jvjnHejr78ws3zH7gP6kdaKhuAHMh5-k6AHUZLmBiUKzhLwGKTdILmdWCHPWRw3WfmqLPedLouKd__aMmbP9g7euGBV7KkeY76KfrxXjRrJK5LxMQd2n_iPhHX-BqaLc9eglIb9-XH0wNHeSZaTaBGYz3sHiCS6lYnQpL2o8iK4wLw"},{"kty":"OKP","crv":"X25519","x":"AA"}]}"#,
    r#"{"keys":[{"kty":"EC","crv":"P-384","alg":"ES384","key_ops":["verify"],"x":"kZqqnNJoQDVrcDfprKJQiBO1FNYX3Uid2O4yWBueBwA97QKkAcS3ZIb6QOlK8ewg","y":"_AsaiGuy5j1D3aSntLgLY4mHISEjuje5WPxbMHqGyUY7RMHPrmiDxIzVTPqyNlew"}]}"#,
    r#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"ed","use":"enc","x":"@ed"},{"kty":"oct","kid":"o","use":"sig"}]}"#,
    r#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"a","x":"@ed"},{"kty":"OKP","crv":"Ed25519","kid":"a","x":"@ed"}]}"#,
    r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"@ed","d":"AA"}]}"#,
    r#"{"keys":[],"spiffe_sequence":1}"#,
];
/// What only private keys have, as RFC 7518 and RFC 8037 list it.
const PRIVATE: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

/// Who signs.
struct Signers {
    ed: Ed25519KeyPair,
    ec: EcdsaKeyPair,
    other: Ed25519KeyPair,
    keys: AssertionKeys,
    /// Of the same ids, and somebody else's.
    others: AssertionKeys,
}

impl Signers {
    fn new() -> Option<Self> {
        let ed = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).ok()?;
        let other = Ed25519KeyPair::from_seed_unchecked(&[8; 32]).ok()?;
        let part = |text| URL_SAFE_NO_PAD.decode(text).ok();
        let point = [vec![4], part(EC_X)?, part(EC_Y)?].concat();
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let ec = EcdsaKeyPair::from_private_key_and_public_key(algorithm, &EC_PRIVATE, &point).ok()?;
        let okp = |kid: &str, key: &Ed25519KeyPair| {
            let x = URL_SAFE_NO_PAD.encode(key.public_key().as_ref());
            json!({"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": x})
        };
        let of_ec = json!({"kty": "EC", "crv": "P-256", "kid": "ec", "x": EC_X, "y": EC_Y});
        let read = |keys: Value| AssertionKeys::from_jwks(json!({"keys": keys}).to_string().as_bytes(), &ALL).ok();
        let keys = read(json!([okp("ed", &ed), of_ec]))?;
        let strange = Ed25519KeyPair::from_seed_unchecked(&[9; 32]).ok()?;
        let others = read(json!([okp("ed", &strange), okp("ec", &strange)]))?;
        Some(Self { ed, ec, other, keys, others })
    }
}

const ALL: [AssertionAlgorithm; 5] = AssertionAlgorithm::ALL;

fn signers() -> Result<&'static Signers, Broken> {
    static SIGNERS: OnceLock<Option<Signers>> = OnceLock::new();
    SIGNERS.get_or_init(Signers::new).as_ref().ok_or_else(|| Broken("no keys to try with".to_owned()))
}

/// Header, claims and last part, mostly such as belong together, of which at most one was changed.
pub(crate) fn one(random: &mut Random) -> Vec<u8> {
    let (header, claims, last) = match random.below(4) {
        0 => (random.below(HEADERS.len()), random.below(CLAIMS.len()), random.below(LAST.len())),
        _ => random.pick(&TOGETHER).copied().unwrap_or_default(),
    };
    let text = |texts: &[&str], at: usize| texts.get(at).copied().unwrap_or_default().as_bytes().to_vec();
    let (header, claims, last) = (text(&HEADERS, header), text(&CLAIMS, claims), text(&LAST, last));
    let parts = match random.below(8) {
        0 => [header, claims, changed(random, &last, &LAST)],
        1..4 => [changed(random, &header, &HEADERS), claims, last],
        _ => [header, changed(random, &claims, &CLAIMS), last],
    };
    parts.join(BETWEEN.as_bytes())
}

/// As it is sent, and the key that signed it: its id, and its algorithm's word.
struct Made {
    jwt: String,
    header: Vec<u8>,
    claims: Vec<u8>,
    by: Option<(&'static str, &'static str)>,
}

fn made(input: &[u8], signers: &Signers) -> Option<Made> {
    let mut rest = input;
    let mut part = || {
        let at = rest.windows(BETWEEN.len()).position(|pair| pair == BETWEEN.as_bytes()).unwrap_or(rest.len());
        let (part, after) = rest.split_at(at);
        rest = after.get(BETWEEN.len()..).unwrap_or_default();
        part.to_vec()
    };
    let (header, claims) = (part(), part());
    let last = std::str::from_utf8(rest).ok()?;
    let signed = [&header, &claims].map(|part| URL_SAFE_NO_PAD.encode(part)).join(".");
    let ed = |key: &Ed25519KeyPair| URL_SAFE_NO_PAD.encode(key.sign(signed.as_bytes()));
    let (signature, by) = match last.strip_prefix('@').map(|name| name.split_at_checked(2)) {
        Some(Some(("ed", rest))) => (ed(&signers.ed) + rest, rest.is_empty().then_some(("ed", "EdDSA"))),
        Some(Some(("ec", rest))) => {
            let signature = signers.ec.sign(&SystemRandom::new(), signed.as_bytes()).ok()?;
            (URL_SAFE_NO_PAD.encode(signature) + rest, rest.is_empty().then_some(("ec", "ES256")))
        }
        Some(_) => (ed(&signers.other), None),
        None => (last.to_owned(), None),
    };
    Some(Made { jwt: format!("{signed}.{signature}"), header, claims, by })
}

pub(crate) fn assertion(input: &[u8]) -> Checked {
    let signers = signers()?;
    let Some(made) = made(input, signers) else { return Ok(false) };
    let rule = |typ| Rule {
        typ,
        issuer: ISSUER,
        audiences: &[AUDIENCE],
        lifetime_max: LIFETIME_MAX,
        skew: SKEW,
        require: &["jti"],
    };
    let (exactly, workload) = (rule(TypRule::Exactly(TYP)), rule(TypRule::Workload));
    let believed = verify(&made.jwt, &signers.keys, &exactly, NOW);
    let peeked = peek(&made.jwt);
    // A key of that id is not enough, nor is the type of another kind.
    promise(verify(&made.jwt, &signers.others, &exactly, NOW).is_err(), "another's key verifies it")?;
    promise(verify_workload(&made.jwt, &signers.others, &workload, NOW).is_err(), "another's key verifies it")?;
    if let Err(AssertionError::TooLong | AssertionError::Malformed | AssertionError::Header) = peeked {
        promise(believed.is_err(), "it is believed, and cannot be peeked at")?;
    }
    let as_workload = verify_workload(&made.jwt, &signers.keys, &workload, NOW);
    promise(believed.is_err() || as_workload.is_err(), "it is of two kinds")?;
    if let Ok(assertion) = as_workload {
        let header = fits(&made, &assertion, true)?;
        let typ = header.get("typ").and_then(Value::as_str).map(str::to_ascii_lowercase);
        let bare = typ.as_deref().map(|typ| typ.strip_prefix("application/").unwrap_or(typ));
        promise(bare.is_none_or(|typ| ["jwt", "jose"].contains(&typ)), "of another kind")?;
        let seen = peek_workload(&made.jwt).map_err(|error| Broken(format!("believed, and not seen: {error}")))?;
        promise(seen.sub == assertion.sub, "whoever peeks sees another subject")?;
        promise(seen.iss.is_none_or(|iss| iss == assertion.iss), "whoever peeks sees another issuer")?;
        return Ok(true);
    }
    let Ok(assertion) = believed else { return Ok(false) };
    let header = fits(&made, &assertion, false)?;
    let typ = header.get("typ").and_then(Value::as_str).map(str::to_ascii_lowercase).unwrap_or_default();
    promise(typ.strip_prefix("application/").unwrap_or(&typ) == TYP, "of another kind")?;
    let seen = peeked.map_err(|error| Broken(format!("believed, and not seen: {error}")))?;
    promise(seen.iss == assertion.iss, "whoever peeks sees another issuer")?;
    promise(seen.typ.as_deref() == header.get("typ").and_then(Value::as_str), "whoever peeks sees another type")?;
    promise(seen.kid.as_deref() == header.get("kid").and_then(Value::as_str), "whoever peeks sees another key")?;
    Ok(true)
}

/// What is believed was signed, and is what an ordinary reader finds; gives the header by that reader.
fn fits(made: &Made, assertion: &Assertion, may_lack_issuer: bool) -> Result<Map<String, Value>, Broken> {
    let Some((kid, alg)) = made.by else { return Err(Broken("nobody signed it".to_owned())) };
    let (header, mut claims) = (ordinary(&made.header)?, ordinary(&made.claims)?);
    let text = |of: &Map<String, Value>, name: &str| of.get(name).and_then(Value::as_str).map(str::to_owned);
    let said = text(&header, "alg").unwrap_or_default();
    promise(said == alg || (said == "Ed25519" && alg == "EdDSA"), "by another algorithm")?;
    promise(text(&header, "kid").is_none_or(|said| said == kid), "by another key than it names")?;
    let known = ["alg", "typ", "kid", "x5t", "x5t#S256"];
    promise(header.keys().all(|name| known.contains(&name.as_str())), "the header says more than is heard")?;
    if may_lack_issuer {
        claims.entry("iss").or_insert_with(|| ISSUER.into());
    }
    promise(claims == assertion.claims, "other claims than an ordinary reader finds")?;
    let Assertion { iss, sub, aud, jti, iat, exp, nbf, .. } = assertion;
    promise(text(&claims, "iss").as_ref() == Some(iss) && iss == ISSUER, "another issuer")?;
    promise(text(&claims, "sub").as_ref() == Some(sub) && !sub.is_empty(), "another subject")?;
    let audiences = [Some(&json!(AUDIENCE)), Some(&json!([AUDIENCE]))];
    promise(aud == AUDIENCE && audiences.contains(&claims.get("aud")), "another audience")?;
    promise(jti.is_some() && &text(&claims, "jti") == jti, "another id")?;
    let time = |name: &str| claims.get(name).and_then(Value::as_i64);
    promise(time("exp") == Some(*exp) && time("iat") == *iat && time("nbf") == *nbf, "other times")?;
    promise((NOW + 1..=NOW + LIFETIME_MAX + SKEW).contains(exp), "it is over, or lasts too long")?;
    promise([iat, nbf].iter().all(|time| time.is_none_or(|time| time <= NOW + SKEW)), "it has not begun")?;
    promise(iat.is_none_or(|iat| iat < *exp && exp.saturating_sub(iat) <= LIFETIME_MAX), "it lasts too long")?;
    Ok(header)
}

/// One object, with every member once.
pub(crate) fn ordinary(text: &[u8]) -> Result<Map<String, Value>, Broken> {
    let broken = || Broken("an ordinary reader does not read it".to_owned());
    let text = std::str::from_utf8(text).map_err(|_no_text| broken())?;
    let value: Value = serde_json::from_str(text).map_err(|_no_json| broken())?;
    promise(oracles::members_written(text) == oracles::members_kept(&value), "a member stands twice")?;
    match value {
        Value::Object(members) => Ok(members),
        _ => Err(broken()),
    }
}

pub(crate) fn a_set(random: &mut Random) -> Vec<u8> {
    from(random, &SETS)
}

/// The text with the coordinate of the key that signs.
fn with_key(input: &[u8], signers: &Signers) -> Option<String> {
    let x = URL_SAFE_NO_PAD.encode(signers.ed.public_key().as_ref());
    Some(std::str::from_utf8(input).ok()?.replace("@ed", &x))
}

pub(crate) fn key_set(input: &[u8]) -> Checked {
    let signers = signers()?;
    let Some(text) = with_key(input, signers) else { return Ok(false) };
    let Ok(keys) = AssertionKeys::from_jwks(text.as_bytes(), &ALL) else { return Ok(false) };
    let set = ordinary(text.as_bytes())?;
    let jwks: Vec<&Map<String, Value>> = match set.get("keys") {
        Some(Value::Array(all)) => all.iter().filter_map(Value::as_object).collect(),
        _ => return Err(Broken("a set without keys".to_owned())),
    };
    promise(jwks.len() <= JWKS_KEYS_MAX, "too many keys")?;
    promise(!jwks.iter().any(|jwk| PRIVATE.iter().any(|name| jwk.contains_key(*name))), "something private")?;
    let mut skipped = 0;
    for jwk in &jwks {
        let alone = json!({"keys": [jwk]}).to_string();
        let alone = AssertionKeys::from_jwks(alone.as_bytes(), &ALL);
        let alone = alone.map_err(|error| Broken(format!("a key of it is none alone: {error}")))?;
        promise(alone.is_empty() == (alone.skipped() == 1), "a key is both there and not")?;
        skipped += alone.skipped();
        if let Some(kid) = jwk.get("kid").and_then(Value::as_str) {
            promise(!alone.has_kid(kid) || keys.has_kid(kid), "a key is lost among others")?;
        }
    }
    promise(keys.skipped() == skipped && keys.is_empty() == (skipped == jwks.len()), "other keys than one by one")?;
    let narrow = AssertionKeys::from_jwks(text.as_bytes(), &[AssertionAlgorithm::EdDsa]);
    promise(narrow.is_ok_and(|narrow| narrow.skipped() >= skipped), "fewer algorithms, and more keys")?;
    holds_what_it_verifies(&jwks, &keys, signers)?;
    Ok(!keys.is_empty())
}

/// What the key signed is verified only if the set has that key for it.
fn holds_what_it_verifies(jwks: &[&Map<String, Value>], keys: &AssertionKeys, signers: &Signers) -> Result<(), Broken> {
    let header = r#"{"alg":"EdDSA","typ":"oauth-id-jag+jwt"}"#;
    let parts = [header, CLAIMS.first().copied().unwrap_or_default(), "@ed"];
    let unnamed = made(parts.join(BETWEEN).as_bytes(), signers);
    let Some(Made { jwt, .. }) = unnamed else { return Err(Broken("nothing to verify".to_owned())) };
    let rule = Rule {
        typ: TypRule::Exactly(TYP),
        issuer: ISSUER,
        audiences: &[AUDIENCE],
        lifetime_max: LIFETIME_MAX,
        skew: SKEW,
        require: &[],
    };
    let x = URL_SAFE_NO_PAD.encode(signers.ed.public_key().as_ref());
    let text = |jwk: &Map<String, Value>, name: &str| jwk.get(name).and_then(Value::as_str).map(str::to_owned);
    let is_held = jwks.iter().any(|jwk| {
        let usage = jwk.get("use").is_none_or(|usage| usage == "sig");
        usage && text(jwk, "crv").as_deref() == Some("Ed25519") && text(jwk, "x").as_ref() == Some(&x)
    });
    let verified = verify(&jwt, keys, &rule, NOW).is_ok();
    promise(!verified || is_held, "a key verifies that is not there")
}
