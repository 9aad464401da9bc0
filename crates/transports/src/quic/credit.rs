//! Receive credit: what peers may send before it is read, beyond the initial window of a connection.
//!
//! Credit cannot be revoked, so it is granted from one pool for all connections of a transport. The
//! size of the pool is half of the limit for buffers ([`ResourceLimits::buffered`]): if all peers used all of
//! their credit and nothing was read, the relay would hold that amount, and [`INITIAL_WINDOW`] for
//! each connection. Under scarcity, an address prefix is limited to its share of the pool. An eighth
//! more than the pool is a reserve for prefixes that use little of their share.
//!
//! [`ResourceLimits::buffered`]: resource_manager::ResourceLimits::buffered

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use resource_manager::{GUARANTEED_BYTES, Resources, Shares, Usage};

/// The initial receive window of a connection, in bytes.
pub(super) const INITIAL_WINDOW: u64 = GUARANTEED_BYTES;

/// The pool is this part of the limit for buffers. The rest is for what is accounted for as it arrives,
/// and for what is allocated besides the data.
const PART_OF_BUFFERS: u64 = 2;

/// The unit in which credit is granted, in bytes.
pub(super) const UNIT: u64 = 64 * 1024;

/// The pool of credit of all connections. Clones share it.
#[derive(Clone)]
pub(super) struct CreditPool(Arc<Pool>);

struct Pool {
    /// In units; `None` is unlimited.
    capacity: Option<u64>,
    shares: Shares,
    usage: Mutex<Usage>,
}

impl CreditPool {
    pub(super) fn new(resources: &Resources) -> Self {
        Self(Arc::new(Pool {
            capacity: resources
                .limits()
                .buffered
                .map(|bytes| bytes / PART_OF_BUFFERS / UNIT),
            shares: resources.shares().clone(),
            usage: Mutex::default(),
        }))
    }

    /// An account without credit, which belongs to `ip`.
    pub(super) fn credit(&self, ip: IpAddr) -> Credit {
        Credit {
            pool: self.clone(),
            ip,
            units: 0,
        }
    }

    fn usage(&self) -> MutexGuard<'_, Usage> {
        self.0.usage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(super) fn granted_bytes(&self) -> u64 {
        self.usage().total() * UNIT
    }
}

/// The credit of one connection; returned to the pool when it is dropped.
pub(super) struct Credit {
    pool: CreditPool,
    ip: IpAddr,
    units: u64,
}

impl Credit {
    /// Acquires credit for up to `bytes` bytes, in whole units. Returns the number of bytes granted,
    /// which is less if the pool or the share of the address is exhausted.
    pub(super) fn grow(&mut self, bytes: u64) -> u64 {
        let pool = &*self.pool.0;
        let mut usage = self.pool.usage();
        let mut granted = 0;
        while granted < bytes
            && usage
                .check_with_reserve(self.ip, pool.capacity, &pool.shares)
                .is_ok()
        {
            usage.add(Some(self.ip));
            self.units += 1;
            granted += UNIT;
        }
        granted.min(bytes)
    }
}

impl Drop for Credit {
    fn drop(&mut self) {
        let mut usage = self.pool.usage();
        for _ in 0..self.units {
            usage.remove(Some(self.ip));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use resource_manager::{CircuitLimits, ResourceLimits};

    fn pool(units: u64) -> CreditPool {
        let limits = ResourceLimits::new(None, None, &CircuitLimits::default());
        CreditPool::new(&Resources::new(
            ResourceLimits {
                buffered: Some(PART_OF_BUFFERS * units * UNIT),
                ..limits
            },
            Shares::default(),
        ))
    }

    #[test]
    fn one_address_cannot_acquire_all_credit() {
        let pool = pool(16);
        let mut greedy = pool.credit("192.0.2.1".parse().unwrap());
        assert_eq!(greedy.grow(100 * UNIT), 12 * UNIT);
        assert_eq!(greedy.grow(UNIT), 0);
        let mut other = pool.credit("198.51.100.1".parse().unwrap());
        assert_eq!(other.grow(2 * UNIT), 2 * UNIT);
        assert_eq!(other.grow(UNIT), 0, "its share");
        drop(greedy);
        assert_eq!(other.grow(UNIT / 2), UNIT / 2);
        assert_eq!(pool.granted_bytes(), 3 * UNIT);
        drop(other);
        assert_eq!(pool.granted_bytes(), 0);
    }

    #[test]
    fn credit_is_unlimited_without_a_memory_limit() {
        let pool = CreditPool::new(&Resources::unlimited());
        let mut credit = pool.credit("192.0.2.1".parse().unwrap());
        assert_eq!(credit.grow(1000 * UNIT), 1000 * UNIT);
    }
}
