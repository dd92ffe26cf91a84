//! CreateScimToken, RevokeScimToken and ListScimTokens: by what companies' directories are let in.
//!
//! A token is 256 random bits. Its text leaves in one answer and is nowhere kept; its hash is committed. Asked again
//! under the same request id, no other is made: whoever lost the answer revokes the token and makes another.

use bailiwick_control_plane_core::{Command, scim_token::CreateScimToken};
use bailiwick_proto::v1;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use tonic::Status;
use zeroize::Zeroizing;

use super::AdminService;
use crate::{clock, domain::Caller, minting, scim, status};

/// What tokens begin with, so that programs which look for secrets find them.
const PREFIX: &str = "bwscim_";

impl AdminService {
    pub(super) async fn let_directory_in(
        &self,
        actor: String,
        request: v1::CreateScimTokenRequest,
    ) -> Result<v1::CreateScimTokenResponse, Status> {
        let v1::CreateScimTokenRequest { name, ttl_seconds, request_id } = request;
        let random: [u8; 32] = clock::random().map_err(|_| Status::unavailable("there is no randomness now"))?;
        let random = Zeroizing::new(random);
        let token = Zeroizing::new(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(random.as_ref())));
        let now = self.domain.now_micros() / 1_000_000;
        let expires_at = (ttl_seconds > 0).then(|| now.saturating_add(ttl_seconds));
        let wish = CreateScimToken { name, hash: scim::hash(token.as_bytes()), expires_at };
        let caller = Caller { actor, request_id };
        let written = self.domain.write(Command::CreateScimToken(wish), caller).await.map_err(status::of_write)?;
        let issuer = self.domain.read(|state| minting::issuer(state).map(|(issuer, _)| issuer));
        Ok(v1::CreateScimTokenResponse {
            revision: written.revision,
            token: token.as_str().to_owned(),
            expires_at: expires_at.unwrap_or_default(),
            url: issuer.map(|issuer| format!("{issuer}{}", scim::PREFIX)).unwrap_or_default(),
        })
    }

    pub(super) async fn keep_directory_out(
        &self,
        actor: String,
        request: v1::RevokeScimTokenRequest,
    ) -> Result<v1::RevokeScimTokenResponse, Status> {
        let v1::RevokeScimTokenRequest { name, request_id } = request;
        let command = Command::RevokeScimToken { name };
        let written = self.domain.write(command, Caller { actor, request_id }).await.map_err(status::of_write)?;
        Ok(v1::RevokeScimTokenResponse { revision: written.revision })
    }

    pub(super) async fn scim_tokens(&self) -> Result<v1::ListScimTokensResponse, Status> {
        let listed = self.domain.read_latest(|state| {
            let tokens = state.scim_tokens.iter().map(|(name, token)| v1::ScimTokenInfo {
                name: name.clone(),
                actor: token.actor.clone(),
                time: token.changed.time,
                revision: token.changed.revision,
                expires_at: token.expires_at.unwrap_or_default(),
            });
            v1::ListScimTokensResponse { revision: state.revision, tokens: tokens.collect() }
        });
        listed.await.map_err(|error| status::of_consensus(&error))
    }
}
