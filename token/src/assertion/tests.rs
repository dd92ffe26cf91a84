//! Assertions signed by another implementation, and published examples: what must be believed.
//!
//! jsonwebtoken writes and signs; of this crate's code it shares only the cryptographic library beneath. The examples
//! of RFC 7515 and 8037 share nothing.

use std::sync::LazyLock;

use aws_lc_rs::{
    encoding::{AsDer as _, Pkcs8V1Der},
    rsa::KeySize,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
        RsaKeyPair,
    },
};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use jsonwebtoken::EncodingKey;
use serde_json::{Value, json};

use super::*;
use AssertionAlgorithm::{EdDsa, Es256, Es384, Ps256, Rs256};

mod claims;
mod forgeries;
mod keys;
mod security_events;
mod time;
mod workloads;

const NOW: i64 = 1_800_000_000;
const ISSUER: &str = "https://idp.example";
const AUDIENCE: &str = "https://as.example";
const TYP: &str = "oauth-id-jag+jwt";
const RULE: Rule<'static> = Rule {
    typ: TypRule::Exactly(TYP),
    issuer: ISSUER,
    audiences: &[AUDIENCE, "https://as.example/oauth/token"],
    lifetime_max: 600,
    skew: 30,
    require: &["jti", "iat", "client_id"],
};

/// Someone who signs: a private key for jsonwebtoken, and the public JWK without `kid` and `alg`.
struct Signer {
    alg: AssertionAlgorithm,
    key: EncodingKey,
    jwk: Value,
}

impl Signer {
    fn rsa(alg: AssertionAlgorithm) -> Self {
        let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        let pkcs8: Pkcs8V1Der<'_> = pair.as_der().unwrap();
        let pkcs8 = STANDARD.encode(pkcs8.as_ref());
        let pem = format!("-----BEGIN PRIVATE KEY-----\n{pkcs8}\n-----END PRIVATE KEY-----\n");
        // RSAPublicKey in DER ends with the modulus and the INTEGER 65537
        let (rest, exponent) = pair.public_key().as_ref().split_last_chunk::<5>().unwrap();
        assert_eq!(exponent, &[2, 3, 1, 0, 1]);
        let jwk = json!({"kty": "RSA", "n": b64(rest.last_chunk::<256>().unwrap()), "e": "AQAB"});
        Self { alg, key: EncodingKey::from_rsa_pem(pem.as_bytes()).unwrap(), jwk }
    }

    fn ec(alg: AssertionAlgorithm) -> Self {
        let (curve, scheme) = match alg {
            Es384 => ("P-384", &ECDSA_P384_SHA384_FIXED_SIGNING),
            _ => ("P-256", &ECDSA_P256_SHA256_FIXED_SIGNING),
        };
        let pair = EcdsaKeyPair::generate(scheme).unwrap();
        let point = pair.public_key().as_ref();
        let (x, y) = point[1..].split_at(point.len() / 2);
        let jwk = json!({"kty": "EC", "crv": curve, "x": b64(x), "y": b64(y)});
        Self { alg, key: EncodingKey::from_ec_der(pair.to_pkcs8v1().unwrap().as_ref()), jwk }
    }

    fn ed() -> Self {
        let pair = Ed25519KeyPair::generate().unwrap();
        let jwk = json!({"kty": "OKP", "crv": "Ed25519", "x": b64(pair.public_key())});
        Self { alg: EdDsa, key: EncodingKey::from_ed_der(pair.to_pkcs8().unwrap().as_ref()), jwk }
    }

    /// The JWK with other or further members.
    fn jwk_with(&self, members: Value) -> Value {
        let mut jwk = self.jwk.clone();
        jwk.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
        jwk
    }

    /// The key alone in a set, under the id `k`.
    fn keys(&self) -> AssertionKeys {
        set(&[self.jwk_with(json!({"kid": "k"}))])
    }

    /// The header of an ordinary assertion, with other or further members; `null` takes one away.
    fn header_with(&self, members: Value) -> String {
        changed(json!({"alg": self.alg.as_str(), "kid": "k", "typ": TYP}), members)
    }

    /// Any header and payload, correctly signed: what a confused or hostile issuer could write.
    fn sign(&self, header: &str, payload: &str) -> String {
        self.sign_parts(&b64(header), &b64(payload))
    }

    fn sign_parts(&self, header: &str, payload: &str) -> String {
        let message = format!("{header}.{payload}");
        let alg = self.alg.as_str().parse().unwrap();
        let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &self.key, alg).unwrap();
        format!("{message}.{signature}")
    }

    /// An ordinary assertion with other claims.
    fn assert(&self, claims: Value) -> String {
        self.sign(&self.header_with(json!({})), &payload(claims))
    }
}

fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// One of each algorithm; making RSA keys is slow.
static SIGNERS: LazyLock<[Signer; 5]> =
    LazyLock::new(|| [Signer::rsa(Rs256), Signer::rsa(Ps256), Signer::ec(Es256), Signer::ec(Es384), Signer::ed()]);

fn signer(alg: AssertionAlgorithm) -> &'static Signer {
    SIGNERS.iter().find(|signer| signer.alg == alg).unwrap()
}

fn set(jwks: &[Value]) -> AssertionKeys {
    AssertionKeys::from_jwks(json!({"keys": jwks}).to_string().as_bytes(), &AssertionAlgorithm::ALL).unwrap()
}

/// An object with other or further members; `null` takes one away.
fn changed(mut object: Value, members: Value) -> String {
    let object_members = object.as_object_mut().unwrap();
    for (name, value) in members.as_object().unwrap() {
        match value {
            Value::Null => object_members.remove(name),
            value => object_members.insert(name.clone(), value.clone()),
        };
    }
    object.to_string()
}

/// The claims of an ordinary ID-JAG, with other or further ones; `null` takes one away.
fn payload(claims: Value) -> String {
    let ordinary = json!({
        "iss": ISSUER, "sub": "u-1", "aud": AUDIENCE, "client_id": "app", "jti": "j-1", "iat": NOW, "exp": NOW + 300,
        "resource": "https://mcp.example/mcp/finance", "scope": "mcp:read mcp:write",
    });
    changed(ordinary, claims)
}

#[test]
fn assertions_of_another_implementation_are_believed() {
    for signer in SIGNERS.iter() {
        let mut header = jsonwebtoken::Header::new(signer.alg.as_str().parse().unwrap());
        (header.typ, header.kid) = (Some("application/OAuth-ID-JAG+jwt".into()), Some("k".into()));
        (header.x5t, header.x5t_s256) = (Some("dGh1bWI".into()), Some("dGh1bWI".into()));
        let claims: Value = serde_json::from_str(&payload(json!({}))).unwrap();
        let jwt = jsonwebtoken::encode(&header, &claims, &signer.key).unwrap();

        let peeked = peek(&jwt).unwrap();
        assert_eq!((peeked.alg, peeked.iss.as_str()), (signer.alg, ISSUER));
        assert_eq!((peeked.typ, peeked.kid), (header.typ, header.kid));
        let read = verify(&jwt, &signer.keys(), &RULE, NOW).unwrap();
        assert_eq!((read.iss.as_str(), read.sub.as_str(), read.aud.as_str()), (ISSUER, "u-1", AUDIENCE));
        assert_eq!((read.jti.as_deref(), read.iat, read.exp, read.nbf), (Some("j-1"), Some(NOW), NOW + 300, None));
        assert_eq!(Value::Object(read.claims), claims);
    }
}

/// The published examples sign no assertion of ours: what is checked here is the signature.
#[test]
fn published_signatures_hold_and_damaged_ones_do_not() {
    let payload = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
    let n = "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SF\
             d2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo\
             7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkM\
             Ls91kzk2PAcDTW9gb54h4FRWyuXpoQ";
    let rs256 = "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9\
                 uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB\
                 _eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rq\
                 Vt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";
    let es256 = "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
    let eddsa = "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
    let (x, y) = ("f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0");
    let ed = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
    let cases = [
        ("RFC 7515 A.2", json!({"kty": "RSA", "n": n, "e": "AQAB"}), "eyJhbGciOiJSUzI1NiJ9", payload, rs256),
        ("RFC 7515 A.3", json!({"kty": "EC", "crv": "P-256", "x": x, "y": y}), "eyJhbGciOiJFUzI1NiJ9", payload, es256),
        (
            "RFC 8037 A.4",
            json!({"kty": "OKP", "crv": "Ed25519", "x": ed}),
            "eyJhbGciOiJFZERTQSJ9",
            "RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc",
            eddsa,
        ),
    ];
    for (what, jwk, header, payload, signature) in cases {
        let keys = set(&[jwk]);
        let check = |payload: &str| keys.check(&Envelope::open(&format!("{header}.{payload}.{signature}")).unwrap());
        assert_eq!(check(payload), Ok(()), "{what}");
        assert_eq!(check(&format!("{payload}AAAA")), Err(AssertionError::Signature), "{what}");
    }
}

/// The expected value is Python's hashlib's.
#[test]
fn a_replay_key_tells_its_parts_apart() {
    assert_eq!(
        hex::encode(replay_key("https://idp.example", "u-1", "j-1")),
        "9a99e47997d40c4f73897e7f1b282e401ed5cfd0d09fcc52e1283506a4a5c462"
    );
    let keys = [("a", "b", "c"), ("ab", "", "c"), ("", "ab", "c"), ("a", "bc", ""), ("abc", "", "")];
    let distinct: std::collections::BTreeSet<_> =
        keys.iter().map(|(iss, sub, jti)| replay_key(iss, sub, jti)).collect();
    assert_eq!(distinct.len(), keys.len());
}

#[test]
fn nothing_of_an_assertion_is_printed() {
    let jwt = signer(EdDsa).assert(json!({"email": "jane@example.com"}));
    let peeked = format!("{:?}", peek(&jwt).unwrap());
    let read = format!("{:?}", verify(&jwt, &signer(EdDsa).keys(), &RULE, NOW).unwrap());
    assert_eq!(peeked, "Peeked { alg: EdDsa, .. }");
    assert_eq!(read, format!("Assertion {{ iss: \"{ISSUER}\", exp: {}, .. }}", NOW + 300));
}
