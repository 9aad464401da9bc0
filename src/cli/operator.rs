//! The subcommands that call the admin API of the relay with this environment.

use std::{net::SocketAddr, process::ExitCode};

use hyper::{StatusCode, body::Bytes};

use super::{
    output::{is_terminal, print, print_line, print_styled, report},
    status, usage_error, with_runtime,
};
use crate::{admin::client, config::Loaded};

pub(super) fn healthcheck(loaded: &Loaded) -> ExitCode {
    query_admin(
        loaded,
        async |address| client::get(address, "/readyz").await,
        |address, status, _| {
            report(format_args!(
                "the relay at {address} is not ready: {status}"
            ));
        },
        |_| ExitCode::SUCCESS,
    )
}

/// Print the status of the relay with this environment: phase, addresses, use, limits, refusals.
#[derive(Debug, clap::Args)]
pub(super) struct StatusArgs {
    /// Print the JSON of `/status`; the default if the output is not a terminal.
    #[arg(long)]
    json: bool,
}

pub(super) fn status(loaded: &Loaded, args: &StatusArgs) -> ExitCode {
    let is_json = args.json || !is_terminal();
    query_admin(
        loaded,
        async |address| client::get(address, "/status").await,
        print_error,
        |text| match serde_json::from_str(text) {
            Ok(status) if !is_json => print_styled(status::render(&status)),
            _ => print_line(text.trim_end()),
        },
    )
}

pub(super) fn log_filter(loaded: &Loaded, filter: Option<String>) -> ExitCode {
    query_admin(
        loaded,
        async |address| match filter {
            Some(filter) => client::put(address, "/log-filter", filter).await,
            None => client::get(address, "/log-filter").await,
        },
        print_error,
        |text| print(text),
    )
}

fn print_error(_: SocketAddr, status: StatusCode, why: &str) {
    report(format_args!("{status}: {}", why.trim_end()));
}

/// Sends a request to the admin API, and handles the response or prints the error.
fn query_admin(
    loaded: &Loaded,
    request: impl AsyncFnOnce(SocketAddr) -> Result<(StatusCode, Bytes), client::Error>,
    on_error: impl FnOnce(SocketAddr, StatusCode, &str),
    on_success: impl FnOnce(&str) -> ExitCode,
) -> ExitCode {
    let Some(address) = loaded.config.admin_address else {
        return usage_error(&"RELAY_ADMIN_ADDRESS is empty: the relay has no admin API");
    };
    with_runtime(async move {
        let (status, text) = match request(address).await {
            Ok(answer) => answer,
            Err(error) => {
                report(format_args!(
                    "the relay at {address} does not respond: {error}"
                ));
                return ExitCode::FAILURE;
            }
        };
        let text = String::from_utf8_lossy(&text);
        if status.is_success() {
            return on_success(&text);
        }
        on_error(address, status, &text);
        ExitCode::FAILURE
    })
}
