//! So many at once for each peer: whoever asks for much waits for themselves alone.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use libp2p::PeerId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A part for each peer. Peers that neither have anything nor wait take no memory.
#[derive(Debug)]
pub(super) struct Shares {
    each: usize,
    peers: Mutex<HashMap<PeerId, Share>>,
}

#[derive(Debug)]
struct Share {
    places: Arc<Semaphore>,
    /// Who holds one of the places, or waits for one.
    users: usize,
}

impl Shares {
    /// `each` places for every peer.
    pub(super) fn new(each: usize) -> Self {
        Self {
            each,
            peers: Mutex::default(),
        }
    }

    /// Waits for a place of `peer`, and gives it back when the guard is dropped.
    pub(super) async fn take(&self, peer: PeerId) -> Place<'_> {
        let mut place = self.enter(peer);
        // It is never closed.
        place.permit = Arc::clone(&place.places).acquire_owned().await.ok();
        place
    }

    /// Those that wait count from now on, and no more when they give up.
    fn enter(&self, peer: PeerId) -> Place<'_> {
        let mut peers = self.peers();
        let share = peers.entry(peer).or_insert_with(|| Share {
            places: Arc::new(Semaphore::new(self.each)),
            users: 0,
        });
        share.users += 1;
        Place {
            shares: self,
            peer,
            places: Arc::clone(&share.places),
            permit: None,
        }
    }

    fn peers(&self) -> MutexGuard<'_, HashMap<PeerId, Share>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place, or the wait for it.
#[derive(Debug)]
pub(super) struct Place<'a> {
    shares: &'a Shares,
    peer: PeerId,
    places: Arc<Semaphore>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.permit = None;
        let mut peers = self.shares.peers();
        if let Some(share) = peers.get_mut(&self.peer) {
            share.users = share.users.saturating_sub(1);
            if share.users == 0 {
                peers.remove(&self.peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_peer_waits_for_itself_alone_and_is_forgotten() {
        let shares = Shares::new(2);
        let (greedy, modest) = (PeerId::random(), PeerId::random());
        let first = shares.take(greedy).await;
        let second = shares.take(greedy).await;
        let wait = Duration::from_secs(1);
        assert!(timeout(wait, shares.take(greedy)).await.is_err());
        drop(shares.take(modest).await);
        assert_eq!(shares.peers().len(), 1);
        let (third, ()) = tokio::join!(timeout(wait, shares.take(greedy)), async { drop(first) });
        drop((second, third.unwrap()));
        assert!(shares.peers().is_empty());
    }
}
