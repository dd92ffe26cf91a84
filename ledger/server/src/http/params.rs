//! Query strings, read strictly: an unknown, repeated or malformed parameter is refused by name.
//!
//! Pure: the present time arrives as an argument. Called by the handlers of `http`; hands on a store `Filter`.

use bailiwick_ledger_core::{
    decimal,
    record::{Kind, NODE_NAME_BYTES_MAX},
    time,
};

use crate::store::{Field, Filter};

/// Records in one answer when nothing is said.
pub(super) const LIMIT_DEFAULT: usize = 50;
/// Records in one answer at most: a page, not a dump; exports are for dumps.
pub(super) const LIMIT_MAX: usize = 1000;
/// Longest accepted value: the longest name in the system (254) with room.
const VALUE_BYTES_MAX: usize = 512;
/// Longest wait for news in one request; clients ask again.
const WAIT_SECONDS_MAX: u64 = 30;

/// What is wrong with one parameter; the text is for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ParamError {
    #[error("unknown parameter `{name}`; known are {known}")]
    Unknown { name: String, known: String },
    #[error("parameter `{name}` is given twice")]
    Repeated { name: String },
    #[error("parameter `{name}` must be {rule}")]
    Malformed { name: &'static str, rule: String },
}

/// The parameters of one request.
#[derive(Debug)]
pub(super) struct Params(Vec<(String, String)>);

/// A search of `/v1/records`.
#[derive(Debug)]
pub(super) struct Search {
    pub(super) filter: Filter,
    /// Only leaves below this index.
    pub(super) before: u64,
    pub(super) limit: usize,
}

/// A read of `/v1/events`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Events {
    /// The first leaf to show.
    pub(super) from: u64,
    pub(super) limit: usize,
    /// How long to wait while there is nothing to show.
    pub(super) wait_seconds: u64,
}

const TERMS: [(&str, Field); 9] = [
    ("user", Field::User),
    ("agent", Field::Agent),
    ("server", Field::Server),
    ("tool", Field::Tool),
    ("kind", Field::Kind),
    ("decision", Field::Decision),
    ("binding", Field::Binding),
    ("request_id", Field::RequestId),
    ("decision_client", Field::DecisionClient),
];

const BINDINGS: [&str; 6] = ["bound", "missing", "invalid", "stale", "replayed", "not_required"];
const DECISIONS: [&str; 2] = ["permit", "deny"];

impl Params {
    /// Accepts `pairs` if every name is in `known` and comes once.
    pub(super) fn new(pairs: Vec<(String, String)>, known: &[&'static str]) -> Result<Self, ParamError> {
        for (position, (name, value)) in pairs.iter().enumerate() {
            let Some(known_name) = known.iter().find(|known| *known == name) else {
                // An excerpt is enough to recognise one's own mistake.
                let name = name.chars().take(NODE_NAME_BYTES_MAX).collect();
                return Err(ParamError::Unknown { name, known: known.join(", ") });
            };
            if pairs.iter().take(position).any(|(earlier, _)| earlier == name) {
                return Err(ParamError::Repeated { name: name.clone() });
            }
            if value.len() > VALUE_BYTES_MAX {
                return Err(malformed(known_name, format!("at most {VALUE_BYTES_MAX} bytes long")));
            }
        }
        Ok(Self(pairs))
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(given, _)| given == name).map(|(_, value)| value.as_str())
    }

    fn number(&self, name: &'static str) -> Result<Option<u64>, ParamError> {
        let wrong = || malformed(name, "a decimal number".to_owned());
        self.text(name).map(|text| decimal::parse(text).ok_or_else(wrong)).transpose()
    }

    fn limit(&self) -> Result<usize, ParamError> {
        let wrong = || malformed("limit", format!("a number from 1 to {LIMIT_MAX}"));
        let given = self.text("limit").map(|text| text.parse::<usize>().map_err(|_| wrong())).transpose()?;
        let limit = given.unwrap_or(LIMIT_DEFAULT);
        if (1..=LIMIT_MAX).contains(&limit) { Ok(limit) } else { Err(wrong()) }
    }

    fn one_of(&self, name: &'static str, words: &[&'static str]) -> Result<(), ParamError> {
        match self.text(name) {
            Some(word) if !words.contains(&word) => Err(malformed(name, format!("one of {}", words.join(", ")))),
            _ => Ok(()),
        }
    }
}

fn malformed(name: &'static str, rule: String) -> ParamError {
    ParamError::Malformed { name, rule }
}

/// Reads a search; `now_us` is what durations in `since` count back from.
pub(super) fn search(pairs: Vec<(String, String)>, now_us: i64) -> Result<Search, ParamError> {
    let others = ["method", "consent", "since", "before", "limit"];
    let known: Vec<_> = TERMS.iter().map(|(name, _)| *name).chain(others).collect();
    let params = Params::new(pairs, &known)?;
    let kinds: Vec<_> = Kind::ALL.iter().map(|kind| kind.as_str()).collect();
    params.one_of("kind", &kinds)?;
    params.one_of("binding", &BINDINGS)?;
    params.one_of("decision", &DECISIONS)?;
    let wrong =
        || malformed("since", "a time such as 2026-11-21T00:14:04Z, or a duration such as 90s, 10m, 2h, 7d".to_owned());
    let since_us = params.text("since").map(|text| since(text, now_us).ok_or_else(wrong)).transpose()?;
    let term = |(name, field): &(&str, Field)| params.text(name).map(|value| (*field, value.to_owned()));
    Ok(Search {
        filter: Filter {
            terms: TERMS.iter().filter_map(term).collect(),
            method: params.text("method").map(str::to_owned),
            consent: params.text("consent").map(str::to_owned),
            since_us,
        },
        before: params.number("before")?.unwrap_or(u64::MAX),
        limit: params.limit()?,
    })
}

/// Reads a request for events.
pub(super) fn events(pairs: Vec<(String, String)>) -> Result<Events, ParamError> {
    let params = Params::new(pairs, &["after", "limit", "wait"])?;
    let wrong = || malformed("wait", format!("a duration of at most {WAIT_SECONDS_MAX}s"));
    let wait = params.text("wait").map(|text| seconds(text).filter(|wait| *wait <= WAIT_SECONDS_MAX).ok_or_else(wrong));
    Ok(Events {
        from: params.number("after")?.map_or(0, |after| after.saturating_add(1)),
        limit: params.limit()?,
        wait_seconds: wait.transpose()?.unwrap_or(0),
    })
}

/// Refuses every parameter.
pub(super) fn none(pairs: Vec<(String, String)>) -> Result<(), ParamError> {
    Params::new(pairs, &[]).map(drop)
}

fn since(text: &str, now_us: i64) -> Option<i64> {
    if let Some(seconds) = seconds(text) {
        let micros = i64::try_from(seconds).ok()?.checked_mul(1_000_000)?;
        return Some(now_us.saturating_sub(micros));
    }
    time::parse_ts(text).or_else(|| Some(text.parse::<jiff::Timestamp>().ok()?.as_microsecond()))
}

fn seconds(text: &str) -> Option<u64> {
    let unit = match text.chars().last()? {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        'w' => 604_800,
        _ => return None,
    };
    let digits = text.strip_suffix(|c: char| c.is_ascii_lowercase())?;
    decimal::parse(digits)?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(query: &[(&str, &str)]) -> Vec<(String, String)> {
        query.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_full_search_is_understood() {
        let query = [
            ("user", "jane@example.com"),
            ("decision", "deny"),
            ("decision_client", "billing"),
            ("method", "resources/read"),
            ("consent", "c-1"),
            ("since", "10m"),
            ("limit", "7"),
            ("before", "9"),
        ];
        let search = search(pairs(&query), 1_000_000_000).unwrap();
        let terms = [(Field::User, "jane@example.com"), (Field::Decision, "deny"), (Field::DecisionClient, "billing")];
        assert_eq!(search.filter.terms, terms.map(|(field, value)| (field, value.to_owned())));
        assert_eq!(search.filter.method.as_deref(), Some("resources/read"));
        assert_eq!(search.filter.consent.as_deref(), Some("c-1"));
        assert_eq!((search.filter.since_us, search.before, search.limit), (Some(400_000_000), 9, 7));
    }

    #[test]
    fn an_unknown_parameter_is_refused_by_name() {
        let error = search(pairs(&[("usr", "jane")]), 0).unwrap_err().to_string();
        assert!(error.contains("`usr`") && error.contains("user, agent"), "{error}");
        assert!(none(pairs(&[("x", "")])).is_err());
    }

    #[test]
    fn malformed_parameters_are_refused_by_name() {
        let long = "x".repeat(VALUE_BYTES_MAX + 1);
        for (name, value) in [
            ("limit", "0"),
            ("limit", "1001"),
            ("limit", "-1"),
            ("since", "yesterday"),
            ("since", "10"),
            ("since", "m"),
            ("since", "99999999999999999w"),
            ("decision", "allow"),
            ("kind", "call"),
            ("binding", "yes"),
            ("before", "01"),
            ("user", long.as_str()),
        ] {
            let error = search(pairs(&[(name, value)]), 0).unwrap_err().to_string();
            assert!(error.contains(&format!("`{name}`")), "{name}={value}: {error}");
        }
        assert!(search(pairs(&[("user", "a"), ("user", "b")]), 0).is_err());
    }

    #[test]
    fn times_are_rfc_3339_or_durations() {
        let hour = 3_600_000_000;
        for (text, micros) in [
            ("1970-01-01T01:00:00Z", hour),
            ("1970-01-01T01:00:00.000000Z", hour),
            ("1970-01-01T02:00:00+01:00", hour),
            ("1h", -hour),
            ("0s", 0),
        ] {
            assert_eq!(since(text, 0), Some(micros), "{text}");
        }
    }

    #[test]
    fn events_resume_after_a_leaf() {
        assert_eq!(events(vec![]).unwrap(), Events { from: 0, limit: LIMIT_DEFAULT, wait_seconds: 0 });
        let query = pairs(&[("after", "41"), ("wait", "5s")]);
        assert_eq!(events(query).unwrap(), Events { from: 42, limit: LIMIT_DEFAULT, wait_seconds: 5 });
        assert!(events(pairs(&[("wait", "1h")])).is_err());
    }
}
