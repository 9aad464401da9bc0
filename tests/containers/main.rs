//! Tests of the image, the compose cluster and its rolling upgrade on a Docker engine.
//!
//! `RELAY_TEST_IMAGE` names an existing image to test. Otherwise the image is built from the checkout
//! with the profile `release`, which builds several times faster than `dist`.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    unreachable_pub,
    reason = "tests fail loudly, and spawn what they like"
)]

mod cluster;
mod engine;
mod failures;
mod image;
mod shipped;
mod upgrade;
