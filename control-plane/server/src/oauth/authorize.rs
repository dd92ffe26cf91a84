//! The authorization endpoint: a client sends a person here, who signs in and is asked (`consent`).
//!
//! Nothing is kept while they think: what was asked travels with the page, sealed to their session. Order matters: as
//! long as client and redirect URI are not known to be right, the person is told and nobody is sent anywhere.

use axum::{
    extract::{RawQuery, State},
    http::{HeaderMap, StatusCode},
    response::Response,
};

use super::{
    AUTHORIZE_PATH, Services, consent,
    error::OAuthError,
    form::Form,
    request::{self, Asking},
};
use crate::{
    minting,
    pages::{self, Choice, Choose, ClientOrigin, Problem},
    refusals::told,
    sign_in,
};

/// Most virtual servers that people choose from.
const CHOICES_MAX: usize = 100;

pub(super) async fn authorize(
    State(services): State<Services>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let query = query.unwrap_or_default();
    let answered = ask(&services, &query, &headers).await;
    let user = || sign_in::session(&services, &headers).map(|session| session.user).unwrap_or_default();
    match answered {
        Ok(Asked::Answered(response)) => response,
        Ok(Asked::Fault(response, error)) => told(response, error.with(|about| about.user = user()).refusal()),
        Err(error) => {
            tracing::info!(error = error.word(), why = error.why(), "nobody is asked for a consent");
            services.metrics.token_refused(error.word());
            let hint = "Nothing was shared with anybody. If this goes on, tell who made the program you came from.";
            let (title, sentence) = ("This request cannot be answered".to_owned(), capitalised(error.why()));
            let page = Problem { title, sentence, hint: Some(hint.to_owned()) };
            let status = error.status();
            told(pages::respond(page, status, &[]), error.with(|about| about.user = user()).refusal())
        }
    }
}

fn capitalised(sentence: &str) -> String {
    let mut chars = sentence.chars();
    let first = chars.next().map(|first| first.to_uppercase().to_string()).unwrap_or_default();
    format!("{first}{}.", chars.as_str())
}

enum Asked {
    Answered(Response),
    /// The client is told of this on the way that the response leads.
    Fault(Response, OAuthError),
}

async fn ask(services: &Services, query: &str, headers: &HeaderMap) -> Result<Asked, OAuthError> {
    let form = Form::of_query(query)?;
    let not_ready = OAuthError::unavailable("the issuer is not set yet");
    let (issuer, mcp_url) = services.domain.read(minting::issuer).ok_or(not_ready)?;
    let Asking { client, back } = request::asking(services, &form).await?;
    let asked = match request::read(services, &form) {
        Ok(asked) => asked,
        // Nobody vouched for where it would lead (RFC 9700 §4.11.2).
        Err(fault) if client.origin == ClientOrigin::Itself => {
            return Err(request::said_to_be(&client, OAuthError::request(fault.1)));
        }
        Err(fault) => {
            services.metrics.token_refused(fault.0);
            let error = request::said_to_be(&client, OAuthError::fault(fault.0, fault.1));
            return Ok(Asked::Fault(sign_in::see_other(&back.error(&issuer, fault)), error));
        }
    };
    let Some(session) = sign_in::session(services, headers) else {
        let to_sign_in = sign_in::redirect(&issuer, &format!("{AUTHORIZE_PATH}?{query}"));
        return Ok(Asked::Answered(to_sign_in));
    };
    let Some(virtual_server) = asked.virtual_server.clone().or_else(|| only_one(services)) else {
        return Ok(Asked::Answered(choose(services, &issuer, &mcp_url, query)));
    };
    let question = consent::Question::new(&session, &client, back, asked, virtual_server);
    let question = question.ok_or(OAuthError::unavailable("there is no randomness"))?;
    let shown = consent::show(services, &issuer, &client, &question, consent::Answered::default());
    Ok(Asked::Answered(shown))
}

/// The virtual server where there is but one.
fn only_one(services: &Services) -> Option<String> {
    services.domain.read(|state| {
        let mut names = state.virtual_servers.keys();
        names.next().filter(|_| names.next().is_none()).cloned()
    })
}

/// The same request for one virtual server or another.
fn choose(services: &Services, issuer: &str, mcp_url: &str, query: &str) -> Response {
    let names: Vec<String> =
        services.domain.read(|state| state.virtual_servers.keys().take(CHOICES_MAX).cloned().collect());
    let choices = names.into_iter().map(|title| {
        let resource = minting::resource(mcp_url, &title);
        let chosen = form_urlencoded::Serializer::new(String::new()).append_pair("resource", &resource).finish();
        Choice { url: format!("{issuer}{AUTHORIZE_PATH}?{query}&{chosen}"), title }
    });
    let page = Choose {
        question: "For which server?".to_owned(),
        explanation: "The program did not say what it wants to use. What you allow next holds for one server."
            .to_owned(),
        choices: choices.collect(),
    };
    pages::respond(page, StatusCode::OK, &[])
}
