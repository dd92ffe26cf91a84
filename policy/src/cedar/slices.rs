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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_meets_the_statements_about_it_and_no_others() {
        let text = r#"
            permit (principal, action, resource);
            permit (principal is User, action, resource is Tool);
            permit (principal in Group::"a", action, resource in Server::"s");
            permit (principal == User::"u", action, resource);
            permit (principal is User in Group::"b", action, resource);
            permit (principal, action, resource in Server::"s");
            permit (principal, action, resource == Tool::"s__t");
            permit (principal, action, resource is Tool in Server::"r");
        "#;
        let statements: PolicySet = text.parse().unwrap();
        let mut slices = Slices::default();
        for statement in statements.policies() {
            slices.add(statement.clone()).unwrap();
        }
        let met = |parties: &[&str]| {
            let parties: Vec<EntityUid> = parties.iter().map(|party| party.parse().unwrap()).collect();
            let mut met: Vec<String> = slices
                .about(parties.iter())
                .flat_map(|slice| slice.policies().map(|statement| statement.id().to_string()))
                .collect();
            met.sort();
            met.iter().map(|id| id.trim_start_matches("policy")).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(met(&[]), "0 1");
        assert_eq!(met(&[r#"User::"x""#, r#"Server::"x""#]), "0 1");
        assert_eq!(met(&[r#"User::"u""#, r#"Group::"a""#, r#"Server::"s""#, r#"Tool::"s__t""#]), "0 1 2 3 5 6");
        assert_eq!(met(&[r#"User::"x""#, r#"Group::"b""#, r#"Server::"r""#]), "0 1 4 7");
    }
}
