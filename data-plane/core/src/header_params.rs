//! Arguments that a tool wants mirrored into `Mcp-Param-…` headers (`x-mcp-header` in its input schema).
//!
//! Called by `catalogue` (which arguments? is the schema's wish valid?), by `edge` (do a modern client's headers say
//! what its arguments say?) and by `forward` (headers for a modern server, computed anew from the authorised
//! arguments). Headers that the approved definition does not declare are passed on as they are, from modern clients to
//! modern servers. Specification: MCP 2026-07-28 Streamable HTTP, "Custom Headers from Tool Parameters", "Server
//! Validation".

use std::collections::BTreeSet;

use bailiwick_proto::mcp::{HeaderMismatch, Headers, Members, decode_value, encode_value, header_name};
use serde_json::{Value, value::RawValue};

const ANNOTATION: &str = "x-mcp-header";

/// One mirrored argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderParam {
    /// The rest of the header's name after `Mcp-Param-`, as declared.
    pub header: String,
    /// Where the argument stands: member names from the outside in.
    pub path: Vec<String>,
}

/// The schema's wish breaks a rule, so the tool must not be offered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderParamFault {
    /// The schema is no JSON object.
    #[error("the input schema is not readable")]
    Schema,
    /// Not a header name.
    #[error("`{ANNOTATION}` is not a header name")]
    Name,
    /// Declared twice, compared without regard to case.
    #[error("`{ANNOTATION}` `{0}` is declared twice")]
    Repeated(String),
    /// On something else than a string, integer or boolean.
    #[error("`{ANNOTATION}` stands on a parameter that is no string, integer or boolean")]
    Type,
    /// Not reachable through `properties` alone.
    #[error("`{ANNOTATION}` stands where it is not reached through `properties` alone")]
    Unreachable,
}

/// The mirrored arguments an input schema declares.
///
/// # Errors
/// The first rule a declaration breaks.
pub fn scan(schema: &RawValue) -> Result<Vec<HeaderParam>, HeaderParamFault> {
    let schema: Value = serde_json::from_str(schema.get()).map_err(|_unreadable| HeaderParamFault::Schema)?;
    let mut scan = Scan::default();
    scan.visit(&schema, &mut Vec::new(), true)?;
    Ok(scan.found)
}

#[derive(Default)]
struct Scan {
    found: Vec<HeaderParam>,
    names: BTreeSet<String>,
}

impl Scan {
    /// Visits one schema. Recursion is bounded by the depth that definitions are read with.
    fn visit(&mut self, schema: &Value, path: &mut Vec<String>, reachable: bool) -> Result<(), HeaderParamFault> {
        let Some(members) = schema.as_object() else { return Ok(()) };
        if let Some(annotation) = members.get(ANNOTATION) {
            if !reachable || path.is_empty() {
                return Err(HeaderParamFault::Unreachable);
            }
            self.declare(annotation, members.get("type"), path)?;
        }
        for (keyword, value) in members {
            match keyword.as_str() {
                "properties" => {
                    for (name, child) in value.as_object().into_iter().flatten() {
                        path.push(name.clone());
                        self.visit(child, path, reachable)?;
                        path.pop();
                    }
                }
                // Maps from names to schemas.
                "patternProperties" | "dependentSchemas" | "$defs" | "definitions" => {
                    for child in value.as_object().into_iter().flat_map(serde_json::Map::values) {
                        self.visit(child, path, false)?;
                    }
                }
                // Data, not schemas.
                "const" | "enum" | "default" | "example" | "examples" | ANNOTATION => {}
                _ => self.visit_any(value, path)?,
            }
        }
        Ok(())
    }

    /// A schema or a list of schemas under a keyword that breaks the chain.
    fn visit_any(&mut self, value: &Value, path: &mut Vec<String>) -> Result<(), HeaderParamFault> {
        match value {
            Value::Array(items) => items.iter().try_for_each(|item| self.visit_any(item, path)),
            Value::Object(_) => self.visit(value, path, false),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Ok(()),
        }
    }

    fn declare(&mut self, annotation: &Value, kind: Option<&Value>, path: &[String]) -> Result<(), HeaderParamFault> {
        let header = annotation.as_str().filter(|name| is_token(name)).ok_or(HeaderParamFault::Name)?;
        if !matches!(kind.and_then(Value::as_str), Some("string" | "integer" | "boolean")) {
            return Err(HeaderParamFault::Type);
        }
        if !self.names.insert(header.to_ascii_lowercase()) {
            return Err(HeaderParamFault::Repeated(header.to_owned()));
        }
        self.found.push(HeaderParam { header: header.to_owned(), path: path.to_vec() });
        Ok(())
    }
}

/// RFC 9110 §5.6.2.
fn is_token(name: &str) -> bool {
    let tchar = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !name.is_empty() && name.bytes().all(tchar)
}

/// Do the headers a modern client sent say what its arguments say?
///
/// # Errors
/// The first header that is missing, does not decode, or differs. A header for an argument that is absent or null
/// differs too.
pub fn check(params: &[HeaderParam], sent: &Headers, arguments: Option<&RawValue>) -> Result<(), HeaderMismatch> {
    for param in params {
        let name = || format!("Mcp-Param-{}", param.header);
        let header = sent.params.get(&param.header.to_ascii_lowercase());
        match (header, value_at(arguments, &param.path)) {
            (None, None) => {}
            (None, Some(_)) => return Err(HeaderMismatch::Missing(name())),
            (Some(_), None) => return Err(HeaderMismatch::Differs(name())),
            (Some(header), Some(value)) => {
                let header = decode_value(header).map_err(|_fault| HeaderMismatch::Undecodable(name()))?;
                if !same(&header, &value) {
                    return Err(HeaderMismatch::Differs(name()));
                }
            }
        }
    }
    Ok(())
}

/// Headers for a modern server: name and encoded value.
#[must_use]
pub fn headers(params: &[HeaderParam], arguments: Option<&RawValue>) -> Vec<(String, String)> {
    let header = |param: &HeaderParam| {
        let text = value_at(arguments, &param.path)?.text()?;
        Some((format!("{}{}", header_name::PARAM_PREFIX, param.header.to_ascii_lowercase()), encode_value(&text)))
    };
    params.iter().filter_map(header).collect()
}

/// Mirrored headers of a modern client that the approved definition does not declare, as an intermediary has to pass them
/// on: lower-case names, values as they were sent. Only a server that declares them can say whether they mirror anything.
#[must_use]
pub fn unrecognised(params: &[HeaderParam], sent: &Headers) -> Vec<(String, String)> {
    let declared: BTreeSet<String> = params.iter().map(|param| param.header.to_ascii_lowercase()).collect();
    let others = sent.params.iter().filter(|(name, _)| !declared.contains(*name));
    others.map(|(name, value)| (format!("{}{name}", header_name::PARAM_PREFIX), value.clone())).collect()
}

/// A present, non-null argument: its value, and the text it was written as.
struct Argument<'a> {
    value: Value,
    written: &'a str,
}

impl Argument<'_> {
    /// Its text in a header; `None` for what headers cannot mirror. Integers keep their digits, however many.
    fn text(&self) -> Option<String> {
        match &self.value {
            Value::String(text) => Some(text.clone()),
            Value::Bool(value) => Some(value.to_string()),
            Value::Number(_) if is_integer(self.written) => Some(self.written.to_owned()),
            Value::Number(number) => Some(number.to_string()),
            Value::Null | Value::Array(_) | Value::Object(_) => None,
        }
    }
}

fn is_integer(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

fn value_at<'a>(arguments: Option<&'a RawValue>, path: &[String]) -> Option<Argument<'a>> {
    let mut value = arguments?;
    for name in path {
        value = Members::of(value)?.get(name)?;
    }
    let written = value.get();
    let value: Value = serde_json::from_str(written).ok()?;
    (!value.is_null()).then_some(Argument { value, written })
}

/// Equal as text, or as numbers (`42.0` is `42`); two integers only by their digits.
fn same(header: &str, argument: &Argument<'_>) -> bool {
    if argument.text().as_deref() == Some(header) {
        return true;
    }
    let decimal = |text: &str| {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
        is_integer(whole) && is_integer(fraction) && !fraction.starts_with('-')
    };
    match (&argument.value, header.parse::<f64>()) {
        (Value::Number(_), Ok(_)) if is_integer(header) && is_integer(argument.written) => false,
        (Value::Number(number), Ok(sent)) if decimal(header) => number.as_f64() == Some(sent),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn raw(value: &Value) -> Box<RawValue> {
        serde_json::value::to_raw_value(value).unwrap()
    }

    fn sent(pairs: &[(&str, &str)]) -> Headers {
        let params = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Headers { params, ..Headers::default() }
    }

    #[test]
    fn declarations_are_found_at_any_depth_of_properties() {
        let schema = json!({"type": "object", "properties": {
            "region": {"type": "string", "x-mcp-header": "Region"},
            "where": {"type": "object", "properties": {"n": {"type": "integer", "x-mcp-header": "N"}}},
            "x-mcp-header": {"type": "string"},
            "free": {"type": "object", "default": {"x-mcp-header": 1}, "enum": [{"x-mcp-header": 1}]},
        }});
        let found = scan(&raw(&schema)).unwrap();
        let names: BTreeSet<_> = found.iter().map(|param| (param.header.as_str(), param.path.join("."))).collect();
        assert_eq!(names, BTreeSet::from([("Region", "region".to_owned()), ("N", "where.n".to_owned())]));
    }

    #[test]
    fn declarations_that_break_a_rule_are_refused() {
        let property = |schema: Value| json!({"properties": {"p": schema}});
        for (schema, expected) in [
            (property(json!({"type": "string", "x-mcp-header": ""})), HeaderParamFault::Name),
            (property(json!({"type": "string", "x-mcp-header": "a b"})), HeaderParamFault::Name),
            (property(json!({"type": "string", "x-mcp-header": "a\r\nb"})), HeaderParamFault::Name),
            (property(json!({"type": "string", "x-mcp-header": "é"})), HeaderParamFault::Name),
            (property(json!({"type": "string", "x-mcp-header": 7})), HeaderParamFault::Name),
            (property(json!({"type": "number", "x-mcp-header": "A"})), HeaderParamFault::Type),
            (property(json!({"type": "object", "x-mcp-header": "A"})), HeaderParamFault::Type),
            (property(json!({"x-mcp-header": "A"})), HeaderParamFault::Type),
            (json!({"type": "string", "x-mcp-header": "A"}), HeaderParamFault::Unreachable),
            (
                property(json!({"type": "array", "items": {"type": "string", "x-mcp-header": "A"}})),
                HeaderParamFault::Unreachable,
            ),
            (
                json!({"anyOf": [{"properties": {"p": {"type": "string", "x-mcp-header": "A"}}}]}),
                HeaderParamFault::Unreachable,
            ),
            (json!({"$defs": {"d": {"type": "string", "x-mcp-header": "A"}}}), HeaderParamFault::Unreachable),
            (
                json!({"properties": {
                    "a": {"type": "string", "x-mcp-header": "Same"},
                    "b": {"type": "string", "x-mcp-header": "same"},
                }}),
                HeaderParamFault::Repeated("same".into()),
            ),
        ] {
            assert_eq!(scan(&raw(&schema)), Err(expected), "{schema}");
        }
    }

    #[test]
    fn headers_must_say_what_the_arguments_say() {
        let params = [HeaderParam { header: "Region".into(), path: vec!["where".into(), "region".into()] }];
        let arguments = |value: Value| Some(raw(&json!({"where": {"region": value}})));
        let missing = Err(HeaderMismatch::Missing("Mcp-Param-Region".into()));
        let differs = Err(HeaderMismatch::Differs("Mcp-Param-Region".into()));
        for (headers, value, expected) in [
            (sent(&[("region", "eu")]), json!("eu"), Ok(())),
            (sent(&[("region", "=?base64?w7xiZXI=?=")]), json!("über"), Ok(())),
            (sent(&[("region", "42.0")]), json!(42), Ok(())),
            (sent(&[("region", "true")]), json!(true), Ok(())),
            (sent(&[]), json!(null), Ok(())),
            (sent(&[]), json!("eu"), missing),
            (sent(&[("region", "EU")]), json!("eu"), differs.clone()),
            (sent(&[("region", "1e1")]), json!(10), differs.clone()),
            (sent(&[("region", "eu")]), json!(null), differs.clone()),
            (sent(&[("region", "{}")]), json!({}), differs.clone()),
            (sent(&[("region", "True")]), json!(true), differs),
            (
                sent(&[("region", "=?base64?!?=")]),
                json!("eu"),
                Err(HeaderMismatch::Undecodable("Mcp-Param-Region".into())),
            ),
        ] {
            assert_eq!(check(&params, &headers, arguments(value.clone()).as_deref()), expected, "{value}");
        }
        assert_eq!(check(&params, &sent(&[("other", "x")]), None), Ok(()));
    }

    #[test]
    fn upstream_headers_are_computed_from_the_arguments() {
        let params = [
            HeaderParam { header: "Region".into(), path: vec!["region".into()] },
            HeaderParam { header: "Gone".into(), path: vec!["gone".into()] },
            HeaderParam { header: "Count".into(), path: vec!["count".into()] },
        ];
        let arguments = raw(&json!({"region": " é", "count": 3, "gone": null}));
        let sent = [("mcp-param-region", "=?base64?IMOp?="), ("mcp-param-count", "3")];
        let expected = sent.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(headers(&params, Some(&arguments)), expected);
        assert!(headers(&params, None).is_empty());
    }

    #[test]
    fn integers_beyond_floating_point_keep_their_digits() {
        let params = [HeaderParam { header: "Count".into(), path: vec!["count".into()] }];
        let arguments = RawValue::from_string(r#"{"count":9007199254740993}"#.to_owned()).unwrap();
        assert_eq!(headers(&params, Some(&arguments)), [("mcp-param-count".to_owned(), "9007199254740993".to_owned())]);
        let one_less = sent(&[("count", "9007199254740992")]);
        assert_eq!(
            check(&params, &one_less, Some(&arguments)),
            Err(HeaderMismatch::Differs("Mcp-Param-Count".to_owned()))
        );
    }

    #[test]
    fn only_undeclared_headers_are_passed_on() {
        let params = [HeaderParam { header: "Region".into(), path: vec!["region".into()] }];
        let others = unrecognised(&params, &sent(&[("region", "eu"), ("zone", "=?base64?w7w=?=")]));
        assert_eq!(others, [("mcp-param-zone".to_owned(), "=?base64?w7w=?=".to_owned())]);
    }
}
