//! Certificates for tests of TLS: an authority that lives as long as the test, and what it signs.
//! Knows nothing of who shows them to whom.

use rcgen::BasicConstraints;
use rcgen::CertificateParams;
use rcgen::CertifiedIssuer;
use rcgen::DnType;
use rcgen::ExtendedKeyUsagePurpose;
use rcgen::IsCa;
use rcgen::KeyPair;

/// Signs certificates. Each has a key of its own, so no other authority's are taken for its.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its private key, both PEM.
pub struct Identity {
    /// One `CERTIFICATE` section.
    pub certificate: String,
    /// One `PRIVATE KEY` section (PKCS #8).
    pub key: String,
}

impl Authority {
    /// A new authority.
    ///
    /// # Panics
    /// When there is no randomness to make a key of.
    #[expect(clippy::new_without_default, reason = "every call makes another one")]
    pub fn new() -> Authority {
        let mut parameters = CertificateParams::new(Vec::new()).unwrap();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.distinguished_name.push(DnType::CommonName, "the tests' authority");
        Authority(CertifiedIssuer::self_signed(parameters, KeyPair::generate().unwrap()).unwrap())
    }

    /// Its own certificate in PEM: what the others are checked against.
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// A server's identity for host names or addresses.
    ///
    /// # Panics
    /// When one of `names` is neither.
    pub fn server(&self, names: &[&str]) -> Identity {
        self.sign(names, ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// A client's identity.
    pub fn client(&self) -> Identity {
        self.sign(&["client"], ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn sign(&self, names: &[&str], usage: ExtendedKeyUsagePurpose) -> Identity {
        let first_name = names[0];
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut parameters = CertificateParams::new(names).unwrap();
        parameters.insert_extended_key_usage(usage);
        // By OpenSSL's rules, a certificate with its issuer's name has signed itself.
        parameters.distinguished_name.push(DnType::CommonName, first_name);
        let key = KeyPair::generate().unwrap();
        let certificate = parameters.signed_by(&key, &self.0).unwrap();
        Identity { certificate: certificate.pem(), key: key.serialize_pem() }
    }
}
