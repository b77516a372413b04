//! `tandemd`: from the command line to the last line of the log.

use std::ffi::OsString;
use std::future::poll_fn;
use std::io::Write;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::path::PathBuf;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use clap::Parser;
use nix::sys::signal::{SigSet, Signal};
use tokio::sync::{mpsc, oneshot};
use tracing::{error, info, warn};

use super::data_thread::Shell;
use super::doors::{Doors, Listeners};
use super::registry::{Registry, Settings};
use super::remembered::Remembered;
use super::restart::{self, Inherited, Listener};
use super::startup::Failure;
use super::{dependencies, logging, startup};
use crate::control::arguments::{folder, state_dir};
use crate::io::config_files::ConfigFiles;

/// How often the log repeats what is still wrong.
const REMINDER: Duration = Duration::from_secs(3600);
/// How long the end waits for a thread that a disk holds up.
const HELD_UP_LIMIT: Duration = Duration::from_secs(2);

/// Keeps this node's copies of the replicated volumes and serves them over NBD.
#[derive(Debug, Parser)]
#[command(name = "tandemd", version)]
struct Arguments {
    /// The configuration. tandemd only checks it: tandemadm sends each resource's definition.
    #[arg(short = 'c', long = "config-file", alias = "config", value_name = "FILE")]
    #[arg(env = "TANDEM_CONFIG", default_value = "/etc/tandem.conf")]
    config: PathBuf,
    /// This node's name in the configuration; the host name where not given.
    #[arg(short = 'n', long, value_name = "NAME", env = "TANDEM_NODE")]
    node: Option<String>,
    /// Where the lock and the sockets are.
    #[arg(long, value_name = "DIR", env = "TANDEM_RUN_DIR", default_value = "/run/tandem")]
    #[arg(value_parser = folder())]
    run_dir: PathBuf,
    /// Where what is known of disks goes [default: /var/lib/tandem, or DIR/state with --run-dir
    /// DIR].
    #[arg(long, value_name = "DIR", value_parser = folder())]
    state_dir: Option<PathBuf>,
    /// Serve NBD on a TCP address too, for example 127.0.0.1:10809.
    #[arg(long, value_name = "ADDR")]
    nbd_listen: Vec<SocketAddr>,
    /// Allow --nbd-listen addresses beyond loopback: no encryption, no passwords.
    #[arg(long)]
    nbd_insecure: bool,
    /// Serve /metrics, /health and /primary/RES over HTTP on an address, for example 127.0.0.1:9942.
    #[arg(long, value_name = "ADDR")]
    metrics_listen: Vec<SocketAddr>,
    /// Allow --metrics-listen addresses beyond loopback: no encryption, no passwords.
    #[arg(long)]
    metrics_insecure: bool,
    /// The group that may use the sockets.
    #[arg(long, value_name = "GROUP")]
    socket_group: Option<String>,
    /// So many resyncs run at once on this node, the others wait [default: no limit].
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    max_parallel_resyncs: u32,
    /// Record every event and action of each resource in DIR/RESOURCE.record.
    #[arg(long, value_name = "DIR")]
    record: Option<PathBuf>,
    /// Say whether this program could follow one with this version of the record, and end.
    #[arg(long, value_name = "VERSION", hide = true)]
    can_take_over: Option<u32>,
}

/// The command line, for the manual.
#[must_use]
pub fn command() -> clap::Command {
    <Arguments as clap::CommandFactory>::command()
}

/// What is open before the runtime starts.
pub(super) struct Sockets {
    pub(super) listeners: Listeners,
    pub(super) signal: oneshot::Receiver<Signal>,
    /// The lock of the run folder; it is held for longer than the daemon serves.
    pub(super) lock: RawFd,
    /// What the program before has left.
    pub(super) inherited: Option<Inherited>,
}

/// Runs the daemon; returns the exit code: 0 after SIGTERM or SIGINT, 1 for a wrong command line,
/// 20 where io_uring cannot be used, 10 for what else stands in the way.
#[must_use]
pub fn run<I, T>(words: I) -> i32
where
    I: IntoIterator<Item = T>,
    T: Into<OsString> + Clone,
{
    let arguments = match Arguments::try_parse_from(words) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Nobody to tell is no reason to fail.
            let _ = error.print();
            return i32::from(error.use_stderr());
        }
    };
    if let Some(version) = arguments.can_take_over {
        let Err(text) = restart::answer(version, &restart::specimen()) else { return 0 };
        let _ = writeln!(std::io::stderr(), "{text}");
        return 10;
    }
    if let Err(text) = block_signals() {
        let _ = writeln!(std::io::stderr(), "{text}");
        return 10;
    }
    logging::start();
    let code = match start(&arguments) {
        Ok(()) => 0,
        Err(failure) => {
            error!("{}", failure.text);
            failure.exit_code
        }
    };
    logging::flush();
    code
}

fn start(arguments: &Arguments) -> Result<(), Failure> {
    startup::probe_ring()?;
    startup::descriptors()?;
    let failure = |text: String| Failure { text, exit_code: 10 };
    let node = match &arguments.node {
        Some(node) => node.clone(),
        None => host_name().map_err(failure)?,
    };
    let group = arguments.socket_group.as_deref().map(group_id).transpose().map_err(failure)?;
    let run_dir = &arguments.run_dir;
    let mut inherited = Inherited::take()?;
    let lock = match &mut inherited {
        Some(inherited) => startup::lock_again(inherited.lock()?, run_dir)?,
        None => startup::lock(run_dir)?,
    };
    // Before there are threads.
    if let Some(missing) = crate::io::memory::keep() {
        tracing::info!("{missing}");
    }
    let state_dir = state_dir(arguments.state_dir.clone(), run_dir);
    for dir in std::iter::once(&state_dir).chain(&arguments.record) {
        std::fs::create_dir_all(dir)
            .map_err(|error| failure(format!("{}: {error}", dir.display())))?;
    }
    let nbd_socket = run_dir.join("nbd.sock");
    let mut unix = |which: Listener, path: &std::path::Path| match &mut inherited {
        Some(inherited) => inherited.unix(&which, path),
        None => startup::bind_unix(path, group),
    };
    let nbd = unix(Listener::Nbd, &nbd_socket)?;
    let admin = unix(Listener::Admin, &run_dir.join("control.sock"))?;
    let mut handed = |which: Listener| inherited.as_mut()?.tcp(&which).transpose();
    let mut tcp = Vec::new();
    for address in &arguments.nbd_listen {
        let bind = || startup::bind_tcp(*address, arguments.nbd_insecure);
        tcp.push((*address, handed(Listener::NbdTcp(*address)).unwrap_or_else(bind)?));
    }
    let mut metrics = Vec::new();
    for address in &arguments.metrics_listen {
        let bind = || startup::bind_metrics(*address, arguments.metrics_insecure);
        metrics.push((*address, handed(Listener::Metrics(*address)).unwrap_or_else(bind)?));
    }
    let sockets = Sockets {
        listeners: Listeners { admin, nbd, tcp, metrics },
        signal: await_signal().map_err(failure)?,
        lock: lock.as_raw_fd(),
        inherited,
    };
    check_config(&arguments.config);
    let settings = Settings {
        node,
        record: arguments.record.clone(),
        config: std::path::absolute(&arguments.config).unwrap_or_else(|_| arguments.config.clone()),
        state_dir,
        run_dir: run_dir.clone(),
        remembered: Remembered::new(run_dir),
        nbd_socket,
        max_parallel_resyncs: arguments.max_parallel_resyncs,
        program: restart::path(),
    };
    let result = tokio_uring::start(async {
        let result = serve(settings, Shell::real(), sockets).await;
        end_at_last();
        result
    });
    result.map_err(|error| failure(format!("the control thread failed: {error}")))
}

/// The runtime waits for its threads, and one of them may be opening or reading a disk that does not
/// answer. Everything is in order by now, so the process ends without it.
fn end_at_last() {
    let late = || {
        std::thread::sleep(HELD_UP_LIMIT);
        warn!("a disk that does not answer holds a thread up: ended without it");
        logging::flush();
        std::process::exit(0);
    };
    // No thread: the end is late, then.
    let _ = std::thread::Builder::new().name("end".to_owned()).spawn(late);
}

/// Serves until a signal or an order ends it.
pub(super) async fn serve(
    settings: Settings,
    shell: Shell,
    sockets: Sockets,
) -> std::io::Result<()> {
    let Sockets { listeners, signal, lock, inherited } = sockets;
    let nbd_path = settings.nbd_socket.clone();
    let node = settings.node.clone();
    let (orders, mut asked) = mpsc::channel(restart::ORDERS_MAX);
    let registry = Registry::new(settings, shell, orders);
    let mut waits = None;
    match inherited {
        None => registry.up_after_a_crash(),
        Some(inherited) => waits = Some(inherited.follow(&registry).await),
    }
    let mut doors = Doors::new(&registry, listeners);
    doors.open()?;
    doors.announce();
    let tasks = [
        tokio_uring::spawn(dependencies::serve(registry.clone())),
        tokio_uring::spawn(remind(registry.clone())),
        tokio_uring::spawn(registry.clone().watch_paths()),
        tokio_uring::spawn(registry.clone().watch_devices()),
        tokio_uring::spawn(registry.clone().settle()),
    ];
    info!("NBD clients: {}", nbd_path.display());
    let version = crate::control::version::VERSION;
    info!("tandemd {version} is ready on node {node} (pid {})", std::process::id());
    startup::notify("READY=1");
    if let Some(waits) = waits {
        waits.answer();
    }
    let mut signal = signal;
    let why = loop {
        let came = poll_fn(|context| match Pin::new(&mut signal).poll(context) {
            Poll::Ready(signal) => Poll::Ready(Err(signal)),
            Poll::Pending => asked.poll_recv(context).map(Ok),
        });
        match came.await {
            Err(signal) => break signal.map_or("no signal can come any more", Signal::as_str),
            // The registry is here.
            Ok(None) => {}
            Ok(Some(order)) => {
                // A signal that came meanwhile is not lost with this program.
                let ends = || signal.try_recv().ok().map(Signal::as_str);
                if let Some(why) = restart::obey(&registry, &mut doors, lock, order, ends).await {
                    break why;
                }
            }
        }
    };
    info!("{why}: ending");
    startup::notify("STOPPING=1");
    registry.shut_down().await;
    doors.close().await;
    for task in tasks {
        task.abort();
    }
    info!("ended");
    Ok(())
}

/// Says every hour what still needs a person; its first line was logged when it happened.
async fn remind(registry: Rc<Registry>) {
    loop {
        tokio::time::sleep(REMINDER).await;
        for entry in registry.chosen(None) {
            let report = registry.report(&entry).await;
            for line in crate::control::why::reminders(&report, crate::control::Zone::Local) {
                warn!(resource = %entry.config.name, "{line}");
            }
        }
    }
}

/// The signals that are waited for: those that end the daemon, and SIGHUP, which does not: a
/// terminal that is closed takes no disk away.
fn awaited() -> SigSet {
    SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP])
}

/// Blocks them, before there is another thread that could take them.
fn block_signals() -> Result<(), String> {
    awaited().thread_block().map_err(|error| format!("signals cannot be blocked: {error}"))
}

/// The first that ends the daemon, waited for by a thread of its own.
fn await_signal() -> Result<oneshot::Receiver<Signal>, String> {
    let (came, signal) = oneshot::channel();
    let wait = move || {
        while let Ok(signal) = awaited().wait() {
            if signal == Signal::SIGHUP {
                info!("SIGHUP: nothing is read anew; `tandemadm adjust` changes what runs");
                continue;
            }
            // The runtime has ended by itself.
            let _ = came.send(signal);
            return;
        }
    };
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(wait)
        .map_err(|error| format!("no thread for signals: {error}"))?;
    Ok(signal)
}

/// Tells early what will be wrong when tandemadm reads the configuration. It stops nothing here.
fn check_config(path: &std::path::Path) {
    if !path.exists() {
        info!("{}: there is no configuration yet", path.display());
        return;
    }
    let config = crate::config::load(&ConfigFiles, &path.display().to_string());
    for finding in &config.findings {
        match finding.severity {
            crate::config::Severity::Error => error!("{finding}"),
            crate::config::Severity::Warning => warn!("{finding}"),
        }
    }
}

/// The host name, as the configuration is searched for.
pub(crate) fn host_name() -> Result<String, String> {
    let name = nix::unistd::gethostname().map_err(|error| format!("host name: {error}"))?;
    name.into_string().map_err(|name| format!("host name {name:?}: give --node NAME"))
}

fn group_id(name: &str) -> Result<u32, String> {
    match nix::unistd::Group::from_name(name) {
        Ok(Some(group)) => Ok(group.gid.as_raw()),
        Ok(None) => Err(format!("--socket-group {name}: there is no such group")),
        Err(error) => Err(format!("--socket-group {name}: {error}")),
    }
}
