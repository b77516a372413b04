//! What a command is aimed at: `all`, `r0`, `r0/0`, `r0:bob`, `r0:bob/0`, as with drbdadm.

use crate::resource::VolumeNumber;

/// A target as typed, checked for form only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Every resource.
    All,
    /// One resource, perhaps narrowed.
    One {
        /// The resource's name.
        resource: String,
        /// A peer's host name.
        peer: Option<String>,
        /// A volume.
        volume: Option<VolumeNumber>,
    },
}

impl std::str::FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let malformed = |why: &str| {
            Err(format!("'{text}' is not a target ({why}): all, r0, r0/0, r0:bob or r0:bob/0"))
        };
        if text == "all" {
            return Ok(Self::All);
        }
        if text.len() > 512 || text.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return malformed("too long, or with blanks");
        }
        let (names, volume) = match text.split_once('/') {
            None => (text, None),
            Some((names, number)) => match number.parse::<VolumeNumber>() {
                Ok(number) if number <= 65_534 => (names, Some(number)),
                _ => return malformed("a volume is a number from 0 to 65534"),
            },
        };
        let (resource, peer) = match names.split_once(':') {
            None => (names, None),
            Some((resource, peer)) => (resource, Some(peer)),
        };
        if resource.is_empty() {
            return malformed("the name of the resource is missing");
        }
        if peer.is_some_and(str::is_empty) {
            return malformed("the name of the peer is missing");
        }
        Ok(Self::One { resource: resource.to_owned(), peer: peer.map(str::to_owned), volume })
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::All => write!(f, "all"),
            Self::One { resource, peer, volume } => {
                write!(f, "{resource}")?;
                if let Some(peer) = peer {
                    write!(f, ":{peer}")?;
                }
                if let Some(volume) = volume {
                    write!(f, "/{volume}")?;
                }
                Ok(())
            }
        }
    }
}

impl Target {
    /// The resource, `None` for `all`.
    #[must_use]
    pub fn resource(&self) -> Option<&str> {
        match self {
            Self::All => None,
            Self::One { resource, .. } => Some(resource),
        }
    }

    /// The peer, where one is named.
    #[must_use]
    pub fn peer(&self) -> Option<&str> {
        match self {
            Self::All => None,
            Self::One { peer, .. } => peer.as_deref(),
        }
    }

    /// The volume, where one is named.
    #[must_use]
    pub fn volume(&self) -> Option<VolumeNumber> {
        match self {
            Self::All => None,
            Self::One { volume, .. } => *volume,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Target;

    #[test]
    fn every_form_prints_as_it_was_typed() {
        for text in ["all", "r0", "r0/0", "r0:bob", "r0:bob/0", "db.main/65534"] {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn malformed_targets_are_named() {
        for text in ["", "/0", ":bob", "r0/", "r0/x", "r0/65535", "r0:", "r0:/0", "r 0", "r0/-1"] {
            assert!(text.parse::<Target>().is_err(), "{text}");
        }
    }
}
