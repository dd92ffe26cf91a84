//! A company's worth of real events: users, their agents, and consents with the tokens issued for them.
//!
//! The same numbers give the same events. `replay` and `snapshot` propose them directly: what is measured there is
//! consensus, storage and folding, not deciding.

use std::collections::BTreeSet;

use anyhow::Result;
use bailiwick_control_plane_core::{
    Change, Event,
    agent::AgentApplied,
    consent::{ConsentGranted, TokenIssued},
    resource::{AgentClientsSpec, AgentSpec, AgentState, UserSpec, VirtualServerSpec},
    user::UserApplied,
    virtual_server::VirtualServerApplied,
};
use bailiwick_proto::Tier;

/// 2026-01-01T00:00:00Z.
const BEGIN_SECONDS: u64 = 1_767_225_600;
const MONTH_SECONDS: u64 = 30 * 24 * 3_600;
const MICROS: u64 = 1_000_000;
/// Agents of one user.
const AGENTS_OF_ONE: u64 = 10;

/// How many of what.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Population {
    /// Agents; there is a user for every ten of them.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub(crate) agents: u64,
    /// Consents, each with a token: two events.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(0..=10_000_000))]
    pub(crate) consents: u64,
}

impl Population {
    /// The changes that lead there, each a list of events as they are stored.
    pub(crate) fn changes(self) -> impl Iterator<Item = Result<Vec<Vec<u8>>>> {
        let place = VirtualServerApplied { name: "finance".into(), spec: VirtualServerSpec::default() };
        let users = (0..self.agents.div_ceil(AGENTS_OF_ONE)).map(|n| vec![user(n).into()]);
        let agents = (0..self.agents).map(|n| vec![agent(n).into()]);
        let consents = (0..self.consents).map(move |n| consent(n, self.agents));
        let all = std::iter::once(vec![place.into()]).chain(users).chain(agents).chain(consents);
        (0_u64..).zip(all).map(|(n, changes): (u64, Vec<Change>)| {
            let events = changes.into_iter().map(|change| event(n, change));
            Ok(events.map(|event| serde_json::to_vec(&event)).collect::<Result<_, _>>()?)
        })
    }

    /// How many events that is.
    pub(crate) fn events(self) -> u64 {
        1 + self.agents.div_ceil(AGENTS_OF_ONE) + self.agents + 2 * self.consents
    }
}

fn event(n: u64, change: Change) -> Event {
    // A microsecond apart, and none expires while it is measured.
    Event { actor: "admin".into(), request_id: format!("r-{n:016x}"), time: BEGIN_SECONDS * MICROS + n, change }
}

fn user_name(n: u64) -> String {
    format!("user-{n:06}@example.com")
}

fn agent_name(n: u64) -> String {
    format!("agent-{n:06}")
}

fn user(n: u64) -> UserApplied {
    let groups = BTreeSet::from([format!("team-{}", n % 200)]);
    UserApplied { name: user_name(n), spec: UserSpec { groups, active: true }, reason: String::new(), held: false }
}

fn agent(n: u64) -> AgentApplied {
    let spec = AgentSpec {
        owner: user_name(n / AGENTS_OF_ONE),
        successor: None,
        project: format!("project-{}", n % 500),
        ceiling: Tier::Transactional,
        clients: AgentClientsSpec::default(),
        state: AgentState::Active,
        review_by: None,
        active: true,
    };
    AgentApplied { name: agent_name(n), spec, reason: String::new(), held: false, owner_left: false }
}

fn consent(n: u64, agents: u64) -> Vec<Change> {
    // Ids are random in life: spread over the key space, not ascending.
    let scattered = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let id = |prefix: &str| format!("{prefix}-{scattered:016x}{n:016x}");
    let agent = n % agents;
    let expires_at = BEGIN_SECONDS + MONTH_SECONDS + n % MONTH_SECONDS;
    let granted = ConsentGranted {
        parent: None,
        earlier_agents: Vec::new(),
        consent: id("c"),
        user: user_name(agent / AGENTS_OF_ONE),
        agent: agent_name(agent),
        virtual_server: "finance".into(),
        level: Tier::Retrieval,
        expires_at,
        reason: "month-end closing".into(),
        client: "bailiwick-admin".into(),
        provider: String::new(),
        tools: BTreeSet::new(),
    };
    let issued = TokenIssued {
        consent: id("c"),
        jti: id("t"),
        session: id("s"),
        project: format!("project-{}", agent % 500),
        issued_at: BEGIN_SECONDS,
        expires_at,
    };
    vec![granted.into(), issued.into()]
}

#[cfg(test)]
mod tests {
    use bailiwick_control_plane_core::{State, evolve, stored};

    use super::*;

    #[test]
    fn the_events_are_real_and_as_many_as_said() {
        let population = Population { agents: 25, consents: 40 };
        let (mut state, mut events) = (State::default(), 0);
        for (revision, change) in (1..).zip(population.changes()) {
            for bytes in change.unwrap() {
                evolve(&mut state, &stored::read(&bytes).unwrap(), revision);
                events += 1;
            }
        }
        assert_eq!(events, population.events());
        assert_eq!((state.users.len(), state.agents.len(), state.consents.len()), (3, 25, 40));
        assert!(state.consents.values().all(|consent| consent.token.is_some()));
    }
}
