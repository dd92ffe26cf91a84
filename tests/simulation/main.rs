//! Whole control-plane clusters in one thread, in virtual time, from one seed.
//!
//!   simulate --seeds 300 [--from N] [--jobs N]   as many seeds, on as many threads; the failing ones are named
//!   simulate --seed N [--trace] [--log FILTER]   one seed again, exactly; with everything that happens, and with what
//!                                                the product logs (a filter as `info` or `openraft=debug`)
//!   simulate --seeds 20 --twice                  each seed twice; both must be the same
//!
//!   simulate --seeds 100 --only KIND             one kind of fault alone; which there are is told on wrong usage
//!
//! What is real: consensus, its storage code, the state machine, commands and decisions; the config stream and the
//! revocation lane from end to end, leases, and what data planes decide. What is simulated: disks that lose what was not
//! synced, networks that lose, delay, repeat, reorder and split, clocks that are wrong or run at other rates, and
//! machines that stop at any point. Exit 0 when no promise was broken, 1 with the seed when one was, 2 on wrong usage.

#![expect(
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test tool: its tasks belong to simulated nodes, and a panic fails the test, as it should"
)]

mod authority;
mod canon;
mod cluster;
mod cuts;
mod data_plane;
mod data_plane_faults;
mod disk;
mod faults;
mod history;
mod life;
mod linearizability;
mod network;
mod operator;
mod random;
mod run;
mod settle;
mod wire;
mod workload;
mod world;

use std::{
    process::ExitCode,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Instant,
};

use crate::{
    data_plane_faults::KINDS,
    run::{Only, Report},
};

/// What was asked for on the command line.
#[derive(Debug, Default)]
struct Wish {
    from: u64,
    seeds: u64,
    jobs: u64,
    trace: bool,
    twice: bool,
    only: Option<Only>,
    log: Option<String>,
}

fn main() -> ExitCode {
    let Some(wish) = wish(std::env::args().skip(1)) else {
        eprintln!(
            "usage: simulate --seeds COUNT [--from SEED] [--jobs THREADS] [--twice] [--only KIND] | --seed SEED [--only KIND] [--trace] [--log FILTER]\nKIND: control-planes, disks, {}",
            KINDS.map(|(name, _)| name).join(", ")
        );
        return ExitCode::from(2);
    };
    run::note_panics();
    if let Some(filter) = &wish.log {
        tracing_subscriber::fmt().with_env_filter(filter).without_time().with_ansi(false).init();
    }
    let (next, began, reports) = (AtomicU64::new(wish.from), Instant::now(), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..wish.jobs {
            scope.spawn(|| {
                while let Some(seed) = take(&next, &wish) {
                    let report = one(seed, &wish);
                    show(&report, &wish);
                    world::lock(&reports).push(report);
                }
            });
        }
    });
    let reports = world::lock(&reports);
    let sum = |of: fn(&Report) -> usize| reports.iter().map(of).sum::<usize>();
    let mut failed: Vec<u64> =
        reports.iter().filter(|report| !report.violations.is_empty()).map(|report| report.seed).collect();
    failed.sort_unstable();
    println!(
        "{} seeds, {} operations ({} with a known outcome), {} terms, {} calls admitted, the latest {:.3} s after its authority was taken away, {:.0} s of virtual time in {:.1} s: {}",
        reports.len(),
        sum(|report| report.operations),
        sum(|report| report.known),
        sum(|report| report.terms),
        sum(|report| report.admitted),
        reports.iter().map(|report| report.latest.as_secs_f64()).fold(0.0, f64::max),
        reports.iter().map(|report| report.virtual_time.as_secs_f64()).sum::<f64>(),
        began.elapsed().as_secs_f64(),
        if failed.is_empty() { "no promise was broken".to_owned() } else { format!("failing seeds: {failed:?}") },
    );
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn take(next: &AtomicU64, wish: &Wish) -> Option<u64> {
    let seed = next.fetch_add(1, Ordering::Relaxed);
    (seed - wish.from < wish.seeds).then_some(seed)
}

fn one(seed: u64, wish: &Wish) -> Report {
    let mut report = run::simulate(seed, wish.only, wish.trace);
    if wish.twice {
        let again = run::simulate(seed, wish.only, false);
        if again.trace != report.trace {
            let detail = format!("{:x?}, then {:x?}", report.trace, again.trace);
            let at = report.virtual_time;
            report.violations.push(world::Violation { kind: "not deterministic", detail, at });
        }
    }
    report
}

fn show(report: &Report, wish: &Wish) {
    if wish.seeds == 1 {
        println!(
            "seed {}: trace {:016x} of {} events, revision {}, {} terms, {} operations, {} calls admitted and {} refused, the latest {:.3} s late, {:.1} s of virtual time",
            report.seed,
            report.trace.0,
            report.trace.1,
            report.revision,
            report.terms,
            report.operations,
            report.admitted,
            report.refused,
            report.latest.as_secs_f64(),
            report.virtual_time.as_secs_f64(),
        );
    }
    for violation in report.violations.iter().take(5) {
        println!(
            "seed {}: {} at {:.3} s: {}",
            report.seed,
            violation.kind,
            violation.at.as_secs_f64(),
            violation.detail
        );
    }
}

fn wish(mut arguments: impl Iterator<Item = String>) -> Option<Wish> {
    let mut wish = Wish { jobs: 1, ..Wish::default() };
    while let Some(argument) = arguments.next() {
        if argument == "--log" {
            wish.log = Some(arguments.next()?);
            continue;
        }
        if argument == "--only" {
            wish.only = Some(Only::from_word(&arguments.next()?)?);
            continue;
        }
        let mut number = || arguments.next()?.parse::<u64>().ok();
        match argument.as_str() {
            "--seeds" => wish.seeds = number()?,
            "--from" => wish.from = number()?,
            "--jobs" => wish.jobs = number()?.max(1),
            "--seed" => (wish.from, wish.seeds) = (number()?, 1),
            "--trace" => wish.trace = true,
            "--twice" => wish.twice = true,
            _ => return None,
        }
    }
    (wish.seeds > 0).then_some(wish)
}
