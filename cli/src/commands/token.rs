//! `token issue`: an admin-granted consent and a token under it.
//!
//! The token is shown once, on standard output; nothing keeps it.

use bailiwick_proto::v1::{IssueTokenRequest, IssueTokenResponse};
use serde_json::json;

use crate::{
    admin::{self, Admin, refusal},
    args::TokenIssueArgs,
    commands::resources::request_id,
    failure::Failure,
    output::print,
};

pub(crate) async fn issue(admin: &str, args: TokenIssueArgs) -> Result<(), Failure> {
    let mut client = admin::connect(admin).await?;
    let request = IssueTokenRequest {
        user: args.user,
        agent: args.agent,
        virtual_server: args.virtual_server,
        level: args.level.unwrap_or_default(),
        ttl_seconds: args.ttl.as_secs(),
        reason: args.reason,
        request_id: request_id()?,
    };
    let token = send(&mut client, request).await?;
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

pub(crate) async fn send(client: &mut Admin, request: IssueTokenRequest) -> Result<IssueTokenResponse, Failure> {
    Ok(client.issue_token(request).await.map_err(refusal)?.into_inner())
}
