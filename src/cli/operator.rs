//! The subcommands that ask the relay of this environment.

use std::process::ExitCode;

use super::{usage, with_runtime};
use crate::{admin::client, config::Loaded};

pub(super) fn healthcheck(loaded: &Loaded) -> ExitCode {
    let Some(address) = loaded.config.admin_address else {
        return usage(&"RELAY_ADMIN_ADDRESS is empty: there is nothing to ask");
    };
    with_runtime(async move {
        match client::get(address, "/readyz").await {
            Ok((status, _)) if status.is_success() => ExitCode::SUCCESS,
            Ok((status, _)) => {
                eprintln!("the relay at {address} is not ready: {status}");
                ExitCode::FAILURE
            }
            Err(error) => {
                eprintln!("the relay at {address} does not answer: {error}");
                ExitCode::FAILURE
            }
        }
    })
}

pub(super) fn log_filter(loaded: &Loaded, filter: Option<String>) -> ExitCode {
    let Some(address) = loaded.config.admin_address else {
        return usage(&"RELAY_ADMIN_ADDRESS is empty: there is nothing to ask");
    };
    with_runtime(async move {
        let answer = match filter {
            Some(filter) => client::put(address, "/log-filter", filter).await,
            None => client::get(address, "/log-filter").await,
        };
        match answer {
            Ok((status, text)) if status.is_success() => {
                print!("{}", String::from_utf8_lossy(&text));
                ExitCode::SUCCESS
            }
            Ok((status, why)) => {
                eprint!("{status}: {}", String::from_utf8_lossy(&why));
                ExitCode::FAILURE
            }
            Err(error) => {
                eprintln!("the relay at {address} does not answer: {error}");
                ExitCode::FAILURE
            }
        }
    })
}
