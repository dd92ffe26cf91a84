//! Checkpoints: the log's signed statement "these are my first `size` leaves" (C2SP tlog-checkpoint, signed-note).
//!
//! The text is three lines: origin, size, root in base64. After an empty line come signature lines
//! `— <key name> <base64(key id ‖ signature)>`. A key's name is the log's origin; its id is the first four bytes of
//! SHA-256(name ‖ "\n" ‖ 0x01 ‖ public key); its text form is `<name>+<id in hex>+<base64(0x01 ‖ public key)>`.
//!
//! The ledger server signs and publishes; `verify`, witnesses and anybody holding the key open. Lines by unknown keys
//! are passed over, so witnesses may add theirs. Absent: cosignatures, and committing a checkpoint through Raft.

use std::{fmt, str::FromStr};

use base64::{Engine, prelude::BASE64_STANDARD};

use crate::{
    hash::{self, Hash, sha256},
    key::{self, NodeSigner, PUBLIC_KEY_BYTES, PublicKey, SIGNATURE_BYTES},
    tree::SIZE_MAX,
};

/// Largest note: a checkpoint with a hundred cosignatures stays far below.
pub const NOTE_BYTES_MAX: usize = 64 * 1024;
/// Signature lines looked at; more is refused, so that nobody can make a verifier try keys for long.
pub const SIGNATURES_MAX: usize = 100;
/// Longest origin: a host name with room for a path.
pub const ORIGIN_BYTES_MAX: usize = 255;

/// Signature type Ed25519 of signed-note.
const ALGORITHM_ED25519: u8 = 0x01;
const KEY_ID_BYTES: usize = 4;

/// What a log says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The log's name: a URL without scheme, for instance.
    pub origin: String,
    /// Number of leaves.
    pub size: u64,
    /// Root over them.
    pub root: Hash,
}

/// Why a note is not a checkpoint one can rely on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// Too long, no UTF-8, control characters, no signature block, or lines not of the format.
    #[error("the checkpoint is malformed")]
    Malformed,
    /// Origins are 1 to 255 bytes without white space, plus signs and control characters.
    #[error("the origin is not a key name")]
    Origin,
    /// No line by a trusted key whose name is the origin.
    #[error("the checkpoint carries no signature by a trusted key")]
    Unsigned,
    /// A line by a trusted key whose signature is wrong.
    #[error("the checkpoint's signature does not verify")]
    Forged,
    /// Not `<name>+<id>+<key>`, or an id that does not fit.
    #[error("the verifier key is malformed")]
    KeyMalformed,
}

impl Checkpoint {
    /// The signed text.
    #[must_use]
    pub fn text(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.size, BASE64_STANDARD.encode(self.root))
    }

    /// Reads the text. Extension lines after the third are allowed, as the specification demands, and passed over.
    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.strip_suffix('\n')?.split('\n');
        let (origin, size, root) = (lines.next()?, lines.next()?, lines.next()?);
        let checkpoint = Self {
            origin: origin.to_owned(),
            size: crate::decimal::parse(size).filter(|size| *size <= SIZE_MAX)?,
            root: hash::from_slice(&BASE64_STANDARD.decode(root).ok()?)?,
        };
        (is_key_name(origin) && lines.all(|line| !line.is_empty())).then_some(checkpoint)
    }
}

/// The public key of a log, with its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifierKey {
    name: String,
    id: [u8; KEY_ID_BYTES],
    public_key: PublicKey,
}

impl VerifierKey {
    /// The key of the log called `name`.
    pub fn new(name: impl Into<String>, public_key: PublicKey) -> Result<Self, CheckpointError> {
        let name = name.into();
        if !is_key_name(&name) {
            return Err(CheckpointError::Origin);
        }
        let id = key_id(&name, &public_key);
        Ok(Self { name, id, public_key })
    }

    /// The log's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The raw key.
    #[must_use]
    pub const fn public_key(&self) -> &PublicKey {
        &self.public_key
    }
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = BASE64_STANDARD.encode(typed(&self.public_key));
        write!(f, "{}+{}+{key}", self.name, hex::encode(self.id))
    }
}

impl FromStr for VerifierKey {
    type Err = CheckpointError;
    fn from_str(text: &str) -> Result<Self, CheckpointError> {
        let read = || {
            // The base64 part may hold plus signs, the name and the id cannot.
            let mut parts = text.splitn(3, '+');
            let (name, id, encoded) = (parts.next()?, parts.next()?, parts.next()?);
            let decoded = BASE64_STANDARD.decode(encoded).ok()?;
            let (algorithm, public_key) = decoded.split_first()?;
            let key = Self::new(name, public_key.try_into().ok()?).ok()?;
            (*algorithm == ALGORITHM_ED25519 && hex::encode(key.id) == id).then_some(key)
        };
        read().ok_or(CheckpointError::KeyMalformed)
    }
}

/// Signs a checkpoint with the log's key; the key's name is the origin. Returns the whole note.
pub fn sign(checkpoint: &Checkpoint, signer: &NodeSigner) -> Result<String, CheckpointError> {
    let key = VerifierKey::new(checkpoint.origin.clone(), *signer.public_key())?;
    let text = checkpoint.text();
    let signature = signer.sign(text.as_bytes());
    let line = BASE64_STANDARD.encode([key.id.as_slice(), &signature].concat());
    Ok(format!("{text}\n\u{2014} {} {line}\n", key.name))
}

/// Reads a note and checks that one of `keys` signed it whose name is the checkpoint's origin.
pub fn open(note: &[u8], keys: &[VerifierKey]) -> Result<Checkpoint, CheckpointError> {
    let (text, signatures) = split_note(note).ok_or(CheckpointError::Malformed)?;
    let checkpoint = Checkpoint::parse(text).ok_or(CheckpointError::Malformed)?;
    let mut signed = false;
    for line in signatures.lines() {
        let (name, id, signature) = read_signature(line).ok_or(CheckpointError::Malformed)?;
        let Some(key) = keys.iter().find(|key| key.name == name && key.id == id) else { continue };
        if signature.len() != SIGNATURE_BYTES || !key::verify(&key.public_key, text.as_bytes(), &signature) {
            return Err(CheckpointError::Forged);
        }
        signed |= key.name == checkpoint.origin;
    }
    if signed { Ok(checkpoint) } else { Err(CheckpointError::Unsigned) }
}

/// The text with its last newline, and the signature lines.
fn split_note(note: &[u8]) -> Option<(&str, &str)> {
    let note = std::str::from_utf8(note).ok().filter(|note| note.len() <= NOTE_BYTES_MAX)?;
    let (text, signatures) = note.rsplit_once("\n\n")?;
    let clean = !note.chars().any(|c| c != '\n' && c < ' ');
    let whole = signatures.ends_with('\n') && signatures.lines().count() <= SIGNATURES_MAX;
    // The text keeps the first newline of the two.
    (clean && whole).then_some((note.get(..=text.len())?, signatures))
}

fn read_signature(line: &str) -> Option<(&str, [u8; KEY_ID_BYTES], Vec<u8>)> {
    let (name, encoded) = line.strip_prefix("\u{2014} ")?.split_once(' ')?;
    let decoded = BASE64_STANDARD.decode(encoded).ok()?;
    let (id, signature) = decoded.split_first_chunk()?;
    (is_key_name(name) && !signature.is_empty()).then(|| (name, *id, signature.to_vec()))
}

fn key_id(name: &str, public_key: &PublicKey) -> [u8; KEY_ID_BYTES] {
    let [a, b, c, d, ..] = sha256(&[name.as_bytes(), b"\n", &typed(public_key)]);
    [a, b, c, d]
}

fn typed(public_key: &PublicKey) -> [u8; PUBLIC_KEY_BYTES + 1] {
    let mut bytes = [ALGORITHM_ED25519; PUBLIC_KEY_BYTES + 1];
    bytes.iter_mut().skip(1).zip(public_key).for_each(|(to, from)| *to = *from);
    bytes
}

fn is_key_name(name: &str) -> bool {
    let banned = |c: char| c.is_whitespace() || c.is_control() || c == '+';
    !name.is_empty() && name.len() <= ORIGIN_BYTES_MAX && !name.contains(banned)
}

#[cfg(test)]
mod tests;
