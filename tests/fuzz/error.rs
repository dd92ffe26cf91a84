//! What `form` refuses with, where the authorization server's own refusal would bring the whole server along.
//!
//! `form` is the server's own file, which finds this one beside it.

/// A refusal.
#[derive(Debug)]
pub(crate) struct OAuthError;

impl OAuthError {
    /// The request is not one.
    pub(crate) const fn request(_why: &'static str) -> Self {
        Self
    }
}
