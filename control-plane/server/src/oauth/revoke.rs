//! Token revocation (RFC 7009): a client gives up what it was granted.
//!
//! A token of either kind ends its consent, and with it every token of that: an access token cannot be called back from
//! those who hold it, its consent can, within the bound of the revocation lane. A token that is none of ours, or none
//! of this client's, is answered like one that was revoked.

use axum::{
    body::Body,
    extract::State,
    http::{Request, StatusCode, header},
    response::{IntoResponse, Response},
};
use bailiwick_control_plane_core::{Wish, consent::GiveUp};

use super::{Services, body_of, client, error::OAuthError, form::Form, introspect};
use crate::decisions::Undecided;

pub(super) async fn revoke(State(services): State<Services>, request: Request<Body>) -> Response {
    match revoked(&services, request).await {
        Ok(()) => (StatusCode::OK, [(header::CACHE_CONTROL, "no-store")]).into_response(),
        Err(error) => {
            tracing::info!(error = error.word(), why = error.why(), "a token is not revoked");
            error.into_response()
        }
    }
}

async fn revoked(services: &Services, request: Request<Body>) -> Result<(), OAuthError> {
    let (parts, body) = request.into_parts();
    let form = Form::read(&parts.headers, &body_of(body).await?)?;
    let token = form.one("token")?.ok_or(OAuthError::request("token is missing"))?;
    let client = client::authenticate(services, &parts.headers, &form).await?;
    client.count(services)?;
    let seal = services.keys.seal().ok_or(OAuthError::unavailable("the cluster has no keys yet"))?;
    let of_refresh = seal.read_refresh(token).map(|(consent, _)| consent);
    let consent = of_refresh.or_else(|| introspect::claims(services, token).map(|claims| claims.consent_id));
    let Some(consent) = consent else { return Ok(()) };
    let wish = GiveUp { client: client.name.clone(), consent };
    match services.decisions.ask(&Wish::GiveUp(wish), format!("client:{}", client.name)).await {
        Ok(_) | Err(Undecided::Refused(_)) => Ok(()),
        Err(Undecided::Unavailable) => Err(OAuthError::unavailable("nobody decides now; try again")),
    }
}
