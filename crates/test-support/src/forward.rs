//! TCP forwarders that dial from other loopback addresses than 127.0.0.1, with or without a PROXY header.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use libp2p::{Multiaddr, multiaddr::Protocol};
use ppp::v2::{Addresses, Builder, Command, Protocol as Carried, Version};
use tokio::{
    io::{AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpSocket, TcpStream},
    task::JoinHandle,
};

use crate::process::socket;

/// A TCP connection to `address` from the source address `from`.
pub async fn connect(from: Ipv4Addr, address: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((from, 0).into())?;
    socket.connect(address).await
}

/// The address in 127.0.0.0/8 that ends in this number.
pub fn loopback(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 0, number)
}

/// A PROXY header with the client address `client`.
pub fn header(client: &str) -> Vec<u8> {
    from_proxy(Command::Proxy, client)
}

/// A PROXY header with the command LOCAL, for connections of the proxy itself.
pub fn local() -> Vec<u8> {
    from_proxy(Command::Local, "192.0.2.1:1")
}

fn from_proxy(command: Command, client: &str) -> Vec<u8> {
    let client: SocketAddr = client.parse().unwrap();
    let relay = SocketAddr::new(client.ip(), 9000);
    let addresses = Addresses::from((client, relay));
    let builder = Builder::with_addresses(Version::Two | command, Carried::Stream, addresses);
    builder.build().unwrap()
}

/// A TCP forwarder, stopped on drop.
pub struct Forward {
    port: u16,
    /// The form of the address to dial.
    template: Multiaddr,
    task: JoinHandle<()>,
}

impl Drop for Forward {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Forward {
    /// Forwards connections to `relay` from the source address `from`, and sends these first bytes on
    /// each.
    pub async fn start(relay: &Multiaddr, from: Ipv4Addr, first: Vec<u8>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let target = socket(relay);
        let task = tokio::task::spawn(async move {
            loop {
                let (mut near, _) = listener.accept().await.unwrap();
                let first = first.clone();
                tokio::task::spawn(async move {
                    let Ok(mut far) = connect(from, target).await else {
                        return;
                    };
                    // The relay may close the connection at any time.
                    let _ = far.write_all(&first).await;
                    let _ = copy_bidirectional(&mut near, &mut far).await;
                });
            }
        });
        Self {
            port,
            template: relay.clone(),
            task,
        }
    }

    /// The address to dial instead of the relay's.
    pub fn address(&self) -> Multiaddr {
        let parts = self.template.iter().map(|part| match part {
            Protocol::Ip4(_) => IpAddr::from(Ipv4Addr::LOCALHOST).into(),
            Protocol::Tcp(_) => Protocol::Tcp(self.port),
            part => part,
        });
        parts.collect()
    }
}
