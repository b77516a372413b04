//! `drbdadm` and `drbdsetup` on one node: what scripts see where the configuration is not what it should be, or not
//! what is up, and how options may be written.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::sync::mpsc;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{Node, PATIENCE};

/// One that nobody can read.
const BROKEN: &str = "resource r0 {\n";

impl Node {
    /// The exit code, standard output and standard error of a line of one of the tools.
    pub(crate) fn tool(&self, line: &str) -> (i32, String, String) {
        let mut command = self.command(env!("CARGO_BIN_EXE_tandem-drbd-compat"));
        let output = command.args(line.split_whitespace()).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
    }

    pub(crate) fn written(&self) -> String {
        std::fs::read_to_string(self.path("tandem.conf")).unwrap()
    }

    pub(crate) fn write(&self, text: &str) {
        std::fs::write(self.path("tandem.conf"), text).unwrap();
    }

    /// r0 is up, as it is written; its peer is not there.
    fn bring_up(&self) {
        let (code, _, error) = self.told("up r0");
        assert_eq!(code, 0, "{error}");
    }

    fn is_up(&self) -> bool {
        self.told("role r0").0 == 0
    }
}

fn new() -> Node {
    let node = Node::new();
    assert_eq!(node.told("create-md r0").0, 0);
    node
}

#[test]
fn down_all_is_of_what_is_up_whatever_the_configuration_says() {
    let node = new();
    let whole = node.written();
    let daemon = node.daemon(&[]);
    for (config, line, code) in [
        (BROKEN, "drbdsetup down all", 0),
        ("", "drbdsetup down all", 0),
        ("", "drbdadm down all", 0),
        (BROKEN, "drbdadm down all", 10),
        (BROKEN, "drbdadm down r0", 0),
    ] {
        node.write(&whole);
        node.bring_up();
        node.write(config);
        let (told, _, error) = node.tool(line);
        assert_eq!(told, code, "{line} with {config:?}: {error}");
        assert_eq!(error.contains("tandem.conf:1:"), code == 10, "{line}: {error}");
        assert!(!node.is_up(), "{line} with {config:?}");
    }
    node.write(&whole);
    node.bring_up();
    assert_eq!(node.tool("drbdadm primary --force r0").0, 0);
    node.write("");
    assert_eq!(node.tool("drbdsetup secondary all"), (0, String::new(), String::new()));
    assert_eq!(node.told("role r0").1, "Secondary\n");
    // A daemon that has crashed: what the next one would bring up is down, too.
    daemon.end(Signal::SIGKILL);
    assert_eq!(node.tool("drbdsetup secondary all").0, 0, "nothing is up");
    assert_eq!(node.tool("drbdsetup down all").0, 0);
    let _daemon = node.daemon(&[]);
    assert!(!node.is_up());
}

#[test]
fn resources_of_a_configuration_that_is_not_valid_are_not_all_there_are() {
    let node = Node::new();
    let whole = node.written();
    assert_eq!(node.tool("drbdadm sh-resources"), (0, "r0\n".to_owned(), String::new()));
    node.write(&format!("{whole}resource r1 {{ frob; }}\n"));
    let (code, text, error) = node.tool("drbdadm sh-resources");
    assert_eq!((code, text.as_str()), (10, "r0\n"), "{error}");
    assert!(error.contains("tandem.conf:6:"), "{error}");
    node.write(BROKEN);
    let (code, text, error) = node.tool("drbdadm sh-resources");
    assert_eq!((code, text.as_str()), (10, ""));
    assert!(error.contains("tandem.conf:1:"), "{error}");
    std::fs::remove_file(node.path("tandem.conf")).unwrap();
    let (code, text, error) = node.tool("drbdadm sh-resources");
    assert_eq!((code, text.as_str()), (2, ""));
    assert!(error.contains("tandem.conf: error:"), "{error}");
}

#[test]
fn what_begins_something_begins_nothing_for_a_slip() {
    let node = Node::new();
    for verb in ["up", "attach", "connect", "adjust"] {
        let (code, _, error) = node.tool(&format!("drbdadm {verb} nosuch"));
        assert_eq!(code, 10, "{verb}: {error}");
        assert!(error.starts_with("'nosuch' not defined in your config"), "{verb}: {error}");
    }
}

#[test]
fn what_is_not_there_and_what_is_a_slip_have_their_exit_codes() {
    let node = new();
    let _daemon = node.daemon(&[]);
    node.bring_up();
    for (line, code, says) in [
        ("drbdsetup attach 0 /dev/x", 10, "drbdadm attach"),
        ("drbdsetup new-peer r0 1", 10, "use `adjust`"),
        ("drbdsetup del-minor 0", 10, "use `down`"),
        ("drbdsetup frob r0", 20, "Unknown command 'frob'"),
        ("drbdadm frob r0", 1, "drbdadm: Unknown command 'frob'"),
        ("drbdadm syncer r0", 10, "use `disk-options`"),
        ("drbdadm wait-con-int", 10, "use `wait-connect`"),
        ("drbdsetup events2 --diff", 10, "--diff is not supported"),
        ("drbdsetup events2 --frob", 20, "unrecognized option '--frob'"),
        ("drbdadm down --frob r0", 1, "unrecognized option '--frob'"),
        ("drbdadm primary --frob r0", 1, "Usage: drbdadm primary"),
        ("drbdsetup primary --frob r0", 20, "Usage: drbdsetup primary"),
        ("drbdadm sh-dev", 1, "drbdadm sh-dev: a target is missing"),
        ("drbdadm secondary --wait=soon r0", 1, "seconds, 86400 at most"),
    ] {
        let (told, _, error) = node.tool(line);
        assert_eq!(told, code, "{line}: {error}");
        assert!(error.contains(says) && !error.contains("tandemadm"), "{line}: {error}");
    }
    assert!(node.is_up());
}

#[test]
fn options_are_taken_as_drbd_takes_them() {
    let node = new();
    let _daemon = node.daemon(&[]);
    node.bring_up();
    assert_eq!(node.tool("drbdadm primary --force=yes r0").0, 0);
    for line in [
        "drbdsetup net-options r0 1 --ping-int 4",
        "drbdsetup disk-options --c-min-rate 1M 0",
        "drbdadm secondary --wait=3 r0",
        "drbdadm secondary --wait 3 --force=no r0",
        "drbdadm status -v -v r0",
        "drbdsetup status -vv r0",
        "drbdsetup show -j",
    ] {
        let (code, _, error) = node.tool(line);
        assert_eq!((code, error.as_str()), (0, ""), "{line}");
    }
    let (_, shown, _) = node.tool("drbdsetup show --show-defaults r0");
    assert!(shown.contains(" ping-int 4;") && shown.contains(" c-min-rate 1M;"), "{shown}");
    let (code, shown, _) = node.tool("drbdsetup show -j r0");
    assert!(code == 0 && shown.starts_with('['), "{shown}");
    // As the units of drbd-utils call it.
    let (code, _, error) = node.tool("drbdsetup resource-options --on-no-quorum suspend-io r0");
    assert_eq!(code, 0, "{error}");
    assert!(error.contains("on-no-quorum suspend-io: no effect"), "{error}");
    let line = "drbdsetup resource-options --on-no-quorum suspend-io --on-no-data suspend-io r0";
    let (code, _, error) = node.tool(line);
    assert_eq!(code, 10);
    assert!(error.contains("on-no-data-accessible suspend-io: "), "{error}");
    let wait = "drbdsetup wait-connect-resource --wait-after-sb no --wfc-timeout 1 r0";
    assert_eq!(node.tool(wait).0, 5);
    assert_eq!(node.tool("drbdadm primary --force=no r0").0, 0, "it was forced before");
}

#[test]
fn show_has_what_was_changed_at_run_time() {
    let node = new();
    let _daemon = node.daemon(&[]);
    node.bring_up();
    let (_, before, _) = node.tool("drbdsetup show r0");
    assert!(!before.contains("ping-int"), "{before}");
    for line in [
        "drbdsetup net-options r0 1 --ping-int 4",
        "drbdsetup disk-options 0 --al-extents 251",
        "drbdsetup peer-device-options r0 1 0 --c-max-rate 2M",
        "drbdsetup resource-options r0 --auto-promote yes",
    ] {
        let (code, _, error) = node.tool(line);
        assert_eq!(code, 0, "{line}: {error}");
    }
    let (_, shown, _) = node.tool("drbdsetup show r0");
    for line in ["ping-int 4;", "al-extents 251;", "c-max-rate 2M;", "auto-promote yes;"] {
        assert!(shown.contains(line), "{line}: {shown}");
    }
    let (_, shown, _) = node.tool("drbdsetup show --json r0");
    for line in [r#""ping-int": 4"#, r#""al-extents": 251"#, r#""c-max-rate": "2M""#] {
        assert!(shown.contains(line), "{line}: {shown}");
    }
    // By the file, and back to it.
    let whole = node.written();
    node.write(&whole.replace("resource r0 {", "resource r0 { net { timeout 50; }"));
    assert_eq!(node.tool("drbdadm adjust r0").0, 0);
    let (_, shown, _) = node.tool("drbdsetup show r0");
    assert!(shown.contains("timeout 50;") && !shown.contains("ping-int"), "{shown}");
    node.write(&whole);
    assert_eq!(node.tool("drbdadm adjust r0").0, 0);
    assert_eq!(node.tool("drbdsetup show r0").1, before);
}

/// A daemon that understands nothing of what it is asked, but whether something runs: one of another version.
fn answers_errors(node: &Node) {
    std::fs::create_dir_all(node.path("run")).unwrap();
    let listener = UnixListener::bind(node.path("run/control.sock")).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let asked = BufReader::new(stream.try_clone().unwrap());
            std::thread::spawn(move || {
                for line in asked.lines().map_while(Result::ok) {
                    let answer = match line.starts_with(r#"{"running""#) {
                        true => r#"{"running":null}"#,
                        false => r#"{"error":"not a request of this tandemd"}"#,
                    };
                    // Who asked may have gone.
                    let _ = writeln!(stream, "{answer}");
                }
            });
        }
    });
}

#[test]
fn a_daemon_that_answers_errors_alone_is_not_asked_for_ever() {
    let node = new();
    answers_errors(&node);
    for line in ["drbdsetup down r0", "drbdsetup down all", "drbdadm secondary r0"] {
        let mut command = node.command(env!("CARGO_BIN_EXE_tandem-drbd-compat"));
        command.args(line.split_whitespace()).stderr(std::process::Stdio::piped());
        let child = command.spawn().unwrap();
        let pid = Pid::from_raw(child.id().cast_signed());
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || tell.send(child.wait_with_output().unwrap()));
        let Ok(output) = told.recv_timeout(PATIENCE) else {
            kill(pid, Signal::SIGKILL).unwrap();
            panic!("{line} still asks");
        };
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(20), "{line}: {error}");
        assert!(error.contains("tandemd: not a request of this tandemd"), "{line}: {error}");
        assert!(error.lines().count() <= 3, "{line}: {error}");
    }
}
