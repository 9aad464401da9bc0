//! Responds to packets with the records of the current zone, and reports each query.

use std::sync::Arc;

use tokio::sync::watch;

use super::{
    observer::Observer,
    response::{DnsTransport, Response, respond},
    zone::Zone,
};

/// Responds to packets. Clones share the same state.
#[derive(Clone, Debug)]
pub(super) struct Responder {
    zone: watch::Receiver<Arc<Zone>>,
    observer: Arc<dyn Observer>,
}

impl Responder {
    /// Responds for the current value of `zone`.
    pub(super) fn new(zone: watch::Receiver<Arc<Zone>>, observer: Arc<dyn Observer>) -> Self {
        Self { zone, observer }
    }

    /// Responds to one packet and reports the outcome; `None` if there is no response.
    pub(super) fn respond(&self, packet: &[u8], transport: DnsTransport) -> Option<Vec<u8>> {
        let zone = Arc::clone(&self.zone.borrow());
        // Random: a counter could stay in phase with the queries of a client.
        let rotation = rand::random::<u16>();
        let answer = respond(&zone, packet, transport, rotation.into());
        let Some(Response { bytes, outcome }) = answer else {
            self.observer.query(transport, "ignored");
            return None;
        };
        self.observer.query(transport, outcome);
        Some(bytes)
    }

    /// Reports a query over UDP that is not answered because of the rate limit.
    pub(super) fn report_limited(&self) {
        self.observer.query(DnsTransport::Udp, "limited");
    }
}
