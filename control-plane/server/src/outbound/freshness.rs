//! How long an answer may be kept, by its own word (RFC 9111 §4.2, §5.2.2).
//!
//! Of a private cache: `s-maxage` is not for it, and `Expires` is not read. The shortest word counts.

use std::time::Duration;

use http::{HeaderMap, header};

/// Nothing said: `None`. Not to be kept, or not to be read: zero.
pub(super) fn max_age(headers: &HeaderMap) -> Option<Duration> {
    let said = headers.get_all(header::CACHE_CONTROL).iter().map(|value| value.to_str().unwrap_or("no-store"));
    let shortest = said.flat_map(|value| value.split(',')).filter_map(seconds).min()?;
    // Since it left the origin, in caches on its way.
    let age = headers.get(header::AGE).and_then(|value| value.to_str().ok()?.trim().parse().ok()).unwrap_or(0);
    Some(Duration::from_secs(shortest.saturating_sub(age)))
}

fn seconds(directive: &str) -> Option<u64> {
    let (name, value) = directive.split_once('=').unwrap_or((directive, ""));
    let name = name.trim();
    if name.eq_ignore_ascii_case("no-store") || name.eq_ignore_ascii_case("no-cache") {
        return Some(0);
    }
    let value = value.trim().trim_matches('"');
    name.eq_ignore_ascii_case("max-age").then(|| value.parse().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_word_counts_and_what_cannot_be_read_is_not_kept() {
        for (said, age, kept) in [
            (&[][..], None, None),
            (&["public"], None, None),
            (&["public, max-age=300"], None, Some(300)),
            (&["Max-Age=\"300\""], None, Some(300)),
            (&["max-age=300", "max-age=60"], None, Some(60)),
            (&["max-age=300"], Some("100"), Some(200)),
            (&["max-age=300"], Some("400"), Some(0)),
            (&["max-age=300, no-cache"], None, Some(0)),
            (&["no-store"], None, Some(0)),
            (&["s-maxage=300"], None, None),
            (&["max-age=soon"], None, Some(0)),
            (&["max-age"], None, Some(0)),
            (&["max-age=-1"], None, Some(0)),
        ] {
            let mut headers = HeaderMap::new();
            for value in said {
                headers.append(header::CACHE_CONTROL, value.parse().unwrap());
            }
            if let Some(age) = age {
                headers.insert(header::AGE, age.parse().unwrap());
            }
            assert_eq!(max_age(&headers), kept.map(Duration::from_secs), "{said:?} {age:?}");
        }
    }
}
