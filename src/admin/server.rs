//! The HTTP server below the operator's endpoints, with a bound on everything.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

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
use tokio::{net::TcpListener, sync::Semaphore, time::timeout};
use tracing::{debug, info};

use crate::lifecycle::Lifecycle;

/// Connections that are served at once; more wait.
const MAX_CONNECTIONS: usize = 64;
/// How long a request's headers may take.
const HEADER_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a connection may live.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(60);
/// How much of a request is buffered.
const MAX_BUFFER_BYTES: usize = 16 * 1024;

/// Serves `routes` on `address` until the process ends. Handlers find the remote address as
/// [`ConnectInfo`].
///
/// # Errors
/// When the address cannot be bound.
pub(crate) async fn serve(
    address: SocketAddr,
    routes: Router,
    lifecycle: &Lifecycle,
) -> io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    info!(address = %listener.local_addr()?, "admin endpoints");
    lifecycle.spawn_until_end("admin", accept(listener, routes, lifecycle.clone()));
    Ok(())
}

async fn accept(listener: TcpListener, routes: Router, lifecycle: Lifecycle) {
    let routes = TowerToHyperService::new(routes);
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(MAX_BUFFER_BYTES);
    while let Ok(slot) = Arc::clone(&slots).acquire_owned().await {
        let (stream, remote) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Too many open files, most likely: some will be closed.
                debug!(%error, "cannot accept a connection to the admin endpoints");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let routes = routes.clone();
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(ConnectInfo(remote));
            routes.call(request)
        });
        let connection = http.serve_connection(TokioIo::new(stream), service);
        lifecycle.spawn_until_end("admin connection", async move {
            if let Ok(Err(error)) = timeout(CONNECTION_TIMEOUT, connection).await {
                debug!(%error, "a connection to the admin endpoints failed");
            }
            drop(slot);
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
