//! After a failure to connect: whether the name exists, and what listens on the port.
//!
//! Errors of a handshake say little about a peer that speaks another protocol. So the port is queried in
//! other protocols, and its response says which part of the address is wrong.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use libp2p::{Multiaddr, multiaddr::Protocol};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::{
    failure::Cause,
    network::{Network, name_of},
};

/// Deadline of a connection, and of a response.
const PATIENCE: Duration = Duration::from_secs(2);
/// Maximum number of IP addresses of a name that are tried.
const MAX_ADDRESSES: usize = 4;
/// Maximum length of a response, in bytes.
const MAX_RESPONSE: usize = 256;
/// Maximum number of characters of a response in a message.
const MAX_SHOWN: usize = 40;

/// The greeting of libp2p over TCP: its length and a line.
const MULTISTREAM: &[u8] = b"\x13/multistream/1.0.0\n";
/// The key is arbitrary.
const WEBSOCKET_UPGRADE: &str = "Upgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: ZGVzY29yZC1yZWxheS1wcg==\r\n\r\n";

/// What a port speaks.
#[derive(Debug, PartialEq, Eq)]
enum Service {
    /// libp2p over TCP.
    Libp2p,
    /// WebSocket without TLS.
    WebSocket,
    /// HTTP without WebSocket.
    Http,
    /// TLS.
    Tls,
    /// Something else, with the start of its response.
    Other(String),
    /// It accepts connections and does not respond.
    Silent,
}

/// A more specific cause of a failure to connect to `address`, if one is found within a few seconds.
pub(super) async fn diagnose(address: &Multiaddr, network: &Network) -> Option<Cause> {
    let ips = match name_of(address) {
        Some(name) => match network.ip_addresses(&name).await {
            Ok(ips) if ips.is_empty() => return Some(unknown_name(&name)),
            Ok(ips) => ips,
            Err(_) => return None,
        },
        None => vec![resource_manager::ip_of(address)?],
    };
    let Some(Protocol::Tcp(port)) = address.iter().nth(1) else {
        return None;
    };
    let host = name_of(address).unwrap_or_else(|| "relay".to_owned());
    let sockets = ips.into_iter().take(MAX_ADDRESSES);
    let service = query(sockets, port, &host).await?;
    describe(address, &service)
}

/// The cause if a name has no IP address.
fn unknown_name(name: &str) -> Cause {
    Cause::new(format!("no such name: {name} has no IP address in DNS")).hint(
        "is the name spelled correctly? if its zone is not delegated yet, query its name server with \
         --dns-server",
    )
}

/// The cause if `service` is not what `address` says.
fn describe(address: &Multiaddr, service: &Service) -> Option<Cause> {
    let parts: Vec<_> = address.iter().collect();
    let is_websocket = parts
        .iter()
        .any(|part| matches!(part, Protocol::Ws(_) | Protocol::Wss(_)));
    let is_tls = parts
        .iter()
        .any(|part| matches!(part, Protocol::Tls | Protocol::Wss(_)));
    // The start up to the port.
    let base: Multiaddr = parts.into_iter().take(2).collect();
    let cause = |what: &str, hint: String| Some(Cause::new(what).hint(hint));
    match service {
        Service::WebSocket if !is_websocket => cause(
            "WebSocket listens on this port, not libp2p over TCP",
            format!("/ws is missing: {base}/ws"),
        ),
        Service::WebSocket if is_tls => cause(
            "WebSocket without TLS listens on this port",
            format!("without /tls: {base}/ws"),
        ),
        Service::Libp2p if is_websocket => cause(
            "libp2p over TCP listens on this port, not WebSocket",
            format!("without /ws: {base}"),
        ),
        // A server with TLS may respond to a request without TLS.
        Service::Http if !is_tls => cause(
            "an HTTP server listens on this port, not libp2p",
            "is it the admin API (8080), or a proxy? a relay behind an HTTPS proxy has an address that \
             ends in /tls/ws"
                .to_owned(),
        ),
        Service::Tls if !is_tls => cause(
            "a TLS server listens on this port, not libp2p",
            format!("is /tls/ws missing? {base}/tls/ws"),
        ),
        Service::Other(start) => cause(
            &format!("something that is not libp2p listens on this port; it sends {start:?}"),
            "is the port right? the relay's default is 9000".to_owned(),
        ),
        Service::Silent => cause(
            "the port accepts connections, but nothing responds",
            "is the port right? a load balancer without a running relay behind it also accepts connections"
                .to_owned(),
        ),
        Service::WebSocket | Service::Libp2p | Service::Http | Service::Tls => None,
    }
}

/// What listens on the port; `None` if it cannot be reached.
async fn query(ips: impl Iterator<Item = IpAddr>, port: u16, host: &str) -> Option<Service> {
    let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\n{WEBSOCKET_UPGRADE}");
    for ip in ips {
        let socket = SocketAddr::new(ip, port);
        // A listener of libp2p closes the connection after a request of HTTP.
        let Some(response) = exchange(socket, request.as_bytes()).await else {
            continue;
        };
        if let Some(service) = classify(&response) {
            return Some(service);
        }
        let response = exchange(socket, MULTISTREAM).await?;
        return Some(classify(&response).unwrap_or(Service::Silent));
    }
    None
}

/// Connects, sends a request, and returns the start of the response; `None` without a connection.
async fn exchange(socket: SocketAddr, request: &[u8]) -> Option<Vec<u8>> {
    let connect = timeout(PATIENCE, TcpStream::connect(socket)).await;
    let mut stream = connect.ok()?.ok()?;
    let mut response = vec![0; MAX_RESPONSE];
    let read = async {
        stream.write_all(request).await?;
        stream.read(&mut response).await
    };
    // An error after the connection is no response, either.
    let length = timeout(PATIENCE, read)
        .await
        .map_or(0, Result::unwrap_or_default);
    response.truncate(length);
    Some(response)
}

/// What sent this response; `None` if it is empty.
fn classify(response: &[u8]) -> Option<Service> {
    let text = String::from_utf8_lossy(response);
    if response.is_empty() {
        None
    } else if response.starts_with(MULTISTREAM) {
        Some(Service::Libp2p)
    } else if text.starts_with("HTTP/1.1 101") {
        Some(Service::WebSocket)
    } else if text.starts_with("HTTP/") {
        Some(Service::Http)
    } else if response.starts_with(&[0x15, 3]) || response.starts_with(&[0x16, 3]) {
        // An alert, or a handshake message.
        Some(Service::Tls)
    } else {
        let line = text.lines().next().unwrap_or_default();
        Some(Service::Other(line.chars().take(MAX_SHOWN).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_are_recognized_by_their_response() {
        for (response, service) in [
            (&b"\x13/multistream/1.0.0\n"[..], Service::Libp2p),
            (b"HTTP/1.1 101 Switching Protocols\r\n", Service::WebSocket),
            (b"HTTP/1.0 404 Not Found\r\n", Service::Http),
            (b"\x15\x03\x01\x00\x02\x02\x46", Service::Tls),
            (b"SSH-2.0-x\r\nmore", Service::Other("SSH-2.0-x".to_owned())),
        ] {
            assert_eq!(classify(response), Some(service));
        }
        assert_eq!(classify(b""), None);
    }

    #[test]
    fn matching_service_is_no_cause() {
        let is_cause =
            |address: &str, service| describe(&address.parse().unwrap(), &service).is_some();
        assert!(!is_cause("/dns/a/tcp/1", Service::Libp2p));
        assert!(!is_cause("/dns/a/tcp/1/ws", Service::WebSocket));
        assert!(!is_cause("/dns/a/tcp/1/tls/ws", Service::Tls));
        assert!(!is_cause("/dns/a/tcp/1/tls/ws", Service::Http));
        assert!(is_cause("/dns/a/tcp/1", Service::Tls));
        assert!(is_cause("/dns/a/tcp/1/ws", Service::Http));
    }
}
