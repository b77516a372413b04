//! The cage: everything runs in namespaces of its own for processes, mounts and network, under a
//! process that ends all of it with itself. So nothing is left behind, whatever happens.
//!
//! The process outside waits, passes an interruption on by closing a pipe, and removes the folder
//! unless something in it is to be looked at.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::signal::{SigSet, Signal};

use crate::Arguments;

/// A file in the folder that says: keep it.
pub(crate) const KEEP: &str = "keep";
/// How long the inside may take to end in order, after it was asked to.
const PATIENCE: Duration = Duration::from_secs(20);

/// A seed of the moment.
pub(crate) fn any_seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::from(now.subsec_nanos()) ^ (now.as_secs() << 20) & 0xffff_ffff
}

/// What the process outside waits for.
enum News {
    Interrupted,
    Ended(u8),
}

/// Runs the inside, and returns its exit code.
///
/// # Errors
/// Why there is no cage on this system.
pub(crate) fn run(arguments: &Arguments) -> Result<u8, String> {
    // Before any thread begins: they all leave these signals to the one that waits for them.
    let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
    signals.thread_block().map_err(|error| format!("signals: {error}"))?;
    let mut builder = tempfile::Builder::new();
    builder.prefix("tandem-torture-");
    let folder = match &arguments.folder {
        Some(place) => builder.tempdir_in(place),
        None => builder.tempdir(),
    }
    .map_err(|error| format!("a folder for files: {error}"))?;
    let mut child = inside(arguments, folder.path())?;
    // It is closed to say: come to an end.
    let mut pipe = child.stdin.take();
    let (sender, news) = mpsc::channel();
    let interrupted = sender.clone();
    std::thread::spawn(move || {
        while signals.wait().is_ok() {
            let _ = interrupted.send(News::Interrupted);
        }
    });
    let id = child.id();
    std::thread::spawn(move || {
        let code = child.wait().ok().and_then(|status| status.code()).unwrap_or(1);
        let _ = sender.send(News::Ended(u8::try_from(code).unwrap_or(1)));
    });
    let mut limit = Duration::MAX;
    let code = loop {
        match news.recv_timeout(limit) {
            Ok(News::Ended(code)) => break code,
            Ok(News::Interrupted) if pipe.is_some() => {
                println!("interrupted: everything is taken down");
                pipe = None;
                limit = PATIENCE;
            }
            Ok(News::Interrupted) | Err(_) => kill(id),
        }
    };
    if code == crate::CANNOT && !nix::unistd::geteuid().is_root() {
        eprintln!("torture: as root it can:\n    {}", as_root(arguments));
    }
    if arguments.keep || folder.path().join(KEEP).exists() {
        println!("kept: {}", folder.keep().display());
    }
    Ok(code)
}

/// The parent of the cage's first process: that one dies with it, and all others with that.
fn kill(id: u32) {
    if let Ok(id) = i32::try_from(id) {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(id), Signal::SIGKILL);
    }
}

/// The words that make the cage: as root, or where anybody may be root of a namespace of his own.
fn words() -> Vec<&'static str> {
    let mut words = vec!["unshare"];
    if !nix::unistd::geteuid().is_root() {
        words.extend(["--user", "--map-root-user"]);
    }
    words.extend(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    words
}

/// The line to type where this user may not.
fn as_root(arguments: &Arguments) -> String {
    let (minutes, seed) = (arguments.minutes, arguments.seed.unwrap_or_default());
    format!("sudo tools/torture --minutes {minutes} --seed {seed}")
}

fn inside(arguments: &Arguments, folder: &Path) -> Result<Child, String> {
    let words = words();
    let tried = Command::new(words[0])
        .args(&words[1..])
        .arg("true")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{}: {error}", words[0]))?;
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    if !tried.status.success() {
        let why = String::from_utf8_lossy(&tried.stderr);
        let line = as_root(arguments);
        return Err(format!("no namespaces for this user ({}); as root:\n    {line}", why.trim()));
    }
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).arg(&own).arg("--inside").arg(folder);
    command.arg("--minutes").arg(arguments.minutes.to_string());
    command.arg("--seed").arg(arguments.seed.unwrap_or_default().to_string());
    if let Some(programs) = &arguments.programs {
        command.arg("--programs").arg(programs);
    }
    if let Some(programs) = &arguments.other_programs {
        command.arg("--other-programs").arg(programs);
    }
    if arguments.no_record {
        command.arg("--no-record");
    }
    // A group of its own: an interruption at the terminal is for the process outside.
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    command.stdin(Stdio::piped()).spawn().map_err(|error| format!("{}: {error}", words[0]))
}
