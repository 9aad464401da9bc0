//! What the tests with other implementations of libp2p share: their tools, installed on first use,
//! and their nodes as child processes that speak JSON lines.

use std::{
    collections::VecDeque,
    fs::{self, File},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout},
    time::timeout,
};

/// Longer than anything that a test waits for; what takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// What was installed, or `None` to skip the test.
///
/// # Panics
///
/// It is missing, and `RELAY_TEST_REQUIRE_ALL=1` forbids to skip.
pub fn or_skip<'a, T>(needs: &str, installed: &'a Result<T, String>) -> Option<&'a T> {
    match installed {
        Ok(installed) => Some(installed),
        Err(why) if std::env::var_os("RELAY_TEST_REQUIRE_ALL").is_some_and(|all| all == "1") => {
            panic!("needs {needs} ({why})")
        }
        Err(why) => {
            println!("skipped: needs {needs} ({why})");
            None
        }
    }
}

/// Runs `install` unless it ran with this lock file, however many tests and processes ask at once.
///
/// `directory` holds what is installed, and is marked when it is complete.
pub fn install_once(
    directory: &Path,
    lock_file: &Path,
    install: impl FnOnce() -> Result<(), String>,
) -> Result<(), String> {
    let words = |error: std::io::Error| error.to_string();
    let name = directory.file_name().unwrap_or_default().to_string_lossy();
    let guard = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.lock"));
    let guard = File::create(guard).map_err(words)?;
    guard.lock().map_err(words)?;
    let wanted = fs::read(lock_file).map_err(words)?;
    let mark = directory.join(".installed");
    if fs::read(&mark).ok().as_ref() != Some(&wanted) {
        install()?;
        fs::write(&mark, wanted).map_err(words)?;
    }
    Ok(())
}

/// Runs a command to its end; its error output is the error.
pub fn run(command: &mut Command) -> Result<(), String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).into_owned())
}

/// A node of another implementation. Killed when it is dropped.
pub struct Process {
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    seen: VecDeque<Value>,
    _child: Child,
}

impl Process {
    /// Starts the node.
    pub fn start(command: &mut tokio::process::Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Self {
            input: child.stdin.take().unwrap(),
            output: BufReader::new(child.stdout.take().unwrap()).lines(),
            seen: VecDeque::new(),
            _child: child,
        }
    }

    /// Writes a line to the node.
    pub async fn send(&mut self, message: &Value) {
        self.input
            .write_all(format!("{message}\n").as_bytes())
            .await
            .unwrap();
    }

    /// The next event of that name.
    pub async fn event(&mut self, name: &str) -> Value {
        self.find(name, |message| message["event"] == name).await
    }

    /// The next message that is wanted, which may have come already; the others are kept.
    pub async fn find(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        if let Some(index) = self.seen.iter().position(&wanted) {
            return self.seen.remove(index).unwrap();
        }
        loop {
            let line = timeout(PATIENCE, self.output.next_line())
                .await
                .unwrap_or_else(|_| panic!("no {what:?} among {:#?}", self.seen))
                .unwrap()
                .unwrap_or_else(|| panic!("the node ended before {what:?}"));
            let message =
                serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error} in {line}"));
            if wanted(&message) {
                return message;
            }
            self.seen.push_back(message);
        }
    }
}
