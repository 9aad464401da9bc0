//! What peers cost that hold a reservation: to come, to stay, to renew, to open circuits, and to
//! have been there.

use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use tokio::time::{Instant, sleep};

use super::{
    Plan, Result,
    clients::{Channel, Client, finish},
    relay::Relay,
    report::{Sample, Target},
};

/// Clients that renew and open circuits, in pairs, whatever number there is.
const BUSY_CLIENTS: usize = 8;
/// From so many reservations on, the memory that each takes shows.
const ENOUGH_FOR_MEMORY: usize = 100;
/// How long the relay may take to give memory back.
const PATIENCE: Duration = Duration::from_secs(30);

/// Grows to each number of reservations of the plan, and measures there.
pub(crate) async fn measure(relay: &Relay, channel: Channel, plan: &Plan) -> Result<Vec<Sample>> {
    let mut run = Run {
        relay,
        channel,
        plan,
        samples: Vec::new(),
    };
    // What is set up once is not counted.
    leave(run.come(BUSY_CLIENTS).await?).await?;
    relay.rests(plan.look).await?;
    let start = relay.resident_bytes()?;

    let mut clients = Vec::new();
    for &size in &plan.sizes {
        let more = size.saturating_sub(clients.len());
        clients.extend(run.come(more).await?);
        relay.rests(plan.look).await?;
        run.memory(size, start)?;
        run.at(size, &mut clients).await?;
    }
    leave(clients).await?;
    relay.rests(plan.look).await?;
    let end = kept_memory(relay, plan).await?;
    let name = format!("{}, after all have left", channel.name());
    let unit = "memory, to the start";
    run.samples.push(Sample::new(
        &name,
        unit,
        ratio(end, start),
        Target::Ours(1.2),
    ));
    Ok(run.samples)
}

struct Run<'a> {
    relay: &'a Relay,
    channel: Channel,
    plan: &'a Plan,
    samples: Vec<Sample>,
}

impl Run<'_> {
    async fn come(&self, count: usize) -> Result<Vec<Client>> {
        Client::many(count, self.channel, &self.relay.address(self.channel)?).await
    }

    fn add(&mut self, size: usize, unit: &'static str, value: f64, target: Target) {
        let name = format!("{}, {size} reservations", self.channel.name());
        self.samples.push(Sample::new(&name, unit, value, target));
    }

    #[expect(clippy::cast_precision_loss, reason = "fewer than 2^53")]
    fn memory(&mut self, size: usize, start: u64) -> Result<()> {
        if size >= ENOUGH_FOR_MEMORY {
            let more = self.relay.resident_bytes()?.saturating_sub(start);
            let each = more as f64 / size as f64 / 1024.0;
            self.add(size, "KiB a reservation", each, Target::Ratio(0.6));
        }
        Ok(())
    }

    /// Measures while so many reservations, `clients`, are held.
    async fn at(&mut self, size: usize, clients: &mut [Client]) -> Result<()> {
        let rest = self.relay.load_over(self.plan.rest).await?;
        self.add(
            size,
            "CPU at rest, % of a core",
            rest * 100.0,
            Target::Ours(2.0),
        );

        let start = Span::begin(self.relay)?;
        let newcomers = self.come(self.plan.newcomers).await?;
        self.relay.rests(self.plan.look).await?;
        let coming = start.each(rest, self.plan.newcomers)?;
        self.add(
            size,
            "CPU ms a connection and reservation",
            coming,
            Target::Ratio(0.9),
        );
        leave(newcomers).await?;
        self.relay.rests(self.plan.look).await?;

        let busy = clients.len().min(BUSY_CLIENTS);
        let pairs = clients.get_mut(..busy).unwrap_or_default();
        let each = self.plan.requests / (busy / 2).max(1);
        let requests = each * (busy / 2);
        let start = Span::begin(self.relay)?;
        all(pairs, async |pair| {
            for _ in 0..each {
                pair.0.reserve().await?;
            }
            Ok(())
        })
        .await?;
        let renewing = start.each(rest, requests)?;
        self.add(size, "CPU ms a renewal", renewing, Target::None);

        let start = Span::begin(self.relay)?;
        all(pairs, async |pair| {
            for _ in 0..each {
                finish(pair.0.connect(pair.1).await?).await?;
            }
            Ok(())
        })
        .await?;
        let rate = start.rate(requests);
        let connecting = start.each(rest, requests)?;
        self.add(size, "CPU ms a circuit", connecting, Target::Ratio(0.65));
        self.add(size, "circuits/s", rate, Target::None);
        Ok(())
    }
}

/// Does the same with each pair of clients at once.
async fn all(
    clients: &mut [Client],
    work: impl AsyncFn((&mut Client, &mut Client)) -> Result<()>,
) -> Result<()> {
    let pairs = clients.chunks_exact_mut(2).filter_map(|pair| match pair {
        [source, target] => Some(work((source, target))),
        _ => None,
    });
    let mut working: futures::stream::FuturesUnordered<_> = pairs.collect();
    while working.try_next().await?.is_some() {}
    Ok(())
}

async fn leave(clients: Vec<Client>) -> Result<()> {
    futures::stream::iter(clients)
        .map(|client| Ok(client.leave()))
        .try_buffer_unordered(64)
        .try_collect()
        .await
}

/// How much memory the relay keeps: what it holds when it has given nothing back for a while.
async fn kept_memory(relay: &Relay, plan: &Plan) -> Result<u64> {
    let (mut least, mut since) = (relay.resident_bytes()?, Instant::now());
    let deadline = since + PATIENCE;
    while since.elapsed() < plan.span && Instant::now() < deadline {
        sleep(plan.span / 10).await;
        let now = relay.resident_bytes()?;
        if now < least {
            (least, since) = (now, Instant::now());
        }
    }
    Ok(least)
}

/// Work of the relay from here on.
struct Span<'a> {
    relay: &'a Relay,
    start: Instant,
    used: f64,
}

#[expect(clippy::cast_precision_loss, reason = "fewer than 2^53")]
impl<'a> Span<'a> {
    fn begin(relay: &'a Relay) -> Result<Self> {
        Ok(Self {
            relay,
            start: Instant::now(),
            used: relay.cpu()?,
        })
    }

    /// Milliseconds of CPU for each of `count`, without what it uses at rest.
    fn each(&self, rest: f64, count: usize) -> Result<f64> {
        let used = self.relay.cpu()? - self.used;
        let rest = rest * self.start.elapsed().as_secs_f64();
        Ok((used - rest).max(0.0) * 1e3 / count as f64)
    }

    /// How many a second.
    fn rate(&self, count: usize) -> f64 {
        count as f64 / self.start.elapsed().as_secs_f64()
    }
}

#[expect(clippy::cast_precision_loss, reason = "fewer than 2^53 bytes")]
fn ratio(end: u64, start: u64) -> f64 {
    end as f64 / start as f64
}
