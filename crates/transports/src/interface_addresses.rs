//! The current addresses of this machine's network interfaces.

use std::{future::poll_fn, io, net::IpAddr, time::Duration};

use if_watch::tokio::IfWatcher;
use tokio::time::timeout;

/// The system reports all addresses at once; this long after the last one, the list is complete.
const SETTLED: Duration = Duration::from_millis(100);
/// Maximum number of reports; an interface that changes all the time must not delay the result.
const MAX_EVENTS: usize = 1024;

/// Whether the interfaces can be watched, which a listener on an unspecified address needs.
///
/// # Errors
/// When they cannot, such as without netlink.
pub fn check_interface_watcher() -> io::Result<()> {
    IfWatcher::new().map(drop)
}

/// The addresses of all interfaces, in no particular order.
///
/// # Errors
/// When the interfaces cannot be listed, such as without netlink.
pub async fn interface_addresses() -> io::Result<Vec<IpAddr>> {
    let mut watcher = IfWatcher::new()?;
    for _ in 0..MAX_EVENTS {
        match timeout(SETTLED, poll_fn(|cx| watcher.poll_if_event(cx))).await {
            Ok(event) => event.map(drop)?,
            Err(_) => break,
        }
    }
    Ok(watcher.iter().map(ipnet::IpNet::addr).collect())
}
