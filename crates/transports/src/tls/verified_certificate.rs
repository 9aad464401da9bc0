//! The content of a certificate that was verified before.
//!
//! libp2p's parser verifies both signatures of a certificate, its own and that of the peer's identity,
//! each time. A handshake parses it three times, and only the first time has to verify it.

use libp2p::{PeerId, identity::PublicKey};
use rustls::pki_types::{CertificateDer, SubjectPublicKeyInfoDer};
use x509_parser::{
    asn1_rs::{FromDer, OctetString, Sequence},
    certificate::X509Certificate,
};

use crate::peer_key::{self, PeerKeyError};

/// The object identifier of libp2p's identity extension, 1.3.6.1.4.1.53594.1.1, in DER.
const IDENTITY: [u8; 10] = [0x2b, 6, 1, 4, 1, 0x83, 0xa2, 0x5a, 1, 1];

/// A certificate that was verified. No signature is checked here.
pub(super) struct VerifiedCertificate<'a>(X509Certificate<'a>);

impl<'a> VerifiedCertificate<'a> {
    /// Parses a certificate. Returns `None` if it cannot be parsed.
    pub(super) fn new(verified: &'a CertificateDer<'_>) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(verified).ok()?;
        Some(Self(certificate))
    }

    /// The public key of the handshake signature.
    pub(super) fn key(&self) -> SubjectPublicKeyInfoDer<'_> {
        self.0.public_key().raw.into()
    }

    /// The id of the peer, if the certificate has the identity extension.
    pub(super) fn peer_id(&self) -> Option<PeerId> {
        let key = PublicKey::try_decode_protobuf(&self.identity_key()?).ok()?;
        Some(key.to_peer_id())
    }

    /// The identity key in libp2p's protobuf form, if the certificate has the identity extension.
    fn identity_key(&self) -> Option<Vec<u8>> {
        let extensions = self.0.extensions();
        let identity = extensions
            .iter()
            .find(|extension| extension.oid.as_bytes() == IDENTITY)?;
        // The extension has the identity key and its signature.
        let (_, signed_key) = Sequence::from_der(identity.value).ok()?;
        let (_, key) = OctetString::from_der(&signed_key.content).ok()?;
        Some(key.as_ref().to_vec())
    }
}

/// Checks whether the keys of a certificate are supported. The certificate need not be verified; if it
/// cannot be parsed, it has no keys to reject.
///
/// # Errors
/// When a key is malformed or not supported.
pub(super) fn check_keys(certificate: &CertificateDer<'_>) -> Result<(), PeerKeyError> {
    let Some(certificate) = VerifiedCertificate::new(certificate) else {
        return Ok(());
    };
    peer_key::check_certificate_key(certificate.0.public_key())?;
    match certificate.identity_key() {
        Some(key) => peer_key::decode(&key).map(drop),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use libp2p::{identity::Keypair, tls::certificate};

    use super::*;

    #[test]
    fn peer_id_equals_that_of_libp2p() {
        let keypair = Keypair::generate_ed25519();
        let (certificate, _) = certificate::generate(&keypair).unwrap();
        let theirs = certificate::parse(&certificate).unwrap().peer_id();
        let ours = VerifiedCertificate::new(&certificate).unwrap().peer_id();
        assert_eq!(
            (ours, theirs),
            (Some(theirs), keypair.public().to_peer_id())
        );
    }

    #[test]
    fn certificate_without_identity_has_no_peer_id() {
        let foreign = rcgen::generate_simple_self_signed(["peer".to_owned()]).unwrap();
        let certificate = foreign.cert.into();
        assert_eq!(
            VerifiedCertificate::new(&certificate).unwrap().peer_id(),
            None
        );
        assert!(VerifiedCertificate::new(&CertificateDer::from(vec![0; 100])).is_none());
    }
}
