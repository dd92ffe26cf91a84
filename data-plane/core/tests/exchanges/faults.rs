//! What a gateway must not do, done to the messages on their way: each of the promises has to notice it.

use crate::wire::{Event, Exchange};

/// Numbers that no exchange has otherwise.
const OTHER_EXCHANGES: Exchange = 1 << 40;
/// More lines than a client gets for one request.
const FLOOD: usize = 1_001;

/// See the file's header; with each comes what has to be said about it.
pub(crate) const FAULTS: [(Fault, &str); 10] = [
    (Fault::CallTwice, "was begun 2 times"),
    (Fault::AnswerServerTwice, "answered twice: "),
    (Fault::AnswerClientTwice, "answered twice"),
    (Fault::TellAfterwards(None), "a message after the end"),
    (Fault::LoseAnswer, "never answered"),
    (Fault::AnswerUnderAnotherId, "an answer under another id"),
    (Fault::AskUndeclared, "asked for what was not declared"),
    (Fault::ForeignProgress, "progress of something else"),
    (Fault::Flood, "a flood gets through"),
    (Fault::OtherAnswer, "the answer to another call"),
];

#[derive(Clone, Debug)]
pub(crate) enum Fault {
    CallTwice,
    AnswerServerTwice,
    AnswerClientTwice,
    /// What was told is told once more after the answer.
    TellAfterwards(Option<Event>),
    LoseAnswer,
    AnswerUnderAnotherId,
    AskUndeclared,
    ForeignProgress,
    Flood,
    OtherAnswer,
}

impl Fault {
    /// What arrives instead.
    pub(crate) fn instead_of(&mut self, event: Event) -> Vec<Event> {
        match (self, event) {
            (Self::CallTwice, Event::Asked(at, post)) if holds(&post.body, r#""method":"tools/call""#) => {
                vec![Event::Asked(at, post.clone()), Event::Asked(at + OTHER_EXCHANGES, post)]
            }
            (Self::AnswerServerTwice, Event::Asked(at, post)) if holds(&post.body, r#""result":"#) => {
                vec![Event::Asked(at, post.clone()), Event::Asked(at + OTHER_EXCHANGES, post)]
            }
            (Self::AnswerClientTwice, event @ Event::Replied(..)) => vec![event.clone(), event],
            (Self::TellAfterwards(told), event @ Event::Told(..)) => {
                *told = Some(event.clone());
                vec![event]
            }
            (Self::TellAfterwards(told), Event::Replied(at, reply)) => {
                let same = told.take_if(|told| matches!(told, Event::Told(of, _) if *of == at));
                [Event::Replied(at, reply)].into_iter().chain(same).collect()
            }
            (Self::LoseAnswer, Event::Replied(_, reply)) if holds(&reply.body, "structuredContent") => Vec::new(),
            (Self::AnswerUnderAnotherId, Event::Replied(at, mut reply)) => {
                reply.body = replaced(&reply.body, r#""id":1"#, r#""id":91"#);
                vec![Event::Replied(at, reply)]
            }
            (Self::AskUndeclared, Event::Told(at, message)) => {
                vec![Event::Told(at, replaced(&message, "elicitation/create", "elicitation/other"))]
            }
            (Self::ForeignProgress, Event::Told(at, message)) => {
                vec![Event::Told(at, replaced(&message, r#""progressToken":"#, r#""progressToken":7"#))]
            }
            (Self::Flood, event @ Event::Told(..)) => vec![event; FLOOD],
            (Self::OtherAnswer, Event::Replied(at, mut reply)) => {
                reply.body = replaced(&reply.body, r#""op":1"#, r#""op":91"#);
                vec![Event::Replied(at, reply)]
            }
            (_, event) => vec![event],
        }
    }
}

fn holds(body: &[u8], text: &str) -> bool {
    String::from_utf8_lossy(body).contains(text)
}

fn replaced(body: &[u8], text: &str, other: &str) -> Vec<u8> {
    String::from_utf8_lossy(body).replace(text, other).into_bytes()
}
