//! How prompts, resources and resource templates are named towards clients, and back.
//!
//! Called by `wanted` (a client's name → the server's own) and `listing` (the reverse). A virtual server of just one
//! server with `naming: plain` shows names and URIs as they are. Every other shows prompts as `server__name` and URIs
//! as `mcp+server+<the server's own URI>`. Both are pure functions that nothing has to be remembered for: the names of
//! servers hold neither `_` nor `+`, so the first separator always divides the two, and the rest is as it was. Unlike
//! tools' names, these are never shortened.

use std::borrow::Cow;

use bailiwick_proto::names;

/// Between a server and the name of its prompt.
const PROMPT_SEPARATOR: &str = "__";
/// Before a server's name in a URI: letters and `+`, so that the whole is a scheme still.
const URI_PREFIX: &str = "mcp+";
/// Between a server and its own URI.
const URI_SEPARATOR: char = '+';

/// How one virtual server names prompts and resources.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Naming {
    /// As they are, for all are of this one server.
    Plain(String),
    /// With the server's name before them.
    #[default]
    Prefixed,
}

/// Something of a server, under its own name there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Own {
    /// Name of the server.
    pub server: String,
    /// A prompt's name, a resource's URI or a template.
    pub name: String,
}

impl Naming {
    /// The naming of a virtual server over these servers; `plain` as its manifest says it.
    #[must_use]
    pub fn of(plain: bool, servers: &[String]) -> Self {
        match servers {
            [only] if plain => Self::Plain(only.clone()),
            _ => Self::Prefixed,
        }
    }

    /// A server's prompt towards clients.
    #[must_use]
    pub fn prompt<'a>(&self, server: &str, name: &'a str) -> Cow<'a, str> {
        match self {
            Self::Plain(_) => Cow::Borrowed(name),
            Self::Prefixed => Cow::Owned(format!("{server}{PROMPT_SEPARATOR}{name}")),
        }
    }

    /// Whose prompt a client means; `None` where the name is none of this naming.
    #[must_use]
    pub fn prompt_of(&self, name: &str) -> Option<Own> {
        let (server, name) = match self {
            Self::Plain(server) => (server.as_str(), name),
            Self::Prefixed => name.split_once(PROMPT_SEPARATOR)?,
        };
        own(server, name)
    }

    /// A server's resource or template towards clients.
    #[must_use]
    pub fn uri<'a>(&self, server: &str, uri: &'a str) -> Cow<'a, str> {
        match self {
            Self::Plain(_) => Cow::Borrowed(uri),
            Self::Prefixed => Cow::Owned(format!("{URI_PREFIX}{server}{URI_SEPARATOR}{uri}")),
        }
    }

    /// Whose resource or template a client means; `None` where the URI is none of this naming.
    #[must_use]
    pub fn uri_of(&self, uri: &str) -> Option<Own> {
        let (server, uri) = match self {
            Self::Plain(server) => (server.as_str(), uri),
            Self::Prefixed => uri.strip_prefix(URI_PREFIX)?.split_once(URI_SEPARATOR)?,
        };
        own(server, uri)
    }
}

fn own(server: &str, name: &str) -> Option<Own> {
    let is_one = names::is_server_name(server) && !name.is_empty();
    is_one.then(|| Own { server: server.to_owned(), name: name.to_owned() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn plain() -> Naming {
        Naming::of(true, &["finance".into()])
    }

    #[test]
    fn one_server_and_plain_naming_shows_things_as_they_are_and_every_other_does_not() {
        assert_eq!(plain(), Naming::Plain("finance".into()));
        for (is_plain, servers) in [(false, &["finance"][..]), (true, &["finance", "hr"]), (true, &[]), (false, &[])] {
            let servers: Vec<String> = servers.iter().map(|name| (*name).to_owned()).collect();
            assert_eq!(Naming::of(is_plain, &servers), Naming::Prefixed);
        }
        assert_eq!(plain().prompt("finance", "a__b"), "a__b");
        assert_eq!(Naming::Prefixed.prompt("finance", "summary"), "finance__summary");
        assert_eq!(Naming::Prefixed.uri("finance", "file:///a"), "mcp+finance+file:///a");
        assert_eq!(Naming::Prefixed.uri("finance", "file:///{a}"), "mcp+finance+file:///{a}");
    }

    #[test]
    fn what_names_no_server_is_nobody_s() {
        for name in ["", "summary", "finance_summary", "__summary", "finance__", "Finance__x", "a_b__c", "mcp+x"] {
            assert_eq!(Naming::Prefixed.prompt_of(name), None, "{name}");
        }
        for uri in ["", "file:///a", "mcp+", "mcp+finance", "mcp+finance+", "mcp++file:///a", "MCP+finance+file:///a"] {
            assert_eq!(Naming::Prefixed.uri_of(uri), None, "{uri}");
        }
        assert_eq!(plain().uri_of(""), None);
    }

    proptest! {
        #[test]
        fn a_name_towards_clients_leads_back_to_the_server_s_own(
            server in "[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?",
            name in "([_+:/{}a-z]|\\PC){1,24}",
            is_plain in any::<bool>(),
        ) {
            let naming = Naming::of(is_plain, std::slice::from_ref(&server));
            let own = Some(Own { server: server.clone(), name: name.clone() });
            prop_assert_eq!(&naming.prompt_of(&naming.prompt(&server, &name)), &own);
            prop_assert_eq!(&naming.uri_of(&naming.uri(&server, &name)), &own);
        }

        #[test]
        fn no_two_things_have_one_name(
            servers in prop::collection::vec("[ab-]{1,3}", 2),
            names in prop::collection::vec("[ab_+-]{1,4}", 2),
        ) {
            let [one, other] = [0, 1].map(|n| (servers[n].clone(), names[n].clone()));
            let prompt = |(server, name): &(String, String)| Naming::Prefixed.prompt(server, name).into_owned();
            let uri = |(server, name): &(String, String)| Naming::Prefixed.uri(server, name).into_owned();
            prop_assert_eq!(prompt(&one) == prompt(&other), one == other);
            prop_assert_eq!(uri(&one) == uri(&other), one == other);
        }

        #[test]
        fn what_is_read_back_is_written_the_same_again(name in "(mcp[+])?[a-z]{0,4}(__|[+])?[a-z:/_+]{0,8}") {
            if let Some(Own { server, name: own }) = Naming::Prefixed.prompt_of(&name) {
                prop_assert_eq!(Naming::Prefixed.prompt(&server, &own), name.as_str());
            }
            if let Some(Own { server, name: own }) = Naming::Prefixed.uri_of(&name) {
                prop_assert_eq!(Naming::Prefixed.uri(&server, &own), name.as_str());
            }
        }
    }
}
