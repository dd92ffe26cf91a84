//! Signing a person in: the browser goes to the authorization server, and comes back to this machine with a code.
//!
//! Called by `credentials` where no token can be had without the person. Discovery, a client, one question
//! (`question`), a way to the person (`person`), a listener for the answer (`callback`) or a pasted one, a grant.
//! Invariants: each sign-in has its own verifier, state, port and, where tokens are bound by it, key; an answer counts
//! once. Specifications: OAuth 2.1 §4.1; RFC 7636, 8252, 8707, 9207, 9449.

pub(crate) mod callback;
pub(crate) mod person;
pub(crate) mod question;

use std::time::Duration;

use bailiwick_runtime::Shutdown;
use tokio::time::timeout;
use url::Url;

use self::{
    callback::Callback,
    person::{Asked, Person},
    question::{Answer, Question},
};
use crate::{
    discovery::{self, Authority, OFFLINE_ACCESS},
    fault::{Fault, printable},
    grant::{self, Granted},
    keeping::Kept,
    possession::{Asking, Binding, DpopKey, Offers},
    target::McpUrl,
    web::Web,
};

/// The client where none is named and none can be registered: administrators register it under this name.
pub const CLIENT_ID: &str = "bailiwick-connect";
/// What is registered as its redirect URI; the port is each sign-in's own (RFC 8252 §7.3).
pub const REDIRECT_URI: &str = "http://127.0.0.1/callback";
/// How long a person has.
const PERSON_WAIT_MAX: Duration = Duration::from_secs(300);

/// What is asked for, and by whom.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    pub(crate) url: McpUrl,
    pub(crate) client_id: Option<String>,
    pub(crate) scope: Option<String>,
    pub(crate) binding: Binding,
}

/// What was learned since the start, and changes what is asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Learned {
    /// More than what strangers are told to ask for.
    pub(crate) scope: Option<String>,
    /// The resource takes nothing but proofs by DPoP.
    pub(crate) must_be_dpop: bool,
}

/// Finds whom to ask, and as which client, for which scope and with which key: `kept` says it afterwards. A
/// registration goes on though the process is to stop.
pub(crate) async fn introduce(
    web: &Web,
    wish: &Wish,
    learned: &Learned,
    kept: &mut Kept,
    stop: &Shutdown,
) -> Result<Introduced, Fault> {
    let found = stop.or_stop(discovery::discover(web, &wish.url)).await;
    let authority = found.unwrap_or(Err(Fault::Stopping))?;
    // A registration counts with the server that gave it, and with no other.
    let is_known = kept.registered && kept.issuer == authority.issuer;
    let (client_id, registered, is_new) = match (&wish.client_id, &authority.registration_endpoint) {
        (Some(id), _) => (id.clone(), false, false),
        (None, _) if is_known => (kept.client_id.clone(), true, false),
        (None, Some(endpoint)) => (grant::register(web, endpoint, REDIRECT_URI).await?, true, true),
        (None, None) => (CLIENT_ID.to_owned(), false, false),
    };
    let must_be_dpop = learned.must_be_dpop || authority.offers.must_be_dpop;
    let by_dpop = wish.binding.by_dpop(Offers { must_be_dpop, ..authority.offers });
    let scope = learned.scope.as_ref().map(|wider| with_renewal(wider, authority.scope.as_deref()));
    *kept = Kept {
        resource: authority.resource.clone(),
        issuer: authority.issuer.clone(),
        token_endpoint: authority.token_endpoint.to_string(),
        revocation_endpoint: authority.revocation_endpoint.as_ref().map(Url::to_string),
        client_id,
        registered,
        scope: scope.or_else(|| wish.scope.clone()).or_else(|| authority.scope.clone()),
        is_bound: false,
        dpop_key: by_dpop.then(DpopKey::generate).transpose()?,
        refresh_token: None,
        endpoint_secret: kept.endpoint_secret.take(),
    };
    Ok(Introduced { authority, is_new })
}

/// See [`introduce`].
pub(crate) struct Introduced {
    authority: Authority,
    /// The client registered itself just now, which is to be kept whatever becomes of the sign-in.
    pub(crate) is_new: bool,
}

impl Introduced {
    pub(crate) const fn token_endpoint(&self) -> &Url {
        &self.authority.token_endpoint
    }

    /// Whether the server says of itself that it binds tokens.
    pub(crate) const fn can_bind(&self) -> bool {
        self.authority.offers.envelope || self.authority.offers.dpop
    }
}

/// Signs somebody in. A stop ends the waiting for them; what they answered is redeemed all the same.
pub(crate) async fn sign_in(
    web: &Web,
    wish: &Wish,
    kept: &Kept,
    Introduced { authority, .. }: &Introduced,
    person: &Person,
    stop: &Shutdown,
) -> Result<Granted, Fault> {
    let asking = Asking::of(wish.binding, kept.dpop_key.as_ref().map(|key| key.as_str()))?;
    let jkt = match &asking {
        Asking::Dpop(key) => Some(key.thumbprint()),
        Asking::Envelope | Asking::Nothing => None,
    };
    let callback = Callback::bind().await?;
    let scope = kept.scope.as_deref();
    let question = Question::new(authority, &kept.client_id, scope, jkt, &callback.redirect_uri())?;
    tell(authority, kept);
    let asked = person.ask(question.url(), &callback.way()?)?;
    let answer = stop.or_stop(timeout(PERSON_WAIT_MAX, answered(&question, &callback, asked))).await;
    let answer = answer.ok_or(Fault::Stopping)?.map_err(|_elapsed| Fault::NobodySignedIn)??;
    let code = question.code(answer)?;
    let granted = redeem(web, authority, &kept.client_id, &question, &code, &asking).await?;
    eprintln!("Signed in.");
    Ok(granted)
}

/// A wider scope, with what a refresh token takes where the server wants that said.
fn with_renewal(wider: &str, said: Option<&str>) -> String {
    let is_said = |scope: &str| scope.split_whitespace().any(|word| word == OFFLINE_ACCESS);
    if said.is_some_and(is_said) && !is_said(wider) { format!("{wider} {OFFLINE_ACCESS}") } else { wider.to_owned() }
}

fn tell(authority: &Authority, kept: &Kept) {
    let issuer = printable(&authority.issuer);
    if kept.client_id == CLIENT_ID && !kept.registered {
        eprintln!(
            "{issuer} takes no programs that register themselves. If it does not know `{CLIENT_ID}`, ask its \
             administrator to register that client, or give one with --client-id."
        );
    }
    eprintln!("Sign in at {issuer} to go on.");
}

/// The first answer that is one: from the browser, or from whoever pastes it.
async fn answered(
    question: &Question,
    callback: &Callback,
    Asked { mut pasted, is_opened }: Asked,
) -> Result<Answer, Fault> {
    let typed = async {
        while let Some(lines) = &mut pasted
            && let Some(line) = lines.recv().await
        {
            match question.pasted(&line) {
                Ok(answer) => return answer,
                Err(fault) => eprintln!("{fault}"),
            }
        }
        std::future::pending().await
    };
    tokio::select! {
        answer = callback.answer(question, is_opened) => answer,
        answer = typed => Ok(answer),
    }
}

async fn redeem(
    web: &Web,
    authority: &Authority,
    client_id: &str,
    question: &Question,
    code: &str,
    asking: &Asking,
) -> Result<Granted, Fault> {
    let form = [
        ("grant_type", "authorization_code"),
        ("client_id", client_id),
        ("code", code),
        ("code_verifier", question.verifier()),
        ("redirect_uri", question.redirect_uri()),
        ("resource", &authority.resource),
    ];
    grant::request(web, &authority.token_endpoint, &form, asking).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wider_scope_keeps_what_a_refresh_token_takes() {
        for (wider, said, asked) in [
            ("a b", Some("a offline_access"), "a b offline_access"),
            ("a offline_access", Some("offline_access"), "a offline_access"),
            ("a b", Some("a"), "a b"),
            ("a b", None, "a b"),
        ] {
            assert_eq!(with_renewal(wider, said), asked);
        }
    }
}
