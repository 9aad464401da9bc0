//! A client of the admin API, for images without a shell.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, StatusCode, body::Bytes, client::conn::http1, header::HOST};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};

/// Deadline of a response.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Maximum length of a response body, in bytes.
const MAX_BODY_BYTES: usize = 64 * 1024;

/// Why a request failed.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// GETs `path` from the admin API at `address`; an unspecified IP address means this machine.
///
/// # Errors
/// When there is no complete response within two seconds.
pub async fn get(address: SocketAddr, path: &str) -> Result<(StatusCode, Bytes), Error> {
    request(Method::GET, address, path, Bytes::new()).await
}

/// PUTs `body` to `path` in the same way.
///
/// # Errors
/// When there is no complete response within two seconds.
pub async fn put(
    address: SocketAddr,
    path: &str,
    body: String,
) -> Result<(StatusCode, Bytes), Error> {
    request(Method::PUT, address, path, body.into()).await
}

async fn request(
    method: Method,
    address: SocketAddr,
    path: &str,
    body: Bytes,
) -> Result<(StatusCode, Bytes), Error> {
    let address = reachable(address);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, address.to_string())
        .body(Full::new(body))?;
    timeout(TIMEOUT, async {
        let stream = TcpStream::connect(address).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // Dropping the sender ends the connection after the response.
        let answer = async move {
            let (head, body) = sender.send_request(request).await?.into_parts();
            let body = Limited::new(body, MAX_BODY_BYTES)
                .collect()
                .await?
                .to_bytes();
            Ok((head.status, body))
        };
        tokio::join!(answer, connection).0
    })
    .await?
}

fn reachable(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    address
}
