//! What the tests and benchmarks of the workspace share.

pub mod fuzz;
