//! Conditional and range requests (RFC 9110 §13, §14), as pure functions of the headers.

use axum::http::{HeaderMap, header};
use std::ops::Range;

/// Which bytes of a file to send.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Selection {
    /// All of it: no range asked for, or one that need not be honoured.
    Whole,
    /// 206 with these bytes; not empty, within the file.
    Part(Range<u64>),
    /// 416: the range lies outside of the file.
    Unsatisfiable,
}

/// Whether `If-None-Match` names `etag` (a quoted string), so that 304 is the answer. Compared weakly (§13.1.2).
pub(crate) fn matches_etag(headers: &HeaderMap, etag: &str) -> bool {
    headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok()).any(|list| {
        list.split(',')
            .map(str::trim)
            .any(|candidate| candidate == "*" || candidate.strip_prefix("W/").unwrap_or(candidate) == etag)
    })
}

/// The bytes asked for of a file of `length_bytes` with the strong validator `etag`.
///
/// A single range is honoured. Several ranges, another unit and malformed ranges get the whole file, as §14.2 allows: no
/// player needs more, and many small ranges are an old way to make a server work. With `If-Range` the range counts
/// only if the validator is this very one (§13.1.5); dates never match, because files have no date here.
pub(crate) fn select(headers: &HeaderMap, length_bytes: u64, etag: &str) -> Selection {
    let mut ranges = headers.get_all(header::RANGE).iter();
    let (Some(range), None) = (ranges.next(), ranges.next()) else { return Selection::Whole };
    if let Some(condition) = headers.get(header::IF_RANGE)
        && condition.as_bytes() != etag.as_bytes()
    {
        return Selection::Whole;
    }
    range.to_str().ok().and_then(|text| parse(text, length_bytes)).unwrap_or(Selection::Whole)
}

/// `bytes=first-last`, `bytes=first-` or `bytes=-length`; `None` for anything else.
fn parse(text: &str, length_bytes: u64) -> Option<Selection> {
    let (unit, set) = text.split_once('=')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return None;
    }
    let (first, last) = set.trim().split_once('-')?;
    let range = match (number(first)?, number(last)?) {
        (None, None) => return None,
        (None, Some(suffix)) => length_bytes.saturating_sub(suffix)..length_bytes,
        (Some(first), None) => first..length_bytes,
        (Some(first), Some(last)) if first > last => return None,
        (Some(first), Some(last)) => first..last.saturating_add(1).min(length_bytes),
    };
    Some(if range.is_empty() { Selection::Unsatisfiable } else { Selection::Part(range) })
}

/// Digits alone, or nothing; a number too large for 64 bits lies beyond every file.
fn number(text: &str) -> Option<Option<u64>> {
    if text.is_empty() {
        return Some(None);
    }
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| Some(text.parse().unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn selected(range: &str) -> Selection {
        let mut headers = HeaderMap::new();
        headers.insert(header::RANGE, range.parse().unwrap());
        select(&headers, 1000, "\"e\"")
    }

    #[test]
    fn ranges_follow_rfc_9110() {
        for (range, expected) in [
            ("bytes=0-0", Selection::Part(0..1)),
            ("bytes=0-", Selection::Part(0..1000)),
            ("bytes=10-19", Selection::Part(10..20)),
            ("Bytes=990-2000", Selection::Part(990..1000)),
            ("bytes=-1", Selection::Part(999..1000)),
            ("bytes=-5000", Selection::Part(0..1000)),
            ("bytes=5-18446744073709551615", Selection::Part(5..1000)),
            ("bytes=5-99999999999999999999999", Selection::Part(5..1000)),
            ("bytes=1000-", Selection::Unsatisfiable),
            ("bytes=99999999999999999999999-", Selection::Unsatisfiable),
            ("bytes=-0", Selection::Unsatisfiable),
            ("bytes=5-4", Selection::Whole),
            ("bytes=0-0,5-9", Selection::Whole),
            ("bytes=-", Selection::Whole),
            ("bytes=+1-5", Selection::Whole),
            ("bytes=a-b", Selection::Whole),
            ("bytes", Selection::Whole),
            ("lines=1-2", Selection::Whole),
        ] {
            assert_eq!(selected(range), expected, "{range}");
        }
    }

    #[test]
    fn a_range_counts_only_for_the_file_it_was_meant_for() {
        for (condition, expected) in [
            ("\"e\"", Selection::Part(0..10)),
            ("\"other\"", Selection::Whole),
            ("W/\"e\"", Selection::Whole),
            ("Mon, 23 Nov 2026 08:00:00 GMT", Selection::Whole),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::RANGE, "bytes=0-9".parse().unwrap());
            headers.insert(header::IF_RANGE, condition.parse().unwrap());
            assert_eq!(select(&headers, 1000, "\"e\""), expected, "{condition}");
        }
    }

    #[test]
    fn if_none_match_compares_weakly_and_over_lists() {
        for (value, expected) in [
            ("\"e\"", true),
            ("W/\"e\"", true),
            ("\"a\", \"e\"", true),
            ("*", true),
            ("\"x\"", false),
            ("e", false),
            ("", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::IF_NONE_MATCH, value.parse().unwrap());
            assert_eq!(matches_etag(&headers, "\"e\""), expected, "{value}");
        }
    }

    proptest! {
        #[test]
        fn what_is_selected_lies_within_the_file(range in "bytes=[0-9,-]{0,24}", length in 0u64..5000) {
            let mut headers = HeaderMap::new();
            headers.insert(header::RANGE, range.parse().unwrap());
            if let Selection::Part(part) = select(&headers, length, "\"e\"") {
                prop_assert!(part.start < part.end && part.end <= length);
            }
        }
    }
}
