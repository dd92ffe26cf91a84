//! RotateKey and ListKeys: the key that signs tokens, the one that the authorization server seals with, and the one that
//! binding keys are sealed under.
//!
//! Carried out by the leader, in the vault (`vault::keys`). Control planes that answer are waited for: before the
//! word, so that they open what others seal from then on, and after it, so that whoever asked for `at_once` hears who
//! may still go by a key that counts no more. Absent: what a rotation is, and until when a replaced key counts
//! (`core::key_rotation`).

use std::time::Duration;

use bailiwick_control_plane_core::{
    State,
    key_rotation::{self, KeyKind, Replaced},
    member,
};
use bailiwick_proto::v1;
use tokio::time::Instant;
use tonic::Status;

use super::{AdminService, MICROS};
use crate::{
    clock,
    domain::Caller,
    status,
    vault::{Rotation, VaultError},
};

/// Longest wait for other control planes; one that is down does not hold a rotation up.
const HEARD_WAIT_MAX: Duration = Duration::from_secs(3);
const LOOK_EVERY: Duration = Duration::from_millis(50);
const IN_USE: &str = "in use";
const KEPT: &str = "kept";
const OF_WHAT: &str = "a key is \"token-signing\", \"authorization\", \"token-binding\" or \"context-signing\"";

impl AdminService {
    pub(super) async fn rotate_own_key(
        &self,
        actor: String,
        request: v1::RotateKeyRequest,
    ) -> Result<v1::RotateKeyResponse, Status> {
        let v1::RotateKeyRequest { kind, at_once, reason, request_id } = request;
        let kind = KeyKind::of_word(&kind).ok_or_else(|| Status::invalid_argument(OF_WHAT))?;
        let rotation = Rotation { kind, at_once, reason };
        let heard = async |revision| drop(self.silent_at(revision).await);
        let rotated = self.vault.rotate_key(&self.domain, rotation, Caller { actor, request_id }, heard).await;
        let revision = rotated.map_err(of_vault)?;
        let silent = self.silent_at(revision).await;
        let ids = self.vault.seal_key_ids(kind);
        let now = clock::now_micros() / MICROS;
        Ok(self.domain.read(|state| {
            let (in_use, kept) =
                listed(state, kind, &ids).into_iter().partition::<Vec<_>, _>(|key| key.state == IN_USE);
            let consents = match kind {
                KeyKind::TokenSigning | KeyKind::TokenBinding => key_rotation::with_tokens(state, now),
                KeyKind::ContextSigning => 0,
                KeyKind::Authorization => key_rotation::with_refresh_tokens(state, now),
            };
            let key = in_use.into_iter().next().map(|key| key.id).unwrap_or_default();
            v1::RotateKeyResponse { revision, key, kept, consents: u64::try_from(consents).unwrap_or(u64::MAX), silent }
        }))
    }

    pub(super) async fn own_keys(&self) -> Result<v1::ListKeysResponse, Status> {
        let ids = KeyKind::ALL.map(|kind| (kind, self.vault.seal_key_ids(kind)));
        let listed = self.domain.read_latest(|state| {
            let keys = ids.iter().flat_map(|(kind, ids)| listed(state, *kind, ids)).collect();
            v1::ListKeysResponse { revision: state.revision, keys }
        });
        listed.await.map_err(|error| status::of_consensus(&error))
    }

    /// Waits until every control plane has this revision; the names of those that do not say so.
    async fn silent_at(&self, revision: u64) -> Vec<String> {
        let until = Instant::now() + HEARD_WAIT_MAX;
        loop {
            let described = self.colleagues.describe_all().await;
            let has = |id: u64| described.get(&id).and_then(|one| one.member.as_ref()).map(|one| one.revision);
            let silent: Vec<String> = self.domain.read(|state| {
                let behind = member::control_planes(state).filter(|(_, one)| has(one.node_id) < Some(revision));
                behind.map(|(name, _)| name.to_owned()).collect()
            });
            if silent.is_empty() || Instant::now() >= until {
                return silent;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// The keys of a kind, the one in use first. `ids` are those of keys that seal: before the first rotation the state names
/// none.
fn listed(state: &State, kind: KeyKind, ids: &[String]) -> Vec<v1::KeyInfo> {
    let info = |id: &str, algorithm: &str, since: u64, replaced: Option<Replaced>| v1::KeyInfo {
        kind: kind.word().to_owned(),
        id: id.to_owned(),
        algorithm: algorithm.to_owned(),
        since,
        state: if replaced.is_some() { KEPT } else { IN_USE }.to_owned(),
        until: replaced.map_or(0, |replaced| replaced.until),
    };
    let mut keys: Vec<v1::KeyInfo> = match key_rotation::seal_keys(state, kind) {
        None => state
            .token_keys
            .values()
            .map(|one| info(&one.key.kid, &one.key.alg, one.changed.time, one.replaced))
            .collect(),
        Some(known) if known.is_empty() => ids.last().map(|id| info(id, "", 0, None)).into_iter().collect(),
        Some(known) => known.iter().map(|(id, one)| info(id, "", one.changed.time, one.replaced)).collect(),
    };
    keys.sort_by_key(|key| (key.state != IN_USE, std::cmp::Reverse(key.since)));
    keys
}

fn of_vault(error: VaultError) -> Status {
    match error {
        VaultError::Write(error) => status::of_write(error),
        error => {
            tracing::error!(%error, "a key cannot be rotated");
            Status::internal("the key could not be rotated; see the control plane's log, and try again")
        }
    }
}
