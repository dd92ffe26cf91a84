//! What we sign as somebody else's client: a client assertion (RFC 7523 §2.2, OpenID Connect Core §9), and a DPoP proof
//! (RFC 9449 §4.2).
//!
//! Assertions are made by the control plane when it exchanges a code at a company's identity provider. They are signed
//! with the key of our access tokens, whose public half is published anyway; `typ` and `iss` keep the two apart, as an
//! access token is `at+jwt` and of our issuer, and this is `JWT` and of a client id. Proofs are made by the
//! local bridge, and by what measures and tests, with keys of their own.

use aws_lc_rs::digest;
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use serde::Serialize;
use serde_json::json;

use crate::{
    jwk::PublicJwk,
    key::{KeyError, SigningKey},
    secret::{AccessToken, TokenHash},
};

/// How long one is good, in seconds: it is used at once.
const LIFETIME_SECONDS: i64 = 60;

#[derive(Serialize)]
struct Header<'a> {
    alg: &'static str,
    kid: &'a str,
    typ: &'static str,
}

#[derive(Serialize)]
struct ClientClaims<'a> {
    iss: &'a str,
    sub: &'a str,
    aud: &'a str,
    jti: &'a str,
    iat: i64,
    exp: i64,
}

/// What a DPoP proof says.
#[derive(Clone, Copy, Debug)]
pub struct DpopClaims<'a> {
    /// Of the request.
    pub method: &'a str,
    /// Where it goes, without query.
    pub url: &'a str,
    /// The access token that it is sent with.
    pub token: Option<&'a str>,
    /// What the other side has handed out.
    pub nonce: Option<&'a str>,
    /// Of this proof alone.
    pub jti: &'a str,
    /// Now, in seconds since the Unix epoch.
    pub iat: i64,
}

/// Signs that we hold the key, for this request.
///
/// # Errors
/// When the key cannot sign.
pub fn dpop_proof(claims: &DpopClaims<'_>, key: &SigningKey) -> Result<AccessToken, KeyError> {
    dpop_proof_over(claims, None, key)
}

/// The same, for this body and no other (`content_digest`), where one is given. Servers that know nothing of that claim
/// pass over it.
///
/// # Errors
/// When the key cannot sign.
pub fn dpop_proof_over(
    claims: &DpopClaims<'_>,
    body: Option<&[u8]>,
    key: &SigningKey,
) -> Result<AccessToken, KeyError> {
    let PublicJwk { kty, crv, x, y, .. } = key.public_jwk();
    let mut jwk = json!({"kty": kty, "crv": crv, "x": x});
    if let (Some(y), Some(members)) = (y, jwk.as_object_mut()) {
        members.insert("y".to_owned(), json!(y));
    }
    let header = json!({"typ": "dpop+jwt", "alg": key.algorithm().as_str(), "jwk": jwk});
    let DpopClaims { method, url, token, nonce, jti, iat } = claims;
    let mut claims = json!({"htm": method, "htu": url, "jti": jti, "iat": iat});
    let ath = token.map(|token| URL_SAFE_NO_PAD.encode(TokenHash::of(token).as_bytes()));
    let digest = body.map(|body| STANDARD.encode(digest::digest(&digest::SHA256, body)));
    let digest = digest.map(|digest| format!("sha-256=:{digest}:"));
    for (name, value) in [("ath", ath), ("nonce", nonce.map(str::to_owned)), ("content_digest", digest)] {
        if let (Some(value), Some(members)) = (value, claims.as_object_mut()) {
            members.insert(name.to_owned(), json!(value));
        }
    }
    signed(&header, &claims, key)
}

/// Signs that we are `client_id`, towards `audience`, once (`jti`), from `now_unix` on for a minute.
///
/// # Errors
/// When the key cannot sign.
pub fn client_assertion(
    client_id: &str,
    audience: &str,
    jti: &str,
    now_unix: i64,
    key: &SigningKey,
) -> Result<AccessToken, KeyError> {
    let header = Header { alg: key.algorithm().as_str(), kid: key.kid(), typ: "JWT" };
    let exp = now_unix.saturating_add(LIFETIME_SECONDS);
    let claims = ClientClaims { iss: client_id, sub: client_id, aud: audience, jti, iat: now_unix, exp };
    signed(&header, &claims, key)
}

/// A JWT in JWS compact form.
fn signed(header: &impl Serialize, claims: &impl Serialize, key: &SigningKey) -> Result<AccessToken, KeyError> {
    let encode = |json: serde_json::Result<Vec<u8>>| {
        json.map(|json| URL_SAFE_NO_PAD.encode(json)).map_err(|_| KeyError::Private)
    };
    let mut jwt = encode(serde_json::to_vec(header))? + "." + &encode(serde_json::to_vec(claims))?;
    let signature = key.sign(jwt.as_bytes())?;
    jwt.push('.');
    jwt.push_str(&URL_SAFE_NO_PAD.encode(signature));
    Ok(AccessToken::new(jwt))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        assertion::{self, AssertionAlgorithm, AssertionKeys, Rule, TypRule},
        verify::{Expect, TokenError, VerifyingKeys},
    };

    #[test]
    fn an_assertion_proves_who_we_are_for_a_minute_and_is_no_access_token() {
        let key = SigningKey::from_ed25519_seed(&[7; 32]).unwrap();
        let jwt = client_assertion("gateway", "https://id.example", "j-1", 1_000, &key).unwrap();
        let jwks = format!(r#"{{"keys":[{}]}}"#, key.public_jwk().to_json().unwrap());
        let keys = AssertionKeys::from_jwks(jwks.as_bytes(), &[AssertionAlgorithm::EdDsa]).unwrap();
        let rule = Rule {
            typ: TypRule::Exactly("JWT"),
            issuer: "gateway",
            audiences: &["https://id.example"],
            lifetime_max: LIFETIME_SECONDS,
            skew: 0,
            require: &["jti", "iat"],
        };
        let read = assertion::verify(jwt.expose(), &keys, &rule, 1_059).unwrap();
        assert_eq!((read.sub.as_str(), read.jti.as_deref(), read.exp), ("gateway", Some("j-1"), 1_060));
        assert!(assertion::verify(jwt.expose(), &keys, &rule, 1_060).is_err());
        let public = key.public_jwk().to_json().unwrap();
        let ours = VerifyingKeys::from_jwks([(key.kid(), "EdDSA", public.as_str())]).unwrap();
        let expect = Expect { issuer: "gateway", audience: "https://id.example" };
        assert!(matches!(ours.verify(jwt.expose(), &expect, 1_010), Err(TokenError::Malformed)));
    }
}
