//! The program that follows: which it is, whether it can take over, and its execution.
//!
//! Invariants:
//! - It is what stands where this one was started from, with the same arguments: a new version there
//!   is taken up.
//! - It is asked before anything is stopped. A program that does not start, does not know an argument
//!   or another version of the record has cost nobody anything.

use std::ffi::{CString, OsString};
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::pass;
use super::record::VERSION;

/// The option that asks, behind all others.
const ASKS: &str = "--can-take-over";
/// How long the answer may take.
const ASK_LIMIT: Duration = Duration::from_secs(10);
/// How often it is looked for.
const LOOK: Duration = Duration::from_millis(5);
/// Bytes of what it says that are read.
const SAYS_MAX: u64 = 4096;

/// Where this program was started from.
pub(in crate::io::control) fn path() -> PathBuf {
    let own = || std::env::current_exe().unwrap_or_else(|_| PathBuf::from("/proc/self/exe"));
    let Some(word) = std::env::args_os().next() else { return own() };
    if word.as_bytes().contains(&b'/') {
        return std::path::absolute(&word).unwrap_or_else(|_| own());
    }
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let mut found = std::env::split_paths(&folders).map(|folder| folder.join(&word));
    found.find(|path| path.is_file()).unwrap_or_else(own)
}

fn arguments() -> impl Iterator<Item = OsString> {
    std::env::args_os().skip(1)
}

/// Asks the program whether it can take over from this one. Blocks.
///
/// # Errors
/// It cannot, and why.
pub(super) fn can_take_over(program: &Path) -> Result<(), String> {
    let mut asked = Command::new(program);
    asked.args(arguments()).args([ASKS, &VERSION.to_string()]);
    asked.env_remove("NOTIFY_SOCKET").env_remove(pass::VARIABLE);
    asked.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = asked.spawn().map_err(|error| error.to_string())?;
    let begun = Instant::now();
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if begun.elapsed() < ASK_LIMIT => std::thread::sleep(LOOK),
            Ok(None) => {
                // It may have ended just now.
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("no answer to {ASKS} in {} s", ASK_LIMIT.as_secs()));
            }
            Err(error) => return Err(error.to_string()),
        }
    };
    if status.success() {
        return Ok(());
    }
    let mut said = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        // A child of it may hold it open: nothing is waited for.
        let flag = nix::fcntl::OFlag::O_NONBLOCK;
        let _ = nix::fcntl::fcntl(&stderr, nix::fcntl::FcntlArg::F_SETFL(flag));
        let _ = stderr.take(SAYS_MAX).read_to_end(&mut said);
    }
    let said = String::from_utf8_lossy(&said);
    match said.lines().map(str::trim).find(|line| !line.is_empty()) {
        Some(line) => Err(line.to_owned()),
        None => Err(format!("it ended with {status}")),
    }
}

/// What the program answers.
///
/// # Errors
/// Its record is another one.
pub(in crate::io::control) fn answer(version: u32) -> Result<(), String> {
    match version == VERSION {
        true => Ok(()),
        false => Err(format!(
            "tandemd {} takes over with a record of version {VERSION}, not {version}",
            crate::control::version::VERSION
        )),
    }
}

/// Executes the program in this process. Returns only where that has failed.
pub(super) fn execute(program: &Path) -> nix::errno::Errno {
    let word = |word: OsString| CString::new(word.into_vec());
    let words = std::env::args_os().map(word).collect::<Result<Vec<_>, _>>();
    let others = std::env::vars_os().filter(|(name, _)| name != pass::VARIABLE);
    let others = others.map(|(name, value)| {
        let mut variable = name;
        variable.push("=");
        variable.push(value);
        word(variable)
    });
    let given = CString::new(pass::variable(std::process::id()));
    let environment = others.chain([given]).collect::<Result<Vec<_>, _>>();
    let path = CString::new(program.as_os_str().as_bytes());
    let (Ok(path), Ok(words), Ok(environment)) = (path, words, environment) else {
        return nix::errno::Errno::EINVAL;
    };
    match nix::unistd::execve(&path, &words, &environment) {
        Ok(never) => match never {},
        Err(errno) => errno,
    }
}
