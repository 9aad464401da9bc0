//! What peers cost that hold a reservation and do nothing, and what is left of them.

use tokio::time::{Instant, sleep};

use super::{
    Plan, Result,
    clients::{Channel, Client, Pings},
    relay::Relay,
    report::{Sample, Target},
    requests::BUSY_CLIENTS,
};

/// The number of reservations from which on the memory of each is measurable.
const ENOUGH: usize = 100;

/// At each number of reservations of the plan that is large enough: everybody comes, and leaves.
pub(crate) async fn measure(relay: &Relay, channel: Channel, plan: &Plan) -> Result<Vec<Sample>> {
    let addresses = relay.addresses(channel)?;
    // What is set up once is not counted.
    let first = Client::many(BUSY_CLIENTS, channel, &addresses, Pings::Answered).await?;
    Client::all_leave(first).await?;
    relay.rests(plan.look).await?;
    let start = relay.resident_kib()?;

    let mut samples = Vec::new();
    let largest = plan.sizes.last().copied().unwrap_or_default();
    for &size in plan.sizes.iter().filter(|&&n| n >= ENOUGH.min(largest)) {
        let clients = Client::many(size, channel, &addresses, Pings::Answered).await?;
        relay.rests(plan.look).await?;
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
        Client::all_leave(clients).await?;
        relay.rests(plan.look).await?;
        let kept = kept_kib(relay, plan).await? / start;
        let unit = "memory after ÷ before";
        samples.push(Sample::new(&name, unit, kept, Target::Ours(1.2)));
    }
    Ok(samples)
}

/// What the relay holds when it has given nothing back for a while.
async fn kept_kib(relay: &Relay, plan: &Plan) -> Result<f64> {
    let (mut least, mut since) = (relay.resident_kib()?, Instant::now());
    while since.elapsed() < plan.keeps {
        sleep(plan.keeps / 10).await;
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
