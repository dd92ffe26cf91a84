//! Between the client's words and a server's: who may hear of what, and what a client can see.
//!
//! Called by the server around `Listening` and `Source`. A resource is known to the client under the virtual server's
//! naming, and only while the caller may read it: what may not be read is not listened to, and a change of it is not
//! told; nor is any change at a server that the caller's consent does not lead to. So with tasks: each is known to the
//! client by a sealed id, and told of while the caller may call its tool. Specification: as `listening`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use aws_lc_rs::digest::{Context, SHA256};
use serde_json::value::RawValue;

use super::{
    Sight,
    change::{Change, Wishes},
};
use crate::{
    admission::{Admission, Decision, Wanted, What, admit, listable},
    caller::Caller,
    config::{Config, VirtualServer},
    forward::{
        Answerer,
        tasks::{self, Followed, Seen},
    },
    sealed::task::Task,
    wanted::Found,
};

/// The tasks of one listener: by the ids that the client knows, opened.
pub type Tasks = BTreeMap<String, Task>;

/// One caller at one virtual server at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Hearer<'a> {
    /// The configuration in force.
    pub config: &'a Config,
    /// Who listens.
    pub caller: &'a Caller,
    /// By its name in the URL.
    pub virtual_server: &'a str,
    /// Unix seconds.
    pub now_unix: i64,
    /// What it asked to follow.
    pub tasks: &'a Tasks,
    /// What the client can be asked for: an object, as it was written.
    pub capabilities: Option<&'a RawValue>,
}

impl Hearer<'_> {
    /// What of a client's wishes it may have.
    #[must_use]
    pub fn permitted(&self, wishes: &Wishes) -> Wishes {
        let uris = wishes.uris.iter().filter(|uri| self.may_read(uri)).cloned().collect();
        let tasks = wishes.tasks.iter().filter(|id| self.follows(id).is_some_and(|decision| decision.permits()));
        Wishes { uris, tasks: tasks.cloned().collect(), ..wishes.clone() }
    }

    /// A client's wishes in the words of one server.
    #[must_use]
    pub fn to_server(&self, server: &str, wishes: &Wishes) -> Wishes {
        let Some(offered) = self.offered() else { return Wishes::default() };
        let own = wishes.uris.iter().filter_map(|uri| offered.resource(uri)).filter(|own| own.server == server);
        let own: BTreeSet<String> = own.map(|own| own.name).collect();
        let tasks = wishes.tasks.iter().filter_map(|id| self.tasks.get(id)).filter(|task| task.server == server);
        Wishes { uris: own, tasks: tasks.map(|task| task.id.clone()).collect(), ..wishes.clone() }
    }

    /// What a server honours, in the client's words.
    #[must_use]
    pub fn honoured(&self, server: &str, honoured: &Wishes) -> Wishes {
        let Some(offered) = self.offered() else { return Wishes::default() };
        let uris = honoured.uris.iter().map(|own| offered.naming.uri(server, own).into_owned()).collect();
        let tasks = honoured.tasks.iter().filter_map(|own| self.known_as(server, own)).map(|(id, _)| id.clone());
        Wishes { uris, tasks: tasks.collect(), ..honoured.clone() }
    }

    /// A change at a server in the client's words; `None` where it may not know of it.
    #[must_use]
    pub fn heard(&self, server: &str, change: Change) -> Option<Change> {
        let offered = self.offered_by(server)?;
        match change {
            Change::Updated(own) => {
                let uri = offered.naming.uri(server, &own).into_owned();
                self.may_read(&uri).then_some(Change::Updated(uri))
            }
            Change::Task(own) => self.known_as(server, &own).map(|(id, _)| Change::Task(id.clone())),
            Change::Tools | Change::Prompts | Change::Resources => Some(change),
        }
    }

    /// What a server says has become of a task, for the client: its id of the task, and that. `None` where the server
    /// says what it may not.
    #[must_use]
    pub fn told(&self, server: &str, own: &str, said: &RawValue) -> Option<(String, Seen)> {
        let offered = self.offered_by(server)?;
        let (id, task) = self.known_as(server, own)?;
        let followed = Followed { id, own: &task.id, capabilities: self.capabilities };
        let of = Answerer { naming: &offered.naming, server, era: None };
        Some((id.clone(), tasks::seen(&followed, said, &of)?))
    }

    /// May the caller know now what has become of a task? `None` for one that it did not ask to follow.
    #[must_use]
    pub fn follows(&self, id: &str) -> Option<Decision> {
        let Task { server, tool, .. } = self.tasks.get(id)?;
        let wanted = Wanted { virtual_server: self.virtual_server, what: What::Task { server, tool } };
        let mut decision = admit(self.config, self.caller, wanted, self.now_unix);
        decision.found = decision.found.map(Found::looked_at);
        Some(decision)
    }

    fn known_as(&self, server: &str, own: &str) -> Option<(&String, &Task)> {
        self.tasks.iter().find(|(_, task)| task.server == server && task.id == own)
    }

    /// What the client can see now.
    #[must_use]
    pub fn sight(&self) -> Sight {
        let admission = Admission::of(self.config, self.caller, self.now_unix);
        let mut tools = Context::new(&SHA256);
        if self.offered().is_some_and(|offered| offered.search.is_some()) {
            // What is listed there never changes, but for those who have no authority any more.
            tools.update(&[u8::from(admission.stands(self.virtual_server))]);
        } else {
            for tool in listable(self.config, self.caller, self.virtual_server, self.now_unix) {
                tell(&mut tools, &tool.name);
                tell(&mut tools, &tool.tool.hash);
                tell(&mut tools, tool.view.as_ref().map_or("", |_viewed| tool.definition.get()));
            }
        }
        let mut others = Context::new(&SHA256);
        for server in self.offered().into_iter().flat_map(|offered| admission.servers(offered)) {
            tell(&mut others, server);
        }
        for (name, version) in self.config.policies.versions() {
            tell(&mut others, name);
            others.update(&version.to_be_bytes());
        }
        Sight { tools: number(tools), others: number(others) }
    }

    /// Whether the client sees now what it would see under another configuration: nothing differs that decides about
    /// anything it is shown. Costs much less than looking.
    #[must_use]
    pub fn sees_as_under(&self, other: &Config) -> bool {
        let of = |config| Admission::of(config, self.caller, self.now_unix);
        Arc::ptr_eq(&self.config.offer, &other.offer) && of(self.config).is_of_same_parties(&of(other))
    }

    fn may_read(&self, uri: &str) -> bool {
        let wanted = Wanted { virtual_server: self.virtual_server, what: What::Resource(uri) };
        admit(self.config, self.caller, wanted, self.now_unix).permits()
    }

    /// The virtual server, if a server is behind it and may be heard.
    fn offered_by(&self, server: &str) -> Option<&VirtualServer> {
        let admission = Admission::of(self.config, self.caller, self.now_unix);
        self.offered().filter(|offered| admission.servers(offered).any(|behind| behind == server))
    }

    fn offered(&self) -> Option<&VirtualServer> {
        self.config.virtual_servers.get(self.virtual_server)
    }
}

/// With its end, so that no two sequences give the same bytes; names hold no NUL.
fn tell(sum: &mut Context, text: &str) {
    sum.update(text.as_bytes());
    sum.update(&[0]);
}

fn number(sum: Context) -> u64 {
    sum.finish().as_ref().first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}
