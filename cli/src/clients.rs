//! MCP clients that people have on their machines: where each keeps its servers, and in which words.
//!
//! Asked by `client list` and `client setup`. One table, [`ALL`]; a file is edited as text (`json`, `toml`), so that
//! what else stands there stays as it was, byte for byte, and what was written can be taken back (`undo`).
//! Deliberately absent: starting clients, and any file that is not in the table.

pub(crate) mod difference;
pub(crate) mod json;
pub(crate) mod toml;
pub(crate) mod undo;

use std::path::{Path, PathBuf};

use bailiwick_runtime::config::env;
use serde_json::{Value, json};

use crate::failure::Failure;

/// How a client's file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Syntax {
    /// Strict JSON; servers are members of the object under this name.
    Json(&'static str),
    /// With comments and commas at ends.
    JsonWithComments(&'static str),
    /// TOML; servers are tables below this one.
    Toml(&'static str),
}

/// A client that we know.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Client {
    /// What it is called here.
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    syntax: Syntax,
    /// Below the home folder; the other one on macOS.
    user: &'static str,
    user_macos: Option<&'static str>,
    /// Below a project's folder.
    project: Option<&'static str>,
    /// What is there where it is installed, below the home folder.
    traces: &'static [&'static str],
    /// What it is started with.
    program: &'static str,
    /// The word for a server over HTTP and what `type` says of it; `None` where it takes no headers.
    http: Option<Http>,
    /// What `type` says of a program, where it has to.
    program_type: Option<&'static str>,
}

#[derive(Clone, Copy, Debug)]
struct Http {
    url: &'static str,
    headers: &'static str,
    kind: Option<&'static str>,
}

/// What an entry says.
#[derive(Clone, Debug)]
pub(crate) enum Entry {
    /// A program and its arguments.
    Program(String, Vec<String>),
    /// An endpoint, and what it wants to be shown.
    Http(String, String),
}

const USUAL_HTTP: Option<Http> = Some(Http { url: "url", headers: "headers", kind: None });
const TYPED_HTTP: Option<Http> = Some(Http { url: "url", headers: "headers", kind: Some("http") });

/// All of them, by name.
pub(crate) const ALL: [Client; 8] = [
    Client {
        name: "claude-code",
        title: "Claude Code",
        syntax: Syntax::Json("mcpServers"),
        user: ".claude.json",
        user_macos: None,
        project: Some(".mcp.json"),
        traces: &[".claude.json", ".claude"],
        program: "claude",
        http: TYPED_HTTP,
        program_type: Some("stdio"),
    },
    Client {
        name: "claude-desktop",
        title: "Claude Desktop",
        syntax: Syntax::Json("mcpServers"),
        user: ".config/Claude/claude_desktop_config.json",
        user_macos: Some("Library/Application Support/Claude/claude_desktop_config.json"),
        project: None,
        traces: &[".config/Claude", "Library/Application Support/Claude"],
        program: "claude-desktop",
        http: None,
        program_type: None,
    },
    Client {
        name: "codex",
        title: "Codex",
        syntax: Syntax::Toml("mcp_servers"),
        user: ".codex/config.toml",
        user_macos: None,
        project: Some(".codex/config.toml"),
        traces: &[".codex"],
        program: "codex",
        http: Some(Http { url: "url", headers: "http_headers", kind: None }),
        program_type: None,
    },
    Client {
        name: "cursor",
        title: "Cursor",
        syntax: Syntax::Json("mcpServers"),
        user: ".cursor/mcp.json",
        user_macos: None,
        project: Some(".cursor/mcp.json"),
        traces: &[".cursor"],
        program: "cursor",
        http: USUAL_HTTP,
        program_type: None,
    },
    Client {
        name: "gemini",
        title: "Gemini CLI",
        syntax: Syntax::JsonWithComments("mcpServers"),
        user: ".gemini/settings.json",
        user_macos: None,
        project: Some(".gemini/settings.json"),
        traces: &[".gemini"],
        program: "gemini",
        http: Some(Http { url: "httpUrl", headers: "headers", kind: None }),
        program_type: None,
    },
    Client {
        name: "vscode",
        title: "Visual Studio Code",
        syntax: Syntax::JsonWithComments("servers"),
        user: ".config/Code/User/mcp.json",
        user_macos: Some("Library/Application Support/Code/User/mcp.json"),
        project: Some(".vscode/mcp.json"),
        traces: &[".config/Code", "Library/Application Support/Code"],
        program: "code",
        http: TYPED_HTTP,
        program_type: Some("stdio"),
    },
    Client {
        name: "windsurf",
        title: "Windsurf",
        syntax: Syntax::Json("mcpServers"),
        user: ".codeium/windsurf/mcp_config.json",
        user_macos: None,
        project: None,
        traces: &[".codeium/windsurf"],
        program: "windsurf",
        http: Some(Http { url: "serverUrl", headers: "headers", kind: None }),
        program_type: None,
    },
    Client {
        name: "zed",
        title: "Zed",
        syntax: Syntax::JsonWithComments("context_servers"),
        user: ".config/zed/settings.json",
        user_macos: None,
        project: Some(".zed/settings.json"),
        traces: &[".config/zed"],
        program: "zed",
        http: USUAL_HTTP,
        program_type: None,
    },
];

/// The client of this name.
pub(crate) fn named(name: &str) -> Result<&'static Client, Failure> {
    let known = || ALL.map(|client| client.name).join(", ");
    let found = ALL.iter().find(|client| client.name == name);
    found.ok_or_else(|| Failure::Usage(format!("there is no client `{name}` here; there are {}", known())))
}

/// The folder that user files lie below.
pub(crate) fn home() -> Result<PathBuf, Failure> {
    let home = env("HOME").map(PathBuf::from);
    home.ok_or_else(|| Failure::Usage("HOME is not set, so no client's configuration can be found".to_owned()))
}

impl Client {
    pub(crate) fn user_file(&self, home: &Path) -> PathBuf {
        home.join(self.user_macos.filter(|_| cfg!(target_os = "macos")).unwrap_or(self.user))
    }

    pub(crate) fn project_file(&self, folder: &Path) -> Option<PathBuf> {
        self.project.map(|path| folder.join(path))
    }

    /// Whether anything of it is on this machine.
    pub(crate) fn is_installed(&self, home: &Path) -> bool {
        let has_trace = self.traces.iter().any(|trace| home.join(trace).exists());
        let folders = env("PATH").unwrap_or_default();
        has_trace || std::env::split_paths(&folders).any(|folder| folder.join(self.program).is_file())
    }

    /// What its file says of a server.
    pub(crate) fn entry(&self, entry: &Entry) -> Result<Value, Failure> {
        let mut members = serde_json::Map::new();
        match entry {
            Entry::Program(program, arguments) => {
                members.extend(self.program_type.map(|kind| ("type".to_owned(), json!(kind))));
                members.insert("command".to_owned(), json!(program));
                members.insert("args".to_owned(), json!(arguments));
            }
            Entry::Http(url, secret) => {
                let without = || Failure::Usage(format!("{} cannot be given headers: leave --http out", self.title));
                let http = self.http.ok_or_else(without)?;
                members.extend(http.kind.map(|kind| ("type".to_owned(), json!(kind))));
                members.insert(http.url.to_owned(), json!(url));
                members.insert(http.headers.to_owned(), json!({"Authorization": format!("Bearer {secret}")}));
            }
        }
        Ok(Value::Object(members))
    }

    /// The file's text with this entry; of a file that is not there, the text that it gets.
    pub(crate) fn with_entry(&self, text: &str, server: &str, entry: &Value) -> Result<String, Malformed> {
        match self.syntax {
            Syntax::Json(key) => json::set(text, key, server, entry, json::Comments::No),
            Syntax::JsonWithComments(key) => json::set(text, key, server, entry, json::Comments::Yes),
            Syntax::Toml(key) => toml::set(text, key, server, entry),
        }
    }

    /// The file's text without the entry.
    pub(crate) fn without_entry(&self, text: &str, server: &str) -> Result<String, Malformed> {
        match self.syntax {
            Syntax::Json(key) => json::remove(text, key, server, json::Comments::No),
            Syntax::JsonWithComments(key) => json::remove(text, key, server, json::Comments::Yes),
            Syntax::Toml(key) => toml::remove(text, key, server),
        }
    }

    /// The file's servers, by name.
    pub(crate) fn servers(&self, text: &str) -> Result<serde_json::Map<String, Value>, Malformed> {
        let (key, value) = match self.syntax {
            Syntax::Json(key) => (key, json::value(text, json::Comments::No)?),
            Syntax::JsonWithComments(key) => (key, json::value(text, json::Comments::Yes)?),
            Syntax::Toml(key) => (key, toml::value(text)?),
        };
        Ok(value.get(key).and_then(Value::as_object).cloned().unwrap_or_default())
    }
}

/// Whether a server's entry starts us.
pub(crate) fn is_ours(entry: &Value) -> bool {
    let command = entry.get("command").and_then(Value::as_str).unwrap_or_default();
    let is_program = Path::new(command).file_name().is_some_and(|name| name == "bailiwick");
    is_program && entry.pointer("/args/0").is_some_and(|word| word == "connect")
}

/// A file is not what its client writes; it is left alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Malformed(pub(crate) String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_client_gets_its_entry_and_loses_it_again() {
        let program =
            Entry::Program("/usr/bin/bailiwick".into(), vec!["connect".into(), "https://a.example/mcp".into()]);
        let http = Entry::Http("http://127.0.0.1:8410/mcp".into(), "secret".into());
        for client in ALL {
            let entry = client.entry(&program).unwrap();
            let text = client.with_entry("", "shop", &entry).unwrap();
            assert_eq!(client.servers(&text).unwrap().get("shop"), Some(&entry), "{}: {text}", client.name);
            assert!(is_ours(&entry), "{}", client.name);
            let without = client.without_entry(&text, "shop").unwrap();
            assert!(client.servers(&without).unwrap().is_empty(), "{}: {without}", client.name);
            let Ok(entry) = client.entry(&http) else { continue };
            let text = client.with_entry(&text, "local", &entry).unwrap();
            assert_eq!(client.servers(&text).unwrap().len(), 2, "{}: {text}", client.name);
            assert!(text.contains("Bearer secret"), "{}", client.name);
        }
    }

    #[test]
    fn names_are_known_and_in_order() {
        assert!(ALL.is_sorted_by_key(|client| client.name));
        assert!(named("zed").is_ok() && named("emacs").is_err());
    }
}
