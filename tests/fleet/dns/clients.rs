//! libp2p's client resolves the fleet's name and connects to its relays.

use libp2p::{Multiaddr, multiaddr::Protocol};
use test_support::client::{Client, Security};

use crate::dns::{
    ZONE,
    server::{DnsServer, relay},
};

/// A client that resolves names only with this server.
async fn client(server: &DnsServer) -> Client {
    Client::with_name_servers(Security::Noise, &[server.address]).await
}

fn fleet() -> Multiaddr {
    Protocol::Dnsaddr(ZONE.into()).into()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_reserves_on_the_fleet() {
    let a = relay("relay-a", &[]).await;
    let b = relay("relay-b", &[]).await;
    let server = DnsServer::of(&[&a, &b], &[]).await;
    // By the peer id of each relay.
    for relay in [&a, &b] {
        let mut client = client(&server).await;
        let address = fleet().with(Protocol::P2p(relay.peer_id));
        client.reserve(&address).await.unwrap();
    }
    // A stopped relay cannot be reached by its peer id.
    a.signal(9);
    server.wait_for_relays(&[&b]).await;
    let mut client = client(&server).await;
    let address = fleet().with(Protocol::P2p(a.peer_id));
    client.reserve(&address).await.unwrap_err();
    let address = fleet().with(Protocol::P2p(b.peer_id));
    client.reserve(&address).await.unwrap();
}

/// If the addresses exceed the size of a response, `dnsaddr` records refer to further names.
#[tokio::test(flavor = "multi_thread")]
async fn client_follows_dnsaddr_references() {
    let mut relays = Vec::new();
    for n in 0..3 {
        let relay = relay(&format!("relay-{n}"), &[]).await;
        let own = relay.tcp();
        let Some(Protocol::Tcp(port)) = own.iter().nth(1) else {
            panic!("{own} has no port");
        };
        drop(relay);
        let announced: Vec<_> = (1..8)
            .map(|host| format!("/ip4/127.0.0.{host}/tcp/{port}"))
            .collect();
        let listen = format!("/ip4/0.0.0.0/tcp/{port}");
        let relay = crate::dns::server::relay(
            &format!("relay-{n}"),
            &[
                ("RELAY_LISTEN_ADDRESSES", &listen),
                ("RELAY_EXTERNAL_ADDRESSES", &announced.join(",")),
            ],
        )
        .await;
        relays.push(relay);
    }
    let server = DnsServer::of(&relays.iter().collect::<Vec<_>>(), &[]).await;
    assert!(server.texts().await[0].starts_with("dnsaddr=/dnsaddr/relay-"));
    for relay in &relays {
        let mut client = client(&server).await;
        let address = fleet().with(Protocol::P2p(relay.peer_id));
        client.reserve(&address).await.unwrap();
    }
}
