//! What a server does with one call, step by step: written by the client into the arguments, so that the server needs
//! to know nothing, and the client knows what has to come of it.

use bailiwick_proto::mcp::{Era, method};
use serde_json::{Value, json};

use crate::random::Random;

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// So many reports of progress, if the request asked for them.
    Progress(u64),
    /// Progress under a token that nobody gave.
    StrangeProgress,
    /// A line of a log at this level.
    Log(String),
    /// So many lines at once.
    Flood(u64),
    /// Waits so many milliseconds.
    Pause(u64),
    /// Wants to know this of the client, and waits.
    Ask(String),
    /// A request that needs no client.
    Ping,
    /// Forgets all of its sessions; this call goes on.
    Forget,
    /// From here on it misbehaves, and never answers.
    WrongId,
    /// Text that is no JSON-RPC.
    Garbage,
    /// Ends the stream.
    Break,
    /// Says nothing ever again.
    Hang,
    /// A request that no client answers and no modern server may send.
    AskAnything,
    /// A result of a kind that nobody knows.
    OddResult,
    /// Asks the same again and again, without waiting for answers.
    Pester,
    /// A proper error.
    Fail,
}

const LEVELS: [&str; 3] = ["debug", "warning", "emergency"];
pub(crate) const QUESTIONS: [&str; 3] = [method::ELICIT, method::SAMPLE, method::ROOTS];

impl Step {
    fn any(random: &mut Random) -> Self {
        match random.below(40) {
            0..6 => Self::Progress(1 + random.below(4)),
            6..8 => Self::StrangeProgress,
            8..14 => Self::Log(random.pick(&LEVELS).to_owned()),
            14 => Self::Flood(500 + random.below(1_000)),
            15..22 => Self::Pause(random.below(3_000)),
            22 => Self::Pause(20_000 + random.below(20_000)),
            23..32 => Self::Ask(random.pick(&QUESTIONS).to_owned()),
            32 => Self::Ping,
            33 => Self::Forget,
            34 => Self::WrongId,
            35 => random.pick(&[Self::Garbage, Self::Break]),
            36 => Self::Hang,
            37 => Self::AskAnything,
            38 => random.pick(&[Self::OddResult, Self::Pester]),
            _ => Self::Fail,
        }
    }

    pub(crate) fn to_json(&self) -> Value {
        match self {
            Self::Progress(count) => json!(["progress", count]),
            Self::StrangeProgress => json!(["strange-progress"]),
            Self::Log(level) => json!(["log", level]),
            Self::Flood(count) => json!(["flood", count]),
            Self::Pause(millis) => json!(["pause", millis]),
            Self::Ask(method) => json!(["ask", method]),
            Self::Ping => json!(["ping"]),
            Self::Forget => json!(["forget"]),
            Self::WrongId => json!(["wrong-id"]),
            Self::Garbage => json!(["garbage"]),
            Self::Break => json!(["break"]),
            Self::Hang => json!(["hang"]),
            Self::AskAnything => json!(["ask-anything"]),
            Self::OddResult => json!(["odd-result"]),
            Self::Pester => json!(["pester"]),
            Self::Fail => json!(["fail"]),
        }
    }

    pub(crate) fn of_json(step: &Value) -> Self {
        let number = || step[1].as_u64().unwrap();
        let text = || step[1].as_str().unwrap().to_owned();
        match step[0].as_str().unwrap() {
            "progress" => Self::Progress(number()),
            "strange-progress" => Self::StrangeProgress,
            "log" => Self::Log(text()),
            "flood" => Self::Flood(number()),
            "pause" => Self::Pause(number()),
            "ask" => Self::Ask(text()),
            "ping" => Self::Ping,
            "forget" => Self::Forget,
            "wrong-id" => Self::WrongId,
            "garbage" => Self::Garbage,
            "break" => Self::Break,
            "hang" => Self::Hang,
            "ask-anything" => Self::AskAnything,
            "odd-result" => Self::OddResult,
            "pester" => Self::Pester,
            "fail" => Self::Fail,
            other => panic!("no step `{other}`"),
        }
    }
}

/// A script of a few steps.
pub(crate) fn script(random: &mut Random) -> Vec<Step> {
    let mut steps: Vec<Step> = (0..random.below(7)).map(|_| Step::any(random)).collect();
    // Work that takes longer than a server may be silent, and is told of.
    if random.percent(10) {
        steps.extend([Step::Pause(15_000), Step::Progress(1)].into_iter().cycle().take(8));
    }
    steps
}

/// What has to come of a call if the client stays and answers everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    /// The server's result, after so many answers.
    Result(usize),
    /// The server's own error.
    Error,
    /// A refusal of the gateway's.
    Refused,
    /// It is too close to a bound to say.
    Anything,
}

/// How long a server may be silent, milliseconds.
pub(crate) const PATIENCE_MS: u64 = 30_000;
/// How long a server of the old era has, once it has asked something.
const ASKED_MS: u64 = 600_000;
/// What all delays of one round come to at most.
const SLACK_MS: u64 = 5_000;

/// What has to come of it at a server of this era, for a client that declared this, and wants progress or does not.
pub(crate) fn expected(script: &[Step], server: Era, declared: &Value, has_token: bool) -> Expected {
    let (mut given, mut at, mut until) = (0, 0, PATIENCE_MS);
    let is_declared = |method: &str| declared.get(capability(method)).is_some();
    let mut is_close = false;
    for step in script {
        match step {
            Step::Ask(method) if is_declared(method) => {
                given += 1;
                // A round of its own.
                (at, until) = if server.is_modern() { (0, PATIENCE_MS) } else { (at, until.max(at + ASKED_MS)) };
            }
            // A legacy server is told that nobody answers; a modern one asks by a result that may not be passed on.
            Step::Ask(_) | Step::Ping | Step::AskAnything if server.is_modern() => return refused(is_close),
            Step::Pester if server.is_modern() => {}
            Step::Pester if is_declared(QUESTIONS[0]) => return refused(is_close),
            Step::Pause(millis) => {
                at += millis;
                if at > until {
                    return refused(is_close);
                }
                is_close |= at + SLACK_MS > until;
            }
            Step::Progress(_) if has_token => until = until.max(at + PATIENCE_MS),
            Step::WrongId | Step::Garbage | Step::Break | Step::Hang | Step::OddResult => return refused(is_close),
            Step::Fail if is_close => return Expected::Anything,
            Step::Fail => return Expected::Error,
            Step::Ask(_) | Step::Ping | Step::AskAnything | Step::Pester | Step::Progress(_) => {}
            Step::StrangeProgress | Step::Log(_) | Step::Flood(_) | Step::Forget => {}
        }
    }
    if is_close { Expected::Anything } else { Expected::Result(given) }
}

fn refused(is_close: bool) -> Expected {
    if is_close { Expected::Anything } else { Expected::Refused }
}

/// What a client declares to be asked this, written down a second time.
pub(crate) fn capability(asked: &str) -> &'static str {
    match asked {
        "elicitation/create" => "elicitation",
        "sampling/createMessage" => "sampling",
        "roots/list" => "roots",
        _ => "nothing",
    }
}
