//! Claims of a verified assertion: forms, and what the typed readers give.

use super::*;

fn read(claims: Value) -> Assertion {
    verify(&signer(EdDsa).assert(claims), &signer(EdDsa).keys(), &RULE, NOW).unwrap()
}

#[test]
fn a_text_is_a_text() {
    let cases = [
        (json!({}), Ok(None)),
        (json!({"email": "jane@example.com"}), Ok(Some("jane@example.com"))),
        (json!({"email": ""}), Ok(Some(""))),
        (json!({"email": "é"}), Ok(Some("é"))),
        (json!({"email": "jane\n@example.com"}), Err(AssertionError::Claim("email"))),
        (json!({"email": "jane\u{85}"}), Err(AssertionError::Claim("email"))),
        (json!({"email": ["jane@example.com"]}), Err(AssertionError::Claim("email"))),
        (json!({"email": 1}), Err(AssertionError::Claim("email"))),
    ];
    for (claims, expected) in cases {
        assert_eq!(read(claims.clone()).text("email"), expected, "{claims}");
    }
}

#[test]
fn a_list_is_one_text_or_several() {
    let cases = [
        (json!({"resource": null}), Ok(None)),
        (json!({"resource": "a"}), Ok(Some(vec!["a"]))),
        (json!({"resource": ["a"]}), Ok(Some(vec!["a"]))),
        (json!({"resource": ["a", "b"]}), Ok(Some(vec!["a", "b"]))),
        (json!({"resource": []}), Err(AssertionError::Claim("resource"))),
        (json!({"resource": ["a", 1]}), Err(AssertionError::Claim("resource"))),
        (json!({"resource": ["a", "b\r"]}), Err(AssertionError::Claim("resource"))),
        (json!({"resource": [["a"]]}), Err(AssertionError::Claim("resource"))),
        (json!({"resource": {"a": 1}}), Err(AssertionError::Claim("resource"))),
    ];
    for (claims, expected) in cases {
        assert_eq!(read(claims.clone()).texts("resource"), expected, "{claims}");
    }
}

#[test]
fn scope_is_words_and_absence_is_not_emptiness() {
    let cases = [
        (json!({"scope": null}), Ok(None)),
        (json!({"scope": ""}), Ok(Some(vec![]))),
        (json!({"scope": " "}), Ok(Some(vec![]))),
        (json!({}), Ok(Some(vec!["mcp:read", "mcp:write"]))),
        (json!({"scope": "a  b "}), Ok(Some(vec!["a", "b"]))),
        (json!({"scope": "a\tb"}), Err(AssertionError::Claim("scope"))),
        (json!({"scope": "a\u{a0}b"}), Err(AssertionError::Claim("scope"))),
        (json!({"scope": "a\"b"}), Err(AssertionError::Claim("scope"))),
        (json!({"scope": "a\\b"}), Err(AssertionError::Claim("scope"))),
        (json!({"scope": ["a", "b"]}), Err(AssertionError::Claim("scope"))),
    ];
    for (claims, expected) in cases {
        assert_eq!(read(claims.clone()).scope_words(), expected, "{claims}");
    }
}

#[test]
fn an_audience_is_one_of_ours_alone_or_alone_in_a_list() {
    for aud in [json!(AUDIENCE), json!([AUDIENCE]), json!(RULE.audiences[1])] {
        assert!(RULE.audiences.contains(&read(json!({"aud": aud})).aud.as_str()), "{aud}");
    }
}

#[test]
fn identifiers_may_be_as_long_as_their_bound() {
    let longest = "x".repeat(IDENTIFIER_BYTES_MAX);
    let assertion = read(json!({"sub": longest, "jti": longest}));
    assert_eq!((assertion.sub.as_str(), assertion.jti.as_deref()), (longest.as_str(), Some(longest.as_str())));
}
