//! The image, the compose cluster and its upgrade, on a real Docker engine.
//!
//! `RELAY_TEST_IMAGE` names an image to be used instead of the one that is built from the checkout. The
//! latter is built with the profile `release`, which takes a fraction of the time of `dist`.

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
