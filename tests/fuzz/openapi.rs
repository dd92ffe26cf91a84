//! OpenAPI documents, and what becomes of arguments.
//!
//! Promised of every document that is taken: its tools have fitting names of their own, and definitions that are
//! canonical, not too large and say how they are called; and whatever a tool is called with, its request stays within
//! the operation's path, with no more segments than that has, and in visible ASCII.

use std::collections::BTreeSet;

use bailiwick_data_plane_core::openapi::{Binding, request, tools};
use bailiwick_proto::{mcp::raw, names};
use serde_json::{Map, Value, json, value::RawValue};

use crate::{
    mutate::Random,
    targets::{Checked, from, promise},
};

const DOCUMENTS: [&str; 4] = [
    r##"{"openapi":"3.0.3","paths":{"/pets/{id}/x":{"parameters":[{"$ref":"#/components/parameters/Id"}],"get":{"operationId":"get.Pet","parameters":[{"name":"q","in":"query","style":"deepObject","explode":true,"schema":{"nullable":true,"type":"string"}}]},"put":{"requestBody":{"required":true,"content":{"application/json":{"schema":{"$ref":"#/components/schemas/Pet"}}}}}}},"components":{"parameters":{"Id":{"name":"id","in":"path","required":true,"schema":{"type":"integer","minimum":0,"exclusiveMinimum":true}}},"schemas":{"Pet":{"required":["id"],"properties":{"id":{"readOnly":true},"p":{"$ref":"#/components/schemas/Pet"}}}}}}"##,
    r#"{"openapi":"3.1.0","paths":{"/a/{b}.{c}":{"post":{"parameters":[{"name":"b","in":"path","schema":true},{"name":"c","in":"path","explode":false,"schema":{}},{"name":"b","in":"query","style":"pipeDelimited","explode":false},{"name":"X-H","in":"header"}],"requestBody":{"content":{"application/x-www-form-urlencoded":{"schema":{"type":"object"}}}}}}}}"#,
    r#"{"openapi":"3.1.0","paths":{"/":{"get":{},"delete":{"operationId":"d"}},"/x;y=1":{"head":{"parameters":[{"name":"j","in":"query","content":{"application/json":{"schema":{"type":["object","null"]}}}}]}}}}"#,
    r##"{"openapi":"3.0.0","paths":{"/t":{"$ref":"#/x/y~1z"}},"x":{"y/z":{"patch":{"requestBody":{"$ref":"#/x/%62"}}},"b":{"content":{"text/plain":{}}}}}"##,
];
/// What hostile callers would like to put somewhere.
const VALUES: [&str; 8] = ["..", "a/../b", "?x=1#y", "{b}", "%2e%2e/", "a\r\nb: c", "é\u{202e}", ""];

pub(crate) fn one(random: &mut Random) -> Vec<u8> {
    from(random, &DOCUMENTS)
}

pub(crate) fn check(input: &[u8]) -> Checked {
    let Ok(text) = std::str::from_utf8(input) else { return Ok(false) };
    let Ok(listed) = tools(text, Some("x-key")) else { return Ok(false) };
    let mut seen = BTreeSet::new();
    for tool in &listed.tools {
        promise(seen.insert(&tool.name), "two tools have one name")?;
        promise(names::is_client_tool_name(&tool.name), "a name does not fit")?;
        promise(tool.json.len() <= 64 * 1024, "a definition is too large")?;
        let definition = RawValue::from_string(tool.json.clone()).ok();
        let binding = definition.as_deref().and_then(Binding::of);
        promise(binding.is_some(), "a definition does not say how it is called")?;
        let Some(binding) = binding else { continue };
        for value in VALUES {
            for value in [json!(value), json!([value, value]), json!({ value: value })] {
                stays_in_place(&binding, &value)?;
            }
        }
    }
    Ok(true)
}

fn stays_in_place(binding: &Binding, value: &Value) -> Checked {
    let names = binding.parameters.iter().map(|parameter| &parameter.argument);
    let names = names.chain(binding.body.iter().map(|body| &body.argument));
    let arguments: Map<String, Value> = names.map(|name| (name.clone(), value.clone())).collect();
    let Ok(request) = request(binding, Some(&raw(&arguments))) else { return Ok(false) };
    let path = request.target.split('?').next().unwrap_or_default();
    promise(path.split('/').count() == binding.path.split('/').count(), "a value added a segment")?;
    promise(path.split('/').all(|segment| segment != "." && segment != ".."), "a value leads elsewhere")?;
    promise(request.target.matches('?').count() <= 1, "a value began a query")?;
    promise(request.target.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#'), "a target is no target")?;
    let lines =
        request.headers.iter().all(|(_, value)| value.chars().all(|c| c == ' ' || c == '\t' || c.is_ascii_graphic()));
    promise(lines, "a header is more than a line")?;
    Ok(true)
}
