//! `docs/command-line.md` is what `--help` prints. `UPDATE_DOCS=1` writes it.

#![expect(clippy::unwrap_used, reason = "tests fail loudly")]

use std::{fmt::Write as _, fs, path::Path, process::Command};

const INTRODUCTION: &str = "# Command line

The text of `--help` for each command. `descord-relay completions SHELL` prints completions for a shell,
`descord-relay man` the man page, and `descord-relay man --to DIRECTORY` writes the man pages of all commands.

| exit code | meaning |
|---|---|
| 0 | success |
| 1 | failure; the message is on standard error or in the log |
| 64 | invalid arguments or an invalid configuration; all errors are on standard error |
| 141 | the reader closed standard output |

In a terminal, `status` and `probe` print text with colours; otherwise, or with `--json`, they print JSON.
`NO_COLOR=1` disables colours. The log has the format in `RELAY_LOG_FORMAT`.

Ctrl-C ends the relay at once if it runs in a terminal and no peer is connected. With a peer it drains, as
after SIGTERM; a second signal ends the drain.
";

/// The help of a command, without the colours of a terminal.
fn help(words: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_descord-relay"))
        .env_clear()
        .args(words)
        .arg("--help")
        .output()
        .unwrap();
    assert!(output.status.success(), "{words:?}: {output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<_> = text.lines().map(str::trim_end).collect();
    lines.join("\n")
}

/// The names of the commands below one, from its help.
fn commands(help: &str) -> Vec<&str> {
    let below = help.split("\nCommands:\n").nth(1).unwrap_or_default();
    below
        .lines()
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.strip_prefix("  "))
        .filter(|line| !line.starts_with(' '))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .collect()
}

fn write(words: &[&str], document: &mut String) {
    let help = help(words);
    let command = [&["descord-relay"], words].concat().join(" ");
    write!(document, "\n## `{command}`\n\n```text\n{help}\n```\n").unwrap();
    for name in commands(&help) {
        write(&[words, &[name]].concat(), document);
    }
}

#[test]
fn command_line_page_is_the_help_of_all_commands() {
    let mut document = INTRODUCTION.to_owned();
    write(&[], &mut document);
    let sections = document.matches("\n## ").count();
    assert!(sections > 15, "{document}");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/command-line.md");
    if std::env::var_os("UPDATE_DOCS").is_some_and(|value| value == "1") {
        fs::write(&path, &document).unwrap();
    }
    let page = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        page == document,
        "docs/command-line.md is not current: run UPDATE_DOCS=1 cargo test --test operations \
         command_line_document"
    );
}
