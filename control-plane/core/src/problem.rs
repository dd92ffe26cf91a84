//! Problems in what people wrote: where (file, line, key) and what, in one sentence that says what to do.
//!
//! Made by `manifest` while reading and by `apply` while checking references, names and Cedar; shown as they stand.
//! Absent: refusals of single requests (`rejection`).

use std::fmt;

use bailiwick_proto::v1;

/// Most problems reported for one request: enough to work on, bounded whatever was sent.
pub const PROBLEMS_MAX: usize = 200;

/// One thing that is wrong with a manifest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problem {
    /// The file as the caller named it; empty where the problem is in no file.
    pub file: String,
    /// 1-based; 0 where there is no line.
    pub line: u32,
    /// Dotted path in the document, e.g. `spec.tools.create_charge.tier`; may be empty.
    pub key: String,
    /// What is wrong and what would be right.
    pub message: String,
}

/// `file:line: key: message`, leaving out what is not known.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.file.is_empty(), self.line) {
            (true, _) => {}
            (false, 0) => write!(f, "{}: ", self.file)?,
            (false, line) => write!(f, "{}:{line}: ", self.file)?,
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

impl From<Problem> for v1::Problem {
    fn from(problem: Problem) -> Self {
        Self { file: problem.file, line: problem.line, key: problem.key, message: problem.message }
    }
}
