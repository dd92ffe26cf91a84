//! What a security event token means here: which event it is, whom it is about, and what it says of them.
//!
//! Called by `signals` with a token whose signature holds; gives the wish that the leader decides. Invariants: a
//! subject names a user only in the way in which the provider's people are named here (`PeopleSpec`), and only one that
//! the provider may speak for; a change that cannot be read counts as one for the worse; every text is bounded. Absent:
//! signatures (`token`), what follows (`core::signal`). Specifications: RFC 9493 §3; OpenID SSF 1.0 §3; CAEP 1.0 §2
//! and §3.

use std::collections::BTreeSet;

use bailiwick_control_plane_core::{
    assertion::Use,
    resource::{IdentityProviderSpec, PeopleSpec, SignalKind, SignalsSpec},
    signal::{CLAIMS_MAX, Delivery, TEXT_BYTES_MAX, TakeSignal, clip},
};
use bailiwick_proto::names;
use bailiwick_token::assertion::{SecurityEvent, replay_key};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value};

/// Most names of one person in a subject of the format `aliases`.
const ALIASES_MAX: usize = 16;

/// The wish that a verified token is; `None` for an event that is not known here, which changes nothing.
pub(super) fn wish(
    provider: &str,
    spec: &IdentityProviderSpec,
    signals: &SignalsSpec,
    said: &SecurityEvent,
    delivery: Delivery,
) -> Option<TakeSignal> {
    let event = SignalKind::of_uri(&said.event_type)?;
    let seconds = |time: i64| u64::try_from(time).unwrap_or_default();
    let at = happened_at(&said.event, said.toe, said.iat);
    let claims = changed_claims(&said.event);
    let groups = claims.and_then(|claims| groups(&spec.people, claims));
    let is_of_person = !event.is_of_stream();
    Some(TakeSignal {
        provider: provider.to_owned(),
        delivery,
        used: Use {
            key: hex::encode(replay_key(&said.iss, "", &said.jti)),
            until: seconds(said.iat).saturating_add(signals.age_seconds_max()),
        },
        jti: said.jti.clone(),
        event,
        subject: clip(&shown(&said.subject), TEXT_BYTES_MAX),
        user: is_of_person.then(|| user_of(spec, signals, &said.subject)).flatten(),
        happened_at: seconds(at),
        is_worse: is_worse(event, &said.event, &spec.people, &groups),
        groups: groups.and_then(Result::ok),
        claims: claims.map(|claims| other_claims(&spec.people, claims)).unwrap_or_default(),
        reason: clip(&reason(&said.event), TEXT_BYTES_MAX),
        state: state(event, &said.event),
    })
}

/// What a verification repeats of what it was asked for with.
fn state(event: SignalKind, said: &Map<String, Value>) -> String {
    let text = said.get("state").and_then(Value::as_str).filter(|_| event == SignalKind::Verification);
    clip(text.unwrap_or_default(), TEXT_BYTES_MAX)
}

fn happened_at(event: &Map<String, Value>, toe: Option<i64>, iat: i64) -> i64 {
    event.get("event_timestamp").and_then(numeric_date).or(toe).unwrap_or(iat)
}

/// When a token says that its event happened and that it was made, in Unix seconds: to sort by. Nothing is verified.
pub(super) fn order(jwt: &str) -> (i64, i64) {
    let payload = jwt.split('.').nth(1).and_then(|payload| URL_SAFE_NO_PAD.decode(payload).ok()).unwrap_or_default();
    let said: Map<String, Value> = serde_json::from_slice(&payload).unwrap_or_default();
    let date = |name: &str| said.get(name).and_then(numeric_date);
    let event = said.get("events").and_then(Value::as_object).and_then(|events| events.values().next()?.as_object());
    let (toe, iat) = (date("toe"), date("iat").unwrap_or_default());
    (event.map_or(iat, |event| happened_at(event, toe, iat)), iat)
}

/// Whether it tells of a change for the worse.
fn is_worse(
    event: SignalKind,
    said: &Map<String, Value>,
    people: &PeopleSpec,
    groups: &Option<Result<BTreeSet<String>, Unreadable>>,
) -> bool {
    let is =
        |name: &str, words: &[&str]| said.get(name).and_then(Value::as_str).is_some_and(|word| words.contains(&word));
    match event {
        SignalKind::CredentialChange => !is("change_type", &["create"]),
        SignalKind::DeviceComplianceChange => !is("current_status", &["compliant"]),
        SignalKind::AssuranceLevelChange => !is("change_direction", &["increase"]),
        SignalKind::RiskLevelChange => !is("current_level", &["LOW", "MEDIUM"]),
        SignalKind::TokenClaimsChange => {
            matches!(groups, Some(Err(Unreadable))) || !still_theirs(people, changed_claims(said))
        }
        SignalKind::SessionRevoked
        | SignalKind::SessionEstablished
        | SignalKind::SessionPresented
        | SignalKind::AccountDisabled
        | SignalKind::AccountPurged
        | SignalKind::AccountEnabled
        | SignalKind::CredentialCompromise
        | SignalKind::Verification
        | SignalKind::StreamUpdated => true,
    }
}

/// Whether somebody still has every claim that the provider's people must have, as far as it has changed.
fn still_theirs(people: &PeopleSpec, claims: Option<&Map<String, Value>>) -> bool {
    let has = |(claim, value): (&String, &String)| {
        let changed = claims.and_then(|claims| claims.get(claim));
        changed.is_none_or(|changed| changed.as_str() == Some(value))
    };
    people.require.iter().all(has)
}

fn changed_claims(said: &Map<String, Value>) -> Option<&Map<String, Value>> {
    said.get("claims").and_then(Value::as_object)
}

struct Unreadable;

/// The groups that changed claims put somebody in; `None` where they say nothing of groups, or are not asked.
fn groups(people: &PeopleSpec, claims: &Map<String, Value>) -> Option<Result<BTreeSet<String>, Unreadable>> {
    let claim = &people.groups.as_ref()?.claim;
    if !claims.contains_key(claim) {
        return None;
    }
    people.groups_of(claims).map_err(|_| Unreadable).transpose()
}

/// The names of claims that mean nothing here.
fn other_claims(people: &PeopleSpec, claims: &Map<String, Value>) -> BTreeSet<String> {
    let of_groups = people.groups.as_ref().map(|groups| &groups.claim);
    let others = claims.keys().filter(|name| Some(*name) != of_groups && !name.contains(char::is_control));
    others.take(CLAIMS_MAX).map(|name| clip(name, TEXT_BYTES_MAX)).collect()
}

/// The user's name, if the subject has one by the provider's manifest.
fn user_of(spec: &IdentityProviderSpec, signals: &SignalsSpec, subject: &Map<String, Value>) -> Option<String> {
    let people = &spec.people;
    let text = |name: &str| subject.get(name).and_then(Value::as_str);
    let is_by = |claim: &str| people.user == claim;
    let named = match subject.get("format").and_then(Value::as_str) {
        Some("email") if is_by("email") => text("email"),
        Some("iss_sub") if is_by("sub") => {
            let iss = text("iss")?;
            (iss == spec.issuer || iss == signals.issuer(&spec.issuer)).then(|| text("sub")).flatten()
        }
        Some("opaque") if !is_by("email") => text("id"),
        Some("aliases") => return one_of_aliases(spec, signals, subject.get("identifiers")?),
        None | Some("complex") => return user_of(spec, signals, simple(subject.get("user")?)?),
        Some(_) => None,
    };
    let is_of =
        |name: &str, domain: &String| name.rsplit_once('@').is_some_and(|(_, of)| of.eq_ignore_ascii_case(domain));
    let speaks_for = |name: &str| people.domains.is_empty() || people.domains.iter().any(|domain| is_of(name, domain));
    named.filter(|name| names::is_person_name(name) && speaks_for(name)).map(str::to_owned)
}

/// A subject that is no list and no combination itself.
fn simple(subject: &Value) -> Option<&Map<String, Value>> {
    let subject = subject.as_object()?;
    let format = subject.get("format")?.as_str()?;
    (!matches!(format, "aliases" | "complex")).then_some(subject)
}

/// All that name somebody here must name the same.
fn one_of_aliases(spec: &IdentityProviderSpec, signals: &SignalsSpec, all: &Value) -> Option<String> {
    let all = all.as_array()?.iter().take(ALIASES_MAX).filter_map(simple);
    let mut named: BTreeSet<String> = all.filter_map(|one| user_of(spec, signals, one)).collect();
    if named.len() > 1 { None } else { named.pop_first() }
}

/// As it stands in records.
fn shown(subject: &Map<String, Value>) -> String {
    let text = |name: &str| subject.get(name).and_then(Value::as_str).unwrap_or_default();
    match subject.get("format").and_then(Value::as_str) {
        Some("email") => format!("email {}", text("email")),
        Some("iss_sub") => format!("iss_sub {} {}", text("iss"), text("sub")),
        Some("opaque") => format!("opaque {}", text("id")),
        None | Some("complex") => match subject.get("user").and_then(simple) {
            Some(user) => format!("user {}", shown(user)),
            None => "complex".to_owned(),
        },
        Some(format) => format.to_owned(),
    }
}

/// What administrators are told, in English if there is that.
fn reason(said: &Map<String, Value>) -> String {
    let text = match said.get("reason_admin") {
        Some(Value::Object(by_language)) => by_language.get("en").or_else(|| by_language.values().next()),
        other => other,
    };
    text.and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn numeric_date(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_f64().and_then(whole_seconds))
}

/// A date may have a fraction (RFC 7519 §2), which does not count.
fn whole_seconds(date: f64) -> Option<i64> {
    const BOUND: f64 = 1e12;
    #[expect(clippy::cast_possible_truncation, reason = "bounded just before")]
    (0.0..BOUND).contains(&date).then_some(date as i64)
}

#[cfg(test)]
mod tests;
