//! PEM files for connections to a collector.

use zeroize::Zeroizing;

use super::settings::Destination;
use crate::pem::read;

/// The variable of the CA certificates for the collector, for errors.
pub(super) const CERTIFICATE: &str = "OTEL_EXPORTER_OTLP_CERTIFICATE";
/// The variables of the client certificate, for errors.
pub(super) const CLIENT: &str =
    "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE and OTEL_EXPORTER_OTLP_CLIENT_KEY";
const CLIENT_KEY: &str = "OTEL_EXPORTER_OTLP_CLIENT_KEY";

/// The contents of the PEM files of a destination.
pub(super) struct TlsFiles {
    pub(super) certificate: Option<Vec<u8>>,
    /// Client certificate and key.
    pub(super) identity: Option<(Vec<u8>, Zeroizing<Vec<u8>>)>,
}

impl TlsFiles {
    /// Reads the files of `destination`.
    ///
    /// # Errors
    /// A message for the operator, when a file is missing or cannot be read.
    pub(super) fn read(destination: &Destination) -> Result<Self, String> {
        let certificate = destination.certificate.as_deref();
        let client = (
            destination.client_certificate.as_deref(),
            destination.client_key.as_deref(),
        );
        Ok(Self {
            certificate: certificate
                .map(|path| read(CERTIFICATE, path))
                .transpose()?,
            identity: match client {
                (Some(certificate), Some(key)) => Some((
                    read(CLIENT, certificate)?,
                    Zeroizing::new(read(CLIENT_KEY, key)?),
                )),
                (None, None) => None,
                _ => return Err(format!("{CLIENT} must be set together")),
            },
        })
    }
}
