//! `ChaCha20-Poly1305` by `OpenSSL`, on processors with AVX-512. `OpenSSL` has AVX-512 code for this cipher,
//! and takes 60 % of the time of the other libraries, which have such code for AES only.

use std::cell::RefCell;

use openssl::{cipher::Cipher, cipher_ctx::CipherCtx, error::ErrorStack};
use zeroize::Zeroizing;

use super::{KEY_BYTES, Nonce};

/// A key for long messages.
pub(super) struct Key(Zeroizing<[u8; KEY_BYTES]>);

impl Key {
    /// Returns `None` if the processor has no AVX-512, or `OpenSSL` cannot be initialized.
    pub(super) fn new(key: &[u8; KEY_BYTES]) -> Option<Self> {
        let works = has_avx512() && with_contexts(|_| Ok(())).is_some();
        works.then(|| Self(Zeroizing::new(*key)))
    }

    #[cfg(test)]
    pub(super) fn without_cpu_check(key: &[u8; KEY_BYTES]) -> Self {
        Self(Zeroizing::new(*key))
    }

    /// Encrypts `plaintext` to `ciphertext`, which has the same length, and writes the tag to `tag`.
    pub(super) fn seal(
        &self,
        nonce: Nonce,
        associated: &[u8],
        plaintext: &[u8],
        ciphertext: &mut [u8],
        tag: &mut [u8],
    ) -> Option<()> {
        with_contexts(|Contexts { seal, .. }| {
            seal.encrypt_init(None, Some(self.0.as_slice()), Some(&nonce))?;
            seal.cipher_update(associated, None)?;
            seal.cipher_update(plaintext, Some(ciphertext))?;
            seal.cipher_final(&mut [])?;
            seal.tag(tag)
        })
    }

    /// Decrypts `ciphertext` to `plaintext`, which has the same length. If the tag is not valid, returns
    /// `None` and fills `plaintext` with zeros.
    pub(super) fn open(
        &self,
        nonce: Nonce,
        associated: &[u8],
        ciphertext: &[u8],
        tag: &[u8],
        plaintext: &mut [u8],
    ) -> Option<()> {
        let result = with_contexts(|Contexts { open, .. }| {
            open.decrypt_init(None, Some(self.0.as_slice()), Some(&nonce))?;
            open.set_tag(tag)?;
            open.cipher_update(associated, None)?;
            open.cipher_update(ciphertext, Some(&mut *plaintext))?;
            open.cipher_final(&mut []).map(|_| ())
        });
        if result.is_none() {
            plaintext.fill(0);
        }
        result
    }
}

/// The library's contexts. They are per thread and not per key: keys need no precomputation, and so take
/// no memory while they are not in use. A context keeps the last key until the next use.
struct Contexts {
    seal: CipherCtx,
    open: CipherCtx,
}

impl Contexts {
    fn new() -> Result<Self, ErrorStack> {
        // First, because it disables the library's exit handler, which would free its state while other
        // threads still use it.
        openssl::init();
        // Fetched by name once. The constant would be looked up for each message.
        let cipher = Cipher::fetch(None, "ChaCha20-Poly1305", None)?;
        let (mut seal, mut open) = (CipherCtx::new()?, CipherCtx::new()?);
        seal.encrypt_init(Some(&cipher), None, None)?;
        open.decrypt_init(Some(&cipher), None, None)?;
        Ok(Self { seal, open })
    }
}

thread_local! {
    static CONTEXTS: RefCell<Option<Contexts>> = RefCell::new(Contexts::new().ok());
}

fn with_contexts<R>(work: impl FnOnce(&mut Contexts) -> Result<R, ErrorStack>) -> Option<R> {
    CONTEXTS.with_borrow_mut(|contexts| work(contexts.as_mut()?).ok())
}

/// Whether the processor has the instructions that the library's code requires for the cipher and the
/// tag: Intel since Ice Lake, AMD since Zen 4.
fn has_avx512() -> bool {
    std::arch::is_x86_feature_detected!("avx512f")
        && std::arch::is_x86_feature_detected!("avx512bw")
        && std::arch::is_x86_feature_detected!("avx512dq")
        && std::arch::is_x86_feature_detected!("avx512vl")
        && std::arch::is_x86_feature_detected!("avx512ifma")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// See `.cargo/configure-openssl`, which disables them.
    #[test]
    fn other_ciphers_are_not_built() {
        assert!(Cipher::fetch(None, "ChaCha20-Poly1305", None).is_ok());
        for name in ["ARIA-256-GCM", "DES-EDE3-CBC", "SM4-GCM", "AES-256-OCB"] {
            assert!(Cipher::fetch(None, name, None).is_err(), "{name}");
        }
    }
}
