//! Round-trip times through a circuit of a relay that is idle, partially loaded, or fully loaded.

use std::time::Duration;

use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p::{Multiaddr, Stream};
use tokio::{
    runtime::{self, Runtime},
    task::JoinSet,
    time::{Instant, sleep},
};

use super::{
    Plan, Result,
    clients::{Channel, Client, Pings},
    relay::Relay,
    report::{Sample, Target},
    throughput::Load,
};

/// Size of a message that is echoed.
const MESSAGE_BYTES: usize = 64;
/// Number of other circuits with traffic when the relay is under load.
const LOAD_CIRCUITS: usize = 4;
/// Bytes per second of the load that is the same for both relays: less than half of the maximum of
/// libp2p's relay over any transport.
const SAME_LOAD: u32 = 128 * MIB;
const MIB: u32 = 1024 * 1024;

pub(crate) async fn measure(relay: &Relay, channel: Channel, plan: &Plan) -> Result<Vec<Sample>> {
    // A separate runtime, so that latency is not affected by the scheduling of the clients that generate
    // load.
    let separate = runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let samples = measure_from(&separate, relay, channel, plan).await;
    separate.shutdown_background();
    samples
}

async fn measure_from(
    separate: &Runtime,
    relay: &Relay,
    channel: Channel,
    plan: &Plan,
) -> Result<Vec<Sample>> {
    let pair = separate
        .spawn(Pair::new(channel, relay.address(channel)?))
        .await??;
    let (mut pair, idle) = separate.spawn(pair.round_trips(plan.span)).await??;
    let mut samples = percentiles(&format!("{}, idle", channel.name()), &idle);
    let same = format!("{} MiB/s", SAME_LOAD / MIB);
    for (state, rate) in [(&*same, Some(SAME_LOAD)), ("full load", None)] {
        let name = format!("{}, {state}", channel.name());
        let load = Load::start(relay, channel, LOAD_CIRCUITS, rate).await?;
        sleep(plan.span / 2).await;
        let (start, before) = (Instant::now(), load.total());
        let times;
        (pair, times) = separate.spawn(pair.round_trips(plan.span)).await??;
        let carried = load.total() - before;
        samples.extend(percentiles(&name, &times));
        #[expect(clippy::cast_precision_loss, reason = "fewer than 2^53 bytes")]
        let rate = carried as f64 / f64::from(MIB) / start.elapsed().as_secs_f64();
        samples.push(Sample::new(&name, "MiB/s", rate, Target::None));
    }
    Ok(samples)
}

fn percentiles(name: &str, times: &[Duration]) -> Vec<Sample> {
    let percentile = |(unit, percent): (&'static str, usize)| {
        let at = (times.len() * percent / 100).min(times.len() - 1);
        let time = times[at].as_secs_f64() * 1e6;
        // No regression beyond the difference between two runs.
        Sample::new(name, unit, time, Target::Ratio(1.05))
    };
    [("p50, µs", 50), ("p99, µs", 99)].map(percentile).into()
}

/// Two clients and a circuit whose far end echoes.
struct Pair {
    near: Stream,
    _echo: JoinSet<std::io::Result<u64>>,
    _clients: Vec<Client>,
}

impl Pair {
    async fn new(channel: Channel, relay: Multiaddr) -> Result<Self> {
        let mut clients = Client::many(2, channel, &[relay], Pings::Answered).await?;
        let [source, target] = clients.as_mut_slice() else {
            return Err("two clients are wanted".into());
        };
        let (near, far) = source.connect(target).await?;
        let mut echo = JoinSet::new();
        echo.spawn(async move {
            let (reader, mut writer) = far.split();
            futures::io::copy(reader, &mut writer).await
        });
        Ok(Self {
            near,
            _echo: echo,
            _clients: clients,
        })
    }

    /// The round-trip times within `span`, in ascending order.
    async fn round_trips(mut self, span: Duration) -> Result<(Self, Vec<Duration>)> {
        let end = Instant::now() + span;
        let mut message = [0x5a; MESSAGE_BYTES];
        let mut times = Vec::new();
        while times.is_empty() || Instant::now() < end {
            let start = Instant::now();
            self.near.write_all(&message).await?;
            self.near.flush().await?;
            self.near.read_exact(&mut message).await?;
            times.push(start.elapsed());
        }
        times.sort_unstable();
        Ok((self, times))
    }
}
