//! What a server returns of a use, under the names its client knows.
//!
//! Called by `forward` once a server's finished result or error is there. Where a virtual server shows URIs with the
//! server's name before them (`naming`), the URIs inside results must be such, too, or the client could not read what a
//! tool or a prompt links to: `uri` of what was read (`contents`) or is not there (`data` of an error), and of links and
//! embedded resources in the content of tools' and prompts' results. Everything else, and every result under plain naming, stays byte for byte as it was. A modern
//! client also gets the caching members that reading must have: for the caller alone, since policy decides who reads.
//! Deliberately absent: URIs in free text, in structured content and in vendors' members, which only their authors
//! understand. Specification: MCP 2026-07-28 and 2025-11-25: tools, prompts, resources; 2026-07-28: caching.

use bailiwick_proto::mcp::{self, RpcError, method};
use serde_json::value::RawValue;

use crate::{listing::TTL_MS, naming::Naming};

/// A finished result of one of a server's methods, for a client that knows the server's things under `naming`.
#[must_use]
pub fn result(rpc_method: &str, naming: &Naming, server: &str, result: &RawValue) -> Box<RawValue> {
    if matches!(naming, Naming::Plain(_)) || !may_name_a_uri(result.get()) {
        return result.to_owned();
    }
    let renaming = Renaming { naming, server };
    match rpc_method {
        method::RESOURCES_READ => replaced(result, "contents", |contents| each(contents, |item| renaming.uri(item))),
        method::TOOLS_CALL => replaced(result, "content", |content| each(content, |block| renaming.block(block))),
        method::PROMPTS_GET => replaced(result, "messages", |messages| {
            each(messages, |message| replaced(message, "content", |block| renaming.content(block)))
        }),
        _ => result.to_owned(),
    }
}

/// Whether a member of a JSON text can be called `uri`: most results have none, and need not be taken apart.
fn may_name_a_uri(json: &str) -> bool {
    json.contains("uri") || json.contains(r"\u")
}

/// A server's error about what was asked of it: the URI it says is not there (`data.uri`) is the one the client asked for.
#[must_use]
pub fn error(rpc_method: &str, naming: &Naming, server: &str, error: RpcError) -> RpcError {
    let RpcError { code, message, data } = error;
    let is_of_uri = rpc_method == method::RESOURCES_READ && matches!(naming, Naming::Prefixed);
    let data = if is_of_uri { data.map(|data| Renaming { naming, server }.uri(&data)) } else { data };
    RpcError { code, message, data }
}

/// The result of reading a resource for a modern client: with `ttlMs`, ours where the server set none or a longer one,
/// and for this caller alone.
#[must_use]
pub fn cacheable(result: &RawValue) -> Box<RawValue> {
    let Some(members) = mcp::ordered_members(result) else { return result.to_owned() };
    let said = members.iter().find(|(key, _)| key == "ttlMs");
    let said = said.and_then(|(_, value)| serde_json::from_str::<u64>(value.get()).ok());
    let (ttl_ms, scope) = (mcp::raw(&said.map_or(TTL_MS, |said| said.min(TTL_MS))), mcp::raw("private"));
    let rest = members.iter().filter(|(key, _)| !["ttlMs", "cacheScope"].contains(&key.as_ref()));
    let rest = rest.map(|(key, value)| (key.as_ref(), *value));
    mcp::raw_object(rest.chain([("ttlMs", &*ttl_ms), ("cacheScope", &*scope)]))
}

struct Renaming<'a> {
    naming: &'a Naming,
    server: &'a str,
}

impl Renaming<'_> {
    /// An object with its `uri` renamed.
    fn uri(&self, item: &RawValue) -> Box<RawValue> {
        replaced(item, "uri", |uri| match serde_json::from_str::<String>(uri.get()) {
            Ok(own) => mcp::raw(&*self.naming.uri(self.server, &own)),
            Err(_no_text) => uri.to_owned(),
        })
    }

    /// Content that is one block, or several.
    fn content(&self, content: &RawValue) -> Box<RawValue> {
        if content.get().starts_with('[') {
            return each(content, |block| self.block(block));
        }
        self.block(content)
    }

    /// A block of content.
    fn block(&self, block: &RawValue) -> Box<RawValue> {
        let members = mcp::ordered_members(block).unwrap_or_default();
        let kind = members.iter().find(|(key, _)| key == "type").map(|(_, kind)| kind.get());
        match kind.and_then(|kind| serde_json::from_str::<String>(kind).ok()).as_deref() {
            Some("resource_link") => self.uri(block),
            Some("resource") => replaced(block, "resource", |resource| self.uri(resource)),
            _ => block.to_owned(),
        }
    }
}

/// An object with one member made anew; anything else as it is.
fn replaced(object: &RawValue, key: &str, change: impl Fn(&RawValue) -> Box<RawValue>) -> Box<RawValue> {
    let Some(members) = mcp::ordered_members(object) else { return object.to_owned() };
    let Some((_, value)) = members.iter().find(|(name, _)| name == key) else { return object.to_owned() };
    let changed = change(value);
    mcp::raw_object(members.iter().map(|(name, value)| (name.as_ref(), if name == key { &*changed } else { *value })))
}

/// An array with each item made anew; anything else as it is.
fn each(array: &RawValue, change: impl Fn(&RawValue) -> Box<RawValue>) -> Box<RawValue> {
    let Ok(items) = serde_json::from_str::<Vec<&RawValue>>(array.get()) else { return array.to_owned() };
    let items: Vec<String> = items.into_iter().map(|item| change(item).get().to_owned()).collect();
    // INVARIANT: items are JSON texts and the brackets are ours, so the whole is JSON.
    RawValue::from_string(format!("[{}]", items.join(","))).unwrap_or_else(|_not_json| array.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    #[test]
    fn uris_in_results_are_those_the_client_can_ask_for() {
        for (rpc_method, own, towards_client) in [
            (
                method::RESOURCES_READ,
                r#"{"contents":[{"uri":"file:///a","text":"file:///a"},{"mimeType":"x"}],"_meta":{"n":1.50}}"#,
                r#"{"contents":[{"uri":"mcp+hr+file:///a","text":"file:///a"},{"mimeType":"x"}],"_meta":{"n":1.50}}"#,
            ),
            (
                method::TOOLS_CALL,
                r#"{"content":[{"type":"text","text":"a","uri":"u:1"},{"type":"resource_link","uri":"u:2","name":"n"},{"type":"resource","resource":{"uri":"u:3","blob":"AA=="}}],"structuredContent":{"uri":"u:4"}}"#,
                r#"{"content":[{"type":"text","text":"a","uri":"u:1"},{"type":"resource_link","uri":"mcp+hr+u:2","name":"n"},{"type":"resource","resource":{"uri":"mcp+hr+u:3","blob":"AA=="}}],"structuredContent":{"uri":"u:4"}}"#,
            ),
            (
                method::PROMPTS_GET,
                r#"{"messages":[{"role":"user","content":{"type":"resource","resource":{"uri":"u:3","text":""}}},{"role":"user","content":{"type":"text","text":"u:4"}}]}"#,
                r#"{"messages":[{"role":"user","content":{"type":"resource","resource":{"uri":"mcp+hr+u:3","text":""}}},{"role":"user","content":{"type":"text","text":"u:4"}}]}"#,
            ),
            (
                method::TOOLS_CALL,
                r#"{"content":[{"type":"resource_link","\u0075r\u0069":"u:2"}]}"#,
                r#"{"content":[{"type":"resource_link","uri":"mcp+hr+u:2"}]}"#,
            ),
            (method::COMPLETE, r#"{"completion":{"values":["u:1"]}}"#, r#"{"completion":{"values":["u:1"]}}"#),
        ] {
            assert_eq!(result(rpc_method, &Naming::Prefixed, "hr", &raw(own)).get(), towards_client);
            assert_eq!(result(rpc_method, &Naming::Plain("hr".into()), "hr", &raw(own)).get(), own);
        }
    }

    #[test]
    fn an_error_names_the_uri_the_client_asked_for() {
        let said = |naming: &Naming, rpc_method| {
            let data = Some(raw(r#"{"uri":"file:///a","x":1.50}"#));
            let error = error(rpc_method, naming, "hr", RpcError { code: -32602, message: "no".into(), data });
            error.data.unwrap().get().to_owned()
        };
        let renamed = r#"{"uri":"mcp+hr+file:///a","x":1.50}"#;
        assert_eq!(said(&Naming::Prefixed, method::RESOURCES_READ), renamed);
        for (naming, rpc_method) in [
            (Naming::Plain("hr".into()), method::RESOURCES_READ),
            (Naming::Prefixed, method::TOOLS_CALL),
            (Naming::Prefixed, method::PROMPTS_GET),
        ] {
            assert_eq!(said(&naming, rpc_method), r#"{"uri":"file:///a","x":1.50}"#);
        }
    }

    #[test]
    fn results_of_another_shape_pass_as_they_are() {
        for rpc_method in [method::RESOURCES_READ, method::TOOLS_CALL, method::PROMPTS_GET] {
            for text in
                ["{}", r#"{"contents":7,"content":7,"messages":7}"#, r#"{"contents":[7],"content":[7],"messages":[7]}"#]
            {
                assert_eq!(result(rpc_method, &Naming::Prefixed, "hr", &raw(text)).get(), text);
            }
        }
        let odd = r#"{"contents":[{"uri":7}]}"#;
        assert_eq!(result(method::RESOURCES_READ, &Naming::Prefixed, "hr", &raw(odd)).get(), odd);
    }

    #[test]
    fn what_was_read_is_for_its_reader_alone_and_not_for_long() {
        for (said, becomes) in [
            (r#"{"contents":[]}"#, r#"{"contents":[],"ttlMs":5000,"cacheScope":"private"}"#),
            (
                r#"{"ttlMs":10,"cacheScope":"public","contents":[]}"#,
                r#"{"contents":[],"ttlMs":10,"cacheScope":"private"}"#,
            ),
            (r#"{"ttlMs":-1}"#, r#"{"ttlMs":5000,"cacheScope":"private"}"#),
            (r#"{"ttlMs":99999999}"#, r#"{"ttlMs":5000,"cacheScope":"private"}"#),
        ] {
            assert_eq!(cacheable(&raw(said)).get(), becomes);
        }
    }
}
