//! The image, the compose cluster and its upgrade, on a real Docker engine.
//!
//! `RELAY_TEST_IMAGE` names an image to be used instead of the one that is built from the checkout. The
//! latter is built with the profile `release`, which takes a fraction of the time of `dist`.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::incompatible_msrv,
    unreachable_pub,
    reason = "tests fail loudly, and spawn what they like"
)]

mod cluster;
mod engine;
mod failures;
#[path = "../support/foreign.rs"]
#[allow(
    dead_code,
    clippy::allow_attributes,
    reason = "skipping is all that is needed of it"
)]
mod foreign;
mod image;
mod shipped;
#[path = "../support/mod.rs"]
mod support;
mod upgrade;
