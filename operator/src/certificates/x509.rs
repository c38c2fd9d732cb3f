//! Makes certificates and reads them.
//! Rule: a key is in PEM and never shown; what cannot be read counts as not there.

use std::fmt;
use std::net::IpAddr;

use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use time::OffsetDateTime;
use x509_parser::extensions::GeneralName;
use x509_parser::parse_x509_certificate;
use x509_parser::prelude::X509Certificate;

use super::decision::{AUTHORITY_LIFE, BACKDATED, SERVER_LIFE, Validity};
use crate::objects::fingerprint;

/// A certificate and its key, in PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Pair {
    /// The certificate, or a chain that begins with it.
    pub certificate: String,
    /// Its private key.
    pub key: String,
}

impl fmt::Debug for Pair {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Pair({:?}, key not shown)", shown(&self.certificate))
    }
}

/// Tells two certificates apart: a fingerprint of the first one in a PEM text.
pub fn shown(pem: &str) -> Option<String> {
    first(pem).map(|certificate| of_der(&certificate))
}

/// [`shown`] of a certificate as a server sends it.
pub fn of_der(certificate: &[u8]) -> String {
    let text: String = certificate.iter().map(|byte| format!("{byte:02x}")).collect();
    fingerprint(&text)
}

/// The certificates of a PEM text, each in PEM again; those that cannot be read are left out.
pub fn each(pem: &str) -> Vec<String> {
    const END: &str = "-----END CERTIFICATE-----";
    let blocks =
        pem.split_inclusive(END).filter_map(|block| Some(&block[block.find("-----BEGIN CERTIFICATE-----")?..]));
    blocks.filter(|block| read(block, |_| ()).is_some()).map(|block| format!("{block}\n")).collect()
}

fn first(pem: &str) -> Option<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).next()?.ok()
}

fn read<T>(pem: &str, look: impl FnOnce(&X509Certificate) -> T) -> Option<T> {
    let der = first(pem)?;
    let (_, certificate) = parse_x509_certificate(&der).ok()?;
    Some(look(&certificate))
}

/// The term of a pair whose key belongs to its certificate.
pub fn validity(pair: &Pair) -> Option<Validity> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pair.certificate.as_bytes()).collect::<Result<_, _>>().ok()?;
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).ok()?;
    CertifiedKey::from_der(chain, key, &ring::default_provider()).ok()?;
    let (from, until) = read(&pair.certificate, |certificate| {
        let validity = certificate.validity();
        (validity.not_before.timestamp(), validity.not_after.timestamp())
    })?;
    Some(Validity { from: Timestamp::from_second(from).ok()?, until: Timestamp::from_second(until).ok()? })
}

/// Whether a certificate has all of these DNS names, each as it is written, and addresses.
pub fn has_names(certificate: &str, names: &[String]) -> bool {
    let has = |certificate: &X509Certificate| {
        let Ok(Some(extension)) = certificate.subject_alternative_name() else { return false };
        let present = |name: &String| {
            let address = name.parse::<IpAddr>().ok().map(|address| match address {
                IpAddr::V4(address) => address.octets().to_vec(),
                IpAddr::V6(address) => address.octets().to_vec(),
            });
            extension.value.general_names.iter().any(|other| match (other, &address) {
                (GeneralName::DNSName(other), None) => other == name,
                (GeneralName::IPAddress(other), Some(address)) => *other == address.as_slice(),
                _ => false,
            })
        };
        names.iter().all(present)
    };
    read(certificate, has).unwrap_or(false)
}

/// Whether the key of an authority signed a certificate.
pub fn is_signed_by(certificate: &str, authority: &str) -> bool {
    let signed = |authority: &X509Certificate| {
        read(certificate, |certificate| certificate.verify_signature(Some(authority.public_key())).is_ok())
    };
    read(authority, signed).flatten().unwrap_or(false)
}

/// Tells two keys of authorities apart; the certificates of one key have the same.
pub fn key_of(authority: &str) -> Option<String> {
    read(authority, |certificate| of_der(certificate.public_key().raw))
}

fn term(params: &mut CertificateParams, from: Timestamp, until: Timestamp) -> Result<(), rcgen::Error> {
    let time = |at: Timestamp| OffsetDateTime::from_unix_timestamp(at.as_second()).map_err(|_| rcgen::Error::Time);
    (params.not_before, params.not_after) = (time(from)?, time(until)?);
    Ok(())
}

fn self_signed(name: &str, key: &KeyPair, now: Timestamp) -> Result<Pair, rcgen::Error> {
    let mut params = CertificateParams::default();
    term(&mut params, now - BACKDATED, now + AUTHORITY_LIFE)?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    // With a mark of the key: of two authorities with the same name a library may ask the wrong one.
    params.distinguished_name.push(DnType::CommonName, format!("{name} {}", of_der(key.public_key_raw())));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    Ok(Pair { certificate: params.self_signed(key)?.pem(), key: key.serialize_pem() })
}

/// Makes an authority.
///
/// # Errors
/// The system gives no random numbers, or its clock is no time.
pub fn make_authority(name: &str, now: Timestamp) -> Result<Pair, rcgen::Error> {
    self_signed(name, &KeyPair::generate()?, now)
}

/// Gives the key of an authority a new term, under the same name.
///
/// # Errors
/// As [`make_authority`].
pub fn renew_authority(name: &str, authority: &Pair, now: Timestamp) -> Result<Pair, rcgen::Error> {
    self_signed(name, &KeyPair::from_pem(&authority.key)?, now)
}

/// Makes the certificate of a server, which its members also show each other as clients. It holds no longer than the authority's.
///
/// # Errors
/// As [`make_authority`]; or a name is none.
pub fn issue(authority: &Pair, names: &[String], now: Timestamp) -> Result<Pair, rcgen::Error> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(names)?;
    let until = validity(authority).map_or(now + SERVER_LIFE, |validity| validity.until.min(now + SERVER_LIFE));
    term(&mut params, now - BACKDATED, until)?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    // At most 64 characters (RFC 5280, ub-common-name); the names that count are the others.
    let common = names.iter().find(|name| name.len() <= 64).map_or("stockpipeline", String::as_str);
    params.distinguished_name.push(DnType::CommonName, common);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    let issuer = Issuer::from_ca_cert_pem(&authority.certificate, KeyPair::from_pem(&authority.key)?)?;
    Ok(Pair { certificate: params.signed_by(&key, &issuer)?.pem(), key: key.serialize_pem() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-11-25T12:00:00Z".parse().unwrap()
    }

    fn names() -> Vec<String> {
        vec!["demo-broker.markets.svc".into(), "localhost".into()]
    }

    #[test]
    fn a_certificate_has_the_names_and_the_term_it_was_made_with_and_its_authority_signed_it() {
        let (authority, other) = (make_authority("a", now()).unwrap(), make_authority("a", now()).unwrap());
        let pair = issue(&authority, &names(), now()).unwrap();
        assert!(has_names(&pair.certificate, &names()));
        assert!(!has_names(&pair.certificate, &["demo-database.markets.svc".into()]));
        assert_eq!(validity(&pair), Some(Validity { from: now() - BACKDATED, until: now() + SERVER_LIFE }));
        assert!(is_signed_by(&pair.certificate, &authority.certificate));
        assert!(!is_signed_by(&pair.certificate, &other.certificate));
        let foreign = Pair { key: other.key.clone(), ..pair };
        assert_eq!(validity(&foreign), None, "the key is another's");
        assert!(!format!("{authority:?}").contains("PRIVATE"));
    }

    #[test]
    fn a_renewed_authority_vouches_for_what_it_signed_before_and_ends_no_earlier_than_that() {
        let authority = make_authority("a", now()).unwrap();
        let before = issue(&authority, &names(), now()).unwrap();
        let late = now() + AUTHORITY_LIFE - BACKDATED;
        assert_eq!(validity(&issue(&authority, &names(), late).unwrap()).unwrap().until, now() + AUTHORITY_LIFE);
        let renewed = renew_authority("a", &authority, late).unwrap();
        assert!(is_signed_by(&before.certificate, &renewed.certificate));
        assert_eq!(key_of(&renewed.certificate), key_of(&authority.certificate));
        assert_eq!(validity(&renewed).unwrap().until, late + AUTHORITY_LIFE);
    }

    #[test]
    fn a_text_of_several_certificates_is_taken_apart_and_what_is_none_is_left_out() {
        let (one, two) = (make_authority("a", now()).unwrap(), make_authority("b", now()).unwrap());
        let bundle = format!(
            "# ours\n{}-----BEGIN CERTIFICATE-----\nbm9uZQ==\n-----END CERTIFICATE-----\n{}",
            one.certificate, two.certificate
        );
        let each: Vec<_> = each(&bundle).iter().map(|pem| shown(pem)).collect();
        assert_eq!(each, [shown(&one.certificate), shown(&two.certificate)]);
        assert_eq!(shown("nothing"), None);
    }
}
