//! What was allowed, fetched, declined, taken back and refused, for auditors: newest first, filtered by a form whose
//! fields are `outcome`, `client`, `subject`, `since` and `until` (days, `YYYY-MM-DD`). Filled in by `audit`.

use super::text::filters;

/// Some of the timeline.
#[derive(askama::Template)]
#[template(path = "timeline.html")]
pub(crate) struct Timeline {
    pub(crate) rows: Vec<TimelineRow>,
    pub(crate) filters: TimelineFilters,
    /// Outcomes that can be asked for.
    pub(crate) outcomes: Vec<String>,
    /// Where the form leads.
    pub(crate) action: String,
    /// Everything that fits the filters, as CSV.
    pub(crate) csv_url: String,
    /// Older rows.
    pub(crate) more_url: Option<String>,
    /// Of all people, and not only of who looks at it.
    pub(crate) is_everybodys: bool,
    /// How many entries are too old to be here: of consents, and of refusals.
    pub(crate) fallen_out: (u64, u64),
    /// What is wrong with the filters.
    pub(crate) problem: Option<String>,
}

/// What is asked for; empty is everything.
#[derive(Clone, Debug, Default)]
pub(crate) struct TimelineFilters {
    pub(crate) outcome: String,
    pub(crate) client: String,
    pub(crate) subject: String,
    pub(crate) since: String,
    pub(crate) until: String,
}

/// One event; what it does not have is empty.
#[derive(Clone, Debug, Default)]
pub(crate) struct TimelineRow {
    pub(crate) time: String,
    pub(crate) outcome: String,
    pub(crate) user: String,
    pub(crate) agent: String,
    pub(crate) client: String,
    pub(crate) virtual_server: String,
    pub(crate) level: String,
    /// Only these; none: all up to the level.
    pub(crate) tools: Vec<String>,
    pub(crate) consent: String,
    /// Where the code was sent, and what it was bound to.
    pub(crate) redirect_uri: String,
    pub(crate) challenge: String,
    /// Who did it.
    pub(crate) actor: String,
    pub(crate) reason: String,
    /// Of a refusal: what was refused, and how often.
    pub(crate) refused: String,
}
