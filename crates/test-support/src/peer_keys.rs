//! Identity keys of peers: one of every supported type, and keys that libp2p's Rust clients do not
//! support, with handshakes that use them.

use std::{io, net::SocketAddr, sync::Arc};

use aws_lc_rs::{
    rand::SystemRandom,
    rsa,
    signature::{KeyPair as _, RSA_PKCS1_SHA256},
};
use libp2p::{identity::Keypair, tls::make_client_config};
use rcgen::{CertificateParams, CustomExtension, PublicKeyData as _};
use rustls::{
    ClientConfig,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName},
    sign::{CertifiedKey, SingleCertAndKey},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// RSA keys for tests only, in PKCS #1 form.
const RSA_2048: &[u8] = include_bytes!("keys/rsa-2048.der");
const RSA_4096: &[u8] = include_bytes!("keys/rsa-4096.der");
const RSA_8192: &[u8] = include_bytes!("keys/rsa-8192.der");

/// Key types in libp2p's protobuf encoding.
const RSA: u8 = 0;
const ECDSA: u8 = 3;

/// Object identifier of libp2p's identity extension.
const IDENTITY_EXTENSION: [u64; 9] = [1, 3, 6, 1, 4, 1, 53594, 1, 1];

/// A new key of every type with its name, and this RSA key.
pub fn every_type(rsa: Keypair) -> [(&'static str, Keypair); 4] {
    [
        ("Ed25519", Keypair::generate_ed25519()),
        ("secp256k1", Keypair::generate_secp256k1()),
        ("ECDSA", Keypair::generate_ecdsa()),
        ("RSA", rsa),
    ]
}

/// An RSA key of 2,048 bits.
pub fn rsa_2048() -> Keypair {
    rsa_key(RSA_2048)
}

/// An RSA key of 4,096 bits, the maximum of libp2p's Rust clients.
pub fn rsa_4096() -> Keypair {
    rsa_key(RSA_4096)
}

fn rsa_key(pkcs1: &[u8]) -> Keypair {
    Keypair::from_protobuf_encoding(&protobuf(RSA, pkcs1)).unwrap()
}

/// A private RSA key of 8,192 bits, protobuf-encoded.
pub fn private_rsa_8192() -> Vec<u8> {
    protobuf(RSA, RSA_8192)
}

/// A key that libp2p's Rust clients do not support.
pub struct ForeignKey {
    /// The public key, protobuf-encoded.
    public: Vec<u8>,
    /// `None` if signatures are to be invalid.
    private: Option<rsa::KeyPair>,
}

impl ForeignKey {
    /// The largest supported RSA key.
    pub fn rsa_8192() -> Self {
        let private = rsa::KeyPair::from_der(RSA_8192).unwrap();
        Self {
            public: protobuf(RSA, &rsa_spki(private.public_key().as_ref())),
            private: Some(private),
        }
    }

    /// An RSA public key with a modulus of this many bits and exponent 65,537, without a private key.
    pub fn forged_rsa(bits: usize) -> Self {
        let modulus = [vec![0], vec![0xff; bits / 8]].concat();
        let numbers = [der(2, &modulus), der(2, &[1, 0, 1])].concat();
        Self::forged(RSA, &rsa_spki(&der(0x30, &numbers)))
    }

    /// An ECDSA key on the curve P-384.
    pub fn p384() -> Self {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
        Self::forged(ECDSA, &key.subject_public_key_info())
    }

    /// A malformed key.
    pub fn malformed() -> Self {
        Self::forged(ECDSA, b"not a key")
    }

    fn forged(key_type: u8, data: &[u8]) -> Self {
        Self {
            public: protobuf(key_type, data),
            private: None,
        }
    }

    /// The public key, protobuf-encoded.
    pub fn public(&self) -> &[u8] {
        &self.public
    }

    /// A signature, invalid for keys without a private key.
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        let Some(key) = &self.private else {
            return vec![0x55; 64];
        };
        let mut signature = vec![0; key.public_modulus_len()];
        key.sign(
            &RSA_PKCS1_SHA256,
            &SystemRandom::new(),
            message,
            &mut signature,
        )
        .unwrap();
        signature
    }

    /// A TLS client configuration with a certificate for this key.
    fn tls(&self) -> ClientConfig {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let message = [
            b"libp2p-tls-handshake:".as_slice(),
            &key.subject_public_key_info(),
        ];
        let signed = [der(4, &self.public), der(4, &self.sign(&message.concat()))].concat();
        let mut identity =
            CustomExtension::from_oid_content(&IDENTITY_EXTENSION, der(0x30, &signed));
        identity.set_criticality(true);
        let mut certificate = CertificateParams::default();
        certificate.custom_extensions.push(identity);
        let certificate = certificate.self_signed(&key).unwrap();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let key = rustls::crypto::aws_lc_rs::sign::any_ecdsa_type(&key).unwrap();
        let mut client = make_client_config(&Keypair::generate_ed25519(), None).unwrap();
        client.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(CertifiedKey::new(
            vec![certificate.into()],
            key,
        )));
        client
    }

    /// Connects over TCP and TLS. Returns when the relay closes the connection.
    pub async fn over_tls(&self, relay: SocketAddr) -> io::Result<()> {
        const PROTOCOLS: &[u8] = b"\x13/multistream/1.0.0\n\x0b/tls/1.0.0\n";
        let mut socket = TcpStream::connect(relay).await?;
        socket.write_all(PROTOCOLS).await?;
        let mut answer = vec![0; PROTOCOLS.len()];
        socket.read_exact(&mut answer).await?;
        assert_eq!(answer, PROTOCOLS);
        let connector = tokio_rustls::TlsConnector::from(Arc::new(self.tls()));
        let name = ServerName::try_from("libp2p").unwrap();
        let mut stream = connector.connect(name, socket).await?;
        stream.read_to_end(&mut Vec::new()).await?;
        Ok(())
    }

    /// Connects over QUIC. Returns when the relay closes the connection.
    pub async fn over_quic(&self, relay: SocketAddr) -> io::Result<()> {
        let mut client = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap())?;
        let tls = quinn::crypto::rustls::QuicClientConfig::try_from(self.tls());
        let tls = Arc::new(tls.map_err(io::Error::other)?);
        client.set_default_client_config(quinn::ClientConfig::new(tls));
        let connecting = client.connect(relay, "libp2p").map_err(io::Error::other)?;
        let connection = connecting.await?;
        Err(connection.closed().await.into())
    }
}

/// A protobuf-encoded public key.
fn protobuf(key_type: u8, data: &[u8]) -> Vec<u8> {
    let mut message = vec![0x08, key_type, 0x12];
    prost::encoding::encode_varint(data.len() as u64, &mut message);
    message.extend_from_slice(data);
    message
}

/// The X.509 form of an RSA key in PKCS #1 form.
fn rsa_spki(pkcs1: &[u8]) -> Vec<u8> {
    const RSA_ENCRYPTION: &[u8] = b"\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00";
    let key = der(3, &[&[0], pkcs1].concat());
    der(0x30, &[RSA_ENCRYPTION, &key].concat())
}

/// A DER value with a tag and a length.
fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let short = u8::try_from(length).ok().filter(|length| *length < 0x80);
    let header = match (short, u8::try_from(length)) {
        (Some(length), _) => vec![tag, length],
        (None, Ok(length)) => vec![tag, 0x81, length],
        (None, Err(_)) => {
            let [high, low] = u16::try_from(length).unwrap().to_be_bytes();
            vec![tag, 0x82, high, low]
        }
    };
    [&header, content].concat()
}
