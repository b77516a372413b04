//! `tandemd` and `tandemadm` as processes, as far as one node goes. Each test has its own folder,
//! and ends what it started by its pid.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

#[path = "cli/check.rs"]
mod check;
#[path = "cli/compat.rs"]
mod compat;
#[path = "cli/would_be.rs"]
mod would_be;

/// Nothing takes so long but a defect.
const PATIENCE: Duration = Duration::from_secs(20);

struct Node {
    dir: tempfile::TempDir,
}

impl Node {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let disk = dir.path().join("r0.img");
        std::fs::File::create(&disk).unwrap().set_len(16 << 20).unwrap();
        let config = format!(
            "resource r0 {{\n    volume 0 {{ device minor 0; disk {}; meta-disk internal; }}\n    \
             on alice {{ node-id 0; address 127.0.0.1:17789; }}\n    \
             on bob {{ node-id 1; address 127.0.0.2:17789; }}\n}}\n",
            disk.display()
        );
        std::fs::write(dir.path().join("tandem.conf"), config).unwrap();
        Self { dir }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env("TANDEM_CONFIG", self.path("tandem.conf"))
            .env("TANDEM_NODE", "alice")
            .env("TANDEM_RUN_DIR", self.path("run"))
            .env_remove("NOTIFY_SOCKET")
            .env_remove("JOURNAL_STREAM")
            .stdin(Stdio::null());
        command
    }

    fn admin(&self, words: &str) -> Output {
        let mut command = self.command(env!("CARGO_BIN_EXE_tandemadm"));
        command.args(words.split_whitespace()).output().unwrap()
    }

    /// The exit code, standard output and standard error.
    fn told(&self, words: &str) -> (i32, String, String) {
        let output = self.admin(words);
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
    }

    fn daemon(&self, options: &[&str]) -> Daemon {
        self.daemon_with(options, |_| {})
    }

    /// Starts tandemd and returns when it has said that it is ready.
    fn daemon_with(&self, options: &[&str], change: impl FnOnce(&mut Command)) -> Daemon {
        let notify = self.path("notify");
        let _ = std::fs::remove_file(&notify);
        let listener = UnixDatagram::bind(&notify).unwrap();
        listener.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut command = self.command(env!("CARGO_BIN_EXE_tandemd"));
        command.args(options).env("NOTIFY_SOCKET", &notify).stderr(Stdio::piped());
        change(&mut command);
        let child = command.spawn().unwrap();
        let daemon = Daemon { child: Some(child), notified: listener };
        assert_eq!(daemon.notified(), "READY=1");
        daemon
    }
}

struct Daemon {
    child: Option<Child>,
    notified: UnixDatagram,
}

impl Daemon {
    /// The next thing that systemd would be told.
    fn notified(&self) -> String {
        let mut said = [0; 64];
        let length = self.notified.recv(&mut said).expect("tandemd says something");
        String::from_utf8(said[..length].to_vec()).unwrap()
    }

    fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.pid()).unwrap()), signal).unwrap();
    }

    /// When this returns, no thread of it runs.
    fn stop(&self) {
        self.signal(Signal::SIGSTOP);
        let pid = Pid::from_raw(i32::try_from(self.pid()).unwrap());
        let flags = nix::sys::wait::WaitPidFlag::WUNTRACED;
        let stopped = nix::sys::wait::waitpid(pid, Some(flags)).unwrap();
        assert!(matches!(stopped, nix::sys::wait::WaitStatus::Stopped(..)), "{stopped:?}");
    }

    /// Ends it; the exit status and the log.
    fn end(mut self, signal: Signal) -> (std::process::ExitStatus, String) {
        self.signal(signal);
        if signal != Signal::SIGKILL {
            assert_eq!(self.notified(), "STOPPING=1");
        }
        let mut child = self.child.take().unwrap();
        let mut log = String::new();
        if let Some(mut stderr) = child.stderr.take() {
            stderr.read_to_string(&mut log).unwrap();
        }
        (child.wait().unwrap(), log)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[test]
fn without_a_daemon_the_exit_code_is_20() {
    let node = Node::new();
    for words in ["status", "why", "up r0", "secondary r0", "events2 --now", "wait-connect r0"] {
        let (code, _, error) = node.told(words);
        assert_eq!(code, 20, "{words}: {error}");
        assert!(error.contains("tandemd does not answer on"), "{error}");
    }
}

/// Also where it accepts connections, and where it does not even that.
#[test]
fn a_daemon_that_stands_still_is_given_up() {
    let node = Node::new();
    let daemon = node.daemon(&[]);
    daemon.stop();
    let begun = std::time::Instant::now();
    for words in [
        "status",
        "why r0",
        "up r0",
        "down r0",
        "secondary all",
        "adjust r0",
        "events2",
        "events2 --now",
        "wait-connect r0",
    ] {
        let (code, _, error) = node.told(&format!("--cmd-timeout 1 {words}"));
        assert_eq!(code, 20, "{words}: {error}");
        assert!(error.contains("control.sock: no answer in 1 s\nIts process"), "{error}");
        assert!(error.contains(&format!("`kill -CONT {}`", daemon.pid())), "{error}");
    }
    let (code, text, _) = node.told("--cmd-timeout 1 check");
    assert_eq!(code, 3);
    assert!(text.starts_with("UNKNOWN: tandemd does not answer on"), "{text}");
    // The backlog of its socket, filled up.
    let address = nix::sys::socket::UnixAddr::new(&node.path("run/control.sock")).unwrap();
    let mut waiting = Vec::new();
    loop {
        use nix::sys::socket::{AddressFamily, SockFlag, SockType, connect, socket};
        use std::os::fd::AsRawFd;
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let one = socket(AddressFamily::Unix, SockType::Stream, flags, None).unwrap();
        if connect(one.as_raw_fd(), &address).is_err() {
            break;
        }
        waiting.push(one);
    }
    assert_eq!(node.told("--cmd-timeout 1 status").0, 20);
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
    drop(waiting);
    daemon.signal(Signal::SIGCONT);
    assert_eq!(node.told("status").0, 0);
}

#[test]
fn verbs_without_a_daemon() {
    let node = Node::new();
    let (code, _, error) = node.told("dump-md r0");
    assert_eq!(code, 10, "{error}");
    assert!(error.starts_with("r0/0: Failure: (119) "), "{error}");
    let disk = node.path("r0.img").display().to_string();
    assert_eq!(node.told(&format!("probe {disk}")), (1, String::new(), String::new()));
    let (code, text, error) = node.told("create-md r0");
    assert_eq!((code, text.as_str()), (0, "New drbd meta data block successfully created.\n"));
    assert!(error.contains("--preallocate"), "{error}");
    let (code, _, error) = node.told("create-md r0");
    assert_eq!(code, 10, "{error}");
    assert!(error.contains("found Tandem metadata of r0/0"), "{error}");
    assert_eq!(node.told("create-md --force r0/0").0, 0);
    let (code, text, _) = node.told("get-gi r0");
    assert_eq!(code, 0);
    assert!(text.starts_with("0000000000000004:0000000000000000:"), "{text}");
    assert!(node.told("show-gi r0").1.contains(text.trim()));
    assert_eq!(node.told("get-gi r0:bob/0"), (0, text.clone(), String::new()));
    assert_eq!(node.told("get-gi r0:carol").0, 10);
    assert!(node.told("dump-md r0").1.contains("tandem"));
    let (code, text, _) = node.told(&format!("probe {disk}"));
    assert_eq!((code, text.as_str()), (0, "ID_FS_USAGE=raid\nID_FS_TYPE=tandem_member\n"));
    let (code, text, _) = node.told("dump r0");
    assert_eq!(code, 0);
    assert!(text.starts_with("resource r0 {"), "{text}");
    let (code, text, _) = node.told("-d up r0");
    assert_eq!(code, 0);
    assert_eq!(text.lines().count(), 6, "{text}");
    assert_eq!(text.lines().last(), Some("drbdsetup connect r0 1"));
    assert_eq!(node.told("-d down r0"), (0, String::new(), String::new()));
}

#[test]
fn usage_and_names() {
    let node = Node::new();
    assert_eq!(node.told("").0, 1);
    assert_eq!(node.told("foo r0").0, 1);
    assert_eq!(node.told("apply-al r0").0, 10, "not supported");
    assert_eq!(node.told("--version").0, 0);
    // Never more than was asked for.
    for words in
        ["down r0/0", "primary r0/0", "disconnect r0/0", "detach r0:bob", "create-md r0:bob"]
    {
        let (code, _, error) = node.told(words);
        assert_eq!(code, 1, "{words}: {error}");
        assert!(error.contains("you specified a"), "{words}: {error}");
    }
    let _daemon = node.daemon(&[]);
    for words in ["up nosuch", "down nosuch", "primary nosuch", "create-md nosuch"] {
        let (code, _, error) = node.told(words);
        assert_eq!(code, 10, "{words}: {error}");
        assert!(error.starts_with("'nosuch' not defined in your config"), "{words}: {error}");
        assert!(error.contains("r0"), "{words}: {error}");
    }
    let conf = node.path("tandem.conf");
    let existing = format!("Up is nothing; {} defines r0.\n", conf.display());
    for words in ["status nosuch", "why nosuch", "role nosuch", "events2 --now nosuch"] {
        let (code, text, error) = node.told(words);
        assert_eq!((code, text.as_str()), (10, ""), "{words}: {error}");
        assert_eq!(error, format!("nosuch: No such resource\n{existing}"), "{words}");
    }
    for words in ["events2 nosuch", "wait-connect nosuch", "-d primary nosuch", "-d down nosuch"] {
        let (code, _, error) = node.told(words);
        assert_eq!(code, 10, "{words}: {error}");
        assert!(error.contains(&existing), "{words}: {error}");
    }
    for words in ["role r0:bob", "status r0/0", "net-options --timeout=50 r0/0", "why r0:bob"] {
        let (code, _, error) = node.told(words);
        assert_eq!(code, 1, "{words}: {error}");
        assert!(error.contains("you specified a"), "{words}: {error}");
    }
    for words in ["-d connect r0:carol", "-d attach r0/7"] {
        let (code, text, error) = node.told(words);
        assert_eq!((code, text.as_str()), (10, ""), "{words}: {error}");
    }
    let (code, text, error) = node.told("check");
    assert_eq!((code, error.as_str()), (1, ""));
    assert!(text.starts_with("WARNING: r0 is not up (1 of 1) | "), "{text}");
    assert_eq!(node.told("check r0"), (1, text, String::new()));
    assert_eq!(node.told("check r9").0, 3);
    let long = format!("--run-dir /tmp/{} status", "x".repeat(100));
    let (code, _, error) = node.told(&long);
    assert_eq!(code, 20);
    assert!(error.contains("give --run-dir a shorter one"), "{error}");
    let (code, _, error) = node.told("attach r0/7");
    let told = "r0/7: Failure: (127) Device minor not allocated\nr0 has volume 0.\n";
    assert_eq!((code, error.as_str()), (10, told));
    for words in ["status r0", "role r0", "wait-sync --wfc-timeout 1 r0", "why r0"] {
        let (code, _, error) = node.told(words);
        assert_eq!(code, 10, "{words}: {error}");
        assert!(error.starts_with("r0: No such resource\n"), "{words}: {error}");
    }
    let (code, _, error) = node.told("primary r0");
    assert_eq!(code, 10);
    assert!(error.starts_with("r0: Failure: (158) Unknown resource\n"), "{error}");
    assert_eq!(node.told("down r0"), (0, String::new(), String::new()));
    assert_eq!(node.told("events2 --now").1, "exists -\n");
    let nothing = "# No currently configured DRBD found.\n";
    assert_eq!(node.told("status"), (0, nothing.to_owned(), String::new()));
    assert_eq!(node.told("status --json").1, "[]\n");
}

/// What stands behind `tandemadm` in the documents, in code: the words up to a comment or a mark.
fn printed_commands(text: &str) -> Vec<String> {
    // Between fences of three backquotes each line is a command.
    let parts: Vec<&str> = text.split("```").collect();
    let fenced = parts.iter().skip(1).step_by(2).flat_map(|part| part.lines().skip(1));
    let prose: Vec<&str> = parts.iter().step_by(2).copied().collect();
    let prose = prose.join("\n");
    let block = prose.lines().filter(|line| line.starts_with("    ")).chain(fenced);
    let inline = prose.split('`').skip(1).step_by(2).map(|code| code.replace('\n', " "));
    let code = block.map(str::to_owned).chain(inline);
    let commands = code.flat_map(|code| {
        let mut rest = code.as_str();
        let mut found = Vec::new();
        while let Some((_, after)) = rest.split_once("tandemadm ") {
            let end = after.find(['#', ';', '|', '`', '>', '<']).unwrap_or(after.len());
            found.push(after[..end].trim().to_owned());
            rest = &after[end..];
        }
        found
    });
    // Not where it is only a file that is copied.
    commands
        .filter(|command| command.starts_with(|c: char| c == '-' || c.is_alphabetic()))
        .collect()
}

#[test]
fn every_command_that_the_documents_print_is_understood() {
    let mut seen = 0;
    for document in ["README.md", "docs/OPERATIONS.md"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(document);
        for command in printed_commands(&std::fs::read_to_string(path).unwrap()) {
            let words = std::iter::once("tandemadm").chain(command.split_whitespace());
            let parsed = tandem::control::arguments::parse(words);
            assert!(parsed.is_ok(), "{document}: tandemadm {command}: {:?}", parsed.err());
            seen += 1;
        }
    }
    assert!(seen > 30, "{seen}");
}

/// The devices themselves are for `tests/daemon/attached.rs`.
#[test]
fn what_is_said_of_devices_where_none_is_attached() {
    let node = Node::new();
    let ok = |words: &str| match node.told(words) {
        (0, text, _) => text,
        other => panic!("{words}: {other:?}"),
    };
    assert_eq!(ok("device status"), "# Nothing is attached.\n");
    assert_eq!(ok("device status --json"), "[]\n");
    assert_eq!(ok("device detach all"), "");
    // The device is that of the configuration, for a volume of this node.
    // What is not given is not said: a device that is taken over keeps it.
    assert!(ok("-d device attach r0").contains("tandem-attach --device=/dev/nbd0 --run-dir "));
    let far = ok("-d device attach --servers alice,bob:1 --timeout 2 --connections 2 r0/1");
    let words = "tandem-attach --connections=2 --timeout=2 --servers=alice:10809,bob:1 --run-dir ";
    assert!(far.contains(words) && far.ends_with(" r0/1\n"), "{far}");
    for (words, code, what) in [
        (
            "device detach r0",
            10,
            "r0: it is not attached as a device here\n`tandemadm device status` lists",
        ),
        (
            "device status r0/0",
            10,
            "r0/0: it is not attached as a device here\n`tandemadm device status`",
        ),
        ("device status r0:bob", 1, "specific peer"),
        ("device attach r0:bob", 1, "not one volume"),
        ("device attach all", 1, "not one volume"),
        ("device attach --servers a:b r0", 1, "a port"),
        ("device", 1, "attach"),
    ] {
        let (exit_code, _, error) = node.told(words);
        assert!(exit_code == code && error.contains(what), "{words}: {exit_code} {error}");
    }
    let help = ok("device attach --help");
    assert!(
        help.starts_with("Attach the NBD export of a volume as a block device of the kernel"),
        "{help}"
    );
    assert!(help.contains("The servers of the export: HOST, HOST:PORT"), "{help}");
    assert!(!help.contains("may have the volume"), "{help}");
    // Where FUSE is not there either, that is said first.
    let (code, _, error) = node.told("device attach --fuse --servers 127.0.0.1:1 r0");
    let is_silent =
        code == 20 && error.starts_with("r0/0: none of the servers answers\n127.0.0.1:1: ");
    assert!(is_silent || code == 10 && error.contains("/dev/fuse"), "{code} {error}");
}

#[test]
fn a_broken_configuration_stops_up_and_nothing_that_runs() {
    let node = Node::new();
    std::fs::write(node.path("tandem.conf"), "resource r0 {\n  disk\n").unwrap();
    let _daemon = node.daemon(&[]);
    let (code, _, error) = node.told("up r0");
    assert_eq!(code, 10);
    assert!(error.contains("tandem.conf:"), "{error}");
    for words in ["status", "down r0", "why", "secondary all", "disconnect all"] {
        let (code, _, error) = node.told(words);
        assert_eq!(code, 0, "{words}: {error}");
    }
}

#[test]
fn sigterm_and_sigint_end_it_with_0() {
    let node = Node::new();
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let (status, log) = node.daemon(&[]).end(signal);
        assert_eq!(status.code(), Some(0), "{log}");
        assert!(log.contains("is ready on node alice"), "{log}");
        assert!(log.trim_end().ends_with("ended"), "{log}");
    }
}

#[test]
fn a_closed_terminal_ends_no_daemon() {
    let node = Node::new();
    let daemon = node.daemon(&[]);
    daemon.signal(Signal::SIGHUP);
    assert_eq!(node.told("status").0, 0);
    let (status, log) = daemon.end(Signal::SIGTERM);
    assert_eq!(status.code(), Some(0));
    assert!(log.contains("SIGHUP: nothing is read anew"), "{log}");
}

#[test]
fn a_second_daemon_is_refused_and_a_killed_one_is_replaced() {
    let node = Node::new();
    let first = node.daemon(&[]);
    let second = node.command(env!("CARGO_BIN_EXE_tandemd")).output().unwrap();
    assert_eq!(second.status.code(), Some(10));
    let log = String::from_utf8(second.stderr).unwrap();
    assert!(log.contains(&format!("(pid {})", first.pid())), "{log}");
    assert_eq!(node.told("status").0, 0);
    let (status, _) = first.end(Signal::SIGKILL);
    assert_eq!(status.signal(), Some(9));
    assert_eq!(node.told("status").0, 20);
    let _third = node.daemon(&[]);
    assert_eq!(node.told("status").0, 0);
}

#[test]
fn sockets_are_for_owner_and_group() {
    use std::os::unix::fs::PermissionsExt;
    let node = Node::new();
    let _daemon = node.daemon(&[]);
    for name in ["run/control.sock", "run/nbd.sock"] {
        let mode = std::fs::metadata(node.path(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o660, "{name}");
    }
}

#[test]
fn the_log_has_priorities_for_the_journal() {
    use std::os::unix::fs::MetadataExt as _;
    let node = Node::new();
    let path = node.path("stderr");
    let stderr = std::fs::File::create(&path).unwrap();
    let found = stderr.metadata().unwrap();
    let is_the_journals = format!("{}:{}", found.dev(), found.ino());
    // It is another stream that is the journal's: plain lines.
    for (stream, prefix) in [("8:1", "20"), (is_the_journals.as_str(), "<6>")] {
        std::fs::write(&path, "").unwrap();
        let daemon = node.daemon_with(&[], |command| {
            let stderr = std::fs::File::options().append(true).open(&path).unwrap();
            command.env("JOURNAL_STREAM", stream).stderr(stderr);
        });
        daemon.end(Signal::SIGTERM);
        let log = std::fs::read_to_string(&path).unwrap();
        assert!(log.lines().all(|line| line.starts_with(prefix)), "{log}");
        assert!(log.contains("is ready on node alice"), "{log}");
    }
}

#[test]
fn a_closed_standard_error_is_survived() {
    let node = Node::new();
    let mut daemon = node.daemon(&[]);
    drop(daemon.child.as_mut().unwrap().stderr.take());
    for _ in 0..3 {
        let mut stream = UnixStream::connect(node.path("run/control.sock")).unwrap();
        stream.write_all(b"garbage\n").unwrap();
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        assert!(line.starts_with("{\"error\":"), "{line}");
    }
    assert_eq!(node.told("status").0, 0);
    assert_eq!(daemon.end(Signal::SIGTERM).0.code(), Some(0));
}

#[test]
fn a_log_that_is_full_is_survived() {
    let node = Node::new();
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let daemon = node.daemon_with(&[], |command| {
        command.stderr(full);
    });
    assert_eq!(node.told("create-md r0").0, 0);
    assert_eq!(node.told("up r0").0, 0);
    assert_eq!(node.told("down r0").0, 0);
    let (status, _) = daemon.end(Signal::SIGTERM);
    assert_eq!(status.code(), Some(0));
}

#[test]
fn addresses_beyond_loopback_are_refused_without_the_word() {
    let node = Node::new();
    let daemon = |options: &[&str]| {
        node.command(env!("CARGO_BIN_EXE_tandemd")).args(options).output().unwrap()
    };
    let refused = daemon(&["--nbd-listen", "0.0.0.0:0"]);
    assert_eq!(refused.status.code(), Some(10));
    assert!(String::from_utf8(refused.stderr).unwrap().contains("--nbd-insecure"));
    assert_eq!(daemon(&["--nbd-listen", "nonsense"]).status.code(), Some(1));
    assert_eq!(daemon(&["--socket-group", "no-such-group"]).status.code(), Some(10));
}

/// Connects to the NBD socket and reads the greeting.
fn greeted(path: &Path) -> std::io::Result<UnixStream> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut greeting = [0; 18];
    stream.read_exact(&mut greeting)?;
    assert_eq!(&greeting[..8], b"NBDMAGIC");
    Ok(stream)
}

#[test]
fn it_goes_on_after_running_out_of_descriptors() {
    let node = Node::new();
    let daemon = node.daemon_with(&[], |command| {
        // The hard limit too, which tandemd cannot raise.
        let program = command.get_program().to_owned();
        let environment: Vec<_> = command
            .get_envs()
            .filter_map(|(key, value)| Some((key.to_owned(), value?.to_owned())))
            .collect();
        *command = Command::new("sh");
        command.arg("-c").arg("ulimit -n 40; exec \"$0\"").arg(program);
        command.envs(environment).stdin(Stdio::null()).stderr(Stdio::piped());
    });
    let nbd = node.path("run/nbd.sock");
    let waiting: Vec<UnixStream> = (0..60).map(|_| UnixStream::connect(&nbd).unwrap()).collect();
    assert!(daemon.child.as_ref().unwrap().id() > 0);
    drop(waiting);
    // One that is taken while there is no descriptor is closed without a word.
    let deadline = std::time::Instant::now() + PATIENCE;
    while let Err(error) = greeted(&nbd) {
        assert!(std::time::Instant::now() < deadline, "{error}");
    }
    assert_eq!(node.told("status").0, 0);
    let (status, log) = daemon.end(Signal::SIGTERM);
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(log.contains("accept failed, going on"), "{log}");
    assert!(log.matches("accept failed").count() < 10, "{log}");
}

#[test]
fn of_more_than_64_that_negotiate_the_oldest_gives_its_place_up() {
    let node = Node::new();
    let _daemon = node.daemon(&[]);
    let nbd = node.path("run/nbd.sock");
    let mut all: Vec<UnixStream> = (0..64).map(|_| greeted(&nbd).unwrap()).collect();
    let _next = greeted(&nbd).unwrap();
    assert_eq!(node.told("status").0, 0);
    all[0].set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(all[0].read(&mut [0; 18]).unwrap_or(0), 0, "the oldest is closed");
    let mut others = all.drain(1..);
    assert!(others.all(|stream| {
        stream.set_nonblocking(true).unwrap();
        let end = (&stream).read(&mut [0; 18]);
        end.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
    }));
}
