//! Codes and refresh tokens that come back: read, although another node may have made them that knows more.
//!
//! A node that hears late of a rotation of the authorization key does not know who made what another node just gave
//! out. To refuse it would end a client's access for good; so before that it is made sure that every key is known here.
//! Called by `token`, `introspect` and `revoke`. Absent: how they are made and read (`seal`).

use std::sync::Arc;

use super::{Services, error::OAuthError};
use crate::seal::Seal;

/// What `read` reads of a text; nothing if no key of ours made it.
pub(super) async fn read<T>(
    services: &Services,
    text: &str,
    read: impl Fn(&Seal, &str) -> Option<T>,
) -> Result<Option<T>, OAuthError> {
    let seal = services.keys.seal();
    if let Some(known) = seal.as_ref().and_then(|seal| read(seal, text)) {
        return Ok(Some(known));
    }
    if !Seal::is_like_ours(text) {
        return Ok(None);
    }
    let latest = services.keys.latest_seal(&services.domain).await;
    let latest = latest.ok_or(OAuthError::unavailable("the cluster's keys are not known here now; try again"))?;
    let is_same = seal.is_some_and(|seal| Arc::ptr_eq(&seal, &latest));
    Ok(if is_same { None } else { read(&latest, text) })
}
