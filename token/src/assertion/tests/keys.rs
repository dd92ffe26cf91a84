//! Key sets: what is taken, what is skipped, what refuses the whole set, and which key serves which assertion.

use super::*;

const ALL: [AssertionAlgorithm; 5] = AssertionAlgorithm::ALL;

fn read(json: &str) -> Result<AssertionKeys, KeySetError> {
    AssertionKeys::from_jwks(json.as_bytes(), &ALL)
}

fn refused(jwks: &[Value]) -> Option<KeySetError> {
    read(&json!({"keys": jwks}).to_string()).err()
}

/// Is an assertion of this signer, without `kid`, believed with these keys?
fn serves(keys: &AssertionKeys, signer: &Signer) -> Result<(), AssertionError> {
    let jwt = signer.sign(&signer.header_with(json!({"kid": null})), &payload(json!({})));
    verify(&jwt, keys, &RULE, NOW).map(drop)
}

#[test]
fn algorithms_are_known_by_their_words() {
    for alg in ALL {
        assert_eq!(alg.as_str().parse(), Ok(alg));
    }
    assert_eq!("Ed25519".parse(), Ok(EdDsa));
    for word in ["", "none", "HS256", "RS1", "RS384", "ES512", "ES256K", "Ed448", "rs256", "RS256 "] {
        assert_eq!(word.parse::<AssertionAlgorithm>(), Err(AssertionError::Algorithm), "{word}");
    }
}

#[test]
fn keys_for_other_things_are_skipped() {
    let (rsa, ec, ed) = (signer(Rs256), signer(Es256), signer(EdDsa));
    let short = |bytes: usize| b64([[0xc1].as_slice(), &vec![0x55; bytes - 1]].concat());
    let skipped = [
        ("an unknown kind", json!({"kty": "AKP", "alg": "ML-DSA-44", "pub": "AA"})),
        ("no kind", json!({"kid": "k"})),
        ("another curve", json!({"kty": "EC", "crv": "P-521", "x": "AA", "y": "AA"})),
        ("a curve for agreement", json!({"kty": "OKP", "crv": "X25519", "x": ed.jwk["x"]})),
        ("a curve of another kind", ed.jwk_with(json!({"kty": "EC"}))),
        ("for encryption", rsa.jwk_with(json!({"use": "enc"}))),
        ("for wrapping", rsa.jwk_with(json!({"key_ops": ["wrapKey"]}))),
        ("for no operation", rsa.jwk_with(json!({"key_ops": "verify"}))),
        ("an encryption algorithm", rsa.jwk_with(json!({"alg": "RSA-OAEP"}))),
        ("an algorithm that is not a word", rsa.jwk_with(json!({"alg": 256}))),
        ("an algorithm of another kind", rsa.jwk_with(json!({"alg": "ES256"}))),
        ("an algorithm of another curve", ec.jwk_with(json!({"alg": "ES384"}))),
        ("an id that is not a text", rsa.jwk_with(json!({"kid": 7}))),
        ("an id with a control character", rsa.jwk_with(json!({"kid": "a\nb"}))),
        ("RSA of 2040 bits", rsa.jwk_with(json!({"n": short(255)}))),
        ("RSA of 2047 bits", rsa.jwk_with(json!({"n": b64([[0x7f].as_slice(), &[0x55; 255]].concat())}))),
        ("RSA of 8200 bits", rsa.jwk_with(json!({"n": short(1025)}))),
        ("a leading zero", rsa.jwk_with(json!({"n": b64([[0].as_slice(), &[0x55; 256]].concat())}))),
        ("an exponent with a leading zero", rsa.jwk_with(json!({"e": "AAEAAQ"}))),
        ("no modulus", rsa.jwk_with(json!({"n": ""}))),
        ("exponent 3", rsa.jwk_with(json!({"e": "Aw"}))),
        ("an even exponent", rsa.jwk_with(json!({"e": "AQAC"}))),
        ("a long exponent", rsa.jwk_with(json!({"e": "AQAAAAE"}))),
        ("no exponent", rsa.jwk_with(json!({"e": ""}))),
        ("padding", ed.jwk_with(json!({"x": format!("{}=", ed.jwk["x"].as_str().unwrap())}))),
        ("a short coordinate", ec.jwk_with(json!({"x": "AAAA"}))),
        ("a point off the curve", ec.jwk_with(json!({"x": b64([1; 32])}))),
        ("a coordinate missing", json!({"kty": "EC", "crv": "P-256", "x": ec.jwk["x"]})),
        ("a short key", ed.jwk_with(json!({"x": "AAAA"}))),
    ];
    for (what, jwk) in &skipped {
        let keys = set(std::slice::from_ref(jwk));
        assert!(keys.is_empty() && keys.skipped() == 1, "{what}");
    }
    let mut all: Vec<Value> = skipped.into_iter().map(|(_, jwk)| jwk).collect();
    let skipped = all.len();
    all.push(ed.jwk.clone());
    let keys = set(&all);
    assert_eq!((keys.skipped(), serves(&keys, ed)), (skipped, Ok(())));
}

#[test]
fn sets_that_cannot_be_read_or_tell_secrets_are_refused_whole() {
    let (rsa, ed) = (signer(Rs256), signer(EdDsa));
    let many: Vec<Value> = vec![json!({}); JWKS_KEYS_MAX + 1];
    assert_eq!(refused(&many), Some(KeySetError::TooMany));
    assert_eq!(refused(&many[1..]), None);
    assert_eq!(read(&" ".repeat(JWKS_BYTES_MAX + 1)).err(), Some(KeySetError::TooLong));
    assert!(read(&format!("{{\"keys\":[]}}{}", " ".repeat(JWKS_BYTES_MAX - 11))).is_ok());
    let malformed = [
        "",
        "[]",
        "{}",
        "null",
        "[[]]",
        r#"{"keys":{}}"#,
        r#"{"keys":[1]}"#,
        r#"{"keys":[]}x"#,
        r#"{"keys":[],"keys":[]}"#,
        r#"{"keys":[{"kty":"RSA","kty":"EC"}]}"#,
    ];
    for json in malformed {
        assert_eq!(read(json).err(), Some(KeySetError::Malformed), "{json}");
    }
    let private = [
        ed.jwk_with(json!({"d": "AA"})),
        ed.jwk_with(json!({"d": null})),
        rsa.jwk_with(json!({"p": "AA"})),
        rsa.jwk_with(json!({"use": "enc", "qi": "AA"})),
        json!({"kty": "oct", "k": "AA"}),
        json!({"kty": "AKP", "priv": "AA"}),
    ];
    for jwk in private {
        assert_eq!(refused(&[ed.jwk.clone(), jwk.clone()]), Some(KeySetError::Private), "{jwk}");
    }
}

#[test]
fn two_keys_of_one_id_are_refused_unless_they_serve_different_algorithms() {
    let with_id = |alg| signer(alg).jwk_with(json!({"kid": "k"}));
    assert_eq!(refused(&[with_id(Es256), with_id(Es256)]), Some(KeySetError::Duplicate));
    assert_eq!(refused(&[with_id(Rs256), with_id(Ps256)]), Some(KeySetError::Duplicate));
    assert_eq!(refused(&[signer(Es256).jwk.clone(), signer(Es256).jwk.clone()]), None);
    let keys = set(&[with_id(Es256), with_id(EdDsa)]);
    for alg in [Es256, EdDsa] {
        assert!(verify(&signer(alg).assert(json!({})), &keys, &RULE, NOW).is_ok());
    }
}

#[test]
fn an_empty_set_refuses_everything() {
    let keys = set(&[]);
    assert!(keys.is_empty());
    assert_eq!(serves(&keys, signer(EdDsa)), Err(AssertionError::UnknownKey));
}

#[test]
fn a_key_serves_what_it_says_or_what_is_allowed_and_fits() {
    let pkcs1 = signer(Rs256);
    let pss = Signer { alg: Ps256, key: pkcs1.key.clone(), jwk: pkcs1.jwk.clone() };
    let with = |members: Value, allowed: &[AssertionAlgorithm]| {
        let jwks = json!({"keys": [pkcs1.jwk_with(members)]}).to_string();
        let keys = AssertionKeys::from_jwks(jwks.as_bytes(), allowed).unwrap();
        (serves(&keys, pkcs1), serves(&keys, &pss))
    };
    let (algorithm, unknown) = (Err(AssertionError::Algorithm), Err(AssertionError::UnknownKey));
    assert_eq!(with(json!({}), &ALL), (Ok(()), Ok(())));
    assert_eq!(with(json!({"alg": "RS256"}), &ALL), (Ok(()), unknown));
    assert_eq!(with(json!({"alg": "PS256", "use": "sig", "key_ops": ["verify"]}), &ALL), (unknown, Ok(())));
    assert_eq!(with(json!({}), &[Rs256]), (Ok(()), algorithm));
    assert_eq!(with(json!({"alg": "RS256"}), &[Ps256]), (algorithm, unknown));
    assert_eq!(with(json!({}), &[]), (algorithm, algorithm));
    let jwks = json!({"keys": [pkcs1.jwk]}).to_string();
    assert!(AssertionKeys::from_jwks(jwks.as_bytes(), &[Es256, EdDsa]).unwrap().is_empty());
}

/// A client whose header is `{alg, typ}` alone has each of its few keys tried.
#[test]
fn without_an_id_each_key_of_the_algorithm_is_tried_but_not_many() {
    let last = signer(EdDsa);
    let others: Vec<Value> = (0..KEYS_TRIED_MAX).map(|_| Signer::ed().jwk).collect();
    let among = |others: &[Value]| {
        let decoys = [signer(Es256).jwk.clone(), signer(Rs256).jwk.clone()];
        serves(&set(&[&decoys, others, &[last.jwk_with(json!({"kid": "k"}))]].concat()), last)
    };
    assert_eq!(among(&others[1..]), Ok(()));
    assert_eq!(among(&others), Err(AssertionError::Signature));
}

#[test]
fn an_id_chooses_its_key_and_no_other() {
    let (ed, other) = (signer(EdDsa), Signer::ed());
    let keys = set(&[
        ed.jwk_with(json!({"kid": "k"})),
        other.jwk_with(json!({"kid": "other"})),
        signer(Es256).jwk_with(json!({"kid": "ec"})),
        ed.jwk.clone(),
    ]);
    let with_id = |kid: &str| {
        let jwt = ed.sign(&ed.header_with(json!({"kid": kid})), &payload(json!({})));
        verify(&jwt, &keys, &RULE, NOW).map(drop)
    };
    assert_eq!(with_id("k"), Ok(()));
    assert_eq!(with_id("other"), Err(AssertionError::Signature));
    assert_eq!(with_id("ec"), Err(AssertionError::Algorithm));
    assert_eq!(with_id("K"), Err(AssertionError::UnknownKey));
    assert!(keys.has_kid("k") && !keys.has_kid("K"));
    assert_eq!(format!("{:?}", set(&[ed.jwk_with(json!({"kid": "k"}))])), r#"[(Some("k"), EdDsa)]"#);
}
