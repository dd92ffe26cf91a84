//! Agents whose owner left: they stay stopped until somebody says otherwise of them, whoever has the name meanwhile.

use bailiwick_control_plane_core::{
    agent::{Agent, life::SetAgentState},
    resource::AgentSpec,
};

use super::*;

/// Jane left, and somebody else has her name; the agent's manifest, which has not changed.
fn next_jane() -> (World, String) {
    let (mut world, _) = jane();
    let manifest = agent_of(JANE);
    world.apply(&manifest).unwrap();
    world.provision(delete("p-1"));
    world.provision(create("p-2", JANE));
    assert_eq!(state_of(&world, AGENT), AgentState::Paused);
    (world, manifest)
}

fn agent_of(owner: &str) -> String {
    document("Agent", AGENT, &format!("{{owner: {owner}, project: platform, ceiling: destructive}}"))
}

fn set(world: &mut World, state: AgentState) {
    let wish = SetAgentState { agent: AGENT.into(), state, reason: String::new() };
    world.run(Command::SetAgentState(wish)).unwrap();
}

#[test]
fn a_manifest_as_it_was_sets_nothing_going_for_who_has_the_name_next() {
    let (mut world, manifest) = next_jane();
    let decision = world.apply(&manifest).unwrap();
    assert_eq!(decision.events, []);
    assert!(decision.warnings.iter().any(|told| told.contains("bailiwick agent resume")), "{:?}", decision.warnings);
    // Nor does one that says something else anew, or stops it first.
    world.apply(&manifest.replace("platform", "other")).unwrap();
    assert_eq!(state_of(&world, AGENT), AgentState::Paused);
    world.apply(&manifest.replace("ceiling", "state: paused, ceiling")).unwrap();
    world.apply(&manifest).unwrap();
    assert_eq!(state_of(&world, AGENT), AgentState::Paused);
    // Nor one while nobody has the name.
    world.provision(delete("p-2"));
    world.apply(&manifest).unwrap();
    world.provision(create("p-3", JANE));
    world.apply(&manifest).unwrap();
    assert_eq!(state_of(&world, AGENT), AgentState::Paused);
}

#[test]
fn who_resumes_it_or_gives_it_another_owner_sets_it_going() {
    let (mut world, manifest) = next_jane();
    set(&mut world, AgentState::Active);
    assert_eq!(state_of(&world, AGENT), AgentState::Active);
    // From then on it is an agent like any other.
    set(&mut world, AgentState::Paused);
    world.apply(&manifest).unwrap();
    assert_eq!(state_of(&world, AGENT), AgentState::Active);

    let (mut world, _) = next_jane();
    world.apply(&document("User", "sue@example.com", "{}")).unwrap();
    world.apply(&agent_of("sue@example.com")).unwrap();
    assert_eq!((owner(&world, AGENT).as_str(), state_of(&world, AGENT)), ("sue@example.com", AgentState::Active));
    world.apply(&agent_of(JANE)).unwrap();
    assert_eq!(state_of(&world, AGENT), AgentState::Active, "an administrator gave it to whoever has the name now");
}

#[test]
fn one_that_an_administrator_had_paused_before_is_not_resumed_by_its_manifest_either() {
    let (mut world, _) = jane();
    let manifest = agent_of(JANE);
    world.apply(&manifest).unwrap();
    set(&mut world, AgentState::Paused);
    world.provision(delete("p-1"));
    world.provision(create("p-2", JANE));
    world.apply(&manifest).unwrap();
    assert_eq!(state_of(&world, AGENT), AgentState::Paused);
    assert!(!see_off(&mut world, JANE));
    // What is kept of it says so to whoever reads it later.
    let known = world.state.agents.get(AGENT).unwrap();
    let kept: Agent = serde_json::from_value(serde_json::to_value(known).unwrap()).unwrap();
    assert!(kept.owner_left && kept == *known);
    let AgentSpec { owner, .. } = kept.spec;
    assert_eq!(owner, JANE);
}

#[test]
fn who_comes_back_themselves_finds_their_agents_as_they_were() {
    let (mut world, _) = jane();
    world.provision(replace("p-1", JANE, false));
    world.provision(replace("p-1", JANE, true));
    assert_eq!(state_of(&world, AGENT), AgentState::Active);
}
