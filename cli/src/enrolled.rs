//! This administrator's membership: a key and a certificate in the data folder, sealed, renewed when they are used.
//!
//! `cluster enrol` makes them from a join token for the role admin; every command that is given `https` URLs uses them.
//! The master key beside them is made with them: on one's own machine there is no better place that needs no asking.

use std::{path::PathBuf, sync::Arc};

use bailiwick_enrolment::{EnrolError, JoinToken, Membership, Store, Wish, enrol, renew};
use bailiwick_runtime::{
    Identity, MasterKeyConfig, MasterKeys,
    config::{default_data_dir, env},
    connect::Targets,
    identity::{Expect, Role},
};
use rustls::ClientConfig;

use crate::failure::Failure;

const ALPN_H2: &[u8] = b"h2";

/// Redeems a token.
pub(crate) async fn become_admin(urls: &str, name: String, token: JoinToken) -> Result<Membership, Failure> {
    let urls = urls.split(',').map(|url| url.trim().to_owned()).collect();
    let wish = Wish {
        role: Role::Admin,
        name,
        urls,
        token: Some(token),
        peer_address: String::new(),
        api_address: String::new(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    Box::pin(enrol(&store()?, &wish, &Identity::default())).await.map_err(failed)
}

/// How to speak to control planes as this administrator.
pub(crate) async fn client_config(targets: &Targets) -> Result<Arc<ClientConfig>, Failure> {
    let (store, identity) = (store()?, Identity::default());
    let kept = store.membership().map_err(Failure::refused)?;
    let Some(kept) = kept else {
        let advice = "ask for a join token (`bailiwick cluster join-token admin` where a control plane runs) and redeem \
                      it with `bailiwick cluster enrol`";
        return Err(Failure::Refused(format!(
            "https needs an administrator's certificate, and there is none here: {advice}"
        )));
    };
    let key = store.key().map_err(Failure::refused)?;
    identity.install(&kept.certificate, &kept.authority, &key).map_err(Failure::refused)?;
    if identity.validity().is_none_or(|validity| identity.now() >= validity.half_life()) {
        let secure: Vec<String> = targets.urls().into_iter().filter(|url| url.starts_with("https")).collect();
        let secure = Targets::parse(&secure).map_err(Failure::refused)?;
        let renewed = Box::pin(renew(&kept, &key, &identity, &secure, env!("CARGO_PKG_VERSION"))).await;
        store.keep(&renewed.map_err(failed)?).map_err(Failure::refused)?;
    }
    let expect = Expect::role(Role::ControlPlane);
    identity.client_config(&[ALPN_H2], expect).map(Arc::new).map_err(Failure::refused)
}

/// Who administers here, if the command line does not say.
pub(crate) fn default_name() -> Option<String> {
    env("USER").or_else(|| env("LOGNAME")).map(|name| name.to_lowercase())
}

/// The folder of key and certificate.
pub(crate) fn folder() -> PathBuf {
    env("BAILIWICK_IDENTITY").map_or_else(|| default_data_dir().join("admin"), PathBuf::from)
}

fn store() -> Result<Store, Failure> {
    let folder = folder();
    let master_key = MasterKeyConfig::ensure_file(&folder.join("master.key")).map_err(Failure::refused)?;
    Ok(Store::new(folder.join("keys"), MasterKeys::load(&master_key).map_err(Failure::refused)?))
}

fn failed(error: EnrolError) -> Failure {
    match error {
        EnrolError::Unreachable(_) => Failure::Unreachable(error.to_string()),
        EnrolError::NoToken(_)
        | EnrolError::SomebodyElse { .. }
        | EnrolError::Token(_)
        | EnrolError::OtherRole(_)
        | EnrolError::NotTls
        | EnrolError::Targets(_)
        | EnrolError::Store(_)
        | EnrolError::Identity(_)
        | EnrolError::Impostor(_)
        | EnrolError::Refused(_)
        | EnrolError::WrongAnswer => Failure::Refused(error.to_string()),
    }
}
