//! Whom the operator trusts when it talks to a pipeline's broker and database: their own authorities and nobody else.
//! Rule: the driver of the database reads a file, so the authorities lie in one, under a name that tells their content.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use crate::error::Error;
use crate::objects::fingerprint;
use crate::web::Web;

/// More bundles than pipelines change their authorities at the same time; forgetting one costs making it again.
const BUNDLES_MAX: usize = 1000;

/// One bundle of authorities, ready for use.
#[derive(Clone, Debug)]
pub struct Trusted {
    /// For the database's driver.
    pub file: PathBuf,
    /// For the broker's management interface.
    pub web: Web,
    /// For a look at what a server shows.
    pub config: Arc<ClientConfig>,
}

/// The bundles that are in use, by fingerprint.
#[derive(Default)]
pub struct Trust(Mutex<HashMap<String, Trusted>>);

impl Trust {
    /// Trust in the authorities of a PEM text.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn of(&self, bundle: &str) -> Result<Trusted, Error> {
        let name = fingerprint(bundle);
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(trusted) = known.get(&name) {
            return Ok(trusted.clone());
        }
        // Of this process alone: replicas of the operator may share a machine in tests.
        let folder = std::env::temp_dir().join(format!("stockpipeline-operator-{}", std::process::id()));
        let file = folder.join(format!("{name}.crt"));
        std::fs::create_dir_all(&folder)
            .and_then(|()| std::fs::write(&file, bundle))
            .map_err(|error| Error::NoTemporaryFolder(error.to_string()))?;
        let config = config(bundle).map_err(|error| Error::CertificateNotMade(error.to_string()))?;
        let trusted = Trusted { file, web: Web::new(&config), config: Arc::new(config) };
        if known.len() >= BUNDLES_MAX {
            known.clear();
        }
        known.insert(name, trusted.clone());
        Ok(trusted)
    }
}

/// Trusts the authorities of a PEM text; what cannot be read in it is nobody.
fn config(bundle: &str) -> Result<ClientConfig, rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(CertificateDer::pem_slice_iter(bundle.as_bytes()).flatten());
    crate::web::trusting(roots)
}
