//! Signals of an identity provider: whose word it is that something happened to a person, how it gets here, and what
//! follows from it.
//!
//! A part of an `IdentityProvider`'s manifest; called by `identity` (its faults), `signal` (what follows) and the server
//! (issuer, keys, secrets). Invariants: only an event that counts by this manifest changes anything; a transmitter can
//! deactivate people only by events that say that they left. Absent: signatures, and asking the transmitter (server).
//! Specifications: OpenID SSF 1.0, CAEP 1.0 §3, RISC 1.0 §2; RFC 8935, RFC 8936.

use std::collections::{BTreeMap, BTreeSet};

use bailiwick_proto::names;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    checks::{Fault, RESOURCE_RULE, clip, is_http_url},
    identity::{ProviderAlgorithm, usual_algorithms},
    signal_stream::StreamSpec,
};

/// Longest audience: a URL in practice.
const AUDIENCE_BYTES_MAX: usize = 1_024;
/// Secrets that count at a time: the one in use, and its successor.
const SECRETS_MAX: usize = 2;
/// How old a signal may be where the manifest says nothing: a week of ours without a control plane loses none.
const AGE_SECONDS_DEFAULT: u64 = 7 * DAY_SECONDS;
/// Each is remembered for so long, so that it counts once.
const AGE_SECONDS_MAX: u64 = 30 * DAY_SECONDS;
const AGE_SECONDS_MIN: u64 = 60;
const DAY_SECONDS: u64 = 24 * 3_600;
const CAEP: &str = "https://schemas.openid.net/secevent/caep/event-type/";
const RISC: &str = "https://schemas.openid.net/secevent/risc/event-type/";
const SSF: &str = "https://schemas.openid.net/secevent/ssf/event-type/";

/// Signals about its people: that a session was revoked, a credential changed, somebody left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SignalsSpec {
    /// The `iss` of its security event tokens, byte for byte; the provider's where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// What we are called there: their one `aud`.
    pub audience: String,
    /// Where its keys are; where absent, `/.well-known/ssf-configuration` of the issuer says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwks_url: Option<String>,
    /// The algorithms it may sign with.
    #[serde(default = "usual_algorithms")]
    pub algorithms: BTreeSet<ProviderAlgorithm>,
    /// It sends them here, to `/ssf/events/{provider}` (RFC 8935); it may not where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub push: Option<PushSpec>,
    /// They are fetched from it (RFC 8936); they are not where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub poll: Option<PollSpec>,
    /// The stream is made and changed there from here; by hand where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<Box<StreamSpec>>,
    /// The events that count, and what follows from each; those that are not listed change nothing and are not on
    /// record. Where absent, the usual ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub events: Option<BTreeMap<SignalKind, SignalEffect>>,
    /// How long ago a signal may have been made, e.g. "24h" or "7d" (the default); at most "30d".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_max: Option<String>,
}

/// Signals that are sent here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PushSpec {
    /// SHA-256, in hexadecimal, of the bearer secret that the transmitter shows; of two while one is being replaced.
    /// `bailiwick client new-secret` makes a secret and this hash of it.
    pub secrets_sha256: BTreeSet<String>,
}

/// Signals that are fetched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PollSpec {
    /// The stream's polling endpoint, which the transmitter gave when the stream was made.
    pub url: String,
    /// The bearer secret that we show there: a name that was sealed with `bailiwick secret set NAME --for
    /// identity-provider`.
    pub secret: String,
}

/// What a signal says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SignalKind {
    /// Sessions of a person are over (CAEP, RISC `sessions-revoked`).
    SessionRevoked,
    /// Claims about a person have changed (CAEP).
    TokenClaimsChange,
    /// A credential of a person was made, changed or taken away (CAEP).
    CredentialChange,
    /// It is less or more sure who somebody is (CAEP).
    AssuranceLevelChange,
    /// A person's device does or does not comply (CAEP).
    DeviceComplianceChange,
    /// The risk of somebody is rated otherwise (CAEP).
    RiskLevelChange,
    /// Somebody began a session (CAEP).
    SessionEstablished,
    /// Somebody went on with a session (CAEP).
    SessionPresented,
    /// An account is not to be used (RISC).
    AccountDisabled,
    /// An account is gone (RISC).
    AccountPurged,
    /// An account may be used again (RISC).
    AccountEnabled,
    /// A credential is in the hands of others (RISC).
    CredentialCompromise,
    /// The transmitter shows that the stream works (SSF).
    Verification,
    /// The transmitter has paused, stopped or started the stream (SSF).
    StreamUpdated,
}

/// What follows from a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SignalEffect {
    /// It is on record.
    Record,
    /// The person's sessions end: in browsers, and all consents that were granted before.
    EndSessions,
    /// The person is in the groups that it names, by `people.groups`.
    UpdateGroups,
    /// The person is deactivated.
    Deactivate,
}

impl SignalKind {
    /// All, in the order of their words here.
    pub const ALL: [Self; 14] = [
        Self::SessionRevoked,
        Self::TokenClaimsChange,
        Self::CredentialChange,
        Self::AssuranceLevelChange,
        Self::DeviceComplianceChange,
        Self::RiskLevelChange,
        Self::SessionEstablished,
        Self::SessionPresented,
        Self::AccountDisabled,
        Self::AccountPurged,
        Self::AccountEnabled,
        Self::CredentialCompromise,
        Self::Verification,
        Self::StreamUpdated,
    ];

    /// The word: the last part of its URI.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SessionRevoked => "session-revoked",
            Self::TokenClaimsChange => "token-claims-change",
            Self::CredentialChange => "credential-change",
            Self::AssuranceLevelChange => "assurance-level-change",
            Self::DeviceComplianceChange => "device-compliance-change",
            Self::RiskLevelChange => "risk-level-change",
            Self::SessionEstablished => "session-established",
            Self::SessionPresented => "session-presented",
            Self::AccountDisabled => "account-disabled",
            Self::AccountPurged => "account-purged",
            Self::AccountEnabled => "account-enabled",
            Self::CredentialCompromise => "credential-compromise",
            Self::Verification => "verification",
            Self::StreamUpdated => "stream-updated",
        }
    }

    /// The kind of an event's URI; `None` for what is not known here.
    #[must_use]
    pub fn of_uri(uri: &str) -> Option<Self> {
        if uri.strip_prefix(RISC) == Some("sessions-revoked") {
            return Some(Self::SessionRevoked);
        }
        Self::ALL.into_iter().find(|kind| uri.strip_prefix(kind.prefix()) == Some(kind.as_str()))
    }

    /// The URI by which it is asked for.
    #[must_use]
    pub fn uri(self) -> String {
        format!("{}{}", self.prefix(), self.as_str())
    }

    const fn prefix(self) -> &'static str {
        match self {
            Self::AccountDisabled | Self::AccountPurged | Self::AccountEnabled | Self::CredentialCompromise => RISC,
            Self::Verification | Self::StreamUpdated => SSF,
            Self::SessionRevoked
            | Self::TokenClaimsChange
            | Self::CredentialChange
            | Self::AssuranceLevelChange
            | Self::DeviceComplianceChange
            | Self::RiskLevelChange
            | Self::SessionEstablished
            | Self::SessionPresented => CAEP,
        }
    }

    /// Whether it is about the stream and nobody.
    #[must_use]
    pub const fn is_of_stream(self) -> bool {
        matches!(self, Self::Verification | Self::StreamUpdated)
    }

    /// What follows where the manifest lists no events.
    const fn usual(self) -> Option<SignalEffect> {
        match self {
            Self::SessionRevoked
            | Self::CredentialChange
            | Self::CredentialCompromise
            | Self::DeviceComplianceChange => Some(SignalEffect::EndSessions),
            Self::TokenClaimsChange => Some(SignalEffect::UpdateGroups),
            Self::AccountDisabled | Self::AccountPurged => Some(SignalEffect::Deactivate),
            Self::AssuranceLevelChange | Self::RiskLevelChange | Self::Verification | Self::StreamUpdated => {
                Some(SignalEffect::Record)
            }
            Self::SessionEstablished | Self::SessionPresented | Self::AccountEnabled => None,
        }
    }

    const fn may(self, effect: SignalEffect) -> bool {
        match effect {
            SignalEffect::Record => true,
            SignalEffect::EndSessions => !self.is_of_stream(),
            SignalEffect::UpdateGroups => matches!(self, Self::TokenClaimsChange),
            SignalEffect::Deactivate => matches!(self, Self::AccountDisabled | Self::AccountPurged),
        }
    }
}

impl SignalsSpec {
    /// Who signs, at a provider of this issuer.
    #[must_use]
    pub fn issuer<'a>(&'a self, provider: &'a str) -> &'a str {
        self.issuer.as_deref().unwrap_or(provider)
    }

    /// What follows from a signal; `None`: it does not count.
    #[must_use]
    pub fn effect_of(&self, kind: SignalKind) -> Option<SignalEffect> {
        match &self.events {
            Some(_) if kind.is_of_stream() => kind.usual(),
            Some(listed) => listed.get(&kind).copied(),
            None => kind.usual(),
        }
    }

    /// How long ago one may have been made, in seconds.
    #[must_use]
    pub fn age_seconds_max(&self) -> u64 {
        self.age_max.as_deref().and_then(age_seconds).unwrap_or(AGE_SECONDS_DEFAULT)
    }

    /// What is wrong, at a provider of this issuer.
    pub(super) fn faults(&self, provider: &str) -> Vec<Fault> {
        let mut faults = Vec::new();
        let urls = [("issuer", self.issuer.as_ref()), ("jwks_url", self.jwks_url.as_ref())];
        let poll = ("poll.url", self.poll.as_ref().map(|poll| &poll.url));
        for (key, url) in urls.into_iter().chain([poll]).filter_map(|(key, url)| Some((key, url?))) {
            let is_plain = is_http_url(url) && !(url.contains('?') && key == "issuer");
            if !is_plain || is_https(self.issuer(provider)) && !is_https(url) {
                let message =
                    "must be an https URL with a host and without user or fragment; http only if the issuer is";
                faults.push(Fault::new(format!("spec.signals.{key}"), message));
            }
        }
        let is_plain = |text: &str| !text.is_empty() && !text.contains(char::is_control);
        if self.audience.len() > AUDIENCE_BYTES_MAX || !is_plain(&self.audience) {
            let message = format!("must be 1 to {AUDIENCE_BYTES_MAX} bytes of text on one line");
            faults.push(Fault::new("spec.signals.audience", message));
        }
        if self.algorithms.is_empty() {
            faults.push(Fault::new("spec.signals.algorithms", "names no algorithm; leave it out for RS256 and ES256"));
        }
        // Whoever makes the stream from here learns then where it is to be polled.
        if self.push.is_none() && self.poll.is_none() && self.stream.is_none() {
            faults.push(Fault::new("spec.signals", "gets no signals: write `push`, `poll`, or both"));
        }
        faults.extend(self.stream.iter().flat_map(|stream| stream.faults(self.push.is_some())));
        faults.extend(self.push.iter().filter_map(PushSpec::fault));
        let named = self.poll.iter().map(|poll| &poll.secret).filter(|name| !names::is_resource_name(name));
        faults.extend(
            named.map(|name| Fault::new("spec.signals.poll.secret", format!("\"{}\" {RESOURCE_RULE}", clip(name)))),
        );
        for (kind, effect) in self.events.iter().flatten() {
            if kind.is_of_stream() || !kind.may(*effect) {
                let word = kind.as_str();
                let message = "cannot have this effect: groups follow token-claims-change alone, a deactivation \
                               account-disabled and account-purged; what is said of the stream is always on record";
                faults.push(Fault::new(format!("spec.signals.events.{word}"), message));
            }
        }
        if self.age_max.as_deref().is_some_and(|text| age_seconds(text).is_none()) {
            let message = "must be a whole number with a unit (s, m, h or d), from \"1m\" to \"30d\"";
            faults.push(Fault::new("spec.signals.age_max", message));
        }
        faults
    }
}

impl PushSpec {
    fn fault(&self) -> Option<Fault> {
        let is_hash = |text: &String| text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let is_fit = (1..=SECRETS_MAX).contains(&self.secrets_sha256.len()) && self.secrets_sha256.iter().all(is_hash);
        let message = "must be one or two hashes of 64 lower-case hexadecimal digits; `bailiwick client new-secret` \
                       makes a secret and this hash of it";
        (!is_fit).then(|| Fault::new("spec.signals.push.secrets_sha256", message))
    }
}

fn is_https(url: &str) -> bool {
    url.split_once("://").is_some_and(|(scheme, _)| scheme.eq_ignore_ascii_case("https"))
}

fn age_seconds(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at_checked(digits)?;
    let factor = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => DAY_SECONDS,
        _ => return None,
    };
    let seconds = number.parse::<u64>().ok()?.checked_mul(factor)?;
    (AGE_SECONDS_MIN..=AGE_SECONDS_MAX).contains(&seconds).then_some(seconds)
}
