//! What is written about a virtual server: its servers, which of their tools it shows, and how.
//!
//! Part of `resource`: types, and what their values must look like by themselves. A view (`only`, `hide`, `tools`) says
//! only what clients see: policies, records and approvals go on naming the server and the tool as they are. Invariant:
//! names that a spec itself gives are names that any client takes, given once, and under `naming: prefixed` never such
//! that a tool of any server could have them. Absent: whether the tools and parameters named here exist
//! (`crate::virtual_server`), and how data planes apply a view (`data-plane/core`).

use std::collections::{BTreeMap, BTreeSet};

use bailiwick_proto::{Tier, names, v1};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::checks::{Fault, clip};
use crate::virtual_server::SERVERS_OF_ONE_MAX;

/// Longest title: one line in a client's list.
const TITLE_CHARS_MAX: usize = 128;
/// Longest description: a page that a model reads with every request.
const DESCRIPTION_CHARS_MAX: usize = 4_096;
/// Largest whole number that every reader of JSON reads alike, and so of events and records.
const INTEGER_MAX: u64 = (1 << 53) - 1;

/// A set of servers under one URL towards clients.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VirtualServerSpec {
    /// How tools are named towards clients.
    #[serde(default)]
    pub naming: Naming,
    /// How tools are shown to clients.
    #[serde(default, skip_serializing_if = "ToolsShown::is_default")]
    pub tools: ToolsShown,
    /// What is for tokens only that are bound to a key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binding: Option<BindingSpec>,
    /// The servers whose tools are shown.
    pub servers: Vec<ServerEntry>,
}

/// What is for tokens only that are bound to a key, so that whoever steals one cannot use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BindingSpec {
    /// Tools of this tier and above; with `retrieval` prompts and resources, too.
    pub from: Tier,
}

/// How tools are named towards clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Naming {
    /// `server__tool`; never collides.
    #[default]
    Prefixed,
    /// The tools' own names; refused where two collide.
    Plain,
}

impl Naming {
    /// The word in manifests and on the config stream.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Prefixed => "prefixed",
            Self::Plain => "plain",
        }
    }
}

/// How tools are shown to clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ToolsShown {
    /// All of them are listed.
    #[default]
    List,
    /// Two are listed: one that searches the others, and one that calls one of them.
    Search,
}

impl ToolsShown {
    /// The word on the config stream; empty for what is so without being said.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::List => "",
            Self::Search => "search",
        }
    }

    fn is_default(&self) -> bool {
        *self == Self::List
    }
}

/// One server of a virtual server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServerEntry {
    /// The server's name.
    pub server: String,
    /// Only these tools are shown, by the tools' own names; all where it is absent. Not together with `hide`.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub only: BTreeSet<String>,
    /// All tools but these are shown, by the tools' own names.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub hide: BTreeSet<String>,
    /// How single tools are shown, by the tools' own names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tools: BTreeMap<String, ToolView>,
}

/// How a tool is shown. Whatever is absent stays as the server has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ToolView {
    /// Its whole name towards clients: 1 to 64 letters, digits, `_` and `-`; with `naming: prefixed` without `__`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its title.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// Its description.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Arguments that every call is made with, by parameter. Clients do not see these parameters and cannot send them.
    /// Texts, whole numbers, booleans, lists and mappings of these.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub fixed: BTreeMap<String, Value>,
}

impl ServerEntry {
    /// Whether a tool of the server is shown, by its own name.
    #[must_use]
    pub fn shows(&self, tool: &str) -> bool {
        (self.only.is_empty() || self.only.contains(tool)) && !self.hide.contains(tool)
    }

    /// The name that is given to a tool instead of that by the naming.
    #[must_use]
    pub fn given_name(&self, tool: &str) -> Option<&str> {
        self.tools.get(tool)?.name.as_deref()
    }

    /// Whether it says anything but which server it is.
    fn is_view(&self) -> bool {
        !(self.only.is_empty() && self.hide.is_empty() && self.tools.is_empty())
    }

    fn view(&self) -> v1::ServerView {
        v1::ServerView {
            server: self.server.clone(),
            only: self.only.iter().cloned().collect(),
            hide: self.hide.iter().cloned().collect(),
            tools: self.tools.iter().map(|(tool, view)| view.view(tool)).collect(),
        }
    }
}

impl VirtualServerSpec {
    /// As data planes see it.
    pub(crate) fn view(&self, name: &str) -> v1::VirtualServer {
        let servers = self.servers.iter().map(|entry| entry.server.clone()).collect();
        let views = self.servers.iter().filter(|entry| entry.is_view()).map(ServerEntry::view).collect();
        let (naming, tools) = (self.naming.as_str().into(), self.tools.as_str().into());
        let listed = v1::VirtualServer { name: name.into(), servers, naming, tools, views, ..Default::default() };
        match self.binding {
            None => listed,
            // Where older data planes do not look: they know nothing of bound tokens, and offer nothing here.
            Some(BindingSpec { from }) => v1::VirtualServer {
                bound_from: from.as_str().into(),
                bound_servers: listed.servers,
                servers: Vec::new(),
                ..listed
            },
        }
    }

    /// Everything that is wrong with the values.
    pub(super) fn faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        if self.servers.len() > SERVERS_OF_ONE_MAX {
            faults.push(Fault::new("spec.servers", format!("names more than {SERVERS_OF_ONE_MAX} servers")));
        }
        let (mut seen, mut given) = (BTreeSet::new(), BTreeSet::new());
        for (index, entry) in self.servers.iter().enumerate() {
            let key = format!("spec.servers[{index}]");
            if !seen.insert(&entry.server) {
                let message = format!("\"{}\" is named twice", clip(&entry.server));
                faults.push(Fault::new(format!("{key}.server"), message));
            }
            if !entry.only.is_empty() && !entry.hide.is_empty() {
                faults.push(Fault::new(format!("{key}.hide"), "cannot be used together with `only`"));
            }
            for (tool, view) in &entry.tools {
                let key = format!("{key}.tools.{tool}");
                if !entry.shows(tool) {
                    faults.push(Fault::new(key.clone(), "says how a tool is shown that is not shown"));
                }
                faults.extend(view.faults(&key, self.naming));
                if let Some(name) = view.name.as_ref().filter(|name| !given.insert(name.as_str())) {
                    let message = format!("\"{}\" is given to two tools", clip(name));
                    faults.push(Fault::new(format!("{key}.name"), message));
                }
            }
        }
        faults
    }
}

impl ToolView {
    fn view(&self, tool: &str) -> v1::ToolView {
        let Self { name, title, description, fixed } = self.clone();
        v1::ToolView {
            tool: tool.into(),
            name: name.unwrap_or_default(),
            title: title.unwrap_or_default(),
            description: description.unwrap_or_default(),
            // Its values have a canonical form; if one had none, data planes would find no JSON and not offer the tool.
            fixed: if fixed.is_empty() {
                String::new()
            } else {
                serde_json_canonicalizer::to_string(&fixed).unwrap_or_else(|_none| "none".to_owned())
            },
        }
    }

    fn faults(&self, key: &str, naming: Naming) -> Vec<Fault> {
        let mut faults = Vec::new();
        let mut fault = |part: &str, message: String| faults.push(Fault::new(format!("{key}.{part}"), message));
        if let Some(name) = &self.name {
            if !names::is_client_tool_name(name) {
                fault("name", format!("\"{}\" must be 1 to 64 letters, digits, underscores and hyphens", clip(name)));
            } else if naming == Naming::Prefixed && name.contains("__") {
                let why = "could become the name of another server's tool";
                fault("name", format!("\"{name}\" must not hold \"__\" under naming: prefixed: it {why}"));
            }
        }
        let is_odd = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
        if self.title.as_ref().is_some_and(|title| !(1..=TITLE_CHARS_MAX).contains(&title.chars().count())) {
            fault("title", format!("must have 1 to {TITLE_CHARS_MAX} characters"));
        }
        if self.title.as_ref().is_some_and(|title| title.contains(char::is_control)) {
            fault("title", "must not contain control characters".to_owned());
        }
        let is_long = |text: &String| !(1..=DESCRIPTION_CHARS_MAX).contains(&text.chars().count());
        if self.description.as_ref().is_some_and(is_long) {
            fault("description", format!("must have 1 to {DESCRIPTION_CHARS_MAX} characters"));
        }
        if self.description.as_ref().is_some_and(|text| text.contains(is_odd)) {
            let message = "must not contain control characters other than line ends and tabs";
            fault("description", message.to_owned());
        }
        for (parameter, value) in &self.fixed {
            if !is_recordable(value) {
                let message =
                    "must be a text, a whole number of at most 53 bits, true or false, or a list or mapping of these";
                fault(&format!("fixed.{parameter}"), message.to_owned());
            }
        }
        faults
    }
}

/// Whether a value can stand in events and records, which hold no nulls and no fractions.
fn is_recordable(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(_) | Value::String(_) => true,
        Value::Number(number) => {
            let size = number.as_i64().map(i64::unsigned_abs).or_else(|| number.as_u64());
            size.is_some_and(|size| size <= INTEGER_MAX)
        }
        Value::Array(items) => items.iter().all(is_recordable),
        Value::Object(members) => members.values().all(is_recordable),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn faults(spec: Value) -> Vec<(String, String)> {
        let spec: VirtualServerSpec = serde_json::from_value(spec).unwrap();
        spec.faults().into_iter().map(|fault| (fault.key, fault.message)).collect()
    }

    fn keys(spec: Value) -> Vec<String> {
        faults(spec).into_iter().map(|(key, _)| key).collect()
    }

    fn one(naming: &str, entry: Value) -> Value {
        json!({"naming": naming, "servers": [entry]})
    }

    #[test]
    fn a_view_says_which_tools_are_shown_and_how() {
        let entry: ServerEntry = serde_json::from_value(json!({"server": "a", "only": ["x", "y"]})).unwrap();
        assert!(entry.shows("x") && !entry.shows("z") && entry.is_view());
        let entry: ServerEntry = serde_json::from_value(json!({"server": "a", "hide": ["x"]})).unwrap();
        assert!(!entry.shows("x") && entry.shows("z") && entry.given_name("z").is_none());
        let entry: ServerEntry =
            serde_json::from_value(json!({"server": "a", "tools": {"x": {"name": "other"}}})).unwrap();
        assert!(entry.shows("x") && entry.shows("z"));
        assert_eq!(entry.given_name("x"), Some("other"));
    }

    #[test]
    fn what_was_written_before_there_were_views_is_written_the_same_again() {
        let spec = json!({"naming": "plain", "servers": [{"server": "a"}, {"server": "b"}]});
        let read: VirtualServerSpec = serde_json::from_value(spec.clone()).unwrap();
        assert_eq!(serde_json::to_value(&read).unwrap(), spec);
        assert!(read.servers.iter().all(|entry| !entry.is_view()) && read.faults().is_empty());
    }

    #[test]
    fn given_names_are_such_that_no_other_tool_can_ever_have_them() {
        let named = |name: &str| json!({"server": "a", "tools": {"x": {"name": name}}});
        for (naming, name, fits) in [
            ("prefixed", "query", true),
            ("prefixed", "query_data", true),
            ("prefixed", "b__x", false),
            ("plain", "b__x", true),
            ("plain", "", false),
            ("plain", "a.b", false),
            ("plain", "ä", false),
        ] {
            assert_eq!(keys(one(naming, named(name))).is_empty(), fits, "{naming} {name}");
        }
        assert!(keys(one("plain", named(&"x".repeat(64)))).is_empty());
        assert!(!keys(one("plain", named(&"x".repeat(65)))).is_empty());
        let twice = json!({"servers": [named("query"), {"server": "b", "tools": {"y": {"name": "query"}}}]});
        assert_eq!(keys(twice), ["spec.servers[1].tools.y.name"]);
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        let table = [
            (json!({"server": "a", "only": ["x"], "hide": ["y"]}), vec!["spec.servers[0].hide"]),
            (json!({"server": "a", "only": ["x"], "tools": {"y": {}}}), vec!["spec.servers[0].tools.y"]),
            (json!({"server": "a", "hide": ["y"], "tools": {"y": {}}}), vec!["spec.servers[0].tools.y"]),
            (
                json!({"server": "a", "tools": {"y": {"title": "", "description": "a\u{7}"}}}),
                vec!["spec.servers[0].tools.y.title", "spec.servers[0].tools.y.description"],
            ),
        ];
        for (entry, expected) in table {
            assert_eq!(keys(one("prefixed", entry.clone())), expected, "{entry}");
        }
    }

    #[test]
    fn fixed_arguments_are_values_that_records_can_hold() {
        let fixed = |value: &Value| one("plain", json!({"server": "a", "tools": {"x": {"fixed": {"p": value}}}}));
        for good in
            [json!("eu"), json!(7), json!(-7), json!(true), json!(["a", {"b": 1}]), json!({}), json!(INTEGER_MAX)]
        {
            assert!(keys(fixed(&good)).is_empty(), "{good}");
        }
        for bad in [json!(null), json!(0.5), json!(INTEGER_MAX + 1), json!(u64::MAX), json!([null]), json!({"a": 1.5})]
        {
            assert_eq!(keys(fixed(&bad)), ["spec.servers[0].tools.x.fixed.p"], "{bad}");
        }
    }

    #[test]
    fn where_tokens_must_be_bound_older_data_planes_see_no_server() {
        let spec = |from: Tier| VirtualServerSpec {
            binding: Some(BindingSpec { from }),
            servers: vec![ServerEntry { server: "a".into(), ..ServerEntry::default() }],
            ..VirtualServerSpec::default()
        };
        let listed = spec(Tier::Transactional).view("finance");
        assert_eq!((listed.bound_from.as_str(), listed.servers.len()), ("transactional", 0));
        assert_eq!(listed.bound_servers, ["a"]);
        let free = VirtualServerSpec { binding: None, ..spec(Tier::Retrieval) }.view("finance");
        assert_eq!((free.bound_from.as_str(), free.servers, free.bound_servers.len()), ("", vec!["a".to_owned()], 0));
        assert!(serde_json::from_value::<VirtualServerSpec>(json!({"servers": [], "binding": {}})).is_err());
        assert!(serde_json::from_value::<VirtualServerSpec>(json!({"servers": [], "binding": {"from": "x"}})).is_err());
    }
}
