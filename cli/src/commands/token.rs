//! `token issue`: an admin-granted consent and a token under it.
//!
//! The token is shown once, on standard output; nothing keeps it.

use bailiwick_proto::v1::{IssueTokenRequest, IssueTokenResponse};
use serde_json::json;

use crate::{
    admin::{ControlPlanes, admin, connect},
    args::TokenIssueArgs,
    commands::resources::request_id,
    failure::Failure,
    output::print,
};

pub(crate) async fn issue(urls: &str, args: TokenIssueArgs) -> Result<(), Failure> {
    let mut control_planes = connect(urls).await?;
    let request = IssueTokenRequest {
        user: args.user,
        agent: args.agent,
        virtual_server: args.virtual_server,
        level: args.level.unwrap_or_default(),
        ttl_seconds: args.ttl.as_secs(),
        reason: args.reason,
        request_id: request_id()?,
    };
    let token = send(&mut control_planes, request).await?;
    let value = json!({
        "access_token": token.access_token,
        "token_type": "Bearer",
        "expires_in": token.expires_in,
        "consent_id": token.consent_id,
        "session_id": token.session_id,
        "resource": token.resource,
        "level": token.level,
        "revision": token.revision.to_string(),
    });
    print(args.output, &value, || {
        eprintln!(
            "for {} at level {}, {} seconds, under consent {}",
            token.resource, token.level, token.expires_in, token.consent_id
        );
        token.access_token.clone()
    });
    Ok(())
}

pub(crate) async fn send(
    control_planes: &mut ControlPlanes,
    request: IssueTokenRequest,
) -> Result<IssueTokenResponse, Failure> {
    control_planes.ask(request, async |channel, asked| admin(channel).issue_token(asked).await).await
}
