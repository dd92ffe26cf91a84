//! HTTP APIs as servers: where the OpenAPI document is that says which tools there are.
//!
//! Called by `checks` and `view`. What a document means is read by data planes, which also say what is wrong with it
//! when a server is applied; here it is only made sure that there is one, and that it is of a kind they read.

use bailiwick_proto::{mcp::check_json, v1};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::checks::Fault;

/// Longest path of a document.
const PATH_BYTES_MAX: usize = 1_024;
/// Methods of operations that can be tools.
const METHODS: [&str; 6] = ["get", "head", "post", "put", "patch", "delete"];

/// An OpenAPI document, 3.0 or 3.1, as JSON: here, or at the API itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OpenApiSpec {
    /// The document itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub document: Option<String>,
    /// Where the API shows it, from the root of its host on, e.g. "/openapi.json".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

impl OpenApiSpec {
    /// As data planes see it.
    pub(crate) fn view(&self) -> v1::OpenApi {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        v1::OpenApi { document: text(&self.document), path: text(&self.path) }
    }

    /// What is wrong with it.
    pub(super) fn faults(&self) -> Vec<Fault> {
        let fault = |key: &str, message: &str| vec![Fault::new(format!("spec.endpoint.openapi{key}"), message)];
        match (&self.document, &self.path) {
            (None, None) | (Some(_), Some(_)) => fault("", "needs either a `document` or a `path`"),
            (Some(document), None) => why_not(document).map_or_else(Vec::new, |why| fault(".document", why)),
            (None, Some(path)) if !is_path(path) => {
                fault(".path", "must be a path from the root on, with an optional query, e.g. \"/openapi.json\"")
            }
            (None, Some(_)) => Vec::new(),
        }
    }
}

/// Why a document can surely be of no use, whatever becomes of its operations.
fn why_not(document: &str) -> Option<&'static str> {
    let Ok(read) = serde_json::from_str::<Value>(document) else {
        return Some("must be an OpenAPI document of 3.0 or 3.1 as JSON; convert one that is YAML");
    };
    if check_json(document.as_bytes()).is_err() {
        return Some("must have one reading as JSON: a key is repeated in an object, or it is nested too deeply");
    }
    let version = read.get("openapi").and_then(Value::as_str).unwrap_or_default();
    if !version.starts_with("3.0.") && !version.starts_with("3.1.") {
        return Some("must be of OpenAPI 3.0 or 3.1 (`openapi: 3.1.0`); convert one of Swagger 2.0");
    }
    let may_have = |item: &Value| METHODS.iter().chain(&["$ref"]).any(|member| item.get(member).is_some());
    let mut paths = read.get("paths").and_then(Value::as_object).into_iter().flatten();
    let is_empty = !paths.any(|(path, item)| path.starts_with('/') && may_have(item));
    is_empty.then_some("has no operation that can be a tool: GET, HEAD, POST, PUT, PATCH or DELETE of a path")
}

/// One reading, and within the host.
fn is_path(path: &str) -> bool {
    let visible = path.len() <= PATH_BYTES_MAX && path.chars().all(|c| c.is_ascii_graphic() && c != '#' && c != '\\');
    let segments = path.split('?').next().unwrap_or_default().split('/').skip(1);
    let is_sound = segments.into_iter().all(|segment| segment != "." && segment != "..");
    visible && path.starts_with('/') && !path.starts_with("//") && is_sound
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_in_one_place_and_of_a_kind_that_is_read() {
        let spec = |document: Option<&str>, path: Option<&str>| OpenApiSpec {
            document: document.map(Into::into),
            path: path.map(Into::into),
        };
        for (document, path, key) in [
            (Some(r#"{"openapi": "3.0.3", "paths": {"/a": {"get": {}}}}"#), None, None),
            (Some(r##"{"openapi": "3.1.0", "paths": {"/a": {"$ref": "#/x"}}}"##), None, None),
            (None, Some("/v1/openapi.json?x=1"), None),
            (None, None, Some("spec.endpoint.openapi")),
            (Some(r#"{"openapi": "3.0.3"}"#), Some("/a"), Some("spec.endpoint.openapi")),
            (Some(r#"{"swagger": "2.0"}"#), None, Some("spec.endpoint.openapi.document")),
            (Some("openapi: 3.0.3"), None, Some("spec.endpoint.openapi.document")),
            (None, Some("openapi.json"), Some("spec.endpoint.openapi.path")),
            (None, Some("//elsewhere/openapi.json"), Some("spec.endpoint.openapi.path")),
            (None, Some("/a/../b"), Some("spec.endpoint.openapi.path")),
            (None, Some("/a b"), Some("spec.endpoint.openapi.path")),
            (None, Some("/a#b"), Some("spec.endpoint.openapi.path")),
        ] {
            let faults = spec(document, path).faults();
            assert_eq!(faults.first().map(|fault| fault.key.as_str()), key, "{document:?} {path:?}");
        }
    }
    #[test]
    fn a_document_that_can_be_of_no_use_is_refused_with_the_reason() {
        let at = |paths: &str| format!(r#"{{"openapi": "3.1.0", "paths": {paths}}}"#);
        for (document, why) in [
            ("openapi: 3.0.3\npaths: {}".to_owned(), "convert one that is YAML"),
            (r#"{"swagger": "2.0", "paths": {"/a": {"get": {}}}}"#.to_owned(), "convert one of Swagger 2.0"),
            (r#"{"openapi": "3.2.0", "paths": {"/a": {"get": {}}}}"#.to_owned(), "of OpenAPI 3.0 or 3.1"),
            (at(r#"{"/a": {"get": {}, "get": {}}}"#), "a key is repeated"),
            (at("{}"), "no operation"),
            (at(r#"{"/a": {"options": {}, "trace": {}}}"#), "no operation"),
            (at(r#"{"a": {"get": {}}}"#), "no operation"),
            (r#"{"openapi": "3.1.0", "webhooks": {"a": {"post": {}}}}"#.to_owned(), "no operation"),
        ] {
            let faults = OpenApiSpec { document: Some(document.clone()), path: None }.faults();
            let told = faults.first().map(|fault| fault.message.clone()).unwrap_or_default();
            assert!(told.contains(why), "{document}: {told}");
        }
    }
}
