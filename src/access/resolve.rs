//! Looks the endpoint's name up, a few times at once at most.
//!
//! The system's resolver blocks a thread, for as long as a name server keeps silent, whoever still
//! waits for it. Without a bound, its threads would use up those that the relay has for such work.

use std::{net::ToSocketAddrs, sync::Arc};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::{sync::Semaphore, task::spawn_blocking};

/// Lookups that may be under way.
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
