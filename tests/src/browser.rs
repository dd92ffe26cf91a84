//! A person's browser: a real Chromium without a screen, steered through `tests/peers/browser.mjs`.
//!
//! A [`Browser`] is a process with an empty profile of its own; [`Browser::fresh`] makes it somebody else's. It acts as
//! a person does: on what is visible and can be used, found by its role and name, and one thing only. Every wait is
//! bounded, here and in the driver; when dropped it ends, and its profile with it.

mod tabs;

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{self as blocking, RecvTimeoutError},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{sync::mpsc, time::timeout};

use crate::{
    deployment::{kill, repository},
    peers::place,
    wait::WAIT_MAX,
};

/// How long it may take to close; the driver gives up before that.
const CLOSE_WAIT_MAX: Duration = Duration::from_secs(10);
/// Answers that nobody has read yet: one for each order, and orders wait for theirs.
const ANSWERS_MAX: usize = 1;

/// What to act on: exactly one thing must fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum On<'a> {
    /// An ARIA role and the whole accessible name: `button`, `Allow`.
    Role {
        /// `button`, `radio`, `checkbox`, `link`, `heading`, …
        role: &'a str,
        /// As a screen reader would say it.
        name: &'a str,
    },
    /// A field by the whole text of its label, with what else is in there.
    Label {
        /// The text.
        label: &'a str,
    },
    /// A CSS selector.
    Css {
        /// The selector.
        css: &'a str,
    },
}

impl<'a> On<'a> {
    /// By role and name.
    #[must_use]
    pub const fn role(role: &'a str, name: &'a str) -> Self {
        Self::Role { role, name }
    }

    /// By label.
    #[must_use]
    pub const fn label(label: &'a str) -> Self {
        Self::Label { label }
    }

    /// By CSS selector.
    #[must_use]
    pub const fn css(css: &'a str) -> Self {
        Self::Css { css }
    }
}

/// How a page is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Look {
    /// In CSS pixels.
    pub width: u32,
    /// In CSS pixels.
    pub height: u32,
    /// The person prefers dark.
    pub dark: bool,
}

impl Look {
    /// On a telephone.
    pub const PHONE: Self = Self { width: 390, height: 844, dark: false };
    /// On a desk.
    pub const DESK: Self = Self { width: 1280, height: 800, dark: false };

    /// The same in the dark.
    #[must_use]
    pub const fn dark(self) -> Self {
        Self { dark: true, ..self }
    }
}

/// What has the keyboard.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Focused {
    /// The element's name: `input`, `button`.
    pub tag: String,
    /// Its `name`, or nothing.
    pub name: String,
    /// Its `value`, or nothing.
    pub value: String,
    /// Its label, or what is written on it.
    pub text: String,
}

/// A cookie as the browser keeps it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cookie {
    pub name: String,
    pub value: String,
    pub domain: String,
    pub path: String,
    pub http_only: bool,
    pub secure: bool,
    /// `Strict`, `Lax` or `None`.
    pub same_site: String,
    /// In seconds since 1970; -1 for a cookie of the session.
    pub expires: f64,
}

/// A running browser; stopped when dropped.
#[derive(Debug)]
pub struct Browser {
    child: Child,
    orders: Option<ChildStdin>,
    answers: mpsc::Receiver<String>,
    ended: blocking::Receiver<()>,
    _profile: TempDir,
    /// Chromium's version.
    pub version: String,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    value: Value,
    error: Option<String>,
}

impl Browser {
    /// Starts it with an empty page.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start() -> Result<Self> {
        let profile = tempfile::tempdir()?;
        let mut command = Command::new(place("PEER_NODE")?);
        command.arg("tests/peers/browser.mjs").arg(place("PEER_CHROMIUM")?).current_dir(repository());
        command.env("TMPDIR", profile.path()).env("HOME", profile.path());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let (orders, stdout) = (child.stdin.take(), child.stdout.take().context("stdout")?);
        let (say, answers) = mpsc::channel(ANSWERS_MAX);
        let (end, ended) = blocking::channel();
        std::thread::spawn(move || {
            let _end = end;
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                // Also what nobody wants any more: the end of all lines is the end of the driver.
                drop(say.blocking_send(line));
            }
        });
        let mut browser = Self { child, orders, answers, ended, _profile: profile, version: String::new() };
        browser.version = browser.answer("start").await?;
        Ok(browser)
    }

    /// Somebody else's: without cookies and with nothing loaded.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn fresh(&mut self) -> Result<()> {
        self.ask(json!({"do": "fresh"})).await
    }

    /// Goes there, and gives the status of where that led.
    ///
    /// # Errors
    /// When nobody answers, or with nothing to show.
    pub async fn goto(&mut self, url: &str) -> Result<u16> {
        self.ask(json!({"do": "goto", "url": url})).await
    }

    /// Clicks, and waits for the page that this leads to, if it does.
    ///
    /// # Errors
    /// When there is no such thing, several, or it cannot be used.
    pub async fn click(&mut self, on: On<'_>) -> Result<()> {
        self.ask(json!({"do": "click", "on": on})).await
    }

    /// Fills a field.
    ///
    /// # Errors
    /// As [`Self::click`].
    pub async fn fill(&mut self, on: On<'_>, text: &str) -> Result<()> {
        self.ask(json!({"do": "fill", "on": on, "text": text})).await
    }

    /// Chooses from a list, by value.
    ///
    /// # Errors
    /// As [`Self::click`].
    pub async fn select(&mut self, on: On<'_>, value: &str) -> Result<()> {
        self.ask(json!({"do": "select", "on": on, "value": value})).await
    }

    /// Ticks a checkbox or chooses a radio button.
    ///
    /// # Errors
    /// As [`Self::click`].
    pub async fn check(&mut self, on: On<'_>) -> Result<()> {
        self.ask(json!({"do": "check", "on": on})).await
    }

    /// Takes a tick away.
    ///
    /// # Errors
    /// As [`Self::click`].
    pub async fn uncheck(&mut self, on: On<'_>) -> Result<()> {
        self.ask(json!({"do": "uncheck", "on": on})).await
    }

    /// Presses a key: `Tab`, `Shift+Tab`, `Enter`, `Space`, `ArrowDown`.
    ///
    /// # Errors
    /// When there is no such key.
    pub async fn press(&mut self, key: &str) -> Result<()> {
        self.ask(json!({"do": "press", "key": key})).await
    }

    /// Types a text into what has the keyboard.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn type_text(&mut self, text: &str) -> Result<()> {
        self.ask(json!({"do": "type", "text": text})).await
    }

    /// How many of these can be seen.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn count(&mut self, on: On<'_>) -> Result<usize> {
        self.ask(json!({"do": "count", "on": on})).await
    }

    /// What can be read on the page.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn text(&mut self) -> Result<String> {
        self.ask(json!({"do": "text"})).await
    }

    /// The page's title.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn title(&mut self) -> Result<String> {
        self.ask(json!({"do": "title"})).await
    }

    /// What has the keyboard.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn focused(&mut self) -> Result<Option<Focused>> {
        self.ask(json!({"do": "focused"})).await
    }

    /// Presses Tab until something has the keyboard for which this holds.
    ///
    /// # Errors
    /// When it has been everywhere.
    pub async fn tab_to(&mut self, wanted: impl Fn(&Focused) -> bool) -> Result<Focused> {
        const STOPS_MAX: usize = 100;
        for _ in 0..STOPS_MAX {
            self.press("Tab").await?;
            if let Some(focused) = self.focused().await?.filter(&wanted) {
                return Ok(focused);
            }
        }
        bail!("the keyboard does not get there")
    }

    /// Where it is.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn url(&mut self) -> Result<String> {
        self.ask(json!({"do": "url"})).await
    }

    /// Waits until it is at a URL that fits (`**/callback?code=*`), and gives it.
    ///
    /// # Errors
    /// When it does not get there.
    pub async fn wait_url(&mut self, glob: &str) -> Result<String> {
        self.ask(json!({"do": "wait_url", "glob": glob})).await
    }

    /// Takes a picture of the whole page. Gives whether the page is wider than the window.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn screenshot(&mut self, path: &Path, look: Look) -> Result<bool> {
        let Look { width, height, dark } = look;
        let order = json!({"do": "screenshot", "path": path, "width": width, "height": height, "dark": dark});
        let taken: Value = self.ask(order).await?;
        taken.get("overflows").and_then(Value::as_bool).context("no picture")
    }

    /// All cookies.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn cookies(&mut self) -> Result<Vec<Cookie>> {
        self.ask(json!({"do": "cookies"})).await
    }

    /// Every URL that pages asked for, in order.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn requests(&mut self) -> Result<Vec<String>> {
        self.ask(json!({"do": "requests"})).await
    }

    /// Where answers redirected to, in order, also where it did not go: to another program, or against a policy.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn redirects(&mut self) -> Result<Vec<String>> {
        self.ask(json!({"do": "redirects"})).await
    }

    /// What the browser complained about: what a policy refused, what could not be loaded.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn complaints(&mut self) -> Result<Vec<String>> {
        self.ask(json!({"do": "complaints"})).await
    }

    async fn ask<T: DeserializeOwned>(&mut self, order: Value) -> Result<T> {
        let orders = self.orders.as_mut().context("it is closed")?;
        writeln!(orders, "{order}").context("the browser is gone")?;
        self.answer(&order.to_string()).await
    }

    async fn answer<T: DeserializeOwned>(&mut self, order: &str) -> Result<T> {
        let line = timeout(WAIT_MAX, self.answers.recv()).await.with_context(|| format!("no answer to {order}"))?;
        let line = line.with_context(|| format!("the browser ended at {order}"))?;
        let Answer { value, error } = serde_json::from_str(&line)?;
        if let Some(error) = error {
            bail!("{order}: {error}");
        }
        serde_json::from_value(value).with_context(|| format!("{order}: {line}"))
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        drop(self.orders.take());
        self.answers.close();
        if self.ended.recv_timeout(CLOSE_WAIT_MAX) == Err(RecvTimeoutError::Timeout) {
            kill(self.child.id(), "KILL");
        }
        drop(self.child.wait());
    }
}
