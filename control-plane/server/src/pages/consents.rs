//! What somebody allowed, to look at and to take back.
//!
//! The form posts `token`, and either `one` (the id whose button it was) or `revoke` = `ticked` with `consent`
//! (repeated, the ids ticked). Those in force come first, otherwise the order is the handler's.

use super::text::filters;

/// A person's consents.
#[derive(askama::Template)]
#[template(path = "consents.html")]
pub(crate) struct Consents {
    /// Who is signed in.
    pub(crate) user: String,
    pub(crate) consents: Vec<ConsentShown>,
    /// Where it is posted to.
    pub(crate) action: String,
    /// Against forgery; comes back as it is.
    pub(crate) token: String,
    /// What was just done.
    pub(crate) notice: Option<String>,
}

/// One of them; times as they are to be read.
pub(crate) struct ConsentShown {
    pub(crate) id: String,
    pub(crate) client: String,
    pub(crate) agent: String,
    pub(crate) virtual_server: String,
    pub(crate) level: String,
    /// None: every tool up to the level.
    pub(crate) tools: Vec<String>,
    pub(crate) reason: String,
    pub(crate) granted: String,
    pub(crate) expires: String,
    pub(crate) state: ConsentState,
}

/// Whether it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ConsentState {
    Live,
    Expired,
    Revoked,
}

impl ConsentState {
    const fn words(self) -> &'static str {
        match self {
            Self::Live => "in force",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        }
    }
}

impl Consents {
    fn live(&self) -> Vec<&ConsentShown> {
        self.consents.iter().filter(|consent| consent.state == ConsentState::Live).collect()
    }

    fn ended(&self) -> Vec<&ConsentShown> {
        self.consents.iter().filter(|consent| consent.state != ConsentState::Live).collect()
    }
}
