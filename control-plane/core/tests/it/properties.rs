//! Properties over random manifests, commands and texts.

use bailiwick_control_plane_core::{
    Answer, Command, Kind, ResourceRef, State,
    command::ToolDefinition,
    evolve, manifest,
    revocation::{Revoke, Target},
};
use proptest::{collection::vec, prelude::*};

use crate::world::{World, document, parse, tool, wish};

fn name() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["a", "b", "c"]).prop_map(str::to_owned)
}

fn written() -> impl Strategy<Value = String> {
    let tier = || prop::sample::select(vec!["retrieval", "transactional", "destructive"]);
    let naming = prop::sample::select(vec!["plain", "prefixed"]);
    prop_oneof![
        (name(), name(), tier()).prop_map(|(server, tool, tier)| {
            document(
                "Server",
                &server,
                &format!("{{endpoint: {{url: 'http://h/'}}, tools: {{{tool}: {{tier: {tier}}}}}}}"),
            )
        }),
        (name(), naming, name(), any::<bool>()).prop_map(|(place, naming, server, both)| {
            let second = if both && server != "a" { ", {server: a}" } else { "" };
            document("VirtualServer", &place, &format!("{{naming: {naming}, servers: [{{server: {server}}}{second}]}}"))
        }),
        (name(), name(), any::<bool>()).prop_map(|(user, group, active)| document(
            "User",
            &user,
            &format!("{{groups: [{group}], active: {active}}}")
        )),
        (name(), name(), tier()).prop_map(|(agent, owner, tier)| {
            document("Agent", &agent, &format!("{{owner: {owner}, project: p, ceiling: {tier}}}"))
        }),
        (name(), name()).prop_map(|(policy, server)| {
            document(
                "Policy",
                &policy,
                &format!("{{cedar: 'permit (principal, action, resource in Server::\"{server}\");'}}"),
            )
        }),
    ]
}

#[derive(Clone, Debug)]
enum Step {
    Apply(Vec<String>),
    Delete(Kind, String),
    Report(String, Vec<ToolDefinition>),
    Pin(String),
    Revoke(&'static str, String),
    RollOut(Vec<String>),
    GoOn(bool),
    Issue(String, String, String),
    Wait(u64),
}

fn shown() -> impl Strategy<Value = Vec<ToolDefinition>> {
    vec(
        (name(), prop::sample::select(vec!["{}", r#"{"readOnlyHint":true}"#]))
            .prop_map(|(name, hints)| tool(&name, hints)),
        0..4,
    )
}

fn step() -> impl Strategy<Value = Step> {
    let kind = prop::sample::select(Kind::ALL.to_vec());
    prop_oneof![
        4 => vec(written(), 1..5).prop_map(Step::Apply),
        2 => (kind, name()).prop_map(|(kind, name)| Step::Delete(kind, name)),
        2 => (name(), shown()).prop_map(|(server, tools)| Step::Report(server, tools)),
        1 => name().prop_map(Step::Pin),
        1 => (name(), name(), name()).prop_map(|(user, agent, place)| Step::Issue(user, agent, place)),
        1 => (prop::sample::select(vec!["user", "agent"]), name()).prop_map(|(kind, name)| Step::Revoke(kind, name)),
        2 => vec(written(), 1..4).prop_map(Step::RollOut),
        2 => any::<bool>().prop_map(Step::GoOn),
        1 => (0_u64..1_000_000).prop_map(Step::Wait),
    ]
}

fn take(world: &mut World, step: Step) {
    match step {
        Step::Apply(documents) => {
            let yaml = documents.concat();
            // A second apply of what was accepted changes nothing.
            if world.apply(&yaml).is_ok() {
                assert_eq!(world.apply(&yaml).unwrap().events, [], "{yaml}");
            }
        }
        Step::Delete(kind, name) => drop(world.delete(&[(kind, &name)])),
        Step::Report(server, tools) => drop(world.report(&server, &tools)),
        Step::Pin(server) => drop(world.run(Command::PinTools { server, tools: vec![], discovered: None })),
        Step::Issue(user, agent, virtual_server) => {
            let wish = bailiwick_control_plane_core::command::IssueToken { user, agent, virtual_server, ..wish() };
            drop(world.run(Command::IssueToken(wish)));
        }
        Step::Revoke(kind, name) => {
            let wish = Revoke { target: Target::from_words(kind, name).unwrap(), reason: "random".into() };
            // A second revocation of what was taken away changes nothing.
            if world.run(Command::Revoke(wish.clone())).is_ok() {
                let again = world.run(Command::Revoke(wish)).unwrap();
                assert_eq!(again.events, []);
                assert!(matches!(again.answer, Answer::Revoked(revoked) if revoked.since.is_some()));
            }
        }
        Step::RollOut(documents) => {
            drop(crate::rollouts::register(world, "dp-1"));
            drop(crate::rollouts::begin(world, &documents.concat(), &[50, 100]));
        }
        Step::GoOn(on) => {
            let command = if on { crate::rollouts::advance(None) } else { crate::rollouts::back(None) };
            drop(world.run(command));
        }
        Step::Wait(seconds) => world.seconds += seconds,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    // `World` checks after every step that deltas lead to the snapshot and that references hold.
    #[test]
    fn whatever_is_commanded_the_invariants_hold_and_a_second_apply_changes_nothing(steps in vec(step(), 1..16)) {
        let mut world = World::default();
        for step in steps {
            take(&mut world, step);
        }
        let mut replayed = State::default();
        let mut revision = 0;
        let mut request = None;
        for event in &world.events {
            if request != Some(&event.request_id) {
                revision += 1;
                request = Some(&event.request_id);
            }
            evolve(&mut replayed, event, revision);
        }
        prop_assert_eq!(replayed, world.state, "the events alone lead to the state");
    }

    #[test]
    fn events_that_fit_no_state_are_applied_without_failing(steps in vec(step(), 1..16), skip in 0_usize..8) {
        let mut world = World::default();
        for step in steps {
            take(&mut world, step);
        }
        let mut odd = State::default();
        for (index, event) in world.events.iter().rev().enumerate() {
            if index % 8 != skip {
                evolve(&mut odd, event, 1);
                drop(bailiwick_control_plane_core::view::entries(&odd));
                for kind in Kind::ALL {
                    drop(bailiwick_control_plane_core::show::all(&odd, kind, 0));
                }
            }
        }
    }

    #[test]
    fn no_text_makes_the_reader_fail(text in "[ -~\n\t\u{e9}]{0,200}") {
        drop(parse(&text));
    }

    #[test]
    fn no_yaml_like_text_makes_the_reader_fail(parts in vec(prop::sample::select(vec![
        "---", "...", "\n", "  ", "a", ":", ": ", "- ", "[", "]", "{", "}", "|", ">", "&x", "*x", "!t", "\"", "'", "#", "%",
        "? ", ",", "\t", "kind: Server", "metadata", "spec", "name", "apiVersion: bailiwick/v1", "\u{0}", "\r", "0x", "~", "é",
    ]), 0..40)) {
        drop(parse(&parts.concat()));
    }

    #[test]
    fn a_cut_off_manifest_never_reads_as_another_kind_of_thing(at in 0..crate::world::EXAMPLE.len()) {
        let files = [("f".to_owned(), crate::world::EXAMPLE.get(..at).unwrap_or_default().to_owned())];
        for manifest in manifest::parse(&files).unwrap_or_default() {
            let whole = parse(crate::world::EXAMPLE).unwrap();
            let resource: ResourceRef = manifest.resource();
            prop_assert!(whole.iter().any(|one| one.kind() == resource.kind), "{resource}");
        }
    }
}
