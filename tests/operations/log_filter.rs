//! Changes of the log filter at runtime.

#![expect(clippy::unwrap_used, reason = "tests fail loudly")]

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    process::Output,
};

use descord_relay::admin::client;
use libp2p::PeerId;
use test_support::{
    http::{self, send, until_closed},
    process::{Relay, command, is},
    raw::Raw,
};
use tokio::time::timeout;

const DEFAULT: &str = "error,descord_relay=info\n";
const DEBUG: &str = "error,descord_relay=debug";

async fn start() -> Relay {
    Relay::start(&[("RELAY_ADMIN_ADDRESS", "127.0.0.1:0")]).await
}

/// Runs `descord-relay log-filter` for a relay with its admin endpoints at this address.
async fn log_filter(address: &str, filter: &[&str]) -> Output {
    let mut command = command(&[("RELAY_ADMIN_ADDRESS", address)]);
    let output = command.arg("log-filter").args(filter).output();
    timeout(test_support::PATIENCE, output)
        .await
        .unwrap()
        .unwrap()
}

/// The same; asserts success and this output.
async fn assert_prints(relay: &Relay, filter: &[&str], expected: &str) {
    let output = log_filter(&relay.admin().to_string(), filter).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
}

/// The complete response to a request with this method, host and body.
async fn ask(address: SocketAddr, method: &str, host: &str, body: &str) -> String {
    let length = body.len();
    let head = format!("{host}Content-Length: {length}\r\nConnection: close");
    let request = format!("{method} /log-filter HTTP/1.1\r\n{head}\r\n\r\n{body}");
    let mut stream = send(address, request.as_bytes()).await;
    until_closed(&mut stream).await
}

/// Makes the relay log at levels INFO and DEBUG: a denied request, and a failed connection to the admin
/// endpoints.
async fn produce_log_lines(relay: &mut Relay) {
    let mut broken = send(relay.admin(), b"this is no HTTP\r\n\r\n").await;
    until_closed(&mut broken).await;
    let mut client = Raw::new(&relay.quic()).await;
    client.connect(PeerId::random()).await;
    relay.event("request denied").await;
}

fn debug_lines(relay: &Relay) -> usize {
    let lines = relay.events.iter();
    lines.filter(|event| event["level"] == "DEBUG").count()
}

#[tokio::test(flavor = "multi_thread")]
async fn debug_comes_and_goes_without_a_restart() {
    let mut relay = start().await;
    assert_prints(&relay, &[], DEFAULT).await;
    produce_log_lines(&mut relay).await;
    assert_eq!(debug_lines(&relay), 0);

    assert_prints(&relay, &[DEBUG], &format!("{DEBUG}\n")).await;
    assert_prints(&relay, &[], &format!("{DEBUG}\n")).await;
    let changed = relay.event("log filter changed").await;
    assert_eq!(
        (&changed["old"], &changed["new"]),
        (&DEFAULT.trim().into(), &DEBUG.into())
    );
    produce_log_lines(&mut relay).await;
    assert!(debug_lines(&relay) > 0);

    // Resets the filter to its default.
    assert_prints(&relay, &[""], DEFAULT).await;
    relay.event("log filter changed").await;
    let before = debug_lines(&relay);
    produce_log_lines(&mut relay).await;
    produce_log_lines(&mut relay).await;
    assert_eq!(debug_lines(&relay), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn filter_change_is_logged_at_every_level() {
    let mut relay = start().await;
    for (filter, new) in [
        ("off", "off"),
        ("libp2p=error", "libp2p=error"),
        ("", DEFAULT.trim()),
    ] {
        let answer = client::put(relay.admin(), "/log-filter", filter.to_owned()).await;
        assert_eq!(answer.unwrap().0.as_u16(), 200);
        let changed = relay.event("log filter changed").await;
        assert_eq!(
            (&changed["new"], &changed["level"]),
            (&new.into(), &"WARN".into())
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_filter_changes_nothing() {
    let relay = start().await;
    let output = log_filter(&relay.admin().to_string(), &["descord_relay=loud"]).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        error.starts_with("400 Bad Request: ") && error.contains("RUST_LOG"),
        "{error}"
    );

    let long = "a".repeat(4097);
    let answer = ask(relay.admin(), "PUT", "Host: localhost\r\n", &long).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert_eq!(
        http::get(&relay, "/log-filter").await,
        (200, DEFAULT.to_owned())
    );
    let mut events = relay.stop().await.into_iter();
    assert!(events.all(|event| !is(&event, "log filter changed")));
}

#[tokio::test(flavor = "multi_thread")]
async fn cross_origin_requests_are_refused() {
    let relay = start().await;
    for method in ["GET", "PUT"] {
        for host in ["Host: rebound.example\r\n", "Host: rebound.example:80\r\n"] {
            let answer = ask(relay.admin(), method, host, "debug").await;
            assert!(
                answer.starts_with("HTTP/1.1 403 "),
                "{method} {host}: {answer}"
            );
            assert!(answer.contains("`descord-relay log-filter`"), "{answer}");
        }
    }
    // The preflight request of a browser for a cross-origin write.
    let answer = ask(relay.admin(), "OPTIONS", "Host: localhost\r\n", "").await;
    assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
    assert!(
        !answer.to_lowercase().contains("access-control"),
        "{answer}"
    );
    assert_eq!(http::get(&relay, "/log-filter").await.1, DEFAULT);
}

/// A non-loopback address of this machine. No packet is sent to find it.
fn own_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_loopback() && !ip.is_unspecified()).then_some(ip)
}

#[tokio::test(flavor = "multi_thread")]
async fn filter_is_only_accessible_over_loopback() {
    let Some(ip) = own_address() else {
        println!("skipped: needs an interface beside the loopback one");
        return;
    };
    let relay = Relay::start(&[("RELAY_ADMIN_ADDRESS", "0.0.0.0:0")]).await;
    let port = relay.admin().port();
    let answer = ask((ip, port).into(), "PUT", "Host: localhost\r\n", "debug").await;
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    let output = log_filter(&format!("{ip}:{port}"), &["debug"]).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    // The loopback interface is accepted.
    assert_prints(&relay, &[], DEFAULT).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_fails_without_a_relay() {
    let closed = UdpSocket::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let output = log_filter(&closed.to_string(), &[]).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let output = log_filter("", &["debug"]).await;
    assert_eq!(output.status.code(), Some(64), "{output:?}");
}
