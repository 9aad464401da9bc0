//! A certificate authority and its certificates, as files.

use std::{path::Path, sync::Arc};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;
use tokio_rustls::rustls::{
    ConfigBuilder, RootCertStore, ServerConfig, WantsVerifier,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{WantsServerCert, WebPkiClientVerifier},
};

/// A certificate authority, with `ca.pem` in a temporary directory.
pub struct Pki {
    directory: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Pki {
    /// Generates a key, so this is not `Default`.
    pub fn generate() -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { directory, issuer }
    }

    /// Issues a certificate for 127.0.0.1. Returns certificate and key as PEM, and also writes them to
    /// files.
    pub fn certify(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let (certificate, key) = (certificate.pem(), key.serialize_pem());
        std::fs::write(self.path(&format!("{name}.pem")), &certificate).unwrap();
        std::fs::write(self.path(&format!("{name}.key")), &key).unwrap();
        (certificate, key)
    }

    /// The path of the file with this name.
    pub fn path(&self, name: &str) -> String {
        let path: &Path = self.directory.path();
        path.join(name).to_str().unwrap().to_owned()
    }

    /// A server configuration that requires client certificates of this authority.
    pub fn server(&self) -> ServerConfig {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        let verifier = verifier.build().unwrap();
        self.with_certificate(|config| config.with_client_cert_verifier(verifier))
    }

    /// A server configuration without client authentication.
    pub fn open_server(&self) -> ServerConfig {
        self.with_certificate(ConfigBuilder::<ServerConfig, _>::with_no_client_auth)
    }

    fn with_certificate(
        &self,
        clients: impl FnOnce(
            ConfigBuilder<ServerConfig, WantsVerifier>,
        ) -> ConfigBuilder<ServerConfig, WantsServerCert>,
    ) -> ServerConfig {
        let (certificate, key) = self.certify("server");
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap();
        clients(config)
            .with_single_cert(
                vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
            )
            .unwrap()
    }
}
