//! The key of a private network, in the format of kubo's `swarm.key`.
//!
//! Three lines: `/key/swarm/psk/1.0.0/`, the encoding (`/base16/`, `/base64/` or `/bin/`), and 32 bytes
//! in this encoding.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use libp2p_pnet::{Fingerprint, PreSharedKey};
use zeroize::Zeroizing;

/// The first line.
const HEADER: &str = "/key/swarm/psk/1.0.0/";

/// How a file with a binary key begins.
pub const BINARY_START: &[u8] = b"/key/swarm/psk/1.0.0/\n/bin/\n";

/// Length of a key in bytes.
const KEY_BYTES: usize = 32;

/// The pre-shared key of a private network. `Debug` and `Display` print `***`; the memory is zeroed on
/// drop.
#[derive(Clone, PartialEq, Eq)]
pub struct SwarmKey(Zeroizing<[u8; KEY_BYTES]>);

/// Why bytes are not a swarm key. The messages contain nothing of the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseSwarmKeyError {
    /// The first line is another one.
    #[error("does not start with the line `/key/swarm/psk/1.0.0/`")]
    Header,
    /// The second line is another one.
    #[error("has an unknown encoding in its second line")]
    Encoding,
    /// The rest is not 32 bytes in this encoding.
    #[error("has no key of 32 bytes in the encoding of its second line")]
    Key,
}

impl SwarmKey {
    /// Reads the content of a `swarm.key` file.
    ///
    /// # Errors
    /// If it has another form.
    pub fn parse(content: &[u8]) -> Result<Self, ParseSwarmKeyError> {
        let (header, rest) = split_line(content);
        if header != HEADER.as_bytes() {
            return Err(ParseSwarmKeyError::Header);
        }
        let (encoding, rest) = split_line(rest);
        let key = match encoding {
            b"/base16/" => base16(rest.trim_ascii()),
            b"/base64/" => base64(rest.trim_ascii()),
            b"/bin/" => rest
                .get(..KEY_BYTES)
                .and_then(|key| key.try_into().ok().map(Zeroizing::new)),
            _ => return Err(ParseSwarmKeyError::Encoding),
        };
        key.map(Self).ok_or(ParseSwarmKeyError::Key)
    }

    /// The content of a `swarm.key` file.
    pub fn to_file(&self) -> Zeroizing<String> {
        Zeroizing::new(self.pre_shared_key().to_key_file())
    }

    /// A hash of the key that other implementations print as well, to compare keys.
    pub fn fingerprint(&self) -> Fingerprint {
        self.pre_shared_key().fingerprint()
    }

    /// The key in the form of the implementation of private networks.
    pub fn pre_shared_key(&self) -> PreSharedKey {
        PreSharedKey::new(*self.0)
    }
}

impl fmt::Debug for SwarmKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for SwarmKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// The first line without its end, and what follows it.
fn split_line(bytes: &[u8]) -> (&[u8], &[u8]) {
    let end = bytes.iter().position(|byte| *byte == b'\n');
    let (line, rest) = match end {
        Some(end) => (
            bytes.get(..end).unwrap_or_default(),
            bytes.get(end + 1..).unwrap_or_default(),
        ),
        None => (bytes, &[][..]),
    };
    (line.strip_suffix(b"\r").unwrap_or(line), rest)
}

fn base16(text: &[u8]) -> Option<Zeroizing<[u8; KEY_BYTES]>> {
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    if text.len() != 2 * KEY_BYTES {
        return None;
    }
    for (byte, digits) in key.iter_mut().zip(text.chunks_exact(2)) {
        let mut value = 0;
        for digit in digits {
            value = value * 16 + char::from(*digit).to_digit(16)?;
        }
        *byte = u8::try_from(value).ok()?;
    }
    Some(key)
}

fn base64(text: &[u8]) -> Option<Zeroizing<[u8; KEY_BYTES]>> {
    let decoded = Zeroizing::new(STANDARD.decode(text).ok()?);
    let key = decoded.as_slice().try_into().ok()?;
    Some(Zeroizing::new(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "6189c5cf0b87fb800c1a9feeda73c6ab5e998db48fb9e6a978575c770ceef683";

    fn parse(content: &[u8]) -> Result<SwarmKey, ParseSwarmKeyError> {
        SwarmKey::parse(content)
    }

    #[test]
    fn all_encodings_are_read() {
        let text = format!("/key/swarm/psk/1.0.0/\n/base16/\n{HEX}\n");
        let key = parse(text.as_bytes()).unwrap();
        assert_eq!(
            key.fingerprint().to_string(),
            "45fc986bbc9388a11d939df26f730f0c"
        );
        assert_eq!(*key.to_file(), text);
        let upper = text.replace(HEX, &HEX.to_uppercase());
        assert_eq!(parse(upper.as_bytes()), Ok(key.clone()));
        let windows = text.replace('\n', "\r\n");
        assert_eq!(parse(windows.as_bytes()), Ok(key.clone()));
        let base64 = STANDARD.encode(*key.0);
        let text = format!("/key/swarm/psk/1.0.0/\n/base64/\n{base64}");
        assert_eq!(parse(text.as_bytes()), Ok(key.clone()));
        let mut binary = b"/key/swarm/psk/1.0.0/\n/bin/\n".to_vec();
        binary.extend(*key.0);
        assert_eq!(parse(&binary), Ok(key));
    }

    #[test]
    fn other_contents_are_errors() {
        use ParseSwarmKeyError::{Encoding, Header, Key};
        for (content, error) in [
            (String::new(), Header),
            (HEX.to_owned(), Header),
            (format!("/key/swarm/psk/2.0.0/\n/base16/\n{HEX}"), Header),
            ("/key/swarm/psk/1.0.0/".to_owned(), Encoding),
            (format!("/key/swarm/psk/1.0.0/\n/base32/\n{HEX}"), Encoding),
            (format!("/key/swarm/psk/1.0.0/\n/base16/\n{HEX}00"), Key),
            (
                format!("/key/swarm/psk/1.0.0/\n/base16/\n{}", &HEX[1..]),
                Key,
            ),
            (
                "/key/swarm/psk/1.0.0/\n/base16/\n".to_owned() + &"é".repeat(32),
                Key,
            ),
            ("/key/swarm/psk/1.0.0/\n/base64/\nAAAA".to_owned(), Key),
            ("/key/swarm/psk/1.0.0/\n/bin/\nshort".to_owned(), Key),
        ] {
            assert_eq!(parse(content.as_bytes()), Err(error), "{content}");
        }
    }

    #[test]
    fn keys_are_not_printed() {
        let key = SwarmKey(Zeroizing::new([7; 32]));
        assert_eq!(format!("{key} {key:?}"), "*** ***");
    }
}
