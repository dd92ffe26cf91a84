//! The candidate: a change that is rolled out in stages, on a node that is in its share.
//!
//! Every node holds the same entries, the rollout's among them; here each finds out whether it is in the share
//! (`bailiwick_proto::rollout`), and `compile` lays the candidate's changes over what the other entries say. A node
//! outside the share compiles as if there were no rollout. A candidate that cannot be used as a whole is not used at
//! all: the node keeps what the entries say without it and refuses by name. Invariants: a candidate changes servers,
//! tools, virtual servers and policies alone, never who anybody is or what they consented to; a denial of a key holds
//! against the candidate as well.

use std::collections::{BTreeMap, BTreeSet};

use bailiwick_proto::{
    rollout::{is_in_share, refusal},
    v1,
};

use super::{compile::Read, overlay::Overlay};
use crate::{
    config::{Contents, Offer, Staging},
    policies::Policies,
};

/// What entries say of rollouts, for whichever node.
#[derive(Clone, Debug, Default)]
pub(super) struct Staged {
    pub(super) rollouts: Vec<v1::Rollout>,
    pub(super) changes: Vec<v1::RolloutChange>,
}

/// A change that counts for this node.
#[derive(Debug)]
pub(super) struct Candidate {
    rollout: String,
    /// Values by key.
    changes: BTreeMap<String, Vec<u8>>,
}

impl Staged {
    /// The candidate this node is in the share of. There is one rollout at a time; of more the first counts.
    pub(super) fn for_node(self, node: &str) -> Option<Candidate> {
        let Self { rollouts, changes } = self;
        let is_ours = |rollout: &v1::Rollout| !node.is_empty() && is_in_share(&rollout.id, node, rollout.below);
        let rollout = rollouts.into_iter().find(is_ours)?.id;
        let of_it = changes.into_iter().filter(|change| change.rollout == rollout);
        Some(Candidate { changes: of_it.map(|change| (change.key, change.value)).collect(), rollout })
    }
}

impl Candidate {
    /// What is offered under this candidate; without it, and the reason first, where it cannot be used.
    pub(super) fn offer(self, mut read: Read, overlay: &Overlay, previous: &Contents) -> (Offer, Vec<String>) {
        let laid_over = self.laid_over(&read, overlay, previous);
        // Compiled all the while, so that going back needs nothing that could fail.
        let (offer, problems) = read.offer(previous, base(previous));
        match laid_over {
            Ok(candidate) => {
                let staging = Staging { rollout: self.rollout.into(), base: offer.policies };
                (Offer { staging: Some(staging), ..candidate }, Vec::new())
            }
            Err(problem) => {
                let refused = std::iter::once(refusal(&self.rollout, &problem)).chain(problems).collect();
                (offer, refused)
            }
        }
    }

    fn laid_over(&self, read: &Read, overlay: &Overlay, previous: &Contents) -> Result<Offer, String> {
        let mut with = read.clone();
        let quarantined = self.replace(&mut with)?;
        for (key, value) in &self.changes {
            with.take(key, value, overlay).map_err(|why| format!("{key}: {why}"))?;
        }
        for tool in with.pinned.iter_mut().filter(|tool| quarantined.contains(&tool_key(tool))) {
            tool.quarantined = true;
        }
        with.policies.sort_by(|a, b| a.name.cmp(&b.name));
        let (offer, problems) = with.offer(previous, &previous.policies);
        if problems.is_empty() { Ok(offer) } else { Err(problems.join("; ")) }
    }

    /// Takes out what the candidate replaces; which of the tools that go are quarantined.
    fn replace(&self, read: &mut Read) -> Result<BTreeSet<String>, String> {
        for key in self.changes.keys() {
            let kind = key.split_once('/').map_or("", |(kind, _)| kind);
            if !["server", "tool", "virtual_server", "policy"].contains(&kind) {
                return Err(format!("{key}: cannot be rolled out in stages"));
            }
        }
        let stays = |key: String| !self.changes.contains_key(&key);
        read.servers.retain(|name, _| stays(format!("server/{name}")));
        read.listed.retain(|listed| stays(format!("virtual_server/{}", listed.name)));
        read.policies.retain(|policy| stays(format!("policy/{}", policy.name)));
        let (kept, replaced) = read.pinned.drain(..).partition(|tool| stays(tool_key(tool)));
        read.pinned = kept;
        Ok(replaced.iter().filter(|tool: &&v1::Tool| tool.quarantined).map(tool_key).collect())
    }
}

/// The policies without any candidate: those to keep where the entries' own do not compile.
pub(super) fn base(previous: &Contents) -> &Policies {
    previous.staging.as_ref().map_or(&previous.policies, |staging| &staging.base)
}

fn tool_key(tool: &v1::Tool) -> String {
    format!("tool/{}/{}", tool.server, tool.name)
}
