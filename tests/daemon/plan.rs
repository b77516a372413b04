//! What a pair is made of: its resources, disks, options, and where its daemons run.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use crate::namespace::Namespace;
use crate::pair::{DISK_SIZE, Node, Pair};

/// The usual one: resource `r0` with volume 0 of 64 MiB in a file, on 127.0.0.1.
pub(crate) struct Plan {
    net: String,
    options: String,
    /// Names, and how many volumes each has.
    resources: Vec<(&'static str, u16)>,
    /// Backing disks of r0/0 that are there already, alice's and bob's.
    disks: [Option<PathBuf>; 2],
    filled: bool,
    places: Option<[Place; 2]>,
}

/// Where a daemon runs.
struct Place {
    address: String,
    enter: Vec<String>,
}

impl Plan {
    pub(crate) fn new() -> Self {
        Self {
            net: String::new(),
            options: String::new(),
            resources: vec![("r0", 1)],
            disks: [None, None],
            filled: false,
            places: None,
        }
    }

    /// More options of the `net` section.
    pub(crate) fn net(mut self, options: &str) -> Self {
        self.net.push_str(options);
        self
    }

    /// More sections of each resource.
    pub(crate) fn sections(mut self, text: &str) -> Self {
        self.options.push_str(text);
        self
    }

    /// A silent peer is given up after 2.5 s.
    pub(crate) fn impatient(self) -> Self {
        self.net("ping-int 2; ping-timeout 5; timeout 15; connect-int 2;")
    }

    /// A node that does not run for a while, on a busy machine, is not given up.
    pub(crate) fn calm(self) -> Self {
        self.net("ping-timeout 50;")
    }

    /// Other resources, and how many volumes each has.
    pub(crate) fn resources(mut self, resources: &[(&'static str, u16)]) -> Self {
        self.resources = resources.to_vec();
        self
    }

    /// The disks hold data behind the first 8 MiB, the same on both: a resync sends no zeroes.
    pub(crate) fn filled(mut self) -> Self {
        self.filled = true;
        self
    }

    /// Backing disks of r0/0 that the caller has made.
    pub(crate) fn disks(mut self, alice: &Path, bob: &Path) -> Self {
        self.disks = [Some(alice.to_owned()), Some(bob.to_owned())];
        self
    }

    /// Each daemon in a network namespace, at an address there.
    pub(crate) fn within(mut self, places: [(&Namespace, &str); 2]) -> Self {
        self.places = Some(places.map(|(namespace, address)| Place {
            address: address.to_owned(),
            enter: namespace.enter(),
        }));
        self
    }

    /// The files and the config; nothing runs.
    pub(crate) fn blank(self) -> Pair {
        let dir = tempfile::Builder::new().prefix("tandem-").tempdir().expect("a folder");
        let config = dir.path().join("tandem.conf");
        let ports = match self.places {
            Some(_) => (7789..).take(self.resources.len() * 2).collect(),
            None => free_ports(self.resources.len() * 2),
        };
        let node = |index: usize| {
            let name = ["alice", "bob"][index];
            let run_dir = dir.path().join(name);
            fs::create_dir(&run_dir).expect("a run folder");
            let own = dir.path().join(format!("{name}.img"));
            Node {
                name,
                port: ports[index],
                run_dir,
                disk: self.disks[index].clone().unwrap_or(own),
                config: config.clone(),
                enter: self.places.as_ref().map_or(vec![], |places| places[index].enter.clone()),
                arguments: Vec::new(),
                program: None,
                daemon: None,
            }
        };
        let (alice, bob) = (node(0), node(1));
        let mut text = String::new();
        for (resource, ports) in self.resources.iter().zip(ports.chunks(2)) {
            text.push_str(&self.resource(*resource, [&alice, &bob], ports));
        }
        fs::write(&config, text).expect("the config is written");
        Pair { alice, bob, dir, filled: self.filled }
    }

    /// The definition of a resource; makes its backing files.
    fn resource(&self, (name, volumes): (&str, u16), nodes: [&Node; 2], ports: &[u16]) -> String {
        let mut text = format!("resource {name} {{\n    net {{ protocol C; {} }}\n", self.net);
        if !self.options.is_empty() {
            let _ = writeln!(text, "    {}", self.options);
        }
        for (id, node) in nodes.iter().enumerate() {
            let address = match &self.places {
                Some(places) => &places[id].address,
                None => "127.0.0.1",
            };
            let _ = write!(
                text,
                "    on {} {{\n        node-id {id}; address {address}:{};\n",
                node.name, ports[id]
            );
            for volume in 0..volumes {
                let disk = disk_of(node, name, volume);
                if !disk.exists() {
                    let mut file = File::create(&disk).expect("a disk");
                    file.set_len(DISK_SIZE).expect("a size");
                    if self.filled {
                        file.seek(SeekFrom::Start(8 << 20)).expect("a place");
                        for _ in 8..DISK_SIZE >> 20 {
                            file.write_all(&[0x5a; 1 << 20]).expect("data");
                        }
                    }
                }
                let first = self.resources.iter().position(|(other, _)| *other == name);
                let minor = first.unwrap_or(0) * 16 + usize::from(volume);
                let _ = writeln!(
                    text,
                    "        volume {volume} {{ device minor {minor}; disk {}; \
                     meta-disk internal; }}",
                    disk.display()
                );
            }
            text.push_str("    }\n");
        }
        text.push_str("}\n");
        text
    }

    /// Both daemons run, with new metadata and connected; nobody was promoted yet.
    pub(crate) fn connected(self) -> Pair {
        self.blank().bring_up()
    }

    /// alice is Primary, both disks are UpToDate.
    pub(crate) fn in_sync(self) -> Pair {
        self.connected().sync_from_alice()
    }
}

/// The backing disk of a volume on a node.
pub(crate) fn disk_of(node: &Node, resource: &str, volume: u16) -> PathBuf {
    if resource == "r0" && volume == 0 {
        return node.disk.clone();
    }
    node.run_dir.with_file_name(format!("{}-{resource}-{volume}.img", node.name))
}

/// Ports that nobody had a moment ago.
pub(crate) fn free_ports(count: usize) -> Vec<u16> {
    let listening: Vec<TcpListener> =
        (0..count).map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port")).collect();
    listening.iter().map(|one| one.local_addr().expect("it is bound").port()).collect()
}
