//! CPU time per forwarded byte, and the fairness between circuits.

use std::{
    iter::zip,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::{
    task::JoinSet,
    time::{Instant, Interval, interval_at, sleep},
};

use super::{
    Plan, Result,
    clients::{Channel, Client, Pings},
    relay::Relay,
    report::{Sample, Target},
};

const GIB: f64 = 1024.0 * 1024.0 * 1024.0;
/// Size of a client's reads and writes.
const CHUNK_BYTES: u32 = 64 * 1024;
/// Timeout for the first bytes.
const PATIENCE: Duration = Duration::from_secs(60);

/// Circuits with traffic in one direction, each between two new clients, until dropped.
pub(crate) struct Load {
    received: Vec<Arc<AtomicU64>>,
    tasks: JoinSet<()>,
    clients: Vec<Client>,
}

impl Load {
    /// Traffic through a relay with `rate` bytes per second in total, or unlimited.
    pub(crate) async fn start(
        relay: &Relay,
        channel: Channel,
        circuits: usize,
        rate: Option<u32>,
    ) -> Result<Self> {
        let mut clients = Client::many(
            2 * circuits,
            channel,
            &[relay.address(channel)?],
            Pings::Answered,
        )
        .await?;
        let mut ends = Vec::new();
        for pair in clients.chunks_exact_mut(2) {
            let [source, target] = pair else { continue };
            ends.push(source.connect(target).await?);
        }
        let mut load = Self::between(ends, rate)?;
        load.clients = clients;
        Ok(load)
    }

    /// Forwards from the first to the second end of each pair.
    pub(crate) fn between<W, R>(ends: Vec<(W, R)>, rate: Option<u32>) -> Result<Self>
    where
        W: AsyncWrite + Unpin + Send + 'static,
        R: AsyncRead + Unpin + Send + 'static,
    {
        let circuits = u32::try_from(ends.len())?;
        let pace = rate.map(|rate| Duration::from_secs(1) * (circuits * CHUNK_BYTES) / rate);
        let mut turn = Instant::now();
        let mut load = Self {
            received: Vec::new(),
            tasks: JoinSet::new(),
            clients: Vec::new(),
        };
        for (near, far) in ends {
            let total = Arc::new(AtomicU64::new(0));
            let turns = pace.map(|pace| interval_at(turn, pace));
            // Distributes the writes of the circuits over time.
            turn += pace.unwrap_or_default() / circuits;
            load.tasks.spawn(write(near, turns));
            load.tasks.spawn(read(far, Arc::clone(&total)));
            load.received.push(total);
        }
        Ok(load)
    }

    /// Bytes forwarded by each circuit.
    fn received(&self) -> Vec<u64> {
        self.received.iter().map(|n| n.load(Relaxed)).collect()
    }

    /// Bytes forwarded by all circuits.
    pub(crate) fn total(&self) -> u64 {
        self.received().iter().sum()
    }

    /// The cost for a process; `cpu` returns its CPU time so far, in seconds.
    #[expect(clippy::cast_precision_loss, reason = "fewer than 2^53 bytes")]
    pub(crate) async fn cost(
        &self,
        cpu: impl Fn() -> Result<f64>,
        channel: &str,
        target: Target,
        plan: &Plan,
    ) -> Result<Vec<Sample>> {
        // Waits until windows have grown.
        sleep(plan.span / 2).await;
        let (start, used, before) = (Instant::now(), cpu()?, self.received());
        let (carried, least) = loop {
            sleep(plan.span).await;
            let now = self.received();
            let carried: Vec<f64> = zip(now, &before).map(|(n, b)| (n - b) as f64).collect();
            let least = carried.iter().copied().fold(f64::INFINITY, f64::min);
            // During a short measurement on a busy machine, a circuit may forward nothing.
            if least > 0.0 {
                break (carried, least);
            }
            if start.elapsed() > PATIENCE {
                return Err("a circuit carries nothing".into());
            }
        };
        let (elapsed, used) = (start.elapsed(), cpu()? - used);

        let most = carried.iter().copied().fold(0.0, f64::max);
        let total = carried.iter().sum::<f64>() / GIB;
        let rate = total * 1024.0 / elapsed.as_secs_f64();
        let name = match carried.len() {
            1 => format!("{channel}, 1 circuit"),
            circuits => format!("{channel}, {circuits} circuits"),
        };
        let mut samples = vec![
            Sample::new(&name, "CPU s/GiB", used / total, target),
            Sample::new(&name, "MiB/s", rate, Target::None),
        ];
        if carried.len() > 1 {
            let fairness = Target::Ours(1.1);
            samples.push(Sample::new(
                &name,
                "max ÷ min bytes per circuit",
                most / least,
                fairness,
            ));
        }
        Ok(samples)
    }
}

/// Writes a chunk at each tick of `turns`, or continuously.
async fn write(mut stream: impl AsyncWrite + Unpin, mut turns: Option<Interval>) {
    let chunk = vec![0x5a; CHUNK_BYTES as usize];
    loop {
        if let Some(turns) = &mut turns {
            turns.tick().await;
        }
        if stream.write_all(&chunk).await.is_err() {
            break;
        }
    }
}

async fn read(mut stream: impl AsyncRead + Unpin, total: Arc<AtomicU64>) {
    let mut chunk = vec![0; CHUNK_BYTES as usize];
    while let Ok(read @ 1..) = stream.read(&mut chunk).await {
        total.fetch_add(read as u64, Relaxed);
    }
}

/// The target relative to libp2p's relay.
pub(crate) fn target(channel: Channel) -> Target {
    Target::Ratio(match channel {
        Channel::Noise => 0.60,
        Channel::Tls => 0.42,
        Channel::Quic => 0.65,
    })
}

pub(crate) async fn measure(
    relay: &Relay,
    channel: Channel,
    circuits: usize,
    target: Target,
    plan: &Plan,
) -> Result<Vec<Sample>> {
    let load = Load::start(relay, channel, circuits, None).await?;
    load.cost(|| relay.cpu(), channel.name(), target, plan)
        .await
}
