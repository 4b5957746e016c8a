//! What a listener proves with TLS: a certificate and its key, out of files that may change, or made at the start.
//!
//! One that is made at the start protects from those who listen on the way, and proves nothing: most RocketMQ clients
//! speak TLS unless told otherwise, and ask no more of the certificate.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::ArcSwap;
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        self, ServerConfig,
        crypto::CryptoProvider,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
        server::{ClientHello, ResolvesServerCert},
        sign::CertifiedKey,
    },
};

use crate::config::IdentityFiles;

/// Why certificate or key cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot use {}: {message}", path.display())]
pub struct IdentityError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub message: String,
}

/// Certificate and key of a listener. Connections get those that were read last.
#[derive(Debug)]
pub struct Identity {
    files: Option<IdentityFiles>,
    current: ArcSwap<CertifiedKey>,
}

impl Identity {
    /// Reads certificate and key.
    ///
    /// # Errors
    ///
    /// If one of them cannot be read, or they do not belong together.
    pub fn of(files: &IdentityFiles) -> Result<Self, IdentityError> {
        let current = ArcSwap::from_pointee(read(files)?);
        Ok(Self { files: Some(files.clone()), current })
    }

    /// Makes a certificate for these names that nobody has signed.
    ///
    /// # Errors
    ///
    /// If one of the names cannot stand in a certificate.
    pub fn self_signed(names: Vec<String>) -> Result<Self, IdentityError> {
        let wrong =
            |message: String| IdentityError { path: PathBuf::from("a certificate of our own"), message };
        let made = rcgen::generate_simple_self_signed(names).map_err(|error| wrong(error.to_string()))?;
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der())
            .map_err(|error| wrong(error.to_owned()))?;
        let certified = CertifiedKey::from_der(vec![made.cert.der().clone()], key, &provider());
        let current = ArcSwap::from_pointee(certified.map_err(|error| wrong(error.to_string()))?);
        Ok(Self { files: None, current })
    }

    /// Returns the files that it came from, if it came from files.
    pub fn files(&self) -> Option<&IdentityFiles> {
        self.files.as_ref()
    }

    /// Reads the files again, for the connections to come.
    ///
    /// # Errors
    ///
    /// As [`of`](Self::of); then what was read before stays.
    pub fn reload(&self) -> Result<(), IdentityError> {
        if let Some(files) = &self.files {
            self.current.store(Arc::new(read(files)?));
        }
        Ok(())
    }

    /// Returns what accepts TLS connections with it.
    pub(crate) fn acceptor(self: &Arc<Self>) -> TlsAcceptor {
        let mut config = ServerConfig::builder_with_provider(Arc::new(provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider has ciphers for the usual versions")
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(self) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![b"h2".to_vec()];
        TlsAcceptor::from(Arc::new(config))
    }
}

impl ResolvesServerCert for Identity {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

fn provider() -> CryptoProvider {
    rustls::crypto::ring::default_provider()
}

fn read(files: &IdentityFiles) -> Result<CertifiedKey, IdentityError> {
    let wrong = |path: &Path, message: String| IdentityError { path: path.to_owned(), message };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(&files.certificate)
        .and_then(Iterator::collect)
        .map_err(|error| wrong(&files.certificate, error.to_string()))?;
    if chain.is_empty() {
        return Err(wrong(&files.certificate, "it holds no certificate in PEM form".to_owned()));
    }
    let key =
        PrivateKeyDer::from_pem_file(&files.key).map_err(|error| wrong(&files.key, error.to_string()))?;
    CertifiedKey::from_der(chain, key, &provider())
        .map_err(|error| wrong(&files.certificate, format!("with key {}: {error}", files.key.display())))
}
