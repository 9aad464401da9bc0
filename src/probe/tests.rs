//! The probe with libp2p's own relay server, and with peers that are not relays.

#![expect(clippy::disallowed_methods, reason = "tests have no task tracker")]

use futures::StreamExt;
use libp2p::{
    PeerId, Swarm, SwarmBuilder,
    core::Transport as _,
    multiaddr::Protocol,
    noise, ping, relay,
    swarm::{NetworkBehaviour, SwarmEvent, behaviour::toggle::Toggle},
    tcp, tls, yamux,
};

use rustls::server::Acceptor;
use tokio::net::TcpListener;
use tokio_rustls::LazyConfigAcceptor;

use super::*;

const TCP: &str = "/ip4/127.0.0.1/tcp/0";
const QUIC: &str = "/ip4/127.0.0.1/udp/0/quic-v1";
const WEBSOCKET: &str = "/ip4/127.0.0.1/tcp/0/ws";

/// libp2p's relay server, or a peer that only responds to pings.
#[derive(NetworkBehaviour)]
struct Behaviour {
    relay: Toggle<relay::Behaviour>,
    ping: ping::Behaviour,
}

/// A peer on loopback, and its address without a peer id.
async fn peer(listen: &str, config: Option<relay::Config>) -> (Swarm<Behaviour>, Multiaddr) {
    let mut swarm = SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(
            tcp::Config::default(),
            (noise::Config::new, tls::Config::new),
            yamux::Config::default,
        )
        .unwrap()
        .with_quic()
        .with_other_transport(|key| {
            let tcp = tcp::tokio::Transport::new(tcp::Config::default());
            libp2p::websocket::Config::new(tcp)
                .upgrade(libp2p::core::upgrade::Version::V1Lazy)
                .authenticate(noise::Config::new(key).unwrap())
                .multiplex(yamux::Config::default())
        })
        .unwrap()
        .with_behaviour(|key| Behaviour {
            relay: config
                .map(|config| relay::Behaviour::new(key.public().into(), config))
                .into(),
            ping: ping::Behaviour::default(),
        })
        .unwrap()
        .build();
    swarm.listen_on(listen.parse().unwrap()).unwrap();
    let address = loop {
        if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
            break address;
        }
    };
    swarm.add_external_address(address.clone());
    (swarm, address)
}

/// Limits of the server under which the probe's default settings fit.
fn ample_limits() -> relay::Config {
    relay::Config {
        max_circuit_bytes: 100_000_000,
        ..relay::Config::default()
    }
}

fn args(addresses: impl IntoIterator<Item = Multiaddr>) -> Args {
    Args {
        addresses: addresses.into_iter().collect(),
        dns_server: None,
        swarm_key: None,
        ca: None,
        json: true,
        bytes: ByteSize::mib(1),
        pings: 5,
        timeout: Duration::from_secs(10),
    }
}

/// Runs the probe concurrently with the peer; returns the reports and the output.
async fn probe(swarm: &mut Swarm<Behaviour>, args: &Args, format: Format) -> (Vec<Report>, String) {
    let mut out = Vec::new();
    let reports = tokio::select! {
        reports = run(args, format, &mut out) => reports.unwrap(),
        () = async { loop { swarm.select_next_some().await; } } => unreachable!(),
    };
    let out = String::from_utf8(out).unwrap();
    (reports, anstream::adapter::strip_str(&out).to_string())
}

async fn works_over(listen: &str, transport: &str) {
    let (mut relay, address) = peer(listen, Some(ample_limits())).await;
    let id = *relay.local_peer_id();
    let full = address.clone().with(Protocol::P2p(id));
    let (reports, out) = probe(&mut relay, &args([full.clone()]), Format::Json).await;

    let [report] = reports.as_slice() else {
        panic!("{reports:?}")
    };
    assert!(report.ok, "{report:?}");
    assert_eq!(report.peer_id, Some(id));
    assert_eq!(report.throughput_bytes, Some(1024 * 1024));

    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(json["address"], full.to_string());
    assert_eq!(json["peer_id"], id.to_string());
    assert_eq!(json["transport"], transport);
    assert_eq!(json["limit_bytes"], 100_000_000);
    assert_eq!(json["limit_seconds"], 120);
    assert_eq!(json["failed_step"], serde_json::Value::Null);
    for field in [
        "connect_ms",
        "reservation_ms",
        "circuit_ms",
        "rtt_p50_ms",
        "rtt_p99_ms",
        "throughput_mb_per_s",
    ] {
        assert!(
            json[field].as_f64().is_some_and(|value| value > 0.0),
            "{field} in {json}"
        );
    }
    assert!(json["reservation_ms"].as_f64() >= json["connect_ms"].as_f64());
    assert!(json["rtt_p99_ms"].as_f64() >= json["rtt_p50_ms"].as_f64());
}

#[tokio::test]
async fn a_relay_works_over_tcp() {
    works_over(TCP, "tcp").await;
}

#[tokio::test]
async fn a_relay_works_over_quic() {
    works_over(QUIC, "quic-v1").await;
}

#[tokio::test]
async fn a_relay_works_over_websocket() {
    works_over(WEBSOCKET, "ws").await;
}

#[tokio::test]
async fn peer_id_is_optional() {
    let (mut relay, address) = peer(TCP, Some(ample_limits())).await;
    let id = *relay.local_peer_id();
    let (reports, _) = probe(&mut relay, &args([address]), Format::Json).await;
    assert!(reports[0].ok, "{reports:?}");
    assert_eq!(reports[0].peer_id, Some(id));
}

/// A relay that counts both directions together resets the circuit beyond its limit, so this fails if
/// the probe sends more than the limit allows.
#[tokio::test]
async fn announced_limit_is_respected() {
    let config = relay::Config {
        max_circuit_bytes: 64 * 1024,
        ..relay::Config::default()
    };
    let (mut relay, address) = peer(TCP, Some(config)).await;
    let (reports, _) = probe(
        &mut relay,
        &Args {
            pings: 1000,
            ..args([address])
        },
        Format::Json,
    )
    .await;
    assert!(reports[0].ok, "{reports:?}");
    assert_eq!(reports[0].limit_bytes, Some(64 * 1024));
    assert_eq!(reports[0].throughput_bytes, Some(16 * 1024));
}

fn assert_failed(report: &Report, step: Step, words: &str) {
    assert!(!report.ok);
    assert_eq!(report.failed_step, Some(step), "{report:?}");
    let error = report.error.as_deref().unwrap_or_default();
    assert!(error.contains(words), "{words:?} in {report:?}");
}

/// An address without a listener.
fn unused_address() -> Multiaddr {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    format!("/ip4/127.0.0.1/tcp/{port}").parse().unwrap()
}

#[tokio::test]
async fn connection_refused_fails_the_connect_step() {
    let (mut idle_peer, _) = peer(TCP, None).await;
    let (reports, _) = probe(&mut idle_peer, &args([unused_address()]), Format::Json).await;
    assert_failed(&reports[0], Step::Connect, "refused");
    assert!(reports[0].hint.is_some());
}

#[tokio::test]
async fn other_peer_id_fails_the_connect_step() {
    let (mut relay, address) = peer(TCP, Some(ample_limits())).await;
    let address = address.with(Protocol::P2p(PeerId::random()));
    let (reports, _) = probe(&mut relay, &args([address]), Format::Json).await;
    assert_failed(
        &reports[0],
        Step::Connect,
        &relay.local_peer_id().to_string(),
    );
}

#[tokio::test]
async fn peer_without_hop_protocol_fails_the_reserve_step() {
    for listen in [TCP, QUIC] {
        let (mut other, address) = peer(listen, None).await;
        let (reports, _) = probe(&mut other, &args([address]), Format::Json).await;
        assert_failed(&reports[0], Step::Reserve, "does not support");
        assert_eq!(
            reports[0].hint.as_deref(),
            Some("this peer is not a Circuit Relay v2 relay")
        );
    }
}

#[tokio::test]
async fn full_relay_fails_the_reserve_step() {
    let config = relay::Config {
        max_reservations: 0,
        ..relay::Config::default()
    };
    let (mut relay, address) = peer(TCP, Some(config)).await;
    let (reports, _) = probe(&mut relay, &args([address]), Format::Json).await;
    assert_failed(&reports[0], Step::Reserve, "limit exceeded");
}

#[tokio::test]
async fn relay_at_its_circuit_limit_fails_the_circuit_step() {
    let config = relay::Config {
        max_circuits: 0,
        ..relay::Config::default()
    };
    let (mut relay, address) = peer(TCP, Some(config)).await;
    let (reports, _) = probe(&mut relay, &args([address]), Format::Json).await;
    assert_failed(&reports[0], Step::Circuit, "limit exceeded");
}

/// The limit is too small for the handshake of the two clients.
#[tokio::test]
async fn immediate_cut_fails_the_circuit_step() {
    let config = relay::Config {
        max_circuit_bytes: 100,
        ..relay::Config::default()
    };
    let (mut relay, address) = peer(TCP, Some(config)).await;
    let (reports, _) = probe(&mut relay, &args([address]), Format::Json).await;
    assert_eq!(reports[0].failed_step, Some(Step::Circuit), "{reports:?}");
}

/// A socket that accepts connections and never sends.
#[tokio::test]
async fn unresponsive_peer_fails_at_the_deadline() {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    let address = format!("/ip4/127.0.0.1/tcp/{port}").parse().unwrap();
    let (mut idle_peer, _) = peer(TCP, None).await;
    let args = Args {
        timeout: Duration::from_millis(200),
        ..args([address])
    };
    let (reports, _) = probe(&mut idle_peer, &args, Format::Json).await;
    assert_eq!(reports[0].failed_step, Some(Step::Connect), "{reports:?}");
    assert!(reports[0].error.is_some());
}

#[tokio::test]
async fn failure_of_one_relay_does_not_stop_the_probe() {
    let (mut relay, address) = peer(TCP, Some(ample_limits())).await;
    let (reports, out) = probe(
        &mut relay,
        &args([unused_address(), address.clone()]),
        Format::Text,
    )
    .await;
    assert_eq!(
        reports.iter().map(|report| report.ok).collect::<Vec<_>>(),
        [false, true]
    );
    for line in [
        "  ✗ connect     failed: ",
        "hint: is the relay running",
        "  ✓ relayed     ",
        "1 of 2 addresses",
    ] {
        assert!(out.contains(line), "{line:?} in {out}");
    }
    assert!(out.lines().any(|line| line == address.to_string()), "{out}");
}

/// A server that reads the TLS handshake's first message; gives its port, and the name in the message.
async fn tls_server() -> (u16, impl Future<Output = Option<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server_name = async move {
        let (socket, _) = listener.accept().await.unwrap();
        let handshake = LazyConfigAcceptor::new(Acceptor::default(), socket);
        let handshake = handshake.await.unwrap();
        handshake.client_hello().server_name().map(str::to_owned)
    };
    (port, server_name)
}

/// Certificates of public authorities cannot be had here. What is sent before them shows that the
/// address is dialled, and as which name.
#[tokio::test]
async fn websocket_addresses_with_tls_are_dialled() {
    for (host, protocols, name) in [
        ("/dns4/localhost", "/tls/ws", "localhost"),
        ("/dns4/localhost", "/wss", "localhost"),
        ("/ip4/127.0.0.1", "/tls/sni/relay.test/ws", "relay.test"),
        ("/dns4/localhost", "/tls/sni/relay.test/ws", "relay.test"),
    ] {
        let (port, server_name) = tls_server().await;
        let address: Multiaddr = format!("{host}/tcp/{port}{protocols}").parse().unwrap();
        let args = args([address.clone()]);
        let mut out = Vec::new();
        let probe = run(&args, Format::Json, &mut out);
        let (reports, server_name) = tokio::join!(probe, server_name);
        assert_eq!(server_name.as_deref(), Some(name), "{address}");
        let [report] = &reports.unwrap()[..] else {
            panic!("one relay, one report")
        };
        assert!(!report.ok, "the server has no certificate");
        let json: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(json["failed_step"], "connect", "{json}");
        assert_eq!(json["transport"], "wss", "{json}");
    }
}

fn assert_hint(report: &Report, words: &str) {
    let hint = report.hint.as_deref().unwrap_or_default();
    assert!(hint.contains(words), "{words:?} in {report:?}");
}

#[tokio::test]
async fn missing_and_superfluous_websocket_are_explained() {
    let (mut relay, address) = peer(WEBSOCKET, Some(ample_limits())).await;
    let without: Multiaddr = address.iter().take(2).collect();
    let (reports, _) = probe(&mut relay, &args([without]), Format::Json).await;
    assert_failed(&reports[0], Step::Connect, "WebSocket listens on this port");
    assert_hint(&reports[0], &format!("/ws is missing: {address}"));

    let (mut relay, address) = peer(TCP, Some(ample_limits())).await;
    let with = address.clone().with(Protocol::Ws("/".into()));
    let (reports, _) = probe(&mut relay, &args([with]), Format::Json).await;
    assert_failed(
        &reports[0],
        Step::Connect,
        "libp2p over TCP listens on this port",
    );
    assert_hint(&reports[0], &format!("without /ws: {address}"));
}

/// A server that responds with the same bytes to everything.
async fn server(response: &'static [u8]) -> Multiaddr {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::task::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::task::spawn(async move {
                let mut request = [0; 1024];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(response).await;
            });
        }
    });
    format!("/ip4/127.0.0.1/tcp/{port}").parse().unwrap()
}

#[tokio::test]
async fn other_servers_are_named() {
    let (mut idle_peer, _) = peer(TCP, None).await;
    for (response, words) in [
        (&b"HTTP/1.1 404 Not Found\r\n\r\n"[..], "an HTTP server"),
        (b"\x15\x03\x01\x00\x02\x02\x46", "a TLS server"),
        (b"SSH-2.0-server\r\n", "it sends \"SSH-2.0-server\""),
    ] {
        let address = server(response).await;
        let (reports, _) = probe(&mut idle_peer, &args([address]), Format::Json).await;
        assert_failed(&reports[0], Step::Connect, words);
        assert!(reports[0].hint.is_some());
    }
}

/// A name server for which no name exists.
async fn empty_name_server() -> String {
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap().to_string();
    tokio::task::spawn(async move {
        let mut packet = [0; 512];
        loop {
            let (length, from) = socket.recv_from(&mut packet).await.unwrap();
            let mut query = hickory_proto::op::Message::from_vec(&packet[..length]).unwrap();
            query.metadata.message_type = hickory_proto::op::MessageType::Response;
            query.metadata.response_code = hickory_proto::op::ResponseCode::NXDomain;
            query.metadata.authoritative = true;
            let response = query.to_vec().unwrap();
            socket.send_to(&response, from).await.unwrap();
        }
    });
    address
}

#[tokio::test]
async fn names_that_do_not_exist_are_explained() {
    let (mut idle_peer, _) = peer(TCP, None).await;
    let addresses = ["/dns4/nowhere.example/tcp/9000", "/dnsaddr/nowhere.example"];
    let args = Args {
        dns_server: Some(empty_name_server().await),
        ..args(addresses.map(|address| address.parse().unwrap()))
    };
    let (reports, _) = probe(&mut idle_peer, &args, Format::Json).await;
    assert_failed(&reports[0], Step::Connect, "no such name: nowhere.example");
    assert_failed(
        &reports[1],
        Step::Resolve,
        "no TXT record of _dnsaddr.nowhere.example",
    );
    for report in &reports {
        assert_hint(report, "--dns-server");
    }
}

/// A WebSocket server with a certificate of an authority that nothing trusts.
#[tokio::test]
async fn authority_of_a_certificate_can_be_trusted() {
    use libp2p::websocket::tls::{Certificate, Config, PrivateKey};
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

    let mut params = CertificateParams::new([]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    let tls_config = Config::new(
        PrivateKey::new(key.serialize_der()),
        [Certificate::new(certificate.der().to_vec())],
    );
    let tls_config = tls_config.unwrap();

    let mut relay = SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_other_transport(|key| {
            let tcp = tcp::tokio::Transport::new(tcp::Config::default());
            let mut websocket = libp2p::websocket::Config::new(tcp);
            websocket.set_tls_config(tls_config);
            websocket
                .upgrade(libp2p::core::upgrade::Version::V1Lazy)
                .authenticate(noise::Config::new(key).unwrap())
                .multiplex(yamux::Config::default())
        })
        .unwrap()
        .with_behaviour(|key| Behaviour {
            relay: Some(relay::Behaviour::new(key.public().into(), ample_limits())).into(),
            ping: ping::Behaviour::default(),
        })
        .unwrap()
        .build();
    let listen = "/ip4/127.0.0.1/tcp/0/tls/ws".parse().unwrap();
    relay.listen_on(listen).unwrap();
    let address = loop {
        if let SwarmEvent::NewListenAddr { address, .. } = relay.select_next_some().await {
            break address;
        }
    };
    relay.add_external_address(address.clone());

    let (reports, _) = probe(&mut relay, &args([address.clone()]), Format::Json).await;
    assert_failed(&reports[0], Step::Connect, "issued by an unknown authority");
    assert_hint(&reports[0], "--ca FILE");

    let directory = tempfile::tempdir().unwrap();
    let ca = directory.path().join("ca.pem");
    std::fs::write(&ca, issuer.pem()).unwrap();
    let trusting = Args {
        ca: Some(ca),
        ..args([address.clone()])
    };
    let (reports, _) = probe(&mut relay, &trusting, Format::Json).await;
    assert!(reports[0].ok, "{reports:?}");
    assert_eq!(reports[0].transport, Some("wss"));

    let missing = Args {
        ca: Some(directory.path().join("none.pem")),
        ..args([address])
    };
    let (reports, _) = probe(&mut relay, &missing, Format::Json).await;
    assert_failed(&reports[0], Step::Resolve, "--ca: ");
}

#[test]
fn arguments() {
    #[derive(clap::Parser)]
    struct Command {
        #[command(flatten)]
        probe: Args,
    }
    let parse = |args: &str| {
        <Command as clap::Parser>::try_parse_from(args.split(' ')).map(|command| command.probe)
    };
    let args = parse("probe /ip4/192.0.2.1/tcp/1 /dnsaddr/relay.test").unwrap();
    assert_eq!(args.addresses.len(), 2);
    assert_eq!((args.bytes, args.pings), (ByteSize::mib(8), 20));
    assert_eq!(args.timeout, Duration::from_secs(15));
    let args = parse("probe --bytes 2MB --timeout 1m --pings 3 /ip4/192.0.2.1/tcp/1").unwrap();
    assert_eq!(args.bytes, ByteSize::mb(2));
    assert_eq!(args.timeout, Duration::from_mins(1));
    for wrong in [
        "probe",
        "probe relay.test:9000",
        "probe --pings 0 /ip4/192.0.2.1/tcp/1",
    ] {
        assert!(parse(wrong).is_err(), "{wrong}");
    }
}
