//! An OTLP collector over gRPC and HTTP on one port, with configurable faults.

use std::{
    io::Read,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::post,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use opentelemetry_proto::tonic::{
    collector::{
        metrics::v1::{
            ExportMetricsServiceRequest, ExportMetricsServiceResponse,
            metrics_service_server::{MetricsService, MetricsServiceServer},
        },
        trace::v1::{
            ExportTraceServiceRequest, ExportTraceServiceResponse,
            trace_service_server::{TraceService, TraceServiceServer},
        },
    },
    common::v1::{AnyValue, KeyValue, any_value::Value},
    metrics::v1::{Metric, NumberDataPoint, metric::Data, number_data_point},
    resource::v1::Resource,
    trace::v1::Span,
};
use prost::Message;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig};
use tonic::codec::CompressionEncoding;

use crate::PATIENCE;

/// The behaviour of the collector.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Mode {
    /// Accepts requests.
    #[default]
    Good,
    /// Accepts requests after this delay.
    Slow(Duration),
    /// Responds with this HTTP status code, or the corresponding gRPC status.
    Status(u16),
    /// Responds with success and a body that is not OTLP.
    Garbage,
    /// Responds with a partial success that rejects this many items.
    Partial(i64),
    /// Responds with bytes that are not HTTP.
    Noise,
    /// Accepts connections and never responds.
    BlackHole,
}

/// All received data.
#[derive(Debug, Default)]
pub struct Received {
    pub traces: Vec<ExportTraceServiceRequest>,
    pub metrics: Vec<ExportMetricsServiceRequest>,
    /// Path and headers of every request, including rejected ones.
    pub requests: Vec<(String, HeaderMap)>,
}

/// A listening collector, stopped on drop.
pub struct Collector {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    mode: Mutex<Mode>,
    received: Mutex<Received>,
    changed: watch::Sender<()>,
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Collector {
    /// Starts on a free loopback port and accepts all requests.
    pub async fn start() -> Self {
        Self::start_at(([127, 0, 0, 1], 0).into(), None).await
    }

    /// As [`Self::start`], with TLS.
    pub async fn with_tls(config: ServerConfig) -> Self {
        Self::start_at(([127, 0, 0, 1], 0).into(), Some(config)).await
    }

    /// Starts at the address of a previous collector.
    pub async fn start_at(address: SocketAddr, tls: Option<ServerConfig>) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let shared = Arc::<Shared>::default();
        Self {
            address: listener.local_addr().unwrap(),
            shared: Arc::clone(&shared),
            server: tokio::task::spawn(serve(listener, shared, tls)),
        }
    }

    /// The URL with scheme `http`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Sets the behaviour from now on, also for established connections.
    pub fn set_mode(&self, mode: Mode) {
        *self.shared.mode.lock().unwrap() = mode;
    }

    /// Waits until `find` returns a value for the received data.
    pub async fn wait<T>(&self, what: &str, mut find: impl FnMut(&Received) -> Option<T>) -> T {
        let mut changes = self.shared.changed.subscribe();
        let found = timeout(PATIENCE, async {
            loop {
                changes.mark_unchanged();
                if let Some(found) = find(&self.shared.received.lock().unwrap()) {
                    return found;
                }
                changes.changed().await.unwrap();
            }
        });
        match found.await {
            Ok(found) => found,
            Err(late) => panic!("no {what} ({late}) in {:#?}", self.shared.received.lock()),
        }
    }

    /// Waits for a span with this name.
    pub async fn span(&self, name: &str) -> Span {
        self.wait(name, |received| {
            received.spans().find(|span| span.name == name).cloned()
        })
        .await
    }

    /// Reads the data received so far.
    pub fn look<T>(&self, look: impl FnOnce(&Received) -> T) -> T {
        look(&self.shared.received.lock().unwrap())
    }
}

impl Received {
    pub fn spans(&self) -> impl Iterator<Item = &Span> {
        let resources = self.traces.iter().flat_map(|r| &r.resource_spans);
        let scopes = resources.flat_map(|r| &r.scope_spans);
        scopes.flat_map(|s| &s.spans)
    }

    /// Every metric with this name, oldest first.
    pub fn metrics<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Metric> {
        let resources = self.metrics.iter().flat_map(|r| &r.resource_metrics);
        let scopes = resources.flat_map(|r| &r.scope_metrics);
        let metrics = scopes.flat_map(|s| &s.metrics);
        metrics.filter(move |metric| metric.name == name)
    }

    /// The latest integer value of a sum or gauge, for the data point with these attributes.
    pub fn latest(&self, name: &str, attributes: &[(&str, &str)]) -> Option<i64> {
        let points = points(self.metrics(name).last()?);
        let point = points.iter().find(|point| {
            let has = |(key, value): &(&str, &str)| text(&point.attributes, key) == Some(value);
            attributes.iter().all(has)
        })?;
        match point.value? {
            number_data_point::Value::AsInt(value) => Some(value),
            number_data_point::Value::AsDouble(_) => None,
        }
    }

    /// The resources of all received data.
    pub fn resources(&self) -> Vec<&Resource> {
        let traces = self.traces.iter().flat_map(|r| &r.resource_spans);
        let metrics = self.metrics.iter().flat_map(|r| &r.resource_metrics);
        let traces = traces.filter_map(|r| r.resource.as_ref());
        traces
            .chain(metrics.filter_map(|r| r.resource.as_ref()))
            .collect()
    }
}

/// The data points of a sum or gauge.
pub fn points(metric: &Metric) -> &[NumberDataPoint] {
    match metric.data.as_ref().unwrap() {
        Data::Sum(sum) => &sum.data_points,
        Data::Gauge(gauge) => &gauge.data_points,
        other => panic!("{other:?}"),
    }
}

/// The value of an attribute.
pub fn attribute<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a Value> {
    let found = attributes.iter().find(|attribute| attribute.key == key)?;
    match &found.value {
        Some(AnyValue { value }) => value.as_ref(),
        None => None,
    }
}

/// The value of a string attribute.
pub fn text<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a str> {
    match attribute(attributes, key)? {
        Value::StringValue(text) => Some(text),
        _ => None,
    }
}

/// The value of an integer attribute.
pub fn integer(attributes: &[KeyValue], key: &str) -> Option<i64> {
    match attribute(attributes, key)? {
        Value::IntValue(number) => Some(*number),
        _ => None,
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>, tls: Option<ServerConfig>) {
    let tls = tls.map(|mut config| {
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        TlsAcceptor::from(Arc::new(config))
    });
    // Open connections are closed on drop.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        connections.spawn(connection(stream, Arc::clone(&shared), tls.clone()));
    }
}

async fn connection(mut stream: TcpStream, shared: Arc<Shared>, tls: Option<TlsAcceptor>) {
    let mode = *shared.mode.lock().unwrap();
    match mode {
        Mode::BlackHole => std::future::pending().await,
        Mode::Noise => {
            let _ = stream.write_all(&[0x15; 100]).await;
            return;
        }
        _ => {}
    }
    match tls {
        None => serve_connection(stream, shared).await,
        Some(tls) => {
            // Fails if the client does not trust the certificate.
            if let Ok(stream) = tls.accept(stream).await {
                serve_connection(stream, shared).await;
            }
        }
    }
}

async fn serve_connection(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    shared: Arc<Shared>,
) {
    let traces = TraceServiceServer::from_arc(Arc::clone(&shared))
        .accept_compressed(CompressionEncoding::Gzip);
    let metrics = MetricsServiceServer::from_arc(Arc::clone(&shared))
        .accept_compressed(CompressionEncoding::Gzip);
    let grpc = tonic::service::Routes::new(traces).add_service(metrics);
    let routes = Router::new()
        .route("/v1/traces", post(http_traces))
        .route("/v1/metrics", post(http_metrics))
        .route("/elsewhere", post(http_traces))
        .with_state(Arc::clone(&shared))
        .merge(grpc.into_axum_router())
        .layer(middleware::from_fn_with_state(shared, respond_by_mode));
    // The client may disconnect at any time.
    let _ = auto::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes))
        .await;
}

/// Applies the mode before the request is processed.
async fn respond_by_mode(
    State(shared): State<Arc<Shared>>,
    request: Request,
    next: Next,
) -> Response {
    let is_grpc = request
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|t| {
            let kind = t.to_str().unwrap_or_default();
            kind.starts_with("application/grpc")
        });
    let seen = (request.uri().path().to_owned(), request.headers().clone());
    shared.received.lock().unwrap().requests.push(seen);
    shared.changed.send_replace(());
    let mode = *shared.mode.lock().unwrap();
    match mode {
        Mode::Good | Mode::Noise | Mode::Partial(_) => next.run(request).await,
        Mode::Slow(time) => {
            tokio::time::sleep(time).await;
            next.run(request).await
        }
        Mode::BlackHole => std::future::pending().await,
        Mode::Garbage => {
            let page = "<html><body>Please log in: secret-of-the-collector</body></html>";
            ([(header::CONTENT_TYPE, "text/html")], page).into_response()
        }
        Mode::Status(code) if is_grpc => {
            let status = match code {
                401 => tonic::Status::unauthenticated("secret-of-the-collector"),
                503 => tonic::Status::unavailable("secret-of-the-collector"),
                _ => tonic::Status::internal("secret-of-the-collector"),
            };
            status.into_http::<Body>()
        }
        Mode::Status(code) => (
            StatusCode::from_u16(code).unwrap(),
            "secret-of-the-collector",
        )
            .into_response(),
    }
}

impl Shared {
    fn traces(&self, request: ExportTraceServiceRequest) -> ExportTraceServiceResponse {
        self.received.lock().unwrap().traces.push(request);
        self.changed.send_replace(());
        let mut response = ExportTraceServiceResponse::default();
        if let Mode::Partial(rejected_spans) = *self.mode.lock().unwrap() {
            response
                .partial_success
                .get_or_insert_default()
                .rejected_spans = rejected_spans;
        }
        response
    }

    fn metrics(&self, request: ExportMetricsServiceRequest) -> ExportMetricsServiceResponse {
        self.received.lock().unwrap().metrics.push(request);
        self.changed.send_replace(());
        ExportMetricsServiceResponse::default()
    }
}

#[tonic::async_trait]
impl TraceService for Shared {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        Ok(tonic::Response::new(self.traces(request.into_inner())))
    }
}

#[tonic::async_trait]
impl MetricsService for Shared {
    async fn export(
        &self,
        request: tonic::Request<ExportMetricsServiceRequest>,
    ) -> Result<tonic::Response<ExportMetricsServiceResponse>, tonic::Status> {
        Ok(tonic::Response::new(self.metrics(request.into_inner())))
    }
}

async fn http_traces(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    body: Bytes,
) -> impl IntoResponse {
    protobuf(&shared.traces(decode(&headers, &body)))
}

async fn http_metrics(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    body: Bytes,
) -> impl IntoResponse {
    protobuf(&shared.metrics(decode(&headers, &body)))
}

fn decode<M: Message + Default>(headers: &HeaderMap, body: &[u8]) -> M {
    assert_eq!(headers[header::CONTENT_TYPE], "application/x-protobuf");
    match headers.get(header::CONTENT_ENCODING) {
        None => M::decode(body).unwrap(),
        Some(encoding) => {
            assert_eq!(encoding, "gzip");
            let mut plain = Vec::new();
            let mut decoder = flate2::read::GzDecoder::new(body);
            decoder.read_to_end(&mut plain).unwrap();
            M::decode(plain.as_slice()).unwrap()
        }
    }
}

fn protobuf(message: &impl Message) -> Response {
    let response = (
        [(header::CONTENT_TYPE, "application/x-protobuf")],
        message.encode_to_vec(),
    );
    response.into_response()
}
