//! stub
use std::process::ExitCode;
/// stub
#[derive(Debug, clap::Args)]
pub struct Args {}
/// stub
pub async fn execute(_: Args) -> ExitCode {
    ExitCode::FAILURE
}
