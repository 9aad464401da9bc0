//! CPU and memory usage of reserved, idle peers, and memory that is retained after they disconnect.

use tokio::time::{Instant, sleep};

use super::{
    Plan, Result,
    clients::{Channel, Client, Pings},
    relay::Relay,
    report::{Sample, Target},
    requests::BUSY_CLIENTS,
};

/// Minimum number of reservations for a measurement of memory per reservation.
const MIN_RESERVATIONS: usize = 100;

/// For each sufficiently large number of reservations of the plan, connects and disconnects that many
/// clients.
pub(crate) async fn measure(relay: &Relay, channel: Channel, plan: &Plan) -> Result<Vec<Sample>> {
    let addresses = relay.addresses(channel)?;
    // One-time allocations are not measured.
    let first = Client::many(BUSY_CLIENTS, channel, &addresses, Pings::Answered).await?;
    Client::disconnect_all(first).await?;
    relay.wait_until_idle(plan.idle_interval).await?;
    let start = relay.resident_kib()?;

    let mut samples = Vec::new();
    let largest = plan.sizes.last().copied().unwrap_or_default();
    for &size in plan
        .sizes
        .iter()
        .filter(|&&n| n >= MIN_RESERVATIONS.min(largest))
    {
        let clients = Client::many(size, channel, &addresses, Pings::Answered).await?;
        relay.wait_until_idle(plan.idle_interval).await?;
        let name = format!("{}, {size} reservations", channel.name());
        let each = (relay.resident_kib()? - start) / as_f64(size);
        samples.push(Sample::new(
            &name,
            "KiB per reservation",
            each,
            Target::Ratio(0.6),
        ));
        if size == largest {
            let rest = relay.load_over(plan.rest).await? * 100.0;
            samples.push(Sample::new(&name, "% of a core", rest, Target::Ours(2.0)));
        }
        Client::disconnect_all(clients).await?;
        relay.wait_until_idle(plan.idle_interval).await?;
        let kept = retained_kib(relay, plan).await? / start;
        let unit = "memory after ÷ before";
        samples.push(Sample::new(&name, unit, kept, Target::Ours(1.2)));
    }
    Ok(samples)
}

/// Resident memory once the relay has not released any for some time, in KiB.
async fn retained_kib(relay: &Relay, plan: &Plan) -> Result<f64> {
    let (mut least, mut since) = (relay.resident_kib()?, Instant::now());
    while since.elapsed() < plan.retention {
        sleep(plan.retention / 10).await;
        let now = relay.resident_kib()?;
        if now < least {
            (least, since) = (now, Instant::now());
        }
    }
    Ok(least)
}

#[expect(clippy::cast_precision_loss, reason = "fewer than 2^53")]
fn as_f64(number: usize) -> f64 {
    number as f64
}
