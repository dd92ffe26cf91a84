//! The pages that people see: sign-in, the question for a consent, what they allowed, the auditors' timeline.
//!
//! A pure layer: a handler fills a struct and hands it to [`respond`]. Invariants: everything from outside is escaped
//! by the template and, where it is read, goes through `text` (no control character, no endless line); there is no
//! script and nothing from another host, and the policy that each answer carries holds the browser to that; every page
//! works without a mouse.
//! Absent: what the answers mean, sessions, anti-forgery values (`oauth`); templates and style are in `templates/`.

use axum::{
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};

mod consent;
mod consents;
mod sign_in;
mod target;
#[cfg(test)]
mod tests;
mod text;
mod timeline;

pub(crate) use self::{
    consent::{AgentChoice, ClientOrigin, ClientShown, ConsentRequest, DurationChoice, LevelChoice, ToolChoice},
    consents::{ConsentShown, ConsentState, Consents},
    sign_in::{Choice, Choose, Leaving, LocalSignIn, Problem, SignIn, SignedOut},
    target::form_target,
    text::shown,
    timeline::{Timeline, TimelineFilters, TimelineRow},
};

/// Where the style of all pages is.
pub(crate) const STYLE_PATH: &str = "/oauth/style.css";
/// Where people see what they allowed.
pub(crate) const CONSENTS_PATH: &str = "/consents";
/// Where people sign out, by a form.
pub(crate) const SIGN_OUT_PATH: &str = "/sign-out";
const STYLE: &str = include_str!("../templates/style.css");

/// A page as an answer. `form_targets` are origins and schemes (`https://host:port`, `app.example:`) to which its
/// form's answer may redirect, as browsers hold redirects to the form's policy; see [`form_target`]. One that is
/// neither is left out.
pub(crate) fn respond(page: impl askama::Template, status: StatusCode, form_targets: &[&str]) -> Response {
    let Ok(text) = page.render() else {
        tracing::error!("a page cannot be rendered");
        return (StatusCode::INTERNAL_SERVER_ERROR, guard(&[]), "this page cannot be shown").into_response();
    };
    (status, guard(form_targets), [(header::CONTENT_TYPE, "text/html; charset=utf-8")], text).into_response()
}

/// Serves the style at [`STYLE_PATH`].
pub(crate) async fn style() -> impl IntoResponse {
    let headers = [
        (header::CONTENT_TYPE, "text/css; charset=utf-8"),
        (header::CACHE_CONTROL, "public, max-age=300"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, STYLE)
}

/// What a browser is told about every page.
fn guard(form_targets: &[&str]) -> HeaderMap {
    const FIXED: [(HeaderName, &str); 5] = [
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ];
    let mut headers: HeaderMap =
        FIXED.into_iter().map(|(name, value)| (name, HeaderValue::from_static(value))).collect();
    let policy = HeaderValue::try_from(policy(form_targets));
    let strictest = HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'; base-uri 'none'");
    headers.insert(header::CONTENT_SECURITY_POLICY, policy.unwrap_or(strictest));
    headers
}

fn policy(form_targets: &[&str]) -> String {
    let mut targets = "'self'".to_owned();
    for target in form_targets.iter().filter(|target| target::is_one(target)) {
        targets.push(' ');
        targets.push_str(target);
    }
    format!("default-src 'none'; style-src 'self'; form-action {targets}; frame-ancestors 'none'; base-uri 'none'")
}
