//! The cluster under load, with everything in it that grants need: people, an agent, clients, a provider.
//!
//! Made once by `tokens`, on a cluster of `deploy/local-cluster` that `loadtest/identity` started with limits that do
//! not limit. Holds the codes and refresh tokens that were prepared and not used yet.

use std::{
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use reqwest::{Client, redirect::Policy};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{
    person::{Ask, Person, REDIRECT_URI},
    provider::{self, Provider},
    signing::{self, Key},
};
use crate::control_plane::{
    admin::Admin,
    cluster::{Cluster, Place},
    failover::leader_of,
};

const VIRTUAL_SERVER: &str = "bench";
const AGENT: &str = "bench-agent";
/// Asks people; can keep no secret.
pub(super) const EDITOR: &str = "bench-editor";
/// Has a secret, and brings assertions.
pub(super) const ASSISTANT: &str = "bench-assistant";
pub(super) const SECRET: &str = "not-a-secret-but-32-characters-long";
/// Signs who it is, and needs nobody.
const NIGHTLY: &str = "bench-nightly";
/// Each may answer thirty questions at once.
const PEOPLE: usize = 256;
/// People who sign in or are asked at the same time.
const AT_ONCE: usize = 8;
const REQUEST_WAIT_MAX: Duration = Duration::from_secs(20);
/// Longest wait for a node to know what was applied.
const KNOWN_WAIT_MAX: Duration = Duration::from_secs(10);
/// Longest time that codes are made in advance: they live for a minute.
const PREPARE_MAX: Duration = Duration::from_secs(25);
/// Between two looks at something that is waited for.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// A control plane.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) name: String,
    /// Where it listens for HTTP.
    pub(super) http: String,
    /// Its administration.
    pub(super) admin: Admin,
}

/// See the file's header.
#[derive(Debug)]
pub(super) struct World {
    /// Follows no redirects; keeps connections.
    pub(super) http: Client,
    pub(super) cluster: Cluster,
    /// The leader first.
    pub(super) nodes: Vec<Node>,
    pub(super) issuer: String,
    /// The virtual server, at a data plane.
    pub(super) resource: String,
    provider: Provider,
    nightly: Key,
    next: AtomicU64,
    people: Vec<Person>,
    /// Made for the editor, and not redeemed yet.
    pub(super) codes: Mutex<Vec<String>>,
    /// Of the editor, each the last of its consent.
    pub(super) refresh_tokens: Mutex<Vec<String>>,
}

impl World {
    /// `with_people`: signed in, for grants that need them.
    pub(super) async fn start(folder: &Path, with_people: bool) -> Result<Arc<Self>> {
        let cluster = Cluster::read(folder)?;
        let builder = Client::builder().no_proxy().redirect(Policy::none()).timeout(REQUEST_WAIT_MAX);
        let http = builder.tcp_nodelay(true).build()?;
        let nodes = nodes(&cluster).await?;
        let first = nodes.first().context("no control plane")?;
        let metadata = http.get(format!("{}{METADATA}", first.http)).send().await?.text().await?;
        let issuer = text(&serde_json::from_str(&metadata)?, "issuer")?;
        let mcp = cluster.mcp.first().context("no data plane")?;
        let mut world = Self {
            resource: format!("{mcp}/{VIRTUAL_SERVER}"),
            provider: Provider::start().await?,
            nightly: Key::ed25519()?,
            next: AtomicU64::new(0),
            people: Vec::new(),
            codes: Mutex::default(),
            refresh_tokens: Mutex::default(),
            http,
            cluster,
            nodes,
            issuer,
        };
        world.apply().await?;
        world.wait_until_known().await?;
        if with_people {
            world.people = world.sign_in().await?;
        }
        Ok(Arc::new(world))
    }

    async fn apply(&self) -> Result<()> {
        let secret: String = signing::hashed(SECRET).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        let named = [
            ("VirtualServer", VIRTUAL_SERVER, json!({"servers": []})),
            ("IdentityProvider", provider::NAME, self.provider.spec(VIRTUAL_SERVER)),
            ("Agent", AGENT, json!({"owner": user(0), "project": "bench", "ceiling": "destructive"})),
            ("Client", EDITOR, json!({"agent": AGENT, "auth": "none", "redirect_uris": [REDIRECT_URI]})),
            ("Client", ASSISTANT, json!({"agent": AGENT, "auth": "client_secret", "secret_sha256": secret})),
            (
                "Client",
                NIGHTLY,
                json!({"agent": AGENT, "auth": "private_key_jwt", "jwks": self.nightly.jwks()?,
                       "headless": {"virtual_servers": [VIRTUAL_SERVER]}}),
            ),
        ];
        let people = (0..PEOPLE).map(|number| document("User", &user(number), &json!({"groups": ["bench"]})));
        let rest = named.iter().map(|(kind, name, spec)| document(kind, name, spec));
        let documents: Vec<_> = people.chain(rest).collect();
        self.leader()?.admin.apply(&documents.join("\n---\n")).await?;
        Ok(())
    }

    /// Until every node gives the client that needs nobody a token.
    async fn wait_until_known(&self) -> Result<()> {
        let began = Instant::now();
        for node in &self.nodes {
            while let Err(error) = self.credentials(node).await {
                if began.elapsed() > KNOWN_WAIT_MAX {
                    return Err(error.context(node.name.clone()));
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        }
        Ok(())
    }

    async fn sign_in(&self) -> Result<Vec<Person>> {
        let (mut signing_in, mut people, mut names) = (JoinSet::new(), Vec::new(), (0..PEOPLE).map(user));
        loop {
            while signing_in.len() < AT_ONCE
                && let Some(name) = names.next()
            {
                let (http, issuer) = (self.http.clone(), self.issuer.clone());
                signing_in.spawn(async move { Person::sign_in(&http, &issuer, &name).await });
            }
            let Some(ended) = signing_in.join_next().await else { return Ok(people) };
            people.push(ended??);
        }
    }

    /// Has people allow the editor what it asks for until there are so many codes, or half of their life is over.
    pub(super) async fn prepare_codes(self: &Arc<Self>, wanted: usize) -> Result<()> {
        let (began, mut asking, mut begun) = (Instant::now(), JoinSet::new(), 0);
        held(&self.codes).clear();
        loop {
            while asking.len() < AT_ONCE && begun < wanted && began.elapsed() < PREPARE_MAX {
                let turn = usize::try_from(self.number()).unwrap_or_default() % self.people.len().max(1);
                let (world, person) = (Arc::clone(self), self.people.get(turn).context("nobody signed in")?.clone());
                asking.spawn(async move {
                    let ask = Ask { client: EDITOR, agent: AGENT, resource: &world.resource };
                    person.code(&world.http, &world.issuer, &ask).await
                });
                begun += 1;
            }
            let Some(ended) = asking.join_next().await else { return Ok(()) };
            held(&self.codes).push(ended??);
        }
    }

    /// A token for the client that signs who it is.
    pub(super) async fn credentials(&self, node: &Node) -> Result<String> {
        let assertion = self.client_assertion()?;
        let answer = self.post(node, "/oauth/token", &credentials_form(&assertion)).await?;
        text(&answer, "access_token")
    }

    /// What the client that needs nobody signs to prove who it is, once.
    pub(super) fn client_assertion(&self) -> Result<String> {
        let now = provider::now_seconds();
        let claims = json!({"iss": NIGHTLY, "sub": NIGHTLY, "aud": self.issuer, "jti": format!("c-{}", self.number()),
                            "iat": now, "exp": now + 60});
        self.nightly.jwt("JWT", &claims)
    }

    /// What the provider says of the first person, once, for the assistant.
    pub(super) fn assertion(&self) -> Result<String> {
        self.provider.assertion(&user(0), ASSISTANT, &self.issuer, &self.resource)
    }

    /// The answer to a form, which must be 200.
    pub(super) async fn post(&self, node: &Node, path: &str, form: &[(&str, &str)]) -> Result<Value> {
        let answer = self.http.post(format!("{}{path}", node.http)).form(form).send().await?;
        let (status, text) = (answer.status(), answer.text().await?);
        if status != reqwest::StatusCode::OK {
            bail!("{path} at {}: {status} {text}", node.name);
        }
        Ok(if text.is_empty() { Value::Null } else { serde_json::from_str(&text)? })
    }

    pub(super) fn leader(&self) -> Result<&Node> {
        self.nodes.first().context("nobody leads")
    }

    /// A number that was not given before.
    pub(super) fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }
}

/// Where the authorization server describes itself.
pub(super) const METADATA: &str = "/.well-known/oauth-authorization-server";

/// The parameters of a grant by what a client signed.
pub(super) const fn credentials_form(assertion: &str) -> [(&str, &str); 3] {
    [
        ("grant_type", "client_credentials"),
        ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"),
        ("client_assertion", assertion),
    ]
}

/// A manifest; JSON is YAML.
pub(super) fn document(kind: &str, name: &str, spec: &Value) -> String {
    json!({"apiVersion": "bailiwick/v1", "kind": kind, "metadata": {"name": name}, "spec": spec}).to_string()
}

/// A member of an answer.
pub(super) fn text(answer: &Value, name: &str) -> Result<String> {
    answer.get(name).and_then(Value::as_str).map(str::to_owned).with_context(|| format!("no {name}: {answer}"))
}

pub(super) fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn user(number: usize) -> String {
    format!("person-{number}@bench.example")
}

/// The name of the node that leads now.
pub(super) async fn leader(folder: &Path) -> Result<String> {
    leader_among(&Cluster::read(folder)?.control_planes_at()?).await
}

async fn leader_among(known: &[Place]) -> Result<String> {
    let pairs: Vec<_> = known.iter().map(|place| (place.name.clone(), place.admin.clone())).collect();
    leader_of(&pairs).await
}

/// The control planes, the leader first.
async fn nodes(cluster: &Cluster) -> Result<Vec<Node>> {
    let known = cluster.control_planes_at()?;
    let leader = leader_among(&known).await?;
    let mut nodes = Vec::new();
    for place in known {
        let admin = Admin::connect(&[place.admin]).await?;
        nodes.push(Node { name: place.name, http: place.http, admin });
    }
    nodes.sort_by_key(|node| node.name != leader);
    Ok(nodes)
}
