//! SPIFFE ids: the names in certificates.
//!
//! `spiffe://<cluster id>.bailiwick/control-plane/<node id>/<name>` for control planes, and `/<role>/<name>` for all
//! others. The trust domain is the cluster, so a certificate of one cluster says nothing in another. Parsed strictly:
//! one text for each id.

use std::{fmt, str::FromStr};

/// Longest cluster id.
const CLUSTER_CHARS_MAX: usize = 64;
/// Longest name of a member: a DNS label.
const NAME_CHARS_MAX: usize = 63;

/// What a member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Decides and replicates.
    ControlPlane,
    /// Serves MCP.
    DataPlane,
    /// Sequences records.
    Ledger,
    /// A person or program that administers.
    Admin,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::ControlPlane, Self::DataPlane, Self::Ledger, Self::Admin];

    /// The stable word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ControlPlane => "control-plane",
            Self::DataPlane => "data-plane",
            Self::Ledger => "ledger",
            Self::Admin => "admin",
        }
    }

    /// The role of that word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == word)
    }
}

/// The name of a member of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SpiffeId {
    /// Which cluster: lower-case letters and digits.
    pub cluster: String,
    /// What it is.
    pub role: Role,
    /// Control planes: the id it has for good.
    pub node_id: Option<u64>,
    /// Its name among those of its role.
    pub name: String,
}

/// Not a SPIFFE id of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a SPIFFE id of a member")]
pub struct NotSpiffe;

impl SpiffeId {
    /// Whether it could stand in a certificate.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        let fits = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
        let cluster = (1..=CLUSTER_CHARS_MAX).contains(&self.cluster.len()) && self.cluster.bytes().all(fits);
        let name = (1..=NAME_CHARS_MAX).contains(&self.name.len())
            && self.name.bytes().all(|c| fits(c) || b"-._".contains(&c))
            && self.name.bytes().next().is_some_and(fits)
            && self.name.bytes().last().is_some_and(fits);
        cluster && name && (self.role == Role::ControlPlane) == self.node_id.is_some_and(|id| id > 0)
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}.bailiwick/{}/", self.cluster, self.role.as_str())?;
        if let Some(id) = self.node_id {
            write!(f, "{id}/")?;
        }
        f.write_str(&self.name)
    }
}

impl FromStr for SpiffeId {
    type Err = NotSpiffe;

    fn from_str(text: &str) -> Result<Self, NotSpiffe> {
        let mut parts = text.strip_prefix("spiffe://").ok_or(NotSpiffe)?.split('/');
        let domain = parts.next().and_then(|domain| domain.strip_suffix(".bailiwick")).ok_or(NotSpiffe)?;
        let role = parts.next().and_then(Role::from_word).ok_or(NotSpiffe)?;
        let mut next = || parts.next().ok_or(NotSpiffe);
        let node_id = match role {
            Role::ControlPlane => Some(next()?.parse().map_err(|_| NotSpiffe)?),
            Role::DataPlane | Role::Ledger | Role::Admin => None,
        };
        let id = Self { cluster: domain.to_owned(), role, node_id, name: next()?.to_owned() };
        let same = id.to_string() == text;
        if parts.next().is_none() && id.is_sound() && same { Ok(id) } else { Err(NotSpiffe) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_id_has_one_text() {
        for text in [
            "spiffe://00ff.bailiwick/control-plane/3/cp-3",
            "spiffe://00ff.bailiwick/data-plane/eu.west-1",
            "spiffe://00ff.bailiwick/ledger/l",
            "spiffe://00ff.bailiwick/admin/jo",
        ] {
            assert_eq!(text.parse::<SpiffeId>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "https://00ff.bailiwick/ledger/l",
            "spiffe://00ff/ledger/l",
            "spiffe://.bailiwick/ledger/l",
            "spiffe://00FF.bailiwick/ledger/l",
            "spiffe://a.b.bailiwick/ledger/l",
            "spiffe://00ff.bailiwick/ledger",
            "spiffe://00ff.bailiwick/ledger/",
            "spiffe://00ff.bailiwick/ledger/l/",
            "spiffe://00ff.bailiwick/ledger/3/l",
            "spiffe://00ff.bailiwick/ledger/-l",
            "spiffe://00ff.bailiwick/root/l",
            "spiffe://00ff.bailiwick/control-plane/cp",
            "spiffe://00ff.bailiwick/control-plane/0/cp",
            "spiffe://00ff.bailiwick/control-plane/03/cp",
            "spiffe://00ff.bailiwick/control-plane/+3/cp",
            "spiffe://00ff.bailiwick/control-plane/3/cp?x",
        ] {
            assert_eq!(text.parse::<SpiffeId>(), Err(NotSpiffe), "{text}");
        }
    }
}
