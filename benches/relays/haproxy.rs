//! HAProxy, which does the equivalent work where a relay speaks TLS: it decrypts each byte, and
//! encrypts it again.

use std::{io, net::SocketAddr, process::Stdio, sync::Arc};

use nix::{time::ClockId, unistd::Pid};
use tempfile::TempDir;
use tokio::{
    net::{TcpListener, TcpStream},
    process::{Child, Command},
    time::{Instant, sleep},
};
use tokio_rustls::{
    TlsAcceptor, TlsConnector,
    rustls::{
        ClientConfig, RootCertStore, ServerConfig,
        crypto::aws_lc_rs,
        pki_types::{PrivateKeyDer, ServerName},
    },
};
use tokio_util::compat::{Compat, TokioAsyncReadCompatExt};

use super::{
    Plan, Result,
    relay::{PATIENCE, cpu_of},
    report::{Sample, Target},
    throughput::Load,
};

const PROGRAM: &str = "haproxy";
const HOST: &str = "localhost";
/// Ours is to cost no more than a tenth more.
pub(crate) const TARGET: Target = Target::Ratio(1.1);

type Ends = (
    Compat<tokio_rustls::client::TlsStream<TcpStream>>,
    Compat<tokio_rustls::server::TlsStream<TcpStream>>,
);

/// A process of it between TLS clients and a TLS server. Killed when it is dropped.
pub(crate) struct HaProxy {
    child: Child,
    clock: ClockId,
    address: SocketAddr,
    connector: TlsConnector,
    acceptor: TlsAcceptor,
    behind: TcpListener,
    _files: TempDir,
}

impl HaProxy {
    /// Whether there is one on this machine.
    pub(crate) async fn is_there() -> bool {
        let version = Command::new(PROGRAM).arg("-v").output().await;
        version.is_ok_and(|output| output.status.success())
    }

    /// Starts one with as many threads as there are cores, and the cipher that the relay takes on
    /// processors with AES. All else is as it comes.
    pub(crate) async fn start() -> Result<Self> {
        let certified = rcgen::generate_simple_self_signed([HOST.to_owned()])?;
        let certificate = certified.cert.der().clone();
        let key = PrivateKeyDer::Pkcs8(certified.signing_key.serialize_der().into());
        let mut roots = RootCertStore::empty();
        roots.add(certificate.clone())?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let client = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let server = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)?;

        let behind = TcpListener::bind("127.0.0.1:0").await?;
        let address = unused_address()?;
        let files = tempfile::tempdir()?;
        let pem = certified.cert.pem() + &certified.signing_key.serialize_pem();
        std::fs::write(files.path().join("pem"), pem)?;
        let configuration = files.path().join("haproxy.cfg");
        std::fs::write(&configuration, configure(address, behind.local_addr()?))?;
        let child = Command::new(PROGRAM)
            .arg("-db")
            .arg("-f")
            .arg(&configuration)
            .current_dir(files.path())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let id = i32::try_from(child.id().ok_or("HAProxy has ended")?)?;
        Ok(Self {
            child,
            clock: ClockId::pid_cpu_clock_id(Pid::from_raw(id))?,
            address,
            connector: TlsConnector::from(Arc::new(client)),
            acceptor: TlsAcceptor::from(Arc::new(server)),
            behind,
            _files: files,
        })
    }

    /// What a byte costs it, on so many connections.
    pub(crate) async fn measure(
        &self,
        channel: &str,
        circuits: usize,
        plan: &Plan,
    ) -> Result<Vec<Sample>> {
        let mut ends = Vec::new();
        for _ in 0..circuits {
            ends.push(self.connect().await?);
        }
        let load = Load::between(ends, None)?;
        load.cost(|| cpu_of(self.clock), channel, TARGET, plan)
            .await
    }

    /// The two ends of a connection through it.
    async fn connect(&self) -> Result<Ends> {
        let near = async {
            let tcp = self.dial().await?;
            self.connector
                .connect(ServerName::try_from(HOST)?, tcp)
                .await
                .map_err(super::Error::from)
        };
        let far = async {
            let (tcp, _) = self.behind.accept().await?;
            Ok(self.acceptor.accept(tcp).await?)
        };
        let (near, far) = tokio::try_join!(near, far)?;
        Ok((near.compat(), far.compat()))
    }

    /// Waits for it to listen, if it has just been started.
    async fn dial(&self) -> io::Result<TcpStream> {
        let start = Instant::now();
        loop {
            match TcpStream::connect(self.address).await {
                Err(_) if start.elapsed() < PATIENCE => sleep(PATIENCE / 1000).await,
                connected => return connected,
            }
        }
    }

    /// Ends it, and waits until it is gone.
    pub(crate) async fn end(mut self) -> Result<()> {
        Ok(self.child.kill().await?)
    }
}

/// It cannot tell which port it was given, so it is told one that was free just now.
fn unused_address() -> io::Result<SocketAddr> {
    std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()
}

fn configure(address: SocketAddr, behind: SocketAddr) -> String {
    format!(
        "global
  ssl-default-bind-options ssl-min-ver TLSv1.3
  ssl-default-bind-ciphersuites TLS_AES_128_GCM_SHA256
  ssl-default-server-options ssl-min-ver TLSv1.3
  ssl-default-server-ciphersuites TLS_AES_128_GCM_SHA256
defaults
  mode tcp
  timeout connect 10s
  timeout client 1h
  timeout server 1h
listen relay
  bind {address} ssl crt pem
  server behind {behind} ssl verify none
"
    )
}
