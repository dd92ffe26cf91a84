//! Configuration: TOML files, every key overridable by `BAILIWICK_SECTION__KEY`.
//!
//! Read once, at start, by the command line; nobody else reads the environment. Mistakes of form are found here;
//! each role then checks the meaning of its own section and reports all mistakes together.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use figment::{
    Figment,
    providers::{Env, Format, Toml},
};
use serde::de::DeserializeOwned;

/// Prefix of environment variables that override keys: `BAILIWICK_LEDGER__LISTEN` sets `ledger.listen`.
pub const ENV_PREFIX: &str = "BAILIWICK_";

/// Variables with the prefix that are no configuration keys.
const ENV_OTHER: [&str; 7] = ["admin", "bin", "cache", "identity", "ledger", "log", "programs"];

/// One mistake in a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigProblem {
    /// The key as written in the file; with the file or variable in front where that is known.
    pub key: String,
    /// What is wrong and what would be right.
    pub message: String,
}

/// Everything that is wrong with a configuration, one line each.
#[derive(Clone, Debug, Default, PartialEq, Eq, thiserror::Error)]
pub struct ConfigProblems(pub Vec<ConfigProblem>);

impl ConfigProblems {
    /// A single mistake.
    #[must_use]
    pub fn of(key: &str, message: &str) -> Self {
        let mut problems = Self::default();
        problems.add(key, message);
        problems
    }

    /// Notes a mistake.
    pub fn add(&mut self, key: impl Into<String>, message: impl Into<String>) {
        self.0.push(ConfigProblem { key: key.into(), message: message.into() });
    }

    /// # Errors
    /// Itself, if there is any mistake.
    pub fn into_result(self) -> Result<(), Self> {
        if self.0.is_empty() { Ok(()) } else { Err(self) }
    }
}

impl fmt::Display for ConfigProblems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("configuration is not usable:")?;
        self.0.iter().try_for_each(|problem| write!(f, "\n  {}: {}", problem.key, problem.message))
    }
}

/// Reads `file` (if given) and the environment into `T`.
///
/// # Errors
/// [`ConfigProblems`] naming the file or variable and the key.
pub fn load<T: DeserializeOwned>(file: Option<&Path>) -> Result<T, ConfigProblems> {
    let mut figment = Figment::new();
    if let Some(path) = file {
        if !path.is_file() {
            return Err(ConfigProblems::of(&path.display().to_string(), "no such file"));
        }
        figment = figment.merge(Toml::file_exact(path));
    }
    let env = Env::prefixed(ENV_PREFIX).ignore(&ENV_OTHER).split("__");
    figment.merge(env).extract().map_err(|errors| ConfigProblems(errors.into_iter().map(describe).collect()))
}

#[expect(clippy::needless_pass_by_value, reason = "used as a mapping function")]
fn describe(error: figment::Error) -> ConfigProblem {
    let source = error.metadata.as_ref().map_or_else(String::new, |found| {
        found.source.as_ref().map_or_else(|| found.name.to_string(), ToString::to_string)
    });
    let key = error.path.join(".");
    ConfigProblem { key: format!("{source}: {key}"), message: error.kind.to_string() }
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
