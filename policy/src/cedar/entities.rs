//! Our people, agents, servers and tools as Cedar's entities.
//!
//! Called by `Engine`, for what policies name when it is made, and for each request's own. Attributes are those of
//! `schema.rs`.

use std::collections::{HashMap, HashSet};

use cedar_policy::{Entity, EntityId, EntityTypeName, EntityUid, RestrictedExpression};

use super::text_of;
use crate::{catalogue::CatalogueTool, request::RequestAgent, schema};

/// A tool of the catalogue.
pub(super) struct ToolEntities {
    pub(super) tool: Entity,
    pub(super) action: Entity,
}

/// The parsed names of our entity types.
pub(super) struct Types {
    user: EntityTypeName,
    pub(super) group: EntityTypeName,
    agent: EntityTypeName,
    project: EntityTypeName,
    pub(super) server: EntityTypeName,
    tool: EntityTypeName,
    pub(super) action: EntityTypeName,
}

impl Types {
    pub(super) fn new() -> Result<Self, String> {
        let name = |word: &str| word.parse::<EntityTypeName>().map_err(text_of);
        Ok(Self {
            user: name(schema::USER)?,
            group: name(schema::GROUP)?,
            agent: name(schema::AGENT)?,
            project: name(schema::PROJECT)?,
            server: name(schema::SERVER)?,
            tool: name(schema::TOOL)?,
            action: name(schema::ACTION)?,
        })
    }

    pub(super) fn user(&self, name: &str) -> EntityUid {
        uid(&self.user, name)
    }

    pub(super) fn agent(&self, name: &str) -> EntityUid {
        uid(&self.agent, name)
    }

    pub(super) fn user_in(&self, name: &str, groups: &[String]) -> Entity {
        Entity::new_no_attrs(self.user(name), groups.iter().map(|group| uid(&self.group, group)).collect())
    }

    pub(super) fn agent_of(&self, agent: &RequestAgent<'_>) -> Result<Entity, String> {
        let attributes = HashMap::from([
            ("owner".to_owned(), RestrictedExpression::new_entity_uid(self.user(agent.owner))),
            ("project".to_owned(), RestrictedExpression::new_entity_uid(uid(&self.project, agent.project))),
            ("ceiling".to_owned(), RestrictedExpression::new_string(agent.ceiling.as_str().to_owned())),
        ]);
        Entity::new(self.agent(agent.name), attributes, HashSet::new()).map_err(text_of)
    }

    pub(super) fn server_entity(&self, name: &str) -> Result<Entity, String> {
        let server = uid(&self.server, name);
        let tier = RestrictedExpression::new_string(schema::TIER_OF_READING.as_str().to_owned());
        let itself = RestrictedExpression::new_entity_uid(server.clone());
        let attributes = HashMap::from([("tier".to_owned(), tier), ("server".to_owned(), itself)]);
        Entity::new(server, attributes, HashSet::new()).map_err(text_of)
    }

    pub(super) fn tool(&self, tool: &CatalogueTool) -> Result<ToolEntities, String> {
        let policy_name = &tool.policy_name();
        let server = uid(&self.server, &tool.server);
        let mut attributes = HashMap::from([
            ("tier".to_owned(), RestrictedExpression::new_string(tool.tier.as_str().to_owned())),
            ("name".to_owned(), RestrictedExpression::new_string(tool.name.clone())),
            ("server".to_owned(), RestrictedExpression::new_entity_uid(server.clone())),
        ]);
        if let Some(cost) = &tool.cost {
            // Cedar wants a point in a decimal; we do not.
            let cost = if cost.contains('.') { cost.clone() } else { format!("{cost}.0") };
            attributes.insert("cost".to_owned(), RestrictedExpression::new_decimal(cost));
        }
        let resource = uid(&self.tool, policy_name);
        let call_tool = HashSet::from([uid(&self.action, schema::CALL_TOOL)]);
        Ok(ToolEntities {
            tool: Entity::new(resource, attributes, HashSet::from([server])).map_err(text_of)?,
            action: Entity::new_no_attrs(uid(&self.action, policy_name), call_tool),
        })
    }

    /// What a scope can name a tool of this server by: itself and its action, with what these are in.
    pub(super) fn objects(&self, tool: &ToolEntities, server: &str) -> [EntityUid; 4] {
        let within = (uid(&self.server, server), uid(&self.action, schema::CALL_TOOL));
        [tool.tool.uid(), tool.action.uid(), within.0, within.1]
    }
}

pub(super) fn uid(kind: &EntityTypeName, id: &str) -> EntityUid {
    EntityUid::from_type_name_and_id(kind.clone(), EntityId::new(id))
}
