//! Operations as tools: names, input schemas, annotations and bindings.
//!
//! A tool's name is its `operationId`, or method and path; what does not fit into a name gets a hash of the whole at
//! its end. Input has a property for each parameter, under its own name unless two places have a parameter of that
//! name, and `body` for the body. Nothing else is accepted. GET and HEAD are read-only, PUT and DELETE idempotent,
//! DELETE is destructive; of the others a document says nothing, so they count as MCP has it where nothing is said. An
//! operation that cannot be sent in one sure way is left out; so is one with credentials or transport's own headers as
//! required parameters, for those are not a client's to choose. Specification: OpenAPI 3.1.1, "Operation Object",
//! "Parameter Object".

use std::collections::BTreeMap;

use aws_lc_rs::digest;
use bailiwick_proto::{names, v1};
use serde_json::{Map, Value, json};

use super::{
    BINDING_KEY, Binding, Body, DocumentFault, Method, Parameter, Place, Style,
    document::Document,
    request::{is_header_of_ours, placeholders},
    schema::Schemas,
};
use crate::handshake;

/// Most operations of one document: as many tools as a server may have.
pub const OPERATIONS_MAX: usize = 1_000;
/// Values in the schemas of all operations together: a hundred for each of a thousand, five times over.
const NODES_OF_ALL_MAX: usize = 500_000;
/// Longest description: models read them all.
const DESCRIPTION_CHARS_MAX: usize = 4_000;
/// Longest title.
const TITLE_CHARS_MAX: usize = 200;
/// Largest definition: what the control plane approves at most.
const DEFINITION_BYTES_MAX: usize = 64 * 1024;
/// Most operations that are left out and told of.
const LEFT_OUT_MAX: usize = 100;
/// The argument that is the body.
const BODY: &str = "body";
const METHODS: [(Method, &str); 6] = [
    (Method::Get, "get"),
    (Method::Head, "head"),
    (Method::Post, "post"),
    (Method::Put, "put"),
    (Method::Patch, "patch"),
    (Method::Delete, "delete"),
];
/// What is asked of a server itself, rather than of an API.
const METHODS_LEFT_OUT: [&str; 2] = ["options", "trace"];

/// What a document offers.
#[derive(Clone, Debug, Default)]
pub struct Listed {
    /// Canonical definitions, by name.
    pub tools: Vec<v1::ToolDefinition>,
    /// What is not offered.
    pub left_out: Vec<LeftOut>,
}

/// An operation that is not offered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// `GET /path`.
    pub operation: String,
    /// Why.
    pub why: &'static str,
}

/// The tools of a document. The gateway itself sets the header `shown`, if it shows the API a credential: clients do not
/// see it.
///
/// # Errors
/// Why the whole document is of no use.
pub fn tools(text: &str, shown: Option<&str>) -> Result<Listed, DocumentFault> {
    let document = Document::read(text)?;
    let mut listed = Listed::default();
    let mut found: BTreeMap<String, v1::ToolDefinition> = BTreeMap::new();
    let (mut nodes, mut operations) = (0, 0);
    for (path, item) in document.get("paths").and_then(Value::as_object).into_iter().flatten() {
        // Extensions stand beside paths.
        if path.starts_with("x-") {
            continue;
        }
        if !path.starts_with('/') {
            listed.leave_out(path.clone(), "a path begins with a slash");
            continue;
        }
        let Ok(item) = document.resolve(item) else {
            listed.leave_out(path.clone(), "its path refers to what is not in the document");
            continue;
        };
        for word in METHODS_LEFT_OUT {
            if item.get(word).is_some() {
                listed.leave_out(format!("{} {path}", word.to_uppercase()), "its method is none that a tool can have");
            }
        }
        for (method, word) in METHODS {
            let Some(operation) = item.get(word) else { continue };
            operations += 1;
            if operations > OPERATIONS_MAX {
                return Err(DocumentFault::TooMany);
            }
            let operation = Operation { document: &document, shown, method, path, item, operation };
            match operation.tool(&mut nodes) {
                Ok(tool) => {
                    let name = tool.name.clone();
                    if found.insert(name.clone(), tool).is_some() {
                        return Err(DocumentFault::Repeated(name));
                    }
                }
                Err(why) => listed.leave_out(format!("{} {path}", method.as_str()), why),
            }
        }
    }
    if found.is_empty() {
        let first = listed.left_out.first();
        let why = first.map_or_else(String::new, |first| format!("; `{}`: {}", first.operation, first.why));
        return Err(DocumentFault::Empty(why));
    }
    listed.tools = found.into_values().collect();
    Ok(listed)
}

impl Listed {
    fn leave_out(&mut self, operation: String, why: &'static str) {
        if self.left_out.len() < LEFT_OUT_MAX {
            let operation = operation.chars().take(TITLE_CHARS_MAX).collect();
            self.left_out.push(LeftOut { operation, why });
        }
    }
}

struct Operation<'d> {
    document: &'d Document,
    /// In lower case.
    shown: Option<&'d str>,
    method: Method,
    path: &'d str,
    item: &'d Value,
    operation: &'d Value,
}

/// A parameter while it is read: what the document says of it, and what becomes of it.
struct Found<'d> {
    said: &'d Value,
    schema: Option<&'d Value>,
    name: &'d str,
    place: Place,
    style: Style,
    required: bool,
}

impl<'d> Operation<'d> {
    fn tool(&self, nodes: &mut usize) -> Result<v1::ToolDefinition, &'static str> {
        if *nodes > NODES_OF_ALL_MAX {
            return Err("the schemas of all operations together are too large");
        }
        let mut schemas = Schemas::new(self.document);
        let built = self.build(&mut schemas);
        *nodes += schemas.nodes();
        let definition = built?;
        let defined = handshake::definition(&definition).map_err(|_fault| "its definition cannot be written")?;
        if defined.json.len() > DEFINITION_BYTES_MAX { Err("its definition is too large") } else { Ok(defined) }
    }

    fn build(&self, schemas: &mut Schemas<'d>) -> Result<Value, &'static str> {
        let parameters = self.parameters()?;
        let mut properties = Map::new();
        let (mut required, mut bound) = (Vec::new(), Vec::new());
        for found in &parameters {
            let repeated = parameters.iter().filter(|other| other.name == found.name).count() > 1;
            let place = match found.place {
                Place::Path => "path",
                Place::Query => "query",
                Place::Header => "header",
            };
            let argument =
                if repeated || found.name == BODY { format!("{}_{place}", found.name) } else { found.name.to_owned() };
            let mut schema = found.schema.map_or_else(|| Ok(json!({})), |schema| schemas.translate(schema))?;
            describe(&mut schema, found.said.get("description"));
            if properties.insert(argument.clone(), schema).is_some() {
                return Err("two of its parameters would have the same name");
            }
            required.extend(found.required.then(|| Value::from(argument.clone())));
            let Found { name, place, style, required, .. } = *found;
            bound.push(Parameter { argument, name: name.to_owned(), place, style, required });
        }
        let body = self.body(schemas)?;
        let body = body.map(|(body, schema)| {
            properties.insert(BODY.to_owned(), schema);
            required.extend(body.required.then(|| Value::from(BODY)));
            body
        });
        let binding = Binding { method: self.method, path: self.path.to_owned(), parameters: bound, body };
        let mut input = json!({"type": "object", "properties": properties, "additionalProperties": false});
        let definitions = schemas.definitions()?;
        if let Some(input) = input.as_object_mut() {
            if !required.is_empty() {
                input.insert("required".to_owned(), Value::Array(required));
            }
            if !definitions.is_empty() {
                input.insert("$defs".to_owned(), Value::Object(definitions));
            }
        }
        let mut definition = json!({
            "name": self.name(),
            "description": self.description(),
            "inputSchema": input,
            "annotations": annotations(self.method),
            "_meta": {BINDING_KEY: binding},
        });
        if let (Some(title), Some(definition)) = (self.text("summary"), definition.as_object_mut()) {
            definition.insert("title".to_owned(), clipped(title, TITLE_CHARS_MAX).into());
        }
        Ok(definition)
    }

    /// Those of the operation, and those of its path that it does not say itself.
    fn parameters(&self) -> Result<Vec<Found<'d>>, &'static str> {
        let mut all: Vec<Found<'d>> = Vec::new();
        for level in [self.operation, self.item] {
            let own = all.len();
            for said in level.get("parameters").and_then(Value::as_array).into_iter().flatten() {
                let Some(found) = self.parameter(said)? else { continue };
                let is_same = |other: &Found<'_>| (other.name, other.place) == (found.name, found.place);
                let (before, here) = all.split_at(own);
                if here.iter().any(is_same) {
                    return Err("it has two parameters of one name in one place");
                }
                if !before.iter().any(is_same) {
                    all.push(found);
                }
            }
        }
        let in_path: Vec<&str> =
            all.iter().filter(|found| found.place == Place::Path).map(|found| found.name).collect();
        let in_braces = placeholders(self.path).ok_or("its path cannot be read")?;
        let fits =
            in_braces.iter().all(|name| in_path.contains(name)) && in_path.iter().all(|name| in_braces.contains(name));
        // In the order of their places, so that where a document says them makes no difference.
        all.sort_by(|one, other| (one.place, one.name).cmp(&(other.place, other.name)));
        if fits { Ok(all) } else { Err("the parameters in its path are not those that it says") }
    }

    /// `None`: it is not sent, and need not be.
    fn parameter(&self, said: &'d Value) -> Result<Option<Found<'d>>, &'static str> {
        let said = self.document.resolve(said)?;
        let name = said
            .get("name")
            .and_then(Value::as_str)
            .filter(|name| !name.is_empty())
            .ok_or("a parameter has no name")?;
        let required = said.get("required").and_then(Value::as_bool).unwrap_or(false);
        let style = said.get("style").and_then(Value::as_str);
        let place = match said.get("in").and_then(Value::as_str) {
            Some("path") => Place::Path,
            Some("query") => Place::Query,
            Some("header") if self.shown.is_some_and(|shown| name.eq_ignore_ascii_case(shown)) => return Ok(None),
            Some("header") if !is_header_of_ours(name) => Place::Header,
            Some("header" | "cookie") if !required => return Ok(None),
            Some("header") => return Err("it needs a header that clients may not choose"),
            Some("cookie") => return Err("it needs a cookie"),
            Some(_) | None => return Err("a parameter is in an unknown place"),
        };
        if let Some(content) = said.get("content").and_then(Value::as_object) {
            let (kind, content) = content.iter().next().ok_or("a parameter has no content")?;
            let is_json = is_json(kind);
            let found = Found { said, schema: content.get("schema"), name, place, style: Style::Json, required };
            return if is_json {
                Ok(Some(found))
            } else {
                Err("a parameter is of a media type that cannot be written")
            };
        }
        let explode = said.get("explode").and_then(Value::as_bool);
        let style = match (place, style) {
            (Place::Path | Place::Header, None | Some("simple")) if explode != Some(true) => Style::Commas,
            // Lists are written alike, objects are not.
            (Place::Path | Place::Header, None | Some("simple")) if !self.may_be_object(said) => Style::Commas,
            (Place::Query, None | Some("form")) if explode.unwrap_or(true) => Style::Repeated,
            (Place::Query, None | Some("form")) => Style::Commas,
            (Place::Query, Some("spaceDelimited")) if explode != Some(true) => Style::Spaces,
            (Place::Query, Some("pipeDelimited")) if explode != Some(true) => Style::Bars,
            (Place::Query, Some("spaceDelimited" | "pipeDelimited")) => Style::Repeated,
            (Place::Query, Some("deepObject")) => Style::Deep,
            _ => return Err("a parameter has a style that cannot be written"),
        };
        Ok(Some(Found {
            said,
            schema: said.get("schema"),
            name,
            place,
            style,
            required: required || place == Place::Path,
        }))
    }

    fn may_be_object(&self, said: &Value) -> bool {
        let schema = said.get("schema").and_then(|schema| self.document.resolve(schema).ok());
        !matches!(schema.and_then(|schema| schema.get("type")).and_then(Value::as_str), Some(kind) if kind != "object")
    }

    /// The body in the first media type that can be written, and its schema.
    fn body(&self, schemas: &mut Schemas<'d>) -> Result<Option<(Body, Value)>, &'static str> {
        let Some(said) = self.operation.get("requestBody") else { return Ok(None) };
        let said = self.document.resolve(said)?;
        let required = said.get("required").and_then(Value::as_bool).unwrap_or(false);
        let content = said.get("content").and_then(Value::as_object);
        let of_kind = |fits: fn(&str) -> bool| content.into_iter().flatten().find(|(kind, _)| fits(kind));
        let chosen = of_kind(is_json).or_else(|| of_kind(is_form)).or_else(|| of_kind(is_text));
        let Some((kind, chosen)) = chosen else {
            return if required { Err("its body is of a media type that cannot be written") } else { Ok(None) };
        };
        let mut schema = chosen.get("schema").map_or_else(|| Ok(json!({})), |schema| schemas.translate(schema))?;
        describe(&mut schema, said.get("description"));
        Ok(Some((Body { argument: BODY.to_owned(), media_type: kind.clone(), required }, schema)))
    }

    /// The operation's id, or its method and path, within what a name may be.
    fn name(&self) -> String {
        let whole = self
            .text("operationId")
            .map_or_else(|| format!("{}{}", self.method.as_str().to_ascii_lowercase(), self.path), ToOwned::to_owned);
        let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if whole.len() <= names::TOOL_NAME_CHARS_MAX && whole.chars().all(fits) {
            return whole;
        }
        let hash = hex::encode(digest::digest(&digest::SHA256, whole.as_bytes()));
        let suffix: String = hash.chars().take(8).collect();
        let mut kept = String::new();
        for c in whole.chars().map(|c| if fits(c) { c } else { '_' }) {
            // `/pets/{id}` is `_pets_id`: no rows of underscores.
            if !(c == '_' && kept.ends_with('_')) && kept.len() < names::TOOL_NAME_CHARS_MAX - suffix.len() - 1 {
                kept.push(c);
            }
        }
        format!("{}_{suffix}", kept.trim_matches('_'))
    }

    fn description(&self) -> String {
        let said = self.text("description").or_else(|| self.text("summary"));
        let said = said.map_or_else(|| format!("{} {}", self.method.as_str(), self.path), ToOwned::to_owned);
        clipped(&said, DESCRIPTION_CHARS_MAX)
    }

    fn text(&self, member: &str) -> Option<&'d str> {
        self.operation.get(member).and_then(Value::as_str).filter(|text| !text.trim().is_empty())
    }
}

fn annotations(method: Method) -> Value {
    match method {
        Method::Get | Method::Head => json!({"readOnlyHint": true}),
        Method::Put => json!({"readOnlyHint": false, "idempotentHint": true}),
        Method::Delete => json!({"readOnlyHint": false, "idempotentHint": true, "destructiveHint": true}),
        Method::Post | Method::Patch => json!({"readOnlyHint": false}),
    }
}

/// What is said beside a schema, where the schema says nothing itself.
fn describe(schema: &mut Value, said: Option<&Value>) {
    if let (Value::Object(schema), Some(Value::String(said))) = (schema, said)
        && !schema.contains_key("description")
    {
        schema.insert("description".to_owned(), clipped(said, DESCRIPTION_CHARS_MAX).into());
    }
}

fn clipped(text: &str, chars_max: usize) -> String {
    text.trim().chars().take(chars_max).collect()
}

fn essence(media_type: &str) -> String {
    media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

pub(super) fn is_json(media_type: &str) -> bool {
    let kind = essence(media_type);
    kind == "application/json" || (kind.starts_with("application/") && kind.ends_with("+json"))
}

pub(super) fn is_form(media_type: &str) -> bool {
    essence(media_type) == "application/x-www-form-urlencoded"
}

pub(super) fn is_text(media_type: &str) -> bool {
    essence(media_type) == "text/plain"
}
