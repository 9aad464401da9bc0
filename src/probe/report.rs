//! The report about one relay.

use std::time::Duration;

use bytesize::ByteSize;
use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};
use serde::{Serialize, Serializer};

use super::failure::{Failure, Step};

/// The result of probing one address. Every field is always present in JSON; a value that was not
/// measured because an earlier step failed is `null`.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The relay's address.
    pub address: Multiaddr,
    /// The relay's authenticated peer id.
    #[serde(serialize_with = "as_text")]
    pub peer_id: Option<PeerId>,
    /// The transport of the address: `tcp`, `quic-v1`, `ws` or `wss`.
    pub transport: Option<&'static str>,
    /// Whether all steps succeeded.
    pub ok: bool,
    /// Time from the dial to the authenticated, multiplexed connection.
    pub connect_ms: Option<f64>,
    /// Time from the same dial to the accepted reservation.
    pub reservation_ms: Option<f64>,
    /// Time from the dial through the relay to the authenticated, multiplexed connection with the
    /// listener, over an established connection to the relay.
    pub circuit_ms: Option<f64>,
    /// Median round-trip time of small messages through the relay.
    pub rtt_p50_ms: Option<f64>,
    /// 99th percentile of the round-trip time.
    pub rtt_p99_ms: Option<f64>,
    /// Megabytes (10⁶ bytes) per second in each direction, with both directions busy.
    pub throughput_mb_per_s: Option<f64>,
    /// Bytes sent in each direction for that measurement.
    pub throughput_bytes: Option<u64>,
    /// Data limit of circuits that the relay announces, in bytes; `null` if there is none.
    pub limit_bytes: Option<u64>,
    /// Duration limit of circuits that the relay announces, in seconds; `null` if there is none.
    pub limit_seconds: Option<u64>,
    /// The step that failed.
    pub failed_step: Option<Step>,
    /// The error.
    pub error: Option<String>,
    /// A hint for the user.
    pub hint: Option<String>,
    /// The steps that succeeded.
    #[serde(skip)]
    pub(super) succeeded: Vec<Step>,
}

impl Report {
    /// A report with the address only.
    pub(super) fn new(address: Multiaddr) -> Self {
        Self {
            transport: transport(&address),
            address,
            peer_id: None,
            ok: false,
            connect_ms: None,
            reservation_ms: None,
            circuit_ms: None,
            rtt_p50_ms: None,
            rtt_p99_ms: None,
            throughput_mb_per_s: None,
            throughput_bytes: None,
            limit_bytes: None,
            limit_seconds: None,
            failed_step: None,
            error: None,
            hint: None,
            succeeded: Vec::new(),
        }
    }

    /// Adds the failure that ended the probe.
    pub(super) fn failed(mut self, failure: Failure) -> Self {
        self.ok = false;
        self.failed_step = Some(failure.step);
        self.error = Some(failure.cause.message);
        self.hint = failure.cause.hint;
        self
    }

    /// The line about a successful step.
    pub(super) fn step_line(&self, step: Step) -> String {
        let ms = |value: Option<f64>| format!("{:.1} ms", value.unwrap_or_default());
        match step {
            Step::Resolve => String::new(),
            Step::Connect => format!("{}  {}", ms(self.connect_ms), text(self.peer_id)),
            Step::Reserve => format!("{}  {}", ms(self.reservation_ms), self.limits()),
            Step::Circuit => ms(self.circuit_ms),
            Step::Relayed => "the relay is the only path".to_owned(),
            Step::Echo => {
                format!("p50 {}, p99 {}", ms(self.rtt_p50_ms), ms(self.rtt_p99_ms))
            }
            Step::Throughput => format!(
                "{:.1} MB/s each way, {} checked",
                self.throughput_mb_per_s.unwrap_or_default(),
                ByteSize(self.throughput_bytes.unwrap_or_default()),
            ),
        }
    }

    fn limits(&self) -> String {
        let bytes = self
            .limit_bytes
            .map(|bytes| ByteSize(bytes).display().si().to_string());
        let duration = self
            .limit_seconds
            .map(|seconds| humantime::format_duration(Duration::from_secs(seconds)).to_string());
        match [bytes, duration].into_iter().flatten().collect::<Vec<_>>() {
            limits if limits.is_empty() => "no limit announced".to_owned(),
            limits => format!("limit {}", limits.join(", ")),
        }
    }
}

fn text(value: Option<impl ToString>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

#[expect(clippy::ref_option, reason = "the signature that serde requires")]
fn as_text<S: Serializer>(id: &Option<PeerId>, serializer: S) -> Result<S::Ok, S::Error> {
    id.map(|id| id.to_string()).serialize(serializer)
}

/// Milliseconds, rounded to a microsecond.
pub(super) fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

fn transport(address: &Multiaddr) -> Option<&'static str> {
    let has =
        |wanted: &[Protocol<'_>]| wanted.iter().all(|want| address.iter().any(|p| p == *want));
    let websocket = address.iter().find_map(|part| match part {
        Protocol::Ws(_) => Some("ws"),
        Protocol::Wss(_) => Some("wss"),
        _ => None,
    });
    match websocket {
        Some("ws") if has(&[Protocol::Tls]) => Some("wss"),
        Some(websocket) => Some(websocket),
        None if has(&[Protocol::QuicV1]) => Some("quic-v1"),
        None => address
            .iter()
            .any(|part| matches!(part, Protocol::Tcp(_)))
            .then_some("tcp"),
    }
}
