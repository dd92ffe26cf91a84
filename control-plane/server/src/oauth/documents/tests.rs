//! Which documents are fetched, when, and what they must say: a host whose answers the test writes, and time that only
//! the test moves.

mod keeping;
mod saying;

use std::{
    pin::Pin,
    sync::atomic::{AtomicUsize, Ordering},
};

use bailiwick_control_plane_core::{
    agent::Agent,
    resource::{ClientAuth, KEY_SET_BYTES_MAX},
    state::Changed,
};
use bailiwick_proto::address::Leave;
use bailiwick_runtime::Shutdown;
use bytes::Bytes;
use http::StatusCode;
use serde_json::{Value, json};

use super::*;
use crate::{
    outbound::{FetchError, Fetched, Form, Limits},
    providers::Source,
};

type Fetching<'a> = Pin<Box<dyn Future<Output = Result<Fetched, FetchError>> + Send + 'a>>;

const URL: &str = "https://editor.example/client.json";
const CALLBACK: &str = "http://127.0.0.1/callback";
/// How many fetches may be answered at once.
const GATE: usize = 1_000;

/// Answers with what was written last for a URL, once the gate lets it.
#[derive(Debug)]
struct Written {
    answers: Mutex<BTreeMap<String, Result<Fetched, FetchError>>>,
    asked: Mutex<Vec<String>>,
    under_way: AtomicUsize,
    gate: Semaphore,
}

impl Source for Written {
    fn get<'a>(&'a self, url: &'a str, leave: Leave<'a>, limits: Limits) -> Fetching<'a> {
        let bytes_max = if url.contains("keys") { KEY_SET_BYTES_MAX } else { 5 * 1024 };
        assert_eq!((limits.bytes_max, limits.wait_max), (bytes_max, WAIT_MAX), "{url}");
        assert_eq!((leave.manifest.len(), leave.node.len()), (1, 0), "{leave:?}");
        self.asked.lock().unwrap().push(url.to_owned());
        Box::pin(async move {
            self.under_way.fetch_add(1, Ordering::SeqCst);
            let _open = self.gate.acquire().await.unwrap();
            self.answers.lock().unwrap().get(url).cloned().unwrap_or(Err(FetchError::NoAddress))
        })
    }

    fn post<'a>(&'a self, _url: &'a str, _form: &'a Form, _leave: Leave<'a>, _limits: Limits) -> Fetching<'a> {
        panic!("nothing is sent for documents")
    }
}

struct Host {
    written: Arc<Written>,
    documents: Documents,
    supervisor: Supervisor,
}

impl Host {
    fn new() -> Self {
        let written = Arc::new(Written {
            answers: Mutex::default(),
            asked: Mutex::default(),
            under_way: AtomicUsize::new(0),
            gate: Semaphore::new(GATE),
        });
        let (supervisor, networks) = (Supervisor::new(Shutdown::new()), vec!["10.1.0.0/16".parse().unwrap()]);
        Self { documents: Documents::new(written.clone(), networks, supervisor.clone()), written, supervisor }
    }

    fn that_says(answer: Result<Fetched, FetchError>) -> Self {
        let host = Self::new();
        host.says(answer);
        host
    }

    fn says(&self, answer: Result<Fetched, FetchError>) {
        self.says_at(URL, answer);
    }

    fn says_at(&self, url: &str, answer: Result<Fetched, FetchError>) {
        self.written.answers.lock().unwrap().insert(url.to_owned(), answer);
    }

    fn asked(&self) -> usize {
        self.written.asked.lock().unwrap().len()
    }

    async fn read(&self) -> Result<ClientSpec, DocumentFault> {
        self.read_at(URL).await
    }

    async fn read_at(&self, url: &str) -> Result<ClientSpec, DocumentFault> {
        self.documents.read(&Named(url.to_owned())).await
    }
}

/// A document as an editor's maker would write it.
fn document() -> Value {
    json!({
        "client_id": URL, "client_name": "Editor", "redirect_uris": [CALLBACK], "logo_uri": "https://10.0.0.1/logo",
        "token_endpoint_auth_method": "none", "grant_types": ["authorization_code", "refresh_token"],
        "response_types": ["code"], "policy_uri": "https://editor.example/policy",
    })
}

/// The same with other members, or without those that are null.
fn but(members: Value) -> Value {
    let mut document = document();
    for (name, value) in members.as_object().unwrap().clone() {
        if value.is_null() {
            document.as_object_mut().unwrap().remove(&name);
        } else {
            document[name] = value;
        }
    }
    document
}

fn ok(body: impl Into<Bytes>) -> Result<Fetched, FetchError> {
    let content_type = Some("application/json".to_owned());
    Ok(Fetched { status: StatusCode::OK, content_type, body: body.into(), cache_max_age: None })
}

fn said(document: &Value) -> Result<Fetched, FetchError> {
    ok(document.to_string())
}

/// The same, to be kept for so long.
fn kept(document: &Value, seconds: u64) -> Result<Fetched, FetchError> {
    Ok(Fetched { cache_max_age: Some(Duration::from_secs(seconds)), ..said(document).unwrap() })
}
