//! Finding records: posting lists of leaf indexes, intersected from the newest leaf downwards.
//!
//! Called by the HTTP queries. A search does a bounded amount of work and says where to go on (`Page::next`), so one
//! request can neither scan the whole log nor hold a snapshot for long. Times: records of different nodes are not
//! ordered by time, so `since` uses the running maximum of record times per span, which is ordered: everything before
//! the first span that reaches `since` is certainly older.

use bailiwick_ledger_core::time;
use rocksdb::{DB, DBRawIteratorWithThreadMode};
use serde_json::{Map, Value};

use super::{INDEXES, LEAVES, SPANS, Store, StoreError, keys, keys::Field};

/// Index steps and leaf reads of one search: some tens of milliseconds.
const STEPS_MAX: u32 = 50_000;
/// Bytes of records in one page: keeps an answer of thousand large records within memory and a client's patience.
const PAGE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// What to look for; everything given must match.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    pub terms: Vec<(Field, String)>,
    /// The method of MCP that was used. No term leads to it, so that records from before there was this question are
    /// found too: what the terms leave is looked through.
    pub method: Option<String>,
    /// The consent that a use relied on, or that a change of the control plane is about; looked through likewise.
    pub consent: Option<String>,
    /// Record time, microseconds since 1970, inclusive.
    pub since_us: Option<i64>,
}

/// One record with its place in the log.
#[derive(Clone, Debug)]
pub struct Found {
    pub index: u64,
    /// The stored leaf.
    pub bytes: Vec<u8>,
    /// The same, parsed.
    pub fields: Map<String, Value>,
}

/// Some of what matches, newest first.
#[derive(Clone, Debug, Default)]
pub struct Page {
    pub items: Vec<Found>,
    /// Search again below this leaf index for the rest; `None`: there is no rest.
    pub next: Option<u64>,
}

impl Filter {
    /// Whether a record that has all terms matches in everything else, too.
    fn takes(&self, fields: &Map<String, Value>) -> bool {
        self.since_us.is_none_or(|since| time_of(fields) >= since)
            && self.method.as_deref().is_none_or(|method| method_of(fields) == Some(method))
            && self.consent.as_deref().is_none_or(|consent| consent_of(fields) == Some(consent))
    }
}

impl Store {
    /// Records below leaf `before` that match, newest first, at most `limit`.
    /// # Errors
    /// When the database fails or a leaf is not a JSON object.
    pub fn search(&self, filter: &Filter, before: u64, limit: usize) -> Result<Page, StoreError> {
        let size = before.min(self.size()?);
        let floor = filter.since_us.map_or(Ok(0), |since| self.floor(since, size))?;
        let mut lists =
            filter.terms.iter().map(|(field, value)| self.postings(*field, value)).collect::<Result<Vec<_>, _>>()?;
        let (mut page, mut end, mut steps, mut bytes) = (Page::default(), size, 0_u32, 0_usize);
        while end > floor {
            if steps >= STEPS_MAX || page.items.len() >= limit || bytes >= PAGE_BYTES_MAX {
                page.next = Some(end);
                break;
            }
            steps += 1;
            let candidate = end - 1;
            let Some(agreed) = agree(&mut lists, candidate)? else { break };
            if agreed < candidate {
                // The lists disagree below the candidate: look again from the lowest of them.
                end = agreed + 1;
                continue;
            }
            end = candidate;
            let found = self.found(candidate)?;
            if filter.takes(&found.fields) {
                bytes += found.bytes.len();
                page.items.push(found);
            }
        }
        Ok(page)
    }

    /// Whether any record has this term.
    /// # Errors
    /// When the database fails.
    pub fn has_term(&self, field: Field, value: &str) -> Result<bool, StoreError> {
        Ok(self.postings(field, value)?.at_or_below(u64::MAX)?.is_some())
    }

    /// The leaf with this place, if it is stored.
    /// # Errors
    /// When the database fails.
    pub fn leaf_of(&self, place: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let index = self.postings(Field::Place, place)?.at_or_below(u64::MAX)?;
        index.map_or(Ok(None), |index| self.leaf(index))
    }

    /// Leaves `from..` in order, at most `limit`, as parsed records.
    /// # Errors
    /// When the database fails or a leaf is damaged.
    pub fn ascending(&self, from: u64, limit: usize) -> Result<Vec<Found>, StoreError> {
        let end = self.size()?.min(from.saturating_add(limit as u64));
        let (mut items, mut bytes) = (Vec::new(), 0_usize);
        for index in from..end {
            let found = self.found(index)?;
            bytes += found.bytes.len();
            items.push(found);
            if bytes >= PAGE_BYTES_MAX {
                break;
            }
        }
        Ok(items)
    }

    fn found(&self, index: u64) -> Result<Found, StoreError> {
        let damaged = || StoreError::Damaged { what: "leaf", at: index };
        let bytes = self.db.get_cf(&self.family(LEAVES)?, index.to_be_bytes())?.ok_or_else(damaged)?;
        let fields = serde_json::from_slice(&bytes).map_err(|_| damaged())?;
        Ok(Found { index, bytes, fields })
    }

    /// The first leaf that may be as new as `since`: found by bisection over the running maximum.
    fn floor(&self, since: i64, size: u64) -> Result<u64, StoreError> {
        let (mut low, mut high) = (0, size.div_ceil(keys::SPAN));
        while low < high {
            let middle = low + (high - low) / 2;
            if self.newest_in(middle)? < since { low = middle + 1 } else { high = middle }
        }
        Ok(low.saturating_mul(keys::SPAN))
    }

    /// The newest record time before leaf `index`.
    pub(super) fn newest_before(&self, index: u64) -> Result<i64, StoreError> {
        index.checked_sub(1).map_or(Ok(i64::MIN), |last| self.newest_in(last / keys::SPAN))
    }

    fn newest_in(&self, span: u64) -> Result<i64, StoreError> {
        let found = self.db.get_cf(&self.family(SPANS)?, span.to_be_bytes())?;
        let time = found.and_then(|bytes| Some(i64::from_be_bytes(bytes.try_into().ok()?)));
        time.ok_or(StoreError::Damaged { what: "span", at: span })
    }

    fn postings(&self, field: Field, value: &str) -> Result<Postings<'_>, StoreError> {
        let entries = self.db.raw_iterator_cf(&self.family(INDEXES)?);
        Ok(Postings { entries, prefix: keys::term_prefix(field, value) })
    }
}

/// The next leaf at or below `candidate` that all lists may share: `candidate` itself when they all hold it.
fn agree(lists: &mut [Postings<'_>], candidate: u64) -> Result<Option<u64>, StoreError> {
    let mut at = candidate;
    for list in lists {
        match list.at_or_below(at)? {
            Some(lower) => at = lower,
            None => return Ok(None),
        }
    }
    Ok(Some(at))
}

/// The leaf indexes of one term.
struct Postings<'a> {
    entries: DBRawIteratorWithThreadMode<'a, DB>,
    prefix: [u8; keys::TERM_PREFIX_BYTES],
}

impl Postings<'_> {
    fn at_or_below(&mut self, index: u64) -> Result<Option<u64>, StoreError> {
        self.entries.seek_for_prev([&self.prefix[..], &index.to_be_bytes()].concat());
        self.entries.status()?;
        let Some((key, later)) = self.entries.item() else { return Ok(None) };
        let first = key.strip_prefix(&self.prefix[..]).and_then(keys::decode_number);
        Ok(first.and_then(|first| keys::at_or_below(first, later, index)))
    }
}

fn method_of(fields: &Map<String, Value>) -> Option<&str> {
    fields.get("trace")?.get("method")?.as_str()
}

fn consent_of(fields: &Map<String, Value>) -> Option<&str> {
    fields.get("consent").or_else(|| fields.get("control")?.get("consent"))?.as_str()
}

/// A record's own time in microseconds; records are checked before they are stored, so it always parses.
fn time_of(fields: &Map<String, Value>) -> i64 {
    fields.get("ts").and_then(Value::as_str).and_then(time::parse_ts).unwrap_or(i64::MIN)
}
