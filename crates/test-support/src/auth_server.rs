//! An HTTP server for `RELAY_ACCESS_URL` with configurable responses and faults.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use futures::stream;
use hyper::server::conn::http1;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig};

use crate::PATIENCE;

/// The behaviour of the endpoint.
#[derive(Clone, Debug, PartialEq)]
pub enum Mode {
    /// Allows every request.
    Allow,
    /// Allows every request after this delay.
    Slow(Duration),
    /// Denies every request.
    Deny,
    /// Denies every request and names this rule.
    Rule(&'static str),
    /// Responds with this status code and a body that allows the request.
    Status(u16),
    /// Responds with this body.
    Text(&'static str),
    /// Redirects the client to this URL.
    Redirect(String),
    /// Allows the request in a response of 10 MB.
    Huge,
    /// Sends an endless response of whitespace.
    Endless,
    /// Reads the request and never responds.
    Hang,
    /// Reads requests, and allows them as soon as another mode is set.
    Held,
    /// Accepts connections and responds with bytes that are not HTTP.
    Noise,
    /// Closes connections at once.
    Close,
    /// Allows the first request of each connection, and closes the connection at the second.
    Once,
}

/// A received request.
#[derive(Clone, Debug)]
pub struct AuthRequest {
    pub method: Method,
    pub path: String,
    pub headers: HeaderMap,
    pub body: Value,
}

/// A listening endpoint, stopped on drop.
pub struct AuthServer {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

struct Shared {
    mode: Mutex<Mode>,
    requests: Mutex<Vec<AuthRequest>>,
    asked: watch::Sender<()>,
    /// The number of requests in progress, and its peak.
    now: AtomicUsize,
    peak: AtomicUsize,
}

impl Drop for AuthServer {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl AuthServer {
    /// Starts on a free loopback port.
    pub async fn start(mode: Mode) -> Self {
        Self::start_at(([127, 0, 0, 1], 0).into(), mode, None).await
    }

    /// Starts at this address, with or without TLS.
    pub async fn start_at(address: SocketAddr, mode: Mode, tls: Option<ServerConfig>) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let shared = Arc::new(Shared {
            mode: Mutex::new(mode),
            requests: Mutex::default(),
            asked: watch::Sender::new(()),
            now: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
        });
        Self {
            address: listener.local_addr().unwrap(),
            shared: Arc::clone(&shared),
            server: tokio::task::spawn(serve(listener, shared, tls)),
        }
    }

    /// The URL for `RELAY_ACCESS_URL`.
    pub fn url(&self) -> String {
        format!("http://{}/decide?tenant=7", self.address)
    }

    /// Sets the behaviour for the next and all pending requests.
    pub fn set_mode(&self, mode: Mode) {
        *self.shared.mode.lock().unwrap() = mode;
    }

    /// All requests received so far.
    pub fn requests(&self) -> Vec<AuthRequest> {
        self.shared.requests.lock().unwrap().clone()
    }

    /// The peak number of concurrent requests.
    pub fn peak(&self) -> usize {
        self.shared.peak.load(Ordering::SeqCst)
    }

    /// Waits until this many requests have been received.
    pub async fn wait_for_requests(&self, times: usize) {
        let mut asked = self.shared.asked.subscribe();
        let enough = asked.wait_for(|()| self.requests().len() >= times);
        timeout(PATIENCE, enough).await.unwrap().unwrap();
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>, tls: Option<ServerConfig>) {
    let tls = tls.map(|config| TlsAcceptor::from(Arc::new(config)));
    // Open connections are closed on drop.
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        connections.spawn(connection(stream, Arc::clone(&shared), tls.clone()));
    }
}

async fn connection(mut stream: TcpStream, shared: Arc<Shared>, tls: Option<TlsAcceptor>) {
    let mode = shared.mode.lock().unwrap().clone();
    match (mode, tls) {
        (Mode::Close, _) => {}
        (Mode::Once, _) => respond_once(stream).await,
        (Mode::Noise, _) => {
            let _ = stream.write_all(&[0x15; 100]).await;
        }
        (_, None) => answers(stream, shared).await,
        (_, Some(tls)) => {
            // Fails if the client does not trust the certificate.
            if let Ok(stream) = tls.accept(stream).await {
                answers(stream, shared).await;
            }
        }
    }
}

/// Responds to one request on a connection, and closes it at the next.
async fn respond_once(mut stream: TcpStream) {
    let mut question = [0; 4096];
    let read = stream.read(&mut question).await;
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\n{\"allow\":true}";
    if read.is_ok_and(|read| read > 0) && stream.write_all(answer.as_bytes()).await.is_ok() {
        let _ = stream.read(&mut question).await;
    }
}

async fn answers(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    shared: Arc<Shared>,
) {
    let routes = Router::new().fallback(answer).with_state(shared);
    // The client may disconnect at any time.
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes))
        .await;
}

/// Counts a request as in progress until dropped.
struct InProgress(Arc<Shared>);

impl InProgress {
    fn new(shared: Arc<Shared>) -> Self {
        let now = shared.now.fetch_add(1, Ordering::SeqCst) + 1;
        shared.peak.fetch_max(now, Ordering::SeqCst);
        Self(shared)
    }
}

impl Drop for InProgress {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn answer(
    State(shared): State<Arc<Shared>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let _in_progress = InProgress::new(Arc::clone(&shared));
    shared.requests.lock().unwrap().push(AuthRequest {
        method,
        path: uri.to_string(),
        headers,
        body: serde_json::from_slice(&body).unwrap_or_default(),
    });
    shared.asked.send_replace(());
    let mode = shared.mode.lock().unwrap().clone();
    let allow = json!({ "allow": true }).to_string();
    match mode {
        Mode::Slow(time) => {
            tokio::time::sleep(time).await;
            allow.into_response()
        }
        Mode::Deny => json!({ "allow": false }).to_string().into_response(),
        Mode::Rule(rule) => {
            let answer = json!({ "allow": false, "rule": rule });
            answer.to_string().into_response()
        }
        Mode::Status(status) => (StatusCode::from_u16(status).unwrap(), allow).into_response(),
        Mode::Text(text) => text.into_response(),
        Mode::Redirect(to) => {
            (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, to)]).into_response()
        }
        Mode::Huge => format!("{}{allow}", " ".repeat(10_000_000)).into_response(),
        Mode::Endless => {
            let blanks = stream::repeat_with(|| Ok::<_, std::io::Error>(vec![b' '; 1000]));
            Body::from_stream(blanks).into_response()
        }
        Mode::Hang => std::future::pending().await,
        Mode::Held => {
            while *shared.mode.lock().unwrap() == Mode::Held {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            allow.into_response()
        }
        Mode::Allow | Mode::Noise | Mode::Close | Mode::Once => allow.into_response(),
    }
}
