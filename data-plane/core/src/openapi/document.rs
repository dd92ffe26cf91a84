//! A document as it was read, and what it refers to inside itself.
//!
//! Strict as everything from outside: one reading, bounded nesting. A reference is followed within the document only,
//! through a bounded number of others. Specification: OpenAPI 3.1.1, "Reference Object"; RFC 6901.

use bailiwick_proto::mcp::check_json;
use serde_json::Value;

/// Largest document. Those of very large APIs have some MiB; reading one takes about ten times its size for a moment.
pub const DOCUMENT_BYTES_MAX: usize = 4 << 20;
/// References in a row: none of a person's writing needs three.
const REFERENCES_MAX: usize = 16;

/// Why a document is of no use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DocumentFault {
    /// More than [`DOCUMENT_BYTES_MAX`].
    #[error("the OpenAPI document is larger than {DOCUMENT_BYTES_MAX} bytes")]
    TooLarge,
    /// No JSON with one reading.
    #[error("the OpenAPI document is not JSON that can be read: {0}")]
    NotJson(String),
    /// Neither 3.0 nor 3.1.
    #[error("the document is not of OpenAPI 3.0 or 3.1")]
    Version,
    /// No operations at all.
    #[error("the OpenAPI document has no operation that can be a tool{0}")]
    Empty(String),
    /// More than [`super::OPERATIONS_MAX`].
    #[error("the OpenAPI document has more than {} operations", super::OPERATIONS_MAX)]
    TooMany,
    /// Two operations of one name.
    #[error("two operations have the name `{0}`")]
    Repeated(String),
}

/// See the file's header.
#[derive(Debug)]
pub(super) struct Document {
    root: Value,
    /// Schemas are written in OpenAPI's own dialect.
    pub(super) is_3_0: bool,
}

impl Document {
    pub(super) fn read(text: &str) -> Result<Self, DocumentFault> {
        if text.len() > DOCUMENT_BYTES_MAX {
            return Err(DocumentFault::TooLarge);
        }
        let text = text.trim_start_matches('\u{feff}');
        let not_json = |fault: &dyn std::fmt::Display| DocumentFault::NotJson(fault.to_string());
        check_json(text.as_bytes()).map_err(|fault| not_json(&fault))?;
        let root: Value = serde_json::from_str(text).map_err(|fault| not_json(&fault))?;
        let version = root.get("openapi").and_then(Value::as_str).unwrap_or_default();
        let is_3_0 = version.starts_with("3.0.");
        if !is_3_0 && !version.starts_with("3.1.") {
            return Err(DocumentFault::Version);
        }
        Ok(Self { root, is_3_0 })
    }

    pub(super) fn get(&self, member: &str) -> Option<&Value> {
        self.root.get(member)
    }

    /// What a value is, wherever in the document that stands.
    pub(super) fn resolve<'a>(&'a self, value: &'a Value) -> Result<&'a Value, &'static str> {
        let mut value = value;
        for _ in 0..REFERENCES_MAX {
            match value.get("$ref") {
                None => return Ok(value),
                Some(Value::String(reference)) => value = self.at(reference)?,
                Some(_) => return Err("a reference is no text"),
            }
        }
        Err("references go round or too far")
    }

    /// What stands at `#/…`.
    pub(super) fn at(&self, reference: &str) -> Result<&Value, &'static str> {
        let pointer = reference.strip_prefix('#').ok_or("it refers to another document")?;
        let pointer = decoded(pointer).ok_or("a reference cannot be read")?;
        self.root.pointer(&pointer).ok_or("it refers to what is not in the document")
    }
}

/// Percent-encoding undone, as a URI's fragment has it.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
                let (high, low) = (digit(rest.next())?, digit(rest.next())?);
                u8::try_from(high * 16 + low).ok()?
            }
            plain => plain,
        });
    }
    String::from_utf8(bytes).ok()
}
