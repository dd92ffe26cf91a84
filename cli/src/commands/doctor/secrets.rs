//! A node's secrets: the file of master keys, and the certificate it shows.
//!
//! The certificate lives an hour and is renewed at half its life, so one with less than that left says that renewal
//! does not work, long before anything is refused. No secret is ever read into a finding: key files are looked at by
//! their mode and place.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use bailiwick_runtime::identity;
use rustls::pki_types::CertificateDer;

use super::finding::Finding;

/// Where a member keeps its membership, sealed; written anew at each renewal.
const MEMBERSHIP: &str = "keys/identity.member";
/// How long a certificate counts.
const CERTIFICATE_LIFE: Duration = Duration::from_secs(60 * 60);
/// Renewed at half of that; some minutes for tries.
const RENEWAL_LATE: Duration = Duration::from_secs(36 * 60);

/// What is known of a master key file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyFile {
    pub(crate) path: PathBuf,
    /// Permission bits; why not, if it cannot be looked at.
    pub(crate) mode: Result<u32, String>,
    /// The data folder that holds it, if one does.
    pub(crate) inside: Option<PathBuf>,
}

/// Looks at the file of master keys without reading it.
pub(crate) fn look(path: &Path, data_folders: &[PathBuf]) -> KeyFile {
    let mode = fs::metadata(path).map(|found| found.permissions().mode() & 0o7777).map_err(said);
    let real = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let holds = |folder: &&PathBuf| real.starts_with(fs::canonicalize(folder).unwrap_or_else(|_| (*folder).clone()));
    KeyFile { path: path.to_owned(), mode, inside: data_folders.iter().find(holds).cloned() }
}

#[expect(clippy::needless_pass_by_value, reason = "used as a mapping function")]
fn said(error: io::Error) -> String {
    error.to_string()
}

/// Place and permissions of the file of master keys.
pub(crate) fn check_key_file(file: &KeyFile) -> Finding {
    let subject = file.path.display().to_string();
    match (&file.mode, &file.inside) {
        (Err(error), _) => {
            let advice = "the node cannot open its secrets without it: put it back from where you keep it safe";
            Finding::fail("master-key", subject, error.clone(), advice)
        }
        (Ok(_), Some(folder)) => {
            let advice = "keep it elsewhere: whoever takes the data folder must not get the key with it";
            Finding::fail("master-key", subject, format!("lies inside {}", folder.display()), advice)
        }
        (Ok(mode), None) if mode & 0o077 != 0 => {
            let advice = "chmod 0600, and if others could log in here, make a new key and rotate";
            Finding::fail("master-key", subject, format!("others may use it (mode {mode:04o})"), advice)
        }
        (Ok(mode), None) => Finding::ok("master-key", subject, format!("mode {mode:04o}, outside the data folders")),
    }
}

/// What a node's certificate says; times are Unix seconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Certificate {
    /// The SPIFFE id.
    pub(crate) identity: String,
    pub(crate) not_before: i64,
    pub(crate) not_after: i64,
}

/// Reads what matters out of a certificate.
pub(crate) fn read_certificate(certificate: &CertificateDer<'_>) -> Result<Certificate, String> {
    let (id, validity, _) = identity::read(certificate).map_err(|error| error.to_string())?;
    let seconds = |time: u64| i64::try_from(time).unwrap_or(i64::MAX);
    Ok(Certificate {
        identity: id.to_string(),
        not_before: seconds(validity.not_before),
        not_after: seconds(validity.not_after),
    })
}

/// Whether the certificate that `subject` shows is in force and being renewed.
pub(crate) fn check_certificate(subject: &str, certificate: &Certificate, now: i64) -> Finding {
    let Certificate { identity, not_before, not_after } = certificate;
    let (life, left) = (not_after - not_before, not_after - now);
    let minutes = |seconds: i64| seconds.div_euclid(60);
    if left <= 0 {
        let detail = format!("{identity} expired {} min ago", minutes(-left));
        let advice =
            "others refuse this node: it renews as soon as it reaches a control plane; see its log and the clocks";
        return Finding::fail("certificate", subject, detail, advice);
    }
    if *not_before > now {
        let detail = format!("{identity} is valid only in {} s", not_before - now);
        return Finding::fail("certificate", subject, detail, "a clock is wrong: here, or where it was issued");
    }
    let detail = format!("{identity}, {} of {} min left", minutes(left), minutes(life));
    // Renewed at half its life; a tenth of it for tries.
    if left < life * 2 / 5 {
        let advice = "renewal is late: see the node's log; it needs a control plane with a leader";
        return Finding::warn("certificate", subject, detail, advice);
    }
    Finding::ok("certificate", subject, detail)
}

/// When a node's membership, with its certificate, was written last; `None` if it has none.
pub(crate) fn renewed(data_folder: &Path) -> Option<Duration> {
    let written = fs::metadata(data_folder.join(MEMBERSHIP)).and_then(|found| found.modified()).ok()?;
    Some(written.elapsed().unwrap_or_default())
}

/// Whether a node that runs renews its certificate. The file is sealed, but its age tells.
pub(crate) fn check_renewal(node: &str, age: Duration) -> Finding {
    let detail = format!("renewed {} min ago", age.as_secs() / 60);
    if age < RENEWAL_LATE {
        return Finding::ok("renewal", node, detail);
    }
    let advice =
        "see its log: it needs a control plane with a leader, and a clock that agrees; it renews after expiry too";
    if age < CERTIFICATE_LIFE {
        Finding::warn("renewal", node, detail, advice)
    } else {
        Finding::fail("renewal", node, detail, advice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::doctor::finding::Level;

    #[test]
    fn a_key_file_is_private_and_outside_the_data() {
        let folder = tempfile::tempdir().unwrap();
        let (data, key) = (folder.path().join("data"), folder.path().join("master.key"));
        fs::create_dir_all(&data).unwrap();
        let check = |path: &Path| check_key_file(&look(path, std::slice::from_ref(&data))).level;
        assert_eq!(check(&key), Level::Fail, "missing");
        fs::write(&key, "secret").unwrap();
        for (mode, expected) in [(0o600, Level::Ok), (0o400, Level::Ok), (0o640, Level::Fail), (0o644, Level::Fail)] {
            fs::set_permissions(&key, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(check(&key), expected, "{mode:o}");
        }
        let inside = data.join("master.key");
        fs::write(&inside, "secret").unwrap();
        fs::set_permissions(&inside, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(check(&inside), Level::Fail);
        // A link does not hide where it lies.
        let link = folder.path().join("link.key");
        std::os::unix::fs::symlink(&inside, &link).unwrap();
        assert_eq!(check(&link), Level::Fail);
    }

    #[test]
    fn a_certificate_is_in_force_and_renewed_at_half_its_life() {
        let certificate = Certificate { identity: "spiffe://x/ledger/l".into(), not_before: 1_000, not_after: 4_600 };
        for (now, expected) in [
            (900, Level::Fail),
            (1_000, Level::Ok),
            (2_800, Level::Ok),
            (3_100, Level::Ok),
            (3_200, Level::Warn),
            (4_599, Level::Warn),
            (4_600, Level::Fail),
            (9_000, Level::Fail),
        ] {
            let found = check_certificate("here", &certificate, now);
            assert_eq!(found.level, expected, "at {now}: {found:?}");
            assert_eq!(found.advice.is_empty(), expected == Level::Ok);
        }
    }

    #[test]
    fn a_membership_that_is_not_written_anew_shows_that_renewal_fails() {
        for (minutes, expected) in
            [(0, Level::Ok), (35, Level::Ok), (40, Level::Warn), (59, Level::Warn), (60, Level::Fail)]
        {
            assert_eq!(check_renewal("dp", Duration::from_secs(minutes * 60)).level, expected, "{minutes}");
        }
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(renewed(folder.path()), None, "not a member yet");
        fs::create_dir(folder.path().join("keys")).unwrap();
        fs::write(folder.path().join(MEMBERSHIP), "sealed").unwrap();
        assert!(renewed(folder.path()).unwrap() < Duration::from_secs(60));
    }

    #[test]
    fn bytes_that_are_no_certificate_are_none() {
        assert!(read_certificate(&CertificateDer::from_slice(b"no certificate")).is_err());
    }
}
