//! A sign-in that is under way: what is sealed into `state`, and the URL that it goes along with.
//!
//! Made and read by `oidc`. Invariant: what proves something at the end (nonce, verifier, the browser's number) is
//! drawn anew for each; the browser's number stands in the ticket as a hash only, so a ticket alone is of no use.
//! Specifications: OpenID Connect Core 1.0 §3.1.2.1, §15.5.2; RFC 7636 §4.

use aws_lc_rs::digest::{SHA256, digest};
use bailiwick_control_plane_core::resource::SignInSpec;
use bailiwick_token::same_secret;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

use super::fault::Fault;
use crate::clock;

/// How long somebody has at the provider, in seconds.
pub(super) const TICKET_SECONDS: i64 = 600;

/// See the file's header.
#[derive(Serialize, Deserialize)]
pub(super) struct Ticket {
    /// Tells the browser's cookies apart: there may be several tabs.
    pub(super) id: String,
    pub(super) provider: String,
    /// SHA-256 of what the browser's cookie holds, in hexadecimal.
    browser: String,
    /// Must stand in the ID token.
    pub(super) nonce: String,
    /// Goes with the code.
    pub(super) verifier: String,
    /// The page of ours where it ends.
    pub(super) to: String,
}

/// A new ticket, and what only the browser gets.
pub(super) struct Fresh {
    pub(super) ticket: Ticket,
    pub(super) browser: String,
}

impl Ticket {
    /// `None` where there is no randomness.
    pub(super) fn fresh(provider: &str, to: &str) -> Option<Fresh> {
        let random = || clock::random::<32>().ok().map(|bytes| URL_SAFE_NO_PAD.encode(bytes));
        let browser = random()?;
        let ticket = Self {
            id: hex::encode(clock::random::<6>().ok()?),
            provider: provider.to_owned(),
            browser: hash(&browser),
            nonce: random()?,
            verifier: random()?,
            to: to.to_owned(),
        };
        Some(Fresh { ticket, browser })
    }

    /// Whether it is of this provider, and of the browser that has this cookie.
    pub(super) fn check(&self, provider: &str, browser: Option<&str>) -> Result<(), Fault> {
        if self.provider != provider {
            return Err(Fault::MixedUp);
        }
        let is_of = |browser: &str| same_secret(hash(browser).as_bytes(), self.browser.as_bytes());
        if browser.is_some_and(is_of) { Ok(()) } else { Err(Fault::OtherBrowser) }
    }

    /// Where the browser goes.
    pub(super) fn authorization_url(&self, url: &str, sign_in: &SignInSpec, redirect_uri: &str, state: &str) -> String {
        let scope = sign_in.scopes.iter().map(String::as_str).collect::<Vec<_>>().join(" ");
        let challenge = URL_SAFE_NO_PAD.encode(digest(&SHA256, self.verifier.as_bytes()));
        let query = form_urlencoded::Serializer::new(String::new())
            .extend_pairs([
                ("response_type", "code"),
                ("response_mode", "query"),
                ("client_id", &sign_in.client_id),
                ("redirect_uri", redirect_uri),
                ("scope", &scope),
                ("state", state),
                ("nonce", &self.nonce),
                ("code_challenge", &challenge),
                ("code_challenge_method", "S256"),
            ])
            .finish();
        let sign = if url.contains('?') { '&' } else { '?' };
        format!("{url}{sign}{query}")
    }
}

fn hash(text: &str) -> String {
    hex::encode(digest(&SHA256, text.as_bytes()))
}
