//! Keys in the keychain of macOS, by way of the system's own program `security`.
//!
//! Called by `keeping`. The program is what other tools use too, and needs no framework to be linked. Invariant: what
//! is kept goes in by standard input, never as an argument, which every user of the machine could read; it is
//! hexadecimal, so that nothing in it is a word of the program's own language.

use std::process::{Output, Stdio};

use tokio::{io::AsyncWriteExt as _, process::Command};
use zeroize::Zeroizing;

use crate::fault::Fault;

const SERVICE: &str = "bailiwick-connect";
/// What the program says when there is no such item (`errSecItemNotFound`, of which it gives the low byte).
const NOT_FOUND: i32 = 44;
/// Longest command line that the program reads.
const LINE_BYTES_MAX: usize = 4096;

#[derive(Debug)]
pub(crate) struct Keychain {
    program: String,
}

impl Keychain {
    pub(crate) fn of_system() -> Self {
        Self { program: "/usr/bin/security".to_owned() }
    }

    pub(crate) async fn load(&self, name: &str) -> Result<Option<Zeroizing<Vec<u8>>>, Fault> {
        let output = self.run(&["find-generic-password", "-s", SERVICE, "-a", name, "-w"], None).await?;
        if output.status.code() == Some(NOT_FOUND) {
            return Ok(None);
        }
        let text = Zeroizing::new(done(output)?.stdout);
        let hex = std::str::from_utf8(&text).map_err(|_| unusable("it gives no text"))?.trim();
        hex::decode(hex).map(|bytes| Some(Zeroizing::new(bytes))).map_err(|_| unusable("what it holds is not ours"))
    }

    pub(crate) async fn save(&self, name: &str, text: &[u8]) -> Result<(), Fault> {
        let hex = Zeroizing::new(hex::encode(text));
        let line = Zeroizing::new(format!("add-generic-password -U -s {SERVICE} -a {name} -w {}\n", *hex));
        if line.len() > LINE_BYTES_MAX {
            return Err(unusable("there is too much to keep"));
        }
        done(self.run(&["-i"], Some(line.as_bytes())).await?)?;
        // Of what it is told by standard input, the program's own status says nothing.
        match self.load(name).await? {
            Some(kept) if kept.as_slice() == text => Ok(()),
            _ => Err(unusable("it does not keep what it is given")),
        }
    }

    pub(crate) async fn forget(&self, name: &str) -> Result<(), Fault> {
        let output = self.run(&["delete-generic-password", "-s", SERVICE, "-a", name], None).await?;
        if output.status.code() == Some(NOT_FOUND) { Ok(()) } else { done(output).map(drop) }
    }

    async fn run(&self, arguments: &[&str], input: Option<&[u8]>) -> Result<Output, Fault> {
        let mut command = Command::new(&self.program);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.kill_on_drop(true).spawn().map_err(|error| unusable(&error.to_string()))?;
        if let (Some(mut stdin), Some(input)) = (child.stdin.take(), input) {
            stdin.write_all(input).await?;
        }
        Ok(child.wait_with_output().await?)
    }
}

fn done(output: Output) -> Result<Output, Fault> {
    if output.status.success() { Ok(output) } else { Err(unusable("it refuses")) }
}

fn unusable(why: &str) -> Fault {
    Fault::Keeping(format!("the keychain cannot be used: {why}"))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

    use super::*;

    /// A program that does what `security` does with our arguments, on a folder.
    fn fake(folder: &Path) -> Keychain {
        let program = folder.join("security");
        let script = format!(
            "#!/bin/sh\ncd {} || exit 1\ncase $1 in\n\
             -i) read -r add u s service a account w secret; \
             [ \"$add $u $s $a $w\" = 'add-generic-password -U -s -a -w' ] || exit 1\n\
             echo \"$secret\" > \"$service.$account\";;\n\
             find-generic-password) [ -e \"$3.$5\" ] || exit 44; cat \"$3.$5\";;\n\
             delete-generic-password) [ -e \"$3.$5\" ] || exit 44; rm \"$3.$5\";;\n\
             *) exit 2;;\nesac\n",
            folder.display()
        );
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).unwrap();
        Keychain { program: program.display().to_string() }
    }

    #[tokio::test]
    async fn what_is_kept_comes_back_and_goes() {
        let folder = tempfile::tempdir().unwrap();
        let keychain = fake(folder.path());
        assert!(keychain.load("x").await.unwrap().is_none());
        for text in [b"{\"a\": \"b c\"}".as_slice(), b"other"] {
            keychain.save("x", text).await.unwrap();
            assert_eq!(keychain.load("x").await.unwrap().unwrap().as_slice(), text);
        }
        assert!(keychain.save("x", &[b'x'; LINE_BYTES_MAX]).await.is_err(), "what would be cut is refused");
        keychain.forget("x").await.unwrap();
        keychain.forget("x").await.unwrap();
        assert!(keychain.load("x").await.unwrap().is_none());
    }
}
