//! The fuzzer's targets (`targets`) under libFuzzer, which keeps an input that reaches code no other one did.
//!
//! Made and started by `tests/fuzz/run`, instrumented; the last argument names the target. Half of the inputs libFuzzer
//! changes, half our own ways of changing a text do (`mutate`), which know JSON and what readers disagree about; now
//! and then one begins anew from a seed. A panic or a broken promise ends the process, and libFuzzer keeps the input.

#![no_main]

#[path = "../assertions.rs"]
mod assertions;
#[path = "../certificates.rs"]
mod certificates;
#[path = "../../../control-plane/server/src/http/client_certificate/header.rs"]
mod client_certificate;
#[path = "../clients.rs"]
mod clients;
#[path = "../config.rs"]
mod config;
#[path = "../conversation.rs"]
mod conversation;
#[path = "../decisions.rs"]
mod decisions;
#[path = "../edge.rs"]
mod edge;
#[path = "../envelopes.rs"]
mod envelopes;
#[path = "../error.rs"]
mod error;
#[path = "../../../control-plane/server/src/oauth/form.rs"]
mod form;
#[path = "../mutate.rs"]
mod mutate;
#[path = "../openapi.rs"]
mod openapi;
#[path = "../oracles.rs"]
mod oracles;
#[path = "../places.rs"]
mod places;
#[path = "../proofs.rs"]
mod proofs;
#[path = "../proxy.rs"]
mod proxy;
#[path = "../../../data-plane/server/src/listener/proxy_protocol.rs"]
mod proxy_protocol;
#[expect(dead_code, reason = "what reads bytes is tried, not what serves")]
#[path = "../../../control-plane/server/src/scim"]
mod scim {
    const MEDIA_TYPE: &str = "application/scim+json";

    mod document;
    mod fault;
    mod filter;
    #[path = "../../../../tests/fuzz/directories.rs"]
    pub(crate) mod fuzzed;
    mod patch;
    mod schema;
}
#[path = "../seeds.rs"]
mod seeds;
#[path = "../../../control-plane/server/src/signals"]
mod signals {
    #[path = "../../../../tests/fuzz/events.rs"]
    pub(crate) mod fuzzed;
    mod reading;
}
#[path = "../signed.rs"]
mod signed;
#[path = "../../../data-plane/server/src/upstream/sse.rs"]
mod sse;
#[path = "../../../data-plane/server/src/upstream/sse_transport/address.rs"]
mod sse_address;
#[path = "../targets.rs"]
mod targets;

use std::sync::OnceLock;

use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};

use crate::{
    mutate::{Random, changed},
    targets::{Broken, TARGETS, Target},
};

/// The one that was named.
fn target() -> &'static Target {
    static NAMED: OnceLock<&'static Target> = OnceLock::new();
    NAMED.get_or_init(|| {
        let name = std::env::args().next_back().unwrap_or_default();
        let named = TARGETS.iter().find(|target| target.name == name);
        named.unwrap_or_else(|| {
            eprintln!("no target `{name}`");
            std::process::exit(2)
        })
    })
}

fuzz_target!(|input: &[u8]| {
    if let Err(Broken(what)) = (target().check)(input) {
        eprintln!("{}: {what}: {}", target().name, input.escape_ascii());
        std::process::abort();
    }
});

fuzz_mutator!(|data: &mut [u8], size: usize, bytes_max: usize, seed: u32| { mutated(data, size, bytes_max, seed) });

/// Changes the first `size` bytes of `data`; how many there are then.
fn mutated(data: &mut [u8], size: usize, bytes_max: usize, seed: u32) -> usize {
    let mut random = Random::new(seed.into(), target().name, 0);
    let instead = match random.below(16) {
        0 => targets::input(target(), seed.into(), 0),
        1..8 => changed(&mut random, data.get(..size).unwrap_or_default(), &seeds::MESSAGES),
        _ => return fuzzer_mutate(data, size, bytes_max),
    };
    let length = instead.len().min(bytes_max).min(data.len());
    if let (Some(to), Some(from)) = (data.get_mut(..length), instead.get(..length)) {
        to.copy_from_slice(from);
    }
    length
}
