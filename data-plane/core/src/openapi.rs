//! HTTP APIs that are described by OpenAPI 3.0 or 3.1, as servers with tools.
//!
//! Each operation is a tool ([`tools`]), a call of it is one HTTP request ([`request`]), and what the API answers is
//! the tool's result ([`answer`]). How arguments become a request (`Binding`) stands in the tool's definition, so it is
//! approved with it: a document that changes later changes nothing that is called until somebody accepts it. Names, and
//! all else, are pure functions of the operation, whatever else the document holds. Called by the server's
//! `upstream::openapi`. What cannot be sent in one sure way is left out, with a reason, and never guessed. Documents
//! are strangers' text: sizes, references and recursion are bounded. Deliberately absent: documents in YAML, other
//! documents that one refers to, `servers` and `securitySchemes` (the manifest says where an API is and what it is
//! shown), cookies, multipart bodies, callbacks. Specification: OpenAPI 3.0.4 and 3.1.1; MCP, "Tools".

mod answer;
mod document;
mod operations;
mod request;
mod schema;
#[cfg(test)]
mod tests;

use bailiwick_proto::mcp::Members;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

pub use answer::{answer, failed};
pub use document::{DOCUMENT_BYTES_MAX, DocumentFault};
pub use operations::{LeftOut, Listed, OPERATIONS_MAX, tools};
pub use request::{ArgumentFault, HttpRequest, request};

/// Where a definition's `_meta` holds the binding.
pub const BINDING_KEY: &str = "bailiwick/http";

/// How a call of one tool becomes an HTTP request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Binding {
    /// The HTTP method.
    pub method: Method,
    /// Below the API's URL, with parameters in braces: `/pets/{petId}`.
    pub path: String,
    /// What arguments are sent beside the body.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parameters: Vec<Parameter>,
    /// The argument that is sent as the body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<Body>,
}

/// The HTTP methods that operations may have here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Method {
    /// Reads.
    Get,
    /// Reads, without a body in the answer.
    Head,
    /// Whatever the API means by it.
    Post,
    /// Replaces: doing it twice is doing it once.
    Put,
    /// Changes a part.
    Patch,
    /// Deletes: doing it twice is doing it once.
    Delete,
}

/// One parameter and the argument that it is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parameter {
    /// Name of the argument.
    pub argument: String,
    /// Name in the request.
    pub name: String,
    /// Where it stands there.
    #[serde(rename = "in")]
    pub place: Place,
    /// How lists and objects are written.
    pub style: Style,
    /// Whether the request cannot be made without.
    #[serde(default, skip_serializing_if = "is_false")]
    pub required: bool,
}

/// Where a parameter stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// In braces in the path.
    Path,
    /// After the question mark.
    Query,
    /// In a header of its name.
    Header,
}

/// How a value is written. Plain values are written in the same way in all of them but `Json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Style {
    /// Lists and objects with commas between (OpenAPI's `simple`, and `form` that is not exploded).
    Commas,
    /// Lists with spaces between.
    Spaces,
    /// Lists with bars between.
    Bars,
    /// Every item, or member, a parameter of its own (`form` that is exploded).
    Repeated,
    /// Every member a parameter of its own, as `name[member]`.
    Deep,
    /// The value as JSON.
    Json,
}

/// The body of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Body {
    /// Name of the argument.
    pub argument: String,
    /// The media type it is sent as.
    #[serde(rename = "type")]
    pub media_type: String,
    /// Whether the request cannot be made without.
    #[serde(default, skip_serializing_if = "is_false")]
    pub required: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_false(value: &bool) -> bool {
    !*value
}

impl Method {
    /// As it stands in a request, and in lower case in a document.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
        }
    }

    /// Whether doing it again does nothing more, by HTTP's own rules.
    #[must_use]
    pub const fn is_idempotent(self) -> bool {
        match self {
            Self::Get | Self::Head | Self::Put | Self::Delete => true,
            Self::Post | Self::Patch => false,
        }
    }
}

impl Binding {
    /// The binding of an approved definition; `None` where it holds none that can be read.
    #[must_use]
    pub fn of(definition: &RawValue) -> Option<Self> {
        let meta = Members::of(definition)?.object("_meta").ok().flatten()?;
        serde_json::from_str(meta.get(BINDING_KEY)?.get()).ok()
    }
}
