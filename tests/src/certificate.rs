//! Certificates: an authority, and what it signs for the cluster's components and for the servers of tests.

use std::net::IpAddr;
use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, Error, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};

/// An authority that nobody trusts who was not told to.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its certificate, PEM.
    pub certificate: String,
}

/// A certificate and its key, PEM.
pub struct Identity {
    /// The certificate.
    pub certificate: String,
    /// Its private key.
    pub key: String,
}

impl Authority {
    /// Makes a new one of that name.
    ///
    /// # Errors
    /// The machine has no randomness.
    pub fn new(name: &str) -> Result<Self, Error> {
        let mut params = params(name, None, Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::CrlSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?.pem();
        Ok(Self {
            issuer: Issuer::new(params, key),
            certificate,
        })
    }

    /// Its private key, PEM.
    pub fn key(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// A certificate for the server `host` at `address`, which this machine may also call `localhost`.
    ///
    /// # Errors
    /// The name is none.
    pub fn server(&self, host: &str, address: IpAddr) -> Result<Identity, Error> {
        let subjects = vec![host.to_owned(), "localhost".to_owned(), address.to_string()];
        self.issue(host, None, subjects)
    }

    /// A certificate for the server, and client, `name` of `group`, which is reached by `subjects`: names and addresses.
    ///
    /// # Errors
    /// A subject is none.
    pub fn issue(
        &self,
        name: &str,
        group: Option<&str>,
        subjects: Vec<String>,
    ) -> Result<Identity, Error> {
        let mut params = params(name, group, subjects)?;
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
        ];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Identity {
            certificate,
            key: key.serialize_pem(),
        })
    }
}

impl Identity {
    /// Writes `<name>.crt` and `<name>.key` into `directory`.
    ///
    /// # Errors
    /// The files cannot be written.
    pub fn write(&self, directory: &Path, name: &str) -> std::io::Result<()> {
        fs_err::write(directory.join(format!("{name}.crt")), &self.certificate)?;
        fs_err::write(directory.join(format!("{name}.key")), &self.key)
    }
}

fn params(
    name: &str,
    group: Option<&str>,
    subjects: Vec<String>,
) -> Result<CertificateParams, Error> {
    let mut params = CertificateParams::new(subjects)?;
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2049, 12, 31);
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    if let Some(group) = group {
        params
            .distinguished_name
            .push(DnType::OrganizationName, group);
    }
    Ok(params)
}
