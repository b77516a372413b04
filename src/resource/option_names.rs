//! Options as DRBD writes them: for the handshake, for `dump`, and to tell two of them apart.
//!
//! The peers exchange them by name. Protocol, the after-sb policies and rr-conflict must be equal,
//! since each node finds the victim by itself; a difference in the rest warns (DESIGN 5).

use super::{AfterSb0Pri, AfterSb1Pri, AfterSb2Pri, Handler, OnIoError, Options, RrConflict};

/// What [`super::peer::split_brain::resolve`] reads, and the protocol: a difference refuses.
const MUST_BE_EQUAL: [&str; 6] =
    ["protocol", "after-sb-0pri", "after-sb-1pri", "after-sb-2pri", "always-asbp", "rr-conflict"];

/// What concerns this node alone: the peer is not told.
const LOCAL: [&str; 7] = [
    "sndbuf-size",
    "rcvbuf-size",
    "disk-timeout",
    "busy-poll",
    "hand-over-timeout",
    "device-attach",
    "handler-timeout",
];

/// An option as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrittenOption {
    /// The section that it belongs into: `net`, `disk`, `options` or `handlers`.
    pub section: &'static str,
    /// Its name.
    pub name: &'static str,
    /// Its value.
    pub value: String,
}

impl WrittenOption {
    /// When a change of it acts, where that is not at once.
    #[must_use]
    pub fn takes_effect_later(&self) -> Option<&'static str> {
        match self.name {
            "al-extents" => Some("when a disk is attached"),
            "resync-rate" => Some("when a resync starts"),
            "verify-alg" => Some("when a verify starts"),
            "csums-alg" | "csums-after-crash-only" => Some("when a resync starts"),
            "max-buffers" => Some("at the next handshake"),
            "sndbuf-size" | "rcvbuf-size" => Some("at the next connection"),
            name if MUST_BE_EQUAL.contains(&name) => Some("at the next handshake"),
            _ => None,
        }
    }
}

impl Options {
    /// All options that act, and the protocol, in the order of DRBD's sections; `discard-node`
    /// names its victim by node id.
    #[must_use]
    pub fn written(&self) -> Vec<WrittenOption> {
        let yes_no = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
        let net = [
            ("protocol", "C".to_owned()),
            ("timeout", (self.timeout_ms / 100).to_string()),
            ("ping-int", (self.ping_int_ms / 1000).to_string()),
            ("ping-timeout", (self.ping_timeout_ms / 100).to_string()),
            ("connect-int", (self.connect_int_ms / 1000).to_string()),
            ("ko-count", self.ko_count.to_string()),
            ("max-buffers", self.max_buffers.to_string()),
            ("max-epoch-size", self.max_epoch_size.to_string()),
            ("sndbuf-size", self.sndbuf_size.to_string()),
            ("rcvbuf-size", self.rcvbuf_size.to_string()),
            ("after-sb-0pri", after_sb_0pri(&self.after_sb_0pri)),
            ("after-sb-1pri", after_sb_1pri(&self.after_sb_1pri).to_owned()),
            ("after-sb-2pri", after_sb_2pri(&self.after_sb_2pri).to_owned()),
            ("always-asbp", yes_no(self.always_asbp)),
            ("rr-conflict", rr_conflict(&self.rr_conflict).to_owned()),
            ("fencing", self.fencing.name().to_owned()),
            ("verify-alg", self.verify_alg.name().to_owned()),
            ("csums-alg", self.csums_alg.name().to_owned()),
            ("csums-after-crash-only", yes_no(self.csums_after_crash_only)),
        ];
        let disk = [
            ("on-io-error", on_io_error(self.on_io_error).to_owned()),
            ("al-extents", self.al_extents.to_string()),
            ("resync-rate", rate(self.resync_rate)),
            ("c-max-rate", rate(self.c_max_rate)),
            ("c-min-rate", rate(self.c_min_rate)),
            ("disk-flushes", yes_no(self.disk_flushes)),
            ("md-flushes", yes_no(self.md_flushes)),
            ("disk-timeout", (self.disk_timeout_ms / 100).to_string()),
        ];
        let clients = if self.nbd_clients_exclusive { "exclusive" } else { "shared" };
        let devices = if self.device_attach_auto { "auto" } else { "manual" };
        let general = [
            ("auto-promote", yes_no(self.auto_promote)),
            ("device-attach", devices.to_owned()),
            ("hand-over-timeout", (self.hand_over_timeout_ms / 100).to_string()),
            ("nbd-clients", clients.to_owned()),
            ("busy-poll", self.busy_poll_us.to_string()),
            ("handler-timeout", (self.handler_timeout_ms / 1000).to_string()),
        ];
        let section = |section| move |(name, value)| WrittenOption { section, name, value };
        let net = net.into_iter().map(section("net"));
        let disk = disk.into_iter().map(section("disk"));
        let general = general.into_iter().map(section("options"));
        general.chain(net).chain(disk).chain(self.written_handlers()).collect()
    }

    /// All handlers; the value of one that is not written is empty.
    fn written_handlers(&self) -> impl Iterator<Item = WrittenOption> {
        Handler::ALL.iter().map(|handler| WrittenOption {
            section: "handlers",
            name: handler.name(),
            value: self.handlers.get(handler).cloned().unwrap_or_default(),
        })
    }

    /// The same options with the `net` options of another set.
    fn with_net(&self, from: &Self) -> Self {
        // All are named: a new option does not compile before it has its place here.
        let Self {
            timeout_ms,
            ping_int_ms,
            ping_timeout_ms,
            connect_int_ms,
            ko_count,
            max_buffers,
            max_epoch_size,
            sndbuf_size,
            rcvbuf_size,
            after_sb_0pri,
            after_sb_1pri,
            after_sb_2pri,
            always_asbp,
            rr_conflict,
            fencing,
            verify_alg,
            csums_alg,
            csums_after_crash_only,
            on_io_error: _,
            al_extents: _,
            resync_rate: _,
            c_max_rate: _,
            c_min_rate: _,
            disk_flushes: _,
            md_flushes: _,
            disk_timeout_ms: _,
            auto_promote: _,
            device_attach_auto: _,
            hand_over_timeout_ms: _,
            nbd_clients_exclusive: _,
            busy_poll_us: _,
            handlers: _,
            handler_timeout_ms: _,
        } = from.clone();
        Self {
            timeout_ms,
            ping_int_ms,
            ping_timeout_ms,
            connect_int_ms,
            ko_count,
            max_buffers,
            max_epoch_size,
            sndbuf_size,
            rcvbuf_size,
            after_sb_0pri,
            after_sb_1pri,
            after_sb_2pri,
            always_asbp,
            rr_conflict,
            fencing,
            verify_alg,
            csums_alg,
            csums_after_crash_only,
            ..self.clone()
        }
    }

    /// Takes the options of one section from another set.
    pub fn take_section(&mut self, section: &str, from: &Self) {
        *self = match section {
            "disk" => self.with_disk(from.disk()),
            "net" => self.with_net(from),
            "options" => Self {
                auto_promote: from.auto_promote,
                device_attach_auto: from.device_attach_auto,
                hand_over_timeout_ms: from.hand_over_timeout_ms,
                nbd_clients_exclusive: from.nbd_clients_exclusive,
                busy_poll_us: from.busy_poll_us,
                handler_timeout_ms: from.handler_timeout_ms,
                ..self.clone()
            },
            "handlers" => Self { handlers: from.handlers.clone(), ..self.clone() },
            _ => return,
        };
    }

    /// What must be equal on both nodes, as `(name, value)`.
    #[must_use]
    pub fn must_equal(&self) -> Vec<(String, String)> {
        self.named(true)
    }

    /// What should be equal, as `(name, value)`: a difference warns.
    #[must_use]
    pub fn should_equal(&self) -> Vec<(String, String)> {
        self.named(false)
    }

    fn named(&self, must: bool) -> Vec<(String, String)> {
        let all = self.written().into_iter();
        let wanted = all.filter(|option| {
            let local = LOCAL.contains(&option.name) || option.section == "handlers";
            MUST_BE_EQUAL.contains(&option.name) == must && !local
        });
        wanted.map(|option| (option.name.to_owned(), option.value)).collect()
    }
}

/// KiB/s, in the largest unit that divides it.
fn rate(kib: u64) -> String {
    match kib {
        0 => "0".to_owned(),
        _ if kib.is_multiple_of(1 << 20) => format!("{}G", kib >> 20),
        _ if kib.is_multiple_of(1 << 10) => format!("{}M", kib >> 10),
        _ => format!("{kib}K"),
    }
}

fn after_sb_0pri(policy: &AfterSb0Pri) -> String {
    match policy {
        AfterSb0Pri::Disconnect => "disconnect".to_owned(),
        AfterSb0Pri::DiscardYoungerPrimary => "discard-younger-primary".to_owned(),
        AfterSb0Pri::DiscardOlderPrimary => "discard-older-primary".to_owned(),
        AfterSb0Pri::DiscardZeroChanges => "discard-zero-changes".to_owned(),
        AfterSb0Pri::DiscardLeastChanges => "discard-least-changes".to_owned(),
        AfterSb0Pri::DiscardNode(id) => format!("discard-node-{id}"),
    }
}

fn after_sb_1pri(policy: &AfterSb1Pri) -> &'static str {
    match policy {
        AfterSb1Pri::Disconnect => "disconnect",
        AfterSb1Pri::Consensus => "consensus",
        AfterSb1Pri::ViolentlyAs0p => "violently-as0p",
        AfterSb1Pri::DiscardSecondary => "discard-secondary",
        AfterSb1Pri::CallPriLostAfterSb => "call-pri-lost-after-sb",
    }
}

fn after_sb_2pri(policy: &AfterSb2Pri) -> &'static str {
    match policy {
        AfterSb2Pri::Disconnect => "disconnect",
        AfterSb2Pri::ViolentlyAs0p => "violently-as0p",
        AfterSb2Pri::CallPriLostAfterSb => "call-pri-lost-after-sb",
    }
}

fn rr_conflict(policy: &RrConflict) -> &'static str {
    match policy {
        RrConflict::Disconnect => "disconnect",
        RrConflict::Violently => "violently",
        RrConflict::RetryConnect => "retry-connect",
        RrConflict::CallPriLost => "call-pri-lost",
        RrConflict::AutoDiscard => "auto-discard",
    }
}

fn on_io_error(policy: OnIoError) -> &'static str {
    match policy {
        OnIoError::Detach => "detach",
        OnIoError::CallLocalIoError => "call-local-io-error",
        OnIoError::PassOn => "pass_on",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::Fencing;

    /// Every option but one default is another; each section changes its own and no other.
    #[test]
    fn a_section_is_taken_alone() {
        let other = Options {
            timeout_ms: 5000,
            ping_int_ms: 3000,
            ping_timeout_ms: 700,
            connect_int_ms: 4000,
            ko_count: 3,
            max_buffers: 4000,
            max_epoch_size: 100,
            al_extents: 257,
            resync_rate: 1024,
            c_max_rate: 2048,
            c_min_rate: 512,
            after_sb_0pri: AfterSb0Pri::DiscardZeroChanges,
            after_sb_1pri: AfterSb1Pri::Consensus,
            after_sb_2pri: AfterSb2Pri::ViolentlyAs0p,
            always_asbp: true,
            rr_conflict: RrConflict::RetryConnect,
            fencing: Fencing::ResourceOnly,
            handlers: Handler::ALL.iter().map(|one| (*one, format!("run {one}"))).collect(),
            handler_timeout_ms: 20_000,
            verify_alg: super::super::VerifyAlg::Crc32c,
            csums_alg: super::super::CsumsAlg::None,
            csums_after_crash_only: true,
            on_io_error: OnIoError::PassOn,
            auto_promote: true,
            device_attach_auto: true,
            hand_over_timeout_ms: 700,
            nbd_clients_exclusive: true,
            busy_poll_us: 50,
            disk_flushes: false,
            md_flushes: false,
            disk_timeout_ms: 30_000,
            sndbuf_size: 100_000,
            rcvbuf_size: 200_000,
        };
        for section in ["net", "disk", "options", "handlers"] {
            let mut taken = Options::default();
            taken.take_section(section, &other);
            let all = taken.written().into_iter().zip(other.written());
            for ((one, there), default) in all.zip(Options::default().written()) {
                let expected = if one.section == section { there } else { default };
                assert_eq!(one, expected);
            }
        }
    }

    #[test]
    fn the_handshake_compares_what_both_must_have() {
        let options = Options { after_sb_0pri: AfterSb0Pri::DiscardNode(1), ..Options::default() };
        let must = options.must_equal();
        let names: Vec<&str> = must.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, MUST_BE_EQUAL);
        assert_eq!(must[1].1, "discard-node-1");
        let should = options.should_equal();
        assert!(should.contains(&("resync-rate".to_owned(), "250K".to_owned())));
        assert!(should.iter().all(|(name, _)| !names.contains(&name.as_str())));
        let other = Options { sndbuf_size: 1 << 20, ..options };
        assert_eq!(other.should_equal(), should, "of no concern to the peer");
    }
}
