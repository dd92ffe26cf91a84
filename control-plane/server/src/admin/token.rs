//! IssueToken: a consent granted by an administrator, and the access token for it.
//!
//! The consent is committed first; only then is a token minted, so no token exists without its consent on record.
//! A crash between the two leaves a consent without a token; the same request id then gives its token.

use bailiwick_control_plane_core::{Answer, Command, Grant, State, command::IssueToken};
use bailiwick_proto::v1;
use bailiwick_token::{Actor, Claims, mint};
use tonic::Status;

use super::{AdminService, MICROS};
use crate::{clock, domain::Caller, status};

/// What every token is good for until there are finer scopes.
const SCOPE: &str = "mcp:tools";
/// The client that administrators' tokens are issued to.
const CLIENT: &str = "bailiwick-admin";

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
            client: CLIENT.to_owned(),
        });
        let caller = Caller { actor, request_id: request.request_id };
        let written = self.domain.write(command, caller).await.map_err(status::of_write)?;
        let Answer::Granted(grant) = written.answer else {
            return Err(Status::already_exists(
                "this request id was used for something else, or its consent is forgotten",
            ));
        };
        let issuer = self.domain.read(issuer).ok_or_else(|| Status::unavailable("the issuer is not set yet"))?;
        let resource = format!("{}/{}", issuer.1, grant.virtual_server);
        let claims = claims(&grant, written.revision, issuer.0, resource.clone())?;
        let signing = self.keys.signing().ok_or_else(|| Status::unavailable("the token key is not made yet"))?;
        let token = mint(&claims, &signing).map_err(|error| {
            tracing::error!(%error, "a token could not be minted");
            Status::internal("the token could not be minted; its consent stands")
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

/// Issuer and MCP URL.
fn issuer(state: &State) -> Option<(String, String)> {
    state.issuer.as_ref().map(|issuer| (issuer.issuer.clone(), issuer.mcp_url.clone()))
}

fn claims(grant: &Grant, revision: u64, iss: String, aud: String) -> Result<Claims, Status> {
    let time = |seconds: u64| i64::try_from(seconds).map_err(|_| Status::internal("a time is out of range"));
    Ok(Claims {
        iss,
        aud,
        sub: grant.user.clone(),
        agent_sub: grant.agent.clone(),
        project_id: grant.project.clone(),
        client_id: grant.client.clone(),
        consent_id: grant.consent.clone(),
        sid: grant.session.clone(),
        scope: SCOPE.to_owned(),
        act: Actor { sub: grant.agent.clone() },
        jti: grant.jti.clone(),
        iat: time(grant.issued_at)?,
        nbf: None,
        exp: time(grant.expires_at)?,
        min_revision: Some(revision),
        binding_alg: None,
        binding: None,
    })
}
