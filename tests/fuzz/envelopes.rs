//! Envelopes of every kind: only the exact text that was sealed opens, and only as what it is.

use std::sync::OnceLock;

use bailiwick_data_plane_core::{
    Caller,
    relay::Level,
    sealed::{
        NONCE_BYTES, SealNonce, SealingKeys,
        answer::Answer,
        ask::Ask,
        cursor::Cursor,
        level::WantedLevel,
        note::{Newest, Note},
        request_state::{RequestState, Subject},
        session::{Capabilities, Session},
        subscription::Subscription,
        task::Task,
    },
};
use bailiwick_proto::{
    Tier,
    mcp::{self, Answered, Era, RequestId, VERSION_2025_11_25},
    v1,
};

use crate::{
    mutate::{Random, changed},
    targets::{Checked, promise},
};

pub(crate) const NOW: i64 = 1_800_000_000;
const NONCE: SealNonce = [7; NONCE_BYTES];
/// How many kinds are tried.
const KINDS: usize = 10;
const METHOD: &str = "prompts/list";
const SUBJECT: Subject<'static> = Subject { server: "finance", method: "tools/call", salient: [3; 32] };

pub(crate) fn caller() -> Caller {
    Caller {
        user: "jane@example.com".into(),
        agent: "coder".into(),
        project: "platform".into(),
        client: "cli".into(),
        consent: "c-1".into(),
        session: "s-1".into(),
        token_id: "t-1".into(),
        scope_level: Tier::Destructive,
        virtual_server: "finance".into(),
        min_revision: 0,
        bound: false,
    }
}

pub(crate) fn keys() -> SealingKeys {
    SealingKeys::new(&[v1::SealingKey { id: "k".into(), key: vec![5; 32] }]).unwrap_or_default()
}

pub(crate) fn session() -> String {
    let session = Session {
        era: Era::Legacy(VERSION_2025_11_25),
        client_name: None,
        client_version: None,
        capabilities: Capabilities::default(),
        issued_at: NOW,
    };
    session.seal(&keys(), &caller(), NONCE).unwrap_or_default()
}

fn sealed() -> &'static [String] {
    static SEALED: OnceLock<Vec<String>> = OnceLock::new();
    SEALED.get_or_init(|| {
        let (keys, caller) = (keys(), caller());
        let cursor = Cursor { server: "finance".into(), cursor: Some("2".into()) };
        let state = RequestState::Server(Some("s".into()));
        let ask = Ask { server: "finance".into(), id: RequestId::from(4), waiter: 9 };
        let task = Task { server: "finance".into(), tool: "pay".into(), id: "t".into(), lasts_seconds: None };
        let subscription = Subscription { visible: 5, uris: vec!["file:///a".into()] };
        let answered = Answered::Result(mcp::raw_object([]));
        let answer = Answer { waiter: 9, id: RequestId::from(3), answered };
        let note = Note { uri: "file:///a".into(), wished: true };
        let wanted = WantedLevel {
            user: caller.user.clone(),
            agent: caller.agent.clone(),
            capabilities: Some("{}".into()),
            virtual_server: caller.virtual_server.clone(),
            servers: Some(vec!["finance".into()]),
            level: Level::Info,
        };
        let all = [
            wanted.seal(&keys, NOW, NONCE),
            Newest { stream: 7 }.seal(&keys, &caller, &[0xab; 32], NOW, NONCE),
            answer.seal(&keys, &caller, NOW, NONCE),
            note.seal(&keys, &caller, &[0xab; 32], NOW, NONCE),
            cursor.seal(&keys, &caller, METHOD, NOW, NONCE),
            state.seal(&keys, &caller, &SUBJECT, NOW, NONCE),
            ask.seal(&keys, &caller, NOW, NONCE),
            task.seal(&keys, &caller, NOW, NONCE),
            subscription.seal(&keys, &caller, NOW, NONCE),
        ];
        all.into_iter().flatten().chain([session()]).collect()
    })
}

pub(crate) fn one(random: &mut Random) -> Vec<u8> {
    let all: Vec<&str> = sealed().iter().map(String::as_str).collect();
    let seed = random.pick(&all).copied().unwrap_or_default();
    changed(random, seed.as_bytes(), &all)
}

pub(crate) fn check(input: &[u8]) -> Checked {
    let text = String::from_utf8_lossy(input);
    let (keys, caller) = (keys(), caller());
    let opened = [
        Session::open(&keys, &caller, &text, NOW).is_ok(),
        Cursor::open(&keys, &caller, METHOD, &text, NOW).is_ok(),
        RequestState::open(&keys, &caller, &SUBJECT, &text, NOW).is_ok(),
        Ask::open(&keys, &caller, &text, NOW).is_ok(),
        Task::open(&keys, &caller, &text, NOW).is_ok(),
        Subscription::open(&keys, &caller, &text, NOW).is_ok(),
        Answer::open(&keys, &caller, &text, NOW).is_ok(),
        Note::open(&keys, &caller, &text, NOW).is_ok(),
        Newest::open(&keys, &caller, &text, NOW).is_ok(),
        WantedLevel::open(&keys, &text, NOW).is_ok(),
    ];
    let opened = opened.into_iter().filter(|opened| *opened).count();
    let is_ours = sealed().iter().any(|sealed| **sealed == *text);
    promise(sealed().len() == KINDS, "not every kind was sealed")?;
    promise(opened == usize::from(is_ours), "a text opens that nobody sealed, or one does not that somebody did")?;
    Ok(is_ours)
}
