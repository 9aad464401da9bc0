//! `/peers`: traffic by peer.

use std::{iter::zip, sync::Arc};

use axum::{
    Json,
    extract::{Query, State, rejection::QueryRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use circuit_relay::PeerState;
use libp2p::PeerId;
use peer_id_text::{ParsePeerIdError, parse_peer_id};
use serde::Deserialize;
use serde_json::{Value, json};
use tracing::error;

use super::Admin;
use crate::peer_stats::{Estimate, PeerRow, PeerStats, Period};

/// Default number of peers in a response.
const DEFAULT_LIMIT: usize = 20;
/// Maximum number of peers in a response.
const MAX_LIMIT: usize = 1000;

/// The query parameters.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct PeersQuery {
    limit: usize,
    by: Period,
    /// The only peer of the response.
    peer: Option<RequestedPeer>,
}

/// A peer id in any text form.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "String")]
struct RequestedPeer(PeerId);

impl TryFrom<String> for RequestedPeer {
    type Error = ParsePeerIdError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        parse_peer_id(&text).map(Self)
    }
}

impl Default for PeersQuery {
    fn default() -> Self {
        Self {
            limit: DEFAULT_LIMIT,
            by: Period::default(),
            peer: None,
        }
    }
}

pub(super) async fn peers(
    State(admin): State<Arc<Admin>>,
    query: Result<Query<PeersQuery>, QueryRejection>,
) -> Response {
    let query = match query {
        Ok(Query(query)) if (1..=MAX_LIMIT).contains(&query.limit) => query,
        Ok(_) => return bad_request("invalid limit"),
        Err(error) => return bad_request(&error.body_text()),
    };
    let Some(peers) = &admin.peer_stats else {
        let off = "disabled: RELAY_PEER_STATS_CAPACITY is 0\n";
        return (StatusCode::NOT_FOUND, off).into_response();
    };
    match top_peers(&admin, peers, &query).await {
        Ok(answer) => Json(answer).into_response(),
        Err(error) => {
            error!(%error, "cannot read peer statistics");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

fn bad_request(why: &str) -> Response {
    let text = format!("{why}; allowed: limit=1 to {MAX_LIMIT}, by=window or by=total, peer=ID\n");
    (StatusCode::BAD_REQUEST, text).into_response()
}

async fn top_peers(
    admin: &Admin,
    peers: &Arc<PeerStats>,
    query: &PeersQuery,
) -> Result<Value, crate::peer_stats::Error> {
    let top = match query.peer {
        None => peers.top(query.by, query.limit).await?,
        Some(RequestedPeer(peer)) => {
            let mut all = peers.top(query.by, usize::MAX).await?;
            all.rows.retain(|row| row.peer == peer);
            all
        }
    };
    let states = admin.relay.peer_states(top.rows.iter().map(|row| row.peer));
    let rows: Vec<_> = zip(&top.rows, states)
        .map(|(row, now)| peer_json(admin, row, now))
        .collect();
    Ok(json!({
        "window_seconds": peers.window().as_secs_f64(),
        "capacity": peers.capacity(),
        "tracked": top.tracked,
        "peers": rows,
    }))
}

fn peer_json(admin: &Admin, row: &PeerRow, now: PeerState) -> Value {
    json!({
        "peer": admin.pseudonyms.name(&row.peer).to_string(),
        "now": {
            "reservation": now.reservation,
            "circuits": now.circuits,
            "connections": now.connections,
        },
        "window": counters_json(&row.window),
        "total": counters_json(&row.total),
    })
}

fn counters_json(Estimate { counters, error }: &Estimate) -> Value {
    json!({
        "bytes_sent": counters.sent,
        "bytes_received": counters.received,
        "circuits": counters.circuits,
        "reservations": counters.reservations,
        "denials": counters.denials,
        "error": error,
    })
}
