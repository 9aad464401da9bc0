//! The steps of a probe, in order, each with a deadline.

use std::time::{Duration, Instant};

use futures::{StreamExt, future::try_join};
use libp2p::{Multiaddr, PeerId, Stream, StreamProtocol, multiaddr::Protocol};

use super::{
    client::{AnnouncedLimit, Client, Connection},
    diagnosis::diagnose,
    failure::{Cause, Failure, Step},
    network::Network,
    report::{Report, milliseconds},
    traffic::{self, ExchangeLimit, ExchangeResult, RoundTrips},
};

const PROTOCOL: StreamProtocol = StreamProtocol::new("/descord-relay/probe/1.0.0");

/// An upper bound of the cost of one small message on the wire, including framing.
const PING_COST: u64 = 256;

/// The settings of a probe.
#[derive(Clone, Copy, Debug)]
pub(super) struct ProbeSettings {
    /// Bulk data in each direction, in bytes.
    pub(super) bytes: u64,
    /// Number of small messages.
    pub(super) pings: u32,
    /// Deadline of each step.
    pub(super) timeout: Duration,
}

impl ProbeSettings {
    /// Bulk data within an announced limit: a quarter in each direction. That is half of the limit even
    /// if the relay counts both directions together; the rest is for handshakes and framing.
    fn exchange_limit(self, limit: AnnouncedLimit) -> ExchangeLimit {
        let send_for = self.timeout / 2;
        ExchangeLimit {
            bytes: limit
                .bytes
                .map_or(self.bytes, |limit| self.bytes.min(limit / 4)),
            send_for: limit
                .duration
                .map_or(send_for, |limit| send_for.min(limit / 4)),
        }
    }

    /// Number of small messages within an eighth of an announced limit.
    fn pings(self, limit: AnnouncedLimit) -> u32 {
        let fitting = limit.bytes.map_or(u64::MAX, |limit| limit / 8 / PING_COST);
        self.pings
            .min(u32::try_from(fitting).unwrap_or(u32::MAX))
            .max(1)
    }
}

/// Probes one relay. Failures are part of the report.
pub(super) async fn probe(
    address: Multiaddr,
    settings: ProbeSettings,
    network: &Network,
) -> Report {
    let mut report = Report::new(address);
    match Box::pin(steps(&mut report, settings, network)).await {
        Ok(()) => Report { ok: true, ..report },
        Err(failure) => report.failed(failure),
    }
}

async fn steps(
    report: &mut Report,
    settings: ProbeSettings,
    network: &Network,
) -> Result<(), Failure> {
    let timeout = settings.timeout;

    let started = Instant::now();
    let (mut listener, relay) = first_connection(&report.address, timeout, network).await?;
    report.connect_ms = Some(milliseconds(started.elapsed()));
    report.peer_id = Some(relay.peer);
    report.succeeded.push(Step::Connect);

    let address = with_peer_id(report.address.clone(), relay.peer);
    let limit = with_timeout(Step::Reserve, timeout, listener.reserve(address.clone())).await?;
    report.reservation_ms = Some(milliseconds(started.elapsed()));
    report.limit_bytes = limit.bytes;
    report.limit_seconds = limit.duration.map(|duration| duration.as_secs());
    report.succeeded.push(Step::Reserve);

    let (mut dialer, _) =
        with_timeout(Step::Connect, timeout, connect(&address, timeout, network)).await?;
    let through = address
        .with(Protocol::P2pCircuit)
        .with(Protocol::P2p(listener.peer_id()));
    let dialer_id = dialer.peer_id();
    let started = Instant::now();
    let ends = try_join(dialer.connect(through), listener.accept(dialer_id));
    let (out, incoming) = with_timeout(Step::Circuit, timeout, ends).await?;
    report.circuit_ms = Some(milliseconds(started.elapsed()));
    report.succeeded.push(Step::Circuit);

    for end in [&out, &incoming] {
        relayed(end).map_err(|cause| Failure::new(Step::Relayed, cause))?;
    }
    report.succeeded.push(Step::Relayed);

    let mut pair = ClientPair { listener, dialer };
    let times = with_timeout(Step::Echo, timeout, pair.ping(settings.pings(limit))).await?;
    report.rtt_p50_ms = Some(milliseconds(times.p50));
    report.rtt_p99_ms = Some(milliseconds(times.p99));
    report.succeeded.push(Step::Echo);

    let exchange = with_timeout(
        Step::Throughput,
        timeout,
        pair.exchange(settings.exchange_limit(limit)),
    )
    .await?;
    report.throughput_bytes = Some(exchange.bytes);
    report.throughput_mb_per_s = Some(exchange.megabytes_per_second());
    report.succeeded.push(Step::Throughput);
    Ok(())
}

/// The two clients, connected through the relay.
struct ClientPair {
    listener: Client,
    dialer: Client,
}

impl ClientPair {
    async fn ping(&mut self, count: u32) -> Result<RoundTrips, Cause> {
        self.with_stream(async |stream| traffic::ping(stream, count).await)
            .await
    }

    async fn exchange(&mut self, limit: ExchangeLimit) -> Result<ExchangeResult, Cause> {
        self.with_stream(async |stream| traffic::exchange(stream, limit).await)
            .await
    }

    /// Opens a stream from the dialer to the listener, which echoes, and runs `work` while the relay
    /// stays the only path between them.
    async fn with_stream<T>(
        &mut self,
        work: impl AsyncFnOnce(Stream) -> Result<T, Cause>,
    ) -> Result<T, Cause> {
        let (listener, dialer) = (self.listener.peer_id(), self.dialer.peer_id());
        let mut streams = self.listener.accept_streams(PROTOCOL)?;
        let mut control = self.dialer.control();
        let echoed = async {
            let stream = control.open_stream(listener, PROTOCOL).await;
            work(stream.map_err(|error| Cause::of(&error))?).await
        };
        let echo = async {
            while let Some((_, mut stream)) = streams.next().await {
                traffic::echo(&mut stream).await;
            }
            Cause::new("the listener accepts no streams")
        };
        tokio::select! {
            result = echoed => result,
            cause = echo => Err(cause),
            cause = self.listener.watch(dialer) => Err(cause),
            cause = self.dialer.watch(listener) => Err(cause),
        }
    }
}

/// Checks that one end of the connection has a circuit, and no other connection.
fn relayed(connection: &Connection) -> Result<(), Cause> {
    let remote = connection.endpoint.get_remote_address();
    if !connection.endpoint.is_relayed() {
        return Err(Cause::new(format!("the connection is direct: {remote}")));
    }
    if connection.count != 1 {
        return Err(Cause::new(format!(
            "{} connections instead of one",
            connection.count
        )));
    }
    Ok(())
}

fn with_peer_id(address: Multiaddr, peer: PeerId) -> Multiaddr {
    match address.iter().last() {
        Some(Protocol::P2p(_)) => address,
        _ => address.with(Protocol::P2p(peer)),
    }
}

/// Connects to the relay for the first time. A failure is examined further.
async fn first_connection(
    address: &Multiaddr,
    timeout: Duration,
    network: &Network,
) -> Result<(Client, Connection), Failure> {
    let (step, attempt) = (Step::Connect, connect(address, timeout, network));
    let failure = match tokio::time::timeout(timeout, attempt).await {
        Ok(Ok(connected)) => return Ok(connected),
        Ok(Err(cause)) if cause.is_known() => return Err(Failure::new(step, cause)),
        Ok(Err(cause)) => Failure::new(step, cause),
        Err(_) => Failure::timeout(step, timeout),
    };
    Err(match diagnose(address, network).await {
        Some(cause) => Failure::new(
            step,
            Cause {
                message: format!("{} [{}]", cause.message, failure.cause.message),
                ..cause
            },
        ),
        None => failure,
    })
}

async fn connect(
    address: &Multiaddr,
    timeout: Duration,
    network: &Network,
) -> Result<(Client, Connection), Cause> {
    network.check_resolver(address)?;
    let mut client = Client::new(network, timeout)?;
    let connection = client.connect(address.clone()).await?;
    Ok((client, connection))
}

async fn with_timeout<T>(
    step: Step,
    timeout: Duration,
    work: impl Future<Output = Result<T, Cause>>,
) -> Result<T, Failure> {
    match tokio::time::timeout(timeout, work).await {
        Ok(result) => result.map_err(|cause| Failure::new(step, cause)),
        Err(_) => Err(Failure::timeout(step, timeout)),
    }
}
