//! The program that follows: which it is, whether it can take over, and its execution.
//!
//! Invariants:
//! - It is what stands where this one was started from, with the same arguments: a new version there
//!   is taken up.
//! - It is not executed while a thread waits for a disk that does not answer: the system ends every
//!   thread first, and would wait with it.
//! - It is asked before anything is stopped, with a specimen of the record. A program that does not start,
//!   does not know an argument, or not all of the record, has cost nobody anything.

use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::pass;
use super::record::{RECORD_MAX, Record, VERSION};

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

/// Asks the program whether it can take over from this one with such a record. Blocks.
///
/// # Errors
/// It cannot, and why.
pub(super) fn can_take_over(program: &Path, specimen: &Record) -> Result<(), String> {
    let specimen = specimen.encode().map_err(|error| error.to_string())?;
    // A file: nobody waits for a program that does not read.
    let file = memory_file(&specimen).map_err(|error| error.to_string())?;
    let mut asked = Command::new(program);
    asked.args(arguments()).args([ASKS, &VERSION.to_string()]);
    asked.env_remove("NOTIFY_SOCKET").env_remove(pass::VARIABLE);
    asked.stdin(file).stdout(Stdio::null()).stderr(Stdio::piped());
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

fn memory_file(bytes: &[u8]) -> std::io::Result<File> {
    let flags = nix::sys::memfd::MFdFlags::MFD_CLOEXEC;
    let mut file = File::from(nix::sys::memfd::memfd_create(c"record", flags)?);
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file)
}

/// The specimen that the program is asked about, from its standard input; nothing where an older one
/// asks, or a person.
pub(in crate::io::control) fn specimen() -> Vec<u8> {
    let mut bytes = Vec::new();
    let Ok(input) = std::io::stdin().as_fd().try_clone_to_owned() else { return bytes };
    let input = File::from(input);
    if input.metadata().is_ok_and(|metadata| metadata.is_file()) {
        // One that is too long, or cut off, is no record.
        let _ = input.take(RECORD_MAX as u64 + 1).read_to_end(&mut bytes);
    }
    bytes
}

/// What the program answers.
///
/// # Errors
/// Its record is another one, or it does not know all that is in this one.
pub(in crate::io::control) fn answer(version: u32, specimen: &[u8]) -> Result<(), String> {
    let own = crate::control::version::VERSION;
    if version != VERSION {
        return Err(format!(
            "tandemd {own} takes over with a record of version {VERSION}, not {version}"
        ));
    }
    if specimen.is_empty() {
        return Ok(());
    }
    match Record::decode(specimen) {
        Ok(_) => Ok(()),
        Err(why) => {
            Err(format!("tandemd {own} does not understand what would be left to it: {why}"))
        }
    }
}

/// Whether a thread waits in the kernel and cannot be ended now, by its line in `/proc`. The state
/// stands behind the name, which is in brackets and may hold anything.
fn is_stuck(stat: &[u8]) -> bool {
    let name_ends = stat.iter().rposition(|byte| *byte == b')');
    name_ends.is_some_and(|end| stat.get(end + 2) == Some(&b'D'))
}

fn is_held_up() -> bool {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else { return false };
    // One that has ended meanwhile is in nobody's way.
    let mut stats = tasks.flatten().filter_map(|task| std::fs::read(task.path().join("stat")).ok());
    stats.any(|stat| is_stuck(&stat))
}

/// Waits until no thread stands in the way of an execution.
///
/// # Errors
/// One does, for longer than that.
pub(super) async fn nothing_holds_up(limit: Duration) -> Result<(), String> {
    let begun = Instant::now();
    while is_held_up() {
        if begun.elapsed() > limit {
            return Err("a disk that does not answer holds a thread up".to_owned());
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_waits_for_a_disk_is_known_by_its_state() {
        assert!(is_stuck(b"77 (tokio) D 1 77 77 0 -1"));
        assert!(is_stuck(b"77 (a) S) (D) D 1 77"));
        for other in ["77 (D) S 1", "77 (data D) R 1", "77 (iou-wrk-5)", "", "D", "77 (x) "] {
            assert!(!is_stuck(other.as_bytes()), "{other}");
        }
    }

    #[test]
    fn a_program_is_asked_and_what_it_says_is_told() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("program");
        let record = Record::specimen(Vec::new());
        assert!(can_take_over(&path, &record).unwrap_err().contains("No such file"));
        for (does, says) in [
            ("exit 0", None),
            ("echo >&2; echo ' too old ' >&2; echo more >&2; exit 7", Some("too old")),
            ("exit 7", Some("exit status: 7")),
            ("test \"$(head -c 8)\" = TNDMHAND", None),
        ] {
            std::fs::write(&path, format!("#!/bin/sh\n{does}\n")).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
            let said = can_take_over(&path, &record).err();
            assert_eq!(said.is_some(), says.is_some(), "{said:?}");
            assert!(said.unwrap_or_default().contains(says.unwrap_or_default()));
        }
        assert_eq!(answer(VERSION, b""), Ok(()));
        assert!(answer(VERSION + 1, b"").unwrap_err().contains("version"));
        let mut known = record.encode().unwrap();
        assert_eq!(answer(VERSION, &known), Ok(()));
        known.pop();
        assert!(answer(VERSION, &known).unwrap_err().contains("does not understand"));
    }
}
