//! HTTP APIs as servers: where the OpenAPI document is that says which tools there are.
//!
//! Called by `checks` and `view`. What a document means is read by data planes, which also say what is wrong with it
//! when a server is applied; here it is only made sure that there is one, and that it is of a kind they read.

use bailiwick_proto::v1;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::checks::Fault;

/// Longest path of a document.
const PATH_BYTES_MAX: usize = 1_024;

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
            (Some(document), None) if !is_openapi(document) => {
                fault(".document", "must be an OpenAPI document of 3.0 or 3.1 as JSON; convert one that is YAML")
            }
            (None, Some(path)) if !is_path(path) => {
                fault(".path", "must be a path from the root on, with an optional query, e.g. \"/openapi.json\"")
            }
            (Some(_), None) | (None, Some(_)) => Vec::new(),
        }
    }
}

fn is_openapi(document: &str) -> bool {
    let document: Option<Value> = serde_json::from_str(document).ok();
    let version = document.as_ref().and_then(|document| document.get("openapi")?.as_str());
    version.is_some_and(|version| version.starts_with("3.0.") || version.starts_with("3.1."))
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
            (Some(r#"{"openapi": "3.0.3"}"#), None, None),
            (Some(r#"{"openapi": "3.1.0"}"#), None, None),
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
}
