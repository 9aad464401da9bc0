//! The circuits of one connection, and whether it takes further ones.

use tokio::time::Instant;

/// Circuits that are open, or being opened, on one connection.
///
/// A drain closes each connection in a moment without a circuit. From its turn on
/// ([`Self::turn_has_come`]), circuits are opened only while one from before the turn is open, because
/// until then the connection cannot be closed anyway. So circuits that follow one another do not
/// keep the connection open, and a peer with a long circuit stays reachable.
#[derive(Debug, Default)]
pub(super) struct CircuitCount {
    /// Opened before the turn.
    earlier: usize,
    /// Opened after the turn.
    later: usize,
    has_turn_come: bool,
    last_ended: Option<Instant>,
}

/// Whether a circuit was opened before the turn of its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opened {
    BeforeTurn,
    AfterTurn,
}

impl CircuitCount {
    /// Counts a circuit; `None` if the connection takes no further one.
    pub(super) fn open(&mut self) -> Option<Opened> {
        if !self.has_turn_come {
            self.earlier += 1;
            return Some(Opened::BeforeTurn);
        }
        self.is_accepting().then(|| {
            self.later += 1;
            Opened::AfterTurn
        })
    }

    /// Removes a circuit.
    pub(super) fn close(&mut self, opened: Opened, now: Instant) {
        let count = match opened {
            Opened::BeforeTurn => &mut self.earlier,
            Opened::AfterTurn => &mut self.later,
        };
        *count = count.saturating_sub(1);
        self.last_ended = Some(now);
    }

    /// Records that a drain closes the connection in its next moment without a circuit.
    pub(super) fn turn_has_come(&mut self) {
        self.has_turn_come = true;
    }

    /// Whether the connection takes further circuits.
    pub(super) fn is_accepting(&self) -> bool {
        !self.has_turn_come || self.earlier > 0
    }

    /// Whether there is a circuit.
    pub(super) fn is_busy(&self) -> bool {
        self.earlier + self.later > 0
    }

    /// When the last circuit ended, if there was one.
    pub(super) fn last_ended(&self) -> Option<Instant> {
        self.last_ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_its_turn_circuits_are_opened_only_beside_earlier_ones() {
        let now = Instant::now();
        let mut count = CircuitCount::default();
        let [first, second] = [(); 2].map(|()| count.open().unwrap());
        count.turn_has_come();
        let beside = count.open().unwrap();
        count.close(first, now);
        let last = count.open().unwrap();
        count.close(second, now);
        assert!(count.is_busy(), "the later ones are open");
        assert_eq!(count.open(), None);
        count.close(beside, now);
        count.close(last, now);
        assert!(!count.is_busy());
        assert_eq!(count.open(), None);
        assert_eq!(count.last_ended(), Some(now));
    }

    #[test]
    fn without_a_circuit_none_is_opened_after_the_turn() {
        let mut count = CircuitCount::default();
        let opened = count.open().unwrap();
        count.close(opened, Instant::now());
        count.turn_has_come();
        assert!(!count.is_accepting());
        assert_eq!(count.open(), None);
    }
}
