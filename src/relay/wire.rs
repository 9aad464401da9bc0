//! The messages of the *hop* and *stop* protocols, and how they are framed.
//!
//! Specification: circuit-v2, section "Protobuf". Every message is preceded by its length as an
//! unsigned varint and is at most [`MAX_MESSAGE_BYTES`] long.
//!
//! Reading never takes a byte beyond the message: what a peer sends together with its handshake
//! is the first data of the circuit and stays in the stream.

use std::io;

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::{Multiaddr, PeerId, StreamProtocol};
use prost::Message;

use super::limits::CircuitLimit;

/// The protocol that clients speak to the relay.
pub const HOP_PROTOCOL: StreamProtocol = StreamProtocol::new("/libp2p/circuit/relay/0.2.0/hop");
/// The protocol that the relay speaks to the target of a circuit.
pub const STOP_PROTOCOL: StreamProtocol = StreamProtocol::new("/libp2p/circuit/relay/0.2.0/stop");
/// No message is longer, in bytes, its length prefix not counted.
pub const MAX_MESSAGE_BYTES: usize = 4096;

/// What the relay answers to a request.
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
    /// The specification's name.
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

/// The kinds of a [`HopMessage`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
#[expect(missing_docs, reason = "the names are the specification's own")]
pub enum HopType {
    Reserve = 0,
    Connect = 1,
    Status = 2,
}

/// The kinds of a [`StopMessage`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
#[expect(missing_docs, reason = "the names are the specification's own")]
pub enum StopType {
    Connect = 0,
    Status = 1,
}

/// Between a client and the relay.
#[derive(Clone, PartialEq, prost::Message)]
pub struct HopMessage {
    /// Which kind of message this is; one without a kind is malformed.
    #[prost(enumeration = "HopType", optional, tag = "1")]
    pub kind: Option<i32>,
    /// CONNECT: the target.
    #[prost(message, optional, tag = "2")]
    pub peer: Option<Peer>,
    /// STATUS to a RESERVE that was granted.
    #[prost(message, optional, tag = "3")]
    pub reservation: Option<Reservation>,
    /// STATUS: the limits of a circuit. Absent when there are none.
    #[prost(message, optional, tag = "4")]
    pub limit: Option<Limit>,
    /// STATUS: the answer.
    #[prost(enumeration = "Status", optional, tag = "5")]
    pub status: Option<i32>,
}

/// Between the relay and the target of a circuit.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StopMessage {
    /// Which kind of message this is; one without a kind is malformed.
    #[prost(enumeration = "StopType", optional, tag = "1")]
    pub kind: Option<i32>,
    /// CONNECT: the source.
    #[prost(message, optional, tag = "2")]
    pub peer: Option<Peer>,
    /// CONNECT: the limits of the circuit. Absent when there are none.
    #[prost(message, optional, tag = "3")]
    pub limit: Option<Limit>,
    /// STATUS: the answer.
    #[prost(enumeration = "Status", optional, tag = "4")]
    pub status: Option<i32>,
}

/// A peer that a message speaks of.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Peer {
    /// The binary peer id.
    #[prost(bytes = "vec", optional, tag = "1")]
    pub id: Option<Vec<u8>>,
    /// Addresses for an active relay; this relay never dials, so it neither reads nor sends them.
    #[prost(bytes = "vec", repeated, tag = "2")]
    pub addrs: Vec<Vec<u8>>,
}

/// A granted reservation.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Reservation {
    /// When it ends, in seconds since the Unix epoch.
    #[prost(uint64, optional, tag = "1")]
    pub expire: Option<u64>,
    /// The relay's addresses, each ending in `/p2p/<relay>`.
    #[prost(bytes = "vec", repeated, tag = "2")]
    pub addrs: Vec<Vec<u8>>,
    /// A signed envelope around a [`Voucher`](super::Voucher).
    #[prost(bytes = "vec", optional, tag = "3")]
    pub voucher: Option<Vec<u8>>,
}

/// The limits of a circuit. A field that is absent is unlimited.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Limit {
    /// In seconds.
    #[prost(uint32, optional, tag = "1")]
    pub duration: Option<u32>,
    /// In bytes, for each direction.
    #[prost(uint64, optional, tag = "2")]
    pub data: Option<u64>,
}

impl Limit {
    /// What the wire says of `limit`: nothing at all when there is none, since clients take even
    /// an empty `limit` for a limited connection.
    pub fn from_circuit(limit: CircuitLimit) -> Option<Self> {
        let duration = limit.duration.map(|d| {
            // A limit below one second must not read as "unlimited".
            u32::try_from(d.as_secs()).unwrap_or(u32::MAX).max(1)
        });
        (limit != CircuitLimit::default()).then_some(Self {
            duration,
            data: limit.bytes,
        })
    }
}

/// A request that a client may make on a hop stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Reserve a slot for the peer on the other end.
    Reserve,
    /// Open a circuit to this peer.
    Connect(PeerId),
}

/// Why there is no [`Request`].
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The stream ended or failed before a whole message had arrived: nobody waits for an answer.
    #[error("the stream ended before a whole message had arrived: {0}")]
    Io(#[from] io::Error),
    /// The length prefix is not a varint, or says more than [`MAX_MESSAGE_BYTES`].
    #[error("the message is longer than {MAX_MESSAGE_BYTES} bytes")]
    Oversize,
    /// The bytes are no such message, or a field that it needs is missing.
    #[error("the message cannot be decoded")]
    Malformed,
    /// It is a message, but not one that may be sent here.
    #[error("the message is of a kind that is not expected here")]
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

/// Reads the target's answer to a STOP.
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

/// A STATUS that refuses a request.
pub fn status(status: Status) -> HopMessage {
    HopMessage {
        kind: Some(HopType::Status.into()),
        status: Some(status.into()),
        ..HopMessage::default()
    }
}

/// The STATUS that grants a RESERVE.
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

/// The STATUS that grants a CONNECT.
pub fn connected(limit: CircuitLimit) -> HopMessage {
    HopMessage {
        limit: Limit::from_circuit(limit),
        ..status(Status::Ok)
    }
}

/// The STOP that announces a circuit from `source`.
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

/// Reads one message and not a byte more.
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

/// [`MAX_MESSAGE_BYTES`] fits into two bytes of a varint; a third is refused unread.
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
    fn a_message_of_4096_bytes_is_read_and_a_longer_one_refused_by_its_length_alone() {
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
    fn what_a_request_needs_is_required() {
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
    fn no_limit_is_no_field() {
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
        fn what_is_written_is_read_again(
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
