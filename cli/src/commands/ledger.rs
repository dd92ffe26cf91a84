//! `ledger export` and `ledger verify`: a log as files, and its proof without network or server.

use std::fs;

use bailiwick_ledger::{ExportDir, ExportError, Source, export};
use bailiwick_ledger_core::{
    checkpoint::VerifierKey,
    verify::{Report, Trust, Verdict, verify_export},
};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use crate::{
    args::{ExportArgs, VerifyArgs},
    failure::Failure,
    output::{print, table},
};

/// The file of an export that holds the log's verifier key.
const KEY_FILE: &str = "key";

pub(crate) async fn export(args: ExportArgs) -> Result<(), Failure> {
    let url = args.source.starts_with("http://") || args.source.starts_with("https://");
    let source = if url { Source::Url(args.source) } else { Source::Dir(args.source.into()) };
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} files, {eta} left") {
        bar.set_style(style);
    }
    let exported = export::export(&source, &args.out, |progress| {
        bar.set_length(progress.files_total);
        bar.set_position(progress.files_done);
    })
    .await;
    bar.finish_and_clear();
    let exported = exported.map_err(|error| match error {
        ExportError::Unreachable { .. } => Failure::Unreachable(error.to_string()),
        _ => Failure::refused(error),
    })?;
    eprintln!("{} leaves exported to {}", exported.size, args.out.display());
    eprintln!("verify them with: bailiwick ledger verify {}", args.out.display());
    Ok(())
}

pub(crate) fn verify(args: VerifyArgs) -> Result<(), Failure> {
    let read = |path: &std::path::Path| {
        fs::read(path).map_err(|error| Failure::Usage(format!("cannot read {}: {error}", path.display())))
    };
    let earlier = args.checkpoint.iter().map(|path| read(path)).collect::<Result<Vec<_>, _>>()?;
    let (key, given) = match args.key {
        Some(key) => (key, true),
        None => (own_key(&read(&args.out.join(KEY_FILE))?), false),
    };
    let parsed = key.parse::<VerifierKey>();
    let trusted = parsed.map_err(|error| match given {
        true => Failure::Usage(format!("--key is no verifier key: {error}")),
        false => Failure::Refused(format!("INVALID: the export's own key cannot be read: {error}")),
    })?;
    let report = verify_export(&ExportDir::new(&args.out), &Trust { keys: vec![trusted], earlier });
    let mut value = json!(report);
    if let Some(members) = value.as_object_mut() {
        members.insert("key".to_owned(), json!(key));
        members.insert("key_given".to_owned(), json!(given));
    }
    print(args.output, &value, || describe(&report));
    if !given {
        eprintln!(
            "note: checked with the key inside the export; pass --key to hold it against the key you trust:\n  {key}"
        );
    }
    if matches!(report.verdict, Verdict::Invalid { .. }) { Err(Failure::Said) } else { Ok(()) }
}

/// The key inside an export, strictly one line: nothing in the folder may change unnoticed.
fn own_key(file: &[u8]) -> String {
    let text = String::from_utf8_lossy(file);
    text.strip_suffix('\n').unwrap_or(&text).to_owned()
}

fn describe(report: &Report) -> String {
    let verdict = match &report.verdict {
        Verdict::Valid => "VALID".to_owned(),
        Verdict::ValidWithDeclaredGaps => {
            format!("VALID_WITH_DECLARED_GAPS: {} records declared missing", report.missing_records)
        }
        Verdict::Invalid { first_bad_leaf: Some(leaf), reason } => format!("INVALID at leaf {leaf}: {reason}"),
        Verdict::Invalid { first_bad_leaf: None, reason } => format!("INVALID: {reason}"),
    };
    let kinds: Vec<Vec<String>> =
        report.kinds.iter().map(|(kind, count)| vec![kind.clone(), count.to_string()]).collect();
    let nodes: Vec<Vec<String>> = report
        .nodes
        .iter()
        .flat_map(|(name, node)| {
            node.epochs.iter().map(move |epoch| {
                let place = |seq: Option<u64>| seq.map_or_else(|| "-".to_owned(), |seq| seq.to_string());
                vec![
                    name.clone(),
                    epoch.epoch.to_string(),
                    epoch.records.to_string(),
                    place(epoch.first_seq),
                    place(epoch.last_seq),
                    place(epoch.signed_through),
                ]
            })
        })
        .collect();
    format!(
        "{verdict}\nlog {}, {} leaves, {} checked, root {}\ncalls without a known end: {}\n\n{}\n\n{}",
        report.origin,
        report.size,
        report.checked,
        report.root,
        report.intents_without_outcome,
        table(&["KIND", "RECORDS"], &kinds),
        table(&["NODE", "EPOCH", "RECORDS", "FIRST", "LAST", "SIGNED THROUGH"], &nodes),
    )
}
