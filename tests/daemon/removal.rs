//! What the packages' scripts refuse while tandemd or a device of this node is needed.
//!
//! They are run as dpkg does, with the programs of this build; systemd and dpkg's diversions are left out.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::fuse::is_possible;
use crate::namespace::skip;
use crate::pair::{Node, Pair, Said, run, text};

fn of_debian(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/debian").join(name)
}

/// A host on which the packages are installed, and DRBD's names are Tandem's.
struct Host(tempfile::TempDir);

impl Host {
    fn new() -> Self {
        let host = Self(tempfile::tempdir().expect("a folder"));
        symlink(env!("CARGO_BIN_EXE_tandemadm"), host.0.path().join("tandemadm")).expect("a link");
        host.program("dpkg-divert", "#!/bin/sh\n");
        host.program("deb-systemd-invoke", "#!/bin/sh\n");
        let script = fs::read_to_string(of_debian("tandem-drbd-names")).expect("a script");
        let here = format!("folder={}", text(host.0.path()));
        host.program("tandem-drbd-names", &script.replace("folder=/usr/sbin", &here));
        for name in ["drbdadm", "drbdsetup"] {
            symlink("tandem-drbd-compat", host.0.path().join(name)).expect("a link");
        }
        host
    }

    fn program(&self, name: &str, script: &str) {
        let path = self.0.path().join(name);
        fs::write(&path, script).expect("a script");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("ours");
    }

    fn has_names(&self) -> bool {
        ["drbdadm", "drbdsetup"].iter().all(|name| self.0.path().join(name).is_symlink())
    }

    fn run(&self, node: &Node, program: &Path, action: &str) -> Said {
        let path = format!("PATH={}:/usr/sbin:/usr/bin:/sbin:/bin", text(self.0.path()));
        let run_dir = format!("TANDEM_RUN_DIR={}", text(&node.run_dir));
        run(Command::new("env")
            .args([path, run_dir])
            .args(["timeout", "60", "sh"])
            .arg(program)
            .arg(action))
    }

    #[track_caller]
    fn refuses(&self, node: &Node, program: &Path, words: &[&str]) {
        let said = self.run(node, program, "remove");
        assert_ne!(said.code, 0, "{program:?}: {said:?}");
        for word in words {
            assert!(said.stderr.contains(word), "{program:?}: no {word} in {said:?}");
        }
    }

    #[track_caller]
    fn goes(&self, node: &Node, program: &Path, action: &str) {
        let said = self.run(node, program, action);
        assert_eq!(said.code, 0, "{program:?} {action}: {said:?}");
    }
}

#[test]
fn drbds_names_stay_while_a_resource_is_up_or_nobody_knows() {
    let mut pair = Pair::in_sync();
    let host = Host::new();
    let names = host.0.path().join("tandem-drbd-names");
    let removal = of_debian("compat.prerm");
    for program in [&names, &removal] {
        host.refuses(&pair.alice, program, &["up on this node: r0", "tandemadm down all"]);
        // Its agent would take a Secondary for stopped, too.
        host.refuses(&pair.bob, program, &["up on this node: r0"]);
        pair.alice.freeze();
        host.refuses(&pair.alice, program, &["does not answer", "systemctl status tandemd"]);
        pair.alice.wake();
    }
    // An upgrade takes nothing away.
    for action in ["upgrade", "deconfigure", "failed-upgrade"] {
        host.goes(&pair.alice, &removal, action);
    }
    assert!(host.has_names());

    // Nothing is up, and then nobody runs; names that are not Tandem's serve nobody.
    pair.alice.ok(&["down", "r0"]);
    host.goes(&pair.alice, &removal, "remove");
    assert!(!host.has_names());
    host.goes(&pair.bob, &removal, "remove");
    let host = Host::new();
    pair.bob.terminate();
    host.goes(&pair.bob, &removal, "remove");
    assert!(!host.has_names());
}

/// Lets go of what is attached when the test fails.
struct Attached(PathBuf);

impl Drop for Attached {
    fn drop(&mut self) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tandemadm"));
        let _ = command
            .arg("--run-dir")
            .arg(&self.0)
            .args(["device", "detach", "--force", "r0"])
            .output();
    }
}

#[test]
fn the_package_stays_while_a_device_is_attached() {
    const TEST: &str = "the_package_stays_while_a_device_is_attached";
    if !is_possible(TEST) {
        return;
    }
    let mut pair = Pair::in_sync();
    let host = Host::new();
    let removal = of_debian("prerm");
    let _attached = Attached(pair.bob.run_dir.clone());
    // bob stands for a third host: nothing is Primary there, and its device is alice's.
    let server = format!("--servers=unix:{}", pair.alice.run_dir.join("nbd.sock").display());
    pair.bob.ok(&["device", "attach", "--fuse", "--no-loop", &server, "r0"]);
    host.refuses(&pair.bob, &removal, &["r0/0 ", "tandemadm device detach"]);
    pair.bob.terminate();
    host.refuses(&pair.bob, &removal, &["r0/0 ", "tandemadm device detach"]);
    host.goes(&pair.bob, &removal, "upgrade");
    pair.bob.ok(&["device", "detach", "r0"]);
    host.goes(&pair.bob, &removal, "remove");
    host.refuses(&pair.alice, &removal, &["tandemadm secondary all"]);
}

#[test]
fn needrestart_leaves_alone_what_devices_stand_on() {
    const TEST: &str = "needrestart_leaves_alone_what_devices_stand_on";
    if !Path::new("/usr/bin/perl").exists() {
        return skip(TEST, "/usr/bin/perl is not there");
    }
    // As needrestart reads it: what a unit's name matches first is how it is restarted.
    let reader = r#"our %nrconf = (override_rc => {qr(^dbus) => 0});
        my $file = shift;
        eval do { local (@ARGV, $/) = $file; <> };
        die $@ if $@;
        for my $unit (@ARGV) {
            my @rules = grep { $unit =~ /$_/ } keys %{$nrconf{override_rc}};
            print "$unit ", (@rules ? $nrconf{override_rc}{$rules[0]} : "any"), "\n";
        }"#;
    let units = ["tandemd.service", "tandem@r0.service", "tandem-promote@r0.service"];
    let devices = ["tandem-attach@r0-1.service", "nbd@nbd0.service"];
    let others = ["dbus.service", "ssh.service", "nbd-server.service"];
    let mut command = Command::new("perl");
    command.args(["-e", reader]).arg(of_debian("needrestart.conf"));
    let said = run(command.args(units).args(devices).args(others));
    let left_alone: String =
        units.iter().chain(&devices).map(|unit| format!("{unit} 0\n")).collect();
    let rest = "dbus.service 0\nssh.service any\nnbd-server.service any\n";
    assert_eq!(said.stdout, left_alone + rest, "{said:?}");
}
