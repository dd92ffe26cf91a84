//! Do statements mean something, and for which kinds of use?
//!
//! Called by `compiled.rs`. A statement that names actions must have a meaning for all of them. One that leaves the
//! action open is about every kind of use (`schema::Kind`) in which its words have a meaning, and must be about one at
//! least: so `resource.name` makes it a statement about tools, and `context.uri` one about resources.
//! Deliberately absent: whether what is named exists, and what cannot be answered (`references.rs`).

use std::{cell::OnceCell, collections::BTreeSet};

use cedar_policy::{PolicySet, Schema, ValidationMode, ValidationResult, ValidationWarning, Validator};

use super::{Statement, problem, text_of};
use crate::{
    references::Literal,
    schema::{self, Kind},
    text::{PolicyProblem, PolicyText},
};

/// What Cedar's validator finds.
#[derive(Default)]
pub(crate) struct Findings {
    /// Against the schema: the text means nothing.
    pub(crate) errors: Vec<PolicyProblem>,
    /// Statements that no request can ever match, such as a `forbid` with a principal that is no user.
    pub(crate) futile: Vec<PolicyProblem>,
    /// What each statement is about, in the order of the statements.
    pub(crate) about: Vec<Vec<Kind>>,
    /// The words of each, likewise.
    pub(crate) words: Vec<Vec<String>>,
}

/// Cedar's validators for texts that name no tool's action, built once; for the others as they come.
pub(crate) struct Checker {
    plain: Validators,
}

/// One validator for all kinds of use together, and one for each: built when first needed.
struct Validators {
    actions: BTreeSet<String>,
    all: OnceCell<Result<Validator, String>>,
    of_kind: [OnceCell<Result<Validator, String>>; Kind::ALL.len()],
}

impl Validators {
    fn new(actions: BTreeSet<String>) -> Self {
        Self { actions, all: OnceCell::new(), of_kind: Default::default() }
    }

    fn all(&self) -> Result<&Validator, String> {
        self.all.get_or_init(|| validator(&self.actions, &Kind::ALL)).as_ref().map_err(Clone::clone)
    }

    fn of(&self, kind: Kind) -> Result<&Validator, String> {
        let [tool, prompt, resource] = &self.of_kind;
        let validators = match kind {
            Kind::Tool => tool,
            Kind::Prompt => prompt,
            Kind::Resource => resource,
        };
        validators.get_or_init(|| validator(&self.actions, &[kind])).as_ref().map_err(Clone::clone)
    }
}

fn validator(actions: &BTreeSet<String>, kinds: &[Kind]) -> Result<Validator, String> {
    Schema::from_json_value(schema::schema(actions, kinds)).map(Validator::new).map_err(text_of)
}

impl Checker {
    pub(crate) fn new() -> Self {
        Self { plain: Validators::new(BTreeSet::new()) }
    }

    /// Strict validation of statements against the schema in which `actions` exist.
    pub(crate) fn check(&self, text: &PolicyText, statements: &[Statement], actions: BTreeSet<String>) -> Findings {
        let named;
        let validators = if actions.is_empty() {
            &self.plain
        } else {
            named = Validators::new(actions);
            &named
        };
        let found = validate(text, statements, validators);
        found.unwrap_or_else(|message| Findings { errors: vec![text.problem(None, message)], ..Findings::default() })
    }
}

fn validate(text: &PolicyText, statements: &[Statement], validators: &Validators) -> Result<Findings, String> {
    let only_tools = |statement: &Statement| {
        let reads = |literal: Literal| literal.kind == schema::ACTION && Kind::of_action(&literal.id) != Kind::Tool;
        statement.scope().is_some() && !statement.literals().any(reads)
    };
    let validator = if statements.iter().all(only_tools) { validators.of(Kind::Tool)? } else { validators.all()? };
    let mut found = Findings::default();
    let result = validation(statements, validator)?;
    for statement in statements {
        let of_it = remarks(text, statement, &result);
        let (of_it, about) = match statement.scope() {
            Some(kinds) => (of_it, kinds),
            None if of_it.errors.is_empty() => (of_it, Kind::ALL.to_vec()),
            None => by_kind(text, statement, validators)?,
        };
        found.errors.extend(of_it.errors);
        found.futile.extend(of_it.futile);
        found.about.push(about);
    }
    Ok(Findings { errors: sorted(found.errors), futile: sorted(found.futile), ..found })
}

/// What is wrong with a statement that leaves the action open and does not mean something for every kind of use, and
/// what it is about: the kinds it means something for. Where there is none, what the nearest kind says is wrong.
fn by_kind(text: &PolicyText, statement: &Statement, validators: &Validators) -> Result<(Remarks, Vec<Kind>), String> {
    let mut about = Vec::new();
    let mut said = Vec::new();
    for kind in Kind::ALL {
        let result = validation(std::slice::from_ref(statement), validators.of(kind)?)?;
        let of_kind = remarks(text, statement, &result);
        if of_kind.errors.is_empty() && of_kind.futile.is_empty() {
            about.push(kind);
        }
        said.push(of_kind);
    }
    if !about.is_empty() {
        return Ok((Remarks::default(), about));
    }
    let nearest = said.into_iter().min_by_key(|said| (said.errors.is_empty(), said.errors.len()));
    Ok((nearest.unwrap_or_default(), about))
}

fn validation(statements: &[Statement], validator: &Validator) -> Result<ValidationResult, String> {
    let set = PolicySet::from_policies(statements.iter().map(|statement| statement.0.clone())).map_err(text_of)?;
    Ok(validator.validate(&set, ValidationMode::Strict))
}

/// What the validator says of one statement.
#[derive(Default)]
struct Remarks {
    errors: Vec<PolicyProblem>,
    futile: Vec<PolicyProblem>,
}

fn remarks(text: &PolicyText, statement: &Statement, result: &ValidationResult) -> Remarks {
    let id = statement.0.id();
    let prefix = format!("for policy `{id}`, ");
    let errors = result.validation_errors().filter(|error| error.policy_id() == id);
    let futile = result.validation_warnings().filter(|warning| {
        let said =
            matches!(warning, ValidationWarning::ImpossiblePolicy(_) | ValidationWarning::InvalidActionApplication(_));
        said && warning.policy_id() == id
    });
    let futile = futile.map(|warning| PolicyProblem {
        message: "this statement can never match: see the types of principal, action and resource".to_owned(),
        ..problem(text, warning, "")
    });
    Remarks {
        errors: sorted(errors.map(|error| problem(text, error, &prefix)).collect()),
        futile: sorted(futile.collect()),
    }
}

fn sorted(mut problems: Vec<PolicyProblem>) -> Vec<PolicyProblem> {
    problems.sort();
    problems.dedup();
    problems
}
