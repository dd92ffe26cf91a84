//! Pages around signing in: who one is, a choice between few things, and ends of the road.

use super::text::filters;

/// Who are you? The ways to say it.
#[derive(askama::Template)]
#[template(path = "sign_in.html")]
pub(crate) struct SignIn {
    /// What was wrong the last time.
    pub(crate) problem: Option<String>,
    /// The company's providers.
    pub(crate) providers: Vec<Choice>,
    /// Signing in without one.
    pub(crate) local: Option<LocalSignIn>,
}

/// A link to go on by. The URL is ours or an administrator's.
#[derive(Clone, Debug)]
pub(crate) struct Choice {
    pub(crate) title: String,
    pub(crate) url: String,
}

/// A form for trying things out: fields `request`, `user` and `code`.
pub(crate) struct LocalSignIn {
    /// Where it is posted to.
    pub(crate) action: String,
    /// Comes back as it is.
    pub(crate) request: String,
    /// Who there is.
    pub(crate) users: Vec<String>,
}

/// One question with few answers, each a link.
#[derive(askama::Template)]
#[template(path = "choose.html")]
pub(crate) struct Choose {
    pub(crate) question: String,
    pub(crate) explanation: String,
    pub(crate) choices: Vec<Choice>,
}

/// An error that is not sent back to the client: it may not be one.
#[derive(askama::Template)]
#[template(path = "problem.html")]
pub(crate) struct Problem {
    pub(crate) title: String,
    pub(crate) sentence: String,
    /// What to do about it.
    pub(crate) hint: Option<String>,
}

/// Back to the client, by a page of our own: browsers hold all redirects that follow a form to the form's policy, also
/// those that the client makes afterwards.
#[derive(askama::Template)]
#[template(path = "leaving.html")]
pub(crate) struct Leaving {
    /// An http or https URL; another one leads nowhere.
    pub(crate) url: String,
    pub(crate) host: String,
}

/// Nobody is signed in any more.
#[derive(askama::Template)]
#[template(path = "signed_out.html")]
pub(crate) struct SignedOut {}
