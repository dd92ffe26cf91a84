//! Files that hold one secret of a node, sealed under the master key: its identity key, a log key, a commitment key.
//!
//! One line of text: `bailiwick-sealed/1`, name of the master key, nonce and ciphertext in hex. Bound to the file's
//! name, so that two files cannot be exchanged. Written as [`private_file`]s all the same. A file sealed under an older
//! master key is sealed anew when it is read; a plaintext key of a version before master keys is taken over once.

use std::{io, path::Path};

use zeroize::Zeroizing;

use crate::{
    master_key::{MasterKeyError, MasterKeys, Place, Sealed},
    private_file,
};

const FORMAT: &str = "bailiwick-sealed/1";
const COLUMN: &str = "file";

/// A sealed file cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum SealedFileError {
    /// The file itself.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// What is in it.
    #[error("{path}: {source}")]
    Sealed {
        /// Which.
        path: String,
        /// Why.
        source: MasterKeyError,
    },
    /// It says it is sealed, but not how this version writes it.
    #[error("{0} is damaged: it is not one line of a sealed secret")]
    Damaged(String),
}

impl SealedFileError {
    /// Whether there is just no such file.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::File { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// Reads the secret in `path`, or keeps what `make` gives if there is no such file.
///
/// # Errors
/// [`SealedFileError`].
pub fn read_or_create(
    path: &Path,
    keys: &MasterKeys,
    make: impl FnOnce() -> io::Result<Zeroizing<Vec<u8>>>,
) -> Result<Zeroizing<Vec<u8>>, SealedFileError> {
    match read(path, keys) {
        Err(error) if error.is_not_found() => {
            let secret = make().map_err(|source| SealedFileError::File { path: shown(path), source })?;
            write(path, keys, &secret)?;
            Ok(secret)
        }
        found => found,
    }
}

/// Reads the secret in `path`; seals it anew if that was not under the newest master key.
///
/// # Errors
/// [`SealedFileError`].
pub fn read(path: &Path, keys: &MasterKeys) -> Result<Zeroizing<Vec<u8>>, SealedFileError> {
    let file = |source| SealedFileError::File { path: shown(path), source };
    let content = Zeroizing::new(private_file::read(path).map_err(file)?);
    if !content.starts_with(FORMAT.as_bytes()) {
        tracing::warn!(path = %path.display(), "a key lay here unsealed and is sealed now; copies made before are not");
        write(path, keys, &content)?;
        return Ok(content);
    }
    let sealed = parse(&content).ok_or_else(|| SealedFileError::Damaged(shown(path)))?;
    let opened = keys.open(place(&name(path)), &sealed);
    let secret = opened.map_err(|source| SealedFileError::Sealed { path: shown(path), source })?;
    if sealed.master != keys.newest() {
        write(path, keys, &secret)?;
    }
    Ok(secret)
}

/// Seals `secret` into `path`, durable before it returns.
///
/// # Errors
/// [`SealedFileError`]; the old file is then still whole.
pub fn write(path: &Path, keys: &MasterKeys, secret: &[u8]) -> Result<(), SealedFileError> {
    let sealed = keys.seal(place(&name(path)), secret);
    let sealed = sealed.map_err(|source| SealedFileError::Sealed { path: shown(path), source })?;
    let line = format!("{FORMAT} {} {} {}\n", sealed.master, hex::encode(sealed.nonce), hex::encode(sealed.bytes));
    private_file::write(path, line.as_bytes()).map_err(|source| SealedFileError::File { path: shown(path), source })
}

/// Seals what `path` holds under the newest master key, if there is such a file.
///
/// # Errors
/// [`SealedFileError`].
pub fn reseal(path: &Path, keys: &MasterKeys) -> Result<(), SealedFileError> {
    match read(path, keys) {
        Err(error) if error.is_not_found() => Ok(()),
        found => found.map(drop),
    }
}

fn parse(content: &[u8]) -> Option<Sealed> {
    let mut words = str::from_utf8(content).ok()?.split_ascii_whitespace();
    let [format, master, nonce, bytes] = [words.next()?, words.next()?, words.next()?, words.next()?];
    let nonce = hex::decode(nonce).ok()?.try_into().ok()?;
    let bytes = hex::decode(bytes).ok()?;
    (format == FORMAT && words.next().is_none()).then(|| Sealed { master: master.to_owned(), nonce, bytes })
}

fn name(path: &Path) -> String {
    path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

const fn place(name: &str) -> Place<'_> {
    Place { column: COLUMN, key: name, revision: 0 }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::master_key::MasterKeyConfig;

    fn keys(lines: &[char]) -> MasterKeys {
        let line = |digit: &char| format!("0{digit}").repeat(31) + "ff";
        let key = Some(lines.iter().map(line).collect::<Vec<_>>().join("\n"));
        MasterKeys::load(&MasterKeyConfig { key, ..MasterKeyConfig::default() }).unwrap()
    }

    #[test]
    fn a_secret_is_made_once_and_its_file_shows_nothing_of_it() {
        let (folder, keys) = (tempfile::tempdir().unwrap(), keys(&['1']));
        let path = folder.path().join("keys/one.key");
        let make = || Ok(Zeroizing::new(b"the very secret".to_vec()));
        assert_eq!(read_or_create(&path, &keys, make).unwrap().as_slice(), b"the very secret");
        let again = read_or_create(&path, &keys, || Err(io::Error::other("not again"))).unwrap();
        assert_eq!(again.as_slice(), b"the very secret");
        let content = std::fs::read_to_string(&path).unwrap();
        assert!(!content.contains("secret") && !content.contains(&hex::encode("secret")), "{content}");
    }

    #[test]
    fn another_master_key_or_another_files_content_is_refused() {
        let (folder, mine) = (tempfile::tempdir().unwrap(), keys(&['1']));
        let (one, two) = (folder.path().join("one.key"), folder.path().join("two.key"));
        write(&one, &mine, b"1").unwrap();
        write(&two, &mine, b"2").unwrap();
        let stranger = read(&one, &keys(&['2'])).unwrap_err().to_string();
        assert!(stranger.contains(&mine.newest()), "{stranger}");
        std::fs::rename(&one, &two).unwrap();
        assert!(matches!(read(&two, &mine), Err(SealedFileError::Sealed { .. })));
        private_file::write(&two, b"bailiwick-sealed/1 half").unwrap();
        assert!(matches!(read(&two, &mine), Err(SealedFileError::Damaged(_))));
    }

    #[test]
    fn a_file_follows_the_newest_master_key() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("one.key");
        write(&path, &keys(&['1']), b"kept").unwrap();
        reseal(&path, &keys(&['2', '1'])).unwrap();
        assert_eq!(read(&path, &keys(&['2'])).unwrap().as_slice(), b"kept");
        reseal(&folder.path().join("none.key"), &keys(&['2'])).unwrap();
    }

    #[test]
    fn a_plaintext_key_of_an_older_version_is_sealed_when_it_is_read() {
        let (folder, keys) = (tempfile::tempdir().unwrap(), keys(&['1']));
        let path = folder.path().join("ledger.key");
        private_file::write(&path, b"plain key").unwrap();
        assert_eq!(read(&path, &keys).unwrap().as_slice(), b"plain key");
        assert!(!std::fs::read_to_string(&path).unwrap().contains("plain"));
        assert_eq!(read(&path, &keys).unwrap().as_slice(), b"plain key");
    }
}
