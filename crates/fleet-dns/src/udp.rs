//! A UDP socket that responds from the address to which a query was sent.
//!
//! On a host with several addresses, the system would send responses of a socket on all interfaces from
//! the address of the route to the client. Resolvers drop a response from another address than the one
//! they queried.

use std::{
    io::{self, IoSliceMut},
    net::{IpAddr, SocketAddr},
};

use quinn_udp::{RecvMeta, Transmit, UdpSocketState};
use tokio::{io::Interest, net::UdpSocket};

/// Size of a receive buffer, in bytes: the system may join packets of one client.
pub(crate) const BUFFER_BYTES: usize = 64 * 1024;

/// The two ends of a query.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QueryPath {
    /// The address of the client.
    pub(crate) from: SocketAddr,
    /// The local address to which the query was sent, if the system reports it.
    to: Option<IpAddr>,
}

/// Packets of one client in a receive buffer: their total length, and the length of each but the last.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packets {
    length: usize,
    stride: usize,
}

impl Packets {
    /// The packets in the buffer.
    pub(crate) fn of(self, buffer: &[u8]) -> impl Iterator<Item = &[u8]> {
        let received = buffer.get(..self.length).unwrap_or_default();
        received.chunks(self.stride.max(1))
    }
}

/// The socket.
#[derive(Debug)]
pub(crate) struct ReplySocket {
    socket: UdpSocket,
    state: UdpSocketState,
}

impl ReplySocket {
    /// # Errors
    /// When the system does not report the addresses of packets.
    pub(crate) fn new(socket: UdpSocket) -> io::Result<Self> {
        let state = UdpSocketState::new((&socket).into())?;
        Ok(Self { socket, state })
    }

    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Receives packets of one client.
    ///
    /// # Errors
    /// Those of the socket.
    pub(crate) async fn receive(&self, buffer: &mut [u8]) -> io::Result<(QueryPath, Packets)> {
        let mut meta = [RecvMeta::default()];
        self.socket
            .async_io(Interest::READABLE, || {
                let mut buffers = [IoSliceMut::new(buffer)];
                self.state
                    .recv((&self.socket).into(), &mut buffers, &mut meta)
            })
            .await?;
        let [meta] = meta;
        let path = QueryPath {
            from: meta.addr,
            to: meta.dst_ip,
        };
        let packets = Packets {
            length: meta.len,
            stride: meta.stride,
        };
        Ok((path, packets))
    }

    /// Sends a response, or drops it if it does not fit into the kernel's buffer.
    ///
    /// # Errors
    /// Those of the socket.
    pub(crate) fn try_respond(&self, response: &[u8], path: QueryPath) -> io::Result<()> {
        let transmit = Transmit {
            destination: path.from,
            ecn: None,
            contents: response,
            segment_size: None,
            src_ip: path.to,
        };
        self.socket.try_io(Interest::WRITABLE, || {
            self.state.try_send((&self.socket).into(), &transmit)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Linux has all of 127.0.0.0/8 on the loopback interface, and would respond from 127.0.0.1.
    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn response_leaves_from_the_queried_address() {
        let socket = UdpSocket::bind("0.0.0.0:0").await.unwrap();
        let socket = ReplySocket::new(socket).unwrap();
        let port = socket.local_addr().unwrap().port();
        for queried in ["127.0.0.1", "127.0.0.2"] {
            // Receives only from the address to which it is connected.
            let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            client.connect((queried, port)).await.unwrap();
            client.send(b"query").await.unwrap();
            let mut buffer = vec![0; BUFFER_BYTES];
            let (path, packets) = socket.receive(&mut buffer).await.unwrap();
            assert_eq!(path.from, client.local_addr().unwrap());
            assert_eq!(packets.of(&buffer).collect::<Vec<_>>(), [b"query"]);
            socket.try_respond(b"response", path).unwrap();
            let mut response = [0; 16];
            let length = client.recv(&mut response).await.unwrap();
            assert_eq!(&response[..length], b"response");
        }
    }

    #[test]
    fn joined_packets_are_separated() {
        let packets = Packets {
            length: 7,
            stride: 3,
        };
        let separated: Vec<_> = packets.of(b"abcdefg---").collect();
        assert_eq!(separated, [&b"abc"[..], b"def", b"g"]);
        let none = Packets {
            length: 0,
            stride: 0,
        };
        assert_eq!(none.of(b"abc").count(), 0);
    }
}
