//! The HTTP server of the admin API, with bounds on all resources.

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
use lifecycle::Lifecycle;
use tokio::{
    net::{TcpListener, TcpSocket},
    select,
    time::timeout,
};
use tokio_io_timeout::TimeoutWriter;
use tracing::{debug, info};

use super::connections::Connections;

/// Deadline of a request's headers.
const HEADER_TIMEOUT: Duration = Duration::from_secs(2);
/// Maximum time that a response waits for the client to read more of it.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum duration of a connection.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(60);
/// Maximum buffer for a request, in bytes.
const MAX_BUFFER_BYTES: usize = 16 * 1024;
/// The kernel's send buffer of a connection, which Linux doubles. With a small one, lack of progress of
/// a slow client is detected sooner.
const SEND_BUFFER_BYTES: u32 = 32 * 1024;
/// Backlog of the listener.
const BACKLOG: u32 = 1024;

/// Serves `routes` on `address` until shutdown. Handlers get the remote address as [`ConnectInfo`].
///
/// # Errors
/// When the address cannot be bound.
pub(crate) fn serve(address: SocketAddr, routes: Router, lifecycle: &Lifecycle) -> io::Result<()> {
    let listener = listen(address)?;
    info!(address = %listener.local_addr()?, "admin endpoints");
    lifecycle.spawn_cancellable("admin", accept(listener, routes, lifecycle.clone()));
    Ok(())
}

/// Listens with a bound on the kernel's send buffer, which accepted connections inherit.
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
                // Most likely the process has too many open files; some will be closed.
                debug!(%error, "accept failed on the admin API");
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
        lifecycle.spawn_cancellable("admin connection", async move {
            select! {
                ended = timeout(CONNECTION_TIMEOUT, connection) => {
                    if let Ok(Err(error)) = ended {
                        debug!(%error, "admin connection failed");
                    }
                }
                () = guard.replaced() => {
                    debug!("admin connection replaced by a new one");
                }
            }
        });
    }
}

/// Rejects HEAD, which would be served like GET otherwise.
pub(crate) fn without_head<S>(route: MethodRouter<S>, allowed: &'static str) -> MethodRouter<S>
where
    S: Clone + Send + Sync + 'static,
{
    route.head(async move || (StatusCode::METHOD_NOT_ALLOWED, [(header::ALLOW, allowed)]))
}

/// A route for GET only.
pub(crate) fn only_get<S>(route: MethodRouter<S>) -> MethodRouter<S>
where
    S: Clone + Send + Sync + 'static,
{
    without_head(route, "GET")
}
