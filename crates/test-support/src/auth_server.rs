//! An HTTP server for `RELAY_ACCESS_URL` with configurable answers and faults.

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

/// What the endpoint does with questions.
#[derive(Clone, Debug, PartialEq)]
pub enum Mode {
    /// It allows everything.
    Allow,
    /// It allows everything, after this time.
    Slow(Duration),
    /// It denies everything.
    Deny,
    /// It denies everything, by a rule of this name.
    Rule(&'static str),
    /// It answers with this status, and allows in the body.
    Status(u16),
    /// It says this.
    Text(&'static str),
    /// It sends the client there.
    Redirect(String),
    /// It allows, in 10 MB.
    Huge,
    /// It sends blanks without an end.
    Endless,
    /// It takes the question and says nothing.
    Hang,
    /// It takes questions, and allows them when it is in another mode.
    Held,
    /// It accepts connections and speaks something else.
    Noise,
    /// It closes connections at once.
    Close,
    /// It allows, and closes each connection at its second question.
    Once,
}

/// One question.
#[derive(Clone, Debug)]
pub struct Question {
    pub method: Method,
    pub path: String,
    pub headers: HeaderMap,
    pub body: Value,
}

/// An endpoint that listens. It goes away when it is dropped.
pub struct AuthServer {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

struct Shared {
    mode: Mutex<Mode>,
    questions: Mutex<Vec<Question>>,
    asked: watch::Sender<()>,
    /// Questions that are being answered, and how many they were at most.
    now: AtomicUsize,
    peak: AtomicUsize,
}

impl Drop for AuthServer {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl AuthServer {
    /// On a free port of the loopback interface.
    pub async fn start(mode: Mode) -> Self {
        Self::start_at(([127, 0, 0, 1], 0).into(), mode, None).await
    }

    /// At this address, with TLS or without.
    pub async fn start_at(address: SocketAddr, mode: Mode, tls: Option<ServerConfig>) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let shared = Arc::new(Shared {
            mode: Mutex::new(mode),
            questions: Mutex::default(),
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

    /// Where to ask.
    pub fn url(&self) -> String {
        format!("http://{}/decide?tenant=7", self.address)
    }

    /// What it does from now on.
    pub fn set_mode(&self, mode: Mode) {
        *self.shared.mode.lock().unwrap() = mode;
    }

    /// All that it was asked so far.
    pub fn questions(&self) -> Vec<Question> {
        self.shared.questions.lock().unwrap().clone()
    }

    /// How many questions it had at once at most.
    pub fn peak(&self) -> usize {
        self.shared.peak.load(Ordering::SeqCst)
    }

    /// Waits until it was asked so often.
    pub async fn was_asked(&self, times: usize) {
        let mut asked = self.shared.asked.subscribe();
        let enough = asked.wait_for(|()| self.questions().len() >= times);
        timeout(PATIENCE, enough).await.unwrap().unwrap();
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>, tls: Option<ServerConfig>) {
    let tls = tls.map(|config| TlsAcceptor::from(Arc::new(config)));
    // Those that are left when this is dropped are closed.
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
        (Mode::Once, _) => once(stream).await,
        (Mode::Noise, _) => {
            let _ = stream.write_all(&[0x15; 100]).await;
        }
        (_, None) => answers(stream, shared).await,
        (_, Some(tls)) => {
            // A client may not trust this.
            if let Ok(stream) = tls.accept(stream).await {
                answers(stream, shared).await;
            }
        }
    }
}

/// Answers one question on a connection, and waits for another before it closes it.
async fn once(mut stream: TcpStream) {
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
    // The client may go at any time.
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes))
        .await;
}

/// A question is being answered for as long as this lives.
struct Busy(Arc<Shared>);

impl Busy {
    fn new(shared: Arc<Shared>) -> Self {
        let now = shared.now.fetch_add(1, Ordering::SeqCst) + 1;
        shared.peak.fetch_max(now, Ordering::SeqCst);
        Self(shared)
    }
}

impl Drop for Busy {
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
    let _busy = Busy::new(Arc::clone(&shared));
    shared.questions.lock().unwrap().push(Question {
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
