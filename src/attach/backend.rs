//! The identifier that the kernel keeps with a device, and compares with every new socket's.
//!
//! It names the volume, so that an administrator sees in `/sys/block/nbdN/backend` what is
//! attached, and a token that is minted at each attach, so that a guard of an earlier attach can
//! never lay its hands on the device of a later one.

use std::fmt;
use std::str::FromStr;

use super::Volume;

/// `tandem:r0/0:0123456789abcdef`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// The volume.
    pub volume: Volume,
    /// Of one attach.
    pub token: u64,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tandem:{}:{:016x}", self.volume, self.token)
    }
}

impl FromStr for Backend {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let text = text.strip_prefix("tandem:").ok_or(())?;
        let (volume, token) = text.rsplit_once(':').ok_or(())?;
        let lawful = token.len() == 16 && token.bytes().all(|byte| byte.is_ascii_hexdigit());
        let token = u64::from_str_radix(token, 16).map_err(drop)?;
        let volume = volume.parse().map_err(drop)?;
        if lawful { Ok(Self { volume, token }) } else { Err(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identifier_is_read_as_it_was_written_and_others_are_not_ours() {
        let ours = Backend { volume: "r0/3".parse().unwrap(), token: 0xab };
        assert_eq!(ours.to_string(), "tandem:r0/3:00000000000000ab");
        assert_eq!(ours.to_string().parse(), Ok(ours));
        for other in [
            "",
            "vol-1234",
            "tandem:r0/3",
            "tandem:r0/3:ab",
            "tandem:r0/3:+0000000000000ab",
            "tandem:r0/x:00000000000000ab",
            "drbd:r0/3:00000000000000ab",
        ] {
            assert_eq!(other.parse::<Backend>(), Err(()), "{other}");
        }
    }
}
