//! Where an entry of the timeline stands: the change that made it, and which of its entries it is.
//!
//! Pages go on from one, so it is text as well. Called by `timeline`; invariant: places are in the order of the
//! entries.

use std::{fmt, str::FromStr};

use super::NotOne;

/// Where an entry stands; the same on every node. As text: `revision-number`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The revision of its change.
    pub revision: u64,
    /// Which entry of that change, from 0.
    pub number: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.revision, self.number)
    }
}

impl FromStr for Place {
    type Err = NotOne;
    fn from_str(text: &str) -> Result<Self, NotOne> {
        let (revision, number) = text.split_once('-').ok_or(NotOne)?;
        Ok(Self { revision: revision.parse().map_err(|_| NotOne)?, number: number.parse().map_err(|_| NotOne)? })
    }
}
