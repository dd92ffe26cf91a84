//! The vault over a real log on a real disk, and what a thief finds there.

mod bindings;
mod contexts;
mod keys;

use std::{fs, path::Path, time::Duration};

use bailiwick_consensus::{Alone, Birth, Consensus, LogLength, Member, Options, RocksDisk, Timers};
use bailiwick_control_plane_core::{credential::Audience, member::FoundCluster, token_key::Issuer};
use bailiwick_runtime::{MasterKeyConfig, metrics::Registry, private_file};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};

use super::*;
use crate::{
    clock,
    config_stream::feed::Feed,
    domain::{Projection, Shared, run_writer},
    metrics::Metrics,
};

const OLD: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
const NEW: &str = "ff0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1eff";

fn masters(lines: &str) -> MasterKeys {
    MasterKeys::load(&MasterKeyConfig { key: Some(lines.to_owned()), ..MasterKeyConfig::default() }).unwrap()
}

/// Runs `work` on a node whose log is in `folder`.
async fn on_a_node<R>(folder: &Path, work: impl AsyncFnOnce(&Domain, watch::Receiver<u64>) -> R) -> R {
    let (shared, feed) = (Shared::default(), Arc::new(Feed::new()));
    let options = Options {
        disk: Arc::new(RocksDisk::open(folder).unwrap()),
        birth: Birth { cluster_id: "0".repeat(32), incarnation: "0".repeat(16), node_id: 1 },
        transport: Arc::new(Alone),
        applier: Box::new(Projection::new(shared.clone(), Arc::clone(&feed))),
        timers: Timers::default(),
        log_length: LogLength::default(),
    };
    let consensus = Consensus::open(options).await.unwrap();
    if !consensus.is_initialized().await.unwrap() {
        consensus.initialize(Member::default()).await.unwrap();
    }
    consensus.ready(Duration::from_secs(10)).await.unwrap();
    let (domain, mailbox) = Domain::new(consensus.clone(), shared.clone());
    let writer = run_writer(mailbox, consensus.clone(), shared, Metrics::register(&Registry::new()));
    let done = tokio::select! {
        done = work(&domain, feed.revisions()) => done,
        () = writer => panic!("the writer ended"),
    };
    drop(domain);
    consensus.shutdown().await;
    done
}

async fn found(domain: &Domain) {
    let wish = FoundCluster {
        cluster_id: "0".repeat(32),
        incarnation: "0".repeat(16),
        name: "cp-1".into(),
        public_key: vec![1; 91],
        peer: "h:1".into(),
        api: "https://h:2".into(),
    };
    domain.write(Command::FoundCluster(wish), caller()).await.unwrap();
}

fn plain(vault: &Vault) -> Vec<(String, Vec<u8>)> {
    let contents = vault.0.contents.lock().unwrap();
    Kind::ALL.iter().map(|kind| (kind.name(), contents.plain(&kind.name()).unwrap().to_vec())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stolen_data_directory_yields_nothing_without_the_master_key() {
    let folder = tempfile::tempdir().unwrap();
    let vault = Vault::new(masters(OLD), Vec::new());
    let sealed = on_a_node(folder.path(), async |domain, _| {
        found(domain).await;
        vault.create_missing(domain).await.unwrap();
        domain.read(|state| state.secrets.clone())
    })
    .await;
    assert_eq!(sealed.len(), Kind::ALL.len());
    let mut forbidden: Vec<(String, Vec<u8>)> = vec![("the master key".into(), hex::decode(OLD).unwrap())];
    for (name, secret) in plain(&vault) {
        // PKCS#8 wraps the private scalar or seed; neither the whole nor any window of it may lie there.
        forbidden.extend(secret.windows(24).step_by(8).map(|part| (name.clone(), part.to_vec())));
    }
    let files = all_files(folder.path());
    let holds = |needle: &[u8]| files.iter().find(|(_, content)| contains(content, needle)).map(|(path, _)| path);
    let ciphertext = &sealed.values().next().unwrap().sealed;
    assert!(holds(ciphertext.as_bytes()).is_some(), "the search finds what is there");
    let mut looked = 0;
    for (name, secret) in &forbidden {
        if is_public(secret, &vault) {
            continue;
        }
        let forms = [
            secret.clone(),
            hex::encode(secret).into_bytes(),
            hex::encode_upper(secret).into_bytes(),
            STANDARD_NO_PAD.encode(secret).into_bytes(),
            URL_SAFE_NO_PAD.encode(secret).into_bytes(),
        ];
        for form in forms {
            assert_eq!(holds(&form), None, "{name} is in clear");
            looked += 1;
        }
    }
    assert!(looked > 50, "{looked}");
}

/// Public keys and certificates lie beside the private key in its encoding, and in clear in the state.
fn is_public(part: &[u8], vault: &Vault) -> bool {
    let keys = vault.keys();
    let authority = keys.authority().unwrap();
    let jwk = keys.newest_signing().unwrap().public_jwk().to_json().unwrap();
    let jwk: serde_json::Value = serde_json::from_str(&jwk).unwrap();
    let public = URL_SAFE_NO_PAD.decode(jwk["x"].as_str().unwrap()).unwrap();
    contains(authority.certificate(), part) || contains(&public, part) || part.windows(16).any(|p| contains(&public, p))
}

fn contains(content: &[u8], needle: &[u8]) -> bool {
    content.windows(needle.len()).any(|window| window == needle)
}

fn all_files(folder: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        if entry.path().is_dir() {
            files.extend(all_files(&entry.path()));
        } else {
            files.push((entry.path(), fs::read(entry.path()).unwrap()));
        }
    }
    files
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_survive_a_restart_and_another_master_key_is_refused_with_advice() {
    let folder = tempfile::tempdir().unwrap();
    let first = Vault::new(masters(OLD), Vec::new());
    on_a_node(folder.path(), async |domain, _| {
        first.create_missing(domain).await.unwrap();
        assert!(first.keys().authority().is_none(), "an authority belongs to a cluster");
        found(domain).await;
        first.create_missing(domain).await.unwrap();
    })
    .await;
    let again = Vault::new(masters(OLD), Vec::new());
    on_a_node(folder.path(), async |domain, _| {
        domain.read(|state| again.take_in(state)).unwrap();
        assert_eq!(plain(&again), plain(&first));
        again.create_missing(domain).await.unwrap();
        assert_eq!(domain.read(|state| state.secrets.len()), Kind::ALL.len());
        let stranger = Vault::new(masters(NEW), Vec::new());
        let refused = domain.read(|state| stranger.take_in(state)).unwrap_err().to_string();
        assert!(refused.contains(&masters(OLD).newest()) && refused.contains("[master_key]"), "{refused}");
    })
    .await;
    for printed in [format!("{again:?}"), format!("{:?}", again.keys())] {
        for (_, secret) in plain(&again) {
            assert!(!printed.contains(&hex::encode(&secret)) && !printed.contains(&format!("{secret:?}")), "{printed}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ciphertext_in_anothers_place_or_of_an_earlier_edition_does_not_open() {
    let folder = tempfile::tempdir().unwrap();
    on_a_node(folder.path(), async |domain, _| {
        found(domain).await;
        let vault = Vault::new(masters(OLD), Vec::new());
        vault.create_missing(domain).await.unwrap();
        let good = domain.read(|state| state.secrets.clone());
        let fresh = || Vault::new(masters(OLD), Vec::new());
        let names: Vec<String> = good.keys().cloned().collect();
        for (one, other) in names.iter().zip(names.iter().cycle().skip(1)) {
            let mut swapped = State { secrets: good.clone(), ..State::default() };
            let from = good.get(other).unwrap().clone();
            let to = swapped.secrets.get_mut(one).unwrap();
            (to.nonce, to.sealed) = (from.nonce, from.sealed);
            assert!(matches!(fresh().take_in(&swapped), Err(VaultError::Sealed { .. })), "{one} {other}");
        }
        let mut later = State { secrets: good.clone(), ..State::default() };
        later.secrets.values_mut().for_each(|secret| secret.edition += 1);
        assert!(fresh().take_in(&later).is_err(), "an edition is bound into its ciphertext");
        let mut renamed = State { secrets: good, ..State::default() };
        renamed.secrets.values_mut().for_each(|secret| secret.column = "other".to_owned());
        assert!(fresh().take_in(&renamed).is_err());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_master_key_is_rotated_while_writes_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("master.key");
    private_file::write(&file, OLD.as_bytes()).unwrap();
    let local = folder.path().join("local.key");
    let load = || MasterKeys::load(&MasterKeyConfig::from_file(file.clone())).unwrap();
    sealed_file::write(&local, &load(), b"local").unwrap();
    let vault = Vault::new(load(), vec![local.clone()]);
    on_a_node(&folder.path().join("raft"), async |domain, revisions| {
        found(domain).await;
        vault.create_missing(domain).await.unwrap();
        let before = plain(&vault);
        private_file::write(&file, format!("{NEW}\n{OLD}").as_bytes()).unwrap();
        let (newest, shutdown) = (masters(NEW).newest(), Shutdown::new());
        let held = |keys: Option<Vec<String>>| {
            std::collections::BTreeMap::from([
                ("cp-1".to_owned(), Some(vec![newest.clone()])),
                ("cp-2".to_owned(), keys),
            ])
        };
        let asked = || Caller { actor: "admin".into(), request_id: "r-1".into() };
        let lacks = vault.rotate(domain, &held(Some(masters(OLD).names())), asked()).await.unwrap_err();
        assert!(matches!(lacks, RotateError::Lacks { .. }) && lacks.to_string().contains("cp-2"), "{lacks}");
        assert!(matches!(vault.rotate(domain, &held(None), asked()).await, Err(RotateError::Silent(_))));
        let unchanged = domain.read(|state| state.secrets.values().all(|secret| secret.edition == 1));
        assert!(unchanged, "a refused rotation seals nothing");

        let writes = async {
            for number in 0..50 {
                let url = format!("http://127.0.0.1:{}", 1_000 + number);
                let issuer = Issuer { issuer: url.clone(), mcp_url: url };
                domain.write(Command::SetIssuer(issuer), caller()).await.unwrap();
            }
        };
        let follower = Vault::new(load(), Vec::new());
        domain.read(|state| follower.take_in(state)).unwrap();
        let (following, rotating) =
            (follower.clone().follow(domain.clone(), revisions.clone(), shutdown.clone()), async {
                let held = held(Some(vec![newest.clone()]));
                let (rotated, ()) = tokio::join!(vault.rotate(domain, &held, asked()), writes);
                let mut seen = revisions.clone();
                seen.wait_for(|revision| *revision >= domain.read(|state| state.revision)).await.unwrap();
                shutdown.request();
                rotated
            });
        let (followed, rotated) = tokio::join!(following, rotating);
        followed.unwrap();
        let rotated = rotated.unwrap();
        assert_eq!((rotated.secrets, rotated.master.as_str()), (Kind::ALL.len() as u64, newest.as_str()));
        let all_new =
            domain.read(|state| state.secrets.values().all(|secret| (secret.edition, &secret.master) == (2, &newest)));
        assert!(all_new);
        assert_eq!((plain(&vault), plain(&follower)), (before.clone(), before), "the secrets are the same");
        domain.read(|state| Vault::new(masters(NEW), Vec::new()).take_in(state)).unwrap();
        assert!(domain.read(|state| Vault::new(masters(OLD), Vec::new()).take_in(state)).is_err());
        let again = vault.rotate(domain, &held(Some(vec![newest.clone()])), asked()).await.unwrap();
        assert_eq!(again.revision, rotated.revision, "asked again under the same request id");
        vault.follow_files();
        assert_eq!(sealed_file::read(&local, &masters(NEW)).unwrap().as_slice(), b"local");
    })
    .await;
}

const COLUMN: &str = Audience::Servers.column();

fn delivered(vault: &Vault) -> Vec<(String, String)> {
    let delivered = vault.0.contents.lock().unwrap().credentials();
    delivered.into_iter().map(|one| (one.name, String::from_utf8(one.value).unwrap())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_for_servers_is_delivered_as_long_as_it_is_announced_and_its_ciphertext_goes_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let vault = Vault::new(masters(OLD), Vec::new());
    let kept = on_a_node(folder.path(), async |domain, _| {
        found(domain).await;
        vault.create_missing(domain).await.unwrap();
        let pair = |value: &str| vec![("key".to_owned(), value.to_owned())];
        let announce = Command::SetCredential { name: "key".into(), audience: Audience::Servers };
        vault.put(domain, COLUMN, "key", b"one").await.unwrap();
        assert_eq!(delivered(&vault), [], "nobody announced it");
        domain.write(announce.clone(), caller()).await.unwrap();
        domain.read(|state| vault.take_in(state)).unwrap();
        assert_eq!(delivered(&vault), pair("one"));
        vault.put(domain, COLUMN, "key", b"two").await.unwrap();
        assert_eq!(delivered(&vault), pair("two"));
        let sealed = domain.read(|state| state.secrets[&secret::name(COLUMN, "key")].sealed.clone());
        domain.write(Command::DeleteCredential { name: "key".into() }, caller()).await.unwrap();
        domain.read(|state| vault.take_in(state)).unwrap();
        assert_eq!(delivered(&vault), [], "from the word on");
        vault.void(domain, COLUMN, "key").await.unwrap();
        assert_ne!(domain.read(|state| state.secrets[&secret::name(COLUMN, "key")].sealed.clone()), sealed);
        domain.write(announce, caller()).await.unwrap();
        domain.read(|state| vault.take_in(state)).unwrap();
        assert_eq!(delivered(&vault), [], "announced again, it has no value yet");
        vault.put(domain, COLUMN, "key", b"three").await.unwrap();
        pair("three")
    });
    let kept = kept.await;
    let again = Vault::new(masters(OLD), Vec::new());
    on_a_node(folder.path(), async |domain, _| {
        domain.read(|state| again.take_in(state)).unwrap();
        assert_eq!(delivered(&again), kept, "a restart forgets nothing");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_for_an_identity_provider_stays_with_control_planes() {
    let folder = tempfile::tempdir().unwrap();
    let vault = Vault::new(masters(OLD), Vec::new());
    on_a_node(folder.path(), async |domain, _| {
        found(domain).await;
        vault.create_missing(domain).await.unwrap();
        let column = Audience::IdentityProvider.column();
        let shown = || vault.keys().for_provider("key").map(|plain| plain.to_vec());
        let frame = || vault.keys().frame().unwrap().into_bytes();
        let before = frame();
        vault.put(domain, column, "key", b"hush").await.unwrap();
        assert_eq!(shown(), None, "nobody announced it");
        let announce = Command::SetCredential { name: "key".into(), audience: Audience::IdentityProvider };
        domain.write(announce, caller()).await.unwrap();
        domain.read(|state| vault.take_in(state)).unwrap();
        assert_eq!(shown().as_deref(), Some(&b"hush"[..]));
        assert_eq!((delivered(&vault), frame() == before), (vec![], true), "data planes are told nothing of it");
        vault.put(domain, column, "key", b"other").await.unwrap();
        assert_eq!(shown().as_deref(), Some(&b"other"[..]));
        domain.write(Command::DeleteCredential { name: "key".into() }, caller()).await.unwrap();
        domain.read(|state| vault.take_in(state)).unwrap();
        assert_eq!(shown(), None, "from the word on");
        // The same name, for servers: what providers were shown is not theirs.
        domain
            .write(Command::SetCredential { name: "key".into(), audience: Audience::Servers }, caller())
            .await
            .unwrap();
        domain.read(|state| vault.take_in(state)).unwrap();
        assert_eq!((delivered(&vault), shown()), (vec![], None));
    })
    .await;
}
