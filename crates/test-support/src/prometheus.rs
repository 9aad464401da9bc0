//! Scrapes of a relay's `/metrics` endpoint.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use descord_relay::{metrics::Instrument, telemetry::prometheus::MAX_AGE};
use tokio::time::{sleep, timeout};

use crate::{
    PATIENCE,
    http::{send, until_closed},
    process::Relay,
};

/// Polling interval.
const PAUSE: Duration = Duration::from_millis(10);

/// The name of `instrument` in `/metrics`; for a histogram, the prefix of its series.
pub fn name(instrument: &Instrument) -> String {
    instrument.prometheus_name()
}

/// The Prometheus label of an attribute.
pub fn label(key: &str) -> String {
    key.replace('.', "_")
}

/// A sample, that is, a line of `/metrics`.
#[derive(Clone, Debug)]
pub struct Sample {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

impl Sample {
    fn parse(line: &str) -> Self {
        let (series, value) = line.rsplit_once(' ').unwrap();
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        // Label values of the relay contain no comma, quote or equals sign.
        let pairs = labels.strip_suffix('}').unwrap().split(',');
        let labels = pairs.filter(|pair| !pair.is_empty()).map(|pair| {
            let (key, value) = pair.split_once('=').unwrap();
            (key.to_owned(), value.trim_matches('"').to_owned())
        });
        Self {
            name: name.to_owned(),
            labels: labels.collect(),
            value: value.parse().unwrap(),
        }
    }
}

/// The samples of one scrape.
#[derive(Debug)]
pub struct Scrape(pub Vec<Sample>);

impl Scrape {
    /// Scrapes `relay`. Ignores responses rendered before this call.
    pub async fn of(relay: &Relay) -> Self {
        sleep(MAX_AGE).await;
        Self::recent(relay).await
    }

    /// Scrapes `relay`. The response may be cached.
    pub async fn recent(relay: &Relay) -> Self {
        Self::at(relay.admin()).await
    }

    /// Scrapes the relay whose admin endpoints are at `address`.
    pub async fn at(address: SocketAddr) -> Self {
        let request = "GET /metrics HTTP/1.1\r\nHost: relay\r\nConnection: close\r\n\r\n";
        let mut stream = send(address, request.as_bytes()).await;
        let answer = until_closed(&mut stream).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 "), "{answer}");
        let lines = body.lines().filter(|line| !line.starts_with('#'));
        Self(lines.map(Sample::parse).collect())
    }

    /// Scrapes `relay` until the response satisfies `is_wanted`, described by `what`.
    pub async fn find(relay: &Relay, what: &str, is_wanted: impl Fn(&Self) -> bool) -> Self {
        let mut last = None;
        let asking = timeout(PATIENCE, async {
            loop {
                let scrape = Self::recent(relay).await;
                if is_wanted(&scrape) {
                    return scrape;
                }
                last = Some(scrape);
                sleep(PAUSE).await;
            }
        });
        let found = asking.await;
        found.unwrap_or_else(|_| panic!("no {what} in {last:#?}"))
    }

    /// The sum of all series with this name and these labels; `None` if there is no such series.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let has = |sample: &Sample, (key, value): &(&str, &str)| {
            sample.labels.get(*key).is_some_and(|v| v == value)
        };
        let found: Vec<_> = self
            .0
            .iter()
            .filter(|sample| sample.name == name && labels.iter().all(|l| has(sample, l)))
            .map(|sample| sample.value)
            .collect();
        (!found.is_empty()).then(|| found.iter().sum())
    }
}
