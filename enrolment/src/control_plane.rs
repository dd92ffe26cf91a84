//! A data plane's or a ledger's way to the control planes: which URLs, as whom, and the next one when one is gone.
//!
//! `https` URLs need a membership ([`join`] gets it and keeps it fresh); `http` ones are for the same machine, where
//! the control plane takes plain text. Called by both roles at start.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use bailiwick_runtime::{
    Identity, MasterKeys, OnEnd, Supervisor,
    connect::Targets,
    identity::{Expect, Role},
};
use rustls::ClientConfig;
use serde::{Deserialize, Serialize};
use tonic::transport::Channel;
use zeroize::Zeroizing;

use crate::{
    client::{EnrolError, Wish, enrol, keep},
    store::Store,
    token::JoinToken,
};

const ALPN_H2: &[u8] = b"h2";

/// One URL, or several of which any will do. In a file: a text, or a list of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Urls {
    /// One; commas separate several, for the environment.
    One(String),
    /// Several.
    Many(Vec<String>),
}

impl Urls {
    /// All of them.
    #[must_use]
    pub fn list(&self) -> Vec<String> {
        match self {
            Self::One(text) => text.split(',').map(|url| url.trim().to_owned()).collect(),
            Self::Many(urls) => urls.clone(),
        }
    }

    /// What is wrong with them, if anything: each is an `https` URL, or an `http` one of this machine.
    ///
    /// # Errors
    /// A sentence for the one who wrote them.
    pub fn check(&self) -> Result<(), String> {
        let targets = Targets::parse(&self.list()).map_err(|error| error.to_string())?;
        match targets.urls().iter().find(|url| url.starts_with("http://") && !is_local(url)) {
            Some(url) => Err(format!("`{url}`: plain http is only for this machine; elsewhere use https and enrol")),
            None => Ok(()),
        }
    }
}

impl<T: Into<String>> From<T> for Urls {
    fn from(url: T) -> Self {
        Self::One(url.into())
    }
}

fn is_local(url: &str) -> bool {
    let uri: Option<tonic::transport::Uri> = url.parse().ok();
    let host = uri.as_ref().and_then(|uri| uri.host()).unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
}

/// A join token as it was written, perhaps wrongly. Cannot be printed.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct TokenText(Zeroizing<String>);

impl fmt::Debug for TokenText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenText(…)")
    }
}

impl From<String> for TokenText {
    fn from(text: String) -> Self {
        Self(Zeroizing::new(text))
    }
}

/// What a node needs to reach the control planes.
pub struct Joining {
    /// What it is.
    pub role: Role,
    /// Its name.
    pub name: String,
    /// Where they are.
    pub urls: Urls,
    /// Leave to join, for the first start.
    pub join_token: Option<TokenText>,
    /// A file with that.
    pub join_token_file: Option<PathBuf>,
    /// Where key and certificate are kept.
    pub keys: PathBuf,
    /// What they are sealed under.
    pub master_keys: MasterKeys,
    /// Other sealed files of the node, which follow the master key.
    pub sealed_files: Vec<PathBuf>,
    /// The program's version.
    pub version: String,
}

impl fmt::Debug for Joining {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Joining").field("role", &self.role).field("name", &self.name).finish_non_exhaustive()
    }
}

/// The control planes, as this node reaches them; cheap to clone.
#[derive(Clone, Debug)]
pub struct ControlPlane {
    targets: Targets,
    tls: Option<Arc<ClientConfig>>,
    identity: Option<Identity>,
}

impl ControlPlane {
    /// Without TLS, for tests and for one machine.
    #[must_use]
    pub const fn plain(targets: Targets) -> Self {
        Self { targets, tls: None, identity: None }
    }

    /// A channel that connects when it is first used, to the first that can be reached.
    #[must_use]
    pub fn channel(&self) -> Channel {
        self.targets.channel(self.tls.clone())
    }

    /// The same, but with its own turn: which one is tried first no longer depends on who else uses this.
    #[must_use]
    pub fn with_own_turn(&self) -> Self {
        Self { targets: self.targets.with_own_turn(), tls: self.tls.clone(), identity: self.identity.clone() }
    }

    /// As whom; nobody in particular without TLS.
    #[must_use]
    pub const fn identity(&self) -> Option<&Identity> {
        self.identity.as_ref()
    }

    /// The one that was used cannot help: new channels try the next one first.
    pub fn advance(&self) {
        self.targets.advance();
    }
}

/// Becomes a member if the URLs ask for it, keeps being one as a task of `supervisor`, and gives the way to the control
/// planes.
///
/// # Errors
/// [`EnrolError`].
pub async fn join(joining: Joining, supervisor: &Supervisor) -> Result<ControlPlane, EnrolError> {
    let targets = Targets::parse(&joining.urls.list())?;
    if !targets.any_tls() {
        return Ok(ControlPlane::plain(targets));
    }
    let token = configured_token(joining.join_token.as_ref(), joining.join_token_file.as_deref())?;
    let (identity, store) = (Identity::default(), Store::new(joining.keys, joining.master_keys));
    let secure: Vec<String> = targets.urls().into_iter().filter(|url| url.starts_with("https")).collect();
    let wish = Wish {
        role: joining.role,
        name: joining.name,
        urls: secure.clone(),
        token,
        peer_address: String::new(),
        api_address: String::new(),
        version: joining.version.clone(),
    };
    let membership = enrol(&store, &wish, &identity).await?;
    let tls = Arc::new(identity.client_config(&[ALPN_H2], Expect::role(Role::ControlPlane))?);
    let stop = supervisor.shutdown().clone();
    let renewing = Targets::parse(&secure)?;
    let keeping = keep(store, membership, identity.clone(), renewing, joining.sealed_files, joining.version, stop);
    supervisor.spawn("membership", OnEnd::Critical, keeping);
    Ok(ControlPlane { targets, tls: Some(tls), identity: Some(identity) })
}

/// The token that a configuration names, if it names one.
///
/// # Errors
/// [`EnrolError::Token`].
pub fn configured_token(text: Option<&TokenText>, file: Option<&Path>) -> Result<Option<JoinToken>, EnrolError> {
    let bad = |why: String| EnrolError::Token(why);
    let text = match (text, file) {
        (Some(text), _) => Some(text.0.clone()),
        // A file that is gone was used and taken away.
        (None, Some(file)) if !file.exists() => None,
        (None, Some(file)) => {
            let read = std::fs::read_to_string(file).map_err(|error| bad(format!("{}: {error}", file.display())))?;
            Some(Zeroizing::new(read))
        }
        (None, None) => None,
    };
    text.map(|text| text.parse().map_err(|error: crate::NotToken| bad(error.to_string()))).transpose()
}
