//! The control plane's gate for policies: does a text mean something, and does what it names exist?
//!
//! The first takes milliseconds and depends on the text alone, so it is found apart from the second, ahead of whoever
//! decides ([`Reader`]); with what was read, the second is a look at names. A policy is accepted when both find nothing.
//! Data planes ask the first only, for all policies together (`compiled.rs`). Deliberately absent: when a text is read
//! (`control-plane/server`), and who has to hear what is wrong (`control-plane/core`).

use std::{cell::OnceCell, collections::BTreeSet};

use crate::{
    catalogue::{CatalogueTool, Universe},
    cedar::{Checker, Findings, Statement},
    compiled::{check, read},
    references::{self, Literal},
    schema::{ACTION, TOOL},
    stack,
    text::{PolicyProblem, PolicyText},
};

/// What a policy text says by itself, whatever exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadPolicy {
    text: PolicyText,
    problems: Vec<PolicyProblem>,
    /// What it names. Empty where the text could not be read.
    literals: BTreeSet<Literal>,
}

/// Reads policies: one after another takes less than each by itself.
pub struct Reader(Checker);

/// What policies may name.
pub struct Names<'a> {
    catalogue: &'a [CatalogueTool],
    /// As policies name them; made when the first does.
    tools: OnceCell<BTreeSet<String>>,
    universe: &'a dyn Universe,
}

/// Everything wrong with one policy text, in the order of its lines; empty when it may be accepted.
///
/// Checks the bounds, Cedar's syntax, strict validation against the schema that `catalogue` gives, and that every
/// user, agent, server, tool and action the text names exists. Templates are refused, and so are statements that
/// can never match: a `forbid` that forbids nothing is a mistake, and a dangerous one.
#[must_use]
pub fn validate(policy: &PolicyText, catalogue: &[CatalogueTool], universe: &dyn Universe) -> Vec<PolicyProblem> {
    Reader::new().read(policy).problems(&Names::new(catalogue, universe))
}

impl Reader {
    /// Has read nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self(Checker::new())
    }

    /// Bounds, syntax, and the meaning by the schema.
    #[must_use]
    pub fn read(&self, text: &PolicyText) -> ReadPolicy {
        stack::for_compiling(|| self.read_here(text))
    }

    fn read_here(&self, text: &PolicyText) -> ReadPolicy {
        let said = |problems, literals| ReadPolicy { text: text.clone(), problems, literals };
        let statements = match read(text) {
            Ok(statements) => statements,
            Err(problems) => return said(problems, BTreeSet::new()),
        };
        let Findings { errors, futile, about: _, words: _ } = check(&self.0, text, &statements);
        // A statement with errors may look futile only because of them.
        let problems = if errors.is_empty() { futile } else { errors };
        said(problems, statements.iter().flat_map(Statement::literals).collect())
    }
}

impl Default for Reader {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").finish_non_exhaustive()
    }
}

impl ReadPolicy {
    /// Whether this is what was read.
    #[must_use]
    pub fn is_of(&self, name: &str, cedar: &str) -> bool {
        self.text.name == name && self.text.cedar == cedar
    }

    /// Everything wrong with it where these names exist, in the order of its lines; empty when it may be accepted.
    #[must_use]
    pub fn problems(&self, names: &Names<'_>) -> Vec<PolicyProblem> {
        let names_tools = self.literals.iter().any(|literal| [TOOL, ACTION].contains(&literal.kind.as_str()));
        let none = BTreeSet::new();
        let tools = if names_tools { names.tools() } else { &none };
        let mut problems = references::unknown_names(&self.text, &self.literals, tools, names.universe);
        problems.extend(self.problems.iter().cloned());
        problems.sort();
        problems.dedup();
        problems
    }
}

impl<'a> Names<'a> {
    /// These tools, and whom and what else there is.
    #[must_use]
    pub const fn new(catalogue: &'a [CatalogueTool], universe: &'a dyn Universe) -> Self {
        Self { catalogue, tools: OnceCell::new(), universe }
    }

    fn tools(&self) -> &BTreeSet<String> {
        self.tools.get_or_init(|| self.catalogue.iter().map(CatalogueTool::policy_name).collect())
    }
}

impl std::fmt::Debug for Names<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Names").field("tools", &self.catalogue.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use bailiwick_proto::Tier;

    use super::*;
    use crate::KnownNames;

    #[test]
    fn what_was_read_once_is_judged_by_the_names_there_are_each_time() {
        let cedar = r#"permit (principal == User::"jane", action == Action::"finance__pay", resource);"#.to_owned();
        let text = PolicyText { name: "p".into(), version: 1, cedar };
        let reader = Reader::new();
        let read = reader.read(&text);
        assert!(read.is_of("p", &text.cedar) && !read.is_of("q", &text.cedar) && !read.is_of("p", ""));
        let pay = CatalogueTool { server: "finance".into(), name: "pay".into(), tier: Tier::Destructive, cost: None };
        let users = KnownNames { users: BTreeSet::from(["jane".to_owned()]), ..KnownNames::default() };
        for (catalogue, universe, faults) in [
            (vec![pay.clone()], users.clone(), 0),
            (vec![], users, 1),
            (vec![pay], KnownNames::default(), 1),
            (vec![], KnownNames::default(), 2),
        ] {
            let problems = read.problems(&Names::new(&catalogue, &universe));
            assert_eq!(problems.len(), faults, "{problems:?}");
            assert_eq!(problems, validate(&text, &catalogue, &universe));
        }
        // A text that means nothing says so whatever exists, after others as if it were alone.
        for cedar in ["permit (", r#"permit (principal, action, resource) when { resource.colour == "red" };"#] {
            let text = PolicyText { name: "q".into(), version: 1, cedar: cedar.into() };
            let problems = reader.read(&text).problems(&Names::new(&[], &KnownNames::default()));
            assert!(!problems.is_empty() && problems == validate(&text, &[], &KnownNames::default()), "{problems:?}");
        }
    }
}
