//! Where the values of a configuration come from.

use std::collections::BTreeMap;

/// The sources of all values that are set.
#[derive(Debug, Clone, Default)]
pub(super) struct ValueSources(BTreeMap<&'static str, ValueSource>);

/// The source of a value that is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ValueSource {
    /// The variable itself.
    Variable,
    /// The file that the `_FILE` form of the variable names.
    File,
}

impl ValueSources {
    /// Records the source of the value of `name`.
    pub(super) fn insert(&mut self, name: &'static str, source: ValueSource) {
        self.0.insert(name, source);
    }

    /// The source of the value of `name`; `None` if it is the default.
    pub(super) fn of(&self, name: &str) -> Option<ValueSource> {
        self.0.get(name).copied()
    }

    /// Whether the operator set this variable.
    pub(super) fn is_set(&self, name: &str) -> bool {
        self.of(name).is_some()
    }
}
