//! Fuzzing of everything that reads bytes of strangers: messages, headers, event streams, envelopes, the edge,
//! OpenAPI documents, what programs and balancers say, hosts and networks, assertions and keys, proofs, contexts and
//! certificates, what clients of the authorization server send, and directories and transmitters of signals.
//!
//!   fuzz --seconds 60 [--seed N] [--target NAME]   so long, all targets in turn or one; what was tried is told
//!   fuzz --cases 100000 [--seed N] [--target NAME] so many cases of each target
//!   fuzz --seed N --target NAME --case M           one case again, exactly; its input is shown
//!
//! Every case starts from a seed text and changes it, byte by byte, token by token or member by member; what it does is
//! decided by seed, target and number alone. A case fails when the code panics, or when it breaks the target's promise,
//! which is checked against something written independently. Exit 0 when all held, 1 with the case that did not, 2 on
//! wrong usage.

mod assertions;
mod certificates;
#[path = "../../control-plane/server/src/http/client_certificate/header.rs"]
mod client_certificate;
mod clients;
mod config;
mod conversation;
mod decisions;
mod edge;
mod envelopes;
mod error;
#[path = "../../control-plane/server/src/oauth/form.rs"]
mod form;
mod mutate;
mod openapi;
mod oracles;
mod places;
mod proofs;
mod proxy;
#[path = "../../data-plane/server/src/listener/proxy_protocol.rs"]
mod proxy_protocol;
#[expect(dead_code, reason = "what reads bytes is tried, not what serves")]
#[path = "../../control-plane/server/src/scim"]
mod scim {
    const MEDIA_TYPE: &str = "application/scim+json";

    mod budget;
    mod document;
    mod fault;
    mod filter;
    #[path = "../../../../tests/fuzz/directories.rs"]
    pub(crate) mod fuzzed;
    mod patch;
    mod schema;
}
mod seeds;
#[path = "../../control-plane/server/src/signals"]
mod signals {
    #[path = "../../../../tests/fuzz/events.rs"]
    pub(crate) mod fuzzed;
    mod reading;
}
mod signed;
#[path = "../../data-plane/server/src/upstream/sse.rs"]
mod sse;
#[path = "../../data-plane/server/src/upstream/sse_transport/address.rs"]
mod sse_address;
mod targets;

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
    time::{Duration, Instant},
};

use crate::targets::{Broken, TARGETS, Target};

/// Cases of one target between looks at the clock and at the next target.
const CASES_AT_ONCE: u64 = 200;

/// What was asked for on the command line.
#[derive(Debug, Default)]
struct Wish {
    seconds: Option<u64>,
    cases: Option<u64>,
    seed: u64,
    target: Option<String>,
    case: Option<u64>,
}

fn main() -> ExitCode {
    let Some((wish, targets)) = wish(std::env::args().skip(1)) else {
        let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
        eprintln!(
            "usage: fuzz --seconds N | --cases N | --case N   [--seed N] [--target NAME]\nNAME: {}",
            names.join(", ")
        );
        return ExitCode::from(2);
    };
    if let (Some(case), [target]) = (wish.case, targets.as_slice()) {
        let input = targets::input(target, wish.seed, case);
        println!("{}", input.escape_ascii());
        return told(target, wish.seed, case, &run(target, &input)).unwrap_or(ExitCode::SUCCESS);
    }
    let began = Instant::now();
    let until = wish.seconds.map(|seconds| began + Duration::from_secs(seconds));
    let mut tried: BTreeMap<&str, u64> = BTreeMap::new();
    let mut accepted: BTreeMap<&str, u64> = BTreeMap::new();
    // Panics are reported once, as the case that caused them.
    std::panic::set_hook(Box::new(|_| {}));
    while !is_over(until, wish.cases, tried.values().copied().min().unwrap_or(0)) {
        for target in &targets {
            let count = tried.entry(target.name).or_default();
            for case in *count..*count + CASES_AT_ONCE {
                let outcome = run(target, &targets::input(target, wish.seed, case));
                *accepted.entry(target.name).or_default() += u64::from(matches!(outcome, Ok(true)));
                if let Some(code) = told(target, wish.seed, case, &outcome) {
                    return code;
                }
            }
            *count += CASES_AT_ONCE;
        }
    }
    for (name, count) in &tried {
        println!("{name}: {count} cases, {} of them accepted", accepted.get(name).copied().unwrap_or(0));
    }
    println!("seed {}, {:.1} s: every promise held", wish.seed, began.elapsed().as_secs_f64());
    ExitCode::SUCCESS
}

fn is_over(until: Option<Instant>, cases: Option<u64>, tried: u64) -> bool {
    until.is_some_and(|until| Instant::now() >= until) || cases.is_some_and(|cases| tried >= cases)
}

/// Whether the input was accepted by what it was given to, or what went wrong.
fn run(target: &Target, input: &[u8]) -> Result<bool, Broken> {
    let outcome = catch_unwind(AssertUnwindSafe(|| (target.check)(input)));
    outcome.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(Broken(format!("panicked: {}", text.unwrap_or_default())))
    })
}

fn told(target: &Target, seed: u64, case: u64, outcome: &Result<bool, Broken>) -> Option<ExitCode> {
    let Err(Broken(what)) = outcome else { return None };
    eprintln!("{}: {what}\nagain: fuzz --seed {seed} --target {} --case {case}", target.name, target.name);
    Some(ExitCode::FAILURE)
}

fn wish(mut arguments: impl Iterator<Item = String>) -> Option<(Wish, Vec<&'static Target>)> {
    let mut wish = Wish { seed: 1, ..Wish::default() };
    while let Some(flag) = arguments.next() {
        let value = arguments.next()?;
        match flag.as_str() {
            "--seconds" => wish.seconds = Some(value.parse().ok()?),
            "--cases" => wish.cases = Some(value.parse().ok()?),
            "--case" => wish.case = Some(value.parse().ok()?),
            "--seed" => wish.seed = value.parse().ok()?,
            "--target" => wish.target = Some(value),
            _ => return None,
        }
    }
    let wanted = |target: &&Target| wish.target.as_ref().is_none_or(|name| name == target.name);
    let targets: Vec<_> = TARGETS.iter().filter(wanted).collect();
    let ways = [wish.seconds, wish.cases, wish.case].iter().flatten().count();
    let is_right = ways == 1 && !targets.is_empty() && (wish.case.is_none() || targets.len() == 1);
    is_right.then_some((wish, targets))
}
