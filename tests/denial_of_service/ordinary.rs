//! The load of well-behaved clients, in a separate process, and the record of their requests.

use std::{
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p::{Multiaddr, PeerId, Stream};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use test_support::raw::{Raw, Requester, accept, connect, reserve};
use tokio::{
    task::JoinSet,
    time::{Instant, interval, sleep, timeout},
};

use crate::{
    network::Addresses,
    role::{Input, emit},
};

/// Bytes that a caller sends on each of its circuits.
const TRANSFER_BYTES: usize = 1_000_000;
/// Timeout of a request.
const ATTEMPT: Duration = Duration::from_secs(10);
/// Delay before a second attempt.
const RETRY: Duration = Duration::from_millis(500);
/// Interval between two renewals of a reservation.
const RENEWAL: Duration = Duration::from_secs(3);
/// Interval between two bytes on a circuit that is kept open.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// The first byte of a circuit: a bulk transfer, or one byte at a time.
const TRANSFER: u8 = b't';
const KEEP: u8 = b'k';

/// Numbers of clients by kind.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Ordinary {
    pub(crate) addresses: Addresses,
    /// Peers that keep a reservation, renew it and accept circuits.
    pub(crate) reserved: usize,
    /// Clients that open a circuit, send 1 MB, and reserve, each time on new connections.
    pub(crate) callers: usize,
    /// Clients that keep a circuit open and exchange a byte every second.
    pub(crate) kept: usize,
}

/// The outcome of one request.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Request {
    pub(crate) kind: String,
    /// Duration, `None` if the request failed.
    pub(crate) took_ms: Option<u64>,
    /// Whether the first or the second attempt succeeded.
    pub(crate) succeeded: bool,
    /// Error of the first attempt.
    pub(crate) error: Option<String>,
}

type Record = Arc<Mutex<Vec<Request>>>;

/// Runs the clients until the input ends. Reports the requests since the last report on demand.
pub(crate) async fn run(ordinary: Ordinary, mut input: Input) {
    let record = Record::default();
    let (mut targets, mut clients) = (Vec::new(), JoinSet::new());
    for number in 0..ordinary.reserved {
        let address = ordinary.addresses.transport(number);
        let peer = Raw::new(address).await;
        peer.requester().request(&reserve()).await.unwrap();
        targets.push(peer.peer_id);
        clients.spawn(run_reserved(peer, Arc::clone(&record)));
    }
    for number in 0..ordinary.kept {
        let target = targets[number % targets.len()];
        let address = ordinary.addresses.transport(number);
        let circuit = Circuit::open(address, target, KEEP).await.unwrap();
        clients.spawn(keep_circuit(circuit, Arc::clone(&record)));
    }
    let ids: Vec<_> = targets.iter().map(PeerId::to_string).collect();
    emit(&json!({"event": "ready", "targets": ids}));
    for number in 0..ordinary.callers {
        let caller = Caller {
            addresses: ordinary.addresses.clone(),
            targets: targets.clone(),
            record: Arc::clone(&record),
        };
        clients.spawn(caller.run(number));
    }
    while let Some(line) = input.line().await {
        if line == "report" {
            report("report", &record);
        }
    }
    report("end", &record);
    clients.shutdown().await;
}

fn report(event: &str, record: &Record) {
    let requests = std::mem::take(&mut *record.lock().unwrap());
    emit(&json!({"event": event, "requests": requests}));
}

/// The requests of a report.
pub(crate) fn requests(report: &Value) -> Vec<Request> {
    serde_json::from_value(report["requests"].clone()).unwrap()
}

/// Sends a request, retries once, and records the outcome.
async fn request<T, F: Future<Output = io::Result<T>>>(
    record: &Record,
    kind: &str,
    attempt: impl Fn() -> F,
) -> Option<T> {
    let limited = || async {
        let done = timeout(ATTEMPT, attempt()).await;
        done.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    };
    let began = Instant::now();
    let mut outcome = limited().await;
    let took = began.elapsed();
    let error = outcome.as_ref().err().map(cause);
    if error.is_some() {
        sleep(RETRY).await;
        outcome = limited().await;
    }
    record.lock().unwrap().push(Request {
        kind: kind.to_owned(),
        took_ms: error
            .is_none()
            .then(|| u64::try_from(took.as_millis()).unwrap()),
        succeeded: outcome.is_ok(),
        error,
    });
    outcome.ok()
}

/// The innermost cause of an error, which is the last part of its message.
fn cause(error: &io::Error) -> String {
    let text = error.to_string();
    let last = text.rsplit(": ").next().unwrap_or_default();
    last.trim_end_matches([')', ']']).to_owned()
}

/// Keeps and renews a reservation, and accepts circuits.
async fn run_reserved(mut peer: Raw, record: Record) {
    let requester = peer.requester();
    let renewing = async {
        let mut renewals = interval(RENEWAL);
        loop {
            renewals.tick().await;
            request(&record, "renew", || renew(requester.clone())).await;
        }
    };
    let accepting = async {
        let mut circuits = JoinSet::new();
        while let Some(stream) = peer.next_stop().await {
            circuits.spawn(serve_circuit(stream));
            while circuits.try_join_next().is_some() {}
        }
    };
    tokio::join!(renewing, accepting);
}

async fn renew(mut requester: Requester) -> io::Result<()> {
    requester.request(&reserve()).await.map(drop)
}

/// Serves one circuit as its target. The source may disconnect at any time.
async fn serve_circuit(mut stream: Stream) -> io::Result<()> {
    accept(&mut stream).await?;
    let mut kind = [0];
    stream.read_exact(&mut kind).await?;
    stream.write_all(&kind).await?;
    stream.flush().await?;
    let mut received: u32 = 0;
    let mut chunk = vec![0; 64 * 1024];
    loop {
        let read = stream.read(&mut chunk).await?;
        received += u32::try_from(read).unwrap();
        if read == 0 {
            break;
        }
        if kind == [KEEP] {
            stream.write_all(&chunk[..read]).await?;
            stream.flush().await?;
        }
    }
    if kind == [TRANSFER] {
        stream.write_all(&received.to_be_bytes()).await?;
    }
    stream.close().await
}

/// The source's end of a circuit whose target has acknowledged the first byte.
struct Circuit {
    stream: Stream,
    _source: Raw,
}

impl Circuit {
    async fn open(address: &Multiaddr, target: PeerId, kind: u8) -> io::Result<Self> {
        let source = Raw::try_new(address).await.map_err(io::Error::other)?;
        let request = connect(&target.to_bytes());
        let mut stream = source.requester().request(&request).await?;
        stream.write_all(&[kind]).await?;
        stream.flush().await?;
        stream.read_exact(&mut [0]).await?;
        Ok(Self {
            stream,
            _source: source,
        })
    }

    /// Sends the data and waits for the target's acknowledgement.
    async fn transfer(mut self) -> io::Result<()> {
        self.stream.write_all(&vec![7; TRANSFER_BYTES]).await?;
        self.stream.close().await?;
        let mut received = [0; 4];
        self.stream.read_exact(&mut received).await?;
        if u32::from_be_bytes(received) as usize == TRANSFER_BYTES {
            Ok(())
        } else {
            Err(io::Error::from(io::ErrorKind::UnexpectedEof))
        }
    }
}

/// Exchanges a byte every second. A broken circuit is a failure, without a second attempt.
async fn keep_circuit(mut circuit: Circuit, record: Record) {
    let mut beats = interval(HEARTBEAT);
    loop {
        beats.tick().await;
        let began = Instant::now();
        let exchange = async {
            circuit.stream.write_all(&[0]).await?;
            circuit.stream.flush().await?;
            circuit.stream.read_exact(&mut [0]).await
        };
        let done = timeout(ATTEMPT, exchange).await;
        let done = done.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut)));
        let took = u64::try_from(began.elapsed().as_millis()).unwrap();
        record.lock().unwrap().push(Request {
            kind: "exchange".to_owned(),
            took_ms: done.is_ok().then_some(took),
            succeeded: done.is_ok(),
            error: done.as_ref().err().map(cause),
        });
        if done.is_err() {
            return;
        }
    }
}

/// A client that uses a new connection for each request.
struct Caller {
    addresses: Addresses,
    targets: Vec<PeerId>,
    record: Record,
}

impl Caller {
    async fn run(self, number: usize) {
        let mut rng = StdRng::seed_from_u64(number as u64);
        loop {
            sleep(Duration::from_millis(rng.random_range(50..250))).await;
            let address = self.addresses.transport(rng.random_range(0..4));
            let target = &self.targets[rng.random_range(0..self.targets.len())];
            let open = || Circuit::open(address, *target, TRANSFER);
            if let Some(circuit) = request(&self.record, "connect", open).await {
                let circuit = Mutex::new(Some(circuit));
                let transfer = || async {
                    let circuit = circuit.lock().unwrap().take();
                    let circuit = match circuit {
                        Some(circuit) => circuit,
                        None => open().await?,
                    };
                    circuit.transfer().await
                };
                request(&self.record, "transfer", transfer).await;
            }
            request(&self.record, "reserve", || async {
                let peer = Raw::try_new(address).await.map_err(io::Error::other)?;
                renew(peer.requester()).await
            })
            .await;
        }
    }
}
