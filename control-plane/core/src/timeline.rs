//! The timeline of consents: what people allowed and declined, what clients fetched for it, what was taken back, and
//! what was refused.
//!
//! For auditors to read: each entry stands alone, with what its consent said, as the consent itself is forgotten some
//! days after its end. The server feeds one with every committed change, in both ways in which it gets them, beside the
//! [`State`] and no part of it. Invariants: the same changes give the same timeline; it never holds more than
//! [`ENTRIES_MAX`] entries and [`BYTES_MAX`] bytes of them, and says how many fell out. Refusals, of which strangers
//! can make many, have bounds of their own ([`REFUSALS_MAX`]), so they push nothing else out. Absent: refreshed and
//! exchanged tokens and used assertions, each of which rests on a consent that is here; the complete and provable
//! record, which is the ledger's.

use std::{iter, str::FromStr, sync::Arc};

use bailiwick_proto::Tier;

pub use self::place::Place;
pub use self::refused::{REFUSAL_BYTES_MAX, REFUSALS_MAX, Refused};
use self::ring::Ring;
use crate::{
    State,
    authorization::{CodeIssued, CodeRedeemed, ConsentDeclined},
    consent::{Consent, ConsentGranted, ConsentRevoked},
    event::{Change, Event},
};

mod place;
mod refused;
mod ring;
mod signalled;

/// Most entries: half a year of a thousand people who allow something every few days.
pub const ENTRIES_MAX: usize = 50_000;
/// Most bytes of entries: ordinary ones have half a KiB, so that all [`ENTRIES_MAX`] fit; one with hundreds of tools
/// has tens of KiB, and fewer fit of those.
pub const BYTES_MAX: usize = 64 * 1024 * 1024;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A consent was granted.
    Granted,
    /// A client redeemed its code.
    Redeemed,
    /// A person did not allow what a client asked for.
    Declined,
    /// A consent ended before its time.
    Revoked,
    /// Something was asked of the authorization server and not given.
    Refused,
    /// A transmitter said that something happened to a person.
    Signalled,
}

impl Outcome {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Granted, Self::Redeemed, Self::Declined, Self::Revoked, Self::Refused, Self::Signalled];

    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Granted => "granted",
            Self::Redeemed => "redeemed",
            Self::Declined => "declined",
            Self::Revoked => "revoked",
            Self::Refused => "refused",
            Self::Signalled => "signalled",
        }
    }
}

/// No word for an outcome, or no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotOne;

impl FromStr for Outcome {
    type Err = NotOne;
    fn from_str(word: &str) -> Result<Self, NotOne> {
        Self::ALL.into_iter().find(|one| one.as_str() == word).ok_or(NotOne)
    }
}

/// What ties a consent to the client that asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// PKCE challenge (S256).
    pub challenge: String,
    /// Where the code was sent.
    pub redirect_uri: String,
}

/// One entry; what it does not have is empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it stands.
    pub place: Place,
    /// When: microseconds since 1970, UTC.
    pub time: u64,
    /// What happened.
    pub outcome: Outcome,
    /// Whose consent.
    pub user: String,
    /// Who may act.
    pub agent: String,
    /// The OAuth client.
    pub client: String,
    /// Where.
    pub virtual_server: String,
    /// The most harmful tier: of the consent; of a redeemed code, of its token.
    pub level: Option<Tier>,
    /// Only these tools, each as `server/tool`; none: all up to the level.
    pub tools: Vec<String>,
    /// The consent's id.
    pub consent: String,
    /// Who did it.
    pub actor: String,
    /// Why: of a revocation or refusal its own reason, otherwise the consent's.
    pub reason: String,
    /// The identity provider on whose word.
    pub provider: String,
    /// Until when the consent was granted, Unix seconds.
    pub expires_at: Option<u64>,
    /// Where a person was asked.
    pub evidence: Option<Evidence>,
    /// The consent it came of, where an agent handed on what that was for.
    pub parent: String,
    /// Of a refusal: what else is known of it.
    pub refused: Option<Box<Refused>>,
}

impl Entry {
    /// Bytes of memory, about.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let texts = [
            &self.user,
            &self.agent,
            &self.client,
            &self.virtual_server,
            &self.consent,
            &self.actor,
            &self.reason,
            &self.provider,
            &self.parent,
        ];
        let evidence = self.evidence.iter().map(|evidence| evidence.challenge.len() + evidence.redirect_uri.len());
        let tools = self.tools.iter().map(|tool| size_of::<String>() + tool.len());
        let refused = self.refused.iter().map(|refused| refused.bytes());
        size_of::<Self>()
            + texts.into_iter().map(String::len).chain(evidence).chain(tools).chain(refused).sum::<usize>()
    }
}

/// What to look for; all that is given must fit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// What happened.
    pub outcome: Option<Outcome>,
    /// The client.
    pub client: Option<String>,
    /// The user or the agent.
    pub subject: Option<String>,
    /// The user.
    pub user: Option<String>,
    /// Not before, microseconds since 1970.
    pub since: Option<u64>,
    /// Before, microseconds since 1970.
    pub until: Option<u64>,
}

impl Filter {
    /// Whether an entry fits.
    #[must_use]
    pub fn takes(&self, entry: &Entry) -> bool {
        self.outcome.is_none_or(|outcome| entry.outcome == outcome)
            && self.client.as_ref().is_none_or(|client| entry.client == *client)
            && self.subject.as_ref().is_none_or(|subject| entry.user == *subject || entry.agent == *subject)
            && self.user.as_ref().is_none_or(|user| entry.user == *user)
            && self.since.is_none_or(|since| entry.time >= since)
            && self.until.is_none_or(|until| entry.time < until)
    }
}

/// The latest entries.
#[derive(Clone, Debug)]
pub struct Timeline {
    consents: Ring,
    refusals: Ring,
}

impl Default for Timeline {
    fn default() -> Self {
        Self { consents: Ring::new(ENTRIES_MAX, BYTES_MAX), refusals: Ring::new(REFUSALS_MAX, REFUSAL_BYTES_MAX) }
    }
}

impl Timeline {
    /// Takes in the events of the change that makes `revision`, with the state before any of them.
    pub fn see(&mut self, before: &State, events: &[Event], revision: u64) {
        for event in events {
            let entry = match &event.change {
                Change::ConsentGranted(granted) => of_grant(granted, event),
                Change::ConsentDeclined(declined) => of_refusal(declined, event),
                Change::CodeRedeemed(redeemed) => {
                    of_redemption(self.consent(before, &redeemed.consent), redeemed, event)
                }
                Change::ConsentRevoked(revoked) => {
                    of_revocation(self.consent(before, &revoked.consent), revoked, event)
                }
                Change::CodeIssued(issued) => {
                    self.add_evidence(issued, revision);
                    continue;
                }
                Change::RequestRefused(one) => {
                    let id = &one.refusal.consent;
                    let consent = (!id.is_empty()).then(|| self.consent(before, id));
                    refused::of_requests(one, consent, event)
                }
                Change::SignalReceived(received) if !received.user.is_empty() => signalled::of_signal(received, event),
                Change::SignalReceived(_)
                | Change::SessionsEnded(_)
                | Change::ServerApplied(_)
                | Change::ServerDeleted(_)
                | Change::ToolsPinned(_)
                | Change::ToolDriftObserved(_)
                | Change::ToolApproved(_)
                | Change::VirtualServerApplied(_)
                | Change::VirtualServerDeleted(_)
                | Change::UserApplied(_)
                | Change::PersonProvisioned(_)
                | Change::PersonRenamed(_)
                | Change::PersonDeprovisioned(_)
                | Change::GroupProvisioned(_)
                | Change::GroupRenamed(_)
                | Change::GroupMembersChanged(_)
                | Change::GroupDeprovisioned(_)
                | Change::AgentProvisioned(_)
                | Change::AgentDeprovisioned(_)
                | Change::ScimTokenCreated(_)
                | Change::ScimTokenRevoked(_)
                | Change::UserDeleted(_)
                | Change::AgentApplied(_)
                | Change::AgentDeleted(_)
                | Change::PolicyApplied(_)
                | Change::PolicyDeleted(_)
                | Change::TokenIssued(_)
                | Change::NodeEpochOpened(_)
                | Change::NodeDeleted(_)
                | Change::CheckpointCommitted(_)
                | Change::TokenKeyRegistered(_)
                | Change::TokenKeyRotated(_)
                | Change::TokenKeyRetired(_)
                | Change::AuthorizationKeyRotated(_)
                | Change::AuthorizationKeyRetired(_)
                | Change::BindingKeyRotated(_)
                | Change::BindingKeyRetired(_)
                | Change::ContextKeyRotated(_)
                | Change::ContextKeyRetired(_)
                | Change::GrantBound(_)
                | Change::IssuerSet(_)
                | Change::ClusterFounded(_)
                | Change::JoinTokenCreated(_)
                | Change::MemberEnrolled(_)
                | Change::MemberMoved(_)
                | Change::MemberRemoved(_)
                | Change::SecretSealed(_)
                | Change::MasterKeyRotated(_)
                | Change::RevocationReceipted(_)
                | Change::RolloutBegun(_)
                | Change::RolloutStaged(_)
                | Change::RolloutStepped(_)
                | Change::RolloutEnded(_)
                | Change::NodeEpochReserved(_)
                | Change::NodeReserveBegun(_)
                | Change::CredentialSet(_)
                | Change::CredentialDeleted(_)
                | Change::ClientApplied(_)
                | Change::ClientDeleted(_)
                | Change::IdentityProviderApplied(_)
                | Change::IdentityProviderDeleted(_)
                | Change::DecisionClientApplied(_)
                | Change::DecisionClientDeleted(_)
                | Change::AssertionUsed(_)
                | Change::PersonSignedIn(_)
                | Change::TokenRefreshed(_)
                | Change::TokenExchanged(_) => continue,
            };
            let entry = Entry { place: self.next_place(revision), ..entry };
            let ring = if entry.refused.is_some() { &mut self.refusals } else { &mut self.consents };
            ring.push(entry);
        }
    }

    /// What fits, newest first: entries before `before`, at most `limit`.
    #[must_use]
    pub fn newest(&self, filter: &Filter, before: Option<Place>, limit: usize) -> Vec<Arc<Entry>> {
        let mut consents = self.consents.newest(before).peekable();
        let mut refusals = self.refusals.newest(before).peekable();
        let merged = iter::from_fn(move || match (consents.peek(), refusals.peek()) {
            (Some(one), Some(other)) if one.place < other.place => refusals.next(),
            (Some(_), _) => consents.next(),
            (None, _) => refusals.next(),
        });
        merged.filter(|one| filter.takes(one)).take(limit).cloned().collect()
    }

    /// How many older entries are not here any more: of consents, and of refusals.
    #[must_use]
    pub const fn fallen_out(&self) -> (u64, u64) {
        (self.consents.fallen_out(), self.refusals.fallen_out())
    }

    fn next_place(&self, revision: u64) -> Place {
        let newest = |ring: &Ring| ring.newest(None).next().map(|last| last.place);
        let last = newest(&self.consents).max(newest(&self.refusals)).filter(|place| place.revision == revision);
        Place { revision, number: last.map_or(0, |place| place.number.saturating_add(1)) }
    }

    /// A code is issued in the change that grants its consent.
    fn add_evidence(&mut self, issued: &CodeIssued, revision: u64) {
        let is_its = |one: &Entry| one.outcome == Outcome::Granted && one.consent == issued.consent;
        let CodeIssued { challenge, redirect_uri, .. } = issued.clone();
        let bytes = challenge.len() + redirect_uri.len();
        let fill = |granted: &mut Entry| granted.evidence = Some(Evidence { challenge, redirect_uri });
        self.consents.fill_in(revision.saturating_sub(1), is_its, bytes, fill);
    }

    /// What is known of a consent: as it stands in the state, or as it was granted in this very change.
    fn consent(&self, before: &State, id: &str) -> Entry {
        if let Some(consent) = before.consents.get(id) {
            return of_consent(consent);
        }
        let granted = self.consents.newest(None).take_while(|one| one.place.revision > before.revision);
        let mut granted = granted.filter(|one| one.outcome == Outcome::Granted && one.consent == id);
        let unknown = || Entry { consent: id.to_owned(), ..nothing() };
        granted.next().map_or_else(unknown, |granted| Entry::clone(granted))
    }
}

/// An entry to be filled in.
const fn nothing() -> Entry {
    Entry {
        place: Place { revision: 0, number: 0 },
        time: 0,
        outcome: Outcome::Granted,
        user: String::new(),
        agent: String::new(),
        client: String::new(),
        virtual_server: String::new(),
        level: None,
        tools: Vec::new(),
        consent: String::new(),
        actor: String::new(),
        reason: String::new(),
        provider: String::new(),
        expires_at: None,
        evidence: None,
        parent: String::new(),
        refused: None,
    }
}

fn of_consent(consent: &Consent) -> Entry {
    let evidence = consent.code.as_ref().map(|code| Evidence {
        challenge: code.issued.challenge.clone(),
        redirect_uri: code.issued.redirect_uri.clone(),
    });
    Entry { evidence, ..as_granted(&consent.granted) }
}

fn as_granted(granted: &ConsentGranted) -> Entry {
    Entry {
        user: granted.user.clone(),
        agent: granted.agent.clone(),
        client: granted.client.clone(),
        virtual_server: granted.virtual_server.clone(),
        level: Some(granted.level),
        tools: granted.tools.iter().cloned().collect(),
        consent: granted.consent.clone(),
        reason: granted.reason.clone(),
        parent: granted.parent.clone().unwrap_or_default(),
        provider: granted.provider.clone(),
        expires_at: Some(granted.expires_at),
        ..nothing()
    }
}

fn of_grant(granted: &ConsentGranted, event: &Event) -> Entry {
    Entry { time: event.time, outcome: Outcome::Granted, actor: event.actor.clone(), ..as_granted(granted) }
}

fn of_redemption(consent: Entry, redeemed: &CodeRedeemed, event: &Event) -> Entry {
    let (outcome, level, actor) = (Outcome::Redeemed, Some(redeemed.level), event.actor.clone());
    Entry { time: event.time, outcome, level, actor, ..consent }
}

fn of_revocation(consent: Entry, revoked: &ConsentRevoked, event: &Event) -> Entry {
    let (outcome, reason, actor) = (Outcome::Revoked, revoked.reason.clone(), event.actor.clone());
    Entry { time: event.time, outcome, reason, actor, ..consent }
}

fn of_refusal(declined: &ConsentDeclined, event: &Event) -> Entry {
    let ConsentDeclined { user, client, virtual_server, provider, reason } = declined.clone();
    let (outcome, actor) = (Outcome::Declined, event.actor.clone());
    Entry { time: event.time, outcome, actor, user, client, virtual_server, provider, reason, ..nothing() }
}

#[cfg(test)]
mod tests;
