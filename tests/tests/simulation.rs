//! Whole control-plane clusters under a seeded schedule of faults: no promise may break, and a seed repeats exactly.
//!
//! Runs the `simulate` program (`tests/simulation`) that this package builds. A failing seed is printed; replay it with
//! `cargo run -p bailiwick-tests --bin simulate -- --seed N --trace`.

#![expect(clippy::unwrap_used, reason = "a test that panics fails, as it should")]

use std::process::{Command, Output};

/// Seeds in each run of the tests. Any number by command: `simulate --seeds N --from M`.
const SEEDS: &str = "200";
/// Seeds that are run twice. Beyond those above, so that they count as well.
const SEEDS_TWICE: &str = "10";

fn simulate(arguments: &[&str]) -> Output {
    let jobs = std::thread::available_parallelism().map_or(1, std::num::NonZero::get).to_string();
    let mut command = Command::new(env!("CARGO_BIN_EXE_simulate"));
    command.args(arguments).args(["--jobs", &jobs]).output().unwrap()
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn hundreds_of_schedules_of_faults_break_no_promise() {
    let output = simulate(&["--seeds", SEEDS]);
    print!("{}", said(&output));
    assert!(output.status.success(), "{}", said(&output));
}

#[test]
fn the_same_seed_twice_gives_the_same_trace() {
    let output = simulate(&["--from", SEEDS, "--seeds", SEEDS_TWICE, "--twice"]);
    assert!(output.status.success(), "{}", said(&output));
}

#[test]
fn wrong_usage_is_told_from_a_broken_promise() {
    let output = simulate(&["--seeds"]);
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
}
