//! Configuration: TOML files, every key overridable by `BAILIWICK_SECTION__KEY`.
//!
//! Read once, at start, by the command line; nobody else reads the environment. Mistakes of form are found here;
//! each role then checks the meaning of its own section and reports all mistakes together.

use std::path::{Path, PathBuf};

use figment::{
    Figment,
    providers::{Env, Format, Toml},
};
use serde::de::DeserializeOwned;

/// Prefix of environment variables that override keys: `BAILIWICK_LEDGER__LISTEN` sets `ledger.listen`.
pub const ENV_PREFIX: &str = "BAILIWICK_";

/// Variables with the prefix that are no configuration keys.
const ENV_OTHER: [&str; 5] = ["admin", "cache", "bin", "log", "ledger"];

/// Everything that is wrong with a configuration, one line each.
#[derive(Debug, thiserror::Error)]
#[error("configuration is not usable:\n{}", .0.join("\n"))]
pub struct ConfigProblems(pub Vec<String>);

/// Reads `file` (if given) and the environment into `T`.
///
/// # Errors
/// [`ConfigProblems`] naming the file or variable and the key.
pub fn load<T: DeserializeOwned>(file: Option<&Path>) -> Result<T, ConfigProblems> {
    let mut figment = Figment::new();
    if let Some(path) = file {
        if !path.is_file() {
            return Err(ConfigProblems(vec![format!("  {}: no such file", path.display())]));
        }
        figment = figment.merge(Toml::file_exact(path));
    }
    let env = Env::prefixed(ENV_PREFIX).ignore(&ENV_OTHER).split("__");
    figment.merge(env).extract().map_err(|errors| ConfigProblems(errors.into_iter().map(describe).collect()))
}

#[expect(clippy::needless_pass_by_value, reason = "used as a mapping function")]
fn describe(error: figment::Error) -> String {
    let source = error.metadata.as_ref().map_or_else(String::new, |found| {
        found.source.as_ref().map_or_else(|| found.name.to_string(), ToString::to_string)
    });
    let key = error.path.join(".");
    format!("  {source}: {key}: {}", error.kind)
}

/// A value of the environment that is no configuration key (`HOME`, `BAILIWICK_ADMIN`).
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
pub fn env(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The folder for data when none is given: `$XDG_DATA_HOME/bailiwick`, else `~/.local/share/bailiwick`.
#[must_use]
pub fn default_data_dir() -> PathBuf {
    let base = env("XDG_DATA_HOME").map(PathBuf::from);
    let home = || env("HOME").map_or_else(|| PathBuf::from("."), PathBuf::from);
    base.unwrap_or_else(|| home().join(".local/share")).join("bailiwick")
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Example {
        #[serde(rename = "name")]
        _name: String,
    }

    #[test]
    fn an_unknown_key_is_named_with_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x.toml");
        std::fs::write(&file, "name = \"a\"\nnmae = \"b\"\n").unwrap();
        let problems = load::<Example>(Some(&file)).unwrap_err().to_string();
        assert!(problems.contains("x.toml") && problems.contains("nmae"), "{problems}");
    }

    #[test]
    fn a_missing_file_is_said_plainly() {
        let problems = load::<Example>(Some(Path::new("/nonexistent.toml"))).unwrap_err().to_string();
        assert!(problems.contains("no such file"), "{problems}");
    }
}
