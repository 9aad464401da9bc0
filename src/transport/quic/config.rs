//! The settings of the transport, and what they mean to quinn.

use std::sync::Arc;
use std::time::Duration;

use libp2p::PeerId;
use libp2p::identity::Keypair;

use super::acknowledged::CountingConfig;
use super::credit::{CreditPool, INITIAL_WINDOW};
use super::{Error, Handle, tls};
use crate::metrics::{Handshakes, Metrics};
use crate::resources::Resources;
use crate::transport::ConnectionGater;

/// Settings of the QUIC transport.
#[derive(Clone)]
pub struct Config {
    /// How long a handshake may take, in either direction. Default: 10 s.
    pub handshake_timeout: Duration,
    /// How many unfinished handshakes a listener carries before newcomers have to prove their
    /// address by a Retry packet (RFC 9000, section 8.1.2). It costs them a round trip, and it
    /// keeps forged source addresses from costing us anything more. Default: 64.
    pub retry_above: usize,
    /// How many unfinished handshakes a listener carries at most; who comes then is refused.
    /// Default: 1024.
    pub max_pending: usize,
    /// How many streams a peer may have open towards us on one connection. It may open 24 at
    /// first, and more as it uses them: quinn keeps room for each that may come. Default: 256.
    pub max_streams: u32,
    /// Bytes of one stream that are accepted before they are read: the bound of what piles up
    /// when its reader, or the next hop behind it, stops. It bounds throughput too, to one window
    /// a round trip: 512 KiB are 42 Mbit/s at 100 ms. Default: 512 KiB.
    pub stream_receive_window: u32,
    /// The same bound for all streams of one connection together. Readers of one connection that
    /// stop on so many streams that this is used up hold back its other streams. A connection begins
    /// with 64 KiB, and gets more as it reads ([`flow_control`](super)). Default: 4 MiB.
    pub receive_window: u32,
    /// Bytes of one connection that may be sent and not yet acknowledged, if its peer is far away;
    /// fewer are on their way to a near one, and to every one while there is no memory for more.
    /// Default: 1 MiB.
    pub send_window: u64,
    /// How much silence it takes for us to ask whether the peer is still there. Default: 4.5 s: the
    /// peers of libp2p's Rust ask after 5 s, each at a moment of its own, while we ask many at once.
    pub keep_alive: Duration,
    /// How long a silent peer's connection is kept; the smaller of both peers' values counts.
    ///
    /// This is how long a circuit hangs on a peer that vanished, and how much time a client has to
    /// find a new network and keep its connection. Three keep-alives, so that the loss of one or
    /// two of them does not matter. Default: 15 s.
    pub idle_timeout: Duration,
    /// Where handshakes and connections are counted. Default: nowhere.
    pub handshakes: Handshakes,
    /// Where events of the sockets are counted. Default: nowhere.
    pub metrics: Metrics,
    /// How many newcomers there may be from one IP address. Default: any number.
    pub gater: ConnectionGater,
    pub(super) handle: Handle,
    pub(super) credit: CreditPool,
    keypair: Keypair,
}

impl Config {
    /// The defaults, for the peer that `keypair` identifies.
    pub fn new(keypair: &Keypair) -> Self {
        Self {
            handshake_timeout: Duration::from_secs(10),
            retry_above: 64,
            max_pending: 1024,
            max_streams: 256,
            stream_receive_window: 512 * 1024,
            receive_window: 4 * 1024 * 1024,
            send_window: 1024 * 1024,
            keep_alive: Duration::from_millis(4500),
            idle_timeout: Duration::from_secs(15),
            handshakes: Handshakes::noop(),
            metrics: Metrics::noop(),
            gater: ConnectionGater::open(),
            handle: Handle::default(),
            credit: CreditPool::new(&Resources::unlimited()),
            keypair: keypair.clone(),
        }
    }

    /// The handle on all endpoints that a transport of this configuration will open.
    ///
    /// To be taken before the transport is boxed. Clones of the configuration share it.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// What is common to everything on one socket.
    pub(super) fn endpoint(&self) -> quinn::EndpointConfig {
        let mut endpoint = tls::reset_key(&self.keypair)
            .map(|key| quinn::EndpointConfig::new(Arc::new(key)))
            .unwrap_or_default();
        endpoint
            .supported_versions(vec![QUIC_V1])
            // The default generator knows its own ids by a key that dies with the process, and
            // what it does not know gets no stateless reset: it would defeat the reset key.
            .cid_generator(|| Box::new(tls::RandomIds))
            .min_reset_interval(RESET_INTERVAL);
        endpoint
    }

    /// How to accept.
    pub(super) fn server(&self) -> Result<quinn::ServerConfig, Error> {
        let mut server = quinn::ServerConfig::with_crypto(Arc::new(tls::server(&self.keypair)?));
        server
            .transport_config(self.transport())
            .migration(true)
            // With room for those who come when it is full and are to hear so.
            .max_incoming(self.max_pending.saturating_add(UNDECIDED))
            .incoming_buffer_size(EARLY_BYTES)
            .incoming_buffer_size_total(EARLY_BYTES_TOTAL);
        Ok(server)
    }

    /// How to dial, and whom.
    pub(super) fn client(&self, expected: Option<PeerId>) -> Result<quinn::ClientConfig, Error> {
        let tls = tls::client(&self.keypair, expected)?;
        let mut client = quinn::ClientConfig::new(Arc::new(tls));
        client.transport_config(self.transport());
        Ok(client)
    }

    fn initial_window(&self) -> quinn::VarInt {
        let most = quinn::VarInt::from_u32(self.receive_window);
        quinn::VarInt::from_u64(INITIAL_WINDOW).map_or(most, |initial| initial.min(most))
    }

    fn transport(&self) -> Arc<quinn::TransportConfig> {
        let mut acks = quinn::AckFrequencyConfig::default();
        acks.ack_eliciting_threshold(ACK_EVERY.into());
        let mut transport = quinn::TransportConfig::default();
        transport
            .max_concurrent_bidi_streams(self.max_streams.min(FIRST_STREAMS).into())
            .max_concurrent_uni_streams(0_u8.into())
            .datagram_receive_buffer_size(None)
            .stream_receive_window(self.stream_receive_window.into())
            .receive_window(self.initial_window())
            .send_window(self.send_window)
            .congestion_controller_factory(Arc::new(CountingConfig::default()))
            .ack_frequency_config(Some(acks))
            .keep_alive_interval(Some(self.keep_alive))
            // What does not fit into a QUIC integer is no timeout in any practical sense.
            .max_idle_timeout(self.idle_timeout.try_into().ok())
            // The spin bit shows the round-trip time to everyone on the path.
            .allow_spin(false);
        Arc::new(transport)
    }
}

/// How many streams a peer may open at first. With a few of ours, they fit into tables of 32.
pub(super) const FIRST_STREAMS: u32 = 24;

/// RFC 9000, section 15.
const QUIC_V1: u32 = 1;

/// So many packets of ours need no acknowledgement of their own, if the peer knows the extension
/// (draft-ietf-quic-ack-frequency): each one that arrives costs nearly as much as one with data. The
/// peer still acknowledges what it has within its usual delay, and what comes out of order at once.
const ACK_EVERY: u8 = 10;

/// At most so often does an endpoint send a stateless reset. With quinn's own 20 ms, the thousand
/// clients of a relay that was restarted would run into their idle timeouts before their turn.
/// Each reset is smaller than the packet that it answers, so nothing is amplified.
const RESET_INTERVAL: Duration = Duration::from_millis(1);

/// Newcomers beyond [`Config::max_pending`] that may wait to be refused; more get no answer.
const UNDECIDED: usize = 1024;

/// Bytes buffered for a newcomer between its first packet and the start of its handshake: room for
/// the packets that a large client hello is split into.
const EARLY_BYTES: u64 = 16 * 1024;

/// The same, for all newcomers together.
const EARLY_BYTES_TOTAL: u64 = 4 * 1024 * 1024;
