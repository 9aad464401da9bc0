//! Every command in a shell block of the documentation is executed here, is covered by a test or a CI
//! step, or is in a marked block:
//!
//! ````markdown
//! <!-- not run: needs a cluster -->
//! ```sh
//! kubectl get pods
//! ```
//! ````
//!
//! [`RULES`] defines the coverage, including commands that are not run anywhere. Settings in a block
//! (`RELAY_MAX_CIRCUITS=10`, with or without `export`) are checked by `descord-relay config`. Names of
//! steps, parts and subcommands in running text are checked as well.

#![expect(clippy::unwrap_used, reason = "tests fail loudly")]

use std::{
    fmt::Write as _,
    fs, iter,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use tempfile::TempDir;

const BINARY: &str = env!("CARGO_BIN_EXE_descord-relay");
const SEED: &str = "documented-commands-are-tested";

/// The coverage of a command.
#[derive(Clone, Copy)]
enum Coverage {
    /// Executed here, in a separate directory: see [`Sandbox`].
    Executed,
    /// A test with this name, in Rust or Python, covers the command.
    Test(&'static str),
    /// A step of `.ci/run`.
    Step(&'static str),
    /// A part of `.ci/long`.
    Part(&'static str),
    /// Not run, for this reason.
    NotRun(&'static str),
}

use Coverage::{Executed, NotRun, Part, Step, Test};

/// The first matching rule applies. Patterns are compared word by word; `*` stands for one word, and at
/// the end for any number of words. `sudo` and settings before a command are ignored.
const RULES: &[(&str, Coverage)] = &[
    // The relay and its subcommands.
    ("descord-relay", Test("a_relay_writes_no_file")),
    ("descord-relay probe *", Test("a_relay_works_over_tcp")),
    (
        "descord-relay dns",
        Test("every_record_is_answered_over_both_transports"),
    ),
    (
        "descord-relay dnsaddr --json *",
        Test("machines_read_the_same"),
    ),
    ("descord-relay status *", Test("the_status_can_be_printed")),
    (
        "descord-relay healthcheck *",
        Test("healthcheck_queries_the_relay_of_its_environment"),
    ),
    (
        "descord-relay log-filter *",
        Test("debug_comes_and_goes_without_a_restart"),
    ),
    ("descord-relay *", Executed),
    // Files and directories.
    ("export *", Executed),
    ("install *", Executed),
    ("mkdir *", Executed),
    ("chmod *", Executed),
    // Cargo and checks.
    (
        "cargo run -p circuit-relay --example *",
        Test("client_reserves_on_the_embedded_relay_and_is_dialled"),
    ),
    ("cargo run *", Step("tests")),
    ("cargo build --profile dist *", Part("image")),
    ("cargo build *", Step("tests")),
    (
        "cargo install --path .",
        NotRun("installs for the user; the image compiles the same"),
    ),
    ("cargo test --test denial_of_service *", Part("dos-64")),
    ("cargo test --release --test abuse *", Part("soak")),
    ("cargo test *", Step("tests")),
    ("cargo fmt *", Step("format")),
    ("cargo clippy *", Step("lints")),
    ("cargo doc *", Step("documentation")),
    ("cargo deny *", Step("dependencies")),
    ("cargo bench *", Step("tests")),
    ("cargo +nightly fuzz *", Part("fuzz")),
    // Containers.
    (
        "docker build *",
        Test("the_image_holds_the_binary_and_declares_how_to_run_it"),
    ),
    ("docker push *", NotRun("needs a registry")),
    ("docker run --rm descord-relay *", Executed),
    ("docker run *", Test("a_container_relays_over_tcp_and_quic")),
    (
        "docker logs *",
        Test("a_container_relays_over_tcp_and_quic"),
    ),
    (
        "docker compose *",
        Test("the_cluster_works_from_its_name_to_the_last_byte"),
    ),
    (
        "deploy/compose/rolling-upgrade *",
        Test("an_upgrade_fails_no_request_and_cuts_no_circuit"),
    ),
    // Kubernetes. Options of Helm are checked.
    ("helm install *", Test("test_helm_takes_documented_options")),
    ("helm upgrade *", Test("test_helm_takes_documented_options")),
    (
        "helm -n * install *",
        Test("test_helm_takes_documented_options"),
    ),
    (
        "helm -n * upgrade *",
        Test("test_helm_takes_documented_options"),
    ),
    ("helm *", NotRun("needs a cluster")),
    ("kubectl *", NotRun("needs a cluster")),
    // Hosts.
    (
        "systemctl *",
        NotRun("needs systemd as the first process; the unit has tests"),
    ),
    (
        "journalctl *",
        NotRun("needs systemd as the first process; the unit has tests"),
    ),
    (
        "dig *",
        Test("every_record_is_answered_over_both_transports"),
    ),
    ("curl *", Test("status_has_identity_and_limits")),
    // The js client.
    (
        "node peer.mjs *",
        Test("the_documented_client_returns_to_a_restarted_relay"),
    ),
    (
        "npm install *",
        Test("documented_packages_are_those_that_are_tested"),
    ),
];

fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Files in the directory with one of the extensions, recursively.
fn files(directory: &Path, extensions: &[&str], found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() {
            if !["target", "node_modules", ".git"].contains(&&*name) {
                files(&path, extensions, found);
            }
        } else if path
            .extension()
            .is_some_and(|found| extensions.iter().any(|wanted| found == *wanted))
        {
            found.push(path);
        }
    }
    found.sort();
}

/// A fenced block of shell commands.
struct Block {
    /// File and line of the fence.
    place: String,
    /// Whether a comment before the block explains why it is not run.
    is_marked: bool,
    /// The commands, one per line, without comments.
    commands: Vec<String>,
}

/// The shell blocks of a document, and its code spans.
fn read(name: &str, text: &str) -> (Vec<Block>, Vec<(String, String)>) {
    let (mut blocks, mut spans) = (Vec::new(), Vec::new());
    let mut lines = text.lines().enumerate();
    let mut before = "";
    while let Some((number, line)) = lines.next() {
        let Some(fence) = line.trim_start().strip_prefix("```") else {
            spans.extend(
                line.split('`')
                    .skip(1)
                    .step_by(2)
                    .map(|span| (format!("{name}:{}", number + 1), span.to_owned())),
            );
            if !line.trim().is_empty() {
                before = line.trim();
            }
            continue;
        };
        let language = fence.trim_start_matches('`').split_whitespace().next();
        let end = |line: &str| line.trim_start().starts_with("```");
        let inside = iter::from_fn(|| lines.next().map(|(_, line)| line).filter(|line| !end(line)));
        let inside: Vec<_> = inside.collect();
        if let Some(language @ ("sh" | "bash" | "shell" | "console")) = language {
            let reason = before
                .strip_prefix("<!-- not run:")
                .and_then(|rest| rest.strip_suffix("-->"));
            blocks.push(Block {
                place: format!("{name}:{}", number + 1),
                is_marked: reason.is_some_and(|reason| !reason.trim().is_empty()),
                commands: commands(&inside, language == "console"),
            });
        }
        before = "```";
    }
    (blocks, spans)
}

/// Joins continued lines and removes comments. In a console session, also removes the output.
fn commands(lines: &[&str], is_session: bool) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut is_continued = false;
    for line in lines {
        let mut line = line.trim();
        if is_session && !is_continued {
            let Some(command) = line.strip_prefix("$ ") else {
                continue;
            };
            line = command;
        }
        let line = without_comment(line);
        let (line, continues) = match line.strip_suffix('\\') {
            Some(line) => (line.trim_end(), true),
            None => (line, line.ends_with(['|']) || line.ends_with("&&")),
        };
        match found.last_mut().filter(|_| is_continued) {
            Some(command) => write!(command, " {line}").unwrap(),
            None if line.is_empty() => {}
            None => found.push(line.to_owned()),
        }
        is_continued = continues;
    }
    found
}

/// The line up to a `#` that starts a comment.
fn without_comment(line: &str) -> &str {
    let mut quote = None;
    let mut previous = ' ';
    for (at, character) in line.char_indices() {
        match (quote, character) {
            (None, '#') if previous.is_whitespace() => return line[..at].trim_end(),
            (None, '"' | '\'') => quote = Some(character),
            (Some(open), _) if open == character => quote = None,
            _ => {}
        }
        previous = character;
    }
    line
}

/// Whether the word sets a variable.
fn is_setting(word: &str) -> bool {
    let name = word.split_once('=').map(|(name, _)| name);
    name.is_some_and(|name| {
        !name.is_empty()
            && name
                .chars()
                .all(|c| c == '_' || c.is_ascii_uppercase() || c.is_ascii_digit())
    })
}

/// The coverage of the command. Settings alone are executed.
fn coverage(command: &str) -> Option<Coverage> {
    let words = command.split_whitespace();
    let words: Vec<_> = words
        .skip_while(|word| *word == "sudo" || is_setting(word))
        .collect();
    if words.is_empty() {
        return Some(Executed);
    }
    let matches = |pattern: &str| {
        let pattern: Vec<_> = pattern.split(' ').collect();
        let (fixed, rest) = match pattern.split_last() {
            Some((&"*", fixed)) => (fixed, true),
            _ => (&pattern[..], false),
        };
        (words.len() == fixed.len() || rest && words.len() > fixed.len())
            && iter::zip(fixed, &words).all(|(wanted, word)| *wanted == "*" || wanted == word)
    };
    let rule = RULES.iter().find(|(pattern, _)| matches(pattern));
    rule.map(|(_, coverage)| *coverage)
}

/// A directory in which documented commands are executed. It contains the host's paths and the files that
/// the documents use. `sudo` has no effect, and `descord-relay`, also as an image, is the binary under
/// test.
struct Sandbox {
    directory: TempDir,
    peer_id: String,
}

impl Sandbox {
    const PATHS: [&str; 4] = [
        "/run/secrets",
        "/etc/descord-relay",
        "/etc/systemd/system",
        "/usr/local/bin",
    ];

    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let root = directory.path();
        for path in Self::PATHS.into_iter().chain([
            "/bin",
            "/project/target/dist",
            "/project/target/release",
        ]) {
            fs::create_dir_all(root.join(&path[1..])).unwrap();
        }
        for place in [
            "bin/descord-relay",
            "project/target/dist/descord-relay",
            "project/target/release/descord-relay",
        ] {
            symlink(BINARY, root.join(place)).unwrap();
        }
        symlink(project().join("deploy"), root.join("project/deploy")).unwrap();
        symlink("/usr/bin/env", root.join("bin/sudo")).unwrap();
        let docker = root.join("bin/docker");
        fs::write(&docker, "#!/bin/sh\nshift 3\nexec descord-relay \"$@\"\n").unwrap();
        fs::set_permissions(&docker, fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(root.join("run/secrets/seed"), SEED).unwrap();
        fs::write(root.join("run/secrets/access-token"), "token").unwrap();
        let swarm_key = format!("/key/swarm/psk/1.0.0/\n/base16/\n{}\n", "5a".repeat(32));
        fs::write(root.join("run/secrets/swarm.key"), swarm_key).unwrap();
        fs::write(root.join("etc/descord-relay/access.rules"), "").unwrap();
        let mut sandbox = Self {
            directory,
            peer_id: String::new(),
        };
        let printed = sandbox.run(&format!(
            "RELAY_IDENTITY_SEED={SEED} descord-relay identity"
        ));
        assert!(printed.status.success(), "{printed:?}");
        let peer_id = String::from_utf8(printed.stdout).unwrap();
        sandbox.peer_id.push_str(peer_id.trim());
        sandbox
    }

    fn run(&self, script: &str) -> Output {
        let root = self.directory.path().to_str().unwrap();
        let mut script = script.replace("12D3KooW…", &self.peer_id);
        for path in Self::PATHS {
            script = script.replace(path, &format!("{root}{path}"));
        }
        Command::new("sh")
            .args(["-euc", &script])
            .current_dir(self.directory.path().join("project"))
            .env_clear()
            .env("PATH", format!("{root}/bin:/usr/bin:/bin"))
            .env("HOSTNAME", "relay-0")
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// Executes the commands of a block one after the other, and then checks their settings.
    fn execute(&self, commands: &[&str]) -> Result<(), String> {
        let has_settings = commands.iter().any(|command| {
            let command = command.strip_prefix("export ").unwrap_or(command);
            command.split_whitespace().all(is_setting) || command.contains("$(")
        });
        let check = if has_settings {
            "descord-relay config"
        } else {
            ""
        };
        let script = format!("set -a\n{}\n{check}", commands.join("\n"));
        let output = self.run(&script);
        if output.status.success() {
            return Ok(());
        }
        Err(format!(
            "{}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        ))
    }
}

/// The first words of the output lines of a CI script.
fn names(script: &str, arguments: &[&str]) -> Vec<String> {
    let output = Command::new(project().join(script))
        .args(arguments)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned)
        .collect()
}

/// The existing steps, parts, subcommands and tests.
struct Known {
    steps: Vec<String>,
    parts: Vec<String>,
    help: String,
    tests: String,
}

impl Known {
    fn new() -> Self {
        let mut sources = Vec::new();
        for directory in ["tests", "src", "crates", "benches"] {
            files(&project().join(directory), &["rs", "py"], &mut sources);
        }
        let help = Command::new(BINARY).arg("--help").output().unwrap();
        Self {
            steps: names(".ci/run", &["--list"]),
            parts: names(".ci/long", &[]),
            help: String::from_utf8(help.stdout).unwrap(),
            tests: sources
                .iter()
                .map(|path| fs::read_to_string(path).unwrap())
                .collect(),
        }
    }

    /// Whether the reference of the rule exists.
    fn has(&self, coverage: Coverage) -> bool {
        match coverage {
            Executed => true,
            NotRun(reason) => !reason.is_empty(),
            Step(name) => self.steps.iter().any(|step| step == name),
            Part(name) => self.parts.iter().any(|part| part == name),
            Test(name) => ["fn", "def"]
                .iter()
                .any(|word| self.tests.contains(&format!("{word} {name}("))),
        }
    }

    /// The unknown name in this code span, if any.
    fn unknown<'a>(&self, span: &'a str) -> Option<&'a str> {
        let is_name = |word: &&str| {
            word.chars()
                .all(|c| c == '-' || c.is_ascii_lowercase() || c.is_ascii_digit())
        };
        let words: Vec<_> = span.split_whitespace().collect();
        let missing = |known: &[String], words: &[&'a str]| {
            let mut words = words
                .iter()
                .copied()
                .filter(is_name)
                .filter(|word| !word.starts_with('-'));
            words.find(|word| !known.iter().any(|name| name == word))
        };
        match words.as_slice() {
            [".ci/run", words @ ..] => missing(&self.steps, words),
            [".ci/long", words @ ..] => missing(&self.parts, words),
            ["descord-relay", word, ..] => {
                let command = Some(*word)
                    .filter(is_name)
                    .filter(|word| !word.starts_with('-'));
                command.filter(|word| !self.help.contains(&format!("\n  {word} ")))
            }
            _ => None,
        }
    }
}

#[test]
fn documented_commands_are_tested() {
    let (known, sandbox) = (Known::new(), Sandbox::new());
    let mut problems: Vec<String> = Vec::new();
    for (pattern, coverage) in RULES {
        if !known.has(*coverage) {
            problems.push(format!(
                "the rule for `{pattern}` refers to a test, step or part that does not exist"
            ));
        }
    }
    let mut documents = Vec::new();
    files(project(), &["md"], &mut documents);
    let mut blocks_found = 0;
    for document in documents {
        let name = document
            .strip_prefix(project())
            .unwrap()
            .display()
            .to_string();
        let (blocks, spans) = read(&name, &fs::read_to_string(&document).unwrap());
        for (place, span) in &spans {
            if let Some(word) = known.unknown(span) {
                problems.push(format!("{place}: `{span}`: there is no `{word}`"));
            }
        }
        blocks_found += blocks.len();
        for block in blocks.iter().filter(|block| !block.is_marked) {
            let mut executed = Vec::new();
            for command in &block.commands {
                match coverage(command) {
                    Some(Executed) => executed.push(command.as_str()),
                    Some(_) => {}
                    None => problems.push(format!(
                        "{}: no rule for `{command}`. Add it to RULES in {}, as executed or with the test that \
                         covers it; or write `<!-- not run: REASON -->` before the block.",
                        block.place,
                        file!()
                    )),
                }
            }
            if let Err(error) = sandbox.execute(&executed) {
                problems.push(format!("{}: {error}", block.place));
            }
        }
    }
    assert!(blocks_found > 10, "{blocks_found}");
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

#[test]
fn shell_blocks_are_parsed() {
    let text = "\
`.ci/run lints` and `.ci/run nothing`

<!-- not run: needs a cluster -->
```sh
kubectl get pods
```

```sh
# a comment
A=1 one two \\
  --three '# no comment'    # a comment
four |
  five
```

```console
$ six
output
```

```text
seven
```
";
    let (blocks, spans) = read("a.md", text);
    let found: Vec<_> = blocks
        .iter()
        .map(|block| (&*block.place, block.is_marked, block.commands.join("; ")))
        .collect();
    assert_eq!(
        found,
        [
            ("a.md:4", true, "kubectl get pods".to_owned()),
            (
                "a.md:8",
                false,
                "A=1 one two --three '# no comment'; four | five".to_owned()
            ),
            ("a.md:16", false, "six".to_owned()),
        ]
    );
    assert_eq!(spans.len(), 2);
    assert!(
        coverage("sudo RELAY_X=1 descord-relay identity")
            .is_some_and(|found| matches!(found, Executed))
    );
    assert!(coverage("A=1 B=2").is_some_and(|found| matches!(found, Executed)));
    assert!(coverage("descord-relay").is_some_and(|found| matches!(found, Test(_))));
    assert!(coverage("rm -r secrets").is_none());
    let known = Known::new();
    assert_eq!(known.unknown(".ci/run lints"), None);
    assert_eq!(known.unknown(".ci/run nothing"), Some("nothing"));
    assert_eq!(known.unknown("descord-relay config --reference"), None);
    assert_eq!(known.unknown("descord-relay nothing"), Some("nothing"));
    assert!(!known.has(Test("no_such_test")));
    // Invalid settings and failing commands are errors.
    let sandbox = Sandbox::new();
    assert!(sandbox.execute(&["RELAY_MAX_CIRCUITS=10"]).is_ok());
    let error = sandbox.execute(&["RELAY_MAX_CIRCUITS=many"]).unwrap_err();
    assert!(error.contains("RELAY_MAX_CIRCUITS"), "{error}");
    assert!(
        sandbox
            .execute(&["descord-relay identity --no-such-option"])
            .is_err()
    );
}
