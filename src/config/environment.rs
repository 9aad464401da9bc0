//! The pairs of an environment, sorted into what is ours and what is not.

use std::collections::BTreeMap;
use std::ffi::OsString;

use super::error::{VariableError, Warning};
use super::service_link::is_service_link;
use super::table::{FILE_SUFFIX, PREFIX, RENAMED_VARIABLES, TextHandling, VARIABLES, Variable};

/// How alike two names must be, from 0 to 1, for one to be suggested instead of the other.
const MIN_SIMILARITY: f64 = 0.6;

/// An environment; of pairs with the same name the last one counts.
#[derive(Default)]
pub(super) struct Environment {
    /// The texts of the variables that are set.
    pub(super) values: BTreeMap<&'static str, String>,
    /// The paths given for secrets, by the name of the secret's own variable.
    pub(super) files: BTreeMap<&'static str, String>,
    /// `HOSTNAME`, which shells and container runtimes set.
    pub(super) host_name: Option<String>,
    /// What cannot be meant.
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

    /// Adds a variable of our prefix; `rest` is its name without that.
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
        // The value is left out: it may be a secret, and cannot be shown as it is anyway.
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

    /// What is odd about the environment as such.
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

/// The variable of that name, or the one whose file is named by it (`true`).
fn find(name: &str) -> Option<(&'static Variable, bool)> {
    let by_name = |name: &str| VARIABLES.iter().find(|variable| variable.name == name);
    by_name(name).map(|variable| (variable, false)).or_else(|| {
        let variable = by_name(name.strip_suffix(FILE_SUFFIX)?)?;
        variable.is_secret().then_some((variable, true))
    })
}

/// The error about the old name of a renamed variable.
fn renamed(name: &str) -> Option<VariableError> {
    let (_, new) = RENAMED_VARIABLES.iter().find(|(old, _)| *old == name)?;
    Some(VariableError::new(
        name,
        format!("was renamed; set {new} instead"),
    ))
}

/// The value is not part of the error: it may be a secret under a mistyped name.
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
