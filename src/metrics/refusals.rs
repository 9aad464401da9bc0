//! Counts of refusals for the admin API: the values of instruments cannot be read.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

/// Refused connections and requests since the start.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    pub(crate) connections: RefusalCounts,
    pub(crate) requests: RefusalCounts,
}

/// Counts by reason. Reasons are names in the source, so there are few.
#[derive(Debug, Default)]
pub(crate) struct RefusalCounts(Mutex<BTreeMap<&'static str, u64>>);

impl RefusalCounts {
    pub(super) fn add(&self, reason: &'static str) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry(reason).or_default() += 1;
    }

    /// The counts of all reasons that have occurred.
    pub(crate) fn get(&self) -> BTreeMap<&'static str, u64> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}
