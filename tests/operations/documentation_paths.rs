//! Paths in the documentation: files in `ARCHITECTURE.md` and the design pages exist, and so do the
//! targets of all relative links.

#![expect(clippy::unwrap_used, reason = "tests fail loudly")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Directories whose documents have checked links, in addition to the root.
const DOCUMENTED: [&str; 3] = ["docs", "helm/descord-relay", "observability"];

/// Prefixes of code spans that are paths of this repository.
const PATH_STARTS: [&str; 12] = [
    ".cargo/",
    ".ci/",
    ".github/",
    "benches/",
    "crates/",
    "deploy/",
    "docs/",
    "fuzz/",
    "helm/",
    "observability/",
    "src/",
    "tests/",
];

/// Markdown files in `directory`, and in its subdirectories if `recursive`.
fn documents(directory: &Path, recursive: bool, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && recursive {
            documents(&path, recursive, found);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            found.push(path);
        }
    }
}

/// The text outside of code blocks.
fn prose(text: &str) -> String {
    let mut is_code = false;
    let lines = text.lines().filter(|line| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Expands the first `{a,b}` of a path.
fn expand(path: &str) -> Vec<String> {
    let Some((before, rest)) = path.split_once('{') else {
        return vec![path.to_owned()];
    };
    let (names, after) = rest.split_once('}').unwrap();
    let names = names.split(',').map(str::trim);
    names.map(|name| format!("{before}{name}{after}")).collect()
}

/// The repository paths in code spans.
fn named_paths(text: &str) -> BTreeSet<String> {
    let text = prose(text);
    let quoted = text.split('`').skip(1).step_by(2);
    let is_path = |text: &&str| {
        PATH_STARTS.iter().any(|start| text.starts_with(start))
            && !text.contains(|c: char| c.is_whitespace() || "*…<$".contains(c))
    };
    quoted.filter(is_path).flat_map(expand).collect()
}

/// The anchor of a heading, as code hosting sites derive it.
fn anchor(heading: &str) -> String {
    let kept = heading
        .trim()
        .chars()
        .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

fn has_anchor(text: &str, wanted: &str) -> bool {
    let text = prose(text);
    let headings = text.lines().filter_map(|line| {
        let heading = line.trim_start_matches('#');
        (heading.len() < line.len()).then_some(heading)
    });
    headings.map(anchor).any(|found| found == wanted)
}

/// Why the relative link `target` of a document is broken.
fn broken(document: &Path, target: &str) -> Option<&'static str> {
    if target.contains("://") || target.starts_with("mailto:") {
        return None;
    }
    let (file, wanted) = target.split_once('#').unwrap_or((target, ""));
    let file = match file {
        "" => document.to_owned(),
        file => document.parent().unwrap().join(file),
    };
    if !file.exists() {
        return Some("no such file");
    }
    if wanted.is_empty() || has_anchor(&fs::read_to_string(file).unwrap(), wanted) {
        return None;
    }
    Some("no such heading")
}

/// `cargo test --test operations documentation_paths`
#[test]
fn paths_in_architecture_and_design_pages_exist() {
    let root = Path::new(ROOT);
    let mut pages = vec![root.join("ARCHITECTURE.md"), root.join("CONTRIBUTING.md")];
    documents(&root.join("docs/design"), true, &mut pages);
    let mut missing = BTreeSet::new();
    for page in pages {
        let name = page.strip_prefix(root).unwrap().display();
        for path in named_paths(&fs::read_to_string(&page).unwrap()) {
            if !root.join(&path).exists() {
                missing.insert(format!("{name}: {path}"));
            }
        }
    }
    assert!(missing.is_empty(), "no such files: {missing:#?}");
}

#[test]
fn relative_links_of_documents_have_targets() {
    let root = Path::new(ROOT);
    let mut pages = Vec::new();
    documents(root, false, &mut pages);
    for directory in DOCUMENTED {
        documents(&root.join(directory), true, &mut pages);
    }
    let mut dead = BTreeSet::new();
    for page in pages {
        let name = page.strip_prefix(root).unwrap().display();
        let text = prose(&fs::read_to_string(&page).unwrap());
        for rest in text.split("](").skip(1) {
            let target = rest.split([')', ' ']).next().unwrap_or_default();
            if let Some(problem) = broken(&page, target) {
                dead.insert(format!("{name}: {target}: {problem}"));
            }
        }
    }
    assert!(dead.is_empty(), "broken links: {dead:#?}");
}

#[test]
fn braces_in_paths_are_expanded() {
    let text = "`src/{a,b}.rs`, `not a path`, `src/*.rs`\n```\n`src/code.rs`\n```\n`src/c.rs`";
    let paths: Vec<_> = named_paths(text).into_iter().collect();
    assert_eq!(paths, ["src/a.rs", "src/b.rs", "src/c.rs"]);
    assert_eq!(anchor(" Dials by `AutoNAT`, v2"), "dials-by-autonat-v2");
}
