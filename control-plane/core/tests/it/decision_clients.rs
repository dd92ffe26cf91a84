//! Decision clients: what manifests may say of them, and what data planes get to know.

use bailiwick_control_plane_core::{Kind, Rejection, decision_client::DECISION_CLIENTS_MAX};

use crate::world::{World, document, lines};

const NAME: &str = "billing";

fn hash(digit: char) -> String {
    digit.to_string().repeat(64)
}

fn asking(name: &str, secrets: &[char], more: &str) -> String {
    let hashes: Vec<_> = secrets.iter().map(|digit| format!("\"{}\"", hash(*digit))).collect();
    document("DecisionClient", name, &format!("{{secret_sha256: [{}]{more}}}", hashes.join(", ")))
}

/// What came with decision clients.
pub(crate) fn one_of_each(world: &mut World) {
    world.apply(crate::world::EXAMPLE).unwrap();
    world.apply(&asking(NAME, &['a', 'b'], ", virtual_servers: [finance], servers: [finance]")).unwrap();
    world.delete(&[(Kind::DecisionClient, NAME)]).unwrap();
}

fn problems(world: &mut World, yaml: &str) -> String {
    match world.apply(yaml) {
        Err(Rejection::Invalid(problems)) => lines(&problems).join("\n"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn manifests_of_decision_clients_are_checked() {
    let of = |spec: &str| document("DecisionClient", NAME, spec);
    let one = format!("\"{}\"", hash('a'));
    for (yaml, expected) in [
        (of("{secret_sha256: [], virtual_servers: [finance]}"), "must be one hash, or two"),
        (asking(NAME, &['a', 'b', 'c'], ", virtual_servers: [finance]"), "must be one hash, or two"),
        (of("{secret_sha256: [secret], virtual_servers: [finance]}"), "64 lower-case hexadecimal digits"),
        (of(&format!("{{secret_sha256: [{}], servers: [finance]}}", one.to_uppercase())), "64 lower-case"),
        (asking(NAME, &['a'], ""), "what may it ask about?"),
        (asking(NAME, &['a'], ", virtual_servers: [\"a b\"]"), "cannot be the name of one"),
        (asking(NAME, &['a'], ", virtual_servers: [finanze]"), "VirtualServer \"finanze\" does not exist"),
        (asking(NAME, &['a'], ", servers: [finanze]"), "Server \"finanze\" does not exist"),
        (asking("Not_A name", &['a'], ", servers: [finance]"), "must be 1 to 63"),
        (asking(NAME, &['a'], ", servers: [finance], secret: x"), "secret"),
    ] {
        let said = problems(&mut World::example(), &yaml);
        assert!(said.contains(expected), "{expected}: {said}");
    }
}

#[test]
fn a_secret_says_who_asks_so_no_two_have_one() {
    let mut world = World::example();
    world.apply(&asking(NAME, &['a', 'b'], ", virtual_servers: [finance]")).unwrap();
    let said = problems(&mut world, &asking("other", &['b', 'c'], ", virtual_servers: [finance]"));
    assert!(said.contains("DecisionClient billing has this secret"), "{said}");
    world.apply(&asking(NAME, &['b', 'd'], ", virtual_servers: [finance]")).unwrap();
    world.apply(&asking("other", &['a'], ", virtual_servers: [finance]")).unwrap();
}

#[test]
fn data_planes_know_those_that_are_active_and_no_others() {
    let mut world = World::example();
    let key = format!("decision_client/{NAME}");
    let is_known = |world: &World| world.entries.get(&key).is_some();
    world.apply(&asking(NAME, &['a'], ", virtual_servers: [finance]")).unwrap();
    assert!(is_known(&world));
    world.apply(&asking(NAME, &['a'], ", virtual_servers: [finance], active: false")).unwrap();
    assert!(!is_known(&world), "taken away, as a deletion is");
    world.apply(&asking(NAME, &['a'], ", virtual_servers: [finance]")).unwrap();
    assert!(is_known(&world));
    world.delete(&[(Kind::DecisionClient, NAME)]).unwrap();
    assert!(!is_known(&world));
}

#[test]
fn what_one_names_cannot_go_before_it_and_there_are_not_too_many() {
    let mut world = World::example();
    let both = ", virtual_servers: [finance], servers: [finance]";
    world.apply(&asking(NAME, &['a'], both)).unwrap();
    assert!(matches!(world.delete(&[(Kind::VirtualServer, "finance")]), Err(Rejection::InUse(_))));
    let many: String = (0..DECISION_CLIENTS_MAX)
        .map(|number| {
            let spec = format!("{{secret_sha256: [\"{number:064x}\"], servers: [finance]}}");
            document("DecisionClient", &format!("c{number}"), &spec)
        })
        .collect();
    assert!(matches!(world.apply(&many), Err(Rejection::TooMany { what: "decision clients", .. })));
}
