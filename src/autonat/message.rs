//! Messages of both versions. Every message is preceded by its length as an unsigned varint
//! ([`wire`](circuit_relay::wire)).

/// Messages of version 1.
pub(super) mod v1 {
    /// Types of a [`Message`].
    #[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
    #[repr(i32)]
    pub(in crate::autonat) enum MessageType {
        Dial = 0,
        DialResponse = 1,
    }

    /// Status of an answer.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
    #[repr(i32)]
    pub(in crate::autonat) enum Status {
        /// The peer was reached.
        Ok = 0,
        /// The peer cannot be reached.
        DialError = 100,
        /// Not dialled; the peer may ask again or another server.
        DialRefused = 101,
        BadRequest = 200,
        InternalError = 300,
    }

    /// A request or its answer.
    #[derive(Clone, PartialEq, prost::Message)]
    pub(in crate::autonat) struct Message {
        #[prost(enumeration = "MessageType", optional, tag = "1")]
        pub(in crate::autonat) kind: Option<i32>,
        #[prost(message, optional, tag = "2")]
        pub(in crate::autonat) dial: Option<Dial>,
        #[prost(message, optional, tag = "3")]
        pub(in crate::autonat) response: Option<DialResponse>,
    }

    /// Requests a dial.
    #[derive(Clone, PartialEq, prost::Message)]
    pub(in crate::autonat) struct Dial {
        #[prost(message, optional, tag = "1")]
        pub(in crate::autonat) peer: Option<Peer>,
    }

    /// The peer that requests the dial.
    #[derive(Clone, PartialEq, prost::Message)]
    pub(in crate::autonat) struct Peer {
        #[prost(bytes = "vec", optional, tag = "1")]
        pub(in crate::autonat) id: Option<Vec<u8>>,
        #[prost(bytes = "vec", repeated, tag = "2")]
        pub(in crate::autonat) addrs: Vec<Vec<u8>>,
    }

    /// Answer to a request.
    #[derive(Clone, PartialEq, prost::Message)]
    pub(in crate::autonat) struct DialResponse {
        #[prost(enumeration = "Status", optional, tag = "1")]
        pub(in crate::autonat) status: Option<i32>,
        #[prost(string, optional, tag = "2")]
        pub(in crate::autonat) status_text: Option<String>,
        /// Address at which the peer was reached.
        #[prost(bytes = "vec", optional, tag = "3")]
        pub(in crate::autonat) addr: Option<Vec<u8>>,
    }
}

/// Messages of version 2.
pub(super) mod v2 {
    /// Whether the server dialled.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
    #[repr(i32)]
    pub(in crate::autonat) enum ResponseStatus {
        InternalError = 0,
        /// Not dialled because of limits; the peer may ask again or another server.
        RequestRejected = 100,
        /// None of the addresses is dialled by this server.
        DialRefused = 101,
        Ok = 200,
    }

    /// Result of the dial.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
    #[repr(i32)]
    pub(in crate::autonat) enum DialStatus {
        Unused = 0,
        DialError = 100,
        DialBackError = 101,
        Ok = 200,
    }

    /// A request or its answer. The messages for data before a dial are neither sent nor expected.
    #[derive(Clone, PartialEq, prost::Message)]
    pub(in crate::autonat) struct Message {
        #[prost(message, optional, tag = "1")]
        pub(in crate::autonat) request: Option<DialRequest>,
        #[prost(message, optional, tag = "2")]
        pub(in crate::autonat) response: Option<DialResponse>,
    }

    /// Requests the test of one of these addresses, the first that the server dials.
    #[derive(Clone, PartialEq, prost::Message)]
    pub(in crate::autonat) struct DialRequest {
        #[prost(bytes = "vec", repeated, tag = "1")]
        pub(in crate::autonat) addrs: Vec<Vec<u8>>,
        #[prost(fixed64, tag = "2")]
        pub(in crate::autonat) nonce: u64,
    }

    /// Answer to a request.
    #[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
    pub(in crate::autonat) struct DialResponse {
        #[prost(enumeration = "ResponseStatus", tag = "1")]
        pub(in crate::autonat) status: i32,
        /// Index of the tested address in the request.
        #[prost(uint32, tag = "2")]
        pub(in crate::autonat) addr_idx: u32,
        #[prost(enumeration = "DialStatus", tag = "3")]
        pub(in crate::autonat) dial_status: i32,
    }

    /// Sent over the new connection.
    #[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
    pub(in crate::autonat) struct DialBack {
        #[prost(fixed64, tag = "1")]
        pub(in crate::autonat) nonce: u64,
    }
}
