//! A server of the export: where it listens, and what its refusals tell.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use nbd::client::Address;

use crate::config::same_host;

/// The port of NBD.
pub const DEFAULT_PORT: u16 = 10_809;

/// A server: `HOST`, `HOST:PORT`, `[ADDRESS]:PORT` or `unix:PATH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Server {
    /// The host's name or address, without brackets, and the port.
    Tcp(String, u16),
    /// A Unix socket.
    Unix(PathBuf),
}

impl Server {
    /// The address for a client.
    #[must_use]
    pub fn address(&self) -> Address {
        match self {
            Self::Unix(path) => Address::Unix(path.clone()),
            tcp @ Self::Tcp(..) => Address::Tcp(tcp.to_string()),
        }
    }

    /// Whether this server runs on the host of that name, as far as names tell.
    #[must_use]
    pub fn is_on(&self, host: &str) -> bool {
        matches!(self, Self::Tcp(name, _) if same_host(name, host))
    }
}

impl FromStr for Server {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let malformed = |why: &str| {
            Err(format!("'{text}' is no server ({why}): HOST, HOST:PORT, [IPV6]:PORT or unix:PATH"))
        };
        if text.len() > 512 || text.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return malformed("too long, or with blanks");
        }
        if let Some(path) = text.strip_prefix("unix:") {
            return match path.starts_with('/') {
                true => Ok(Self::Unix(PathBuf::from(path))),
                false => malformed("the path is not absolute"),
            };
        }
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let Some((host, after)) = rest.split_once(']') else {
                    return malformed("a ] is missing");
                };
                match (after, after.strip_prefix(':')) {
                    ("", _) => (host, None),
                    (_, Some(port)) => (host, Some(port)),
                    _ => return malformed("behind the ] stands no :PORT"),
                }
            }
            None => match text.split_once(':') {
                Some((_, port)) if port.contains(':') => {
                    return malformed("an IPv6 address stands in brackets");
                }
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            },
        };
        if host.is_empty() {
            return malformed("the host is missing");
        }
        let port = match port.map(str::parse::<u16>) {
            None => DEFAULT_PORT,
            Some(Ok(port)) if port > 0 => port,
            Some(_) => return malformed("a port is a number from 1 to 65535"),
        };
        Ok(Self::Tcp(host.to_owned(), port))
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp(host, port) => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// The host that a refusal names as Primary: `r0: bob is Primary; connect there`.
#[must_use]
pub fn primary_named(refusal: &str) -> Option<&str> {
    let (before, _) = refusal.split_once(" is Primary")?;
    let name = before.rsplit(char::is_whitespace).next()?;
    let lawful = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    (!name.is_empty() && name.len() <= 255 && name.chars().all(lawful)).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_read_and_written_alike() {
        for (text, written) in [
            ("alice:10809", "alice:10809"),
            ("alice", "alice:10809"),
            ("10.0.0.1:10810", "10.0.0.1:10810"),
            ("[::1]:10810", "[::1]:10810"),
            ("[fe80::1]", "[fe80::1]:10809"),
            ("unix:/run/tandem/nbd.sock", "unix:/run/tandem/nbd.sock"),
        ] {
            let server: Server = text.parse().unwrap();
            assert_eq!(server.to_string(), written);
            assert_eq!(written.parse(), Ok(server));
        }
        for (text, why) in [
            ("", "host is missing"),
            (":10809", "host is missing"),
            ("alice:", "a port"),
            ("alice:0", "a port"),
            ("alice:70000", "a port"),
            ("::1", "brackets"),
            ("[::1", "] is missing"),
            ("[::1]10809", "no :PORT"),
            ("unix:nbd.sock", "not absolute"),
            ("al ice", "blanks"),
        ] {
            let said = text.parse::<Server>().unwrap_err();
            assert!(said.contains(why), "{text}: {said}");
        }
    }

    #[test]
    fn a_refusal_names_the_primary_or_nobody() {
        for (refusal, host) in [
            ("r0: bob is Primary; connect there", Some("bob")),
            ("r0 is Secondary here; bob.example is Primary", Some("bob.example")),
            ("r0: Secondary; `tandemadm primary r0` serves it here", None),
            (" is Primary", None),
            ("r0: b$b is Primary", None),
            ("", None),
        ] {
            assert_eq!(primary_named(refusal), host, "{refusal}");
        }
        let server: Server = "bob:1".parse().unwrap();
        assert!(server.is_on("bob.example") && server.is_on("bob") && !server.is_on("bo"));
        assert!(!"unix:/bob".parse::<Server>().unwrap().is_on("bob"));
    }
}
