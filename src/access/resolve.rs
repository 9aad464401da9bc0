//! DNS resolver of the endpoint's name, with bounded concurrency.
//!
//! The system's resolver blocks a thread while a name server does not respond, even if the request
//! has been abandoned. Without a limit it could use up the runtime's blocking threads.

use std::{net::ToSocketAddrs, sync::Arc};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::{sync::Semaphore, task::spawn_blocking};

/// Maximum number of concurrent lookups.
const MAX_LOOKUPS: usize = 2;

/// The system's resolver.
#[derive(Clone, Debug)]
pub(super) struct Resolver(Arc<Semaphore>);

impl Default for Resolver {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MAX_LOOKUPS)))
    }
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let lookups = Arc::clone(&self.0);
        Box::pin(async move {
            let permit = lookups.acquire_owned().await?;
            let found = spawn_blocking(move || {
                let found = (name.as_str(), 0).to_socket_addrs();
                drop(permit);
                found
            });
            Ok(Box::new(found.await??) as Addrs)
        })
    }
}
