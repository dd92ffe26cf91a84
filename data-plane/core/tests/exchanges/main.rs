//! Whole exchanges in virtual time: a client and a server, of either era each, and two nodes of the gateway between.
//!
//! Everything that happens is decided by a seed: when messages arrive, which node a request comes to, what the server
//! does with each call (`script`), how the client takes it. Between them is the core as it is: `edge`, `admission`,
//! `forward`, `handshake`, `relay` and the sealed envelopes. Whatever happens, in whatever order:
//!
//! - an answer reaches the request it belongs to, once, and nothing follows it;
//! - of what is said meanwhile, a client hears what is of its own call and what it asked for, within the bound;
//! - it is asked only what it declared that it answers; a server gets each answer once, and only to what it asked;
//! - a call that the consent does not list is refused, and nothing of it reaches the server;
//! - no call, and no round of one, is begun twice, whoever forgets sessions;
//! - whoever waits hears something within the bounds of time; a call that is answered properly has its result.
//!
//! A failure names eras and seed; `one(seed, …)` is that run again. That each promise is one, `faults` shows: there
//! the wires do what a gateway must not. Deliberately absent: streams of changes, which have a pair of their own in
//! virtual time (`listening/tests/pair.rs`), and everything that `data-plane/server` does.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that panics fails, as it should"
)]

mod client;
mod faults;
mod gateway;
mod random;
mod script;
mod server;
mod wire;
mod world;

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
};

use bailiwick_proto::mcp::{Era, VERSION_2025_06_18, VERSION_2025_11_25};
use serde_json::{Value, json};

use self::{
    client::{Client, NODES},
    faults::{FAULTS, Fault},
    gateway::Gateway,
    random::Random,
    server::Server,
    wire::{Event, Wires},
    world::Consented,
};

/// Calls of one run.
const CALLS: u64 = 12;
/// Runs of each pair of eras.
const SEEDS: u64 = 60;
/// Events of one run: floods of some thousand lines are among them.
const EVENTS_MAX: u64 = 200_000;

/// One run; what came of its calls, in words.
fn one(seed: u64, (client_era, server_era): (Era, Era), fault: Option<Fault>) -> BTreeMap<&'static str, u64> {
    let mut random = Random::new(seed);
    let declared = declared(&mut random);
    let consented = Consented::any(&mut random);
    let mut wires = Wires::new(random, fault);
    let mut client = Client::new(client_era, server_era, declared.clone(), consented != Consented::Unlisted);
    let mut server = Server::new(server_era, declared.clone());
    let mut gateway = Gateway::new(NODES, &declared, consented);
    client.begin(&mut wires, CALLS);
    let mut events = 0;
    while let Some(event) = wires.next() {
        events += 1;
        assert!(events < EVENTS_MAX, "it never ends");
        match event {
            Event::Posted(connection, node, post) => gateway.posted(&mut wires, connection, node, &post),
            Event::Left(connection) => gateway.left(&mut wires, connection),
            Event::Told(connection, message) => client.told(&mut wires, connection, &message),
            Event::Replied(connection, reply) => client.replied(&mut wires, connection, &reply),
            Event::Asked(exchange, post) => server.asked(&mut wires, exchange, &post),
            Event::Dropped(exchange) => server.dropped(exchange),
            Event::Said(exchange, message) => gateway.said(&mut wires, exchange, message),
            Event::Answered(exchange, reply) => gateway.answered(&mut wires, exchange, &reply),
            Event::Broke(exchange) => gateway.broke(&mut wires, exchange),
            Event::Brought(answer) => gateway.brought(&mut wires, answer),
            Event::ClientWakes(what) => client.wakes(&mut wires, what),
            Event::ServerWakes(exchange) => server.wakes(&mut wires, exchange),
            Event::NodeWakes(number) => gateway.wakes(&mut wires, number),
        }
    }
    client.is_done();
    assert!(gateway.is_idle(), "a node waits for what never comes");
    assert!(consented != Consented::Unlisted || server.begun.is_empty(), "an unlisted tool is called");
    for ((op, round), times) in &server.begun {
        assert_eq!(*times, 1, "call {op} was begun {times} times at step {round}");
    }
    client.came
}

/// What a client of this run can be asked.
fn declared(random: &mut Random) -> Value {
    let mut declared = json!({});
    for (capability, likely) in [("elicitation", 75), ("sampling", 50), ("roots", 50)] {
        if random.percent(likely) {
            declared[capability] = json!({});
        }
    }
    declared
}

/// Many runs of one pair; each kind of end has to occur, or they are worth nothing.
fn many(client: Era, server: Era) {
    let mut came: BTreeMap<&'static str, u64> = BTreeMap::new();
    for seed in 0..SEEDS {
        match catch_unwind(AssertUnwindSafe(|| one(seed, (client, server), None))) {
            Ok(of_one) => of_one.into_iter().for_each(|(word, count)| *came.entry(word).or_default() += count),
            Err(panic) => {
                eprintln!("{client:?} to {server:?}, seed {seed}");
                resume_unwind(panic);
            }
        }
    }
    for word in ["result", "result after questions", "error", "refusal"] {
        assert!(came.get(word).is_some_and(|count| *count >= SEEDS / 4), "{word}: {came:?}");
    }
    assert_eq!(came.contains_key("asked by a result"), client.is_modern(), "{came:?}");
}

const LEGACY: Era = Era::Legacy(VERSION_2025_11_25);

#[test]
fn a_modern_client_and_a_modern_server_understand_each_other() {
    many(Era::Modern, Era::Modern);
}

#[test]
fn a_modern_client_and_a_server_of_the_old_era_understand_each_other() {
    many(Era::Modern, LEGACY);
}

#[test]
fn a_client_of_the_old_era_and_a_modern_server_understand_each_other() {
    many(LEGACY, Era::Modern);
}

#[test]
fn a_client_and_a_server_of_the_old_era_understand_each_other() {
    many(LEGACY, Era::Legacy(VERSION_2025_06_18));
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in 0..5 {
        assert_eq!(one(seed, (LEGACY, LEGACY), None), one(seed, (LEGACY, LEGACY), None));
    }
}

#[test]
fn every_promise_is_noticed_when_it_is_broken() {
    for (fault, promise) in FAULTS {
        let noticed = (0..SEEDS).any(|seed| {
            let run = || one(seed, (LEGACY, LEGACY), Some(fault.clone()));
            let said = catch_unwind(AssertUnwindSafe(run)).err().map(|panic| match panic.downcast::<String>() {
                Ok(said) => *said,
                Err(other) => other.downcast_ref::<&str>().map(|said| (*said).to_owned()).unwrap_or_default(),
            });
            said.is_some_and(|said| said.contains(promise))
        });
        assert!(noticed, "{fault:?}: nobody says `{promise}`");
    }
}
