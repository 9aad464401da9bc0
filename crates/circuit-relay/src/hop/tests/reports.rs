//! Reports to the observer.

use std::mem::take;

use super::*;
use crate::{FinishedStop, StopObserver, StopOutcome, ledger::ReservationEndCause};

/// Records the reports of a relay as text, indented while a request is polled in its scope.
#[derive(Clone, Debug, Default)]
struct Recorder(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    reports: Vec<String>,
    is_in_scope: bool,
}

impl Recorder {
    fn record(&self, report: &str) {
        let mut state = self.0.lock().unwrap();
        let indent = if state.is_in_scope { "  " } else { "" };
        state.reports.push(format!("{indent}{report}"));
    }

    fn set_in_scope(&self, is_in_scope: bool) {
        self.0.lock().unwrap().is_in_scope = is_in_scope;
    }

    fn take(&self) -> Vec<String> {
        take(&mut self.0.lock().unwrap().reports)
    }
}

impl Observer for Recorder {
    fn request(&self, _: &Requester, request: &Request) -> Box<dyn RequestObserver> {
        self.record(match request {
            Request::Reserve => "RESERVE",
            Request::Connect(_) => "CONNECT",
        });
        Box::new(self.clone())
    }

    fn request_denied(&self, _: PeerId, request: RequestKind, denied: &Denied) {
        let reason = denied.reason.status_and_reason().1;
        self.record(&format!("{} denied: {reason}", request.as_str()));
    }

    fn reservation_accepted(&self, _: PeerId, renewed_after: Option<Duration>, _: Duration) {
        let is_renewed = renewed_after.is_some();
        self.record(&format!("reservation accepted, renewed: {is_renewed}"));
    }

    fn reservation_repeated(&self, _: PeerId) {
        self.record("reservation repeated");
    }

    fn reservation_ended(&self, _: PeerId, cause: ReservationEndCause, lasted: Duration) {
        self.record(&format!(
            "reservation {} after {lasted:?}",
            cause.end().as_str()
        ));
    }

    fn stop_attempted(&self, outcome: StopOutcome, took: Duration) {
        self.record(&format!("attempt {} after {took:?}", outcome.as_str()));
    }
}

impl RequestObserver for Recorder {
    fn in_scope(&self, poll: &mut dyn FnMut()) {
        self.set_in_scope(true);
        poll();
        self.set_in_scope(false);
    }

    fn stop(&self) -> Box<dyn StopObserver> {
        self.record("STOP");
        Box::new(self.clone())
    }

    fn finished(&self, result: Result<(), &Denied>) {
        self.record(&format!("finished, accepted: {}", result.is_ok()));
    }
}

impl StopObserver for Recorder {
    fn finished(&self, stop: &FinishedStop) {
        let FinishedStop {
            attempts, outcome, ..
        } = stop;
        self.record(&format!("STOP {} in {attempts}", outcome.as_str()));
    }
}

#[tokio::test(start_paused = true)]
async fn reservation_is_reported_until_its_end() {
    let recorder = Recorder::default();
    let fixture = Fixture::observed_by(Arc::new(recorder.clone()));
    let client = fixture.client(PeerId::random());
    client.reserve().await;
    let accepted = "  reservation accepted, renewed: false";
    assert_eq!(
        recorder.take(),
        ["RESERVE", accepted, "finished, accepted: true"]
    );
    client.reserve().await;
    let repeated = "  reservation repeated";
    assert_eq!(
        recorder.take(),
        ["RESERVE", repeated, "finished, accepted: true"]
    );
    fixture.client(PeerId::random()).reserve().await;
    assert_eq!(
        recorder.take(),
        [
            "RESERVE",
            "finished, accepted: false",
            "reserve denied: max_reservations"
        ]
    );
    tokio::time::advance(Duration::from_secs(60)).await;
    drop(client);
    assert_eq!(recorder.take(), ["reservation closed after 60s"]);
}

#[tokio::test(start_paused = true)]
async fn failed_circuit_is_reported_with_its_attempts() {
    let recorder = Recorder::default();
    let fixture = Fixture::observed_by(Arc::new(recorder.clone()));
    let (source, target) = (fixture.client(PeerId::random()), PeerId::random());
    let connections = [fixture.client(target), fixture.client(target)];
    connections[0].reserve().await;
    recorder.take();
    source.connect(target).await;
    assert_eq!(
        recorder.take(),
        [
            "CONNECT",
            "  STOP",
            "  attempt failed after 8s",
            "  attempt failed after 7s",
            "  STOP failed in 2",
            "finished, accepted: false",
            "connect denied: stop_failed"
        ]
    );
}
