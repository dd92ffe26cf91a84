//! The question that a consent comes from: which client, which agent, how much, for how long, and why.
//!
//! The form posts `request`, `agent`, `level`, `only` (`all`: every tool up to the level, also ones that are approved
//! later; `listed`: those ticked), `tool` (repeated), `duration` (seconds), `reason` and `decision` (`allow`, `deny`).
//! Tools above the chosen level are hidden from view, yet posted when ticked: the level bounds them. Enter in a field
//! sends nothing, as a hidden button takes it: nobody allows anything by accident.

use bailiwick_proto::Tier;

use super::text::filters;

/// Longest reason, in UTF-16 code units, as browsers count.
const REASON_CHARS_MAX: usize = 500;

/// The question.
#[derive(askama::Template)]
#[template(path = "consent.html")]
pub(crate) struct ConsentRequest {
    /// Who is signed in.
    pub(crate) user: String,
    pub(crate) client: ClientShown,
    /// At least one; only one is not asked about.
    pub(crate) agents: Vec<AgentChoice>,
    pub(crate) virtual_server: String,
    /// In ascending order.
    pub(crate) levels: Vec<LevelChoice>,
    pub(crate) tools: Vec<ToolChoice>,
    /// Whether `only` is `listed` at first.
    pub(crate) listed: bool,
    pub(crate) durations: Vec<DurationChoice>,
    pub(crate) reason: String,
    pub(crate) reason_required: bool,
    /// What was wrong the last time.
    pub(crate) problem: Option<String>,
    /// Where it is posted to.
    pub(crate) action: String,
    /// Comes back as it is.
    pub(crate) request: String,
}

/// Who asks.
pub(crate) struct ClientShown {
    /// What it calls itself.
    pub(crate) title: String,
    pub(crate) origin: ClientOrigin,
    /// Where the person is sent back to.
    pub(crate) redirect_host: String,
    /// That is a program on the person's own machine.
    pub(crate) is_loopback: bool,
}

/// How we know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ClientOrigin {
    /// An administrator registered it.
    Administrator,
    /// It registered itself.
    Itself,
    /// A document at this `https://host` describes it.
    Document(String),
}

/// For which agent.
pub(crate) struct AgentChoice {
    pub(crate) name: String,
    pub(crate) owner: String,
    pub(crate) project: String,
    pub(crate) ceiling: Tier,
    pub(crate) chosen: bool,
}

/// Up to which tier.
pub(crate) struct LevelChoice {
    /// A tier's word.
    pub(crate) value: String,
    pub(crate) title: String,
    pub(crate) explanation: String,
    /// How many tools it covers now.
    pub(crate) tools: usize,
    pub(crate) chosen: bool,
}

/// A tool that can be left out.
pub(crate) struct ToolChoice {
    /// `server/tool`.
    pub(crate) value: String,
    pub(crate) title: String,
    pub(crate) description: String,
    pub(crate) tier: Tier,
    pub(crate) ticked: bool,
}

/// For how long.
pub(crate) struct DurationChoice {
    pub(crate) seconds: u64,
    pub(crate) title: String,
    pub(crate) chosen: bool,
}

impl ConsentRequest {
    fn of_tier<'a>(&'a self, tier: &Tier) -> Vec<&'a ToolChoice> {
        self.tools.iter().filter(|tool| tool.tier == *tier).collect()
    }
}

/// A tier in words, short.
const fn words(tier: &Tier) -> &'static str {
    match tier {
        Tier::Retrieval => "reads",
        Tier::Transactional => "changes things",
        Tier::Destructive => "may destroy",
    }
}

/// What somebody with this ceiling can do.
const fn infinitive(tier: &Tier) -> &'static str {
    match tier {
        Tier::Retrieval => "read",
        Tier::Transactional => "change things",
        Tier::Destructive => "destroy",
    }
}

/// A group of tools.
const fn heading(tier: &Tier) -> &'static str {
    match tier {
        Tier::Retrieval => "Tools that read",
        Tier::Transactional => "Tools that change things",
        Tier::Destructive => "Tools that may destroy",
    }
}
