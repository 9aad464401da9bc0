//! js-libp2p nodes. `tests/js/peer.mjs` defines their commands and events.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use serde_json::{Value, json};

use crate::{
    other_implementations::Process,
    tools::{install_once, or_skip, run},
};

/// The Node.js binary, with the peers' packages installed; `None` skips the test.
pub fn node() -> Option<&'static Path> {
    static NODE: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    or_skip("npm", NODE.get_or_init(install)).map(PathBuf::as_path)
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/js")
}

fn install() -> Result<PathBuf, String> {
    let directory = directory();
    let modules = directory.join("node_modules");
    install_once(&modules, &directory.join("package-lock.json"), || {
        // No package needs its install scripts.
        run(Command::new("npm")
            .args(["ci", "--ignore-scripts"])
            .current_dir(&directory))
    })?;
    find_node(&modules)
}

/// js-libp2p 3 needs Node.js 22, which a package provides for common platforms. On others, the installed
/// version must be recent enough.
fn find_node(modules: &Path) -> Result<PathBuf, String> {
    ["linux-x64", "linux-arm64", "darwin-x64"]
        .map(|platform| modules.join(format!("node-{platform}/bin/node")))
        .into_iter()
        .chain([PathBuf::from("node")])
        .find(|node| major_version(node).is_some_and(|major| major >= 22))
        .ok_or_else(|| "and Node.js 22 or newer".to_owned())
}

fn major_version(node: &Path) -> Option<u32> {
    let output = Command::new(node).arg("--version").output().ok()?;
    let version = String::from_utf8(output.stdout).ok()?;
    version.strip_prefix('v')?.split('.').next()?.parse().ok()
}

/// A js-libp2p node.
pub struct Peer {
    /// Its peer id.
    pub id: String,
    process: Process,
}

impl Peer {
    /// Starts a node with `transport` (`tcp`, `websocket` or `quic`) and `encrypter` (`noise` or `tls`).
    /// Circuits use the same encrypter.
    pub async fn start(node: &Path, transport: &str, encrypter: &str) -> Self {
        Self::with_identity(node, transport, encrypter, json!({})).await
    }

    /// Starts a node with this identity: `{ "type": … }` for a new key, or `{ "protobuf": … }` with a
    /// base64-encoded private key.
    pub async fn with_identity(
        node: &Path,
        transport: &str,
        encrypter: &str,
        identity: Value,
    ) -> Self {
        let options =
            json!({ "transport": transport, "encrypter": encrypter, "identity": identity });
        Self::start_with(node, &options).await
    }

    /// Starts a node with these options of `peer.mjs`.
    pub async fn start_with(node: &Path, options: &Value) -> Self {
        let mut command = tokio::process::Command::new(node);
        command
            .arg("peer.mjs")
            .arg(options.to_string())
            .current_dir(directory());
        let mut process = Process::start(&mut command);
        let id = text(&process.event("ready").await["peer"]);
        Self { id, process }
    }

    /// Runs a command, asserts success, and returns the result.
    pub async fn ask(&mut self, command: &str, arguments: Value) -> Value {
        let answer = self.call(command, arguments).await;
        answer.unwrap_or_else(|error| panic!("{command}: {error}"))
    }

    /// Runs a command and returns its result or error.
    pub async fn call(&mut self, command: &str, arguments: Value) -> Result<Value, String> {
        self.process.call(command, arguments).await
    }

    /// The next event with this name; may have been received before.
    pub async fn event(&mut self, name: &str) -> Value {
        self.process.event(name).await
    }
}

/// The string in a JSON value.
pub fn text(value: &Value) -> String {
    value
        .as_str()
        .unwrap_or_else(|| panic!("{value} is no string"))
        .to_owned()
}
