//! SCIM 2.0: a company's directory says which people and groups there are (RFC 7643, RFC 7644), and, where the operator
//! named the draft that says how, which agents (`config::ScimAgents`).
//!
//! Served by every control-plane node under [`PREFIX`]; what is asked for is decided by the leader (`decisions`). Each
//! request shows a token (`core::scim_token`), which is looked at in a state that a leader has confirmed, before
//! anything of the request is read; so what handlers read is as current. Whoever fails to show one is counted like
//! everybody who fails to prove who they are (`oauth::limits`), and on record (`refusals`). Invariants: everything is
//! bounded; everything that happens is on record as `scim:<token>`; no value that was sent is logged. Absent: `/Me`, as
//! a directory is nobody; sorting.

mod agents;
mod apart;
mod budget;
mod bulk;
mod document;
mod fault;
mod filter;
mod groups;
mod listing;
mod patch;
mod resource;
mod schema;
mod service;

use std::time::Duration;

use aws_lc_rs::digest;
use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{Extension, Path, Query, Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use bailiwick_control_plane_core::{refusal::Refusal, scim_token};
use serde_json::{Map, Value, json};

use self::{
    apart::{Places, Purpose},
    fault::Fault,
    listing::{RESULTS_MAX, Search},
    resource::{Wanted, location, tag},
    schema::Type,
    service::{Service, Versions},
};
use crate::{
    clock,
    config::Draft,
    oauth::{Services, limits::FailedProof},
    refusals,
};

/// Below which it is served, behind the issuer.
pub(crate) const PREFIX: &str = "/scim/v2";
const MEDIA_TYPE: &str = "application/scim+json";
/// Largest request; bulk requests say so to directories.
const BODY_BYTES_MAX: usize = 1024 * 1024;
/// Longest wait for a request's body.
const BODY_WAIT_MAX: Duration = Duration::from_secs(30);
/// Longest text of a token that is looked at.
const TOKEN_BYTES_MAX: usize = 256;

/// What is served under [`PREFIX`].
pub(crate) fn routes(services: Services) -> Router {
    let enters = middleware::from_fn_with_state((services.clone(), Places::default()), enter);
    let noted = middleware::from_fn_with_state(services.refusals, refusals::note);
    let one = |of: Type| {
        get(move |service, id, query, headers| show(of, service, id, query, headers))
            .put(move |service, id, headers, body| replace(of, service, id, headers, body))
            .patch(move |service, id, query, headers, body| change(of, service, id, query, headers, body))
            .delete(move |service, id, headers| delete(of, service, id, headers))
            .fallback(method)
    };
    let all = |of: Type| {
        get(move |service, query| list(vec![of], service, query))
            .post(move |service, query, headers, body| create(of, service, query, headers, body))
            .fallback(method)
    };
    let searched = |types: Vec<Type>| {
        post(move |service, headers, body| search(types.clone(), service, headers, body)).fallback(method)
    };
    let (mut router, types) = (Router::new(), Type::served(services.scim_agents.draft()));
    for of in types.iter().copied() {
        router = router
            .route(&format!("{PREFIX}/{}", of.folder()), all(of))
            .route(&format!("{PREFIX}/{}/.search", of.folder()), searched(vec![of]))
            .route(&format!("{PREFIX}/{}/{{id}}", of.folder()), one(of));
    }
    router
        .route(&format!("{PREFIX}/.search"), searched(types))
        .route(&format!("{PREFIX}/Bulk"), post(bulk).fallback(method))
        .route(&format!("{PREFIX}/ServiceProviderConfig"), get(configuration).fallback(method))
        .route(&format!("{PREFIX}/ResourceTypes"), get(resource_types).fallback(method))
        .route(&format!("{PREFIX}/ResourceTypes/{{id}}"), get(resource_type).fallback(method))
        .route(&format!("{PREFIX}/Schemas"), get(schemas).fallback(method))
        .route(&format!("{PREFIX}/Schemas/{{id}}"), get(schema_of).fallback(method))
        .route(PREFIX, get(missing).fallback(missing))
        .route(&format!("{PREFIX}/{{*rest}}"), get(missing).fallback(missing))
        .layer(enters)
        .layer(noted)
}

/// The layer that lets directories in.
async fn enter(State((services, places)): State<(Services, Places)>, mut request: Request, next: Next) -> Response {
    let _share = match services.limits.directory(request.extensions()) {
        Ok(share) => share,
        Err(error) => return error.into_response(),
    };
    let shown = bearer(request.headers()).map(|token| hash(token.as_bytes()));
    let now = clock::now_micros() / 1_000_000;
    let holder = match shown {
        None => None,
        Some(hash) => {
            let found = services.domain.read_latest(|state| scim_token::holder(state, &hash, now).map(str::to_owned));
            match found.await {
                Ok(found) => found,
                Err(error) => {
                    tracing::debug!(%error, "a directory's token cannot be looked at");
                    return Fault::unavailable().into_response();
                }
            }
        }
    };
    let Some(name) = holder else {
        services.limits.failed(request.extensions());
        let mut response = Fault::unauthorized().into_response();
        response.extensions_mut().insert(FailedProof);
        let why = if shown.is_some() { "a SCIM token that is not good" } else { "no SCIM token" };
        return refusals::told_why(response, why, Refusal { grant: "scim".to_owned(), ..Refusal::default() });
    };
    let actor = format!("scim:{name}");
    let base = service::base(&services);
    request.extensions_mut().insert(Service { services, actor, base, places });
    let response = next.run(request).await;
    // What a directory that is let in does wrong is its own affair.
    let known = Refusal { grant: "scim".to_owned(), ..Refusal::default() };
    let is_refused = matches!(response.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
    if is_refused { refusals::told_why(response, "refused to a directory", known) } else { refusals::untold(response) }
}

/// SHA-256 of a token's text.
pub(crate) fn hash(token: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, token).as_ref());
    hash
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut lines = headers.get_all(header::AUTHORIZATION).iter();
    let (line, None) = (lines.next()?, lines.next()) else { return None };
    let (scheme, token) = line.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    let fits = scheme.eq_ignore_ascii_case("Bearer") && !token.is_empty() && token.len() <= TOKEN_BYTES_MAX;
    fits.then_some(token)
}

type Said = Result<Query<Vec<(String, String)>>, axum::extract::rejection::QueryRejection>;

/// A query as if it were a request's body.
fn said(query: Said) -> Result<Map<String, Value>, Fault> {
    let Query(pairs) = query.map_err(|_| Fault::syntax("the query cannot be read"))?;
    let mut said = Map::new();
    for (key, value) in pairs {
        if filter::member(&said, &key).is_some() {
            return Err(Fault::syntax("the query says something twice"));
        }
        said.insert(key, Value::String(value));
    }
    Ok(said)
}

fn wanted(said: &Map<String, Value>, of: Type) -> Result<Wanted, Fault> {
    let text = |name: &str| filter::member(said, name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (only, without) = (text("attributes"), text("excludedAttributes"));
    Wanted::parse(only.split(','), without.split(','), of)
}

/// Reads a request's body, which is a JSON object.
async fn object(headers: &HeaderMap, body: Body) -> Result<Map<String, Value>, Fault> {
    let kind = headers.get(header::CONTENT_TYPE).map(|kind| kind.to_str().unwrap_or_default());
    let kind = kind.map(|kind| kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase());
    if kind.is_some_and(|kind| kind != MEDIA_TYPE && kind != "application/json") {
        return Err(Fault::media_type());
    }
    let large = || Fault::large(format!("a request has at most {BODY_BYTES_MAX} bytes"));
    let length = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if length.is_some_and(|length| length > BODY_BYTES_MAX) {
        return Err(large());
    }
    let read = tokio::time::timeout(BODY_WAIT_MAX, axum::body::to_bytes(body, BODY_BYTES_MAX)).await;
    let bytes: Bytes = read.map_err(|_| Fault::syntax("the request broke off"))?.map_err(|_| large())?;
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(Fault::syntax("the request must be a JSON object")),
        Err(_) => Err(Fault::syntax("the request is no JSON")),
    }
}

fn answered(status: StatusCode, body: Value) -> Response {
    let mut response = (status, Json(body)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// A resource with its version and its place.
fn shown(service: &Service, status: StatusCode, of: Type, id: &str, wanted: &Wanted) -> Result<Response, Fault> {
    let (resource, version) = service.show(of, id, wanted)?;
    let mut response = answered(status, Value::Object(resource));
    let headers = response.headers_mut();
    let place = location(&service.base, of, id);
    if let (Ok(tag), Ok(place)) = (HeaderValue::try_from(tag(version)), HeaderValue::try_from(place)) {
        headers.insert(header::ETAG, tag);
        headers.insert(if status == StatusCode::CREATED { header::LOCATION } else { header::CONTENT_LOCATION }, place);
    }
    Ok(response)
}

async fn show(
    of: Type,
    Extension(service): Extension<Service>,
    Path(id): Path<String>,
    query: Said,
    headers: HeaderMap,
) -> Result<Response, Fault> {
    let wanted = wanted(&said(query)?, of)?;
    let known = service.services.domain.read(|state| service::version(state, of, &id)).ok_or_else(Fault::missing)?;
    service.services.domain.read(|state| listing::check_members(state, of, &id, &wanted))?;
    if Versions::parse(&headers, "if-none-match").is_some_and(|versions| versions.hold(known)) {
        return Ok(([(header::ETAG, tag(known))], StatusCode::NOT_MODIFIED).into_response());
    }
    shown(&service, StatusCode::OK, of, &id, &wanted)
}

async fn list(types: Vec<Type>, Extension(service): Extension<Service>, query: Said) -> Result<Response, Fault> {
    found(&service, Search::parse(&types, &said(query)?)?).await
}

async fn search(
    types: Vec<Type>,
    Extension(service): Extension<Service>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Fault> {
    let sent = object(&headers, body).await?;
    document::check_schemas(&sent, schema::SEARCH)?;
    found(&service, Search::parse(&types, &sent)?).await
}

/// Looks elsewhere than where others are served: everybody may have to be looked at.
async fn found(service: &Service, search: Search) -> Result<Response, Fault> {
    let base = service.base.clone();
    service
        .apart(Purpose::Search, move |state| search.run(state, &base))
        .await
        .map(|found| answered(StatusCode::OK, found))
}

async fn create(
    of: Type,
    Extension(service): Extension<Service>,
    query: Said,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Fault> {
    let wanted = wanted(&said(query)?, of)?;
    let id = service.create(of, &object(&headers, body).await?).await?;
    shown(&service, StatusCode::CREATED, of, &id, &wanted)
}

async fn replace(
    of: Type,
    Extension(service): Extension<Service>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Fault> {
    let sent = object(&headers, body).await?;
    let versions = Versions::parse(&headers, "if-match").unwrap_or_default();
    service.replace(of, &id, &sent, &versions).await?;
    shown(&service, StatusCode::OK, of, &id, &Wanted::default())
}

async fn change(
    of: Type,
    Extension(service): Extension<Service>,
    Path(id): Path<String>,
    query: Said,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Fault> {
    let wanted = wanted(&said(query)?, of)?;
    let sent = object(&headers, body).await?;
    let versions = Versions::parse(&headers, "if-match").unwrap_or_default();
    service.patch(of, &id, &sent, &versions).await?;
    if wanted.has("members") && !service.is_small(of, &id) {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    shown(&service, StatusCode::OK, of, &id, &wanted)
}

async fn delete(
    of: Type,
    Extension(service): Extension<Service>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Fault> {
    let versions = Versions::parse(&headers, "if-match").unwrap_or_default();
    service.delete(of, &id, &versions).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn bulk(Extension(service): Extension<Service>, headers: HeaderMap, body: Body) -> Result<Response, Fault> {
    let sent = object(&headers, body).await?;
    bulk::carry_out(&service, &sent).await.map(|done| answered(StatusCode::OK, done))
}

async fn configuration(Extension(service): Extension<Service>) -> Response {
    let mut described = schema::configuration(&service.base, bulk::OPERATIONS_MAX, BODY_BYTES_MAX, RESULTS_MAX);
    if service.rules().draft() == Some(Draft::Extension) {
        let served = json!({"supported": true, "agentsSupported": true, "agenticApplicationsSupported": false});
        described.insert("agentExtension".to_owned(), served);
    }
    answered(StatusCode::OK, Value::Object(described))
}

fn listed(resources: &[Value]) -> Response {
    let number = resources.len();
    let list = json!({
        "schemas": [schema::LIST],
        "totalResults": number,
        "startIndex": 1,
        "itemsPerPage": number,
        "Resources": resources,
    });
    answered(StatusCode::OK, list)
}

fn of_id(resources: Vec<Value>, id: &str) -> Result<Response, Fault> {
    let is_it = |one: &Value| one.get("id").and_then(Value::as_str).is_some_and(|own| own.eq_ignore_ascii_case(id));
    let found = resources.into_iter().find(is_it).ok_or_else(Fault::missing)?;
    Ok(answered(StatusCode::OK, found))
}

/// What describes the service is not searched (RFC 7644 §4).
fn unfiltered(query: Said) -> Result<(), Fault> {
    let forbidden = Fault::forbidden("what describes the service is not filtered");
    if filter::member(&said(query)?, "filter").is_some() { Err(forbidden) } else { Ok(()) }
}

async fn resource_types(Extension(service): Extension<Service>, query: Said) -> Result<Response, Fault> {
    unfiltered(query)?;
    Ok(listed(&schema::resource_types(&service.base, service.rules().draft())))
}

async fn resource_type(Extension(service): Extension<Service>, Path(id): Path<String>) -> Result<Response, Fault> {
    of_id(schema::resource_types(&service.base, service.rules().draft()), &id)
}

fn schemas_of(service: &Service) -> Vec<Value> {
    let rules = service.rules();
    schema::schemas(&service.base, rules.draft(), &rules.projects)
}

async fn schemas(Extension(service): Extension<Service>, query: Said) -> Result<Response, Fault> {
    unfiltered(query)?;
    Ok(listed(&schemas_of(&service)))
}

async fn schema_of(Extension(service): Extension<Service>, Path(id): Path<String>) -> Result<Response, Fault> {
    of_id(schemas_of(&service), &id)
}

async fn missing() -> Fault {
    Fault::missing()
}

async fn method() -> Fault {
    Fault::method()
}

#[cfg(test)]
mod tests;
