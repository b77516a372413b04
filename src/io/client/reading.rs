//! The receiving half of a client: a byte stream into requests and their pieces.

use nbd::request::{ReplyTo, judge, parse};
use nbd::{Checked, Errno, request};

use crate::resource::{Event, Op, PAYLOAD_MAX, Payload};

use super::devices::still_there;
use super::ready::Ready;
use super::request::{Kind, Piece, Request, Zeroes};
use super::{Client, Desk, End, STAGING, StatusAsked, UnderWay};
use crate::io::buffer::{Direction, PAGE, Part, class_size, part_of};
use crate::io::context::{Context, Purpose};

/// The rest of a payload of at least so many bytes is received straight into its buffer.
const DIRECT_MIN: usize = 64 << 10;
/// After a large payload the next receive asks for a header and little more, so that the next
/// large payload does not have to be copied out of the staging.
const PEEK: usize = 4096;

/// What the next byte of the stream belongs to.
#[derive(Debug)]
pub(super) enum Reading {
    /// A request's header.
    Header,
    /// The payload of a write.
    Upload(Upload),
    /// No byte: a read whose pieces are not all under way yet.
    Download(Download),
    /// No byte: a trim or zeroes whose unaligned edges are not under way yet.
    Edges(Edges),
    /// The payload of a refused request.
    Skip { left: u32, to: ReplyTo, refusal: request::Refusal },
}

/// A write that arrives.
#[derive(Debug)]
pub(super) struct Upload {
    key: u64,
    fua: bool,
    /// Start of the piece at hand, bytes of the export.
    offset: u64,
    /// Bytes of the request from there on.
    left: u32,
    large: bool,
    /// The buffer of the piece at hand; `None` until it is reserved.
    pub(super) payload: Option<Payload>,
    filled: u32,
}

/// A read that is given out in pieces.
#[derive(Debug)]
pub(super) struct Download {
    key: u64,
    offset: u64,
    left: u32,
}

/// The parts of a trim or zeroes that are no whole page: they are writes of zeroes.
#[derive(Debug)]
pub(super) struct Edges {
    key: u64,
    fua: bool,
    /// Offset and length; nothing is left where both lengths are 0.
    parts: [(u64, u32); 2],
}

/// Cuts a range into its first part page, whole pages, and its last part page: offset and length.
fn cut(offset: u64, length: u64) -> [(u64, u64); 3] {
    let (page, end) = (PAGE as u64, offset + length);
    let (start, stop) = (offset.next_multiple_of(page), end - end % page);
    if start > stop {
        // Within one page.
        return [(offset, length), (end, 0), (end, 0)];
    }
    [(offset, start - offset), (start, stop - start), (stop, end - stop)]
}

/// Bytes from `offset` to the next multiple of `PAYLOAD_MAX`, at most `left`.
fn piece_length(offset: u64, left: u32) -> u32 {
    // Below PAYLOAD_MAX, so the cast holds.
    let into = (offset % u64::from(PAYLOAD_MAX)) as u32;
    left.min(PAYLOAD_MAX - into)
}

/// Bytes of the whole pages around a piece, and where in them the piece starts. A piece does not
/// cross a multiple of 1 MiB, so neither do its pages.
fn hull(offset: u64, length: u32) -> (usize, u32) {
    let head = (offset % PAGE as u64) as u32;
    ((head as usize + length as usize).next_multiple_of(PAGE), head)
}

impl Client {
    pub(super) fn staged(&self) -> usize {
        self.end - self.start
    }

    /// The result of a receive.
    pub(super) fn take_bytes(&mut self, io: &Context, result: i32) -> Result<(), End> {
        let Some(UnderWay { direct, cancelled, .. }) = self.receiving.take() else {
            return Ok(());
        };
        if self.leaving.is_some() {
            return Ok(());
        }
        match result {
            // It was asked how far it is, and nothing had come.
            n if -n == libc::ECANCELED && cancelled => {
                self.mute = true;
                return Ok(());
            }
            0 => return Err(End::Lost("it closed the connection".to_owned())),
            n if n < 0 => {
                return Err(End::Lost(std::io::Error::from_raw_os_error(-n).to_string()));
            }
            _ => {}
        }
        self.heard = io.now;
        match &mut self.reading {
            Reading::Upload(upload) if direct => upload.filled += result as u32,
            _ => self.end += result as usize,
        }
        Ok(())
    }

    /// Takes from the staged bytes whatever can be taken now.
    pub(super) fn advance(&mut self, io: &mut Context, desk: &mut Desk) -> Result<(), End> {
        if self.receiving.is_some() {
            return Ok(());
        }
        while self.leaving.is_none() {
            let goes_on = match &self.reading {
                Reading::Header => self.header(io, desk)?,
                Reading::Upload(_) => self.upload(io, desk)?,
                Reading::Download(_) => self.download(io, desk)?,
                Reading::Edges(_) => self.edges(io, desk)?,
                Reading::Skip { .. } => self.skip(),
            };
            if !goes_on {
                break;
            }
        }
        Ok(())
    }

    fn header(&mut self, io: &mut Context, desk: &mut Desk) -> Result<bool, End> {
        let length = request::header_length(&self.parameters);
        if desk.held || self.is_full() {
            self.paused = true;
            return Ok(false);
        }
        if self.staged() < length {
            return Ok(false);
        }
        let bytes = io.pool.bytes(part_of(self.staging, self.start, length));
        let bytes = bytes.map_err(|error| End::Lost(error.to_string()))?;
        let request =
            parse(bytes, &self.parameters).map_err(|error| End::Lost(error.to_string()))?;
        self.start += length;
        self.peek = false;
        let to = request.reply_to();
        let judged = judge(&request, &self.parameters);
        if !matches!(judged, Ok(Checked::Disconnect)) {
            still_there(&mut self.paused, &self.fd)?;
        }
        match judged {
            Ok(checked) => self.begin(io, desk, to, checked)?,
            Err(refusal) if request.payload_length > 0 => {
                self.reading = Reading::Skip { left: request.payload_length, to, refusal };
            }
            Err(refusal) => self.refuse(to, refusal.errno, refusal.why),
        }
        Ok(true)
    }

    pub(super) fn refuse(&mut self, to: ReplyTo, errno: Errno, why: &str) {
        let replies = self.replies;
        self.push(|out| replies.error(out, to, errno, why));
    }

    fn accept(&mut self, to: ReplyTo) {
        let replies = self.replies;
        self.push(|out| replies.ok(out, to));
    }

    fn begin(
        &mut self,
        io: &mut Context,
        desk: &mut Desk,
        to: ReplyTo,
        checked: Checked,
    ) -> Result<(), End> {
        match checked {
            Checked::Disconnect => return Err(End::Goodbye),
            Checked::Read { offset, length, whole } => {
                let mut reply = self.replies.read(to, length, whole);
                if length == 0 {
                    self.push(|out| reply.empty(out));
                    return Ok(());
                }
                let ordered = reply.in_order();
                let ready = Ready::default();
                let end = offset + u64::from(length);
                let key = self.add(to, Kind::Read { reply, ordered, next: offset, end, ready });
                self.reading = Reading::Download(Download { key, offset, left: length });
            }
            Checked::Write { length: 0, .. }
            | Checked::Trim { length: 0, .. }
            | Checked::WriteZeroes { length: 0, .. }
            | Checked::Cache { .. } => self.accept(to),
            Checked::Write { offset, length, fua } => {
                let key = self.add(to, Kind::Plain);
                self.reading = Reading::Upload(Upload {
                    key,
                    fua,
                    offset,
                    left: length,
                    large: length as usize >= DIRECT_MIN,
                    payload: None,
                    filled: 0,
                });
            }
            Checked::Flush => {
                let key = self.add(to, Kind::Plain);
                self.submit(io, desk, key, (0, 0, 0), Op::Flush);
                self.issued(io, key);
            }
            Checked::WriteZeroes { fast: true, no_hole, .. }
                if !io.fast_zeroes.contains(&(self.volume, no_hole)) =>
            {
                self.refuse(to, Errno::ENOTSUP, "zeroes would be written here");
            }
            Checked::Trim { offset, length, fua } => {
                self.zero(io, desk, to, (offset, length), (false, fua));
            }
            Checked::WriteZeroes { offset, length, fua, no_hole, .. } => {
                self.zero(io, desk, to, (offset, length), (no_hole, fua));
            }
            Checked::BlockStatus { offset, length, one } => {
                self.asked += 1;
                let (session, volume) = (self.id, self.volume);
                let asked = StatusAsked { session, volume, offset, length, to, one };
                desk.asked.push_back(asked);
            }
        }
        Ok(())
    }

    /// Whole pages are zeroed by the core; the edges are given out first, when there is room.
    fn zero(
        &mut self,
        io: &mut Context,
        desk: &mut Desk,
        to: ReplyTo,
        (offset, length): (u64, u64),
        (no_hole, fua): (bool, bool),
    ) {
        let [head, (offset, left), tail] = cut(offset, length);
        let edges = head.1 + tail.1 > 0;
        let key = self.add(to, Kind::Zeroes(Zeroes { offset, left, edges, no_hole, fua }));
        if edges {
            // Both are below a page.
            let parts = [(head.0, head.1 as u32), (tail.0, tail.1 as u32)];
            self.reading = Reading::Edges(Edges { key, fua, parts });
        } else {
            self.issue_zeroes(io, desk, key);
        }
    }

    /// Gives the edges of a trim or zeroes to the core, if a buffer for each can be reserved.
    fn edges(&mut self, io: &mut Context, desk: &mut Desk) -> Result<bool, End> {
        let first = self.holds_nothing();
        let Reading::Edges(edges) = &mut self.reading else { return Ok(false) };
        let (key, fua) = (edges.key, edges.fua);
        let Some(part) = edges.parts.iter_mut().find(|(_, length)| *length > 0) else {
            self.reading = Reading::Header;
            if let Some(Request { kind: Kind::Zeroes(zeroes), .. }) = self.requests.get_mut(&key) {
                zeroes.edges = false;
            }
            self.issue_zeroes(io, desk, key);
            self.finish_if_done(io, key)?;
            return Ok(true);
        };
        if !desk.reserve(io, self.id, PAGE as u64, first) {
            self.paused = true;
            return Ok(false);
        }
        let (offset, length) = std::mem::take(part);
        still_there(&mut self.paused, &self.fd)?;
        let buffer = io.pool.take(Part::Client, PAGE);
        let head = (offset % PAGE as u64) as u32;
        let payload = Payload { offset: head, length, ..buffer };
        io.pool.bytes_mut(payload).map_err(|error| End::Lost(error.to_string()))?.fill(0);
        self.submit(io, desk, key, (offset, length, 0), Op::Write { offset, payload, fua });
        Ok(true)
    }

    fn add(&mut self, to: ReplyTo, kind: Kind) -> u64 {
        self.last_key += 1;
        self.requests.insert(self.last_key, Request::new(to, kind));
        self.last_key
    }

    fn issued(&mut self, io: &Context, key: u64) {
        if let Some(request) = self.requests.get_mut(&key) {
            request.issued = true;
        }
        self.begin_waiting(io);
    }

    /// Gives a piece to the core; `span`: offset, length, and bytes that are reserved for a read.
    pub(super) fn submit(
        &mut self,
        io: &mut Context,
        desk: &mut Desk,
        key: u64,
        span: (u64, u32, u64),
        op: Op,
    ) {
        let (offset, length, reserved) = span;
        if let Some(request) = self.requests.get_mut(&key) {
            request.outstanding += 1;
        }
        let piece = Piece { session: self.id, key, offset, length, reserved };
        let request = desk.number(piece);
        let (session, volume) = (self.id, self.volume);
        io.events.push_back(Event::Request { session, request, volume, op });
    }

    /// Fills the buffer of the piece at hand from the staging; full, it goes to the core.
    fn upload(&mut self, io: &mut Context, desk: &mut Desk) -> Result<bool, End> {
        let (id, staged, first) = (self.id, self.staged(), self.holds_nothing());
        let Reading::Upload(upload) = &mut self.reading else { return Ok(false) };
        let length = piece_length(upload.offset, upload.left);
        let payload = match upload.payload {
            Some(payload) => payload,
            None => {
                let (bytes, head) = hull(upload.offset, length);
                if !desk.reserve(io, id, class_size(bytes) as u64, first) {
                    self.paused = true;
                    return Ok(false);
                }
                still_there(&mut self.paused, &self.fd)?;
                let buffer = io.pool.take(Part::Client, bytes);
                upload.filled = 0;
                *upload.payload.insert(Payload { offset: head, length, ..buffer })
            }
        };
        let count = staged.min((length - upload.filled) as usize);
        if count > 0 {
            let from = part_of(self.staging, self.start, count);
            let into = part_of(payload, upload.filled as usize, count);
            io.pool.copy(from, into).map_err(|error| End::Lost(error.to_string()))?;
            self.start += count;
            upload.filled += count as u32;
        }
        if upload.filled < length {
            return Ok(false);
        }
        let (key, offset, fua) = (upload.key, upload.offset, upload.fua);
        upload.payload = None;
        upload.offset += u64::from(length);
        upload.left -= length;
        if upload.left == 0 {
            self.peek = upload.large;
            self.reading = Reading::Header;
            self.issued(io, key);
        }
        let op = Op::Write { offset, payload, fua };
        self.submit(io, desk, key, (offset, length, 0), op);
        Ok(true)
    }

    /// Gives the next piece of a read to the core, if a buffer for it can be reserved.
    fn download(&mut self, io: &mut Context, desk: &mut Desk) -> Result<bool, End> {
        let first = self.holds_nothing();
        let Reading::Download(download) = &mut self.reading else { return Ok(false) };
        let key = download.key;
        let failed = self.requests.get(&key).is_some_and(|request| request.failed.is_some());
        if download.left == 0 || failed {
            // One that has failed while it waited keeps no place before the others.
            desk.waiting.retain(|waiting| *waiting != self.id);
            self.reading = Reading::Header;
            self.issued(io, key);
            self.finish_if_done(io, key)?;
            return Ok(true);
        }
        let offset = download.offset;
        let length = piece_length(offset, download.left);
        let bytes = class_size(hull(offset, length).0) as u64;
        if !desk.reserve_read(io, (self.id, self.reserved), bytes, first) {
            self.paused = true;
            return Ok(false);
        }
        io.reads_reserved += bytes;
        self.reserved += bytes;
        download.offset += u64::from(length);
        download.left -= length;
        self.submit(io, desk, key, (offset, length, bytes), Op::Read { offset, length });
        Ok(true)
    }

    fn skip(&mut self) -> bool {
        let staged = self.staged();
        let Reading::Skip { left, to, refusal } = &mut self.reading else { return false };
        let count = staged.min(*left as usize);
        self.start += count;
        *left -= count as u32;
        if *left > 0 {
            return false;
        }
        let (to, refusal) = (*to, *refusal);
        self.reading = Reading::Header;
        self.refuse(to, refusal.errno, refusal.why);
        true
    }

    /// Arms a receive, if bytes are wanted. `held`: only those of a request that has begun.
    pub(super) fn arm(&mut self, io: &mut Context, held: bool) {
        if self.receiving.is_some() || self.leaving.is_some() {
            return;
        }
        let target = match &self.reading {
            Reading::Header if held || self.is_full() => return,
            Reading::Download(_)
            | Reading::Edges(_)
            | Reading::Upload(Upload { payload: None, .. }) => return,
            Reading::Upload(Upload { payload: Some(payload), filled, .. }) => {
                let left = (payload.length - filled) as usize;
                (left >= DIRECT_MIN).then(|| part_of(*payload, *filled as usize, left))
            }
            Reading::Header | Reading::Skip { .. } => None,
        };
        let direct = target.is_some();
        let target = target.unwrap_or_else(|| self.staging_target(io));
        match io.pool.lease(target, Direction::Sink) {
            Ok(lease) => {
                let purpose = Purpose::ClientReceive(self.id);
                let operation = io.ring.receive(&self.fd, lease, direct, purpose);
                self.receiving = Some(UnderWay::new(operation, direct, io));
                if !std::mem::take(&mut self.mute) {
                    self.heard = io.now;
                }
            }
            Err(error) => {
                tracing::error!(target: "tandem", resource = %io.name, "defect: {error}");
            }
        }
    }

    /// Where the next bytes go in the staging; a begun header moves to its front.
    fn staging_target(&mut self, io: &mut Context) -> Payload {
        let staged = self.staged();
        if self.start > 0 {
            let range = self.start..self.end;
            if let Ok(bytes) = io.pool.bytes_mut(part_of(self.staging, 0, STAGING)) {
                bytes.copy_within(range, 0);
            }
            (self.start, self.end) = (0, staged);
        }
        let room = STAGING - self.end;
        let room = if self.peek { room.min(PEEK) } else { room };
        part_of(self.staging, self.end, room)
    }
}
