//! Which programs this node runs as servers: the operator's word, whatever manifests wish.

use serde::Deserialize;

/// A program that may be run: with any arguments, or with arguments that begin with these.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged, expecting = "a path, or a list of a path and the first arguments")]
pub enum AllowedCommand {
    /// Its absolute path.
    Program(String),
    /// Its absolute path, and the arguments it must begin with: for interpreters, which run what they are told.
    Beginning(Vec<String>),
}

impl AllowedCommand {
    /// Whether it may be run so.
    pub(crate) fn allows(&self, program: &str, args: &[String]) -> bool {
        match self {
            Self::Program(path) => path == program,
            Self::Beginning(words) => words
                .split_first()
                .is_some_and(|(path, first)| path == program && args.get(..first.len()) == Some(first)),
        }
    }

    /// Whether it names a program by a path that can be read in one way only.
    pub(super) fn is_plain(&self) -> bool {
        let path = match self {
            Self::Program(path) => Some(path),
            Self::Beginning(words) => words.first(),
        };
        let plain = |path: &String| {
            path.strip_prefix('/').is_some_and(|parts| parts.split('/').all(|part| !matches!(part, "" | "." | "..")))
        };
        path.is_some_and(plain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(json: &str) -> AllowedCommand {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_program_is_allowed_by_its_whole_path_and_its_first_arguments() {
        let (server, node) = (allowed(r#""/usr/bin/server""#), allowed(r#"["/usr/bin/node", "/srv/a b.js"]"#));
        let args = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        for (command, program, words, expected) in [
            (&server, "/usr/bin/server", args(&[]), true),
            (&server, "/usr/bin/server", args(&["--any"]), true),
            (&server, "/usr/bin/server2", args(&[]), false),
            (&server, "/usr/bin/serve", args(&[]), false),
            (&node, "/usr/bin/node", args(&["/srv/a b.js"]), true),
            (&node, "/usr/bin/node", args(&["/srv/a b.js", "stdio"]), true),
            (&node, "/usr/bin/node", args(&["-e", "evil", "/srv/a b.js"]), false),
            (&node, "/usr/bin/node", args(&[]), false),
            (&node, "/srv/a b.js", args(&[]), false),
        ] {
            assert_eq!(command.allows(program, &words), expected, "{program} {words:?}");
        }
        assert!(!allowed("[]").allows("", &[]));
    }

    #[test]
    fn only_plain_absolute_paths_name_a_program() {
        for (json, expected) in [
            (r#""/usr/bin/server""#, true),
            (r#"["/usr/bin/node", "x"]"#, true),
            (r#""server""#, false),
            (r#""/usr/../bin/server""#, false),
            (r#""/""#, false),
            ("[]", false),
        ] {
            assert_eq!(allowed(json).is_plain(), expected, "{json}");
        }
    }
}
