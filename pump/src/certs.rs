//! A private authority and a certificate for each site, for a first set-up.
//!
//! The authority exists to vouch for the sites of one deployment and nobody else, so that "signed by it" and "one of ours"
//! are the same. Its key is needed again only for another site; it belongs on a shelf and not on a server.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use jiff::civil::Date;
use jiff::{Timestamp, ToSpan, tz::TimeZone};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};

use crate::error::Error;

/// For how many years the authority's certificate is valid.
pub const AUTHORITY_YEARS: i16 = 20;
/// For how many years a site's certificate is valid. There is no user of a browser to protect: a link that ends by a date
/// nobody remembers is the greater danger.
pub const SITE_YEARS: i16 = 10;

/// A site's files.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SiteCertificate {
    /// The site: the name in the certificate.
    pub site: String,
    /// The certificate, PEM.
    pub certificate: PathBuf,
    /// Its key, PEM, readable by its owner only.
    pub key: PathBuf,
}

/// What was made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Certificates {
    /// The authority's certificate: each site gets a copy.
    pub authority: PathBuf,
    /// The authority's key, readable by its owner only: no site gets it.
    pub authority_key: PathBuf,
    /// The last day on which the authority's certificate is valid.
    pub authority_until: Date,
    /// The sites' files, in the order asked for.
    pub sites: Vec<SiteCertificate>,
    /// The last day on which they are valid.
    pub sites_until: Date,
}

/// Makes an authority and a certificate and key for each of `sites` in `directory`: `ca.crt`, `ca.key`, and `<site>.crt`
/// and `<site>.key`. The directory is made if need be. Valid from yesterday, because clocks differ, for
/// [`AUTHORITY_YEARS`] and [`SITE_YEARS`].
///
/// # Errors
/// [`Error::Exists`] when one of the files is there: then none is written. [`Error::Setting`] for a name that cannot stand
/// in a certificate, [`Error::File`].
pub fn make(directory: &Path, deployment: &str, sites: &[&str]) -> Result<Certificates, Error> {
    let today = Timestamp::now().to_zoned(TimeZone::UTC).date();
    let setting = |reason: String| Error::Setting { setting: "sites", reason };
    let mut names = std::collections::HashSet::from(["ca"]);
    for site in sites {
        if !names.insert(site) {
            return Err(setting(format!("\"{site}\" is there twice, or is the authority's own name")));
        }
        if rustls_pki_types::DnsName::try_from(*site).is_err() {
            let reason = format!("\"{site}\" cannot stand in a certificate: use letters, digits, - and .");
            return Err(setting(reason));
        }
    }
    let path = |name: &str, kind: &str| directory.join(format!("{name}.{kind}"));
    for file in names.iter().flat_map(|name| [path(name, "crt"), path(name, "key")]) {
        match fs::symlink_metadata(&file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(&file)(error)),
            Ok(_) => return Err(Error::Exists(file)),
        }
    }
    let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.map_err(failed(directory))?;

    let (authority, authority_key) = (path("ca", "crt"), path("ca", "key"));
    let (mut parameters, authority_until) = parameters(today, AUTHORITY_YEARS)?;
    parameters.distinguished_name.push(DnType::CommonName, format!("Irongate {deployment}"));
    // It signs sites and no further authorities.
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    parameters.key_usages.extend([KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign]);
    let key = new_key()?;
    let certificate = parameters.self_signed(&key).map_err(refused)?;
    write(&authority_key, &key.serialize_pem(), 0o600)?;
    write(&authority, &certificate.pem(), 0o644)?;
    let issuer = Issuer::new(parameters, key);

    let mut sites_until = today;
    let mut made = Vec::new();
    for site in sites {
        let files = SiteCertificate {
            site: (*site).to_owned(),
            certificate: path(site, "crt"),
            key: path(site, "key"),
        };
        sites_until = make_site(&files, deployment, today, &issuer)?;
        made.push(files);
    }
    Ok(Certificates { authority, authority_key, authority_until, sites: made, sites_until })
}

/// When a certificate ends: the first one of a PEM file, which is the one that is shown to the other side.
///
/// # Errors
/// [`Error::File`].
pub fn expiry(certificate: &Path) -> Result<irongate_trail::Timestamp, Error> {
    crate::link::tls::expiry(certificate)
}

fn make_site(
    files: &SiteCertificate,
    deployment: &str,
    today: Date,
    issuer: &Issuer<'_, KeyPair>,
) -> Result<Date, Error> {
    let (mut parameters, until) = parameters(today, SITE_YEARS)?;
    let name = files.site.clone().try_into().map_err(refused)?;
    parameters.subject_alt_names.push(rcgen::SanType::DnsName(name));
    parameters.distinguished_name.push(DnType::CommonName, format!("Irongate {deployment} {}", files.site));
    parameters.use_authority_key_identifier_extension = true;
    parameters.key_usages.push(KeyUsagePurpose::DigitalSignature);
    // Either site may be the one that connects.
    parameters
        .extended_key_usages
        .extend([ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth]);
    let key = new_key()?;
    let certificate = parameters.signed_by(&key, issuer).map_err(refused)?;
    write(&files.key, &key.serialize_pem(), 0o600)?;
    write(&files.certificate, &certificate.pem(), 0o644)?;
    Ok(until)
}

fn parameters(today: Date, years: i16) -> Result<(CertificateParams, Date), Error> {
    let refused = |error: jiff::Error| Error::Setting { setting: "the clock", reason: error.to_string() };
    let from = today.checked_sub(1.day()).map_err(refused)?;
    let until = today.checked_add(years.years()).map_err(refused)?;
    let ymd = |date: Date| {
        rcgen::date_time_ymd(i32::from(date.year()), date.month().unsigned_abs(), date.day().unsigned_abs())
    };
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = DistinguishedName::new();
    (parameters.not_before, parameters.not_after) = (ymd(from), ymd(until));
    // It ends with the first moment of that day.
    Ok((parameters, until.checked_sub(1.day()).map_err(refused)?))
}

fn new_key() -> Result<KeyPair, Error> {
    KeyPair::generate().map_err(refused)
}

fn refused(error: rcgen::Error) -> Error {
    Error::Setting { setting: "a certificate", reason: error.to_string() }
}

fn failed(path: &Path) -> impl Fn(io::Error) -> Error + '_ {
    move |error| Error::File { path: path.to_owned(), reason: error.to_string() }
}

/// Writes a new file, durable before it is spoken of.
fn write(path: &Path, text: &str, mode: u32) -> Result<(), Error> {
    let opened = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    let mut file = match opened {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return Err(Error::Exists(path.to_owned()));
        }
        other => other.map_err(failed(path))?,
    };
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed(path))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn certificates_are_made_once_and_their_keys_are_for_their_owner() {
        let dir = tempfile::tempdir().unwrap();
        let made = make(&dir.path().join("new/certs"), "shop", &["main", "secondary"]).unwrap();
        let today = Timestamp::now().to_zoned(TimeZone::UTC).date();
        assert!(made.sites_until > today.checked_add(9.years()).unwrap());
        assert!(made.authority_until > made.sites_until);
        let keys = made.sites.iter().map(|site| &site.key).chain([&made.authority_key]);
        for key in keys {
            assert_eq!(fs::metadata(key).unwrap().mode() & 0o777, 0o600, "{key:?}");
        }
        let ends = expiry(&made.sites[0].certificate).unwrap();
        let last_day =
            Timestamp::from_microsecond(ends.unix_micros()).unwrap().to_zoned(TimeZone::UTC).date();
        assert_eq!(last_day.checked_sub(1.day()).unwrap(), made.sites_until);
        assert!(expiry(&made.sites[0].key).unwrap_err().to_string().contains("holds no certificate"));
        let before = fs::read(&made.sites[0].certificate).unwrap();
        let again = make(&dir.path().join("new/certs"), "shop", &["main", "third"]).unwrap_err();
        assert!(matches!(again, Error::Exists(_)), "{again}");
        assert!(again.hint().unwrap().contains("another directory"));
        assert_eq!(fs::read(&made.sites[0].certificate).unwrap(), before);
        assert!(!dir.path().join("new/certs/third.key").exists(), "nothing is written by halves");
    }

    #[test]
    fn names_that_no_certificate_can_hold_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        for names in [&["ca"][..], &["main", "main"], &["a site"], &[""], &["../x"]] {
            let error = make(dir.path(), "shop", names).unwrap_err();
            assert!(matches!(error, Error::Setting { setting: "sites", .. }), "{names:?}: {error}");
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
