//! The policies in force, and what stays in force when new ones cannot be used.
//!
//! Made by `catalogue` on every revision; asked by `admission`. A set that does not compile never replaces one that
//! does: the last good set stays, but never wider than either revision meant. A permit counts only while one of the
//! policies that gave it still exists, and a tool whose tier or cost has changed since the set was compiled is refused.
//! Before any set compiled, and for anything a set does not know, the answer is deny.

use std::{collections::BTreeSet, sync::Arc};

use bailiwick_policy::{CatalogueTool, CompiledPolicies, PolicyRef, PolicyText, Request, Use, Verdict};

/// A compiled set with what it was compiled from.
#[derive(Debug)]
struct Compiled {
    set: CompiledPolicies,
    tools: Vec<CatalogueTool>,
    texts: Vec<PolicyText>,
}

/// Narrows a set that is older than the configuration around it.
#[derive(Clone, Debug)]
struct Narrowing {
    /// Policies that exist in the present revision.
    policies: BTreeSet<String>,
    /// Tools that are still as the set knows them: server and name.
    tools: BTreeSet<(String, String)>,
}

/// The policies in force. The default knows none and denies everything.
#[derive(Clone, Debug, Default)]
pub struct Policies {
    compiled: Option<Arc<Compiled>>,
    narrowing: Option<Narrowing>,
}

impl Policies {
    /// Name and version of each policy that is asked.
    pub fn versions(&self) -> impl Iterator<Item = (&str, u64)> {
        let texts = self.compiled.iter().flat_map(|compiled| &compiled.texts);
        texts.map(|text| (text.name.as_str(), text.version))
    }

    /// Compiles a set, or keeps the previous one where that fails. The second value names what was wrong; empty when
    /// the new set is in force. Unchanged input is not compiled again.
    #[must_use]
    pub fn renew(previous: &Self, tools: Vec<CatalogueTool>, texts: Vec<PolicyText>) -> (Self, Vec<String>) {
        if let Some(compiled) = &previous.compiled
            && compiled.tools == tools
            && compiled.texts == texts
        {
            return (Self { compiled: Some(Arc::clone(compiled)), narrowing: None }, Vec::new());
        }
        match CompiledPolicies::compile(&tools, &texts) {
            Ok(set) => (Self { compiled: Some(Arc::new(Compiled { set, tools, texts })), narrowing: None }, Vec::new()),
            Err(problems) => {
                let problems = problems.iter().map(ToString::to_string).collect();
                (Self::keep(previous, tools, &texts), problems)
            }
        }
    }

    /// The previous texts over the present tools where they still fit together, otherwise the previous set as it is.
    fn keep(previous: &Self, tools: Vec<CatalogueTool>, texts: &[PolicyText]) -> Self {
        let Some(kept) = &previous.compiled else { return Self::default() };
        let compiled = match CompiledPolicies::compile(&tools, &kept.texts) {
            Ok(set) => Arc::new(Compiled { set, tools: tools.clone(), texts: kept.texts.clone() }),
            Err(_does_not_fit) => Arc::clone(kept),
        };
        let same = tools.into_iter().filter(|tool| compiled.tools.contains(tool));
        let narrowing = Narrowing {
            policies: texts.iter().map(|text| text.name.clone()).collect(),
            tools: same.map(|tool| (tool.server, tool.name)).collect(),
        };
        Self { compiled: Some(compiled), narrowing: Some(narrowing) }
    }

    /// Decides one request.
    #[must_use]
    pub fn decide(&self, request: &Request<'_>) -> Verdict {
        let Some(compiled) = &self.compiled else {
            return deny("no policies have been compiled");
        };
        let Some(narrowing) = &self.narrowing else { return compiled.set.decide(request) };
        if let Use::Tool { server, tool } = request.wanted
            && !narrowing.tools.contains(&(server.to_owned(), tool.to_owned()))
        {
            return deny("the policies in force were compiled before this tool changed");
        }
        let mut verdict = compiled.set.decide(request);
        if verdict.permit {
            let stays = |policy: &&PolicyRef| narrowing.policies.contains(&policy.name);
            verdict.policies = verdict.policies.iter().filter(stays).cloned().collect();
            verdict.permit = !verdict.policies.is_empty();
        }
        verdict
    }

    /// True while a set older than the configuration is in force.
    #[must_use]
    pub const fn are_kept(&self) -> bool {
        self.narrowing.is_some()
    }
}

fn deny(error: &str) -> Verdict {
    Verdict { permit: false, policies: Arc::default(), error: Some(error.to_owned()) }
}
