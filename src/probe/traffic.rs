//! The traffic between the two clients, and its verification.
//!
//! The listener echoes. The dialer sends a pattern that depends on the position, and so detects a byte
//! that is lost, repeated, moved or changed.

use std::time::{Duration, Instant};

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, future::try_join};

use super::failure::Cause;

/// Length of a small message, in bytes.
const PING_BYTES: usize = 32;

/// Length of a write of the bulk exchange, in bytes.
const CHUNK_BYTES: usize = 64 * 1024;

/// Echoes until the end of the stream.
pub(super) async fn echo(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) {
    let mut buffer = vec![0; CHUNK_BYTES];
    // The dialer gets an error as well, and reports it.
    while let Ok(length @ 1..) = stream.read(&mut buffer).await {
        let received = buffer.get(..length).unwrap_or_default();
        if stream.write_all(received).await.is_err() || stream.flush().await.is_err() {
            return;
        }
    }
    let _ = stream.close().await;
}

/// Round-trip times of small messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RoundTrips {
    /// The median.
    pub(super) p50: Duration,
    /// 99th percentile; of fewer than a hundred messages, the maximum.
    pub(super) p99: Duration,
}

/// Sends `count` small messages, each after the response to the previous one.
pub(super) async fn ping(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    count: u32,
) -> Result<RoundTrips, Cause> {
    let mut pattern = Pattern::new(rand::random());
    let mut times = Vec::new();
    // The first message includes the negotiation of the stream, and is not counted.
    for _ in 0..=count {
        let mut message = [0; PING_BYTES];
        pattern.fill(&mut message);
        let mut answer = [0; PING_BYTES];
        let sent = Instant::now();
        stream
            .write_all(&message)
            .await
            .map_err(|error| Cause::of(&error))?;
        stream.flush().await.map_err(|error| Cause::of(&error))?;
        stream
            .read_exact(&mut answer)
            .await
            .map_err(|error| Cause::of(&error))?;
        times.push(sent.elapsed());
        if answer != message {
            return Err(Cause::new("a message came back changed"));
        }
    }
    stream.close().await.map_err(|error| Cause::of(&error))?;
    times.remove(0);
    times.sort_unstable();
    let percentile = |percent: usize| {
        // Nearest rank: the smallest time that `percent` of all do not exceed.
        let rank = (times.len() * percent).div_ceil(100);
        times
            .get(rank.saturating_sub(1))
            .copied()
            .unwrap_or_default()
    };
    Ok(RoundTrips {
        p50: percentile(50),
        p99: percentile(99),
    })
}

/// Limits of the bulk exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ExchangeLimit {
    /// Maximum number of bytes in each direction.
    pub(super) bytes: u64,
    /// Time after which no more is sent, so that a slow path still gives a measurement.
    pub(super) send_for: Duration,
}

/// The result of the bulk exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ExchangeResult {
    /// Bytes in each direction.
    pub(super) bytes: u64,
    /// Time from the first byte sent to the last byte received.
    pub(super) elapsed: Duration,
}

impl ExchangeResult {
    /// Megabytes (10⁶ bytes) per second in each direction, to three decimals.
    #[expect(clippy::cast_precision_loss, reason = "exact up to 2^53 bytes")]
    pub(super) fn megabytes_per_second(self) -> f64 {
        let bytes_per_second = self.bytes as f64 / self.elapsed.as_secs_f64();
        (bytes_per_second / 1e3).round() / 1e3
    }
}

/// Sends bulk data and receives its echo at the same time.
pub(super) async fn exchange(
    stream: impl AsyncRead + AsyncWrite,
    limit: ExchangeLimit,
) -> Result<ExchangeResult, Cause> {
    let seed = rand::random();
    let started = Instant::now();
    let (reader, writer) = stream.split();
    let (sent, received) = try_join(
        send(writer, Pattern::new(seed), limit),
        receive(reader, Pattern::new(seed)),
    )
    .await?;
    if received != sent {
        return Err(Cause::new(format!(
            "sent {sent} bytes, but only {received} came back"
        )));
    }
    Ok(ExchangeResult {
        bytes: sent,
        elapsed: started.elapsed(),
    })
}

async fn send(
    mut writer: impl AsyncWrite + Unpin,
    mut pattern: Pattern,
    limit: ExchangeLimit,
) -> Result<u64, Cause> {
    let started = Instant::now();
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut sent = 0;
    while sent < limit.bytes && started.elapsed() < limit.send_for {
        let rest = usize::try_from(limit.bytes - sent).unwrap_or(usize::MAX);
        let chunk = buffer.get_mut(..rest.min(CHUNK_BYTES)).unwrap_or_default();
        pattern.fill(chunk);
        writer
            .write_all(chunk)
            .await
            .map_err(|error| interrupted(sent, &error))?;
        sent += chunk.len() as u64;
    }
    // Half-close: the echo is complete at the end of the other direction.
    writer
        .close()
        .await
        .map_err(|error| interrupted(sent, &error))?;
    Ok(sent)
}

async fn receive(mut reader: impl AsyncRead + Unpin, mut pattern: Pattern) -> Result<u64, Cause> {
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut received = 0;
    loop {
        match reader.read(&mut buffer).await {
            Ok(0) => return Ok(received),
            Ok(length) => {
                if !pattern.continues_with(buffer.get(..length).unwrap_or_default()) {
                    return Err(Cause::new(format!(
                        "the received data differs from the sent data after byte {received}"
                    )));
                }
                received += length as u64;
            }
            Err(error) => return Err(interrupted(received, &error)),
        }
    }
}

fn interrupted(bytes: u64, error: &std::io::Error) -> Cause {
    let cause = Cause::of(error);
    Cause {
        message: format!("cut after {bytes} bytes: {}", cause.message),
        ..cause
    }
}

/// A reproducible stream of bytes that differ by position: the top byte of Knuth's linear congruential
/// generator.
struct Pattern {
    state: u64,
}

impl Pattern {
    fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    fn next(&mut self) -> u8 {
        self.state = self
            .state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let [top, ..] = self.state.to_be_bytes();
        top
    }

    fn fill(&mut self, buffer: &mut [u8]) {
        buffer.fill_with(|| self.next());
    }

    fn continues_with(&mut self, bytes: &[u8]) -> bool {
        bytes.iter().all(|byte| *byte == self.next())
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{DuplexStream, duplex};
    use tokio_util::compat::{Compat, TokioAsyncReadCompatExt};

    use super::*;

    const BUDGET: ExchangeLimit = ExchangeLimit {
        bytes: 300_000,
        send_for: Duration::from_secs(60),
    };

    fn streams() -> (Compat<DuplexStream>, Compat<DuplexStream>) {
        let (near, far) = duplex(10_000);
        (near.compat(), far.compat())
    }

    /// A listener that modifies its echo.
    async fn corrupt(mut stream: Compat<DuplexStream>, change: impl Fn(&mut Vec<u8>)) {
        let mut data = Vec::new();
        stream.read_to_end(&mut data).await.unwrap();
        change(&mut data);
        // The dialer closes the stream at the first wrong byte.
        let _ = stream.write_all(&data).await;
        let _ = stream.close().await;
    }

    #[tokio::test]
    async fn echo_is_measured() {
        let (near, mut far) = streams();
        let (times, ()) = futures::join!(ping(near, 100), echo(&mut far));
        let times = times.unwrap();
        assert!(times.p50 <= times.p99 && times.p99 > Duration::ZERO);

        let (near, mut far) = streams();
        let (done, ()) = futures::join!(exchange(near, BUDGET), echo(&mut far));
        assert_eq!(done.unwrap().bytes, BUDGET.bytes);
    }

    #[tokio::test]
    async fn sending_stops_at_the_deadline() {
        let (near, mut far) = streams();
        let limit = ExchangeLimit {
            bytes: u64::MAX,
            send_for: Duration::from_millis(5),
        };
        let (done, ()) = futures::join!(exchange(near, limit), echo(&mut far));
        let done = done.unwrap();
        assert!(done.bytes > 0 && done.elapsed >= limit.send_for);
    }

    #[tokio::test]
    async fn changed_byte_is_detected() {
        type Change = fn(&mut Vec<u8>);
        let changes: [(Change, &str); 4] = [
            (|data| data[299_999] ^= 1, "differs"),
            (|data| data.swap(7, 9_000), "differs"),
            (|data| data.truncate(299_999), "only 299999 came back"),
            (|data| data.push(0), "differs"),
        ];
        for (change, message) in changes {
            let (near, far) = streams();
            let (done, ()) = futures::join!(exchange(near, BUDGET), corrupt(far, change));
            let cause = done.unwrap_err();
            assert!(cause.message.contains(message), "{message:?} in {cause:?}");
        }
    }
}
