//! Errors and warnings about an environment.

use std::fmt;

/// An error about one variable. `Display` gives one line: the full name of the variable, its value
/// unless it is a secret, the problem, and the allowed values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VariableError {
    name: String,
    message: String,
}

impl VariableError {
    /// `message` must not contain a secret. Line breaks in it are escaped: an error is one line.
    pub(super) fn new(name: &str, message: impl Into<String>) -> Self {
        Self {
            name: one_line(name),
            message: one_line(&message.into()),
        }
    }

    /// The full name of the variable.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for VariableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.message)
    }
}

impl std::error::Error for VariableError {}

/// All errors of an environment; never empty. `Display` prints one line per error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Errors(Vec<VariableError>);

impl Errors {
    /// `Ok` without errors.
    pub(super) fn check(errors: Vec<VariableError>) -> Result<(), Self> {
        if errors.is_empty() {
            Ok(())
        } else {
            Err(Self(errors))
        }
    }

    /// The errors, those about unknown names first, then in the order of the reference table.
    pub fn iter(&self) -> impl Iterator<Item = &VariableError> {
        self.0.iter()
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Errors {}

/// A valid but probably unintended configuration. `Display` gives one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning(String);

impl Warning {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Escapes control characters.
fn one_line(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            let escaped = c.is_control().then(|| c.escape_default());
            let plain = (!c.is_control()).then_some(c);
            escaped.into_iter().flatten().chain(plain)
        })
        .collect()
}
