//! Startup, metrics, signals and exit of the DNS server.

use std::{
    net::UdpSocket,
    time::{Duration, Instant},
};

use descord_relay::admin::client;
use hickory_proto::rr::RecordType;
use test_support::{PATIENCE, process::command};

use crate::dns::{
    FLEET, ZONE,
    server::{DnsServer, relay},
};

const SIGINT: i32 = 2;
const SIGTERM: i32 = 15;
const SIGALRM: i32 = 14;

#[tokio::test(flavor = "multi_thread")]
async fn it_exits_at_once_on_a_signal() {
    let relay = relay("relay-0", &[]).await;
    for signal in [SIGTERM, SIGINT] {
        let mut server = DnsServer::of(&[&relay], &[]).await;
        let admin = server.admin().await;
        for path in ["/livez", "/readyz"] {
            let (status, _) = client::get(admin, path).await.unwrap();
            assert_eq!(status, 200, "{path}");
        }
        let begun = Instant::now();
        server.signal(signal);
        assert_eq!(server.exit_code().await, Some(0));
        // Less than the delay of a relay's drain.
        assert!(begun.elapsed() < Duration::from_secs(4));
    }
}

/// The environment of the relays, and an invalid host name.
#[tokio::test(flavor = "multi_thread")]
async fn server_accepts_the_environment_of_relays() {
    let relay = relay("relay-0", &[]).await;
    let template = ("RELAY_EXTERNAL_ADDRESSES", "/ip4/192.0.2.1{index}/tcp/9000");
    let variables = [template, ("RELAY_INSTANCE", "dns")];
    let mut server = DnsServer::of(&[&relay], &variables).await;
    let admin = server.admin().await.to_string();
    let mut healthcheck = command(&[template, ("RELAY_ADMIN_ADDRESS", &admin)]);
    let status = healthcheck.arg("healthcheck").status().await.unwrap();
    assert_eq!(status.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_are_counted() {
    let relay = relay("relay-0", &[]).await;
    let mut server = DnsServer::of(&[&relay], &[]).await;
    let admin = server.admin().await;
    server.ask(FLEET, RecordType::TXT).await;
    server.ask_tcp("x.test", RecordType::A).await;
    let (status, body) = client::get(admin, "/metrics").await.unwrap();
    assert_eq!(status, 200);
    let metrics = String::from_utf8(body.to_vec()).unwrap();
    let value = |name: &str, labels: &[&str]| {
        let is_it = |line: &&str| {
            line.starts_with(&format!("{name}{{")) && labels.iter().all(|l| line.contains(l))
        };
        let line = metrics.lines().find(is_it);
        let line = line.unwrap_or_else(|| panic!("no {name} with {labels:?} in {metrics}"));
        line.rsplit_once(' ').unwrap().1.to_owned()
    };
    let queries = "relay_dns_queries_total";
    for labels in [
        ["outcome=\"answered\"", "transport=\"udp\""],
        ["outcome=\"refused\"", "transport=\"tcp\""],
    ] {
        assert_eq!(value(queries, &labels), "1", "{labels:?}");
    }
    assert_eq!(value("relay_dns_relays", &["state=\"ready\""]), "1");
    assert!(
        metrics.lines().any(|line| line == "relay_dns_stale 0"),
        "{metrics}"
    );
    relay.signal(9);
    server.event("the zone is stale").await;
    // The last response is valid for one second.
    let is_stale = async || {
        let (_, body) = client::get(admin, "/metrics").await.unwrap();
        let metrics = String::from_utf8(body.to_vec()).unwrap();
        metrics.lines().any(|line| line == "relay_dns_stale 1")
    };
    let begun = Instant::now();
    while !is_stale().await {
        assert!(begun.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn other_signals_are_logged_and_ignored() {
    let mut server = DnsServer::start("127.0.0.1:1", &[]).await;
    let admin = server.admin().await;
    for (signal, name) in [(1, "SIGHUP"), (10, "SIGUSR1"), (12, "SIGUSR2")] {
        server.signal(signal);
        let event = server.event("signal ignored").await;
        assert_eq!(event["signal"], name, "{event}");
        assert_eq!(client::get(admin, "/livez").await.unwrap().0, 200);
    }
    server.signal(SIGTERM);
    assert_eq!(server.exit_code().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_ends_it_with_an_error() {
    let mut server = DnsServer::start("127.0.0.1:1", &[]).await;
    server.signal(SIGALRM);
    server.event("a task panicked").await;
    assert_eq!(server.exit_code().await, Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_occupied_port_is_an_error() {
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = command(&[
        ("RELAY_DNS_ZONE", ZONE),
        ("RELAY_DNS_RELAYS", "127.0.0.1"),
        ("RELAY_DNS_LISTEN", &address),
    ])
    .arg("dns")
    .output()
    .await
    .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let log = String::from_utf8(output.stdout).unwrap();
    assert!(log.contains("RELAY_DNS_LISTEN"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_log_filter_error_equals_that_of_the_relay() {
    let variables = [
        ("RELAY_DNS_ZONE", ZONE),
        ("RELAY_DNS_RELAYS", "127.0.0.1"),
        ("RUST_LOG", "x=y=z"),
    ];
    let mut refusals = Vec::new();
    for subcommand in ["dns", "serve"] {
        let output = command(&variables).arg(subcommand).output().await.unwrap();
        assert_eq!(output.status.code(), Some(64), "{subcommand}");
        refusals.push(String::from_utf8(output.stderr).unwrap());
    }
    assert!(refusals[0].starts_with("RUST_LOG: "), "{refusals:?}");
    assert_eq!(refusals[0], refusals[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_configuration_is_refused_with_every_error() {
    for (variables, errors) in [
        (
            [].as_slice(),
            ["RELAY_DNS_ZONE: ", "RELAY_DNS_RELAYS: "].as_slice(),
        ),
        (
            &[
                ("RELAY_DNS_ZONE", "-..x"),
                ("RELAY_DNS_RELAYS", "relay:0x1"),
                ("RELAY_DNS_TTL", "1"),
                ("RELAY_DNS_LISTEN", "everywhere"),
                ("RELAY_DNS_NS", "ns=nowhere"),
                ("RELAY_FLEET_INSTANCES", "a b"),
                ("RELAY_DNS_RATE_LIMIT", "few"),
            ],
            &[
                "RELAY_FLEET_INSTANCES: ",
                "RELAY_DNS_ZONE: ",
                "RELAY_DNS_RELAYS: ",
                "RELAY_DNS_LISTEN: ",
                "RELAY_DNS_NS: ",
                "RELAY_DNS_TTL: ",
                "RELAY_DNS_RATE_LIMIT: ",
            ],
        ),
        (
            &[
                ("RELAY_DNS_ZONE", ZONE),
                ("RELAY_DNS_NS", "ns.fleet.test,ns.other.test=192.0.2.1"),
            ],
            &["RELAY_DNS_NS: ns.fleet.test", "RELAY_DNS_NS: ns.other.test"],
        ),
    ] {
        let output = command(variables).arg("dns").output().await.unwrap();
        assert_eq!(output.status.code(), Some(64));
        assert!(output.stdout.is_empty());
        let printed = String::from_utf8(output.stderr).unwrap();
        let lines: Vec<_> = printed.lines().collect();
        assert_eq!(lines.len(), errors.len(), "{printed}");
        for (line, error) in lines.iter().zip(errors) {
            assert!(line.starts_with(error), "{printed}");
        }
    }
}

/// A zone can be tested before its delegation.
#[tokio::test(flavor = "multi_thread")]
async fn the_probe_queries_the_configured_server() {
    let a = relay("relay-a", &[]).await;
    let b = relay("relay-b", &[]).await;
    let server = DnsServer::of(&[&a, &b], &[]).await;
    let port = server.address.port();
    for server in [format!("127.0.0.1:{port}"), format!("localhost:{port}")] {
        let arguments = ["probe", "--bytes=1KiB", "--dns-server", &server];
        let output = command(&[])
            .args(arguments)
            .arg(format!("/dnsaddr/{ZONE}"))
            .output()
            .await
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{text}");
        for relay in [&a, &b] {
            assert!(text.contains(&relay.peer_id.to_string()), "{text}");
        }
    }
    let output = command(&[])
        .args(["probe", "--dns-server=nowhere.invalid", "/dnsaddr/x.test"])
        .output()
        .await
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(!output.status.success());
    assert!(text.contains("--dns-server nowhere.invalid"), "{text}");
}
