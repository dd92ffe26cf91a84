//! `secret set`, `list` and `delete`: what data planes show to servers, and control planes to identity providers.
//!
//! A value goes one way: in. It is read from standard input or a file, so that it stands in no shell history and in no
//! list of processes, and nothing here ever prints one.

use std::{
    fs::File,
    io::{self, IsTerminal as _, Read},
};

use bailiwick_proto::v1::{DeleteSecretRequest, ListSecretsRequest, SecretInfo, SetSecretRequest};
use serde_json::{Value, json};

use crate::{
    admin::{admin, connect},
    args::{SecretCommand, SecretDeleteArgs, SecretListArgs, SecretSetArgs, ShownTo},
    commands::resources::request_id,
    failure::Failure,
    output::{print, print_list, table, text},
};

/// More than a control plane takes; a file that is longer is not read to its end.
const READ_BYTES_MAX: u64 = 64 * 1024;

pub(crate) async fn run(urls: &str, command: SecretCommand) -> Result<(), Failure> {
    match command {
        SecretCommand::Set(args) => set(urls, args).await,
        SecretCommand::List(args) => list(urls, args).await,
        SecretCommand::Delete(args) => delete(urls, args).await,
    }
}

async fn set(urls: &str, args: SecretSetArgs) -> Result<(), Failure> {
    let value = match &args.from_file {
        Some(path) => {
            let read = File::open(path).and_then(read);
            read.map_err(|error| Failure::Refused(format!("{}: {error}", path.display())))?
        }
        None if io::stdin().is_terminal() => {
            let advice = "give the value on standard input, which is not a terminal, or with --from-file";
            return Err(Failure::Refused(advice.to_owned()));
        }
        None => read(io::stdin()).map_err(Failure::refused)?,
    };
    let audience = args.shown_to.word().to_owned();
    let request = SetSecretRequest { name: args.name.clone(), value, request_id: request_id()?, audience };
    let mut control_planes = connect(urls).await?;
    let sealed = control_planes.ask(request, async |channel, asked| admin(channel).set_secret(asked).await).await?;
    let value = json!({"name": args.name, "revision": sealed.revision.to_string()});
    print(args.output, &value, || format!("secret {} is sealed", args.name));
    Ok(())
}

/// The value: everything but one line end behind it.
fn read(from: impl Read) -> io::Result<Vec<u8>> {
    let mut value = Vec::new();
    from.take(READ_BYTES_MAX).read_to_end(&mut value)?;
    let without = value.strip_suffix(b"\n").map(|value| value.strip_suffix(b"\r").unwrap_or(value));
    let length = without.unwrap_or(&value).len();
    value.truncate(length);
    Ok(value)
}

async fn list(urls: &str, args: SecretListArgs) -> Result<(), Failure> {
    let mut control_planes = connect(urls).await?;
    let asked = async |channel, asked| admin(channel).list_secrets(asked).await;
    let listed = control_planes.ask(ListSecretsRequest {}, asked).await?;
    let items = listed.secrets.iter().map(to_json).collect();
    print_list(args.output, items, |items| {
        let row = |item: &Value| ["name", "for", "set_at", "actor", "used_by"].map(|key| text(item, key)).to_vec();
        let rows: Vec<Vec<String>> = items.iter().map(row).collect();
        table(&["NAME", "FOR", "SET", "BY", "USED BY"], &rows)
    });
    Ok(())
}

fn to_json(secret: &SecretInfo) -> Value {
    let micros = i64::try_from(secret.time).unwrap_or(i64::MAX);
    let set_at = jiff::Timestamp::from_microsecond(micros).map(|time| time.to_string()).unwrap_or_default();
    json!({
        "name": secret.name,
        "for": secret.audience,
        "set_at": set_at,
        "actor": secret.actor,
        "revision": secret.revision.to_string(),
        "used_by": secret.used_by,
    })
}

async fn delete(urls: &str, args: SecretDeleteArgs) -> Result<(), Failure> {
    let request = DeleteSecretRequest { name: args.name.clone(), request_id: request_id()? };
    let mut control_planes = connect(urls).await?;
    let deleted = control_planes.ask(request, async |channel, asked| admin(channel).delete_secret(asked).await).await?;
    let (name, used_by) = (&args.name, &deleted.used_by);
    let revision = deleted.revision.to_string();
    let value = json!({"name": name, "for": deleted.audience, "revision": revision, "used_by": used_by});
    print(args.output, &value, || {
        let ends =
            if deleted.audience == ShownTo::IdentityProvider.word() { "nobody signs in" } else { "calls are refused" };
        match used_by.as_slice() {
            [] => format!("secret {name} is deleted"),
            using => format!("secret {name} is deleted; {ends} now at: {}", using.join(", ")),
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_end_behind_a_value_is_left_out() {
        for (given, value) in [("key", "key"), ("key\n", "key"), ("key\r\n", "key"), ("a\nb\n\n", "a\nb\n"), ("", "")] {
            assert_eq!(read(given.as_bytes()).unwrap(), value.as_bytes(), "{given:?}");
        }
    }
}
