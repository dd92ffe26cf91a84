//! What a person allowed: the list, and taking back one or several.
//!
//! For whoever is signed in, of their own consents alone; the leader decides that (`consent::decide_take_back`). The
//! form carries a value sealed to the session, so no other page can send it. Absent: what administrators see and
//! revoke (`admin`).

use std::collections::BTreeSet;

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::Response,
    routing::get,
};
use bailiwick_control_plane_core::{
    Fulfilled, Wish,
    consent::{Consent, TakeBack},
    show,
};

use crate::{
    clock,
    decisions::{Decided, Undecided},
    minting,
    oauth::{Services, form::Form},
    pages::{self, ConsentShown, ConsentState, Consents},
    refusals::told_why,
    seal::Purpose,
    sign_in::{self, Session},
};

const PATH: &str = pages::CONSENTS_PATH;
/// Most that are shown.
const SHOWN_MAX: usize = 500;
/// How long the page's form is good, in seconds.
const FORM_SECONDS: i64 = 3_600;
/// Why a consent ended that its person took back.
const TAKEN_BACK: &str = "taken back by the person";

/// The endpoints.
pub(crate) fn routes() -> Router<Services> {
    Router::new().route(PATH, get(list).post(take_back))
}

async fn list(State(services): State<Services>, headers: HeaderMap) -> Response {
    let Some((issuer, _)) = services.domain.read(minting::issuer) else { return sign_in::not_now() };
    match sign_in::session(&services, &headers) {
        Some(session) => page(&services, &issuer, &session, None).await,
        None => sign_in::redirect(&issuer, PATH),
    }
}

async fn page(services: &Services, issuer: &str, session: &Session, notice: Option<String>) -> Response {
    let now = u64::try_from(clock::now_seconds()).unwrap_or_default();
    let until = clock::now_seconds().saturating_add(FORM_SECONDS);
    let token = services.keys.seal().and_then(|seal| seal.close(Purpose::Form, session, until));
    let shown = services.domain.read_latest(|state| {
        let own = state.consents.iter().filter(|(_, consent)| consent.granted.user == session.user);
        let mut own: Vec<_> = own.map(|(id, consent)| (consent.changed.revision, shown(id, consent, now))).collect();
        own.sort_by_key(|(revision, one)| (one.state != ConsentState::Live, std::cmp::Reverse(*revision)));
        own.into_iter().map(|(_, one)| one).take(SHOWN_MAX).collect::<Vec<_>>()
    });
    let (Some(token), Ok(consents)) = (token, shown.await) else { return sign_in::not_now() };
    let action = format!("{issuer}{PATH}");
    pages::respond(Consents { user: session.user.clone(), consents, action, token, notice }, StatusCode::OK, &[])
}

fn shown(id: &str, consent: &Consent, now: u64) -> ConsentShown {
    let granted = &consent.granted;
    let state = match (&consent.revoked, consent.is_live(now)) {
        (Some(_), _) => ConsentState::Revoked,
        (None, true) => ConsentState::Live,
        (None, false) => ConsentState::Expired,
    };
    ConsentShown {
        id: id.to_owned(),
        client: granted.client.clone(),
        agent: granted.agent.clone(),
        virtual_server: granted.virtual_server.clone(),
        level: granted.level.as_str().to_owned(),
        tools: granted.tools.iter().cloned().collect(),
        reason: granted.reason.clone(),
        granted: show::time(consent.changed.time),
        expires: show::time(granted.expires_at.saturating_mul(1_000_000)),
        state,
    }
}

async fn take_back(State(services): State<Services>, headers: HeaderMap, body: Bytes) -> Response {
    let Some((issuer, _)) = services.domain.read(minting::issuer) else { return sign_in::not_now() };
    let Some(session) = sign_in::session(&services, &headers) else { return sign_in::redirect(&issuer, PATH) };
    let form = Form::read(&headers, &body).ok();
    let is_ours = form.as_ref().is_some_and(|form| is_ours(&services, &session, form));
    let Some(form) = form.filter(|_| is_ours && sign_in::is_from_us(&headers, &issuer)) else {
        let sentence = "The page is too old or of another sign-in. Open it anew.";
        let page = sign_in::problem(StatusCode::FORBIDDEN, "Nothing was taken back", sentence);
        return told_why(page, "the page is too old, or of another sign-in", session.about());
    };
    if let Err(error) = services.limits.person(&session.user) {
        return told_why(sign_in::too_often(error.retry_after()), error.why(), session.about());
    }
    let consents: BTreeSet<String> = match form.one("one").ok().flatten() {
        Some(one) => BTreeSet::from([one.to_owned()]),
        None => form.all("consent").iter().cloned().collect(),
    };
    let wish = TakeBack { user: session.user.clone(), consents, reason: TAKEN_BACK.to_owned() };
    let notice = match services.decisions.ask(&Wish::TakeBack(wish), session.actor()).await {
        Ok(Decided { what: Fulfilled::Ended(1), .. }) => "One consent was taken back.".to_owned(),
        Ok(Decided { what: Fulfilled::Ended(count), .. }) => format!("{count} consents were taken back."),
        Ok(_) | Err(Undecided::Unavailable) => return sign_in::not_now(),
        Err(Undecided::Refused(why)) => {
            let notice = Some(format!("Nothing was taken back: {why}."));
            return told_why(page(&services, &issuer, &session, notice).await, &why, session.about());
        }
    };
    page(&services, &issuer, &session, Some(notice)).await
}

fn is_ours(services: &Services, session: &Session, form: &Form) -> bool {
    let token = form.one("token").ok().flatten().unwrap_or_default();
    let opened = services.keys.seal().and_then(|seal| seal.open(Purpose::Form, token, clock::now_seconds()));
    opened.as_ref() == Some(session)
}
