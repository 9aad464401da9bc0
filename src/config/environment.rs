//! The pairs of an environment, sorted into known variables, errors and ignored ones.

use std::collections::BTreeMap;
use std::ffi::OsString;

use super::error::{VariableError, Warning};
use super::service_link::is_service_link;
use super::table::{FILE_SUFFIX, PREFIX, RENAMED_VARIABLES, TextHandling, VARIABLES, Variable};

/// Minimum similarity of two names, from 0 to 1, for one to be suggested instead of the other.
const MIN_SIMILARITY: f64 = 0.6;

/// An environment. Of pairs with the same name, the last one takes effect.
#[derive(Default)]
pub(super) struct Environment {
    /// The texts of the variables that are set.
    pub(super) values: BTreeMap<&'static str, String>,
    /// The paths of secret files, by the name of the secret's own variable.
    pub(super) files: BTreeMap<&'static str, String>,
    /// `HOSTNAME`, which shells and container runtimes set.
    pub(super) host_name: Option<String>,
    /// Names that are unknown, and values that are not text.
    pub(super) errors: Vec<VariableError>,
    /// Names of variables that Kubernetes injected.
    service_links: Vec<String>,
}

impl Environment {
    pub(super) fn from_pairs<K, V>(pairs: impl IntoIterator<Item = (K, V)>) -> Self
    where
        K: Into<OsString>,
        V: Into<OsString>,
    {
        let pairs: BTreeMap<OsString, OsString> = pairs
            .into_iter()
            .map(|(name, value)| (name.into(), value.into()))
            .collect();
        let mut environment = Self::default();
        for (name, value) in pairs {
            let name = name.to_string_lossy();
            if name == "HOSTNAME" {
                environment.host_name = value.into_string().ok();
            } else if let Some(rest) = name.strip_prefix(PREFIX) {
                environment.add(&name, rest, value);
            }
        }
        environment
    }

    /// Adds a variable with our prefix; `rest` is its name without the prefix.
    fn add(&mut self, name: &str, rest: &str, value: OsString) {
        let (variable, is_file) = match find(name) {
            Some(found) => found,
            None if is_service_link(rest, &value.to_string_lossy()) => {
                return self.service_links.push(name.to_owned());
            }
            None => {
                return self
                    .errors
                    .push(renamed(name).unwrap_or_else(|| unknown(name, rest)));
            }
        };
        // Without the value: it may be a secret, and is not printable.
        let Ok(value) = value.into_string() else {
            return self
                .errors
                .push(VariableError::new(name, "the value is not valid UTF-8"));
        };
        let text = match variable.handling {
            TextHandling::Secret if !is_file => value.trim_end_matches(['\r', '\n']),
            _ => value.trim(),
        };
        if text.is_empty() && variable.handling != TextHandling::EmptyIsValue {
            return;
        }
        let texts = if is_file {
            &mut self.files
        } else {
            &mut self.values
        };
        texts.insert(variable.name, text.to_owned());
    }

    /// Warnings about the environment as a whole.
    pub(super) fn warnings(&self) -> Vec<Warning> {
        if self.service_links.is_empty() {
            return Vec::new();
        }
        vec![Warning::new(format!(
            "ignoring variables that Kubernetes sets for services whose names start with `relay`; \
             `enableServiceLinks: false` in the pod's spec keeps them away: {}",
            self.service_links.join(", ")
        ))]
    }
}

/// The variable of that name, and whether the name is that of its file.
fn find(name: &str) -> Option<(&'static Variable, bool)> {
    let by_name = |name: &str| VARIABLES.iter().find(|variable| variable.name == name);
    by_name(name).map(|variable| (variable, false)).or_else(|| {
        let variable = by_name(name.strip_suffix(FILE_SUFFIX)?)?;
        variable.is_secret().then_some((variable, true))
    })
}

/// The error about the old name of a renamed variable, if it is one.
fn renamed(name: &str) -> Option<VariableError> {
    let (_, new) = RENAMED_VARIABLES.iter().find(|(old, _)| *old == name)?;
    Some(VariableError::new(
        name,
        format!("was renamed; set {new} instead"),
    ))
}

/// The error does not contain the value, which may be a secret under a mistyped name.
fn unknown(name: &str, rest: &str) -> VariableError {
    let known = VARIABLES.iter().flat_map(|variable| {
        [Some(variable.name.to_owned()), variable.file_name()]
            .into_iter()
            .flatten()
    });
    let closest = known
        .map(|known| {
            let bare = known.strip_prefix(PREFIX).unwrap_or(&known);
            (strsim::normalized_damerau_levenshtein(rest, bare), known)
        })
        .filter(|(alike, _)| *alike >= MIN_SIMILARITY)
        .max_by(|(a, _), (b, _)| a.total_cmp(b));
    let hint = closest.map_or_else(
        || "`descord-relay config --reference` lists all variables".to_owned(),
        |(_, known)| format!("did you mean {known}?"),
    );
    VariableError::new(name, format!("there is no such variable; {hint}"))
}
