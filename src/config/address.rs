//! `address [ipv4|ipv6] IP:PORT`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};

use super::finding::Pos;
use super::setting::Wrong;
use super::token::Word;

/// Stands for an address that has been reported as wrong, so that it is not reported as missing.
pub(super) const BAD: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0));

/// The address at the start of `words`, and how many words are left; `after`: the keyword's place.
pub(super) fn read_address(words: &[Word], after: Pos) -> Result<(SocketAddr, usize), Wrong> {
    let form = |ipv6: bool| {
        let form = if ipv6 { "address ipv6 [FD00::1]:7789;" } else { "address 10.0.0.1:7789;" };
        format!("write e.g.: {form}")
    };
    let missing =
        || Wrong { at: after, text: "the address is missing".to_owned(), hint: form(false) };
    let (first, rest) = words.split_first().ok_or_else(missing)?;
    let (family, word, rest) = match first.text.as_str() {
        "ssocks" | "sdp" => {
            let text = format!("address family `{}`: only ipv4 and ipv6 exist", first.text);
            return Err(Wrong { at: first.at, text, hint: form(false) });
        }
        "ipv4" | "ipv6" => {
            let (word, rest) = rest.split_first().ok_or_else(missing)?;
            (Some(first.text.as_str()), word, rest)
        }
        _ => (None, first, rest),
    };
    let text = word.text.as_str();
    let wrong = |why: &str, ipv6: bool| Wrong {
        at: word.at,
        text: format!("`{text}`: {why}"),
        hint: form(ipv6),
    };
    let Ok(address) = text.parse::<SocketAddr>() else {
        let bare = text.trim_start_matches('[').trim_end_matches(']');
        return Err(match bare.parse::<IpAddr>() {
            Ok(ip) => wrong("the port is missing", ip.is_ipv6()),
            Err(_) if text.matches(':').count() > 1 => {
                wrong("not an IPv6 address in brackets with a port", true)
            }
            Err(_) => match text.rsplit_once(':') {
                Some((ip, _)) if ip.parse::<Ipv4Addr>().is_ok() => {
                    wrong("the port is not a number from 1 to 65535", false)
                }
                Some(_) => wrong("not an IP address (names are not looked up)", false),
                None => wrong("not an IP address with a port", false),
            },
        });
    };
    match (family, address.is_ipv6()) {
        (Some("ipv4"), true) => return Err(wrong("not an IPv4 address", false)),
        (Some("ipv6"), false) => return Err(wrong("not an IPv6 address", true)),
        _ => {}
    }
    if address.port() == 0 {
        return Err(wrong("the port is not a number from 1 to 65535", address.is_ipv6()));
    }
    if address.ip().is_unspecified() || address.ip().is_multicast() {
        return Err(wrong("not the address of one host", address.is_ipv6()));
    }
    Ok((address, rest.len()))
}
