//! The cipher on processors with vectors of 512 bits, from `OpenSSL`: it has code for them, and takes
//! three fifths of the time there that the other libraries take. They have none for this cipher, only
//! for AES.

use std::cell::RefCell;

use openssl::{cipher::Cipher, cipher_ctx::CipherCtx, error::ErrorStack};
use zeroize::Zeroizing;

use super::{cipher::Nonce, crypto::KEY_BYTES};

/// A key for messages that are long.
pub(super) struct Key(Zeroizing<[u8; KEY_BYTES]>);

impl Key {
    /// None if the other library is no slower here, or this one cannot work.
    pub(super) fn new(key: &[u8; KEY_BYTES]) -> Option<Self> {
        let works = has_avx512() && with_contexts(|_| Ok(())).is_some();
        works.then(|| Self(Zeroizing::new(*key)))
    }

    #[cfg(test)]
    pub(super) fn without_cpu_check(key: &[u8; KEY_BYTES]) -> Self {
        Self(Zeroizing::new(*key))
    }

    /// Writes `plaintext` to `ciphertext`, which is as long, and its tag to `tag`.
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

    /// Writes what `ciphertext` says to `plaintext`, which is as long, or zeros if it is not what was
    /// ciphertext.
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

/// What the library works with. It belongs to a thread and not to a key: there is nothing to
/// prepare for one, and keys that are not in use take no room. The last one stays there until the
/// next comes.
struct Contexts {
    seal: CipherCtx,
    open: CipherCtx,
}

impl Contexts {
    fn new() -> Result<Self, ErrorStack> {
        // First of all, so that the library does not end itself at the end of the process, while other
        // threads still work with it.
        openssl::init();
        // Looked up by name once; by its constant it would be looked up for each message.
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

fn with<R>(work: impl FnOnce(&mut Contexts) -> Result<R, ErrorStack>) -> Option<R> {
    CONTEXTS.with_borrow_mut(|contexts| work(contexts.as_mut()?).ok())
}

/// Whether the processor has what the library's code needs for the cipher and for its tag: Intel's
/// since Ice Lake, AMD's since Zen 4.
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

    /// See `.cargo/configure-openssl`. What it names and the library does not know is an error of the
    /// build; what is left out in vain shows here.
    #[test]
    fn other_ciphers_are_left_out() {
        assert!(Cipher::fetch(None, "ChaCha20-Poly1305", None).is_ok());
        for name in ["ARIA-256-GCM", "DES-EDE3-CBC", "SM4-GCM", "AES-256-OCB"] {
            assert!(Cipher::fetch(None, name, None).is_err(), "{name}");
        }
    }
}
