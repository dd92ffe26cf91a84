//! Against a service that answers by the specification, over a connection without a bus: it is locked at first, and
//! unlocks once the person has been asked.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::UnixStream;
use zbus::{connection::Builder, object_server::SignalEmitter};

use super::*;

const PROMPT: &str = "/org/freedesktop/secrets/prompt/1";
const SESSION: &str = "/org/freedesktop/secrets/session/1";
const ITEM: &str = "/org/freedesktop/secrets/collection/login/1";

#[derive(Debug, Default)]
struct State {
    unlocked: bool,
    /// Whether the person says no.
    dismisses: bool,
    item: Option<(HashMap<String, String>, Vec<u8>)>,
}

type Shared = Arc<Mutex<State>>;

fn path(text: &str) -> OwnedObjectPath {
    OwnedObjectPath::try_from(text).unwrap()
}

fn state(shared: &Shared) -> std::sync::MutexGuard<'_, State> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Service(Shared);

#[zbus::interface(name = "org.freedesktop.Secret.Service")]
impl Service {
    fn open_session(&self, algorithm: &str, _input: Value<'_>) -> (OwnedValue, OwnedObjectPath) {
        assert_eq!(algorithm, "plain");
        (OwnedValue::try_from(Value::from("")).unwrap(), path(SESSION))
    }

    fn search_items(&self, wanted: HashMap<String, String>) -> (Vec<OwnedObjectPath>, Vec<OwnedObjectPath>) {
        let state = state(&self.0);
        let found = state.item.as_ref().is_some_and(|(attributes, _)| *attributes == wanted);
        let found: Vec<_> = found.then(|| path(ITEM)).into_iter().collect();
        if state.unlocked { (found, Vec::new()) } else { (Vec::new(), found) }
    }

    fn unlock(&self, objects: Vec<OwnedObjectPath>) -> (Vec<OwnedObjectPath>, OwnedObjectPath) {
        if state(&self.0).unlocked { (objects, path(NO_PROMPT)) } else { (Vec::new(), path(PROMPT)) }
    }
}

struct Prompt(Shared);

#[zbus::interface(name = "org.freedesktop.Secret.Prompt")]
impl Prompt {
    async fn prompt(&self, _window: &str, #[zbus(signal_emitter)] emitter: SignalEmitter<'_>) {
        let dismisses = {
            let mut state = state(&self.0);
            state.unlocked = !state.dismisses;
            state.dismisses
        };
        Self::completed(&emitter, dismisses, Value::from("")).await.unwrap();
    }

    #[zbus(signal)]
    async fn completed(emitter: &SignalEmitter<'_>, dismissed: bool, result: Value<'_>) -> zbus::Result<()>;
}

struct Collection(Shared);

#[zbus::interface(name = "org.freedesktop.Secret.Collection")]
impl Collection {
    fn create_item(
        &self,
        mut properties: HashMap<String, OwnedValue>,
        secret: Secret,
        replace: bool,
    ) -> zbus::fdo::Result<(OwnedObjectPath, OwnedObjectPath)> {
        let mut state = state(&self.0);
        if !state.unlocked || !replace || secret.0 != path(SESSION) {
            return Err(zbus::fdo::Error::AccessDenied("locked".to_owned()));
        }
        let attributes = properties.remove("org.freedesktop.Secret.Item.Attributes").unwrap();
        state.item = Some((attributes.try_into().unwrap(), secret.2));
        Ok((path(ITEM), path(NO_PROMPT)))
    }
}

struct Item(Shared);

#[zbus::interface(name = "org.freedesktop.Secret.Item")]
impl Item {
    fn get_secret(&self, session: OwnedObjectPath) -> zbus::fdo::Result<(Secret,)> {
        let state = state(&self.0);
        let held = state.item.as_ref().filter(|_| state.unlocked);
        let (_, value) = held.ok_or_else(|| zbus::fdo::Error::AccessDenied("locked".to_owned()))?;
        Ok(((session, Vec::new(), value.clone(), "application/json".to_owned()),))
    }

    fn delete(&self) -> OwnedObjectPath {
        state(&self.0).item = None;
        path(NO_PROMPT)
    }
}

async fn served(shared: &Shared) -> (SecretService, Connection) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let service = async {
        let builder = Builder::unix_stream(theirs).server(zbus::Guid::generate()).unwrap().p2p();
        let builder = builder.serve_at(ROOT, Service(Arc::clone(shared))).unwrap();
        let builder = builder.serve_at(COLLECTION, Collection(Arc::clone(shared))).unwrap();
        let builder = builder.serve_at(PROMPT, Prompt(Arc::clone(shared))).unwrap();
        builder.serve_at(ITEM, Item(Arc::clone(shared))).unwrap().build().await.unwrap()
    };
    let client = async { Builder::unix_stream(ours).p2p().build().await.unwrap() };
    let (service, client) = tokio::join!(service, client);
    (SecretService::on(client).await.unwrap(), service)
}

#[tokio::test]
async fn what_is_kept_comes_back_once_the_person_unlocked_and_goes() {
    let shared = Shared::default();
    let (keyring, _service) = served(&shared).await;
    assert!(keyring.load("x").await.unwrap().is_none());
    for text in [b"{\"a\":1}".as_slice(), b"{\"a\":2}"] {
        keyring.save("x", "https://mcp.example/mcp", text).await.unwrap();
        state(&shared).unlocked = false;
        assert_eq!(keyring.load("x").await.unwrap().unwrap().as_slice(), text, "the desktop asks");
    }
    assert!(keyring.load("y").await.unwrap().is_none(), "what is kept under another name is another's");
    keyring.forget("x").await.unwrap();
    keyring.forget("x").await.unwrap();
    assert!(keyring.load("x").await.unwrap().is_none());
}

#[tokio::test]
async fn a_person_who_does_not_unlock_keeps_nothing() {
    let shared = Shared::default();
    let (keyring, _service) = served(&shared).await;
    state(&shared).dismisses = true;
    assert!(matches!(keyring.save("x", "r", b"{}").await, Err(Fault::Keeping(_))));
    assert!(state(&shared).item.is_none());
}
