//! The shared secret of a resource: what proves to each node that the other one may speak.
//!
//! Invariants:
//! - A secret is never printed: [`Secret`] shows itself as `...`, and no message here has its bytes.
//!   Only the config, its dump and the admin socket carry it.
//! - Nothing here makes random numbers, and nothing compares a proof but the `hmac` crate, in
//!   constant time.

mod exchange;

pub use exchange::{CHALLENGE_SIZE, Exchange, Failure, Next, PROOFS_MAX, Party};

use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha1::Sha1;
use sha2::{Sha256, Sha512};

/// The longest secret, bytes (DRBD).
pub const SECRET_MAX: usize = 64;

/// A secret of 1 to [`SECRET_MAX`] bytes.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// `None`: it is empty or too long.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let secret = Self(text.to_owned());
        secret.is_valid().then_some(secret)
    }

    /// For the dump of the config, and nothing else.
    #[must_use]
    pub fn written(&self) -> &str {
        &self.0
    }

    fn is_valid(&self) -> bool {
        (1..=SECRET_MAX).contains(&self.0.len()) && !self.0.contains(|c: char| c.is_control())
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("...")
    }
}

/// `cram-hmac-alg`: the digest under the HMAC. The discriminant is its number on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum Algorithm {
    /// SHA-1. Known to be weak, though not in an HMAC; for files that have it.
    Sha1 = 1,
    /// SHA-256. The default.
    #[default]
    Sha256 = 2,
    /// SHA-512.
    Sha512 = 3,
}

impl Algorithm {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Sha1, Self::Sha256, Self::Sha512];

    /// As DRBD spells it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// By its name; `hmac-sha256` and `hmac(sha256)` are `sha256`, which is what DRBD makes of it.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        let bare = name.strip_prefix("hmac-").unwrap_or(name);
        let bare = bare.strip_prefix("hmac(").and_then(|r| r.strip_suffix(')')).unwrap_or(bare);
        Self::ALL.into_iter().find(|one| one.name() == bare)
    }

    /// By its number on the wire.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|one| *one as u8 == number)
    }

    /// Bytes of a proof.
    #[must_use]
    pub fn size(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }

    fn proof(self, secret: &Secret, text: &[u8]) -> Vec<u8> {
        fn of<M: Mac + KeyInit>(secret: &Secret, text: &[u8]) -> Vec<u8> {
            mac::<M>(secret, text).finalize().into_bytes().to_vec()
        }
        match self {
            Self::Sha1 => of::<Hmac<Sha1>>(secret, text),
            Self::Sha256 => of::<Hmac<Sha256>>(secret, text),
            Self::Sha512 => of::<Hmac<Sha512>>(secret, text),
        }
    }

    /// In constant time.
    fn verifies(self, secret: &Secret, text: &[u8], proof: &[u8]) -> bool {
        match self {
            Self::Sha1 => mac::<Hmac<Sha1>>(secret, text).verify_slice(proof).is_ok(),
            Self::Sha256 => mac::<Hmac<Sha256>>(secret, text).verify_slice(proof).is_ok(),
            Self::Sha512 => mac::<Hmac<Sha512>>(secret, text).verify_slice(proof).is_ok(),
        }
    }
}

fn mac<M: Mac + KeyInit>(secret: &Secret, text: &[u8]) -> M {
    let mut mac = <M as KeyInit>::new_from_slice(secret.0.as_bytes())
        .expect("an HMAC takes a key of any length");
    mac.update(text);
    mac
}

/// What a resource has by `net { shared-secret; shared-secret-old; cram-hmac-alg; }`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Secrets {
    /// `cram-hmac-alg`.
    pub cram_hmac_alg: Algorithm,
    /// `shared-secret`.
    pub shared_secret: Secret,
    /// `shared-secret-old`: taken as well, while the nodes are changed one after the other.
    pub shared_secret_old: Option<Secret>,
}

impl Secrets {
    /// One secret, and the default algorithm.
    #[must_use]
    pub fn new(secret: Secret) -> Self {
        Self { cram_hmac_alg: Algorithm::default(), shared_secret: secret, shared_secret_old: None }
    }

    /// The current one first.
    fn all(&self) -> impl Iterator<Item = &Secret> {
        std::iter::once(&self.shared_secret).chain(&self.shared_secret_old)
    }

    /// Checks what the type alone does not promise: they may arrive as JSON.
    ///
    /// # Errors
    /// Which one is not as [`Secret::new`] would have made it.
    pub fn check(&self) -> Result<(), String> {
        let named = [("shared-secret", Some(&self.shared_secret))];
        let named =
            named.into_iter().chain([("shared-secret-old", self.shared_secret_old.as_ref())]);
        for (name, secret) in named {
            if secret.is_some_and(|secret| !secret.is_valid()) {
                return Err(format!("{name}: 1 to {SECRET_MAX} bytes, no control characters"));
            }
        }
        Ok(())
    }
}

/// Why the other end may not speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SecretError {
    /// It has another secret, as its proof says, or as it says of ours.
    Wrong,
    /// It has one, this node has none.
    NoneHere,
    /// This node has one, it has none.
    NoneThere,
    /// It has another `cram-hmac-alg`.
    Algorithm {
        /// This node's.
        here: Algorithm,
        /// The other one's.
        there: Algorithm,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_drbds_and_those_with_hmac() {
        for name in ["sha256", "hmac-sha256", "hmac(sha256)"] {
            assert_eq!(Algorithm::from_name(name), Some(Algorithm::Sha256), "{name}");
        }
        for name in ["", "hmac-", "hmac()", "md5", "SHA256", "hmac(sha256", "hmac-hmac-sha1"] {
            assert_eq!(Algorithm::from_name(name), None, "{name}");
        }
        for one in Algorithm::ALL {
            assert_eq!(Algorithm::from_name(one.name()), Some(one));
            assert_eq!(Algorithm::from_number(one as u8), Some(one));
            assert_eq!(one.proof(&Secret::new("s").unwrap(), b"text").len(), one.size());
        }
    }

    #[test]
    fn a_secret_is_never_printed() {
        let secrets = Secrets {
            shared_secret_old: Secret::new("GuessMe"),
            ..Secrets::new(Secret::new("FooFun").unwrap())
        };
        let text = format!("{secrets:?} {secrets:#?}");
        assert!(!text.contains("FooFun") && !text.contains("GuessMe"), "{text}");
    }

    #[test]
    fn a_secret_has_1_to_64_bytes() {
        assert!(Secret::new("").is_none() && Secret::new(&"x".repeat(65)).is_none());
        assert!(Secret::new("x").is_some() && Secret::new(&"x".repeat(64)).is_some());
        let from_outside = Secrets::new(Secret("x\n".to_owned()));
        assert!(from_outside.check().unwrap_err().starts_with("shared-secret: "));
        let old = Some(Secret(String::new()));
        let from_outside =
            Secrets { shared_secret_old: old, ..Secrets::new(Secret::new("x").unwrap()) };
        assert!(from_outside.check().unwrap_err().starts_with("shared-secret-old: "));
    }

    /// RFC 4231 test case 2, RFC 2202 test case 2.
    #[test]
    fn proofs_are_those_of_the_rfcs() {
        let hex = |bytes: Vec<u8>| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        let (key, text) = (Secret::new("Jefe").unwrap(), b"what do ya want for nothing?");
        assert_eq!(
            hex(Algorithm::Sha256.proof(&key, text)),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
        assert_eq!(
            hex(Algorithm::Sha1.proof(&key, text)),
            "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79"
        );
        assert!(hex(Algorithm::Sha512.proof(&key, text)).starts_with("164b7a7bfcf819e2e395fbe7"));
    }
}
