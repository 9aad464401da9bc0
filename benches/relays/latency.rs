//! Round trips through a circuit, of a relay that has nothing else to do and of one that has.

use std::time::Duration;

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
    throughput::Load,
};

/// What goes there and back.
const MESSAGE_BYTES: usize = 64;
/// Other circuits that carry bytes as fast as they can, when the relay is under load.
const LOAD_CIRCUITS: usize = 4;

pub(crate) async fn measure(relay: &Relay, channel: Channel, plan: &Plan) -> Result<Vec<Sample>> {
    let mut pair = Client::many(2, channel, &relay.address(channel)?, Pings::Answered).await?;
    let [source, target] = pair.as_mut_slice() else {
        return Err("two clients are wanted".into());
    };
    let (mut near, far) = source.connect(target).await?;
    let mut echo = JoinSet::new();
    echo.spawn(async move {
        let (reader, mut writer) = far.split();
        futures::io::copy(reader, &mut writer).await
    });
    let idle = round_trips(&mut near, plan.span).await?;
    let load = Load::start(relay, channel, LOAD_CIRCUITS).await?;
    sleep(plan.span / 2).await;
    let busy = round_trips(&mut near, plan.span).await?;
    drop(load);

    let mut samples = Vec::new();
    for (state, times) in [("idle", idle), ("under load", busy)] {
        let name = format!("{}, {state}", channel.name());
        for (unit, percent) in [("p50, µs", 50), ("p99, µs", 99)] {
            let at = (times.len() * percent / 100).min(times.len() - 1);
            let time = times.get(at).ok_or("no round trip")?.as_secs_f64() * 1e6;
            // No worse, within what two runs differ by.
            samples.push(Sample::new(&name, unit, time, Target::Ratio(1.05)));
        }
    }
    Ok(samples)
}

/// How long each round trip took that fits into `span`, the shortest first.
async fn round_trips(stream: &mut Stream, span: Duration) -> Result<Vec<Duration>> {
    let end = Instant::now() + span;
    let mut message = [0x5a; MESSAGE_BYTES];
    let mut times = Vec::new();
    while times.is_empty() || Instant::now() < end {
        let start = Instant::now();
        stream.write_all(&message).await?;
        stream.flush().await?;
        stream.read_exact(&mut message).await?;
        times.push(start.elapsed());
    }
    times.sort_unstable();
    Ok(times)
}
