//! Runs the entry points of fuzzers on any compiler, with stored and random inputs.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};

/// Random inputs for each target.
const RANDOM_INPUTS: u32 = 128;

/// Root of the repository.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The inputs of `fuzz/corpus/<target>`.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    let directory = root().join("fuzz/corpus").join(target);
    let files = fs::read_dir(&directory).expect("a corpus for each target");
    let read = |file: std::io::Result<fs::DirEntry>| fs::read(file?.path());
    let inputs: Vec<_> = files.map(|file| read(file).expect("readable")).collect();
    assert!(inputs.len() >= 5, "{}", directory.display());
    inputs
}

/// An input of the corpus with a few bytes changed, removed or added.
fn variations(corpus: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let change = (any::<prop::sample::Index>(), 0..4_usize, any::<Vec<u8>>());
    let changes = prop::collection::vec(change, 0..4);
    (prop::sample::select(corpus), changes).prop_map(|(mut input, changes)| {
        for (at, removed, mut added) in changes {
            added.truncate(8);
            let at = at.index(input.len() + 1);
            let end = input.len().min(at + removed);
            input.splice(at..end, added);
        }
        input
    })
}

/// Calls the entry point `target` with each stored input of the fuzzer `name` and with random ones.
///
/// # Panics
/// If an invariant is violated.
pub fn check_invariants(name: &str, target: impl Fn(&[u8])) {
    let corpus = corpus(name);
    for input in &corpus {
        target(input);
    }
    let input = prop_oneof![3 => variations(corpus), 1 => any::<Vec<u8>>()];
    let mut runner = TestRunner::new(Config::with_cases(RANDOM_INPUTS));
    let result = runner.run(&input, |input| {
        target(&input);
        Ok(())
    });
    if let Err(error) = result {
        panic!("{name}: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All Rust sources below `directory`.
    fn sources(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        let entries = entries.map(|entry| entry.unwrap().path());
        entries
            .flat_map(|path| match path.extension() {
                _ if path.is_dir() => sources(&path),
                Some(extension) if extension == "rs" => vec![fs::read_to_string(path).unwrap()],
                _ => Vec::new(),
            })
            .collect()
    }

    #[test]
    fn every_fuzz_target_runs_in_a_test() {
        let mut sources_of_all = sources(&root().join("src"));
        sources_of_all.extend(sources(&root().join("crates")));
        let targets = fs::read_dir(root().join("fuzz/fuzz_targets")).unwrap();
        let mut number = 0;
        for target in targets {
            let path = target.unwrap().path();
            let name = path.file_stem().unwrap().to_str().unwrap();
            let call = format!("check_invariants(\"{name}\"");
            assert!(
                sources_of_all.iter().any(|source| source.contains(&call)),
                "no test calls {call}, …)"
            );
            number += 1;
        }
        assert!(number > 0);
    }
}
