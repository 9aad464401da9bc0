//! Pages of the documentation that are generated from the code, as a whole or in part.
//!
//! With the environment variable `UPDATE_DOCS`, tests write them; without it, they compare.

use std::{env, fs, path::PathBuf};

const END: &str = "<!-- end of variables -->";

fn path(page: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(page)
}

/// Checks that the content of `page` is `text`; otherwise `UPDATE_DOCS=1 command` writes it.
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

/// Checks the part of `page` between two comments, of which the first one names `command`.
pub fn check_variables(page: &str, variables: &str, command: &str) {
    let begin = format!("<!-- variables: `UPDATE_DOCS=1 {command}` writes them -->\n");
    let text = fs::read_to_string(path(page)).unwrap();
    let (before, rest) = text.split_once(&begin).expect("the first comment");
    let (_, after) = rest.split_once(END).expect("the second comment");
    let current = format!("{before}{begin}\n{variables}\n{END}{after}");
    check(page, &current, command);
}
