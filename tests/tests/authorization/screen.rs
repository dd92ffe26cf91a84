//! What a person sees and does at sign-in, the question and their list, in a real Chromium.
//!
//! A [`Screen`] is a [`World`], a browser and a [`Site`]: where the client waits for its answer and whoever means harm
//! has a page. `answers` follows honest people, `forgeries` others' pages, `looks` how it all looks: pictures go
//! to the folder that `SCREEN_PICTURES` names, else they are taken and thrown away.

mod answers;
mod forgeries;
mod looks;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::{Context, Result, ensure};
use axum::{
    Router,
    extract::{Query, State},
    http::StatusCode,
    response::{Html, IntoResponse, Redirect},
    routing::get,
};
use bailiwick_tests::{
    Answer,
    browser::{Browser, Look, On},
    eventually,
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinSet};

use crate::{CLIENT, JANE, VERIFIER, World};

const ALLOW: On<'_> = On::role("button", "Allow");
const DENY: On<'_> = On::role("button", "Deny");
const SIGN_OUT: On<'_> = On::role("button", "Sign out");
const REASON: On<'_> = On::label("Why?");

type Parameters = BTreeMap<String, String>;

/// A small web site of somebody else's: the client's callback, which leads on to another origin as real ones do, and a
/// page of any content.
struct Site {
    port: u16,
    told: Arc<Told>,
    _task: JoinSet<()>,
}

struct Told {
    arrivals: Mutex<Vec<Parameters>>,
    page: Mutex<String>,
    /// Whether the callback has nothing to show, so that browsers stay where they are.
    asleep: AtomicBool,
    port: u16,
}

impl Site {
    async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let told =
            Arc::new(Told { arrivals: Mutex::default(), page: Mutex::default(), asleep: AtomicBool::new(false), port });
        let callback = |State(told): State<Arc<Told>>, Query(parameters): Query<Parameters>| async move {
            told.arrivals.lock().unwrap_or_else(PoisonError::into_inner).push(parameters);
            match told.asleep.load(Ordering::SeqCst) {
                true => StatusCode::NO_CONTENT.into_response(),
                false => Redirect::to(&format!("http://localhost:{}/done", told.port)).into_response(),
            }
        };
        let page = |State(told): State<Arc<Told>>| async move {
            Html(told.page.lock().unwrap_or_else(PoisonError::into_inner).clone())
        };
        let done = || async { Html("<title>Done</title>You can go back to your editor.") };
        let app = Router::new().route("/cb", get(callback)).route("/page", get(page)).route("/done", get(done));
        let app = app.with_state(Arc::clone(&told));
        let mut task = JoinSet::new();
        task.spawn(async move { drop(axum::serve(listener, app).await) });
        Ok(Self { port, told, _task: task })
    }

    /// Another port of the same host: another origin, the same site.
    fn neighbour(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Another origin and another site.
    fn stranger(&self) -> String {
        format!("http://localhost:{}", self.port)
    }

    fn redirect_uri(&self) -> String {
        format!("http://127.0.0.1:{}/cb", self.port)
    }

    /// Shows this at `/page`.
    fn show(&self, html: &str) {
        html.clone_into(&mut self.told.page.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// The callback shows nothing from now on, or something again.
    fn sleep(&self, asleep: bool) {
        self.told.asleep.store(asleep, Ordering::SeqCst);
    }

    /// What the client was told, in order.
    fn arrivals(&self) -> Vec<Parameters> {
        self.told.arrivals.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn arrival(&self, number: usize) -> Result<Parameters> {
        eventually("the client's answer", async || self.arrivals().get(number).cloned()).await
    }
}

struct Screen {
    world: World,
    browser: Browser,
    site: Site,
    pictures: PathBuf,
    _folder: TempDir,
}

impl Screen {
    async fn start() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let kept = std::env::var_os("SCREEN_PICTURES").map(PathBuf::from);
        let pictures = kept.unwrap_or_else(|| folder.path().to_owned());
        let (world, browser, site) = tokio::try_join!(World::start(), Browser::start(), Site::start())?;
        Ok(Self { world, browser, site, pictures, _folder: folder })
    }

    /// Where a client sends somebody.
    fn question(&self, client: &str, state: &str) -> String {
        let mut parameters = self.world.request(client);
        parameters.retain(|(name, _)| !matches!(*name, "redirect_uri" | "state"));
        parameters.extend([("redirect_uri", self.site.redirect_uri()), ("state", state.to_owned())]);
        self.world.authorize_url(&parameters)
    }

    fn consents(&self) -> String {
        format!("{}/consents", self.world.issuer)
    }

    /// Jane, at what a client asks her.
    async fn asked(&mut self) -> Result<()> {
        let url = self.question(CLIENT, "st-1");
        self.browser.goto(&url).await?;
        self.sign_in().await
    }

    /// On the page that asks who one is.
    async fn sign_in(&mut self) -> Result<()> {
        self.browser.select(On::label("User"), JANE).await?;
        self.browser.fill(On::label("Sign-in code"), &self.world.code).await?;
        self.browser.click(On::role("button", "Sign in")).await?;
        self.reads("Signed in as").await
    }

    async fn reads(&mut self, words: &str) -> Result<()> {
        let text = self.browser.text().await?;
        ensure!(text.contains(words), "{words:?} is not on {}:\n{text}", self.browser.url().await?);
        Ok(())
    }

    async fn allow(&mut self, reason: &str) -> Result<()> {
        self.browser.fill(REASON, reason).await?;
        self.browser.click(ALLOW).await?;
        self.browser.wait_url("**/done").await.map(drop)
    }

    /// The client fetches its tokens.
    async fn redeem(&self, client: &str, code: &str) -> Result<Answer> {
        let redirect_uri = self.site.redirect_uri();
        let form = [
            ("grant_type", "authorization_code"),
            ("client_id", client),
            ("code", code),
            ("code_verifier", VERIFIER),
            ("redirect_uri", &redirect_uri),
        ];
        self.world.post("/oauth/token", &form).await
    }

    async fn tokens(&self, client: &str, told: &Parameters) -> Result<Value> {
        let code = told.get("code").with_context(|| format!("{told:?}"))?;
        let answer = self.redeem(client, code).await?;
        ensure!(answer.status == 200, "{}: {}", answer.status, answer.text);
        Ok(answer.body)
    }

    /// What people consented to on the page, by the record; what an administrator issued is none of it.
    fn granted(&self) -> Result<Vec<Value>> {
        let records = self.world.deployment.audit(&["--kind", "control.event", "--limit", "200"])?;
        let events = records.into_iter().map(|mut record| record["control"].take());
        Ok(events.filter(|event| event["type"] == "consent_granted" && event["client"] != "bailiwick-admin").collect())
    }

    /// Takes a picture, which must not be wider than the window.
    async fn picture(&mut self, name: &str, look: Look) -> Result<()> {
        let path = Path::new(&self.pictures).join(format!("{name}.png"));
        let overflows = self.browser.screenshot(&path, look).await?;
        ensure!(!overflows, "{name} is wider than {} pixels", look.width);
        Ok(())
    }

    /// Nothing came from elsewhere, and no policy was in the way.
    async fn is_by_itself(&mut self) -> Result<()> {
        let own = [
            format!("{}/", self.world.issuer),
            format!("{}/", self.site.neighbour()),
            format!("{}/done", self.site.stranger()),
        ];
        let foreign: Vec<_> = self
            .browser
            .requests()
            .await?
            .into_iter()
            .filter(|url| !own.iter().any(|own| url.starts_with(own)))
            .collect();
        ensure!(foreign.is_empty(), "{foreign:?}");
        let complaints = self.browser.complaints().await?;
        // That an answer has the status of an error is one to browsers.
        ensure!(
            complaints.iter().all(|said| said.starts_with("Failed to load resource: the server responded")),
            "{complaints:?}"
        );
        Ok(())
    }
}
