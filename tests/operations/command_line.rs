//! The subcommands for operators: what they print about the fleet, the rules and the build.

#![expect(clippy::unwrap_used, reason = "tests fail loudly")]

use std::{fs, process::Output};

use descord_relay::{build_info, identity::peer_id_of, secret::Secret};
use libp2p::Multiaddr;
use tempfile::TempDir;

use test_support::{
    client::{Client, Security},
    http,
    process::{Relay, command, is},
};

const SEED: &str = "correct horse battery staple";
const FRIEND: &str = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";
const OTHER: &str = "12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp";

async fn run(variables: &[(&str, &str)], arguments: &[&str]) -> Output {
    let output = command(variables).args(arguments).output();
    let output = tokio::time::timeout(test_support::PATIENCE, output).await;
    output.unwrap().unwrap()
}

/// The standard output of a command that succeeds.
async fn printed(variables: &[(&str, &str)], arguments: &[&str]) -> String {
    let output = run(variables, arguments).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The standard error of a command that ends with this exit code.
async fn refused(variables: &[(&str, &str)], arguments: &[&str], code: i32) -> String {
    let output = run(variables, arguments).await;
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[tokio::test]
async fn first_log_line_has_the_build() {
    let relay = Relay::start(&[]).await;
    let first = &relay.events[0];
    assert!(is(first, "descord-relay starting"), "{first}");
    assert_eq!(first["version"], build_info::VERSION);
    assert_eq!(first["revision"], build_info::REVISION);
    assert_eq!(first["platform"], build_info::target());
    relay.stop().await;
}

#[tokio::test]
async fn addresses_of_a_relay_are_those_that_it_announces() {
    let relay = Relay::start(&[("RELAY_IDENTITY_SEED", SEED), ("RELAY_INSTANCE", "a")]).await;
    let listen: Vec<_> = [relay.tcp(), relay.quic(), relay.websocket()]
        .map(|address| address.to_string())
        .into();
    let without_peer: Vec<_> = listen
        .iter()
        .map(|address| address.split("/p2p/").next().unwrap())
        .collect();
    let listen_addresses = without_peer.join(",");
    let variables = [
        ("RELAY_IDENTITY_SEED", SEED),
        ("RELAY_INSTANCE", "a"),
        ("RELAY_LISTEN_ADDRESSES", &listen_addresses),
    ];
    let output = run(&variables, &["identity", "addresses"]).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let lines = String::from_utf8(output.stdout).unwrap();
    assert_eq!(lines.lines().collect::<Vec<_>>(), listen);
    let note = String::from_utf8(output.stderr).unwrap();
    assert!(
        note.contains("RELAY_EXTERNAL_ADDRESSES is not set"),
        "{note}"
    );
    relay.stop().await;

    // On all interfaces, those that other machines can dial.
    let variables = [
        ("RELAY_IDENTITY_SEED", SEED),
        ("RELAY_LISTEN_ADDRESSES", "/ip4/0.0.0.0/tcp/9000"),
    ];
    let all = printed(&variables, &["identity", "addresses"]).await;
    assert!(all.lines().count() > 0);
    for line in all.lines() {
        let address: Multiaddr = line.parse().unwrap();
        assert!(!line.contains("0.0.0.0"), "{address}");
    }

    let without_addresses = refused(&[], &["identity", "addresses"], 64).await;
    assert!(
        without_addresses.contains("the peer id would change"),
        "{without_addresses}"
    );
}

#[tokio::test]
async fn addresses_of_a_fleet_are_known_before_it_runs() {
    let variables = [
        ("RELAY_IDENTITY_SEED", SEED),
        ("RELAY_FLEET_INSTANCES", "relay-0,relay-1"),
        (
            "RELAY_EXTERNAL_ADDRESSES",
            "/dns4/{instance}.example/tcp/9000,/dns4/fleet.example/udp/900{index}/quic-v1",
        ),
    ];
    let seed = Secret::new(SEED);
    let [a, b] = ["relay-0", "relay-1"].map(|instance| peer_id_of(&seed, instance));
    let expected = format!(
        "/dns4/relay-0.example/tcp/9000/p2p/{a}\n\
         /dns4/fleet.example/udp/9000/quic-v1/p2p/{a}\n\
         /dns4/relay-1.example/tcp/9000/p2p/{b}\n\
         /dns4/fleet.example/udp/9001/quic-v1/p2p/{b}\n"
    );
    assert_eq!(
        printed(&variables, &["identity", "addresses"]).await,
        expected
    );
    let error = refused(&variables[..2], &["identity", "addresses"], 64).await;
    assert!(error.starts_with("RELAY_EXTERNAL_ADDRESSES: "), "{error}");
}

#[tokio::test]
async fn pseudonym_of_a_peer_is_that_of_the_log() {
    let seed = [("RELAY_IDENTITY_SEED", SEED)];
    let mut relay = Relay::start(&seed).await;
    let mut client = Client::new(Security::Noise).await;
    client.reserve(&relay.tcp()).await.unwrap();
    let accepted = relay.event("reservation accepted").await;
    let peer = client.peer_id.to_string();
    let pseudonym = printed(&seed, &["identity", "pseudonym", &peer]).await;
    assert_eq!(accepted["peer"], pseudonym.trim_end());

    // The end of the reservation has its duration and cause.
    client.disconnect().await;
    let closed = relay.event("reservation closed").await;
    assert_eq!(closed["cause"], "disconnected", "{closed}");
    assert!(
        closed["duration_seconds"].as_f64().unwrap() > 0.0,
        "{closed}"
    );
    relay.stop().await;

    let error = refused(&seed, &["identity", "pseudonym", "192.0.2.1"], 64).await;
    assert!(error.contains("not a peer id"), "{error}");
    let error = refused(&[], &["identity", "pseudonym", &peer], 64).await;
    assert!(error.contains("the peer id would change"), "{error}");
}

#[tokio::test]
async fn reservation_that_ends_with_the_drain_has_that_cause() {
    let mut relay = Relay::start(&[("RELAY_DRAIN_WINDOW", "0")]).await;
    let mut client = Client::new(Security::Noise).await;
    client.reserve(&relay.tcp()).await.unwrap();
    let client = client.run();
    relay.signal(15);
    let closed = relay.event("reservation closed").await;
    assert_eq!(closed["cause"], "draining", "{closed}");
    assert_eq!(relay.exit_code().await, Some(0));
    client.abort();
}

#[tokio::test]
async fn access_check_names_the_rule_that_decides() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("rules");
    fs::write(
        &file,
        format!("# friends\nallow reserve {FRIEND}\ndeny target {FRIEND}\n"),
    )
    .unwrap();
    let variables = [
        ("RELAY_ACCESS_FILE", file.to_str().unwrap()),
        ("RELAY_ACCESS_CONNECT_DENY", "192.0.2.0/24,198.51.100.7"),
        ("RELAY_ACCESS_RESERVE_ALLOW", "203.0.113.0/24"),
    ];
    let check = async |peer: &'static str, from: &'static [&'static str]| {
        let arguments = [&["access", "check", peer], from].concat();
        printed(&variables, &arguments).await
    };
    assert_eq!(
        check(FRIEND, &["--from", "198.51.100.7"]).await,
        "reserve  allowed  RELAY_ACCESS_FILE, line 2\n\
         connect  denied   RELAY_ACCESS_CONNECT_DENY, item 2\n\
         target   denied   RELAY_ACCESS_FILE, line 3\n"
    );
    assert_eq!(
        check(OTHER, &["--from", "203.0.113.1"]).await,
        "reserve  allowed  RELAY_ACCESS_RESERVE_ALLOW, item 1\n\
         connect  allowed  no rule matches\n\
         target   allowed  no rule matches\n"
    );
    assert_eq!(
        check(OTHER, &[]).await,
        "reserve  denied   there are `allow reserve` rules, and none matches\n\
         connect  allowed  no rule matches\n\
         target   allowed  no rule matches\n\
         note: without --from, rules about networks do not match\n"
    );

    let endpoint = [("RELAY_ACCESS_URL", "http://127.0.0.1:9/")];
    let answer = printed(&endpoint, &["access", "check", OTHER]).await;
    assert!(answer.contains("RELAY_ACCESS_URL decides"), "{answer}");
    let open = printed(&[], &["access", "check", OTHER]).await;
    assert!(open.starts_with("access is not restricted"), "{open}");
    let error = refused(&[], &["access", "check", "bob"], 64).await;
    assert!(error.contains("not a peer id"), "{error}");
}

#[tokio::test]
async fn completions_and_man_pages_name_all_commands() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = printed(&[], &["completions", shell]).await;
        for word in ["descord-relay", "pseudonym", "dns-server"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
    let page = printed(&[], &["man"]).await;
    assert!(page.contains(".TH descord-relay 1"), "{page}");
    let directory = TempDir::new().unwrap();
    let path = directory.path().to_str().unwrap();
    printed(&[], &["man", "--to", path]).await;
    for name in [
        "descord-relay.1",
        "descord-relay-probe.1",
        "descord-relay-identity-addresses.1",
    ] {
        assert!(directory.path().join(name).is_file(), "{name}");
    }
    let nowhere = format!("{path}/none");
    let error = refused(&[], &["man", "--to", &nowhere], 1).await;
    assert!(error.contains(&nowhere), "{error}");
}

#[tokio::test]
async fn unknown_variables_of_exporters_are_warned_about() {
    let relay = Relay::start(&[
        ("OTEL_EXPORTER_OTLP_HEADER", "secret=1"),
        ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "http://collector:4318"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "1000"),
    ])
    .await;
    let warnings: Vec<_> = relay
        .events
        .iter()
        .filter_map(|event| event["message"].as_str())
        .filter(|message| message.starts_with("OTEL_"))
        .collect();
    assert_eq!(
        warnings,
        [
            "OTEL_EXPORTER_OTLP_HEADER is ignored: the relay does not support this variable; did \
             you mean OTEL_EXPORTER_OTLP_HEADERS?",
            "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT is ignored: logs are not exported over OTLP, but \
             written to standard output",
        ]
    );
    relay.stop().await;
}

#[tokio::test]
async fn admin_index_links_the_endpoints() {
    let relay = Relay::start(&[("RELAY_ADMIN_ADDRESS", "127.0.0.1:0")]).await;
    let (status, page) = http::get(&relay, "/").await;
    assert_eq!(status, 200);
    let links: Vec<_> = page
        .split("href=\"")
        .skip(1)
        .map(|rest| rest.split('"').next().unwrap())
        .collect();
    assert!(links.len() >= 7, "{page}");
    for link in links {
        assert_eq!(http::status(&relay, link).await, 200, "{link}");
    }
    relay.stop().await;
}

#[tokio::test]
async fn status_counts_connections_and_refusals() {
    let relay = Relay::start(&[
        ("RELAY_ADMIN_ADDRESS", "127.0.0.1:0"),
        ("RELAY_ACCESS_RESERVE_ALLOW", "none"),
        ("RELAY_RATE_CONNECTIONS_PER_IP", "1+1/h"),
    ])
    .await;
    let mut client = Client::new(Security::Noise).await;
    client.reserve(&relay.tcp()).await.unwrap_err();
    let client = client.run();
    let mut second = Client::new(Security::Noise).await;
    second.reserve(&relay.tcp()).await.unwrap_err();
    http::json_where(&relay, "/status", |status| {
        status["connections"]["established"] == 1
            && status["connections"]["refused"]["rate_connections_per_ip"].as_u64() > Some(0)
            && status["requests"]["refused"]["access_rules"].as_u64() > Some(0)
    })
    .await;
    client.abort();
    relay.stop().await;
}

#[tokio::test]
async fn probe_suggests_the_multiaddr_for_other_forms() {
    let error = refused(&[], &["probe", "relay.example.org:9000"], 64).await;
    for word in [
        "/dns/relay.example.org/tcp/9000",
        "/dns/relay.example.org/udp/9000/quic-v1",
    ] {
        assert!(error.contains(word), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn probe_explains_a_denied_reservation() {
    let relay = Relay::start(&[("RELAY_ACCESS_RESERVE_ALLOW", "none")]).await;
    let output = run(&[], &["probe", &relay.tcp().to_string()]).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["failed_step"], "reserve");
    let error = report["error"].as_str().unwrap();
    assert!(
        error.contains("does not permit this client to reserve"),
        "{report}"
    );
    assert!(
        report["hint"].as_str().unwrap().contains("access check"),
        "{report}"
    );
    relay.stop().await;
}
