//! A short run of the fuzzer, and that it does what it is told. Hours are run by command: `fuzz --seconds 3600`, or
//! `tests/fuzz/run`, which learns from the code an input reaches.

#![expect(clippy::unwrap_used, reason = "a test that panics fails, as it should")]

use std::process::{Command, Output};

/// Cases of each target in each run of the tests: some seconds.
const CASES: &str = "20000";

fn fuzz(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_fuzz")).args(arguments).output().unwrap()
}

#[test]
fn whatever_strangers_send_is_read_as_promised() {
    let output = fuzz(&["--cases", CASES]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let readers =
        ["json", "message", "answer", "headers", "stream", "envelope", "wishes", "edge", "openapi", "conversation"];
    let places = ["proxy", "host", "network", "sse-address"];
    let identity = ["assertion", "key-set", "redirect", "form"];
    let proofs = ["filter", "patch", "event", "dpop", "proof", "context", "client-cert"];
    for target in readers.into_iter().chain(places).chain(identity).chain(proofs) {
        let line = said.lines().find(|line| line.starts_with(&format!("{target}: "))).unwrap();
        assert!(!line.contains(", 0 of them accepted"), "seeds that nothing accepts test nothing: {line}");
    }
}

#[test]
fn a_case_is_the_same_every_time_and_another_with_another_seed() {
    let input = |seed: &str| fuzz(&["--case", "17", "--target", "message", "--seed", seed]).stdout;
    assert_eq!(input("1"), input("1"));
    assert_ne!(input("1"), input("2"));
}

#[test]
fn wrong_usage_is_told() {
    for wrong in [&[][..], &["--seconds"], &["--seconds", "x"], &["--case", "1"], &["--cases", "1", "--target", "none"]]
    {
        assert_eq!(fuzz(wrong).status.code(), Some(2), "{wrong:?}");
    }
}
