//! Token exchange (RFC 8693): a client shows the token of an agent that hands it work, and gets one of its own agent.
//!
//! Checked here, on any node: what is asked for, and that the token is one of ours that has not expired. That its
//! consent counts, that this client takes over from that agent, and how far it goes, is the leader's decision. The
//! client that asks is the actor, so an actor's token is not taken. Faults of the subject token are `invalid_request`
//! (RFC 8693 §2.2.2). Called by `token`. Absent: tokens of other issuers, and other kinds than access tokens.

use bailiwick_control_plane_core::{
    Exchanged, Wish,
    exchange::{ACT_DEPTH_MAX, ExchangeToken, Subject},
};
use bailiwick_proto::scope::Scopes;
use bailiwick_token::Claims;

use super::{
    Services, binding::check_subject, client::Authenticated, error::OAuthError, form::Form, introspect, request,
};
use crate::{
    binding::Binding,
    decisions::{Decided, Undecided},
};

/// The kinds of tokens that are taken and given (RFC 8693 §3): one kind, under two names.
const TYPES: [&str; 2] = ["urn:ietf:params:oauth:token-type:access_token", "urn:ietf:params:oauth:token-type:jwt"];

// Whatever may be handed on can be told in a token.
const _: () = assert!(ACT_DEPTH_MAX == bailiwick_token::ACT_DEPTH_MAX);

/// A token for the one in `form`, and which type it is called by.
pub(super) async fn exchange(
    services: &Services,
    client: &Authenticated,
    form: &Form,
    binding: &Binding,
) -> Result<(Decided<Exchanged>, &'static str), OAuthError> {
    let issued = form.one("requested_token_type")?.map_or(Ok(TYPES[0]), |asked| {
        let known = TYPES.into_iter().find(|known| *known == asked);
        known.ok_or(OAuthError::request("the requested_token_type is not given here: ask for an access token"))
    })?;
    if form.has("actor_token") || form.has("actor_token_type") {
        return Err(OAuthError::request("an actor_token is not taken: the client that authenticates is the actor"));
    }
    let takes_over = services.domain.read(|state| state.clients.get(&client.name)?.spec.exchange.clone());
    if takes_over.is_none() {
        return Err(OAuthError::unauthorized("the client's manifest names no agents to take over from (`exchange`)"));
    }
    let claims = subject(services, form)?;
    check_subject(&claims, binding)?;
    check_target(services, form, &claims)?;
    let wanted = match form.one("scope")? {
        Some(words) => Some(Scopes::parse(words).level().ok_or_else(OAuthError::scope)?),
        None => None,
    };
    let wish = ExchangeToken {
        client: client.name.clone(),
        uses: client.used.iter().cloned().collect(),
        subject: read(services, &claims).ok_or(OAuthError::request(INVALID))?,
        wanted,
    };
    let decided = services.decisions.token(&Wish::Exchange(wish), format!("client:{}", client.name)).await;
    let decided = decided.map_err(|undecided| match undecided {
        Undecided::Refused(sentence) => OAuthError::not_handed_on(sentence),
        Undecided::Unavailable => OAuthError::unavailable("nobody decides now; try again"),
    });
    let decided = decided.map_err(|error| error.of_consent(&claims.consent_id))?;
    Ok((decided, issued))
}

/// Which part of it is wrong is nobody's business.
const INVALID: &str = "the subject_token is not an access token of this issuer that is good now";

fn subject(services: &Services, form: &Form) -> Result<Claims, OAuthError> {
    let token = form.one("subject_token")?.ok_or(OAuthError::request("subject_token is missing"))?;
    match form.one("subject_token_type")? {
        Some(kind) if TYPES.contains(&kind) => {}
        Some(_) => return Err(OAuthError::request("the subject_token_type is not taken: only access tokens are")),
        None => return Err(OAuthError::request("subject_token_type is missing")),
    }
    let claims = introspect::claims(services, token).ok_or(OAuthError::request(INVALID))?;
    if claims.act.sub != claims.agent_sub {
        return Err(OAuthError::request(INVALID));
    }
    if claims.act.depth() >= ACT_DEPTH_MAX {
        return Err(OAuthError::request(
            "the token was handed on too often: at most four agents act one for the other",
        ));
    }
    Ok(claims)
}

/// What is handed on is good where it was.
fn check_target(services: &Services, form: &Form, claims: &Claims) -> Result<(), OAuthError> {
    let named: Vec<_> = form.all("resource").iter().chain(form.all("audience")).collect();
    let [url] = named.as_slice() else {
        let refused = OAuthError::target("a token is for one resource");
        return if named.is_empty() { Ok(()) } else { Err(refused) };
    };
    let of = |url: &str| services.domain.read(|state| request::of_resource(state, url));
    let is_same = of(url).is_some_and(|named| of(&claims.aud).is_some_and(|own| named == own));
    is_same.then_some(()).ok_or(OAuthError::target("the subject_token is not for this resource"))
}

fn read(services: &Services, claims: &Claims) -> Option<Subject> {
    Some(Subject {
        consent: claims.consent_id.clone(),
        user: claims.sub.clone(),
        agent: claims.agent_sub.clone(),
        client: claims.client_id.clone(),
        virtual_server: services.domain.read(|state| request::of_resource(state, &claims.aud))?,
        level: Scopes::parse(&claims.scope).level()?,
        expires_at: u64::try_from(claims.exp).ok()?,
    })
}
