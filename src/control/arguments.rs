//! The command line of `tandemadm`.
//!
//! `tandemadm [OPTIONS] VERB [OPTIONS] [TARGET]...`; options stand before or after the target.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::error::{ContextKind, ErrorKind};
use clap::{Args, Parser, Subcommand, ValueEnum};

pub use self::values::folder;
use self::values::{seconds, sectors, yes_no};
use super::target::Target;
use crate::attach::{AttachOptions, Volume};
use crate::config::Waits;

mod force;
mod not_built;
mod usage;
mod values;

pub use force::ForceWord;
pub use not_built::not_built;
pub(crate) use usage::whole_usage;

/// Administers the replicated volumes of this node.
#[derive(Clone, Debug, Parser)]
#[command(name = "tandemadm", disable_version_flag = true, subcommand_required = false)]
#[command(
    after_help = "TARGET is all, r0, r0/0, r0:bob or r0:bob/0.\nExit codes: 0 done; 1 usage; \
    5 timed out; 10 failure; 11 state change refused; 16 no local disk; 17 no UpToDate data; 20 \
    tandemd does not answer."
)]
pub struct Arguments {
    #[command(flatten)]
    globals: Globals,
    /// Print the version as shell assignments.
    #[arg(short = 'V', long)]
    version: bool,
    #[command(subcommand)]
    verb: Option<Verb>,
}

/// Options of every verb.
#[derive(Clone, Debug, Args)]
pub struct Globals {
    /// The configuration.
    #[arg(short = 'c', long = "config-file", alias = "config", value_name = "FILE")]
    #[arg(global = true, env = "TANDEM_CONFIG", default_value = "/etc/tandem.conf")]
    pub config: PathBuf,
    /// This node's name in the configuration; the host name where not given.
    #[arg(short = 'n', long, value_name = "NAME", global = true, env = "TANDEM_NODE")]
    pub node: Option<String>,
    /// Where tandemd has its sockets.
    #[arg(long, value_name = "DIR", global = true, env = "TANDEM_RUN_DIR")]
    #[arg(default_value = "/run/tandem", value_parser = folder())]
    pub run_dir: PathBuf,
    /// Where saved metadata and what is known of disks goes [default: /var/lib/tandem, or
    /// DIR/state with --run-dir DIR].
    #[arg(long, value_name = "DIR", global = true, value_parser = folder())]
    state_dir: Option<PathBuf>,
    /// How long tandemd may take to say that it is there, before it counts as silent (exit 20). An
    /// order may take longer.
    #[arg(long, value_name = "SECONDS", global = true, env = "TANDEM_CMD_TIMEOUT")]
    #[arg(default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=3600))]
    cmd_timeout: u32,
    /// Print the steps, do nothing.
    #[arg(short = 'd', long, global = true)]
    pub dry_run: bool,
}

impl Globals {
    /// The state folder in force.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        state_dir(self.state_dir.clone(), &self.run_dir)
    }

    /// The same, with a daemon that may be silent for so many seconds at most.
    #[must_use]
    pub fn within(&self, seconds: u32) -> Self {
        Self { cmd_timeout: self.cmd_timeout.min(seconds), ..self.clone() }
    }

    /// How long the daemon may be silent.
    #[must_use]
    pub fn cmd_timeout(&self) -> Duration {
        Duration::from_secs(u64::from(self.cmd_timeout))
    }
}

/// The state folder: as given, else `/var/lib/tandem`, or `DIR/state` for another run folder.
#[must_use]
pub fn state_dir(given: Option<PathBuf>, run_dir: &std::path::Path) -> PathBuf {
    given.unwrap_or_else(|| match run_dir == std::path::Path::new("/run/tandem") {
        true => PathBuf::from("/var/lib/tandem"),
        false => run_dir.join("state"),
    })
}

/// Whether there are colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum When {
    /// On a terminal.
    Auto,
    /// Also elsewhere.
    Always,
    /// Nowhere.
    Never,
}

/// What a verb is aimed at, one or more.
#[derive(Clone, Debug, Args)]
pub struct Targets {
    /// all, r0, r0/0, r0:bob or r0:bob/0
    #[arg(required = true, value_name = "TARGET")]
    pub targets: Vec<Target>,
}

/// What a verb is aimed at; nothing is `all`.
#[derive(Clone, Debug, Args)]
pub struct OptionalTargets {
    /// all, r0, r0/0, r0:bob or r0:bob/0 [default: all]
    #[arg(value_name = "TARGET")]
    pub targets: Vec<Target>,
}

/// `--force`, as a flag or with `=yes` or `=no`.
#[derive(Clone, Copy, Debug, Args)]
pub struct Forced {
    /// Do it although it is refused otherwise.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "yes")]
    #[arg(default_value = "no", value_parser = yes_no, value_name = "yes|no")]
    pub force: bool,
}

/// Options to change, and targets: `--c-max-rate=100M r0`. Without options those of the
/// configuration are put in force.
#[derive(Clone, Debug, Args)]
pub struct OptionWords {
    /// [--NAME=VALUE]... TARGET...
    #[arg(required = true, value_name = "WORD", trailing_var_arg = true)]
    #[arg(allow_hyphen_values = true)]
    words: Vec<String>,
}

/// Options as name and value, and targets.
pub type OptionsAndTargets = (Vec<(String, String)>, Vec<Target>);

impl OptionWords {
    /// The options as name and value, and the targets.
    ///
    /// # Errors
    /// A word is neither.
    pub fn parts(&self) -> Result<OptionsAndTargets, String> {
        let (mut options, mut targets) = (Vec::new(), Vec::new());
        for word in &self.words {
            match word.strip_prefix("--").map(|option| option.split_once('=')) {
                Some(Some((name, value))) => options.push((name.to_owned(), value.to_owned())),
                Some(None) => return Err(format!("{word}: write it as {word}=VALUE")),
                None => targets.push(word.parse::<Target>()?),
            }
        }
        if targets.is_empty() {
            return Err("a target is missing: all, r0, ...".to_owned());
        }
        Ok((options, targets))
    }
}

/// How long to wait.
#[derive(Clone, Copy, Debug, Args)]
pub struct Patience {
    /// Give up after so many seconds (exit 5); 0 waits for ever [default: wfc-timeout of the
    /// configuration, else 0].
    #[arg(long, value_name = "SECONDS")]
    pub wfc_timeout: Option<u32>,
    /// The same where this node had gone on alone [default: degr-wfc-timeout of the configuration,
    /// else as --wfc-timeout].
    #[arg(long, value_name = "SECONDS")]
    pub degr_wfc_timeout: Option<u32>,
    /// The same where the peers are Outdated [default: outdated-wfc-timeout of the configuration,
    /// else as --wfc-timeout].
    #[arg(long, value_name = "SECONDS")]
    pub outdated_wfc_timeout: Option<u32>,
    /// Wait also for a connection that is StandAlone; without it the wait ends there (exit 5)
    /// [default: wait-after-sb of the configuration, else no].
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "yes")]
    #[arg(value_parser = yes_no, value_name = "yes|no")]
    pub wait_after_sb: Option<bool>,
}

impl Patience {
    /// The same as the configuration has it.
    #[must_use]
    pub fn waits(&self) -> Waits {
        Waits {
            wfc_timeout: self.wfc_timeout,
            degr_wfc_timeout: self.degr_wfc_timeout,
            outdated_wfc_timeout: self.outdated_wfc_timeout,
            wait_after_sb: self.wait_after_sb,
        }
    }
}

/// What to do.
#[derive(Clone, Debug, Subcommand)]
#[command(rename_all = "kebab-case")]
pub enum Verb {
    /// Write new metadata on the backing disks.
    #[command(mut_arg("force", |arg| arg.help("Overwrite what is found there")))]
    CreateMd {
        /// Even so.
        #[command(flatten)]
        forced: Forced,
        /// Room for so many peers.
        #[arg(long, value_name = "N", default_value_t = 1)]
        #[arg(value_parser = clap::value_parser!(u8).range(1..=31))]
        max_peers: u8,
        /// Write the whole data area once, so that flushes are fast, and keep blocks on trim.
        #[arg(long)]
        preallocate: bool,
        /// Aimed at.
        #[command(flatten)]
        targets: Targets,
    },
    /// Attach the disks and begin to dial the peers.
    Up(Targets),
    /// Take resources down.
    Down(Targets),
    /// Attach backing disks.
    Attach(Targets),
    /// Let go of backing disks.
    #[command(mut_arg("force", |arg| arg.help("Even the only reachable copy: clients get errors")))]
    Detach {
        /// Even so.
        #[command(flatten)]
        forced: Forced,
        /// Aimed at.
        #[command(flatten)]
        targets: Targets,
    },
    /// Begin to dial the peers.
    Connect {
        /// In a split brain, this node's changes are the ones to lose.
        #[arg(long)]
        discard_my_data: bool,
        /// Do the handshake, report the verdict, disconnect.
        #[arg(long)]
        tentative: bool,
        /// Aimed at.
        #[command(flatten)]
        targets: Targets,
    },
    /// End connections and stay StandAlone.
    #[command(mut_arg("force", |arg| arg.help("At once, as a loss: nothing is flushed")))]
    Disconnect {
        /// Even so.
        #[command(flatten)]
        forced: Forced,
        /// Come back by itself after TIME: seconds, or with s, m or h (10m).
        #[arg(long = "for", value_name = "TIME", value_parser = seconds)]
        for_seconds: Option<u32>,
        /// Aimed at.
        #[command(flatten)]
        targets: Targets,
    },
    /// Serve the volumes from this node.
    Primary {
        /// Accept a danger by name; where the volumes have one each, `inconsistent,outdated`.
        #[arg(long, num_args = 0.., require_equals = true, default_missing_value = "yes")]
        #[arg(value_delimiter = ',')]
        force: Vec<ForceWord>,
        /// The connected Primary hands over: its clients get all their answers, both disks are
        /// flushed, its connections to clients are closed, and this node takes its place.
        #[arg(long, conflicts_with = "force")]
        hand_over: bool,
        /// Aimed at.
        #[command(flatten)]
        targets: Targets,
    },
    /// Stop serving the volumes.
    #[command(mut_arg("force", |arg| arg.help("Close the connections of the clients")))]
    Secondary {
        /// Even so.
        #[command(flatten)]
        forced: Forced,
        /// Give the clients so long to leave; new ones are refused meanwhile.
        #[arg(long, value_name = "SECONDS", default_value_t = 0)]
        #[arg(value_parser = clap::value_parser!(u32).range(0..=86_400))]
        wait: u32,
        /// Aimed at.
        #[command(flatten)]
        targets: Targets,
    },
    /// The own data is bad: copy all of it from the peer.
    Invalidate(Targets),
    /// The peer's data is bad: copy all of it to the peer.
    InvalidateRemote(Targets),
    /// Mark the own disk Outdated.
    Outdate(Targets),
    /// Run the handler unfence-peer, where all disks of both nodes are UpToDate.
    UnfencePeer(Targets),
    /// Hold a running resync back, and later ones.
    PauseSync(Targets),
    /// Let resyncs go on.
    ResumeSync(Targets),
    /// Freeze the I/O of clients: their requests wait.
    SuspendIo(Targets),
    /// Let the I/O of clients go on.
    ResumeIo(Targets),
    /// Make what runs as the configuration says.
    Adjust(Targets),
    /// Put the configuration's net options in force, or those that are given.
    NetOptions(OptionWords),
    /// Put the configuration's disk options in force, or those that are given.
    DiskOptions(OptionWords),
    /// Put the configuration's options in force, or those that are given.
    ResourceOptions(OptionWords),
    /// Put the resync options in force that are given.
    PeerDeviceOptions(OptionWords),
    /// Compare both disks while they are in use, and mark the blocks that differ.
    #[command(
        after_help = "SECTOR counts 512 bytes; with K, M or G it counts bytes. While a verify \
        runs, --stop changes where it ends: `--stop 0` ends it now."
    )]
    Verify {
        /// Begin there.
        #[arg(long, value_name = "SECTOR", value_parser = sectors)]
        start: Option<u64>,
        /// End there.
        #[arg(long, value_name = "SECTOR", value_parser = sectors)]
        stop: Option<u64>,
        /// Compare nothing: copy the blocks that are out of sync from the node with the good data.
        #[arg(long, conflicts_with_all = ["start", "stop"])]
        repair: bool,
        /// The node with the good data, where nobody is Primary.
        #[arg(long, value_name = "NODE", requires = "repair")]
        from: Option<String>,
        /// Aimed at.
        #[command(flatten)]
        targets: Targets,
    },
    /// Make a new current UUID.
    NewCurrentUuid {
        /// Declare two new disks equal, so that there is no initial sync: only while connected,
        /// with nothing written on either; samples of both are compared first. Where the peer has
        /// never connected: an image of this disk that is begun from now on can be its disk.
        #[arg(long)]
        clear_bitmap: bool,
        /// Aimed at.
        #[command(flatten)]
        targets: Targets,
    },
    /// Take the room that the disks of both nodes have gained: make them larger first.
    #[command(
        after_help = "SECTOR counts 512 bytes; with K, M or G it counts bytes. Clients that are \
        connected see the old size until they connect again."
    )]
    Resize {
        /// The size of the volume; without it, all that both disks have.
        #[arg(long, value_name = "SECTOR", value_parser = sectors)]
        size: Option<u64>,
        /// The disks have the same bytes behind the old end: nothing is synced. Samples of both are
        /// compared first.
        #[arg(long)]
        assume_clean: bool,
        /// Aimed at.
        #[command(flatten)]
        targets: Targets,
    },
    /// Tell disks that have another size than when they were attached last.
    CheckResize(Targets),
    /// Show what is up.
    Status {
        /// Say also what is normal.
        // More than one is DRBD's way to ask for more still; there is no more.
        #[arg(short, long, overrides_with = "verbose")]
        verbose: bool,
        /// Add the counters.
        #[arg(short, long)]
        statistics: bool,
        /// For programs.
        #[arg(short, long)]
        json: bool,
        /// Colours: `auto` is on a terminal, where NO_COLOR is not set; without a word: always.
        #[arg(long, value_enum, default_value_t = When::Auto)]
        #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "always")]
        color: When,
        /// Aimed at.
        #[command(flatten)]
        targets: OptionalTargets,
    },
    /// Show what is up, then every change.
    Events2 {
        /// End after the first snapshot.
        #[arg(long)]
        now: bool,
        /// Add the counters.
        #[arg(short, long)]
        statistics: bool,
        /// Aimed at.
        #[command(flatten)]
        targets: OptionalTargets,
    },
    /// Print the own role.
    Role(Targets),
    /// Print the roles of the peers.
    PeerRole(Targets),
    /// Print the state of the connections.
    Cstate(Targets),
    /// Print the state of the disks.
    Dstate(Targets),
    /// Print the generation identifiers with a legend.
    ShowGi(Targets),
    /// Print the generation identifiers.
    GetGi(Targets),
    /// Print the configuration as it was understood.
    Dump(OptionalTargets),
    /// The same as XML, in drbdadm's form.
    DumpXml(OptionalTargets),
    /// Print the metadata on the backing disks.
    DumpMd {
        /// Refuse a disk that is in use: what is on it may be old.
        #[arg(long)]
        offline: bool,
        /// Aimed at.
        #[command(flatten)]
        targets: Targets,
    },
    /// Forget what is remembered of a peer: its slot in the metadata becomes free.
    #[command(mut_arg("force", |arg| arg.help("Do not ask at a terminal")))]
    ForgetPeer {
        /// Even so.
        #[command(flatten)]
        forced: Forced,
        /// r0:bob; r0:2 is node id 2, which need not be in the configuration
        #[command(flatten)]
        targets: Targets,
    },
    /// Put the metadata of a dump on a backing disk that is not attached.
    #[command(mut_arg("force", |arg| arg.help("Overwrite what is found there")))]
    RestoreMd {
        /// Even so.
        #[command(flatten)]
        forced: Forced,
        /// The dump is of the other node's disk, and an image of that disk is on this one.
        #[arg(long)]
        seed: bool,
        /// What dump-md has printed; `-` is standard input.
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// r0, or r0/0 where there are several volumes
        #[arg(value_name = "TARGET")]
        target: Target,
    },
    /// Clear the metadata of backing disks that are not attached; the data stays.
    #[command(mut_arg("force", |arg| arg.help("Without a terminal: nobody is asked")))]
    WipeMd {
        /// Even so.
        #[command(flatten)]
        forced: Forced,
        /// Aimed at.
        #[command(flatten)]
        targets: Targets,
    },
    /// Wait until the peers are connected.
    #[command(aliases = ["wait-connect-resource", "wait-connect-connection", "wait-connect-volume"])]
    WaitConnect {
        /// How long.
        #[command(flatten)]
        patience: Patience,
        /// Aimed at.
        #[command(flatten)]
        targets: Targets,
    },
    /// Wait until the peers are connected, no resync and no verify runs and all disks are UpToDate.
    #[command(aliases = ["wait-sync-resource", "wait-sync-connection", "wait-sync-volume"])]
    WaitSync {
        /// How long.
        #[command(flatten)]
        patience: Patience,
        /// Aimed at.
        #[command(flatten)]
        targets: Targets,
    },
    /// Say what is wrong, why, and what to do.
    Why {
        /// For programs.
        #[arg(short, long)]
        json: bool,
        /// Aimed at.
        #[command(flatten)]
        targets: OptionalTargets,
    },
    /// Ask the peers: reach, round trip, a large packet, version, options. Changes nothing.
    Ping(Targets),
    /// One line for monitoring; exit 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN.
    Check(OptionalTargets),
    /// Volumes as the kernel's block devices `/dev/nbdN`: attach, detach, status.
    Device {
        /// What to do.
        #[command(subcommand)]
        verb: DeviceVerb,
    },
    /// The daemon itself: restart (as another version, too) under its clients, or stop.
    Daemon {
        /// What to do.
        #[command(subcommand)]
        verb: DaemonVerb,
    },
    /// Say to udev whether a device holds Tandem's metadata.
    #[command(hide = true)]
    Probe {
        /// The device, or a file.
        device: PathBuf,
    },
    /// Any other word.
    #[command(external_subcommand)]
    Other(Vec<OsString>),
}

/// What to do with the daemon.
#[derive(Clone, Debug, Subcommand)]
#[command(rename_all = "kebab-case")]
pub enum DaemonVerb {
    /// Replace the daemon by the program that stands where it was started from. Clients stay
    /// connected and wait; resources come up again as they were. An upgrade is this.
    Restart {
        /// What is under way may take so long; after that nothing is done.
        #[arg(long, value_name = "SECONDS", default_value_t = 10)]
        #[arg(value_parser = clap::value_parser!(u32).range(1..=60))]
        timeout: u32,
    },
    /// End the daemon in order, as SIGTERM does. Refused while clients are connected.
    #[command(mut_arg("force", |arg| arg.help("Close the connections of the clients")))]
    Stop {
        /// Even so.
        #[command(flatten)]
        forced: Forced,
    },
}

/// What to do with volumes as the kernel's block devices.
#[derive(Clone, Debug, Subcommand)]
#[command(rename_all = "kebab-case")]
pub enum DeviceVerb {
    /// Attach the NBD export of a volume as a block device of the kernel: that of the daemon of this node, or of the
    /// Primary of several servers. A guard (tandem-attach) stays behind and replaces a server that is lost.
    Attach {
        /// How.
        #[command(flatten)]
        options: AttachOptions,
        /// Be the guard, as a unit wants it: the log goes to standard error.
        #[arg(long)]
        foreground: bool,
        /// r0 (its volume 0) or r0/1
        #[arg(value_name = "VOLUME")]
        volume: Volume,
    },
    /// Flush what is written and detach.
    #[command(mut_arg("force", |arg| arg.help("Even in use or without a server: its I/O fails")))]
    Detach {
        /// Even so.
        #[command(flatten)]
        forced: Forced,
        /// Aimed at.
        #[command(flatten)]
        targets: Targets,
    },
    /// Show the attached devices, their servers and guards.
    Status {
        /// For programs.
        #[arg(short, long)]
        json: bool,
        /// Aimed at.
        #[command(flatten)]
        targets: OptionalTargets,
    },
}

/// A command line that was understood.
#[derive(Clone, Debug)]
pub struct Invocation {
    /// Options of every verb.
    pub globals: Globals,
    /// What to do.
    pub verb: Verb,
}

/// A text and an exit code: the end of a command line that asks for nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What to print.
    pub text: String,
    /// On standard error.
    pub is_error: bool,
    /// 0 or 1, or 10 for a verb that is not built.
    pub exit_code: i32,
}

/// Reads a command line, program name first.
///
/// # Errors
/// Help, the version, and every misuse: what to print and the exit code.
pub fn parse<I, T>(words: I) -> Result<Invocation, Answer>
where
    I: IntoIterator<Item = T>,
    T: Into<OsString> + Clone,
{
    let usage = |text: String| Answer { text, is_error: true, exit_code: 1 };
    let arguments = Arguments::try_parse_from(words).map_err(|mut error| {
        // All values are listed; the one that looks alike may be the dangerous one.
        error.remove(ContextKind::SuggestedValue);
        whole_usage(&mut error, command());
        let is_help = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
        Answer { text: error.to_string(), is_error: !is_help, exit_code: i32::from(!is_help) }
    })?;
    if arguments.version {
        return Err(Answer { text: super::version::lines(), is_error: false, exit_code: 0 });
    }
    let Some(mut verb) = arguments.verb else {
        return Err(usage(format!("{}\nNo command specified\n", help())));
    };
    if let Verb::Primary { force, .. } = &mut verb {
        force.retain(|word| *word != ForceWord::Not);
    }
    if let Verb::Other(words) = &verb {
        let word = words.first().map(|word| word.to_string_lossy().into_owned());
        let word = word.unwrap_or_default();
        let is_some_options = || format!("'{word}' is not supported");
        let refused = not_built(&word).or_else(|| word.ends_with("-options").then(is_some_options));
        if let Some(why) = refused {
            let text = format!("tandemadm: {why}\n");
            return Err(Answer { text, is_error: true, exit_code: 10 });
        }
        return Err(usage(format!(
            "tandemadm: Unknown command '{word}'\n`tandemadm --help` lists all commands\n"
        )));
    }
    Ok(Invocation { globals: arguments.globals, verb })
}

/// Whether a command line that is not understood was to be `check`, program name first: monitoring reads one
/// line and an exit code of its own, whatever is wrong.
#[must_use]
pub fn is_check(words: &[OsString]) -> bool {
    const VALUED: [&str; 8] = [
        "-c",
        "--config-file",
        "--config",
        "-n",
        "--node",
        "--run-dir",
        "--state-dir",
        "--cmd-timeout",
    ];
    let mut words = words.iter().skip(1).map(|word| word.to_string_lossy());
    while let Some(word) = words.next() {
        if VALUED.contains(&&*word) {
            words.next();
        } else if !word.starts_with('-') {
            return word == "check";
        }
    }
    false
}

fn help() -> String {
    command().render_help().to_string()
}

/// The command line, for the manual and for completion.
#[must_use]
pub fn command() -> clap::Command {
    <Arguments as clap::CommandFactory>::command()
}

#[cfg(test)]
mod tests;
