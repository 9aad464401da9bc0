//! Why a connection is denied or closed.

use named_enum::named_enum;

named_enum! {
    /// Why the relay denies a connection, or closes one to free resources.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum ConnectionDenyReason {
        /// Too many pending handshakes or dials.
        MaxPending = "max_pending",
        /// Too many established connections.
        MaxConnections = "max_connections",
        /// Connections are scarce, and an address prefix uses its share.
        ConnectionShare = "connection_share",
        /// The connection was evicted in favour of another one.
        Evicted = "evicted",
        /// The peer has its maximum number of connections.
        MaxConnectionsPerPeer = "max_connections_per_peer",
        /// The IP address (IPv6: the /64) exceeds its rate of connections.
        RatePerIp = "rate_connections_per_ip",
        /// Memory is under pressure.
        Memory = "memory",
        /// All file descriptors for connections are in use.
        FileDescriptors = "file_descriptors",
        /// File descriptors are scarce, and an address prefix uses its share.
        FileDescriptorShare = "file_descriptor_share",
        /// The header of a trusted proxy is invalid or missing.
        ProxyHeader = "proxy_header",
        /// The peer does not have the key of the private network.
        SwarmKey = "swarm_key",
        /// The peer's identity key has a type or curve that is not supported.
        KeyUnsupported = "key_unsupported",
        /// The peer's identity key is an RSA key of fewer than 2,048 bits.
        KeyTooSmall = "key_too_small",
        /// The peer's identity key is an RSA key of more than 8,192 bits.
        KeyTooLarge = "key_too_large",
        /// The peer's identity key cannot be decoded.
        KeyMalformed = "key_malformed",
        /// The relay is draining.
        Draining = "draining",
        /// Denied by another behaviour.
        Other = "other",
    }
}
