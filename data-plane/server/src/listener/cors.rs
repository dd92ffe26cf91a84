//! Cross-origin requests of browsers: what a page that may call is allowed to send and to read.
//!
//! Called by `visit` for requests whose origin the guard has let in; nobody else gets these headers. The origin is
//! repeated, never `*`, and no credentials are allowed: tokens travel in a header the page sets itself.
//! Specification: WHATWG Fetch §3.2 (CORS protocol).

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

use super::answer::{self, Response};

const METHODS: HeaderValue = HeaderValue::from_static("POST, GET, DELETE");
/// What pages have to read: the session id, where to sign in, and what to make the next proof with.
const EXPOSED: HeaderValue = HeaderValue::from_static("mcp-session-id, www-authenticate, dpop-nonce");
/// How long a browser may remember the answer, seconds.
const REMEMBER: HeaderValue = HeaderValue::from_static("600");

/// The answer to a browser's question whether it may send a request; `None` when this is no such question.
pub(super) fn preflight(method: &Method, headers: &HeaderMap) -> Option<Response> {
    let asks = method == Method::OPTIONS
        && headers.contains_key(header::ORIGIN)
        && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    if !asks {
        return None;
    }
    let mut answer = answer::empty(StatusCode::NO_CONTENT);
    let out = answer.headers_mut();
    out.insert(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS);
    out.insert(header::ACCESS_CONTROL_MAX_AGE, REMEMBER);
    // The page's own headers are harmless here: each is checked like any client's.
    if let Some(asked) = headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS) {
        out.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, asked.clone());
    }
    Some(answer)
}

/// Lets the page of `origin` read the answer.
pub(super) fn allow(answer: &mut Response, origin: HeaderValue) {
    let out = answer.headers_mut();
    out.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    out.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
    out.append(HeaderName::from_static("vary"), HeaderValue::from_static("origin"));
}
