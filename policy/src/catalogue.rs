//! What policies can speak about: the pinned tools, and who and what is known by name.
//!
//! Filled by the control plane from its state and by data planes from their configuration; read by validation
//! (do the entities a policy names exist?) and by compilation (entities of tools and servers).
//! Groups and projects come into being when they are named, so they are not listed here.

use std::collections::BTreeSet;

use bailiwick_proto::{Tier, names};

/// One pinned tool of one server, with the attributes policies can read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CatalogueTool {
    /// Name of the server resource.
    pub server: String,
    /// The tool's own name on that server.
    pub name: String,
    /// Effective tier: override or default from annotations.
    pub tier: Tier,
    /// Cost of one call as a decimal with at most four places (`0.02`); see [`is_cost`].
    pub cost: Option<String>,
}

impl CatalogueTool {
    /// The name of this tool as a Cedar action and as a Cedar `Tool`: `server__tool`.
    #[must_use]
    pub fn policy_name(&self) -> String {
        names::prefixed_tool_name(&self.server, &self.name)
    }
}

/// Who and what exists, asked when a policy names a user, an agent or a server. Tools come from the catalogue.
pub trait Universe {
    /// Is there a `User` of this name?
    fn has_user(&self, name: &str) -> bool;
    /// Is there an `Agent` of this name?
    fn has_agent(&self, name: &str) -> bool;
    /// Is there a `Server` of this name?
    fn has_server(&self, name: &str) -> bool;
}

/// A [`Universe`] held as plain sets of names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KnownNames {
    /// Users.
    pub users: BTreeSet<String>,
    /// Agents.
    pub agents: BTreeSet<String>,
    /// Servers.
    pub servers: BTreeSet<String>,
}

impl Universe for KnownNames {
    fn has_user(&self, name: &str) -> bool {
        self.users.contains(name)
    }
    fn has_agent(&self, name: &str) -> bool {
        self.agents.contains(name)
    }
    fn has_server(&self, name: &str) -> bool {
        self.servers.contains(name)
    }
}

/// Is this text a cost: digits, optionally a point and one to four digits, below one hundred million million?
///
/// Cedar's `decimal` is a signed 64-bit count of ten-thousandths; fourteen digits before the point always fit.
#[must_use]
pub fn is_cost(text: &str) -> bool {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |part: &str, most: usize| {
        !part.is_empty() && part.len() <= most && part.bytes().all(|byte| byte.is_ascii_digit())
    };
    digits(whole, 14) && digits(fraction, 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_are_plain_decimals_with_four_places_at_most() {
        for good in ["0", "5", "0.02", "12.3456", "99999999999999.9999"] {
            assert!(is_cost(good), "{good}");
        }
        for bad in ["", ".", "1.", ".5", "-1", "+1", "1e3", "1.23456", "1,5", " 1", "999999999999999"] {
            assert!(!is_cost(bad), "{bad}");
        }
    }
}
