//! Where master keys come from: the section `[master_key]`.
//!
//! One of: `file` (a key per line, newest first, mode 0600), `key` (one key; meant for `BAILIWICK_MASTER_KEY__KEY`),
//! `passphrase_file` or `passphrase` with `salt`. All members of a cluster that share secrets need the same keys, so a
//! passphrase's salt is written by the operator rather than drawn by each node; it is no secret, but must differ from
//! cluster to cluster. PBKDF2-HMAC-SHA256 with the rounds OWASP asks for.

use std::{
    fmt,
    num::NonZeroU32,
    path::{Path, PathBuf},
};

use aws_lc_rs::pbkdf2;
use base64::{Engine, engine::general_purpose};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{MASTER_KEY_BYTES, MASTER_KEYS_MAX, MasterKeyError};
use crate::private_file;

/// Each guess at a passphrase costs an attacker as much.
const PASSPHRASE_ROUNDS: NonZeroU32 = NonZeroU32::new(600_000).unwrap();
/// Shorter ones are guessed even so.
const PASSPHRASE_CHARS_MIN: usize = 16;
/// Enough to differ between any two clusters.
const SALT_CHARS_MIN: usize = 8;

/// The section `[master_key]`. Prints no key.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MasterKeyConfig {
    /// A file with a key of 32 bytes per line, hex or base64, newest first.
    pub file: Option<PathBuf>,
    /// One key, hex or base64.
    #[serde(skip_serializing)]
    pub key: Option<String>,
    /// A file with a passphrase per line, newest first.
    pub passphrase_file: Option<PathBuf>,
    /// One passphrase.
    #[serde(skip_serializing)]
    pub passphrase: Option<String>,
    /// With a passphrase: the same on every member, another in every cluster; e.g. the cluster's domain name.
    pub salt: Option<String>,
}

impl fmt::Debug for MasterKeyConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, passphrase_file, .. } = self;
        f.debug_struct("MasterKeyConfig")
            .field("file", file)
            .field("passphrase_file", passphrase_file)
            .finish_non_exhaustive()
    }
}

impl MasterKeyConfig {
    /// Keys from a file.
    #[must_use]
    pub fn from_file(file: PathBuf) -> Self {
        Self { file: Some(file), ..Self::default() }
    }

    /// Whether nothing names a key.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.file.is_none() && self.key.is_none() && self.passphrase_file.is_none() && self.passphrase.is_none()
    }

    /// Refuses a key file inside the folder whose secrets it protects.
    ///
    /// # Errors
    /// [`MasterKeyError::Inside`].
    pub fn outside(&self, data_dir: &Path) -> Result<(), MasterKeyError> {
        let whole = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let folder = whole(data_dir);
        let files = [&self.file, &self.passphrase_file];
        match files.into_iter().flatten().find(|file| whole(file).starts_with(&folder)) {
            Some(file) => Err(MasterKeyError::Inside(file.clone())),
            None => Ok(()),
        }
    }

    /// Makes a file with one random key, if there is none: for `bailiwick dev`.
    ///
    /// # Errors
    /// [`MasterKeyError::File`], [`MasterKeyError::Randomness`].
    pub fn ensure_file(path: &Path) -> Result<Self, MasterKeyError> {
        let mut key = Zeroizing::new([0; MASTER_KEY_BYTES]);
        aws_lc_rs::rand::fill(key.as_mut()).map_err(|_| MasterKeyError::Randomness)?;
        let line = Zeroizing::new(format!("{}\n", *Zeroizing::new(hex::encode(key.as_ref()))));
        let failed = |source| MasterKeyError::File { path: path.to_owned(), source };
        private_file::read_or_create(path, || Ok(line.as_bytes().to_vec())).map_err(failed)?;
        Ok(Self::from_file(path.to_owned()))
    }

    /// What keys are made from.
    pub(super) fn text(&self) -> Result<Zeroizing<String>, MasterKeyError> {
        match (&self.file, &self.key, &self.passphrase_file, &self.passphrase) {
            (None, None, None, None) => Err(MasterKeyError::NotConfigured),
            (Some(file), None, None, None) | (None, None, Some(file), None) => text(file),
            (None, Some(text), None, None) | (None, None, None, Some(text)) => Ok(Zeroizing::new(text.clone())),
            _ => Err(MasterKeyError::Ambiguous),
        }
    }

    pub(super) fn read(&self, text: &str) -> Result<Vec<Zeroizing<[u8; MASTER_KEY_BYTES]>>, MasterKeyError> {
        if self.passphrase.is_some() || self.passphrase_file.is_some() {
            each_line(text, |line, words| self.derived(line, words))
        } else {
            each_line(text, plain)
        }
    }

    fn derived(&self, line: usize, passphrase: &str) -> Result<Zeroizing<[u8; MASTER_KEY_BYTES]>, MasterKeyError> {
        let malformed = |rule| MasterKeyError::Malformed { line, rule };
        let salt = self.salt.as_deref().filter(|salt| salt.chars().count() >= SALT_CHARS_MIN);
        let salt = salt.ok_or_else(|| {
            malformed("a passphrase needs `salt`: at least 8 characters, the same on all members, e.g. a domain name")
        })?;
        if passphrase.chars().count() < PASSPHRASE_CHARS_MIN {
            return Err(malformed("a passphrase has at least 16 characters"));
        }
        let mut key = Zeroizing::new([0; MASTER_KEY_BYTES]);
        let salt = [b"bailiwick/passphrase/v1\n", salt.as_bytes()].concat();
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, PASSPHRASE_ROUNDS, &salt, passphrase.as_bytes(), key.as_mut());
        Ok(key)
    }
}

fn text(path: &Path) -> Result<Zeroizing<String>, MasterKeyError> {
    let failed = |source| MasterKeyError::File { path: path.to_owned(), source };
    let bytes = Zeroizing::new(private_file::read(path).map_err(failed)?);
    let text = str::from_utf8(&bytes).map_err(|_| MasterKeyError::Malformed { line: 1, rule: "must be text" })?;
    Ok(Zeroizing::new(text.to_owned()))
}

/// The key that a line stands for; the line's number comes first.
type Reading = Result<Zeroizing<[u8; MASTER_KEY_BYTES]>, MasterKeyError>;

fn each_line(text: &str, read: impl Fn(usize, &str) -> Reading) -> Result<Vec<Zeroizing<[u8; 32]>>, MasterKeyError> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let keys: Vec<_> = lines.zip(1..).map(|(line, number)| read(number, line)).collect::<Result<_, _>>()?;
    match keys.len() {
        0 => Err(MasterKeyError::Malformed { line: 1, rule: "there is no key" }),
        1..=MASTER_KEYS_MAX => Ok(keys),
        _ => Err(MasterKeyError::Malformed { line: MASTER_KEYS_MAX + 1, rule: "there are at most 16 keys" }),
    }
}

fn plain(line: usize, text: &str) -> Reading {
    let decoded = hex::decode(text).ok().or_else(|| {
        let engines =
            [&general_purpose::STANDARD, &general_purpose::STANDARD_NO_PAD, &general_purpose::URL_SAFE_NO_PAD];
        engines.into_iter().find_map(|engine| engine.decode(text).ok())
    });
    let rule = "a key is 32 random bytes in hex or base64, such as `openssl rand -hex 32` prints";
    let decoded = Zeroizing::new(decoded.ok_or(MasterKeyError::Malformed { line, rule })?);
    let mut key = Zeroizing::new([0; MASTER_KEY_BYTES]);
    if decoded.len() != MASTER_KEY_BYTES || decoded.iter().all(|byte| decoded.first() == Some(byte)) {
        return Err(MasterKeyError::Malformed { line, rule });
    }
    key.copy_from_slice(&decoded);
    Ok(key)
}
