//! What a virtual server shows of pinned tools: which of them, under which names, and by which definition.
//!
//! Called by `compile` for each virtual server. Without a view a tool is shown as it was approved, under the name that
//! the naming gives it. A view leaves tools out, gives names, titles and descriptions, and fixes arguments: those are
//! taken out of the schema that clients see and set by `edge` at each call. Invariants: everything that no view speaks
//! of stays byte for byte as it was approved; a tool whose definition does not let a view do what it says is not shown
//! at all. The control plane warned of those (`control-plane/core`, `virtual_server::fitting`).

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bailiwick_proto::{mcp, names, tool_view, v1};
use serde_json::{Value, value::RawValue};

use crate::config::{ExposedTool, Tool, View};

/// How one virtual server shows tools.
#[derive(Debug)]
pub(super) struct Exposure<'a> {
    is_plain: bool,
    views: BTreeMap<&'a str, Of<'a>>,
}

/// What is said of one server's tools.
#[derive(Debug)]
struct Of<'a> {
    only: BTreeSet<&'a str>,
    hide: BTreeSet<&'a str>,
    tools: BTreeMap<&'a str, &'a v1::ToolView>,
}

/// A tool towards clients: its name, and how it is to be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Face<'a> {
    pub(super) name: String,
    said: Option<&'a v1::ToolView>,
}

impl<'a> Exposure<'a> {
    pub(super) fn of(listed: &'a v1::VirtualServer) -> Self {
        let of = |view: &'a v1::ServerView| {
            let names = |tools: &'a [String]| tools.iter().map(String::as_str).collect();
            let tools = view.tools.iter().map(|tool| (tool.tool.as_str(), tool)).collect();
            (view.server.as_str(), Of { only: names(&view.only), hide: names(&view.hide), tools })
        };
        Self { is_plain: listed.naming == "plain", views: listed.views.iter().map(of).collect() }
    }

    /// How a tool is shown; `None` where it is not.
    pub(super) fn face(&self, tool: &Tool) -> Option<Face<'a>> {
        let of = self.views.get(tool.server.as_str());
        let own = tool.name.as_str();
        let is_hidden =
            of.is_some_and(|Of { only, hide, .. }| (!only.is_empty() && !only.contains(own)) || hide.contains(own));
        if is_hidden {
            return None;
        }
        let said = of.and_then(|of| of.tools.get(own)).copied();
        let name = match said.map(|said| said.name.as_str()).filter(|name| !name.is_empty()) {
            Some(given) => given.to_owned(),
            None if self.is_plain => tool.name.clone(),
            None => names::prefixed_tool_name(&tool.server, &tool.name),
        };
        Some(Face { name, said })
    }
}

impl Face<'_> {
    /// Whether an exposure is what this would be made into.
    pub(super) fn is_of(&self, exposed: &ExposedTool) -> bool {
        self.name == exposed.name && self.said == exposed.view.as_ref().map(|view| &view.said)
    }

    /// The tool with this face; `None` for one that must not be shown anywhere.
    pub(super) fn show(&self, tool: &Arc<Tool>) -> Result<Option<ExposedTool>, String> {
        let Some(approved) = tool.definition.as_deref() else { return Ok(None) };
        let members = mcp::ordered_members(approved).ok_or("the definition is no object")?;
        let (tool, name) = (Arc::clone(tool), self.name.clone());
        let Some(said) = self.said else {
            let name_json = mcp::raw(&name);
            let renamed = members.iter().map(|(key, value)| (&**key, if key == "name" { &*name_json } else { *value }));
            return Ok(Some(ExposedTool { definition: mcp::raw_object(renamed), name, tool, view: None }));
        };
        if !names::is_client_tool_name(&name) && !said.name.is_empty() {
            return Err("the name it is given is none that clients take".to_owned());
        }
        let fixed = fixed(said)?;
        let definition = definition(&members, &name, said, &fixed)?;
        let is_left = |param: &&crate::header_params::HeaderParam| {
            let top = param.path.first();
            !fixed.iter().any(|(name, _)| Some(name) == top)
        };
        let header_params = tool.header_params.iter().filter(is_left).cloned().collect();
        let view = Some(Box::new(View { said: said.clone(), fixed, header_params }));
        Ok(Some(ExposedTool { name, tool, definition, view }))
    }
}

/// The arguments that a view fixes, as JSON texts.
fn fixed(said: &v1::ToolView) -> Result<Vec<(String, Box<RawValue>)>, String> {
    if said.fixed.is_empty() {
        return Ok(Vec::new());
    }
    let unreadable = "what its view fixes is no JSON object";
    let text = mcp::check_json(said.fixed.as_bytes()).map_err(|_fault| unreadable)?;
    let value: &RawValue = serde_json::from_str(text).map_err(|_fault| unreadable)?;
    let members = mcp::ordered_members(value).ok_or(unreadable)?;
    Ok(members.into_iter().map(|(name, value)| (name.into_owned(), value.to_owned())).collect())
}

/// The approved definition with what a view says instead.
fn definition(
    members: &[(Cow<'_, str>, &RawValue)],
    name: &str,
    said: &v1::ToolView,
    fixed: &[(String, Box<RawValue>)],
) -> Result<Box<RawValue>, String> {
    let text = |text: &str| (!text.is_empty()).then(|| mcp::raw(text));
    let (name, title, description) = (mcp::raw(name), text(&said.title), text(&said.description));
    let mut shown: Vec<(&str, Box<RawValue>)> = Vec::with_capacity(members.len() + 2);
    for (key, value) in members {
        let value = match (&**key, &title, &description) {
            ("name", _, _) => name.clone(),
            ("title", Some(title), _) => title.clone(),
            ("description", _, Some(description)) => description.clone(),
            // Where clients of the first revisions look for a title.
            ("annotations", Some(title), _) => replaced(value, "title", title),
            ("inputSchema", _, _) if !fixed.is_empty() => schema(value, fixed)?,
            _ => (*value).to_owned(),
        };
        shown.push((key, value));
    }
    for (key, value) in [("title", title), ("description", description)] {
        let is_there = members.iter().any(|(known, _)| known == key);
        shown.extend(value.filter(|_| !is_there).map(|value| (key, value)));
    }
    Ok(mcp::raw_object(shown.iter().map(|(key, value)| (*key, &**value))))
}

/// The input schema without the parameters that are fixed.
fn schema(schema: &RawValue, fixed: &[(String, Box<RawValue>)]) -> Result<Box<RawValue>, String> {
    let value: Value = serde_json::from_str(schema.get()).map_err(|fault| fault.to_string())?;
    tool_view::fixable(&value, fixed.iter().map(|(name, _)| name.as_str())).map_err(|why| why.to_string())?;
    let is_left = |name: &str| !fixed.iter().any(|(fixed, _)| fixed == name);
    let members = mcp::ordered_members(schema).ok_or("the input schema is no object")?;
    let left: Vec<(&str, Box<RawValue>)> = members
        .iter()
        .map(|(key, value)| match &**key {
            "properties" => {
                let known = mcp::ordered_members(value).unwrap_or_default();
                let left = known.iter().filter(|(name, _)| is_left(name));
                ("properties", mcp::raw_object(left.map(|(name, value)| (&**name, *value))))
            }
            "required" => {
                let known: Vec<String> = serde_json::from_str(value.get()).unwrap_or_default();
                let left: Vec<&String> = known.iter().filter(|name| is_left(name)).collect();
                ("required", mcp::raw(&left))
            }
            key => (key, (*value).to_owned()),
        })
        .collect();
    Ok(mcp::raw_object(left.iter().map(|(key, value)| (*key, &**value))))
}

/// An object with a member made anew, if it has it; anything else as it is.
fn replaced(object: &RawValue, key: &str, new: &RawValue) -> Box<RawValue> {
    let Some(members) = mcp::ordered_members(object) else { return object.to_owned() };
    mcp::raw_object(members.iter().map(|(name, value)| (&**name, if name == key { new } else { *value })))
}

#[cfg(test)]
mod tests;
