//! Proofs signed by another implementation, the examples of RFC 9449, and every way to forge one, a line each.

use std::sync::LazyLock;

use aws_lc_rs::{
    encoding::{AsDer as _, Pkcs8V1Der},
    hmac,
    rsa::KeySize,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RsaKeyPair},
};
use jsonwebtoken::EncodingKey;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use AssertionAlgorithm::{EdDsa, Es256, Ps256, Rs256};

const NOW: i64 = 1_800_000_000;
const URL: &str = "https://as.example/oauth/token";
const AT_TOKEN_ENDPOINT: DpopRequest<'static> =
    DpopRequest { method: "POST", url: URL, access_token: None, body: b"grant_type=x", key: None };

struct Signer {
    alg: AssertionAlgorithm,
    key: EncodingKey,
    jwk: Value,
}

static SIGNERS: LazyLock<[Signer; 4]> = LazyLock::new(|| [Signer::ec(), Signer::ed(), rsa(Ps256), rsa(Rs256)]);

fn rsa(alg: AssertionAlgorithm) -> Signer {
    let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    let pkcs8: Pkcs8V1Der<'_> = pair.as_der().unwrap();
    let pem = format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", STANDARD.encode(pkcs8.as_ref()));
    // RSAPublicKey in DER ends with the modulus and the five bytes of INTEGER 65537
    let (rest, _exponent) = pair.public_key().as_ref().split_last_chunk::<5>().unwrap();
    let jwk = json!({"kty": "RSA", "n": b64(rest.last_chunk::<256>().unwrap()), "e": "AQAB"});
    Signer { alg, key: EncodingKey::from_rsa_pem(pem.as_bytes()).unwrap(), jwk }
}

impl Signer {
    fn ec() -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
        let jwk = json!({"kty": "EC", "crv": "P-256", "x": b64(x), "y": b64(y)});
        Self { alg: Es256, key: EncodingKey::from_ec_der(pair.to_pkcs8v1().unwrap().as_ref()), jwk }
    }

    fn ed() -> Self {
        let pair = Ed25519KeyPair::generate().unwrap();
        let jwk = json!({"kty": "OKP", "crv": "Ed25519", "x": b64(pair.public_key())});
        Self { alg: EdDsa, key: EncodingKey::from_ed_der(pair.to_pkcs8().unwrap().as_ref()), jwk }
    }

    fn sign(&self, header: &str, claims: &str) -> String {
        let message = format!("{}.{}", b64(header), b64(claims));
        let alg = self.alg.as_str().parse().unwrap();
        format!("{message}.{}", jsonwebtoken::crypto::sign(message.as_bytes(), &self.key, alg).unwrap())
    }

    fn header(&self, members: Value) -> String {
        changed(json!({"typ": "dpop+jwt", "alg": self.alg.as_str(), "jwk": self.jwk}), members)
    }

    fn with_header(&self, members: Value) -> String {
        self.sign(&self.header(members), &claims(json!({})))
    }

    fn with_jwk(&self, members: Value) -> String {
        let jwk: Value = serde_json::from_str(&changed(self.jwk.clone(), members)).unwrap();
        self.with_header(json!({ "jwk": jwk }))
    }

    fn proof(&self, members: Value) -> String {
        self.sign(&self.header(json!({})), &claims(members))
    }
}

fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn changed(mut object: Value, members: Value) -> String {
    let into = object.as_object_mut().unwrap();
    for (name, value) in members.as_object().unwrap() {
        match value {
            Value::Null => into.remove(name),
            value => into.insert(name.clone(), value.clone()),
        };
    }
    object.to_string()
}

fn claims(members: Value) -> String {
    changed(json!({"jti": "j-1", "htm": "POST", "htu": URL, "iat": NOW, "nonce": "n-1"}), members)
}

fn refused(jwt: &str) -> Option<DpopError> {
    DpopProof::verify(jwt, &AT_TOKEN_ENDPOINT, NOW).err()
}

/// Thumbprints are those that jsonwebtoken computes.
#[test]
fn proofs_of_another_implementation_are_believed() {
    for signer in SIGNERS.iter() {
        let read = DpopProof::verify(&signer.proof(json!({})), &AT_TOKEN_ENDPOINT, NOW).unwrap();
        let jwk: jsonwebtoken::jwk::Jwk = serde_json::from_value(signer.jwk.clone()).unwrap();
        assert_eq!(read.jkt, jwk.thumbprint(jsonwebtoken::jwk::ThumbprintHash::SHA256).unwrap());
        assert!(is_thumbprint(&read.jkt));
        assert_eq!((read.jti.as_str(), read.nonce.as_deref(), read.iat), ("j-1", Some("n-1"), NOW));
        assert_eq!((read.ath, read.content_digest), (None, None));
    }
}

/// RFC 9449 §4.1 (as at a token endpoint) and §7.1 (with an access token), and the thumbprint of §6.1.
#[test]
fn the_examples_of_rfc_9449_are_believed() {
    let header = "eyJ0eXAiOiJkcG9wK2p3dCIsImFsZyI6IkVTMjU2IiwiandrIjp7Imt0eSI6IkVDIiwieCI6Imw4dEZyaHgtMzR0VjNoUklDUkRZO\
                  XpDa0RscEJoRjQyVVFVZldWQVdCRnMiLCJ5IjoiOVZFNGpmX09rX282NHpiVFRsY3VOSmFqSG10NnY5VERWclUwQ2R2R1JEQSIsI\
                  mNydiI6IlAtMjU2In19";
    let at_token = "eyJqdGkiOiItQndDM0VTYzZhY2MybFRjIiwiaHRtIjoiUE9TVCIsImh0dSI6Imh0dHBzOi8vc2VydmVyLmV4YW1wbGUuY29tL3R\
                    va2VuIiwiaWF0IjoxNTYyMjYyNjE2fQ.2-GxA6T8lP4vfrg8v-FdWP0A0zdrj8igiMLvqRMUvwnQg4PtFLbdLXiOSsX0x7NVY-FN\
                    yJK70nfbV37xRZT3Lg";
    let at_resource = "eyJqdGkiOiJlMWozVl9iS2ljOC1MQUVCIiwiaHRtIjoiR0VUIiwiaHR1IjoiaHR0cHM6Ly9yZXNvdXJjZS5leGFtcGxlLm9\
                       yZy9wcm90ZWN0ZWRyZXNvdXJjZSIsImlhdCI6MTU2MjI2MjYxOCwiYXRoIjoiZlVIeU8ycjJaM0RaNTNFc05yV0JiMHhXWG9\
                       hTnk1OUlpS0NBcWtzbVFFbyJ9.2oW9RP35yRqzhrtNP86L-Ey71EOptxRimPPToA1plemAgR6pxHF8y6-yqyVnmcw6Fy1dqd-\
                       jfxSYoMxhAJpLjA";
    let request = DpopRequest { url: "https://server.example.com/token", ..AT_TOKEN_ENDPOINT };
    let read = DpopProof::verify(&format!("{header}.{at_token}"), &request, 1_562_262_616).unwrap();
    assert_eq!(read.jkt, "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I");
    let request = DpopRequest {
        key: None,
        method: "GET",
        url: "https://resource.example.org/protectedresource?a=b#c",
        access_token: Some("Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU"),
        body: b"",
    };
    let jwt = format!("{header}.{at_resource}");
    assert!(DpopProof::verify(&jwt, &request, 1_562_262_618).is_ok());
    let other = DpopRequest { access_token: Some("Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxV"), ..request };
    assert_eq!(DpopProof::verify(&jwt, &other, 1_562_262_618).err(), Some(DpopError::Token));
    let own = Thumbprint::parse(&read.jkt).unwrap();
    for (key, error) in [(own, None), (Thumbprint([7; 32]), Some(DpopError::OtherKey))] {
        let expected = DpopRequest { key: Some(&key), ..request };
        assert_eq!(DpopProof::verify(&jwt, &expected, 1_562_262_618).err(), error);
    }
}

#[test]
fn forged_headers_are_refused() {
    let (ec, ed) = (&SIGNERS[0], &SIGNERS[1]);
    let hs256 = {
        let message = format!(
            "{}.{}",
            b64(ed.header(json!({"alg": "HS256", "jwk": {"kty": "oct", "k": "AA"}}))),
            b64(claims(json!({})))
        );
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &[0]), message.as_bytes());
        format!("{message}.{}", b64(tag))
    };
    let none = format!("{}.{}.", b64(ec.header(json!({"alg": "none"}))), b64(claims(json!({}))));
    let cases = [
        ("none", none, DpopError::Algorithm),
        ("a symmetric algorithm", hs256, DpopError::Algorithm),
        ("a symmetric key", ec.with_header(json!({"jwk": {"kty": "oct", "k": "AA"}})), DpopError::PrivateKey),
        ("an algorithm too weak", ec.with_header(json!({"alg": "RS1"})), DpopError::Algorithm),
        ("an algorithm that is not offered", ec.with_header(json!({"alg": "ES384"})), DpopError::Algorithm),
        ("an algorithm of another key", ec.with_header(json!({"alg": "EdDSA"})), DpopError::Key),
        ("a private key", ec.with_jwk(json!({"d": "AA"})), DpopError::PrivateKey),
        ("a private RSA key", SIGNERS[2].with_jwk(json!({"p": "AA"})), DpopError::PrivateKey),
        ("a key for encryption", ec.with_jwk(json!({"use": "enc"})), DpopError::Key),
        ("a key for another algorithm", ec.with_jwk(json!({"alg": "ES384"})), DpopError::Key),
        ("a point off the curve", ec.with_jwk(json!({"x": b64([1; 32])})), DpopError::Key),
        (
            "a padded coordinate",
            ed.with_jwk(json!({"x": format!("{}=", ed.jwk["x"].as_str().unwrap())})),
            DpopError::Key,
        ),
        ("RSA of 1024 bits", SIGNERS[2].with_jwk(json!({"n": b64([0xc1; 128])})), DpopError::Key),
        ("RSA with exponent 3", SIGNERS[2].with_jwk(json!({"e": "Aw"})), DpopError::Key),
        ("another's key", ec.with_header(json!({"jwk": Signer::ec().jwk})), DpopError::Signature),
        ("no key", ec.with_header(json!({"jwk": null})), DpopError::Header),
        ("a key by name", ec.with_header(json!({"jwk": null, "kid": "k"})), DpopError::Header),
        ("a key as text", ec.with_header(json!({"jwk": ec.jwk.to_string()})), DpopError::Header),
        ("a key's place", ec.with_header(json!({"jku": "https://evil.example"})), DpopError::Header),
        ("a critical extension", ec.with_header(json!({"crit": ["nonce"]})), DpopError::Header),
        ("an ordinary JWT", ec.with_header(json!({"typ": "JWT"})), DpopError::Type),
        ("an access token", ec.with_header(json!({"typ": "at+jwt"})), DpopError::Type),
        ("no type", ec.with_header(json!({"typ": null})), DpopError::Header),
        ("alg twice", ec.sign(&ec.header(json!({})).replacen('{', r#"{"alg":"none","#, 1), "{}"), DpopError::Malformed),
        ("nothing", String::new(), DpopError::Malformed),
        ("two proofs", format!("{0},{0}", ec.proof(json!({}))), DpopError::Malformed),
        ("long", "a".repeat(DPOP_BYTES_MAX + 1), DpopError::TooLong),
    ];
    for (what, jwt, error) in cases {
        assert_eq!(refused(&jwt), Some(error), "{what}");
    }
}

#[test]
fn proofs_for_something_else_are_refused() {
    let with = |members| SIGNERS[1].proof(members);
    let twice = SIGNERS[1].sign(&SIGNERS[1].header(json!({})), &claims(json!({})).replacen('{', r#"{"htm":"GET","#, 1));
    let cases = [
        ("another method", with(json!({"htm": "GET"})), DpopError::Method),
        ("a method in small letters", with(json!({"htm": "post"})), DpopError::Method),
        ("no method", with(json!({"htm": null})), DpopError::Missing("htm")),
        ("another path", with(json!({"htu": "https://as.example/oauth/token2"})), DpopError::Url),
        ("a longer path", with(json!({"htu": format!("{URL}/")})), DpopError::Url),
        ("another host", with(json!({"htu": "https://evil.example/oauth/token"})), DpopError::Url),
        ("another scheme", with(json!({"htu": "http://as.example/oauth/token"})), DpopError::Url),
        ("another port", with(json!({"htu": "https://as.example:8443/oauth/token"})), DpopError::Url),
        ("a path alone", with(json!({"htu": "/oauth/token"})), DpopError::Claim("htu")),
        (
            "someone's name",
            with(json!({"htu": "https://as.example@evil.example/oauth/token"})),
            DpopError::Claim("htu"),
        ),
        ("another protocol", with(json!({"htu": "ftp://as.example/oauth/token"})), DpopError::Claim("htu")),
        ("no URL", with(json!({"htu": null})), DpopError::Missing("htu")),
        ("a list of URLs", with(json!({"htu": [URL]})), DpopError::Claim("htu")),
        ("old", with(json!({"iat": NOW - 301})), DpopError::Stale),
        ("early", with(json!({"iat": NOW + 301})), DpopError::Future),
        ("no time", with(json!({"iat": null})), DpopError::Missing("iat")),
        ("a time as text", with(json!({"iat": "1800000000"})), DpopError::Claim("iat")),
        ("a time with a fraction", with(json!({"iat": 1_800_000_000.5})), DpopError::Claim("iat")),
        ("no jti", with(json!({"jti": null})), DpopError::Missing("jti")),
        ("an empty jti", with(json!({"jti": ""})), DpopError::Claim("jti")),
        ("a long jti", with(json!({"jti": "j".repeat(TEXT_BYTES_MAX + 1)})), DpopError::Claim("jti")),
        ("a nonce that is no text", with(json!({"nonce": 7})), DpopError::Claim("nonce")),
        ("a token's hash without a token", with(json!({"ath": "x"})), DpopError::Token),
        (
            "another body",
            with(json!({"content_digest": format!("sha-256=:{}:", STANDARD.encode([7; 32]))})),
            DpopError::Content,
        ),
        ("another digest", with(json!({"content_digest": "sha-512=:AA==:"})), DpopError::Claim("content_digest")),
        ("a short digest", with(json!({"content_digest": "sha-256=:AA==:"})), DpopError::Claim("content_digest")),
        ("htm twice", twice, DpopError::Malformed),
    ];
    for (what, jwt, error) in cases {
        assert_eq!(refused(&jwt), Some(error), "{what}");
    }
    for members in [
        json!({"iat": NOW - 300}),
        json!({"iat": NOW + 300}),
        json!({"htu": format!("{URL}?a=b#c")}),
        json!({"htu": "HTTPS://AS.example:443/oauth/token"}),
        json!({"nonce": null, "other": {"deep": [1]}}),
        json!({"content_digest": format!("sha-256=:{}:", STANDARD.encode(sha256(b"grant_type=x")))}),
    ] {
        assert_eq!(refused(&with(members.clone())), None, "{members}");
    }
}

#[test]
fn with_a_token_a_proof_says_which() {
    let request = DpopRequest { access_token: Some("t-1"), ..AT_TOKEN_ENDPOINT };
    let with = |ath: Value| DpopProof::verify(&SIGNERS[0].proof(json!({ "ath": ath })), &request, NOW).err();
    assert_eq!(with(json!(b64(sha256(b"t-1")))), None);
    assert_eq!(with(Value::Null), Some(DpopError::Missing("ath")));
    for other in [b64(sha256(b"t-2")), STANDARD.encode(sha256(b"t-1")), hex::encode(sha256(b"t-1"))] {
        assert_eq!(with(json!(other)), Some(DpopError::Token));
    }
}

#[test]
fn no_byte_of_a_proof_can_be_changed() {
    let jwt = SIGNERS[0].proof(json!({}));
    for at in 0..jwt.len() {
        for other in [b'A', b'z', b'.', b'='] {
            let mut bytes = jwt.clone().into_bytes();
            bytes[at] = other;
            let changed = String::from_utf8(bytes).unwrap();
            assert!(changed == jwt || refused(&changed).is_some(), "{other} at {at}");
        }
    }
}

#[test]
fn urls_are_compared_as_urls() {
    for (left, right) in [
        ("https://a.example", "https://a.example/"),
        ("https://a.example:443/x", "https://A.Example/x?y"),
        ("http://a.example:80/x", "http://a.example/x#y"),
        ("http://[::1]:8420/x", "http://[::1]:8420/x"),
    ] {
        assert_eq!(canonical_url(left), canonical_url(right));
        assert!(canonical_url(left).is_some());
    }
    for url in ["", "x", "https://", "https:///x", "https://?x", "https://a@b/", "javascript:alert(1)"] {
        assert_eq!(canonical_url(url), None, "{url}");
    }
    assert_ne!(canonical_url("https://a.example/X"), canonical_url("https://a.example/x"));
    assert_ne!(canonical_url("https://a.example:80/x"), canonical_url("https://a.example/x"));
}

#[test]
fn nothing_of_a_proof_but_its_key_and_time_is_printed() {
    let read = DpopProof::verify(&SIGNERS[0].proof(json!({})), &AT_TOKEN_ENDPOINT, NOW).unwrap();
    assert_eq!(format!("{read:?}"), format!("DpopProof {{ jkt: \"{}\", iat: {NOW}, .. }}", read.jkt));
}

proptest! {
    #[test]
    fn nothing_panics(
        name in "jti|htm|htu|iat|nonce|ath|content_digest", number in any::<i64>(), text in any::<String>(),
        now in any::<i64>(),
    ) {
        for value in [json!(number), json!(text), json!([text])] {
            let _read = DpopProof::verify(&SIGNERS[1].proof(json!({ &name: value })), &AT_TOKEN_ENDPOINT, now);
        }
        prop_assert!(refused(&text).is_some());
        let _url = canonical_url(&text);
    }
}
