//! The operator's endpoints, asked by the crate's own client and by hand.

use std::{net::SocketAddr, time::Duration};

use descord_relay::admin::client;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{PATIENCE, process::Relay};

/// The status code and the body of an answer.
pub async fn get(relay: &Relay, path: &str) -> (u16, String) {
    let (status, body) = client::get(relay.admin(), path).await.unwrap();
    (status.as_u16(), String::from_utf8(body.to_vec()).unwrap())
}

/// The status code of an answer.
pub async fn status(relay: &Relay, path: &str) -> u16 {
    get(relay, path).await.0
}

/// An answer in JSON.
pub async fn json(relay: &Relay, path: &str) -> Value {
    let (status, body) = get(relay, path).await;
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

/// Asks until the answer is as wanted. The log speaks of what happened a moment before or after
/// the answer shows it.
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

/// A connection on which this was sent; an answer is not waited for.
pub async fn send(address: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    stream
}

/// All that comes until the other side closes the connection.
pub async fn until_closed(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let read = timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    // A reset closes it as well: the server had not read all that was sent.
    let _ = read.expect("the connection is closed");
    String::from_utf8(answer).unwrap()
}
