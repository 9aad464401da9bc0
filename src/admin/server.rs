//! The HTTP server below the operator's endpoints, with a bound on everything.

use std::{io, net::SocketAddr, time::Duration};

use axum::{
    Router,
    extract::ConnectInfo,
    http::{StatusCode, header},
    routing::MethodRouter,
};
use hyper::{
    Request,
    body::Incoming,
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpSocket},
    select,
    time::timeout,
};
use tokio_io_timeout::TimeoutWriter;
use tracing::{debug, info};

use super::connections::Connections;
use crate::lifecycle::Lifecycle;

/// How long a request's headers may take.
const HEADER_TIMEOUT: Duration = Duration::from_secs(2);
/// How long an answer may wait until the client reads more of it.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection may live.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(60);
/// How much of a request is buffered.
const MAX_BUFFER_BYTES: usize = 16 * 1024;
/// What the system buffers of answers on a connection; Linux doubles it. The less it is, the sooner
/// progress of a slow client is seen.
const SEND_BUFFER_BYTES: u32 = 32 * 1024;
/// Connections that the system accepts in advance.
const BACKLOG: u32 = 1024;

/// Serves `routes` on `address` until the process ends. Handlers find the remote address as
/// [`ConnectInfo`].
///
/// # Errors
/// When the address cannot be bound.
pub(crate) fn serve(address: SocketAddr, routes: Router, lifecycle: &Lifecycle) -> io::Result<()> {
    let listener = listen(address)?;
    info!(address = %listener.local_addr()?, "admin endpoints");
    lifecycle.spawn_until_end("admin", accept(listener, routes, lifecycle.clone()));
    Ok(())
}

/// Listens with a bound on what the system buffers, which accepted connections inherit.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    }?;
    socket.set_reuseaddr(true)?;
    socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

async fn accept(listener: TcpListener, routes: Router, lifecycle: Lifecycle) {
    let routes = TowerToHyperService::new(routes);
    let connections = Connections::default();
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(MAX_BUFFER_BYTES);
    loop {
        let (stream, remote) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Too many open files, most likely: some will be closed.
                debug!(%error, "cannot accept a connection to the admin endpoints");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let guard = connections.register(remote.ip()).await;
        let routes = routes.clone();
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(ConnectInfo(remote));
            routes.call(request)
        });
        let mut stream = TimeoutWriter::new(stream);
        stream.set_timeout(Some(WRITE_TIMEOUT));
        let connection = http.serve_connection(TokioIo::new(Box::pin(stream)), service);
        lifecycle.spawn_until_end("admin connection", async move {
            select! {
                ended = timeout(CONNECTION_TIMEOUT, connection) => {
                    if let Ok(Err(error)) = ended {
                        debug!(%error, "a connection to the admin endpoints failed");
                    }
                }
                () = guard.replaced() => {
                    debug!("a connection to the admin endpoints was replaced by a new one");
                }
            }
        });
    }
}

/// HEAD would be served like GET otherwise.
pub(crate) fn without_head<S>(route: MethodRouter<S>, allowed: &'static str) -> MethodRouter<S>
where
    S: Clone + Send + Sync + 'static,
{
    route.head(async move || (StatusCode::METHOD_NOT_ALLOWED, [(header::ALLOW, allowed)]))
}

/// A route that answers to GET alone.
pub(crate) fn only_get<S>(route: MethodRouter<S>) -> MethodRouter<S>
where
    S: Clone + Send + Sync + 'static,
{
    without_head(route, "GET")
}
