//! The header of a frame.

use std::ops::BitOr;

use super::error::ProtocolError;

/// The length of an encoded [`Header`] in bytes.
pub(super) const HEADER_LEN: usize = 12;

/// The only version of the protocol.
const VERSION: u8 = 0;

/// The type of a frame, which determines the meaning of its length field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Data of a stream; the length is that of the payload which follows.
    Data,
    /// Credit for a stream; the length is the number of bytes that the receiver of the frame may send
    /// in addition.
    WindowUpdate,
    /// A ping or its reply; the length is an opaque value, which the reply repeats.
    Ping,
    /// The sender accepts no further streams; the length is the reason.
    GoAway,
}

/// A set of flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Flags(u16);

impl Flags {
    pub(super) const NONE: Self = Self(0);
    /// Opens a stream, or marks a ping.
    pub(super) const SYN: Self = Self(1);
    /// Accepts a stream, or marks the reply to a ping.
    pub(super) const ACK: Self = Self(2);
    /// Finishes the sender's direction of a stream.
    pub(super) const FIN: Self = Self(4);
    /// Resets both directions of a stream.
    pub(super) const RST: Self = Self(8);

    /// Whether all flags of `other` are set.
    pub(super) const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl BitOr for Flags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// The header of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: Kind,
    pub(super) flags: Flags,
    /// The stream's id; 0 for frames that concern the connection.
    pub(super) stream: u32,
    /// See [`Kind`].
    pub(super) length: u32,
}

impl Header {
    /// A data frame with `length` bytes of payload.
    pub(super) const fn data(stream: u32, length: u32) -> Self {
        Self {
            kind: Kind::Data,
            flags: Flags::NONE,
            stream,
            length,
        }
    }

    /// A window update. With a `delta` of zero, it carries flags only.
    pub(super) const fn window_update(stream: u32, flags: Flags, delta: u32) -> Self {
        Self {
            kind: Kind::WindowUpdate,
            flags,
            stream,
            length: delta,
        }
    }

    /// A ping with this value.
    pub(super) const fn ping(value: u32) -> Self {
        Self {
            kind: Kind::Ping,
            flags: Flags::SYN,
            stream: 0,
            length: value,
        }
    }

    /// The reply to a ping with this value.
    pub(super) const fn pong(value: u32) -> Self {
        Self {
            kind: Kind::Ping,
            flags: Flags::ACK,
            stream: 0,
            length: value,
        }
    }

    /// The end of the connection.
    pub(super) const fn go_away(reason: GoAway) -> Self {
        Self {
            kind: Kind::GoAway,
            flags: Flags::NONE,
            stream: 0,
            length: reason as u32,
        }
    }

    /// Encodes the header; all fields are in network byte order.
    pub(super) fn encode(self) -> [u8; HEADER_LEN] {
        let kind = match self.kind {
            Kind::Data => 0,
            Kind::WindowUpdate => 1,
            Kind::Ping => 2,
            Kind::GoAway => 3,
        };
        let [f0, f1] = self.flags.0.to_be_bytes();
        let [s0, s1, s2, s3] = self.stream.to_be_bytes();
        let [l0, l1, l2, l3] = self.length.to_be_bytes();
        [VERSION, kind, f0, f1, s0, s1, s2, s3, l0, l1, l2, l3]
    }

    /// Decodes a header. Unknown flags are preserved and ignored.
    ///
    /// # Errors
    /// When the version or the type is unknown.
    pub(super) fn decode(bytes: [u8; HEADER_LEN]) -> Result<Self, ProtocolError> {
        let [version, kind, f0, f1, s0, s1, s2, s3, l0, l1, l2, l3] = bytes;
        if version != VERSION {
            return Err(ProtocolError::UnknownVersion(version));
        }
        let kind = match kind {
            0 => Kind::Data,
            1 => Kind::WindowUpdate,
            2 => Kind::Ping,
            3 => Kind::GoAway,
            unknown => return Err(ProtocolError::UnknownType(unknown)),
        };
        Ok(Self {
            kind,
            flags: Flags(u16::from_be_bytes([f0, f1])),
            stream: u32::from_be_bytes([s0, s1, s2, s3]),
            length: u32::from_be_bytes([l0, l1, l2, l3]),
        })
    }
}

/// The reason in a GOAWAY frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum GoAway {
    /// The connection is closed in an orderly way.
    Normal = 0,
    /// The receiver of the frame violated the protocol.
    ProtocolError = 1,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_has_the_specified_layout() {
        let header = Header::window_update(0x0102_0304, Flags::SYN | Flags::FIN, 0x0a0b_0c0d);
        let bytes = [0, 1, 0, 5, 1, 2, 3, 4, 0x0a, 0x0b, 0x0c, 0x0d];
        assert_eq!(header.encode(), bytes);
        assert_eq!(Header::decode(bytes), Ok(header));
    }

    #[test]
    fn every_type_is_decoded_as_encoded() {
        for header in [
            Header::data(3, 70_000),
            Header::window_update(2, Flags::RST, 0),
            Header::pong(u32::MAX),
            Header::go_away(GoAway::ProtocolError),
        ] {
            assert_eq!(Header::decode(header.encode()), Ok(header));
        }
    }

    #[test]
    fn unknown_versions_and_types_are_rejected() {
        assert_eq!(
            Header::decode([1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            Err(ProtocolError::UnknownVersion(1))
        );
        assert_eq!(
            Header::decode([0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            Err(ProtocolError::UnknownType(4))
        );
    }
}
