//! Token introspection (RFC 7662): whether a token of the client that asks counts at this moment.
//!
//! Not only its signature and its time: consent, person, agent and the agent's owner are looked at, at a state that
//! holds every change acknowledged before. Of anything else there is one answer, `{"active": false}`. Clients that
//! prove nothing learn nothing.

use axum::{
    Json,
    body::Body,
    extract::State,
    http::{Request, header},
    response::{IntoResponse, Response},
};
use bailiwick_control_plane_core::State as Domain;
use bailiwick_token::{Claims, Confirmation, Expect, TOKEN_BYTES_MAX, VerifyingKeys};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::{
    Services, body_of,
    client::{self, Authenticated},
    error::OAuthError,
    form::Form,
    handles, request,
};
use crate::{clock, minting, seal::Seal};

pub(super) async fn introspect(State(services): State<Services>, request: Request<Body>) -> Response {
    match introspected(&services, request).await {
        Ok(told) => ([(header::CACHE_CONTROL, "no-store")], Json(told)).into_response(),
        Err(error) => {
            tracing::info!(error = error.word(), why = error.why(), "nothing is told of a token");
            error.into_response()
        }
    }
}

async fn introspected(services: &Services, request: Request<Body>) -> Result<Value, OAuthError> {
    let (parts, body) = request.into_parts();
    let form = Form::read(&parts.headers, &body_of(body).await?)?;
    let token = form.one("token")?.ok_or(OAuthError::request("token is missing"))?;
    let client = client::authenticate(services, &parts, &form).await?;
    told(services, &client, token).await.map_err(|error| client.refused(error))
}

/// Of a state that holds every change acknowledged before the request came: the client was looked for in such a one.
async fn told(services: &Services, client: &Authenticated, token: &str) -> Result<Value, OAuthError> {
    client.count(services)?;
    if client.is_public {
        return Err(OAuthError::client("only clients that prove who they are may ask", false));
    }
    let now = u64::try_from(clock::now_seconds()).unwrap_or_default();
    let inactive = json!({"active": false});
    if let Some((consent, generation)) = handles::read(services, token, Seal::read_refresh).await? {
        let told = services.domain.read(|state| refresh_token(state, &client.name, &consent, generation, now));
        return Ok(told.unwrap_or(inactive));
    }
    let Some(claims) = claims(services, token).filter(|claims| claims.client_id == client.name) else {
        return Ok(inactive);
    };
    let counts = services.domain.read(|state| counts(state, &claims.consent_id, now));
    Ok(if counts { access_token(&claims) } else { inactive })
}

/// What an access token of ours says, while it has not expired; for whichever resource.
pub(super) fn claims(services: &Services, token: &str) -> Option<Claims> {
    // Which audience it is for is its own word until it is verified.
    let audience = said_audience(token)?;
    let (issuer, keys) = services.domain.read(|state| {
        request::of_resource(state, &audience)?;
        let jwks = state.token_keys.values().map(|stored| stored.key.clone()).collect::<Vec<_>>();
        Some((minting::issuer(state)?.0, jwks))
    })?;
    let keys = keys.iter().map(|key| (key.kid.as_str(), key.alg.as_str(), key.jwk.as_str()));
    let expect = Expect { issuer: &issuer, audience: &audience };
    VerifyingKeys::from_jwks(keys).ok()?.verify(token, &expect, clock::now_seconds()).ok()
}

fn said_audience(token: &str) -> Option<String> {
    if token.len() > TOKEN_BYTES_MAX {
        return None;
    }
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    serde_json::from_slice::<Value>(&payload).ok()?.get("aud")?.as_str().map(str::to_owned)
}

fn access_token(claims: &Claims) -> Value {
    let is_shown_with_key = matches!(claims.cnf, Some(Confirmation::Key(_)));
    let mut told = json!({
        "active": true,
        "token_type": if is_shown_with_key { "DPoP" } else { "Bearer" },
        "iss": claims.iss,
        "aud": claims.aud,
        "sub": claims.sub,
        "client_id": claims.client_id,
        "scope": claims.scope,
        "exp": claims.exp,
        "iat": claims.iat,
        "jti": claims.jti,
        "act": claims.act,
    });
    let bound = [
        ("cnf", claims.cnf.as_ref().map(|cnf| json!(cnf))),
        ("binding_alg", claims.binding_alg.as_ref().map(|alg| json!(alg))),
    ];
    for (name, value) in bound {
        if let (Some(value), Some(told)) = (value, told.as_object_mut()) {
            told.insert(name.to_owned(), value);
        }
    }
    told
}

fn refresh_token(state: &Domain, client: &str, consent: &str, generation: u64, now: u64) -> Option<Value> {
    let known = state.consents.get(consent).filter(|known| known.granted.client == client)?;
    let is_present = known.refresh.is_some_and(|present| present.number == generation);
    (is_present && counts(state, consent, now)).then(|| {
        json!({
            "active": true,
            "client_id": client,
            "sub": known.granted.user,
            "exp": known.granted.expires_at,
        })
    })
}

/// Whether a consent and all who take part still count.
fn counts(state: &Domain, consent: &str, now: u64) -> bool {
    let Some(consent) = state.consents.get(consent).filter(|consent| consent.is_live(now)) else { return false };
    let is_active = |name: &str| state.users.get(name).is_some_and(|user| user.spec.active);
    let acts =
        |name: &String| state.agents.get(name).is_some_and(|agent| agent.spec.acts() && is_active(&agent.spec.owner));
    let granted = &consent.granted;
    is_active(&granted.user) && acts(&granted.agent) && granted.earlier_agents.iter().all(acts)
}
