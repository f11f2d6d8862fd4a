//! What a certificate calls its holder.

use tokio_rustls::rustls::pki_types::CertificateDer;
use x509_cert::Certificate;
use x509_cert::der::Decode as _;
use x509_cert::der::oid::db::rfc4519::COMMON_NAME;

/// The subject's common name. None if there is none or more than one: PostgreSQL would take one of them, and another
/// reader another.
pub(super) fn common_name(certificate: &CertificateDer<'_>) -> Option<String> {
    let certificate = Certificate::from_der(certificate).ok()?;
    let subject = certificate.tbs_certificate().subject();
    if subject.iter().filter(|attribute| attribute.oid == COMMON_NAME).count() != 1 {
        return None;
    }
    let name = subject.common_name().ok()??;
    // A name with a zero byte may be cut there by who compares it.
    Some(name.value().into_owned()).filter(|name| !name.is_empty() && !name.contains('\0'))
}
