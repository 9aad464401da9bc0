//! `/peers`: who moves how much.

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
    peer_stats::{Estimate, PeerRow, PeerStats, Period},
    relay::PeerState,
};

/// How many peers an answer tells of unless the question says.
const DEFAULT_LIMIT: usize = 20;
/// How many it tells of at most.
const MAX_LIMIT: usize = 1000;

/// What may be asked.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Question {
    limit: usize,
    by: Period,
}

impl Default for Question {
    fn default() -> Self {
        Self {
            limit: DEFAULT_LIMIT,
            by: Period::default(),
        }
    }
}

pub(super) async fn peers(
    State(admin): State<Arc<Admin>>,
    question: Result<Query<Question>, QueryRejection>,
) -> Response {
    let question = match question {
        Ok(Query(question)) if (1..=MAX_LIMIT).contains(&question.limit) => question,
        Ok(_) => return refused("there is no such limit"),
        Err(error) => return refused(&error.body_text()),
    };
    let Some(peers) = admin.relay.peer_stats() else {
        let off = "this is not kept: RELAY_PEER_STATS_CAPACITY is 0\n";
        return (StatusCode::NOT_FOUND, off).into_response();
    };
    match answer(&admin, peers, &question).await {
        Ok(answer) => Json(answer).into_response(),
        Err(error) => {
            error!(%error, "the counters of peers cannot be read");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

fn refused(why: &str) -> Response {
    let text = format!("{why}; allowed: limit=1 to {MAX_LIMIT}, by=window or by=total\n");
    (StatusCode::BAD_REQUEST, text).into_response()
}

async fn answer(
    admin: &Admin,
    peers: &Arc<PeerStats>,
    question: &Question,
) -> Result<Value, crate::peer_stats::Error> {
    let top = peers.top(question.by, question.limit).await?;
    let states = admin.relay.peer_states(top.rows.iter().map(|row| row.peer));
    let rows: Vec<_> = zip(&top.rows, states)
        .map(|(row, now)| described(admin, row, now))
        .collect();
    Ok(json!({
        "window_seconds": peers.window().as_secs_f64(),
        "capacity": peers.capacity(),
        "tracked": top.tracked,
        "peers": rows,
    }))
}

fn described(admin: &Admin, row: &PeerRow, now: PeerState) -> Value {
    json!({
        "peer": admin.relay.pseudonyms().name(&row.peer).to_string(),
        "now": {
            "reservation": now.reservation,
            "circuits": now.circuits,
            "connections": now.connections,
        },
        "window": counters(&row.window),
        "total": counters(&row.total),
    })
}

fn counters(Estimate { counters, error }: &Estimate) -> Value {
    json!({
        "bytes_sent": counters.sent,
        "bytes_received": counters.received,
        "circuits": counters.circuits,
        "reservations": counters.reservations,
        "denials": counters.denials,
        "error": error,
    })
}
