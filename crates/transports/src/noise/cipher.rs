//! `ChaCha20-Poly1305` from one buffer to another, by AWS-LC or `OpenSSL`, whichever is faster for the
//! length and the processor.

use aws_lc_rs::aead::{self, Aad, CHACHA20_POLY1305, LessSafeKey, UnboundKey};
use snow::{Error, types::Cipher};

use super::{KEY_BYTES, Nonce, TAG_BYTES, openssl_avx512};

/// The minimum plaintext for `OpenSSL` in bytes. Its setup takes a microsecond longer than that of AWS-LC,
/// which AVX-512 compensates from 3 KiB on.
const MIN_OPENSSL_BYTES: usize = 4096;

/// The cipher of one direction, or of the handshake. Without a key, every operation fails.
#[derive(Default)]
pub(super) struct ChaChaPoly {
    aws_lc: Option<LessSafeKey>,
    /// The same key for long messages, if the processor has AVX-512.
    openssl_avx512: Option<openssl_avx512::Key>,
}

/// The nonce with this number, as Noise specifies it. Noise uses each number once per key.
fn nonce(number: u64) -> Nonce {
    let mut nonce = Nonce::default();
    let (_, low) = nonce.split_at_mut(4);
    low.copy_from_slice(&number.to_le_bytes());
    nonce
}

impl ChaChaPoly {
    fn openssl_avx512(&self, length: usize) -> Option<&openssl_avx512::Key> {
        self.openssl_avx512
            .as_ref()
            .filter(|_| length >= MIN_OPENSSL_BYTES)
    }

    fn seal(
        &self,
        number: u64,
        associated: &[u8],
        plaintext: &[u8],
        out: &mut [u8],
    ) -> Option<usize> {
        let (ciphertext, rest) = out.split_at_mut_checked(plaintext.len())?;
        let tag = rest.get_mut(..TAG_BYTES)?;
        let nonce = nonce(number);
        if let Some(key) = self.openssl_avx512(plaintext.len()) {
            key.seal(nonce, associated, plaintext, ciphertext, tag)?;
        } else {
            let key = self.aws_lc.as_ref()?;
            let nonce = aead::Nonce::assume_unique_for_key(nonce);
            let associated = Aad::from(associated);
            key.seal_out_of_place_scatter(nonce, associated, plaintext, ciphertext, &[], tag)
                .ok()?;
        }
        Some(plaintext.len() + TAG_BYTES)
    }

    fn open(
        &self,
        number: u64,
        associated: &[u8],
        ciphertext: &[u8],
        out: &mut [u8],
    ) -> Option<usize> {
        let length = ciphertext.len().checked_sub(TAG_BYTES)?;
        let (ciphertext, tag) = ciphertext.split_at_checked(length)?;
        let out = out.get_mut(..length)?;
        let nonce = nonce(number);
        if let Some(key) = self.openssl_avx512(length) {
            key.open(nonce, associated, ciphertext, tag, out)?;
        } else {
            let key = self.aws_lc.as_ref()?;
            let nonce = aead::Nonce::assume_unique_for_key(nonce);
            key.open_separate_gather(nonce, Aad::from(associated), ciphertext, tag, out)
                .ok()?;
        }
        Some(length)
    }
}

impl Cipher for ChaChaPoly {
    fn name(&self) -> &'static str {
        "ChaChaPoly"
    }

    fn set(&mut self, key: &[u8; KEY_BYTES]) {
        self.openssl_avx512 = openssl_avx512::Key::new(key);
        let key = UnboundKey::new(&CHACHA20_POLY1305, key);
        self.aws_lc = key.ok().map(LessSafeKey::new);
    }

    /// Returns 0 if the library fails, which is less than a tag: no caller can mistake that for a
    /// message.
    fn encrypt(&self, number: u64, associated: &[u8], plaintext: &[u8], out: &mut [u8]) -> usize {
        self.seal(number, associated, plaintext, out).unwrap_or(0)
    }

    fn decrypt(
        &self,
        number: u64,
        associated: &[u8],
        ciphertext: &[u8],
        out: &mut [u8],
    ) -> Result<usize, Error> {
        self.open(number, associated, ciphertext, out)
            .ok_or(Error::Decrypt)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: [u8; KEY_BYTES] = [7; KEY_BYTES];

    /// A cipher without an `OpenSSL` key, and one with it, on any processor.
    fn ciphers() -> (ChaChaPoly, ChaChaPoly) {
        let (mut aws_lc, mut openssl) = (ChaChaPoly::default(), ChaChaPoly::default());
        aws_lc.set(&KEY);
        aws_lc.openssl_avx512 = None;
        openssl.set(&KEY);
        #[cfg(all(target_arch = "x86_64", feature = "openssl"))]
        {
            openssl.openssl_avx512 = Some(openssl_avx512::Key::without_cpu_check(&KEY));
        }
        (aws_lc, openssl)
    }

    fn encrypted(cipher: &ChaChaPoly, number: u64, associated: &[u8], plaintext: &[u8]) -> Vec<u8> {
        let mut out = vec![0; plaintext.len() + TAG_BYTES];
        let length = cipher.encrypt(number, associated, plaintext, &mut out);
        assert_eq!(length, out.len());
        out
    }

    #[test]
    fn operations_fail_without_a_key_or_space() {
        let plaintext = [1; MIN_OPENSSL_BYTES];
        let mut out = [0; MIN_OPENSSL_BYTES + TAG_BYTES];
        let none = ChaChaPoly::default();
        assert_eq!(none.encrypt(0, &[], &plaintext, &mut out), 0);
        assert!(none.decrypt(0, &[], &[0; 99], &mut out).is_err());
        let (aws_lc, openssl) = ciphers();
        for cipher in [aws_lc, openssl] {
            let ciphertext = encrypted(&cipher, 0, &[], &plaintext);
            let (_, short) = out.split_at_mut(TAG_BYTES + 1);
            assert_eq!(cipher.encrypt(0, &[], &plaintext, short), 0);
            assert!(cipher.decrypt(0, &[], &ciphertext, short).is_err());
            assert!(cipher.decrypt(0, &[], &ciphertext[..15], &mut out).is_err());
        }
    }

    proptest! {
        /// Both libraries produce the same ciphertext, and decrypt it.
        #[test]
        fn the_libraries_agree(
            number in any::<u64>(),
            associated in proptest::collection::vec(any::<u8>(), 0..40),
            length in prop_oneof![0..100_usize, 3 * 1024..70_000_usize],
            first in any::<u8>(),
        ) {
            let bytes = (0..=250).cycle().map(|byte| first.wrapping_add(byte));
            let plaintext: Vec<u8> = bytes.take(length).collect();
            let (aws_lc, openssl) = ciphers();
            let message = encrypted(&aws_lc, number, &associated, &plaintext);
            prop_assert!(message == encrypted(&openssl, number, &associated, &plaintext));
            for cipher in [aws_lc, openssl] {
                let mut out = vec![0; plaintext.len()];
                prop_assert_eq!(cipher.decrypt(number, &associated, &message, &mut out).ok(), Some(length));
                prop_assert!(out == plaintext);
            }
        }

        /// A modified message is rejected, and no plaintext is left in the buffer.
        #[test]
        fn modified_message_is_rejected(
            length in prop_oneof![1..100_usize, 4096..20_000_usize],
            at in any::<prop::sample::Index>(),
            flip in 1..=255_u8,
        ) {
            let (aws_lc, openssl) = ciphers();
            let mut message = encrypted(&aws_lc, 3, b"with", &vec![5; length]);
            let mut out = vec![0; length];
            for cipher in [&aws_lc, &openssl] {
                prop_assert!(cipher.decrypt(4, b"with", &message, &mut out).is_err());
                prop_assert!(cipher.decrypt(3, b"without", &message, &mut out).is_err());
            }
            let at = at.index(message.len());
            message[at] ^= flip;
            for cipher in [&aws_lc, &openssl] {
                prop_assert!(cipher.decrypt(3, b"with", &message, &mut out).is_err());
                prop_assert!(out.iter().all(|&byte| byte == 0));
            }
        }
    }
}
