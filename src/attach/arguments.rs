//! The command line of `tandem-attach`, and the options that `tandemadm device attach` shares.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Parser};

use super::Server;
use crate::control::arguments::{folder, whole_usage};
use crate::control::target::Target;
use crate::resource::VolumeNumber;

/// A volume of a resource: `r0/1`; `r0` is volume 0.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Volume {
    /// The resource's name.
    pub resource: String,
    /// The volume.
    pub number: VolumeNumber,
}

impl fmt::Display for Volume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.resource, self.number)
    }
}

impl FromStr for Volume {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse::<Target>()? {
            Target::One { resource, peer: None, volume } => {
                Ok(Self { resource, number: volume.unwrap_or(0) })
            }
            _ => Err(format!("'{text}' is not one volume: r0 (its volume 0) or r0/1")),
        }
    }
}

/// N of `/dev/nbdN`.
fn device_index(text: &str) -> Result<u32, String> {
    let number = text.strip_prefix("/dev/").unwrap_or(text).strip_prefix("nbd");
    let plain = number.filter(|number| number.bytes().all(|byte| byte.is_ascii_digit()));
    let index = plain.and_then(|number| number.parse().ok()).filter(|index| *index < 1 << 20);
    index.ok_or_else(|| format!("'{text}' is no device of the kernel's NBD driver: /dev/nbd0"))
}

/// How a volume is attached.
#[derive(Clone, Debug, Args)]
pub struct AttachOptions {
    /// The servers of the export: HOST, HOST:PORT, [IPV6]:PORT or unix:PATH, with commas between. The one that is
    /// Primary is found by asking [default: the daemon of this node].
    #[arg(long, value_name = "SERVER,...", value_delimiter = ',', env = "TANDEM_SERVERS")]
    pub servers: Vec<Server>,
    /// The device [default: one that is free; with tandemadm on a node of the volume: that of the
    /// configuration].
    #[arg(long, value_name = "/dev/nbdN", value_parser = device_index)]
    pub device: Option<u32>,
    /// So many connections to the server [default: 1].
    #[arg(long, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u8).range(1..=16))]
    pub connections: Option<u8>,
    /// A request that is not answered in this time ends its connection and is sent again over a new
    /// one: the longest that a crash of the server adds to a promotion [default: 5; what a device has that
    /// is taken over].
    #[arg(long, value_name = "SECONDS")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub timeout: Option<u32>,
    /// Without any server, I/O waits so long, and fails after it [default: 300; what a device has that is
    /// taken over].
    #[arg(long, value_name = "SECONDS")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=31_536_000))]
    pub dead_conn_timeout: Option<u32>,
    /// The logical block size: 512, 1024, 2048 or 4096 [default: 512, as with nbd-client, or the
    /// smallest that the server takes].
    #[arg(long, value_name = "BYTES", value_parser = block_size)]
    pub block_size: Option<u32>,
    /// Without the kernel's NBD driver: the guard serves a file of FUSE, with a loop device over it.
    /// All I/O fails when that guard is killed.
    #[arg(long, conflicts_with_all = ["device", "connections", "block_size"])]
    pub fuse: bool,
    /// With --fuse: only the file.
    #[arg(long, requires = "fuse")]
    pub no_loop: bool,
}

impl AttachOptions {
    /// Connections of a new device.
    #[must_use]
    pub fn connections(&self) -> u8 {
        self.connections.unwrap_or(1)
    }

    /// Seconds that a request of a new device may take.
    #[must_use]
    pub fn timeout(&self) -> u32 {
        self.timeout.unwrap_or(5)
    }

    /// Seconds that I/O of a new device waits without any server.
    #[must_use]
    pub fn dead_conn_timeout(&self) -> u32 {
        self.dead_conn_timeout.unwrap_or(300)
    }

    /// The same as words of a command line. What was not given is not among them: a device that is taken
    /// over keeps what it has of that.
    #[must_use]
    pub fn words(&self) -> Vec<String> {
        let mut words = Vec::new();
        words.extend(self.connections.map(|connections| format!("--connections={connections}")));
        words.extend(self.timeout.map(|seconds| format!("--timeout={seconds}")));
        let dead = self.dead_conn_timeout;
        words.extend(dead.map(|seconds| format!("--dead-conn-timeout={seconds}")));
        words.extend(self.fuse.then(|| "--fuse".to_owned()));
        words.extend(self.no_loop.then(|| "--no-loop".to_owned()));
        if !self.servers.is_empty() {
            let servers: Vec<String> = self.servers.iter().map(Server::to_string).collect();
            words.push(format!("--servers={}", servers.join(",")));
        }
        words.extend(self.device.map(|index| format!("--device=/dev/nbd{index}")));
        words.extend(self.block_size.map(|bytes| format!("--block-size={bytes}")));
        words
    }
}

fn block_size(text: &str) -> Result<u32, String> {
    let bytes = text.parse::<u32>().ok().filter(|bytes| [512, 1024, 2048, 4096].contains(bytes));
    bytes.ok_or_else(|| "a block size is 512, 1024, 2048 or 4096".to_owned())
}

/// Attaches a replicated volume as the kernel's block device, and keeps it attached.
#[derive(Clone, Debug, Parser)]
#[command(name = "tandem-attach", version)]
#[command(
    after_help = "Runs until the device is detached (`tandemadm device detach`). Ended otherwise, \
    it leaves the device attached; started again, it takes it over. Exit codes: 0 detached; 1 usage; \
    10 failure; 20 no server answers."
)]
pub struct AttachArguments {
    /// How.
    #[command(flatten)]
    pub options: AttachOptions,
    /// Where tandemd has its sockets, and where it is remembered what is attached.
    #[arg(long, value_name = "DIR", env = "TANDEM_RUN_DIR", default_value = "/run/tandem")]
    #[arg(value_parser = folder())]
    pub run_dir: PathBuf,
    /// Leave the terminal once the device is there; the log goes to syslog.
    #[arg(long)]
    pub background: bool,
    /// r0 (its volume 0) or r0/1
    #[arg(value_name = "VOLUME")]
    pub volume: Volume,
}

impl AttachArguments {
    /// The servers, or the daemon of this node.
    #[must_use]
    pub fn servers(&self) -> Vec<Server> {
        match self.options.servers.as_slice() {
            [] => vec![Server::Unix(self.run_dir.join("nbd.sock"))],
            servers => servers.to_vec(),
        }
    }
}

/// Reads a command line, program name first.
///
/// # Errors
/// Help, the version, and every misuse: what to print, and the exit code.
pub fn parse<I, T>(words: I) -> Result<AttachArguments, (String, i32)>
where
    I: IntoIterator<Item = T>,
    T: Into<OsString> + Clone,
{
    AttachArguments::try_parse_from(words).map_err(|mut error| {
        whole_usage(&mut error, command());
        (error.to_string(), i32::from(error.use_stderr()))
    })
}

/// The command line, for the manual.
#[must_use]
pub fn command() -> clap::Command {
    <AttachArguments as clap::CommandFactory>::command()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(words: &str) -> Result<AttachArguments, (String, i32)> {
        parse(format!("tandem-attach {words}").split_whitespace())
    }

    #[test]
    fn options_become_the_same_options_as_words() {
        let given = "--servers=alice:10809,unix:/run/nbd.sock --device /dev/nbd3 --connections 4 \
                     --timeout 2 --dead-conn-timeout 60 --block-size 4096 r0/1";
        let first = read(given).unwrap();
        assert_eq!(first.options.device, Some(3));
        assert_eq!(first.volume.to_string(), "r0/1");
        let words = first.options.words().join(" ");
        let second = read(&format!("{words} r0/1")).unwrap();
        assert_eq!(second.options.words(), first.options.words());
        assert_eq!(first.options.words().len(), 6);
        let none = read("r0").unwrap().options;
        assert_eq!(none.words(), [""; 0], "what is not given changes no device");
        assert_eq!((none.connections(), none.timeout(), none.dead_conn_timeout()), (1, 5, 300));
    }

    #[test]
    fn without_servers_it_is_the_daemon_of_this_node() {
        let local = read("--run-dir /run/x r0").unwrap();
        assert_eq!(local.servers(), ["unix:/run/x/nbd.sock".parse().unwrap()]);
        assert_eq!(local.volume.to_string(), "r0/0");
        // The guard leaves the folder that it was started in.
        let here = std::env::current_dir().unwrap();
        assert_eq!(read("--run-dir x/y r0").unwrap().run_dir, here.join("x/y"));
    }

    #[test]
    fn misuse_is_exit_1_and_says_what_is_right() {
        for (words, what) in [
            ("", "VOLUME"),
            ("all", "not one volume"),
            ("r0:bob", "not one volume"),
            ("--device /dev/sda r0", "/dev/nbd0"),
            ("--device nbd+1 r0", "/dev/nbd0"),
            ("--connections 0 r0", "1..=16"),
            ("--timeout 0 r0", "1..=3600"),
            ("--dead-conn-timeout 0 r0", "1..=31536000"),
            ("--block-size 513 r0", "512, 1024"),
            ("--servers alice:x r0", "a port"),
        ] {
            let (text, code) = read(words).unwrap_err();
            assert!(code == 1 && text.contains(what), "{words}: {code} {text}");
        }
        assert_eq!(read("--help").unwrap_err().1, 0);
        // Also where the environment gives them.
        let (text, _) = read("--servers alice").unwrap_err();
        assert!(text.contains("Usage: tandem-attach [OPTIONS] <VOLUME>\n"), "{text}");
    }
}
