//! Rotation of the token signing key and of the authorization key, over a real log on a real disk.

use bailiwick_control_plane_core::key_rotation::{self, AUTHORIZATION, KeyKind, THE_KEY, TOKEN_SIGNING};

use super::*;
use crate::{seal::Seal, sign_in::SESSION_SECONDS};

const DAY_MICROS: u64 = 24 * 3_600 * 1_000_000;

pub(super) fn rotation(kind: KeyKind, at_once: bool) -> Rotation {
    Rotation { kind, at_once, reason: "OPS-1".into() }
}

pub(super) fn asked(request_id: &str) -> Caller {
    Caller { actor: "admin".into(), request_id: request_id.into() }
}

pub(super) async fn rotate(vault: &Vault, domain: &Domain, kind: KeyKind, at_once: bool) -> u64 {
    vault.rotate_key(domain, rotation(kind, at_once), asked(""), async |_| ()).await.unwrap()
}

/// The key id that signs, as `vault` has it.
fn signs(vault: &Vault, domain: &Domain) -> String {
    domain.read(|state| vault.keys().signing(state)).unwrap().kid().to_owned()
}

fn listed(domain: &Domain) -> Vec<String> {
    domain.read(|state| state.token_keys.keys().cloned().collect())
}

/// How many keys lie in a secret.
pub(super) fn held(vault: &Vault, column: &str) -> usize {
    let contents = vault.0.contents.lock().unwrap();
    let plain = contents.plain(&secret::name(column, THE_KEY)).unwrap();
    let keys = if column == TOKEN_SIGNING { ring::documents(&plain) } else { ring::sealing_keys(&plain) };
    keys.unwrap().len()
}

/// A vault that has read what there is, as after a restart.
pub(super) fn restarted(domain: &Domain) -> Vault {
    let vault = Vault::new(masters(OLD), Vec::new());
    domain.read(|state| vault.take_in(state)).unwrap();
    vault
}

fn seal_of(vault: &Vault) -> Arc<Seal> {
    vault.keys().seal().unwrap()
}

pub(super) async fn on_a_cluster<R>(work: impl AsyncFnOnce(&Domain, &Vault) -> R) -> R {
    let folder = tempfile::tempdir().unwrap();
    let vault = Vault::new(masters(OLD), Vec::new());
    on_a_node(folder.path(), async |domain, _| {
        found(domain).await;
        vault.create_missing(domain).await.unwrap();
        work(domain, &vault).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn another_key_signs_and_the_one_before_is_sealed_away_and_still_listed() {
    on_a_cluster(async |domain, vault| {
        let first = signs(vault, domain);
        assert_eq!(listed(domain), [first.as_str()]);
        let revision = rotate(vault, domain, KeyKind::TokenSigning, false).await;
        let second = signs(vault, domain);
        assert_ne!(second, first);
        assert_eq!(domain.read(|state| state.token_keys[&second].changed.revision), revision);
        assert_eq!((listed(domain).len(), held(vault, TOKEN_SIGNING)), (2, 1));
        let again = restarted(domain);
        assert_eq!(signs(&again, domain), second, "after a restart too");
        again.create_missing(domain).await.unwrap();
        assert_eq!(listed(domain).len(), 2, "and no leader registers anything new");
        rotate(vault, domain, KeyKind::TokenSigning, true).await;
        assert_eq!(listed(domain), [signs(vault, domain)]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_has_not_opened_the_new_key_yet_signs_with_one_that_verifies_or_not_at_all() {
    on_a_cluster(async |domain, vault| {
        let behind = restarted(domain);
        let first = signs(&behind, domain);
        rotate(vault, domain, KeyKind::TokenSigning, false).await;
        assert_eq!(signs(&behind, domain), first);
        rotate(vault, domain, KeyKind::TokenSigning, true).await;
        assert!(domain.read(|state| behind.keys().signing(state)).is_none(), "what it has verifies no more");
        domain.read(|state| behind.take_in(state)).unwrap();
        assert_eq!(signs(&behind, domain), signs(vault, domain));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_that_broke_off_changed_nothing_and_the_next_one_completes() {
    on_a_cluster(async |domain, vault| {
        let first = signs(vault, domain);
        for (kind, column) in [(KeyKind::TokenSigning, TOKEN_SIGNING), (KeyKind::Authorization, AUTHORIZATION)] {
            let token = seal_of(vault).refresh("c-1", 1);
            // The leader dies once the new key is sealed.
            let (stuck, reached) = (vault.clone(), tokio::sync::Notify::new());
            let broken = stuck.rotate_key(domain, rotation(kind, false), asked("r"), async |_| {
                reached.notify_one();
                std::future::pending().await
            });
            tokio::select! {
                _ = broken => panic!("it waits"),
                () = reached.notified() => {}
            }
            let next = restarted(domain);
            assert_eq!((held(&next, column), signs(&next, domain)), (2, first.clone()));
            assert_eq!(seal_of(&next).refresh("c-1", 1), token, "what was in use seals");
            // The leader's upkeep seals away what is in nobody's use.
            next.keep(domain, Upkeep { now_micros: clock::now_micros(), token_key_days: 0 }).await.unwrap();
            assert_eq!((held(&next, column), signs(&next, domain)), (1, first.clone()));
        }
        let next = restarted(domain);
        let asking = || next.rotate_key(domain, rotation(KeyKind::TokenSigning, false), asked("r"), async |_| ());
        let revision = asking().await.unwrap();
        assert_ne!(signs(&next, domain), first);
        assert_eq!(asking().await.unwrap(), revision, "asked again under the same request id");
        assert_eq!((listed(domain).len(), held(&next, TOKEN_SIGNING)), (2, 1));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_sealed_before_opens_until_its_key_is_retired_and_at_once_opens_no_more() {
    on_a_cluster(async |domain, vault| {
        let first = seal_of(vault).refresh("c-1", 1);
        rotate(vault, domain, KeyKind::Authorization, false).await;
        let second = seal_of(vault).refresh("c-1", 2);
        for vault in [vault, &restarted(domain)] {
            assert!(seal_of(vault).read_refresh(&first).is_some() && seal_of(vault).read_refresh(&second).is_some());
            assert_eq!((held(vault, AUTHORIZATION), seal_of(vault).refresh("c-1", 2)), (2, second.clone()));
        }
        rotate(vault, domain, KeyKind::Authorization, false).await;
        assert!(seal_of(vault).read_refresh(&first).is_some());
        let refused = vault.rotate_key(domain, rotation(KeyKind::Authorization, false), asked(""), async |_| ());
        let refused = refused.await.unwrap_err().to_string();
        assert!(refused.contains("--at-once"), "{refused}");
        assert!(seal_of(vault).read_refresh(&first).is_some(), "a refused rotation ends nothing");
        rotate(vault, domain, KeyKind::Authorization, true).await;
        let third = seal_of(vault).refresh("c-1", 3);
        for vault in [vault, &restarted(domain)] {
            let seal = seal_of(vault);
            assert!(seal.read_refresh(&first).is_none() && seal.read_refresh(&second).is_none());
            assert!(seal.read_refresh(&third).is_some());
            assert_eq!(held(vault, AUTHORIZATION), 1);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_node_sealed_with_a_key_that_is_new_here_opens_once_it_is_looked_for() {
    on_a_cluster(async |domain, vault| {
        let behind = restarted(domain);
        rotate(vault, domain, KeyKind::Authorization, false).await;
        let token = seal_of(vault).refresh("c-1", 1);
        assert!(seal_of(&behind).read_refresh(&token).is_none());
        let keys = behind.keys();
        let (latest, ()) = tokio::join!(keys.latest_seal(domain), async {
            domain.read(|state| behind.take_in(state)).unwrap();
        });
        assert!(latest.unwrap().read_refresh(&token).is_some());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_rotates_by_age_and_retires_nothing_before_its_time() {
    on_a_cluster(async |domain, vault| {
        let first = signs(vault, domain);
        let made = domain.read(|state| key_rotation::signer(state).unwrap().changed.time);
        let at = |now_micros: u64, token_key_days: u64| Upkeep { now_micros, token_key_days };
        vault.keep(domain, at(made + 90 * DAY_MICROS - 1, 90)).await.unwrap();
        vault.keep(domain, at(made + 900 * DAY_MICROS, 0)).await.unwrap();
        assert_eq!(signs(vault, domain), first);
        vault.keep(domain, at(made + 90 * DAY_MICROS, 90)).await.unwrap();
        assert_ne!(signs(vault, domain), first);
        // A leader whose clock is ahead asks too early: the time of the decision counts.
        vault.keep(domain, at(made + 900 * DAY_MICROS, 0)).await.unwrap();
        assert!(listed(domain).contains(&first));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_master_key_is_rotated_with_all_keys_that_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("master.key");
    private_file::write(&file, OLD.as_bytes()).unwrap();
    let vault = Vault::new(MasterKeys::load(&MasterKeyConfig::from_file(file.clone())).unwrap(), Vec::new());
    on_a_node(&folder.path().join("raft"), async |domain, _| {
        found(domain).await;
        vault.create_missing(domain).await.unwrap();
        let token = seal_of(&vault).refresh("c-1", 1);
        for kind in [KeyKind::TokenSigning, KeyKind::Authorization] {
            rotate(&vault, domain, kind, false).await;
        }
        private_file::write(&file, format!("{NEW}\n{OLD}").as_bytes()).unwrap();
        let held = std::collections::BTreeMap::from([("cp-1".to_owned(), Some(vec![masters(NEW).newest()]))]);
        let rotated = vault.rotate(domain, &held, asked("")).await.unwrap();
        assert_eq!(rotated.secrets, Kind::ALL.len() as u64, "several keys of a kind are one secret");
        domain.read(|state| vault.take_in(state)).unwrap();
        assert!(vault.keys().latest_seal(domain).await.is_some(), "the same keys in another edition are the latest");
        let again = Vault::new(masters(NEW), Vec::new());
        domain.read(|state| again.take_in(state)).unwrap();
        assert!(seal_of(&again).read_refresh(&token).is_some());
        assert_eq!(signs(&again, domain), signs(&vault, domain));
        rotate(&vault, domain, KeyKind::TokenSigning, false).await;
    })
    .await;
}

#[test]
fn no_session_outlives_the_key_it_is_sealed_with() {
    assert!(u64::try_from(SESSION_SECONDS).unwrap() <= key_rotation::SEALED_SECONDS_MAX);
}
