//! Serves one hop stream: reads the request, answers it, and relays the data of the circuit.
//!
//! Specification: circuit-v2, section "Hop Protocol". Each step has a deadline. Every complete or
//! malformed request is answered with a STATUS.

use std::{io, pin::pin, sync::Arc, time::Duration};

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::{Multiaddr, PeerId, Stream};
use tokio::time::{Instant, sleep, timeout};

use super::{
    circuit::{self, Bounds, EarlyData, Outcome, Progress, Side},
    circuit_state::CircuitState,
    connection::{CircuitActivity, Connection},
    deny_reason::{Denied, DenyReason},
    drain_limit,
    guards::{CircuitLeg, CircuitPermit, ReservationGuard},
    limits::CircuitLimit,
    observer::{CircuitObserver, RequestKind, RequestObserver, in_scope},
    service::Relay,
    stop, voucher,
    wire::{self, HopMessage, ReadError, Request},
};

/// Deadline for receiving a request.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Deadline for delivering an answer.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Unread bytes of a refused request that are discarded, so that closing the stream does not become
/// a reset that destroys the answer.
const MAX_DISCARDED_BYTES: u64 = 16 * 1024;
/// Deadline for discarding them.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(1);

/// Serves one hop stream to its end.
pub(super) async fn serve<S>(relay: Arc<Relay>, connection: Arc<Connection>, mut stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let Some(request) = read_request(&relay, &connection, &mut stream).await else {
        return;
    };
    let (kind, result) = match request {
        Ok(request) => {
            let from = connection.as_ref().into();
            let observer = relay.observer().request(&from, &request);
            match request {
                Request::Reserve => {
                    let reserve = pin!(reserve(&relay, &connection, &mut stream));
                    let reserved = in_scope(&*observer, reserve).await;
                    observer.finished(reserved.as_ref().copied());
                    (RequestKind::Reserve, reserved.map(|()| None))
                }
                Request::Connect(target) => {
                    let connect = connect(&relay, &connection, &mut stream, target, &*observer);
                    let opened = in_scope(&*observer, pin!(connect)).await;
                    observer.finished(opened.as_ref().map(|_| ()));
                    let accept = |circuit: OpenCircuit| {
                        let (source, target) = (connection.as_ref(), circuit.target.as_ref());
                        let observer = observer.circuit_accepted(source.into(), target.into());
                        relay.count_opened();
                        Some((circuit, observer))
                    };
                    (RequestKind::Connect, opened.map(accept))
                }
            }
        }
        Err(reason) => (RequestKind::Unknown, Err(reason.into())),
    };
    match result {
        Ok(Some((circuit, observer))) => {
            let opened = Instant::now();
            let (permit, outcome) =
                relay_data(&relay, &connection, &mut stream, circuit, &*observer).await;
            // A circuit that the relay ended must end in a reset: its stream is dropped without
            // being closed, and before its slot is freed, because a drain closes connections when
            // the last slot is free.
            drop(stream);
            permit.close(observer, outcome, opened.elapsed());
        }
        Ok(None) => {}
        // The grant and its revocation have been reported already.
        Err(denied) if kind == RequestKind::Reserve && denied.reason == DenyReason::Undelivered => {
        }
        Err(denied) => {
            relay
                .observer()
                .request_denied(connection.peer, kind, &denied);
            refuse(&mut stream, denied.reason).await;
        }
    }
}

/// A circuit that the target has accepted.
struct OpenCircuit {
    permit: CircuitPermit,
    /// Data that the source sent while the circuit was being opened.
    early: EarlyData,
    target: Arc<Connection>,
    stop: Stream,
    /// The limit that both peers were sent.
    limit: CircuitLimit,
}

/// Reads the request, or returns why it is denied; `None` if no answer can be delivered.
async fn read_request<S: AsyncRead + Unpin>(
    relay: &Relay,
    connection: &Connection,
    stream: &mut S,
) -> Option<Result<Request, DenyReason>> {
    let number = relay.next_stream_number();
    let evicted = connection.await_request(number);
    let request = async {
        let request = timeout(REQUEST_TIMEOUT, wire::read_request(stream)).await;
        let now = Instant::now();
        if matches!(request, Ok(Ok(_))) {
            connection.record_activity(now);
        }
        if matches!(request, Ok(Ok(Request::Reserve))) {
            let delay = connection.reserve_delay(now);
            if !delay.is_zero() {
                sleep(delay).await;
            }
        }
        request
    };
    let request = tokio::select! {
        request = request => request,
        // Newer streams have evicted this one.
        Ok(()) = evicted => return None,
        () = connection.closed().cancelled() => return None,
        () = relay.lifecycle().shutdown_token().cancelled() => return None,
    };
    connection.request_received(number);
    match request {
        Ok(Ok(request)) => Some(Ok(request)),
        Ok(Err(ReadError::Io(_))) => None,
        Ok(Err(ReadError::Oversize | ReadError::Malformed)) => Some(Err(DenyReason::Malformed)),
        Ok(Err(ReadError::Unexpected)) => Some(Err(DenyReason::Unexpected)),
        Err(_) => Some(Err(DenyReason::Timeout)),
    }
}

async fn reserve<S: AsyncWrite + Unpin>(
    relay: &Arc<Relay>,
    connection: &Connection,
    stream: &mut S,
) -> Result<(), Denied> {
    if connection.is_relayed() {
        return Err(DenyReason::Relayed.into());
    }
    let addresses = relay.addresses();
    let reservation = match relay.recent_grant(connection) {
        Some(recent) => {
            if let Some(access) = relay.access() {
                access.may_repeat_reserve(connection.into())?;
            }
            ReservationGuard::repeat(relay, connection, recent)
        }
        None => grant(relay, connection, &addresses).await?,
    };
    let expire = reservation.expire();
    let voucher = voucher::sign(relay.keypair(), connection.peer, expire).map_err(|error| {
        relay.observer().signing_failed(&error);
        DenyReason::Undelivered
    })?;
    let answer = wire::reserved(expire, &addresses, voucher, relay.circuit_limit());
    send(stream, &answer).await?;
    // A client may drop the stream as soon as it has read the answer. Only a timeout shows that the
    // answer was not delivered.
    let closed = timeout(ANSWER_TIMEOUT, stream.close()).await;
    let _closed_or_reset = closed.map_err(|_| DenyReason::Undelivered)?;
    reservation.keep();
    Ok(())
}

/// Grants or renews a reservation.
async fn grant(
    relay: &Arc<Relay>,
    connection: &Connection,
    addresses: &[Multiaddr],
) -> Result<ReservationGuard, Denied> {
    relay.check_reserve_rate(connection)?;
    if addresses.is_empty() {
        return Err(DenyReason::NoAddress.into());
    }
    if let Some(access) = relay.access() {
        let decision =
            await_decision(relay, connection, access.may_reserve(connection.into())).await;
        match decision {
            Ok(()) => {}
            // A renewal is never refused for lack of capacity, here that of the access endpoint.
            Err(denied) if denied.reason == DenyReason::AccessBusy => {
                let grant = relay.existing_grant(connection).ok_or(denied)?;
                return Ok(ReservationGuard::repeat(relay, connection, grant));
            }
            Err(denied) => return Err(denied),
        }
    }
    Ok(ReservationGuard::grant(relay, connection)?)
}

/// Waits for a decision while the connection and the relay are up.
async fn await_decision(
    relay: &Relay,
    connection: &Connection,
    decision: impl Future<Output = Result<(), Denied>>,
) -> Result<(), Denied> {
    tokio::select! {
        biased;
        decision = decision => decision,
        () = connection.closed().cancelled() => Err(DenyReason::Disconnected.into()),
        () = relay.lifecycle().shutdown_token().cancelled() => Err(DenyReason::Disconnected.into()),
    }
}

async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
    relay: &Arc<Relay>,
    connection: &Arc<Connection>,
    mut stream: S,
    target: PeerId,
    observer: &dyn RequestObserver,
) -> Result<OpenCircuit, Denied> {
    if connection.is_relayed() {
        return Err(DenyReason::Relayed.into());
    }
    relay.check_connect_rate(connection)?;
    if let Some(access) = relay.access() {
        let source = connection.as_ref().into();
        await_decision(relay, connection, access.may_connect(source, target)).await?;
    }
    let limit = new_circuit_limit(relay)?;
    let (mut permit, connections) = CircuitPermit::acquire(relay, connection, target)?;

    let mut early = EarlyData::default();
    let (stop, leg) = tokio::select! {
        stop = open_stop(relay, permit.state(), connections, connection.peer, limit, observer) => stop?,
        _ = early.watch(&mut stream) => return Err(DenyReason::Undelivered.into()),
    };
    let target = Arc::clone(leg.connection());
    permit.set_target(leg);
    let connected = wire::connected(limit);
    tokio::select! {
        sent = send(&mut stream, &connected) => sent?,
        () = permit.state().evicted().cancelled() => return Err(DenyReason::Evicted.into()),
    }
    Ok(OpenCircuit {
        permit,
        early,
        target,
        stop,
        limit,
    })
}

/// The limit of a circuit that is opened now.
fn new_circuit_limit(relay: &Relay) -> Result<CircuitLimit, DenyReason> {
    let limit = relay.circuit_limit();
    match relay.drain_time_left() {
        None => Ok(limit),
        Some(left) => drain_limit::before_deadline(limit, left).ok_or(DenyReason::DrainDeadline),
    }
}

/// Opens the stop stream, unless the circuit is evicted or the relay shuts down in the meantime.
async fn open_stop(
    relay: &Relay,
    state: &CircuitState,
    connections: Vec<Arc<Connection>>,
    source: PeerId,
    limit: CircuitLimit,
    observer: &dyn RequestObserver,
) -> Result<(Stream, CircuitLeg), DenyReason> {
    tokio::select! {
        stop = stop::open(relay, connections, source, limit, observer) => stop.ok_or(DenyReason::StopFailed),
        () = state.evicted().cancelled() => Err(DenyReason::Evicted),
        () = relay.lifecycle().shutdown_token().cancelled() => Err(DenyReason::StopFailed),
    }
}

/// Relays data until the circuit ends. The stream to the source is left to the caller.
async fn relay_data<S: AsyncRead + AsyncWrite + Unpin>(
    relay: &Relay,
    connection: &Connection,
    stream: S,
    circuit: OpenCircuit,
    observer: &dyn CircuitObserver,
) -> (CircuitPermit, Outcome) {
    let OpenCircuit {
        permit,
        early,
        target,
        stop,
        limit,
    } = circuit;
    let byte_counters = relay
        .traffic()
        .counters(connection.transport, target.transport);
    let limiter = relay
        .bandwidth_limiter()
        .map(|limiter| limiter.circuit(connection.peer, target.peer));
    let source_activity = CircuitActivity::new(connection);
    let target_activity = CircuitActivity::new(&target);
    let moved = |progress: Progress| {
        let now = Instant::now();
        if progress.to_target > 0 {
            source_activity.record(now);
        }
        if progress.to_source > 0 {
            target_activity.record(now);
        }
        byte_counters.add(progress.to_target, progress.to_source);
        observer.transferred(progress.to_target, progress.to_source);
        if progress.waits > 0 {
            relay.traffic().count_waits(progress.waits);
        }
    };
    let source = Side {
        stream,
        closed: connection.closed().clone(),
    };
    let target_side = Side {
        stream: stop,
        closed: target.closed().clone(),
    };
    let limits = relay.limits();
    let bounds = Bounds {
        limit,
        unused_timeout: limits.unused_circuit_timeout,
        idle_timeout: limits.idle_circuit_timeout,
        shutdown: relay.lifecycle().shutdown_token(),
        state: permit.state(),
    };
    let outcome = circuit::relay(source, early, target_side, bounds, limiter, &moved).await;
    (permit, outcome)
}

async fn send<S: AsyncWrite + Unpin>(
    stream: &mut S,
    answer: &HopMessage,
) -> Result<(), DenyReason> {
    match timeout(ANSWER_TIMEOUT, wire::write(stream, answer)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(DenyReason::Undelivered),
    }
}

/// Sends a STATUS with the reason, and closes the stream so that the client can read it.
async fn refuse<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, reason: DenyReason) {
    let answer = async {
        wire::write(stream, &wire::status(reason.status_and_reason().0)).await?;
        stream.close().await
    };
    if !matches!(timeout(ANSWER_TIMEOUT, answer).await, Ok(Ok(()))) {
        return;
    }
    // Unread data would turn the close into a reset, and clients would lose the answer.
    let discard = async {
        let mut rest = stream.take(MAX_DISCARDED_BYTES);
        let mut chunk = [0; 1024];
        while rest.read(&mut chunk).await? > 0 {}
        Ok::<(), io::Error>(())
    };
    let _ = timeout(DISCARD_TIMEOUT, discard).await;
}

#[cfg(test)]
mod tests;
