//! Signals: what transmitters say of people (Shared Signals), taken here and put into effect.
//!
//! They are pushed to any node (`push`) or fetched by the leader (`poll`); either way a token is verified with the
//! keys of the transmitter that the provider's manifest names, read (`reading`), and decided about by the leader;
//! streams are set up at transmitters from here (`streams`). Called by `oauth` and `leadership`. Invariants: a signal
//! is accepted only once its effect is committed, or known to have been; whoever sends one learns nothing of whether
//! its subject is known; nothing a transmitter says is logged but words that are known here. Absent: what follows
//! from a signal (`core::signal`), signatures (`token`). Specifications: OpenID SSF 1.0, CAEP 1.0, RFC 8417, RFC
//! 8935, RFC 8936.

use std::sync::Arc;

use bailiwick_control_plane_core::{
    Fulfilled, Wish,
    consent::CONSENTS_MAX,
    resource::IdentityProviderSpec,
    revocation::REVOKED_AT_ONCE_MAX,
    signal::{Delivery, SignalOutcome, TakeSignal, Taken},
};
use bailiwick_token::assertion::{AssertionError, EventRule, SecurityEvent, peek, verify_event};

use crate::{
    clock,
    decisions::{Decided, Decisions, Undecided},
    metrics::Metrics,
    providers::{ProviderUnavailable, Providers},
};

pub(crate) mod poll;
pub(crate) mod push;
mod reading;
pub(crate) mod streams;

/// How far a transmitter's clock may be ahead, in seconds.
const SKEW_SECONDS: i64 = 30;
/// Changes that one signal makes: all consents there may be, the first one, and one for a repeated wish.
const CHANGES_MAX: usize = CONSENTS_MAX / REVOKED_AT_ONCE_MAX + 2;

/// Takes signals; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Receiver {
    pub(crate) decisions: Decisions,
    pub(crate) providers: Arc<Providers>,
    pub(crate) metrics: Metrics,
}

/// Why a signal is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SetFault {
    /// It is none that is believed.
    Set(AssertionError),
    /// Nobody can say whether it is to be believed: it may come again.
    Keys(ProviderUnavailable),
    /// Nothing can be decided at the moment: it may come again.
    Undecided,
    /// The provider has no say in this.
    Denied,
}

impl SetFault {
    /// The word of RFC 8935 §2.4.
    pub(crate) const fn word(&self) -> &'static str {
        match self {
            Self::Set(AssertionError::Issuer) => "invalid_issuer",
            Self::Set(AssertionError::Audience) => "invalid_audience",
            Self::Set(AssertionError::UnknownKey | AssertionError::Signature | AssertionError::Algorithm) => {
                "invalid_key"
            }
            Self::Set(_) => "invalid_request",
            Self::Keys(_) | Self::Undecided => "temporarily_unavailable",
            Self::Denied => "access_denied",
        }
    }

    /// What the transmitter is told beside the word; nothing of what it sent.
    pub(crate) fn sentence(&self) -> String {
        match self {
            Self::Set(fault) => fault.to_string().replace("the assertion", "the SET"),
            Self::Keys(_) => "the keys of the transmitter cannot be fetched now".to_owned(),
            Self::Undecided => "nobody decides now; send it again".to_owned(),
            Self::Denied => "no signals are taken from this transmitter".to_owned(),
        }
    }

    /// The stable word of our own, for logs and metrics.
    pub(crate) const fn reason(&self) -> &'static str {
        match self {
            Self::Set(fault) => fault.word(),
            Self::Keys(fault) => fault.word(),
            Self::Undecided => "undecided",
            Self::Denied => "denied",
        }
    }

    /// Whether the same signal may be taken later.
    pub(crate) const fn may_pass(&self) -> bool {
        matches!(self, Self::Keys(_) | Self::Undecided)
    }
}

impl Receiver {
    /// Takes one signal of a provider's transmitter: returns once it has its effect.
    ///
    /// # Errors
    /// It has none, and why.
    pub(crate) async fn take(
        &self,
        provider: &str,
        spec: &IdentityProviderSpec,
        jwt: &str,
        delivery: Delivery,
    ) -> Result<SignalOutcome, SetFault> {
        let mut event = "none";
        let taken = self.taken(provider, spec, jwt, delivery, &mut event).await;
        match &taken {
            Ok(outcome) => {
                let outcome = outcome.as_str();
                tracing::info!(provider, event, outcome, ?delivery, "a signal is taken");
                self.metrics.signal(event, outcome);
            }
            Err(fault) => {
                tracing::warn!(provider, event, reason = fault.reason(), ?delivery, "a signal is not taken");
                self.metrics.signal(event, fault.word());
            }
        }
        taken
    }

    async fn taken(
        &self,
        provider: &str,
        spec: &IdentityProviderSpec,
        jwt: &str,
        delivery: Delivery,
        event: &mut &'static str,
    ) -> Result<SignalOutcome, SetFault> {
        let signals = spec.signals.as_ref().filter(|_| spec.active).ok_or(SetFault::Denied)?;
        let said = self.verified(provider, spec, jwt).await?;
        let Some(wish) = reading::wish(provider, spec, signals, &said, delivery) else {
            *event = "unknown";
            return Ok(SignalOutcome::Ignored);
        };
        *event = wish.event.as_str();
        self.decided(wish).await
    }

    async fn verified(
        &self,
        provider: &str,
        spec: &IdentityProviderSpec,
        jwt: &str,
    ) -> Result<SecurityEvent, SetFault> {
        let signals = spec.signals.as_ref().ok_or(SetFault::Denied)?;
        let kid = peek(jwt).map_err(SetFault::Set)?.kid;
        let keys = self.providers.transmitter_keys(provider, spec, kid.as_deref()).await.map_err(SetFault::Keys)?;
        let rule = EventRule {
            issuer: signals.issuer(&spec.issuer),
            audience: &signals.audience,
            age_max: i64::try_from(signals.age_seconds_max()).unwrap_or(i64::MAX),
            skew: SKEW_SECONDS,
        };
        verify_event(jwt, &keys, &rule, clock::now_seconds()).map_err(SetFault::Set)
    }

    /// The leader's decision, with all the changes that it takes.
    async fn decided(&self, wish: TakeSignal) -> Result<SignalOutcome, SetFault> {
        let actor = format!("identity-provider:{}", wish.provider);
        let wish = Wish::TakeSignal(wish);
        let mut first = None;
        for _ in 0..CHANGES_MAX {
            let decided = self.decisions.ask(&wish, actor.clone()).await;
            let Taken { outcome, more } = match decided {
                Ok(Decided { what: Fulfilled::Signal(taken), .. }) => taken,
                Ok(_) | Err(Undecided::Unavailable) => return Err(SetFault::Undecided),
                Err(Undecided::Refused(why)) => {
                    tracing::warn!(why, "a signal is decided against");
                    return Err(SetFault::Denied);
                }
            };
            // What follows after the first change is the rest of it.
            let outcome = *first.get_or_insert(outcome);
            if !more {
                return Ok(outcome);
            }
        }
        Err(SetFault::Undecided)
    }
}
