//! The file a snapshot is kept in: records one after another, each sealed by itself.
//!
//! A line that names the format, 32 random bytes, then records: length (u32, big-endian), nonce, ciphertext and tag of
//! AES-256-GCM. The key is derived (HKDF-SHA256) from the node's snapshot key and the random bytes, so each file has
//! its own; the record's place in the file is authenticated with it, so none can be moved, left out or brought over
//! from another file. What a crash cut off at the end is no record and is passed over: nobody was told that it is
//! durable. Cutting off whole records at the end cannot be told; then the file is an older one of itself. Mode 0600.

use std::{
    fs::{DirBuilder, File, OpenOptions},
    io::{self, BufReader, Read, Seek, SeekFrom, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::Path,
};

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    error::Unspecified,
    hkdf::{HKDF_SHA256, Salt},
    rand,
};
use bailiwick_proto::v1;
use prost::Message as _;

/// Names the format, and separates its keys from others.
const FORMAT: &[u8] = b"bailiwick-config-snapshot/1\n";
const SALT_BYTES: usize = 32;
const TAG_BYTES: usize = 16;
/// Largest record: a frame of the config stream, with room.
const RECORD_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Read at once: chunks are about so large.
const READ_BYTES: usize = 256 * 1024;

/// What is in a record. The tag is its first byte.
#[derive(Debug)]
pub(super) enum Record {
    /// Of which cluster and node all the rest is; first in every file.
    Origin { cluster: String, node: String },
    /// Entries.
    Chunk(v1::Snapshot),
    /// What changed up to a revision, and a control plane's word for where it led.
    Proven { delta: v1::Delta, statement: v1::Statement },
    /// What a later revision takes away.
    Denials(v1::Denials),
    /// The session keys.
    Keys(v1::Keys),
    /// How old all of it was when it was last used, milliseconds.
    Age(u64),
}

const ORIGIN: u8 = 1;
pub(super) const CHUNK: u8 = 2;
const PROVEN: u8 = 3;
const DENIALS: u8 = 4;
const KEYS: u8 = 5;
const AGE: u8 = 6;

/// A file that cannot be read as one of these.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogFault {
    #[error("{0}")]
    File(#[from] io::Error),
    #[error("it is in no format that this version reads")]
    Format,
    #[error("it is damaged, or not sealed by this node")]
    Damaged,
}

impl Record {
    fn encode(&self) -> Vec<u8> {
        let (tag, bytes) = match self {
            Self::Origin { cluster, node } => (ORIGIN, format!("{cluster}\n{node}").into_bytes()),
            Self::Chunk(chunk) => (CHUNK, chunk.encode_to_vec()),
            Self::Proven { delta, statement } => {
                (PROVEN, [delta.encode_length_delimited_to_vec(), statement.encode_length_delimited_to_vec()].concat())
            }
            Self::Denials(denials) => (DENIALS, denials.encode_to_vec()),
            Self::Keys(keys) => (KEYS, keys.encode_to_vec()),
            Self::Age(millis) => (AGE, millis.to_be_bytes().to_vec()),
        };
        [&[tag], bytes.as_slice()].concat()
    }

    fn decode(plain: &[u8]) -> Option<Self> {
        let (tag, mut bytes) = plain.split_first()?;
        Some(match *tag {
            ORIGIN => {
                let (cluster, node) = str::from_utf8(bytes).ok()?.split_once('\n')?;
                Self::Origin { cluster: cluster.to_owned(), node: node.to_owned() }
            }
            CHUNK => Self::Chunk(v1::Snapshot::decode(bytes).ok()?),
            PROVEN => Self::Proven {
                delta: v1::Delta::decode_length_delimited(&mut bytes).ok()?,
                statement: v1::Statement::decode_length_delimited(&mut bytes).ok()?,
            },
            DENIALS => Self::Denials(v1::Denials::decode(bytes).ok()?),
            KEYS => Self::Keys(v1::Keys::decode(bytes).ok()?),
            AGE => Self::Age(u64::from_be_bytes(bytes.try_into().ok()?)),
            _ => return None,
        })
    }
}

/// The end of a file's good records, where more may be written.
#[derive(Clone, Debug)]
pub(super) struct Tail {
    salt: [u8; SALT_BYTES],
    index: u64,
    bytes: u64,
}

fn cipher(key: &[u8], salt: &[u8; SALT_BYTES]) -> Result<LessSafeKey, Unspecified> {
    let secret = Salt::new(HKDF_SHA256, salt).extract(key);
    Ok(LessSafeKey::new(UnboundKey::from(secret.expand(&[FORMAT], &AES_256_GCM)?)))
}

fn no_crypto(_: Unspecified) -> io::Error {
    io::Error::other("cryptography is not usable")
}

/// Writes records. After an error the file must not be written any more.
pub(super) struct LogWriter {
    file: File,
    cipher: LessSafeKey,
    tail: Tail,
}

impl std::fmt::Debug for LogWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogWriter").field("tail", &self.tail).finish_non_exhaustive()
    }
}

impl LogWriter {
    /// A new file at `path`, in place of any there.
    pub(super) fn create(path: &Path, key: &[u8]) -> io::Result<Self> {
        if let Some(folder) = path.parent()
            && !folder.exists()
        {
            DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        }
        let mut salt = [0; SALT_BYTES];
        rand::fill(&mut salt).map_err(no_crypto)?;
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        file.write_all(FORMAT)?;
        file.write_all(&salt)?;
        let bytes = (FORMAT.len() + SALT_BYTES) as u64;
        Ok(Self { file, cipher: cipher(key, &salt).map_err(no_crypto)?, tail: Tail { salt, index: 0, bytes } })
    }

    /// Goes on where a reader found the end.
    pub(super) fn resume(path: &Path, key: &[u8], tail: Tail) -> io::Result<Self> {
        let mut file = OpenOptions::new().write(true).open(path)?;
        file.set_len(tail.bytes)?;
        file.seek(SeekFrom::End(0))?;
        Ok(Self { file, cipher: cipher(key, &tail.salt).map_err(no_crypto)?, tail })
    }

    pub(super) fn append(&mut self, record: &Record) -> io::Result<()> {
        self.append_plain(record.encode())
    }

    /// A record that is encoded already.
    pub(super) fn append_plain(&mut self, mut plain: Vec<u8>) -> io::Result<()> {
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce).map_err(no_crypto)?;
        let aad = Aad::from(self.tail.index.to_be_bytes());
        let sealed = self.cipher.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut plain);
        sealed.map_err(no_crypto)?;
        let length = NONCE_LEN + plain.len();
        let Some(length) = u32::try_from(length).ok().filter(|_| length <= RECORD_BYTES_MAX) else {
            return Err(io::Error::other("a record is too large"));
        };
        let whole = [length.to_be_bytes().as_slice(), &nonce, &plain].concat();
        self.file.write_all(&whole)?;
        self.tail.index += 1;
        self.tail.bytes += whole.len() as u64;
        Ok(())
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    pub(super) const fn bytes(&self) -> u64 {
        self.tail.bytes
    }
}

/// Reads records in order.
#[derive(Debug)]
pub(super) struct LogReader {
    file: BufReader<File>,
    cipher: LessSafeKey,
    tail: Tail,
}

impl LogReader {
    pub(super) fn open(path: &Path, key: &[u8]) -> Result<Self, LogFault> {
        let file = File::open(path)?;
        if file.metadata()?.permissions().mode() & 0o077 != 0 {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it may be read by others").into());
        }
        let mut file = BufReader::with_capacity(READ_BYTES, file);
        let mut format = [0; FORMAT.len()];
        let mut salt = [0; SALT_BYTES];
        let read = file.read_exact(&mut format).and_then(|()| file.read_exact(&mut salt));
        if read.is_err() || format != FORMAT {
            return Err(LogFault::Format);
        }
        let cipher = cipher(key, &salt).map_err(no_crypto)?;
        let bytes = (FORMAT.len() + SALT_BYTES) as u64;
        Ok(Self { file, cipher, tail: Tail { salt, index: 0, bytes } })
    }

    /// The next record; `None` at the end of those that were written whole.
    pub(super) fn next(&mut self) -> Result<Option<Record>, LogFault> {
        let mut length = [0; 4];
        if !self.fill(&mut length)? {
            return Ok(None);
        }
        let length = u32::from_be_bytes(length) as usize;
        // Zeros: the file had grown, but what belongs there was never written.
        if length == 0 {
            return Ok(None);
        }
        if !(NONCE_LEN + TAG_BYTES..=RECORD_BYTES_MAX).contains(&length) {
            return Err(LogFault::Damaged);
        }
        let mut nonce = [0; NONCE_LEN];
        let mut sealed = vec![0; length - NONCE_LEN];
        if !self.fill(&mut nonce)? || !self.fill(&mut sealed)? {
            return Ok(None);
        }
        let aad = Aad::from(self.tail.index.to_be_bytes());
        let plain = self.cipher.open_in_place(Nonce::assume_unique_for_key(nonce), aad, &mut sealed);
        let plain = plain.map_err(|_| LogFault::Damaged)?;
        let record = Record::decode(plain).ok_or(LogFault::Format)?;
        self.tail.index += 1;
        self.tail.bytes += 4 + length as u64;
        Ok(Some(record))
    }

    /// After the last record that was read.
    pub(super) fn tail(&self) -> Tail {
        self.tail.clone()
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<bool, LogFault> {
        match self.file.read_exact(bytes) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}
