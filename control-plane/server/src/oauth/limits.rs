//! How much of the authorization server one stranger can have: requests by address, by client, and those that fail.
//!
//! [`limit`] is a layer around everything below `/oauth/`: before anything is read of a request, its address must have
//! requests left, failures left, and a place among those worked on. [`Limits::client`] is asked once a client has
//! proved who it is; never before, as anybody could use up a name. Whoever is over a limit is answered 429 (RFC 6585
//! §4) with `Retry-After`, without a question to the cluster. Limits are this node's own: behind n nodes an address has
//! n times as much. Deliberately absent: connections (`http::connections`).

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    extract::{Request, State},
    http::{Extensions, HeaderMap, StatusCode},
    middleware::Next,
    response::{IntoResponse, Response},
};

use self::buckets::{Buckets, Rate};
use super::error::OAuthError;
use crate::{
    config::{AT_ONCE_MAX, HttpLimits},
    http::{
        address::{ClientAddress, Origin},
        shares::{Full, Share, Shares},
    },
    metrics::{Metrics, TurnedAway},
};

mod buckets;

/// Addresses of a generation of buckets: a few megabytes in all.
const ORIGINS_MAX: usize = 32_768;
/// Clients of a generation: more than are registered anywhere, and all of them proved who they are.
const CLIENTS_MAX: usize = 8_192;
/// Answers of one person, in a second on average and at once: nobody reads and clicks as fast.
const PERSON_PER_SECOND: u32 = 1;
const PERSON_BURST: u32 = 30;
/// When a place is free again, about.
const PLACE_WAIT: Duration = Duration::from_secs(1);

/// What is left to everybody; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Limits(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    requests: Mutex<Buckets<Origin>>,
    failures: Mutex<Buckets<Origin>>,
    registrations: Mutex<Buckets<Origin>>,
    clients: Mutex<Buckets<String>>,
    people: Mutex<Buckets<String>>,
    places: Arc<Shares>,
    metrics: Metrics,
}

impl Limits {
    pub(crate) fn new(limits: &HttpLimits, metrics: Metrics) -> Self {
        let by_origin = |rate| Mutex::new(Buckets::new(rate, ORIGINS_MAX));
        let of_client = Rate::new(limits.client_requests_per_second, limits.client_requests_burst);
        let number = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
        Self(Arc::new(Inner {
            requests: by_origin(Rate::new(limits.requests_per_second, limits.requests_burst)),
            failures: by_origin(Rate::new(limits.failures_per_second, limits.failures_burst)),
            registrations: by_origin(Rate::new(limits.registrations_per_second, limits.registrations_burst)),
            clients: Mutex::new(Buckets::new(of_client, CLIENTS_MAX)),
            people: Mutex::new(Buckets::new(Rate::new(PERSON_PER_SECOND, PERSON_BURST), CLIENTS_MAX)),
            places: Shares::new(number(AT_ONCE_MAX), number(limits.requests_at_once)),
            metrics,
        }))
    }

    /// Another request of a client that has proved who it is.
    ///
    /// # Errors
    /// What it is answered that asks too often.
    pub(crate) fn client(&self, client_id: &str) -> Result<(), OAuthError> {
        self.client_at(client_id, Instant::now())
    }

    fn client_at(&self, client_id: &str, now: Instant) -> Result<(), OAuthError> {
        let taken = held(&self.0.clients).take(client_id.to_owned(), now);
        taken.map_err(|wait| self.refuse(TurnedAway::Client, "this client asks too often", wait))
    }

    /// Another answer of a person who is signed in: each is a change of the cluster's, and stays on record.
    ///
    /// # Errors
    /// What they are answered who answer too often.
    pub(crate) fn person(&self, user: &str) -> Result<(), OAuthError> {
        self.person_at(user, Instant::now())
    }

    fn person_at(&self, user: &str, now: Instant) -> Result<(), OAuthError> {
        let taken = held(&self.0.people).take(user.to_owned(), now);
        taken.map_err(|wait| self.refuse(TurnedAway::Person, "this person answers too often", wait))
    }

    /// Another client registers itself from there.
    ///
    /// # Errors
    /// What it is answered where too many do.
    pub(crate) fn registration(&self, extensions: &Extensions) -> Result<(), OAuthError> {
        let taken = held(&self.0.registrations).take(Origin::of(address_in(extensions)), Instant::now());
        taken.map_err(|wait| self.refuse(TurnedAway::Registrations, "too many clients are registered from there", wait))
    }

    /// A request of a directory begins (SCIM): not counted by its address, as one that shows its token may ask as often
    /// as there is room; but those whose failures are used up are not heard.
    ///
    /// # Errors
    /// What it is answered that is not heard.
    pub(crate) fn directory(&self, extensions: &Extensions) -> Result<Share, OAuthError> {
        let origin = Origin::of(address_in(extensions));
        let seen = held(&self.0.failures).look(&origin, Instant::now());
        seen.map_err(|wait| self.refuse(TurnedAway::Failures, "too many requests of this address failed", wait))?;
        self.place(origin)
    }

    /// Somebody there did not prove who they are.
    pub(crate) fn failed(&self, extensions: &Extensions) {
        held(&self.0.failures).charge(Origin::of(address_in(extensions)), Instant::now());
    }

    /// A request from there begins; it goes on while the share is held.
    fn begin(&self, origin: Origin, now: Instant) -> Result<Share, OAuthError> {
        let taken = held(&self.0.requests).take(origin, now);
        taken.map_err(|wait| self.refuse(TurnedAway::Address, "this address asks too often", wait))?;
        let seen = held(&self.0.failures).look(&origin, now);
        seen.map_err(|wait| self.refuse(TurnedAway::Failures, "too many requests of this address failed", wait))?;
        self.place(origin)
    }

    fn place(&self, origin: Origin) -> Result<Share, OAuthError> {
        self.0.places.take(Some(origin)).map_err(|full| match full {
            Full::OfOrigin => {
                self.refuse(TurnedAway::Share, "this address has too many requests under way", PLACE_WAIT)
            }
            Full::InAll => {
                self.0.metrics.turned_away(TurnedAway::Places);
                OAuthError::unavailable("too much is asked for at once")
            }
        })
    }

    fn refuse(&self, limit: TurnedAway, why: &'static str, wait: Duration) -> OAuthError {
        self.0.metrics.turned_away(limit);
        OAuthError::too_many(why, wait)
    }
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whoever's address is not known shares one with all of those.
fn address_in(extensions: &Extensions) -> IpAddr {
    let unknown = ClientAddress(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let ClientAddress(address) = extensions.get().copied().unwrap_or(unknown);
    address
}

/// What a page of another site asks in the background: whoever looks at it would be charged for it.
fn is_of_another_site(headers: &HeaderMap) -> bool {
    let is = |name: &str, wanted: &str| headers.get(name).is_some_and(|value| value == wanted);
    is("sec-fetch-site", "cross-site") && !is("sec-fetch-mode", "navigate")
}

/// On an answer: who asked did not prove who that is, although its status says something else.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FailedProof;

/// The layer: `axum::middleware::from_fn_with_state(limits, limit)`.
pub(crate) async fn limit(State(limits): State<Limits>, request: Request, next: Next) -> Response {
    if is_of_another_site(request.headers()) {
        return StatusCode::FORBIDDEN.into_response();
    }
    let address = address_in(request.extensions());
    let origin = Origin::of(address);
    let _share = match limits.begin(origin, Instant::now()) {
        Ok(share) => share,
        Err(error) => {
            tracing::debug!(%address, why = error.why(), "a request is turned away");
            return error.into_response();
        }
    };
    let response = next.run(request).await;
    if response.status() == StatusCode::UNAUTHORIZED || response.extensions().get::<FailedProof>().is_some() {
        held(&limits.0.failures).charge(origin, Instant::now());
    }
    response
}

#[cfg(test)]
mod tests;
