//! What a node waits for: words of other nodes, clients that come back or go away, and the end of its patience.

use std::{collections::BTreeMap, time::Duration};

use bailiwick_data_plane_core::{
    relay::{
        ANSWER_WAIT_MAX, Question,
        parked::{Word, asking},
    },
    sealed::answer::Answer,
};
use bailiwick_proto::{
    Reason,
    mcp::{self, Answered, Members, Response, method},
};
use serde_json::value::RawValue;

use super::{Gateway, Kept, Phase, TAKEN_EVERY_MS, TAKEN_WAIT_MS, answer_server, millis, wires_drop};
use crate::wire::{Connection, Event, Wires};

impl Gateway {
    /// Keeps a call for a modern client that is asked.
    pub(super) fn keep(&mut self, wires: &mut Wires, number: u64, question: Question) {
        let until = wires.now + millis(ANSWER_WAIT_MAX);
        let call = self.calls.get_mut(&number).unwrap();
        let phase = std::mem::replace(&mut call.phase, Phase::Linking);
        let asked = BTreeMap::from([("1".to_owned(), question)]);
        let questions: Vec<Question> = asked.values().cloned().collect();
        let asks = asking(&questions);
        wires.at(until, Event::NodeWakes(number));
        match phase {
            Phase::Sent(sent) => {
                let kept = Kept { asked, said: Vec::new(), reply_to: None, until };
                call.phase = Phase::Kept(sent, kept);
                let (connection, permitted) = (call.connection, call.permitted.clone());
                self.release(wires, connection, &permitted, Ok(Response::Result(asks)), Some(number));
            }
            Phase::Kept(sent, Kept { reply_to, said, .. }) => {
                call.phase = Phase::Kept(sent, Kept { asked, said, reply_to: None, until });
                wires.send(Event::Brought(Word::Asks(asks).to(reply_to.unwrap())));
            }
            phase @ (Phase::Linking | Phase::Gathering(..) | Phase::Elsewhere(..)) => call.phase = phase,
        }
    }

    /// One node says something to whoever waits under a number.
    pub(crate) fn brought(&mut self, wires: &mut Wires, answer: Answer) {
        let Some(call) = self.calls.get_mut(&answer.waiter) else { return };
        let number = answer.waiter;
        match &mut call.phase {
            Phase::Sent(sent) => {
                if sent.open.remove(&answer.id).is_none() {
                    return;
                }
                let body = match &answer.answered {
                    Answered::Result(result) => mcp::result_body(&answer.id, result),
                    Answered::Error(error) => mcp::raw_error_body(&answer.id, error),
                };
                self.numbers += 1;
                answer_server(wires, self.numbers, sent, body);
            }
            Phase::Gathering(input, _) => match input.answered(&answer.id, answer.answered) {
                Err(_refused) => self.end(wires, number, Err(Reason::InputRefused)),
                Ok(()) if input.is_complete() => {
                    let retry = input.clone().retry(call.permitted.call.retry.salient);
                    call.permitted.call.retry = retry;
                    call.phase = Phase::Linking;
                    self.link(wires, number);
                }
                Ok(()) => {}
            },
            Phase::Kept(..) => self.resumed(wires, number, Word::of(&answer)),
            Phase::Elsewhere(late, _) => match Word::of(&answer) {
                Some(Word::Taken) => {
                    *late = wires.now + TAKEN_WAIT_MS;
                    wires.at(*late, Event::NodeWakes(number));
                }
                Some(Word::Asks(result)) => self.end(wires, number, Ok(Response::Result(result))),
                Some(Word::Done(response, _)) => self.end(wires, number, Ok(response)),
                Some(Word::Failed(reason)) => self.end(wires, number, Err(reason)),
                Some(Word::Resume { .. } | Word::Cancel) | None => {}
            },
            Phase::Linking => {}
        }
    }

    /// A modern client came back to a call that is kept.
    fn resumed(&mut self, wires: &mut Wires, number: u64, word: Option<Word>) {
        let next = self.number();
        let call = self.calls.get_mut(&number).unwrap();
        let Phase::Kept(sent, kept) = &mut call.phase else { return };
        match word {
            Some(Word::Resume { responses, reply_to }) if kept.reply_to.is_none() => {
                wires.send(Event::Brought(Word::Taken.to(reply_to)));
                let given = responses.as_deref().and_then(Members::of).unwrap_or_default();
                let mut missing = Vec::new();
                for (key, question) in std::mem::take(&mut kept.asked) {
                    match given.get(&key) {
                        Some(response) => {
                            self.numbers += 1;
                            answer_server(wires, next, sent, mcp::result_body(&question.id, response));
                        }
                        None => missing.push((key, question)),
                    }
                }
                if !missing.is_empty() {
                    kept.asked = missing.into_iter().collect();
                    let questions: Vec<Question> = kept.asked.values().cloned().collect();
                    wires.send(Event::Brought(Word::Asks(asking(&questions)).to(reply_to)));
                    return;
                }
                kept.reply_to = Some(reply_to);
                kept.until = wires.now + TAKEN_EVERY_MS;
                sent.relay.resumed(Duration::from_millis(wires.now - sent.began));
                let exchange = sent.exchange;
                let said = std::mem::take(&mut kept.said);
                wires.at(wires.now + TAKEN_EVERY_MS, Event::NodeWakes(number));
                for message in said {
                    self.said(wires, exchange, message);
                }
            }
            Some(Word::Cancel) if kept.reply_to.is_some() => self.cancel(wires, number),
            _ => {}
        }
    }

    /// A client went away.
    pub(crate) fn left(&mut self, wires: &mut Wires, connection: Connection) {
        let theirs =
            self.calls.iter().find(|(_, call)| call.connection == connection && !matches!(call.phase, Phase::Kept(..)));
        let Some((number, call)) = theirs.map(|(number, call)| (*number, call)) else { return };
        if let Phase::Elsewhere(_, kept_as) = call.phase {
            wires.send(Event::Brought(Word::Cancel.to(kept_as)));
        }
        self.cancel(wires, number);
    }

    /// Nobody waits for a call any more.
    fn cancel(&mut self, wires: &mut Wires, number: u64) {
        let next = self.number();
        let Some(call) = self.calls.remove(&number) else { return };
        if let Phase::Sent(sent) | Phase::Kept(sent, _) = call.phase {
            wires_drop(wires, Some(sent.exchange));
            if !sent.era.is_modern() {
                let params = RawValue::from_string(format!(r#"{{"requestId":{}}}"#, sent.id)).unwrap();
                answer_server(wires, next, &sent, mcp::request_body(None, method::CANCELLED, Some(&params)));
            }
        }
    }

    /// Something may have been waited for long enough.
    pub(crate) fn wakes(&mut self, wires: &mut Wires, number: u64) {
        let Some(call) = self.calls.get_mut(&number) else { return };
        let now = wires.now;
        let over = now >= call.ends_at;
        let (late, reason) = match &mut call.phase {
            Phase::Linking => (u64::MAX, Reason::UpstreamTimeout),
            Phase::Sent(sent) => (sent.began + millis(sent.relay.until()), Reason::UpstreamTimeout),
            Phase::Gathering(_, late) => (*late, Reason::UpstreamTimeout),
            Phase::Elsewhere(late, _) => (*late, Reason::InputLost),
            Phase::Kept(_, Kept { reply_to: None, until, .. }) => {
                if now >= *until {
                    return self.cancel(wires, number);
                }
                (*until, Reason::InputLost)
            }
            Phase::Kept(sent, Kept { reply_to: Some(reply_to), until, .. }) => {
                if now >= *until {
                    wires.send(Event::Brought(Word::Taken.to(*reply_to)));
                    *until = now + TAKEN_EVERY_MS;
                    wires.at(*until, Event::NodeWakes(number));
                }
                (sent.began + millis(sent.relay.until()), Reason::UpstreamTimeout)
            }
        };
        if now < late && !over {
            return wires.at(late.min(call.ends_at), Event::NodeWakes(number));
        }
        let sent = match &call.phase {
            Phase::Sent(sent) | Phase::Kept(sent, _) => Some(sent.exchange),
            Phase::Linking | Phase::Gathering(..) | Phase::Elsewhere(..) => None,
        };
        wires_drop(wires, sent);
        self.end(wires, number, Err(reason));
    }
}
