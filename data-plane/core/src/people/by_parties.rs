//! Which consents a person gave for an agent, for whoever does not name one.
//!
//! Kept beside `People` only while somebody may ask for decisions, and handed from one revision to the next: of a new
//! one only the buckets are read that differ from the one before, so it costs what changed. It leads to consents; what
//! they say is read from the entries of the revision that is asked, so an id too many harms nothing.
//! Asked through `People`. Absent: any judgement about a consent.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::PoisonError,
};

use bailiwick_proto::{config_digest::Entries, v1};
use prost::Message as _;

use super::{Consent, People};

/// How many ids of one pair there may be before those are left out that are gone; then twice as many, and so on.
const GONE_LEFT_OUT_FROM: usize = 64;

/// See the file's header.
#[derive(Debug, Default)]
pub(super) struct ByParties {
    /// What is read.
    basis: Entries,
    /// Ids by the hash of a person's and an agent's name.
    consents: HashMap<u64, Vec<Box<str>>>,
}

impl ByParties {
    /// Reads what differs from what is read.
    pub(super) fn follow(&mut self, entries: &Entries) {
        for (key, value) in entries.apart_from(&self.basis) {
            let Some((id, (user, agent))) = key.strip_prefix("consent/").zip(parties_of(value)) else { continue };
            let ids = self.consents.entry(hash_of(&user, &agent)).or_default();
            if ids.iter().any(|known| **known == *id) {
                continue;
            }
            if ids.len() >= GONE_LEFT_OUT_FROM && ids.len().is_power_of_two() {
                ids.retain(|known| entries.get(&format!("consent/{known}")).is_some());
            }
            ids.push(id.into());
        }
        self.basis = entries.clone();
    }

    /// Ids of consents that may be of this person for this agent, the latest read first, at most `max`.
    pub(super) fn of(&self, user: &str, agent: &str, max: usize) -> Vec<Box<str>> {
        let ids = self.consents.get(&hash_of(user, agent));
        ids.into_iter().flatten().rev().take(max).cloned().collect()
    }
}

impl People {
    /// The same, of whom [`Self::consents`] knows; it goes on from what those before were read for.
    #[must_use]
    pub fn with_consents_found(self, before: &Self) -> Self {
        let by_parties = before.by_parties.clone().unwrap_or_default();
        by_parties.lock().unwrap_or_else(PoisonError::into_inner).follow(&self.entries);
        Self { by_parties: Some(by_parties), ..self }
    }

    /// What a person consented to that an agent does, with the ids; of more than `max`, the latest. Nothing, unless
    /// these are [`Self::with_consents_found`].
    #[must_use]
    pub fn consents(&self, user: &str, agent: &str, max: usize) -> Vec<(Box<str>, Consent)> {
        let by_parties = self.by_parties.as_ref().map(|known| known.lock().unwrap_or_else(PoisonError::into_inner));
        let ids = by_parties.map(|known| known.of(user, agent, max)).unwrap_or_default();
        let read = ids.into_iter().filter_map(|id| self.consent(&id).map(|consent| (id, consent)));
        read.filter(|(_, consent)| consent.user == user && consent.agent == agent).collect()
    }
}

fn hash_of(user: &str, agent: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (user, agent).hash(&mut hasher);
    hasher.finish()
}

fn parties_of(value: &[u8]) -> Option<(String, String)> {
    match v1::Resource::decode(value).ok()?.resource? {
        v1::resource::Resource::Consent(consent) => Some((consent.user, consent.agent)),
        v1::resource::Resource::Server(_)
        | v1::resource::Resource::Tool(_)
        | v1::resource::Resource::VirtualServer(_)
        | v1::resource::Resource::User(_)
        | v1::resource::Resource::Agent(_)
        | v1::resource::Resource::Policy(_)
        | v1::resource::Resource::TokenKey(_)
        | v1::resource::Resource::Issuer(_)
        | v1::resource::Resource::Rollout(_)
        | v1::resource::Resource::RolloutChange(_)
        | v1::resource::Resource::DecisionClient(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use v1::resource::Resource as Kind;

    use super::*;
    use crate::fixture::{self, entry};

    fn put(entries: &mut Entries, id: &str, agent: &str) {
        let consent = v1::Consent { id: id.into(), agent: agent.into(), ..fixture::consent() };
        let entry = entry(&format!("consent/{id}"), Kind::Consent(consent));
        entries.insert(&entry.key, &entry.value);
        entries.settle();
    }

    #[test]
    fn consents_are_found_by_both_names_as_they_come_and_go() {
        let (mut entries, mut index) = (Entries::new(), ByParties::default());
        let found = |index: &ByParties, agent: &str| {
            index.of("jane@example.com", agent, 9).iter().map(|id| id.to_string()).collect::<Vec<_>>()
        };
        put(&mut entries, "c-1", "coder");
        index.follow(&entries);
        put(&mut entries, "c-2", "coder");
        put(&mut entries, "c-3", "writer");
        index.follow(&entries);
        assert_eq!(
            (found(&index, "coder"), found(&index, "writer")),
            (vec!["c-2".into(), "c-1".into()], vec!["c-3".into()])
        );
        assert!(index.of("eve@example.com", "coder", 9).is_empty());
        assert_eq!(index.of("jane@example.com", "coder", 1).len(), 1);
        index.follow(&entries);
        assert_eq!(found(&index, "coder").len(), 2, "read twice, there once");
    }

    #[test]
    fn ids_of_what_is_gone_do_not_pile_up() {
        let (mut entries, mut index) = (Entries::new(), ByParties::default());
        for number in 0..1_000 {
            put(&mut entries, &format!("c-{number}"), "coder");
            if number >= 10 {
                entries.remove(&format!("consent/c-{}", number - 10));
            }
            index.follow(&entries);
        }
        let kept = index.of("jane@example.com", "coder", 10_000);
        assert!(kept.len() <= 2 * GONE_LEFT_OUT_FROM, "{}", kept.len());
        assert!((990..1_000).all(|number| kept.iter().any(|id| **id == *format!("c-{number}"))));
    }
}
