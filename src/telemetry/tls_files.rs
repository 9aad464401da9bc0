//! PEM files for connections to a collector.

use std::path::PathBuf;

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
        let read =
            |variable, path: Option<&PathBuf>| path.map(|path| read(variable, path)).transpose();
        let certificate = read(CERTIFICATE, destination.certificate.as_ref())?;
        let client = read(CLIENT, destination.client_certificate.as_ref())?;
        let key = read(CLIENT_KEY, destination.client_key.as_ref())?.map(Zeroizing::new);
        if client.is_some() != key.is_some() {
            return Err(format!("{CLIENT} must be set together"));
        }
        Ok(Self {
            certificate,
            identity: client.zip(key),
        })
    }
}
