//! What all clients of a probe share: the resolver of names, the certificates to trust, and the key of a
//! private network.

use std::{
    env,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use hickory_resolver::{
    TokioResolver,
    config::{NameServerConfig, ResolverConfig, ResolverOpts},
    net::{NetError, runtime::TokioRuntimeProvider},
    proto::rr::RData,
    system_conf::read_system_conf,
};
use libp2p::{Multiaddr, dns, multiaddr::Protocol, websocket};
use libp2p_pnet::PreSharedKey;
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use tokio::net::lookup_host;

use super::failure::Cause;
use crate::pem;

/// The variable with a file of certificates to trust, which other programs use as well.
const CA_VARIABLE: &str = "SSL_CERT_FILE";

/// Why the transports of a client cannot be set up.
pub(super) type SetupError = Box<dyn std::error::Error + Send + Sync>;

/// The resolver, the trusted certificates and the key of a private network.
pub(super) struct Network {
    /// The problem if there is no resolver; then only addresses without a name can be dialled.
    resolver: Result<(ResolverConfig, ResolverOpts), Cause>,
    /// The TLS configuration of WebSocket clients.
    pub(super) tls: websocket::tls::Config,
    /// The key of the private network; `None` is the public network.
    pub(super) swarm_key: Option<PreSharedKey>,
}

impl Network {
    /// Names are resolved by the name server `dns_server`, or by those of the system. Besides the
    /// certificate authorities of browsers, those in the file `ca` are trusted, or else those in the file
    /// that `SSL_CERT_FILE` names.
    ///
    /// # Errors
    /// When the host of the name server or the file of certificates cannot be used.
    pub(super) async fn new(
        dns_server: Option<&str>,
        ca: Option<&Path>,
        swarm_key: Option<PreSharedKey>,
    ) -> Result<Self, Cause> {
        let resolver = match dns_server {
            Some(host) => Ok((name_servers(host).await?, ResolverOpts::default())),
            None => read_system_conf().map_err(|error| {
                Cause::new(format!(
                    "names cannot be resolved: /etc/resolv.conf cannot be used: {error}"
                ))
                .hint("name a server with --dns-server, or use an address with an IP address")
            }),
        };
        let tls = match (ca, env::var_os(CA_VARIABLE)) {
            (Some(path), _) => trust(path, "--ca")?,
            (None, Some(path)) if !path.is_empty() => trust(&PathBuf::from(path), CA_VARIABLE)?,
            (None, _) => websocket::tls::Config::client(),
        };
        Ok(Self {
            resolver,
            tls,
            swarm_key,
        })
    }

    /// A transport that resolves the names in addresses for `inner`.
    pub(super) fn resolve_names<T>(&self, inner: T) -> dns::tokio::Transport<T> {
        let (config, options) = self.resolver_config();
        dns::tokio::Transport::custom(inner, config, options)
    }

    /// The configuration of the resolver; one without name servers if there is none.
    fn resolver_config(&self) -> (ResolverConfig, ResolverOpts) {
        let none = || {
            let config = ResolverConfig::from_name_servers(Vec::new());
            (config, ResolverOpts::default())
        };
        self.resolver.clone().unwrap_or_else(|_| none())
    }

    /// Whether the names in `address` can be resolved at all.
    ///
    /// # Errors
    /// When it has a name and there is no resolver.
    pub(super) fn check_resolver(&self, address: &Multiaddr) -> Result<(), Cause> {
        match (&self.resolver, name_of(address)) {
            (Err(cause), Some(_)) => Err(cause.clone()),
            _ => Ok(()),
        }
    }

    fn resolver(&self) -> Result<TokioResolver, Cause> {
        let (config, options) = self.resolver.clone()?;
        TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
            .with_options(options)
            .build()
            .map_err(|error| Cause::of(&error))
    }

    /// The TXT records of a name.
    pub(super) async fn txt_records(&self, name: &str) -> Result<Vec<String>, Cause> {
        let records = self.resolver()?.txt_lookup(name).await;
        let records = records.map_err(|error: NetError| {
            if error.is_no_records_found() {
                Cause::new(format!("there is no TXT record of {name}"))
            } else {
                Cause::of(&error)
            }
        })?;
        Ok(records
            .answers()
            .iter()
            .filter_map(|record| match &record.data {
                RData::TXT(txt) => String::from_utf8(txt.txt_data.concat()).ok(),
                _ => None,
            })
            .collect())
    }

    /// The IP addresses of a name; empty if it has none.
    pub(super) async fn ip_addresses(&self, name: &str) -> Result<Vec<IpAddr>, Cause> {
        match self.resolver()?.lookup_ip(name).await {
            Ok(found) => Ok(found.iter().collect()),
            Err(error) if error.is_no_records_found() => Ok(Vec::new()),
            Err(error) => Err(Cause::of(&error)),
        }
    }
}

/// The DNS name of an address, unless that is an IP address.
pub(super) fn name_of(address: &Multiaddr) -> Option<String> {
    match address.iter().next()? {
        Protocol::Dns(name)
        | Protocol::Dns4(name)
        | Protocol::Dns6(name)
        | Protocol::Dnsaddr(name) => Some(name.into_owned()),
        _ => None,
    }
}

/// The certificates in a PEM file, besides those that browsers trust. `source` is the option or variable
/// that names the file.
fn trust(path: &Path, source: &str) -> Result<websocket::tls::Config, Cause> {
    let pem = pem::read(source, path).map_err(Cause::new)?;
    let mut builder = websocket::tls::Config::builder();
    let mut trusted = 0;
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let invalid = |error: &dyn std::fmt::Display| {
            Cause::new(format!(
                "{source}: {} is not a PEM file: {error}",
                path.display()
            ))
        };
        let certificate = certificate.map_err(|error| invalid(&error))?;
        // A system's file may contain certificates in forms that are not supported.
        let certificate = websocket::tls::Certificate::new(certificate.to_vec());
        trusted += usize::from(builder.add_trust(&certificate).is_ok());
    }
    if trusted == 0 {
        return Err(Cause::new(format!(
            "{source}: {} contains no certificate of an authority",
            path.display()
        )));
    }
    Ok(builder.finish())
}

/// The name servers of a host with an optional port.
async fn name_servers(host: &str) -> Result<ResolverConfig, Cause> {
    let with_port = match host.parse::<IpAddr>() {
        Ok(ip) => SocketAddr::new(ip, 53).to_string(),
        Err(_) if host.contains(':') => host.to_owned(),
        Err(_) => format!("{host}:53"),
    };
    let addresses = lookup_host(with_port).await;
    let addresses =
        addresses.map_err(|error| Cause::new(format!("--dns-server {host}: {error}")))?;
    let server = |address: SocketAddr| {
        let mut server = NameServerConfig::udp_and_tcp(address.ip());
        for connection in &mut server.connections {
            connection.port = address.port();
        }
        server
    };
    Ok(ResolverConfig::from_name_servers(
        addresses.map(server).collect(),
    ))
}
