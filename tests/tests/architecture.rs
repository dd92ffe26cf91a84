//! Holds the import table of ARCHITECTURE.md, the purity of the cores, and the ban on a second crypto stack.
//!
//! Reads `cargo metadata` and `cargo tree`, so it sees what is really built, and the sources of the cores for calls
//! that a dependency list does not show.

#![expect(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test that panics fails, as it should")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Command,
};

use bailiwick_tests::deployment::repository;
use serde_json::Value;

/// Package → what of ours it may import. What is not here may import anything of ours.
const MAY_IMPORT: [(&str, &[&str]); 14] = [
    ("bailiwick-proto", &[]),
    ("bailiwick-policy", &["bailiwick-proto"]),
    ("bailiwick-token", &["bailiwick-proto"]),
    ("bailiwick-runtime", &[]),
    ("bailiwick-ledger-core", &[]),
    ("bailiwick-enrolment", &["bailiwick-proto", "bailiwick-runtime"]),
    ("bailiwick-connect", &["bailiwick-proto", "bailiwick-token", "bailiwick-runtime"]),
    ("bailiwick-consensus", &["bailiwick-ledger-core"]),
    ("bailiwick-ledger", &["bailiwick-proto", "bailiwick-ledger-core", "bailiwick-runtime", "bailiwick-enrolment"]),
    (
        "bailiwick-control-plane-core",
        &["bailiwick-proto", "bailiwick-policy", "bailiwick-token", "bailiwick-ledger-core"],
    ),
    (
        "bailiwick-control-plane",
        &[
            "bailiwick-proto",
            "bailiwick-policy",
            "bailiwick-token",
            "bailiwick-ledger-core",
            "bailiwick-control-plane-core",
            "bailiwick-consensus",
            "bailiwick-runtime",
            "bailiwick-enrolment",
        ],
    ),
    ("bailiwick-data-plane-core", &["bailiwick-proto", "bailiwick-policy", "bailiwick-token", "bailiwick-ledger-core"]),
    (
        "bailiwick-data-plane",
        &[
            "bailiwick-proto",
            "bailiwick-policy",
            "bailiwick-token",
            "bailiwick-ledger-core",
            "bailiwick-data-plane-core",
            "bailiwick-runtime",
            "bailiwick-enrolment",
        ],
    ),
    (
        "bailiwick-loadtest",
        &[
            "bailiwick-proto",
            "bailiwick-token",
            "bailiwick-control-plane-core",
            "bailiwick-consensus",
            "bailiwick-control-plane",
        ],
    ),
];

/// Packages without async, clock, randomness, environment, files or sockets, and their source folders.
const PURE: [(&str, &str); 6] = [
    ("bailiwick-proto", "proto/src"),
    ("bailiwick-policy", "policy/src"),
    ("bailiwick-token", "token/src"),
    ("bailiwick-ledger-core", "ledger/core/src"),
    ("bailiwick-control-plane-core", "control-plane/core/src"),
    ("bailiwick-data-plane-core", "data-plane/core/src"),
];

/// Words that only impure code needs.
const IMPURE_WORDS: [&str; 13] = [
    "async fn",
    ".await",
    "std::fs",
    "std::net",
    "std::env",
    "std::process",
    "std::thread",
    "SystemTime::now",
    "Instant::now",
    "Timestamp::now",
    "Zoned::now",
    "rand::",
    "SystemRandom",
];

/// The one place below a server that asks for randomness: making a key pair, which only servers call, and the nonce
/// inside an ES256 signature, which the cryptographic library draws.
const DRAWS_RANDOMNESS: &str = "token/src/key.rs";

fn cargo(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO")).args(arguments).current_dir(repository()).output().unwrap();
    assert!(output.status.success(), "cargo {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn imports() -> BTreeMap<String, BTreeSet<String>> {
    let metadata: Value =
        serde_json::from_str(&cargo(&["metadata", "--format-version", "1", "--no-deps", "--locked", "--offline"]))
            .unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let ours = |package: &Value| {
        let dependencies = package["dependencies"].as_array().unwrap().iter();
        let shipped = dependencies.filter(|dependency| dependency["kind"].as_str() != Some("dev"));
        shipped
            .map(|dependency| dependency["name"].as_str().unwrap().to_owned())
            .filter(|name| name.starts_with("bailiwick"))
            .collect()
    };
    packages.iter().map(|package| (package["name"].as_str().unwrap().to_owned(), ours(package))).collect()
}

#[test]
fn packages_import_only_what_the_table_allows() {
    let imports = imports();
    for (package, allowed) in MAY_IMPORT {
        let found = imports.get(package).unwrap_or_else(|| panic!("{package} is gone; update the table"));
        let forbidden: Vec<_> = found.iter().filter(|name| !allowed.contains(&name.as_str())).collect();
        assert!(forbidden.is_empty(), "{package} imports {forbidden:?}");
    }
}

#[test]
fn no_async_runtime_reaches_a_core() {
    for (package, _) in PURE {
        let tree = cargo(&["tree", "-p", package, "-e", "normal", "--prefix", "none", "--locked", "--offline"]);
        let banned = |line: &&str| {
            ["tokio v", "tokio-util v", "hyper v", "reqwest v", "axum v", "rocksdb v", "mio v", "async-nats v"]
                .iter()
                .any(|name| line.starts_with(name))
        };
        let found: Vec<&str> = tree.lines().filter(banned).collect();
        assert!(found.is_empty(), "{package} depends on {found:?}");
    }
}

#[test]
fn no_second_crypto_stack_is_in_the_tree() {
    let tree = cargo(&["tree", "--workspace", "-e", "normal,build", "--prefix", "none", "--locked", "--offline"]);
    for banned in ["ring v", "openssl-sys v", "openssl v", "native-tls v"] {
        assert!(!tree.lines().any(|line| line.starts_with(banned)), "{banned} is in the tree");
    }
}

#[test]
fn cores_hold_no_impure_word_outside_tests() {
    let mut found = Vec::new();
    for (_, folder) in PURE {
        for_each_source(&repository().join(folder), &mut |path, text| {
            if path.ends_with("tests.rs") || path.components().any(|part| part.as_os_str() == "tests") {
                return;
            }
            let code = text.split("#[cfg(test)]").next().unwrap();
            for (number, line) in code.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//")) {
                let excused =
                    |word: &str| path.ends_with(DRAWS_RANDOMNESS) && (word == "SystemRandom" || word == "rand::");
                if let Some(word) = IMPURE_WORDS.iter().find(|word| line.contains(**word) && !excused(word)) {
                    found.push(format!("{}:{}: {word}", path.display(), number + 1));
                }
            }
        });
    }
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn every_source_file_says_what_it_is_for() {
    let mut without = Vec::new();
    for folder in [
        "proto",
        "policy",
        "token",
        "enrolment",
        "runtime",
        "control-plane",
        "data-plane",
        "ledger",
        "connect",
        "cli",
        "tests",
        "loadtest",
        "deploy",
    ] {
        for_each_source(&repository().join(folder), &mut |path, text| {
            if !text.starts_with("//!") {
                without.push(path.display().to_string());
            }
        });
    }
    assert!(without.is_empty(), "no `//!` header: {without:#?}");
}

#[test]
fn cedar_is_named_in_one_module_only() {
    for folder in ["proto", "policy", "token", "control-plane", "data-plane", "ledger", "cli", "runtime", "enrolment"] {
        for_each_source(&repository().join(folder), &mut |path, text| {
            let module = repository().join("policy/src/cedar");
            let inside = path == module.with_extension("rs") || path.starts_with(&module);
            assert!(inside || !text.contains("cedar_policy"), "{} names Cedar", path.display());
        });
    }
}

#[test]
fn openraft_is_named_in_the_consensus_folder_only() {
    for_each_source(&repository().join("control-plane"), &mut |path, text| {
        let inside = path.to_string_lossy().contains("/consensus");
        assert!(inside || !text.contains("openraft::"), "{} names openraft", path.display());
    });
}

fn for_each_source(folder: &Path, visit: &mut dyn FnMut(&Path, &str)) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("target") && !path.ends_with("node_modules") && !path.is_symlink() {
            for_each_source(&path, visit);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            visit(&path, &fs::read_to_string(&path).unwrap());
        }
    }
}
