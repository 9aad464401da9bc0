//! Parsers for the values of `OTEL_*` variables.

use std::{borrow::Cow, time::Duration};

use percent_encoding::percent_decode_str;
use reqwest::{
    Url,
    header::{HeaderMap, HeaderName, HeaderValue},
};

use super::raw::EndpointAddress;

/// Maximum interval between two exports.
const LONGEST_INTERVAL_MS: u64 = 24 * 60 * 60 * 1000;
/// Maximum deadline of an export.
const LONGEST_TIMEOUT_MS: u64 = 10 * 60 * 1000;
/// Minimum interval between two exports; a shorter one would be a busy loop.
const SHORTEST_INTERVAL_MS: u64 = 10;
/// Maximum number of queued spans: some hundred bytes each, allocated in advance.
const MAX_SPANS: usize = 32 * 1024;

/// "true" or "false".
pub(super) fn boolean(text: &str) -> Option<bool> {
    if text.eq_ignore_ascii_case("true") {
        Some(true)
    } else {
        text.eq_ignore_ascii_case("false").then_some(false)
    }
}

/// One of several words.
pub(super) fn word<T: Clone>(text: &str, words: &[(&str, T)]) -> Option<T> {
    let found = words
        .iter()
        .find(|(word, _)| text.eq_ignore_ascii_case(word));
    found.map(|(_, value)| value.clone())
}

/// A list of words, or "none" alone for the empty list.
pub(super) fn words<T: Clone>(text: &str, words: &[(&str, T)]) -> Option<Vec<T>> {
    if text.eq_ignore_ascii_case("none") {
        return Some(Vec::new());
    }
    text.split(',')
        .map(|item| word(item.trim(), words))
        .collect()
}

/// An interval, in milliseconds.
pub(super) fn interval(text: &str) -> Option<Duration> {
    millis(text, SHORTEST_INTERVAL_MS, LONGEST_INTERVAL_MS)
}

/// A deadline, in milliseconds.
pub(super) fn timeout(text: &str) -> Option<Duration> {
    millis(text, 1, LONGEST_TIMEOUT_MS)
}

fn millis(text: &str, least: u64, most: u64) -> Option<Duration> {
    let millis = text.parse().ok()?;
    (least..=most)
        .contains(&millis)
        .then(|| Duration::from_millis(millis))
}

/// A number of spans.
pub(super) fn spans(text: &str) -> Option<usize> {
    let spans = text.parse().ok()?;
    (1..=MAX_SPANS).contains(&spans).then_some(spans)
}

/// A ratio from 0 to 1.
pub(super) fn ratio(text: &str) -> Option<f64> {
    let ratio = text.parse().ok()?;
    (0.0..=1.0).contains(&ratio).then_some(ratio)
}

/// `key=value,key=value`, with percent-encoded values. One invalid item invalidates the whole value, as
/// the specification requires.
pub(super) fn pairs(text: &str) -> Option<Vec<(String, String)>> {
    text.split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
        .map(|item| {
            let (key, value) = item.split_once('=')?;
            let decode = |text: &str| {
                let text = percent_decode_str(text.trim()).decode_utf8();
                text.ok().map(Cow::into_owned)
            };
            let key = decode(key).filter(|key| !key.is_empty())?;
            Some((key, decode(value)?))
        })
        .collect()
}

/// Pairs as headers whose values are marked as sensitive.
pub(super) fn headers(text: &str) -> Option<HeaderMap> {
    let mut headers = HeaderMap::new();
    for (key, value) in pairs(text)? {
        let name = HeaderName::try_from(key).ok()?;
        let mut value = HeaderValue::try_from(value).ok()?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    Some(headers)
}

/// A URL, or `host:port`, which is allowed with gRPC.
pub(super) fn address(text: &str) -> Option<EndpointAddress> {
    let address = if text.contains("://") {
        EndpointAddress {
            url: Url::parse(text).ok()?,
            without_tls: None,
        }
    } else {
        let with = |scheme: &str| Url::parse(&format!("{scheme}://{text}")).ok();
        EndpointAddress {
            url: with("https")?,
            without_tls: Some(with("http")?),
        }
    };
    let url = &address.url;
    (matches!(url.scheme(), "http" | "https") && url.has_host()).then_some(address)
}
