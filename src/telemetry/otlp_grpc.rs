//! OTLP over gRPC.

use opentelemetry_otlp::tonic_types::{
    metadata::MetadataMap,
    transport::{Certificate, ClientTlsConfig, Identity},
};
use tokio::{runtime::Handle, sync::mpsc};
use tonic::{
    Request, Status,
    service::Interceptor,
    transport::{Channel, Endpoint, channel::Change},
};

use super::{settings::Destination, tls_files::TlsFiles};
use crate::{error_chain::chain, pem};

/// Replaces the connection, so that the next request uses a new one.
///
/// A connection whose other end disappeared looks alive for many minutes, and the channel itself would
/// keep it.
#[derive(Debug)]
pub(super) struct Reconnect {
    changes: mpsc::Sender<Change<(), Endpoint>>,
    endpoint: Endpoint,
}

impl Reconnect {
    pub(super) fn now(&self) {
        // If the channel is full, a replacement is pending already.
        let _ = self.changes.try_send(Change::Remove(()));
        let _ = self
            .changes
            .try_send(Change::Insert((), self.endpoint.clone()));
    }
}

/// A channel that connects at the first request, and reconnects when the connection is lost.
pub(super) fn channel(
    destination: &Destination,
    files: &TlsFiles,
    runtime: &Handle,
) -> Result<(Channel, Reconnect), String> {
    let mut endpoint = Endpoint::from_shared(destination.url.to_string())
        .map_err(|error| chain(&error))?
        .connect_timeout(destination.timeout);
    if destination.url.scheme() == "https" {
        let mut tls = ClientTlsConfig::new().timeout(destination.timeout);
        tls = match &files.certificate {
            Some(pem) => tls.ca_certificate(Certificate::from_pem(pem)),
            None => tls.with_native_roots(),
        };
        if let Some((certificate, key)) = &files.identity {
            tls = tls.identity(Identity::from_pem(certificate, key.as_slice()));
        }
        endpoint = endpoint
            .tls_config(tls)
            .map_err(|error| pem::invalid("the certificates", &chain(&error)))?;
    }
    // The channel spawns its tasks on the current runtime.
    let _current = runtime.enter();
    // A balanced channel with one endpoint, because that endpoint can be replaced.
    let (channel, changes) = Channel::balance_channel(2);
    let reconnect = Reconnect { changes, endpoint };
    reconnect.now();
    Ok((channel, reconnect))
}

/// Replaces the metadata: the exporter would add the headers of the environment a second time.
#[derive(Clone)]
pub(super) struct Headers(MetadataMap);

impl Headers {
    pub(super) fn of(destination: &Destination) -> Self {
        Self(MetadataMap::from_headers(destination.headers.clone()))
    }
}

impl Interceptor for Headers {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().clone_from(&self.0);
        Ok(request)
    }
}
