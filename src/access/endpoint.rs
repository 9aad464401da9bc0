//! The operator's endpoint: one question as JSON, one answer.

use std::{net::IpAddr, path::Path, sync::Arc};

use axum::body::Bytes;
use libp2p::PeerId;
use reqwest::{
    Certificate, Client, StatusCode, Url,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue},
    redirect,
};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{config::EndpointConfig, resolve::Resolver};
use crate::{
    relay::Requester,
    resources::Prefix,
    secret::Secret,
    telemetry::{export_health::chain, pem},
};

/// The most that is read of an answer.
const MAX_ANSWER_BYTES: usize = 16 * 1024;
/// The most characters of a rule's name.
const MAX_RULE_CHARS: usize = 32;

/// What the endpoint is asked, and what a decision is remembered for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Question {
    /// "reserve" or "connect".
    kind: &'static str,
    /// Who asks, and from where.
    requester: Requester,
    /// To whom the circuit is to lead.
    target: Option<PeerId>,
}

impl Question {
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

    /// Who makes the request.
    pub(super) fn peer(&self) -> PeerId {
        self.requester.peer
    }

    /// The address prefix that it comes from, if its transport has IP addresses.
    pub(super) fn prefix(&self) -> Option<Prefix> {
        self.requester.ip.map(Prefix::host)
    }

    /// The question of `relay`, as the endpoint gets it.
    fn to_request(self, relay: PeerId) -> Request {
        Request {
            question: self.kind,
            peer: self.requester.peer.to_string(),
            ip: self.requester.ip,
            transport: self.requester.transport.as_str(),
            target: self.target.map(|target| target.to_string()),
            relay: relay.to_string(),
        }
    }
}

/// The form of a question. Everything is in full: the endpoint is the operator's own.
#[derive(Serialize)]
struct Request {
    question: &'static str,
    peer: String,
    ip: Option<IpAddr>,
    transport: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    relay: String,
}

/// What the endpoint says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Decision {
    pub(super) allow: bool,
    /// What the endpoint calls its rule, if that can neither be a peer id nor an address.
    pub(super) rule: Option<Arc<str>>,
}

/// Its form.
#[derive(Deserialize)]
struct Answer {
    allow: bool,
    rule: Option<String>,
}

/// Why there is no decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// No answer, or none that is one of HTTP; in words.
    Unreachable(String),
    /// An answer that decides nothing; in words.
    Invalid(String),
    /// Nothing in time.
    Timeout,
    /// There were too many other questions to ask this one in time.
    Overloaded,
}

/// Asks the endpoint.
#[derive(Debug)]
pub(super) struct Endpoint {
    client: Client,
    url: Url,
}

impl Endpoint {
    /// The endpoint at `url`.
    ///
    /// # Errors
    /// In words, when the certificates cannot be used.
    pub(super) fn new(url: &Url, config: &EndpointConfig) -> Result<Self, String> {
        let mut client = Client::builder()
            // The token and what is asked are for this one host.
            .redirect(redirect::Policy::none())
            .no_proxy()
            .default_headers(headers(config.token.as_ref())?)
            // A connection that nobody waits for any more is given up as well.
            .connect_timeout(config.timeout)
            .pool_max_idle_per_host(config.concurrency)
            .dns_resolver(Resolver::default());
        if let Some(path) = &config.ca_file {
            client = client.tls_certs_only(certificates(path)?);
        } else if url.scheme() == "http" {
            // Those of the system may be missing, in a small image.
            client = client.tls_certs_only([]);
        }
        Ok(Self {
            client: client
                .build()
                .map_err(|error| format!("RELAY_ACCESS_URL: {}", words(&error)))?,
            url: url.clone(),
        })
    }

    /// Asks in the name of `relay`. Nothing of the answer is part of an error: it may repeat what
    /// was asked.
    pub(super) async fn ask(&self, relay: PeerId, question: Question) -> Result<Decision, Failure> {
        let body = serde_json::to_vec(&question.to_request(relay))
            .map(Bytes::from)
            .map_err(|error| Failure::Invalid(error.to_string()))?;
        let unreachable = |error: reqwest::Error| Failure::Unreachable(words(&error));
        let post = || self.client.post(self.url.clone()).body(body.clone()).send();
        // The server may have closed a connection that was kept, just as it was used again. A
        // question that was heard does no harm when it is asked again.
        let mut answer = match post().await {
            Err(_) => post().await.map_err(unreachable)?,
            Ok(answer) => answer,
        };
        if answer.status() != StatusCode::OK {
            return Err(Failure::Invalid(format!(
                "the answer is {}",
                answer.status()
            )));
        }
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(unreachable)? {
            if body.len() + chunk.len() > MAX_ANSWER_BYTES {
                return Err(Failure::Invalid("the answer is too long".to_owned()));
            }
            body.extend_from_slice(&chunk);
        }
        decision(&body).ok_or_else(|| {
            Failure::Invalid("the answer is no JSON with `allow`, true or false".to_owned())
        })
    }
}

fn decision(body: &[u8]) -> Option<Decision> {
    let answer: Answer = serde_json::from_slice(body).ok()?;
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

/// An error with what caused it, but without its own first words, which name the URL.
fn words(error: &reqwest::Error) -> String {
    std::error::Error::source(error).map_or_else(|| "the request failed".to_owned(), chain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::Transport;

    #[test]
    fn a_question_has_everything_in_full() {
        let peer: PeerId = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"
            .parse()
            .unwrap();
        let requester = Requester {
            peer,
            ip: Some([192, 0, 2, 1].into()),
            transport: Transport::Quic,
        };
        let json = |question: Question| serde_json::to_value(question.to_request(peer)).unwrap();
        let id = peer.to_string();
        let expected = serde_json::json!({
            "question": "connect", "peer": id, "ip": "192.0.2.1", "transport": "quic",
            "target": id, "relay": id,
        });
        assert_eq!(json(Question::connect(requester, peer)), expected);
        let nowhere = Requester {
            ip: None,
            ..requester
        };
        let expected = serde_json::json!({
            "question": "reserve", "peer": id, "ip": null, "transport": "quic", "relay": id,
        });
        assert_eq!(json(Question::reserve(nowhere)), expected);
    }

    #[test]
    fn an_answer_decides_or_is_none() {
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
