//! Variables that Kubernetes injects for the services of a namespace.
//!
//! For a service named `relay` or `relay-…`, Kubernetes sets variables with our prefix in every
//! container. They are recognized by the form of both name and value, so that a mistyped variable of
//! the relay is not ignored.

use std::net::IpAddr;

/// Whether Kubernetes would inject a variable with this name (without `RELAY_`) and value.
pub(super) fn is_service_link(name: &str, value: &str) -> bool {
    let segments: Vec<_> = name.split('_').collect();
    match segments.as_slice() {
        [.., "SERVICE", "HOST"] => is_ip(value),
        [.., "SERVICE", "PORT"] => is_port(value),
        [.., "PORT", port, transport] if is_port(port) && is_transport(transport) => is_url(value),
        [.., "PORT", port, transport, what] if is_port(port) && is_transport(transport) => {
            match *what {
                "PROTO" => is_transport(value),
                "PORT" => is_port(value),
                "ADDR" => is_ip(value),
                _ => false,
            }
        }
        [.., "PORT"] => is_url(value),
        _ => segments.windows(2).any(|pair| pair == ["SERVICE", "PORT"]) && is_port(value),
    }
}

fn is_ip(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok()
}

fn is_port(text: &str) -> bool {
    text.parse::<u16>().is_ok()
}

fn is_transport(text: &str) -> bool {
    ["tcp", "udp", "sctp"]
        .iter()
        .any(|transport| transport.eq_ignore_ascii_case(text))
}

fn is_url(text: &str) -> bool {
    text.split_once("://")
        .is_some_and(|(scheme, _)| is_transport(scheme))
}

#[cfg(test)]
mod tests {
    use super::is_service_link;

    #[test]
    fn variables_of_kubernetes_are_recognized() {
        for (name, value) in [
            ("PORT", "tcp://10.96.0.1:9000"),
            ("SERVICE_HOST", "10.96.0.1"),
            ("SERVICE_PORT", "9000"),
            ("SERVICE_PORT_QUIC_V1", "9000"),
            ("PORT_9000_TCP", "tcp://10.96.0.1:9000"),
            ("PORT_9000_TCP_PROTO", "tcp"),
            ("PORT_9000_TCP_PORT", "9000"),
            ("PORT_9000_TCP_ADDR", "fd00::1"),
            ("PORT_9000_UDP", "udp://10.96.0.1:9000"),
            ("HEADLESS_PORT", "tcp://10.96.0.1:9000"),
            ("X_SERVICE_HOST", "10.96.0.1"),
            ("X_Y_SERVICE_PORT_HTTP", "80"),
            ("X_PORT_80_TCP_ADDR", "10.96.0.1"),
        ] {
            assert!(is_service_link(name, value), "{name}={value}");
        }
    }

    #[test]
    fn mistyped_names_are_not_service_links() {
        for (name, value) in [
            ("PORT", "9000"),
            ("ADMIN_PORT", "8080"),
            ("SERVICE_HOST", "relay.example"),
            ("SERVICE_PORT_HTTP", "http"),
            ("PORT_9000_TCP_NAME", "9000"),
            ("PORT_X_TCP", "tcp://10.96.0.1:9000"),
            ("MAX_CIRCUIT", "10"),
            ("", ""),
        ] {
            assert!(!is_service_link(name, value), "{name}={value}");
        }
    }
}
