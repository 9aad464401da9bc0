//! The PROXY protocol, version 2: the source address of a connection through a proxy.
//!
//! Specification: <https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt>, section 2.2.
//!
//! The header is the first data on the connection, and no byte beyond it is read. Version 1, a line of
//! text without a length, is not accepted.

use std::{io, net::SocketAddr};

use futures::{AsyncRead, AsyncReadExt};
use ppp::v2::{Addresses, Command, Header, ParseError, Protocol};

/// The maximum length of a header in bytes. Addresses take up to 36 bytes, and the extensions that proxies
/// add a few hundred; the protocol allows 64 KiB.
pub const MAX_HEADER_BYTES: usize = 1024;

/// The number of bytes before the part whose length is announced.
const FIXED_BYTES: usize = 16;

/// The source of a connection according to its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A client with this address. IPv4-mapped addresses are converted to IPv4.
    Client(SocketAddr),
    /// The proxy itself, for a health check.
    Proxy,
}

/// The error of reading a header.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The proxy has closed the connection without sending any data, as health checks do.
    #[error("the connection ended before its PROXY header")]
    NoData,
    /// The connection ended or failed within its header.
    #[error("incomplete PROXY header: {0}")]
    Io(#[from] io::Error),
    /// The data is not a header of version 2.
    #[error("not a PROXY header: {0}")]
    Invalid(#[from] ParseError),
    /// The header is longer than [`MAX_HEADER_BYTES`].
    #[error("the PROXY header has {0} bytes")]
    TooLong(usize),
    /// The header is not of a TCP connection from an IP address.
    #[error("the PROXY header is not of a TCP connection from an IP address")]
    NotTcp,
}

/// Reads the header, and nothing beyond it.
///
/// # Errors
/// See [`Error`]. The connection cannot be used afterwards.
pub async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Source, Error> {
    let mut fixed = [0; FIXED_BYTES];
    let (first, rest) = fixed.split_at_mut(1);
    if stream.read(first).await? == 0 {
        return Err(Error::NoData);
    }
    stream.read_exact(rest).await?;
    // Rejects other data before waiting for more of it.
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
        // The specification allows a receiver to use the proxy's address instead, but rates and shares
        // would then apply to all of its clients together.
        _ => return Err(Error::NotTcp),
    };
    let ip = client.ip().to_canonical();
    Ok(Source::Client(SocketAddr::new(ip, client.port())))
}

#[cfg(test)]
mod tests;
