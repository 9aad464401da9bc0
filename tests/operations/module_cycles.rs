//! Import cycles between the modules of a crate, at every level, are errors.

#![expect(clippy::unwrap_used, reason = "tests fail loudly")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use syn::{
    Attribute, ImplItemFn, ItemFn, ItemMod, ItemUse, UseTree,
    visit::{self, Visit},
};

/// The names of a module and its parents, from the crate root.
type ModulePath = Vec<String>;

/// The paths in a file, as written.
#[derive(Default)]
struct Paths(BTreeSet<Vec<String>>);

fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let is_cfg_test = attribute.path().is_ident("cfg")
            && attribute
                .parse_args::<syn::Path>()
                .is_ok_and(|condition| condition.is_ident("test"));
        is_cfg_test || attribute.path().is_ident("test")
    })
}

impl Paths {
    fn add_tree(&mut self, mut path: Vec<String>, tree: &UseTree) {
        match tree {
            UseTree::Path(part) => {
                path.push(part.ident.to_string());
                self.add_tree(path, &part.tree);
            }
            UseTree::Name(name) => {
                path.push(name.ident.to_string());
                self.0.insert(path);
            }
            UseTree::Rename(name) => {
                path.push(name.ident.to_string());
                self.0.insert(path);
            }
            UseTree::Glob(_) => {
                self.0.insert(path);
            }
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.add_tree(path.clone(), tree);
                }
            }
        }
    }
}

impl Visit<'_> for Paths {
    fn visit_item_mod(&mut self, module: &ItemMod) {
        if !is_test(&module.attrs) {
            visit::visit_item_mod(self, module);
        }
    }

    fn visit_item_fn(&mut self, function: &ItemFn) {
        if !is_test(&function.attrs) {
            visit::visit_item_fn(self, function);
        }
    }

    fn visit_impl_item_fn(&mut self, function: &ImplItemFn) {
        if !is_test(&function.attrs) {
            visit::visit_impl_item_fn(self, function);
        }
    }

    fn visit_item_use(&mut self, item: &ItemUse) {
        if !is_test(&item.attrs) {
            self.add_tree(Vec::new(), &item.tree);
        }
    }

    fn visit_path(&mut self, path: &syn::Path) {
        let names = path.segments.iter().map(|part| part.ident.to_string());
        self.0.insert(names.collect());
        visit::visit_path(self, path);
    }
}

/// The Rust files below `directory`, except for tests and fuzzing entry points.
fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap();
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| !matches!(stem(path), "tests" | "fuzzing"));
    let (directories, mut paths): (Vec<_>, Vec<_>) = paths.into_iter().partition(|p| p.is_dir());
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "rs"));
    paths.extend(directories.iter().flat_map(|path| files(path)));
    paths
}

fn stem(path: &Path) -> &str {
    path.file_stem().unwrap().to_str().unwrap()
}

/// The modules of the crate with sources in `root`, and the paths in each.
fn modules(root: &Path) -> BTreeMap<ModulePath, Paths> {
    let module = |file: PathBuf| {
        let source = fs::read_to_string(&file).unwrap();
        let mut paths = Paths::default();
        paths.visit_file(&syn::parse_file(&source).unwrap());
        let relative = file.strip_prefix(root).unwrap().with_extension("");
        let names = relative.iter().map(|name| name.to_str().unwrap());
        let is_root = |name: &&str| !matches!(*name, "lib" | "main");
        let names = names.filter(is_root).map(str::to_owned).collect();
        (names, paths)
    };
    files(root).into_iter().map(module).collect()
}

/// The module of `path` as seen from `module`, if it is one of `modules`.
fn target(
    modules: &BTreeMap<ModulePath, Paths>,
    module: &[String],
    path: &[String],
) -> Option<ModulePath> {
    let mut full = match path.first()?.as_str() {
        "crate" => Vec::new(),
        "self" | "super" => module.to_vec(),
        _ => return None,
    };
    for name in path {
        match name.as_str() {
            "crate" | "self" => {}
            "super" => {
                full.pop();
            }
            name => full.push(name.to_owned()),
        }
    }
    while !modules.contains_key(&full) {
        full.pop()?;
    }
    Some(full)
}

/// Children of `parent` that import each other in a cycle.
fn cycle(edges: &BTreeMap<String, BTreeSet<String>>) -> Option<BTreeSet<&String>> {
    // Repeatedly removes modules without imports of the remaining ones. A cycle is left over.
    let mut left: BTreeSet<_> = edges.keys().collect();
    loop {
        let free = left
            .iter()
            .find(|name| edges[**name].iter().all(|import| !left.contains(import)))
            .copied();
        match free {
            Some(name) => left.remove(name),
            None => break,
        };
    }
    (!left.is_empty()).then_some(left)
}

#[test]
fn modules_do_not_import_each_other_in_cycles() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let crates = fs::read_dir(root.join("crates")).unwrap();
    let mut sources: Vec<_> = crates
        .map(|entry| entry.unwrap().path().join("src"))
        .collect();
    sources.push(root.join("src"));
    let mut problems = Vec::new();
    for source in sources {
        let modules = modules(&source);
        // For each parent, its children and the siblings that each imports.
        let mut levels = BTreeMap::<ModulePath, BTreeMap<String, BTreeSet<String>>>::new();
        for (module, paths) in &modules {
            for (depth, name) in module.iter().enumerate() {
                let level = levels.entry(module[..depth].to_vec()).or_default();
                level.entry(name.clone()).or_default();
            }
            for target in paths
                .0
                .iter()
                .filter_map(|path| target(&modules, module, path))
            {
                let common = module
                    .iter()
                    .zip(&target)
                    .take_while(|(a, b)| a == b)
                    .count();
                if let (Some(from), Some(to)) = (module.get(common), target.get(common)) {
                    let level = levels.entry(module[..common].to_vec()).or_default();
                    level.entry(from.clone()).or_default().insert(to.clone());
                    level.entry(to.clone()).or_default();
                }
            }
        }
        for (parent, edges) in &levels {
            if let Some(cycle) = cycle(edges) {
                let source = source.strip_prefix(root).unwrap().display();
                problems.push(format!("{source} {}: {cycle:?}", parent.join("::")));
            }
        }
    }
    assert!(
        problems.is_empty(),
        "import cycles among:\n{}",
        problems.join("\n")
    );
}
