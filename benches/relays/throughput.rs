//! CPU time for each byte that is relayed, and how fairly circuits share the relay.

use std::{
    iter::zip,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p::Stream;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use super::{
    Plan, Result,
    clients::{Channel, Client, Pings},
    relay::Relay,
    report::{Sample, Target},
};

const GIB: f64 = 1024.0 * 1024.0 * 1024.0;
/// As much as a client writes and reads at once.
const CHUNK_BYTES: usize = 64 * 1024;
/// Longer than the first bytes take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Circuits that carry bytes one way as fast as they can, each between two clients of its own, for
/// as long as this lives.
pub(crate) struct Load {
    received: Vec<Arc<AtomicU64>>,
    _tasks: JoinSet<()>,
    _clients: Vec<Client>,
}

impl Load {
    pub(crate) async fn start(relay: &Relay, channel: Channel, circuits: usize) -> Result<Self> {
        let mut clients = Client::many(
            2 * circuits,
            channel,
            &relay.address(channel)?,
            Pings::Answered,
        )
        .await?;
        let mut tasks = JoinSet::new();
        let mut received = Vec::new();
        for pair in clients.chunks_exact_mut(2) {
            let [source, target] = pair else { continue };
            let (near, far) = source.connect(target).await?;
            let total = Arc::new(AtomicU64::new(0));
            tasks.spawn(write(near));
            tasks.spawn(read(far, Arc::clone(&total)));
            received.push(total);
        }
        Ok(Self {
            received,
            _tasks: tasks,
            _clients: clients,
        })
    }

    /// Bytes that each circuit has carried.
    fn received(&self) -> Vec<u64> {
        self.received.iter().map(|n| n.load(Relaxed)).collect()
    }
}

async fn write(mut stream: Stream) {
    let chunk = vec![0x5a; CHUNK_BYTES];
    while stream.write_all(&chunk).await.is_ok() {}
}

async fn read(mut stream: Stream, total: Arc<AtomicU64>) {
    let mut chunk = vec![0; CHUNK_BYTES];
    while let Ok(read @ 1..) = stream.read(&mut chunk).await {
        total.fetch_add(read as u64, Relaxed);
    }
}

#[expect(clippy::cast_precision_loss, reason = "fewer than 2^53 bytes")]
pub(crate) async fn measure(
    relay: &Relay,
    channel: Channel,
    circuits: usize,
    plan: &Plan,
) -> Result<Vec<Sample>> {
    let load = Load::start(relay, channel, circuits).await?;
    // Windows grow for a while.
    sleep(plan.span / 2).await;
    let (start, used, before) = (Instant::now(), relay.cpu()?, load.received());
    let (carried, least) = loop {
        sleep(plan.span).await;
        let now = load.received();
        let carried: Vec<f64> = zip(now, &before).map(|(n, b)| (n - b) as f64).collect();
        let least = carried.iter().copied().fold(f64::INFINITY, f64::min);
        // On a machine that is busy, and for a short time, it may be that nothing arrives.
        if least > 0.0 {
            break (carried, least);
        }
        if start.elapsed() > PATIENCE {
            return Err("a circuit carries nothing".into());
        }
    };
    let (elapsed, used) = (start.elapsed(), relay.cpu()? - used);

    let most = carried.iter().copied().fold(0.0, f64::max);
    let total = carried.iter().sum::<f64>() / GIB;
    let name = match circuits {
        1 => format!("{}, 1 circuit", channel.name()),
        _ => format!("{}, {circuits} circuits", channel.name()),
    };
    let target = match channel {
        Channel::Noise => 0.60,
        Channel::Tls => 0.42,
        Channel::Quic => 0.65,
    };
    let mut samples = vec![
        Sample::new(&name, "CPU s/GiB", used / total, Target::Ratio(target)),
        Sample::new(
            &name,
            "MiB/s",
            total * 1024.0 / elapsed.as_secs_f64(),
            Target::None,
        ),
    ];
    if circuits > 1 {
        samples.push(Sample::new(
            &name,
            "most to least, bytes",
            most / least,
            Target::Ours(1.1),
        ));
    }
    Ok(samples)
}
