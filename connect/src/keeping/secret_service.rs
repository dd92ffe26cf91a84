//! Keys in the keyring of a Linux desktop: GNOME Keyring, KWallet, KeePassXC, whoever answers as Secret Service.
//!
//! Called by `keeping`. Over the session's D-Bus, which no other user can read, with the algorithm `plain`: every
//! program of this user could ask the service itself. An item is found by its attributes alone. Where the keyring is
//! locked, the desktop asks the person. Specification: freedesktop.org Secret Service API, draft 0.2.

#[cfg(test)]
mod tests;

use std::{collections::HashMap, time::Duration};

use futures::StreamExt as _;
use tokio::time::timeout;
use zbus::{
    Connection, Proxy,
    zvariant::{ObjectPath, OwnedObjectPath, OwnedValue, Value},
};
use zeroize::Zeroizing;

use crate::fault::Fault;

const SERVICE: &str = "org.freedesktop.secrets";
const ROOT: &str = "/org/freedesktop/secrets";
const COLLECTION: &str = "/org/freedesktop/secrets/aliases/default";
/// What marks our items, beside the name.
const APPLICATION: &str = "bailiwick-connect";
/// For the bus, which is on this machine.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(5);
/// For the person, whom the desktop asks to unlock.
const PERSON_WAIT_MAX: Duration = Duration::from_secs(120);
const NO_PROMPT: &str = "/";

/// Session, parameters, value, content type.
type Secret = (OwnedObjectPath, Vec<u8>, Vec<u8>, String);

#[derive(Debug)]
pub(crate) struct SecretService {
    connection: Connection,
    session: OwnedObjectPath,
}

impl SecretService {
    /// Where a session's bus knows such a service.
    pub(crate) async fn connect() -> Result<Self, Fault> {
        let connecting = async { Self::on(Connection::session().await.map_err(unusable)?).await };
        timeout(ANSWER_WAIT_MAX, connecting).await.map_err(unusable)?
    }

    async fn on(connection: Connection) -> Result<Self, Fault> {
        let root = proxy(&connection, ROOT, "org.freedesktop.Secret.Service").await?;
        let opened: (OwnedValue, OwnedObjectPath) =
            root.call("OpenSession", &("plain", Value::from(""))).await.map_err(unusable)?;
        drop(root);
        Ok(Self { connection, session: opened.1 })
    }

    pub(crate) async fn load(&self, name: &str) -> Result<Option<Zeroizing<Vec<u8>>>, Fault> {
        let Some(item) = self.find(name).await? else { return Ok(None) };
        let item = self.proxy(item.as_str(), "org.freedesktop.Secret.Item").await?;
        let secret: Secret = item.call("GetSecret", &(&self.session,)).await.map_err(unusable)?;
        Ok(Some(Zeroizing::new(secret.2)))
    }

    pub(crate) async fn save(&self, name: &str, resource: &str, text: &[u8]) -> Result<(), Fault> {
        let collection = OwnedObjectPath::try_from(COLLECTION).map_err(unusable)?;
        self.unlock(vec![collection.into_inner()]).await?;
        let collection = self.proxy(COLLECTION, "org.freedesktop.Secret.Collection").await?;
        let properties = HashMap::from([
            ("org.freedesktop.Secret.Item.Label", Value::from(format!("Bailiwick: {resource}"))),
            ("org.freedesktop.Secret.Item.Attributes", Value::from(attributes(name))),
        ]);
        let secret = (&self.session, Vec::<u8>::new(), text, "application/json");
        let created: (OwnedObjectPath, OwnedObjectPath) =
            collection.call("CreateItem", &(properties, secret, true)).await.map_err(unusable)?;
        self.prompt(&created.1).await
    }

    pub(crate) async fn forget(&self, name: &str) -> Result<(), Fault> {
        let Some(item) = self.find(name).await? else { return Ok(()) };
        let item = self.proxy(item.as_str(), "org.freedesktop.Secret.Item").await?;
        let prompt: OwnedObjectPath = item.call("Delete", &()).await.map_err(unusable)?;
        self.prompt(&prompt).await
    }

    /// The item, unlocked.
    async fn find(&self, name: &str) -> Result<Option<OwnedObjectPath>, Fault> {
        let service = self.proxy(ROOT, "org.freedesktop.Secret.Service").await?;
        let found: (Vec<OwnedObjectPath>, Vec<OwnedObjectPath>) =
            service.call("SearchItems", &(attributes(name),)).await.map_err(unusable)?;
        let (unlocked, locked) = found;
        if let Some(item) = unlocked.into_iter().next() {
            return Ok(Some(item));
        }
        let Some(item) = locked.into_iter().next() else { return Ok(None) };
        self.unlock(vec![item.clone().into_inner()]).await?;
        Ok(Some(item))
    }

    async fn unlock(&self, objects: Vec<ObjectPath<'_>>) -> Result<(), Fault> {
        let service = self.proxy(ROOT, "org.freedesktop.Secret.Service").await?;
        let unlocking: (Vec<OwnedObjectPath>, OwnedObjectPath) =
            service.call("Unlock", &(objects,)).await.map_err(unusable)?;
        self.prompt(&unlocking.1).await
    }

    /// Lets the desktop ask the person, where it has to.
    async fn prompt(&self, prompt: &OwnedObjectPath) -> Result<(), Fault> {
        if prompt.as_str() == NO_PROMPT {
            return Ok(());
        }
        let prompt = self.proxy(prompt.as_str(), "org.freedesktop.Secret.Prompt").await?;
        let mut completed = prompt.receive_signal("Completed").await.map_err(unusable)?;
        prompt.call::<_, _, ()>("Prompt", &("",)).await.map_err(unusable)?;
        let said = timeout(PERSON_WAIT_MAX, completed.next()).await.map_err(unusable)?;
        let said = said.ok_or(Fault::Keeping("the keyring went away".to_owned()))?;
        let (dismissed, _): (bool, OwnedValue) = said.body().deserialize().map_err(unusable)?;
        if dismissed { Err(Fault::Keeping("the keyring was not unlocked".to_owned())) } else { Ok(()) }
    }

    async fn proxy<'a>(&self, path: &'a str, interface: &'static str) -> Result<Proxy<'a>, Fault> {
        proxy(&self.connection, path, interface).await
    }
}

async fn proxy<'a>(connection: &Connection, path: &'a str, interface: &'static str) -> Result<Proxy<'a>, Fault> {
    Proxy::new(connection, SERVICE, path, interface).await.map_err(unusable)
}

fn attributes(name: &str) -> HashMap<String, String> {
    HashMap::from([("application".to_owned(), APPLICATION.to_owned()), ("name".to_owned(), name.to_owned())])
}

fn unusable(error: impl std::fmt::Display) -> Fault {
    Fault::Keeping(format!("the keyring cannot be used: {error}"))
}
