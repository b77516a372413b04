//! The last handshake, for people: rule, meaning, identifiers and bits, with the nodes' names.

use super::{View, human, sentence, short};
use crate::resource::{ConnectionStatus, HandshakeStatus, SideStatus};

/// What the last handshake said, a line per volume; that there was none, where there was none.
pub(super) fn last(view: &View<'_>, connection: &ConnectionStatus) -> String {
    let found = connection.last_handshake.iter();
    let lines: Vec<String> = found.map(|one| line(view, connection, one)).collect();
    match lines.is_empty() {
        true => "no handshake since `up`.".to_owned(),
        false => lines.join("\n"),
    }
}

/// The rule that decided and what it means, then the last handshake; what was told instead, where
/// the handshake ended before that.
pub(super) fn verdict(view: &View<'_>, connection: &ConnectionStatus) -> String {
    let sides = || connection.last_handshake.iter();
    let refused = sides().find(|one| one.outcome == connection.reason.name());
    let decisive = refused.or_else(|| sides().find(|one| one.outcome != "no-sync"));
    match (decisive, connection.detail.as_str()) {
        (Some(found), _) => format!(
            "rule {}: {}\n{}",
            found.rule,
            meaning(view, connection, found),
            last(view, connection)
        ),
        (None, "") => last(view, connection),
        (None, detail) => format!("{}\n{}", sentence(detail), last(view, connection)),
    }
}

/// What the rule means, and what a policy made of it.
pub(super) fn meaning(
    view: &View<'_>,
    connection: &ConnectionStatus,
    found: &HandshakeStatus,
) -> String {
    let meaning = named(&found.meaning, &view.status.node_name, &connection.name);
    match found.because.as_str() {
        "" => sentence(&meaning),
        because => format!("{} {}", sentence(&meaning), sentence(because)),
    }
}

fn line(view: &View<'_>, connection: &ConnectionStatus, found: &HandshakeStatus) -> String {
    let (node, other) = (&view.status.node_name, &connection.name);
    let volume = match connection.last_handshake.len() {
        0 | 1 => String::new(),
        _ => format!(", volume {}", found.volume),
    };
    let (own, peer) = (&found.own, &found.peer);
    let generations = match own.current_uuid >> 1 == peer.current_uuid >> 1 {
        true => format!("both had {}", short(own.current_uuid)),
        false => {
            format!("{node} had {}, {other} {}", short(own.current_uuid), short(peer.current_uuid))
        }
    };
    let bits = match (own.out_of_sync, peer.out_of_sync) {
        (0, 0) => "no bits set".to_owned(),
        _ => format!("out of sync: {node} {}, {other} {}", blocks(own), blocks(peer)),
    };
    let when = view.at(found.time);
    let (rule, outcome) = (&found.rule, &found.outcome);
    format!("last handshake {when}{volume}: rule {rule}, {outcome}; {generations}, {bits}.")
}

/// `124 MiB in 31,744 blocks`, `nothing`.
pub(super) fn blocks(side: &SideStatus) -> String {
    amount(side.out_of_sync)
}

/// As [`blocks`], of bytes.
pub(super) fn amount(bytes: u64) -> String {
    match bytes / crate::resource::BLOCK_SIZE {
        0 => "nothing".to_owned(),
        1 => format!("{} in 1 block", human(bytes)),
        count => format!("{} in {} blocks", human(bytes), grouped(count)),
    }
}

/// `31,744`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// The rules speak of self and the peer; here they have names.
fn named(text: &str, node: &str, other: &str) -> String {
    let text = text.replace("The peer", other).replace("the peer", other);
    let words: Vec<String> = text
        .split(' ')
        .map(|word| {
            let end = word.find(|c: char| !c.is_alphabetic()).unwrap_or(word.len());
            match word[..end].eq_ignore_ascii_case("self") {
                true => format!("{node}{}", &word[end..]),
                false => word.to_owned(),
            }
        })
        .collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_told_with_the_names_of_the_nodes() {
        assert_eq!(
            named("Self went on, the peer did not itself; bits of self: the peer's.", "a1", "b2"),
            "a1 went on, b2 did not itself; bits of a1: b2's."
        );
    }

    #[test]
    fn large_numbers_are_grouped() {
        assert_eq!(grouped(512), "512");
        assert_eq!(grouped(31_744), "31,744");
        assert_eq!(grouped(1_000_000), "1,000,000");
        assert_eq!(amount(0), "nothing");
        assert_eq!(amount(4096), "4 KiB in 1 block");
    }
}
