//! The cipher suites, their order, and the library that implements them.

use rustls::{
    SupportedCipherSuite,
    crypto::{aws_lc_rs, ring},
};

/// The cipher suites in order of preference: the cheapest on this processor first.
pub(super) fn ciphers() -> Vec<SupportedCipherSuite> {
    choose(has_aes(), has_short_vaes())
}

fn choose(has_aes: bool, has_short_vaes: bool) -> Vec<SupportedCipherSuite> {
    let mut ciphers = if has_short_vaes {
        use ring::cipher_suite;
        vec![
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            cipher_suite::TLS13_AES_256_GCM_SHA384,
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ]
    } else {
        use aws_lc_rs::cipher_suite;
        vec![
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            cipher_suite::TLS13_AES_256_GCM_SHA384,
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ]
    };
    if !has_aes {
        ciphers.reverse();
    }
    ciphers
}

/// Whether the processor has instructions for AES and for the multiplication of GCM.
pub(super) fn has_aes() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("aes")
        && std::arch::is_x86_feature_detected!("pclmulqdq");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes")
        && std::arch::is_aarch64_feature_detected!("pmull");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    return false;
}

/// Whether the processor encrypts two AES blocks per instruction, but not four: AMD before Zen 4, and
/// Intel without AVX-512. AWS-LC has code for one and for four blocks, ring also for two, which takes
/// half the time.
fn has_short_vaes() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("vaes")
        && std::arch::is_x86_feature_detected!("vpclmulqdq")
        && std::arch::is_x86_feature_detected!("avx2")
        && !std::arch::is_x86_feature_detected!("avx512bw");
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}

#[cfg(test)]
mod tests {
    use rustls::CipherSuite;

    use super::*;

    #[test]
    fn aes_is_preferred_with_hardware_support() {
        for has_short_vaes in [false, true] {
            let suites = |has_aes| {
                let suites = choose(has_aes, has_short_vaes).into_iter();
                suites.map(|cipher| cipher.suite()).collect::<Vec<_>>()
            };
            let mut expected = vec![
                CipherSuite::TLS13_AES_128_GCM_SHA256,
                CipherSuite::TLS13_AES_256_GCM_SHA384,
                CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
            ];
            assert_eq!(suites(true), expected);
            expected.reverse();
            assert_eq!(suites(false), expected);
        }
    }
}
