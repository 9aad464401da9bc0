//! HAProxy as a baseline for a relay with TLS: it also decrypts and encrypts each byte.

use std::{io, net::SocketAddr, process::Stdio, sync::Arc};

use nix::{time::ClockId, unistd::Pid};
use tempfile::TempDir;
use tokio::{
    net::{TcpListener, TcpStream},
    process::{Child, Command},
    time::{sleep, timeout},
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
/// The relay may use at most 10 % more CPU time.
pub(crate) const TARGET: Target = Target::Ratio(1.1);

type Ends = (
    Compat<tokio_rustls::client::TlsStream<TcpStream>>,
    Compat<tokio_rustls::server::TlsStream<TcpStream>>,
);

/// A HAProxy process between TLS clients and a TLS server, killed on drop.
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
    /// The versions of the installed HAProxy and its OpenSSL, if any.
    pub(crate) async fn versions() -> Option<String> {
        let output = Command::new(PROGRAM).arg("-vv").output().await.ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        let version = text.strip_prefix("HAProxy version ")?.split(' ').next()?;
        let openssl = text
            .lines()
            .find_map(|line| line.strip_prefix("Running on OpenSSL version : "))?;
        Some(format!("HAProxy {version}, {openssl}"))
    }

    /// Starts HAProxy with one thread per core, and the cipher that the relay prefers on processors with
    /// AES instructions. Other options are defaults.
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

    /// The CPU time per byte, with this many connections.
    pub(crate) async fn measure(
        &mut self,
        channel: &str,
        circuits: usize,
        plan: &Plan,
    ) -> Result<Vec<Sample>> {
        let mut ends = Vec::new();
        for _ in 0..circuits {
            ends.push(timeout(PATIENCE, self.connect()).await??);
        }
        let load = Load::between(ends, None)?;
        load.cost(|| cpu_of(self.clock), channel, TARGET, plan)
            .await
    }

    /// Both ends of a connection through HAProxy.
    async fn connect(&mut self) -> Result<Ends> {
        let tcp = self.dial().await?;
        let near = async {
            let name = ServerName::try_from(HOST)?;
            Ok::<_, super::Error>(self.connector.connect(name, tcp).await?)
        };
        let far = async {
            let (tcp, _) = self.behind.accept().await?;
            Ok(self.acceptor.accept(tcp).await?)
        };
        let (near, far) = tokio::try_join!(near, far)?;
        Ok((near.compat(), far.compat()))
    }

    /// Connects; retries while a new process is not listening yet.
    async fn dial(&mut self) -> Result<TcpStream> {
        loop {
            if let Ok(connected) = TcpStream::connect(self.address).await {
                // Like libp2p.
                connected.set_nodelay(true)?;
                return Ok(connected);
            }
            if let Some(status) = self.child.try_wait()? {
                return Err(format!("HAProxy has ended: {status}").into());
            }
            sleep(PATIENCE / 1000).await;
        }
    }

    /// Stops the process and waits for its exit.
    pub(crate) async fn end(mut self) -> Result<()> {
        Ok(self.child.kill().await?)
    }
}

/// A currently free address. HAProxy does not report its port, so it cannot use port 0.
fn unused_address() -> io::Result<SocketAddr> {
    std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()
}

fn configure(address: SocketAddr, behind: SocketAddr) -> String {
    format!(
        "global
  maxconn 1000
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
