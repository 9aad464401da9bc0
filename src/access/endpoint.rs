//! The operator's access endpoint: a query and a response in JSON.

use std::{net::IpAddr, path::Path, sync::Arc};

use axum::body::Bytes;
use circuit_relay::Requester;
use libp2p::PeerId;
use reqwest::{
    Certificate, Client, StatusCode, Url,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue},
    redirect,
};
use resource_manager::Prefix;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{config::EndpointConfig, resolve::Resolver};
use crate::{error_chain::causes, pem, secret::Secret};

/// Maximum length of a response in bytes.
const MAX_ANSWER_BYTES: usize = 16 * 1024;
/// Maximum length of a rule's name.
const MAX_RULE_CHARS: usize = 32;

/// A query, and the key under which its decision is cached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Query {
    /// "reserve" or "connect".
    kind: &'static str,
    /// The peer that makes the request, and where it connects from.
    requester: Requester,
    /// The target of the circuit.
    target: Option<PeerId>,
}

impl Query {
    /// Whether `peer` may reserve.
    pub(super) fn reserve(peer: Requester) -> Self {
        Self::of("reserve", peer, None)
    }

    /// Whether `source` may connect to `target`.
    pub(super) fn connect(source: Requester, target: PeerId) -> Self {
        Self::of("connect", source, Some(target))
    }

    fn of(kind: &'static str, requester: Requester, target: Option<PeerId>) -> Self {
        Self {
            kind,
            requester,
            target,
        }
    }

    /// The peer that makes the request.
    pub(super) fn peer(&self) -> PeerId {
        self.requester.peer
    }

    /// Address prefix of the peer, if its transport has IP addresses.
    pub(super) fn prefix(&self) -> Option<Prefix> {
        self.requester.ip.map(Prefix::host)
    }

    /// The request body of the query on behalf of `relay`.
    fn to_body(self, relay: PeerId) -> QueryBody {
        QueryBody {
            question: self.kind,
            peer: self.requester.peer.to_string(),
            ip: self.requester.ip,
            transport: self.requester.transport.as_str(),
            target: self.target.map(|target| target.to_string()),
            relay: relay.to_string(),
        }
    }
}

/// The request body. Peer ids and addresses are not abbreviated, because the endpoint is the
/// operator's.
#[derive(Serialize)]
struct QueryBody {
    question: &'static str,
    peer: String,
    ip: Option<IpAddr>,
    transport: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    relay: String,
}

/// A decision of the endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Decision {
    pub(super) allow: bool,
    /// Name of the rule that the endpoint applied, if it cannot contain a peer id or an address.
    pub(super) rule: Option<Arc<str>>,
}

/// The response body.
#[derive(Deserialize)]
struct ResponseBody {
    allow: bool,
    rule: Option<String>,
}

/// Why there is no decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// No valid HTTP response; the description of the error.
    Unreachable(String),
    /// A response without a decision; the description of the problem.
    Invalid(String),
    /// No response in time.
    Timeout,
    /// Too many queries were pending to send this one in time.
    Overloaded,
}

/// HTTP client of the endpoint.
#[derive(Debug)]
pub(super) struct Endpoint {
    client: Client,
    url: Url,
}

impl Endpoint {
    /// Creates a client of the endpoint at `url`.
    ///
    /// # Errors
    /// If the certificates or the token cannot be used.
    pub(super) fn new(url: &Url, config: &EndpointConfig) -> Result<Self, String> {
        let mut client = Client::builder()
            // The token and the queries must not be sent to another host.
            .redirect(redirect::Policy::none())
            .no_proxy()
            .default_headers(headers(config.token.as_ref())?)
            // An abandoned connection attempt ends as well.
            .connect_timeout(config.timeout)
            .pool_max_idle_per_host(config.concurrency)
            .dns_resolver(Resolver::default());
        if let Some(path) = &config.ca_file {
            client = client.tls_certs_only(certificates(path)?);
        } else if url.scheme() == "http" {
            // A minimal image may have no CA certificates.
            client = client.tls_certs_only([]);
        }
        Ok(Self {
            client: client
                .build()
                .map_err(|error| format!("RELAY_ACCESS_URL: {}", causes(&error)))?,
            url: url.clone(),
        })
    }

    /// Sends a query on behalf of `relay`. Errors contain nothing of the response, because it may
    /// repeat the query.
    pub(super) async fn query(&self, relay: PeerId, query: Query) -> Result<Decision, Failure> {
        let body = serde_json::to_vec(&query.to_body(relay))
            .map(Bytes::from)
            .map_err(|error| Failure::Invalid(error.to_string()))?;
        let unreachable = |error: reqwest::Error| Failure::Unreachable(causes(&error));
        let post = || self.client.post(self.url.clone()).body(body.clone()).send();
        // The server may have closed a kept-alive connection while it was being reused. Queries are
        // idempotent, so sending one again is safe.
        let mut answer = match post().await {
            Err(_) => post().await.map_err(unreachable)?,
            Ok(answer) => answer,
        };
        if answer.status() != StatusCode::OK {
            return Err(Failure::Invalid(format!(
                "the response is {}",
                answer.status()
            )));
        }
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(unreachable)? {
            if body.len() + chunk.len() > MAX_ANSWER_BYTES {
                return Err(Failure::Invalid("the response is too long".to_owned()));
            }
            body.extend_from_slice(&chunk);
        }
        decision(&body).ok_or_else(|| {
            Failure::Invalid("the response is not JSON with a boolean `allow`".to_owned())
        })
    }
}

fn decision(body: &[u8]) -> Option<Decision> {
    let answer: ResponseBody = serde_json::from_slice(body).ok()?;
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    let rule = answer.rule.filter(|rule| {
        let is_short = (1..=MAX_RULE_CHARS).contains(&rule.len());
        is_short && rule.chars().all(is_plain)
    });
    Some(Decision {
        allow: answer.allow,
        rule: rule.map(Arc::from),
    })
}

fn headers(token: Option<&Secret>) -> Result<HeaderMap, String> {
    let json = HeaderValue::from_static("application/json");
    let mut headers = HeaderMap::from_iter([(CONTENT_TYPE, json.clone()), (ACCEPT, json)]);
    if let Some(token) = token {
        let text = Zeroizing::new(format!("Bearer {}", token.expose()));
        let mut value = HeaderValue::try_from(text.as_str())
            .map_err(|_| "RELAY_ACCESS_TOKEN cannot be sent".to_owned())?;
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
    }
    Ok(headers)
}

fn certificates(path: &Path) -> Result<Vec<Certificate>, String> {
    const VARIABLE: &str = "RELAY_ACCESS_CA_FILE";
    let pem = pem::read(VARIABLE, path)?;
    match Certificate::from_pem_bundle(&pem) {
        Ok(certificates) if certificates.is_empty() => {
            Err(pem::invalid(VARIABLE, &"there is no certificate in it"))
        }
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(pem::invalid(VARIABLE, &error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use circuit_relay::Transport;

    #[test]
    fn query_contains_full_peer_ids_and_addresses() {
        let peer: PeerId = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"
            .parse()
            .unwrap();
        let requester = Requester {
            peer,
            ip: Some([192, 0, 2, 1].into()),
            transport: Transport::Quic,
        };
        let json = |query: Query| serde_json::to_value(query.to_body(peer)).unwrap();
        let id = peer.to_string();
        let expected = serde_json::json!({
            "question": "connect", "peer": id, "ip": "192.0.2.1", "transport": "quic",
            "target": id, "relay": id,
        });
        assert_eq!(json(Query::connect(requester, peer)), expected);
        let nowhere = Requester {
            ip: None,
            ..requester
        };
        let expected = serde_json::json!({
            "question": "reserve", "peer": id, "ip": null, "transport": "quic", "relay": id,
        });
        assert_eq!(json(Query::reserve(nowhere)), expected);
    }

    #[test]
    fn invalid_response_is_no_decision() {
        let says = |body: &str| decision(body.as_bytes());
        let decided = |allow, rule: Option<&str>| {
            Some(Decision {
                allow,
                rule: rule.map(Arc::from),
            })
        };
        assert_eq!(says(r#"{"allow":true}"#), decided(true, None));
        let answer = r#"{"allow":false,"rule":"not-a_Member2","more":[1]}"#;
        assert_eq!(says(answer), decided(false, Some("not-a_Member2")));
        for name in ["", "192.0.2.1", "2001:db8::1", &"x".repeat(33), "a b", "ä"] {
            let answer = format!(r#"{{"allow":false,"rule":"{name}"}}"#);
            assert_eq!(says(&answer), decided(false, None), "{name}");
        }
        for body in [
            "",
            "true",
            "{}",
            "<html>",
            r#"{"allow":"true"}"#,
            r#"{"allow":1}"#,
            r#"{"allow":null}"#,
            r#"{"allow":true}{"allow":false}"#,
            r#"{"allow":true,"allow":false}"#,
            r#"{"allow":true,"rule":7}"#,
        ] {
            assert_eq!(says(body), None, "{body}");
        }
    }
}
