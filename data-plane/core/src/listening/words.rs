//! Between the client's words and a server's: who may hear of what, and what a client can see.
//!
//! Called by the server around `Listening` and `Source`. A resource is known to the client under the virtual server's
//! naming, and only while the caller may read it: what may not be read is not listened to, and a change of it is not
//! told. Specification: as `listening`.

use std::collections::BTreeSet;

use aws_lc_rs::digest::{Context, SHA256};

use super::{
    Sight,
    change::{Change, Wishes},
};
use crate::{
    admission::{Wanted, What, admit, listable},
    caller::Caller,
    config::{Config, VirtualServer},
};

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
}

impl Hearer<'_> {
    /// What of a client's wishes it may have.
    #[must_use]
    pub fn permitted(&self, wishes: &Wishes) -> Wishes {
        let uris = wishes.uris.iter().filter(|uri| self.may_read(uri)).cloned().collect();
        Wishes { uris, ..wishes.clone() }
    }

    /// A client's wishes in the words of one server.
    #[must_use]
    pub fn to_server(&self, server: &str, wishes: &Wishes) -> Wishes {
        let Some(offered) = self.offered() else { return Wishes::default() };
        let own = wishes.uris.iter().filter_map(|uri| offered.resource(uri)).filter(|own| own.server == server);
        let own: BTreeSet<String> = own.map(|own| own.name).collect();
        Wishes { uris: own, ..wishes.clone() }
    }

    /// What a server honours, in the client's words.
    #[must_use]
    pub fn honoured(&self, server: &str, honoured: &Wishes) -> Wishes {
        let Some(offered) = self.offered() else { return Wishes::default() };
        let uris = honoured.uris.iter().map(|own| offered.naming.uri(server, own).into_owned()).collect();
        Wishes { uris, ..honoured.clone() }
    }

    /// A change at a server in the client's words; `None` where it may not know of it.
    #[must_use]
    pub fn heard(&self, server: &str, change: Change) -> Option<Change> {
        let offered = self.offered().filter(|offered| offered.servers.contains(server))?;
        match change {
            Change::Updated(own) => {
                let uri = offered.naming.uri(server, &own).into_owned();
                self.may_read(&uri).then_some(Change::Updated(uri))
            }
            Change::Tools | Change::Prompts | Change::Resources => Some(change),
        }
    }

    /// What the client can see now.
    #[must_use]
    pub fn sight(&self) -> Sight {
        let mut tools = Context::new(&SHA256);
        for tool in listable(self.config, self.caller, self.virtual_server, self.now_unix) {
            tell(&mut tools, &tool.name);
            tell(&mut tools, &tool.tool.hash);
        }
        let mut others = Context::new(&SHA256);
        for server in self.offered().map(|offered| &offered.servers).into_iter().flatten() {
            tell(&mut others, server);
        }
        for (name, version) in self.config.policies.versions() {
            tell(&mut others, name);
            others.update(&version.to_be_bytes());
        }
        Sight { tools: number(tools), others: number(others) }
    }

    fn may_read(&self, uri: &str) -> bool {
        let wanted = Wanted { virtual_server: self.virtual_server, what: What::Resource(uri) };
        admit(self.config, self.caller, wanted, self.now_unix).permits()
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
