//! Signals that are fetched (RFC 8936): the leader asks each transmitter that a manifest says is to be polled.
//!
//! A long poll waits at the transmitter until it has something; one that holds it longer than that is asked once
//! without waiting, which tells a patient transmitter from one that hangs. Called by `leadership`, and dropped with the
//! lead: the next leader asks anew, and what was not acknowledged comes again. Invariants: a signal is acknowledged
//! once its effect is committed, and refused once it can never be taken; whatever an answer says, so many signals of so
//! many bytes are looked at; the pause grows while a transmitter fails, and an alarm is raised when it does for long.
//! Absent: what a signal says (`signals`), which addresses may be asked (`outbound`).

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use bailiwick_control_plane_core::{State, resource::IdentityProviderSpec, signal::Delivery};
use bailiwick_proto::mcp::check_json;
use bailiwick_runtime::Shutdown;
use futures::{
    StreamExt as _,
    future::{AbortHandle, Abortable},
    stream::FuturesUnordered,
};
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::time::{Instant, sleep};
use zeroize::Zeroizing;

use super::{Receiver, SetFault, reading};
use crate::{
    clock,
    domain::Domain,
    keys::Keys,
    outbound::{FetchError, Fetched, Form, Limits},
    providers::ProviderUnavailable,
};

/// Most signals that are asked for at once, and looked at: their acknowledgements fit into one form.
const SIGNALS_MAX: usize = 16;
/// Longest identifier of a signal, as tokens have them.
const JTI_BYTES_MAX: usize = 1_024;
/// Largest answer: so many tokens of 16 KiB, and their names.
const ANSWER_BYTES_MAX: usize = 320 * 1024;
/// Longest wait at a transmitter that has nothing to say, and at one that is to say so at once.
const LONG_WAIT_MAX: Duration = Duration::from_secs(30);
const WAIT_MAX: Duration = Duration::from_secs(5);
/// Between two polls that gave nothing: some transmitters do not wait.
const EMPTY_PAUSE: Duration = Duration::from_secs(2);
/// After a poll that failed, doubled with each further one.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// How often manifests are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A transmitter that fails for so long raises an alarm, and again so often.
const ALARM_AFTER: Duration = Duration::from_secs(5 * 60);
const ALARM_EVERY: Duration = Duration::from_secs(60 * 60);

/// See the file's header.
#[derive(Debug)]
pub(crate) struct Polling {
    pub(crate) domain: Domain,
    pub(crate) keys: Keys,
    pub(crate) receiver: Receiver,
    health: Mutex<BTreeMap<String, Health>>,
}

/// How a transmitter answers.
#[derive(Clone, Copy, Debug)]
struct Health {
    /// The last poll that was answered, Unix seconds; 0: none by this leader.
    answered: u64,
    /// Since when it fails.
    failing_since: Option<Instant>,
    alarmed_at: Option<Instant>,
}

/// Why a poll gave nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum PollFault {
    #[error(transparent)]
    Unavailable(#[from] ProviderUnavailable),
    #[error("the secret that is to be shown there is not known, or cannot stand in a header")]
    Secret,
    #[error("the answer is no answer to a poll")]
    Answer,
    #[error("a signal could not be taken now")]
    Held,
}

impl PollFault {
    const fn word(&self) -> &'static str {
        match self {
            Self::Unavailable(fault) => fault.word(),
            Self::Secret => "secret_unknown",
            Self::Answer => "answer_unreadable",
            Self::Held => "signal_held",
        }
    }
}

/// What the transmitter is told with the next poll.
#[derive(Debug, Default)]
struct Pending {
    taken: Vec<String>,
    refused: BTreeMap<String, SetFault>,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    sets: BTreeMap<String, String>,
    #[serde(default, rename = "moreAvailable")]
    more_available: bool,
}

impl Polling {
    pub(crate) fn new(domain: Domain, keys: Keys, receiver: Receiver) -> Self {
        Self { domain, keys, receiver, health: Mutex::default() }
    }

    /// Polls whoever is to be polled, until shutdown.
    pub(crate) async fn run(&self, shutdown: &Shutdown) {
        // What an earlier lead of this node saw says nothing of now.
        self.health().clear();
        let mut running = BTreeMap::<String, (IdentityProviderSpec, AbortHandle)>::new();
        let mut streams = FuturesUnordered::new();
        loop {
            let wanted = self.wanted();
            running.retain(|name, (spec, stop)| {
                let goes_on = wanted.get(name) == Some(&*spec);
                if !goes_on {
                    stop.abort();
                }
                goes_on
            });
            for (name, spec) in wanted {
                if let Entry::Vacant(free) = running.entry(name.clone()) {
                    let (stop, until) = AbortHandle::new_pair();
                    streams.push(Abortable::new(self.follow(name, spec.clone()), until));
                    free.insert((spec, stop));
                }
            }
            self.tell(&running.keys().cloned().collect::<Vec<_>>());
            let pause = async {
                tokio::select! {
                    () = sleep(LOOK_EVERY) => {}
                    () = async { while streams.next().await.is_some() {} std::future::pending::<()>().await } => {}
                }
            };
            if shutdown.or_stop(pause).await.is_none() {
                return;
            }
        }
    }

    fn wanted(&self) -> BTreeMap<String, IdentityProviderSpec> {
        let is_polled = |spec: &IdentityProviderSpec| {
            spec.active && spec.signals.as_ref().is_some_and(|signals| signals.poll.is_some())
        };
        self.domain.read(|state| {
            let polled = state.identity_providers.iter().filter(|(_, known)| is_polled(&known.spec));
            polled.map(|(name, known)| (name.clone(), known.spec.clone())).collect()
        })
    }

    /// Polls one transmitter for as long as its manifest stays as it is.
    async fn follow(&self, name: String, spec: IdentityProviderSpec) {
        let (mut pending, mut pause, mut waits) = (Pending::default(), PAUSE_MIN, true);
        loop {
            let begun = Instant::now();
            let polled = self.poll(&name, &spec, &mut pending, waits).await;
            match polled {
                Ok(more) => {
                    self.answered(&name);
                    (pause, waits) = (PAUSE_MIN, true);
                    if !more {
                        sleep(EMPTY_PAUSE.saturating_sub(begun.elapsed())).await;
                    }
                }
                // Perhaps it only has more patience than we.
                Err(PollFault::Unavailable(ProviderUnavailable::Fetch(FetchError::Late))) if waits => waits = false,
                Err(fault) => {
                    self.failed(&name, &fault);
                    sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        }
    }

    /// One poll; whether there was something, so that the next is due at once.
    async fn poll(
        &self,
        name: &str,
        spec: &IdentityProviderSpec,
        pending: &mut Pending,
        waits: bool,
    ) -> Result<bool, PollFault> {
        let poll = spec.signals.as_ref().and_then(|signals| signals.poll.as_ref()).ok_or(PollFault::Secret)?;
        let secret = self.keys.for_provider(&poll.secret).ok_or(PollFault::Secret)?;
        let secret = std::str::from_utf8(&secret).map_err(|_| PollFault::Secret)?;
        let authorization = Zeroizing::new(format!("Bearer {}", secret.trim()));
        let form = Form::json(pending.body(waits), &authorization).ok_or(PollFault::Secret)?;
        let wait_max = if waits { LONG_WAIT_MAX } else { WAIT_MAX };
        let limits = Limits { bytes_max: ANSWER_BYTES_MAX, wait_max };
        let fetched = self.receiver.providers.ask(spec, &poll.url, &form, limits).await?;
        let Answer { sets, more_available } = read(&fetched)?;
        *pending = Pending::default();
        let is_some = !sets.is_empty();
        let mut held = false;
        // As they happened, whatever they are called.
        let mut sets: Vec<_> = sets.into_iter().collect();
        sets.sort_by_cached_key(|(_, jwt)| reading::order(jwt));
        for (jti, jwt) in sets.into_iter().take(SIGNALS_MAX) {
            match self.receiver.take(name, spec, &jwt, Delivery::Poll).await {
                Ok(_) => pending.taken.push(jti),
                // It is not acknowledged, so it comes again.
                Err(fault) if fault.may_pass() => held = true,
                Err(fault) => drop(pending.refused.insert(jti, fault)),
            }
        }
        if held { Err(PollFault::Held) } else { Ok(is_some || more_available) }
    }

    fn answered(&self, name: &str) {
        let answered = u64::try_from(clock::now_seconds()).unwrap_or_default();
        let health = Health { answered, failing_since: None, alarmed_at: None };
        let before = self.health().insert(name.to_owned(), health);
        if before.is_some_and(|before| before.failing_since.is_some()) {
            tracing::info!(provider = name, "a transmitter answers polls again");
        }
        self.receiver.metrics.signal_poll("answered");
    }

    fn failed(&self, name: &str, fault: &PollFault) {
        let (now, reason) = (Instant::now(), fault.word());
        tracing::warn!(provider = name, reason, %fault, "a transmitter cannot be polled");
        self.receiver.metrics.signal_poll("failed");
        let mut all = self.health();
        let unknown = Health { answered: 0, failing_since: None, alarmed_at: None };
        let health = all.entry(name.to_owned()).or_insert(unknown);
        if let Some(seconds) = health.fail(now).map(|since| since.as_secs()) {
            tracing::error!(provider = name, reason, seconds, "ALARM: signals of a transmitter do not arrive by poll");
        }
    }

    /// What metrics say of those that are polled.
    fn tell(&self, polled: &[String]) {
        let mut all = self.health();
        all.retain(|name, _| polled.contains(name));
        let now = Instant::now();
        let failing = all.values().filter(|health| health.is_failing(now)).count();
        let oldest = all.values().map(|health| health.answered).min().unwrap_or_default();
        drop(all);
        self.receiver.metrics.signal_streams(failing, oldest);
        self.receiver.metrics.signal_verified(self.domain.read(verified_at));
    }

    fn health(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Health>> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When the stream was verified that was so longest ago, of those that are set up from here, Unix seconds.
fn verified_at(state: &State) -> u64 {
    let is_ours = |spec: &IdentityProviderSpec| {
        spec.active && spec.signals.as_ref().is_some_and(|signals| signals.stream.is_some())
    };
    let ours = state.identity_providers.iter().filter(|(_, known)| is_ours(&known.spec));
    let verified = ours.map(|(name, _)| state.signals.last.get(name).map_or(0, |last| last.verified / 1_000_000));
    verified.min().unwrap_or_default()
}

impl Health {
    /// It has failed now; for how long it does, if an alarm is due.
    fn fail(&mut self, now: Instant) -> Option<Duration> {
        let since = *self.failing_since.get_or_insert(now);
        let is_due = self.alarmed_at.is_none_or(|at| now >= at + ALARM_EVERY);
        let is_alarm = now >= since + ALARM_AFTER && is_due;
        if is_alarm {
            self.alarmed_at = Some(now);
        }
        is_alarm.then(|| now - since)
    }

    fn is_failing(&self, now: Instant) -> bool {
        self.failing_since.is_some_and(|since| now >= since + ALARM_AFTER)
    }
}

impl Pending {
    /// What is sent (RFC 8936 §2.4).
    fn body(&self, waits: bool) -> String {
        let mut body = Map::from_iter([
            ("maxEvents".to_owned(), json!(SIGNALS_MAX)),
            ("returnImmediately".to_owned(), json!(!waits)),
        ]);
        if !self.taken.is_empty() {
            body.insert("ack".to_owned(), json!(self.taken));
        }
        let fault = |fault: &SetFault| json!({"err": fault.word(), "description": fault.sentence()});
        if !self.refused.is_empty() {
            let refused = self.refused.iter().map(|(jti, refused)| (jti.clone(), fault(refused)));
            body.insert("setErrs".to_owned(), Value::Object(refused.collect()));
        }
        Value::Object(body).to_string()
    }
}

fn read(fetched: &Fetched) -> Result<Answer, PollFault> {
    if fetched.status != StatusCode::OK {
        return Err(ProviderUnavailable::Status(fetched.status).into());
    }
    let text = check_json(&fetched.body).map_err(|_| PollFault::Answer)?;
    let answer: Answer = serde_json::from_str(text).map_err(|_| PollFault::Answer)?;
    let is_name = |jti: &String| !jti.is_empty() && jti.len() <= JTI_BYTES_MAX && !jti.contains(char::is_control);
    if answer.sets.keys().all(is_name) { Ok(answer) } else { Err(PollFault::Answer) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transmitter_that_stays_away_raises_an_alarm_and_another_each_hour() {
        let mut health = Health { answered: 1, failing_since: None, alarmed_at: None };
        let begun = Instant::now();
        let minutes = |number: u64| begun + Duration::from_secs(60 * number);
        for early in 0..5 {
            assert_eq!(health.fail(minutes(early)), None, "{early}");
            assert!(!health.is_failing(minutes(early)));
        }
        assert_eq!(health.fail(minutes(5)), Some(Duration::from_secs(300)));
        assert!(health.is_failing(minutes(5)));
        assert_eq!(health.fail(minutes(64)), None, "once an hour");
        assert_eq!(health.fail(minutes(65)), Some(Duration::from_secs(65 * 60)));
    }
}
