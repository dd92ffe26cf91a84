//! Lists of prompts, resources and resource templates: asked of the servers at that moment, shown as far as the caller
//! may use what is in them.
//!
//! Driven by the server half for one page: `asks` says which servers' pages are needed, so that all of them are asked
//! at the same time; `take` takes their answers, in that order, until `is_complete`; `finish` gives what the client
//! gets. An item is shown exactly if `admission` permits its use under the name it is shown by; everything else about
//! it stays as it was. A server that the caller's consent does not lead to is not asked, as if it were not there.
//! Servers come in the order of their names, whoever answers first; a page ends with the last server, or where a server
//! has more pages, and the cursor (`sealed::cursor`) says where it goes on. Of several servers, one that cannot answer
//! is left out and named, and the client is told how many are; the only one's error is the list's. Deliberately absent:
//! tools, which are pinned (`edge::tools`), and everything that waits. Specification: MCP 2026-07-28 and 2025-11-25:
//! prompts, resources, pagination; 2026-07-28: caching.

use bailiwick_proto::{
    Reason,
    mcp::{self, Era, Members, RESULT_COMPLETE, Response, RpcError, code, meta_key, method},
};
use serde_json::{Map, value::RawValue};

use crate::{
    admission::{Admission, Wanted, What},
    config::VirtualServer,
    edge::server_info,
    handshake::CURSOR_BYTES_MAX,
    sealed::cursor::Cursor,
};

/// Most servers asked for one page, all at once: each costs an exchange.
pub const ASKS_MAX: usize = 16;
/// Most items of one page of a server. Each costs a decision of policy: some ten microseconds, and one more for every
/// policy that names neither people nor servers.
pub const ITEMS_MAX: usize = 5_000;
/// In the `_meta` of a page: how many servers it lacks. Not which: a caller may not know of all of them.
pub const LEFT_OUT: &str = "bailiwick/serversLeftOut";
/// Longest a client may keep a list, milliseconds; less where a server says so.
pub const TTL_MS: u64 = 5_000;

/// What is listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listed {
    /// `prompts/list`.
    Prompts,
    /// `resources/list`.
    Resources,
    /// `resources/templates/list`.
    Templates,
}

impl Listed {
    /// The list a method asks for.
    #[must_use]
    pub fn by(rpc_method: &str) -> Option<Self> {
        [Self::Prompts, Self::Resources, Self::Templates].into_iter().find(|listed| listed.method() == rpc_method)
    }

    /// Its method.
    #[must_use]
    pub const fn method(self) -> &'static str {
        match self {
            Self::Prompts => method::PROMPTS_LIST,
            Self::Resources => method::RESOURCES_LIST,
            Self::Templates => method::TEMPLATES_LIST,
        }
    }

    /// The member of the result that holds the items.
    const fn member(self) -> &'static str {
        match self {
            Self::Prompts => "prompts",
            Self::Resources => "resources",
            Self::Templates => "resourceTemplates",
        }
    }

    /// The member of an item that says what it is.
    const fn key(self) -> &'static str {
        match self {
            Self::Prompts => "name",
            Self::Resources => "uri",
            Self::Templates => "uriTemplate",
        }
    }

    const fn what(self, name: &str) -> What<'_> {
        match self {
            Self::Prompts => What::Prompt(name),
            Self::Resources => What::Resource(name),
            Self::Templates => What::Template(name),
        }
    }
}

/// Why a server contributes nothing.
#[derive(Clone, Debug)]
pub enum Failure {
    /// Its error, for the client.
    Refused(RpcError),
    /// It could not be asked, or its answer is no list.
    Fault(Reason),
}

/// One page in the making; see the file's header.
#[derive(Debug)]
pub struct Listing<'c> {
    listed: Listed,
    admission: &'c Admission<'c>,
    name: &'c str,
    virtual_server: &'c VirtualServer,
    /// Those that may be asked, in order.
    servers: Vec<&'c str>,
    next: Option<Cursor>,
    /// The page ends before `next`.
    is_full: bool,
    asks: usize,
    items: Vec<Box<RawValue>>,
    hidden: usize,
    ttl_ms: u64,
    failed: Vec<(String, Failure)>,
}

/// One page for the client.
#[derive(Clone, Debug)]
pub struct Page {
    listed: Listed,
    items: Vec<Box<RawValue>>,
    ttl_ms: u64,
    /// Where the list goes on: to be sealed and given to [`Page::result`].
    pub next: Option<Cursor>,
    /// How much of the page the caller does not see, in thousandths; for metrics.
    pub hidden_thousandths: u64,
    /// Servers that contribute nothing, and why; for logs. Those that serve no such list are not among them.
    pub left_out: Vec<(String, Failure)>,
}

impl<'c> Listing<'c> {
    /// Begins a page of what `name` is the virtual server of: the first, or where the client's cursor leads. A server
    /// that has gone meanwhile is passed over. For a caller without any authority there no server is asked.
    #[must_use]
    pub fn begin(
        listed: Listed,
        admission: &'c Admission<'c>,
        (name, virtual_server): (&'c str, &'c VirtualServer),
        from: Option<Cursor>,
    ) -> Self {
        let servers: Vec<&str> = admission.servers(virtual_server).collect();
        let next = match from {
            _ if !admission.stands(name) => None,
            None => servers.first().map(|server| Cursor { server: (*server).to_owned(), cursor: None }),
            Some(from) if servers.contains(&from.server.as_str()) => Some(from),
            Some(from) => after(&servers, &from.server),
        };
        Self {
            listed,
            admission,
            name,
            virtual_server,
            servers,
            next,
            is_full: false,
            asks: 0,
            items: Vec::new(),
            hidden: 0,
            ttl_ms: TTL_MS,
            failed: Vec::new(),
        }
    }

    /// True when the client's page has all it is going to have.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.next.is_none() || self.is_full || self.asks >= ASKS_MAX
    }

    /// The pages of servers that are needed now, or will be unless one of them says that it has more; to be asked for at
    /// the same time. Empty when the page is complete. Where a server's later page is needed, that alone: mostly there
    /// are still more of them, and then nothing else belongs to this page.
    #[must_use]
    pub fn asks(&self) -> Vec<Cursor> {
        match &self.next {
            Some(next) if !self.is_complete() && next.cursor.is_some() => vec![next.clone()],
            Some(next) if !self.is_complete() => {
                let behind = self.servers.iter().filter(|server| **server >= next.server.as_str());
                let first_page = |server: &&str| Cursor { server: (*server).to_owned(), cursor: None };
                behind.take(ASKS_MAX - self.asks).map(first_page).collect()
            }
            Some(_) | None => Vec::new(),
        }
    }

    /// The parameters to ask for that page with, without `_meta`.
    #[must_use]
    pub fn params(cursor: &Cursor) -> Vec<(&'static str, Box<RawValue>)> {
        cursor.cursor.iter().map(|cursor| ("cursor", mcp::raw(cursor))).collect()
    }

    /// Takes the answer to the first of [`Listing::asks`], then to the next; none is taken once the page is complete.
    pub fn take(&mut self, answer: Result<&Response, Reason>) {
        if self.is_complete() {
            return;
        }
        let Some(Cursor { server, .. }) = self.next.take() else { return };
        self.asks += 1;
        let more = match answer {
            Ok(Response::Result(result)) => self.take_page(&server, result).map_err(Failure::Fault),
            Ok(Response::Error(error)) => Err(Failure::Refused(error.clone())),
            Err(reason) => Err(Failure::Fault(reason)),
        };
        match more {
            Ok(Some(cursor)) => {
                self.is_full = true;
                self.next = Some(Cursor { server, cursor: Some(cursor) });
            }
            Ok(None) => self.next = after(&self.servers, &server),
            Err(failure) => {
                self.next = after(&self.servers, &server);
                self.failed.push((server, failure));
            }
        }
    }

    /// Takes a server's page whole, or nothing of it; its cursor to the next one.
    fn take_page(&mut self, server: &str, result: &RawValue) -> Result<Option<String>, Reason> {
        let invalid = |_fault| Reason::UpstreamInvalid;
        let members = Members::of(result).ok_or(Reason::UpstreamInvalid)?;
        let is_complete = members.string("resultType").map_err(invalid)?.is_none_or(|kind| kind == RESULT_COMPLETE);
        let cursor = members.string("nextCursor").map_err(invalid)?;
        let items = members.get(self.listed.member()).ok_or(Reason::UpstreamInvalid)?;
        let items: Vec<&RawValue> = serde_json::from_str(items.get()).map_err(|_no_list| Reason::UpstreamInvalid)?;
        if !is_complete || cursor.as_ref().is_some_and(|cursor| cursor.len() > CURSOR_BYTES_MAX) {
            return Err(Reason::UpstreamInvalid);
        }
        if items.len() > ITEMS_MAX {
            return Err(Reason::UpstreamTooLarge);
        }
        for item in items {
            match self.shown(server, item) {
                Some(item) => self.items.push(item),
                None => self.hidden += 1,
            }
        }
        // A server that sets no bound, or a senseless one, gets ours.
        let ttl_ms = members.read::<u64>("ttlMs").ok().flatten();
        self.ttl_ms = ttl_ms.map_or(self.ttl_ms, |ttl_ms| ttl_ms.min(self.ttl_ms));
        Ok(cursor)
    }

    /// The item under its name towards clients, if the caller may use it under that.
    fn shown(&self, server: &str, item: &RawValue) -> Option<Box<RawValue>> {
        let members = mcp::ordered_members(item)?;
        let key = self.listed.key();
        let own = members.iter().find(|(name, _)| name == key)?.1;
        let own: String = serde_json::from_str(own.get()).ok()?;
        let naming = &self.virtual_server.naming;
        let towards_client = match self.listed {
            Listed::Prompts => naming.prompt(server, &own),
            Listed::Resources | Listed::Templates => naming.uri(server, &own),
        };
        let wanted = Wanted { virtual_server: self.name, what: self.listed.what(&towards_client) };
        if !self.admission.admit(wanted).permits() {
            return None;
        }
        if towards_client == own.as_str() {
            return Some(item.to_owned());
        }
        let renamed = mcp::raw(&*towards_client);
        let members = members.iter().map(|(name, value)| (name.as_ref(), if name == key { &*renamed } else { *value }));
        Some(mcp::raw_object(members))
    }

    /// The page, once it is complete.
    ///
    /// # Errors
    /// What the only server that was asked said instead, or the first of several that all failed, if no more follow.
    pub fn finish(self) -> Result<Page, Failure> {
        let unserved =
            |failure: &Failure| matches!(failure, Failure::Refused(error) if error.code == code::METHOD_NOT_FOUND);
        let is_only = self.servers.len() == 1;
        let (unserved, mut left_out): (Vec<_>, Vec<_>) =
            self.failed.into_iter().partition(|(_, failure)| !is_only && unserved(failure));
        let nothing_follows = self.next.is_none();
        if nothing_follows && !left_out.is_empty() && left_out.len() + unserved.len() == self.asks {
            return Err(left_out.swap_remove(0).1);
        }
        let all = self.items.len() + self.hidden;
        let hidden = self.hidden.saturating_mul(1_000).checked_div(all).unwrap_or(0);
        Ok(Page {
            listed: self.listed,
            items: self.items,
            ttl_ms: self.ttl_ms,
            next: self.next,
            hidden_thousandths: u64::try_from(hidden).unwrap_or(1_000),
            left_out,
        })
    }
}

fn after(servers: &[&str], server: &str) -> Option<Cursor> {
    let mut later = servers.iter().filter(|other| **other > server);
    later.next().map(|server| Cursor { server: (*server).to_owned(), cursor: None })
}

impl Failure {
    /// Why, as one word.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        match self {
            Self::Refused(_) => Reason::UpstreamRefused,
            Self::Fault(reason) => *reason,
        }
    }
}

impl Page {
    /// The result for a client of this era; `cursor` is [`Page::next`], sealed.
    #[must_use]
    pub fn result(&self, era: Era, cursor: Option<&str>) -> Box<RawValue> {
        let items: Vec<&str> = self.items.iter().map(|item| item.get()).collect();
        let items = RawValue::from_string(format!("[{}]", items.join(",")));
        // INVARIANT: items are JSON texts and the brackets are ours, so the whole is JSON.
        let items = items.unwrap_or_else(|_not_json| RawValue::NULL.to_owned());
        let cursor = cursor.map(mcp::raw);
        let cursor = cursor.as_deref().map(|cursor| ("nextCursor", cursor));
        let listed = [(self.listed.member(), &*items)].into_iter().chain(cursor);
        let mut meta = Map::new();
        if !self.left_out.is_empty() {
            meta.insert(LEFT_OUT.to_owned(), self.left_out.len().into());
        }
        match era {
            Era::Legacy(_) => {
                let meta = (!meta.is_empty()).then(|| mcp::raw(&meta));
                mcp::raw_object(listed.chain(meta.as_deref().map(|meta| ("_meta", meta))))
            }
            Era::Modern => {
                meta.insert(meta_key::SERVER_INFO.to_owned(), server_info());
                let (kind, ttl_ms, scope, meta) =
                    (mcp::raw(RESULT_COMPLETE), mcp::raw(&self.ttl_ms), mcp::raw("private"), mcp::raw(&meta));
                let kind = [("resultType", &*kind)];
                let rest = [("ttlMs", &*ttl_ms), ("cacheScope", &*scope), ("_meta", &*meta)];
                mcp::raw_object(kind.into_iter().chain(listed).chain(rest))
            }
        }
    }
}

#[cfg(test)]
mod tests;
