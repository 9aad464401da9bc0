//! TLS 1.3 of the accepting side, as TCP, WebSocket and QUIC use it: libp2p's [TLS handshake], with
//! the cheapest cipher first.
//!
//! Whoever accepts chooses the cipher. libp2p's own configuration leaves it to the client, and
//! clients in Rust put ChaCha20-Poly1305 first whatever they run on. A relay deciphers and enciphers
//! every byte; where the processor knows AES, AES-GCM takes it a third of the time.
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

/// The one protocol that is spoken in it.
const ALPN: &[u8] = b"libp2p";

/// Why there is no configuration, or no channel.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Our own certificate could not be made from the identity.
    #[error("cannot make a certificate: {0}")]
    Certificate(#[from] certificate::GenError),
    /// The TLS library does not take our certificate or our choice of ciphers.
    #[error("cannot use TLS: {0}")]
    Unusable(#[from] rustls::Error),
    /// The handshake failed.
    #[error("the handshake failed: {0}")]
    Handshake(#[from] std::io::Error),
    /// The peer showed no certificate that names it.
    #[error("the peer has no certificate")]
    NoPeerCertificate,
}

/// The configuration that proves to be `keypair`.
///
/// # Errors
/// When `keypair` cannot make a certificate; an Ed25519 key always can.
pub(super) fn server(keypair: &Keypair) -> Result<ServerConfig, Error> {
    let (certificate, key) = certificate::generate(keypair)?;
    let key = aws_lc_rs::sign::any_ecdsa_type(&key)?;
    let ours = SingleCertAndKey::from(CertifiedKey::new(vec![certificate], key));
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites = ciphers::ciphers();
    let any_peer = AnyPeer(provider.signature_verification_algorithms);
    let mut tls = ServerConfig::builder_with_provider(provider.into())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(any_peer))
        .with_cert_resolver(Arc::new(ours));
    tls.ignore_client_order = true;
    tls.alpn_protocols = vec![ALPN.to_vec()];
    // Every connection authenticates anew; tickets would only be bytes and memory.
    tls.send_tls13_tickets = 0;
    Ok(tls)
}

/// Accepts over a byte stream.
pub(super) async fn accept<C>(
    tls: Arc<ServerConfig>,
    socket: C,
) -> Result<(PeerId, TlsServerStream<C>), Error>
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    let channel = TlsServerStream::accept(tls, socket).await?;
    let peer = peer_id(channel.state().peer_certificates().unwrap_or_default())?;
    Ok((peer, channel))
}

/// Whose certificate this is, which the handshake has verified.
pub(super) fn peer_id(chain: &[CertificateDer<'_>]) -> Result<PeerId, Error> {
    let peer = chain
        .first()
        .and_then(|end_entity| VerifiedCertificate::new(end_entity)?.peer_id());
    peer.ok_or(Error::NoPeerCertificate)
}

/// Takes every peer that proves who it is: one certificate, made as libp2p has it, whose key signs
/// the handshake.
#[derive(Debug)]
struct AnyPeer(WebPkiSupportedAlgorithms);

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
            let why = "a peer of libp2p has exactly one certificate";
            return Err(rustls::Error::General(why.to_owned()));
        }
        certificate::parse(end_entity).map_err(bad_certificate)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let why = "libp2p begins with TLS 1.3";
        Err(rustls::Error::General(why.to_owned()))
    }

    /// After [`Self::verify_client_cert`], of the same certificate.
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let certificate =
            VerifiedCertificate::new(certificate).ok_or(CertificateError::BadEncoding)?;
        verify_tls13_signature_with_raw_key(message, &certificate.key(), signature, &self.0)
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

fn bad_certificate(error: certificate::ParseError) -> rustls::Error {
    CertificateError::Other(OtherError(Arc::new(error))).into()
}

#[cfg(test)]
mod tests;
