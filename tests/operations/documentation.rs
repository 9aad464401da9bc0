//! The user documentation only contains messages and variables that exist.

#![expect(clippy::unwrap_used, reason = "tests fail loudly")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use descord_relay::config::reference;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Variables in the documentation that Kubernetes injects.
const SERVICE_LINKS: [&str; 2] = ["RELAY_PORT", "RELAY_SERVICE_HOST"];

fn files(directory: &Path, extension: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, extension, found);
        } else if path.extension().is_some_and(|found| found == extension) {
            found.push(path);
        }
    }
}

/// The text of all sources, with line breaks in string literals removed.
fn sources() -> String {
    let mut paths = Vec::new();
    for directory in ["src", "crates"] {
        files(&Path::new(ROOT).join(directory), "rs", &mut paths);
    }
    let texts = paths.iter().map(|path| fs::read_to_string(path).unwrap());
    let lines = texts.collect::<String>().replace("\\\n", "\n");
    lines.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// In the documentation, a message is quoted inside backticks, and `…` stands for a value.
#[test]
fn every_message_in_the_troubleshooting_page_exists() {
    let page = fs::read_to_string(Path::new(ROOT).join("docs/troubleshooting.md")).unwrap();
    let is_message = |text: &&str| text.starts_with('"') && text.ends_with('"');
    let messages: Vec<_> = page.split('`').filter(is_message).collect();
    assert!(messages.len() > 20, "{messages:?}");
    let sources = sources();
    for message in messages {
        let parts = message.trim_matches('"').split('…').map(str::trim);
        for part in parts {
            assert!(sources.contains(part), "no message contains: {part}");
        }
    }
}

#[test]
fn every_variable_in_the_documentation_exists() {
    let mut pages = vec![
        Path::new(ROOT).join("README.md"),
        Path::new(ROOT).join("helm/descord-relay/README.md"),
        Path::new(ROOT).join("observability/README.md"),
    ];
    let top = fs::read_dir(Path::new(ROOT).join("docs")).unwrap();
    let top = top.map(|entry| entry.unwrap().path());
    pages.extend(top.filter(|path| path.extension().is_some_and(|found| found == "md")));
    let reference = reference();
    let known: BTreeSet<_> = names(&reference).chain(SERVICE_LINKS).collect();
    for page in pages {
        let text = fs::read_to_string(&page).unwrap();
        for name in names(&text) {
            assert!(known.contains(name), "{}: {name}", page.display());
        }
    }
}

/// The relay's variables in `text`, without prefixes such as `RELAY_RATE_`, and without variables of
/// tests.
fn names(text: &str) -> impl Iterator<Item = &str> {
    let is_part_of_name = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    text.split(move |c: char| !is_part_of_name(c))
        .filter(|word| word.starts_with("RELAY_") && !word.ends_with('_'))
        .filter(|word| !word.starts_with("RELAY_TEST_"))
}
