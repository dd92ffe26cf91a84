//! The one way in which a control plane fetches something from outside over HTTP.
//!
//! Called by `providers`, with URLs that manifests and strangers' documents name. A document is asked for, or a form is
//! sent. A name is resolved once, every address it gives is checked by the rule that data planes use
//! (`bailiwick_proto::address::Leave`), and the connection goes to an address that was checked, so a name that answers
//! differently the second time gains nothing.
//!
//! Invariants: no redirect is followed, no proxy is taken from the environment, nothing is decompressed, no cookie is
//! sent, and no credential but what a caller sends along; an answer has a largest size, which is watched while it
//! comes, and the whole has one deadline; plain text goes only into networks that were named; no fault tells anything
//! of an answer. Deliberately absent: caches, retries, how many fetches there are at once (callers'), and what a status
//! means (callers').

mod connect;
mod fault;
mod freshness;
mod target;
#[cfg(test)]
mod tests;
mod trust;

use std::{convert::Infallible, path::Path, sync::Arc, time::Duration};

use bailiwick_proto::address::Leave;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    body::{Body as _, Incoming},
    client::conn::http1,
};
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, timeout_at};

use self::{
    connect::{Connection, Resolver, System},
    target::Target,
    trust::{Trust, TrustError},
};
pub(crate) use self::{fault::FetchError, trust::read as read_authorities};

/// Largest head of an answer that is read, give or take one read, and most headers in it.
const HEAD_BYTES_MAX: usize = 32 * 1024;
const HEADERS_MAX: usize = 100;
const USER_AGENT: HeaderValue = HeaderValue::from_static(concat!("bailiwick/", env!("CARGO_PKG_VERSION")));
const ACCEPT: HeaderValue = HeaderValue::from_static("application/json, application/jwk-set+json");
const IDENTITY: HeaderValue = HeaderValue::from_static("identity");
const CLOSE: HeaderValue = HeaderValue::from_static("close");
const FORM: HeaderValue = HeaderValue::from_static("application/x-www-form-urlencoded");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// Longest form that is sent: a code, a verifier and a signed statement have a tenth.
const FORM_BYTES_MAX: usize = 32 * 1024;

/// How much of an answer, and how long for it, from the first look at its name to its last byte.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) bytes_max: usize,
    pub(crate) wait_max: Duration,
}

/// What is sent, usually with POST. Cannot be printed.
pub(crate) struct Form {
    body: String,
    content_type: HeaderValue,
    authorization: Option<HeaderValue>,
    method: Method,
}

impl Form {
    /// Of these members, with an `Authorization` header or without; `None` for what cannot stand in a header.
    pub(crate) fn new(members: &[(&str, &str)], authorization: Option<&str>) -> Option<Self> {
        let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(members).finish();
        let authorization = match authorization {
            Some(text) => Some(sensitive(text)?),
            None => None,
        };
        Some(Self { body, content_type: FORM, authorization, method: Method::POST })
    }

    /// JSON instead, with an `Authorization` header; `None` for what cannot stand in one.
    pub(crate) fn json(body: String, authorization: &str) -> Option<Self> {
        Self::by(Method::POST, Some(body), authorization)
    }

    /// JSON or nothing, by another method than POST.
    pub(crate) fn by(method: Method, body: Option<String>, authorization: &str) -> Option<Self> {
        let authorization = Some(sensitive(authorization)?);
        Some(Self { body: body.unwrap_or_default(), content_type: JSON, authorization, method })
    }
}

fn sensitive(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

impl std::fmt::Debug for Form {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Form").finish_non_exhaustive()
    }
}

/// An answer of any status; redirects too are given as they are.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Fetched {
    pub(crate) status: StatusCode,
    /// As sent, with parameters.
    pub(crate) content_type: Option<String>,
    pub(crate) body: Bytes,
    /// How long it may still be kept, where it says so: zero if not at all.
    pub(crate) cache_max_age: Option<Duration>,
}

impl std::fmt::Debug for Fetched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("Fetched");
        shown.field("status", &self.status).field("bytes", &self.body.len()).finish_non_exhaustive()
    }
}

/// See the file's header.
#[derive(Debug)]
pub(crate) struct Fetcher {
    trust: Trust,
    resolver: Arc<dyn Resolver>,
}

impl Fetcher {
    /// Believes certificates of the authorities that the system knows, and of those in `authorities`, a file in PEM.
    ///
    /// # Errors
    /// The file cannot be read, or holds no certificate.
    pub(crate) fn new(authorities: Option<&Path>) -> Result<Self, TrustError> {
        Ok(Self { trust: Trust::new(authorities)?, resolver: Arc::new(System) })
    }

    /// Asks once for what is at `url`, exactly as it is written.
    ///
    /// # Errors
    /// There was no complete answer within the limits, or nothing may be sent there.
    pub(crate) async fn get(&self, url: &str, leave: &Leave<'_>, limits: Limits) -> Result<Fetched, FetchError> {
        self.ask(url, None, leave, limits).await
    }

    /// Sends a form to `url`, once.
    ///
    /// # Errors
    /// As [`Self::get`]; then it may have come there all the same.
    pub(crate) async fn post(
        &self,
        url: &str,
        form: &Form,
        leave: &Leave<'_>,
        limits: Limits,
    ) -> Result<Fetched, FetchError> {
        if form.body.len() > FORM_BYTES_MAX {
            return Err(FetchError::FormTooLarge);
        }
        self.ask(url, Some(form), leave, limits).await
    }

    async fn ask(
        &self,
        url: &str,
        form: Option<&Form>,
        leave: &Leave<'_>,
        limits: Limits,
    ) -> Result<Fetched, FetchError> {
        let until = Instant::now() + limits.wait_max;
        let asking = async {
            let target = Target::parse(url)?;
            let request = request(&target, form)?;
            let connection = connect::open(&target, leave, &*self.resolver, &self.trust, until).await?;
            exchange(request, connection, limits.bytes_max).await
        };
        timeout_at(until, Box::pin(asking)).await.unwrap_or(Err(FetchError::Late))
    }
}

async fn exchange(
    request: Request<Full<Bytes>>,
    connection: Connection,
    bytes_max: usize,
) -> Result<Fetched, FetchError> {
    let mut http = http1::Builder::new();
    http.max_buf_size(HEAD_BYTES_MAX).max_headers(HEADERS_MAX);
    let (mut sender, driver) = http.handshake(TokioIo::new(connection)).await.map_err(|_| FetchError::Broken)?;
    let asking = async {
        let response = sender.send_request(request).await.map_err(|_| FetchError::Broken)?;
        read(response, bytes_max).await
    };
    // What the connection ends with, whoever reads the answer is told.
    let driving = async {
        drop(driver.await);
        std::future::pending::<Infallible>().await
    };
    tokio::select! {
        fetched = asking => fetched,
        never = driving => match never {},
    }
}

fn request(target: &Target, form: Option<&Form>) -> Result<Request<Full<Bytes>>, FetchError> {
    let mut request = Request::new(form.map_or_else(Full::default, |form| Full::from(form.body.clone())));
    *request.uri_mut() = target.path.clone().into();
    let headers = request.headers_mut();
    headers.insert(header::HOST, HeaderValue::from_str(&target.authority).map_err(|_| FetchError::Url)?);
    headers.insert(header::USER_AGENT, USER_AGENT);
    headers.insert(header::ACCEPT, ACCEPT);
    headers.insert(header::ACCEPT_ENCODING, IDENTITY);
    headers.insert(header::CONNECTION, CLOSE);
    if let Some(form) = form {
        if !form.body.is_empty() {
            headers.insert(header::CONTENT_TYPE, form.content_type.clone());
        }
        if let Some(authorization) = &form.authorization {
            headers.insert(header::AUTHORIZATION, authorization.clone());
        }
        *request.method_mut() = form.method.clone();
    }
    Ok(request)
}

async fn read(response: Response<Incoming>, bytes_max: usize) -> Result<Fetched, FetchError> {
    let (head, mut body) = response.into_parts();
    if is_encoded(&head.headers) {
        return Err(FetchError::Encoded);
    }
    if u64::try_from(bytes_max).is_ok_and(|most| body.size_hint().lower() > most) {
        return Err(FetchError::TooLarge);
    }
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        // Trailers say nothing that is asked for.
        let Ok(part) = frame.map_err(|_| FetchError::Broken)?.into_data() else { continue };
        if bytes.len() + part.len() > bytes_max {
            return Err(FetchError::TooLarge);
        }
        bytes.extend_from_slice(&part);
    }
    let content_type = head.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    Ok(Fetched {
        status: head.status,
        content_type: content_type.map(str::to_owned),
        body: bytes.freeze(),
        cache_max_age: freshness::max_age(&head.headers),
    })
}

/// A small document can be a large one's compressed form.
fn is_encoded(headers: &HeaderMap) -> bool {
    headers.get_all(header::CONTENT_ENCODING).iter().any(|value| !value.as_bytes().eq_ignore_ascii_case(b"identity"))
}
