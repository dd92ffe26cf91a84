//! `token issue`: an admin-granted consent and a token under it.
//!
//! The token is shown once, on standard output; nothing keeps it.

use bailiwick_proto::v1::{IssueTokenRequest, IssueTokenResponse};
use bailiwick_token::binding::BINDING_ALG;
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
        binding_alg: if args.bind { BINDING_ALG.to_owned() } else { String::new() },
        dpop_jkt: args.dpop_jkt.clone().unwrap_or_default(),
    };
    let token = send(&mut control_planes, request).await?;
    // An older control plane knows nothing of it, and would give a token that anybody can use.
    if args.bind && (token.binding_alg != BINDING_ALG || token.binding_key.is_empty()) {
        return Err(Failure::refused("the control plane does not bind tokens; upgrade it, and revoke the consent"));
    }
    let is_dpop = args.dpop_jkt.is_some();
    if is_dpop && token.binding_alg != "dpop" {
        return Err(Failure::refused("the control plane does not bind tokens; upgrade it, and revoke the consent"));
    }
    let mut value = json!({
        "access_token": token.access_token,
        "token_type": if is_dpop { "DPoP" } else { "Bearer" },
        "expires_in": token.expires_in,
        "consent_id": token.consent_id,
        "session_id": token.session_id,
        "resource": token.resource,
        "level": token.level,
        "revision": token.revision.to_string(),
    });
    if let Some(told) = value.as_object_mut().filter(|_| args.bind) {
        told.insert("binding_alg".to_owned(), token.binding_alg.clone().into());
        told.insert("binding_key".to_owned(), token.binding_key.clone().into());
    }
    print(args.output, &value, || {
        if args.bind {
            eprintln!(
                "bound: each call needs a proof made with this key, which is not shown again\n{}",
                token.binding_key
            );
        }
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
