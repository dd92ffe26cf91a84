//! Why nobody is signed in: what they read, and what our log says.
//!
//! Made by all of `oidc`. Invariant: neither holds anything that a provider or a browser sent, but OAuth's own words.

use axum::{http::StatusCode, response::Response};
use bailiwick_control_plane_core::{refusal::Refusal, resource::Nobody};
use bailiwick_proto::names;
use bailiwick_token::assertion::AssertionError;

use crate::{
    oauth::Services,
    pages::{self, Problem},
    providers::ProviderUnavailable,
    refusals::told_why,
    sign_in,
};

/// See the file's header.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("the request is not one that a page of ours or a provider makes")]
    NotOurs,
    #[error("there is no such provider, it is not active, or nobody signs in there")]
    NoProvider,
    #[error("the state is not ours, or too old")]
    Stale,
    #[error("the state is of another browser, or was used before")]
    OtherBrowser,
    #[error("the answer is of another provider than was asked")]
    MixedUp,
    #[error("the provider declined: {0}")]
    Declined(&'static str),
    #[error(transparent)]
    Provider(ProviderUnavailable),
    #[error("the provider does not take the code: {0}")]
    Exchange(&'static str),
    #[error("the secret for the provider is not set")]
    NoSecret,
    #[error("the ID token: {0}")]
    IdToken(AssertionError),
    #[error("the ID token is not for this sign-in: {0}")]
    NotForThis(&'static str),
    #[error("{0}")]
    Nobody(#[from] Nobody),
    #[error("the cluster is not ready")]
    NotNow,
}

const AGAIN: &str = "Go back to where you came from and try again.";
const ASK: &str = "If it stays like this, tell the people who run this gateway; their log says more.";

impl Fault {
    /// The page, and the line in the log.
    pub(super) fn page(self, services: &Services, provider: &str) -> Response {
        // Of a path, so perhaps a stranger's text.
        let provider = if names::is_resource_name(provider) { provider } else { "?" };
        tracing::info!(provider, why = %self, "somebody could not sign in at an identity provider");
        services.metrics.token_refused("sign_in");
        let (status, title, sentence, hint) = self.told();
        let is_known = services.domain.read(|state| state.identity_providers.contains_key(provider));
        let provider = if is_known { provider.to_owned() } else { String::new() };
        let page = if matches!(self, Self::NotNow) {
            sign_in::not_now()
        } else {
            let (title, sentence) = (title.to_owned(), sentence.to_owned());
            pages::respond(Problem { title, sentence, hint: Some(hint.to_owned()) }, status, &[])
        };
        told_why(page, &self.to_string(), Refusal { provider, ..Refusal::default() })
    }

    /// Status, title, sentence and advice.
    const fn told(&self) -> (StatusCode, &'static str, &'static str, &'static str) {
        const DID_NOT_WORK: &str = "That did not work";
        const NOT_SIGNED_IN: &str = "You are not signed in";
        const CANNOT: &str = "You cannot sign in";
        match self {
            Self::NotOurs => (StatusCode::BAD_REQUEST, DID_NOT_WORK, "The request is not complete.", AGAIN),
            Self::NoProvider => {
                (StatusCode::NOT_FOUND, DID_NOT_WORK, "Nobody signs in at this identity provider here.", AGAIN)
            }
            Self::Stale => (StatusCode::BAD_REQUEST, NOT_SIGNED_IN, "The sign-in took too long.", AGAIN),
            Self::OtherBrowser => {
                let sentence = "The sign-in was begun in another browser, or has ended already.";
                (StatusCode::FORBIDDEN, NOT_SIGNED_IN, sentence, AGAIN)
            }
            Self::MixedUp => {
                let sentence = "The answer came from another identity provider than the one that was asked.";
                (StatusCode::FORBIDDEN, NOT_SIGNED_IN, sentence, ASK)
            }
            Self::Declined(_) => {
                (StatusCode::FORBIDDEN, NOT_SIGNED_IN, "Your identity provider did not sign you in.", AGAIN)
            }
            Self::Provider(_) => {
                let sentence = "Your identity provider does not answer as it should at the moment.";
                (StatusCode::BAD_GATEWAY, NOT_SIGNED_IN, sentence, ASK)
            }
            Self::Exchange(_) | Self::NoSecret => {
                let sentence = "Your identity provider did not confirm the sign-in to us.";
                (StatusCode::BAD_GATEWAY, NOT_SIGNED_IN, sentence, ASK)
            }
            Self::IdToken(_) | Self::NotForThis(_) => {
                let sentence = "What your identity provider says of you could not be verified.";
                (StatusCode::FORBIDDEN, NOT_SIGNED_IN, sentence, ASK)
            }
            Self::Nobody(nobody) => (StatusCode::FORBIDDEN, CANNOT, about(*nobody), ASK),
            Self::NotNow => (StatusCode::SERVICE_UNAVAILABLE, NOT_SIGNED_IN, "The cluster does not answer.", AGAIN),
        }
    }
}

const fn about(nobody: Nobody) -> &'static str {
    match nobody {
        Nobody::Unnamed => "Your identity provider does not say who you are in the way it is known for here.",
        Nobody::Unverified => "Your identity provider does not say that your e-mail address is verified.",
        Nobody::Domain | Nobody::Required => "Your identity provider does not speak for you here.",
        Nobody::GroupsElsewhere => {
            "You are in so many groups that your identity provider leaves them out, so nobody knows what you may do."
        }
        Nobody::GroupsUnreadable => "What your identity provider says of your groups cannot be read.",
    }
}
