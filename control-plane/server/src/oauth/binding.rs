//! What a request asks its token to be bound to: the client's own key, by a DPoP proof (RFC 9449 §5), a key that is
//! given out with the token (`binding_alg`), or the certificate that it shows (RFC 8705 §3), where its client is one
//! that has it so; and whether it must be.
//!
//! Called by `token` for every grant, before anything is decided, so that nothing is used up in vain. Absent: proofs
//! themselves (`dpop`), and that a grant which had bound tokens has no others (`core::binding`).

use axum::http::request::Parts;
use bailiwick_control_plane_core::{Wish, binding::BoundWish, resource::ClientBinding};
use bailiwick_token::{Claims, Confirmation, Thumbprint, binding::BINDING_ALG};

use super::{Services, client::Authenticated, dpop, error::OAuthError, form::Form};
use crate::{binding::Binding, http::client_certificate::ShownCertificate};

/// The parameter that asks for a key.
const PARAMETER: &str = "binding_alg";

/// What the token is to be bound to.
pub(super) fn asked(
    services: &Services,
    client: &Authenticated,
    parts: &Parts,
    (form, body): (&Form, &[u8]),
) -> Result<Binding, OAuthError> {
    let headers = &parts.headers;
    let by_parameter = form.one(PARAMETER)?;
    if by_parameter.is_some() && headers.contains_key(dpop::PROOF) {
        return Err(OAuthError::request("a token is bound in one way: by a DPoP proof, or by binding_alg"));
    }
    let binding = match (by_parameter, dpop::proof(services, headers, body)?) {
        (_, Some(proof)) => {
            let key = Thumbprint::parse(&proof.jkt);
            Binding::Key(key.ok_or(OAuthError::dpop("the DPoP proof's key has no thumbprint"))?)
        }
        (Some(BINDING_ALG), None) => {
            let binder = services.keys.binder();
            Binding::Envelope(binder.ok_or(OAuthError::unavailable("no token can be bound now"))?)
        }
        (Some(_), None) => return Err(OAuthError::request("the binding_alg is not known here: aes-256-gcm is")),
        (None, None) => certificate(client, parts).map_or(Binding::Nothing, Binding::Certificate),
    };
    check_demand(client, &binding)?;
    Ok(binding)
}

/// The certificate that is shown, of a client whose tokens are bound to it: a client may show one for other reasons.
fn certificate(client: &Authenticated, parts: &Parts) -> Option<Thumbprint> {
    let ShownCertificate(shown) = parts.extensions.get()?;
    let is_bound = matches!(client.demands, Some(ClientBinding::Any | ClientBinding::Certificate));
    shown.as_ref().filter(|_| is_bound).map(|certificate| certificate.thumbprint)
}

/// That a client whose tokens must be bound gets no other (RFC 9449 §5.2).
fn check_demand(client: &Authenticated, binding: &Binding) -> Result<(), OAuthError> {
    let refused = match (client.demands, binding) {
        (None, _)
        | (Some(ClientBinding::Any), Binding::Envelope(_) | Binding::Key(_) | Binding::Certificate(_))
        | (Some(ClientBinding::Certificate), Binding::Certificate(_))
        | (Some(ClientBinding::Dpop), Binding::Key(_))
        | (Some(ClientBinding::Envelope), Binding::Envelope(_)) => return Ok(()),
        (Some(ClientBinding::Any), Binding::Nothing) => {
            "the client's tokens must be bound: send a DPoP proof, or binding_alg=aes-256-gcm, or show a certificate"
        }
        (Some(ClientBinding::Dpop), _) => "the client's tokens must be bound to its own key: send a DPoP proof",
        (Some(ClientBinding::Envelope), _) => "the client's tokens must be bound by binding_alg=aes-256-gcm",
        (Some(ClientBinding::Certificate), _) => {
            "the client's tokens must be bound to its certificate: show one, and neither a DPoP proof nor binding_alg"
        }
    };
    Err(OAuthError::request(refused))
}

/// The wish, with what its token will be bound to.
pub(super) fn wish(client: &Authenticated, binding: &Binding, wish: Wish) -> Wish {
    match binding.bound() {
        Some(bound) => Wish::Bound(BoundWish { bound, proved: !client.is_public, of: Box::new(wish) }),
        None => wish,
    }
}

/// That whoever shows a token of ours, to be exchanged, holds what it is bound to.
pub(super) fn check_subject(claims: &Claims, binding: &Binding) -> Result<(), OAuthError> {
    if claims.binding.is_some() || claims.binding_alg.is_some() {
        return Err(OAuthError::request(
            "the subject_token is bound to a key that was given out with it, of which no proof can be given here",
        ));
    }
    match (&claims.cnf, binding) {
        (None, _) => Ok(()),
        (Some(Confirmation::Key(bound)), Binding::Key(shown)) if bound == shown => Ok(()),
        (Some(Confirmation::Key(_)), _) => {
            Err(OAuthError::request("the subject_token is bound to a key, and there is no DPoP proof of that key"))
        }
        (Some(Confirmation::Certificate(bound)), Binding::Certificate(shown)) if bound == shown => Ok(()),
        (Some(Confirmation::Certificate(_)), _) => {
            Err(OAuthError::request("the subject_token is bound to a certificate, and that one is not shown"))
        }
    }
}

/// That whoever shows an identity assertion holds the key that it names, if it names one.
pub(super) fn check_assertion(cnf: Option<&serde_json::Value>, binding: &Binding) -> Result<(), OAuthError> {
    let Some(cnf) = cnf else { return Ok(()) };
    let named = serde_json::from_value::<Confirmation>(cnf.clone());
    match (named, binding) {
        (Ok(Confirmation::Key(bound)), Binding::Key(shown)) if bound == *shown => Ok(()),
        (Ok(Confirmation::Certificate(bound)), Binding::Certificate(shown)) if bound == *shown => Ok(()),
        (Ok(Confirmation::Key(_)), _) => {
            Err(OAuthError::grant("the assertion is bound to a key, and there is no DPoP proof of that key"))
        }
        (Ok(Confirmation::Certificate(_)) | Err(_), _) => {
            Err(OAuthError::grant("the assertion is bound to something of which no proof can be given here"))
        }
    }
}
