//! The `OTEL_*` environment variables.
//!
//! | module | contents |
//! |---|---|
//! | [`table`] | every variable: name, default, allowed values, documentation |
//! | [`parse`] | parsers for the values |
//! | [`raw`] | the values, before defaults are applied |
//! | [`environment`] | reads the values of an environment |
//! | [`unknown`] | warnings about names that are not in the table |
//! | [`config`] | defaults and precedence: from the raw values to [`Settings`](super::Settings) |

mod config;
mod environment;
mod parse;
mod raw;
mod table;
mod unknown;

pub use self::table::{names, reference_table};
