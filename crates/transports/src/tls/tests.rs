use futures_rustls::TlsConnector;
use libp2p::identity::Keypair;
use rustls::{CipherSuite, ClientConfig, NamedGroup, pki_types::ServerName};
use tokio_util::compat::TokioAsyncReadCompatExt;

use super::*;

mod stream;

type ClientStream =
    futures_rustls::client::TlsStream<tokio_util::compat::Compat<tokio::io::DuplexStream>>;

/// The results of both sides of a handshake with this client.
async fn handshake(client: ClientConfig) -> (Result<PeerId, Error>, std::io::Result<ClientStream>) {
    let (near, far) = tokio::io::duplex(16 * 1024);
    let server =
        Arc::new(server(&Keypair::generate_ed25519(), ConnectionGater::unlimited()).unwrap());
    let name = ServerName::try_from("libp2p.invalid").unwrap();
    let (accepted, connected) = tokio::join!(
        accept(server, far.compat()),
        TlsConnector::from(Arc::new(client)).connect(name, near.compat())
    );
    (accepted.map(|(peer, _)| peer), connected)
}

#[tokio::test]
async fn server_prefers_the_cheapest_cipher() {
    let keypair = Keypair::generate_ed25519();
    let client = libp2p::tls::make_client_config(&keypair, None).unwrap();
    let first = client.crypto_provider().cipher_suites[0].suite();
    assert_eq!(first, CipherSuite::TLS13_CHACHA20_POLY1305_SHA256);
    let (peer, stream) = handshake(client).await;
    assert_eq!(peer.unwrap(), keypair.public().to_peer_id());
    let stream = stream.unwrap();
    let connection = stream.get_ref().1;
    let cipher = connection.negotiated_cipher_suite().unwrap().suite();
    let cheapest = if ciphers::has_aes() {
        CipherSuite::TLS13_AES_128_GCM_SHA256
    } else {
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256
    };
    assert_eq!(cipher, cheapest);
    assert_eq!(connection.alpn_protocol(), Some(ALPN));
    // The key exchange is the client's first choice as well.
    let group = connection.negotiated_key_exchange_group().unwrap().name();
    assert_eq!(group, NamedGroup::X25519MLKEM768);
}

/// A client with the certificates `chain` and a key of `signer`.
fn client_with(chain: Vec<CertificateDer<'static>>, signer: &Keypair) -> ClientConfig {
    let mut client = libp2p::tls::make_client_config(signer, None).unwrap();
    let (_, key) = certificate::generate(signer).unwrap();
    let key = aws_lc_rs::sign::any_ecdsa_type(&key).unwrap();
    client.client_auth_cert_resolver =
        Arc::new(SingleCertAndKey::from(CertifiedKey::new(chain, key)));
    client
}

#[tokio::test]
async fn unauthenticated_peer_is_rejected() {
    let keypair = Keypair::generate_ed25519();
    let certificate = || certificate::generate(&keypair).unwrap().0;
    let foreign = rcgen::generate_simple_self_signed(["peer".to_owned()]).unwrap();
    let cases = [
        ("no certificate", Vec::new()),
        ("two certificates", vec![certificate(), certificate()]),
        ("not libp2p's", vec![foreign.cert.into()]),
        ("garbage", vec![CertificateDer::from(vec![0; 100])]),
        // The client does not have the key of the certificate.
        ("someone else's", vec![certificate()]),
    ];
    for (case, chain) in cases {
        let (peer, _) = handshake(client_with(chain, &keypair)).await;
        assert!(peer.is_err(), "{case}: {peer:?}");
    }
}
