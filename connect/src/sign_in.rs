//! Signing a person in: the browser goes to the authorization server, and comes back to this machine with a code.
//!
//! Called by `credentials` where no token can be had without the person. Discovery, a client, one question
//! (`question`), a way to the person (`person`), a listener for the answer (`callback`) or a pasted one, a grant.
//! Invariants: each sign-in has its own verifier, state and port; an answer counts once. Specifications: OAuth 2.1
//! §4.1; RFC 7636, 8252, 8707, 9207.

pub(crate) mod callback;
pub(crate) mod person;
pub(crate) mod question;

use std::time::Duration;

use bailiwick_runtime::Shutdown;
use tokio::{sync::mpsc, time::timeout};
use url::Url;

use self::{
    callback::Callback,
    person::Person,
    question::{Answer, Question},
};
use crate::{
    discovery::{self, Authority},
    fault::{Fault, printable},
    grant::{self, Granted},
    keeping::Kept,
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
}

/// Finds whom to ask, and as which client: `kept` says it afterwards. A registration goes on though the process is to
/// stop.
pub(crate) async fn introduce(web: &Web, wish: &Wish, kept: &mut Kept, stop: &Shutdown) -> Result<Introduced, Fault> {
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
    *kept = Kept {
        resource: wish.url.resource().to_owned(),
        issuer: authority.issuer.clone(),
        token_endpoint: authority.token_endpoint.to_string(),
        revocation_endpoint: authority.revocation_endpoint.as_ref().map(Url::to_string),
        client_id,
        registered,
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

/// Signs somebody in. A stop ends the waiting for them; what they answered is redeemed all the same.
pub(crate) async fn sign_in(
    web: &Web,
    wish: &Wish,
    kept: &Kept,
    Introduced { authority, .. }: &Introduced,
    person: &Person,
    stop: &Shutdown,
) -> Result<Granted, Fault> {
    let callback = Callback::bind().await?;
    let scope = wish.scope.clone().or_else(|| authority.scope.clone());
    let question = Question::new(authority, &kept.client_id, &wish.url, scope, &callback.redirect_uri())?;
    tell(authority, kept);
    let pasted = person.ask(question.url())?;
    let answer = stop.or_stop(timeout(PERSON_WAIT_MAX, answered(&question, &callback, pasted))).await;
    let answer = answer.ok_or(Fault::Stopping)?.map_err(|_elapsed| Fault::NobodySignedIn)??;
    let code = question.code(answer)?;
    let granted = redeem(web, authority, &kept.client_id, &question, &code, &wish.url).await?;
    eprintln!("Signed in.");
    Ok(granted)
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
    mut pasted: Option<mpsc::Receiver<String>>,
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
        answer = callback.answer(question) => answer,
        answer = typed => Ok(answer),
    }
}

async fn redeem(
    web: &Web,
    authority: &Authority,
    client_id: &str,
    question: &Question,
    code: &str,
    url: &McpUrl,
) -> Result<Granted, Fault> {
    let form = [
        ("grant_type", "authorization_code"),
        ("client_id", client_id),
        ("code", code),
        ("code_verifier", question.verifier()),
        ("redirect_uri", question.redirect_uri()),
        ("resource", url.resource()),
    ];
    grant::request(web, &authority.token_endpoint, &form).await
}
