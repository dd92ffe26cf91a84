//! Manifests: resources as people write them, read from YAML with the place of every key.
//!
//! [`parse`] reads any number of multi-document files and reports everything wrong with them at once: syntax, keys,
//! types, names and values. The steps are `yaml` (text → tree with lines), `document` (tree → typed resource). What a
//! manifest refers to is checked against the state by `apply`, which finds the lines through [`Source`].
//! Invariant: a [`Manifest`] that `parse` returns may stand in an event as it is. Absent: files and their encoding
//! (the caller has the text), status (`show`).

use std::{collections::BTreeMap, sync::Arc};

use bailiwick_policy::{ReadPolicy, Reader};

use crate::{
    Kind, ResourceRef, Spec, policy,
    problem::{PROBLEMS_MAX, Problem},
};

mod document;
mod schema;
pub mod suggest;
mod yaml;

pub use schema::schema;

/// Most bytes of manifests in one request: some ten thousand users; one Raft entry stays small.
pub const MANIFEST_BYTES_MAX: usize = 1024 * 1024;
/// Most files in one request.
pub const FILES_MAX: usize = 256;
/// Most documents in one request.
pub const DOCUMENTS_MAX: usize = 10_000;

/// A resource as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Its name.
    pub name: String,
    /// What it should be.
    pub spec: Spec,
    /// Where it was written.
    pub source: Source,
    /// What a policy's text says by itself, where that was found ahead ([`read_policies`]).
    pub(crate) read: Option<Arc<ReadPolicy>>,
}

impl Manifest {
    /// The resource it is about.
    #[must_use]
    pub fn resource(&self) -> ResourceRef {
        ResourceRef::new(self.spec.kind(), &self.name)
    }

    /// Its kind.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.spec.kind()
    }

    /// A problem at a key of this manifest, or at the nearest key above it that was written.
    #[must_use]
    pub fn problem(&self, key: &str, message: impl Into<String>) -> Problem {
        self.source.problem(key, message)
    }
}

/// Where a document was written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// The file as the caller named it.
    pub file: String,
    /// Line of the document's first key.
    pub line: u32,
    /// Line of each key, by its dotted path.
    lines: BTreeMap<String, u32>,
    /// First line of the text of each block scalar (`|`), by its dotted path.
    blocks: BTreeMap<String, u32>,
}

impl Source {
    /// A problem at a key.
    #[must_use]
    pub fn problem(&self, key: &str, message: impl Into<String>) -> Problem {
        Problem { file: self.file.clone(), line: self.line_of(key), key: key.to_owned(), message: message.into() }
    }

    /// A problem at a line (from 1) of a text that is the value of a key.
    #[must_use]
    pub fn text_problem(&self, key: &str, line: Option<u32>, message: impl Into<String>) -> Problem {
        let in_block = |line: u32| self.blocks.get(key).map(|first| first.saturating_add(line).saturating_sub(1));
        let line = line.and_then(in_block).unwrap_or_else(|| self.line_of(key));
        Problem { line, ..self.problem(key, message) }
    }

    fn line_of(&self, key: &str) -> u32 {
        let mut key = key;
        loop {
            if let Some(line) = self.lines.get(key) {
                return *line;
            }
            match key.rfind(['.', '[']).and_then(|at| key.get(..at)) {
                Some(above) => key = above,
                None => return self.line,
            }
        }
    }
}

/// Reads files (name, text) of one or more YAML documents each.
///
/// # Errors
/// Everything that is wrong, in the order of the files and lines; then nothing of it may be applied.
pub fn parse(files: &[(String, String)]) -> Result<Vec<Manifest>, Vec<Problem>> {
    let mut problems = too_large(files);
    if !problems.is_empty() {
        return Err(problems);
    }
    let mut manifests = Vec::new();
    let mut documents = 0_usize;
    for (file, text) in files {
        for read in yaml::read(file, text) {
            documents += 1;
            if documents > DOCUMENTS_MAX {
                let message = format!("more than {DOCUMENTS_MAX} documents; apply them in several requests");
                problems.push(Problem { file: file.clone(), message, ..Problem::default() });
                return Err(problems);
            }
            match read.and_then(document::read) {
                Ok(manifest) => manifests.push(manifest),
                Err(found) => problems.extend(found),
            }
            if problems.len() >= PROBLEMS_MAX {
                problems.truncate(PROBLEMS_MAX);
                return Err(problems);
            }
        }
    }
    problems.extend(repeated(&manifests));
    if problems.is_empty() { Ok(manifests) } else { Err(problems) }
}

/// Finds ahead what the texts of policies say by themselves. That takes milliseconds for each, and depends on nothing
/// else; deciding takes long if it has to find it.
pub fn read_policies(manifests: &mut [Manifest]) {
    let reader = Reader::new();
    for Manifest { name, spec, read, .. } in manifests {
        if let Spec::Policy(spec) = spec {
            *read = Some(Arc::new(policy::read(&reader, name, &spec.cedar)));
        }
    }
}

fn too_large(files: &[(String, String)]) -> Vec<Problem> {
    let mut problems = Vec::new();
    let bytes = files.iter().fold(0_usize, |sum, (_, text)| sum.saturating_add(text.len()));
    if bytes > MANIFEST_BYTES_MAX {
        let message = format!("{bytes} bytes of manifests; at most {MANIFEST_BYTES_MAX} are accepted in one request");
        problems.push(Problem { message, ..Problem::default() });
    }
    if files.len() > FILES_MAX {
        let message = format!("{} files; at most {FILES_MAX} are accepted in one request", files.len());
        problems.push(Problem { message, ..Problem::default() });
    }
    problems
}

fn repeated(manifests: &[Manifest]) -> Vec<Problem> {
    let mut first = BTreeMap::<ResourceRef, &Source>::new();
    let mut problems = Vec::new();
    for manifest in manifests {
        let resource = manifest.resource();
        if let Some(other) = first.get(&resource) {
            let message = format!("{resource} is written twice; first at {}:{}", other.file, other.line);
            problems.push(manifest.problem("metadata.name", message));
        } else {
            first.insert(resource, &manifest.source);
        }
    }
    problems
}
