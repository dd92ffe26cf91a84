//! Keys that binding keys are sealed under: made for clusters that have none, delivered before they are used, and kept.

use bailiwick_control_plane_core::key_rotation::{KeyKind, TOKEN_BINDING};
use bailiwick_proto::v1;
use bailiwick_token::{
    Actor, Claims,
    binding::{BindingError, BindingSeal},
};

use super::{
    keys::{asked, held, on_a_cluster, restarted, rotate, rotation},
    *,
};
use crate::binding::Binding;

fn claims() -> Claims {
    let text = String::new;
    Claims {
        iss: text(),
        aud: text(),
        sub: "jane@example.com".into(),
        agent_sub: "a".into(),
        project_id: text(),
        client_id: text(),
        consent_id: text(),
        sid: text(),
        scope: text(),
        act: Actor { sub: "a".into(), act: None },
        jti: text(),
        iat: 1,
        nbf: None,
        exp: 2,
        min_revision: None,
        cnf: None,
        binding_alg: None,
        binding: None,
    }
}

fn binding(vault: &Vault) -> Binding {
    Binding::Envelope(vault.keys().binder().unwrap())
}

/// Claims with the key they are bound to, as a control plane binds them.
fn bound(vault: &Vault) -> (Claims, String) {
    let mut claims = claims();
    let key = binding(vault).bind(&mut claims).unwrap().unwrap();
    (claims, key.expose().to_string())
}

fn delivered(vault: &Vault) -> Vec<v1::SealingKey> {
    match vault.keys().frame().unwrap().decode().unwrap().frame.unwrap() {
        v1::config_frame::Frame::Keys(keys) => keys.token_binding,
        other => panic!("{other:?}"),
    }
}

/// What a data plane makes of it that has just what this control plane delivers.
fn opened(vault: &Vault, claims: &Claims) -> Result<String, BindingError> {
    let keys = delivered(vault);
    let seal = BindingSeal::new(keys.iter().map(|key| key.key.as_slice()))?;
    seal.open(claims).map(|key| key.unwrap().expose().to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_given_out_with_a_token_opens_at_data_planes_and_is_another_each_time() {
    on_a_cluster(async |domain, vault| {
        let (claims, key) = bound(vault);
        assert_eq!(opened(vault, &claims), Ok(key.clone()));
        assert_eq!(opened(&restarted(domain), &claims), Ok(key.clone()), "also of another node");
        assert_ne!(bound(vault).1, key);
        let mut changed = claims;
        changed.agent_sub = "other".into();
        assert_eq!(opened(vault, &changed), Err(BindingError::Forged));
        assert!(!format!("{:?}{:?}{:?}", binding(vault), vault.keys(), vault).contains(&key));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_good_across_a_rotation_and_names_when_the_new_key_came() {
    on_a_cluster(async |domain, vault| {
        let (before, key) = bound(vault);
        let revision = rotate(vault, domain, KeyKind::TokenBinding, false).await;
        let (after, other) = bound(vault);
        for vault in [vault, &restarted(domain)] {
            assert_eq!((opened(vault, &before), opened(vault, &after)), (Ok(key.clone()), Ok(other.clone())));
            assert_eq!((binding(vault).known_since(), held(vault, TOKEN_BINDING)), (revision, 2));
        }
        rotate(vault, domain, KeyKind::TokenBinding, true).await;
        assert_eq!(opened(vault, &before), Err(BindingError::KeyUnknown));
        assert_eq!(opened(vault, &after), Err(BindingError::KeyUnknown));
        assert_eq!((delivered(vault).len(), held(vault, TOKEN_BINDING)), (1, 1));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_key_is_delivered_before_anything_is_sealed_under_it() {
    on_a_cluster(async |domain, vault| {
        let (before, first) = (bound(vault).0, delivered(vault));
        let looking = async |_| {
            let now = delivered(vault);
            assert_eq!((now.len(), &now[0]), (2, &first[0]), "the one in use stays first");
            assert!(opened(&restarted(domain), &before).is_ok());
            let sealed_now = bound(vault).0;
            let old = BindingSeal::new(first.iter().map(|key| key.key.as_slice())).unwrap();
            assert!(old.open(&sealed_now).is_ok(), "and seals");
        };
        vault.rotate_key(domain, rotation(KeyKind::TokenBinding, false), asked(""), looking).await.unwrap();
        assert_ne!(delivered(vault)[0], first[0]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_was_before_there_were_bound_tokens_gets_its_key() {
    let folder = tempfile::tempdir().unwrap();
    let vault = Vault::new(masters(OLD), Vec::new());
    on_a_node(folder.path(), async |domain, _| {
        found(domain).await;
        // As an older version left it.
        for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::TokenBinding) {
            let plain = kind.make(Some("x")).unwrap().unwrap();
            vault.put(domain, kind.column(), kind.key(), &plain).await.unwrap();
        }
        assert!(vault.keys().binder().is_none() && delivered(&vault).is_empty());
        vault.create_missing(domain).await.unwrap();
        let (claims, key) = bound(&vault);
        assert_eq!(opened(&vault, &claims), Ok(key));
        let since = domain.read(|state| state.secrets[&Kind::TokenBinding.name()].changed.revision);
        assert_eq!(binding(&vault).known_since(), since);
    })
    .await;
}
