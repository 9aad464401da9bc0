//! What stands for `wide` on other architectures, which have no such processors, and where `OpenSSL`
//! is left out.

use super::{cipher::Nonce, crypto::KEY_BYTES};

pub(super) enum Key {}

impl Key {
    pub(super) fn new(_: &[u8; KEY_BYTES]) -> Option<Self> {
        None
    }

    pub(super) fn seal(
        &self,
        _: Nonce,
        _: &[u8],
        _: &[u8],
        _: &mut [u8],
        _: &mut [u8],
    ) -> Option<()> {
        match *self {}
    }

    pub(super) fn open(&self, _: Nonce, _: &[u8], _: &[u8], _: &[u8], _: &mut [u8]) -> Option<()> {
        match *self {}
    }
}
