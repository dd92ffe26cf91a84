//! Whether what a virtual server's views say of single tools fits those tools.
//!
//! Asked by `apply` (what does not fit is refused, what names nothing so far is warned of), by `tool` when a changed
//! tool is approved, and by `show`. Tools come, change and go by themselves, so views may name what is not there; but
//! a tool whose approved definition does not let a view fix its arguments is not offered by data planes, and that is
//! told here first. Absent: what a view must look like by itself (`resource`).

use std::fmt;

use bailiwick_proto::tool_view::{Unfixable, fixable};
use serde_json::{Map, Value};

use crate::{
    manifest::suggest,
    resource::{ServerEntry, VirtualServerSpec},
    schema_check::{Fit, fit},
    state::State,
    tool::Definition,
};

/// Most tools that one virtual server is warned of: one mistake may be repeated in all of them.
const MISFITS_MAX: usize = 64;

/// Something that is said of a tool and does not fit it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Misfit {
    /// Where it is said, e.g. `spec.servers[0].hide`.
    pub(crate) key: String,
    /// What does not fit.
    pub(crate) message: String,
    /// The tool is not offered because of it.
    pub(crate) is_error: bool,
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.message)
    }
}

/// Everything that does not fit, in the order of the servers.
pub(crate) fn misfits(state: &State, spec: &VirtualServerSpec) -> Vec<Misfit> {
    let mut misfits = Vec::new();
    for (index, entry) in spec.servers.iter().enumerate() {
        let Some(server) = state.servers.get(&entry.server) else { continue };
        let key = format!("spec.servers[{index}]");
        // Of a server that was never seen nothing is known.
        if !server.tools.is_empty() {
            let named = [("only", &entry.only), ("hide", &entry.hide)];
            let named = named.into_iter().flat_map(|(part, tools)| tools.iter().map(move |tool| (part, tool)));
            let viewed = entry.tools.keys().map(|tool| ("tools", tool));
            for (part, tool) in named.chain(viewed).filter(|(_, tool)| !server.tools.contains_key(tool.as_str())) {
                let hint = suggest::hint(tool, server.tools.keys().map(String::as_str));
                let message = format!("Server {} has no tool \"{tool}\" so far{hint}", entry.server);
                misfits.push(Misfit { key: format!("{key}.{part}"), message, is_error: false });
            }
        }
        for tool in entry.tools.keys() {
            let approved = server.tools.get(tool).and_then(|known| known.pinned.as_ref());
            misfits.extend(approved.into_iter().flat_map(|definition| of_tool(&key, entry, tool, definition)));
        }
    }
    misfits.truncate(MISFITS_MAX);
    misfits
}

/// What the views of all virtual servers say that does not fit a tool once this is its approved definition: sentences.
pub(crate) fn misfits_of_tool(state: &State, server: &str, tool: &str, definition: &Definition) -> Vec<String> {
    let mut sentences = Vec::new();
    for (name, known) in &state.virtual_servers {
        for (index, entry) in known.spec.servers.iter().enumerate().filter(|(_, entry)| entry.server == server) {
            let misfits = of_tool(&format!("spec.servers[{index}]"), entry, tool, definition);
            sentences.extend(misfits.into_iter().map(|misfit| format!("VirtualServer {name}: {misfit}")));
        }
    }
    sentences.truncate(MISFITS_MAX);
    sentences
}

fn of_tool(key: &str, entry: &ServerEntry, tool: &str, definition: &Definition) -> Vec<Misfit> {
    let Some(fixed) = entry.tools.get(tool).map(|view| &view.fixed).filter(|fixed| !fixed.is_empty()) else {
        return Vec::new();
    };
    let none = Map::new();
    let key = format!("{key}.tools.{tool}.fixed");
    let definition: Value = serde_json::from_str(&definition.json).unwrap_or_default();
    let schema = definition.get("inputSchema").unwrap_or(&Value::Null);
    if let Err(why) = fixable(schema, fixed.keys().map(String::as_str)) {
        let hint = match &why {
            Unfixable::Unknown(name) => {
                let known = schema.get("properties").and_then(Value::as_object).unwrap_or(&none);
                suggest::hint(name, known.keys().map(String::as_str))
            }
            Unfixable::Entangled(_) | Unfixable::Referred(_) => String::new(),
        };
        return vec![Misfit { key, message: format!("{why}{hint}"), is_error: true }];
    }
    let parameter = |name: &str| schema.get("properties").and_then(|known| known.get(name)).unwrap_or(&Value::Null);
    let misfit = |(name, value): (&String, &Value)| {
        let key = format!("{key}.{name}");
        match fit(schema, parameter(name), value) {
            Fit::Fits => None,
            Fit::Unfit(rule) => Some(Misfit { key, message: rule, is_error: true }),
            Fit::Unknown(what) => {
                let message = format!("whether the value fits cannot be told here: it depends on {what} of its schema");
                Some(Misfit { key, message, is_error: false })
            }
        }
    };
    fixed.iter().filter_map(misfit).collect()
}
