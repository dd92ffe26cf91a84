//! One session and who uses it, and where its caller sits.
//!
//! Used by `pool`. A session is used by as many as have entered it; it is over once somebody says so and the last has
//! left, or when it breaks. Nobody enters one that is over. A program may keep its tasks in memory, so a session in
//! which a call went on as a task does not idle while the server keeps that task.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwapOption;
use bailiwick_data_plane_core::{forward::ServerRequest, relay::Level};
use bailiwick_proto::mcp::{Members, RESULT_TASK, RequestId, Response};
use serde_json::value::RawValue;
use tokio::{
    sync::{Mutex as AsyncMutex, Notify},
    time::Instant,
};

use super::{Channel, session::Session};
use crate::upstream::{
    credential::Credential,
    exchange::Bounds,
    fault::UpstreamFault,
    peer::{Aside, Principal},
};

/// Sessions of one person and agent with one server, one for each set of capabilities of their clients. Clients that
/// declare yet others cannot be asked there: or somebody who declares something new each time would take all places.
const VARIANTS_MAX: usize = 4;
/// How long a session is kept for a task that nobody asks about. Whoever wants to know the end of one asks within it.
const TASK_KEPT_MAX: Duration = Duration::from_secs(60 * 60);

/// One caller, or all.
#[derive(Debug)]
pub(in crate::upstream) struct Seat {
    /// What the client behind it can be asked for: an object.
    pub(super) capabilities: Option<Box<RawValue>>,
    pub(in crate::upstream) level: ArcSwapOption<Level>,
    pub(super) live: ArcSwapOption<Live>,
    /// Held while a session is being begun, so that it happens once.
    pub(super) beginning: AsyncMutex<()>,
}

/// A session, and who uses it.
#[derive(Debug)]
pub(in crate::upstream) struct Live {
    pub(in crate::upstream) session: Session,
    pub(super) secrets: Vec<(String, Credential)>,
    used: Mutex<Used>,
    freed: Arc<Notify>,
}

#[derive(Debug)]
struct Used {
    by: usize,
    /// When the last one was done.
    until: Instant,
    /// Until when its server keeps a task that began in it, within bounds.
    tasks_until: Option<Instant>,
    is_over: bool,
}

/// Somebody uses a session, until this is dropped.
#[derive(Debug)]
pub(in crate::upstream) struct Use(Arc<Live>);

impl std::ops::Deref for Use {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.0.session
    }
}

impl Use {
    /// Asks, as [`Session::ask`].
    pub(in crate::upstream) async fn asked(
        &self,
        id: &RequestId,
        request: ServerRequest,
        bounds: Bounds,
        aside: Aside<'_>,
    ) -> Result<(Response, u64), UpstreamFault> {
        let answer = self.0.session.ask(id, request, bounds, aside).await?;
        if let Response::Result(result) = &answer.0
            && let Some(kept) = kept_for_task(result)
        {
            self.0.keep(kept);
        }
        Ok(answer)
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        let mut used = self.0.used();
        used.by -= 1;
        used.until = Instant::now();
        let is_last = used.by == 0;
        if is_last && used.is_over {
            self.0.session.channel.end();
        }
        drop(used);
        if is_last {
            self.0.freed.notify_waiters();
        }
    }
}

impl Seat {
    /// Of somebody whose client can be asked for these things: an object.
    pub(super) fn new(capabilities: Option<&str>) -> Self {
        Self {
            capabilities: capabilities.and_then(|text| RawValue::from_string(text.to_owned()).ok()),
            level: ArcSwapOption::empty(),
            live: ArcSwapOption::empty(),
            beginning: AsyncMutex::default(),
        }
    }

    /// Whether there is a session.
    pub(super) fn is_taken(&self) -> bool {
        self.live.load().as_ref().is_some_and(|live| live.session.channel.is_open())
    }
}

impl Live {
    /// A session that was just opened with these secrets; `freed` hears when nobody uses it any more.
    pub(super) fn new(session: Session, secrets: Vec<(String, Credential)>, freed: Arc<Notify>) -> Self {
        let used = Mutex::new(Used { by: 0, until: Instant::now(), tasks_until: None, is_over: false });
        Self { session, secrets, used, freed }
    }

    /// It is as good as used now.
    pub(super) fn touch(&self) {
        self.used().until = Instant::now();
    }

    fn keep(&self, kept: Duration) {
        let mut used = self.used();
        used.tasks_until = used.tasks_until.max(Some(Instant::now() + kept));
    }

    /// Whether a task that began in it may still be asked about.
    pub(super) fn has_tasks(&self) -> bool {
        self.used().tasks_until.is_some_and(|until| Instant::now() < until)
    }

    fn used(&self) -> MutexGuard<'_, Used> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Uses it, if it is not over.
    pub(super) fn enter(self: &Arc<Self>) -> Option<Use> {
        let mut used = self.used();
        let is_there = !used.is_over && self.session.channel.is_open();
        is_there.then(|| {
            used.by += 1;
            Use(Arc::clone(self))
        })
    }

    /// Ends it once nobody uses it.
    pub(super) fn retire(&self) {
        let mut used = self.used();
        used.is_over = true;
        if used.by == 0 {
            self.session.channel.end();
        }
    }

    /// Since when nobody uses it.
    pub(super) fn unused_since(&self) -> Option<Instant> {
        let used = self.used();
        (used.by == 0 && !used.is_over).then_some(used.until)
    }

    /// Ends it, if nobody has used it since.
    pub(super) fn gives_way(&self, since: Instant) -> bool {
        let mut used = self.used();
        let gives_way = used.by == 0 && !used.is_over && used.until <= since;
        if gives_way {
            used.is_over = true;
            self.session.channel.end();
        }
        gives_way
    }
}

/// A channel of which no session has come yet: without one it ends, also when nobody waits for it any more.
pub(super) struct Unowned(pub(super) Option<Channel>);

impl Drop for Unowned {
    fn drop(&mut self) {
        if let Some(channel) = &self.0 {
            channel.end();
        }
    }
}

/// For how long to keep the session of a call whose result says that it goes on as a task.
fn kept_for_task(result: &RawValue) -> Option<Duration> {
    let members = Members::of(result)?;
    let is_task = members.required_string("resultType").is_ok_and(|kind| kind == RESULT_TASK);
    let ttl_ms = members.read::<Option<u64>>("ttlMs").ok().flatten().flatten();
    is_task.then(|| ttl_ms.map_or(TASK_KEPT_MAX, |ttl_ms| Duration::from_millis(ttl_ms).min(TASK_KEPT_MAX)))
}

/// The principal, or the same without anything it could be asked for, if its person and agent have enough sessions.
pub(super) fn among_few(seats: &BTreeMap<Principal, Arc<Seat>>, principal: &Principal) -> Principal {
    let Principal::Caller { user, agent, .. } = principal else { return principal.clone() };
    let plain = Principal::Caller { user: user.clone(), agent: agent.clone(), capabilities: None };
    let is_theirs = |one: &Principal| match one {
        Principal::Caller { user: of, agent: through, .. } => of == user && through == agent,
        Principal::Gateway => false,
    };
    let theirs = seats.range(plain.clone()..).take_while(|(one, _)| is_theirs(one));
    if theirs.filter(|(_, seat)| seat.is_taken()).count() >= VARIANTS_MAX { plain } else { principal.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_kept_for_as_long_as_its_server_keeps_a_task_within_an_hour() {
        for (result, kept) in [
            (
                r#"{"resultType":"task","taskId":"a","status":"working","ttlMs":1500}"#,
                Some(Duration::from_millis(1500)),
            ),
            (r#"{"resultType":"task","taskId":"a","ttlMs":86400000}"#, Some(TASK_KEPT_MAX)),
            (r#"{"resultType":"task","taskId":"a","ttlMs":null}"#, Some(TASK_KEPT_MAX)),
            (r#"{"resultType":"task","taskId":"a"}"#, Some(TASK_KEPT_MAX)),
            (r#"{"resultType":"complete","ttlMs":1500}"#, None),
            (r#"{"structuredContent":{"resultType":"task"}}"#, None),
        ] {
            let read = RawValue::from_string(result.to_owned()).unwrap();
            assert_eq!(kept_for_task(&read), kept, "{result}");
        }
    }
}
