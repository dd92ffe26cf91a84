//! `scim token create`, `list` and `revoke`: by what companies' directories are let in.
//!
//! A token is shown once, on standard output alone, so that it can be piped to where it is needed.

use bailiwick_proto::v1::{CreateScimTokenRequest, ListScimTokensRequest, RevokeScimTokenRequest, ScimTokenInfo};
use serde_json::{Value, json};

use crate::{
    admin::{admin, connect},
    args::{ScimCommand, ScimTokenCommand, ScimTokenCreateArgs, ScimTokenListArgs, ScimTokenRevokeArgs},
    commands::resources::request_id,
    failure::Failure,
    output::{print, print_list, table, text},
};

pub(crate) async fn run(urls: &str, command: ScimCommand) -> Result<(), Failure> {
    match command {
        ScimCommand::Token(ScimTokenCommand::Create(args)) => create(urls, args).await,
        ScimCommand::Token(ScimTokenCommand::List(args)) => list(urls, args).await,
        ScimCommand::Token(ScimTokenCommand::Revoke(args)) => revoke(urls, args).await,
    }
}

async fn create(urls: &str, args: ScimTokenCreateArgs) -> Result<(), Failure> {
    let ttl_seconds = args.ttl.map_or(0, |ttl| ttl.as_secs());
    let request = CreateScimTokenRequest { name: args.name.clone(), ttl_seconds, request_id: request_id()? };
    let mut control_planes = connect(urls).await?;
    let made =
        control_planes.ask(request, async |channel, asked| admin(channel).create_scim_token(asked).await).await?;
    let end = end(made.expires_at);
    let value = json!({
        "name": args.name,
        "token": made.token,
        "url": made.url,
        "expires_at": end,
        "revision": made.revision.to_string(),
    });
    print(args.output, &value, || {
        eprintln!("for {}, good until {end}; it is not shown again", made.url);
        made.token.clone()
    });
    Ok(())
}

async fn list(urls: &str, args: ScimTokenListArgs) -> Result<(), Failure> {
    let mut control_planes = connect(urls).await?;
    let asked = async |channel, asked| admin(channel).list_scim_tokens(asked).await;
    let listed = control_planes.ask(ListScimTokensRequest {}, asked).await?;
    let items = listed.tokens.iter().map(to_json).collect();
    print_list(args.output, items, |items| {
        let row = |item: &Value| ["name", "created_at", "actor", "expires_at"].map(|key| text(item, key)).to_vec();
        let rows: Vec<Vec<String>> = items.iter().map(row).collect();
        table(&["NAME", "CREATED", "BY", "GOOD UNTIL"], &rows)
    });
    Ok(())
}

fn to_json(token: &ScimTokenInfo) -> Value {
    let micros = i64::try_from(token.time).unwrap_or(i64::MAX);
    let created_at = jiff::Timestamp::from_microsecond(micros).map(|time| time.to_string()).unwrap_or_default();
    json!({
        "name": token.name,
        "created_at": created_at,
        "actor": token.actor,
        "expires_at": end(token.expires_at),
        "revision": token.revision.to_string(),
    })
}

fn end(expires_at: u64) -> String {
    let seconds = i64::try_from(expires_at).ok().filter(|seconds| *seconds > 0);
    let end = seconds.and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    end.map_or_else(|| "it is revoked".to_owned(), |end| end.to_string())
}

async fn revoke(urls: &str, args: ScimTokenRevokeArgs) -> Result<(), Failure> {
    let request = RevokeScimTokenRequest { name: args.name.clone(), request_id: request_id()? };
    let mut control_planes = connect(urls).await?;
    let revoked =
        control_planes.ask(request, async |channel, asked| admin(channel).revoke_scim_token(asked).await).await?;
    let value = json!({"name": args.name, "revision": revoked.revision.to_string()});
    print(args.output, &value, || format!("SCIM token {} lets nobody in any more", args.name));
    Ok(())
}
