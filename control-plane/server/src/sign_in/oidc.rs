//! Signing in at a company's own provider: the way there, and the way back.
//!
//! `start` sends the browser to the provider and `callback` takes it back, on any node: what lies between is sealed
//! into `state`, and a cookie holds it to the browser. Routed by `sign_in`, whose `begin` puts the sign-in on record.
//!
//! Invariants: a callback counts in the browser that began, for ten minutes, for the one provider it was begun at,
//! whose redirect URI is its own (mix-up, RFC 9700 §4.4.2), and its cookie goes with it, whatever came of it; where
//! somebody goes afterwards was sealed at the start. No node remembers a state: who repeats one within its time has
//! neither the cookie nor a code that the provider takes twice. Nothing that a provider says is shown or logged but
//! words that are known. Specifications: OpenID Connect Core 1.0 §3.1; RFC 6749 §4.1; RFC 7636; RFC 9207; RFC 9700
//! §2.1, §4.4, §4.7.

mod exchange;
mod fault;
mod person;
#[cfg(test)]
mod tests;
mod ticket;

use axum::{
    Router,
    extract::{Path, RawQuery, State},
    http::{HeaderMap, HeaderValue, header},
    response::Response,
    routing::get,
};
use bailiwick_control_plane_core::{
    resource::{IdentityProviderSpec, SignInSpec},
    sign_in::SignIn,
};

use self::{
    exchange::Code,
    fault::Fault,
    ticket::{Fresh, TICKET_SECONDS, Ticket},
};
use super::{cookie_name, may_return, own_cookie, see_other, set_cookie};
use crate::{
    clock, minting,
    oauth::{Services, form::Form},
    pages::Choice,
    seal::Purpose,
};

/// Where signing in at a provider begins, and where the provider sends people back to.
const START_PATH: &str = "/sign-in/with";
const CALLBACK_PATH: &str = "/sign-in/callback";
/// What cookies of sign-ins are called: this and which of them it is.
const COOKIE: &str = "with-";
/// Most sign-ins that a browser has under way; with more, all that were begun before are forgotten.
const UNDER_WAY_MAX: usize = 8;

/// The endpoints.
pub(super) fn routes() -> Router<Services> {
    let start = Router::new().route(&format!("{START_PATH}/{{provider}}"), get(start));
    start.route(&format!("{CALLBACK_PATH}/{{provider}}"), get(callback))
}

/// The providers that people can sign in at, as links that lead to `path` of ours in the end.
pub(super) fn choices(services: &Services, issuer: &str, path: &str) -> Vec<Choice> {
    let query = form_urlencoded::Serializer::new(String::new()).append_pair("return", path).finish();
    services.domain.read(|state| {
        let offered = state.identity_providers.iter().filter_map(|(name, known)| {
            let sign_in = known.spec.sign_in.as_ref().filter(|_| known.spec.active)?;
            let title = sign_in.title.clone().unwrap_or_else(|| name.clone());
            Some(Choice { title, url: format!("{issuer}{START_PATH}/{name}?{query}") })
        });
        offered.collect()
    })
}

/// Where a provider is registered to send people back to.
fn redirect_uri(issuer: &str, provider: &str) -> String {
    format!("{issuer}{CALLBACK_PATH}/{provider}")
}

/// A provider, as it stands in its manifest now.
struct Known {
    name: String,
    spec: IdentityProviderSpec,
    sign_in: SignInSpec,
    /// Our own issuer.
    issuer: String,
}

impl Known {
    fn of(services: &Services, name: &str) -> Result<Self, Fault> {
        let (issuer, _) = services.domain.read(minting::issuer).ok_or(Fault::NotNow)?;
        let spec = services.domain.read(|state| state.identity_providers.get(name).map(|known| known.spec.clone()));
        let spec = spec.filter(|spec| spec.active).ok_or(Fault::NoProvider)?;
        let sign_in = spec.sign_in.clone().ok_or(Fault::NoProvider)?;
        Ok(Self { name: name.to_owned(), spec, sign_in, issuer })
    }

    fn redirect_uri(&self) -> String {
        redirect_uri(&self.issuer, &self.name)
    }
}

async fn start(
    State(services): State<Services>,
    Path(provider): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let sent = send(&services, &provider, query.as_deref().unwrap_or_default(), &headers).await;
    sent.unwrap_or_else(|fault| fault.page(&services, &provider))
}

/// To the provider, with a new ticket.
async fn send(services: &Services, provider: &str, query: &str, headers: &HeaderMap) -> Result<Response, Fault> {
    let form = Form::of_query(query).map_err(|_| Fault::NotOurs)?;
    let to = form.one("return").ok().flatten().filter(|path| may_return(path)).ok_or(Fault::NotOurs)?;
    let known = Known::of(services, provider)?;
    let endpoints = services.providers.endpoints(provider, &known.spec).await.map_err(Fault::Provider)?;
    let Fresh { ticket, browser } = Ticket::fresh(provider, to).ok_or(Fault::NotNow)?;
    let until = clock::now_seconds().saturating_add(TICKET_SECONDS);
    let state = services.keys.seal().and_then(|seal| seal.close(Purpose::SignIn, &ticket, until));
    let state = state.ok_or(Fault::NotNow)?;
    let url = ticket.authorization_url(&endpoints.authorization_url, &known.sign_in, &known.redirect_uri(), &state);
    let mut response = see_other(&url);
    for forgotten in too_many(services, headers) {
        add_cookie(&mut response, set_cookie(services, &forgotten, "", 0));
    }
    let set = set_cookie(services, &cookie_of(&ticket.id), &browser, TICKET_SECONDS).ok_or(Fault::NotNow)?;
    add_cookie(&mut response, Some(set));
    Ok(response)
}

async fn callback(
    State(services): State<Services>,
    Path(provider): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let Ok(form) = Form::of_query(query.as_deref().unwrap_or_default()) else {
        return Fault::NotOurs.page(&services, &provider);
    };
    let ticket = match ticket(&services, &provider, &form, &headers) {
        Ok(ticket) => ticket,
        Err(fault) => return fault.page(&services, &provider),
    };
    let taken = take(&services, &ticket, &form).await;
    let mut response = taken.unwrap_or_else(|fault| fault.page(&services, &provider));
    add_cookie(&mut response, set_cookie(&services, &cookie_of(&ticket.id), "", 0));
    response
}

/// What this browser began, at this provider, not long ago.
fn ticket(services: &Services, provider: &str, form: &Form, headers: &HeaderMap) -> Result<Ticket, Fault> {
    let state = form.one("state").ok().flatten().ok_or(Fault::NotOurs)?;
    let seal = services.keys.seal().ok_or(Fault::NotNow)?;
    let ticket: Ticket = seal.open(Purpose::SignIn, state, clock::now_seconds()).ok_or(Fault::Stale)?;
    let browser = own_cookie(services, headers, &cookie_of(&ticket.id));
    ticket.check(provider, browser)?;
    Ok(ticket)
}

/// The code for an ID token, and that for a session.
async fn take(services: &Services, ticket: &Ticket, form: &Form) -> Result<Response, Fault> {
    let known = Known::of(services, &ticket.provider)?;
    let endpoints = services.providers.endpoints(&known.name, &known.spec).await.map_err(Fault::Provider)?;
    let code = Code::read(form, &known.spec.issuer, endpoints.names_itself)?;
    let jwt = exchange::id_token(services, &known, &endpoints, &code, ticket).await?;
    let assertion = person::verify(services, &known, &jwt, &ticket.nonce).await?;
    let people = &known.spec.people;
    let wish = SignIn {
        user: people.user_of(&assertion.claims)?.to_owned(),
        provider: known.name.clone(),
        groups: people.groups_of(&assertion.claims)?,
        may_join: people.join,
        session: String::new(),
        said_at: assertion.iat.and_then(|at| u64::try_from(at).ok()),
    };
    Ok(super::begin(services, wish, format!("identity-provider:{}", known.name), &ticket.to).await)
}

fn cookie_of(id: &str) -> String {
    format!("{COOKIE}{id}")
}

/// Cookies of sign-ins that were begun before, if there are too many.
fn too_many(services: &Services, headers: &HeaderMap) -> Vec<String> {
    let Some(prefix) = cookie_name(services, COOKIE) else { return Vec::new() };
    let all = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let names = all.flat_map(|text| text.split(';')).filter_map(|pair| Some(pair.trim().split_once('=')?.0));
    let ids: Vec<String> = names.filter_map(|name| Some(cookie_of(name.strip_prefix(&prefix)?))).collect();
    if ids.len() < UNDER_WAY_MAX { Vec::new() } else { ids }
}

fn add_cookie(response: &mut Response, cookie: Option<HeaderValue>) {
    if let Some(cookie) = cookie {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
}
