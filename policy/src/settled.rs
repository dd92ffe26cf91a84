//! Verdicts about tools that were reached before: the same question to the same set has the same answer.
//!
//! Part of a compiled set, and gone with it. A question is told apart by everything that is in it, compared in full,
//! but for tools that no statement tells apart, which have one number (`cedar/alike.rs`); who asks is kept once for all
//! they ask for. A verdict of policies that failed may say the tool's name, and is not kept. Bounded: what was not
//! asked for during the last half of the bound is forgotten. Absent: prompts and resources, whose names and URIs
//! anybody may make up.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bailiwick_proto::Tier;

use crate::request::{Request, RequestAgent, Verdict};

/// Verdicts remembered, some forty bytes each: a thousand tools for two hundred people's agents at a time, if every
/// tool is told apart from the others.
const VERDICTS_MAX: usize = 200_000;
/// Verdicts of one asker that are kept once: most tools have one of a few.
const SHARED_MAX: usize = 16;

/// See the file's header.
#[derive(Default)]
pub(crate) struct Settled {
    hasher: RandomState,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// By the hash of who asks; a list where hashes meet.
    young: HashMap<u64, Vec<Arc<Asker>>>,
    /// Verdicts that came to `young`.
    verdicts: usize,
    old: HashMap<u64, Vec<Arc<Asker>>>,
}

/// Who asks, by all a request says but the tool, and what they were told.
struct Asker {
    user: String,
    groups: Vec<String>,
    agent: String,
    owner: String,
    owner_groups: Vec<String>,
    project: String,
    ceiling: Tier,
    virtual_server: String,
    level: Tier,
    bound: bool,
    told: Mutex<Told>,
}

/// By the tool's number.
#[derive(Default)]
struct Told {
    verdicts: HashMap<u32, Arc<Verdict>>,
    shared: Vec<Arc<Verdict>>,
}

impl std::fmt::Debug for Settled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settled").finish_non_exhaustive()
    }
}

impl Settled {
    /// The verdict on a request for a tool of this number.
    pub(crate) fn get_or(&self, request: &Request<'_>, tool: u32, evaluate: impl FnOnce() -> Verdict) -> Verdict {
        let asker = self.asker(request);
        if let Some(verdict) = lock(&asker.told).verdicts.get(&tool) {
            return verdict.as_ref().clone();
        }
        let verdict = evaluate();
        if verdict.error.is_none() && lock(&asker.told).tell(tool, &verdict) {
            lock(&self.known).count_one();
        }
        verdict
    }

    /// How many verdicts are kept, of all who asked.
    #[cfg(test)]
    pub(crate) fn verdicts(&self) -> usize {
        let known = lock(&self.known);
        known.young.values().flatten().map(|asker| lock(&asker.told).verdicts.len()).sum()
    }

    fn asker(&self, request: &Request<'_>) -> Arc<Asker> {
        let RequestAgent { name, owner, owner_groups, project, ceiling } = request.agent;
        let hash = self.hasher.hash_one((
            (request.user, request.groups, request.virtual_server, request.level.as_str(), request.bound),
            (name, owner, owner_groups, project, ceiling.as_str()),
        ));
        let is_asker = |asker: &&Arc<Asker>| asker.is_of(request);
        let mut known = lock(&self.known);
        if let Some(asker) = known.young.get(&hash).and_then(|askers| askers.iter().find(is_asker)) {
            return Arc::clone(asker);
        }
        let old = known.old.get(&hash).and_then(|askers| askers.iter().find(is_asker)).map(Arc::clone);
        if let Some(asker) = &old {
            known.verdicts += lock(&asker.told).verdicts.len();
        }
        let asker = old.unwrap_or_else(|| Arc::new(Asker::of(request)));
        known.young.entry(hash).or_default().push(Arc::clone(&asker));
        known.count_one();
        asker
    }
}

impl Known {
    /// An asker counts like a verdict.
    fn count_one(&mut self) {
        self.verdicts += 1;
        if self.verdicts > VERDICTS_MAX / 2 {
            self.old = std::mem::take(&mut self.young);
            self.verdicts = 0;
        }
    }
}

impl Asker {
    fn of(request: &Request<'_>) -> Self {
        let RequestAgent { name, owner, owner_groups, project, ceiling } = request.agent;
        Self {
            user: request.user.to_owned(),
            groups: request.groups.to_vec(),
            agent: name.to_owned(),
            owner: owner.to_owned(),
            owner_groups: owner_groups.to_vec(),
            project: project.to_owned(),
            ceiling,
            virtual_server: request.virtual_server.to_owned(),
            level: request.level,
            bound: request.bound,
            told: Mutex::default(),
        }
    }

    fn is_of(&self, request: &Request<'_>) -> bool {
        let Request { user, groups, agent, virtual_server, level, bound, wanted: _ } = *request;
        let RequestAgent { name, owner, owner_groups, project, ceiling } = agent;
        self.user == user
            && self.groups == groups
            && self.agent == name
            && self.owner == owner
            && self.owner_groups == owner_groups
            && self.project == project
            && self.ceiling == ceiling
            && self.virtual_server == virtual_server
            && self.level == level
            && self.bound == bound
    }
}

impl Told {
    /// Whether this is news.
    fn tell(&mut self, tool: u32, verdict: &Verdict) -> bool {
        let verdict = match self.shared.iter().find(|shared| ***shared == *verdict) {
            Some(shared) => Arc::clone(shared),
            None => {
                let verdict = Arc::new(verdict.clone());
                if self.shared.len() < SHARED_MAX {
                    self.shared.push(Arc::clone(&verdict));
                }
                verdict
            }
        };
        self.verdicts.insert(tool, verdict).is_none()
    }
}

/// What was remembered before a panic is as good as before.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request<'a>(user: &'a str, groups: &'a [String]) -> Request<'a> {
        let agent = RequestAgent {
            name: "coder",
            owner: "jane",
            owner_groups: groups,
            project: "platform",
            ceiling: Tier::Destructive,
        };
        let wanted = crate::request::Use::Tool { server: "s", tool: "t" };
        Request { user, groups, agent, virtual_server: "v", level: Tier::Destructive, bound: false, wanted }
    }

    fn verdict(permit: bool) -> Verdict {
        Verdict { permit, policies: Arc::default(), error: None }
    }

    #[test]
    fn a_question_is_evaluated_once_and_any_other_by_itself() {
        let settled = Settled::default();
        let staff = ["staff".to_owned()];
        let jane = request("jane", &staff);
        assert!(settled.get_or(&jane, 1, || verdict(true)).permit);
        assert!(settled.get_or(&jane, 1, || unreachable!()).permit);
        let agent = jane.agent;
        let others = [
            (request("bob", &staff), 1),
            (request("jane", &[]), 1),
            (Request { virtual_server: "w", ..jane }, 1),
            (Request { level: Tier::Retrieval, ..jane }, 1),
            (Request { bound: true, ..jane }, 1),
            (Request { agent: RequestAgent { name: "x", ..agent }, ..jane }, 1),
            (Request { agent: RequestAgent { owner: "x", ..agent }, ..jane }, 1),
            (Request { agent: RequestAgent { owner_groups: &[], ..agent }, ..jane }, 1),
            (Request { agent: RequestAgent { project: "x", ..agent }, ..jane }, 1),
            (Request { agent: RequestAgent { ceiling: Tier::Retrieval, ..agent }, ..jane }, 1),
            (jane, 2),
        ];
        for (other, tool) in others {
            assert!(!settled.get_or(&other, tool, || verdict(false)).permit);
        }
        assert!(settled.get_or(&jane, 1, || unreachable!()).permit);
    }

    #[test]
    fn a_verdict_that_may_say_the_tool_s_name_is_not_kept() {
        let (settled, jane) = (Settled::default(), request("jane", &[]));
        for tool in ["pay", "charge"] {
            let verdict = settled.get_or(&jane, 1, || Verdict::fault(Arc::default(), tool.to_owned()));
            assert_eq!(verdict.error.as_deref(), Some(tool));
        }
        assert_eq!(settled.verdicts(), 0);
    }

    #[test]
    fn what_is_asked_for_stays_and_the_rest_is_forgotten_within_the_bound() {
        let settled = Settled::default();
        let busy = request("busy", &[]);
        for n in 0..VERDICTS_MAX {
            let user = n.to_string();
            drop(settled.get_or(&request(&user, &[]), 1, || verdict(false)));
            drop(settled.get_or(&busy, 1, || {
                assert_eq!(n, 0, "asked for all the time");
                verdict(true)
            }));
        }
        let known = lock(&settled.known);
        let askers: usize = known.young.values().chain(known.old.values()).map(Vec::len).sum();
        assert!(askers <= VERDICTS_MAX, "{askers}");
    }
}
