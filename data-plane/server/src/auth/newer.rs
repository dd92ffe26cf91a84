//! A token of a key that this node has not heard of yet: signed right after a rotation, it came faster than its key.
//!
//! What it says of its revision is its own word, as nobody here can verify it; so it earns a moment's wait and a
//! refusal as stale, never a place among the good ones, and only so many requests wait at a time. Called by
//! `listener::endpoint::asking` for tokens that did not verify. Absent: the wait (`config_state`).

use bailiwick_data_plane_core::Config;
use bailiwick_token::Claims;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::HeaderMap;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::{Authenticator, credentials};

/// Requests that wait for a key at a time: strangers can send such tokens too.
const WAITING_MAX: usize = 64;

/// Places for those that wait.
#[derive(Debug)]
pub(super) struct Places(Semaphore);

impl Default for Places {
    fn default() -> Self {
        Self(Semaphore::new(WAITING_MAX))
    }
}

impl Authenticator {
    /// A place to wait for a key; `None` while too many wait.
    pub(crate) fn place(&self) -> Option<SemaphorePermit<'_>> {
        self.1.0.try_acquire().ok()
    }
}

/// The revision that a token of ours says it needs, if its key is not known here and that revision neither.
pub(crate) fn said_revision(config: &Config, headers: &HeaderMap) -> Option<u64> {
    let (_, token) = credentials(headers).ok()?;
    if !config.token_keys.lack_key_of(token) {
        return None;
    }
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    let said: Claims = serde_json::from_slice(&payload).ok()?;
    let is_ours = config.issuer.as_ref().is_some_and(|issuer| issuer.issuer == said.iss);
    said.min_revision.filter(|revision| is_ours && *revision > config.revision)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::tests::{claims, config, headers, with_token};

    #[test]
    fn only_a_token_of_our_issuer_with_an_unknown_key_and_a_later_revision_is_waited_for() {
        let config = Config { revision: 7, ..config(&[1]) };
        let of = |revision| Claims { min_revision: Some(revision), ..claims() };
        assert_eq!(said_revision(&config, &with_token(&of(8), 2)), Some(8));
        let elsewhere = Claims { iss: "http://other".into(), ..of(8) };
        for refused in [
            with_token(&of(8), 1),
            with_token(&of(7), 2),
            with_token(&claims(), 2),
            with_token(&elsewhere, 2),
            headers("Bearer x.y.z"),
            headers("Basic x"),
            HeaderMap::new(),
        ] {
            assert_eq!(said_revision(&config, &refused), None, "{refused:?}");
        }
    }

    #[test]
    fn so_many_wait_and_no_more() {
        let authenticator = Authenticator::default();
        let places: Vec<_> = std::iter::from_fn(|| authenticator.place()).collect();
        assert_eq!(places.len(), WAITING_MAX);
        drop(places);
        assert!(authenticator.place().is_some());
    }
}
