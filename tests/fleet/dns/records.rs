//! `descord-relay dnsaddr`, which prints the records of a fleet before it runs.

use std::{fmt::Write, process::Output};

use serde_json::Value;
use test_support::process::command;

use crate::dns::{
    SEED, ZONE,
    server::{DnsServer, relay},
};

const ADDRESSES: &str = "/dns4/{instance}.example.org/tcp/900{index}";

async fn dnsaddr(variables: &[(&str, &str)], arguments: &[&str]) -> Output {
    let defaults = [
        ("RELAY_DNS_ZONE", ZONE),
        ("RELAY_IDENTITY_SEED", SEED),
        ("RELAY_EXTERNAL_ADDRESSES", ADDRESSES),
    ];
    let mut command = command(&[&defaults, variables].concat());
    command
        .arg("dnsaddr")
        .args(arguments)
        .output()
        .await
        .unwrap()
}

fn out(output: Output) -> String {
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stderr.is_empty());
    String::from_utf8(output.stdout).unwrap()
}

/// The printed records equal the addresses that relays announce, and the records that the server later
/// returns.
#[tokio::test(flavor = "multi_thread")]
async fn printed_records_match_those_of_running_relays() {
    let addresses = "/ip4/127.0.0.1/tcp/900{index},/dns4/{instance}.example.org/tcp/9000";
    let addresses = ("RELAY_EXTERNAL_ADDRESSES", addresses);
    let lines = out(dnsaddr(&[addresses], &["relay-0", "relay-1"]).await);
    let (a, b) = (
        relay("relay-0", &[addresses]).await,
        relay("relay-1", &[addresses]).await,
    );
    let server = DnsServer::of(&[&a, &b], &[]).await;
    let mut printed: Vec<_> = lines
        .lines()
        .filter_map(|line| line.strip_prefix("_dnsaddr.fleet.test. IN TXT \""))
        .map(|text| text.strip_suffix('"').unwrap().to_owned())
        .collect();
    printed.sort();
    assert_eq!(printed.len(), 4, "{lines}");
    assert_eq!(server.texts().await, printed);
    assert_eq!(lines.lines().count(), 8, "{lines}");
}

#[tokio::test(flavor = "multi_thread")]
async fn machines_read_the_same() {
    let names = [("RELAY_FLEET_INSTANCES", "relay-0,relay-1,relay-2")];
    let lines = out(dnsaddr(&names, &[]).await);
    let json = out(dnsaddr(&names, &["--json", "--ttl", "1m"]).await);
    let json: Value = serde_json::from_str(&json).unwrap();
    let endpoints = json["endpoints"].as_array().unwrap();
    assert_eq!(endpoints.len(), 4);
    let mut again = String::new();
    for endpoint in endpoints {
        assert_eq!(endpoint["recordType"], "TXT");
        assert_eq!(endpoint["recordTTL"], 60);
        let name = endpoint["dnsName"].as_str().unwrap();
        for text in endpoint["targets"].as_array().unwrap() {
            let text = text.as_str().unwrap();
            writeln!(again, "{name}. IN TXT \"{text}\"").unwrap();
        }
    }
    assert_eq!(again, lines);
}

#[tokio::test(flavor = "multi_thread")]
async fn large_fleet_is_split_into_references() {
    let names: Vec<_> = (0..17).map(|n| format!("relay-{n}")).collect();
    let arguments: Vec<_> = names.iter().map(String::as_str).collect();
    let addresses = (
        "RELAY_EXTERNAL_ADDRESSES",
        "/dns/{instance}.example.org/tcp/9000",
    );
    let output = dnsaddr(&[addresses], &arguments).await;
    let warning = String::from_utf8(output.stderr).unwrap();
    assert!(warning.contains("uses 16 of them"), "{warning}");
    let lines = String::from_utf8(output.stdout).unwrap();
    let pointers = lines.matches("\"dnsaddr=/dnsaddr/relay-").count();
    assert_eq!(pointers, 17, "{lines}");
    assert_eq!(lines.lines().count(), 2 * 17, "{lines}");
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_variables_are_reported_at_once() {
    let output = command(&[]).arg("dnsaddr").output().await.unwrap();
    assert_eq!(output.status.code(), Some(64));
    let printed = String::from_utf8(output.stderr).unwrap();
    let names: Vec<_> = printed
        .lines()
        .map(|line| line.split_once(':').unwrap().0)
        .collect();
    assert_eq!(
        names,
        [
            "RELAY_DNS_ZONE",
            "RELAY_IDENTITY_SEED",
            "RELAY_EXTERNAL_ADDRESSES",
            "RELAY_FLEET_INSTANCES"
        ]
    );
    // An instance name without the index that the addresses require.
    let output = dnsaddr(&[], &["relay-0", "relay"]).await;
    assert_eq!(output.status.code(), Some(64));
    let printed = String::from_utf8(output.stderr).unwrap();
    assert!(printed.contains("`relay` ends in no number"), "{printed}");
}
