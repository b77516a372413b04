//! `device-attach auto`: a Primary's volumes are `/dev/nbdN` of its host, by the daemon itself.
//!
//! Invariants:
//! - What attaches is `tandem-attach`, as with `tandemadm device attach` and no servers; the daemon
//!   starts it where a node is promoted by order. A node that a client promotes (`auto-promote`) is not
//!   kept Primary by a device of its own.
//! - A promotion stands where a device cannot be attached; the log, `status` and `why` say why.
//! - Before a demotion a device is flushed and detached. One in use is in the way and named; by force
//!   its I/O fails from then on. A demotion that is refused, by a device or after that, attaches again what
//!   was detached.
//! - A flush that does not end, as I/O is frozen, holds no order up for longer than [`GENTLE_LIMIT`], and
//!   detaches nothing when it ends after all.
//! - Only a device that its record in this run folder gives this daemon as its server is touched.
//! - A guard that has died is replaced: the devices of a Primary are looked at again and again. Not while
//!   an order takes them away.
//! - A device that was let go of (by force, or by its guard) and is still in use counts as not attached. It is attached when it
//!   has been closed.
//! - The end of the daemon leaves devices attached: their I/O waits for the next one.
//! - Nothing here keeps the control thread waiting.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command as Program, Stdio};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::registry::{Entry, Registry, refusal};
use crate::attach::Guarded;
use crate::io::attach::{Listed, Trouble, Wanted, detach, list, resolved};
use crate::resource::{AdminResult, Command, DETACHES, Refusal, Role, Status, VolumeNumber};

/// An attach that takes longer goes on by itself, and the order is answered.
const ATTACH_LIMIT: Duration = Duration::from_secs(15);
/// How long a device may take to be flushed and detached, once nobody uses it.
const GENTLE_LIMIT: Duration = Duration::from_secs(30);
/// How long a device that is to go by force may take to be flushed, once nobody uses it.
const FLUSH_LIMIT: Duration = Duration::from_secs(5);
/// How long the kernel may take to fail the I/O of a device that is detached by force.
const FORCE_LIMIT: Duration = Duration::from_secs(2);
/// How often a device in use is looked at again, where somebody is given time to leave.
const LOOK: Duration = Duration::from_millis(200);

/// How often it is looked whether each device of a Primary has its guard.
const WATCH: Duration = Duration::from_secs(2);

/// What has devices, and what attaches and detaches them: the kernel, or a test. All of it blocks.
pub(super) trait Hands: Send + Sync {
    /// What is attached.
    fn list(&self, run_dir: &Path) -> Vec<Listed>;
    /// Flushed and detached, or by force.
    ///
    /// # Errors
    /// It is in use (exit code 11), the kernel refuses, or nobody wants it any more.
    fn detach(
        &self,
        run_dir: &Path,
        device: &Listed,
        force: bool,
        wanted: &Wanted,
    ) -> Result<(), Trouble>;
    /// How long a device may take that goes in order.
    fn gentle_limit(&self) -> Duration {
        GENTLE_LIMIT
    }
    /// Attaches, or takes over what a guard has left; what was said of it.
    ///
    /// # Errors
    /// Why not.
    fn attach(&self, run_dir: &Path, volume: &str, device: &str) -> Result<String, String>;
}

/// The kernel's devices, and `tandem-attach`.
pub(super) struct Kernel;

impl Hands for Kernel {
    fn list(&self, run_dir: &Path) -> Vec<Listed> {
        list(run_dir)
    }

    fn detach(
        &self,
        run_dir: &Path,
        device: &Listed,
        force: bool,
        wanted: &Wanted,
    ) -> Result<(), Trouble> {
        detach(run_dir, device, force, wanted)
    }

    fn attach(&self, run_dir: &Path, volume: &str, device: &str) -> Result<String, String> {
        start_guard(run_dir, volume, device)
    }
}

/// What became of a resource's devices.
#[derive(Debug, Default)]
pub(super) struct Devices {
    failed: RefCell<BTreeMap<VolumeNumber, String>>,
    /// The device was detached by force and is still in use.
    in_use: RefCell<BTreeSet<VolumeNumber>>,
    /// They are being detached for a hand-over.
    hands_over: Cell<bool>,
    /// An order takes them away.
    demotes: Cell<bool>,
    /// It is being looked whether their guards live.
    looked_at: Cell<bool>,
    /// Held while they are attached, and while it begins to take them away.
    one_at_a_time: tokio::sync::Mutex<()>,
}

impl Devices {
    /// Why a device of this Primary is not attached.
    pub(super) fn failures(&self, status: &Status) -> Vec<(VolumeNumber, String)> {
        if status.role != Role::Primary {
            return Vec::new();
        }
        self.failed.borrow().iter().map(|(volume, why)| (*volume, why.clone())).collect()
    }
}

/// What is done with devices when an order has been carried out, or refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    Nothing,
    /// This node is Primary by order, or has stayed so: its devices are attached.
    Attach,
}

impl After {
    pub(super) fn of(command: &Command) -> Self {
        match command {
            Command::Primary { .. } | Command::HandOver | Command::Secondary { .. } => Self::Attach,
            _ => Self::Nothing,
        }
    }
}

/// Whether a device has the daemon of this run folder as its server. What nothing is remembered of here
/// is another daemon's.
fn is_own(run_dir: &Path, one: &Listed) -> bool {
    let socket = one.record.as_ref().and_then(|record| record.server.strip_prefix("unix:"));
    socket.map(Path::new).is_some_and(|socket| {
        // The same folder may have been named in another way (`/var/run`).
        socket.file_name().is_some_and(|name| name == "nbd.sock")
            && socket.parent().is_some_and(|folder| resolved(folder) == resolved(run_dir))
    })
}

/// Why devices stay.
enum Stays {
    /// One is in use, or the kernel refuses.
    Held(String),
    /// It is not flushed, as its I/O does not end.
    Unflushed(String),
}

impl Stays {
    fn why(&self) -> &str {
        match self {
            Self::Held(why) | Self::Unflushed(why) => why,
        }
    }
}

/// Which devices go, and how.
#[derive(Clone)]
struct Going {
    hands: Arc<dyn Hands>,
    run_dir: PathBuf,
    resource: String,
    force: bool,
    /// One in use is waited for until then.
    until: Instant,
    /// Why a flush would not end.
    frozen: Option<&'static str>,
    wanted: Arc<Wanted>,
}

/// Detaches those of a resource, at once or until that time. Blocks.
fn detach_all(going: Going) -> Result<Vec<String>, Stays> {
    let Going { hands, run_dir, resource, force, until, frozen, wanted } = going;
    let mut done = Vec::new();
    let is_meant = |one: &Listed| one.backend.volume.resource == resource && is_own(&run_dir, one);
    for device in hands.list(&run_dir).into_iter().filter(is_meant) {
        let volume = &device.backend.volume;
        if let Some(frozen) = frozen {
            let why = format!("{volume}: what was written cannot be flushed: {frozen}");
            return Err(Stays::Unflushed(why));
        }
        loop {
            match hands.detach(&run_dir, &device, force, &wanted) {
                Ok(()) => break done.push(format!("{volume} from /dev/nbd{}", device.index)),
                Err(Trouble { exit_code: 11, .. }) if Instant::now() < until => {
                    std::thread::sleep(LOOK);
                }
                Err(trouble) => {
                    return Err(Stays::Held(format!("{volume}: {}", trouble.text)));
                }
            }
        }
    }
    Ok(done)
}

/// [`detach_all`] on a thread that may block, for so long; when that is over, it detaches nothing any more.
async fn detach_within(limit: Duration, going: Going) -> Result<Vec<String>, Stays> {
    let wanted = going.wanted.clone();
    let mut gently = tokio::task::spawn_blocking(move || detach_all(going));
    let mut left = limit;
    loop {
        match tokio::time::timeout(left, &mut gently).await {
            Ok(Ok(detached)) => return detached,
            Ok(Err(_)) => return Err(Stays::Held("it has ended with a panic".to_owned())),
            Err(_) if wanted.give_up() => {
                let why = format!("what was written is not flushed in {} s", limit.as_secs());
                return Err(Stays::Unflushed(why));
            }
            // It is flushed, and the kernel lets go of it just now.
            Err(_) => left = LOOK,
        }
    }
}

/// Why a flush does not end, for as long as it stays so.
fn frozen(status: &Status) -> Option<&'static str> {
    let reasons = [
        (status.suspended_user, "I/O is frozen by order (`tandemadm resume-io` ends that)"),
        (status.suspended_fencing, "I/O is frozen until the lost peer is fenced or back"),
        (status.suspended_no_space, "I/O is frozen, as the only disk is full"),
        (status.suspended_gap, "I/O is frozen until the peer has answered"),
    ];
    reasons.into_iter().find_map(|(is_so, why)| is_so.then_some(why))
}

/// On a thread that may block.
async fn blocking<A: Send + 'static, T: Send + 'static>(
    what: fn(A) -> Result<T, String>,
    with: A,
) -> Result<T, String> {
    let done = tokio::task::spawn_blocking(move || what(with)).await;
    done.unwrap_or_else(|_| Err("it has ended with a panic".to_owned()))
}

/// What an attach has found or done.
enum Outcome {
    /// It was attached, and has its guard.
    There,
    /// It is attached now; what was said of it.
    Attached(String),
    /// It was let go of and is still in use: why that is no device.
    LetGo(String),
}

/// Attaches one, unless it is. Blocks.
fn attach_one(
    (hands, run_dir, volume, device): (Arc<dyn Hands>, PathBuf, String, String),
) -> Result<Outcome, String> {
    let is_this = |one: &Listed| one.backend.volume.to_string() == volume;
    match hands.list(&run_dir).iter().find(|one| is_this(one)) {
        Some(one) if one.is_let_go => Ok(Outcome::LetGo(one.why_let_go())),
        Some(one) if one.guard != Guarded::Nobody => Ok(Outcome::There),
        _ => hands.attach(&run_dir, &volume, &device).map(Outcome::Attached),
    }
}

/// Volumes of a resource whose device is there and has lost its guard; and of those that could not be
/// attached, as the device was in use, what is free now. Blocks.
fn without_guard(
    (hands, run_dir, resource, in_use): (Arc<dyn Hands>, PathBuf, String, BTreeSet<VolumeNumber>),
) -> Result<Vec<VolumeNumber>, String> {
    let all = hands.list(&run_dir);
    let of_volume = |one: &Listed, number: VolumeNumber| {
        one.backend.volume.resource == resource && one.backend.volume.number == number
    };
    let is_free = |number: &VolumeNumber| !all.iter().any(|one| of_volume(one, *number));
    let mut left: Vec<VolumeNumber> = in_use.into_iter().filter(is_free).collect();
    let is_meant = |one: &Listed| {
        let is_left = one.guard == Guarded::Nobody && !one.is_let_go;
        one.backend.volume.resource == resource && is_left && is_own(&run_dir, one)
    };
    left.extend(all.iter().filter(|one| is_meant(one)).map(|one| one.backend.volume.number));
    Ok(left)
}

/// Runs `tandem-attach` until it says that the device is there. Blocks.
fn start_guard(run_dir: &Path, volume: &str, device: &str) -> Result<String, String> {
    let own = std::env::current_exe().map_err(|error| format!("/proc/self/exe: {error}"))?;
    let path = own.with_file_name("tandem-attach");
    let mut program = Program::new(&path);
    program
        .arg(format!("--device={device}"))
        .arg("--run-dir")
        .arg(run_dir)
        .args(["--background", volume]);
    program.env_remove("TANDEM_SERVERS").env_remove("NOTIFY_SOCKET");
    program.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let cannot = |error: std::io::Error| format!("{}: {error}", path.display());
    let mut guard = program.spawn().map_err(cannot)?;
    let (stdout, stderr) = (guard.stdout.take(), guard.stderr.take());
    // Somebody has to learn that it has ended.
    let reaper = std::thread::Builder::new().name("guard".to_owned());
    reaper.spawn(move || guard.wait()).map_err(cannot)?;
    let (mut said, mut why) = (String::new(), String::new());
    if let (Some(mut stdout), Some(mut stderr)) = (stdout, stderr) {
        // It closes both when the device is there, or when it ends.
        stdout.read_to_string(&mut said).map_err(cannot)?;
        stderr.read_to_string(&mut why).map_err(cannot)?;
    }
    match said.trim() {
        "" => Err(why.trim().strip_prefix(&format!("{volume}: ")).unwrap_or(why.trim()).to_owned()),
        said => Ok(said.to_owned()),
    }
}

impl Registry {
    /// The folder of the sockets, where it is also remembered what is attached.
    fn device_dir(&self) -> PathBuf {
        self.settings.run_dir.clone()
    }

    fn hands(&self) -> Arc<dyn Hands> {
        self.shell.hands.clone()
    }

    /// An order that demotes this node: its devices go first.
    pub(super) async fn devices_before(
        &self,
        entry: &Rc<Entry>,
        command: &Command,
    ) -> Result<(), Refusal> {
        let (force, wait_ms) = match command {
            Command::Secondary { force, wait_ms } => (*force, *wait_ms),
            Command::Down { .. } => (false, 0),
            _ => return Ok(()),
        };
        if !entry.attaches_devices() || entry.status().role != Role::Primary {
            return Ok(());
        }
        let wait = Duration::from_millis(wait_ms);
        // Who attaches just now does so before it.
        let attaching = entry.devices.one_at_a_time.lock().await;
        entry.devices.demotes.set(true);
        drop(attaching);
        let Err(stays) = self.detach_devices(entry, force, wait).await else { return Ok(()) };
        entry.devices.demotes.set(false);
        // This node stays Primary, and the other volumes stay in use.
        self.attach_devices(entry).await;
        Err(match stays {
            Stays::Held(why) => {
                let next = "Stop what uses it first; `secondary --force` fails its I/O.";
                refusal(-12, "Device is held open by someone", format!("{why}. {next}"))
            }
            Stays::Unflushed(why) => {
                let name = &entry.config.name;
                let next = format!(
                    "`tandemadm why {name}` says what it waits for; `tandemadm secondary --force {name}` \
                     fails its I/O."
                );
                refusal(-23, "Timeout in operation", format!("{why}. {next}"))
            }
        })
    }

    async fn detach_devices(
        &self,
        entry: &Rc<Entry>,
        force: bool,
        wait: Duration,
    ) -> Result<(), Stays> {
        let name = entry.config.name.clone();
        let going = Going {
            hands: self.hands(),
            run_dir: self.device_dir(),
            resource: name.clone(),
            force: false,
            until: Instant::now() + wait,
            // By force its flush ends.
            frozen: frozen(&entry.status()).filter(|_| !force),
            wanted: Arc::default(),
        };
        let limit = if force { FLUSH_LIMIT } else { going.hands.gentle_limit() };
        let detached = detach_within(wait + limit, going.clone()).await;
        if let Err(stays) = &detached
            && force
        {
            warn!(resource = %name, "{name}: {}; by force (device-attach)", stays.why());
            // A mounted device stays until it is unmounted. Its I/O fails at once.
            let forced = Going { force, wanted: Arc::default(), ..going };
            let forced = tokio::task::spawn_blocking(move || detach_all(forced));
            let _ = tokio::time::timeout(FORCE_LIMIT, forced).await;
            return Ok(());
        }
        for one in detached? {
            info!(resource = %name, "{name}: detached {one} (device-attach)");
        }
        entry.devices.failed.borrow_mut().clear();
        Ok(())
    }

    /// The order is answered; where this node is Primary, its devices are attached.
    pub(super) async fn devices_after(
        &self,
        entry: &Rc<Entry>,
        after: After,
        result: AdminResult,
    ) -> AdminResult {
        if after == After::Nothing {
            return result;
        }
        entry.devices.demotes.set(false);
        let missing = self.attach_devices(entry).await;
        let mut text = result?;
        for (volume, why) in missing {
            let line = format!("{}/{volume} is not attached as a device: {why}", entry.config.name);
            text = if text.is_empty() { line } else { format!("{text}\n{line}") };
        }
        Ok(text)
    }

    /// Attaches what is not attached; what could not be, and why.
    pub(super) async fn attach_devices(&self, entry: &Rc<Entry>) -> Vec<(VolumeNumber, String)> {
        self.attach_some(entry, |_| true).await
    }

    async fn attach_some(
        &self,
        entry: &Rc<Entry>,
        is_meant: impl Fn(VolumeNumber) -> bool,
    ) -> Vec<(VolumeNumber, String)> {
        let _one = entry.devices.one_at_a_time.lock().await;
        let goes = entry.devices.demotes.get() || entry.status().role != Role::Primary;
        if !entry.attaches_devices() || goes {
            return Vec::new();
        }
        let devices: Vec<(VolumeNumber, String)> = {
            let running = entry.running.borrow();
            let own = running.local(&self.settings.node);
            let volumes = own.map(|own| own.volumes.iter()).into_iter().flatten();
            let meant = volumes.filter(|(number, _)| is_meant(**number));
            meant.map(|(number, volume)| (*number, volume.nbd_device())).collect()
        };
        let name = &entry.config.name;
        let mut missing = Vec::new();
        for (number, device) in devices {
            let (run_dir, volume) = (self.device_dir(), format!("{name}/{number}"));
            let one = (self.hands(), run_dir, volume.clone(), device);
            let attached = blocking(attach_one, one);
            let outcome = match tokio::time::timeout(ATTACH_LIMIT, attached).await {
                Ok(outcome) => outcome,
                Err(_) => Err(format!("no answer in {} s", ATTACH_LIMIT.as_secs())),
            };
            let is_in_use = matches!(outcome, Ok(Outcome::LetGo(_)));
            match is_in_use {
                true => entry.devices.in_use.borrow_mut().insert(number),
                false => entry.devices.in_use.borrow_mut().remove(&number),
            };
            let why = match outcome {
                Ok(Outcome::LetGo(why)) | Err(why) => why,
                Ok(done) => {
                    entry.devices.failed.borrow_mut().remove(&number);
                    if let Outcome::Attached(said) = done {
                        info!(resource = %name, "{said} (device-attach)");
                    }
                    continue;
                }
            };
            warn!(resource = %name, "{volume}: not attached as a device (device-attach): {why}");
            entry.devices.failed.borrow_mut().insert(number, why.clone());
            missing.push((number, why));
        }
        missing
    }

    /// Guards that have died are replaced, until the task is dropped. They are looked for: one that the daemon before
    /// this one has started is nobody's child.
    pub(super) async fn watch_devices(self: Rc<Self>) {
        loop {
            tokio::time::sleep(WATCH).await;
            for entry in self.chosen(None) {
                let attaches = entry.attaches_devices() && !entry.ends.get() && !self.is_closing();
                if attaches && !entry.devices.looked_at.replace(true) {
                    let registry = self.clone();
                    tokio_uring::spawn(async move {
                        registry.replace_guards(&entry).await;
                        entry.devices.looked_at.set(false);
                    });
                }
            }
        }
    }

    /// Attaches the devices of a Primary again that have lost their guard.
    async fn replace_guards(self: &Rc<Self>, entry: &Rc<Entry>) {
        let (devices, role) = (&entry.devices, entry.status().role);
        if devices.demotes.get() || devices.hands_over.get() || role != Role::Primary {
            return;
        }
        let name = entry.config.name.clone();
        let in_use = devices.in_use.borrow().clone();
        let all = (self.hands(), self.device_dir(), name.clone(), in_use);
        let left = blocking(without_guard, all).await.unwrap_or_default();
        if left.is_empty() || devices.hands_over.get() {
            return;
        }
        warn!(resource = %name, "{name}: a device has lost its guard, or is free again: it is attached (device-attach)");
        self.attach_some(entry, |volume| left.contains(&volume)).await;
    }

    /// The state machine hands over, and waits until no device is in the way of that.
    pub(super) fn devices_may_hand_over(self: &Rc<Self>, entry: &Rc<Entry>, status: &Status) {
        let waits = status.order.as_ref().is_some_and(|order| order.waits_for == DETACHES);
        if !waits || entry.devices.hands_over.replace(true) {
            return;
        }
        let (registry, entry) = (self.clone(), entry.clone());
        tokio_uring::spawn(async move {
            let name = &entry.config.name;
            // Who attaches just now does so before it.
            drop(entry.devices.one_at_a_time.lock().await);
            let detached = registry.detach_devices(&entry, false, Duration::ZERO).await;
            if let Err(stays) = &detached {
                warn!(resource = %name, "{name}: not handed over (device-attach): {}", stays.why());
            }
            // What is wrong with the resource its own log says.
            let _ = entry.order(Command::DevicesDetached { in_use: detached.is_err() }).await;
            // Where that came to nothing this node stays Primary, with its devices.
            while entry.status().order.is_some() && entry.status().role == Role::Primary {
                tokio::time::sleep(LOOK).await;
            }
            registry.attach_devices(&entry).await;
            entry.devices.hands_over.set(false);
        });
    }
}

impl Entry {
    /// `device-attach auto` is in force.
    fn attaches_devices(&self) -> bool {
        self.running.borrow().options.device_attach_auto
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::device;
    use super::*;

    #[test]
    fn a_device_of_this_daemon_is_known_by_any_name_of_its_folder() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, link) = (dir.path().join("run"), dir.path().join("link"));
        std::fs::create_dir(&folder).unwrap();
        std::os::unix::fs::symlink(&folder, &link).unwrap();
        let server = |path: PathBuf| Some(format!("unix:{}", path.display()));
        let is_own = |server| super::is_own(&link, &device("r0/0", 0, server));
        assert!(is_own(server(link.join("nbd.sock"))));
        assert!(is_own(server(folder.join("nbd.sock"))));
        assert!(!is_own(server(folder.join("other.sock"))));
        assert!(!is_own(server(dir.path().join("nbd.sock"))));
        assert!(!is_own(Some("alice:10809".to_owned())));
        assert!(!is_own(None));
    }
}
