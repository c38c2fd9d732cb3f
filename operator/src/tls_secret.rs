//! The Secret with the edge's certificate, which is the user's: whether NGINX can use it.
//! Rule: it is looked at and not kept, and nothing of its content is said.

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys};

/// Reads the Secret and says what is wrong with it; nothing when it can be used, or when the API server does not tell.
pub async fn problem(client: &Client, namespace: &str, name: &str) -> Option<String> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    match secrets.get_opt(name).await {
        Ok(Some(secret)) => fault(&secret).map(|fault| {
            format!("secret {name} {fault}: NGINX goes on with the certificate it had, and without one serves plain HTTP: correct the Secret")
        }),
        Ok(None) => Some(format!(
            "secret {name} does not exist: NGINX goes on with the certificate it had, and without one serves plain HTTP: create the Secret, \
             of type kubernetes.io/tls"
        )),
        Err(error) => {
            tracing::warn!(%error, name, "cannot read the secret");
            None
        }
    }
}

/// What is wrong with it.
fn fault(secret: &Secret) -> Option<String> {
    let part = |key: &str| secret.data.as_ref().and_then(|data| data.get(key)).filter(|value| !value.0.is_empty());
    let Some(certificate) = part("tls.crt") else { return Some("lacks tls.crt".into()) };
    let Some(key) = part("tls.key") else { return Some("lacks tls.key".into()) };
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&certificate.0).collect();
    let Some(chain) = chain.ok().filter(|chain| !chain.is_empty()) else {
        return Some("has a tls.crt that is no certificate in PEM".into());
    };
    let Ok(key) = PrivateKeyDer::from_pem_slice(&key.0) else {
        return Some("has a tls.key that is no private key in PEM".into());
    };
    match CertifiedKey::from_der(chain, key, &ring::default_provider()) {
        Err(Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
            Some("has a tls.key that is not the key of its tls.crt".into())
        }
        // A kind of key that this library does not know may be one that NGINX does.
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;

    use super::*;

    #[test]
    fn what_is_no_certificate_is_named() {
        let fault = |data: &[(&str, &str)]| {
            let data = data.iter().map(|(key, text)| ((*key).to_owned(), ByteString(text.as_bytes().to_vec())));
            super::fault(&Secret { data: Some(data.collect()), ..Secret::default() })
        };
        assert_eq!(fault(&[]).as_deref(), Some("lacks tls.crt"));
        assert_eq!(fault(&[("tls.crt", "x")]).as_deref(), Some("lacks tls.key"));
        assert_eq!(fault(&[("tls.crt", "x"), ("tls.key", "")]).as_deref(), Some("lacks tls.key"));
        let not_pem = fault(&[("tls.crt", "x"), ("tls.key", "hush")]).unwrap();
        assert_eq!(not_pem, "has a tls.crt that is no certificate in PEM");
    }
}
