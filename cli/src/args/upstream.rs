//! What `bailiwick dev --upstream` names: an MCP server by URL, or a program to be run as one.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

/// A server that is put behind the gateway under a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Upstream {
    pub(crate) name: String,
    pub(crate) place: Place,
}

/// Where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Streamable HTTP.
    Url(String),
    /// HTTP+SSE.
    Sse(String),
    /// A program and its arguments; the program's path is absolute.
    Command(Vec<String>),
}

impl Upstream {
    /// As its manifest has it: programs run in `directory`, with this home.
    pub(crate) fn endpoint(&self, directory: &Path, home: Option<&str>) -> Value {
        match &self.place {
            Place::Url(url) => json!({"url": url}),
            Place::Sse(url) => json!({"url": url, "transport": "sse"}),
            Place::Command(words) => {
                let (program, args) = words.split_first().map_or(("", &[][..]), |(program, args)| (program, args));
                let env = home.map(|home| json!({"HOME": home})).unwrap_or_else(|| json!({}));
                json!({"command": {"program": program, "args": args, "env": env, "directory": directory}})
            }
        }
    }
}

/// Reads `NAME=URL`, `NAME=sse:URL` or `NAME=stdio:PROGRAM ARGUMENTS…`.
pub(super) fn upstream(text: &str) -> Result<Upstream, String> {
    let usage = "use NAME=URL, e.g. finance=http://127.0.0.1:9801/mcp, or NAME='stdio:PROGRAM ARGUMENTS…'";
    let (name, place) = text.split_once('=').ok_or(usage)?;
    if !bailiwick_proto::names::is_server_name(name) {
        return Err(format!("`{name}` is no server name: use lower-case letters, digits and hyphens, at most 32"));
    }
    let place = match (place.strip_prefix("stdio:"), place.strip_prefix("sse:")) {
        (Some(line), _) => Place::Command(command(line)?),
        (None, Some(url)) => Place::Sse(url.to_owned()),
        (None, None) => Place::Url(place.to_owned()),
    };
    Ok(Upstream { name: name.to_owned(), place })
}

/// The words of a line, of which the first is a program that is there.
fn command(line: &str) -> Result<Vec<String>, String> {
    let mut words = words(line)?;
    let program = words.first_mut().ok_or("`stdio:` needs a program")?;
    *program = found(program).ok_or_else(|| format!("there is no program `{program}`"))?;
    Ok(words)
}

/// The absolute path of a program: as it is written, or in the search path.
fn found(program: &str) -> Option<String> {
    let candidates: Vec<PathBuf> = if program.contains('/') {
        vec![std::path::absolute(program).ok()?]
    } else {
        let path = bailiwick_runtime::config::env("PATH").unwrap_or_default();
        std::env::split_paths(&path).map(|folder| folder.join(program)).collect()
    };
    let there = candidates.into_iter().find(|candidate| candidate.is_file())?;
    // Without `.` and `..`, but links as they are: a program may look at how it was called.
    let folder = there.parent()?.canonicalize().ok()?;
    folder.join(there.file_name()?).to_str().map(str::to_owned)
}

/// Cuts a line at spaces, except within quotes; a backslash takes the next character as it is.
fn words(line: &str) -> Result<Vec<String>, String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    let mut characters = line.chars();
    while let Some(c) = characters.next() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None | Some('"'), '\\') => {
                let next = characters.next().ok_or("the line ends after a backslash")?;
                word.get_or_insert_default().push(next);
            }
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err("a quote is not closed".to_owned());
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_cut_into_words_as_a_shell_would() {
        for (line, expected) in [
            ("a b  c", vec!["a", "b", "c"]),
            ("'a b' \"c d\"", vec!["a b", "c d"]),
            (r#"a\ b "c\"d" 'e\f' """#, vec!["a b", "c\"d", "e\\f", ""]),
            ("  ", vec![]),
            ("a'b'c", vec!["abc"]),
        ] {
            assert_eq!(words(line).unwrap(), expected, "{line}");
        }
        assert!(words("'a").is_err() && words("a\\").is_err());
    }

    #[test]
    fn an_upstream_is_a_url_or_a_program() {
        let url = upstream("a=http://h/mcp").unwrap();
        assert_eq!(url.endpoint(Path::new("/"), None), json!({"url": "http://h/mcp"}));
        let sse = upstream("a=sse:http://h/sse").unwrap();
        assert_eq!(sse.endpoint(Path::new("/"), None), json!({"url": "http://h/sse", "transport": "sse"}));
        let program = upstream("a=stdio:sh -c 'exit 1'").unwrap();
        let Place::Command(words) = &program.place else { panic!("{program:?}") };
        assert!(words[0].starts_with('/') && words[0].ends_with("/sh") && words[1..] == ["-c", "exit 1"], "{words:?}");
        let command = &program.endpoint(Path::new("/srv"), Some("/home/x"))["command"];
        assert_eq!((&command["directory"], &command["env"]["HOME"]), (&json!("/srv"), &json!("/home/x")));
        for bad in ["a", "A B=http://h/", "a=stdio:", "a=stdio:no-such-program-anywhere", "a=stdio:/no/such"] {
            assert!(upstream(bad).is_err(), "{bad}");
        }
    }
}
