//! `client list`: which MCP clients are on this machine, and which of their servers lead through Bailiwick.
//!
//! Reads the files that `clients` names and changes nothing. A file that cannot be read is said to be so; nothing of
//! what stands in it is shown but the names of entries that are ours.

use std::path::Path;

use serde_json::{Value, json};

use crate::{
    args::ClientListArgs,
    clients::{self, Client, undo},
    failure::Failure,
    output::{print_list, table, text},
};

pub(super) fn list(args: &ClientListArgs) -> Result<(), Failure> {
    let home = clients::home()?;
    let here = std::env::current_dir().map_err(Failure::refused)?;
    let mut items = Vec::new();
    for client in &clients::ALL {
        if client.is_installed(&home) {
            items.push(item(client, "user", &client.user_file(&home)));
        }
        let project = client.project_file(&here).filter(|file| file.is_file() && *file != client.user_file(&home));
        items.extend(project.map(|file| item(client, "project", &file)));
    }
    print_list(args.output, items, |items| {
        if items.is_empty() {
            return "no MCP client was found".to_owned();
        }
        let columns = ["client", "scope", "servers", "state", "file"];
        let rows: Vec<_> = items.iter().map(|item| columns.map(|column| text(item, column)).to_vec()).collect();
        table(&["CLIENT", "SCOPE", "BAILIWICK", "STATE", "FILE"], &rows)
    });
    Ok(())
}

fn item(client: &Client, scope: &str, file: &Path) -> Value {
    let (state, servers) = match undo::read(file) {
        Err(error) => (format!("cannot be read: {error}"), Vec::new()),
        Ok(None) => ("no file yet".to_owned(), Vec::new()),
        Ok(Some(text)) => match client.servers(&text) {
            Err(malformed) => (format!("malformed: {}", malformed.0), Vec::new()),
            Ok(servers) => {
                let ours = servers.into_iter().filter(|(_, entry)| clients::is_ours(entry)).map(|(name, _)| name);
                let ours: Vec<_> = ours.collect();
                (if ours.is_empty() { "not set up" } else { "set up" }.to_owned(), ours)
            }
        },
    };
    let (name, title) = (client.name, client.title);
    json!({"client": name, "title": title, "scope": scope, "file": file, "state": state, "servers": servers})
}
