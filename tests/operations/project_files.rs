//! Consistency of CI steps, recipes, workflows and versions.

#![expect(clippy::unwrap_used, reason = "tests fail loudly")]

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::{Command, Output},
};

use serde_json::Value;

fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn text(name: &str) -> String {
    fs::read_to_string(project().join(name)).unwrap()
}

fn run(script: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(project().join(script));
    command.args(arguments).output().unwrap()
}

/// The steps of `.ci/run` or the parts of `.ci/long`, with their descriptions.
fn listed(script: &str, arguments: &[&str]) -> BTreeMap<String, String> {
    let output = run(script, arguments);
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let pairs = text.lines().filter_map(|line| line.split_once(' '));
    let named = pairs.map(|(name, does)| (name.to_owned(), does.trim().to_owned()));
    named.collect()
}

#[test]
fn each_step_has_a_recipe_of_its_name() {
    let mut recipes = BTreeMap::new();
    let justfile = text("justfile");
    let lines: Vec<_> = justfile.lines().collect();
    for lines in lines.windows(3) {
        let [comment, name, body] = lines else {
            continue;
        };
        let (Some(comment), Some(name)) = (comment.strip_prefix("# "), name.strip_suffix(':'))
        else {
            continue;
        };
        if let Some(step) = body.strip_prefix("    .ci/run ") {
            assert_eq!(step, name, "the recipe runs another step");
            let does = comment.trim_end_matches('.');
            recipes.insert(name.to_owned(), does[..1].to_lowercase() + &does[1..]);
        }
    }
    assert_eq!(recipes, listed(".ci/run", &["--list"]));
}

#[test]
fn workflows_run_existing_steps_and_pinned_actions() {
    let (steps, parts) = (listed(".ci/run", &["--list"]), listed(".ci/long", &[]));
    let mut found = 0;
    for entry in fs::read_dir(project().join(".github/workflows")).unwrap() {
        let path = entry.unwrap().path();
        let workflow = fs::read_to_string(&path).unwrap();
        for line in workflow.lines() {
            for (script, known) in [(".ci/run ", &steps), (".ci/long ", &parts)] {
                let words = line.split_once(script).map(|(_, words)| words);
                for word in words.unwrap_or_default().split_whitespace() {
                    found += 1;
                    assert!(known.contains_key(word), "{}: {line}", path.display());
                }
            }
            // A tag can be moved to other code, a commit cannot.
            let action = line.split_once("uses: ").map(|(_, action)| action);
            if let Some(action) = action.filter(|action| !action.starts_with("./")) {
                found += 1;
                let (_, version) = action.split_once('@').unwrap();
                let (commit, comment) = version.split_once(" # v").unwrap_or_default();
                let is_commit = commit.len() == 40 && commit.chars().all(|c| c.is_ascii_hexdigit());
                assert!(
                    is_commit && !comment.is_empty(),
                    "{}: {line}",
                    path.display()
                );
            }
        }
    }
    assert!(found > 10, "{found}");
}

#[test]
fn versions_agree_and_a_release_has_their_tag() {
    let agree = run(".ci/release", &["check"]);
    assert!(agree.status.success(), "{agree:?}");
    let other = run(".ci/release", &["check", "v99.0.0"]);
    assert_eq!(other.status.code(), Some(1));
    let error = String::from_utf8(other.stderr).unwrap();
    let version = env!("CARGO_PKG_VERSION");
    assert!(
        error.contains(&format!("the tag is 'v99.0.0'; expected 'v{version}'")),
        "{error}"
    );
    let notes = run(".ci/release", &["notes", version]);
    assert!(notes.status.success(), "{notes:?}");
    assert!(!String::from_utf8(notes.stdout).unwrap().trim().is_empty());
    assert!(!run(".ci/release", &["notes", "99.0.0"]).status.success());
}

/// `.ci/long msrv` compiles with the oldest supported compiler. This test only checks metadata.
#[test]
fn dependencies_support_the_oldest_compiler() {
    let metadata = Command::new(env!("CARGO"))
        .args(["metadata", "--locked", "--format-version=1"])
        .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
        .current_dir(project())
        .output()
        .unwrap();
    assert!(metadata.status.success(), "{metadata:?}");
    let metadata: Value = serde_json::from_slice(&metadata.stdout).unwrap();
    let parse = |version: &str| -> Vec<u32> {
        version
            .split('.')
            .map(|part| part.parse().unwrap())
            .collect()
    };
    let oldest = parse(env!("CARGO_PKG_RUST_VERSION"));
    let packages = metadata["packages"].as_array().unwrap();
    assert!(packages.len() > 100);
    for package in packages {
        if let Some(needed) = package["rust_version"].as_str() {
            let fits = parse(needed)[..2] <= oldest[..2];
            assert!(
                fits,
                "{} needs Rust {needed}, more than rust-version in Cargo.toml",
                package["id"]
            );
        }
    }
}
