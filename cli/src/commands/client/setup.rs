//! `client setup`: one entry in an MCP client's configuration, put in and taken out again.
//!
//! What is written is made by `clients`, shown as a difference, and asked about. Invariants: nothing is written that
//! was not shown; a secret of the local endpoint is in no file that others may read.

use std::{
    io::{self, BufRead as _, IsTerminal as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use bailiwick_connect::{Connection, McpUrl, Options, Reach};
use bailiwick_runtime::{Shutdown, config::default_data_dir};

use crate::{
    args::{ClientSetupArgs, IdentityArgs, SetupScope},
    clients::{self, Client, Entry, Malformed, difference::difference, undo},
    commands::connect,
    failure::Failure,
    output::{printed, show},
};

/// Longest name of a server.
const NAME_BYTES_MAX: usize = 64;

pub(super) async fn setup(args: &ClientSetupArgs) -> Result<(), Failure> {
    let client = clients::named(&args.client)?;
    let url = McpUrl::parse(args.url.as_deref().unwrap_or_default()).map_err(connect::failure)?;
    connect::check(&identity(args))?;
    let server = server_name(args, &url)?;
    let file = file(client, args)?;
    let before = read(&file)?;
    let entry = client.entry(&Box::pin(entry(args, &url, &file)).await?)?;
    let text = before.as_deref().unwrap_or_default();
    let after = client.with_entry(text, &server, &entry).map_err(|malformed| left_alone(&file, &malformed))?;
    if !may_write(&file, text, &after, args.yes)? {
        return Ok(());
    }
    let wrong = |error| Failure::Refused(format!("{}: {error}", file.display()));
    let backup = backup(&file, &server);
    // What an undo is to bring back has no entry of ours, though the file was changed since the last one.
    let is_again = backup.written().map_err(wrong)?.is_some();
    let without = match &before {
        Some(text) if is_again && has_ours(client, text, &server) => {
            Some(client.without_entry(text, &server).map_err(|malformed| left_alone(&file, &malformed))?)
        }
        _ => before.clone(),
    };
    let staged = backup.stage(&file, &server, (before.as_deref(), without.as_deref()), &after).map_err(wrong)?;
    undo::replace(&file, before.as_deref(), Some(&after)).map_err(wrong)?;
    staged.commit().map_err(wrong)?;
    let identity = identity(args);
    show(&format!("{} has the server `{server}`. ", client.title));
    match args.http {
        None => show(&format!("To sign in now:\n\n  {}\n", connect::sign_in_command(&url, &identity))),
        Some(address) => {
            let command = connect::command_line(&url, &["--http", &address.to_string()], &identity);
            show(&format!("Keep this running:\n\n  {command}\n"));
        }
    }
    Ok(())
}

pub(super) fn undo(args: &ClientSetupArgs) -> Result<(), Failure> {
    let client = clients::named(&args.client)?;
    let server = args.name.as_deref().unwrap_or_default();
    let file = file(client, args)?;
    let wrong = |error| Failure::Refused(format!("{}: {error}", file.display()));
    let backup = backup(&file, server);
    let none = || Failure::Refused(format!("`{server}` was not written into {} by this command", file.display()));
    let written = backup.written().map_err(wrong)?.ok_or_else(none)?;
    let Some(present) = read(&file)? else {
        return Err(Failure::Refused(format!("{} is gone", file.display())));
    };
    let restored = if written.is_untouched(&present) {
        backup.before(&written).map_err(wrong)?
    } else {
        let without = client.without_entry(&present, server).map_err(|malformed| left_alone(&file, &malformed))?;
        show("The file was changed since; this one entry is taken out.\n");
        Some(without)
    };
    if !may_write(&file, &present, restored.as_deref().unwrap_or_default(), args.yes)? {
        return Ok(());
    }
    undo::replace(&file, Some(&present), restored.as_deref()).map_err(wrong)?;
    backup.forget().map_err(wrong)
}

/// Whether the entry of this name starts us.
fn has_ours(client: &Client, text: &str, server: &str) -> bool {
    client.servers(text).is_ok_and(|servers| servers.get(server).is_some_and(clients::is_ours))
}

/// What the client is to do.
async fn entry(args: &ClientSetupArgs, url: &McpUrl, file: &Path) -> Result<Entry, Failure> {
    let identity = identity(args);
    let Some(address) = args.http else {
        let program = std::env::current_exe().map_err(Failure::refused)?;
        let mut arguments = vec!["connect".to_owned(), url.to_string()];
        arguments.extend(connect::identity_words(&identity));
        return Ok(Entry::Program(program.display().to_string(), arguments));
    };
    if args.scope == SetupScope::Project {
        let advice = "a project's file is for others too, and must hold no secret: leave --http out";
        return Err(Failure::Usage(advice.to_owned()));
    }
    if std::fs::metadata(file).is_ok_and(|found| found.permissions().mode() & 0o077 != 0) {
        let advice = "others may read it, and a secret is to be written: `chmod 600` it first";
        return Err(Failure::Refused(format!("{}: {advice}", file.display())));
    }
    let options = Options {
        url: url.clone(),
        client_id: identity.client_id.clone(),
        scope: None,
        binding: connect::binding(identity.binding),
        key_store: connect::key_store(identity.keys),
        folder: connect::folder(),
        to_sign_out: false,
        reach: Reach { browser: false, terminal: false },
        sign_in_command: String::new(),
    };
    let connection = Connection::open(options, Shutdown::new()).await.map_err(connect::failure)?;
    let secret = connection.endpoint_secret().await.map_err(connect::failure)?;
    Ok(Entry::Http(format!("http://{address}/mcp"), secret.to_string()))
}

fn identity(args: &ClientSetupArgs) -> IdentityArgs {
    IdentityArgs { client_id: args.client_id.clone(), scope: None, binding: args.binding, keys: args.keys }
}

fn server_name(args: &ClientSetupArgs, url: &McpUrl) -> Result<String, Failure> {
    let last = || url.url().path_segments()?.rfind(|part| !part.is_empty()).map(str::to_owned);
    let name = args.name.clone().or_else(last).unwrap_or_else(|| "bailiwick".to_owned());
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.chars().all(is_name) {
        return Err(Failure::Usage("--name must be letters, digits, `-`, `_` and `.`".to_owned()));
    }
    Ok(name)
}

fn file(client: &Client, args: &ClientSetupArgs) -> Result<PathBuf, Failure> {
    match args.scope {
        SetupScope::User => Ok(client.user_file(&clients::home()?)),
        SetupScope::Project => {
            let here = std::env::current_dir().map_err(Failure::refused)?;
            let none = || Failure::Usage(format!("{} keeps no servers with projects", client.title));
            client.project_file(&here).ok_or_else(none)
        }
    }
}

fn read(file: &Path) -> Result<Option<String>, Failure> {
    undo::read(file).map_err(|error| Failure::Refused(format!("{}: {error}", file.display())))
}

fn backup(file: &Path, server: &str) -> undo::Backup {
    undo::Backup::of(&default_data_dir().join("clients"), file, server)
}

fn left_alone(file: &Path, malformed: &Malformed) -> Failure {
    Failure::Refused(format!("{} is left alone: {}", file.display(), printed(&malformed.0)))
}

/// Shows what would change, and asks. `false` if nothing would.
fn may_write(file: &Path, before: &str, after: &str, yes: bool) -> Result<bool, Failure> {
    let shown = difference(before, after);
    if shown.is_empty() {
        show(&format!("{} is as it should be\n", file.display()));
        return Ok(false);
    }
    show(&format!("{}\n{shown}", printed(&file.display().to_string())));
    if yes {
        return Ok(true);
    }
    if !io::stdin().is_terminal() {
        return Err(Failure::Refused("nothing was written: there is nobody to ask; say --yes".to_owned()));
    }
    show("Write this? [y/N] ");
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).map_err(Failure::refused)?;
    if matches!(answer.trim(), "y" | "Y" | "yes") {
        return Ok(true);
    }
    Err(Failure::Refused("nothing was written".to_owned()))
}
