//! Wishes: what the authorization server of any node asks of the one place that decides, as nodes tell it one another.
//!
//! Each is looked at before by whoever asks (signatures, redirects, sign-in); what only one place may say is said here:
//! that something was not used before, and that everybody who takes part may. Called by `command`.
//! Invariant: a wish has no request id, as what may be used once is not answered twice; but refusals, which nobody
//! answers, are noted once. Some wishes change something and are refused all the same: what was used twice takes its
//! consent along.

use bailiwick_proto::Tier;
use serde::{Deserialize, Serialize};

use crate::{
    Rejection, State, assertion, authorization, binding, client,
    command::{Answer, Context, Decision, Grant},
    consent, exchange, headless,
    provisioning::{
        self,
        wish::{Outcome, Provision},
    },
    refresh, refusal, sign_in, signal, workload,
};

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "wish", rename_all = "snake_case")]
pub enum Wish {
    /// A token on the word of an identity provider.
    UseAssertion(assertion::UseAssertion),
    /// A token for a client that runs without a person at hand.
    UseCredentials(headless::UseCredentials),
    /// A person allows a client to act for them; it gets a code.
    GrantConsent(authorization::GrantConsent),
    /// A person does not.
    DeclineConsent(authorization::DeclineConsent),
    /// A token for a code.
    RedeemCode(authorization::RedeemCode),
    /// A token for a refresh token.
    Refresh(refresh::Refresh),
    /// A token for a workload, on the word of its platform.
    UseWorkload(workload::UseWorkload),
    /// A token for that of another agent.
    Exchange(exchange::ExchangeToken),
    /// A client gives up what it was granted.
    GiveUp(consent::GiveUp),
    /// A person takes back what they allowed.
    TakeBack(consent::TakeBack),
    /// A program wants to be a client.
    RegisterClient(client::RegisterClient),
    /// A person has signed in.
    SignIn(sign_in::SignIn),
    /// One of the above, of which the token will be bound to a key.
    Bound(binding::BoundWish),
    /// A transmitter says that something happened.
    TakeSignal(signal::TakeSignal),
    /// What a node refused is to be on record.
    NoteRefusals(refusal::NoteRefusals),
    /// A directory says what people and groups there are.
    Provision(Provision),
}

/// A token that may say less than its consent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exchanged {
    /// What the token says.
    pub grant: Grant,
    /// The most harmful tier it is good for.
    pub level: Tier,
    /// The generation of the refresh token that comes with it, if one does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh: Option<u64>,
}

/// What came of it.
#[expect(clippy::large_enum_variant, reason = "as many are held as decisions are under way")]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fulfilled {
    /// A token may be made.
    Token(Exchanged),
    /// There is this consent.
    Consent(String),
    /// So many consents ended.
    Ended(usize),
    /// This came of each operation.
    Provisioned(Vec<Outcome>),
    /// A signal was taken.
    Signal(signal::Taken),
    /// It is done.
    Done,
    /// It is refused, although something changed.
    Refused(String),
}

pub(crate) fn decide(state: &State, wish: Wish, context: &Context) -> Result<Decision, Rejection> {
    match wish {
        Wish::UseAssertion(wish) => assertion::decide_use(state, wish, context),
        Wish::UseCredentials(wish) => headless::decide_use(state, wish, context),
        Wish::GrantConsent(wish) => authorization::decide_grant(state, wish, context),
        Wish::DeclineConsent(wish) => authorization::decide_decline(state, wish, context),
        Wish::RedeemCode(wish) => authorization::decide_redeem(state, wish, None, context),
        Wish::Refresh(wish) => refresh::decide_refresh(state, wish, None, context),
        Wish::UseWorkload(wish) => workload::decide_use(state, wish, context),
        Wish::Exchange(wish) => exchange::decide_exchange(state, wish, context),
        Wish::GiveUp(wish) => consent::decide_give_up(state, &wish, context),
        Wish::TakeBack(wish) => consent::decide_take_back(state, &wish, context),
        Wish::RegisterClient(wish) => client::decide_register(state, wish, context),
        Wish::SignIn(wish) => sign_in::decide(state, wish, context),
        Wish::Bound(wish) => binding::decide(state, wish, context),
        Wish::TakeSignal(wish) => signal::decide_take(state, wish, context),
        Wish::NoteRefusals(wish) => refusal::decide_note(state, wish, context),
        Wish::Provision(wish) => provisioning::decide::decide(state, wish, context),
    }
}

impl Decision {
    /// Something came of a wish.
    pub(crate) fn fulfilled(events: Vec<crate::Event>, fulfilled: Fulfilled) -> Self {
        Self { events, answer: Answer::Fulfilled(fulfilled), ..Self::default() }
    }

    /// What was used before is refused, and takes its consent along.
    pub(crate) fn used_again(consent: &str, why: &'static str, context: &Context) -> Self {
        Self::fulfilled(vec![consent::revocation(consent, why, context)], Fulfilled::Refused(why.to_owned()))
    }
}
