//! Decisions for services that ask for them: AuthZEN's `/access/v1/evaluation`, `/access/v1/evaluations` and metadata.
//!
//! Called by `visit`. A service shows its secret as a bearer token before anything of its body is read, and again, so
//! to speak, once the body is there: what was taken back meanwhile counts. What a question leads to, the core says
//! (`evaluation`), by the same rule and configuration as for calls. Whoever shows no good secret learns nothing but
//! that, and leaves no record. How often services may ask is bounded (`shares`), and each decision is on record before
//! it is told (`round`). Specification: AuthZEN Authorization API 1.0 §9, §10; RFC 6750 §2.1 and §3.

mod round;
mod shares;

use std::{hash::BuildHasher as _, sync::Arc, time::Instant};

use bailiwick_data_plane_core::{
    Config,
    admission::Freshness,
    decision_clients::DecisionClient,
    evaluation::question::{BODY_BYTES_MAX, Malformed, read},
};
use bailiwick_proto::{Reason, v1::Issuer};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header};
use serde_json::{Value, json};

use self::round::{Round, Unanswered};
pub(crate) use self::shares::Shares;
use super::{
    Gateway,
    answer::{self, Response},
    body::{self, RequestBody},
    endpoint::{closing, not_ready, request_id, unread},
    visit::Visit,
};
/// One question.
const EVALUATION: &str = "/access/v1/evaluation";
/// Several.
const EVALUATIONS: &str = "/access/v1/evaluations";
/// Where metadata lies: between host and path of the base URL.
const WELL_KNOWN: &str = "/.well-known/authzen-configuration";
/// Longest request id of a service that it gets back.
const REQUEST_ID_BYTES_MAX: usize = 1_024;
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What is asked for, by its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    Evaluation,
    Evaluations,
    Metadata,
}

impl Wish {
    /// `None` for a path that is nothing of this.
    pub(super) fn of(path: &str) -> Option<Self> {
        match path {
            EVALUATION => Some(Self::Evaluation),
            EVALUATIONS => Some(Self::Evaluations),
            _other => {
                let rest = path.strip_prefix(WELL_KNOWN)?;
                (rest.is_empty() || rest.starts_with('/')).then_some(Self::Metadata)
            }
        }
    }
}

/// The head of a request.
pub(super) struct Head<'a> {
    pub(super) method: &'a Method,
    pub(super) path: &'a str,
    pub(super) version: Version,
    pub(super) headers: &'a HeaderMap,
    pub(super) arrived: Instant,
}

pub(super) async fn handle(visit: &Visit, wish: Wish, head: Head<'_>, body: RequestBody) -> Response {
    let id = head.headers.get(REQUEST_ID).filter(|id| id.len() <= REQUEST_ID_BYTES_MAX).cloned();
    let mut response = match wish {
        Wish::Metadata => metadata(&visit.gateway, head.method, head.path),
        Wish::Evaluation | Wish::Evaluations => decide(visit, wish == Wish::Evaluations, &head, body).await,
    };
    if let Some(id) = id {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

async fn decide(visit: &Visit, several: bool, head: &Head<'_>, body: RequestBody) -> Response {
    let gateway = &visit.gateway;
    if head.method != Method::POST {
        let mut refusal = answer::empty(StatusCode::METHOD_NOT_ALLOWED);
        refusal.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
        return unread(refusal, body, head.version).await;
    }
    let Some(config) = gateway.state.config() else { return not_ready() };
    let Some(calls) = gateway.calls.get() else { return not_ready() };
    let service = match who_asks(gateway, &config, head.headers) {
        Ok(service) => service,
        Err(refusal) => return unread(*refusal, body, head.version).await,
    };
    if !is_json(head.headers) {
        let refusal = refused(
            gateway,
            StatusCode::BAD_REQUEST,
            Reason::QuestionMalformed,
            "content-type is not application/json",
        );
        return unread(refusal, body, head.version).await;
    }
    let caller = gateway.caller_keys.hash_one(&service.name) | 1;
    visit.control().is_of(caller);
    let whose = (caller, head.arrived);
    let (body, _room) = match body::read_up_to(BODY_BYTES_MAX, head.headers, body, &gateway.body_room, whose).await {
        Ok(read) => read,
        Err(reason) => return closing(body_refused(gateway, reason), head.version),
    };
    // A body may come slowly; what was taken back meanwhile counts.
    let Some(config) = gateway.state.config() else { return not_ready() };
    let service = match who_asks(gateway, &config, head.headers) {
        Ok(service) => service,
        Err(refusal) => return *refusal,
    };
    let freshness = gateway.state.freshness();
    if freshness == Freshness::Expired {
        gateway.metrics.refused(Reason::ConfigStale);
        return not_ready();
    }
    let asked = match read(&body, several) {
        Ok(asked) => asked,
        Err(fault) => return malformed(gateway, fault),
    };
    let Some(request_id) = request_id() else { return not_ready() };
    let round = Round { gateway, calls, config: &config, service: &service, freshness, request_id };
    match round.answer(&asked, &body).await {
        Ok(told) => answer::json(StatusCode::OK, told.to_string()),
        Err(Unanswered::TooOften) => {
            let reason = Reason::AskedTooOften;
            again(refused(gateway, StatusCode::TOO_MANY_REQUESTS, reason, reason.sentence()))
        }
        Err(Unanswered::Unrecorded(reason)) => {
            let sentence = "The decision cannot be put on record, so it is not given; ask again, or another node.";
            again(refused(gateway, StatusCode::SERVICE_UNAVAILABLE, reason, sentence))
        }
    }
}

/// It may be otherwise in a moment.
fn again(mut refusal: Response) -> Response {
    refusal.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    refusal
}

/// The service whose secret this is; or the refusal to send.
fn who_asks(gateway: &Gateway, config: &Config, headers: &HeaderMap) -> Result<Arc<DecisionClient>, Box<Response>> {
    let mut shown = headers.get_all(header::AUTHORIZATION).iter();
    let secret = match (shown.next(), shown.next()) {
        (Some(one), None) => bearer(one.as_bytes()),
        _none_or_two => None,
    };
    secret.and_then(|secret| config.decision_clients.whose(secret).cloned()).ok_or_else(|| {
        let reason = if secret.is_some() { Reason::DecisionClientUnknown } else { Reason::TokenMissing };
        let mut refusal = refused(gateway, StatusCode::UNAUTHORIZED, reason, Reason::DecisionClientUnknown.sentence());
        refusal.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"decisions\""));
        Box::new(refusal)
    })
}

fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, secret) = value.split_at_checked(7)?;
    let secret = secret.trim_ascii();
    (scheme.eq_ignore_ascii_case(b"bearer ") && !secret.is_empty()).then_some(secret)
}

fn is_json(headers: &HeaderMap) -> bool {
    let mut types = headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(Ok(only)), None) = (types.next().map(HeaderValue::to_str), types.next()) else { return false };
    let essence = only.split_once(';').map_or(only, |(essence, _)| essence);
    essence.trim().eq_ignore_ascii_case("application/json")
}

fn refused(gateway: &Gateway, status: StatusCode, reason: Reason, sentence: &str) -> Response {
    gateway.metrics.refused(reason);
    answer::json(status, json!({"error": reason.as_str(), "message": sentence}).to_string())
}

fn malformed(gateway: &Gateway, fault: Malformed) -> Response {
    refused(gateway, StatusCode::BAD_REQUEST, Reason::QuestionMalformed, &fault.to_string())
}

fn body_refused(gateway: &Gateway, reason: Reason) -> Response {
    match reason {
        Reason::RequestTooLarge => refused(gateway, StatusCode::PAYLOAD_TOO_LARGE, reason, reason.sentence()),
        Reason::NodeOverloaded => refused(gateway, StatusCode::SERVICE_UNAVAILABLE, reason, reason.sentence()),
        _ => refused(gateway, StatusCode::BAD_REQUEST, Reason::QuestionMalformed, "the body did not come whole"),
    }
}

/// What a service needs to know before it asks, for the base URL to whose path the request is.
fn metadata(gateway: &Gateway, method: &Method, path: &str) -> Response {
    if method != Method::GET && method != Method::HEAD {
        let mut refusal = answer::empty(StatusCode::METHOD_NOT_ALLOWED);
        refusal.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET,HEAD"));
        return refusal;
    }
    let config = gateway.state.config();
    let Some(issuer) = config.as_ref().and_then(|config| config.issuer.as_ref()) else { return not_ready() };
    let base = base_url(issuer);
    let under = path.strip_prefix(WELL_KNOWN).unwrap_or_default().trim_end_matches('/');
    if under != path_of(base) {
        return answer::empty(StatusCode::NOT_FOUND);
    }
    let mut response = answer::json(StatusCode::OK, document(base).to_string());
    response.headers_mut().remove(header::CACHE_CONTROL);
    response
}

fn document(base: &str) -> Value {
    json!({
        "policy_decision_point": base,
        "access_evaluation_endpoint": format!("{base}{EVALUATION}"),
        "access_evaluations_endpoint": format!("{base}{EVALUATIONS}"),
    })
}

/// Everything a node serves lies below this; MCP at `/mcp`.
fn base_url(issuer: &Issuer) -> &str {
    let mcp_url = issuer.mcp_url.trim_end_matches('/');
    mcp_url.strip_suffix("/mcp").unwrap_or(mcp_url).trim_end_matches('/')
}

fn path_of(url: &str) -> &str {
    let authority = url.split_once("://").map_or(url, |(_, rest)| rest);
    authority.find('/').and_then(|at| authority.get(at..)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_lies_where_its_base_url_says() {
        for (mcp_url, base, path) in [
            ("http://127.0.0.1:8420/mcp", "http://127.0.0.1:8420", ""),
            ("https://gw.example/a/mcp/", "https://gw.example/a", "/a"),
            ("https://gw.example", "https://gw.example", ""),
        ] {
            let issuer = Issuer { issuer: "https://auth.example".into(), mcp_url: mcp_url.into() };
            assert_eq!((base_url(&issuer), path_of(base_url(&issuer))), (base, path));
            let document = document(base);
            assert_eq!(document["policy_decision_point"], base);
            assert_eq!(document["access_evaluation_endpoint"], format!("{base}/access/v1/evaluation"));
        }
        for (path, expected) in [
            ("/access/v1/evaluation", Some(Wish::Evaluation)),
            ("/access/v1/evaluations", Some(Wish::Evaluations)),
            ("/.well-known/authzen-configuration", Some(Wish::Metadata)),
            ("/.well-known/authzen-configuration/a", Some(Wish::Metadata)),
            ("/.well-known/authzen-configurations", None),
            ("/access/v1/evaluation/", None),
            ("/access/v1/search/subject", None),
        ] {
            assert_eq!(Wish::of(path), expected, "{path}");
        }
    }

    #[test]
    fn a_secret_comes_in_one_way_only() {
        for (value, expected) in [
            ("Bearer secret", Some("secret")),
            ("bearer  secret ", Some("secret")),
            ("Bearer ", None),
            ("Bearer", None),
            ("Basic secret", None),
            ("DPoP secret", None),
            ("secret", None),
        ] {
            assert_eq!(bearer(value.as_bytes()), expected.map(str::as_bytes), "{value}");
        }
    }
}
