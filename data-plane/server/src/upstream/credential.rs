//! What servers are shown, or given: secrets by name, as the control plane last delivered them.
//!
//! `config_state` puts them in, a route or a process looks one up each time it needs it. So a new value counts from
//! the next request on, and what was deleted is gone: then nothing is sent at all. They are held in memory, and in the
//! node's sealed snapshot; nothing here can be printed. The key that signs what servers are told of calls comes with
//! them (`context`). Absent: sealing (control plane), which server needs which (manifests).

use std::{collections::BTreeMap, fmt, sync::Arc};

use arc_swap::ArcSwap;
use bailiwick_proto::v1;
use zeroize::Zeroizing;

use super::context::Contexts;

/// All secrets of the moment; one per node, shared by reference.
#[derive(Default)]
pub(crate) struct Credentials {
    named: ArcSwap<BTreeMap<String, Credential>>,
    pub(crate) contexts: Contexts,
}

/// One value of a secret. Cheap to clone; whoever holds it keeps it.
#[derive(Clone)]
pub(crate) struct Credential(Arc<Zeroizing<Vec<u8>>>);

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.named.load().keys()).finish()
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credential(…)")
    }
}

impl Credentials {
    /// The present value of a secret; `None` if there is none, or not any more.
    pub(crate) fn find(&self, name: &str) -> Option<Credential> {
        self.named.load().get(name).cloned()
    }

    /// Has these, and no others. What did not change stays the same value.
    pub(crate) fn replace(&self, delivered: &[v1::NamedSecret]) {
        let before = self.named.load();
        let one = |named: &v1::NamedSecret| {
            let same = before.get(&named.name).filter(|known| known.as_bytes() == named.value.as_slice());
            let fresh = || Credential(Arc::new(Zeroizing::new(named.value.clone())));
            (named.name.clone(), same.cloned().unwrap_or_else(fresh))
        };
        self.named.store(Arc::new(delivered.iter().map(one).collect()));
    }
}

impl Credential {
    /// The secret itself.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether this is the same value, delivered once.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str, value: &str) -> v1::NamedSecret {
        v1::NamedSecret { name: name.into(), value: value.into() }
    }

    #[test]
    fn what_is_delivered_replaces_everything_and_what_stays_is_the_same() {
        let credentials = Credentials::default();
        credentials.replace(&[named("a", "one"), named("b", "two")]);
        let (a, b) = (credentials.find("a").unwrap(), credentials.find("b").unwrap());
        credentials.replace(&[named("a", "one"), named("c", "three")]);
        assert!(credentials.find("a").unwrap().is(&a));
        assert!(credentials.find("b").is_none(), "what is deleted is gone");
        credentials.replace(&[named("a", "four")]);
        let rotated = credentials.find("a").unwrap();
        assert!(!rotated.is(&a) && rotated.as_bytes() == b"four" && b.as_bytes() == b"two");
    }

    #[test]
    fn a_secret_cannot_be_printed() {
        let credentials = Credentials::default();
        credentials.replace(&[named("a", "hush-hush")]);
        let printed = format!("{credentials:?} {:?}", credentials.find("a"));
        assert!(printed.contains("\"a\"") && !printed.contains("hush"), "{printed}");
    }
}
