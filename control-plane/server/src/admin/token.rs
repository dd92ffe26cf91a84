//! IssueToken: a consent granted by an administrator, and the access token for it.
//!
//! The consent is committed first; only then is a token minted, so no token exists without its consent on record.
//! A crash between the two leaves a consent without a token; the same request id then gives its token.

use bailiwick_control_plane_core::{Answer, Command, command::IssueToken, resource::ADMINISTRATORS_CLIENT};
use bailiwick_proto::{Tier, v1};
use tonic::Status;

use super::{AdminService, MICROS};
use crate::{clock, domain::Caller, minting, status};

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
        let minted = minting::mint(&self.domain, &self.keys, &grant, Tier::Destructive, written.revision);
        let minting::Minted { token, resource } = minted.map_err(|error| match error {
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
        })
    }
}
