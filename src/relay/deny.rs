//! Why a request is refused, and what each reason means on the wire.

use super::wire::Status;

/// The reason of a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Deny {
    /// The request came over a circuit of another relay.
    #[error("the request came over a relayed connection")]
    Relayed,
    /// A circuit from a peer to itself.
    #[error("a peer asked for a circuit to itself")]
    ConnectToSelf,
    /// The access rules forbid it.
    #[error("the access rules forbid it")]
    AccessRules,
    /// The access endpoint forbids it.
    #[error("the access endpoint forbids it")]
    AccessDecision,
    /// The access endpoint has not decided, and without its decision nobody may.
    #[error("the access endpoint has not decided")]
    AccessUnavailable,
    /// The peer asks for more decisions of the access endpoint than it is given.
    #[error("the peer waits for too many decisions of the access endpoint")]
    AccessBusy,
    /// As many peers as allowed hold a reservation.
    #[error("all reservations are taken")]
    Reservations,
    /// As many peers behind this IP address as allowed hold a reservation.
    #[error("all reservations of this IP address are taken")]
    ReservationsPerIp,
    /// Reservations are scarce, and an address prefix of the peer has its share of them.
    #[error("reservations are scarce, and the address prefix has its share")]
    ReservationShare,
    /// The peer asks to reserve more often than it may.
    #[error("the peer asks for reservations too often")]
    ReservationRatePerPeer,
    /// From this IP address come more requests to reserve than may.
    #[error("this IP address asks for reservations too often")]
    ReservationRatePerIp,
    /// The relay shuts down and takes no new peers.
    #[error("the relay is draining")]
    Draining,
    /// The relay knows no address to announce in the answer.
    #[error("the relay has no address to announce")]
    NoAddress,
    /// The connection was gone before the request was served.
    #[error("the connection is gone")]
    Disconnected,
    /// The target of a circuit holds no reservation.
    #[error("the target holds no reservation")]
    NoReservation,
    /// As many circuits as allowed are open.
    #[error("all circuits are taken")]
    Circuits,
    /// The source has as many circuits open as allowed.
    #[error("the source has all its circuits open")]
    SourceCircuits,
    /// The target has as many circuits open as allowed.
    #[error("the target has all its circuits open")]
    TargetCircuits,
    /// Circuits are scarce, and an address prefix of the source has its share of them.
    #[error("circuits are scarce, and the source's address prefix has its share")]
    CircuitShare,
    /// Circuits are scarce, and the target's address prefix has its share of them, or the source's
    /// has its part of those to the target.
    #[error(
        "circuits to the target are scarce, and its address prefix or the source's has its share"
    )]
    TargetShare,
    /// The source asks for circuits more often than it may.
    #[error("the peer asks for circuits too often")]
    CircuitRatePerPeer,
    /// From this IP address come more requests for circuits than may.
    #[error("this IP address asks for circuits too often")]
    CircuitRatePerIp,
    /// The circuit gave way to another one while it was being opened.
    #[error("the circuit gave way to another one")]
    Evicted,
    /// The target could not be reached, did not answer in time, or refused.
    #[error("the target did not accept the circuit")]
    StopFailed,
    /// The message was not readable.
    #[error("the message is malformed")]
    Malformed,
    /// The message was readable, but not a request.
    #[error("the message is not a request")]
    Unexpected,
    /// No request came in time.
    #[error("no request came in time")]
    Timeout,
    /// The answer could not be delivered.
    #[error("the answer could not be delivered")]
    Undelivered,
}

/// A refusal, and the rule that decided, if it was one of the operator's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Why.
    pub deny: Deny,
    /// How the operator finds the rule. Neither a peer id nor an IP address is part of it.
    pub rule: Option<String>,
}

impl From<Deny> for Refusal {
    fn from(deny: Deny) -> Self {
        Self { deny, rule: None }
    }
}

impl Deny {
    /// Refuses because of this rule, which must not name a peer or an address.
    pub fn by(self, rule: impl Into<String>) -> Refusal {
        Refusal {
            deny: self,
            rule: Some(rule.into()),
        }
    }

    /// All of them.
    pub const ALL: [Self; 28] = [
        Self::Relayed,
        Self::ConnectToSelf,
        Self::AccessRules,
        Self::AccessDecision,
        Self::AccessUnavailable,
        Self::AccessBusy,
        Self::Reservations,
        Self::ReservationsPerIp,
        Self::ReservationShare,
        Self::ReservationRatePerPeer,
        Self::ReservationRatePerIp,
        Self::Draining,
        Self::NoAddress,
        Self::Disconnected,
        Self::NoReservation,
        Self::Circuits,
        Self::SourceCircuits,
        Self::TargetCircuits,
        Self::CircuitShare,
        Self::TargetShare,
        Self::CircuitRatePerPeer,
        Self::CircuitRatePerIp,
        Self::Evicted,
        Self::StopFailed,
        Self::Malformed,
        Self::Unexpected,
        Self::Timeout,
        Self::Undelivered,
    ];

    /// The status that the client gets, and the reason as a short, stable word for logs and
    /// metrics.
    pub fn parts(self) -> (Status, &'static str) {
        use Status::{
            ConnectionFailed, MalformedMessage, NoReservation, PermissionDenied,
            ReservationRefused, ResourceLimitExceeded, UnexpectedMessage,
        };
        match self {
            Self::Relayed => (PermissionDenied, "relayed_connection"),
            Self::ConnectToSelf => (PermissionDenied, "connect_to_self"),
            Self::AccessRules => (PermissionDenied, "access_rules"),
            Self::AccessDecision => (PermissionDenied, "access_decision"),
            Self::AccessUnavailable => (PermissionDenied, "access_unavailable"),
            Self::AccessBusy => (PermissionDenied, "access_busy"),
            Self::Reservations => (ReservationRefused, "max_reservations"),
            Self::ReservationsPerIp => (ReservationRefused, "max_reservations_per_ip"),
            Self::ReservationShare => (ReservationRefused, "reservation_share"),
            Self::ReservationRatePerPeer => (ReservationRefused, "rate_reservations_per_peer"),
            Self::ReservationRatePerIp => (ReservationRefused, "rate_reservations_per_ip"),
            Self::Draining => (ReservationRefused, "draining"),
            Self::NoAddress => (ReservationRefused, "no_address"),
            Self::Disconnected => (ReservationRefused, "disconnected"),
            Self::NoReservation => (NoReservation, "no_reservation"),
            Self::Circuits => (ResourceLimitExceeded, "max_circuits"),
            Self::SourceCircuits => (ResourceLimitExceeded, "max_circuits_source"),
            Self::TargetCircuits => (ResourceLimitExceeded, "max_circuits_target"),
            Self::CircuitShare => (ResourceLimitExceeded, "circuit_share_source"),
            Self::TargetShare => (ResourceLimitExceeded, "circuit_share_target"),
            Self::CircuitRatePerPeer => (ResourceLimitExceeded, "rate_circuits_per_peer"),
            Self::CircuitRatePerIp => (ResourceLimitExceeded, "rate_circuits_per_ip"),
            Self::Evicted => (ResourceLimitExceeded, "evicted"),
            Self::StopFailed => (ConnectionFailed, "stop_failed"),
            Self::Malformed => (MalformedMessage, "malformed_message"),
            Self::Unexpected => (UnexpectedMessage, "unexpected_message"),
            Self::Timeout => (MalformedMessage, "request_timeout"),
            Self::Undelivered => (ConnectionFailed, "answer_undelivered"),
        }
    }
}
