//! CPU time of each request, for various numbers of reservations.

use futures::{TryStreamExt, stream::FuturesUnordered};
use tokio::time::Instant;

use super::{
    Plan, Result,
    clients::{Channel, Client, Pings, finish},
    relay::Relay,
    report::{Sample, Target},
};

/// Number of clients that open circuits, in pairs, independent of the number of reservations.
pub(crate) const BUSY_CLIENTS: usize = 8;
/// Renewals per client: the relay does not delay a burst of this size.
const RENEWALS_EACH: usize = 50;

/// For each number of reservations of the plan, adds clients and measures requests. Clients that only
/// hold a reservation do not support pings, so that the measurement does not depend on the ping schedule.
pub(crate) async fn measure(relay: &Relay, channel: Channel, plan: &Plan) -> Result<Vec<Sample>> {
    let addresses = relay.addresses(channel)?;
    let mut samples = Vec::new();
    let mut holders = Vec::new();
    let mut costs = Vec::new();
    for &size in &plan.sizes {
        let more = size.saturating_sub(holders.len());
        holders.extend(Client::many(more, channel, &addresses, Pings::Unknown).await?);
        relay.wait_until_idle(plan.idle_interval).await?;
        let name = format!("{}, {size} reservations", channel.name());

        let start = Span::begin(relay)?;
        let new_clients =
            Client::many(plan.new_clients, channel, &addresses, Pings::Answered).await?;
        relay.wait_until_idle(plan.idle_interval).await?;
        let (coming, _) = start.end(plan.new_clients)?;
        Client::disconnect_all(new_clients).await?;
        relay.wait_until_idle(plan.idle_interval).await?;

        let renewing_pairs = plan.requests.div_ceil(RENEWALS_EACH).min(holders.len() / 2);
        let renewals = (plan.requests / renewing_pairs).min(RENEWALS_EACH);
        let start = Span::begin(relay)?;
        at_once(&mut holders[..2 * renewing_pairs], async |source, _| {
            for _ in 0..renewals {
                source.reserve().await?;
            }
            Ok(())
        })
        .await?;
        let (renewing, _) = start.end(renewals * renewing_pairs)?;

        let busy = holders.len().min(BUSY_CLIENTS);
        let (each, pairs) = (plan.requests * 2 / busy, &mut holders[..busy]);
        let requests = each * (busy / 2);
        let start = Span::begin(relay)?;
        at_once(pairs, async |source, target| {
            for _ in 0..each {
                finish(source.connect(target).await?).await?;
            }
            Ok(())
        })
        .await?;
        let (connecting, rate) = start.end(requests)?;

        samples.extend([
            Sample::new(&name, COMING, coming, Target::Ratio(0.9)),
            Sample::new(&name, "CPU ms per renewal", renewing, Target::None),
            Sample::new(&name, CONNECTING, connecting, Target::Ratio(0.65)),
            Sample::new(&name, "circuits/s", rate, Target::None),
        ]);
        costs.push((size, coming, connecting));
    }
    if let [
        (few, coming, connecting),
        ..,
        (many, coming_late, connecting_late),
    ] = costs[..]
    {
        let name = format!("{}, {many} ÷ {few} reservations", channel.name());
        for (unit, growth) in [
            (COMING, coming_late / coming),
            (CONNECTING, connecting_late / connecting),
        ] {
            samples.push(Sample::new(&name, unit, growth, Target::Ours(1.1)));
        }
    }
    Ok(samples)
}

const COMING: &str = "CPU ms per connection and reservation";
const CONNECTING: &str = "CPU ms per circuit";

/// Runs the action concurrently for each pair of clients.
async fn at_once(
    clients: &mut [Client],
    work: impl AsyncFn(&mut Client, &mut Client) -> Result<()>,
) -> Result<()> {
    let pairs = clients.chunks_exact_mut(2).filter_map(|pair| match pair {
        [source, target] => Some(work(source, target)),
        _ => None,
    });
    let mut working: FuturesUnordered<_> = pairs.collect();
    while working.try_next().await?.is_some() {}
    Ok(())
}

/// CPU time and duration since the start of a measurement.
struct Span<'a> {
    relay: &'a Relay,
    start: Instant,
    used: f64,
}

impl<'a> Span<'a> {
    fn begin(relay: &'a Relay) -> Result<Self> {
        Ok(Self {
            relay,
            start: Instant::now(),
            used: relay.cpu()?,
        })
    }

    /// Milliseconds of CPU time for each of `count`, and the rate per second.
    #[expect(clippy::cast_precision_loss, reason = "fewer than 2^53")]
    fn end(self, count: usize) -> Result<(f64, f64)> {
        let count = count as f64;
        let used = self.relay.cpu()? - self.used;
        Ok((
            used * 1e3 / count,
            count / self.start.elapsed().as_secs_f64(),
        ))
    }
}
