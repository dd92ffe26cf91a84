//! The token endpoint: a grant becomes an access token (OAuth 2.1 §3.2).
//!
//! A request is read strictly, its client proves who it is, its grant is looked at, what only one place may decide is
//! asked of the leader, and the token is minted. The grants are codes, refresh tokens and what headless clients
//! sign (all here) or their platform does (`workload`), identity assertions (`id_jag`), and other agents' tokens
//! (`exchange`). Nothing a client sends is logged or recorded.

use aws_lc_rs::digest;
use axum::{
    Json,
    body::Body,
    extract::State,
    http::{Request, header, request::Parts},
    response::{IntoResponse, Response},
};
use bailiwick_control_plane_core::{
    Exchanged, Wish, authorization::RedeemCode, headless::UseCredentials, refresh::Refresh, resource::HeadlessSpec,
    workload::UseWorkload,
};
use bailiwick_proto::scope::Scopes;
use bailiwick_token::binding::{BINDING_ALG, BindingKey};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Serialize;

use super::{
    Services, binding, body_of,
    client::{self, Authenticated},
    dpop,
    error::OAuthError,
    exchange,
    form::Form,
    handles, id_jag, request,
    workload::{self, NotVouched, Vouched},
};
use crate::{
    binding::Binding,
    clock,
    decisions::{Decided, Undecided},
    minting,
    seal::Seal,
};

/// Bounds of a code verifier (RFC 7636 §4.1).
const VERIFIER_CHARS: std::ops::RangeInclusive<usize> = 43..=128;

/// Of clients without a person, also those whose platform speaks for them.
const CLIENT_CREDENTIALS: &str = "client_credentials";

/// The answer with a token (RFC 6749 §5.1).
#[derive(Serialize)]
struct TokenResponse<'a> {
    access_token: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    issued_token_type: Option<&'static str>,
    token_type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    binding_alg: Option<&'static str>,
    /// Told here and never again.
    #[serde(skip_serializing_if = "Option::is_none")]
    binding_key: Option<&'a str>,
    expires_in: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    refresh_token: Option<String>,
    scope: String,
}

pub(super) async fn token(State(services): State<Services>, request: Request<Body>) -> Response {
    let shows_key = request.headers().contains_key(dpop::PROOF);
    let mut response = match grant(&services, request).await {
        Ok(response) => response,
        Err(error) => {
            tracing::info!(error = error.word(), why = error.why(), "no token is given");
            services.metrics.token_refused(error.word());
            error.into_response()
        }
    };
    if let Some(nonce) = shows_key.then(|| dpop::nonce(&services)).flatten() {
        response.headers_mut().insert(dpop::NONCE, nonce);
    }
    response
}

async fn grant(services: &Services, request: Request<Body>) -> Result<Response, OAuthError> {
    let (parts, body) = request.into_parts();
    let body = body_of(body).await?;
    let form = Form::read(&parts.headers, &body)?;
    let grant_type = form.one("grant_type")?.ok_or(OAuthError::request("grant_type is missing"))?;
    if !super::GRANT_TYPES.contains(&grant_type) {
        return Err(OAuthError::grant_type());
    }
    let given = given(services, (&parts, &form, &body), grant_type).await;
    given.map_err(|error| error.with(|about| grant_type.clone_into(&mut about.grant)))
}

async fn given(
    services: &Services,
    (parts, form, body): (&Parts, &Form, &[u8]),
    grant_type: &str,
) -> Result<Response, OAuthError> {
    let vouched = if grant_type == super::JWT_BEARER { workload::as_grant(&parts.headers, form)? } else { None };
    let (client, grant_type) = match vouched {
        Some(jwt) => {
            let client = workload::authenticate(services, jwt, form.one("client_id")?).await;
            (client.map_err(NotVouched::of_grant)?, CLIENT_CREDENTIALS)
        }
        None => (client::authenticate(services, parts, form).await?, grant_type),
    };
    let given = async {
        client.count(services)?;
        let binding = binding::asked(services, &client, parts, (form, body))?;
        given_to(services, &client, form, grant_type, &binding).await
    };
    given.await.map_err(|error| client.refused(error))
}

async fn given_to(
    services: &Services,
    client: &Authenticated,
    form: &Form,
    grant_type: &str,
    binding: &Binding,
) -> Result<Response, OAuthError> {
    let decided = match grant_type {
        "authorization_code" => redeem(services, client, form, binding).await?,
        "refresh_token" => refresh(services, client, form, binding).await?,
        CLIENT_CREDENTIALS => credentials(services, client, form).await?,
        _ if client.is_public => {
            return Err(OAuthError::client("this grant is for clients that prove who they are", false));
        }
        super::TOKEN_EXCHANGE => {
            let (decided, issued) = exchange::exchange(services, client, form, binding).await?;
            return answer(services, &decided, binding, Some(issued));
        }
        _ => id_jag::exchange(services, client, form, binding).await?,
    };
    answer(services, &decided, binding, None)
}

async fn redeem(
    services: &Services,
    client: &Authenticated,
    form: &Form,
    binding: &Binding,
) -> Result<Decided<Exchanged>, OAuthError> {
    let code = form.one("code")?.ok_or(OAuthError::request("code is missing"))?;
    let verifier = form.one("code_verifier")?.ok_or(OAuthError::request("code_verifier is missing"))?;
    let is_char = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
    if !VERIFIER_CHARS.contains(&verifier.len()) || !verifier.bytes().all(is_char) {
        return Err(OAuthError::grant("the code_verifier is not one"));
    }
    let consent = handles::read(services, code, Seal::read_code).await?;
    let consent = consent.ok_or(OAuthError::grant("the code is not one of ours"))?;
    let about = consent.clone();
    let wish = RedeemCode {
        consent,
        client: client.name.clone(),
        uses: client.used.iter().cloned().collect(),
        redirect_uri: form.one("redirect_uri")?.map(str::to_owned),
        challenge: URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, verifier.as_bytes())),
        virtual_server: virtual_server(services, form)?,
    };
    let wish = binding::wish(client, binding, Wish::RedeemCode(wish));
    decided(services, client, wish).await.map_err(|error| error.of_consent(&about))
}

/// A headless client's, on what it has signed itself (RFC 6749 §4.4), or its platform has.
async fn credentials(
    services: &Services,
    client: &Authenticated,
    form: &Form,
) -> Result<Decided<Exchanged>, OAuthError> {
    if client.used.is_none() && client.workload.is_none() && !client.by_certificate {
        let why = "clients without a person sign who they are, or show a certificate (private_key_jwt, workload, mTLS)";
        return Err(OAuthError::unauthorized(why));
    }
    let named = match virtual_server(services, form)? {
        Some(name) => Some(name),
        None => services.domain.read(|state| only_one(state.clients.get(&client.name)?.spec.headless.as_ref())),
    };
    let virtual_server = named.ok_or(OAuthError::target("several resources are possible: name one"))?;
    let wanted = match form.one("scope")? {
        Some(words) => Some(Scopes::parse(words).level().ok_or_else(OAuthError::scope)?),
        None => None,
    };
    let name = client.name.clone();
    let wish = match client.workload.clone() {
        Some(Vouched { workload, until }) => {
            Wish::UseWorkload(UseWorkload { client: name, workload, until, virtual_server, wanted })
        }
        None => {
            let uses = client.used.iter().cloned().collect();
            Wish::UseCredentials(UseCredentials { client: name, uses, virtual_server, wanted })
        }
    };
    decided(services, client, wish).await
}

fn only_one(headless: Option<&HeadlessSpec>) -> Option<String> {
    let mut names = headless?.virtual_servers.iter();
    names.next().filter(|_| names.next().is_none()).cloned()
}

async fn refresh(
    services: &Services,
    client: &Authenticated,
    form: &Form,
    binding: &Binding,
) -> Result<Decided<Exchanged>, OAuthError> {
    let token = form.one("refresh_token")?.ok_or(OAuthError::request("refresh_token is missing"))?;
    let known = handles::read(services, token, Seal::read_refresh).await?;
    let (consent, generation) = known.ok_or(OAuthError::grant("the refresh token is not one of ours"))?;
    let wanted = match form.one("scope")? {
        Some(words) => Some(Scopes::parse(words).level().ok_or_else(OAuthError::scope)?),
        None => None,
    };
    let wish = Refresh {
        consent: consent.clone(),
        generation,
        client: client.name.clone(),
        uses: client.used.iter().cloned().collect(),
        wanted,
        virtual_server: virtual_server(services, form)?,
    };
    let wish = binding::wish(client, binding, Wish::Refresh(wish));
    decided(services, client, wish).await.map_err(|error| error.of_consent(&consent))
}

/// What the request says the token is for; the grant has it already.
fn virtual_server(services: &Services, form: &Form) -> Result<Option<String>, OAuthError> {
    match form.all("resource") {
        [] => Ok(None),
        [url] => {
            let found = services.domain.read(|state| request::of_resource(state, url));
            found.map(Some).ok_or(OAuthError::target("the resource is not known here"))
        }
        _ => Err(OAuthError::target("a token is for one resource")),
    }
}

async fn decided(services: &Services, client: &Authenticated, wish: Wish) -> Result<Decided<Exchanged>, OAuthError> {
    let decided = services.decisions.token(&wish, format!("client:{}", client.name)).await;
    decided.map_err(|undecided| match undecided {
        Undecided::Refused(sentence) => OAuthError::refused(sentence),
        Undecided::Unavailable => OAuthError::unavailable("nobody decides now; try again"),
    })
}

fn answer(
    services: &Services,
    decided: &Decided<Exchanged>,
    binding: &Binding,
    issued_token_type: Option<&'static str>,
) -> Result<Response, OAuthError> {
    let Decided { what: Exchanged { grant, level, refresh }, revision } = decided;
    let minted = minting::mint(&services.domain, &services.keys, grant, (*level, *revision), binding);
    let minted = minted.map_err(|_| OAuthError::unavailable("no token can be signed now"))?;
    let refresh_token = refresh.and_then(|number| Some(services.keys.seal()?.refresh(&grant.consent, number)));
    services.metrics.token_issued();
    let binding_key = minted.binding_key.as_ref().map(BindingKey::expose);
    let response = TokenResponse {
        access_token: minted.token.expose(),
        issued_token_type,
        token_type: binding.token_type(),
        binding_alg: minted.binding_key.as_ref().map(|_| BINDING_ALG),
        binding_key: binding_key.as_ref().map(|key| key.as_str()),
        expires_in: grant.expires_at.saturating_sub(clock::now_micros() / 1_000_000),
        refresh_token,
        scope: Scopes::of_level(*level).to_string(),
    };
    let headers = [(header::CACHE_CONTROL, "no-store"), (header::PRAGMA, "no-cache")];
    Ok((headers, Json(response)).into_response())
}
