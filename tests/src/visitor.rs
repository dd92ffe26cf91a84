//! A person's browser without a screen: follows redirects within one origin, keeps cookies, reads and sends forms.
//!
//! What a page's form holds is read from the page, as a browser would; what a person would choose is given. Where the
//! way leads to another origin it stops, and says where: a client's redirect URI has nobody behind it in most tests.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use reqwest::{Client, StatusCode, header, redirect::Policy};

/// Most redirects of one way.
const REDIRECTS_MAX: usize = 8;

/// A browser with its cookies.
#[derive(Clone, Debug)]
pub struct Visitor {
    http: Client,
    /// By name; of one host alone.
    pub cookies: BTreeMap<String, String>,
    /// Sent with each form, as browsers do.
    pub origin: Option<String>,
}

/// What came back at the end of a way.
#[derive(Clone, Debug)]
pub struct Page {
    /// Where that is.
    pub url: String,
    pub status: StatusCode,
    pub headers: header::HeaderMap,
    pub text: String,
    /// To another origin; nobody went there.
    pub elsewhere: Option<String>,
}

impl Page {
    /// The value of a hidden field, or of the first field of that name.
    ///
    /// # Errors
    /// When there is none.
    pub fn field(&self, name: &str) -> Result<String> {
        let marked = format!("name=\"{name}\" value=\"");
        let at = self.text.find(&marked).with_context(|| format!("no field {name} in:\n{}", self.text))?;
        let rest = self.text.get(at + marked.len()..).unwrap_or_default();
        Ok(rest.split('"').next().unwrap_or_default().replace("&amp;", "&").replace("&#47;", "/"))
    }

    /// A parameter of where it led elsewhere.
    ///
    /// # Errors
    /// When it led nowhere else.
    pub fn parameter(&self, name: &str) -> Result<Option<String>> {
        let elsewhere = self.elsewhere.as_deref();
        let url = elsewhere.with_context(|| format!("{} at {}:\n{}", self.status, self.url, self.text))?;
        let url = url::Url::parse(url)?;
        Ok(url.query_pairs().find(|(known, _)| known == name).map(|(_, value)| value.into_owned()))
    }
}

/// Where a page leads by itself.
fn refreshed(text: &str) -> Option<String> {
    let (_, rest) = text.split_once("<meta http-equiv=\"refresh\" content=\"0;url=")?;
    Some(rest.split('"').next()?.replace("&#38;", "&").replace("&amp;", "&"))
}

impl Visitor {
    /// A fresh browser.
    ///
    /// # Errors
    /// When there can be none.
    pub fn new() -> Result<Self> {
        let http = Client::builder().no_proxy().redirect(Policy::none()).build()?;
        Ok(Self { http, cookies: BTreeMap::new(), origin: None })
    }

    /// Goes there, and on as long as the way stays with that origin.
    ///
    /// # Errors
    /// When nothing answers, or the way does not end.
    pub async fn go(&mut self, url: &str) -> Result<Page> {
        self.visit(url, None).await
    }

    /// Sends a form.
    ///
    /// # Errors
    /// When nothing answers, or the way does not end.
    pub async fn send(&mut self, url: &str, form: &[(&str, &str)]) -> Result<Page> {
        self.visit(url, Some(form)).await
    }

    /// Signs in with the local sign-in's code, on the page that asks for it.
    ///
    /// # Errors
    /// When the page is another one.
    pub async fn sign_in(&mut self, page: &Page, user: &str, code: &str) -> Result<Page> {
        let request = page.field("request")?;
        let action = url::Url::parse(&page.url)?.join("/sign-in/local")?;
        self.send(action.as_str(), &[("request", &request), ("user", user), ("code", code)]).await
    }

    async fn visit(&mut self, url: &str, mut form: Option<&[(&str, &str)]>) -> Result<Page> {
        let mut at = url::Url::parse(url)?;
        for _ in 0..REDIRECTS_MAX {
            let mut request = match form.take() {
                Some(form) => {
                    let request = self.http.post(at.clone()).form(form);
                    let origin = self.origin.clone().unwrap_or_else(|| at.origin().ascii_serialization());
                    request.header("origin", origin).header("sec-fetch-site", "same-origin")
                }
                None => self.http.get(at.clone()),
            };
            if !self.cookies.is_empty() {
                let all: Vec<_> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
                request = request.header(header::COOKIE, all.join("; "));
            }
            let response = request.send().await.with_context(|| at.to_string())?;
            let (status, headers) = (response.status(), response.headers().clone());
            self.keep(&headers);
            let to = headers.get(header::LOCATION).filter(|_| status.is_redirection());
            let to = to.map(|to| at.join(to.to_str()?).map_err(anyhow::Error::from)).transpose()?;
            match to {
                Some(to) if to.origin() == at.origin() => at = to,
                elsewhere => {
                    let text = response.text().await?;
                    let elsewhere = elsewhere.map(String::from).or_else(|| refreshed(&text));
                    return Ok(Page { url: at.into(), status, headers, text, elsewhere });
                }
            }
        }
        bail!("the way from {url} does not end")
    }

    fn keep(&mut self, headers: &header::HeaderMap) {
        for set in headers.get_all(header::SET_COOKIE).iter().filter_map(|value| value.to_str().ok()) {
            let Some((name, value)) = set.split(';').next().and_then(|pair| pair.split_once('=')) else { continue };
            if value.is_empty() || set.contains("Max-Age=0") {
                self.cookies.remove(name);
            } else {
                self.cookies.insert(name.to_owned(), value.to_owned());
            }
        }
    }

    /// The only cookie it has.
    ///
    /// # Errors
    /// When it has none or several.
    pub fn cookie(&self) -> Result<(&str, &str)> {
        ensure!(self.cookies.len() == 1, "{:?}", self.cookies.keys());
        self.cookies.iter().map(|(name, value)| (name.as_str(), value.as_str())).next().context("no cookie")
    }
}
