//! The settings of the transport, and their translation to quinn's.

use std::sync::Arc;
use std::time::Duration;

use libp2p::PeerId;
use libp2p::identity::Keypair;
use resource_manager::Resources;

use super::ack_counters::CountingConfig;
use super::credit::{CreditPool, INITIAL_WINDOW};
use super::{Error, Handle, tls_config};
use crate::ConnectionGater;
use crate::{
    handshakes::Handshakes,
    observer::{NoObserver, Observer},
};

/// Settings of the QUIC transport.
#[derive(Clone)]
pub struct Config {
    /// The maximum duration of a handshake, in either direction. Default: 10 s.
    pub handshake_timeout: Duration,
    /// The number of pending handshakes of a listener above which clients have to validate their
    /// address by a Retry packet (RFC 9000, section 8.1.2). Retry costs a client one round trip, and
    /// the relay no state, so packets with forged source addresses cost nothing more. Default: 64.
    pub retry_above: usize,
    /// The maximum number of pending handshakes of a listener; further connections are refused.
    /// Default: 1024.
    pub max_pending: usize,
    /// The maximum number of concurrent streams that a peer may open on a connection. The limit
    /// starts at 24 and is raised as the streams are used, because quinn allocates state for each
    /// stream that is allowed. Default: 256.
    pub max_streams: u32,
    /// The receive window of a stream in bytes: the maximum that is buffered when its reader, or the
    /// next hop, stalls. It also limits throughput, to one window per round trip: 512 KiB are
    /// 42 Mbit/s at 100 ms. Default: 512 KiB.
    pub stream_receive_window: u32,
    /// The maximum receive window of a connection in bytes. Unread data that exhausts it blocks the
    /// connection's other streams as well. A connection starts with 64 KiB, and its window grows as
    /// data is read ([`flow_control`](super)). Default: 4 MiB.
    pub receive_window: u32,
    /// The maximum send window of a connection in bytes: data that is buffered and not yet
    /// acknowledged. It applies at a high round-trip time; at a low one, and while there is no memory
    /// for more, the window is smaller. Default: 1 MiB.
    pub send_window: u64,
    /// The idle time after which a keep-alive is sent. Default: 4.5 s. Peers with libp2p's Rust
    /// implementation send one after 5 s; the relay is earlier, because its timers are coalesced and
    /// those of its peers are not.
    pub keep_alive: Duration,
    /// The idle timeout; the smaller value of both peers applies.
    ///
    /// A circuit to a lost peer hangs for this time, and a client that changes its network has this
    /// time to keep its connection. It is more than three keep-alives, so one or two of them may be
    /// lost. Default: 15 s.
    pub idle_timeout: Duration,
    /// The counters of handshakes and connections. Default: none.
    pub handshakes: Handshakes,
    /// The observer of socket events. Default: none.
    pub observer: Arc<dyn Observer>,
    /// The admission control of incoming connections. Default: unlimited.
    pub gater: ConnectionGater,
    pub(super) handle: Handle,
    pub(super) credit: CreditPool,
    keypair: Keypair,
}

impl Config {
    /// The default configuration for the identity `keypair`.
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
            observer: NoObserver::shared(),
            gater: ConnectionGater::unlimited(),
            handle: Handle::default(),
            credit: CreditPool::new(&Resources::unlimited()),
            keypair: keypair.clone(),
        }
    }

    /// The handle of all endpoints that transports with this configuration open. Clones of the
    /// configuration share it, so it can be obtained before the transport is boxed.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// quinn's configuration of an endpoint.
    pub(super) fn endpoint(&self) -> quinn::EndpointConfig {
        let mut endpoint = tls_config::reset_key(&self.keypair)
            .map(|key| quinn::EndpointConfig::new(Arc::new(key)))
            .unwrap_or_default();
        endpoint
            .supported_versions(vec![QUIC_V1])
            // quinn's default generator authenticates its ids with a key that is lost with the process,
            // and sends no stateless reset for ids that it does not recognize. That would defeat the
            // persistent reset key.
            .cid_generator(|| Box::new(tls_config::RandomIds))
            .min_reset_interval(RESET_INTERVAL);
        endpoint
    }

    /// quinn's configuration for accepting connections.
    pub(super) fn server(&self) -> Result<quinn::ServerConfig, Error> {
        let tls = tls_config::server(&self.keypair, self.gater.clone())?;
        let mut server = quinn::ServerConfig::with_crypto(Arc::new(tls));
        server
            .transport_config(self.transport())
            .migration(true)
            // More than the limit, so that further connections reach the listener and are refused with
            // an answer.
            .max_incoming(self.max_pending.saturating_add(MAX_UNDECIDED))
            .incoming_buffer_size(EARLY_BYTES)
            .incoming_buffer_size_total(EARLY_BYTES_TOTAL);
        Ok(server)
    }

    /// quinn's configuration for dialling `expected`, or any peer.
    pub(super) fn client(&self, expected: Option<PeerId>) -> Result<quinn::ClientConfig, Error> {
        let tls = tls_config::client(&self.keypair, expected)?;
        let mut client = quinn::ClientConfig::new(Arc::new(tls));
        client.transport_config(self.transport());
        Ok(client)
    }

    fn initial_window(&self) -> quinn::VarInt {
        let limit = quinn::VarInt::from_u32(self.receive_window);
        quinn::VarInt::from_u64(INITIAL_WINDOW).map_or(limit, |initial| initial.min(limit))
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
            // A duration that exceeds QUIC's integers is effectively unlimited.
            .max_idle_timeout(self.idle_timeout.try_into().ok())
            // The spin bit reveals the round-trip time to network observers.
            .allow_spin(false);
        Arc::new(transport)
    }
}

/// The initial limit of streams that a peer may open. With a few streams that are opened here, their
/// state fits into tables of 32 entries.
pub(super) const FIRST_STREAMS: u32 = 24;

/// RFC 9000, section 15.
const QUIC_V1: u32 = 1;

/// The number of packets that a peer may receive before it has to acknowledge them, if it supports
/// draft-ietf-quic-ack-frequency: receiving an acknowledgement costs nearly as much as receiving data.
/// The peer still acknowledges within its usual delay, and immediately if packets are reordered.
const ACK_EVERY: u8 = 10;

/// The minimum interval between stateless resets of an endpoint. With quinn's default of 20 ms, a
/// thousand clients of a restarted relay would reach their idle timeout before they get one. A reset is
/// smaller than the packet that it answers, so there is no amplification.
const RESET_INTERVAL: Duration = Duration::from_millis(1);

/// The number of incoming connections beyond [`Config::max_pending`] that may wait to be refused;
/// further ones get no answer.
const MAX_UNDECIDED: usize = 1024;

/// The number of bytes that are buffered for an incoming connection before its handshake starts:
/// enough for all packets of a large client hello.
const EARLY_BYTES: u64 = 16 * 1024;

/// The same for all incoming connections together.
const EARLY_BYTES_TOTAL: u64 = 4 * 1024 * 1024;
