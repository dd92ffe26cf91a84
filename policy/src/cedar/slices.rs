//! Only the statements that can match are evaluated: a decision costs what they cost, however many others there are.
//!
//! Called by `Engine`. A statement whose scope names a person, a group, a tool or a server is looked at only when the
//! request is about that one; its conditions are not looked at here. What is passed over cannot match and cannot fail,
//! because Cedar evaluates the scope first and a scope does not fail, so the verdict is that of all statements together
//! (`compiled/tests/differential.rs` compares them with an evaluator that knows no slices).
//! INVARIANT: `in` reaches a user's groups and a tool's server and no further; `Engine` makes no other parents.

use std::collections::HashMap;

use cedar_policy::{EntityUid, Policy, PolicySet, PrincipalConstraint, ResourceConstraint};

use super::text_of;

/// The statements about one kind of use.
#[derive(Default)]
pub(super) struct Slices {
    /// Those whose scope names nobody and nothing.
    general: PolicySet,
    /// Those whose scope names this principal, or else this resource.
    named: HashMap<EntityUid, PolicySet>,
}

impl Slices {
    pub(super) fn add(&mut self, statement: Policy) -> Result<(), String> {
        let slice = match principal(&statement).or_else(|| resource(&statement)) {
            Some(uid) => self.named.entry(uid).or_default(),
            None => &mut self.general,
        };
        slice.add(statement).map_err(text_of)
    }

    /// All that a request can match that is about these entities: each party with what it is in.
    pub(super) fn about<'a>(
        &'a self,
        parties: impl Iterator<Item = &'a EntityUid>,
    ) -> impl Iterator<Item = &'a PolicySet> {
        let general = Some(&self.general).filter(|general| !general.is_empty());
        general.into_iter().chain(parties.filter_map(|uid| self.named.get(uid)))
    }
}

fn principal(statement: &Policy) -> Option<EntityUid> {
    match statement.principal_constraint() {
        PrincipalConstraint::In(uid) | PrincipalConstraint::Eq(uid) | PrincipalConstraint::IsIn(_, uid) => Some(uid),
        PrincipalConstraint::Any | PrincipalConstraint::Is(_) => None,
    }
}

fn resource(statement: &Policy) -> Option<EntityUid> {
    match statement.resource_constraint() {
        ResourceConstraint::In(uid) | ResourceConstraint::Eq(uid) | ResourceConstraint::IsIn(_, uid) => Some(uid),
        ResourceConstraint::Any | ResourceConstraint::Is(_) => None,
    }
}
