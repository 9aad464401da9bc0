//! Errors of libraries in the words of a user: what is wrong, and what to do.

/// An error that a library reports with this text.
struct Known {
    /// A part of the library's text.
    text: &'static str,
    message: &'static str,
    hint: &'static str,
}

const KNOWN: &[Known] = &[
    Known {
        text: "UnknownIssuer",
        message: "the TLS certificate is issued by an unknown authority",
        hint: "trust the authority with --ca FILE or SSL_CERT_FILE; if it is a public one, the server \
               does not send the intermediate certificates",
    },
    Known {
        text: "CaUsedAsEndEntity",
        message: "the TLS certificate is that of an authority, not of a server",
        hint: "issue a certificate for the server, and trust the authority with --ca FILE",
    },
    Known {
        text: "NotValidForName",
        message: "the TLS certificate is for another name",
        hint: "write the name of the certificate in the address, as /dns/NAME",
    },
    Known {
        text: "not valid for name",
        message: "the TLS certificate is for another name",
        hint: "write the name of the certificate in the address, as /dns/NAME",
    },
    Known {
        text: "certificate expired",
        message: "the TLS certificate has expired",
        hint: "renew it; or is the clock of this machine wrong?",
    },
    Known {
        text: "server rejected handshake",
        message: "an HTTP server responds, but does not accept WebSocket",
        hint: "does the proxy forward this path to the relay, with the Upgrade header?",
    },
    Known {
        text: "PERMISSION_DENIED",
        message: "the relay does not permit this client to reserve (PERMISSION_DENIED)",
        hint: "its access rules or its access endpoint decide; the probe has a new peer id each \
               time, so allow its IP address, and find the rule with `descord-relay access check`",
    },
    Known {
        text: "Remote denied permission",
        message: "the relay does not permit the circuit (PERMISSION_DENIED)",
        hint: "its access rules or its access endpoint decide; find the rule with \
               `descord-relay access check`",
    },
];

/// What is wrong and what to do, if `error` is a known text of a library.
pub(super) fn explain(error: &str) -> Option<(&'static str, &'static str)> {
    let known = KNOWN.iter().find(|known| error.contains(known.text))?;
    Some((known.message, known.hint))
}
