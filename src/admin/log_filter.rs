//! `/log-filter`: reads and changes the log filter without a restart.
//!
//! Over HTTP from this machine instead of by a signal: a signal has no argument, and a user who can send
//! one can also run `descord-relay log-filter`, in a container or a pod too. Debug levels show the
//! addresses of clients, so remote requests are refused. So are those of web pages in a browser on this
//! machine: with DNS rebinding, the `Host` header has the name of the page, and for `localhost` the
//! browser sends a preflight request before a PUT, which is denied.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use axum::{
    extract::{ConnectInfo, DefaultBodyLimit, Request, State},
    http::{HeaderMap, StatusCode, header, uri::Authority},
    middleware::{Next, from_fn},
    response::{IntoResponse, Response},
    routing::{MethodRouter, get},
};
use tracing::warn;

use super::Admin;
use crate::telemetry::log::ALWAYS;

/// Maximum length of a filter, in bytes.
const MAX_FILTER_BYTES: usize = 4096;

/// The response to requests that are not from this machine.
const REFUSED: &str = "only for this machine, addressed as localhost, 127.0.0.1 or [::1]: \
                       run `descord-relay log-filter` where the relay runs\n";

pub(super) fn route() -> MethodRouter<Arc<Admin>> {
    get(show)
        .put(change)
        .layer(DefaultBodyLimit::max(MAX_FILTER_BYTES))
        .layer(from_fn(only_local))
}

async fn show(State(admin): State<Arc<Admin>>) -> String {
    admin.log_filter.get() + "\n"
}

async fn change(State(admin): State<Arc<Admin>>, filter: String) -> Response {
    let old = admin.log_filter.get();
    if let Err(error) = admin.log_filter.set(filter.trim()) {
        let text = format!("not a filter in the syntax of RUST_LOG: {error}\n");
        return (StatusCode::BAD_REQUEST, text).into_response();
    }
    let new = admin.log_filter.get();
    warn!(target: ALWAYS, old, new, "log filter changed");
    (StatusCode::OK, new + "\n").into_response()
}

async fn only_local(
    ConnectInfo(remote): ConnectInfo<SocketAddr>,
    request: Request,
    next: Next,
) -> Response {
    if is_local(remote.ip(), request.headers()) {
        next.run(request).await
    } else {
        (StatusCode::FORBIDDEN, REFUSED).into_response()
    }
}

/// Whether a request is from this machine and addressed to it.
fn is_local(remote: IpAddr, headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return false;
    };
    let host = host.to_str().ok().and_then(|host| host.parse().ok());
    remote.to_canonical().is_loopback() && host.is_some_and(|host| names_this_machine(&host))
}

fn names_this_machine(authority: &Authority) -> bool {
    let host = authority.host();
    let ip = host.trim_start_matches('[').trim_end_matches(']');
    let is_loopback = |ip: IpAddr| ip.to_canonical().is_loopback();
    host.eq_ignore_ascii_case("localhost") || ip.parse().is_ok_and(is_loopback)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn is_allowed(remote: &str, hosts: &[&str]) -> bool {
        let mut headers = HeaderMap::new();
        for host in hosts {
            headers.append(header::HOST, HeaderValue::from_str(host).unwrap());
        }
        is_local(remote.parse().unwrap(), &headers)
    }

    #[test]
    fn local_requests_are_allowed() {
        for remote in ["127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1"] {
            for host in ["localhost", "LocalHost:8080", "127.0.0.1:1", "[::1]:8080"] {
                assert!(is_allowed(remote, &[host]), "{remote} {host}");
            }
        }
    }

    #[test]
    fn remote_requests_are_refused() {
        for remote in [
            "10.0.0.1",
            "::ffff:10.0.0.1",
            "2001:db8::1",
            "0.0.0.0",
            "::",
        ] {
            assert!(!is_allowed(remote, &["localhost"]), "{remote}");
        }
    }

    #[test]
    fn other_names_of_this_machine_are_refused() {
        for host in [
            "rebound.example",
            "rebound.example:8080",
            "localhost.rebound.example",
            "127.0.0.1.rebound.example",
            "10.0.0.1",
            "0.0.0.0:8080",
            "[::]:8080",
            "",
            "localhost/",
        ] {
            assert!(!is_allowed("127.0.0.1", &[host]), "{host}");
        }
        assert!(!is_allowed("127.0.0.1", &[]));
        assert!(!is_allowed("127.0.0.1", &["localhost", "rebound.example"]));
    }
}
