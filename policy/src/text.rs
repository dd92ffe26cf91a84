//! Policy texts as they arrive, their bounds, and what can be wrong with them.
//!
//! The bounds are checked before Cedar sees a text: its parser works recursively and does not watch the stack, so
//! nesting and the number of operators of a statement are limited here, and `stack.rs` makes room for what is allowed.

/// Most bytes of one policy text. A text of this size holds some 400 statements; more belong in several policies.
pub const POLICY_TEXT_BYTES_MAX: usize = 64 * 1024;
/// Most policies compiled together: evaluation is linear in their number.
pub const POLICIES_MAX: usize = 10_000;
/// Deepest nesting of brackets in one text: protects the stack of whoever parses it.
pub const POLICY_NESTING_MAX: usize = 32;
/// Most operators (`&&`, `==`, `.`, `in`, `if`, …) in one statement: each may add a level to Cedar's syntax tree.
/// Many names belong in a group or a set: `["a", "b"].contains(…)` counts as two, however long the set.
pub const POLICY_OPERATORS_MAX: usize = 200;
/// Stands for the policy's name in a problem of the catalogue itself.
pub const CATALOGUE: &str = "(catalogue)";

/// A policy resource: one text, holding one or more Cedar statements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyText {
    /// Name of the policy resource.
    pub name: String,
    /// Its version, named in decisions and records.
    pub version: u64,
    /// The Cedar text.
    pub cedar: String,
}

/// One thing wrong with one policy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[error("policy `{policy}`{}: {message}", self.line.map(|line| format!(" line {line}")).unwrap_or_default())]
pub struct PolicyProblem {
    /// Name of the policy, or [`CATALOGUE`].
    pub policy: String,
    /// Line within the policy's text, from 1, where it is known.
    pub line: Option<u32>,
    /// What is wrong and what would be right.
    pub message: String,
}

impl PolicyText {
    pub(crate) fn problem(&self, line: Option<u32>, message: impl Into<String>) -> PolicyProblem {
        PolicyProblem { policy: self.name.clone(), line, message: message.into() }
    }

    /// The line, from 1, on which the byte at `offset` stands.
    pub(crate) fn line_at(&self, offset: usize) -> Option<u32> {
        let before = self.cedar.as_bytes().get(..offset.min(self.cedar.len()))?;
        u32::try_from(before.iter().filter(|byte| **byte == b'\n').count() + 1).ok()
    }

    /// The first line holding this piece of text.
    pub(crate) fn line_of(&self, piece: &str) -> Option<u32> {
        self.cedar.find(piece).and_then(|offset| self.line_at(offset))
    }

    /// Is the text small and flat enough to be parsed?
    pub(crate) fn within_bounds(&self) -> Result<(), PolicyProblem> {
        if self.cedar.len() > POLICY_TEXT_BYTES_MAX {
            let message =
                format!("the text has {} bytes; at most {POLICY_TEXT_BYTES_MAX} are accepted", self.cedar.len());
            return Err(self.problem(None, message));
        }
        if let Some((offset, _)) = self.cedar.char_indices().find(|(_, c)| turns_text(*c)) {
            let message =
                "the text holds a character that changes the direction of writing: it could read other than it means";
            return Err(self.problem(self.line_at(offset), message));
        }
        let mut depth = 0_usize;
        let mut operators = 0_usize;
        for (offset, token) in Tokens::new(self.cedar.as_bytes()) {
            match token {
                Token::Open => depth += 1,
                Token::OpenIndex => (depth, operators) = (depth + 1, operators + 1),
                Token::Close => depth = depth.saturating_sub(1),
                Token::Operator => operators += 1,
                Token::End if depth == 0 => operators = 0,
                Token::End => {}
            }
            if depth > POLICY_NESTING_MAX {
                return Err(
                    self.problem(self.line_at(offset), format!("brackets are nested deeper than {POLICY_NESTING_MAX}"))
                );
            }
            if operators > POLICY_OPERATORS_MAX {
                let message = format!(
                    "a statement has more than {POLICY_OPERATORS_MAX} operators; use groups or sets, or several statements"
                );
                return Err(self.problem(self.line_at(offset), message));
            }
        }
        Ok(())
    }
}

/// Unicode's bidirectional embeddings, overrides and isolates (UAX #9).
const fn turns_text(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

enum Token {
    Open,
    /// `[` opens a set or, like a dot, an index; it counts as a bracket and as an operator.
    OpenIndex,
    Close,
    Operator,
    /// `;` ends a statement when no bracket is open.
    End,
}

/// The tokens that can deepen a syntax tree, with their offsets; strings and comments are passed over.
struct Tokens<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Tokens<'a> {
    const fn new(text: &'a [u8]) -> Self {
        Self { text, at: 0 }
    }

    fn skip_string(&mut self) {
        while let Some(byte) = self.text.get(self.at) {
            self.at += if *byte == b'\\' { 2 } else { 1 };
            if *byte == b'"' {
                return;
            }
        }
    }

    fn skip_comment(&mut self) {
        while self.text.get(self.at).is_some_and(|byte| *byte != b'\n') {
            self.at += 1;
        }
    }

    fn word(&mut self, start: usize) -> Option<Token> {
        while self.text.get(self.at).is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_') {
            self.at += 1;
        }
        let operators: [&[u8]; 7] = [b"if", b"then", b"else", b"in", b"has", b"like", b"is"];
        operators.contains(&self.text.get(start..self.at)?).then_some(Token::Operator)
    }
}

impl Iterator for Tokens<'_> {
    type Item = (usize, Token);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let start = self.at;
            let byte = *self.text.get(start)?;
            self.at += 1;
            let token = match byte {
                b'"' => {
                    self.skip_string();
                    None
                }
                b'/' if self.text.get(self.at) == Some(&b'/') => {
                    self.skip_comment();
                    None
                }
                b'(' | b'{' => Some(Token::Open),
                b'[' => Some(Token::OpenIndex),
                b')' | b']' | b'}' => Some(Token::Close),
                b'!' | b'-' | b'+' | b'*' | b'<' | b'>' | b'.' | b'=' | b'&' | b'|' => {
                    // Two-character operators: `==`, `!=`, `<=`, `>=`, `&&`, `||`.
                    let next = self.text.get(self.at);
                    let two = next == Some(&b'=') || (next == Some(&byte) && matches!(byte, b'&' | b'|'));
                    self.at += usize::from(two);
                    Some(Token::Operator)
                }
                b';' => Some(Token::End),
                byte if byte.is_ascii_alphabetic() || byte == b'_' => self.word(start),
                _ => None,
            };
            if let Some(token) = token {
                return Some((start, token));
            }
        }
    }
}
