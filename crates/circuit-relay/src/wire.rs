//! Messages of the *hop* and *stop* protocols, and their framing.
//!
//! Specification: circuit-v2, section "Protobuf". Every message is preceded by its length as an
//! unsigned varint, and is at most [`MAX_MESSAGE_BYTES`] long.
//!
//! A read never consumes a byte beyond the message: data that a peer sends together with its
//! handshake is the first data of the circuit and stays in the stream.

use std::io;

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::{Multiaddr, PeerId, StreamProtocol};
use prost::Message;

use super::limits::CircuitLimit;

/// Protocol between clients and the relay.
pub const HOP_PROTOCOL: StreamProtocol = StreamProtocol::new("/libp2p/circuit/relay/0.2.0/hop");
/// Protocol between the relay and the target of a circuit.
pub const STOP_PROTOCOL: StreamProtocol = StreamProtocol::new("/libp2p/circuit/relay/0.2.0/stop");
/// Maximum length of a message in bytes, without its length prefix.
pub const MAX_MESSAGE_BYTES: usize = 4096;

/// Status of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, prost::Enumeration)]
#[repr(i32)]
#[expect(missing_docs, reason = "the names are the specification's own")]
pub enum Status {
    Unused = 0,
    Ok = 100,
    ReservationRefused = 200,
    ResourceLimitExceeded = 201,
    PermissionDenied = 202,
    ConnectionFailed = 203,
    NoReservation = 204,
    MalformedMessage = 400,
    UnexpectedMessage = 401,
}

impl Status {
    /// Name in the specification.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unused => "UNUSED",
            Self::Ok => "OK",
            Self::ReservationRefused => "RESERVATION_REFUSED",
            Self::ResourceLimitExceeded => "RESOURCE_LIMIT_EXCEEDED",
            Self::PermissionDenied => "PERMISSION_DENIED",
            Self::ConnectionFailed => "CONNECTION_FAILED",
            Self::NoReservation => "NO_RESERVATION",
            Self::MalformedMessage => "MALFORMED_MESSAGE",
            Self::UnexpectedMessage => "UNEXPECTED_MESSAGE",
        }
    }
}

/// Types of a [`HopMessage`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
#[expect(missing_docs, reason = "the names are the specification's own")]
pub enum HopType {
    Reserve = 0,
    Connect = 1,
    Status = 2,
}

/// Types of a [`StopMessage`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
#[expect(missing_docs, reason = "the names are the specification's own")]
pub enum StopType {
    Connect = 0,
    Status = 1,
}

/// A message between a client and the relay.
#[derive(Clone, PartialEq, prost::Message)]
pub struct HopMessage {
    /// Type of the message; a message without a type is malformed.
    #[prost(enumeration = "HopType", optional, tag = "1")]
    pub kind: Option<i32>,
    /// CONNECT: the target.
    #[prost(message, optional, tag = "2")]
    pub peer: Option<Peer>,
    /// STATUS of a granted RESERVE.
    #[prost(message, optional, tag = "3")]
    pub reservation: Option<Reservation>,
    /// STATUS: limits of the circuit. Absent if there are none.
    #[prost(message, optional, tag = "4")]
    pub limit: Option<Limit>,
    /// STATUS: status of the request.
    #[prost(enumeration = "Status", optional, tag = "5")]
    pub status: Option<i32>,
}

/// A message between the relay and the target of a circuit.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StopMessage {
    /// Type of the message; a message without a type is malformed.
    #[prost(enumeration = "StopType", optional, tag = "1")]
    pub kind: Option<i32>,
    /// CONNECT: the source.
    #[prost(message, optional, tag = "2")]
    pub peer: Option<Peer>,
    /// CONNECT: limits of the circuit. Absent if there are none.
    #[prost(message, optional, tag = "3")]
    pub limit: Option<Limit>,
    /// STATUS: status of the request.
    #[prost(enumeration = "Status", optional, tag = "4")]
    pub status: Option<i32>,
}

/// A peer in a message.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Peer {
    /// Binary peer id.
    #[prost(bytes = "vec", optional, tag = "1")]
    pub id: Option<Vec<u8>>,
    /// Addresses for active relays. This relay never dials targets, so it neither reads nor sends
    /// them.
    #[prost(bytes = "vec", repeated, tag = "2")]
    pub addrs: Vec<Vec<u8>>,
}

/// A granted reservation.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Reservation {
    /// Expiry in seconds since the Unix epoch.
    #[prost(uint64, optional, tag = "1")]
    pub expire: Option<u64>,
    /// Addresses of the relay, each ending in `/p2p/<relay>`.
    #[prost(bytes = "vec", repeated, tag = "2")]
    pub addrs: Vec<Vec<u8>>,
    /// Signed envelope of a [`Voucher`](super::Voucher).
    #[prost(bytes = "vec", optional, tag = "3")]
    pub voucher: Option<Vec<u8>>,
}

/// Limits of a circuit. An absent field is unlimited.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Limit {
    /// Duration in seconds.
    #[prost(uint32, optional, tag = "1")]
    pub duration: Option<u32>,
    /// Bytes in each direction.
    #[prost(uint64, optional, tag = "2")]
    pub data: Option<u64>,
}

impl Limit {
    /// Converts `limit`; `None` if it is unlimited, because clients treat even an empty `limit` as
    /// a limited connection.
    pub fn from_circuit(limit: CircuitLimit) -> Option<Self> {
        let duration = limit.duration.map(|d| {
            // A limit below one second must not become 0, which means unlimited.
            u32::try_from(d.as_secs()).unwrap_or(u32::MAX).max(1)
        });
        (limit != CircuitLimit::default()).then_some(Self {
            duration,
            data: limit.bytes,
        })
    }
}

/// A request on a hop stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Reserves a slot for the remote peer.
    Reserve,
    /// Opens a circuit to this peer.
    Connect(PeerId),
}

/// Why a message could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The stream ended or failed before a complete message arrived, so no answer can be delivered.
    #[error("the stream ended before a whole message had arrived: {0}")]
    Io(#[from] io::Error),
    /// The length prefix is not a varint, or exceeds [`MAX_MESSAGE_BYTES`].
    #[error("the message is longer than {MAX_MESSAGE_BYTES} bytes")]
    Oversize,
    /// The message cannot be decoded, or a required field is missing.
    #[error("the message cannot be decoded")]
    Malformed,
    /// The type of the message is not allowed here.
    #[error("the message is of a type that is not allowed here")]
    Unexpected,
}

/// Reads one hop request.
pub async fn read_request<S: AsyncRead + Unpin>(stream: &mut S) -> Result<Request, ReadError> {
    let message: HopMessage = read(stream).await?;
    let kind = message.kind.and_then(|k| HopType::try_from(k).ok());
    match kind.ok_or(ReadError::Malformed)? {
        HopType::Reserve => Ok(Request::Reserve),
        HopType::Connect => {
            let id = message
                .peer
                .and_then(|p| p.id)
                .ok_or(ReadError::Malformed)?;
            let target = PeerId::from_bytes(&id).map_err(|_| ReadError::Malformed)?;
            Ok(Request::Connect(target))
        }
        HopType::Status => Err(ReadError::Unexpected),
    }
}

/// Reads the target's answer to STOP.
pub async fn read_stop_status<S: AsyncRead + Unpin>(stream: &mut S) -> Result<Status, ReadError> {
    let message: StopMessage = read(stream).await?;
    match message.kind.and_then(|k| StopType::try_from(k).ok()) {
        Some(StopType::Status) => message
            .status
            .and_then(|s| Status::try_from(s).ok())
            .ok_or(ReadError::Malformed),
        Some(StopType::Connect) => Err(ReadError::Unexpected),
        None => Err(ReadError::Malformed),
    }
}

/// A STATUS message.
pub fn status(status: Status) -> HopMessage {
    HopMessage {
        kind: Some(HopType::Status.into()),
        status: Some(status.into()),
        ..HopMessage::default()
    }
}

/// The STATUS of a granted RESERVE.
pub fn reserved(
    expire: u64,
    addresses: &[Multiaddr],
    voucher: Vec<u8>,
    limit: CircuitLimit,
) -> HopMessage {
    HopMessage {
        reservation: Some(Reservation {
            expire: Some(expire),
            addrs: addresses.iter().map(Multiaddr::to_vec).collect(),
            voucher: Some(voucher),
        }),
        limit: Limit::from_circuit(limit),
        ..status(Status::Ok)
    }
}

/// The STATUS of a granted CONNECT.
pub fn connected(limit: CircuitLimit) -> HopMessage {
    HopMessage {
        limit: Limit::from_circuit(limit),
        ..status(Status::Ok)
    }
}

/// The STOP message for a circuit from `source`.
pub fn stop(source: PeerId, limit: CircuitLimit) -> StopMessage {
    StopMessage {
        kind: Some(StopType::Connect.into()),
        peer: Some(Peer {
            id: Some(source.to_bytes()),
            addrs: Vec::new(),
        }),
        limit: Limit::from_circuit(limit),
        status: None,
    }
}

/// Reads one message, and no byte beyond it.
pub async fn read<M: Message + Default, S: AsyncRead + Unpin>(
    stream: &mut S,
) -> Result<M, ReadError> {
    let mut body = vec![0; read_length(stream).await?];
    stream.read_exact(&mut body).await?;
    M::decode(body.as_slice()).map_err(|_| ReadError::Malformed)
}

/// Writes one message and flushes it.
pub async fn write<M: Message, S: AsyncWrite + Unpin>(
    stream: &mut S,
    message: &M,
) -> io::Result<()> {
    stream
        .write_all(&message.encode_length_delimited_to_vec())
        .await?;
    stream.flush().await
}

/// [`MAX_MESSAGE_BYTES`] fits into a varint of two bytes; a third byte is not read.
async fn read_length<S: AsyncRead + Unpin>(stream: &mut S) -> Result<usize, ReadError> {
    let mut length = 0;
    for shift in [0, 7] {
        let mut byte = [0];
        stream.read_exact(&mut byte).await?;
        let [byte] = byte;
        length |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return if length <= MAX_MESSAGE_BYTES {
                Ok(length)
            } else {
                Err(ReadError::Oversize)
            };
        }
    }
    Err(ReadError::Oversize)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::{executor::block_on, io::Cursor};
    use proptest::prelude::*;

    use super::*;

    fn encode(message: &impl Message) -> Vec<u8> {
        message.encode_length_delimited_to_vec()
    }

    fn request(bytes: Vec<u8>) -> (Result<Request, ReadError>, u64) {
        let mut stream = Cursor::new(bytes);
        let result = block_on(read_request(&mut stream));
        (result, stream.position())
    }

    #[test]
    fn bytes_that_follow_a_request_stay_in_the_stream() {
        let target = PeerId::random();
        let connect = HopMessage {
            kind: Some(HopType::Connect.into()),
            peer: Some(Peer {
                id: Some(target.to_bytes()),
                addrs: vec![],
            }),
            ..HopMessage::default()
        };
        let mut bytes = encode(&connect);
        let length = bytes.len() as u64;
        bytes.extend(b"early data");
        let (result, position) = request(bytes);
        assert_eq!(result.unwrap(), Request::Connect(target));
        assert_eq!(position, length);
    }

    #[test]
    fn messages_over_4096_bytes_are_refused_by_their_length_prefix() {
        let padded = |n: usize| {
            let message = HopMessage {
                kind: Some(HopType::Reserve.into()),
                peer: Some(Peer {
                    id: None,
                    addrs: vec![vec![0; n]],
                }),
                ..HopMessage::default()
            };
            assert_eq!(message.encoded_len(), n + 8);
            encode(&message)
        };
        assert!(matches!(request(padded(4088)).0, Ok(Request::Reserve)));
        let (result, position) = request(padded(4089));
        assert!(matches!(result, Err(ReadError::Oversize)));
        assert_eq!(position, 2);
    }

    #[test]
    fn missing_required_fields_are_malformed() {
        let no_kind = encode(&HopMessage::default());
        let no_peer = encode(&HopMessage {
            kind: Some(HopType::Connect.into()),
            ..HopMessage::default()
        });
        let unknown_kind = encode(&HopMessage {
            kind: Some(9),
            ..HopMessage::default()
        });
        for bytes in [no_kind, no_peer, unknown_kind, b"\x02\xff\xff".to_vec()] {
            assert!(matches!(request(bytes).0, Err(ReadError::Malformed)));
        }
        let status = encode(&status(Status::Ok));
        assert!(matches!(request(status).0, Err(ReadError::Unexpected)));
    }

    #[test]
    fn unlimited_circuit_has_no_limit_field() {
        assert_eq!(Limit::from_circuit(CircuitLimit::default()), None);
        let limit = CircuitLimit {
            duration: Some(Duration::from_millis(10)),
            bytes: None,
        };
        assert_eq!(
            Limit::from_circuit(limit),
            Some(Limit {
                duration: Some(1),
                data: None
            })
        );
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic_and_never_read_past_the_bound(
            bytes in prop::collection::vec(any::<u8>(), 0..10_000)
        ) {
            let (_, position) = request(bytes.clone());
            prop_assert!(position <= 2 + MAX_MESSAGE_BYTES as u64);
            let _ = block_on(read_stop_status(&mut Cursor::new(bytes)));
        }

        #[test]
        fn messages_round_trip(
            kind in 0..3i32,
            status in prop::option::of(prop::sample::select(vec![100, 200, 401])),
            expire in any::<u64>(),
            addrs in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..64), 0..16),
        ) {
            let message = HopMessage {
                kind: Some(kind),
                peer: None,
                reservation: Some(Reservation { expire: Some(expire), addrs, voucher: None }),
                limit: None,
                status,
            };
            let mut bytes = Vec::new();
            block_on(write(&mut bytes, &message)).unwrap();
            let read: HopMessage = block_on(read(&mut Cursor::new(bytes))).unwrap();
            prop_assert_eq!(read, message);
        }
    }
}
