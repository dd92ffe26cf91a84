//! Authorization by people: a person allows a client to act for them, and the client's code becomes a token, once.
//!
//! The server has signed the person in, has shown them what is asked, and has sent the client the code; here it is
//! decided that all who take part may, and that a code is redeemed once, by the client it was made for, which knows the
//! verifier of its challenge (RFC 7636, S256 alone). A code that comes a second time ends the consent (RFC 6749
//! §4.1.2). What a code is, the server knows: here it is part of its consent, so both are forgotten together. Called by
//! `wish` and `state`. Absent: refresh tokens (`refresh`), what a consent is (`consent`).

use std::collections::BTreeSet;

use bailiwick_proto::{Tier, names};
use serde::{Deserialize, Serialize};

use crate::{
    Rejection,
    assertion::{self, Use},
    binding::{self, Shown},
    command::{Context, Decision, Exchanged},
    consent::{self, Consent, ConsentGranted, TokenIssued},
    parties, requests,
    resource::redirect,
    revocation::sessions,
    standing::TOKEN_LIFETIME_SECONDS_MAX,
    state::State,
    virtual_server,
    wish::Fulfilled,
};

/// How long a code is good, in seconds: a browser needs one.
pub const CODE_SECONDS: u64 = 60;
/// Longest a person may consent for, in seconds: a month.
pub const CONSENT_SECONDS_MAX: u64 = 30 * 24 * 3_600;
/// Shortest, in seconds.
pub const CONSENT_SECONDS_MIN: u64 = 60;
/// Most tools that a consent lists.
pub const TOOLS_MAX: usize = 256;
/// Most bytes of their names together: the consent fits into one record of the ledger.
const TOOLS_BYTES_MAX: usize = 20 * 1024;
/// Characters of a challenge: SHA-256 in base64url.
const CHALLENGE_CHARS: usize = 43;
/// Why a consent ends whose code came twice.
const CODE_USED_AGAIN: &str = "the authorization code was presented again";

/// What became of a consent's code.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Code {
    /// As it was issued.
    pub issued: CodeIssued,
    /// Whether it was used.
    pub redeemed: bool,
}

/// A wish of a person who is signed in: let this client act for me.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantConsent {
    /// What the consent will be called, which nobody has used before: an answer sent twice grants once.
    pub consent: String,
    /// Who.
    pub user: String,
    /// The identity provider that signed them in; empty: the local sign-in.
    pub provider: String,
    /// The revision at which their session began; unknown: whoever asks has looked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_since: Option<u64>,
    /// Whom they allow.
    pub client: String,
    /// The agent it acts as.
    pub agent: String,
    /// Where.
    pub virtual_server: String,
    /// The most harmful tier.
    pub level: Tier,
    /// Only these tools, each as `server/tool`; none: all up to the level.
    pub tools: BTreeSet<String>,
    /// For how long, in seconds.
    #[serde(with = "crate::decimal")]
    pub lifetime_seconds: u64,
    /// Why: a ticket, or a sentence.
    pub reason: String,
    /// The most harmful tier of the scope the client asked for.
    pub wanted: Tier,
    /// Where the code is sent.
    pub redirect_uri: String,
    /// PKCE challenge (S256).
    pub challenge: String,
}

/// A wish of a person who is signed in: let this client not act for me.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeclineConsent {
    /// Who.
    pub user: String,
    /// The identity provider that signed them in; empty: the local sign-in.
    pub provider: String,
    /// Who asked.
    pub client: String,
    /// For where.
    pub virtual_server: String,
    /// Why, if they said so.
    pub reason: String,
}

/// A wish of a client for the token of a code.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RedeemCode {
    /// The consent it is the code of.
    pub consent: String,
    /// The client, which proved who it is, if it can.
    pub client: String,
    /// What it used up by that.
    pub uses: Vec<Use>,
    /// Where the code was sent, if the client says so.
    pub redirect_uri: Option<String>,
    /// The challenge of the verifier that it knows.
    pub challenge: String,
    /// The virtual server, if the client says so.
    pub virtual_server: Option<String>,
}

/// Payload of `code_issued`; the code itself is nowhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CodeIssued {
    /// For which consent.
    pub consent: String,
    /// PKCE challenge (S256).
    pub challenge: String,
    /// Where it was sent.
    pub redirect_uri: String,
    /// The most harmful tier of the scope asked for.
    pub wanted: Tier,
    /// Unix seconds.
    #[serde(with = "crate::decimal")]
    pub expires_at: u64,
}

/// Payload of `code_redeemed`: the client showed the verifier, and this token was made for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CodeRedeemed {
    /// For which consent.
    pub consent: String,
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

/// Payload of `consent_declined`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsentDeclined {
    /// Who declined.
    pub user: String,
    /// Who had asked.
    pub client: String,
    /// For where.
    pub virtual_server: String,
    /// The identity provider that signed the person in; empty: the local sign-in.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub provider: String,
    /// Why, if they said so.
    pub reason: String,
}

pub(crate) fn decide_grant(state: &State, wish: GrantConsent, context: &Context) -> Result<Decision, Rejection> {
    check(&wish)?;
    let terms = parties::terms(state, &wish.user, &wish.client, &wish.agent, &wish.virtual_server, context)?;
    if wish.level > terms.ceiling {
        return Err(Rejection::LevelAboveCeiling { level: wish.level, ceiling: terms.ceiling, agent: wish.agent });
    }
    check_signed_in(state, &wish.provider)?;
    sessions::check_browser(state, &wish.user, wish.session_since)?;
    check_tools(state, &wish)?;
    check_room(state, &wish, context)?;
    let now = context.now_seconds();
    let granted = ConsentGranted {
        consent: wish.consent,
        user: wish.user,
        agent: wish.agent,
        virtual_server: wish.virtual_server,
        level: wish.level,
        expires_at: now.saturating_add(wish.lifetime_seconds),
        reason: wish.reason,
        client: wish.client,
        provider: wish.provider,
        tools: wish.tools,
        parent: None,
        earlier_agents: Vec::new(),
    };
    let issued = CodeIssued {
        consent: granted.consent.clone(),
        challenge: wish.challenge,
        redirect_uri: wish.redirect_uri,
        wanted: wish.wanted,
        expires_at: now.saturating_add(CODE_SECONDS),
    };
    let fulfilled = Fulfilled::Consent(granted.consent.clone());
    Ok(Decision::fulfilled(vec![context.event(granted), context.event(issued)], fulfilled))
}

fn check(wish: &GrantConsent) -> Result<(), Rejection> {
    consent::check_reason(&wish.reason)?;
    if !(CONSENT_SECONDS_MIN..=CONSENT_SECONDS_MAX).contains(&wish.lifetime_seconds) {
        let (seconds, max) = (wish.lifetime_seconds, CONSENT_SECONDS_MAX);
        return Err(Rejection::LifetimeOutOfBounds { seconds, max });
    }
    if !is_challenge(&wish.challenge) {
        return Err(Rejection::Malformed { what: "code challenge", rule: "43 characters of base64url" });
    }
    if !redirect::is_redirect_uri(&wish.redirect_uri) {
        return Err(Rejection::Malformed { what: "redirect URI", rule: "one that a client may register" });
    }
    Ok(())
}

/// Whether a text can be a challenge of method S256, or a thumbprint: SHA-256 in base64url.
#[must_use]
pub fn is_challenge(text: &str) -> bool {
    text.len() == CHALLENGE_CHARS && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}

pub(crate) fn check_signed_in(state: &State, provider: &str) -> Result<(), Rejection> {
    let counts = provider.is_empty() || state.identity_providers.get(provider).is_some_and(|known| known.spec.active);
    let refused = || Rejection::Inactive(crate::ResourceRef::new(crate::Kind::IdentityProvider, provider));
    counts.then_some(()).ok_or_else(refused)
}

/// What is listed is shown there, and within the level.
fn check_tools(state: &State, wish: &GrantConsent) -> Result<(), Rejection> {
    if wish.tools.len() > TOOLS_MAX {
        return Err(Rejection::TooMany { what: "tools of a consent", max: TOOLS_MAX });
    }
    if wish.tools.iter().map(String::len).sum::<usize>() > TOOLS_BYTES_MAX {
        return Err(Rejection::Malformed { what: "list of tools", rule: "at most 20 KiB of names together" });
    }
    let Some(place) = state.virtual_servers.get(&wish.virtual_server) else { return Ok(()) };
    let shown: BTreeSet<String> = virtual_server::shown_tools(state, &place.spec)
        .filter(|tool| tool.tier <= wish.level)
        .map(|tool| tool.id())
        .collect();
    match wish.tools.iter().find(|tool| !shown.contains(*tool)) {
        None => Ok(()),
        Some(tool) => {
            let (server, tool) = tool.split_once('/').unwrap_or((tool, ""));
            Err(Rejection::ToolUnknown { server: server.to_owned(), tool: tool.to_owned() })
        }
    }
}

fn check_room(state: &State, wish: &GrantConsent, context: &Context) -> Result<(), Rejection> {
    // The code ends in what follows the last dot, and refresh tokens say their generation after a tilde.
    let is_name = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if !requests::is_id(&wish.consent) || !is_name(&wish.consent) {
        return Err(Rejection::Malformed { what: "consent's name", rule: "letters, digits and hyphens" });
    }
    if state.consents.contains_key(&wish.consent) {
        return Err(Rejection::AnsweredBefore);
    }
    consent::check_room(state, context)?;
    // What agents hand on among themselves takes nothing of the person's share.
    consent::check_share(state, context, |one| one.user == wish.user && one.parent.is_none())
}

pub(crate) fn decide_decline(state: &State, wish: DeclineConsent, context: &Context) -> Result<Decision, Rejection> {
    consent::check_reason(&wish.reason)?;
    let DeclineConsent { user, provider, client, virtual_server, reason } = wish;
    let known = state.users.contains_key(&user) && state.virtual_servers.contains_key(&virtual_server);
    if !known || !requests::is_id(&client) || !(provider.is_empty() || names::is_resource_name(&provider)) {
        return Err(Rejection::Malformed { what: "refusal", rule: "by a person, of a client, for a virtual server" });
    }
    let declined = ConsentDeclined { user, client, virtual_server, provider, reason };
    Ok(Decision::fulfilled(vec![context.event(declined)], Fulfilled::Done))
}

/// `shown`: what the client showed of what its token will be bound to.
pub(crate) fn decide_redeem(
    state: &State,
    wish: RedeemCode,
    shown: Option<Shown<'_>>,
    context: &Context,
) -> Result<Decision, Rejection> {
    let now = context.now_seconds();
    let consent = state.consents.get(&wish.consent).filter(|known| known.granted.client == wish.client);
    let (consent, code) =
        consent.and_then(|known| Some((known, known.code.as_ref()?))).ok_or(Rejection::CodeUnknown)?;
    if wish.challenge != code.issued.challenge {
        return Err(Rejection::CodeUnknown);
    }
    if code.redeemed {
        // Only whoever knows the verifier has more than what stood in some log.
        return match consent.revoked {
            None => Ok(Decision::used_again(&wish.consent, CODE_USED_AGAIN, context)),
            Some(_) => Err(Rejection::CodeUnknown),
        };
    }
    let fits = wish.redirect_uri.is_none_or(|uri| uri == code.issued.redirect_uri)
        && wish.virtual_server.is_none_or(|name| name == consent.granted.virtual_server);
    if !fits || now >= code.issued.expires_at || !consent.is_live(now) {
        return Err(Rejection::CodeUnknown);
    }
    let newly_bound = binding::check(consent, shown, true, context)?;
    assertion::check_uses(state, &wish.uses, context)?;
    let level = code.issued.wanted;
    let token = token(state, consent, level, context)?;
    let redeemed = CodeRedeemed {
        consent: token.issued.consent.clone(),
        uses: wish.uses,
        level: token.level,
        jti: token.issued.jti.clone(),
        session: token.issued.session.clone(),
        project: token.issued.project.clone(),
        issued_at: token.issued.issued_at,
        expires_at: token.issued.expires_at,
    };
    let refresh = Some(crate::refresh::FIRST);
    let grant = consent::to_grant(&consent.granted, &token.issued);
    let exchanged = Exchanged { grant, level: token.level, refresh };
    let events = [context.event(redeemed)].into_iter().chain(newly_bound).collect();
    Ok(Decision::fulfilled(events, Fulfilled::Token(exchanged)))
}

/// The next token of a consent.
pub(crate) struct NextToken {
    pub(crate) issued: TokenIssued,
    pub(crate) level: Tier,
}

/// The next token for a consent that counts, up to `wanted`, if all who take part still may.
pub(crate) fn token(state: &State, consent: &Consent, wanted: Tier, context: &Context) -> Result<NextToken, Rejection> {
    let granted = &consent.granted;
    let terms =
        parties::terms(state, &granted.user, &granted.client, &granted.agent, &granted.virtual_server, context)?;
    check_signed_in(state, &granted.provider)?;
    if ![&context.ids.session, &context.ids.token].into_iter().all(|id| requests::is_id(id)) {
        return Err(Rejection::Malformed { what: "fresh identifiers", rule: "visible ASCII that nobody used before" });
    }
    let now = context.now_seconds();
    let session = consent.token.as_ref().map_or(&context.ids.session, |token| &token.session).clone();
    let issued = TokenIssued {
        consent: granted.consent.clone(),
        jti: context.ids.token.clone(),
        session,
        project: terms.project,
        issued_at: now,
        expires_at: now.saturating_add(TOKEN_LIFETIME_SECONDS_MAX).min(granted.expires_at),
    };
    Ok(NextToken { issued, level: wanted.min(granted.level).min(terms.ceiling) })
}

pub(crate) fn evolve_issued(state: &mut State, event: &CodeIssued) {
    if let Some(consent) = state.consents.get_mut(&event.consent) {
        consent.code = Some(Code { issued: event.clone(), redeemed: false });
    }
}

pub(crate) fn evolve_redeemed(state: &mut State, event: &CodeRedeemed, now_seconds: u64) {
    assertion::remember(state, &event.uses, now_seconds);
    if let Some(consent) = state.consents.get_mut(&event.consent) {
        if let Some(code) = consent.code.as_mut() {
            code.redeemed = true;
        }
        consent.refresh = Some(crate::refresh::Generation { number: crate::refresh::FIRST, since: now_seconds });
    }
    let CodeRedeemed { consent, jti, session, project, issued_at, expires_at, .. } = event.clone();
    consent::evolve_issued(state, &TokenIssued { consent, jti, session, project, issued_at, expires_at });
}
