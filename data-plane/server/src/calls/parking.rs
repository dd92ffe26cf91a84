//! Calls that wait at a legacy server for the input of a modern client.
//!
//! A legacy server asks while its answer is owed, on a stream that this node reads; a modern client answers with a
//! request of its own, which may come to any node. So the call is kept here, under a number that the client brings back
//! sealed, and whoever gets the input says so to this node (`answers`) and hears how it goes on. The call is kept for
//! as long as a person may take, given up when the caller's authority is taken away, and lost with this node: then the
//! client is told to call again. Each of the client's requests is decided and recorded by the node it comes to.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bailiwick_data_plane_core::{
    Caller,
    edge::PermittedCall,
    relay::{
        ANSWER_WAIT_MAX, Act, Question, TOTAL_MAX,
        parked::{Word, asking},
    },
};
use bailiwick_proto::{
    Reason,
    mcp::{self, Members, Response},
};
use bailiwick_runtime::{OnEnd, Supervisor};
use http::HeaderValue;
use serde_json::value::RawValue;
use tokio::time::{Instant, interval, timeout};

use super::{
    Calls,
    answers::{Answers, NotBrought, Waiter},
    passage::{Next, Passage},
};
use crate::{config_state::ConfigState, upstream::UpstreamFault};

/// How long a server that has asked one thing is waited for to ask another: a client is asked all of it at once.
const TOGETHER: Duration = Duration::from_millis(20);
/// Longest wait for a word of the node that keeps a call: without one it is gone.
const TAKEN_WAIT_MAX: Duration = Duration::from_secs(5);

/// How often the node that keeps a call says that it goes on; less than [`TAKEN_WAIT_MAX`], with room for a lost word.
const TAKEN_EVERY: Duration = Duration::from_secs(2);
/// Calls kept at once at a node; each has a connection to its server.
const KEPT_MAX: usize = 2_048;
/// Calls kept at once of one person through one agent: a person answers one question after the other.
pub(super) const KEPT_OF_ONE_MAX: usize = 16;

/// What a server asked, and in which session.
pub(super) type Asked = (Question, Option<HeaderValue>);

/// How many calls are kept here, and whose.
#[derive(Debug, Default)]
pub(crate) struct Kept(Mutex<HashMap<(String, String), usize>>);

/// One call's place. Given up when it is dropped.
struct KeptPlace {
    all: Arc<Kept>,
    who: (String, String),
}

impl Kept {
    /// `None` when there are too many.
    fn place(self: &Arc<Self>, caller: &Caller) -> Option<KeptPlace> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let who = (caller.user.clone(), caller.agent.clone());
        let of_one = all.get(&who).copied().unwrap_or(0);
        if of_one >= KEPT_OF_ONE_MAX || all.values().sum::<usize>() >= KEPT_MAX {
            return None;
        }
        all.insert(who.clone(), of_one + 1);
        Some(KeptPlace { all: Arc::clone(self), who })
    }
}

#[cfg(test)]
impl Kept {
    pub(super) fn is_empty(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}

impl Drop for KeptPlace {
    fn drop(&mut self) {
        let mut all = self.all.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = all.get_mut(&self.who) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.who);
            }
        }
    }
}

/// Keeps one call; see the file's header.
struct Keeper {
    _place: KeptPlace,
    passage: Passage,
    waiter: Waiter,
    caller: Caller,
    state: Arc<ConfigState>,
    answers: Arc<Answers>,
    supervisor: Supervisor,
    /// By the keys under which the client was asked.
    asked: BTreeMap<String, Asked>,
}

/// How a kept call went on.
enum Went {
    Asks,
    Done(Word),
    /// Nobody waits for it any more, or nobody may.
    Over,
}

/// Waits a moment for what else the server asks.
pub(super) async fn asked_together(passage: &mut Passage, first: Asked, supervisor: &Supervisor) -> Vec<Asked> {
    let mut all = vec![first];
    let more = async {
        loop {
            match passage.next().await {
                Next::Said(Act::Ask(question), session) => all.push((question, session)),
                Next::Said(Act::Answer(body), session) => passage.way.answer(body, session, supervisor),
                // What it asked so far, nobody needs to answer any more; the client learns it when it comes back.
                Next::Said(Act::Cut(why), _) => {
                    return passage.put_back(Err(UpstreamFault::Invalid(why.to_owned())));
                }
                Next::Said(..) => {}
                // The server goes on without an answer; the client learns it when it comes back.
                Next::Answered(answer) => return passage.put_back(answer),
            }
        }
    };
    drop(timeout(TOGETHER, more).await);
    all
}

impl Calls {
    /// Keeps a call while the client is asked; the result that asks it, and the number to be brought back.
    pub(super) fn park(
        &self,
        caller: &Caller,
        passage: Passage,
        asked: Vec<Asked>,
    ) -> Result<(Box<RawValue>, u64), UpstreamFault> {
        let unable = || UpstreamFault::Invalid("the call cannot be kept".to_owned());
        let Some(place) = self.kept.place(caller) else {
            passage.way.cancel(&self.supervisor);
            return Err(UpstreamFault::Withheld(Reason::NodeOverloaded));
        };
        let waiter = self.answers.wait(caller).ok_or_else(unable)?;
        let number = waiter.number;
        let mut keeper = Keeper {
            _place: place,
            passage,
            waiter,
            caller: caller.clone(),
            state: Arc::clone(&self.state),
            answers: Arc::clone(&self.answers),
            supervisor: self.supervisor.clone(),
            asked: BTreeMap::new(),
        };
        let result = keeper.ask(asked);
        let keeping = async move { keeper.keep().await };
        self.supervisor.spawn("kept-call", OnEnd::Finish, keeping);
        Ok((result, number))
    }

    /// Goes on with a call that is kept somewhere. Asked again, it is kept under the same number.
    pub(super) async fn resume(
        &self,
        caller: &Caller,
        permitted: &PermittedCall,
        number: u64,
    ) -> Result<(Response, u64), UpstreamFault> {
        let lost = || UpstreamFault::Withheld(Reason::InputLost);
        let mut own = self.answers.wait(caller).ok_or_else(lost)?;
        let responses = permitted.call.retry.responses.clone();
        let resume = Word::Resume { responses, reply_to: own.number };
        self.answers.bring(caller, resume.to(number)).await.map_err(|_not_brought| lost())?;
        let cancel = CancelKept { answers: &self.answers, supervisor: &self.supervisor, caller, number: Some(number) };
        let late = Instant::now() + TOTAL_MAX;
        loop {
            let wait = TAKEN_WAIT_MAX.min(late.saturating_duration_since(Instant::now()));
            let answer = timeout(wait, own.answers.recv()).await.ok().flatten().ok_or_else(lost)?;
            let ended = match Word::of(&answer) {
                Some(Word::Taken) => continue,
                Some(Word::Asks(result)) => Ok((Response::Result(result), 0)),
                Some(Word::Done(response, bytes)) => Ok((response, bytes)),
                Some(Word::Failed(reason)) => Err(UpstreamFault::Withheld(reason)),
                Some(Word::Resume { .. } | Word::Cancel) | None => continue,
            };
            cancel.not_needed();
            return ended;
        }
    }
}

/// Tells the node that keeps a call that nobody waits for it, unless it has answered.
struct CancelKept<'a> {
    answers: &'a Arc<Answers>,
    supervisor: &'a Supervisor,
    caller: &'a Caller,
    number: Option<u64>,
}

impl CancelKept<'_> {
    fn not_needed(mut self) {
        self.number = None;
    }
}

impl Drop for CancelKept<'_> {
    fn drop(&mut self) {
        let Some(number) = self.number.take() else { return };
        let (answers, caller) = (Arc::clone(self.answers), self.caller.clone());
        self.supervisor.spawn("cancel-kept-call", OnEnd::Finish, async move {
            drop(answers.bring(&caller, Word::Cancel.to(number)).await);
        });
    }
}

impl Keeper {
    /// Keeps the call until it is over.
    async fn keep(mut self) {
        let state = Arc::clone(&self.state);
        let caller = self.caller.clone();
        let over = tokio::select! {
            biased;
            _reason = state.taken_away(&caller) => true,
            over = self.rounds() => over,
        };
        if over {
            self.passage.way.clone().cancel(&self.supervisor);
        }
    }

    /// Whether the server has to be told that it is over.
    async fn rounds(&mut self) -> bool {
        // What waits for a client would keep a node from stopping for as long as a person may take.
        let stop = self.supervisor.shutdown().clone();
        loop {
            let brought = stop.or_stop(timeout(ANSWER_WAIT_MAX, self.waiter.answers.recv())).await;
            let Some(Ok(Some(answer))) = brought else { return true };
            let Some(Word::Resume { responses, reply_to }) = Word::of(&answer) else { continue };
            if tell(&self.answers, &self.caller, reply_to, Word::Taken).await.is_err() {
                continue;
            }
            if self.give(responses.as_deref()) {
                match self.proceed(reply_to).await {
                    Went::Asks => {}
                    Went::Over => return true,
                    Went::Done(word) => {
                        if tell(&self.answers, &self.caller, reply_to, word).await == Err(NotBrought::TooLong) {
                            drop(
                                tell(&self.answers, &self.caller, reply_to, Word::Failed(Reason::UpstreamTooLarge))
                                    .await,
                            );
                        }
                        return false;
                    }
                }
            }
            let questions: Vec<Asked> = std::mem::take(&mut self.asked).into_values().collect();
            let asks = Word::Asks(self.ask(questions));
            drop(tell(&self.answers, &self.caller, reply_to, asks).await);
        }
    }

    /// Asks the client this.
    fn ask(&mut self, asked: Vec<Asked>) -> Box<RawValue> {
        let questions: Vec<Question> = asked.iter().map(|(question, _)| question.clone()).collect();
        self.asked = asked.into_iter().enumerate().map(|(number, asked)| ((number + 1).to_string(), asked)).collect();
        asking(&questions)
    }

    /// Gives the server what the client said. Whether that is all it asked for.
    fn give(&mut self, responses: Option<&RawValue>) -> bool {
        let given = responses.and_then(Members::of).unwrap_or_default();
        for (key, asked) in std::mem::take(&mut self.asked) {
            let Some(response) = given.get(&key).filter(|response| Members::of(response).is_some()) else {
                self.asked.insert(key, asked);
                continue;
            };
            let (question, session) = asked;
            self.passage.way.answer(mcp::result_body(&question.id, response), session, &self.supervisor);
        }
        self.asked.is_empty()
    }

    /// Waits for what the server does, given what it asked for.
    async fn proceed(&mut self, reply_to: u64) -> Went {
        self.passage.resumed();
        let mut alive = interval(TAKEN_EVERY);
        alive.reset();
        loop {
            let next = tokio::select! {
                biased;
                answer = self.waiter.answers.recv() => match answer.as_ref().and_then(Word::of) {
                    Some(Word::Cancel) => return Went::Over,
                    Some(_) | None => continue,
                },
                next = self.passage.next() => next,
                _ = alive.tick() => {
                    drop(tell(&self.answers, &self.caller, reply_to, Word::Taken).await);
                    continue;
                }
            };
            match next {
                Next::Said(Act::Ask(question), session) => {
                    let asked = asked_together(&mut self.passage, (question, session), &self.supervisor).await;
                    self.asked = asked.into_iter().enumerate().map(|(n, asked)| (n.to_string(), asked)).collect();
                    return Went::Asks;
                }
                Next::Said(Act::Answer(body), session) => self.passage.way.answer(body, session, &self.supervisor),
                // What is said beside the answer was for the request that is over.
                Next::Said(Act::Tell(_) | Act::Drop, _) => {}
                Next::Said(Act::Cut(why), _) => {
                    tracing::warn!(why, server = self.passage.way.server.name, "a kept call is cut");
                    return Went::Done(Word::Failed(Reason::UpstreamInvalid));
                }
                Next::Answered(Ok((response, bytes))) => return Went::Done(Word::Done(response, bytes)),
                Next::Answered(Err(fault)) => {
                    tracing::warn!(%fault, server = self.passage.way.server.name, "a kept call has no answer");
                    return Went::Done(Word::Failed(fault.reason()));
                }
            }
        }
    }
}

/// Says a word to a waiter; not a method, because a kept call is not shared between threads.
async fn tell(answers: &Answers, caller: &Caller, waiter: u64, word: Word) -> Result<(), NotBrought> {
    answers.bring(caller, word.to(waiter)).await
}
