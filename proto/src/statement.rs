//! What a control plane signs when it states which configuration was in force at what time.
//!
//! Signed by the control plane's config stream, verified by data planes that start from their own disk. The text begins
//! with what it is for, so that a signature made for anything else never fits, and names the cluster. Absent: keys and
//! certificates (`runtime`, `identity`).

use crate::v1::Statement;

/// The bytes that are signed.
#[must_use]
pub fn message(cluster: &str, statement: &Statement) -> Vec<u8> {
    let Statement { revision, digest, time, certificate: _, signature: _ } = statement;
    let mut message = format!("bailiwick/config-statement/v1\n{cluster}\n{revision}\n{time}\n").into_bytes();
    message.extend_from_slice(digest);
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_has_these_bytes() {
        let statement = Statement { revision: 7, digest: vec![0xab; 2], time: 42, ..Statement::default() };
        assert_eq!(message("00ff", &statement), b"bailiwick/config-statement/v1\n00ff\n7\n42\n\xab\xab");
    }
}
