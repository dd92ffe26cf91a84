//! What a program writes: messages on its standard output, anything on its standard error.
//!
//! Both are always read, so that no program waits for us because we do not care; but one that floods is slowed down.

use std::time::Duration;

use bailiwick_data_plane_core::conversation::Lines;
use tokio::{
    io::AsyncReadExt as _,
    process::{ChildStderr, ChildStdout},
    time::sleep,
};

use crate::{
    budget::Budget,
    upstream::{channel::Channel, credential::Credential, fault::UpstreamFault},
};

/// Bytes read at once: what a pipe holds.
const CHUNK_BYTES: usize = 64 * 1024;
/// Most messages of one program in a second. Busy ones have some hundreds; reading so many takes some hundredths of it.
const PER_SECOND_MAX: u64 = 10_000;
/// Bytes of standard error read in a second; a program that writes more waits.
const ERROR_BYTES_PER_SECOND: u64 = 1024 * 1024;
/// Lines of it that are logged in a second.
const LOGGED_PER_SECOND: u64 = 20;
/// Longest line that is logged; the rest of it is left out.
const LOGGED_BYTES_MAX: usize = 1_024;
/// Shortest secret that is looked for: shorter ones would be found everywhere.
const HIDDEN_BYTES_MIN: usize = 4;
/// The wait of a program that floods.
const SLOWED: Duration = Duration::from_millis(100);

/// Reads messages until there are no more, or one is of no use.
pub(super) async fn read(mut output: ChildStdout, channel: &Channel, bytes_max: usize) -> Option<UpstreamFault> {
    let (mut lines, flood) = (Lines::new(bytes_max), Budget::new(PER_SECOND_MAX));
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let length = match output.read(&mut chunk).await {
            Ok(0) => return Some(UpstreamFault::Unreachable("it ended".to_owned())),
            Ok(length) => length,
            Err(error) => return Some(UpstreamFault::Unreachable(format!("its output broke: {error}"))),
        };
        let lines = match lines.feed(chunk.get(..length).unwrap_or_default()) {
            Ok(lines) => lines,
            Err(too_long) => return Some(UpstreamFault::TooLarge(too_long.0)),
        };
        if !flood.take(lines.len() as u64) {
            return Some(UpstreamFault::Invalid("it says more than anybody can take".to_owned()));
        }
        for line in lines {
            if let Err(fault) = channel.take(&line).await {
                return Some(fault);
            }
        }
    }
}

/// Logs what a program writes to its standard error, until it is over.
pub(super) async fn log(mut errors: ChildStderr, server: String, secrets: Vec<Credential>) {
    let (read, logged) = (Budget::new(ERROR_BYTES_PER_SECOND), Budget::new(LOGGED_PER_SECOND));
    let (mut chunk, mut line, mut left_out) = (vec![0; CHUNK_BYTES], Vec::new(), 0_u64);
    while let Ok(length @ 1..) = errors.read(&mut chunk).await {
        while !read.take(length as u64) {
            sleep(SLOWED).await;
        }
        for byte in chunk.get(..length).unwrap_or_default() {
            if *byte != b'\n' {
                if line.len() < LOGGED_BYTES_MAX {
                    line.push(*byte);
                }
                continue;
            }
            if logged.take(1) {
                let said = shown(&line, &secrets);
                tracing::debug!(server, said, left_out, "a program says");
                left_out = 0;
            } else {
                left_out += 1;
            }
            line.clear();
        }
    }
    if !line.is_empty() {
        let said = shown(&line, &secrets);
        tracing::debug!(server, said, left_out, "a program says");
    }
}

/// A line without secrets and control characters.
fn shown(line: &[u8], secrets: &[Credential]) -> String {
    let mut text = String::from_utf8_lossy(line).into_owned();
    for secret in secrets {
        if let Ok(secret) = std::str::from_utf8(secret.as_bytes())
            && secret.len() >= HIDDEN_BYTES_MIN
        {
            text = text.replace(secret, "…");
        }
    }
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
