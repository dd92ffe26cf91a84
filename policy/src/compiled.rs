//! Compilation of policies, and the decision.
//!
//! `compile` is what data planes run on every configuration: bounds, syntax and schema. It does not ask about names
//! (`validation.rs` does), so that deleting a person or a tool never keeps a configuration from being applied: what is
//! gone makes no requests and gets no calls.
//! A compiled set never changes; share it in an `Arc`.

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    catalogue::{CatalogueTool, is_cost},
    cedar::{self, Checker, Engine, Evaluation, Findings, Placed, Statement},
    references,
    request::{PolicyRef, Request, Use, Verdict},
    schema::{self, ACTION},
    settled::Settled,
    stack,
    text::{CATALOGUE, POLICIES_MAX, PolicyProblem, PolicyText},
};

/// A set of policies ready to decide: immutable, `Send + Sync`.
#[derive(Debug)]
pub struct CompiledPolicies {
    policies: Vec<PolicyRef>,
    engine: Engine,
    settled: Settled,
}

impl CompiledPolicies {
    /// Compiles policies for a catalogue of tools.
    ///
    /// # Errors
    /// Every problem of every policy and of the catalogue: texts beyond the bounds, texts that do not parse or do not
    /// validate against the schema, templates, two policies of one name, two tools of one name, costs that are no
    /// decimals. Names of things that do not exist are no error here.
    pub fn compile(catalogue: &[CatalogueTool], policies: &[PolicyText]) -> Result<Self, Vec<PolicyProblem>> {
        stack::for_compiling(|| Self::compile_here(catalogue, policies))
    }

    fn compile_here(catalogue: &[CatalogueTool], policies: &[PolicyText]) -> Result<Self, Vec<PolicyProblem>> {
        let of_catalogue = |message| PolicyProblem { policy: CATALOGUE.to_owned(), line: None, message };
        let mut problems = catalogue_problems(catalogue);
        if policies.len() > POLICIES_MAX {
            let message = format!("there are {} policies; at most {POLICIES_MAX} are accepted", policies.len());
            problems.push(of_catalogue(message));
            return Err(problems);
        }
        let checker = Checker::new();
        let mut names = BTreeSet::new();
        let mut statements = Vec::new();
        for (index, policy) in policies.iter().enumerate() {
            if !names.insert(policy.name.as_str()) {
                problems.push(policy.problem(None, "two policies have this name"));
            }
            match read(policy) {
                Ok(read) => {
                    let Findings { errors, about, words, .. } = check(&checker, policy, &read);
                    problems.extend(errors);
                    let of_policy = read.into_iter().zip(about).zip(words);
                    statements.extend(of_policy.map(|((statement, about), words)| Placed {
                        policy: index,
                        statement,
                        about,
                        words,
                    }));
                }
                Err(found) => problems.extend(found),
            }
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let engine = Engine::new(&statements, catalogue).map_err(|message| vec![of_catalogue(message)])?;
        let policies = policies.iter().map(|policy| PolicyRef { name: policy.name.clone(), version: policy.version });
        Ok(Self { policies: policies.collect(), engine, settled: Settled::default() })
    }

    /// Decides one request. Pure: the same set and request always give the same verdict, so verdicts about tools are
    /// remembered, for all tools that no statement tells apart; names of prompts and URIs are anybody's, and not.
    ///
    /// A tool outside the catalogue, and any failure while a policy is evaluated, is a denial with `error` set.
    #[must_use]
    pub fn decide(&self, request: &Request<'_>) -> Verdict {
        let number = match request.wanted {
            Use::Tool { server, tool } => self.engine.number(server, tool),
            Use::Prompt { .. } | Use::Resource { .. } => None,
        };
        match number {
            Some(number) => self.settled.get_or(request, number, || self.evaluate(request)),
            None => self.evaluate(request),
        }
    }

    /// The same, whatever is remembered.
    fn evaluate(&self, request: &Request<'_>) -> Verdict {
        self.verdict(stack::for_deciding(|| self.engine.evaluate(request)))
    }

    /// The same by all statements of the set and all tools of the catalogue.
    #[cfg(test)]
    fn decide_plainly(&self, request: &Request<'_>) -> Verdict {
        self.verdict(stack::for_deciding(|| self.engine.evaluate_all(request)))
    }

    fn verdict(&self, evaluated: Result<Evaluation, String>) -> Verdict {
        let Evaluation { permit, matched, failed } = match evaluated {
            Ok(evaluation) => evaluation,
            Err(message) => return Verdict::fault(Arc::default(), message),
        };
        if failed.is_empty() {
            return Verdict { permit, policies: self.refs(matched.iter()), error: None };
        }
        let said = failed.iter().map(|(index, message)| match self.policies.get(*index) {
            Some(policy) => format!("policy `{}` version {}: {message}", policy.name, policy.version),
            None => message.clone(),
        });
        let said = said.collect::<Vec<_>>().join("; ");
        Verdict::fault(self.refs(failed.keys()), said)
    }

    /// The policies of this set, in the order given.
    #[must_use]
    pub fn policies(&self) -> &[PolicyRef] {
        &self.policies
    }

    fn refs<'a>(&self, indexes: impl Iterator<Item = &'a usize>) -> Arc<[PolicyRef]> {
        let mut refs: Vec<_> = indexes.filter_map(|index| self.policies.get(*index)).cloned().collect();
        refs.sort();
        refs.into()
    }
}

/// Bounds, then syntax: the parser meets no text that is out of bounds.
pub(crate) fn read(policy: &PolicyText) -> Result<Vec<Statement>, Vec<PolicyProblem>> {
    policy.within_bounds().map_err(|problem| vec![problem])?;
    cedar::parse(policy)
}

/// What both the control plane and data planes check of a text that was read. All actions the text names count as
/// declared: whether they exist is a question of names, not of types.
pub(crate) fn check(checker: &Checker, policy: &PolicyText, statements: &[Statement]) -> Findings {
    let literals = statements.iter().flat_map(Statement::literals);
    let actions = literals
        .filter(|literal| literal.kind == ACTION && !schema::is_own_action(&literal.id))
        .map(|literal| literal.id)
        .collect();
    let mut findings = checker.check(policy, statements, actions);
    for statement in statements {
        match statement.syntax() {
            Some(syntax) => {
                findings.errors.extend(references::unanswerable(policy, &syntax));
                findings.words.push(cedar::words(&syntax));
            }
            None => findings.errors.push(policy.problem(None, "a statement's syntax tree could not be read")),
        }
    }
    findings
}

fn catalogue_problems(catalogue: &[CatalogueTool]) -> Vec<PolicyProblem> {
    let mut problems = Vec::new();
    let mut names = BTreeSet::new();
    let mut problem = |tool: &CatalogueTool, what: &str| {
        let message = format!("tool `{}` of server `{}` {what}", tool.name, tool.server);
        problems.push(PolicyProblem { policy: CATALOGUE.to_owned(), line: None, message });
    };
    for tool in catalogue {
        if !names.insert(tool.policy_name()) {
            problem(tool, "is listed twice");
        }
        if tool.cost.as_deref().is_some_and(|cost| !is_cost(cost)) {
            problem(tool, "has a cost that is no decimal with at most four places");
        }
    }
    problems
}

#[cfg(test)]
mod tests;
