//! What a caller can want of a virtual server, and which server's own thing that is.
//!
//! Called by `admission`, which asks whether they may. Tools come from the pinned catalogue. Prompts and resources are
//! not pinned: their names say which server they are of (`naming`), and whether that server has them it knows itself.
//! A resource's URI must have one reading only (`resource_uri`), for policies judge its text.
//! Deliberately absent: any judgement about the caller.

use std::sync::Arc;

use bailiwick_policy::Use;
use bailiwick_proto::{Reason, Tier};

use crate::{
    config::{Config, Tool},
    naming::Own,
    resource_uri,
};

/// Longest name of a prompt, as for tools: four bytes for each of 128 characters.
pub const PROMPT_NAME_BYTES_MAX: usize = 512;

/// A tool as a client names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ToolRef<'a> {
    /// The virtual server in the URL.
    pub virtual_server: &'a str,
    /// The name towards clients.
    pub name: &'a str,
}

/// Something a client wants, as it names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted<'a> {
    /// The virtual server in the URL.
    pub virtual_server: &'a str,
    /// What, by its name towards clients.
    pub what: What<'a>,
}

/// The kinds of things, each with its name towards clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What<'a> {
    /// `tools/call`.
    Tool(&'a str),
    /// `prompts/get`, and completing one of its arguments.
    Prompt(&'a str),
    /// `resources/read` and `resources/subscribe`.
    Resource(&'a str),
    /// Completing a variable of a resource template, and showing the template. Judged as if its text were a URI.
    Template(&'a str),
    /// A task of a tool's, by the tool's own name at its server: whoever asks must be permitted to call the tool.
    Task {
        /// Name of the server.
        server: &'a str,
        /// The tool's name there.
        tool: &'a str,
    },
    /// A task that nobody knows.
    NoTask,
}

impl<'a> From<ToolRef<'a>> for Wanted<'a> {
    fn from(ToolRef { virtual_server, name }: ToolRef<'a>) -> Self {
        Self { virtual_server, what: What::Tool(name) }
    }
}

/// What is wanted, as its server has it.
#[derive(Clone, Debug)]
pub enum Found {
    /// A pinned tool.
    Tool(Arc<Tool>),
    /// A prompt, by its own name.
    Prompt(Own),
    /// A resource or a template, by its own URI.
    Resource(Own),
    /// What has become of a task of a pinned tool's.
    Task(Arc<Tool>),
}

impl Found {
    /// Name of the server.
    #[must_use]
    pub fn server(&self) -> &str {
        match self {
            Self::Tool(tool) | Self::Task(tool) => &tool.server,
            Self::Prompt(own) | Self::Resource(own) => &own.server,
        }
    }

    /// How much harm it can do. Prompts, resources and what has become of tasks are read.
    #[must_use]
    pub fn tier(&self) -> Tier {
        match self {
            Self::Tool(tool) => tool.tier,
            Self::Prompt(_) | Self::Resource(_) | Self::Task(_) => Tier::Retrieval,
        }
    }

    /// Not to be used, but looked at: a task of the tool.
    #[must_use]
    pub fn looked_at(self) -> Self {
        match self {
            Self::Tool(tool) => Self::Task(tool),
            other @ (Self::Task(_) | Self::Prompt(_) | Self::Resource(_)) => other,
        }
    }

    /// As policies are asked about it.
    pub(crate) fn wanted(&self) -> Use<'_> {
        match self {
            Self::Tool(tool) | Self::Task(tool) => Use::Tool { server: &tool.server, tool: &tool.name },
            Self::Prompt(own) => Use::Prompt { server: &own.server, name: &own.name },
            Self::Resource(own) => Use::Resource { server: &own.server, uri: &own.name },
        }
    }
}

impl Wanted<'_> {
    /// Finds it.
    ///
    /// # Errors
    /// Why it is nothing of this virtual server's.
    pub fn find(&self, config: &Config) -> Result<Found, Reason> {
        match self.what {
            What::Tool(name) => {
                let exposed = config.exposed(self.virtual_server, name).ok_or(Reason::ToolUnknown)?;
                Ok(Found::Tool(Arc::clone(&exposed.tool)))
            }
            What::Prompt(name) => {
                let is_name =
                    !name.is_empty() && name.len() <= PROMPT_NAME_BYTES_MAX && !name.contains(char::is_control);
                let server = config.virtual_servers.get(self.virtual_server).filter(|_| is_name);
                let own = server.and_then(|server| server.prompt(name)).ok_or(Reason::PromptUnknown)?;
                Ok(Found::Prompt(own))
            }
            What::Resource(uri) => self.resource(config, uri, resource_uri::check),
            What::Template(uri) => self.resource(config, uri, resource_uri::check_template),
            What::Task { server, tool } => self.tool_of(config, server, tool),
            What::NoTask => Err(Reason::TaskUnknown),
        }
    }

    /// A tool that the virtual server shows, by its own name. One look at each tool: tasks are asked for seldom.
    fn tool_of(&self, config: &Config, server: &str, name: &str) -> Result<Found, Reason> {
        let shown = config.virtual_servers.get(self.virtual_server).map(|offered| offered.tools.values());
        let mut shown = shown.into_iter().flatten().map(|exposed| &exposed.tool);
        let tool = shown.find(|tool| tool.name == name && tool.server == server);
        tool.map(|tool| Found::Tool(Arc::clone(tool))).ok_or(Reason::ToolUnknown)
    }

    fn resource(
        &self,
        config: &Config,
        uri: &str,
        check: fn(&str) -> Result<(), resource_uri::UriFault>,
    ) -> Result<Found, Reason> {
        let server = config.virtual_servers.get(self.virtual_server);
        let own = server.and_then(|server| server.resource(uri)).ok_or(Reason::ResourceUnknown)?;
        check(&own.name).map_err(|_fault| Reason::ResourceUriInvalid)?;
        Ok(Found::Resource(own))
    }
}
