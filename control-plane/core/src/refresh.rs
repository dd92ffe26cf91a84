//! Refresh tokens: a client gets its next access token without asking the person, for as long as the consent counts.
//!
//! Each is good once (OAuth 2.1 §4.3.1): a consent has one generation at a time, and using it makes the next. One of an
//! earlier generation means that somebody has a copy, and ends the consent, but for the moment after the change: a
//! client whose answer was lost, or of which two processes share a token, gets the present generation once more.
//! The server makes the tokens of generations, which nobody else can (`Seal`), so none is kept here, nor a hash of one.
//! Called by `wish` and `state`. Absent: codes (`authorization`).

use bailiwick_proto::Tier;
use serde::{Deserialize, Serialize};

use crate::{
    Rejection,
    assertion::{self, Use},
    authorization,
    binding::{self, Shown},
    command::{Context, Decision, Exchanged},
    consent::{self, TokenIssued},
    state::State,
    wish::Fulfilled,
};

/// The generation that a code gives.
pub const FIRST: u64 = 1;
/// How long the generation before is still answered with the present one, in seconds.
pub const GRACE_SECONDS: u64 = 10;
/// Why a consent ends of which an old refresh token was used.
const USED_AGAIN: &str = "a refresh token was presented again that had been replaced";

/// The generation of a consent's refresh token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generation {
    /// Which.
    pub number: u64,
    /// Since when, Unix seconds.
    pub since: u64,
}

/// A wish of a client for its next token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refresh {
    /// The consent it is a token of.
    pub consent: String,
    /// Its generation.
    #[serde(with = "crate::decimal")]
    pub generation: u64,
    /// The client, which proved who it is, if it can.
    pub client: String,
    /// What it used up by that.
    pub uses: Vec<Use>,
    /// The most harmful tier of the scope it asks for; all that was granted where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wanted: Option<Tier>,
    /// The virtual server, if the client says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub virtual_server: Option<String>,
}

/// Payload of `token_refreshed`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRefreshed {
    /// For which consent.
    pub consent: String,
    /// The generation of the refresh token that the client has now.
    #[serde(with = "crate::decimal")]
    pub generation: u64,
    /// What the client used up to prove who it is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub uses: Vec<Use>,
    /// The most harmful tier the token is good for.
    pub level: Tier,
    /// The token's id.
    pub jti: String,
    /// `sid`.
    pub session: String,
    /// The agent's project at that time.
    pub project: String,
    /// Unix seconds.
    #[serde(with = "crate::decimal")]
    pub issued_at: u64,
    /// Unix seconds.
    #[serde(with = "crate::decimal")]
    pub expires_at: u64,
}

/// `shown`: what the client showed of what its token will be bound to. Without what the grant is bound to the present
/// refresh token does nothing, not even end the consent. An earlier one ends it whatever is shown: whoever bound the grant
/// since then may be the one who has the copy.
pub(crate) fn decide_refresh(
    state: &State,
    wish: Refresh,
    shown: Option<Shown<'_>>,
    context: &Context,
) -> Result<Decision, Rejection> {
    let now = context.now_seconds();
    let consent = state.consents.get(&wish.consent).filter(|known| known.granted.client == wish.client);
    let consent = consent.filter(|known| known.is_live(now)).ok_or(Rejection::RefreshUnknown)?;
    let (Some(present), Some(code)) = (consent.refresh, &consent.code) else { return Err(Rejection::RefreshUnknown) };
    let is_late =
        wish.generation.checked_add(1) == Some(present.number) && now < present.since.saturating_add(GRACE_SECONDS);
    let generation = match wish.generation {
        number if number == present.number => number.checked_add(1).ok_or(Rejection::RefreshUnknown)?,
        _ if is_late => present.number,
        number if number < present.number => return Ok(Decision::used_again(&wish.consent, USED_AGAIN, context)),
        // A backup from before it was restored.
        _ => return Err(Rejection::RefreshUnknown),
    };
    let newly_bound = binding::check(consent, shown, false, context)?;
    if wish.virtual_server.is_some_and(|name| name != consent.granted.virtual_server) {
        return Err(Rejection::RefreshUnknown);
    }
    assertion::check_uses(state, &wish.uses, context)?;
    let wanted = wish.wanted.map_or(code.issued.wanted, |wanted| wanted.min(code.issued.wanted));
    let next = authorization::token(state, consent, wanted, context)?;
    let refreshed = TokenRefreshed {
        consent: wish.consent,
        generation,
        uses: wish.uses,
        level: next.level,
        jti: next.issued.jti.clone(),
        session: next.issued.session.clone(),
        project: next.issued.project.clone(),
        issued_at: next.issued.issued_at,
        expires_at: next.issued.expires_at,
    };
    let grant = consent::to_grant(&consent.granted, &next.issued);
    let exchanged = Exchanged { grant, level: next.level, refresh: Some(generation) };
    let events = [context.event(refreshed)].into_iter().chain(newly_bound).collect();
    Ok(Decision::fulfilled(events, Fulfilled::Token(exchanged)))
}

pub(crate) fn evolve_refreshed(state: &mut State, event: &TokenRefreshed, now_seconds: u64) {
    assertion::remember(state, &event.uses, now_seconds);
    if let Some(consent) = state.consents.get_mut(&event.consent) {
        let since = consent.refresh.filter(|known| known.number == event.generation).map(|known| known.since);
        consent.refresh = Some(Generation { number: event.generation, since: since.unwrap_or(now_seconds) });
    }
    let TokenRefreshed { consent, jti, session, project, issued_at, expires_at, .. } = event.clone();
    consent::evolve_issued(state, &TokenIssued { consent, jti, session, project, issued_at, expires_at });
}
