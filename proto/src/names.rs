//! Names: what a resource may be called, and how a tool is named towards clients.
//!
//! A client-facing name is a pure function of server and tool, so it never changes when other servers come or go:
//! `server__tool`, at most 64 characters of `[A-Za-z0-9_-]` (the strictest limit among MCP clients). Server names
//! hold no underscore, so the first `__` always divides the two. A tool whose own name does not fit gets its
//! unfit characters replaced and a suffix of eight hex digits of SHA-256, which keeps the function injective.

use aws_lc_rs::digest;

/// Longest name towards a client.
pub const TOOL_NAME_CHARS_MAX: usize = 64;
/// Longest name of a server or virtual server: leaves room for a readable tool name in 64 characters.
pub const SERVER_NAME_CHARS_MAX: usize = 32;
/// Longest name of anything else (an e-mail address may have 254 characters).
pub const NAME_CHARS_MAX: usize = 254;
/// Longest tool name accepted from a server (MCP: SHOULD be 1 to 128 characters).
pub const UPSTREAM_TOOL_NAME_CHARS_MAX: usize = 128;

/// Servers and virtual servers: lower-case letters, digits and inner hyphens, 1 to 32 characters.
#[must_use]
pub fn is_server_name(name: &str) -> bool {
    name.len() <= SERVER_NAME_CHARS_MAX && is_label(name)
}

/// Agents, policies and projects: lower-case letters, digits and inner hyphens, dots or underscores, 1 to 63
/// characters.
#[must_use]
pub fn is_resource_name(name: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.' | '_');
    name.len() <= 63
        && name.chars().all(inner)
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.ends_with(|c: char| c.is_ascii_alphanumeric())
}

/// People and groups: 1 to 254 visible characters, no white space, quotes, control characters or slashes.
#[must_use]
pub fn is_person_name(name: &str) -> bool {
    let banned =
        |c: char| c.is_control() || c.is_whitespace() || matches!(c, '"' | '\'' | '\\' | '/' | '`' | '<' | '>');
    !name.is_empty() && name.len() <= NAME_CHARS_MAX && !name.contains(banned)
}

fn is_label(name: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !name.is_empty() && name.chars().all(inner) && !name.starts_with('-') && !name.ends_with('-')
}

/// Tool names accepted from a server: 1 to 128 characters, none of them a control character.
#[must_use]
pub fn is_upstream_tool_name(name: &str) -> bool {
    !name.is_empty() && name.chars().count() <= UPSTREAM_TOOL_NAME_CHARS_MAX && !name.chars().any(char::is_control)
}

/// The name of `tool` of `server` towards clients and as a Cedar action: `server__tool`.
#[must_use]
pub fn prefixed_tool_name(server: &str, tool: &str) -> String {
    let natural = format!("{server}__{tool}");
    if natural.len() <= TOOL_NAME_CHARS_MAX && natural.chars().all(is_tool_name_char) {
        return natural;
    }
    let fit = |c: char| if is_tool_name_char(c) { c } else { '_' };
    let hash = digest::digest(&digest::SHA256, format!("{server}\0{tool}").as_bytes());
    let suffix: String = hash.as_ref().iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    let kept: String = natural.chars().map(fit).take(TOOL_NAME_CHARS_MAX - suffix.len() - 1).collect();
    format!("{kept}_{suffix}")
}

/// Names that a tool may be given towards clients: 1 to 64 characters of `[A-Za-z0-9_-]`.
#[must_use]
pub fn is_client_tool_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= TOOL_NAME_CHARS_MAX && name.chars().all(is_tool_name_char)
}

const fn is_tool_name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fitting_names_are_kept_as_they_are() {
        assert_eq!(prefixed_tool_name("finance", "query_data"), "finance__query_data");
    }

    #[test]
    fn unfit_names_are_shortened_and_told_apart() {
        let long = prefixed_tool_name("finance", &"x".repeat(128));
        let other = prefixed_tool_name("finance", &format!("{}y", "x".repeat(127)));
        assert_eq!(long.len(), TOOL_NAME_CHARS_MAX);
        assert_ne!(long, other);
        assert_ne!(prefixed_tool_name("finance", "a.b"), prefixed_tool_name("finance", "a/b"));
        assert!(prefixed_tool_name("finance", "münzen").chars().all(is_tool_name_char));
    }

    #[test]
    fn server_names_hold_no_underscore() {
        for (name, fits) in [("finance", true), ("a-1", true), ("a_b", false), ("", false), ("-a", false), ("A", false)]
        {
            assert_eq!(is_server_name(name), fits, "{name}");
        }
        assert!(is_person_name("jane@example.com") && !is_person_name("a b") && !is_person_name("x\"y"));
    }
}
