//! The driver: makes the pair, lets faults come by the seed, and after each episode has all of it
//! mended and compared.
//!
//! Invariants:
//! - Only this thread starts, kills and freezes daemons.
//! - A thread that asks the Primary whether both are in sync tells the book with the step *before*
//!   the question: what was answered by then is on both disks.

use std::io::{BufReader, Read};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tandem::sim::Prng;

use crate::Arguments;
use crate::book::{CLIENTS, Counts, FIRST_FAR, Mode, World};
use crate::cage::KEEP;
use crate::client::Worker;
use crate::faults::Fault;
use crate::link::{ADDRESSES, ClientWeather, Link, Weather};
use crate::node::{DISK, Daemon, NAMES, Node, QUESTION, same_generation};
use crate::orders::{Order, give};
use crate::report;
use crate::tally::Kind;
use crate::versions::Versions;

/// Something is wrong: what the program ends with.
const VIOLATION: u8 = 1;
/// Nobody serves for so long: somebody is promoted.
const UNSERVED: Duration = Duration::from_millis(800);
/// From this length on a run must have had every kind of fault.
const LONG: Duration = Duration::from_secs(600);
/// A recording of this length ends with its daemon at the next rest, bytes.
const RECORD_MAX: u64 = 48 << 20;

/// What is done later.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Follow {
    FineWeather,
    FineForClients,
    Start(usize),
    /// It is counted as this.
    Promote(usize, Option<Kind>),
    Wake(usize),
}

/// The pair, and all that goes on around it.
pub(crate) struct Driver {
    pub(crate) world: Arc<World>,
    pub(crate) nodes: Arc<[Node; 2]>,
    pub(crate) link: Link,
    pub(crate) daemons: [Option<Daemon>; 2],
    pub(crate) frozen: [bool; 2],
    pub(crate) chance: Prng,
    later: Vec<(Instant, Follow)>,
    pub(crate) orders: Vec<JoinHandle<()>>,
    lives: u64,
    replayer: mpsc::Sender<std::path::PathBuf>,
    pub(crate) folder: std::path::PathBuf,
    pub(crate) seed: u64,
    records: bool,
    versions: Versions,
    began: Instant,
    length: Duration,
    faults: u64,
    stopped: Arc<AtomicBool>,
    served: Instant,
}

/// Inside the cage.
///
/// # Errors
/// Why it cannot run here.
pub(crate) fn run(arguments: &Arguments, seed: u64, folder: &Path) -> Result<u8, String> {
    let stopped = Arc::new(AtomicBool::new(false));
    let asked = stopped.clone();
    std::thread::spawn(move || {
        // The process outside closes this when it is interrupted, or gone.
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        asked.store(true, Ordering::SeqCst);
    });
    let versions = Versions::new(arguments, seed)?;
    let world = Arc::new(World::new());
    let link = Link::new(seed, world.clone())?;
    let nodes =
        Arc::new([0, 1].map(|index| Node::new(index, folder, link.namespaces[index].enter())));
    make_files(folder, &nodes).map_err(|error| format!("{}: {error}", folder.display()))?;
    let (replayer, replays) = replays(&world);
    let mut driver = Driver {
        world: world.clone(),
        nodes,
        link,
        daemons: [None, None],
        frozen: [false; 2],
        chance: Prng::new(seed, 1),
        later: Vec::new(),
        orders: Vec::new(),
        lives: 0,
        replayer,
        folder: folder.to_owned(),
        seed,
        records: !arguments.no_record && !versions.are_two(),
        versions,
        began: Instant::now(),
        length: Duration::from_secs_f64(arguments.minutes * 60.0),
        faults: 0,
        stopped,
        served: Instant::now(),
    };
    println!("seed {seed}: {} minutes, in {}", arguments.minutes, folder.display());
    driver.first_sync()?;
    let clients: Vec<JoinHandle<()>> = (0..CLIENTS)
        .map(|index| {
            let addresses = [0, 1].map(|at: usize| driver.nodes[at].nbd(index >= FIRST_FAR));
            let worker = Worker::new(index, world.clone(), addresses, seed);
            let third = driver.link.third.path();
            std::thread::spawn(move || worker.run(&third))
        })
        .collect();
    driver.watch();
    driver.torture();
    if driver.world.violation().is_none() {
        driver.end(clients);
    }
    // The last recordings.
    drop(std::mem::replace(&mut driver.replayer, mpsc::channel().0));
    let _ = replays.join();
    driver.total();
    Ok(match driver.world.violation() {
        None if driver.a_fault_is_missing() => VIOLATION,
        None => 0,
        Some(violation) => {
            let _ = std::fs::write(folder.join(KEEP), "");
            report::print(&driver, &violation);
            VIOLATION
        }
    })
}

fn make_files(folder: &Path, nodes: &[Node; 2]) -> std::io::Result<()> {
    let mut text = "resource r0 {\n    net { protocol C; ping-int 1; ping-timeout 9; timeout 9; \
                    connect-int 1; }\n    disk { c-min-rate 20M; }\n    volume 0 { device minor 0; \
                    meta-disk internal; }\n"
        .to_owned();
    for (node, address) in nodes.iter().zip(ADDRESSES) {
        std::fs::create_dir(&node.run_dir)?;
        std::fs::File::create(&node.disk)?.set_len(DISK)?;
        text.push_str(&format!(
            "    on {} {{ node-id {}; address {address}:7789; volume 0 {{ disk {}; }} }}\n",
            node.name(),
            node.index,
            node.disk.display()
        ));
    }
    text.push_str("}\n");
    std::fs::write(folder.join("tandem.conf"), text)
}

/// Replays recordings that are complete, and removes them.
fn replays(world: &Arc<World>) -> (mpsc::Sender<std::path::PathBuf>, JoinHandle<()>) {
    let (sender, recordings) = mpsc::channel::<std::path::PathBuf>();
    let world = world.clone();
    let thread = std::thread::spawn(move || {
        for folder in recordings {
            let path = folder.join("r0.record");
            // A daemon that was killed before `up` has none.
            let Ok(file) = std::fs::File::open(&path) else { continue };
            match tandem::io::replay::replay(BufReader::new(file)) {
                Ok(replayed) => {
                    world.tally.add(Kind::Replay, 1, replayed.events);
                    Counts::add(&world.counts.replayed, replayed.events);
                    let _ = std::fs::remove_dir_all(&folder);
                }
                Err(text) => {
                    world.violate(None, format!("{}: {text}", path.display()));
                }
            }
        }
    });
    (sender, thread)
}

impl Driver {
    /// Both disks are blank and equal, and alice is Primary.
    fn first_sync(&mut self) -> Result<(), String> {
        for node in 0..2 {
            self.start(node)?;
            let made = self.nodes[node].adm(&["create-md", "r0"], QUESTION);
            let up = give(Order::Up, &self.nodes[node], &self.world);
            if made.code != 0 || up.code != 0 {
                return Err(format!("{made:?} {up:?}"));
            }
        }
        let alice = &self.nodes[0];
        let begun = Instant::now();
        loop {
            let wait = ["wait-connect", "--wfc-timeout", "30", "r0"];
            let connected = alice.adm(&wait, Duration::from_secs(40));
            let skipped = alice.adm(&["new-current-uuid", "--clear-bitmap", "r0"], QUESTION);
            let primary = give(Order::Primary, alice, &self.world);
            if primary.code == 0 {
                return Ok(());
            }
            // A machine that is busy with other things loses the connection now and then.
            if begun.elapsed() > Duration::from_secs(60) {
                let end = alice.log_end(30);
                return Err(format!("{connected:?} {skipped:?} {primary:?}\n{end}"));
            }
        }
    }

    /// Starts a daemon that does not run, and brings its resource up.
    pub(crate) fn start(&mut self, node: usize) -> Result<(), String> {
        if self.daemons[node].is_some() {
            return Ok(());
        }
        self.choose_version(node)?;
        self.lives += 1;
        let record = self
            .records
            .then(|| self.folder.join(format!("record-{}-{}", NAMES[node], self.lives)));
        self.daemons[node] = Some(self.nodes[node].start(record)?);
        self.frozen[node] = false;
        Ok(())
    }

    /// The next daemon of this node is of one of the versions.
    ///
    /// # Errors
    /// Its files are not there.
    pub(crate) fn choose_version(&mut self, node: usize) -> Result<(), String> {
        let mixed = self.versions.choose(&self.nodes[node]).map_err(|error| error.to_string())?;
        if self.versions.are_two() {
            self.world.tally.add(Kind::Version, 1, u64::from(mixed));
        }
        Ok(())
    }

    pub(crate) fn start_up(&mut self, node: usize) {
        match self.start(node) {
            Ok(()) => {
                give(Order::Up, &self.nodes[node], &self.world);
            }
            Err(text) => self.world.violate(None, text),
        }
    }

    /// Its process is gone: what the book makes of that.
    fn ended(&mut self, node: usize, daemon_record: Option<std::path::PathBuf>) {
        let mut book = self.world.book();
        book.ended(node);
        let step = book.step();
        drop(book);
        self.frozen[node] = false;
        if same_generation(&self.nodes[node], &self.nodes[1 - node]) {
            self.world.book().shared(node, step);
        }
        if let Some(record) = daemon_record {
            let _ = self.replayer.send(record);
        }
    }

    pub(crate) fn kill(&mut self, node: usize) {
        if let Some(daemon) = self.daemons[node].take() {
            let record = daemon.record.clone();
            daemon.kill();
            self.ended(node, record);
        }
    }

    pub(crate) fn terminate(&mut self, node: usize) {
        if let Some(daemon) = self.daemons[node].take() {
            let record = daemon.record.clone();
            if let Err(text) = daemon.terminate() {
                self.world.violate(None, format!("{}'s tandemd {text}", NAMES[node]));
            }
            self.ended(node, record);
        }
    }

    pub(crate) fn wake(&mut self, node: usize) {
        if let Some(daemon) = self.daemons[node].as_ref().filter(|_| self.frozen[node]) {
            daemon.wake();
        }
        self.frozen[node] = false;
    }

    /// Orders on a thread of their own, for they may wait for what is broken; counted as `kind`.
    pub(crate) fn order(&mut self, kind: Option<Kind>, orders: Vec<(usize, Order)>) {
        let (nodes, world) = (self.nodes.clone(), self.world.clone());
        self.orders.push(std::thread::spawn(move || {
            for (node, order) in orders {
                let said = give(order, &nodes[node], &world);
                if let Some(kind) = kind {
                    world.tally.add(kind, 0, u64::from(said.code == 0));
                }
            }
        }));
    }

    pub(crate) fn line(&self, text: &str) {
        let began = self.began.elapsed().as_secs_f64();
        let left = self.length.as_secs_f64() - began;
        let counts = &self.world.counts;
        println!(
            "{began:7.1} s, {left:6.1} left, {:7} ops, {:4} faults, {:3} resyncs  {text}",
            Counts::get(&counts.operations),
            self.faults,
            Counts::get(&counts.resyncs),
        );
    }

    /// Asks again and again who is Primary and in sync.
    fn watch(&self) {
        let (nodes, world) = (self.nodes.clone(), self.world.clone());
        std::thread::spawn(move || {
            let mut synced = [true; 2];
            while world.mode() != Mode::Stop {
                for node in nodes.iter() {
                    let step = world.book().step();
                    let Some(state) = node.state() else { continue };
                    if state.is_primary() && state.in_sync() {
                        world.book().shared(node.index, step);
                    }
                    let syncs = state.replication == "SyncTarget";
                    if syncs && synced[node.index] {
                        Counts::add(&world.counts.resyncs, 1);
                    }
                    synced[node.index] = !syncs;
                    if state.failed {
                        world.violate(None, format!("{} has failed", node.name()));
                    }
                }
                std::thread::sleep(Duration::from_millis(150));
            }
        });
    }

    /// It is over: by the clock, by an interruption, or for something is wrong.
    pub(crate) fn is_over(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
            || self.began.elapsed() >= self.length
            || self.world.violation().is_some()
    }

    fn torture(&mut self) {
        let mut episode = 0;
        while !self.is_over() {
            episode += 1;
            let count = self.chance.range(4, 12);
            self.line(&format!("episode {episode}: {count} faults"));
            self.world.calm.store(false, Ordering::SeqCst);
            self.world.set_mode(Mode::Run);
            // Some work in fine weather.
            self.wait(Duration::from_millis(self.chance.clone().range(300, 1500)));
            for _ in 0..count {
                if self.is_over() {
                    break;
                }
                let primary = self.primary();
                let fault = Fault::draw(&mut self.chance, primary);
                self.faults += 1;
                self.line(&fault.to_string());
                self.strike(fault);
                let pause = self.chance.range(50, 1800);
                self.wait(Duration::from_millis(pause));
            }
            if self.world.violation().is_none() && !self.stopped.load(Ordering::SeqCst) {
                self.mend_and_compare();
            }
        }
    }

    /// Who serves, if somebody does.
    pub(crate) fn primary(&self) -> Option<usize> {
        let primary = |node: &Node| {
            !self.frozen[node.index] && node.state().is_some_and(|state| state.is_primary())
        };
        (0..2).find(|at| self.daemons[*at].is_some() && primary(&self.nodes[*at]))
    }

    /// Time passes; what was to be done later is done.
    fn wait(&mut self, length: Duration) {
        let until = Instant::now() + length;
        while Instant::now() < until && self.world.violation().is_none() {
            self.follow(Instant::now());
            self.look_at_daemons();
            std::thread::sleep(Duration::from_millis(20));
        }
        if self.primary().is_some() {
            self.served = Instant::now();
        } else if self.served.elapsed() > UNSERVED {
            let node = self.chance.index(2);
            if self.daemons[node].is_some() && !self.frozen[node] {
                self.order(None, vec![(node, Order::Primary)]);
            }
        }
    }

    /// What is due by then.
    pub(crate) fn follow(&mut self, until: Instant) {
        while let Some(at) = self.later.iter().position(|(due, _)| *due <= until) {
            let (_, follow) = self.later.remove(at);
            match follow {
                Follow::FineWeather => self.weather(None),
                Follow::Start(node) => self.start_up(node),
                Follow::FineForClients => self.client_weather(None),
                Follow::Promote(node, kind)
                    if self.daemons[node].is_some() && !self.frozen[node] =>
                {
                    self.order(kind, vec![(node, Order::Primary)]);
                }
                Follow::Promote(..) => {}
                Follow::Wake(node) => {
                    self.note_the_frozen(node);
                    self.wake(node);
                }
            }
        }
    }

    /// None of them ends by itself.
    pub(crate) fn look_at_daemons(&mut self) {
        for (node, daemon) in self.daemons.iter_mut().enumerate() {
            if let Some(how) = daemon.as_mut().and_then(Daemon::has_ended) {
                let name = NAMES[node];
                self.world.violate(None, format!("{name}'s tandemd ended by itself: {how}"));
            }
        }
    }

    /// Whether the peer has given up on a node that stands still.
    fn note_the_frozen(&mut self, node: usize) {
        let other = 1 - node;
        if !self.frozen[node] || self.frozen[other] || self.daemons[other].is_none() {
            return;
        }
        let given_up =
            self.nodes[other].state().is_some_and(|state| state.connection != "Connected");
        self.world.tally.add(Kind::LongFreeze, 0, u64::from(given_up));
    }

    pub(crate) fn client_weather(&mut self, weather: Option<ClientWeather>) {
        if let Err(text) = self.link.set_clients(weather) {
            self.world.violate(None, format!("the clients' link: {text}"));
        }
    }

    pub(crate) fn weather(&mut self, weather: Option<Weather>) {
        if let Err(text) = self.link.set(weather) {
            self.world.violate(None, format!("the link: {text}"));
        }
    }

    pub(crate) fn after(&mut self, ms: u64, follow: Follow) {
        self.later.push((Instant::now() + Duration::from_millis(ms), follow));
    }

    pub(crate) fn bad_weather(&mut self, weather: Weather, ms: u64) {
        self.later.retain(|(_, follow)| !matches!(follow, Follow::FineWeather));
        self.world.tally.add(weather.kind(), 1, 0);
        self.weather(Some(weather));
        self.after(ms, Follow::FineWeather);
    }

    /// Everything that was begun has an end: the weather is fine, all daemons run.
    pub(crate) fn calm_down(&mut self) {
        self.weather(None);
        self.client_weather(None);
        let all = Instant::now() + Duration::from_secs(3600);
        self.later.retain(|(_, follow)| !matches!(follow, Follow::Promote(..)));
        self.follow(all);
        for node in 0..2 {
            self.wake(node);
            if self.daemons[node].is_none() {
                self.start_up(node);
            }
        }
        for order in std::mem::take(&mut self.orders) {
            let _ = order.join();
        }
    }

    /// Daemons whose recordings have become long are started anew, in order.
    pub(crate) fn turn_recordings(&mut self) {
        for node in 0..2 {
            let record = self.daemons[node].as_ref().and_then(|daemon| daemon.record.clone());
            let length = record.and_then(|folder| std::fs::metadata(folder.join("r0.record")).ok());
            if length.is_some_and(|length| length.len() > RECORD_MAX) {
                self.terminate(node);
                self.start_up(node);
            }
        }
    }

    /// The end in order.
    fn end(&mut self, clients: Vec<JoinHandle<()>>) {
        // Nobody waits for what stands still.
        self.weather(None);
        self.client_weather(None);
        self.later.clear();
        (0..2).for_each(|node| self.wake(node));
        self.world.set_mode(Mode::Stop);
        for client in clients {
            if client.join().is_err() {
                self.world.violate(None, "a client panicked".to_owned());
            }
        }
        for order in std::mem::take(&mut self.orders) {
            let _ = order.join();
        }
        (0..2).for_each(|node| self.terminate(node));
    }

    fn total(&self) {
        for line in self.world.tally.lines() {
            println!("{line}");
        }
        let counts = &self.world.counts;
        let get = Counts::get;
        println!(
            "{} operations, {} answered with an error, {} sessions, {} writes sent again; {} faults, \
             {} promotions, {} refusals, {} resyncs, {} split brains; given up on victims: {} \
             sectors; {} events replayed with equal actions",
            get(&counts.operations),
            get(&counts.errors),
            get(&counts.sessions),
            get(&counts.resent),
            self.faults,
            get(&counts.promotions),
            get(&counts.refused),
            get(&counts.resyncs),
            get(&counts.split_brains),
            self.world.book().victims,
            get(&counts.replayed),
        );
    }

    /// In a run of this length everything happens, and has an effect.
    fn a_fault_is_missing(&self) -> bool {
        let without = [(Kind::Replay, self.records), (Kind::Version, self.versions.are_two())];
        let without: Vec<_> = without.iter().filter(|(_, is)| !is).map(|(kind, _)| *kind).collect();
        let missing = self.world.tally.missing(&without);
        let long = self.length >= LONG && self.began.elapsed() >= self.length;
        for name in missing.iter().filter(|_| long) {
            println!("NEVER, or without an effect, in a run of this length: {name}");
        }
        long && !missing.is_empty()
    }
}
