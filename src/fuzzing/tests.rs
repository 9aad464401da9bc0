//! Every target, with the stored corpus and with random inputs.

use std::{fs, io, path::Path};

use proptest::prelude::*;

/// The inputs of `fuzz/corpus/<target>`.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target);
    let files = fs::read_dir(&directory).unwrap();
    let inputs: Vec<_> = files
        .map(|file| fs::read(file.unwrap().path()).unwrap())
        .collect();
    assert!(inputs.len() >= 5, "{}", directory.display());
    inputs
}

/// An input of the corpus with a few bytes changed, removed or added.
fn variations(target: &str) -> impl Strategy<Value = Vec<u8>> {
    let change = (any::<prop::sample::Index>(), 0..4_usize, any::<Vec<u8>>());
    let changes = prop::collection::vec(change, 0..4);
    (prop::sample::select(corpus(target)), changes).prop_map(|(mut input, changes)| {
        for (at, removed, mut added) in changes {
            added.truncate(8);
            let at = at.index(input.len() + 1);
            let end = input.len().min(at + removed);
            input.splice(at..end, added);
        }
        input
    })
}

macro_rules! targets {
    ($($target:ident),*) => {
        /// A new fuzz target must be listed here.
        #[test]
        fn every_fuzz_target_is_listed() {
            let listed = [$(concat!(stringify!($target), ".rs")),*];
            let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/fuzz_targets");
            let name = |file: io::Result<fs::DirEntry>| file.unwrap().file_name();
            let mut files: Vec<_> = fs::read_dir(directory).unwrap().map(name).collect();
            files.sort();
            assert_eq!(files, listed);
        }
    $(
        mod $target {
            use super::*;

            #[test]
            fn invariants_hold_for_the_corpus() {
                for input in corpus(stringify!($target)) {
                    super::super::$target(&input);
                }
            }

            proptest! {
                #![proptest_config(ProptestConfig::with_cases(128))]

                #[test]
                fn invariants_hold_for_random_inputs(
                    input in prop_oneof![
                        3 => variations(stringify!($target)),
                        1 => any::<Vec<u8>>(),
                    ],
                ) {
                    super::super::$target(&input);
                }
            }
        }
    )*
    };
}

targets!(
    autonat, config, dns, hop, noise, proxy, resources, wire, yamux
);
