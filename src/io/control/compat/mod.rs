//! `tandem-drbd-compat`: `drbdadm` and `drbdsetup` for DRBD's agents and scripts (`crate::compat` reads
//! their command lines). Most verbs are those of tandemadm.
//!
//! Invariants:
//! - A daemon that holds its lock and does not answer is waited for, by every verb; `secondary` and
//!   `down` kill it after a while, and return when it has ended.
//! - Without a daemon nothing is up, and that is the answer: never a failure that could stand for
//!   something that runs.
//! - What the kernel's DRBD has is left alone.

mod follow;
mod kernel;
mod nodes;
mod orders;
mod presence;
mod steps;

use std::ffi::OsString;
use std::path::Path;
use std::time::{Duration, Instant};

use super::adm::configuration::Configuration;
use super::adm::{Failure, Outcome, Session, complain, print};
use crate::compat::{
    Asked, Line, Misuse, Tool, aim, command, is_shell_verb, parse, resolve, shell_lines, version,
};
use crate::control::arguments::{self, Invocation, not_built};
use crate::control::events::Form;
use crate::control::status_text;
use crate::control::target::Target;
use crate::io::config_files::ConfigFiles;

use follow::{Events, silent, snapshot};
use presence::{PATIENCE, Presence, settle};

/// What the agent has in its environment.
const AGENT: &str = "OCF_RESKEY_drbd_resource";
/// Where Tandem's own configuration is.
const OWN_CONFIG: &str = "/etc/tandem.conf";
/// Where DRBD's is.
const DRBDS_CONFIG: &str = "/etc/drbd.conf";
/// How often a daemon that answers is asked again what it did not answer.
const TRIES: u32 = 3;

/// What a verb of tandemadm needs of the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    /// Nothing.
    Nothing,
    /// It begins something: without a daemon it cannot.
    Begins,
    /// It is about what is up: without a daemon nothing is.
    Up,
}

/// Verbs that do without a daemon.
const OFFLINE: &[&str] = &[
    "create-md",
    "dump-md",
    "wipe-md",
    "restore-md",
    "dump",
    "dump-xml",
    "check-resize",
    "show-gi",
    "get-gi",
    "forget-peer",
];
/// Verbs that begin something.
const BEGINS: &[&str] = &["up", "attach", "connect", "adjust", "new-resource"];

/// Runs the program; returns the exit code.
#[must_use]
pub fn run<I, T>(words: I) -> i32
where
    I: IntoIterator<Item = T>,
    T: Into<OsString>,
{
    let words = words.into_iter().map(|word| word.into().to_string_lossy().into_owned());
    let mut words: Vec<String> = words.collect();
    let first = if words.is_empty() { String::new() } else { words.remove(0) };
    let mut tool = Tool::of(Path::new(&first).file_name().and_then(|n| n.to_str()).unwrap_or(""));
    if tool.is_none() && !words.is_empty() {
        tool = Tool::of(&words[0]);
        words.drain(..usize::from(tool.is_some()));
    }
    let Some(tool) = tool else {
        complain(&format!("{}\nNo tool specified: drbdadm or drbdsetup", command().render_help()));
        return 1;
    };
    let outcome = match parse(tool, &words) {
        Err(misuse) => Err(misuse.into()),
        Ok(Asked::Version) => print(&version(std::env::var_os(AGENT).is_some())),
        Ok(Asked::Help) => print(&format!("{}\n", command().render_long_help())),
        Ok(Asked::Verb(line)) => Compat::new(line).and_then(|mut compat| compat.run()),
    };
    match outcome {
        Ok(()) => 0,
        Err(failure) => {
            complain(&failure.text);
            failure.exit_code
        }
    }
}

impl From<Misuse> for Failure {
    fn from(misuse: Misuse) -> Self {
        Self::new(misuse.exit_code, misuse.text)
    }
}

/// One run of the program.
struct Compat {
    line: Line,
    /// tandemadm, with this configuration.
    session: Session,
    config: Option<String>,
    /// What the operands name, where they are drbdadm's.
    meant: Vec<Target>,
}

impl Compat {
    fn new(line: Line) -> Result<Self, Failure> {
        let config = line.config.clone().or_else(drbds_config);
        // The verb does not matter: the options of all verbs are wanted.
        let mut words = vec!["tandemadm".to_owned()];
        words.extend(config.iter().flat_map(|file| ["-c".to_owned(), file.clone()]));
        words.push("status".to_owned());
        let invocation = understood(line.tool, words)?;
        let meant = line.operands.iter().filter_map(|word| word.parse().ok()).collect();
        Ok(Self { line, session: Session::new(invocation.globals), config, meant })
    }

    fn run_dir(&self) -> &Path {
        &self.session.globals.run_dir
    }

    fn tool(&self) -> Tool {
        self.line.tool
    }

    fn configuration(&self) -> Result<Configuration, Failure> {
        self.session.configuration()
    }

    fn run(&mut self) -> Outcome {
        let verb = self.line.verb.clone();
        if self.line.stacked {
            // None of the resources is a stacked one.
            let name = self.line.operands.first().cloned().unwrap_or_default();
            let text = format!("'{name}' not defined in your config (for this host).");
            return Err(Failure::new(10, format!("{text}\nTandem stacks no resources.")));
        }
        self.not_the_modules()?;
        match (self.tool(), verb.as_str()) {
            (Tool::Drbdadm, "sh-nop") => self.line.end(0..=0).map_err(Failure::from),
            (Tool::Drbdadm, "sh-mod-parms") => {
                self.line.end(0..=0)?;
                print("\n")
            }
            (Tool::Drbdadm, "sh-resources") => self.names(),
            (Tool::Drbdadm, "sh-dev") => self.devices(),
            (Tool::Drbdadm, verb) if is_shell_verb(verb) => self.words(),
            (_, "events2") => self.events(),
            (_, "status") => self.status(),
            (Tool::Drbdsetup, "show") => self.show(),
            (_, "down") => self.down(),
            (_, "secondary") => self.secondary(),
            (_, "new-resource") => self.new_resource(),
            (_, "new-minor") => self.new_minor(),
            (Tool::Drbdadm, "adjust") => self.adjust(),
            (Tool::Drbdadm, "connect") if self.line.dry_run => self.connect_steps(),
            (Tool::Drbdsetup, "connect") => self.connect_by_id(),
            (Tool::Drbdadm, _) => {
                let targets = std::mem::take(&mut self.line.operands);
                self.as_tandemadm(targets)
            }
            (Tool::Drbdsetup, verb) => match aim(verb) {
                Some(aim) => {
                    let up = snapshot(self.run_dir())?;
                    let target = resolve(aim, &self.line.operands, &up);
                    let target = target.map_err(|(why, code)| {
                        let text =
                            if code == 10 { why } else { format!("drbdsetup {verb}: {why}") };
                        Failure::new(code, text)
                    })?;
                    self.as_tandemadm(vec![target.to_string()])
                }
                None => Err(no_verb(verb)),
            },
        }
    }

    /// The verb as tandemadm has it.
    fn as_tandemadm(&self, targets: Vec<String>) -> Outcome {
        let verb = self.line.verb.as_str();
        let mut words = vec!["tandemadm".to_owned()];
        words.extend(self.config.iter().flat_map(|file| ["-c".to_owned(), file.clone()]));
        let dry = words.len();
        words.push(verb.to_owned());
        words.extend(self.line.options.iter().cloned());
        words.extend(targets.iter().cloned());
        let dry_words = || {
            let mut words = words.clone();
            words.insert(dry, "-d".to_owned());
            words
        };
        if self.line.dry_run {
            let invocation = understood(self.tool(), dry_words())?;
            return Session::new(invocation.globals).run(invocation.verb);
        }
        let need = match verb {
            verb if OFFLINE.contains(&verb) => Need::Nothing,
            verb if BEGINS.contains(&verb) => Need::Begins,
            _ => Need::Up,
        };
        let invocation = understood(self.tool(), words.clone())?;
        if self.line.verbose
            && need != Need::Nothing
            && let Ok(shown) = understood(self.tool(), dry_words())
        {
            // What only looks has no steps.
            let _ = Session::new(shown.globals).run(shown.verb);
        }
        self.persistently(need, targets.first().map(String::as_str), || {
            Session::new(invocation.globals.clone()).run(invocation.verb.clone())
        })
    }

    /// Acts, when it is known whether there is a daemon; and again, when it has ended or fallen silent
    /// meanwhile.
    fn persistently(&self, need: Need, target: Option<&str>, act: impl Fn() -> Outcome) -> Outcome {
        if need == Need::Nothing {
            return act();
        }
        let deadline = Instant::now() + PATIENCE;
        let mut tries = TRIES;
        loop {
            match settle(self.run_dir(), PATIENCE)? {
                None => return Err(silent()),
                Some(Presence::There(_)) => {}
                Some(Presence::Absent) if need == Need::Begins => {
                    self.is_something_defined()?;
                    self.start_daemon()?;
                }
                Some(Presence::Absent) => return Err(not_up(target)),
            }
            match act() {
                Err(failure) if failure.exit_code == 20 => {
                    tries -= 1;
                    if tries == 0 || Instant::now() >= deadline {
                        return Err(failure);
                    }
                    complain(&failure.text);
                    std::thread::sleep(Duration::from_secs(1));
                }
                other => return other,
            }
        }
    }

    /// No daemon is started for names that are slips.
    fn is_something_defined(&self) -> Outcome {
        let (configuration, targets) = (self.configuration()?, self.meant.as_slice());
        let is_defined =
            |target: &Target| target.resource().is_none_or(|one| configuration.names(one));
        match targets.iter().any(is_defined) {
            true => Ok(()),
            false => configuration.for_each(targets, |_, _, _| Ok(())),
        }
    }

    /// Leaves alone what the kernel's DRBD has.
    fn not_the_modules(&self) -> Outcome {
        let root = Path::new("/");
        let named: Vec<Target> =
            self.line.operands.iter().filter_map(|word| word.parse().ok()).collect();
        let looks =
            matches!(self.line.verb.as_str(), "events2" | "status" | "show" | "dump" | "dump-xml");
        if looks || kernel::is_absent(root) {
            return Ok(());
        }
        let configuration = self.configuration()?;
        let definitions = configuration.config().resources.iter();
        for definition in definitions {
            let is_named =
                |target: &Target| target.resource().is_none_or(|name| name == definition.name);
            let own = definition.local(configuration.node());
            let Some(own) = own.filter(|_| named.iter().any(is_named)) else { continue };
            let minors: Vec<u32> = own.volumes.values().map(|volume| volume.minor).collect();
            if let Some(what) = kernel::knows(root, &definition.name, &minors) {
                if self.is_ours(&definition.name)? {
                    continue;
                }
                let text = format!(
                    "{}: the kernel's DRBD has it ({what}): its own tools are for that, those of \
                     drbd-utils",
                    definition.name
                );
                return Err(Failure::new(10, text));
            }
        }
        Ok(())
    }

    /// Whether the order ends or looks at what tandemd has up, whatever the module has of the same minor: a
    /// Primary is not to be taken for one that is not there.
    fn is_ours(&self, resource: &str) -> Result<bool, Failure> {
        if !matches!(self.line.verb.as_str(), "secondary" | "down" | "role" | "cstate" | "dstate") {
            return Ok(false);
        }
        match settle(self.run_dir(), PATIENCE)? {
            Some(Presence::There(mut client)) => Ok(client.running(resource)?.is_some()),
            Some(Presence::Absent) => Ok(false),
            // It may have it.
            None => Ok(true),
        }
    }

    /// `sh-resources`: all on one line.
    fn names(&self) -> Outcome {
        self.line.end(0..=0)?;
        let configuration = self.configuration()?;
        let resources = configuration.config().resources.iter();
        let own = resources.filter(|one| one.local(configuration.node()).is_some());
        let names: Vec<&str> = own.map(|one| one.name.as_str()).collect();
        if !names.is_empty() || !configuration.config().has_errors() {
            print(&format!("{}\n", names.join(" ")))?;
        }
        // Tells the findings, and makes them the exit code: a script must not take a broken file for none.
        let whole = configuration.for_each(&[Target::All], |_, _, _| Ok(()));
        whole.map_err(|failure| match Path::new(configuration.path()).exists() {
            true => failure,
            false => Failure::new(2, failure.text),
        })
    }

    /// `sh-dev`: a node for each volume.
    fn devices(&self) -> Outcome {
        self.line.end(1..=usize::MAX)?;
        self.configuration()?.for_each(&self.targets()?, |target, definition, own| {
            for (number, volume) in &own.volumes {
                if target.volume().is_some_and(|only| only != *number) {
                    continue;
                }
                let (path, wrong) = nodes::node(self.run_dir(), &definition.name, *number, volume);
                complain(&wrong.unwrap_or_default());
                print(&format!("{}\n", path.display()))?;
            }
            Ok(())
        })
    }

    fn words(&self) -> Outcome {
        self.line.end(1..=usize::MAX)?;
        self.configuration()?.for_each(&self.targets()?, |target, definition, own| {
            print(&shell_lines(&self.line.verb, definition, own, target.volume()))
        })
    }

    fn targets(&self) -> Result<Vec<Target>, Failure> {
        let usage = |why| Failure::new(self.tool().usage_code(), why);
        self.line.operands.iter().map(|word| word.parse().map_err(usage)).collect()
    }

    fn events(&mut self) -> Outcome {
        let line = &mut self.line;
        let (full, poll) = (line.take("--full"), line.take("--poll"));
        let statistics = line.take("--statistics") | line.take("-s");
        let events = Events {
            now: line.take("--now"),
            poll,
            timestamps: line.take("--timestamps"),
            form: Form { statistics: statistics || full, full, plain: true },
            resource: line.operands.first().filter(|name| *name != "all").cloned(),
        };
        line.end(0..=1)?;
        events.run(self.run_dir())
    }

    fn status(&mut self) -> Outcome {
        let named = self.line.operands.first().filter(|name| *name != "all").cloned();
        if !snapshot(self.run_dir())?.is_empty() {
            let targets = std::mem::take(&mut self.line.operands);
            return self.as_tandemadm(targets);
        }
        let json = self.line.options.iter().any(|one| matches!(one.as_str(), "--json" | "-j"));
        if json {
            print("[]\n")?;
        }
        match named {
            Some(name) => Err(Failure::new(10, format!("{name}: No such resource"))),
            None if json => Ok(()),
            None => print(status_text::NOTHING),
        }
    }
}

/// DRBD's configuration, where Tandem's is not there, or defines nothing, and nobody has named one.
fn drbds_config() -> Option<String> {
    // A handler has the daemon's own, which is this one where nobody has named another.
    let named = std::env::var_os("TANDEM_CONFIG").is_some_and(|path| path != OWN_CONFIG);
    (!named && is_in_force(DRBDS_CONFIG, OWN_CONFIG)).then(|| DRBDS_CONFIG.to_owned())
}

/// Whether the file of DRBD is the one to read, and not that of Tandem.
fn is_in_force(drbds: &str, own: &str) -> bool {
    let read = || crate::config::load(&ConfigFiles, own);
    let own = Path::new(own).exists().then(read);
    let says_something = own.is_some_and(|own| {
        own.has_errors() || !own.resources.is_empty() || !own.refused.is_empty()
    });
    Path::new(drbds).exists() && !says_something
}

/// A command line of tandemadm, with the words and exit codes of the tool.
fn understood(tool: Tool, words: Vec<String>) -> Result<Invocation, Failure> {
    arguments::parse(words).map_err(|answer| {
        // Nobody has typed tandemadm here.
        let text = answer.text.trim_end().replace("tandemadm", tool.name());
        let code = if answer.exit_code == 1 { tool.usage_code() } else { answer.exit_code };
        Failure::new(code, text)
    })
}

/// A verb that drbdsetup has, or had, and that is not there; or none at all.
fn no_verb(verb: &str) -> Failure {
    let why = match verb {
        "attach" => {
            Some("'attach' is not supported; the config has the disk: `drbdadm attach`".to_owned())
        }
        _ => not_built(verb),
    };
    match why {
        Some(why) => Failure::new(10, format!("drbdsetup: {why}")),
        None => Failure::new(20, format!("drbdsetup: Unknown command '{verb}'")),
    }
}

/// Nothing is up.
fn not_up(target: Option<&str>) -> Failure {
    let name = target.unwrap_or("all").split(['/', ':']).next().unwrap_or_default();
    Failure::new(10, format!("{name}: Failure: (158) Unknown resource\ntandemd does not run."))
}

#[cfg(test)]
mod tests {
    use super::is_in_force;

    #[test]
    fn drbds_file_is_read_where_tandems_defines_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        let (drbds, own) = (path("drbd.conf"), path("tandem.conf"));
        let chosen = || is_in_force(&drbds, &own);
        assert!(!chosen(), "neither is there");
        std::fs::write(&drbds, "").unwrap();
        assert!(chosen());
        std::fs::write(&own, "# nothing\ninclude \"tandem.d/*.res\";\n").unwrap();
        assert!(chosen());
        for text in ["resource r0 { }\n", "resource r0 {\n"] {
            std::fs::write(&own, text).unwrap();
            assert!(!chosen(), "{text}: it is Tandem's that is wrong");
        }
    }
}
