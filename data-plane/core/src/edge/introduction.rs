//! What a virtual server says of itself: the answer to `initialize` or `server/discover`.
//!
//! Made by `legacy` and `modern`; the server half finds out what the servers behind it can do, as far as they answer in
//! time, and `reply` puts it together. Tools are always there, and a listener is told when they change. Of everything else the virtual server can do what any of
//! its servers can: what a caller may do with it is asked with each request. Instructions are a server's free text to
//! models and not passed on; extensions are, where there is one server only, for what they mean together nobody knows.
//! Tasks are an exception, which this gateway carries itself, between modern peers.
//! Specification: MCP 2026-07-28 discovery; 2025-11-25 lifecycle.

use std::collections::BTreeMap;

use bailiwick_proto::mcp::{
    self, EXTENSION_TASKS, Era, MODERN_VERSIONS, Members, RESULT_COMPLETE, RequestId, meta_key,
};
use serde_json::{Map, Value, json, value::RawValue};

use super::{HttpReply, modern::TTL_MS, server_info, tasks::declares};

/// Passed on where any server has them: their members are flags.
const SHARED: [&str; 5] = ["tools", "prompts", "resources", "completions", "logging"];
/// Passed on as they are, where they are the only server's.
const ONLY: [&str; 2] = ["extensions", "experimental"];

/// A client that wants to know what there is.
#[derive(Clone, Debug)]
pub struct Introduction {
    /// To be repeated in the answer.
    pub id: RequestId,
    /// How the client speaks, or is going to.
    pub era: Era,
    /// What the client can be asked for: an object, as it was written.
    pub capabilities: Option<Box<RawValue>>,
    /// Sealed, for a legacy client.
    pub(super) session_id: Option<String>,
}

impl Introduction {
    /// The reply, given what each server behind the virtual server that answered can do: objects, as they were written.
    /// Legacy servers have no tasks, whatever they say (`handshake`).
    #[must_use]
    pub fn reply(&self, servers: &[Box<RawValue>]) -> HttpReply {
        let capabilities = merged(self.era, servers);
        let result = match self.era {
            Era::Legacy(version) => json!({
                "protocolVersion": version,
                "capabilities": capabilities,
                "serverInfo": server_info(),
            }),
            Era::Modern => json!({
                "resultType": RESULT_COMPLETE,
                "supportedVersions": MODERN_VERSIONS,
                "capabilities": capabilities,
                "ttlMs": TTL_MS,
                "cacheScope": "private",
                "_meta": {meta_key::SERVER_INFO: server_info()},
            }),
        };
        HttpReply { session_id: self.session_id.clone(), ..HttpReply::result(&self.id, &mcp::raw(&result)) }
    }
}

fn merged(era: Era, servers: &[Box<RawValue>]) -> Value {
    let mut all: BTreeMap<String, Value> = BTreeMap::from([("tools".to_owned(), json!({"listChanged": true}))]);
    for server in servers.iter().filter_map(|server| Members::of(server)) {
        for name in SHARED {
            let Ok(Some(of_it)) = server.read::<Map<String, Value>>(name) else { continue };
            let flags = of_it.into_iter().filter(|(key, value)| is_served(key) && *value == json!(true));
            if let Value::Object(known) = all.entry(name.to_owned()).or_insert_with(|| json!({})) {
                known.extend(flags);
            }
        }
    }
    if let [only] = servers {
        let only = Members::of(only).unwrap_or_default();
        for name in ONLY {
            let carried = only.read::<Map<String, Value>>(name).ok().flatten().map(carried);
            all.extend(carried.filter(|it| !it.is_empty()).map(|it| (name.to_owned(), Value::Object(it))));
        }
    }
    if era.is_modern() && servers.iter().any(|server| declares(Some(server))) {
        let extensions = all.entry("extensions".to_owned()).or_insert_with(|| json!({}));
        if let Value::Object(known) = extensions {
            known.insert(EXTENSION_TASKS.to_owned(), json!({}));
        }
    }
    all.into_iter().collect::<Map<_, _>>().into()
}

/// Extensions that need nothing of this gateway.
fn carried(extensions: Map<String, Value>) -> Map<String, Value> {
    extensions.into_iter().filter(|(name, _)| name != EXTENSION_TASKS).collect()
}

/// Flags this gateway makes good.
fn is_served(flag: &str) -> bool {
    matches!(flag, "listChanged" | "subscribe")
}

#[cfg(test)]
mod tests {
    use bailiwick_proto::mcp::VERSION_2025_11_25;

    use super::*;

    fn said(era: Era, servers: &[Value]) -> Value {
        let introduction = Introduction { id: RequestId::from(1), era, capabilities: None, session_id: None };
        let servers: Vec<_> = servers.iter().map(mcp::raw).collect();
        serde_json::from_slice::<Value>(&introduction.reply(&servers).body.unwrap()).unwrap()["result"].clone()
    }

    #[test]
    fn a_virtual_server_can_do_what_any_of_its_servers_can() {
        let one = json!({"prompts": {"listChanged": true, "odd": true}, "logging": {}, "extensions": {"a/b": {}}});
        let other = json!({"resources": {"subscribe": true, "listChanged": false}, "completions": {}, "secret": {}});
        let both = said(Era::Modern, &[one.clone(), other]);
        assert_eq!(
            both["capabilities"],
            json!({"tools": {"listChanged": true}, "prompts": {"listChanged": true}, "logging": {}, "resources": {"subscribe": true}, "completions": {}})
        );
        assert_eq!(said(Era::Modern, &[one])["capabilities"]["extensions"], json!({"a/b": {}}));
        assert_eq!(said(Era::Modern, &[])["capabilities"], json!({"tools": {"listChanged": true}}));
    }

    #[test]
    fn modern_clients_learn_that_any_server_has_tasks() {
        let tasks = json!({"extensions": {"io.modelcontextprotocol/tasks": {"odd": 1}}});
        let both = json!({"extensions": {"a/b": {}, "io.modelcontextprotocol/tasks": {}}});
        let extensions = |era, servers: &[Value]| said(era, servers)["capabilities"]["extensions"].clone();
        assert_eq!(extensions(Era::Modern, &[json!({}), tasks.clone()]), json!({"io.modelcontextprotocol/tasks": {}}));
        assert_eq!(extensions(Era::Modern, std::slice::from_ref(&both)), both["extensions"]);
        assert_eq!(extensions(Era::Modern, &[json!({"extensions": {"a/b": {}}}), json!({})]), Value::Null);
        assert_eq!(extensions(Era::Legacy(VERSION_2025_11_25), &[tasks]), Value::Null);
        assert_eq!(extensions(Era::Legacy(VERSION_2025_11_25), &[both]), json!({"a/b": {}}));
    }

    #[test]
    fn each_era_gets_its_frame() {
        let legacy = said(Era::Legacy(VERSION_2025_11_25), &[json!({"prompts": 7, "tools": {"listChanged": true}})]);
        assert_eq!(legacy["protocolVersion"], "2025-11-25");
        assert_eq!(legacy["capabilities"], json!({"tools": {"listChanged": true}}));
        let modern = said(Era::Modern, &[]);
        assert_eq!((&modern["resultType"], &modern["cacheScope"]), (&json!("complete"), &json!("private")));
        assert_eq!(modern["supportedVersions"], json!(["2026-07-28"]));
    }
}
