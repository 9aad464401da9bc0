//! The header of the PROXY protocol, version 2: where a connection through a proxy comes from.
//!
//! Specification: <https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt>, section 2.2.
//!
//! It is the first thing on the connection, and not a byte behind it is read. Version 1, a line of
//! text without a length, is not accepted.

use std::{io, net::SocketAddr};

use futures::{AsyncRead, AsyncReadExt};
use ppp::v2::{Addresses, Command, Header, ParseError, Protocol};

/// The longest header. Addresses take 36 bytes of it, and what proxies add about TLS and themselves
/// a few hundred; the protocol would allow 64 KiB.
pub const MAX_HEADER_BYTES: usize = 1024;

/// Bytes in front of the part that has a length.
const FIXED_BYTES: usize = 16;

/// Where a connection comes from, as its proxy says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// From there. An IPv4 address is always given as one.
    Client(SocketAddr),
    /// From the proxy itself, which looks whether somebody is here.
    Proxy,
}

/// Why there is no header.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The proxy has closed the connection without a word, as health checks do.
    #[error("the connection ended before its PROXY header")]
    Silent,
    /// It ended or failed within its header.
    #[error("no whole PROXY header: {0}")]
    Io(#[from] io::Error),
    /// What came is not a header of version 2.
    #[error("not a PROXY header: {0}")]
    Invalid(#[from] ParseError),
    /// The header is longer than [`MAX_HEADER_BYTES`].
    #[error("the PROXY header has {0} bytes")]
    TooLong(usize),
    /// The header tells of something that is no TCP connection from an IP address.
    #[error("the PROXY header tells of no TCP connection from an IP address")]
    NotTcp,
}

/// Reads the header, and nothing beyond it.
///
/// # Errors
/// As [`Error`] has it. The connection is of no use then.
pub async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Source, Error> {
    let mut fixed = [0; FIXED_BYTES];
    let (first, rest) = fixed.split_at_mut(1);
    if stream.read(first).await? == 0 {
        return Err(Error::Silent);
    }
    stream.read_exact(rest).await?;
    // What is no header is not waited for to go on.
    match Header::try_from(fixed.as_slice()) {
        Ok(_) | Err(ParseError::Partial(..)) => {}
        Err(error) => return Err(error.into()),
    }
    let [.., high, low] = fixed;
    let length = FIXED_BYTES + usize::from(u16::from_be_bytes([high, low]));
    if length > MAX_HEADER_BYTES {
        return Err(Error::TooLong(length));
    }
    let mut header = fixed.to_vec();
    header.resize(length, 0);
    if let Some(rest) = header.get_mut(FIXED_BYTES..) {
        stream.read_exact(rest).await?;
    }
    source(&Header::try_from(header.as_slice())?)
}

fn source(header: &Header<'_>) -> Result<Source, Error> {
    if header.command == Command::Local {
        return Ok(Source::Proxy);
    }
    let client: SocketAddr = match (header.protocol, header.addresses) {
        (Protocol::Stream, Addresses::IPv4(ipv4)) => (ipv4.source_address, ipv4.source_port).into(),
        (Protocol::Stream, Addresses::IPv6(ipv6)) => (ipv6.source_address, ipv6.source_port).into(),
        // The specification lets a receiver go on with the proxy's own address. That would be
        // everybody's.
        _ => return Err(Error::NotTcp),
    };
    let ip = client.ip().to_canonical();
    Ok(Source::Client(SocketAddr::new(ip, client.port())))
}

#[cfg(test)]
mod tests;
