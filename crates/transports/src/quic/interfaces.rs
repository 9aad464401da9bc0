//! The addresses of a listener: its bound address, or those of the network interfaces.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::task::{Context, Poll};

use if_watch::IfEvent;
use if_watch::tokio::IfWatcher;

/// A change of the addresses.
pub(super) enum AddressChange {
    Added(SocketAddr),
    Expired(SocketAddr),
    /// The watcher of the interfaces failed. No further changes are reported; the addresses remain.
    WatchFailed(io::Error),
}

/// The addresses of a socket: its own, or those of all interfaces if it is bound to an unspecified
/// address.
pub(super) struct Interfaces {
    local: SocketAddr,
    source: Source,
}

enum Source {
    /// One address, which is not reported yet.
    Fixed,
    Watched {
        watcher: Box<IfWatcher>,
        announced: HashSet<IpAddr>,
    },
    /// Nothing more to report.
    Done,
}

impl Interfaces {
    /// Watches the interfaces if `local` is an unspecified address.
    ///
    /// # Errors
    /// When the watcher cannot be created.
    pub(super) fn new(local: SocketAddr) -> io::Result<Self> {
        let source = if local.ip().is_unspecified() {
            Source::Watched {
                watcher: Box::new(IfWatcher::new()?),
                announced: HashSet::new(),
            }
        } else {
            Source::Fixed
        };
        Ok(Self { local, source })
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<AddressChange> {
        match &mut self.source {
            Source::Fixed => {
                self.source = Source::Done;
                Poll::Ready(AddressChange::Added(self.local))
            }
            Source::Watched { watcher, announced } => loop {
                match std::task::ready!(watcher.poll_if_event(cx)) {
                    Ok(IfEvent::Up(net)) => {
                        let ip = net.addr();
                        if is_reachable_by(self.local.ip(), ip) && announced.insert(ip) {
                            return Poll::Ready(AddressChange::Added(SocketAddr::new(
                                ip,
                                self.local.port(),
                            )));
                        }
                    }
                    Ok(IfEvent::Down(net)) => {
                        let ip = net.addr();
                        // An interface can have the same address twice, with different prefixes.
                        let still_there = watcher.iter().any(|other| other.addr() == ip);
                        if !still_there && announced.remove(&ip) {
                            let gone = SocketAddr::new(ip, self.local.port());
                            return Poll::Ready(AddressChange::Expired(gone));
                        }
                    }
                    Err(error) => {
                        self.source = Source::Done;
                        return Poll::Ready(AddressChange::WatchFailed(error));
                    }
                }
            },
            Source::Done => Poll::Pending,
        }
    }
}

/// Whether a socket that is bound to the unspecified address `any` is reachable by `ip`.
///
/// IPv6 link-local addresses are excluded: they are only valid with an interface, which a QUIC
/// multiaddress cannot express.
fn is_reachable_by(any: IpAddr, ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(_) => any.is_ipv4(),
        IpAddr::V6(ip) => any.is_ipv6() && !ip.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_families_and_link_local_addresses_are_excluded() {
        let (any4, any6) = ("0.0.0.0".parse().unwrap(), "::".parse().unwrap());
        let (v4, v6) = ("192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap());
        assert!(is_reachable_by(any4, v4) && is_reachable_by(any6, v6));
        assert!(!is_reachable_by(any4, v6) && !is_reachable_by(any6, v4));
        assert!(!is_reachable_by(any6, "fe80::1".parse().unwrap()));
    }
}
