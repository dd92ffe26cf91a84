//! Statements by what their scope names: a request meets those that can match it, instead of all.
//!
//! A statement whose scope names a principal (a user or a group) or an object (a tool or a server by the resource, or
//! else actions) is looked at only when the request is about these; its conditions are not looked at here. What is passed
//! over cannot match and cannot fail, because Cedar evaluates the scope first and a scope does not fail, so the verdict is
//! that of all statements together (`compiled/tests/differential.rs` compares them with an evaluator that knows no slices).
//! INVARIANT: `in` reaches a user's groups, a tool's server and the group of all tools' actions, and no further;
//! `Engine` makes no other parents.

use std::collections::HashMap;

use cedar_policy::{ActionConstraint, EntityUid, Policy, PolicySet, PrincipalConstraint, ResourceConstraint};

use super::text_of;
use crate::schema::CALL_TOOL;

/// What the scopes of a slice name; `None` where they name nobody, or nothing.
type Scope = (Option<EntityUid>, Option<EntityUid>);

/// Statements that a request meets together.
#[derive(Default)]
pub(super) struct Slice {
    pub(super) statements: PolicySet,
    /// Every entity that their text names.
    pub(super) literals: Vec<EntityUid>,
}

/// The statements about one kind of use.
#[derive(Default)]
pub(super) struct Slices(HashMap<Scope, Slice>);

impl Slices {
    pub(super) fn add(&mut self, statement: &Policy) -> Result<(), String> {
        let principal = principal(statement);
        for object in objects(statement) {
            let slice = self.0.entry((principal.clone(), object)).or_default();
            if slice.statements.policy(statement.id()).is_none() {
                slice.statements.add(statement.clone()).map_err(text_of)?;
                slice.literals.extend(statement.entity_literals());
            }
        }
        Ok(())
    }

    /// All of them; some statements more than once.
    #[cfg(test)]
    pub(super) fn all(&self) -> impl Iterator<Item = &PolicySet> {
        self.0.values().map(|slice| &slice.statements)
    }

    /// All that a request can match that is about these entities: who asks with the groups they are in, and what for with
    /// what that is in.
    pub(super) fn about(&self, principals: &[EntityUid], objects: &[EntityUid]) -> Vec<&Slice> {
        let or_nobody = |uids: &[EntityUid]| uids.iter().cloned().map(Some).chain([None]).collect::<Vec<_>>();
        let (principals, objects) = (or_nobody(principals), or_nobody(objects));
        let scopes = principals.iter().flat_map(|principal| objects.iter().map(move |object| (principal, object)));
        scopes.filter_map(|(principal, object)| self.0.get(&(principal.clone(), object.clone()))).collect()
    }
}

/// What a request has to be about one of to meet this statement; `None` is met by all.
pub(super) fn objects(statement: &Policy) -> Vec<Option<EntityUid>> {
    match (resource(statement), statement.action_constraint()) {
        (Some(uid), _) => vec![Some(uid)],
        (None, ActionConstraint::Any) => vec![None],
        (None, ActionConstraint::Eq(uid)) => vec![Some(uid)],
        // A request is about one action and its group: a list that holds both is met under the group alone.
        (None, ActionConstraint::In(uids)) => match uids.iter().find(|uid| is_group(uid)) {
            Some(group) => vec![Some(group.clone())],
            None => uids.into_iter().map(Some).collect(),
        },
    }
}

fn is_group(action: &EntityUid) -> bool {
    action.id().unescaped() == CALL_TOOL
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
            permit (principal, action == Action::"s__t", resource);
            permit (principal in Group::"a", action in [Action::"s__t", Action::"s__u"], resource);
            permit (principal, action in [Action::"s__u", Action::"call_tool"], resource);
        "#;
        let statements: PolicySet = text.parse().unwrap();
        let mut slices = Slices::default();
        for statement in statements.policies() {
            slices.add(statement).unwrap();
        }
        let met = |principals: &[&str], objects: &[&str]| {
            let uids = |names: &[&str]| names.iter().map(|name| name.parse().unwrap()).collect::<Vec<EntityUid>>();
            let slices = slices.about(&uids(principals), &uids(objects));
            let ids = slices.iter().flat_map(|slice| slice.statements.policies());
            let mut met: Vec<usize> =
                ids.map(|statement| statement.id().to_string().trim_start_matches("policy").parse().unwrap()).collect();
            met.sort_unstable();
            met
        };
        let (user, group) = (r#"User::"u""#, r#"Group::"a""#);
        let (tool, server, action, all) =
            (r#"Tool::"s__t""#, r#"Server::"s""#, r#"Action::"s__t""#, r#"Action::"call_tool""#);
        assert_eq!(met(&[], &[]), [0, 1]);
        assert_eq!(met(&[r#"User::"x""#], &[r#"Server::"x""#]), [0, 1]);
        assert_eq!(met(&[user, group], &[server, tool]), [0, 1, 2, 3, 5, 6]);
        assert_eq!(met(&[user, group], &[server, tool, action, all]), [0, 1, 2, 3, 5, 6, 8, 9, 10]);
        assert_eq!(met(&[r#"User::"x""#], &[r#"Action::"s__u""#, all]), [0, 1, 10]);
        assert_eq!(met(&[r#"User::"x""#, r#"Group::"b""#], &[r#"Server::"r""#]), [0, 1, 4, 7]);
    }
}
