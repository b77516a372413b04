//! A server of one export in memory, on a Unix socket: the smallest shell around the protocol.
//!
//! Reads are answered in pieces, so that every form of reply is used the way a real server does.

use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use nbd::constants::{NBD_STATE_HOLE, NBD_STATE_ZERO};
use nbd::reply::Extent;
use nbd::request::{self, Request};
use nbd::{
    BlockSizes, Checked, Errno, ExportInfo, ListedExport, LookupError, Negotiation, Replies,
    SessionParameters, Step,
};

pub(crate) const SIZE: usize = 16 << 20;
const PIECE: usize = 1 << 20;
const GRAIN: usize = 4096;

pub(crate) struct Server {
    folder: PathBuf,
    stop: Arc<AtomicBool>,
    sessions: Arc<Mutex<Vec<SessionParameters>>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves `r0` (writable), `ro` (read-only), and lists `other`, refused with a sentence.
    pub(crate) fn start() -> Server {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("nbd-test-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir(&folder).unwrap();
        let listener = UnixListener::bind(folder.join("socket")).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let disk = Arc::new(Mutex::new(vec![0; SIZE]));
        let sessions = Arc::new(Mutex::new(Vec::new()));
        let seen = sessions.clone();
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::Acquire) {
                    return;
                }
                let (stream, disk, seen) = (stream.unwrap(), disk.clone(), seen.clone());
                std::thread::spawn(move || serve(stream, &disk, &seen));
            }
        });
        Server { folder, stop, sessions, thread: Some(thread) }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.join("socket")
    }

    /// What the clients have negotiated so far.
    pub(crate) fn sessions(&self) -> Vec<SessionParameters> {
        self.sessions.lock().unwrap().clone()
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        drop(UnixStream::connect(self.socket()));
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
        drop(std::fs::remove_dir_all(&self.folder));
    }
}

/// `other` can be described but not entered: `qemu-nbd --list` gives up at a refused INFO.
fn look_up(name: &str, go: bool) -> Result<ExportInfo, LookupError> {
    let read_only = match name {
        "" | "r0" => false,
        "other" if !go => false,
        "ro" => true,
        "other" => return Err(LookupError::Policy("bob is Primary; connect there".into())),
        _ => return Err(LookupError::Unknown),
    };
    let description = "a disk in memory".into();
    Ok(ExportInfo {
        size: SIZE as u64,
        read_only,
        description,
        block: BlockSizes::default(),
        keepers: Vec::new(),
    })
}

/// Ends when the client does; a client that vanished is no failure of the server.
pub(crate) fn serve(
    mut stream: impl Read + Write,
    disk: &Mutex<Vec<u8>>,
    seen: &Mutex<Vec<SessionParameters>>,
) {
    if let Ok(Some(session)) = negotiate(&mut stream) {
        seen.lock().unwrap().push(session.clone());
        drop(transmit(&mut stream, &session, disk));
    }
}

fn negotiate(stream: &mut (impl Read + Write)) -> io::Result<Option<SessionParameters>> {
    let listed = |name: &str| ListedExport { name: name.into(), description: "in memory".into() };
    let mut negotiation =
        Negotiation::with_descriptions(vec![listed("r0"), listed("ro"), listed("other")]);
    stream.write_all(&Negotiation::greeting())?;
    loop {
        let mut bytes = vec![0; negotiation.wants()];
        stream.read_exact(&mut bytes)?;
        let mut step = negotiation.feed(&bytes);
        while let Step::Lookup { name, go } = step {
            step = negotiation.answer(look_up(&name, go));
        }
        match step {
            Step::Continue { send } => stream.write_all(&send)?,
            Step::Enter { send, session } => {
                stream.write_all(&send)?;
                return Ok(Some(session));
            }
            Step::Close { send, .. } => {
                stream.write_all(&send)?;
                return Ok(None);
            }
            Step::Lookup { .. } => unreachable!(),
        }
    }
}

fn transmit(
    stream: &mut (impl Read + Write),
    session: &SessionParameters,
    disk: &Mutex<Vec<u8>>,
) -> io::Result<()> {
    let replies = Replies::for_session(session);
    loop {
        let mut header = vec![0; request::header_length(session)];
        stream.read_exact(&mut header)?;
        let request = request::parse(&header, session).map_err(io::Error::other)?;
        let mut payload = vec![0; request.payload_length as usize];
        stream.read_exact(&mut payload)?;
        let mut out = Vec::new();
        let judged = request::judge(&request, session);
        let mut disk = disk.lock().unwrap();
        match judged {
            Ok(Checked::Disconnect) => return Ok(()),
            Ok(checked) => carry_out(&mut out, &replies, &request, checked, &payload, &mut disk),
            Err(refusal) => {
                replies.error(&mut out, request.reply_to(), refusal.errno, refusal.why);
            }
        }
        drop(disk);
        stream.write_all(&out)?;
    }
}

fn carry_out(
    out: &mut Vec<u8>,
    replies: &Replies,
    request: &Request,
    checked: Checked,
    payload: &[u8],
    disk: &mut [u8],
) {
    let to = request.reply_to();
    let start = request.offset as usize;
    match checked {
        Checked::Read { length, whole, .. } => {
            let mut read = replies.read(to, length, whole);
            read.empty(out);
            for piece in disk[start..start + length as usize].chunks(PIECE) {
                let offset = request.offset + u64::from(length - read.missing());
                if piece.iter().all(|byte| *byte == 0) {
                    let zeroes = read.hole(out, offset, piece.len() as u32).unwrap();
                    out.resize(out.len() + zeroes as usize, 0);
                } else {
                    read.data(out, offset, piece.len() as u32).unwrap();
                    out.extend_from_slice(piece);
                }
            }
            assert!(read.is_done());
        }
        Checked::Write { .. } => {
            disk[start..start + payload.len()].copy_from_slice(payload);
            replies.ok(out, to);
        }
        Checked::WriteZeroes { fast: true, .. } => {
            replies.error(out, to, Errno::ENOTSUP, "zeroing is not fast here");
        }
        Checked::WriteZeroes { length, .. } | Checked::Trim { length, .. } => {
            disk[start..start + length as usize].fill(0);
            replies.ok(out, to);
        }
        Checked::BlockStatus { length, one, .. } => {
            let extents = disk[start..start + length as usize].chunks(GRAIN).map(|grain| {
                let hole = grain.iter().all(|byte| *byte == 0);
                let flags = if hole { NBD_STATE_HOLE | NBD_STATE_ZERO } else { 0 };
                Extent { length: grain.len() as u64, flags }
            });
            replies.block_status(out, to, length, one, extents).unwrap();
        }
        Checked::Flush | Checked::Cache { .. } | Checked::Disconnect => replies.ok(out, to),
    }
}
