//! What outlives the process: whose client this program is, and the refresh token, for one MCP URL.
//!
//! Read and written by `credentials`, under its lock. In the keyring of the operating system where there is one, else
//! in a private file. Access tokens and their binding keys are kept nowhere: each start gets new ones. Invariants:
//! nothing here can be printed; what was kept for one URL, client, scope and way of binding is never used for another.

pub(crate) mod file;
pub(crate) mod keychain;
pub(crate) mod lock;
pub(crate) mod secret_service;

use std::{fmt, path::Path};

use aws_lc_rs::digest;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use self::{file::Files, keychain::Keychain, secret_service::SecretService};
use crate::{fault::Fault, sign_in::Wish};

/// Of the name that something is kept under.
const NAME_BYTES: usize = 16;

/// Where keys are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyStore {
    /// In the keyring if there is one, else in a file.
    Auto,
    /// In the keyring or not at all.
    Keyring,
    /// In a file.
    File,
}

/// See the file's header.
#[derive(Clone, Default, Serialize, Deserialize)]
pub(crate) struct Kept {
    pub(crate) resource: String,
    pub(crate) issuer: String,
    pub(crate) token_endpoint: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) revocation_endpoint: Option<String>,
    pub(crate) client_id: String,
    /// It registered itself with the issuer.
    #[serde(default)]
    pub(crate) registered: bool,
    /// What the tokens are good for, as far as anybody said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) scope: Option<String>,
    /// A token was bound, of the sign-in or a later one.
    #[serde(default)]
    pub(crate) is_bound: bool,
    /// Of the sign-in, where its tokens are bound by DPoP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) dpop_key: Option<Zeroizing<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) refresh_token: Option<Zeroizing<String>>,
    /// What clients of the local HTTP endpoint have to show.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) endpoint_secret: Option<Zeroizing<String>>,
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept").field("resource", &self.resource).finish_non_exhaustive()
    }
}

/// A place for what is kept, under one name.
#[derive(Debug)]
pub(crate) struct Keeper {
    name: String,
    place: Place,
    /// Where keys lie from a time without a keyring.
    also: Option<Files>,
}

#[derive(Debug)]
enum Place {
    Files(Files),
    SecretService(SecretService),
    Keychain(Keychain),
}

impl Keeper {
    /// The place for a wish. `to_forget` it, the place needs not to be safe to keep anything in.
    pub(crate) async fn open(store: KeyStore, folder: &Path, wish: &Wish, to_forget: bool) -> Result<Self, Fault> {
        let name = name_of(wish);
        let files = || if to_forget { Ok(Files::open_to_forget(folder)) } else { Files::open(folder) };
        let (place, also) = match store {
            KeyStore::File => (Place::Files(files()?), None),
            KeyStore::Keyring => (keyring().await?, None),
            KeyStore::Auto => match keyring().await {
                Ok(place) => (place, Some(files()?)),
                Err(fault) => {
                    tracing::debug!(%fault, "no keyring; keys are kept in a file");
                    (Place::Files(files()?), None)
                }
            },
        };
        Ok(Self { name, place, also })
    }

    /// Under which name: what locks are called after, too.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// What was kept, or nothing.
    pub(crate) async fn load(&self) -> Result<Kept, Fault> {
        let text = match &self.place {
            Place::Files(files) => files.load(&self.name)?,
            Place::SecretService(service) => service.load(&self.name).await?,
            Place::Keychain(keychain) => keychain.load(&self.name).await?,
        };
        let Some(text) = text else { return Ok(Kept::default()) };
        serde_json::from_slice(&text).map_err(|_| Fault::Keeping("what was kept cannot be read; sign out".to_owned()))
    }

    pub(crate) async fn save(&self, kept: &Kept) -> Result<(), Fault> {
        let text = Zeroizing::new(serde_json::to_vec(kept).map_err(|error| Fault::Keeping(error.to_string()))?);
        match &self.place {
            Place::Files(files) => files.save(&self.name, &text),
            Place::SecretService(service) => service.save(&self.name, &kept.resource, &text).await,
            Place::Keychain(keychain) => keychain.save(&self.name, &text).await,
        }
    }

    /// Takes away what is used up where nobody has to be asked for that: used again, it would end the consent.
    pub(crate) fn discard(&self) {
        if let Place::Files(files) = &self.place {
            drop(files.forget(&self.name));
        }
    }

    /// Needs not to be able to read it.
    pub(crate) async fn forget(&self) -> Result<(), Fault> {
        let also = self.also.as_ref().map_or(Ok(()), |files| files.forget(&self.name));
        let own = match &self.place {
            Place::Files(files) => files.forget(&self.name),
            Place::SecretService(service) => service.forget(&self.name).await,
            Place::Keychain(keychain) => keychain.forget(&self.name).await,
        };
        own.and(also)
    }
}

async fn keyring() -> Result<Place, Fault> {
    if cfg!(target_os = "macos") {
        return Ok(Place::Keychain(Keychain::of_system()));
    }
    SecretService::connect().await.map(Place::SecretService)
}

/// One name for each URL, client, scope and way of binding that somebody asks for.
fn name_of(wish: &Wish) -> String {
    let part = |part: &Option<String>| part.clone().unwrap_or_default();
    let mut about = format!("{}\n{}\n{}", wish.url.resource(), part(&wish.client_id), part(&wish.scope));
    if let Some(word) = wish.binding.word() {
        about.extend(["\n", word]);
    }
    let hash = digest::digest(&digest::SHA256, about.as_bytes());
    hash.as_ref().iter().take(NAME_BYTES).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{possession::Binding, target::McpUrl};

    fn wish(url: &str, client_id: Option<&str>, scope: Option<&str>) -> Wish {
        let (client_id, scope) = (client_id.map(Into::into), scope.map(Into::into));
        Wish { url: McpUrl::parse(url).unwrap(), client_id, scope, binding: Binding::Auto }
    }

    #[test]
    fn what_is_kept_is_for_one_url_client_and_scope() {
        let names: std::collections::BTreeSet<_> = [
            wish("https://a.example/mcp", None, None),
            wish("https://a.example/mcp/x", None, None),
            wish("https://a.example/mcp", Some("x"), None),
            wish("https://a.example/mcp", None, Some("x")),
            Wish { binding: Binding::Dpop, ..wish("https://a.example/mcp", None, None) },
            Wish { binding: Binding::None, ..wish("https://a.example/mcp", None, None) },
        ]
        .iter()
        .map(name_of)
        .collect();
        assert_eq!(names.len(), 6);
        let slash = wish("https://a.example/mcp/", None, None);
        assert!(names.contains(&name_of(&slash)), "a slash at the end makes no other URL");
    }

    #[tokio::test]
    async fn what_is_forgotten_is_gone_from_both_places_and_need_not_be_readable() {
        let root = tempfile::tempdir().unwrap();
        let folders = ["one", "other"].map(|name| root.path().join(name));
        let [one, other] = folders.each_ref().map(|folder| Files::open(folder).unwrap());
        for files in [&one, &other] {
            files.save("x", b"\xff nonsense").unwrap();
        }
        let keeper = Keeper { name: "x".to_owned(), place: Place::Files(one), also: Some(other) };
        assert!(keeper.load().await.is_err());
        keeper.forget().await.unwrap();
        assert!(folders.iter().all(|folder| std::fs::read_dir(folder).unwrap().next().is_none()));
    }

    #[test]
    fn what_a_later_version_kept_beside_is_read_over() {
        let kept: Kept =
            serde_json::from_str(r#"{"resource":"r","issuer":"i","token_endpoint":"t","client_id":"c","new":1}"#)
                .unwrap();
        assert_eq!(kept.client_id, "c");
    }

    #[test]
    fn nothing_kept_can_be_printed() {
        let secret = || Some(Zeroizing::new("secret".to_owned()));
        let kept = Kept { refresh_token: secret(), dpop_key: secret(), ..Kept::default() };
        assert!(!format!("{kept:?}").contains("secret"));
    }
}
