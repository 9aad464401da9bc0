//! The addresses that a listener can be reached on.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::task::{Context, Poll};

use if_watch::IfEvent;
use if_watch::tokio::IfWatcher;

/// What became of an address.
pub(super) enum AddressChange {
    Added(SocketAddr),
    Expired(SocketAddr),
    /// The watch on the interfaces failed. Its last word: addresses stay as they are.
    WatchFailed(io::Error),
}

/// Tells a socket's addresses: its own, or those of the interfaces if it is bound to all of them.
pub(super) struct Interfaces {
    local: SocketAddr,
    source: Source,
}

enum Source {
    /// One address, not announced yet.
    Fixed,
    Watched {
        watcher: Box<IfWatcher>,
        announced: HashSet<IpAddr>,
    },
    /// Nothing more to tell.
    Done,
}

impl Interfaces {
    /// Watches the interfaces if `local` is an unspecified address.
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
                        // The same address can be there twice, with different prefixes.
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

/// Whether a socket on the unspecified address `any` is reached by `ip`.
///
/// Link-local addresses of IPv6 are left out: they mean nothing without the name of an interface,
/// which a multiaddress of QUIC does not carry.
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
    fn families_do_not_mix_and_link_local_is_left_out() {
        let (any4, any6) = ("0.0.0.0".parse().unwrap(), "::".parse().unwrap());
        let (v4, v6) = ("192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap());
        assert!(is_reachable_by(any4, v4) && is_reachable_by(any6, v6));
        assert!(!is_reachable_by(any4, v6) && !is_reachable_by(any6, v4));
        assert!(!is_reachable_by(any6, "fe80::1".parse().unwrap()));
    }
}
