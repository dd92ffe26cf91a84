//! Keys that sign contexts: made for clusters that have none, published before they sign, and as long as they count.

use bailiwick_control_plane_core::key_rotation::{CONTEXT_SIGNING, KeyKind};
use bailiwick_proto::v1;
use bailiwick_token::context::ContextKey;

use super::{
    keys::{asked, held, on_a_cluster, restarted, rotate, rotation},
    *,
};

fn delivered(vault: &Vault) -> Vec<v1::NamedSecret> {
    match vault.keys().frame().unwrap().decode().unwrap().frame.unwrap() {
        v1::config_frame::Frame::Keys(keys) => keys.context_signing,
        other => panic!("{other:?}"),
    }
}

fn published(vault: &Vault) -> Vec<String> {
    vault.keys().contexts().iter().map(|jwk| jwk.kid.clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_data_planes_sign_with_is_published_on_every_node_and_nothing_secret_of_it() {
    on_a_cluster(async |domain, vault| {
        let [named] = delivered(vault).try_into().unwrap();
        let key = ContextKey::from_seed(named.name.clone(), &named.value).unwrap();
        for vault in [vault, &restarted(domain)] {
            assert_eq!(vault.keys().contexts().as_ref(), [key.public_jwk().clone()]);
            assert_eq!(delivered(vault)[0].name, named.name);
        }
        let shown = format!("{:?} {:?}", vault.keys(), vault.keys().contexts());
        assert!(!shown.contains(&format!("{:?}", named.value)) && !shown.contains("\"d\""), "{shown}");
        let signing = domain.read(|state| vault.keys().signing(state)).unwrap();
        assert_ne!(signing.public_jwk().x, key.public_jwk().x, "no token is signed with it");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_key_is_published_before_it_signs_and_the_one_before_stays_unless_it_ends_at_once() {
    on_a_cluster(async |domain, vault| {
        let first = published(vault).remove(0);
        let looking = async |_| {
            assert_eq!((published(vault).len(), &published(vault)[0]), (2, &first), "there, and not in use yet");
            assert_eq!(delivered(vault)[0].name, first);
        };
        vault.rotate_key(domain, rotation(KeyKind::ContextSigning, false), asked(""), looking).await.unwrap();
        let second = delivered(vault)[0].name.clone();
        assert_eq!((delivered(vault).len(), published(vault)), (1, vec![second.clone(), first]));
        assert_eq!(published(&restarted(domain)), published(vault));
        rotate(vault, domain, KeyKind::ContextSigning, true).await;
        let third = delivered(vault)[0].name.clone();
        assert_ne!(third, second);
        assert_eq!((published(vault), held(vault, CONTEXT_SIGNING)), (vec![third], 1));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_was_before_there_were_contexts_gets_its_key() {
    let folder = tempfile::tempdir().unwrap();
    let vault = Vault::new(masters(OLD), Vec::new());
    on_a_node(folder.path(), async |domain, _| {
        found(domain).await;
        // As an older version left it.
        for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::ContextSigning) {
            let plain = kind.make(Some("x")).unwrap().unwrap();
            vault.put(domain, kind.column(), kind.key(), &plain).await.unwrap();
        }
        assert!(published(&vault).is_empty() && delivered(&vault).is_empty());
        vault.create_missing(domain).await.unwrap();
        assert_eq!(published(&vault), [delivered(&vault)[0].name.clone()]);
    })
    .await;
}
