//! Documentation pages that are generated from the code, entirely or in part.
//!
//! Tests compare the pages, or write them if the environment variable `UPDATE_DOCS` is set.

use std::{env, fs, path::PathBuf};

const END: &str = "<!-- end of variables -->";

fn path(page: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(page)
}

/// Asserts that `page` consists of `text`. `UPDATE_DOCS=1 command` updates it.
pub fn check(page: &str, text: &str, command: &str) {
    if env::var_os("UPDATE_DOCS").is_some() {
        fs::write(path(page), text).unwrap();
    }
    let written = fs::read_to_string(path(page)).unwrap_or_default();
    assert!(
        written == text,
        "{page} is out of date; `UPDATE_DOCS=1 {command}` writes it"
    );
}

/// Asserts the part of `page` between two comments. The first one contains `command`.
pub fn check_variables(page: &str, variables: &str, command: &str) {
    let begin = format!("<!-- variables: `UPDATE_DOCS=1 {command}` writes them -->\n");
    let text = fs::read_to_string(path(page)).unwrap();
    let (before, rest) = text.split_once(&begin).expect("the first comment");
    let (_, after) = rest.split_once(END).expect("the second comment");
    let current = format!("{before}{begin}\n{variables}\n{END}{after}");
    check(page, &current, command);
}
