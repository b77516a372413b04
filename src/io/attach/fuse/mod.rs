//! A volume as a file of FUSE and a loop device over it: where the kernel has no NBD driver.
//!
//! Invariants:
//! - The guard serves the file, so the device lives as long as its guard: killed, the I/O fails.
//! - Which server has the device is decided by `attach::Guard`, as with the kernel's driver. The engine
//!   stands in the kernel's place: one connection, whose end is told when its reader has seen it.
//! - One guard a volume: it holds a lock on `DIR/fuse-RES-VOL.guard`.

mod engine;
mod file;
mod orders;
#[cfg(test)]
mod tests;
mod token;

use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::Duration;

use fuser::{BackgroundSession, Config, MountOption, Session};
use nbd::client::Description;
use nbd::constants::{NBD_FLAG_READ_ONLY, NOBODY};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::attach::{Action, AttachArguments, Event, FuseRecord, Guard, Guarded, Server, Terms};

use super::dial::{Answer, Dialers, Dialling, Link};
use super::guard::Log;
use super::{ATTACH, Trouble, first, system};
use engine::Engine;
use file::Volume;
use token::Token;

pub(super) use orders::guard;
pub(crate) use orders::{FuseListed, detach, list};

/// How often it is looked whether an answer is late.
const LOOK: Duration = Duration::from_millis(200);

/// Attaches, and serves the file until it is unmounted.
pub(super) fn attach_and_serve(arguments: &AttachArguments) -> Result<(), Trouble> {
    let options = &arguments.options;
    let name = orders::name(&arguments.volume);
    // Until the file has its guard, whom the next attach finds.
    let attaching = system::Attaching::begin(&arguments.run_dir, &arguments.volume, ATTACH)?;
    if let Some((index, _)) = system::device_of(&arguments.volume) {
        return Err(Trouble::failed(format!(
            "attached already, as /dev/nbd{index}: two caches over one volume would spoil it"
        )));
    }
    let lock = system::lock_guard(&arguments.run_dir, &name, &arguments.volume.to_string());
    let lock = lock.map_err(|trouble| match orders::guard(&arguments.run_dir, &arguments.volume) {
        Guarded::By(guard) => Trouble::failed(format!(
            "attached already, as a file of FUSE; its guard is process {guard}: nothing is to be done"
        )),
        Guarded::Nobody | Guarded::Unknown => trouble,
    })?;
    drop(attaching);
    orders::clear_remains(&arguments.run_dir, &name)?;
    if let Err(error) = fs::File::options().read(true).write(true).open("/dev/fuse") {
        return Err(Trouble::failed(format!(
            "/dev/fuse: {error}: it takes the kernel's module fuse, and root (CAP_SYS_ADMIN)"
        )));
    }
    // Before there are threads.
    let missing = crate::io::memory::keep_guard();
    let servers = arguments.servers();
    let timeout = Duration::from_secs(u64::from(options.timeout()));
    let token = Token::of(&arguments.run_dir, &name);
    let Entered { dialers, server, export, link } = enter(arguments, &servers, &token, timeout)?;
    let unfit = |unfit| Trouble::failed(format!("{}: {unfit}", servers[server]));
    let terms = Terms::of(&export, None, 1).map_err(unfit)?;
    let cannot = |error: std::io::Error| Trouble::failed(format!("FUSE: {error}"));
    let engine = Engine::start(dialers.bell.clone()).map_err(cannot)?;
    let size = Arc::new(AtomicU64::new(terms.size));
    let volume = Volume { engine: engine.clone(), size: size.clone(), flags: terms.flags };
    // As the loop device names it.
    let folder = system::resolved(&arguments.run_dir).join(&name);
    fs::create_dir_all(&folder).map_err(cannot)?;
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName(format!("tandem:{}", arguments.volume)),
        MountOption::Subtype("tandem".to_owned()),
        MountOption::NoSuid,
        MountOption::NoDev,
    ];
    let mounted = Session::new(volume, &folder, &config).and_then(Session::spawn);
    let session = mounted.map_err(|error| {
        Trouble::failed(format!(
            "{}: FUSE does not mount: {error}; it takes root (CAP_SYS_ADMIN), or the package fuse3",
            folder.display()
        ))
    })?;
    engine.go_on(link.socket);
    let path = folder.join(file::NAME);
    let record = FuseRecord {
        volume: arguments.volume.to_string(),
        file: path.clone(),
        loop_device: None,
        size: terms.size,
        dead_conn_timeout: u64::from(options.dead_conn_timeout()),
        server: servers[server].to_string(),
        lost_at: None,
        refusals: Vec::new(),
        failed: None,
        keepers: export.keepers.clone(),
    };
    let dead = Duration::from_secs(record.dead_conn_timeout);
    let guard = Guard::attached(servers.clone(), server, terms, 1, dead).kept_by(export.keepers);
    let ask_at = system::now() + guard.asks_every();
    let mut device = Device {
        guard,
        engine,
        dialers,
        socket: servers.iter().map(|_| None).collect(),
        servers,
        size,
        timeout,
        dead,
        record,
        record_path: arguments.run_dir.join(format!("{name}.device")),
        token,
        was_connected: true,
        ask_at,
        growing: None,
    };
    if !options.no_loop {
        // Without it there shall be no mount; it goes with the session.
        let looped = device.attach_loop(&path, terms.flags & NBD_FLAG_READ_ONLY != 0);
        let looped = looped.inspect_err(|_| {
            let _ = fs::remove_file(&device.record_path);
        })?;
        device.record.loop_device = Some(looped);
    }
    // Who hears that it is attached finds it.
    device.write_record(&Log::Syslog(None));
    let ready = format!("{} is {} (attached)\n", device.record.volume, device.record.device());
    let log = Log::of_guard(arguments.background, &ready);
    log.say(ready.trim_end());
    if let Some(missing) = missing {
        log.say(&missing);
    }
    device.watch(&log, &session);
    drop(lock);
    Ok(())
}

/// A server that serves the volume, and the connection to it.
struct Entered {
    dialers: Dialers,
    server: usize,
    export: Description,
    link: Link,
}

/// Finds one, as the device that a killed guard has left, if there was one.
fn enter(
    arguments: &AttachArguments,
    servers: &[Server],
    token: &Token,
    timeout: Duration,
) -> Result<Entered, Trouble> {
    let dial = |token| {
        let dialling = Dialling::new(token, timeout)?;
        let dialers = Dialers::start(servers, &arguments.volume.to_string(), dialling)?;
        let (server, export, mut sockets) = first(servers, &dialers, 1)?;
        Ok::<_, Trouble>(Entered { dialers, server, export, link: sockets.remove(0) })
    };
    let new = || {
        token.renew().map_err(|error| {
            let dir = arguments.run_dir.display();
            Trouble::failed(format!("{dir}: the device's token cannot be written down: {error}"))
        })
    };
    let Some(kept) = token.kept() else { return dial(new()?) };
    let entered = dial(kept)?;
    if !entered.export.keepers.contains(&NOBODY) {
        return Ok(entered);
    }
    token::end_device(entered.link).map_err(|error| {
        let server = &servers[entered.server];
        Trouble::failed(format!(
            "{server}: what a killed guard has left there does not end: {error}"
        ))
    })?;
    dial(new()?)
}

fn attach_loop(file: &Path, read_only: bool) -> Result<String, Trouble> {
    let mut command = Command::new("losetup");
    command.args(["--find", "--show", "--direct-io=on"]);
    if read_only {
        command.arg("--read-only");
    }
    let output = command.arg(file).output().map_err(|error| {
        Trouble::failed(format!("losetup: {error}: the package mount (util-linux) is missing"))
    })?;
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    match output.status.success() {
        true => Ok(said(&output.stdout)),
        false => Err(Trouble::failed(format!(
            "{}; it takes the kernel's module loop, and root; --no-loop leaves it at the file",
            said(&output.stderr)
        ))),
    }
}

/// Has a loop device take the size that its file has now.
fn grow_loop(device: &str, file: &Path, size: u64) -> Result<(), String> {
    let cannot = |what: &str, error: std::io::Error| format!("{what}: {error}");
    // Kernels before 6.18 take the size that they know of the file, and learn it only from this.
    fs::metadata(file).map_err(|error| cannot(&file.display().to_string(), error))?;
    let output = Command::new("losetup").args(["-c", device]).output();
    let output = output.map_err(|error| cannot("losetup", error))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
    }
    match system::bytes_of(device) {
        Some(has) if has < size => Err(format!("{device} has {has} bytes still")),
        _ => Ok(()),
    }
}

/// An attached device and all that its guard has.
struct Device {
    guard: Guard,
    engine: Arc<Engine>,
    dialers: Dialers,
    /// By server: what its last attempt has brought.
    socket: Vec<Option<Link>>,
    servers: Vec<Server>,
    size: Arc<AtomicU64>,
    timeout: Duration,
    dead: Duration,
    record: FuseRecord,
    record_path: PathBuf,
    token: Token,
    was_connected: bool,
    ask_at: Duration,
    /// What comes of the loop device that is growing.
    growing: Option<Receiver<Result<(), String>>>,
}

impl Device {
    /// Lays a loop device over the file. The kernel flushes the file for that, so the server is watched
    /// meanwhile: one that is lost in this moment is replaced, or the flush fails in the end. A losetup that
    /// waits for ever would hold up every loop device of the system.
    fn attach_loop(&mut self, path: &Path, read_only: bool) -> Result<String, Trouble> {
        let path = path.to_owned();
        let thread = std::thread::Builder::new().name("losetup".to_owned());
        let thread = thread.spawn(move || attach_loop(&path, read_only));
        let thread = thread.map_err(|error| Trouble::failed(error.to_string()))?;
        while !thread.is_finished() {
            self.turn(&Log::Syslog(None), Duration::from_millis(10));
        }
        thread.join().unwrap_or_else(|_| Err(Trouble::failed("losetup: its thread has panicked")))
    }

    /// Serves until the file is unmounted.
    fn watch(mut self, log: &Log, session: &BackgroundSession) {
        while !session.guard.is_finished() {
            self.turn(log, LOOK);
        }
        self.engine.close();
        let _ = fs::remove_file(&self.record_path);
        self.token.forget();
        log.say(&format!("{} is detached", self.record.volume));
    }

    /// Looks once at the server and what is said of it, and waits for so long at most.
    fn turn(&mut self, log: &Log, look: Duration) {
        let mut one = [PollFd::new(self.dialers.bell.as_fd(), PollFlags::POLLIN)];
        let next = self.guard.next_timeout().map(|at| at.saturating_sub(system::now()));
        let wait = next.unwrap_or(look).min(look) + Duration::from_millis(1);
        let _ = poll(&mut one, PollTimeout::try_from(wait).unwrap_or(PollTimeout::ZERO));
        let _ = self.dialers.bell.read();
        if self.was_connected && !self.engine.is_connected() {
            self.was_connected = false;
            self.feed(log, Event::LinkDead);
            self.feed(log, Event::Closed(0));
        }
        if self.engine.is_late(self.timeout) {
            self.engine.close();
        }
        while let Some(answer) = self.dialers.answer() {
            let event = match answer {
                Answer::Described(server, Ok(export)) => Event::Described { server, export },
                // If it has gone, that is seen by its connection.
                Answer::Described(_, Err(_)) => continue,
                Answer::Dialled(server, outcome) => {
                    let result = outcome.map(|(export, sockets)| {
                        self.socket[server] = sockets.into_iter().next();
                        export
                    });
                    Event::Dialled { server, result }
                }
            };
            self.feed(log, event);
        }
        let (now, progress) = (system::now(), self.guard.progress());
        match (progress.lost_at, progress.server) {
            (Some(lost_at), _) if lost_at + self.dead <= now => self.engine.fail(),
            (None, Some(server)) if now >= self.ask_at => {
                self.ask_at = now + self.guard.asks_every();
                self.dialers.describe(server);
            }
            _ => {}
        }
        if let Some(outcome) = self.grown() {
            self.feed(log, Event::Resized(outcome));
        }
        self.feed(log, Event::Tick);
    }

    fn feed(&mut self, log: &Log, event: Event) {
        self.guard.handle(system::now(), event);
        while let Some(action) = self.guard.next_action() {
            match action {
                Action::Dial { server, connections } => {
                    // The one before has ended.
                    self.dialers.dial(server, connections, Vec::new());
                }
                Action::Drop { server } => self.socket[server] = None,
                Action::Close => self.engine.close(),
                Action::HandOver { server, .. } => {
                    let result = match self.socket[server].take() {
                        None => Err("the connection is gone".to_owned()),
                        Some(socket) => {
                            self.engine.go_on(socket.socket);
                            self.was_connected = true;
                            Ok(1)
                        }
                    };
                    self.guard.handle(system::now(), Event::Handed(result));
                }
                // The engine has one connection, and tells of its end.
                Action::Look(_) => self.guard.handle(system::now(), Event::Looked(Ok(0))),
                Action::Resize(size) => self.grow(size),
                Action::Log(text) => log.say(&format!("{}: {text}", self.record.volume)),
                Action::Fail => {
                    self.engine.fail();
                    // Its last session has ended, and the next device has lost nothing.
                    self.token.forget();
                }
                Action::Changed => self.write_record(log),
                Action::End => {}
            }
        }
    }

    /// The file is larger at once, and the device when its loop device is. That one asks the file, and so
    /// waits for this very process: a thread waits for it.
    fn grow(&mut self, size: u64) {
        self.size.store(size, Ordering::Release);
        let (told, heard) = channel();
        self.growing = Some(heard);
        let Some(device) = self.record.loop_device.clone() else {
            // It is heard: that end is held here.
            return drop(told.send(Ok(())));
        };
        let (file, bell) = (self.record.file.clone(), self.dialers.bell.clone());
        let thread = std::thread::Builder::new().name("grow".to_owned());
        let started = thread.spawn(move || {
            // Where nobody hears it the guard has ended.
            let _ = told.send(grow_loop(&device, &file, size));
            let _ = bell.write(1);
        });
        if let Err(error) = started {
            let (told, heard) = channel();
            let _ = told.send(Err(format!("a thread for it: {error}")));
            self.growing = Some(heard);
        }
    }

    /// What has come of it.
    fn grown(&mut self) -> Option<Result<(), String>> {
        let outcome = match self.growing.as_ref()?.try_recv() {
            Err(TryRecvError::Empty) => return None,
            Err(TryRecvError::Disconnected) => Err("its thread has panicked".to_owned()),
            Ok(outcome) => outcome,
        };
        self.growing = None;
        Some(outcome)
    }

    fn write_record(&mut self, log: &Log) {
        let progress = self.guard.progress();
        let name = |server: usize| self.servers[server].to_string();
        self.record.server = progress.server.map_or_else(|| self.record.server.clone(), name);
        self.record.lost_at = progress.lost_at.map(|lost_at| lost_at.as_secs());
        self.record.size = progress.size;
        self.record.failed = progress.failed;
        self.record.keepers = progress.keepers;
        self.record.refusals =
            progress.refusals.into_iter().map(|(server, text)| (name(server), text)).collect();
        let new = self.record_path.with_extension("device.new");
        let text = serde_json::to_vec(&self.record).map_err(std::io::Error::other);
        let done = text.and_then(|text| fs::write(&new, text));
        if let Err(error) = done.and_then(|()| fs::rename(&new, &self.record_path)) {
            log.say(&format!("{}: {error}", self.record_path.display()));
        }
    }
}
