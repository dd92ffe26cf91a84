//! The tools that a consent is narrowed to.
//!
//! Read by `people` when somebody calls, asked by `admission` for every tool of a list, so asking takes no memory.
//! Tools go by their own names at their servers, whatever virtual servers call them. Absent: whether such tools exist;
//! a list may name some that are gone or not there yet.

use std::collections::{BTreeMap, BTreeSet};

/// Most tools that one consent lists: more than a person reads before consenting.
pub const LISTED_TOOLS_MAX: usize = 256;

/// Tools by their servers; at least one. See the file's header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedTools(BTreeMap<Box<str>, BTreeSet<Box<str>>>);

impl ListedTools {
    /// From entries such as `finance/query_data`. The first slash divides: names of tools may have some, those of
    /// servers have none.
    ///
    /// # Errors
    /// What is wrong with the list; one bad entry makes all of it bad.
    pub fn of(entries: &[String]) -> Result<Self, &'static str> {
        if entries.len() > LISTED_TOOLS_MAX {
            return Err("lists too many tools");
        }
        let mut listed = BTreeMap::<Box<str>, BTreeSet<Box<str>>>::new();
        for entry in entries {
            let named = entry.split_once('/').filter(|(server, tool)| !server.is_empty() && !tool.is_empty());
            let (server, tool) = named.ok_or("lists a tool that is not named as server/tool")?;
            listed.entry(server.into()).or_default().insert(tool.into());
        }
        Ok(Self(listed))
    }

    /// Whether a tool is among them.
    #[must_use]
    pub fn contains(&self, server: &str, tool: &str) -> bool {
        self.0.get(server).is_some_and(|tools| tools.contains(tool))
    }

    /// Whether any tool of a server is among them.
    #[must_use]
    pub fn names(&self, server: &str) -> bool {
        self.0.contains_key(server)
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.0.values().map(BTreeSet::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(entries: &[&str]) -> Result<ListedTools, &'static str> {
        ListedTools::of(&entries.iter().map(|entry| (*entry).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn a_tool_is_listed_by_its_server_and_its_own_whole_name() {
        let listed = of(&["finance/query_data", "finance/query_data", "hr/list/people", "hr//x"]).unwrap();
        for (server, tool, expected) in [
            ("finance", "query_data", true),
            ("finance", "query", false),
            ("finance", "finance/query_data", false),
            ("finance", "list/people", false),
            ("hr", "list/people", true),
            ("hr", "people", false),
            ("hr", "/x", true),
            ("hr/list", "people", false),
            ("hr", "query_data", false),
            ("", "query_data", false),
        ] {
            assert_eq!(listed.contains(server, tool), expected, "{server} {tool}");
        }
        assert_eq!(
            ["finance", "hr", "hr/list", "fin", ""].map(|server| listed.names(server)),
            [true, true, false, false, false]
        );
        assert_eq!(listed.len(), 3);
    }

    #[test]
    fn one_bad_entry_makes_the_list_bad_and_so_do_too_many() {
        for bad in ["", "/", "finance", "finance/", "/query_data", "query_data"] {
            assert_eq!(of(&["finance/query_data", bad]), Err("lists a tool that is not named as server/tool"), "{bad}");
        }
        let numbered = |count: usize| (0..count).map(|number| format!("finance/t{number}")).collect::<Vec<_>>();
        assert_eq!(ListedTools::of(&numbered(LISTED_TOOLS_MAX)).unwrap().len(), LISTED_TOOLS_MAX);
        assert_eq!(ListedTools::of(&numbered(LISTED_TOOLS_MAX + 1)), Err("lists too many tools"));
    }
}
