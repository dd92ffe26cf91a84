//! From entries to a configuration.
//!
//! Called by the catalogue whenever its entries change: `compile` reads all but those of people, agents and consents,
//! of which there may be a million and which are read when they are asked for (`people`); where nothing else changed,
//! `patch` reads nothing. Total: whatever cannot be read, does not belong under its key or is not safe to offer is left
//! out with a warning, and the rest applies. Two tools of one virtual server that would have the same name are both
//! left out, so that neither can stand in for the other. What the overlay denies stands with its authority taken:
//! people and agents inactive, consents revoked, tools and those of denied servers quarantined, everything else left
//! out; of a denied server nothing is read either.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use aws_lc_rs::digest;
use bailiwick_policy::{CatalogueTool, PolicyText, is_cost};
use bailiwick_proto::{Tier, config_digest::Entries, mcp, v1};
use bailiwick_token::VerifyingKeys;
use prost::Message as _;
use serde_json::value::RawValue;

use super::{
    candidate::{Staged, base},
    exposure::Exposure,
    overlay::Overlay,
};
use crate::{
    config::{Contents, ExposedTool, Offer, Tool, VirtualServer},
    decision_clients::{DecisionClient, DecisionClients},
    header_params,
    naming::Naming,
    people::{People, is_of_people},
    policies::Policies,
    search::SearchIndex,
};

/// What is wrong with entries of people, by key: they are left out.
pub(super) type Faults = BTreeMap<String, &'static str>;

/// What these entries say to this node, and the policy problems that kept an older policy set in force.
pub(super) fn compile(
    entries: &Entries,
    faults: &Faults,
    overlay: &Overlay,
    previous: &Contents,
    node: &str,
) -> (Contents, Vec<String>) {
    let mut read =
        Read { warnings: faults.iter().map(|(key, why)| format!("{key}: {why}")).collect(), ..Read::default() };
    for (key, value) in entries.iter().filter(|(key, _)| !is_of_people(key)) {
        if let Err(why) = read.take(key, value, overlay) {
            read.warnings.push(format!("{key}: {why}"));
        }
    }
    // They came in the order of their keys' hashes.
    read.policies.sort_by(|a, b| a.name.cmp(&b.name));
    read.warnings.sort_unstable();
    let (offer, refused) = match std::mem::take(&mut read.staged).for_node(node) {
        Some(candidate) => candidate.offer(read, overlay, previous),
        None => read.offer(previous, base(previous)),
    };
    (contents(entries, overlay, Arc::new(offer), previous), refused)
}

/// What was compiled before, with other people; just what [`compile`] would make of all, if nobody else's entries
/// changed.
pub(super) fn patch(entries: &Entries, overlay: &Overlay, previous: &Contents) -> Contents {
    contents(entries, overlay, Arc::clone(&previous.offer), previous)
}

fn contents(entries: &Entries, overlay: &Overlay, offer: Arc<Offer>, previous: &Contents) -> Contents {
    let people = People::new(entries.clone(), overlay.denied().clone());
    let people = match offer.decision_clients.is_empty() {
        true => people,
        false => people.with_consents_found(&previous.people),
    };
    Contents { digest: entries.digest().to_vec(), people, offer }
}

/// Entries sorted by kind.
#[derive(Clone, Default)]
pub(super) struct Read {
    issuer: Option<v1::Issuer>,
    token_keys: Vec<v1::TokenKey>,
    pub(super) servers: BTreeMap<String, Arc<v1::Server>>,
    denied_servers: BTreeSet<String>,
    pub(super) pinned: Vec<v1::Tool>,
    pub(super) listed: Vec<v1::VirtualServer>,
    pub(super) policies: Vec<PolicyText>,
    decision_clients: Vec<v1::DecisionClient>,
    staged: Staged,
    warnings: Vec<String>,
}

type Tools = BTreeMap<(String, String), Arc<Tool>>;

impl Read {
    pub(super) fn take(&mut self, key: &str, value: &[u8], overlay: &Overlay) -> Result<(), &'static str> {
        use v1::resource::Resource as Kind;
        let resource = v1::Resource::decode(value).map_err(|_undecodable| "cannot be decoded")?;
        let place = key.split_once('/').ok_or("has a key without a kind")?;
        let denied = overlay.denies(key);
        let belongs = |kind, name: &str| if place == (kind, name) { Ok(()) } else { Err("stands under another key") };
        match resource.resource.ok_or("is of a kind unknown here")? {
            Kind::Server(server) => {
                belongs("server", &server.name)?;
                if denied {
                    self.denied_servers.insert(server.name.clone());
                }
                self.servers.insert(server.name.clone(), Arc::new(server));
            }
            Kind::Tool(mut tool) => {
                belongs("tool", &format!("{}/{}", tool.server, tool.name))?;
                tool.quarantined |= denied || overlay.denies(&format!("server/{}", tool.server));
                self.pinned.push(tool);
            }
            Kind::VirtualServer(server) => {
                belongs("virtual_server", &server.name)?;
                self.listed.extend((!denied).then_some(with_all_servers(server)));
            }
            Kind::Policy(policy) => {
                belongs("policy", &policy.name)?;
                let (name, version, cedar) = (policy.name, policy.version, policy.cedar);
                self.policies.push(PolicyText { name, version, cedar });
            }
            Kind::TokenKey(token_key) => {
                belongs("token_key", &token_key.kid)?;
                self.token_keys.extend((!denied).then_some(token_key));
            }
            Kind::Issuer(issuer) => {
                belongs("issuer", "")?;
                self.issuer = (!denied).then_some(issuer);
            }
            Kind::DecisionClient(client) => {
                belongs("decision_client", &client.name)?;
                self.decision_clients.extend((!denied).then_some(client));
            }
            Kind::Rollout(rollout) => {
                belongs("rollout", &rollout.id)?;
                self.staged.rollouts.push(rollout);
            }
            Kind::RolloutChange(change) => {
                belongs("rollout_change", &format!("{}/{}", change.rollout, change.key))?;
                self.staged.changes.push(change);
            }
            // Of these the keys say whose they are (`people`).
            Kind::User(_) | Kind::Agent(_) | Kind::Consent(_) => return Err("stands under another key"),
        }
        Ok(())
    }

    /// What is offered, and the policy problems that kept an older set (`policies`) in force.
    pub(super) fn offer(&mut self, previous: &Contents, policies: &Policies) -> (Offer, Vec<String>) {
        let token_keys = self.token_keys();
        let tools = self.tools(previous);
        let virtual_servers = self.virtual_servers(&tools, previous);
        let catalogue = self.policy_catalogue(&tools);
        let (policies, refused) = Policies::renew(policies, catalogue, std::mem::take(&mut self.policies));
        let (issuer, servers) = (self.issuer.take(), std::mem::take(&mut self.servers));
        let decision_clients = self.decision_clients();
        let warnings = std::mem::take(&mut self.warnings);
        let offer = Offer {
            issuer,
            token_keys,
            servers,
            tools,
            virtual_servers,
            policies,
            decision_clients,
            warnings,
            staging: None,
        };
        (offer, refused)
    }

    /// Who may ask; one that cannot be read does not take the others with it.
    fn decision_clients(&mut self) -> DecisionClients {
        let mut clients = Vec::new();
        for entry in std::mem::take(&mut self.decision_clients) {
            let name = entry.name.clone();
            match DecisionClient::of(entry) {
                Ok(client) => clients.push(client),
                Err(why) => self.warnings.push(format!("decision_client/{name}: {why}")),
            }
        }
        DecisionClients::of(clients).unwrap_or_else(|why| {
            self.warnings.push(format!("decision_client: {why}; nobody is answered"));
            DecisionClients::default()
        })
    }

    /// Keys that can be used; one that cannot does not take the others with it.
    fn token_keys(&mut self) -> VerifyingKeys {
        let words = |key: &v1::TokenKey| (key.kid.clone(), key.alg.clone(), key.jwk.clone());
        let usable: Vec<_> = self
            .token_keys
            .iter()
            .map(words)
            .filter(|(kid, alg, jwk)| {
                let fault = VerifyingKeys::from_jwks([(kid.as_str(), alg.as_str(), jwk.as_str())]).err();
                self.warnings.extend(fault.iter().map(|fault| format!("token_key/{kid}: {fault}")));
                fault.is_none()
            })
            .collect();
        let all = usable.iter().map(|(kid, alg, jwk)| (kid.as_str(), alg.as_str(), jwk.as_str()));
        VerifyingKeys::from_jwks(all).unwrap_or_default()
    }

    /// Every pinned tool. One that has not changed is taken over, so a change of a consent does not cost a hash of
    /// every definition.
    fn tools(&mut self, previous: &Contents) -> Tools {
        let mut tools = Tools::new();
        for pinned in &self.pinned {
            let name = (pinned.server.clone(), pinned.name.clone());
            let kept = previous.tools.get(&name).filter(|known| is_unchanged(known, pinned));
            let tool = kept.map_or_else(|| Arc::new(read_tool(pinned, &mut self.warnings)), Arc::clone);
            tools.insert(name, tool);
        }
        tools
    }

    fn virtual_servers(&mut self, tools: &Tools, previous: &Contents) -> BTreeMap<String, VirtualServer> {
        let mut servers = BTreeMap::new();
        for listed in &self.listed {
            let backends: BTreeSet<&str> = listed.servers.iter().map(String::as_str).collect();
            let known = |server: &&&str| self.servers.contains_key(**server);
            let behind = backends.iter().filter(known);
            let before = previous.virtual_servers.get(&listed.name);
            let (shown, warnings) = shown(listed, behind.clone().flat_map(|server| of_server(tools, server)), before);
            self.warnings.extend(warnings);
            let server = VirtualServer {
                search: (listed.tools == "search").then(|| search_index(&shown, before)),
                fixes: shown.values().any(|exposed| exposed.view.as_ref().is_some_and(|view| !view.fixed.is_empty())),
                tools: shown,
                servers: behind
                    .filter(|server| !self.denied_servers.contains(**server))
                    .map(ToString::to_string)
                    .collect(),
                naming: Naming::of(listed.naming == "plain", &listed.servers),
                bound_from: bound_from(listed),
            };
            servers.insert(listed.name.clone(), server);
        }
        servers
    }

    /// The tools policies speak about. One with a cost that is no decimal is left out: a single bad cost must not stop
    /// the whole set from compiling, and a tool the set does not know is denied.
    fn policy_catalogue(&mut self, tools: &Tools) -> Vec<CatalogueTool> {
        let mut catalogue = Vec::with_capacity(tools.len());
        for tool in tools.values() {
            if let Some(cost) = &tool.cost
                && !is_cost(cost)
            {
                self.warnings
                    .push(format!("tool/{}/{}: the cost is no decimal; calls are denied", tool.server, tool.name));
                continue;
            }
            let (server, name) = (tool.server.clone(), tool.name.clone());
            catalogue.push(CatalogueTool { server, name, tier: tool.tier, cost: tool.cost.clone() });
        }
        catalogue
    }
}

/// True when a tool was read from just this entry before, and may be offered.
fn is_unchanged(known: &Tool, pinned: &v1::Tool) -> bool {
    known.definition.as_ref().is_some_and(|definition| definition.get() == pinned.json)
        && known.hash == pinned.hash
        && known.tier == tier(pinned)
        && known.cost.as_deref().unwrap_or_default() == pinned.cost
        && known.quarantined == pinned.quarantined
}

fn read_tool(pinned: &v1::Tool, warnings: &mut Vec<String>) -> Tool {
    let (definition, header_params) = match show(pinned) {
        Ok((definition, header_params)) => (Some(definition), header_params),
        Err(why) => {
            warnings.push(format!("tool/{}/{}: not offered: {why}", pinned.server, pinned.name));
            (None, Vec::new())
        }
    };
    Tool {
        server: pinned.server.clone(),
        name: pinned.name.clone(),
        hash: pinned.hash.clone(),
        tier: tier(pinned),
        cost: Some(pinned.cost.clone()).filter(|cost| !cost.is_empty()),
        quarantined: pinned.quarantined,
        definition,
        header_params,
    }
}

/// A virtual server that is partly for bound tokens only names its servers where older nodes do not look.
fn with_all_servers(mut listed: v1::VirtualServer) -> v1::VirtualServer {
    if !listed.bound_from.is_empty() {
        listed.servers = std::mem::take(&mut listed.bound_servers);
    }
    listed
}

/// From an unknown word on, all of it is for bound tokens only.
fn bound_from(listed: &v1::VirtualServer) -> Option<Tier> {
    (!listed.bound_from.is_empty()).then(|| listed.bound_from.parse().unwrap_or(Tier::Retrieval))
}

/// An unknown word counts as destructive.
fn tier(pinned: &v1::Tool) -> Tier {
    pinned.tier.parse().unwrap_or(Tier::Destructive)
}

/// The definition as JSON and its mirrored arguments, when it may be shown.
fn show(pinned: &v1::Tool) -> Result<(Box<RawValue>, Vec<header_params::HeaderParam>), String> {
    let text = mcp::check_json(pinned.json.as_bytes()).map_err(|fault| fault.to_string())?;
    let hash = hex::encode(digest::digest(&digest::SHA256, text.as_bytes()));
    if hash != pinned.hash {
        return Err("the definition does not have the pinned hash".to_owned());
    }
    let definition = RawValue::from_string(text.to_owned()).map_err(|fault| fault.to_string())?;
    let members = mcp::Members::of(&definition).ok_or("the definition is no object")?;
    if members.string("name") != Ok(Some(pinned.name.clone())) {
        return Err("the definition is of another tool".to_owned());
    }
    let header_params = match members.get("inputSchema") {
        Some(schema) => header_params::scan(schema).map_err(|fault| fault.to_string())?,
        None => Vec::new(),
    };
    Ok((definition, header_params))
}

/// A server's pinned tools, in the order of their names.
fn of_server<'t>(tools: &'t Tools, server: &str) -> impl Iterator<Item = &'t Arc<Tool>> {
    let (server, first) = (server.to_owned(), (server.to_owned(), String::new()));
    tools.range(first..).take_while(move |((of, _), _)| *of == server).map(|(_, tool)| tool)
}

/// The tools that a virtual server shows, by their names towards clients, and what is wrong with those that it does not
/// show because of that. What has not changed is taken over.
fn shown<'t>(
    listed: &v1::VirtualServer,
    tools: impl Iterator<Item = &'t Arc<Tool>>,
    before: Option<&VirtualServer>,
) -> (BTreeMap<String, Arc<ExposedTool>>, Vec<String>) {
    let exposure = Exposure::of(listed);
    let (mut shown, mut collided, mut warnings) = (BTreeMap::new(), BTreeSet::new(), Vec::new());
    for tool in tools {
        let Some(face) = exposure.face(tool) else { continue };
        let kept = before.and_then(|before| before.tools.get(&face.name));
        let kept = kept.filter(|kept| Arc::ptr_eq(&kept.tool, tool) && face.is_of(kept)).cloned();
        let made = kept.map_or_else(|| face.show(tool).map(|made| made.map(Arc::new)), |kept| Ok(Some(kept)));
        let (place, name) = (&listed.name, face.name);
        match made {
            Ok(Some(exposed)) => {
                let other = shown.insert(name.clone(), exposed);
                collided.extend(other.map(|_| name));
            }
            Ok(None) => {}
            Err(why) => {
                let Tool { server, name, .. } = tool.as_ref();
                warnings.push(format!("virtual_server/{place}: tool `{name}` of `{server}` is not offered: {why}"));
            }
        }
    }
    for name in collided {
        shown.remove(&name);
        let place = &listed.name;
        warnings.push(format!("virtual_server/{place}: `{name}` is the name of two tools; neither is offered"));
    }
    (shown, warnings)
}

/// The index over what is shown; the one there was, if nothing of that is new.
fn search_index(shown: &BTreeMap<String, Arc<ExposedTool>>, before: Option<&VirtualServer>) -> Arc<SearchIndex> {
    let kept = before.and_then(|before| {
        let is_same = before.tools.len() == shown.len()
            && before.tools.values().zip(shown.values()).all(|(old, new)| Arc::ptr_eq(old, new));
        before.search.as_ref().filter(|_| is_same)
    });
    kept.map_or_else(|| Arc::new(SearchIndex::of(shown.values())), Arc::clone)
}
