//! A client's request for authorization (OAuth 2.1 §4.1.1), read strictly.
//!
//! In two steps: who asks and where the answer goes; until that is known to be right nobody is sent anywhere
//! ([`Asking`]). Then everything else, whose faults the client is told ([`Request`]). PKCE with S256 is not optional,
//! and a code is for one virtual server (RFC 8707). Called by `authorize`.

use bailiwick_control_plane_core::{
    Wish,
    authorization::{GrantConsent, is_challenge},
    binding::{Bound, BoundWish},
    resource::redirect,
};
use bailiwick_proto::{Tier, scope::Scopes};
use bailiwick_token::dpop::is_thumbprint;
use serde::{Deserialize, Serialize};

use super::{
    Services,
    clients::{self, KnownClient},
    error::OAuthError,
    form::Form,
};
use crate::minting;

/// Longest `state`.
const STATE_BYTES_MAX: usize = 2_048;

/// Who asks, and where the answer goes.
#[derive(Debug)]
pub(super) struct Asking {
    pub(super) client: KnownClient,
    pub(super) back: Back,
}

/// Where the answer goes, with what it has to say besides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Back {
    pub(super) redirect_uri: String,
    state: Option<String>,
}

/// What whoever redeems the code has to hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Holder {
    /// PKCE challenge (S256).
    pub(super) challenge: String,
    /// Thumbprint of a key (`dpop_jkt`, RFC 9449 §10), if the client says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    jkt: Option<String>,
}

impl Holder {
    /// The wish, whose code is bound to the key.
    pub(super) fn wish(&self, wish: GrantConsent) -> Wish {
        let wish = Wish::GrantConsent(wish);
        match self.jkt.clone() {
            Some(jkt) => Wish::Bound(BoundWish { bound: Bound::Key { jkt }, proved: false, of: Box::new(wish) }),
            None => wish,
        }
    }
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Request {
    /// What its code is bound to.
    pub(super) holder: Holder,
    /// The virtual server, if the client says which.
    pub(super) virtual_server: Option<String>,
    /// The most harmful tier of the scope.
    pub(super) wanted: Tier,
}

/// An error that the client is told (RFC 6749 §4.1.2.1): its word, and a sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fault(pub(super) &'static str, pub(super) &'static str);

impl Back {
    /// The URL with these parameters; `iss` says who answers (RFC 9207).
    pub(super) fn url(&self, issuer: &str, parameters: &[(&str, &str)]) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(parameters);
        if let Some(state) = &self.state {
            query.append_pair("state", state);
        }
        let query = query.append_pair("iss", issuer).finish();
        let joint = if self.redirect_uri.contains('?') { '&' } else { '?' };
        format!("{}{joint}{query}", self.redirect_uri)
    }

    /// The URL that tells the client of an error.
    pub(super) fn error(&self, issuer: &str, Fault(word, sentence): Fault) -> String {
        self.url(issuer, &[("error", word), ("error_description", sentence)])
    }
}

/// Who asks and where the answer goes; the error is for the person alone.
pub(super) async fn asking(services: &Services, form: &Form) -> Result<Asking, OAuthError> {
    let id = form.one("client_id")?.ok_or(OAuthError::request("client_id is missing"))?;
    let client = clients::find(services, id).await?.filter(|client| client.spec.active);
    let client = client.ok_or(OAuthError::request("the client is not known here, or not active"))?;
    back(form, &client).map(|back| Asking { back, client: client.clone() }).map_err(|error| said_to_be(&client, error))
}

/// What is refused to whoever says to be this client: nobody proves anything here.
pub(super) fn said_to_be(client: &KnownClient, error: OAuthError) -> OAuthError {
    error.with(|about| {
        about.client.clone_from(&client.id);
        about.claimed = true;
    })
}

fn back(form: &Form, client: &KnownClient) -> Result<Back, OAuthError> {
    let registered = &client.spec.redirect_uris;
    let redirect_uri = match form.one("redirect_uri")? {
        Some(uri) => uri,
        None if registered.len() == 1 => registered.first().map(String::as_str).unwrap_or_default(),
        None => return Err(OAuthError::request("redirect_uri is missing")),
    };
    if !redirect::is_registered(redirect_uri, registered.iter()) {
        return Err(OAuthError::request("the redirect_uri is not one that this client registered"));
    }
    let state = form.one("state")?.filter(|state| state.len() <= STATE_BYTES_MAX).map(str::to_owned);
    if form.has("state") && state.is_none() {
        return Err(OAuthError::request("the state is too long"));
    }
    Ok(Back { redirect_uri: redirect_uri.to_owned(), state })
}

/// What is asked for; the fault is for the client.
pub(super) fn read(services: &Services, form: &Form) -> Result<Request, Fault> {
    let twice = |_| Fault("invalid_request", "a parameter is there more than once");
    let invalid = |sentence| Fault("invalid_request", sentence);
    for unheard in ["request", "request_uri"] {
        if form.has(unheard) {
            let word = if unheard == "request" { "request_not_supported" } else { "request_uri_not_supported" };
            return Err(Fault(word, "requests are read from the parameters alone"));
        }
    }
    match form.one("response_type").map_err(twice)? {
        Some("code") => {}
        Some(_) => return Err(Fault("unsupported_response_type", "only code is answered")),
        None => return Err(invalid("response_type is missing")),
    }
    if form.one("response_mode").map_err(twice)?.is_some_and(|mode| mode != "query") {
        return Err(invalid("only response_mode query is answered"));
    }
    // What names no method means plain (RFC 7636 §4.3).
    if form.one("code_challenge_method").map_err(twice)? != Some("S256") {
        return Err(invalid("code_challenge_method must be S256"));
    }
    let challenge = form.one("code_challenge").map_err(twice)?.filter(|text| is_challenge(text));
    let challenge = challenge.ok_or(invalid("code_challenge is missing or is not one of method S256"))?.to_owned();
    if form.one("prompt").map_err(twice)?.is_some_and(|words| words.split(' ').any(|word| word == "none")) {
        return Err(Fault("interaction_required", "people are always asked here"));
    }
    let wanted = match form.one("scope").map_err(twice)? {
        Some(words) => Scopes::parse(words).level(),
        // The least harmful that most tools need; a client that needs more asks for it.
        None => Some(Tier::Transactional),
    };
    let wanted = wanted.ok_or(Fault("invalid_scope", "none of the scopes is known here"))?;
    let jkt = form.one("dpop_jkt").map_err(twice)?.map(str::to_owned);
    if jkt.as_deref().is_some_and(|jkt| !is_thumbprint(jkt)) {
        return Err(invalid("dpop_jkt is not the SHA-256 thumbprint of a key"));
    }
    Ok(Request { holder: Holder { challenge, jkt }, virtual_server: virtual_server(services, form)?, wanted })
}

fn virtual_server(services: &Services, form: &Form) -> Result<Option<String>, Fault> {
    let [url] = form.all("resource") else {
        let none = form.all("resource").is_empty();
        return if none { Ok(None) } else { Err(Fault("invalid_target", "a token is for one resource")) };
    };
    let found = services.domain.read(|state| of_resource(state, url));
    found.map(Some).ok_or(Fault("invalid_target", "the resource is not known here"))
}

/// The virtual server whose URL this is; a final slash is as good as none.
pub(super) fn of_resource(state: &bailiwick_control_plane_core::State, url: &str) -> Option<String> {
    let (_, mcp_url) = minting::issuer(state)?;
    let name = url.strip_prefix(&mcp_url)?.strip_prefix('/')?;
    let name = name.strip_suffix('/').unwrap_or(name);
    state.virtual_servers.contains_key(name).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_goes_where_it_is_wanted_with_what_was_sent_along() {
        let back = |uri: &str, state: Option<&str>| Back { redirect_uri: uri.into(), state: state.map(str::to_owned) };
        let url = back("https://app.example/cb", Some("a b&c=d")).url("https://id.example", &[("code", "x+y")]);
        assert_eq!(url, "https://app.example/cb?code=x%2By&state=a+b%26c%3Dd&iss=https%3A%2F%2Fid.example");
        let url = back("https://app.example/cb?x=1", None).error("https://id.example", Fault("access_denied", "no"));
        assert!(url.starts_with("https://app.example/cb?x=1&error=access_denied&"), "{url}");
        assert!(url.ends_with("&iss=https%3A%2F%2Fid.example"), "{url}");
    }
}
