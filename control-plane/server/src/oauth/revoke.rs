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
use bailiwick_control_plane_core::{State as Domain, Wish, consent::GiveUp, refusal::Refusal};

use super::{
    Services, body_of,
    client::{self, Authenticated},
    error::OAuthError,
    form::Form,
    handles, introspect,
};
use crate::{decisions::Undecided, refusals, seal::Seal};

/// Whoever presents it has it from somebody; only the record tells.
const OF_ANOTHER: &str = "the token is another client's, and goes on";

pub(super) async fn revoke(State(services): State<Services>, request: Request<Body>) -> Response {
    match revoked(&services, request).await {
        Ok(ended) => {
            let answer = (StatusCode::OK, [(header::CACHE_CONTROL, "no-store")]).into_response();
            if let Ended::OfAnother(refusal) = ended { refusals::told(answer, *refusal) } else { answer }
        }
        Err(error) => {
            tracing::info!(error = error.word(), why = error.why(), "a token is not revoked");
            error.into_response()
        }
    }
}

/// What came of a revocation; the client is answered the same.
enum Ended {
    /// It is over, or never was.
    Its,
    /// It goes on: it is another client's.
    OfAnother(Box<Refusal>),
}

async fn revoked(services: &Services, request: Request<Body>) -> Result<Ended, OAuthError> {
    let (parts, body) = request.into_parts();
    let form = Form::read(&parts.headers, &body_of(body).await?)?;
    let token = form.one("token")?.ok_or(OAuthError::request("token is missing"))?;
    let client = client::authenticate(services, &parts, &form).await?;
    ended(services, &client, token).await.map_err(|error| client.refused(error))
}

async fn ended(services: &Services, client: &Authenticated, token: &str) -> Result<Ended, OAuthError> {
    client.count(services)?;
    let of_refresh = handles::read(services, token, Seal::read_refresh).await?.map(|(consent, _)| consent);
    let consent = of_refresh.or_else(|| introspect::claims(services, token).map(|claims| claims.consent_id));
    let Some(consent) = consent else { return Ok(Ended::Its) };
    let wish = GiveUp { client: client.name.clone(), consent: consent.clone() };
    match services.decisions.ask(&Wish::GiveUp(wish), format!("client:{}", client.name)).await {
        Ok(_) | Err(Undecided::Refused(_)) => {
            let of = |state: &Domain| state.consents.get(&consent).map(|known| known.granted.client.clone());
            let is_its = services.domain.read(of).is_none_or(|owner| owner == client.name);
            let error = || client.refused(OAuthError::grant(OF_ANOTHER)).of_consent(&consent);
            Ok(if is_its { Ended::Its } else { Ended::OfAnother(Box::new(error().refusal())) })
        }
        Err(Undecided::Unavailable) => Err(OAuthError::unavailable("nobody decides now; try again")),
    }
}
