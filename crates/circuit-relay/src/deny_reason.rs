//! Why a request is denied, and how each reason is reported on the wire, in the log and in metrics.

use super::wire::Status;

/// Defines [`DenyReason`]: for each variant its STATUS on the wire, its stable name and its message.
macro_rules! deny_reasons {
    ($($(#[$doc:meta])* $variant:ident = $status:ident, $name:literal, $message:literal;)+) => {
        /// Why a request is denied.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
        pub enum DenyReason {
            $($(#[$doc])* #[error($message)] $variant,)+
        }

        impl DenyReason {
            /// All variants, in the order of their declaration.
            pub const ALL: [Self; [$($name),+].len()] = [$(Self::$variant),+];

            /// Values of the `reason` attribute of metrics: "none", and the name of every variant.
            pub const METRIC_VALUES: &[&str] = &["none", $($name),+];

            /// The STATUS that the client receives, and a short, stable name for logs and metrics.
            pub fn status_and_reason(self) -> (Status, &'static str) {
                match self {
                    $(Self::$variant => (Status::$status, $name),)+
                }
            }
        }
    };
}

deny_reasons! {
    /// The request arrived over a relayed connection.
    Relayed = PermissionDenied, "relayed_connection",
        "the request came over a relayed connection";
    /// The source and the target of the circuit are the same peer.
    ConnectToSelf = PermissionDenied, "connect_to_self",
        "the source and the target are the same peer";
    /// Denied by the access rules.
    AccessRules = PermissionDenied, "access_rules",
        "the access rules forbid it";
    /// Denied by the access endpoint.
    AccessDecision = PermissionDenied, "access_decision",
        "the access endpoint forbids it";
    /// The access endpoint did not decide, and the policy is to deny.
    AccessUnavailable = PermissionDenied, "access_unavailable",
        "the access endpoint has not decided";
    /// Too many decisions of the access endpoint are pending for the peer or its address prefix.
    AccessBusy = PermissionDenied, "access_busy",
        "too many decisions of the access endpoint are pending for the peer";
    /// The relay has its maximum number of reservations.
    Reservations = ReservationRefused, "max_reservations",
        "all reservations are in use";
    /// The IP address (IPv6: the /64) has its maximum number of reservations.
    ReservationsPerIp = ReservationRefused, "max_reservations_per_ip",
        "all reservations of this IP address are in use";
    /// Reservations are scarce, and an address prefix of the peer uses its share of them.
    ReservationShare = ReservationRefused, "reservation_share",
        "reservations are scarce, and the address prefix uses its share";
    /// The peer exceeds its rate of reservation requests.
    ReservationRatePerPeer = ReservationRefused, "rate_reservations_per_peer",
        "the peer exceeds its rate of reservation requests";
    /// The IP address (IPv6: the /64) exceeds its rate of reservation requests.
    ReservationRatePerIp = ReservationRefused, "rate_reservations_per_ip",
        "this IP address exceeds its rate of reservation requests";
    /// The relay is draining and accepts no new reservations.
    Draining = ReservationRefused, "draining",
        "the relay is draining";
    /// The relay has no address to announce in the answer.
    NoAddress = ReservationRefused, "no_address",
        "the relay has no address to announce";
    /// The connection was closed before the request was served.
    Disconnected = ReservationRefused, "disconnected",
        "the connection is closed";
    /// The target of the circuit has no reservation.
    NoReservation = NoReservation, "no_reservation",
        "the target has no reservation";
    /// The relay has its maximum number of circuits.
    Circuits = ResourceLimitExceeded, "max_circuits",
        "all circuits are in use";
    /// The source has its maximum number of circuits.
    SourceCircuits = ResourceLimitExceeded, "max_circuits_source",
        "all circuits of the source are in use";
    /// The target has its maximum number of circuits.
    TargetCircuits = ResourceLimitExceeded, "max_circuits_target",
        "all circuits of the target are in use";
    /// Circuits are scarce, and an address prefix of the source uses its share of them.
    CircuitShare = ResourceLimitExceeded, "circuit_share_source",
        "circuits are scarce, and the source's address prefix uses its share";
    /// Circuits are scarce, and an address prefix of the target uses its share of them, or one of
    /// the source uses its share of the circuits to the target.
    TargetShare = ResourceLimitExceeded, "circuit_share_target",
        "circuits to the target are scarce, and its address prefix or the source's uses its share";
    /// The source exceeds its rate of circuit requests.
    CircuitRatePerPeer = ResourceLimitExceeded, "rate_circuits_per_peer",
        "the peer exceeds its rate of circuit requests";
    /// The IP address (IPv6: the /64) exceeds its rate of circuit requests.
    CircuitRatePerIp = ResourceLimitExceeded, "rate_circuits_per_ip",
        "this IP address exceeds its rate of circuit requests";
    /// A drain leaves too little time for a circuit.
    DrainDeadline = ResourceLimitExceeded, "drain_deadline",
        "the drain leaves too little time for a circuit";
    /// A drain closes the connection of the source or those of the target in its next moment without
    /// a circuit.
    DrainClosing = ResourceLimitExceeded, "drain_closing",
        "the drain is about to disconnect the source or the target";
    /// The circuit was evicted in favour of another one while it was being opened.
    Evicted = ResourceLimitExceeded, "evicted",
        "the circuit was evicted while it was being opened";
    /// The target was unreachable, did not answer in time, or refused STOP.
    StopFailed = ConnectionFailed, "stop_failed",
        "the target did not accept the circuit";
    /// The message cannot be decoded.
    Malformed = MalformedMessage, "malformed_message",
        "the message is malformed";
    /// The message is not a request.
    Unexpected = UnexpectedMessage, "unexpected_message",
        "the message is not a request";
    /// No complete request arrived in time.
    Timeout = MalformedMessage, "request_timeout",
        "no request arrived in time";
    /// The answer could not be delivered.
    Undelivered = ConnectionFailed, "answer_undelivered",
        "the answer could not be delivered";
}

impl DenyReason {
    /// Denies because of this rule. The rule must contain neither a peer id nor an IP address.
    pub fn with_rule(self, rule: impl Into<String>) -> Denied {
        Denied {
            reason: self,
            rule: Some(rule.into()),
        }
    }
}

/// A denied request, with the rule of the operator that denied it, if there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied {
    /// Why the request is denied.
    pub reason: DenyReason,
    /// Where the operator finds the rule. Contains neither a peer id nor an IP address.
    pub rule: Option<String>,
}

impl From<DenyReason> for Denied {
    fn from(reason: DenyReason) -> Self {
        Self { reason, rule: None }
    }
}
