//! js-libp2p nodes as child processes: see `tests/js/peer.mjs` for what they understand.

use std::{
    collections::VecDeque,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout},
    time::timeout,
};

/// Longer than anything here takes on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);

/// The Node.js that runs the peers, with their packages installed; `None` skips the test.
///
/// # Panics
///
/// What is needed is missing, and `RELAY_TEST_REQUIRE_ALL=1` forbids to skip.
pub fn node() -> Option<&'static Path> {
    static NODE: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    match NODE.get_or_init(install) {
        Ok(node) => Some(node),
        Err(why) if std::env::var_os("RELAY_TEST_REQUIRE_ALL").is_some_and(|all| all == "1") => {
            panic!("needs npm ({why})")
        }
        Err(why) => {
            println!("skipped: needs npm ({why})");
            None
        }
    }
}

/// Installs the locked packages once, however many tests and processes ask at the same time.
fn install() -> Result<PathBuf, String> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/js");
    let guard = File::create(Path::new(env!("CARGO_TARGET_TMPDIR")).join("js-install.lock"))
        .and_then(|file| file.lock().map(|()| file))
        .map_err(|error| error.to_string())?;
    let wanted = fs::read(directory.join("package-lock.json")).map_err(|e| e.to_string())?;
    let stamp = directory.join("node_modules/.installed");
    if fs::read(&stamp).ok().as_ref() != Some(&wanted) {
        let npm = Command::new("npm")
            // Nothing of what is installed needs to run a script of its own.
            .args(["ci", "--ignore-scripts"])
            .current_dir(&directory)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| error.to_string())?;
        if !npm.status.success() {
            return Err(String::from_utf8_lossy(&npm.stderr).into_owned());
        }
        fs::write(&stamp, wanted).map_err(|error| error.to_string())?;
    }
    drop(guard);
    find_node(&directory)
}

/// js-libp2p 3 needs Node.js 22. A package carries it for common platforms; elsewhere the
/// machine's own has to be new enough.
fn find_node(directory: &Path) -> Result<PathBuf, String> {
    let packaged = ["linux-x64", "linux-arm64", "darwin-x64"]
        .map(|platform| directory.join(format!("node_modules/node-{platform}/bin/node")));
    let own = PathBuf::from("node");
    packaged
        .into_iter()
        .chain([own])
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
    commands: ChildStdin,
    messages: Lines<BufReader<ChildStdout>>,
    events: VecDeque<Value>,
    calls: u64,
    _process: Child,
}

impl Peer {
    /// Starts a node over `transport` (`tcp`, `websocket` or `quic`), secured by `encrypter`
    /// (`noise` or `tls`); circuits use the same encrypter.
    pub async fn start(node: &Path, transport: &str, encrypter: &str) -> Self {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/js");
        let mut process = tokio::process::Command::new(node)
            .arg("peer.mjs")
            .arg(json!({ "transport": transport, "encrypter": encrypter }).to_string())
            .current_dir(directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut peer = Self {
            id: String::new(),
            commands: process.stdin.take().unwrap(),
            messages: BufReader::new(process.stdout.take().unwrap()).lines(),
            events: VecDeque::new(),
            calls: 0,
            _process: process,
        };
        peer.id = text(&peer.event("ready").await["peer"]);
        peer
    }

    /// Runs a command that succeeds, and gives its answer.
    pub async fn ask(&mut self, command: &str, arguments: Value) -> Value {
        let answer = self.call(command, arguments).await;
        answer.unwrap_or_else(|error| panic!("{command}: {error}"))
    }

    /// Runs a command, and gives its answer or its error.
    pub async fn call(&mut self, command: &str, arguments: Value) -> Result<Value, String> {
        self.calls += 1;
        let mut message = arguments;
        message["id"] = json!(self.calls);
        message["do"] = json!(command);
        self.commands
            .write_all(format!("{message}\n").as_bytes())
            .await
            .unwrap();
        loop {
            let mut answer = self.message(command).await;
            if answer["id"] != self.calls {
                self.events.push_back(answer);
            } else if answer["error"].is_null() {
                return Ok(answer["ok"].take());
            } else {
                return Err(text(&answer["error"]));
            }
        }
    }

    /// The next event of that name, which may have happened already.
    pub async fn event(&mut self, name: &str) -> Value {
        if let Some(index) = self.events.iter().position(|event| event["event"] == name) {
            return self.events.remove(index).unwrap();
        }
        loop {
            let event = self.message(name).await;
            if event["event"] == name {
                return event;
            }
            self.events.push_back(event);
        }
    }

    async fn message(&mut self, awaited: &str) -> Value {
        let line = timeout(DEADLINE, self.messages.next_line())
            .await
            .unwrap_or_else(|_| panic!("{awaited:?} did not come; {:?} did", self.events))
            .unwrap()
            .unwrap_or_else(|| panic!("the node ended before {awaited:?}"));
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error} in {line}"))
    }
}

/// The string in a JSON value.
pub fn text(value: &Value) -> String {
    value
        .as_str()
        .unwrap_or_else(|| panic!("{value} is no string"))
        .to_owned()
}
