//! Nodes of other libp2p implementations, as child processes with JSON lines on standard input and
//! output.

use std::{collections::VecDeque, process::Stdio, time::Duration};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout},
    time::timeout,
};

use crate::PATIENCE;

/// A node of another implementation, killed on drop.
pub struct Process {
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    seen: VecDeque<Value>,
    patience: Duration,
    calls: u64,
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
            patience: PATIENCE,
            calls: 0,
            _child: child,
        }
    }

    /// Sets the timeout for messages, for slow operations of the node.
    pub fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// Writes a line to the node.
    pub async fn send(&mut self, message: &Value) {
        self.input
            .write_all(format!("{message}\n").as_bytes())
            .await
            .unwrap();
    }

    /// Runs a command of the node and returns its result or error.
    pub async fn call(&mut self, command: &str, arguments: Value) -> Result<Value, String> {
        self.calls += 1;
        let id = self.calls;
        let mut message = arguments;
        message["id"] = json!(id);
        message["do"] = json!(command);
        self.send(&message).await;
        let is_answer = |message: &Value| message["id"] == id;
        let mut answer = self.find(command, is_answer).await;
        match &answer["error"] {
            Value::Null => Ok(answer["ok"].take()),
            Value::String(error) => Err(error.clone()),
            error => Err(error.to_string()),
        }
    }

    /// The next event with this name.
    pub async fn event(&mut self, name: &str) -> Value {
        self.find(name, |message| message["event"] == name).await
    }

    /// The next message that satisfies `wanted`; may have been received before. Keeps the other messages.
    pub async fn find(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        if let Some(index) = self.seen.iter().position(&wanted) {
            return self.seen.remove(index).unwrap();
        }
        loop {
            let line = timeout(self.patience, self.output.next_line())
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
