//! What the seeds reach of what there is: transitions of states, rules of the decision, reasons,
//! refusals, packets, orders with their results.
//!
//! Invariants:
//! - The shell counts from what any shell sees: log lines, packets, answers, the status. The core
//!   knows nothing of it.
//! - What there is comes from the core's own lists ([`super::reachable`]); what is counted and is on
//!   no list is a row of its own, so that a list cannot grow old unnoticed.

use std::collections::BTreeMap;

use crate::resource::{Action, AdminResult, Command, Force, LogLevel, Status};
use crate::wire::Kind;

use super::reachable;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Table {
    /// `conn( A -> B )` of the log.
    Connection,
    /// `disk( A -> B )`.
    Disk,
    /// `repl( A -> B )`.
    Replication,
    /// `role( A -> B )`.
    Role,
    /// The rule of a handshake, by its name.
    Rule,
    /// The reason of a connection that is not there.
    Reason,
    /// The number of a refused order.
    Refusal,
    /// The type of a packet that was sent.
    Packet,
    /// An order and its result: `ok`, or the number.
    Order,
}

impl Table {
    /// Every table, in order.
    pub const ALL: &'static [Self] = &[
        Self::Connection,
        Self::Disk,
        Self::Replication,
        Self::Role,
        Self::Rule,
        Self::Reason,
        Self::Refusal,
        Self::Packet,
        Self::Order,
    ];

    /// Its name in what is printed.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Connection => "conn",
            Self::Disk => "disk",
            Self::Replication => "repl",
            Self::Role => "role",
            Self::Rule => "rule",
            Self::Reason => "reason",
            Self::Refusal => "refusal",
            Self::Packet => "packet",
            Self::Order => "order",
        }
    }
}

/// The row of all orders that are refused with (-18): it says that something else is under way, and
/// not what.
pub(super) const LATER: &str = "any = -18";

/// How two nodes of the simulator stand to a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// The seeds can reach it.
    Reachable,
    /// They cannot, for this reason.
    Not(&'static str),
    /// It was counted and is on no list.
    Unlisted,
}

/// A row of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Of which table.
    pub table: Table,
    /// `Connecting -> Connected`, `both-off`, `-2`, `primary = ok`.
    pub name: String,
    /// How often.
    pub count: u64,
    /// Whether it can be reached.
    pub reach: Reach,
}

impl Row {
    /// The seeds can reach it and have not.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        self.count == 0 && self.reach == Reach::Reachable
    }

    /// It was reached, and a list says that this cannot be, or has forgotten it.
    #[must_use]
    pub fn is_surprise(&self) -> bool {
        self.count > 0 && self.reach != Reach::Reachable
    }
}

impl std::fmt::Display for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:8} {:9} {}", self.count, self.table.name(), self.name)?;
        match self.reach {
            Reach::Reachable => Ok(()),
            Reach::Not(why) => write!(f, "  (not by these seeds: {why})"),
            Reach::Unlisted => f.write_str("  (on no list)"),
        }
    }
}

/// Counts of one run, or of many.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Coverage {
    counts: BTreeMap<(Table, String), u64>,
    packets: BTreeMap<Kind, u64>,
}

/// Short: a report holds it.
impl std::fmt::Debug for Coverage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} rows", self.counts.len() + self.packets.len())
    }
}

impl Coverage {
    fn count(&mut self, table: Table, name: impl Into<String>) {
        *self.counts.entry((table, name.into())).or_default() += 1;
    }

    /// An action that a core asks for.
    pub(super) fn action(&mut self, action: &Action) {
        match action {
            Action::Send { packet, .. } => *self.packets.entry(packet.kind()).or_default() += 1,
            Action::Log { level: LogLevel::Info, text } => self.log(text),
            _ => {}
        }
    }

    /// A line of the log that tells a transition or a verdict.
    fn log(&mut self, text: &str) {
        if let Some((before, rule)) = text.rsplit_once(" by rule=") {
            if before.contains("uuid_compare()=") {
                let name = rule.split_once(" -> ").map_or(rule, |(rule, _)| rule);
                self.count(Table::Rule, name);
            }
            return;
        }
        let transition = text.strip_suffix(" )").and_then(|text| text.rsplit_once("( "));
        let Some((before, states)) = transition else { return };
        let table = match before.rsplit(' ').next().unwrap_or_default() {
            "conn" => Table::Connection,
            "disk" => Table::Disk,
            "repl" => Table::Replication,
            "role" => Table::Role,
            _ => return,
        };
        self.count(table, states);
    }

    /// What a node shows after an event, and what it showed before.
    pub(super) fn status(&mut self, old: &Status, new: &Status) {
        for (old, new) in old.connections.iter().zip(&new.connections) {
            if old.reason != new.reason {
                self.count(Table::Reason, new.reason.name());
            }
        }
    }

    /// An order is answered.
    pub(super) fn answer(&mut self, command: &Command, result: &AdminResult) {
        let word = match result {
            Ok(_) => "ok".to_owned(),
            Err(refusal) => {
                self.count(Table::Refusal, refusal.code.to_string());
                refusal.code.to_string()
            }
        };
        let name = match word.as_str() {
            "-18" => LATER.to_owned(),
            word => format!("{} = {word}", order_name(command)),
        };
        self.count(Table::Order, name);
    }

    /// Adds what another run has reached.
    pub fn add(&mut self, other: &Self) {
        for (key, count) in &other.counts {
            *self.counts.entry(key.clone()).or_default() += count;
        }
        for (kind, count) in &other.packets {
            *self.packets.entry(*kind).or_default() += count;
        }
    }

    /// Adds a row of an earlier run, by the names that it was printed with. Returns whether there is
    /// such a table, and such a packet.
    pub fn add_row(&mut self, table: &str, name: &str, count: u64) -> bool {
        let Some(table) = Table::ALL.iter().find(|one| one.name() == table) else { return false };
        if *table != Table::Packet {
            *self.counts.entry((*table, name.to_owned())).or_default() += count;
            return true;
        }
        let Some(kind) = Kind::ALL.iter().find(|kind| kind.name() == name) else { return false };
        *self.packets.entry(*kind).or_default() += count;
        true
    }

    /// The whole table: what there is, and what was counted besides.
    #[must_use]
    pub fn rows(&self) -> Vec<Row> {
        let mut counts = self.counts.clone();
        for (kind, count) in &self.packets {
            counts.insert((Table::Packet, kind.name().to_owned()), *count);
        }
        let mut rows = Vec::new();
        for (table, name, reach) in reachable::all() {
            let count = counts.remove(&(table, name.clone())).unwrap_or(0);
            rows.push(Row { table, name, count, reach });
        }
        for ((table, name), count) in counts {
            rows.push(Row { table, name, count, reach: Reach::Unlisted });
        }
        rows.sort_by_key(|row| row.table);
        rows
    }
}

/// An order as a person gives it.
#[must_use]
pub(super) fn order_name(command: &Command) -> &'static str {
    match command {
        Command::Attach { .. } => "attach",
        Command::Detach { force: false, .. } => "detach",
        Command::Detach { force: true, .. } => "detach --force",
        Command::Connect { tentative: true, .. } => "connect --tentative",
        Command::Connect { discard_my_data: true, .. } => "connect --discard-my-data",
        Command::Connect { .. } => "connect",
        Command::Disconnect { for_ms: Some(_), .. } => "disconnect --for",
        Command::Disconnect { force: true, .. } => "disconnect --force",
        Command::Disconnect { .. } => "disconnect",
        Command::Primary { force: None } => "primary",
        Command::Primary { force: Some(Force::Plain) } => "primary --force",
        Command::Primary { force: Some(Force::Inconsistent) } => "primary --force=inconsistent",
        Command::Primary { force: Some(Force::Outdated) } => "primary --force=outdated",
        Command::Primary { force: Some(Force::Blank) } => "primary --force=blank",
        Command::Primary { force: Some(Force::Several(_)) } => {
            "primary --force=inconsistent,outdated"
        }
        Command::AutoPromote => "auto-promote",
        Command::HandOver => "primary --hand-over",
        Command::DevicesDetached { .. } => "devices-detached",
        Command::Secondary { force: true, .. } => "secondary --force",
        Command::Secondary { wait_ms: 0, .. } => "secondary",
        Command::Secondary { .. } => "secondary --wait",
        Command::Invalidate { .. } => "invalidate",
        Command::InvalidateRemote { .. } => "invalidate-remote",
        Command::Outdate { .. } => "outdate",
        Command::Verify { .. } => "verify",
        Command::Repair { .. } => "verify --repair",
        Command::NewCurrentUuid { clear_bitmap: false, .. } => "new-current-uuid",
        Command::NewCurrentUuid { clear_bitmap: true, .. } => "new-current-uuid --clear-bitmap",
        Command::Resize { assume_clean: false, .. } => "resize",
        Command::Resize { assume_clean: true, .. } => "resize --assume-clean",
        Command::PauseSync { pause: true, .. } => "pause-sync",
        Command::PauseSync { pause: false, .. } => "resume-sync",
        Command::SuspendIo { suspend: true } => "suspend-io",
        Command::SuspendIo { suspend: false } => "resume-io",
        Command::ForgetPeer { .. } => "forget-peer",
        Command::UnfencePeer { .. } => "unfence-peer",
        Command::SetOptions { .. } | Command::SetSize { .. } => "adjust",
        Command::Down { shutdown: false } => "down",
        Command::Down { shutdown: true } => "SIGTERM",
    }
}

#[cfg(test)]
mod tests {
    use super::{Coverage, Reach, Row, Table};
    use crate::resource::{Action, Command, LogLevel, Refusal};

    fn row(coverage: &Coverage, table: Table, name: &str) -> Row {
        let rows = coverage.rows();
        let found = rows.into_iter().find(|row| (row.table, row.name.as_str()) == (table, name));
        found.unwrap_or_else(|| panic!("no row {name}"))
    }

    #[test]
    fn log_lines_and_answers_are_counted_and_what_is_on_no_list_is_told() {
        let mut coverage = Coverage::default();
        let lines = [
            "r0 bob: conn( Unconnected -> Connecting )",
            "r0: role( Secondary -> Primary )",
            "r0/0 bob: uuid_compare()=no-sync by rule=both-off",
            "r0/0 bob: uuid_compare()=split-brain-auto-recover by rule=bitmap-both -> split-brain: x",
            "r0/0: disk( UpToDate -> DUnknown )",
            "r0 bob: peer( Unknown -> Secondary )",
        ];
        for text in lines {
            coverage.action(&Action::Log { level: LogLevel::Info, text: text.to_owned() });
        }
        let refusal = Refusal { code: -2, text: String::new(), hint: String::new() };
        coverage.answer(&Command::Primary { force: None }, &Err(refusal));
        assert_eq!(row(&coverage, Table::Connection, "Unconnected -> Connecting").count, 1);
        assert_eq!(row(&coverage, Table::Role, "Secondary -> Primary").count, 1);
        assert_eq!(row(&coverage, Table::Rule, "both-off").count, 1);
        assert_eq!(row(&coverage, Table::Refusal, "-2").count, 1);
        assert_eq!(row(&coverage, Table::Order, "primary = -2").count, 1);
        let unlisted = row(&coverage, Table::Disk, "UpToDate -> DUnknown");
        assert_eq!(unlisted.reach, Reach::Unlisted);
        assert!(unlisted.is_surprise() && !unlisted.is_missing());
        assert_eq!(row(&coverage, Table::Rule, "bitmap-both").count, 1);
        assert!(row(&coverage, Table::Rule, "history-both").is_missing());
        let mut twice = coverage.clone();
        twice.add(&coverage);
        assert_eq!(row(&twice, Table::Rule, "both-off").count, 2);
    }
}
