//! A person's browser, as far as signing in needs one: it keeps cookies, follows redirects one by one and fills in the
//! provider's own forms.
//!
//! Cookies ignore ports, as in every browser, and count below their path. A test stops it on its way and looks, or goes
//! another way.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};
use bailiwick_tests::Answer;
use reqwest::{Url, header::HeaderMap, redirect::Policy};

/// Longest way that a sign-in takes: login, consent, and what lies between.
const STEPS_MAX: usize = 16;

/// See the file's header.
#[derive(Debug)]
pub(crate) struct Browser {
    http: reqwest::Client,
    /// By host, path and name.
    cookies: BTreeMap<(String, String, String), String>,
}

/// Where it is.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) url: Url,
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Seen {
    /// Where it is sent on to.
    pub(crate) fn location(&self) -> Option<Url> {
        self.url.join(self.headers.get("location")?.to_str().ok()?).ok()
    }

    fn attribute(&self, before: &str) -> Option<String> {
        let rest = self.text.split_once(before)?.1;
        Some(rest.split_once('"')?.0.replace("&amp;", "&"))
    }
}

impl Browser {
    pub(crate) fn new() -> Result<Self> {
        let http = reqwest::Client::builder().no_proxy().redirect(Policy::none()).build()?;
        Ok(Self { http, cookies: BTreeMap::new() })
    }

    /// One request, and what comes back, whatever it is.
    pub(crate) async fn visit(&mut self, url: &Url) -> Result<Seen> {
        let request = self.http.get(url.clone()).header("cookie", self.cookies_for(url));
        self.see(url, request).await
    }

    /// Sends a form.
    pub(crate) async fn submit(&mut self, url: &Url, form: &[(&str, &str)]) -> Result<Seen> {
        let request = self.http.post(url.clone()).header("cookie", self.cookies_for(url)).form(form);
        self.see(url, request).await
    }

    /// From `url` on through the provider's pages as `login`, until it is sent to a URL that begins like `end`: that
    /// one, not visited yet. Or where it went no further.
    pub(crate) async fn sign_in(&mut self, url: &Url, login: &str, end: &str) -> Result<Result<Url, Seen>> {
        let mut url = url.clone();
        for _ in 0..STEPS_MAX {
            if url.as_str().starts_with(end) {
                return Ok(Ok(url));
            }
            let mut seen = self.visit(&url).await?;
            if seen.location().is_none() {
                let (Some(action), Some(prompt)) =
                    (seen.attribute("action=\""), seen.attribute("name=\"prompt\" value=\""))
                else {
                    return Ok(Err(seen));
                };
                let form = [("prompt", prompt.as_str()), ("login", login), ("password", "any")];
                seen = self.submit(&url.join(&action)?, &form).await?;
            }
            url = seen.location().with_context(|| seen.text.clone())?;
        }
        bail!("the way does not end: {url}")
    }

    /// The names of cookies that go to this host.
    pub(crate) fn cookie_names(&self, host: &str) -> Vec<&str> {
        let of_host = self.cookies.keys().filter(|(of, _, _)| of == host);
        of_host.map(|(_, _, name)| name.as_str()).collect()
    }

    fn cookies_for(&self, url: &Url) -> String {
        let host = url.host_str().unwrap_or_default();
        let sent = self.cookies.iter().filter(|((of, path, _), _)| of == host && url.path().starts_with(path.as_str()));
        sent.map(|((_, _, name), value)| format!("{name}={value}")).collect::<Vec<_>>().join("; ")
    }

    async fn see(&mut self, url: &Url, request: reqwest::RequestBuilder) -> Result<Seen> {
        let answer = Answer::to(request).await?;
        let host = url.host_str().unwrap_or_default().to_owned();
        for line in answer.headers.get_all("set-cookie") {
            let mut parts = line.to_str()?.split(';').map(str::trim);
            let (name, value) = parts.next().and_then(|pair| pair.split_once('=')).context("a cookie")?;
            let attributes: BTreeMap<String, &str> = parts
                .map(|part| part.split_once('=').unwrap_or((part, "")))
                .map(|(k, v)| (k.to_lowercase(), v))
                .collect();
            let path = attributes.get("path").copied().unwrap_or("/").to_owned();
            let ends = attributes.get("max-age").is_some_and(|age| *age == "0")
                || attributes.get("expires").is_some_and(|date| date.contains("1970"));
            let key = (host.clone(), path, name.to_owned());
            if ends { drop(self.cookies.remove(&key)) } else { drop(self.cookies.insert(key, value.to_owned())) }
        }
        Ok(Seen { url: url.clone(), status: answer.status.as_u16(), headers: answer.headers, text: answer.text })
    }
}
