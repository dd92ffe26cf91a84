//! What must be refused, and how: forged headers, claims and bytes, one line each.

use aws_lc_rs::hmac;
use proptest::prelude::*;

use super::*;
use AssertionError::{
    Algorithm, Audience, Claim, Header, Issuer, Malformed, Missing, Signature, TooLong, Type, UnknownKey,
};

fn refused(jwt: &str) -> Option<AssertionError> {
    verify(jwt, &signer(EdDsa).keys(), &RULE, NOW).err()
}

fn with_header(members: Value) -> String {
    signer(EdDsa).sign(&signer(EdDsa).header_with(members), &payload(json!({})))
}

fn with_payload(payload: &str) -> String {
    signer(EdDsa).sign(&signer(EdDsa).header_with(json!({})), payload)
}

/// Signed by a key that is not the one named.
fn by_a_stranger() -> String {
    Signer::ed().assert(json!({}))
}

/// The public key, which everybody has, as the secret of an HMAC.
fn hs256() -> String {
    let public = URL_SAFE_NO_PAD.decode(signer(EdDsa).jwk["x"].as_str().unwrap()).unwrap();
    let header = signer(EdDsa).header_with(json!({"alg": "HS256"}));
    let message = format!("{}.{}", b64(header), b64(payload(json!({}))));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &public), message.as_bytes());
    format!("{message}.{}", b64(tag))
}

#[test]
fn forged_headers_are_refused() {
    let none = signer(EdDsa).header_with(json!({"alg": "none"}));
    let raw = |header: &str| signer(EdDsa).sign(header, &payload(json!({})));
    let cases = [
        ("alg none", format!("{}.{}.", b64(&none), b64(payload(json!({})))), Algorithm),
        ("alg none, signed", with_header(json!({"alg": "none"})), Algorithm),
        ("alg nOnE", with_header(json!({"alg": "nOnE"})), Algorithm),
        ("public key as HMAC secret", hs256(), Algorithm),
        ("an algorithm that the key is not for", with_header(json!({"alg": "ES256"})), Algorithm),
        ("an algorithm too weak", with_header(json!({"alg": "RS1"})), Algorithm),
        ("no alg", with_header(json!({"alg": null})), Header),
        ("alg is a list", with_header(json!({"alg": ["EdDSA"]})), Header),
        ("another signer", by_a_stranger(), Signature),
        ("unknown key id", with_header(json!({"kid": "x"})), UnknownKey),
        ("empty key id", with_header(json!({"kid": ""})), Header),
        ("key id is a number", with_header(json!({"kid": 1})), Header),
        ("key id is a path", with_header(json!({"kid": "../../dev/null"})), UnknownKey),
        ("key id is long", with_header(json!({"kid": "k".repeat(257)})), Header),
        ("key id with a control character", with_header(json!({"kid": "k\u{0}"})), Header),
        ("no type", with_header(json!({"typ": null})), Type),
        ("plain type", with_header(json!({"typ": "JWT"})), Type),
        ("an access token", with_header(json!({"typ": "at+jwt"})), Type),
        ("a longer type", with_header(json!({"typ": "oauth-id-jag+jwt2"})), Type),
        ("a type of types", with_header(json!({"typ": "application/application/oauth-id-jag+jwt"})), Type),
        ("a type of another tree", with_header(json!({"typ": "text/oauth-id-jag+jwt"})), Type),
        ("type with white space", with_header(json!({"typ": " oauth-id-jag+jwt"})), Type),
        ("a nested JWT", with_header(json!({"cty": "JWT"})), Header),
        ("critical extension", with_header(json!({"crit": ["exp"], "exp": 1})), Header),
        ("no critical extension", with_header(json!({"crit": []})), Header),
        ("own key", with_header(json!({"jwk": signer(EdDsa).jwk})), Header),
        ("own key's place", with_header(json!({"jku": "https://evil.example/jwks"})), Header),
        ("own certificate", with_header(json!({"x5c": ["AA"]})), Header),
        ("own certificate's place", with_header(json!({"x5u": "https://evil.example/x5u"})), Header),
        ("a thumbprint that is none", with_header(json!({"x5t": ["AA"]})), Header),
        ("compressed", with_header(json!({"zip": "DEF"})), Header),
        ("unencoded payload", with_header(json!({"b64": false})), Header),
        ("encrypted", with_header(json!({"enc": "A128GCM"})), Header),
        ("unknown member", with_header(json!({"x": "y"})), Header),
        ("alg twice", raw(r#"{"alg":"none","alg":"EdDSA","kid":"k","typ":"oauth-id-jag+jwt"}"#), Malformed),
        ("alg twice, escaped", raw(r#"{"\u0061lg":"none","alg":"EdDSA","typ":"oauth-id-jag+jwt"}"#), Malformed),
        ("nested twice", raw(r#"{"alg":"EdDSA","jwk":{"a":1,"a":2}}"#), Malformed),
        ("an array", raw(r#"["EdDSA","k","oauth-id-jag+jwt"]"#), Malformed),
        ("trailing bytes", raw(r#"{"alg":"EdDSA"}x"#), Malformed),
        ("not JSON", raw("x"), Malformed),
        ("nothing", raw(""), Malformed),
    ];
    for (what, jwt, error) in cases {
        assert_eq!(refused(&jwt), Some(error), "{what}");
        let known_by_header = !matches!(error, Signature | UnknownKey | Type) && !what.contains("the key is not for");
        assert_eq!(peek(&jwt).err(), known_by_header.then_some(error), "peek: {what}");
    }
}

#[test]
fn forged_claims_are_refused_even_when_signed() {
    let with = |claims: Value| with_payload(&payload(claims));
    let first = |members: &str| with_payload(&payload(json!({})).replacen('{', &format!("{{{members},"), 1));
    let deep = |levels: usize| format!("{}1{}", "[".repeat(levels), "]".repeat(levels));
    let huge = with_payload(&payload(json!({})).replace(&(NOW + 300).to_string(), "18446744073709551615"));
    let cases = [
        ("another issuer", with(json!({"iss": "https://idp.example/"})), Issuer),
        ("issuer in other case", with(json!({"iss": "HTTPS://idp.example"})), Issuer),
        ("no issuer", with(json!({"iss": null})), Missing("iss")),
        ("issuers", with(json!({"iss": [ISSUER]})), Claim("iss")),
        ("no subject", with(json!({"sub": null})), Missing("sub")),
        ("empty subject", with(json!({"sub": ""})), Claim("sub")),
        ("subject is a number", with(json!({"sub": 1})), Claim("sub")),
        ("subject with a new line", with(json!({"sub": "u-1\nroot"})), Claim("sub")),
        ("long subject", with(json!({"sub": "u".repeat(1025)})), Claim("sub")),
        ("no audience", with(json!({"aud": null})), Missing("aud")),
        ("another audience", with(json!({"aud": "https://other.example"})), Audience),
        ("audience with a slash", with(json!({"aud": format!("{AUDIENCE}/")})), Audience),
        ("an audience among two", with(json!({"aud": [AUDIENCE, "https://other.example"]})), Audience),
        ("an audience twice", with(json!({"aud": [AUDIENCE, AUDIENCE]})), Audience),
        ("no audience in a list", with(json!({"aud": []})), Audience),
        ("another audience in a list", with(json!({"aud": ["https://other.example"]})), Audience),
        ("audience in a list in a list", with(json!({"aud": [[AUDIENCE]]})), Claim("aud")),
        ("audience is an object", with(json!({"aud": {"a": 1}})), Claim("aud")),
        ("no jti", with(json!({"jti": null})), Missing("jti")),
        ("empty jti", with(json!({"jti": ""})), Claim("jti")),
        ("jti is a number", with(json!({"jti": 1})), Claim("jti")),
        ("long jti", with(json!({"jti": "j".repeat(1025)})), Claim("jti")),
        ("no client", with(json!({"client_id": null})), Missing("client_id")),
        ("null client", with_payload(&payload(json!({})).replace("\"app\"", "null")), Missing("client_id")),
        ("no expiry", with(json!({"exp": null})), Missing("exp")),
        ("expiry as text", with(json!({"exp": (NOW + 300).to_string()})), Claim("exp")),
        ("expiry as fraction", with(json!({"exp": 1_800_000_300.5})), Claim("exp")),
        ("expiry as integral fraction", with(json!({"exp": 1_800_000_300.0})), Claim("exp")),
        ("expiry beyond 63 bits", huge, Claim("exp")),
        ("no issue time", with(json!({"iat": null})), Missing("iat")),
        ("issue time as text", with(json!({"iat": "1"})), Claim("iat")),
        ("start as fraction", with(json!({"nbf": 1.5})), Claim("nbf")),
        ("expiry twice", first(r#""exp":9999999999"#), Malformed),
        ("subject twice", first(r#""sub":"root""#), Malformed),
        ("subject twice, escaped", first(r#""\u0073ub":"root""#), Malformed),
        ("member twice, deep", first(r#""act":[{"a":{"sub":"x","sub":"y"}}]"#), Malformed),
        ("too deep", with_payload(&payload(json!({})).replacen('{', &format!(r#"{{"a":{},"#, deep(64)), 1)), Malformed),
        ("trailing bytes", with_payload(&(payload(json!({})) + "x")), Malformed),
        ("two objects", with_payload(&payload(json!({})).repeat(2)), Malformed),
        ("an array", with_payload(r#"["a"]"#), Malformed),
        ("a JWT", with_payload(&with_payload("{}")), Malformed),
        ("nothing", with_payload(""), Malformed),
    ];
    for (what, jwt, error) in cases {
        assert_eq!(refused(&jwt), Some(error), "{what}");
    }
    let deepest = with_payload(&payload(json!({})).replacen('{', &format!(r#"{{"a":{},"#, deep(63)), 1));
    assert_eq!(refused(&deepest), None);
}

/// A rule for kinds without a type of their own does not take those that have one.
#[test]
fn a_typed_assertion_does_not_pass_as_a_plain_one() {
    let rule = Rule { typ: TypRule::Plain, ..RULE };
    let with = |typ: Value| verify(&with_header(json!({"typ": typ})), &signer(EdDsa).keys(), &rule, NOW).map(drop);
    for typ in [Value::Null, json!("JWT"), json!("jwt"), json!("application/jwt")] {
        assert_eq!(with(typ.clone()), Ok(()), "{typ}");
    }
    for typ in [TYP, "at+jwt", "application/oauth-id-jag+jwt", "JWT2", "dpop+jwt", "logout+jwt"] {
        assert_eq!(with(json!(typ)), Err(Type), "{typ}");
    }
}

#[test]
fn damaged_assertions_are_refused() {
    let jwt = with_payload(&payload(json!({})));
    assert_eq!(refused(&jwt), None);
    for end in 0..jwt.len() {
        assert!(refused(jwt.get(..end).unwrap()).is_some(), "cut at {end}");
    }
    let [header, claims, signature] = jwt.split('.').collect::<Vec<_>>()[..] else { panic!("three parts") };
    // 64 bytes leave four bits of the last character unused, and canonical base64 has them zero
    let loose = |part: &str| [part.strip_suffix(['A', 'Q', 'g', 'w']).unwrap(), "B"].concat();
    let cases = [
        ("a part more", format!("{jwt}."), Malformed),
        ("five parts", format!("{header}.{claims}.{header}.{claims}.{signature}"), Malformed),
        ("two parts", format!("{header}.{claims}"), Malformed),
        ("one part", header.to_owned(), Malformed),
        ("no claims", format!("{header}..{signature}"), Signature),
        ("no header", format!(".{claims}.{signature}"), Malformed),
        ("no signature", format!("{header}.{claims}."), Signature),
        ("padding", format!("{jwt}=="), Malformed),
        ("padded claims, signed", signer(EdDsa).sign_parts(header, &format!("{claims}=")), Malformed),
        ("loose bits in the signature", format!("{header}.{claims}.{}", loose(signature)), Malformed),
        ("the other alphabet, signed", signer(EdDsa).sign_parts(header, &format!("{claims}++")), Malformed),
        ("white space before", format!(" {jwt}"), Malformed),
        ("white space after", format!("{jwt}\n"), Malformed),
        ("more signature", format!("{jwt}AAAA"), Signature),
        ("parts exchanged", format!("{claims}.{header}.{signature}"), Header),
        ("not ASCII", "é.é.é".to_owned(), Malformed),
        ("dots", ".".repeat(100), Malformed),
        ("nothing", String::new(), Malformed),
    ];
    for (what, jwt, error) in cases {
        assert_eq!(refused(&jwt), Some(error), "{what}");
    }
}

#[test]
fn size_is_looked_at_before_anything_else() {
    let of_length = |bytes: usize| {
        let filled = |filling: usize| with_payload(&payload(json!({"x": "x".repeat(filling)})));
        (0..bytes).rev().map(|less| filled(less * 3 / 4)).find(|jwt| jwt.len() <= bytes).unwrap()
    };
    let longest = of_length(ASSERTION_BYTES_MAX);
    assert!(longest.len() > ASSERTION_BYTES_MAX - 4);
    assert_eq!(refused(&longest), None);
    for long in [format!("{longest}AAAA"), "x".repeat(ASSERTION_BYTES_MAX + 1)] {
        assert_eq!((refused(&long), peek(&long).err()), (Some(TooLong), Some(TooLong)));
    }
}

/// Every byte of a good assertion, replaced by its neighbours in the alphabet and by what is not in it.
#[test]
fn no_byte_of_an_assertion_can_be_changed() {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    for signer in SIGNERS.iter() {
        let (keys, jwt) = (signer.keys(), signer.assert(json!({})));
        assert!(verify(&jwt, &keys, &RULE, NOW).is_ok());
        for (at, byte) in jwt.bytes().enumerate() {
            let place = ALPHABET.iter().position(|known| *known == byte).unwrap_or_default();
            for other in [ALPHABET[(place + 1) % 64], ALPHABET[(place + 63) % 64], b'.', b'=', b' ', byte ^ 0x20] {
                let mut bytes = jwt.clone().into_bytes();
                bytes[at] = other;
                let changed = String::from_utf8(bytes).unwrap();
                let is_refused = changed == jwt || verify(&changed, &keys, &RULE, NOW).is_err();
                assert!(is_refused, "{:?} at {at}: {other}", signer.alg);
            }
        }
    }
}

#[test]
fn every_refusal_has_its_own_word() {
    let errors = [
        TooLong,
        Malformed,
        Header,
        Algorithm,
        Type,
        UnknownKey,
        Signature,
        Missing("iss"),
        Claim("iss"),
        Issuer,
        Audience,
        AssertionError::Expired,
        AssertionError::NotYetValid,
        AssertionError::Lifetime,
    ];
    let words: std::collections::BTreeSet<&str> = errors.iter().map(|error| error.word()).collect();
    assert_eq!(words.len(), errors.len());
    assert!(words.iter().all(|word| word.starts_with("assertion_")));
}

proptest! {
    #[test]
    fn no_text_is_an_assertion(text in "\\PC{0,200}|[A-Za-z0-9_.-]{0,400}|\\{\"alg\":\"EdDSA\"[^.]{0,60}\\}") {
        prop_assert!(refused(&text).is_some());
        prop_assert!(peek(&text).is_err());
    }

    /// Signed nonsense: reaches what stands behind the signature.
    #[test]
    fn signed_nonsense_is_refused(header in ".{0,40}", payload in "\\PC{0,80}|\\{\"exp\":-?[0-9]{1,25}\\}") {
        prop_assert!(refused(&signer(EdDsa).sign(&header, &payload)).is_some());
        prop_assert!(refused(&with_payload(&payload)).is_some());
    }

    /// Any value for any claim that is looked at: refused or believed, never a panic; and the clock may say anything.
    #[test]
    fn no_claim_and_no_time_panics(
        name in "iss|sub|aud|jti|exp|iat|nbf|scope|resource", number in any::<i64>(), text in any::<String>(),
        now in any::<i64>(),
    ) {
        for value in [json!(number), json!(text), json!([text]), json!({&text: number}), json!(number as f64)] {
            let jwt = with_payload(&payload(json!({ &name: value })));
            if let Ok(assertion) = verify(&jwt, &signer(EdDsa).keys(), &RULE, now) {
                let _read = (assertion.scope_words(), assertion.texts("resource"), assertion.text("sub"));
                prop_assert!(assertion.exp > now);
            }
        }
    }

    #[test]
    fn no_key_set_panics(text in "\\PC{0,200}", n in "[A-Za-z0-9_=-]{0,400}", e in "[A-Za-z0-9_=-]{0,12}") {
        let jwks = [
            text,
            json!({"keys": [{"kty": "RSA", "n": n, "e": e}]}).to_string(),
            json!({"keys": [{"kty": "EC", "crv": "P-384", "x": n, "y": e}]}).to_string(),
            json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "x": n}]}).to_string(),
        ];
        for json in jwks {
            let _read = AssertionKeys::from_jwks(json.as_bytes(), &AssertionAlgorithm::ALL);
        }
    }
}
