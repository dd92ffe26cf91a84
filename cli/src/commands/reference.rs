//! Generated reference: shell completions, and the pages under `docs/reference`.

use std::{fmt::Write, fs, path::Path};

use bailiwick_proto::Reason;
use clap::CommandFactory;

use crate::{args::Cli, failure::Failure};

pub(crate) fn completions(shell: clap_complete::Shell) {
    clap_complete::generate(shell, &mut Cli::command(), "bailiwick", &mut std::io::stdout());
}

/// Writes `manifest.schema.json`, `reasons.md` and `cli.md`.
pub(crate) fn write(out: &Path) -> Result<(), Failure> {
    fs::create_dir_all(out).map_err(Failure::refused)?;
    for (name, text) in pages() {
        fs::write(out.join(name), text).map_err(Failure::refused)?;
    }
    Ok(())
}

fn pages() -> [(&'static str, String); 3] {
    let schema = format!("{:#}\n", bailiwick_control_plane_core::manifest::schema());
    [("manifest.schema.json", schema), ("reasons.md", reasons()), ("cli.md", command_line())]
}

fn reasons() -> String {
    let mut page = "# Reason codes\n\nGenerated from `proto/src/reason.rs`. The same words stand in responses, records, metrics and audit queries.\n\n| reason | meaning |\n|---|---|\n".to_owned();
    for reason in Reason::ALL {
        let _ = writeln!(page, "| `{reason}` | {} |", reason.sentence());
    }
    page
}

fn command_line() -> String {
    let mut page = "# Command line\n\nGenerated from `bailiwick --help`.\n".to_owned();
    let mut root = Cli::command().term_width(100);
    root.build();
    describe(&mut page, &mut root, "bailiwick");
    page
}

fn describe(page: &mut String, command: &mut clap::Command, path: &str) {
    let _ = write!(page, "\n## {path}\n\n```text\n{}```\n", command.render_long_help());
    let names: Vec<String> = command
        .get_subcommands()
        .filter(|inner| !inner.is_hide_set() && inner.get_name() != "help")
        .map(|inner| inner.get_name().to_owned())
        .collect();
    for name in names {
        if let Some(inner) = command.find_subcommand_mut(&name) {
            describe(page, inner, &format!("{path} {name}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_reference_is_up_to_date() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference");
        for (name, text) in pages() {
            let committed = fs::read_to_string(folder.join(name)).unwrap_or_default();
            assert!(
                committed == text,
                "{name} is out of date: run `cargo run -p bailiwick -- reference docs/reference`"
            );
        }
    }
}
