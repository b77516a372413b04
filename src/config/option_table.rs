//! Every option of DRBD's sections: its place, its values, and what becomes of it here.
//!
//! Names, units, ranges and enums are DRBD's (drbd.conf(5), `drbd_limits.h`). An option that does
//! not act is judged by the value in force: what Tandem does anyway is silent, what is harmless to
//! leave out is warned about, and what somebody may count on is refused.

use crate::resource::{
    AfterSb0Pri, AfterSb1Pri, AfterSb2Pri, CsumsAlg, Fencing, Handler, OnIoError, Options,
    RrConflict, VerifyAlg,
};

/// A section that holds options.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Section {
    Net,
    Disk,
    Options,
    Startup,
    Handlers,
    Global,
}

impl Section {
    pub(super) const ALL: [Self; 6] =
        [Self::Net, Self::Disk, Self::Options, Self::Startup, Self::Handlers, Self::Global];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Net => "net",
            Self::Disk => "disk",
            Self::Options => "options",
            Self::Startup => "startup",
            Self::Handlers => "handlers",
            Self::Global => "global",
        }
    }
}

/// What a number counts when it has no suffix. K, M and G are powers of 1024, `s` is 512 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    /// Itself.
    One,
    Tenths,
    Seconds,
    Milliseconds,
    Microseconds,
    Bytes,
    KibibytesPerSecond,
    Sectors,
    Pages,
}

impl Unit {
    /// Bytes (or ones) that 1 without a suffix means.
    pub(super) fn factor(self) -> u64 {
        match self {
            Self::One
            | Self::Tenths
            | Self::Seconds
            | Self::Milliseconds
            | Self::Microseconds
            | Self::Bytes
            | Self::Pages => 1,
            Self::KibibytesPerSecond => 1024,
            Self::Sectors => 512,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::One => "",
            Self::Tenths => ", in units of 0.1 s",
            Self::Seconds => ", in seconds",
            Self::Milliseconds => ", in milliseconds",
            Self::Microseconds => ", in microseconds",
            Self::Bytes => ", in bytes",
            Self::KibibytesPerSecond => ", in KiB/s",
            Self::Sectors => ", in sectors of 512 bytes",
            Self::Pages => ", in pages of 4096 bytes",
        }
    }
}

/// What values an option takes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Number(Unit, u64, u64),
    /// `yes` or `no`; nothing means `yes`, `no-NAME` means `no`.
    Bool,
    Choice(&'static [&'static str]),
    /// A choice, or `discard-node-HOST`.
    AfterSb0Pri,
    /// A count of nodes, or one of the words.
    Votes,
    Text,
    /// Up to 64 bytes that no message repeats.
    Secret,
    /// The digest of the secret's proofs.
    Algorithm,
    /// No value, or any.
    Any,
}

/// A value that has been read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Number(u64),
    Bool(bool),
    Word(String),
    /// It has been reported; whoever inherits it is refused.
    Bad,
}

impl Value {
    fn number(&self) -> u64 {
        if let Self::Number(n) = self { *n } else { 0 }
    }
    fn small(&self) -> u32 {
        u32::try_from(self.number()).unwrap_or(u32::MAX)
    }
    fn yes(&self) -> bool {
        *self == Self::Bool(true)
    }
    fn word(&self) -> &str {
        if let Self::Word(word) = self { word } else { "" }
    }
    /// As it is written in a message.
    pub(super) fn text(&self) -> String {
        match self {
            Self::Number(n) => n.to_string(),
            Self::Bool(true) => "yes".to_owned(),
            Self::Bool(false) => "no".to_owned(),
            Self::Word(word) => word.clone(),
            Self::Bad => String::new(),
        }
    }
}

/// What becomes of an option.
#[derive(Clone, Copy)]
pub(super) enum Effect {
    /// It acts in the core.
    Acts(fn(&mut Options, &Value)),
    /// These values are what Tandem does anyway, any other is harmless to leave out: why.
    Harmless(&'static [&'static str], &'static str),
    /// These values are what Tandem does anyway, any other is refused: why, and what is right.
    Refused(&'static [&'static str], &'static str, &'static str),
    /// It acts, and each volume has its own value.
    PerVolume,
    /// It acts before the core hears of a peer: it is no option of the core's.
    Secret,
    /// It acts in tandemadm.
    Admin,
}

/// An option.
pub(super) struct Spec {
    pub(super) section: Section,
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) effect: Effect,
}

const fn spec(section: Section, name: &'static str, kind: Kind, effect: Effect) -> Spec {
    Spec { section, name, kind, effect }
}

use Effect::{Acts, Admin, Harmless, PerVolume, Refused};
use Kind::{Any, Bool, Choice, Number, Text, Votes};
use Section::{Disk, Global, Handlers, Net, Startup};
use Unit::{Bytes, KibibytesPerSecond, Microseconds, Milliseconds, One, Pages, Seconds};
use Unit::{Sectors, Tenths};

const TUNING: &str = "no effect, tuning only";
const QUORUM: &str = "no effect while quorum is off";
const PULL: &str = "it only means something with pull-ahead, which is refused";
const HOME: &str = "no effect: Tandem never calls home";
const FLUSH: &str = "no effect: writes are ordered by flushes";
const MI: u64 = 1 << 20;

/// A line of a handler; an empty one is none.
fn runs(options: &mut Options, handler: Handler, line: &Value) {
    match line.word() {
        "" => options.handlers.remove(&handler),
        line => options.handlers.insert(handler, line.to_owned()),
    };
}

/// A handler, the options that it goes with, and the one value of them that runs it.
pub(super) static GO_TOGETHER: &[(Handler, &[&str], &str)] = &[
    (Handler::LocalIoError, &["on-io-error"], "call-local-io-error"),
    (Handler::PriLost, &["rr-conflict"], "call-pri-lost"),
    (Handler::PriLostAfterSb, &["after-sb-1pri", "after-sb-2pri"], "call-pri-lost-after-sb"),
];

#[rustfmt::skip]
pub(super) static OPTIONS: &[Spec] = &[
    // What acts.
    spec(Net, "protocol", Choice(&["A", "B", "C"]), Refused(&["C"],
        "it acknowledges a write before the peer's disk has it; only C exists", "protocol C;")),
    spec(Net, "timeout", Number(Tenths, 1, 600), Acts(|o, v| o.timeout_ms = v.number() * 100)),
    spec(Net, "ping-int", Number(Seconds, 1, 120), Acts(|o, v| o.ping_int_ms = v.number() * 1000)),
    spec(Net, "ping-timeout", Number(Tenths, 1, 300),
        Acts(|o, v| o.ping_timeout_ms = v.number() * 100)),
    spec(Net, "connect-int", Number(Seconds, 1, 120),
        Acts(|o, v| o.connect_int_ms = v.number() * 1000)),
    spec(Net, "ko-count", Number(One, 0, 200), Acts(|o, v| o.ko_count = v.small())),
    spec(Net, "max-buffers", Number(Pages, 32, 131_072), Acts(|o, v| o.max_buffers = v.small())),
    spec(Net, "max-epoch-size", Number(One, 1, 20_000), Acts(|o, v| o.max_epoch_size = v.small())),
    spec(Net, "sndbuf-size", Number(Bytes, 0, 128 * MI), Acts(|o, v| o.sndbuf_size = v.small())),
    spec(Net, "rcvbuf-size", Number(Bytes, 0, 128 * MI), Acts(|o, v| o.rcvbuf_size = v.small())),
    spec(Net, "after-sb-0pri", Kind::AfterSb0Pri, Acts(|o, v| o.after_sb_0pri = match v.word() {
        "discard-younger-primary" => AfterSb0Pri::DiscardYoungerPrimary,
        "discard-older-primary" => AfterSb0Pri::DiscardOlderPrimary,
        "discard-zero-changes" => AfterSb0Pri::DiscardZeroChanges,
        "discard-least-changes" => AfterSb0Pri::DiscardLeastChanges,
        // `discard-node-HOST` is put in once the hosts have their ids.
        _ => AfterSb0Pri::Disconnect,
    })),
    spec(Net, "after-sb-1pri", Choice(&["disconnect", "consensus", "violently-as0p",
        "discard-secondary", "call-pri-lost-after-sb"]),
        Acts(|o, v| o.after_sb_1pri = match v.word() {
            "consensus" => AfterSb1Pri::Consensus,
            "violently-as0p" => AfterSb1Pri::ViolentlyAs0p,
            "discard-secondary" => AfterSb1Pri::DiscardSecondary,
            "call-pri-lost-after-sb" => AfterSb1Pri::CallPriLostAfterSb,
            _ => AfterSb1Pri::Disconnect,
        })),
    spec(Net, "after-sb-2pri", Choice(&["disconnect", "violently-as0p", "call-pri-lost-after-sb"]),
        Acts(|o, v| o.after_sb_2pri = match v.word() {
            "violently-as0p" => AfterSb2Pri::ViolentlyAs0p,
            "call-pri-lost-after-sb" => AfterSb2Pri::CallPriLostAfterSb,
            _ => AfterSb2Pri::Disconnect,
        })),
    spec(Net, "always-asbp", Bool, Acts(|o, v| o.always_asbp = v.yes())),
    spec(Net, "rr-conflict", Choice(&["disconnect", "violently", "call-pri-lost", "retry-connect",
        "auto-discard"]), Acts(|o, v| o.rr_conflict = match v.word() {
            "violently" => RrConflict::Violently,
            "call-pri-lost" => RrConflict::CallPriLost,
            "retry-connect" => RrConflict::RetryConnect,
            "auto-discard" => RrConflict::AutoDiscard,
            _ => RrConflict::Disconnect,
        })),
    spec(Net, "fencing", Choice(&["dont-care", "resource-only", "resource-and-stonith"]),
        Acts(|o, v| o.fencing = match v.word() {
            "resource-only" => Fencing::ResourceOnly,
            "resource-and-stonith" => Fencing::ResourceAndStonith,
            _ => Fencing::DontCare,
        })),
    spec(Net, "cram-hmac-alg", Kind::Algorithm, Effect::Secret),
    spec(Net, "shared-secret", Kind::Secret, Effect::Secret),
    spec(Net, "shared-secret-old", Kind::Secret, Effect::Secret),
    spec(Net, "verify-alg", Text, Acts(|o, v| o.verify_alg = match v.word() {
            "crc32c" => VerifyAlg::Crc32c,
            "sha512" => VerifyAlg::Sha512,
            _ => VerifyAlg::Sha256,
        })),
    spec(Net, "csums-alg", Text, Acts(|o, v| o.csums_alg = match v.word() {
            "" => CsumsAlg::Default,
            "none" => CsumsAlg::None,
            "sha512" => CsumsAlg::Digest(VerifyAlg::Sha512),
            _ => CsumsAlg::Digest(VerifyAlg::Sha256),
        })),
    spec(Net, "csums-after-crash-only", Bool, Acts(|o, v| o.csums_after_crash_only = v.yes())),
    spec(Disk, "on-io-error", Choice(&["detach", "pass_on", "call-local-io-error"]),
        Acts(|o, v| o.on_io_error = match v.word() {
            "pass_on" => OnIoError::PassOn,
            "call-local-io-error" => OnIoError::CallLocalIoError,
            _ => OnIoError::Detach,
        })),
    spec(Disk, "al-extents", Number(One, 67, 65_534), Acts(|o, v| o.al_extents = v.small())),
    spec(Disk, "resync-rate", Number(KibibytesPerSecond, 1, 8 * MI),
        Acts(|o, v| o.resync_rate = v.number())),
    spec(Disk, "c-max-rate", Number(KibibytesPerSecond, 0, 4 * MI),
        Acts(|o, v| o.c_max_rate = v.number())),
    spec(Disk, "c-min-rate", Number(KibibytesPerSecond, 0, 4 * MI),
        Acts(|o, v| o.c_min_rate = v.number())),
    spec(Disk, "disk-flushes", Bool, Acts(|o, v| o.disk_flushes = v.yes())),
    spec(Disk, "disk-timeout", Number(Tenths, 0, 6000),
        Acts(|o, v| o.disk_timeout_ms = v.number() * 100)),
    spec(Disk, "md-flushes", Bool, Acts(|o, v| o.md_flushes = v.yes())),
    spec(Section::Options, "auto-promote", Bool, Acts(|o, v| o.auto_promote = v.yes())),
    spec(Section::Options, "device-attach", Choice(&["manual", "auto"]),
        Acts(|o, v| o.device_attach_auto = v.word() == "auto")),
    spec(Section::Options, "hand-over-timeout", Number(Tenths, 0, 250),
        Acts(|o, v| o.hand_over_timeout_ms = v.number() * 100)),
    spec(Section::Options, "nbd-clients", Choice(&["shared", "exclusive"]),
        Acts(|o, v| o.nbd_clients_exclusive = v.word() == "exclusive")),
    spec(Section::Options, "busy-poll", Number(Microseconds, 0, 1000),
        Acts(|o, v| o.busy_poll_us = v.small())),
    spec(Section::Options, "handler-timeout", Number(Seconds, 1, 3600),
        Acts(|o, v| o.handler_timeout_ms = v.number() * 1000)),

    // `net`: what does not act.
    spec(Net, "allow-two-primaries", Bool, Refused(&["no"],
        "there is one Primary: live migration with two open ends is not possible",
        "allow-two-primaries no;")),
    spec(Net, "data-integrity-alg", Text, Refused(&["", "none"],
        "payload would go unchecked where a digest is counted on", "remove the line")),
    spec(Net, "tls", Bool, Refused(&["no"], "the connection is not encrypted", "tls no;")),
    spec(Net, "tls-keyring", Text, Harmless(&[], "no effect without tls")),
    spec(Net, "tls-privkey", Text, Harmless(&[], "no effect without tls")),
    spec(Net, "tls-certificate", Text, Harmless(&[], "no effect without tls")),
    spec(Net, "transport", Text, Refused(&["tcp", ""], "only tcp exists", "transport tcp;")),
    spec(Net, "load-balance-paths", Bool, Harmless(&["no"], "no effect: one path is used at a time")),
    spec(Net, "on-congestion", Choice(&["block", "pull-ahead", "disconnect"]), Refused(&["block"],
        "a write always waits for the peer's disk", "on-congestion block;")),
    spec(Net, "congestion-fill", Number(Sectors, 0, 20 * MI), Harmless(&["0"], PULL)),
    spec(Net, "congestion-extents", Number(One, 67, 65_534), Harmless(&[], PULL)),
    spec(Net, "socket-check-timeout", Number(Tenths, 0, 300), Harmless(&["0"], TUNING)),
    spec(Net, "tcp-cork", Bool, Harmless(&["yes"], TUNING)),
    spec(Net, "use-rle", Bool, Harmless(&["yes"], TUNING)),
    spec(Net, "allow-remote-read", Bool, Refused(&["yes"],
        "reads go to the peer when the own disk is lost", "allow-remote-read yes;")),
    spec(Net, "resync-without-replication", Bool, Harmless(&["yes"],
        "no effect: it concerns two Secondaries of three nodes")),
    spec(Net, "peer-tiebreaker", Bool, Harmless(&["yes"], QUORUM)),

    // `disk`: what does not act.
    spec(Disk, "disk-barrier", Bool, Harmless(&["no"], FLUSH)),
    spec(Disk, "disk-drain", Bool, Harmless(&["yes"], FLUSH)),
    spec(Disk, "al-updates", Bool, Harmless(&["yes"],
        "no effect: the activity log is always kept, so that a crash costs a short resync only")),
    spec(Disk, "size", Number(Sectors, 0, 1 << 41), PerVolume),
    spec(Disk, "resync-after", Text, PerVolume),
    spec(Disk, "c-plan-ahead", Number(Tenths, 0, 300), Harmless(&[], TUNING)),
    spec(Disk, "c-delay-target", Number(Tenths, 1, 100), Harmless(&[], TUNING)),
    spec(Disk, "c-fill-target", Number(Sectors, 0, MI), Harmless(&[], TUNING)),
    spec(Disk, "read-balancing", Choice(&["prefer-local", "prefer-remote", "round-robin",
        "least-pending", "when-congested-remote", "32K-striping", "64K-striping", "128K-striping",
        "256K-striping", "512K-striping", "1M-striping"]), Harmless(&["prefer-local"], TUNING)),
    spec(Disk, "discard-zeroes-if-aligned", Bool, Harmless(&["yes"],
        "no effect: trims always read as zeroes")),
    spec(Disk, "disable-write-same", Bool, Harmless(&["no"], TUNING)),
    spec(Disk, "rs-discard-granularity", Number(Bytes, 0, MI), Harmless(&["0"],
        "no effect: holes are kept in a resync anyway")),
    spec(Disk, "discard-granularity", Number(Bytes, 0, 128 * MI), Harmless(&[], TUNING)),
    spec(Disk, "block-size", Number(Bytes, 512, 4096), Harmless(&["512"],
        "no effect: NBD clients may write any byte, and 4096 is preferred")),
    spec(Disk, "max-bio-size", Number(Bytes, 512, MI), Harmless(&[], TUNING)),
    spec(Disk, "bitmap", Bool, Refused(&["yes"],
        "without a bitmap every reconnect would be a full resync", "bitmap yes;")),

    // `options`: what does not act.
    spec(Section::Options, "quorum", Votes, Refused(&["off"],
        "there is no quorum: a lone node would go on writing", "quorum off;")),
    spec(Section::Options, "quorum-minimum-redundancy", Votes, Refused(&["off"],
        "there is no quorum: a lone node would go on writing", "quorum-minimum-redundancy off;")),
    spec(Section::Options, "on-no-quorum", Choice(&["suspend-io", "io-error"]),
        Harmless(&[], QUORUM)),
    spec(Section::Options, "on-suspended-primary-outdated",
        Choice(&["disconnect", "force-secondary"]), Harmless(&["disconnect"], QUORUM)),
    spec(Section::Options, "on-no-data-accessible", Choice(&["io-error", "suspend-io"]),
        Refused(&["io-error"], "the client gets EIO where a freeze is counted on",
        "on-no-data-accessible io-error;")),
    spec(Section::Options, "auto-promote-timeout", Number(Tenths, 0, 600), Harmless(&[], TUNING)),
    spec(Section::Options, "cpu-mask", Text, Harmless(&[""], TUNING)),
    spec(Section::Options, "max-io-depth", Number(One, 4, u32::MAX as u64), Harmless(&[], TUNING)),
    spec(Section::Options, "peer-ack-window", Number(Sectors, 2048, 204_800),
        Harmless(&[], TUNING)),
    spec(Section::Options, "peer-ack-delay", Number(Milliseconds, 1, 10_000),
        Harmless(&[], TUNING)),
    spec(Section::Options, "twopc-timeout", Number(Tenths, 50, 600), Harmless(&[],
        "no effect: two nodes need no two-phase commit")),
    spec(Section::Options, "twopc-retry-timeout", Number(Tenths, 1, 50), Harmless(&[],
        "no effect: two nodes need no two-phase commit")),

    spec(Startup, "wfc-timeout", Number(Seconds, 0, 300_000), Admin),
    spec(Startup, "degr-wfc-timeout", Number(Seconds, 0, 300_000), Admin),
    spec(Startup, "outdated-wfc-timeout", Number(Seconds, 0, 300_000), Admin),
    spec(Startup, "wait-after-sb", Bool, Admin),
    spec(Startup, "stacked-timeouts", Bool, Harmless(&["no"], "there are no stacked resources")),
    spec(Startup, "become-primary-on", Any, Harmless(&[],
        "no effect (nor in DRBD 9): promote with `tandemadm primary` or auto-promote")),

    spec(Handlers, "fence-peer", Text, Acts(|o, v| runs(o, Handler::FencePeer, v))),
    spec(Handlers, "unfence-peer", Text, Acts(|o, v| runs(o, Handler::UnfencePeer, v))),
    spec(Handlers, "before-resync-target", Text, Acts(|o, v| runs(o, Handler::BeforeResyncTarget, v))),
    spec(Handlers, "before-resync-source", Text, Acts(|o, v| runs(o, Handler::BeforeResyncSource, v))),
    spec(Handlers, "after-resync-target", Text, Acts(|o, v| runs(o, Handler::AfterResyncTarget, v))),
    spec(Handlers, "pri-on-incon-degr", Text, Acts(|o, v| runs(o, Handler::PriOnInconDegr, v))),
    spec(Handlers, "pri-lost", Text, Acts(|o, v| runs(o, Handler::PriLost, v))),
    spec(Handlers, "local-io-error", Text, Acts(|o, v| runs(o, Handler::LocalIoError, v))),
    spec(Handlers, "initial-split-brain", Text, Acts(|o, v| runs(o, Handler::InitialSplitBrain, v))),
    spec(Handlers, "split-brain", Text, Acts(|o, v| runs(o, Handler::SplitBrain, v))),
    spec(Handlers, "out-of-sync", Text, Acts(|o, v| runs(o, Handler::OutOfSync, v))),
    spec(Handlers, "disconnected", Text, Acts(|o, v| runs(o, Handler::Disconnected, v))),
    spec(Handlers, "pri-lost-after-sb", Text, Acts(|o, v| runs(o, Handler::PriLostAfterSb, v))),
    spec(Handlers, "promotion-score", Text, Acts(|o, v| runs(o, Handler::PromotionScore, v))),
    spec(Handlers, "quorum-lost", Text, Harmless(&[], QUORUM)),

    spec(Global, "usage-count", Choice(&["no", "yes", "ask"]), Harmless(&["no"], HOME)),
    spec(Global, "cmd-timeout-short", Number(Seconds, 0, 900), Harmless(&[], TUNING)),
    spec(Global, "cmd-timeout-medium", Number(Seconds, 0, 900), Harmless(&[], TUNING)),
    spec(Global, "cmd-timeout-long", Number(Seconds, 0, 900), Harmless(&[], TUNING)),
    spec(Global, "dialog-refresh", Number(Seconds, 0, 600), Harmless(&[],
        "no effect: there is no dialog")),
    spec(Global, "minor-count", Number(One, 1, 255), Harmless(&[],
        "no effect: nothing has to be sized")),
    spec(Global, "udev-always-use-vnr", Any, Harmless(&[], "no effect: no udev names are made")),
    spec(Global, "disable-ip-verification", Any, Harmless(&[],
        "no effect: an address is checked by binding it")),
];

/// Single values of acting options that are refused: why, and what is right. None just now.
pub(super) static REFUSED_VALUES: &[(&str, &str, &str, &str)] = &[];

/// Single values of acting options that take effect and are warned about: why.
pub(super) static WARNED_VALUES: &[(&str, &str, &str)] = &[
    (
        "disk-flushes",
        "no",
        "takes effect: a flush that was acknowledged is not durable on both disks any more",
    ),
    (
        "md-flushes",
        "no",
        "takes effect: after a power cut the metadata may be older than the data, and blocks \
         that differ may be unknown",
    ),
    ("cram-hmac-alg", "sha1", "takes effect: SHA-1 is weak"),
    (
        "always-asbp",
        "yes",
        "takes effect: the after-sb policies also choose a victim where only history is common",
    ),
];

/// What `verify-alg` takes; every other name is taken for the default, with a warning.
pub(super) const VERIFY_ALGS: &[&str] = &["", "sha256", "sha512", "crc32c"];

/// The same of `csums-alg`: what it takes for equal is not copied, so a CRC is not enough.
pub(super) const CSUMS_ALGS: &[&str] = &["", "none", "sha256", "sha512"];

/// What `after-sb-0pri` takes beside `discard-node-HOST`.
pub(super) const AFTER_SB_0PRI: &[&str] = &[
    "disconnect",
    "discard-younger-primary",
    "discard-older-primary",
    "discard-zero-changes",
    "discard-least-changes",
];

/// 8.4's `syncer` section: its names, and where each option is now.
pub(super) static SYNCER: &[(&str, &str)] = &[
    ("rate", "resync-rate"),
    ("after", "resync-after"),
    ("al-extents", "al-extents"),
    ("verify-alg", "verify-alg"),
    ("csums-alg", "csums-alg"),
    ("use-rle", "use-rle"),
    ("cpu-mask", "cpu-mask"),
    ("on-no-data-accessible", "on-no-data-accessible"),
    ("c-plan-ahead", "c-plan-ahead"),
    ("c-delay-target", "c-delay-target"),
    ("c-fill-target", "c-fill-target"),
    ("c-max-rate", "c-max-rate"),
    ("c-min-rate", "c-min-rate"),
];

/// The option of that name, wherever it belongs: no two options share a name.
pub(super) fn find(name: &str) -> Option<&'static Spec> {
    OPTIONS.iter().find(|spec| spec.name == name)
}

/// Checks the ranges of the options that act, for a definition that did not come from a file.
pub(super) fn check_ranges(options: &Options) -> Result<(), String> {
    let tenths = |ms: u64| ms / 100;
    let seconds = |ms: u64| ms / 1000;
    let values = [
        ("timeout", tenths(options.timeout_ms)),
        ("ping-int", seconds(options.ping_int_ms)),
        ("ping-timeout", tenths(options.ping_timeout_ms)),
        ("connect-int", seconds(options.connect_int_ms)),
        ("ko-count", u64::from(options.ko_count)),
        ("max-buffers", u64::from(options.max_buffers)),
        ("max-epoch-size", u64::from(options.max_epoch_size)),
        ("sndbuf-size", u64::from(options.sndbuf_size)),
        ("rcvbuf-size", u64::from(options.rcvbuf_size)),
        ("al-extents", u64::from(options.al_extents)),
        ("disk-timeout", tenths(options.disk_timeout_ms)),
        ("resync-rate", options.resync_rate),
        ("c-max-rate", options.c_max_rate),
        ("c-min-rate", options.c_min_rate),
        ("busy-poll", u64::from(options.busy_poll_us)),
        ("hand-over-timeout", tenths(options.hand_over_timeout_ms)),
        ("handler-timeout", seconds(options.handler_timeout_ms)),
    ];
    for (name, value) in values {
        if let Some(Spec { kind: Number(unit, min, max), .. }) = find(name)
            && !(*min..=*max).contains(&value)
        {
            return Err(format!("{name} {value}: {min} to {max}{}", unit.name()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
