//! People: persons, their agents and their consents, read from the entries when they are asked for.
//!
//! There may be a million, while a call asks for four: so they are kept once, packed as they came (`config_digest`),
//! and a revision that changes a handful shares the rest with the one before. Those who call are unpacked once a
//! revision. What the overlay denies stands with its authority taken. Made by `catalogue`, asked by `admission`.
//! Invariant: what cannot be read, or does not belong under its key, is not there; `check` says why, once, when it
//! comes. So is a consent that does not say clearly how far it goes. Absent: everything that is offered to people
//! (`config::Offer`).

mod by_parties;
mod listed;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use bailiwick_proto::{
    Tier,
    config_digest::Entries,
    v1::{self, resource::Resource as Kind},
};
use bailiwick_token::ACT_DEPTH_MAX;
use prost::Message as _;

use self::by_parties::ByParties;
pub use self::listed::{LISTED_TOOLS_MAX, ListedTools};
use crate::table::Table;

/// A person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Groups they are in.
    pub groups: Vec<String>,
    /// False once deactivated.
    pub active: bool,
}

/// An agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agent {
    /// The person who answers for it.
    pub owner: Arc<str>,
    /// Its project.
    pub project: Arc<str>,
    /// Highest tier it may ever use.
    pub ceiling: Tier,
    /// False while paused or retired.
    pub active: bool,
}

/// A person's consent that an agent acts for them on a virtual server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consent {
    /// Who consented.
    pub user: String,
    /// To which agent.
    pub agent: String,
    /// Through which OAuth client.
    pub client: String,
    /// Where.
    pub virtual_server: String,
    /// Highest tier consented to.
    pub level: Tier,
    /// Only these tools, and what their servers have besides tools; `None`: everything up to the level.
    pub tools: Option<ListedTools>,
    /// The agents through which it came, the latest first.
    pub earlier_agents: Arc<[String]>,
    /// Unix seconds; no longer valid from that second on.
    pub expires_at: i64,
    /// Taken back.
    pub revoked: bool,
}

impl Consent {
    /// Whether it is for a tool, by its own name at its server.
    #[must_use]
    pub fn lists(&self, server: &str, tool: &str) -> bool {
        self.tools.as_ref().is_none_or(|listed| listed.contains(server, tool))
    }

    /// Whether it leads to a server at all: to any of its tools.
    #[must_use]
    pub fn reaches(&self, server: &str) -> bool {
        self.tools.as_ref().is_none_or(|listed| listed.names(server))
    }
}

/// Everybody whose authority a call needs, as far as they are known.
#[derive(Debug, PartialEq, Eq)]
pub struct Parties {
    /// Who acts.
    pub user: Option<User>,
    /// Through what.
    pub agent: Option<Agent>,
    /// On what grounds.
    pub consent: Option<Consent>,
    /// Who answers for the agent.
    pub owner: Option<User>,
    /// The agents through which the consent came, each with who answers for it.
    pub earlier: Vec<(Option<Agent>, Option<User>)>,
}

/// Parties that were unpacked.
#[derive(Debug, Default)]
struct Unpacked {
    /// By consent, with the user and agent they were asked for with.
    parties: HashMap<String, (String, String, Arc<Parties>)>,
    /// Tools that their consents list.
    listed: usize,
}

/// Parties kept unpacked, some five hundred bytes each: more than a node has callers between two revisions.
const UNPACKED_MAX: usize = 16_384;
/// Tools that their consents may list, some hundred bytes each: sixteen for each of them.
const UNPACKED_LISTED_MAX: usize = 16 * UNPACKED_MAX;

/// See the file's header. A copy costs next to nothing.
#[derive(Clone, Debug, Default)]
pub struct People {
    /// Of all kinds; others are not asked for here.
    entries: Entries,
    /// Denied keys.
    denied: Table<u64>,
    unpacked: Arc<Mutex<Unpacked>>,
    /// Kept where somebody may ask what a person consented to without naming it.
    by_parties: Option<Arc<Mutex<ByParties>>>,
}

impl People {
    /// Those of a configuration, without whom `denied` denies.
    #[must_use]
    pub fn new(entries: Entries, denied: Table<u64>) -> Self {
        Self { entries, denied, unpacked: Arc::default(), by_parties: None }
    }

    /// Those whom a call by these names needs.
    #[must_use]
    pub fn parties(&self, user: &str, agent: &str, consent: &str) -> Arc<Parties> {
        let unpacked = || self.unpacked.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, through, parties)) = unpacked().parties.get(consent)
            && of == user
            && through == agent
        {
            return Arc::clone(parties);
        }
        let parties = Arc::new(self.unpack(user, agent, consent));
        // Services may ask about any names: what no call can be made with takes no room.
        let theirs = parties.consent.as_ref().filter(|known| known.user == user && known.agent == agent);
        let Some(known) = theirs else { return parties };
        let listed = known.tools.as_ref().map_or(0, ListedTools::len);
        let mut unpacked = unpacked();
        if unpacked.parties.len() >= UNPACKED_MAX || unpacked.listed.saturating_add(listed) > UNPACKED_LISTED_MAX {
            *unpacked = Unpacked::default();
        }
        unpacked.listed += listed;
        unpacked.parties.insert(consent.to_owned(), (user.to_owned(), agent.to_owned(), Arc::clone(&parties)));
        parties
    }

    fn unpack(&self, user: &str, agent: &str, consent: &str) -> Parties {
        let owned = |agent: &str| {
            let agent = self.agent(agent);
            let owner = agent.as_ref().and_then(|agent| self.user(&agent.owner));
            (agent, owner)
        };
        let (consent, (agent, owner)) = (self.consent(consent), owned(agent));
        let earlier = consent.iter().flat_map(|consent| consent.earlier_agents.iter()).map(|agent| owned(agent));
        Parties { user: self.user(user), earlier: earlier.collect(), consent, owner, agent }
    }

    /// The person of this name.
    #[must_use]
    pub fn user(&self, name: &str) -> Option<User> {
        let key = format!("user/{name}");
        let Kind::User(user) = read(&key, self.entries.get(&key)?).ok()? else { return None };
        Some(User { groups: user.groups, active: user.active && !self.denies(&key) })
    }

    /// The agent of this name.
    #[must_use]
    pub fn agent(&self, name: &str) -> Option<Agent> {
        let key = format!("agent/{name}");
        let Kind::Agent(agent) = read(&key, self.entries.get(&key)?).ok()? else { return None };
        let (ceiling, active) = (agent.ceiling.parse().ok()?, agent.active && !self.denies(&key));
        Some(Agent { owner: agent.owner.into(), project: agent.project.into(), ceiling, active })
    }

    /// The consent of this id.
    #[must_use]
    pub fn consent(&self, id: &str) -> Option<Consent> {
        let key = format!("consent/{id}");
        let Kind::Consent(consent) = read(&key, self.entries.get(&key)?).ok()? else { return None };
        let (level, tools) = extent(&consent).ok()?;
        Some(Consent {
            user: consent.user,
            agent: consent.agent,
            client: consent.client,
            virtual_server: consent.virtual_server,
            level,
            tools,
            earlier_agents: consent.earlier_agents.into(),
            expires_at: consent.expires_at,
            revoked: consent.revoked || self.denies(&key),
        })
    }

    fn denies(&self, key: &str) -> bool {
        !self.denied.is_empty() && self.denied.contains_key(key)
    }
}

impl PartialEq for People {
    fn eq(&self, other: &Self) -> bool {
        let is_of_them = |(key, _): &(&str, &[u8])| is_of_people(key);
        let (own, others) = (self.entries.iter().filter(is_of_them), other.entries.iter().filter(is_of_them));
        let keys = |people: &Self| people.denied.iter().map(|(key, _)| key.to_owned()).collect::<Vec<_>>();
        keys(self) == keys(other) && own.eq(others)
    }
}

impl Eq for People {}

/// Whether an entry is one of people by its key.
#[must_use]
pub fn is_of_people(key: &str) -> bool {
    matches!(key.split_once('/'), Some(("user" | "agent" | "consent", _)))
}

/// What is wrong with an entry of people.
///
/// # Errors
/// Why it is left out.
pub fn check(key: &str, value: &[u8]) -> Result<(), &'static str> {
    read(key, value).map(drop)
}

/// The resource under a key of people, if it may stand there.
fn read(key: &str, value: &[u8]) -> Result<Kind, &'static str> {
    let resource = v1::Resource::decode(value).map_err(|_undecodable| "cannot be decoded")?;
    let kind = resource.resource.ok_or("is of a kind unknown here")?;
    let place = key.split_once('/').ok_or("has a key without a kind")?;
    let tier = |tier: &str| tier.parse::<Tier>().is_ok();
    let (belongs, fault) = match &kind {
        Kind::User(user) => (("user", user.name.as_str()), None),
        Kind::Agent(agent) => {
            (("agent", agent.name.as_str()), (!tier(&agent.ceiling)).then_some("has an unknown ceiling"))
        }
        Kind::Consent(consent) => {
            let is_long = consent.earlier_agents.len() >= ACT_DEPTH_MAX;
            let fault = extent(consent).err();
            (("consent", consent.id.as_str()), fault.or(is_long.then_some("came through too many agents")))
        }
        Kind::Server(_)
        | Kind::Tool(_)
        | Kind::VirtualServer(_)
        | Kind::Policy(_)
        | Kind::TokenKey(_)
        | Kind::Issuer(_)
        | Kind::Rollout(_)
        | Kind::RolloutChange(_)
        | Kind::DecisionClient(_) => (("", ""), None),
    };
    if belongs != place {
        return Err("stands under another key");
    }
    fault.map_or(Ok(kind), Err)
}

/// How far a consent goes: up to which level, and to which tools alone. The level stands elsewhere where there are
/// tools, so that whoever knows nothing of tools finds none.
fn extent(consent: &v1::Consent) -> Result<(Tier, Option<ListedTools>), &'static str> {
    let tier = |level: &str| level.parse::<Tier>().map_err(|_unknown| "has an unknown level");
    match (consent.tools.as_slice(), consent.level.as_str(), consent.listed_level.as_str()) {
        ([], level, "") => Ok((tier(level)?, None)),
        ([], _, _) => Err("has a level for listed tools, but lists none"),
        (tools, "", level) => Ok((tier(level)?, Some(ListedTools::of(tools)?))),
        _ => Err("lists tools, but has a level for all"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{self, World, entry, world};

    fn people(world: &World, denied: &[&str]) -> People {
        let entries = world.0.iter().map(|entry| (entry.key.clone(), entry.value.clone())).collect();
        let mut table = Table::default();
        denied.iter().for_each(|key| table.insert(key, 8));
        People::new(entries, table)
    }

    #[test]
    fn what_cannot_be_read_is_not_there_and_is_said_why() {
        let bad_list = |change: fn(&mut v1::Consent)| {
            let mut consent = fixture::narrowed(&["finance/query_data"]);
            change(&mut consent);
            entry("consent/c-1", Kind::Consent(consent))
        };
        let bad_level = v1::Consent { level: "all".into(), ..fixture::consent() };
        let (name, owner, project) = ("coder".into(), "jane@example.com".into(), "platform".into());
        let bad_ceiling = v1::Agent { name, owner, project, ceiling: "sky".into(), active: true };
        for (bad, why) in [
            (entry("consent/c-1", Kind::Consent(bad_level)), "has an unknown level"),
            (bad_list(|consent| consent.listed_level = "all".into()), "has an unknown level"),
            (bad_list(|consent| consent.listed_level.clear()), "has an unknown level"),
            (bad_list(|consent| consent.level = "retrieval".into()), "lists tools, but has a level for all"),
            (bad_list(|consent| consent.earlier_agents = vec!["a".into(); 4]), "came through too many agents"),
            (bad_list(|consent| consent.tools.clear()), "has a level for listed tools, but lists none"),
            (bad_list(|consent| consent.tools.push("hr".into())), "lists a tool that is not named as server/tool"),
            (bad_list(|consent| consent.tools = vec!["hr/x".into(); LISTED_TOOLS_MAX + 1]), "lists too many tools"),
            (
                bad_list(|consent| (consent.level, consent.tools) = ("retrieval".into(), Vec::new())),
                "has a level for listed tools, but lists none",
            ),
            (entry("consent/c-1", fixture::user(true)), "stands under another key"),
            (entry("agent/coder", Kind::Agent(bad_ceiling)), "has an unknown ceiling"),
            (entry("user/jane@example.com", fixture::agent("retrieval", true)), "stands under another key"),
            (v1::Entry { key: "user/jane@example.com".into(), value: vec![0xff; 9] }, "cannot be decoded"),
            (v1::Entry { key: "agent/coder".into(), value: Vec::new() }, "is of a kind unknown here"),
        ] {
            assert_eq!(check(&bad.key, &bad.value), Err(why));
            let (good, left) = (people(&world(), &[]), people(&world().with(bad.clone()), &[]));
            let there = |people: &People| {
                let user = people.user("jane@example.com").is_some();
                [
                    ("user", user),
                    ("agent", people.agent("coder").is_some()),
                    ("consent", people.consent("c-1").is_some()),
                ]
            };
            let missing = there(&good).into_iter().zip(there(&left)).filter(|(before, after)| before.1 && !after.1);
            assert_eq!(missing.map(|(kind, _)| kind.0).collect::<Vec<_>>(), [bad.key.split('/').next().unwrap()]);
        }
    }

    #[test]
    fn a_consent_with_tools_is_for_these_up_to_its_level_and_one_without_for_all() {
        let listed = v1::Consent { listed_level: "retrieval".into(), ..fixture::narrowed(&["finance/a/b", "hr/c"]) };
        let narrowed = people(&world().with(entry("consent/c-1", Kind::Consent(listed))), &[]).consent("c-1").unwrap();
        let all = people(&world(), &[]).consent("c-1").unwrap();
        assert_eq!((narrowed.level, all.level), (Tier::Retrieval, Tier::Destructive));
        for (server, tool, expected) in [("finance", "a/b", true), ("finance", "a", false), ("hr", "c", true)] {
            assert_eq!((narrowed.lists(server, tool), all.lists(server, tool)), (expected, true), "{server} {tool}");
        }
        assert_eq!(["finance", "hr", "other"].map(|server| narrowed.reaches(server)), [true, true, false]);
        assert!(all.reaches("other") && all.tools.is_none());
    }

    #[test]
    fn what_is_kept_unpacked_is_bounded_by_the_tools_that_are_listed_too() {
        let tools: Vec<String> = (0..LISTED_TOOLS_MAX).map(|number| format!("s/t{number}")).collect();
        let tools: Vec<&str> = tools.iter().map(String::as_str).collect();
        let named = |number: usize| v1::Consent { id: format!("c-{number}"), ..fixture::narrowed(&tools) };
        let count = UNPACKED_LISTED_MAX / LISTED_TOOLS_MAX;
        let entries = (0..=count).map(|number| entry(&format!("consent/c-{number}"), Kind::Consent(named(number))));
        let people = people(&World(entries.collect()), &[]);
        let kept = || people.unpacked.lock().unwrap().parties.len();
        for number in 0..count {
            assert!(people.parties("jane@example.com", "coder", &format!("c-{number}")).consent.is_some());
        }
        assert_eq!(kept(), count, "as many as there is room for");
        let last = people.parties("jane@example.com", "coder", &format!("c-{count}"));
        assert!(last.consent.as_ref().unwrap().lists("s", "t255"));
        assert_eq!(kept(), 1);
    }

    #[test]
    fn what_is_denied_stands_with_its_authority_taken_and_all_else_as_it_was() {
        let denied = people(&world(), &["user/jane@example.com", "agent/coder", "consent/c-1"]);
        let (user, agent) = (denied.user("jane@example.com").unwrap(), denied.agent("coder").unwrap());
        assert_eq!((user.active, user.groups), (false, vec!["finance".to_owned()]));
        assert_eq!((agent.active, agent.ceiling), (false, Tier::Destructive));
        assert!(denied.consent("c-1").unwrap().revoked);
        let other = people(&world(), &["user/eve@example.com"]);
        assert!(other.user("jane@example.com").unwrap().active && other.user("eve@example.com").is_none());
    }

    #[test]
    fn parties_that_were_asked_for_before_are_those_of_these_names_and_this_revision() {
        let before = people(&world(), &[]);
        let shared = before.clone();
        let asked = |people: &People, user: &str| people.parties(user, "coder", "c-1");
        let jane = asked(&before, "jane@example.com");
        assert!(jane.user.is_some() && jane.agent.is_some());
        assert_eq!(jane.owner.as_ref().unwrap().groups, ["finance"]);
        assert!(Arc::ptr_eq(&jane, &asked(&shared, "jane@example.com")), "unpacked once");
        let eve = asked(&before, "eve@example.com");
        assert!(eve.user.is_none() && eve.consent.is_some(), "the same consent, brought by somebody else");
        let unknown = |number: usize| before.parties("jane@example.com", "coder", &format!("x-{number}"));
        assert!((0..=UNPACKED_MAX).all(|number| unknown(number).consent.is_none()));
        assert!(before.parties("jane@example.com", "other", "c-1").agent.is_none());
        assert!(Arc::ptr_eq(&jane, &asked(&before, "jane@example.com")), "others' questions leave it there");
        let after = people(&world(), &["user/jane@example.com"]);
        assert!(!asked(&after, "jane@example.com").user.as_ref().unwrap().active);
    }
}
