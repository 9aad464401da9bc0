//! PEM files of TLS certificates and keys.

use std::{
    fmt,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

use super::settings::Destination;

/// The variable of the CA certificates for the collector, for errors.
pub(super) const CERTIFICATE: &str = "OTEL_EXPORTER_OTLP_CERTIFICATE";
/// The variables of the client certificate, for errors.
pub(super) const CLIENT: &str =
    "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE and OTEL_EXPORTER_OTLP_CLIENT_KEY";
const CLIENT_KEY: &str = "OTEL_EXPORTER_OTLP_CLIENT_KEY";

/// Maximum size of a file; the CA certificates of a system have some hundred KiB.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

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

/// The error about a file with invalid content.
pub(crate) fn invalid(variable: &str, error: &dyn fmt::Display) -> String {
    format!("{variable}: {error}")
}

/// Reads the file that `variable` names; at most 1 MiB.
pub(crate) fn read(variable: &str, path: &Path) -> Result<Vec<u8>, String> {
    let mut content = Vec::new();
    let read = File::open(path)
        .and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut content))
        .and_then(|read| {
            if read as u64 > MAX_FILE_BYTES {
                return Err(io::Error::other("larger than 1 MiB"));
            }
            Ok(content)
        });
    read.map_err(|error| format!("{variable}: {} cannot be read: {error}", path.display()))
}
