//! How a client proves who it is: by its secret, in the header or the body (RFC 6749 §2.3.1), by a JWT that it signs
//! (RFC 7523 §2.2) or its platform does (`workload`), or by the certificate of its connection (`certificate`). Exactly
//! one way, and the one it is registered for. A public client proves nothing, and gets only what a person was asked for.
//!
//! Whoever fails learns that it failed and nothing else; a client that does not exist takes the same time as one whose
//! secret is wrong. What a client signed is good once; its use is part of the decision it leads to.

use aws_lc_rs::digest;
use axum::http::{HeaderMap, header, request::Parts};
use bailiwick_control_plane_core::{
    assertion::Use,
    resource::{ClientAuth, ClientBinding, ClientSpec},
};
use bailiwick_token::{
    assertion::{self, AssertionAlgorithm, AssertionKeys, Rule, TypRule, peek, replay_key},
    same_secret,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::{
    Services, certificate, clients,
    error::OAuthError,
    form::Form,
    metadata::token_endpoints,
    workload::{self, NotVouched, Vouched},
};
use crate::{clock, minting};

/// The same for who is no client, shows nothing, or shows what proves nothing.
pub(super) const NO_PROOF: &str = "no proof of who the client is";
/// RFC 7523 §2.2.
const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
/// Longest life of what a client signs, in seconds: it is made for one request.
const ASSERTION_SECONDS_MAX: i64 = 600;
/// How far a client's clock may be ahead, in seconds.
pub(super) const SKEW_SECONDS: i64 = 30;
/// What clients may sign with.
pub(super) const ALGORITHMS: [AssertionAlgorithm; 5] = [
    AssertionAlgorithm::Es256,
    AssertionAlgorithm::Es384,
    AssertionAlgorithm::EdDsa,
    AssertionAlgorithm::Ps256,
    AssertionAlgorithm::Rs256,
];

/// A client that proved who it is.
#[derive(Debug)]
pub(super) struct Authenticated {
    /// Its `client_id`.
    pub(super) name: String,
    /// What it used up by that.
    pub(super) used: Option<Use>,
    /// It said its name and proved nothing.
    pub(super) is_public: bool,
    /// It has shown a certificate that is its.
    pub(super) by_certificate: bool,
    /// What its platform said, if that is how it proved it.
    pub(super) workload: Option<Vouched>,
    /// How its tokens must be bound.
    pub(super) demands: Option<ClientBinding>,
}

impl Authenticated {
    /// What refuses its request, said of it.
    pub(super) fn refused(&self, error: OAuthError) -> OAuthError {
        error.with(|about| {
            about.client.clone_from(&self.name);
            about.claimed = self.is_public;
        })
    }

    /// Counts a request of the client. Of one that proves nothing it would count against anybody: its address does.
    pub(super) fn count(&self, services: &Services) -> Result<(), OAuthError> {
        if self.is_public { Ok(()) } else { services.limits.client(&self.name) }
    }
}

/// What a client presents.
enum Presented<'a> {
    Secret { name: String, secret: String, by_basic: bool },
    Signed { name: String, jwt: &'a str },
    Nothing { name: String },
}

/// Who the client is.
pub(super) async fn authenticate(services: &Services, parts: &Parts, form: &Form) -> Result<Authenticated, OAuthError> {
    let headers = &parts.headers;
    if let Some(jwt) = workload::as_client(headers, form, ASSERTION_TYPE)? {
        let client_id = form.one("client_id")?;
        return workload::authenticate(services, jwt, client_id).await.map_err(NotVouched::of_client);
    }
    let presented = presented(headers, form)?;
    let (Presented::Secret { name, .. } | Presented::Signed { name, .. } | Presented::Nothing { name }) = &presented;
    let spec = clients::claimed(services, name).await?;
    let claimed = spec.is_some().then(|| name.clone());
    let proved = match presented {
        Presented::Secret { name, secret, by_basic } => by_secret(spec.as_ref(), name, &secret, by_basic),
        Presented::Signed { name, jwt } => by_signature(services, spec.as_ref(), name, jwt),
        Presented::Nothing { name } => match spec {
            Some(spec) if spec.active && spec.auth == ClientAuth::None => {
                let demands = spec.binding;
                Ok(Authenticated { name, used: None, is_public: true, by_certificate: false, workload: None, demands })
            }
            // Nothing in the request itself.
            Some(spec) if spec.active && spec.auth.is_by_certificate() => {
                certificate::authenticate(services, &spec, name, &parts.extensions)
            }
            Some(_) | None => Err(OAuthError::client(NO_PROOF, false)),
        },
    };
    // A name that nobody has is a stranger's text.
    proved.map_err(|error| {
        error.with(|about| {
            about.claimed = claimed.is_some();
            about.client = claimed.unwrap_or_default();
        })
    })
}

fn presented<'a>(headers: &HeaderMap, form: &'a Form) -> Result<Presented<'a>, OAuthError> {
    let (name, secret) = (form.one("client_id")?, form.one("client_secret")?);
    let (jwt, kind) = (form.one("client_assertion")?, form.one("client_assertion_type")?);
    let basic = headers.get(header::AUTHORIZATION).map(|value| basic(value.as_bytes())).transpose()?;
    match (basic, secret, jwt) {
        (Some((of_header, secret)), None, None) => match name {
            Some(name) if name != of_header => Err(OAuthError::client("header and body name different clients", true)),
            _ => Ok(Presented::Secret { name: of_header, secret, by_basic: true }),
        },
        (None, Some(secret), None) => {
            let name = name.ok_or(OAuthError::client("client_id is missing", false))?.to_owned();
            Ok(Presented::Secret { name, secret: secret.to_owned(), by_basic: false })
        }
        (None, None, Some(jwt)) if kind == Some(ASSERTION_TYPE) => {
            let said = peek(jwt).map_err(|_| OAuthError::client("the client's assertion cannot be read", false))?.iss;
            match name {
                Some(name) if name != said => {
                    Err(OAuthError::client("assertion and body name different clients", false))
                }
                _ => Ok(Presented::Signed { name: said, jwt }),
            }
        }
        (None, None, Some(_)) => Err(OAuthError::request("client_assertion_type is missing or another one")),
        (None, None, None) => {
            let name = name.ok_or(OAuthError::client(NO_PROOF, false))?.to_owned();
            Ok(Presented::Nothing { name })
        }
        _ => Err(OAuthError::request("the client authenticates in more than one way")),
    }
}

/// `Basic`, each part form-encoded before base64 (RFC 6749 §2.3.1).
fn basic(value: &[u8]) -> Result<(String, String), OAuthError> {
    let unreadable = || OAuthError::client("the authorization header cannot be read", true);
    let text = std::str::from_utf8(value).map_err(|_| unreadable())?;
    let (scheme, encoded) = text.split_once(' ').ok_or_else(unreadable)?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return Err(unreadable());
    }
    let decoded = STANDARD.decode(encoded.trim()).map_err(|_| unreadable())?;
    let decoded = String::from_utf8(decoded).map_err(|_| unreadable())?;
    let (name, secret) = decoded.split_once(':').ok_or_else(unreadable)?;
    Ok((form_decoded(name), form_decoded(secret)))
}

fn form_decoded(text: &str) -> String {
    // As the value of a parameter: no other character splits it, as `&` and `=` are escaped where they are meant.
    let whole = text.replace('&', "%26").replace('=', "%3D");
    form_urlencoded::parse(whole.as_bytes()).next().map_or_else(String::new, |(name, _)| name.into_owned())
}

fn by_secret(
    spec: Option<&ClientSpec>,
    name: String,
    secret: &str,
    by_basic: bool,
) -> Result<Authenticated, OAuthError> {
    let hash = hex::encode(digest::digest(&digest::SHA256, secret.as_bytes()));
    let stored =
        spec.filter(|spec| spec.auth == ClientAuth::ClientSecret).and_then(|spec| spec.secret_sha256.as_deref());
    // Of a client without a secret no hash is right.
    let fits = same_secret(hash.as_bytes(), stored.unwrap_or(&"x".repeat(hash.len())).as_bytes());
    if !fits || !spec.is_some_and(|spec| spec.active) {
        return Err(OAuthError::client("unknown client, wrong secret or not active", by_basic));
    }
    Ok(Authenticated {
        name,
        used: None,
        is_public: false,
        by_certificate: false,
        workload: None,
        demands: spec.and_then(|spec| spec.binding),
    })
}

fn by_signature(
    services: &Services,
    spec: Option<&ClientSpec>,
    name: String,
    jwt: &str,
) -> Result<Authenticated, OAuthError> {
    let refused = |why| OAuthError::client(why, false);
    let spec = spec.filter(|spec| spec.active && spec.auth == ClientAuth::PrivateKeyJwt);
    let demands = spec.and_then(|spec| spec.binding);
    let jwks = spec.and_then(|spec| spec.jwks.as_deref()).ok_or(refused("unknown client, or not active"))?;
    let keys = AssertionKeys::from_jwks(jwks.as_bytes(), &ALGORITHMS).map_err(|error| {
        tracing::warn!(client = %name, %error, "a client's keys cannot be used");
        refused("the client's keys cannot be used")
    })?;
    let issuer = services.domain.read(minting::issuer).ok_or(OAuthError::unavailable("the issuer is not set yet"))?.0;
    let endpoints = token_endpoints(&issuer, services);
    let audiences: Vec<&str> = std::iter::once(&issuer).chain(&endpoints).map(String::as_str).collect();
    let rule = Rule {
        typ: TypRule::Plain,
        issuer: &name,
        audiences: &audiences,
        lifetime_max: ASSERTION_SECONDS_MAX,
        skew: SKEW_SECONDS,
        require: &["jti"],
    };
    let now = clock::now_seconds();
    let assertion = assertion::verify(jwt, &keys, &rule, now).map_err(|error| {
        tracing::info!(client = %name, why = error.word(), "a client's assertion is refused");
        refused("the client's assertion is refused")
    })?;
    if assertion.sub != name {
        return Err(refused("the client's assertion is about somebody else"));
    }
    let jti = assertion.jti.as_deref().ok_or(refused("the client's assertion has no jti"))?;
    let key = hex::encode(replay_key(&assertion.iss, &assertion.sub, jti));
    let until = u64::try_from(assertion.exp).map_err(|_| refused("the client's assertion has no end"))?;
    let used = Some(Use { key, until });
    Ok(Authenticated { name, used, is_public: false, by_certificate: false, workload: None, demands })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_the_header_are_form_encoded() {
        let of = |text: &str| basic(format!("Basic {}", STANDARD.encode(text)).as_bytes()).unwrap();
        assert_eq!(of("a:b"), ("a".into(), "b".into()));
        assert_eq!(of("a%3Ab:c%20d%26e"), ("a:b".into(), "c d&e".into()));
        assert_eq!(of("a:b&c=d"), ("a".into(), "b&c=d".into()), "as clients send it that do not encode");
        for bad in ["Bearer x", "Basic", "Basic %%%", "Basic YQ==", ""] {
            assert!(basic(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
