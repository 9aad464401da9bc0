//! TLS 1.3 of the accepting side, for TCP, WebSocket and QUIC: libp2p's [TLS handshake], with the
//! cipher that is cheapest for the relay.
//!
//! The server chooses the cipher. libp2p's configuration follows the client's preference, and clients
//! in Rust prefer ChaCha20-Poly1305 on all hardware. A relay decrypts and encrypts every byte; on
//! processors with AES instructions, AES-GCM takes a third of the time.
//!
//! [TLS handshake]: https://github.com/libp2p/specs/blob/master/tls/tls.md

mod ciphers;
mod records;
mod stream;
mod verified_certificate;

use std::sync::Arc;

use futures::{AsyncRead, AsyncWrite};
use libp2p::{PeerId, identity::Keypair, tls::certificate};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, ServerConfig,
    SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls13_signature_with_raw_key},
    pki_types::{CertificateDer, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
    sign::{CertifiedKey, SingleCertAndKey},
};

pub use self::stream::TlsServerStream;
use self::verified_certificate::VerifiedCertificate;
use super::ConnectionGater;

/// The only application protocol.
const ALPN: &[u8] = b"libp2p";

/// The error of a configuration or a handshake.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The local certificate could not be generated from the identity.
    #[error("cannot generate a certificate: {0}")]
    Certificate(#[from] certificate::GenError),
    /// The TLS library does not accept the local certificate or the ciphers.
    #[error("cannot use TLS: {0}")]
    Unusable(#[from] rustls::Error),
    /// The handshake failed.
    #[error("the handshake failed: {0}")]
    Handshake(#[from] std::io::Error),
    /// The peer has no certificate with an identity.
    #[error("the peer has no certificate")]
    NoPeerCertificate,
}

/// The server configuration that authenticates as `keypair`. Peers that are rejected for their identity
/// key are reported to `gater`.
///
/// # Errors
/// When `keypair` cannot make a certificate; Ed25519 and secp256k1 keys always can.
pub(super) fn server(keypair: &Keypair, gater: ConnectionGater) -> Result<ServerConfig, Error> {
    let (certificate, key) = certificate::generate(keypair)?;
    let key = aws_lc_rs::sign::any_ecdsa_type(&key)?;
    let ours = SingleCertAndKey::from(CertifiedKey::new(vec![certificate], key));
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites = ciphers::ciphers();
    let any_peer = AnyPeer {
        algorithms: provider.signature_verification_algorithms,
        gater,
    };
    let mut tls = ServerConfig::builder_with_provider(provider.into())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(any_peer))
        .with_cert_resolver(Arc::new(ours));
    tls.ignore_client_order = true;
    tls.alpn_protocols = vec![ALPN.to_vec()];
    // Sessions are not resumed, so tickets would only cost bytes and memory.
    tls.send_tls13_tickets = 0;
    Ok(tls)
}

/// Performs the handshake as the server. Returns the id of the authenticated peer, and the encrypted
/// stream.
///
/// # Errors
/// When the socket fails, or the peer cannot be authenticated.
pub(super) async fn accept<C>(
    tls: Arc<ServerConfig>,
    socket: C,
) -> Result<(PeerId, TlsServerStream<C>), Error>
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    let stream = TlsServerStream::accept(tls, socket).await?;
    let peer = peer_id(stream.state().peer_certificates().unwrap_or_default())?;
    Ok((peer, stream))
}

/// The id of the peer with the certificate `chain`, which the handshake has verified.
pub(super) fn peer_id(chain: &[CertificateDer<'_>]) -> Result<PeerId, Error> {
    let peer = chain
        .first()
        .and_then(|end_entity| VerifiedCertificate::new(end_entity)?.peer_id());
    peer.ok_or(Error::NoPeerCertificate)
}

/// Accepts every authenticated peer: it has a single certificate according to libp2p's specification,
/// whose key signs the handshake.
#[derive(Debug)]
struct AnyPeer {
    /// The algorithms of the handshake signature.
    algorithms: WebPkiSupportedAlgorithms,
    gater: ConnectionGater,
}

impl AnyPeer {
    /// Rejects certificates with keys that are not supported, before any signature is verified. They are
    /// reported here, because QUIC's errors do not contain the cause.
    fn check_keys(&self, certificate: &CertificateDer<'_>) -> Result<(), rustls::Error> {
        verified_certificate::check_keys(certificate).map_err(|error| {
            self.gater.record_refusal(error.reason());
            bad_certificate(error)
        })
    }
}

impl ClientCertVerifier for AnyPeer {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        if !intermediates.is_empty() {
            let why = "a libp2p peer has exactly one certificate";
            return Err(rustls::Error::General(why.to_owned()));
        }
        self.check_keys(end_entity)?;
        certificate::parse(end_entity).map_err(bad_certificate)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let why = "libp2p requires TLS 1.3";
        Err(rustls::Error::General(why.to_owned()))
    }

    /// Called after [`Self::verify_client_cert`] with the same certificate, which is therefore valid.
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let certificate =
            VerifiedCertificate::new(certificate).ok_or(CertificateError::BadEncoding)?;
        verify_tls13_signature_with_raw_key(
            message,
            &certificate.key(),
            signature,
            &self.algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![
            SignatureScheme::ECDSA_NISTP384_SHA384,
            SignatureScheme::ECDSA_NISTP256_SHA256,
            SignatureScheme::ED25519,
            SignatureScheme::RSA_PSS_SHA512,
            SignatureScheme::RSA_PSS_SHA384,
            SignatureScheme::RSA_PSS_SHA256,
            SignatureScheme::RSA_PKCS1_SHA512,
            SignatureScheme::RSA_PKCS1_SHA384,
            SignatureScheme::RSA_PKCS1_SHA256,
        ]
    }
}

fn bad_certificate(error: impl std::error::Error + Send + Sync + 'static) -> rustls::Error {
    CertificateError::Other(OtherError(Arc::new(error))).into()
}

#[cfg(test)]
mod tests;
