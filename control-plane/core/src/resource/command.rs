//! Servers that are not reached over Streamable HTTP: programs that data planes run, and HTTP+SSE.
//!
//! A program is code on the machine of a data plane. So a manifest can only wish for it: each node's operator says
//! which programs may be run there (`upstream.commands`), and what could make one of them into another (the search
//! path, variables that loaders and interpreters obey) cannot be set here. Called by `checks` and `view`. Absent:
//! running anything (`data-plane/server`).

use std::collections::BTreeMap;

use bailiwick_proto::{names, v1};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::checks::{self, Fault};

/// Longest path, argument and value of a variable.
const TEXT_BYTES_MAX: usize = 4_096;
/// Most arguments, and most variables.
const ITEMS_MAX: usize = 64;
/// Processes at once on one node, where nothing is said.
const PROCESSES_DEFAULT: u32 = 8;
/// Most that can be asked for; a node has a bound of its own for all servers together.
const PROCESSES_MAX: u32 = 256;
/// How long an unused process is kept, where nothing is said: an agent's next call is near.
const IDLE_MS_DEFAULT: u64 = 300_000;
/// Variables that make a program run other code than its own: of the loader, of shells and interpreters.
const LOADING: [&str; 22] = [
    "PATH",
    "ENV",
    "BASH_ENV",
    "IFS",
    "SHELLOPTS",
    "NODE_OPTIONS",
    "NODE_PATH",
    "PYTHONPATH",
    "PYTHONHOME",
    "PYTHONSTARTUP",
    "PYTHONINSPECT",
    "PERL5OPT",
    "PERL5LIB",
    "PERL5DB",
    "RUBYOPT",
    "RUBYLIB",
    "JAVA_TOOL_OPTIONS",
    "JDK_JAVA_OPTIONS",
    "_JAVA_OPTIONS",
    "CLASSPATH",
    "GCONV_PATH",
    "DENO_DIR",
];
/// Beginnings of such names.
const LOADING_PREFIXES: [&str; 3] = ["LD_", "DYLD_", "BAILIWICK_"];

/// How a URL is spoken to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// Streamable HTTP, in either era.
    #[default]
    StreamableHttp,
    /// HTTP+SSE, the transport of 2024-11-05: a stream, and an address for messages that it names.
    Sse,
}

impl Transport {
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// The word on the config stream.
    pub(crate) const fn view(self) -> &'static str {
        match self {
            Self::StreamableHttp => "",
            Self::Sse => "sse",
        }
    }
}

/// A program that speaks MCP over its standard input and output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CommandSpec {
    /// The program's absolute path. Each data plane's operator says which may be run there.
    pub program: String,
    /// Its arguments, as they stand: no shell reads them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Its environment: nothing else is in it but a search path that the node's operator sets.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, Variable>,
    /// The folder it runs in, absolute; the root folder where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<String>,
    /// Who shares a process.
    #[serde(default, skip_serializing_if = "Sharing::is_default")]
    pub sharing: Sharing,
    /// Most processes at once on one node; 8 where absent. Whoever comes when all are busy waits, or is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processes: Option<u32>,
    /// A process that nobody has used for so long ends, e.g. "90s"; 5m where absent, 10m at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle: Option<String>,
}

/// The value of a variable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, deny_unknown_fields, expecting = "must be a string or {secret: NAME}")]
pub enum Variable {
    /// As it stands; anybody who may read manifests reads it.
    Plain(String),
    /// Of a sealed secret.
    Secret {
        /// Its name.
        secret: String,
    },
}

/// Who shares a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Sharing {
    /// Nobody: each person has one through each agent, so that what a program remembers of one is not shown to another.
    #[default]
    Caller,
    /// All callers: only for programs that remember nothing of them.
    All,
}

impl Sharing {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl CommandSpec {
    /// How long an unused process is kept, in milliseconds.
    #[must_use]
    pub fn idle_ms(&self) -> u64 {
        self.idle.as_deref().and_then(checks::timeout_ms).unwrap_or(IDLE_MS_DEFAULT)
    }

    /// As data planes see it.
    pub(crate) fn view(&self) -> v1::Command {
        let variable = |(name, value): (&String, &Variable)| match value {
            Variable::Plain(value) => {
                v1::CommandVariable { name: name.clone(), value: value.clone(), ..v1::CommandVariable::default() }
            }
            Variable::Secret { secret } => {
                v1::CommandVariable { name: name.clone(), secret: secret.clone(), ..v1::CommandVariable::default() }
            }
        };
        v1::Command {
            program: self.program.clone(),
            args: self.args.clone(),
            env: self.env.iter().map(variable).collect(),
            directory: self.directory.clone().unwrap_or_default(),
            shared: self.sharing == Sharing::All,
            processes: self.processes.unwrap_or(PROCESSES_DEFAULT),
            idle_ms: self.idle_ms(),
        }
    }

    /// The names of the secrets it needs.
    pub fn secrets(&self) -> impl Iterator<Item = &str> {
        self.env.values().filter_map(|value| match value {
            Variable::Plain(_) => None,
            Variable::Secret { secret } => Some(secret.as_str()),
        })
    }

    /// What is wrong with it.
    pub(super) fn faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        let mut require = |holds: bool, key: &str, message: &str| {
            if !holds {
                faults.push(Fault::new(format!("spec.endpoint.command.{key}"), message));
            }
        };
        require(is_path(&self.program), "program", PATH_RULE);
        require(self.directory.as_deref().is_none_or(is_path), "directory", PATH_RULE);
        let are_texts = self.args.len() <= ITEMS_MAX && self.args.iter().all(|argument| is_text(argument));
        require(are_texts, "args", "must be at most 64 texts of at most 4096 bytes without null characters");
        require(self.env.len() <= ITEMS_MAX, "env", "must be at most 64 variables");
        for (name, value) in &self.env {
            let key = format!("env.{name}");
            require(is_variable(name), &key, "must be letters, digits and underscores, with no digit first");
            require(!is_loading(name), &key, "makes programs run other code than their own: set it on the node");
            match value {
                Variable::Plain(value) => {
                    require(is_text(value), &key, "must be at most 4096 bytes without null characters");
                }
                Variable::Secret { secret } => {
                    let message = "must be 1 to 63 lower-case letters, digits and inner hyphens, dots or underscores";
                    require(names::is_resource_name(secret), &format!("{key}.secret"), message);
                }
            }
        }
        let are_few = self.processes.is_none_or(|processes| (1..=PROCESSES_MAX).contains(&processes));
        require(are_few, "processes", "must be from 1 to 256");
        let is_time = self.idle.as_deref().is_none_or(|idle| checks::timeout_ms(idle).is_some());
        require(is_time, "idle", "must be a whole number with a unit, from \"1ms\" to \"10m\", e.g. \"90s\"");
        faults
    }
}

const PATH_RULE: &str = "must be an absolute path without empty parts, \".\" and \"..\"";

/// An absolute path that can be read in one way only.
fn is_path(text: &str) -> bool {
    let Some(parts) = text.strip_prefix('/') else { return false };
    let plain = |part: &str| !matches!(part, "" | "." | "..");
    is_text(text) && !text.contains(char::is_control) && (parts.is_empty() || parts.split('/').all(plain))
}

fn is_text(text: &str) -> bool {
    text.len() <= TEXT_BYTES_MAX && !text.contains('\0')
}

fn is_variable(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    name.len() <= 128 && name.chars().all(plain) && name.starts_with(|c: char| !c.is_ascii_digit())
}

fn is_loading(name: &str) -> bool {
    LOADING.contains(&name) || LOADING_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(yaml_as_json: &str) -> CommandSpec {
        serde_json::from_str(yaml_as_json).unwrap()
    }

    fn keys(spec: &CommandSpec) -> Vec<String> {
        let shorter = |fault: Fault| fault.key.trim_start_matches("spec.endpoint.command.").to_owned();
        spec.faults().into_iter().map(shorter).collect()
    }

    #[test]
    fn a_command_needs_a_program_and_nothing_else() {
        let spec = command(r#"{"program": "/usr/bin/server"}"#);
        assert!(spec.faults().is_empty());
        let view = spec.view();
        assert_eq!((view.shared, view.processes, view.idle_ms), (false, PROCESSES_DEFAULT, IDLE_MS_DEFAULT));
    }

    #[test]
    fn values_that_do_not_fit_are_told_by_key() {
        for (text, key) in [
            (r#"{"program": "server"}"#, "program"),
            (r#"{"program": "/usr/../bin/sh"}"#, "program"),
            (r#"{"program": "/usr//bin/sh"}"#, "program"),
            (r#"{"program": "/bin/s\n"}"#, "program"),
            (r#"{"program": "/s", "args": ["a\u0000b"]}"#, "args"),
            (r#"{"program": "/s", "directory": "srv"}"#, "directory"),
            (r#"{"program": "/s", "env": {"1A": "x"}}"#, "env.1A"),
            (r#"{"program": "/s", "env": {"A=B": "x"}}"#, "env.A=B"),
            (r#"{"program": "/s", "env": {"PATH": "/tmp"}}"#, "env.PATH"),
            (r#"{"program": "/s", "env": {"LD_PRELOAD": "/tmp/x.so"}}"#, "env.LD_PRELOAD"),
            (r#"{"program": "/s", "env": {"NODE_OPTIONS": "--require=x"}}"#, "env.NODE_OPTIONS"),
            (r#"{"program": "/s", "env": {"A": {"secret": "No Name"}}}"#, "env.A.secret"),
            (r#"{"program": "/s", "processes": 0}"#, "processes"),
            (r#"{"program": "/s", "processes": 257}"#, "processes"),
            (r#"{"program": "/s", "idle": "1h"}"#, "idle"),
        ] {
            assert_eq!(keys(&command(text)), [key], "{text}");
        }
    }

    #[test]
    fn a_secret_travels_by_name() {
        let spec = command(r#"{"program": "/s", "env": {"A": "x", "TOKEN": {"secret": "github"}}, "sharing": "all"}"#);
        assert_eq!(spec.secrets().collect::<Vec<_>>(), ["github"]);
        let view = spec.view();
        let variables: Vec<_> =
            view.env.iter().map(|v| (v.name.as_str(), v.value.as_str(), v.secret.as_str())).collect();
        assert_eq!(variables, [("A", "x", ""), ("TOKEN", "", "github")]);
        assert!(view.shared && spec.faults().is_empty());
    }
}
