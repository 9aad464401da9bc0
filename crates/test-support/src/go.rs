//! go-libp2p nodes. `tests/go/main.go` defines their commands and events.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
    time::Duration,
};

use serde_json::Value;

use crate::{
    other_implementations::Process,
    tools::{or_skip, run},
};

/// The node program, compiled on first use; `None` skips the test.
pub fn node() -> Option<&'static Path> {
    static NODE: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    or_skip("Go", NODE.get_or_init(compile)).map(PathBuf::as_path)
}

/// Go's build cache makes this fast if nothing has changed.
fn compile() -> Result<PathBuf, String> {
    let directory = crate::process::temporary_directory().join("go");
    let program = directory.join("node");
    std::fs::create_dir_all(&directory).map_err(|error| error.to_string())?;
    // Linking is faster without symbols.
    run(Command::new("go")
        .args(["build", "-ldflags=-s -w", "-o"])
        .arg(&program)
        .arg(".")
        // Fetches the Go version of go.mod if the installed one is older.
        .env("GOTOOLCHAIN", "auto")
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/go")))?;
    Ok(program)
}

/// A go-libp2p node.
pub struct Peer {
    /// Its peer id.
    pub id: String,
    process: Process,
}

impl Peer {
    /// Starts a node with `command`, which runs the program, and these options.
    pub async fn start(command: Command, options: &Value) -> Self {
        let mut command = tokio::process::Command::from(command);
        command.arg(options.to_string());
        let mut process = Process::start(&mut command);
        let id = process.event("ready").await["peer"]
            .as_str()
            .unwrap()
            .to_owned();
        Self { id, process }
    }

    /// Sets the timeout for events.
    pub fn set_patience(&mut self, patience: Duration) {
        self.process.set_patience(patience);
    }

    /// Runs a command and returns its result.
    pub async fn call(&mut self, command: &str, arguments: Value) -> Result<Value, String> {
        self.process.call(command, arguments).await
    }

    /// The next event with this name that satisfies `is_wanted`; may have been received before.
    pub async fn event_where(&mut self, name: &str, is_wanted: impl Fn(&Value) -> bool) -> Value {
        let wanted = |message: &Value| message["event"] == name && is_wanted(message);
        self.process.find(name, wanted).await
    }
}
