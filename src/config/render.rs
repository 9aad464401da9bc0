//! The configuration as text: the effective values, and the reference of all variables.

use std::fmt::Write as _;

use super::Config;
use super::load::Loaded;
use super::table::{DefaultValue, SECTIONS, VARIABLES, Variable};
use super::value_sources::ValueSource;
use crate::variable::{REFERENCE_HEAD, reference_row};

impl Loaded {
    /// The effective configuration as lines of an env file. A comment above each variable has its
    /// meaning, its default, and whether it is set. Secrets are masked.
    pub fn render(&self) -> String {
        let defaults = Config::default();
        let mut text = String::new();
        for variable in VARIABLES {
            let show = variable.field.show;
            let default = match variable.default {
                DefaultValue::FromConfig => show(&defaults),
                DefaultValue::Described(words) => words.to_owned(),
            };
            let source = match self.sources.of(variable.name) {
                None => format!("default: {default}"),
                Some(ValueSource::Variable) => format!("set; default: {default}"),
                Some(ValueSource::File) => format!("set by a file; default: {default}"),
            };
            let value = show(&self.config);
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "# {} [{source}]\n{}={value}",
                variable.doc, variable.name
            );
        }
        text
    }
}

/// The reference of all variables in Markdown: a heading and a table for each section.
pub fn reference() -> String {
    let defaults = Config::default();
    let mut text = String::new();
    for variable in VARIABLES {
        // Writing to a string cannot fail.
        if let Some((title, _)) = SECTIONS.iter().find(|(_, first)| *first == variable.name) {
            let gap = if text.is_empty() { "" } else { "\n" };
            let _ = write!(text, "{gap}### {title}\n\n{REFERENCE_HEAD}");
        }
        let file = variable.file_name().map_or_else(String::new, |name| {
            format!(" Secret; `{name}` may name a file with the value instead.")
        });
        text.push_str(&reference_row(
            &format!("`{}`", variable.name),
            &default_cell(variable, &defaults),
            variable.doc,
            &(variable.field.allowed)(),
            &file,
        ));
    }
    text
}

fn default_cell(variable: &Variable, defaults: &Config) -> String {
    match variable.default {
        // A space after each comma lets a long list break into lines.
        DefaultValue::FromConfig => {
            let text = (variable.field.show)(defaults);
            let items: Vec<_> = text.split(',').map(|item| format!("`{item}`")).collect();
            items.join(", ")
        }
        DefaultValue::Described(words) => words.to_owned(),
    }
}
