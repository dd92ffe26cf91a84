//! What the authorization server gives out and gets back: codes, refresh tokens, sealed requests and sessions.
//!
//! All rest on one secret of the cluster, so any node reads what another made, and nothing of it is stored. The secret
//! is rotated: the first key seals, and what comes back is tried against it and the few that are kept. Codes and
//! refresh tokens name their consent and say that we made them (HMAC-SHA-256); whether they still count, is in
//! replicated state. Requests and sessions are sealed (AES-256-GCM) with what they are for and until when.
//! Called by `oauth` and `sign_in`. Invariants: each purpose has a key of its own; nothing here can be printed.

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, NONCE_LEN, RandomizedNonceKey},
    constant_time, hmac,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Bytes of the cluster's secret.
const ROOT_BYTES: usize = 32;
/// Longest text that is read.
const TEXT_BYTES_MAX: usize = 16 * 1024;
/// Our codes and refresh tokens begin like this, so that scanners of leaked secrets know them.
const CODE: &str = "bwc";
const REFRESH: &str = "bwr";

/// What something is sealed for: it opens for nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A request for authorization, while the person is asked.
    Request,
    /// The session of a browser.
    Session,
    /// That a form is ours.
    Form,
    /// A sign-in that is under way at a provider.
    SignIn,
    /// When a nonce for clients' proofs was made.
    DpopNonce,
}

impl Purpose {
    const fn label(self) -> &'static str {
        match self {
            Self::Request => "bailiwick authorization request",
            Self::Session => "bailiwick browser session",
            Self::Form => "bailiwick form",
            Self::SignIn => "bailiwick sign-in",
            Self::DpopNonce => "bailiwick DPoP nonce",
        }
    }
}

/// Makes and reads them.
pub(crate) struct Seal {
    newest: Key,
    /// That open, and seal no more.
    kept: Vec<Key>,
}

/// What follows from one secret.
struct Key {
    root: hmac::Key,
    codes: hmac::Key,
    refreshes: hmac::Key,
}

impl std::fmt::Debug for Seal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Seal").finish_non_exhaustive()
    }
}

#[derive(Serialize, Deserialize)]
struct Sealed<T> {
    /// Unix seconds.
    until: i64,
    value: T,
}

impl Seal {
    /// On the cluster's secrets, of which the first seals and all open; `None` if one of them is none.
    pub(crate) fn new(roots: &[&[u8]]) -> Option<Self> {
        let mut keys = roots.iter().map(|root| Key::new(root));
        Some(Self { newest: keys.next()??, kept: keys.collect::<Option<_>>()? })
    }

    /// Whether a text has the shape of a code or refresh token of ours.
    pub(crate) fn is_like_ours(text: &str) -> bool {
        text.len() <= TEXT_BYTES_MAX
            && [CODE, REFRESH].iter().any(|kind| text.strip_prefix(kind).is_some_and(|rest| rest.starts_with('.')))
    }

    /// The code of a consent.
    pub(crate) fn code(&self, consent: &str) -> String {
        signed(&self.newest.codes, CODE, consent)
    }

    /// The consent that a code is of, if we made it.
    pub(crate) fn read_code(&self, code: &str) -> Option<String> {
        opened(self.keys().map(|key| &key.codes), CODE, code).map(str::to_owned)
    }

    /// The refresh token of a consent's generation.
    pub(crate) fn refresh(&self, consent: &str, generation: u64) -> String {
        signed(&self.newest.refreshes, REFRESH, &format!("{consent}~{generation}"))
    }

    /// Consent and generation of a refresh token, if we made it.
    pub(crate) fn read_refresh(&self, token: &str) -> Option<(String, u64)> {
        let (consent, generation) = opened(self.keys().map(|key| &key.refreshes), REFRESH, token)?.split_once('~')?;
        Some((consent.to_owned(), generation.parse().ok()?))
    }

    /// Seals a value until then (Unix seconds); `None` where there is no randomness.
    pub(crate) fn close<T: Serialize>(&self, purpose: Purpose, value: &T, until: i64) -> Option<String> {
        let mut bytes = serde_json::to_vec(&Sealed { until, value }).ok()?;
        let nonce = self.newest.key(purpose)?.seal_in_place_append_tag(aad(purpose), &mut bytes).ok()?;
        Some(URL_SAFE_NO_PAD.encode([nonce.as_ref().as_slice(), &bytes].concat()))
    }

    /// Opens what was sealed for this, if it counts still.
    pub(crate) fn open<T: DeserializeOwned>(&self, purpose: Purpose, text: &str, now: i64) -> Option<T> {
        if text.len() > TEXT_BYTES_MAX {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (nonce, sealed) = bytes.split_first_chunk::<NONCE_LEN>()?;
        let with = |key: &Key| {
            let mut sealed = sealed.to_vec();
            let plain = key.key(purpose)?.open_in_place(nonce.into(), aad(purpose), &mut sealed).ok()?;
            serde_json::from_slice::<Sealed<T>>(plain).ok()
        };
        let opened = self.keys().find_map(with)?;
        (now < opened.until).then_some(opened.value)
    }

    fn keys(&self) -> impl Iterator<Item = &Key> {
        [&self.newest].into_iter().chain(&self.kept)
    }
}

impl Key {
    fn new(root: &[u8]) -> Option<Self> {
        if root.len() != ROOT_BYTES {
            return None;
        }
        let root = hmac::Key::new(hmac::HMAC_SHA256, root);
        let of = |label: &str| hmac::Key::new(hmac::HMAC_SHA256, derived(&root, label).as_ref());
        Some(Self { codes: of("bailiwick authorization code"), refreshes: of("bailiwick refresh token"), root })
    }

    fn key(&self, purpose: Purpose) -> Option<RandomizedNonceKey> {
        RandomizedNonceKey::new(&AES_256_GCM, derived(&self.root, purpose.label()).as_ref()).ok()
    }
}

fn aad(purpose: Purpose) -> Aad<&'static [u8]> {
    Aad::from(purpose.label().as_bytes())
}

/// A key of 32 bytes for one use.
fn derived(root: &hmac::Key, label: &str) -> hmac::Tag {
    hmac::sign(root, label.as_bytes())
}

fn signed(key: &hmac::Key, kind: &str, what: &str) -> String {
    format!("{kind}.{what}.{}", URL_SAFE_NO_PAD.encode(hmac::sign(key, what.as_bytes())))
}

/// The text's content, if one of the keys has signed it. All are tried, whichever it was.
fn opened<'a, 'k>(keys: impl Iterator<Item = &'k hmac::Key>, kind: &str, text: &'a str) -> Option<&'a str> {
    if text.len() > TEXT_BYTES_MAX {
        return None;
    }
    let (what, tag) = text.strip_prefix(kind)?.strip_prefix('.')?.rsplit_once('.')?;
    let tag = URL_SAFE_NO_PAD.decode(tag).ok()?;
    let is_by = |key| constant_time::verify_slices_are_equal(hmac::sign(key, what.as_bytes()).as_ref(), &tag).is_ok();
    keys.fold(false, |known, key| known | is_by(key)).then_some(what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seal() -> Seal {
        of(&[7])
    }

    fn of(keys: &[u8]) -> Seal {
        let roots: Vec<_> = keys.iter().map(|key| [*key; ROOT_BYTES]).collect();
        Seal::new(&roots.iter().map(<[u8; ROOT_BYTES]>::as_slice).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn the_newest_key_seals_and_those_kept_open_and_a_dropped_one_does_not() {
        let (before, now, later) = (of(&[1]), of(&[2, 1]), of(&[3, 2]));
        let made = [before.code("c-1"), before.refresh("c-1", 3)];
        let session = before.close(Purpose::Session, &7, 100).unwrap();
        for (seal, opens) in [(&before, true), (&now, true), (&later, false), (&of(&[4, 3, 1]), true)] {
            assert_eq!(seal.read_code(&made[0]).is_some(), opens);
            assert_eq!(seal.read_refresh(&made[1]), opens.then(|| ("c-1".into(), 3)));
            assert_eq!(seal.open::<i32>(Purpose::Session, &session, 99), opens.then_some(7));
        }
        assert_eq!(before.read_refresh(&now.refresh("c-1", 4)), None, "the newest key seals");
        assert!(before.open::<i32>(Purpose::Session, &now.close(Purpose::Session, &7, 100).unwrap(), 99).is_none());
        assert_eq!(now.refresh("c-1", 4), of(&[2]).refresh("c-1", 4));
        assert_eq!(later.read_code(&now.code("c-2")).as_deref(), Some("c-2"));
    }

    #[test]
    fn secrets_that_are_none_seal_nothing() {
        assert!(Seal::new(&[]).is_none() && Seal::new(&[&[7; ROOT_BYTES], &[7; ROOT_BYTES - 1]]).is_none());
    }

    #[test]
    fn codes_and_refresh_tokens_are_read_only_as_what_they_are() {
        let seal = seal();
        let (code, refresh) = (seal.code("c-1"), seal.refresh("c-1", 3));
        assert_eq!(seal.read_code(&code).as_deref(), Some("c-1"));
        assert_eq!(seal.read_refresh(&refresh), Some(("c-1".into(), 3)));
        assert_eq!((seal.read_refresh(&code), seal.read_code(&refresh)), (None, None));
        assert!(Seal::is_like_ours(&code) && Seal::is_like_ours(&refresh));
        assert!(!Seal::is_like_ours("bwrx.c") && !Seal::is_like_ours("eyJ.e.s"));
        let other = of(&[8]);
        assert_eq!((other.read_code(&code), other.read_refresh(&refresh)), (None, None));
        let renamed = code.replace("bwc", "bwr");
        let later = refresh.replace("~3", "~4");
        for forged in [code.replace("c-1", "c-2"), later, renamed, "bwc.c-1.".into(), "bwc.c-1".into(), String::new()] {
            assert_eq!((seal.read_code(&forged), seal.read_refresh(&forged)), (None, None), "{forged}");
        }
    }

    #[test]
    fn what_is_sealed_opens_for_its_purpose_in_its_time_and_unchanged() {
        let seal = seal();
        let text = seal.close(Purpose::Request, &("alice", 7), 100).unwrap();
        assert!(!text.contains("alice"));
        assert_eq!(seal.open(Purpose::Request, &text, 99), Some(("alice".to_owned(), 7)));
        assert_eq!(seal.open::<(String, i32)>(Purpose::Request, &text, 100), None, "it has ended");
        assert_eq!(seal.open::<(String, i32)>(Purpose::Session, &text, 99), None, "it is for something else");
        assert_ne!(seal.close(Purpose::Request, &("alice", 7), 100).unwrap(), text, "each has a nonce of its own");
        for at in 0..text.len() {
            let mut changed = text.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            assert_eq!(seal.open::<(String, i32)>(Purpose::Request, &changed, 99), None, "{at}");
        }
        assert_eq!(seal.open::<(String, i32)>(Purpose::Request, &"A".repeat(TEXT_BYTES_MAX + 1), 99), None);
    }
}
