//! Runs `dig` and parses its output.

use std::{net::SocketAddr, process::Command, sync::LazyLock};

use test_support::tools;

/// A parsed response.
#[derive(Debug, Default)]
pub struct Reply {
    pub status: String,
    pub flags: Vec<String>,
    pub question: String,
    pub answers: Vec<Record>,
    pub authority: Vec<Record>,
    pub additional: Vec<Record>,
    /// The EDNS line, if any.
    pub edns: Option<String>,
    pub is_tcp: bool,
    /// The complete output.
    pub text: String,
}

/// A record: name, TTL, type and data.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Record(pub String, pub u32, pub String, pub String);

/// Whether `dig` is installed. Otherwise, the test is skipped or fails.
pub fn is_installed() -> bool {
    static DIG: LazyLock<Result<(), String>> =
        LazyLock::new(|| tools::run(Command::new("dig").arg("-v")));
    tools::or_skip("dig", &DIG).is_some()
}

/// Runs `dig` without retries.
pub async fn dig(server: SocketAddr, arguments: &[&str]) -> Reply {
    let output = tokio::process::Command::new("dig")
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .arg(format!("@{}", server.ip()))
        .args(["-p", &server.port().to_string(), "+tries=1", "+time=5"])
        .args(arguments)
        .kill_on_drop(true)
        .output();
    parse(String::from_utf8(output.await.unwrap().stdout).unwrap())
}

fn parse(text: String) -> Reply {
    let mut reply = Reply::default();
    let mut section = "";
    for line in text.lines() {
        if let Some((_, rest)) = line.split_once("status: ") {
            reply.status = rest.split(',').next().unwrap().to_owned();
        } else if let Some(rest) = line.strip_prefix(";; flags: ") {
            let flags = rest.split(';').next().unwrap();
            reply.flags = flags.split(' ').map(str::to_owned).collect();
        } else if let Some(rest) = line.strip_prefix("; EDNS: ") {
            reply.edns = Some(rest.to_owned());
        } else if line.starts_with(";; SERVER: ") {
            reply.is_tcp = line.ends_with("(TCP)");
        } else if let Some(name) = line.strip_prefix(";; ") {
            section = name.split(' ').next().unwrap();
        } else if section == "QUESTION" && line.starts_with(';') {
            line[1..].clone_into(&mut reply.question);
        } else if !line.is_empty() && !line.starts_with(';') {
            match section {
                "ANSWER" => reply.answers.push(record(line)),
                "AUTHORITY" => reply.authority.push(record(line)),
                "ADDITIONAL" => reply.additional.push(record(line)),
                _ => {}
            }
        }
    }
    reply.answers.sort();
    reply.text = text;
    reply
}

fn record(line: &str) -> Record {
    let mut parts = line.split_whitespace();
    let mut next = || parts.next().unwrap().to_owned();
    let (name, ttl, class, record_type) = (next(), next(), next(), next());
    assert_eq!(class, "IN", "{line}");
    let data: Vec<_> = parts.collect();
    Record(name, ttl.parse().unwrap(), record_type, data.join(" "))
}
