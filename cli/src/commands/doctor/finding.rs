//! A finding: what one check of one thing came to, and what to do about it.
//!
//! The checks of `doctor` make these from facts alone; `doctor` gathers the facts, prints, and takes the exit code
//! from the worst of them.

use serde_json::{Value, json};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// As it should be.
    Ok,
    /// Works, but something should be done.
    Warn,
    /// Does not work, or loses what it must keep.
    Fail,
}

impl Level {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// One line of the report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    /// Which check: a stable word.
    pub(crate) check: &'static str,
    /// Of what: a folder, a node, an address.
    pub(crate) subject: String,
    pub(crate) level: Level,
    /// What was found.
    pub(crate) detail: String,
    /// What to do; empty where all is well.
    pub(crate) advice: &'static str,
}

impl Finding {
    pub(crate) fn ok(check: &'static str, subject: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { check, subject: subject.into(), level: Level::Ok, detail: detail.into(), advice: "" }
    }

    pub(crate) fn warn(
        check: &'static str,
        subject: impl Into<String>,
        detail: impl Into<String>,
        advice: &'static str,
    ) -> Self {
        Self { check, subject: subject.into(), level: Level::Warn, detail: detail.into(), advice }
    }

    pub(crate) fn fail(
        check: &'static str,
        subject: impl Into<String>,
        detail: impl Into<String>,
        advice: &'static str,
    ) -> Self {
        Self { check, subject: subject.into(), level: Level::Fail, detail: detail.into(), advice }
    }

    pub(crate) fn to_json(&self) -> Value {
        json!({
            "check": self.check,
            "subject": self.subject,
            "result": self.level.as_str(),
            "detail": self.detail,
            "advice": self.advice,
        })
    }
}

/// The worst of them; `Ok` for none.
pub(crate) fn worst(findings: &[Finding]) -> Level {
    findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Ok)
}
