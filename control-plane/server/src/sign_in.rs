//! Who sits at the browser: sign-in, and the session it begins.
//!
//! A session is a cookie that only this cluster can have sealed; no server keeps it, so any node knows it. Called by
//! the pages of `oauth` and `consents`. The ways to sign in are identity providers (`oidc`) and, in `bailiwick dev`
//! alone, the local sign-in. Invariants: every sign-in begins another session, under an id of its own; a session counts
//! while its person and its provider are active, and nothing was changed about the person since, nor were their
//! sessions ended; whoever signs in is sent to a page of ours, never elsewhere.
//!
//! Cookies ignore ports, so several clusters on one machine share a jar: the name carries the cluster. With an https
//! issuer it is bound to the host (`__Host-`).

mod oidc;

use std::sync::Arc;

use axum::{
    Router,
    extract::{RawQuery, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use bailiwick_control_plane_core::{Wish, refusal::Refusal, revocation::sessions, sign_in::SignIn};
use bailiwick_token::same_secret;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{
    clock,
    decisions::Undecided,
    minting,
    oauth::{Services, form::Form},
    pages::{self, LocalSignIn, Problem, SignedOut},
    refusals::told_why,
    seal::Purpose,
};

/// Where the ways to sign in are shown.
pub(crate) const PATH: &str = "/sign-in";
const LOCAL_PATH: &str = "/sign-in/local";
/// How long a session lasts, in seconds: a working day.
pub(crate) const SESSION_SECONDS: i64 = 10 * 3_600;
/// How long the local sign-in's form is good, in seconds.
const FORM_SECONDS: i64 = 600;
/// Longest path that somebody is sent back to.
const RETURN_BYTES_MAX: usize = 4_096;
/// Pages that somebody may be sent back to: what follows is theirs alone.
const RETURNS: [&str; 3] = ["/oauth/authorize?", "/consents", "/mcp/audit"];
/// Most people offered by the local sign-in.
const PEOPLE_MAX: usize = 50;

/// What `bailiwick dev` prints, and whoever has it signs in as anybody. Cannot be printed by accident.
#[derive(Clone)]
pub(crate) struct LocalCode(Arc<Zeroizing<String>>);

impl LocalCode {
    pub(crate) fn new(code: String) -> Self {
        Self(Arc::new(Zeroizing::new(code)))
    }
}

impl std::fmt::Debug for LocalCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LocalCode(…)")
    }
}

/// Somebody who is signed in with this browser.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Session {
    /// Their name here.
    pub(crate) user: String,
    /// The identity provider; empty: the local sign-in.
    pub(crate) provider: String,
    /// Names the session.
    pub(crate) id: String,
    /// The revision of the sign-in: whatever changed about the person since then ends it.
    pub(crate) since: u64,
}

impl Session {
    /// As whom they ask for decisions.
    pub(crate) fn actor(&self) -> String {
        format!("user:{}", self.user)
    }

    /// What is said of them where something is refused.
    pub(crate) fn about(&self) -> Refusal {
        Refusal { user: self.user.clone(), provider: self.provider.clone(), ..Refusal::default() }
    }
}

/// A form of the local sign-in.
#[derive(Serialize, Deserialize)]
struct LocalForm {
    to: String,
}

/// The endpoints.
pub(crate) fn routes() -> Router<Services> {
    Router::new()
        .route(PATH, get(choose))
        .route(LOCAL_PATH, post(local))
        .route(pages::SIGN_OUT_PATH, post(out))
        .merge(oidc::routes())
}

/// Who is signed in with the browser that sends these headers.
pub(crate) fn session(services: &Services, headers: &HeaderMap) -> Option<Session> {
    let name = cookie_name(services, "session")?;
    let text = cookie(headers, &name)?;
    let session: Session = services.keys.seal()?.open(Purpose::Session, text, clock::now_seconds())?;
    let counts = services.domain.read(|state| {
        let provider = state.identity_providers.get(&session.provider).map(|known| known.spec.active);
        let signed_in = if session.provider.is_empty() { services.local_sign_in.is_some() } else { provider? };
        Some(signed_in && sessions::counts(state, &session.user, session.since))
    });
    counts.unwrap_or(false).then_some(session)
}

/// Where somebody goes who has to sign in first, and then to `path` of ours.
pub(crate) fn redirect(issuer: &str, path: &str) -> Response {
    let query = form_urlencoded::Serializer::new(String::new()).append_pair("return", path).finish();
    see_other(&format!("{issuer}{PATH}?{query}"))
}

/// Puts a sign-in on record and begins its session: the answer, which leads to `path` of ours.
pub(crate) async fn begin(services: &Services, mut wish: SignIn, actor: String, path: &str) -> Response {
    let (Some((issuer, _)), Some(seal)) = (services.domain.read(minting::issuer), services.keys.seal()) else {
        return not_now();
    };
    let Ok(random) = clock::random::<16>() else { return not_now() };
    wish.session = format!("b-{}", hex::encode(random));
    let (user, provider, id) = (wish.user.clone(), wish.provider.clone(), wish.session.clone());
    let since = match services.decisions.ask(&Wish::SignIn(wish), actor).await {
        Ok(decided) => decided.revision,
        Err(Undecided::Unavailable) => return not_now(),
        Err(Undecided::Refused(why)) => {
            tracing::info!(why, "somebody may not sign in");
            services.metrics.token_refused("sign_in");
            let page = problem(StatusCode::FORBIDDEN, "You cannot sign in", "You are not known here, or not active.");
            // What somebody typed is not repeated.
            let is_known = !provider.is_empty() || services.domain.read(|state| state.users.contains_key(&user));
            let user = if is_known { user } else { String::new() };
            let why = if is_known { &why } else { "nobody of that name is known here" };
            return told_why(page, why, Refusal { user, provider, ..Refusal::default() });
        }
    };
    let session = Session { user, provider, id, since };
    let until = clock::now_seconds().saturating_add(SESSION_SECONDS);
    let sealed = seal.close(Purpose::Session, &session, until);
    let set = sealed.and_then(|sealed| set_cookie(services, "session", &sealed, SESSION_SECONDS));
    let Some(set) = set else { return not_now() };
    let to = if may_return(path) { path } else { "/consents" };
    ([(header::SET_COOKIE, set)], see_other(&format!("{issuer}{to}"))).into_response()
}

async fn choose(State(services): State<Services>, RawQuery(query): RawQuery, headers: HeaderMap) -> Response {
    let Ok(form) = Form::of_query(query.as_deref().unwrap_or_default()) else { return not_ours() };
    let to = match form.one("return") {
        Ok(Some(path)) if may_return(path) => path,
        Ok(None) => "/consents",
        Ok(Some(_)) | Err(_) => return not_ours(),
    };
    let Some((issuer, _)) = services.domain.read(minting::issuer) else { return not_now() };
    if session(&services, &headers).is_some() {
        return see_other(&format!("{issuer}{to}"));
    }
    ways(&services, &issuer, to, None, StatusCode::OK)
}

/// The page with all ways to sign in.
fn ways(services: &Services, issuer: &str, to: &str, problem: Option<String>, status: StatusCode) -> Response {
    let local = services.local_sign_in.as_ref().and_then(|_| {
        let until = clock::now_seconds().saturating_add(FORM_SECONDS);
        let request = services.keys.seal()?.close(Purpose::Form, &LocalForm { to: to.to_owned() }, until)?;
        let users = services.domain.read(|state| {
            let active = state.users.iter().filter(|(_, user)| user.spec.active);
            active.take(PEOPLE_MAX).map(|(name, _)| name.clone()).collect()
        });
        Some(LocalSignIn { action: format!("{issuer}{LOCAL_PATH}"), request, users })
    });
    let providers = oidc::choices(services, issuer, to);
    pages::respond(pages::SignIn { problem, providers, local }, status, &[])
}

async fn local(State(services): State<Services>, headers: HeaderMap, body: axum::body::Bytes) -> Response {
    let (Some(code), Some((issuer, _))) = (&services.local_sign_in, services.domain.read(minting::issuer)) else {
        return problem(StatusCode::NOT_FOUND, "There is no local sign-in", "It is part of bailiwick dev alone.");
    };
    let Ok(form) = Form::read(&headers, &body) else { return not_ours() };
    let field = |name| form.one(name).ok().flatten().unwrap_or_default();
    let opened = services
        .keys
        .seal()
        .and_then(|seal| seal.open::<LocalForm>(Purpose::Form, field("request"), clock::now_seconds()));
    let Some(LocalForm { to }) = opened.filter(|_| is_from_us(&headers, &issuer)) else {
        return problem(StatusCode::FORBIDDEN, "This form is too old", "Go back to where you came from and try again.");
    };
    if !same_secret(field("code").trim().as_bytes(), code.0.as_bytes()) {
        let wrong = "That is not the sign-in code, which bailiwick dev prints when it starts.".to_owned();
        let page = ways(&services, &issuer, &to, Some(wrong), StatusCode::FORBIDDEN);
        return told_why(page, "the sign-in code is wrong", Refusal::default());
    }
    let user = field("user").to_owned();
    let actor = format!("user:{user}");
    let wish =
        SignIn { user, provider: String::new(), groups: None, may_join: false, session: String::new(), said_at: None };
    begin(&services, wish, actor, &to).await
}

async fn out(State(services): State<Services>, headers: HeaderMap) -> Response {
    let issuer = services.domain.read(minting::issuer).map(|(issuer, _)| issuer).unwrap_or_default();
    if !is_from_us(&headers, &issuer) {
        return not_ours();
    }
    let page = pages::respond(SignedOut {}, StatusCode::OK, &[]);
    match set_cookie(&services, "session", "", 0) {
        Some(set) => ([(header::SET_COOKIE, set)], page).into_response(),
        None => page,
    }
}

/// Whether somebody may be sent to this path after signing in.
pub(crate) fn may_return(path: &str) -> bool {
    let plain = path.len() <= RETURN_BYTES_MAX && path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    let ends = |rest: &str| rest.is_empty() || rest.starts_with('?');
    let leads = |known: &str| path.strip_prefix(known).is_some_and(|rest| known.ends_with('?') || ends(rest));
    plain && RETURNS.iter().any(|known| leads(known))
}

/// Whether a form was sent by a page of ours: browsers say where a request comes from, and pages cannot change it.
pub(crate) fn is_from_us(headers: &HeaderMap, issuer: &str) -> bool {
    let of = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let origin = issuer.splitn(4, '/').take(3).collect::<Vec<_>>().join("/");
    of("sec-fetch-site").is_none_or(|site| matches!(site, "same-origin" | "none"))
        // A page without a referrer says "null".
        && of("origin").is_none_or(|from| from == "null" || from.eq_ignore_ascii_case(&origin))
}

/// The name of a cookie of ours.
fn cookie_name(services: &Services, what: &str) -> Option<String> {
    let (issuer, cluster) = services
        .domain
        .read(|state| Some((minting::issuer(state)?.0, state.cluster.as_ref().map(|cluster| cluster.id.clone())?)))?;
    let cluster: String = cluster.chars().filter(char::is_ascii_alphanumeric).take(12).collect();
    let bound = if issuer.starts_with("https:") { "__Host-" } else { "" };
    Some(format!("{bound}bailiwick-{cluster}-{what}"))
}

/// A cookie of ours as it is set; for zero seconds: as it is removed.
pub(crate) fn set_cookie(services: &Services, what: &str, value: &str, seconds: i64) -> Option<HeaderValue> {
    let name = cookie_name(services, what)?;
    let secure = if name.starts_with("__Host-") { "; Secure" } else { "" };
    let text = format!("{name}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}");
    HeaderValue::try_from(text).ok()
}

/// The value of a cookie of ours.
pub(crate) fn own_cookie<'a>(services: &Services, headers: &'a HeaderMap, what: &str) -> Option<&'a str> {
    cookie(headers, &cookie_name(services, what)?)
}

/// The value of a cookie, if it is there exactly once.
fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let all = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let pairs = all.flat_map(|text| text.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let mut named = pairs.filter(|(known, _)| *known == name).map(|(_, value)| value);
    named.next().filter(|_| named.next().is_none())
}

/// To a page of ours, or of a client.
pub(crate) fn see_other(url: &str) -> Response {
    let Ok(location) = HeaderValue::try_from(url) else { return not_ours() };
    let headers = [
        (header::LOCATION, location),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    ];
    (StatusCode::SEE_OTHER, headers).into_response()
}

/// An error that nobody else is told.
pub(crate) fn problem(status: StatusCode, title: &str, sentence: &str) -> Response {
    let page = Problem { title: title.to_owned(), sentence: sentence.to_owned(), hint: None };
    pages::respond(page, status, &[])
}

fn not_ours() -> Response {
    problem(StatusCode::BAD_REQUEST, "That did not work", "The request is not one that a page of ours makes.")
}

/// This person has answered too often; when to try again.
pub(crate) fn too_often(wait_seconds: u64) -> Response {
    let sentence = "You have answered very often in a short time. Wait a little, and try again.";
    let mut page = problem(StatusCode::TOO_MANY_REQUESTS, "Too many answers", sentence);
    page.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(wait_seconds));
    page
}

/// Nothing can be decided at the moment.
pub(crate) fn not_now() -> Response {
    problem(StatusCode::SERVICE_UNAVAILABLE, "Not at the moment", "The cluster does not answer. Try again shortly.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_are_sent_back_to_our_pages_alone() {
        for good in ["/oauth/authorize?client_id=a", "/consents", "/consents?x=1", "/mcp/audit?outcome=x"] {
            assert!(may_return(good), "{good}");
        }
        for bad in [
            "",
            "/",
            "//evil.example",
            "https://evil.example/",
            "/oauth/authorize",
            "/oauth/token?x",
            "/consents/../x",
            "/consentsx",
            "/consents@evil.example",
            "/\\evil.example",
            "/consents?a\r\nX: y",
            "/sign-in?return=/consents",
        ] {
            assert!(!may_return(bad), "{bad}");
        }
        assert!(!may_return(&format!("/consents?{}", "x".repeat(RETURN_BYTES_MAX))));
    }

    #[test]
    fn forms_of_other_pages_are_refused() {
        let from = |pairs: &[(&'static str, &'static str)]| {
            let header = |(name, value): &(&'static str, &'static str)| {
                (header::HeaderName::from_static(name), HeaderValue::from_static(value))
            };
            is_from_us(&pairs.iter().map(header).collect(), "https://id.example/base")
        };
        assert!(from(&[]) && from(&[("origin", "https://id.example"), ("sec-fetch-site", "same-origin")]));
        assert!(from(&[("origin", "null"), ("sec-fetch-site", "same-origin")]));
        assert!(!from(&[("origin", "https://evil.example")]));
        assert!(!from(&[("origin", "https://id.example.evil.example")]));
        assert!(!from(&[("origin", "null"), ("sec-fetch-site", "cross-site")]));
        assert!(!from(&[("sec-fetch-site", "same-site")]));
    }

    #[test]
    fn a_cookie_counts_when_it_is_there_once() {
        let headers = |values: &[&'static str]| -> HeaderMap {
            values.iter().map(|value| (header::COOKIE, HeaderValue::from_static(value))).collect()
        };
        assert_eq!(cookie(&headers(&["a=1; b=2"]), "b"), Some("2"));
        assert_eq!(cookie(&headers(&["a=1", "b=2"]), "b"), Some("2"));
        for none in [&["a=1; a=2"][..], &["a=1", "a=2"], &["b=1"], &["a"], &[]] {
            assert_eq!(cookie(&headers(none), "a"), None);
        }
    }
}
