//! Fetches the status of relays from their admin API.

use std::net::SocketAddr;

use fleet_dns::poller::{FetchError, StatusClient};
use futures::future::{BoxFuture, FutureExt};

use crate::admin::client;

/// Fetches `/status` from the admin API of a relay.
#[derive(Clone, Copy, Debug, Default)]
pub struct AdminStatusClient;

impl StatusClient for AdminStatusClient {
    fn fetch(&self, relay: SocketAddr) -> BoxFuture<'static, Result<Vec<u8>, FetchError>> {
        async move {
            let (status, body) = client::get(relay, "/status").await?;
            if status.is_success() {
                Ok(body.to_vec())
            } else {
                Err(format!("the response has status {status}").into())
            }
        }
        .boxed()
    }
}
