//! A scripted person: signs in at the provider, and allows a client what it asks for, as a browser would send it.
//!
//! Used by `world` to prepare codes; nothing here is measured. A person may answer thirty questions at once and one a
//! second after that (`oauth/limits.rs`), so there are many of them.

use anyhow::{Context as _, Result, ensure};
use reqwest::{Client, Response, StatusCode, Url, header};

use super::{provider, signing};

/// Known to the person's client alone; all of the load tester's clients have the same.
pub(super) const VERIFIER: &str = "bench-bench-bench-bench-bench-bench-bench-1";
/// Nobody listens there: the code is taken from where the person is sent.
pub(super) const REDIRECT_URI: &str = "http://127.0.0.1:9/cb";

/// Somebody who is signed in.
#[derive(Clone, Debug)]
pub(super) struct Person {
    /// The browser's cookies, as they are sent.
    cookies: String,
}

impl Person {
    /// Signs `user` in; `http` follows no redirects.
    pub(super) async fn sign_in(http: &Client, issuer: &str, user: &str) -> Result<Self> {
        let provider = provider::NAME;
        let begun = http.get(format!("{issuer}/sign-in/with/{provider}?return=%2Fconsents")).send().await?;
        let cookies = cookies(&begun);
        let to = location(&begun)?;
        let asked = |name: &str| {
            let found = to.query_pairs().find(|(known, _)| known == name).map(|(_, value)| value.into_owned());
            found.with_context(|| format!("the provider is not told a {name}"))
        };
        let mut back = Url::parse(&format!("{issuer}/sign-in/callback/{provider}"))?;
        let code = provider::code(user, &asked("nonce")?);
        back.query_pairs_mut().append_pair("code", &code).append_pair("state", &asked("state")?);
        let ended = http.get(back).header(header::COOKIE, cookies).send().await?;
        let (status, set) = (ended.status(), self::cookies(&ended));
        ensure!(status == StatusCode::SEE_OTHER && set.contains("-session="), "{user} is not signed in: {status}");
        Ok(Self { cookies: set })
    }

    /// A code for a client that asks to read, as whatever agent it has.
    pub(super) async fn code(&self, http: &Client, issuer: &str, ask: &Ask<'_>) -> Result<String> {
        let mut url = Url::parse(&format!("{issuer}/oauth/authorize"))?;
        let challenge = signing::encoded(signing::hashed(VERIFIER));
        url.query_pairs_mut().extend_pairs([
            ("response_type", "code"),
            ("client_id", ask.client),
            ("redirect_uri", REDIRECT_URI),
            ("code_challenge", &challenge),
            ("code_challenge_method", "S256"),
            ("resource", ask.resource),
            ("scope", "mcp:read"),
            ("state", "s"),
        ]);
        let page = http.get(url).header(header::COOKIE, &self.cookies).send().await?.text().await?;
        let request = between(&page, "name=\"request\" value=\"", '"').with_context(|| format!("no form: {page}"))?;
        let form = [
            ("request", request),
            ("agent", ask.agent),
            ("level", "retrieval"),
            ("only", "all"),
            ("duration", "3600"),
            ("reason", "load test"),
            ("decision", "allow"),
        ];
        let sent = http.post(format!("{issuer}/oauth/consent")).form(&form).header(header::COOKIE, &self.cookies);
        let left = sent.header(header::ORIGIN, issuer).send().await?.text().await?;
        let code = between(&left, "code=", '&').with_context(|| format!("no code: {left}"))?;
        Ok(code.to_owned())
    }
}

/// What a person is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ask<'a> {
    pub(super) client: &'a str,
    pub(super) agent: &'a str,
    pub(super) resource: &'a str,
}

/// What stands after `before` and ahead of `end`.
fn between<'a>(text: &'a str, before: &str, end: char) -> Option<&'a str> {
    let (_, rest) = text.split_once(before)?;
    rest.split_once(end).map(|(found, _)| found)
}

fn location(response: &Response) -> Result<Url> {
    let to = response.headers().get(header::LOCATION).with_context(|| format!("{}", response.status()))?;
    Ok(Url::parse(to.to_str()?)?)
}

/// The cookies that an answer sets to something.
fn cookies(response: &Response) -> String {
    let all = response.headers().get_all(header::SET_COOKIE).iter().filter_map(|value| value.to_str().ok());
    let pairs = all.filter_map(|set| set.split(';').next()).filter(|pair| !pair.ends_with('='));
    pairs.collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_between_is_found() {
        assert_eq!(between("a=1&code=x.y&state=s", "code=", '&'), Some("x.y"));
        assert_eq!(between("code=x", "code=", '&'), None);
    }
}
