//! Denials: the changes of configuration entries that only take authority away.
//!
//! The control plane sends them by the revocation lane; a data plane puts them in force even where it cannot use the rest
//! of a change. Both ask the same function. Called by the control plane's config stream and by `data-plane/core`.
//! Absent: new policies and rollouts, which may forbid, but only as a compiled set.

use prost::Message as _;

use crate::{
    rollout,
    v1::{EntryChange, Resource, resource::Resource as Kind},
};

/// Whether a change of an entry only narrows what is allowed: a revoked consent, an inactive user or agent, a
/// quarantined tool, or the removal of anything but a policy or a part of a rollout (which may forbid).
#[must_use]
pub fn narrows(change: &EntryChange) -> bool {
    let Some(value) = &change.value else { return !may_forbid(&change.key) };
    let Ok(resource) = Resource::decode(value.as_slice()) else { return false };
    match resource.resource {
        Some(Kind::Consent(consent)) => consent.revoked && change.key == format!("consent/{}", consent.id),
        Some(Kind::User(user)) => !user.active && change.key == format!("user/{}", user.name),
        Some(Kind::Agent(agent)) => !agent.active && change.key == format!("agent/{}", agent.name),
        Some(Kind::Tool(tool)) => tool.quarantined && change.key == format!("tool/{}/{}", tool.server, tool.name),
        Some(
            Kind::Server(_)
            | Kind::VirtualServer(_)
            | Kind::Policy(_)
            | Kind::TokenKey(_)
            | Kind::Issuer(_)
            | Kind::Rollout(_)
            | Kind::RolloutChange(_)
            | Kind::DecisionClient(_),
        )
        | None => false,
    }
}

/// Whether something may be allowed again once what stands under this key is gone.
fn may_forbid(key: &str) -> bool {
    let kind = key.split_once('/').map_or(key, |(kind, _)| kind);
    ["policy", rollout::ROLLOUT, rollout::CHANGE].contains(&kind)
}
