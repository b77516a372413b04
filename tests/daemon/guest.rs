//! The kernel's NBD client, in a User-mode Linux guest: attach, ext4, fsync, and a failover.
//!
//! The guest is a process of this machine in a network namespace that holds both daemons; it sees
//! this machine's files read-only, and one folder read-write, through which it takes its orders.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::namespace::{Namespace, skip};
use crate::pair::{Node, Pair, assert_equal, run, text};
use crate::plan::Plan;
use crate::wait::until;

const TEST: &str = "the_kernels_client_goes_on_after_a_failover";
pub(crate) const ADDRESSES: [&str; 2] = ["10.77.0.1", "10.77.0.2"];
pub(crate) const NBD_PORT: &str = "10809";

/// A running guest.
pub(crate) struct Guest {
    kernel: Child,
    work: PathBuf,
    steps: usize,
}

impl Guest {
    pub(crate) fn boot(work: &Path, namespace: &Namespace) -> Self {
        fs::create_dir(work).expect("a folder for the guest");
        // A program of the guest is named by its path on this machine.
        let init = work.join("init");
        fs::write(&init, include_str!("guest/init")).expect("the guest's program");
        let made = run(Command::new("chmod").args(["+x", text(&init)]));
        assert_eq!(made.code, 0, "{made:?}");
        let programs = Path::new(env!("CARGO_BIN_EXE_tandem-attach")).parent().expect("a folder");
        let console = File::create(work.join("console")).expect("a console");
        let enter = namespace.enter();
        let kernel = Command::new(&enter[0])
            .args(&enter[1..])
            .args(["linux.uml", "mem=256M", "rootfstype=hostfs", "rootflags=/", "ro"])
            .args(["con=null", "con0=null,fd:1", "ssl=null", "quiet", "panic=-1", "noreboot"])
            // Without gro the guest drops the large segments that this machine makes.
            .arg("vec0:transport=tap,ifname=tap0,depth=64,gro=1")
            .args(["umid=guest", &format!("uml_dir={}/", work.display())])
            .arg(format!("init={}", init.display()))
            .args([&format!("work={}", work.display()), "address=10.77.0.10/24"])
            .arg(format!("programs={}", programs.display()))
            .process_group(0)
            .stdin(Stdio::null())
            .stderr(console.try_clone().expect("a console"))
            .stdout(console)
            .spawn()
            .expect("linux.uml starts");
        let mut guest = Self { kernel, work: work.to_owned(), steps: 0 };
        guest.wait_for("up");
        guest
    }

    pub(crate) fn wait_for(&mut self, name: &str) {
        let path = self.work.join(name);
        until(&format!("the guest makes {name}"), || {
            if let Some(status) = self.kernel.try_wait().expect("it is ours") {
                panic!("the guest ended with {status}");
            }
            path.exists().then_some(())
        });
    }

    /// Orders without waiting.
    pub(crate) fn order(&mut self, order: &str) -> usize {
        let file = self.work.join("order");
        fs::write(&file, order).expect("an order");
        fs::rename(&file, self.work.join(format!("do-{}", self.steps))).expect("an order");
        self.steps += 1;
        self.steps - 1
    }

    /// Orders one step of `guest/init`, and waits; its exit status.
    pub(crate) fn step(&mut self, order: &str) -> i32 {
        let step = self.order(order);
        let done = format!("done-{step}");
        self.wait_for(&done);
        let status = fs::read_to_string(self.work.join(done)).expect("an answer");
        status.trim().parse().expect("an exit status")
    }

    pub(crate) fn ok(&mut self, order: &str) {
        let status = self.step(order);
        assert_eq!(status, 0, "guest# {order}");
    }

    /// How many files the guest has synced so far.
    pub(crate) fn synced(&self, prefix: &str) -> usize {
        let text = fs::read_to_string(self.work.join(format!("synced-{prefix}")));
        text.unwrap_or_default().lines().count()
    }

    /// What a file of the shared folder holds.
    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.work.join(name)).unwrap_or_default()
    }

    pub(crate) fn console(&self) -> String {
        let bytes = fs::read(self.work.join("console")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    pub(crate) fn end(mut self) -> String {
        self.order("end");
        until("the guest halts", || self.kernel.try_wait().expect("it is ours"));
        self.console()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- the guest's console\n{}", self.console());
        }
        // The guest's processes are processes of this machine, in its group.
        let group = i32::try_from(self.kernel.id()).expect("a process id fits");
        if let Ok(None) = self.kernel.try_wait() {
            let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
            let _ = self.kernel.wait();
        }
    }
}

/// The namespace with both nodes' addresses and the guest's cable.
pub(crate) fn stage() -> Result<Namespace, String> {
    let found = |program: &str| {
        let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
        std::env::split_paths(&path).any(|folder| folder.join(program).exists())
    };
    for (program, package) in
        [("linux.uml", "user-mode-linux"), ("modprobe", "kmod"), ("nbd-client", "nbd-client")]
    {
        if !found(program) {
            return Err(format!("{program} is missing: apt-get install {package}"));
        }
    }
    let namespace = Namespace::new()?;
    namespace.ip("tuntap add tap0 mode tap")?;
    namespace.ip("link set tap0 up")?;
    for address in ADDRESSES {
        namespace.ip(&format!("address add {address}/24 dev tap0"))?;
    }
    Ok(namespace)
}

/// A pair of blank disks whose nodes serve NBD over TCP to the guest.
pub(crate) fn pair_for_guests(namespace: &Namespace) -> Pair {
    let [alice, bob] = ADDRESSES.map(|address| (namespace, address));
    // The guest never pauses, and a resync that gives way to it would take minutes.
    let plan = Plan::new().sections("disk { c-min-rate 20M; }");
    let mut pair = plan.within([alice, bob]).blank();
    for (node, address) in [&mut pair.alice, &mut pair.bob].into_iter().zip(ADDRESSES) {
        let listen = format!("{address}:{NBD_PORT}");
        node.arguments = ["--nbd-listen", &listen, "--nbd-insecure"].map(str::to_owned).to_vec();
    }
    pair.bring_up().sync_from_alice()
}

/// A folder with some hundred real files.
pub(crate) fn real_files() -> PathBuf {
    let docs = PathBuf::from("/usr/share/doc");
    let many = fs::read_dir(&docs).is_ok_and(|entries| entries.count() > 100);
    if many { docs } else { PathBuf::from(env!("CARGO_MANIFEST_DIR")) }
}

/// e2fsck finds nothing in the file system that this node's backing file starts with.
pub(crate) fn assert_clean(node: &Node) {
    let said = run(Command::new("e2fsck").args(["-f", "-n", text(&node.disk)]));
    assert_eq!(said.code, 0, "{}: {said:?}", node.name);
}

#[test]
fn the_kernels_client_goes_on_after_a_failover() {
    let namespace = match stage() {
        Ok(namespace) => namespace,
        Err(why) => return skip(TEST, &why),
    };
    let mut pair = pair_for_guests(&namespace);
    let mut guest = Guest::boot(&pair.dir.path().join("guest"), &namespace);
    let files = real_files();

    guest.ok(&format!("attach {} {NBD_PORT} r0", ADDRESSES[0]));
    guest.ok("format");
    guest.ok("mounted");
    guest.ok(&format!("copy {} before 60", files.display()));
    guest.ok(&format!("copying {} during", files.display()));
    until("files are synced", || (guest.synced("during") >= 40).then_some(()));

    // The Primary dies in the middle of it. The kernel's device fails, and the copy ends.
    pair.alice.kill();
    guest.wait_for("ended-during");
    until("bob sees it", || {
        (pair.bob.connection()["connection-state"] == "Connecting").then_some(())
    });
    guest.step("unmounted");
    guest.step("detach");
    pair.bob.ok(&["primary", "r0"]);
    guest.ok(&format!("attach {} {NBD_PORT} r0", ADDRESSES[1]));
    guest.ok("mounted");
    guest.ok("compare before");
    guest.ok("compare during");
    guest.ok(&format!("copy {} alone 60", files.display()));

    // The old Primary comes back while the guest writes.
    pair.alice.start_up();
    guest.ok(&format!("copy {} after 60", files.display()));
    pair.wait_synced();
    guest.ok("unmounted");
    guest.ok("check");
    guest.ok("mounted");
    for prefix in ["before", "during", "alone", "after"] {
        guest.ok(&format!("compare {prefix}"));
    }
    guest.ok("unmounted");
    guest.ok("detach");
    pair.bob.ok(&["secondary", "r0"]);
    let console = guest.end();
    assert!(console.contains("nbd0: "), "the kernel's own device:\n{console}");
    assert_equal(&pair.alice.disk, &pair.bob.disk, pair.bob.export_size());
    for node in [&pair.alice, &pair.bob] {
        assert_clean(node);
    }
    println!("{console}");
}
