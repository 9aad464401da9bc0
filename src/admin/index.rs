//! `/`: links to the endpoints, for a browser.

use std::fmt::Write as _;

use axum::response::Html;

/// The endpoints of a relay, with what they return.
const RELAY: &[(&str, &str)] = &[
    (
        "/status",
        "identity, addresses, phase, use, limits, refusals; JSON",
    ),
    ("/peers", "the peers with most traffic; JSON"),
    ("/metrics", "metrics for Prometheus"),
    ("/livez", "200 while the process is healthy"),
    ("/readyz", "200 while the relay serves"),
    ("/drainz", "phase, and what a drain still waits for; JSON"),
    ("/log-filter", "the log filter; from this machine only"),
];

/// The endpoints of a DNS server.
const DNS: &[(&str, &str)] = &[
    ("/metrics", "metrics for Prometheus"),
    ("/livez", "200 while the process is healthy"),
    ("/readyz", "200 once the state of the relays is known"),
];

/// The page of a relay.
pub(super) async fn relay() -> Html<String> {
    page("descord-relay", RELAY)
}

/// The page of a DNS server.
pub(crate) async fn dns() -> Html<String> {
    page("descord-relay dns", DNS)
}

fn page(title: &str, endpoints: &[(&str, &str)]) -> Html<String> {
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<title>{title}</title>\n\
         <h1>{title}</h1>\n<ul>\n"
    );
    for (path, meaning) in endpoints {
        // Writing to a string does not fail.
        let _ = writeln!(
            page,
            "<li><a href=\"{path}\"><code>{path}</code></a>: {meaning}</li>"
        );
    }
    page.push_str("</ul>\n</html>\n");
    Html(page)
}
