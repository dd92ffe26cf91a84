//! What can change, and what a listener wants to be told of.
//!
//! Called by `listening` and `listening::source`. The same words serve both sides of the gateway; only URIs and tasks'
//! ids differ, and whoever stands between translates them. Specification: MCP 2026-07-28 `subscriptions/listen`,
//! "Notification filter"; list changes and resource updates of both eras; extension `io.modelcontextprotocol/tasks`,
//! "Task Status Notifications".

use std::collections::BTreeSet;

use bailiwick_proto::mcp::{EXTENSION_TASKS, Members, Notification, method::TASK_TOLD, raw, raw_object};
use serde_json::value::RawValue;

use crate::sealed::task::TASK_ID_BYTES_MAX;

/// Most resources one listener is told of. A client that watches more, watches a list.
pub const URIS_MAX: usize = 256;
/// Longest URI. Browsers and servers stop at about this.
pub const URI_BYTES_MAX: usize = 2 * 1024;
/// Most tasks one listener follows: as many as an agent has under way at a time.
pub const TASKS_MAX: usize = 64;

const TOOLS: &str = "notifications/tools/list_changed";
const PROMPTS: &str = "notifications/prompts/list_changed";
const RESOURCES: &str = "notifications/resources/list_changed";
const UPDATED: &str = "notifications/resources/updated";

/// What changed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// The list of tools.
    Tools,
    /// The list of prompts.
    Prompts,
    /// The list of resources.
    Resources,
    /// The resource with this URI.
    Updated(String),
    /// The task with this id: what has become of it is not known any more. Where it is known, that is told in full
    /// (`Listening::handle_task`).
    Task(String),
}

impl Change {
    /// What a notification says, if it says that something changed.
    #[must_use]
    pub fn of(notification: &Notification) -> Option<Self> {
        Some(match notification.method.as_str() {
            TOOLS => Self::Tools,
            PROMPTS => Self::Prompts,
            RESOURCES => Self::Resources,
            UPDATED => {
                let uri = notification.members().required_string("uri").ok()?;
                (uri.len() <= URI_BYTES_MAX).then_some(Self::Updated(uri))?
            }
            TASK_TOLD => {
                let id = notification.members().required_string("taskId").ok()?;
                (id.len() <= TASK_ID_BYTES_MAX).then_some(Self::Task(id))?
            }
            _ => return None,
        })
    }

    /// The method of the notification that says so.
    #[must_use]
    pub const fn method(&self) -> &'static str {
        match self {
            Self::Tools => TOOLS,
            Self::Prompts => PROMPTS,
            Self::Resources => RESOURCES,
            Self::Updated(_) => UPDATED,
            Self::Task(_) => TASK_TOLD,
        }
    }
}

/// The wishes cannot be read, or are too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WishesFault {
    /// `notifications` is absent, no object, or a member has the wrong type.
    #[error("`notifications` must be an object that says what to listen to")]
    Malformed,
    /// More than [`URIS_MAX`] resources, or a longer URI than [`URI_BYTES_MAX`].
    #[error("at most {URIS_MAX} resources with URIs of at most {URI_BYTES_MAX} bytes can be listened to")]
    TooMuch,
    /// More than [`TASKS_MAX`] tasks, or an id that is none.
    #[error("at most {TASKS_MAX} tasks with ids of at most {TASK_ID_BYTES_MAX} bytes can be listened to")]
    TooManyTasks,
}

/// What a listener wants to be told of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wishes {
    /// Changes of the list of tools.
    pub tools: bool,
    /// Changes of the list of prompts.
    pub prompts: bool,
    /// Changes of the list of resources.
    pub resources: bool,
    /// Changes of these resources.
    pub uris: BTreeSet<String>,
    /// What becomes of these tasks.
    pub tasks: BTreeSet<String>,
}

impl Wishes {
    /// All lists, no resource: what a legacy client's stream is for.
    #[must_use]
    pub const fn lists() -> Self {
        Self { tools: true, prompts: true, resources: true, uris: BTreeSet::new(), tasks: BTreeSet::new() }
    }

    /// The member `notifications` of a modern client's request, or of a server's acknowledgement. Kinds of change that
    /// are not known here are not wished for.
    ///
    /// # Errors
    /// It cannot be read, or is too much.
    pub fn of(params: &Members<'_>) -> Result<Self, WishesFault> {
        let malformed = WishesFault::Malformed;
        let filter = params.object("notifications").ok().flatten().ok_or(malformed)?;
        let flag = |key| filter.read::<bool>(key).map(Option::unwrap_or_default).map_err(|_no_flag| malformed);
        let mut wishes = Self {
            tools: flag("toolsListChanged")?,
            prompts: flag("promptsListChanged")?,
            resources: flag("resourcesListChanged")?,
            ..Self::default()
        };
        let uris = filter.read::<Vec<String>>("resourceSubscriptions").map_err(|_no_list| malformed)?;
        uris.unwrap_or_default().iter().try_for_each(|uri| wishes.insert(uri))?;
        let tasks = filter.read::<BTreeSet<String>>("taskIds").map_err(|_no_list| malformed)?.unwrap_or_default();
        if tasks.len() > TASKS_MAX || tasks.iter().any(|id| id.is_empty() || id.len() > TASK_ID_BYTES_MAX) {
            return Err(WishesFault::TooManyTasks);
        }
        Ok(Self { tasks, ..wishes })
    }

    /// The form in which the modern era writes it: only what is wished for.
    #[must_use]
    pub fn json(&self) -> Box<RawValue> {
        let (yes, uris, tasks) = (raw(&true), raw(&self.uris), raw(&self.tasks));
        let members = [
            ("toolsListChanged", self.tools, &yes),
            ("promptsListChanged", self.prompts, &yes),
            ("resourcesListChanged", self.resources, &yes),
            ("resourceSubscriptions", !self.uris.is_empty(), &uris),
            ("taskIds", !self.tasks.is_empty(), &tasks),
        ];
        raw_object(members.iter().filter(|(_, wishes, _)| *wishes).map(|(key, _, value)| (*key, &***value)))
    }

    /// What whoever asks a modern server for this must declare: an object.
    #[must_use]
    pub fn needs(&self) -> Box<RawValue> {
        let none = raw_object([]);
        let extensions = raw_object([(EXTENSION_TASKS, &*none)]);
        raw_object((!self.tasks.is_empty()).then_some(("extensions", &*extensions)))
    }

    /// True when nothing is wished for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.tools && !self.prompts && !self.resources && self.uris.is_empty() && self.tasks.is_empty()
    }

    /// Everything that changes, as changes.
    pub fn changes(&self) -> impl Iterator<Item = Change> {
        let lists = [(self.tools, Change::Tools), (self.prompts, Change::Prompts), (self.resources, Change::Resources)];
        let lists = lists.into_iter().filter(|(wishes, _)| *wishes).map(|(_, change)| change);
        let parts = self.uris.iter().cloned().map(Change::Updated);
        lists.chain(parts).chain(self.tasks.iter().cloned().map(Change::Task))
    }

    /// Adds a resource.
    pub(super) fn insert(&mut self, uri: &str) -> Result<(), WishesFault> {
        let is_new = !self.uris.contains(uri);
        if uri.is_empty() || uri.len() > URI_BYTES_MAX || (is_new && self.uris.len() >= URIS_MAX) {
            return Err(WishesFault::TooMuch);
        }
        self.uris.insert(uri.to_owned());
        Ok(())
    }

    /// Adds what another wants.
    pub(super) fn add(&mut self, other: &Self) {
        self.tools |= other.tools;
        self.prompts |= other.prompts;
        self.resources |= other.resources;
        self.uris.extend(other.uris.iter().cloned());
        self.tasks.extend(other.tasks.iter().cloned());
    }

    /// What both want.
    pub(super) fn within(&self, other: &Self) -> Self {
        Self {
            tools: self.tools && other.tools,
            prompts: self.prompts && other.prompts,
            resources: self.resources && other.resources,
            uris: self.uris.intersection(&other.uris).cloned().collect(),
            tasks: self.tasks.intersection(&other.tasks).cloned().collect(),
        }
    }

    /// The resource that was asked for and that a change of `uri` is a change of: itself, or one that it is a part of.
    pub(super) fn subject(&self, uri: &str) -> Option<&str> {
        let is_part = |whole: &&String| {
            let rest = uri.strip_prefix(whole.as_str());
            rest.is_some_and(|rest| rest.is_empty() || whole.ends_with('/') || rest.starts_with(['/', '?', '#']))
        };
        self.uris.iter().find(is_part).map(String::as_str)
    }

    /// Whether a change is wished for.
    pub(super) fn covers(&self, change: &Change) -> bool {
        match change {
            Change::Tools => self.tools,
            Change::Prompts => self.prompts,
            Change::Resources => self.resources,
            Change::Updated(uri) => self.subject(uri).is_some(),
            Change::Task(id) => self.tasks.contains(id),
        }
    }
}
