//! Time, waiting, and processes.
//!
//! Invariants:
//! - One clock for all: what a client was told and what a disk had are put in order by it.
//! - What is made outside of this process (processes, loop devices, mounts) is noted before it is
//!   used, so that the wrapper can take it away whatever becomes of this process.

use std::fmt::Display;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use tools::logged_disk::output_within;

/// What is not as it was promised, or a tool that does not work.
pub(crate) type Outcome<T> = Result<T, String>;

/// How long a state may take to come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Nanoseconds since the first call.
pub(crate) fn now() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    let passed = START.get_or_init(Instant::now).elapsed().as_nanos();
    u64::try_from(passed).expect("a run of less than 500 years")
}

/// An error with what was being done.
pub(crate) fn at<E: Display>(what: impl Display) -> impl FnOnce(E) -> String {
    move |error| format!("{what}: {error}")
}

/// Asks `probe` again and again until it has an answer.
pub(crate) fn until<T>(
    what: impl Display,
    mut probe: impl FnMut() -> Outcome<Option<T>>,
) -> Outcome<T> {
    let deadline = Instant::now() + PATIENCE;
    let mut pause = Duration::from_millis(2);
    loop {
        if let Some(answer) = probe()? {
            return Ok(answer);
        }
        if Instant::now() > deadline {
            return Err(format!("still waiting after {PATIENCE:?}: {what}"));
        }
        std::thread::sleep(pause);
        pause = (pause * 3 / 2).min(Duration::from_millis(40));
    }
}

/// What a command said and how it ended.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// How long a command may take: longer than `tandemadm` itself waits for an answer.
const COMMAND: Duration = Duration::from_secs(200);

/// Runs a command to its end, which comes in time: nothing is waited for for ever here, neither by
/// this program nor by what it calls.
pub(crate) fn run(command: &mut Command) -> Outcome<Said> {
    let out = output_within(command, COMMAND).map_err(at(format!("{command:?}")))?;
    Ok(Said {
        code: out.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&out.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&out.stderr).into_owned(),
    })
}

/// Runs a command that has to do it; what it printed.
pub(crate) fn done(command: &mut Command) -> Outcome<String> {
    let said = run(command)?;
    if said.code == 0 {
        return Ok(said.stdout);
    }
    Err(format!("{command:?} ended with {}: {}{}", said.code, said.stdout, said.stderr))
}

static NOTES: OnceLock<PathBuf> = OnceLock::new();

/// Where [`note`] writes to.
pub(crate) fn notes(path: PathBuf) {
    NOTES.get_or_init(|| path);
}

/// Notes that something was made: `pid 12`, `loop /dev/loop3`, `mount /tmp/x`.
pub(crate) fn note(what: &str) {
    let Some(path) = NOTES.get() else { return };
    let file = OpenOptions::new().create(true).append(true).open(path);
    if let Err(error) = file.and_then(|mut file| writeln!(file, "{what}")) {
        eprintln!("{}: {error}", path.display());
    }
}

/// A new folder.
pub(crate) fn folder(path: PathBuf) -> Outcome<PathBuf> {
    fs::create_dir_all(&path).map_err(at(path.display()))?;
    Ok(path)
}

/// The path as text.
pub(crate) fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
