//! `/peers`: traffic by peer.

use std::{iter::zip, sync::Arc};

use axum::{
    Json,
    extract::{Query, State, rejection::QueryRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::{Value, json};
use tracing::error;

use super::Admin;
use crate::{
    peers::{Entry, Line, Peers, Period},
    relay::Presence,
};

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
}

impl Default for PeersQuery {
    fn default() -> Self {
        Self {
            limit: DEFAULT_LIMIT,
            by: Period::default(),
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
    let Some(peers) = admin.relay.peers() else {
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
    let text = format!("{why}; allowed: limit=1 to {MAX_LIMIT}, by=window or by=total\n");
    (StatusCode::BAD_REQUEST, text).into_response()
}

async fn top_peers(
    admin: &Admin,
    peers: &Arc<Peers>,
    query: &PeersQuery,
) -> Result<Value, crate::peers::Error> {
    let top = peers.top(query.by, query.limit).await?;
    let presence = admin.relay.presence(top.lines.iter().map(|line| line.peer));
    let lines: Vec<_> = zip(&top.lines, presence)
        .map(|(line, now)| peer_json(admin, line, now))
        .collect();
    Ok(json!({
        "window_seconds": peers.window().as_secs_f64(),
        "capacity": peers.capacity(),
        "tracked": top.tracked,
        "peers": lines,
    }))
}

fn peer_json(admin: &Admin, line: &Line, now: Presence) -> Value {
    json!({
        "peer": admin.relay.names().name(&line.peer).to_string(),
        "now": {
            "reservation": now.reservation,
            "circuits": now.circuits,
            "connections": now.connections,
        },
        "window": counters_json(&line.window),
        "total": counters_json(&line.total),
    })
}

fn counters_json(Entry { figures, error }: &Entry) -> Value {
    json!({
        "bytes_sent": figures.sent,
        "bytes_received": figures.received,
        "circuits": figures.circuits,
        "reservations": figures.reservations,
        "denials": figures.denials,
        "error": error,
    })
}
