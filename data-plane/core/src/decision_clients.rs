//! Who may ask for decisions without calling, and about what.
//!
//! Read from the entries by `catalogue`, asked by the listener with what a service showed, and by `evaluation`.
//! A secret is known here by its SHA-256 alone, and all that are known are compared in constant time, so how long that
//! takes tells nothing. Invariant: an entry that is not clear in every part is not there. Absent: how often one may
//! ask (`data-plane/server`).

use std::{collections::BTreeSet, sync::Arc};

use aws_lc_rs::{
    constant_time::verify_slices_are_equal,
    digest::{SHA256, SHA256_OUTPUT_LEN, digest},
};
use bailiwick_proto::v1;

/// Most of them: a secret is compared with those of all.
pub const DECISION_CLIENTS_MAX: usize = 256;
/// Most secrets of one.
const SECRETS_MAX: usize = 2;

type Hash = [u8; SHA256_OUTPUT_LEN];

/// A service that may ask.
#[derive(Debug, PartialEq, Eq)]
pub struct DecisionClient {
    /// Its name.
    pub name: String,
    /// SHA-256 of its secrets.
    secrets: Vec<Hash>,
    /// About these it may ask everything.
    pub virtual_servers: BTreeSet<String>,
    /// About what is these servers' own it may ask, at whichever virtual server.
    pub servers: BTreeSet<String>,
}

impl DecisionClient {
    /// As an entry says it.
    ///
    /// # Errors
    /// What is wrong with the entry.
    pub fn of(entry: v1::DecisionClient) -> Result<Self, &'static str> {
        let v1::DecisionClient { name, secret_sha256, virtual_servers, servers } = entry;
        if secret_sha256.is_empty() || secret_sha256.len() > SECRETS_MAX {
            return Err("has no secret, or too many");
        }
        let secrets = secret_sha256.iter().map(|text| hash_of(text)).collect::<Option<_>>();
        let secrets = secrets.ok_or("has a secret that is no hash")?;
        let set = |names: Vec<String>| names.into_iter().collect();
        Ok(Self { name, secrets, virtual_servers: set(virtual_servers), servers: set(servers) })
    }
}

/// Everybody who may ask.
#[derive(Clone, Debug, Default)]
pub struct DecisionClients(Vec<Arc<DecisionClient>>);

impl DecisionClients {
    /// Of these.
    ///
    /// # Errors
    /// There are more than [`DECISION_CLIENTS_MAX`]; then nobody may ask.
    pub fn of(mut clients: Vec<DecisionClient>) -> Result<Self, &'static str> {
        if clients.len() > DECISION_CLIENTS_MAX {
            return Err("there are more decision clients than a node takes");
        }
        clients.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Self(clients.into_iter().map(Arc::new).collect()))
    }

    /// Nobody may ask.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether one of this name may ask.
    #[must_use]
    pub fn knows(&self, name: &str) -> bool {
        self.0.binary_search_by(|client| client.name.as_str().cmp(name)).is_ok()
    }

    /// Whose secret this is. Looks at all of them, whosever it is.
    #[must_use]
    pub fn whose(&self, secret: &[u8]) -> Option<&Arc<DecisionClient>> {
        let shown = digest(&SHA256, secret);
        let mut found = None;
        for client in &self.0 {
            for known in &client.secrets {
                if verify_slices_are_equal(known, shown.as_ref()).is_ok() {
                    found = Some(client);
                }
            }
        }
        found
    }
}

fn hash_of(text: &str) -> Option<Hash> {
    let mut hash = Hash::default();
    hex::decode_to_slice(text, &mut hash).is_ok().then_some(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, secrets: &[&str]) -> v1::DecisionClient {
        let hashes = secrets.iter().map(|secret| hex::encode(digest(&SHA256, secret.as_bytes())));
        v1::DecisionClient { name: name.into(), secret_sha256: hashes.collect(), ..v1::DecisionClient::default() }
    }

    #[test]
    fn a_secret_tells_whose_it_is_also_while_another_takes_its_place() {
        let clients = [entry("b", &["two", "three"]), entry("a", &["one"])].map(DecisionClient::of);
        let clients = DecisionClients::of(clients.into_iter().map(Result::unwrap).collect()).unwrap();
        let hash_itself = hex::encode(digest(&SHA256, b"one"));
        for (secret, expected) in [
            ("one", Some("a")),
            ("two", Some("b")),
            ("three", Some("b")),
            ("", None),
            ("One", None),
            ("one ", None),
            (hash_itself.as_str(), None),
        ] {
            assert_eq!(clients.whose(secret.as_bytes()).map(|client| client.name.as_str()), expected, "{secret}");
        }
    }

    #[test]
    fn an_entry_that_is_not_clear_in_every_part_is_nobodys() {
        let odd = |hash: &str| v1::DecisionClient { secret_sha256: vec![hash.into()], ..entry("a", &["one"]) };
        for bad in [entry("a", &[]), entry("a", &["1", "2", "3"]), odd(""), odd("00"), odd(&"zz".repeat(32))] {
            assert!(DecisionClient::of(bad).is_err());
        }
        let many = (0..=DECISION_CLIENTS_MAX).map(|number| entry(&format!("c{number}"), &[&number.to_string()]));
        assert!(DecisionClients::of(many.map(|entry| DecisionClient::of(entry).unwrap()).collect()).is_err());
    }
}
