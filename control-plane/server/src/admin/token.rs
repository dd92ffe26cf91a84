//! IssueToken: a consent granted by an administrator, and the access token for it.
//!
//! The consent is committed first; only then is a token minted, so no token exists without its consent on record.
//! A crash between the two leaves a consent without a token; the same request id then gives its token.

use bailiwick_control_plane_core::{Answer, Command, command::IssueToken, resource::ADMINISTRATORS_CLIENT};
use bailiwick_proto::{Tier, v1};
use bailiwick_token::{
    Thumbprint,
    binding::{BINDING_ALG, BindingKey},
};
use tonic::Status;

use super::{AdminService, MICROS};
use crate::{binding::Binding, clock, domain::Caller, minting, status};

impl AdminService {
    pub(super) async fn grant_token(
        &self,
        actor: String,
        request: v1::IssueTokenRequest,
    ) -> Result<v1::IssueTokenResponse, Status> {
        let level = match request.level.as_str() {
            "" => None,
            word => Some(word.parse().map_err(|error| Status::invalid_argument(format!("level: {error}")))?),
        };
        let binding = self.binding_of(&request.binding_alg, &request.dpop_jkt)?;
        let command = Command::IssueToken(IssueToken {
            user: request.user,
            agent: request.agent,
            virtual_server: request.virtual_server,
            level,
            ttl_seconds: request.ttl_seconds,
            reason: request.reason,
            client: ADMINISTRATORS_CLIENT.to_owned(),
        });
        let caller = Caller { actor, request_id: request.request_id };
        let written = self.domain.write(command, caller).await.map_err(status::of_write)?;
        let Answer::Granted(grant) = written.answer else {
            return Err(Status::already_exists(
                "this request id was used for something else, or its consent is forgotten",
            ));
        };
        // What it may be used for is its consent's matter.
        let minted = minting::mint(&self.domain, &self.keys, &grant, (Tier::Destructive, written.revision), &binding);
        let minting::Minted { token, binding_key, resource } = minted.map_err(|error| match error {
            minting::MintingError::NotReady => Status::unavailable(error.to_string()),
            minting::MintingError::Failed => Status::internal("the token could not be minted; its consent stands"),
        })?;
        self.metrics.token_issued();
        Ok(v1::IssueTokenResponse {
            access_token: token.expose().to_owned(),
            expires_in: grant.expires_at.saturating_sub(clock::now_micros() / MICROS),
            consent_id: grant.consent,
            session_id: grant.session,
            resource,
            level: grant.level.to_string(),
            revision: written.revision,
            binding_alg: word_of(&binding).to_owned(),
            binding_key: binding_key.as_ref().map(|key| BindingKey::expose(key).to_string()).unwrap_or_default(),
        })
    }

    /// What the token is to be bound to.
    fn binding_of(&self, binding_alg: &str, dpop_jkt: &str) -> Result<Binding, Status> {
        match (binding_alg, dpop_jkt) {
            ("", "") => Ok(Binding::Nothing),
            (BINDING_ALG, "") => {
                let binder = self.keys.binder();
                Ok(Binding::Envelope(binder.ok_or_else(|| Status::unavailable("no token can be bound now"))?))
            }
            ("", thumbprint) => {
                let key = Thumbprint::parse(thumbprint);
                Ok(Binding::Key(key.ok_or_else(|| Status::invalid_argument("dpop_jkt: not a SHA-256 thumbprint"))?))
            }
            (BINDING_ALG, _) => Err(Status::invalid_argument("a token is bound in one way: binding_alg or dpop_jkt")),
            _ => Err(Status::invalid_argument("binding_alg: aes-256-gcm is known here")),
        }
    }
}

/// The word for it in the answer.
const fn word_of(binding: &Binding) -> &'static str {
    match binding {
        Binding::Nothing => "",
        Binding::Envelope(_) => BINDING_ALG,
        Binding::Key(_) => "dpop",
        Binding::Certificate(_) => "certificate",
    }
}
