//! The command lines of a node's programs. `tools` and `tests/daemon` use them, the latter by including
//! this file.

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

/// A node: its name, its run folder, and its config.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// Its name in the config.
    pub name: &'a str,
    /// Its run folder, with the daemon's `log` in it.
    pub run_dir: &'a Path,
    /// The config.
    pub config: &'a Path,
}

impl Place<'_> {
    fn of(&self, command: &mut Command) {
        command.args(["--node", self.name, "--run-dir"]).arg(self.run_dir);
        command.arg("-c").arg(self.config);
    }

    /// The daemon: `words` begin its command line. What it says is added to the log.
    ///
    /// # Errors
    /// There is no log.
    pub fn daemon<W: AsRef<OsStr>>(&self, words: &[W]) -> io::Result<Command> {
        let log = OpenOptions::new().create(true).append(true).open(self.run_dir.join("log"))?;
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        self.of(&mut command);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        Ok(command)
    }

    /// tandemadm, which is that program.
    pub fn adm(&self, program: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        self.of(&mut command);
        command.args(arguments);
        command
    }
}
