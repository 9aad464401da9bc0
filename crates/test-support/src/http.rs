//! Requests to the admin endpoints, with the crate's own client and on raw sockets.

use std::{net::SocketAddr, time::Duration};

use descord_relay::admin::client;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{PATIENCE, process::Relay};

/// The status code and the body of a response.
pub async fn get(relay: &Relay, path: &str) -> (u16, String) {
    let (status, body) = client::get(relay.admin(), path).await.unwrap();
    (status.as_u16(), String::from_utf8(body.to_vec()).unwrap())
}

/// The status code of a response.
pub async fn status(relay: &Relay, path: &str) -> u16 {
    get(relay, path).await.0
}

/// A JSON response body.
pub async fn json(relay: &Relay, path: &str) -> Value {
    let (status, body) = get(relay, path).await;
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

/// Repeats the request until the response satisfies `is_wanted`. The corresponding log event may precede
/// or follow the change.
pub async fn json_where(relay: &Relay, path: &str, is_wanted: impl Fn(&Value) -> bool) -> Value {
    let mut last = Value::Null;
    let asking = timeout(PATIENCE, async {
        loop {
            last = json(relay, path).await;
            if is_wanted(&last) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let found = asking.await;
    assert!(found.is_ok(), "{path} stays {last}");
    last
}

/// Opens a connection and sends these bytes, without reading a response.
pub async fn send(address: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    stream
}

/// All data until the server closes the connection.
pub async fn until_closed(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let read = timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    // A reset also counts: the server closed without reading all sent data.
    let _ = read.expect("the connection is closed");
    String::from_utf8(answer).unwrap()
}
