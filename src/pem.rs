//! PEM files of TLS certificates and keys.

use std::{
    fmt,
    fs::File,
    io::{self, Read},
    path::Path,
};

/// Maximum size of a file; the CA certificates of a system have some hundred KiB.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

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
