//! `keys list` and `keys rotate`: the keys that sign tokens and seal what clients and browsers bring back.
//!
//! Prints names of keys, never keys. What a rotation ends, it says.

use bailiwick_proto::v1::{KeyInfo, ListKeysRequest, RotateKeyRequest, RotateKeyResponse};
use serde_json::{Value, json};

use crate::{
    admin::{admin, connect},
    args::{KeysCommand, KeysListArgs, KeysRotateArgs, OwnKey},
    commands::resources::request_id,
    failure::Failure,
    output::{print, print_list, table, text},
};

pub(crate) async fn run(urls: &str, command: KeysCommand) -> Result<(), Failure> {
    match command {
        KeysCommand::List(args) => list(urls, args).await,
        KeysCommand::Rotate(args) => rotate(urls, args).await,
    }
}

async fn list(urls: &str, args: KeysListArgs) -> Result<(), Failure> {
    let mut control_planes = connect(urls).await?;
    let listed = control_planes.ask(ListKeysRequest {}, async |channel, asked| admin(channel).list_keys(asked).await);
    let items = listed.await?.keys.iter().map(to_json).collect();
    print_list(args.output, items, |items| {
        let row =
            |item: &Value| ["key", "id", "algorithm", "since", "state", "until"].map(|key| text(item, key)).to_vec();
        let rows: Vec<Vec<String>> = items.iter().map(row).collect();
        table(&["KEY", "ID", "ALGORITHM", "SINCE", "STATE", "UNTIL"], &rows)
    });
    Ok(())
}

fn to_json(key: &KeyInfo) -> Value {
    let micros = i64::try_from(key.since).unwrap_or(i64::MAX);
    let since = match micros {
        0 => String::new(),
        micros => jiff::Timestamp::from_microsecond(micros).map(|time| time.to_string()).unwrap_or_default(),
    };
    json!({
        "key": key.kind,
        "id": key.id,
        "algorithm": key.algorithm,
        "since": since,
        "state": key.state,
        "until": time(key.until),
    })
}

/// Unix seconds; 0 is none.
fn time(seconds: u64) -> String {
    let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
    if seconds == 0 {
        return String::new();
    }
    jiff::Timestamp::from_second(seconds).map(|time| time.to_string()).unwrap_or_default()
}

async fn rotate(urls: &str, args: KeysRotateArgs) -> Result<(), Failure> {
    let KeysRotateArgs { key, at_once, reason, output } = args;
    let request = RotateKeyRequest { kind: key.word().to_owned(), at_once, reason, request_id: request_id()? };
    let mut control_planes = connect(urls).await?;
    let rotated = control_planes.ask(request, async |channel, asked| admin(channel).rotate_key(asked).await).await?;
    let value = json!({
        "key": key.word(),
        "id": rotated.key,
        "kept": rotated.kept.iter().map(to_json).collect::<Vec<_>>(),
        "consents": rotated.consents.to_string(),
        "not_confirmed_by": rotated.silent,
        "revision": rotated.revision.to_string(),
    });
    print(output, &value, || told(key, at_once, &rotated));
    Ok(())
}

fn told(key: OwnKey, at_once: bool, rotated: &RotateKeyResponse) -> String {
    let mut lines = vec![format!("{} key {} is in use", key.word(), rotated.key)];
    for kept in &rotated.kept {
        lines.push(format!(
            "key {} is kept until {}, when the last of what it made has ended",
            kept.id,
            time(kept.until)
        ));
    }
    if at_once {
        lines.push(match key {
            OwnKey::TokenSigning => format!(
                "access tokens signed before are refused; {} live consents had one: their clients get the next by \
                 refresh, tokens that an administrator issued have to be issued again",
                rotated.consents
            ),
            OwnKey::Authorization => format!(
                "refresh tokens, codes and sessions made before have ended; clients of {} live consents have to ask \
                 their person again, who has to sign in again; access tokens go on to their end",
                rotated.consents
            ),
            OwnKey::TokenBinding => format!(
                "access tokens are refused that were bound before to a key given out with them; {} live consents had \
                 tokens, bound or not: clients get the next by refresh, tokens that an administrator issued have to be \
                 issued again",
                rotated.consents
            ),
            OwnKey::ContextSigning => "what data planes signed for services before counts no more, once a service has \
                                       fetched the keys again: after five minutes at most"
                .to_owned(),
        });
    }
    if !rotated.silent.is_empty() {
        let silent = rotated.silent.join(", ");
        lines.push(format!("not confirmed by: {silent}; each goes by the keys before until it has caught up"));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rotation_says_what_it_ended_and_who_did_not_hear_of_it() {
        let kept = KeyInfo { id: "k1".into(), until: 1_795_219_200, state: "kept".into(), ..KeyInfo::default() };
        let silent = vec!["cp-2".to_owned()];
        let rotated = RotateKeyResponse { key: "k2".into(), kept: vec![kept], consents: 7, silent, revision: 9 };
        let said = told(OwnKey::TokenSigning, false, &rotated);
        assert!(
            said.starts_with("token-signing key k2 is in use\nkey k1 is kept until 2026-11-21T00:00:00Z"),
            "{said}"
        );
        assert!(said.contains("not confirmed by: cp-2") && !said.contains("refused"), "{said}");
        let ended = RotateKeyResponse { kept: vec![], silent: vec![], ..rotated };
        for (key, word) in [(OwnKey::TokenSigning, "access tokens"), (OwnKey::Authorization, "refresh tokens")] {
            let said = told(key, true, &ended);
            assert!(said.contains("7 live consents") && said.contains(word) && !said.contains("kept"), "{said}");
        }
    }
}
