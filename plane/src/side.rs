//! One socket of a flow, and how bytes get from one to the other: back-pressure, half-close, each byte counted.
#![forbid(unsafe_code)]

use crate::sys::{self, Io};

/// Whole buffers in a row before `splice` is worth a pipe.
const BULK_AFTER: u8 = 2;
/// Fewer bytes than this from one call end the bulk.
const SMALL: usize = 16_384;
/// Calls in one turn, before the other flows get theirs.
const SHARE: usize = 16;
pub const NONE: i32 = -1;

pub struct Side {
    pub fd: i32,
    pub readable: bool,
    pub writable: bool,
    /// The kernel has told of a FIN, RST or error: reads are to go on until they say so.
    pub ending: bool,
    /// RST or an error: nothing can be sent to it any more.
    pub hung_up: bool,
    /// The FIN of the peer was read.
    pub ended: bool,
    /// A FIN was sent to it.
    pub fin_sent: bool,
    bulk: u8,
    pipe: Option<Box<(i32, i32)>>,
    in_pipe: usize,
    /// Bytes for it that the kernel did not take yet.
    pending: Vec<u8>,
    /// Bytes that came from it.
    pub bytes: u64,
}

impl Side {
    pub fn new(fd: i32) -> Self {
        Side {
            fd,
            readable: false,
            writable: true,
            ending: false,
            hung_up: false,
            ended: false,
            fin_sent: false,
            bulk: 0,
            pipe: None,
            in_pipe: 0,
            pending: Vec::new(),
            bytes: 0,
        }
    }

    /// Notes what epoll says.
    pub fn mark(&mut self, events: u32) {
        let gone = events & (sys::RDHUP | sys::HUP | sys::ERR) != 0;
        self.ending |= gone;
        self.hung_up |= events & (sys::HUP | sys::ERR) != 0;
        self.readable |= gone || events & sys::IN != 0;
        self.writable |= events & sys::OUT != 0;
    }

    /// One read. Less than the buffer holds means that there is no more, unless an end is to come.
    pub fn read(&mut self, buffer: &mut [u8]) -> Io {
        let outcome = sys::receive(self.fd, buffer);
        match outcome {
            Io::Moved(count) if count < buffer.len() && !self.ending => self.readable = false,
            Io::Again => self.readable = false,
            _ => {}
        }
        outcome
    }

    /// What the next reads will give.
    pub fn peek(&mut self, buffer: &mut [u8]) -> Io {
        let outcome = sys::look(self.fd, buffer);
        match outcome {
            Io::Moved(count) if count < buffer.len() && !self.ending => self.readable = false,
            Io::Again => self.readable = false,
            _ => {}
        }
        outcome
    }

    /// Reads what was seen to be there; whether it was.
    pub fn skip(&mut self, seen: &mut [u8]) -> bool {
        matches!(sys::receive(self.fd, seen), Io::Moved(count) if count == seen.len())
    }

    /// Sends, or keeps what the kernel does not take. False: the connection has failed.
    pub fn write(&mut self, bytes: &[u8]) -> bool {
        if !self.pending.is_empty() || !self.writable {
            self.pending.extend_from_slice(bytes);
            return true;
        }
        match sys::transmit(self.fd, bytes) {
            Io::Moved(count) => {
                if count < bytes.len() {
                    self.pending.extend_from_slice(&bytes[count..]);
                    self.writable = false;
                }
                true
            }
            Io::Again => {
                self.pending.extend_from_slice(bytes);
                self.writable = false;
                true
            }
            _ => false,
        }
    }

    /// Whether everything for it is with the kernel.
    pub fn drained(&self) -> bool {
        self.pending.is_empty()
    }

    /// Whether the peer has all that was written for it, since that many microseconds, and has said nothing since: its
    /// connection can be closed, and a FIN is what it gets. The socket itself is asked: an event may be under way.
    pub fn settled(&self, quiet: u64) -> bool {
        self.drained()
            && sys::unsent(self.fd) == Some(0)
            && sys::since_acknowledged(self.fd).map_or(true, |since| since >= quiet)
            && matches!(sys::look(self.fd, &mut [0]), Io::Again)
    }

    /// Bytes that were written for the peer and that its kernel has not acknowledged.
    pub fn unsent(&self) -> usize {
        self.pending.len() + sys::unsent(self.fd).unwrap_or(0)
    }

    /// Sends what waits, if it may. False: the connection has failed.
    pub fn flush(&mut self) -> bool {
        if self.pending.is_empty() || !self.writable {
            return true;
        }
        match sys::transmit(self.fd, &self.pending) {
            Io::Moved(count) if count == self.pending.len() => {
                self.pending = Vec::new(); // a cleared one keeps its memory for as long as the tunnel lasts
                true
            }
            Io::Moved(count) => {
                self.pending.drain(..count);
                self.writable = false;
                true
            }
            Io::Again => {
                self.writable = false;
                true
            }
            _ => false,
        }
    }

    pub fn send_fin(&mut self) {
        self.fin_sent = true;
        sys::send_fin(self.fd);
    }

    /// What waits, for somebody else to send.
    pub fn take_pending(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.pending)
    }

    /// Lets go of the pipe; one that holds bytes cannot be used again.
    fn drop_pipe(&mut self, pipes: &mut Vec<(i32, i32)>) {
        if let Some(pipe) = self.pipe.take() {
            if self.in_pipe == 0 && pipes.len() < 64 {
                pipes.push(*pipe);
            } else {
                sys::shut(pipe.0);
                sys::shut(pipe.1);
            }
        }
    }

    pub fn close(&mut self, hard: bool, pipes: &mut Vec<(i32, i32)>) {
        self.drop_pipe(pipes);
        if self.fd != NONE {
            if hard {
                sys::reset(self.fd);
            } else {
                sys::shut(self.fd);
            }
            self.fd = NONE;
        }
    }
}

pub enum Pumped {
    /// There is no more for now.
    Rests,
    /// The turn is over, and there is more.
    More,
    SourceFailed,
    SinkFailed,
}

/// Moves what there is from `source` to `sink`.
pub fn pump(source: &mut Side, sink: &mut Side, buffer: &mut [u8], pipes: &mut Vec<(i32, i32)>) -> Pumped {
    for _ in 0..SHARE {
        if !sink.pending.is_empty() {
            if !sink.flush() {
                return Pumped::SinkFailed;
            }
            if !sink.pending.is_empty() {
                return Pumped::Rests;
            }
        }
        if source.in_pipe > 0 {
            match empty_pipe(source, sink) {
                Some(Pumped::More) => continue,
                Some(other) => return other,
                None => return Pumped::Rests,
            }
        }
        if source.ended {
            // Where that was the last direction, closing the sink says so.
            let last = sink.ended && source.fin_sent;
            if last {
                sink.fin_sent = true;
            } else if !sink.fin_sent {
                sink.send_fin();
            }
            source.drop_pipe(pipes);
            return Pumped::Rests;
        }
        if !source.readable {
            source.drop_pipe(pipes);
            return Pumped::Rests;
        }
        if source.bulk >= BULK_AFTER {
            match fill_pipe(source, pipes) {
                Filled::Looked => continue,
                Filled::Failed => return Pumped::SourceFailed,
                Filled::NoPipe => source.bulk = 0,
            }
        }
        match source.read(buffer) {
            Io::Moved(count) => {
                source.bytes += count as u64;
                source.bulk = if count == buffer.len() { (source.bulk + 1).min(BULK_AFTER) } else { 0 };
                if !sink.write(&buffer[..count]) {
                    return Pumped::SinkFailed;
                }
            }
            Io::Again => {}
            Io::End => source.ended = true,
            Io::Failed => return Pumped::SourceFailed,
        }
    }
    Pumped::More
}

/// More: the pipe gave something to the sink. None: the sink takes nothing now.
fn empty_pipe(source: &mut Side, sink: &mut Side) -> Option<Pumped> {
    if !sink.writable {
        return None;
    }
    let pipe = source.pipe.as_ref()?;
    match sys::splice_out(pipe.0, sink.fd, source.in_pipe) {
        Io::Moved(count) => {
            source.in_pipe -= count;
            Some(Pumped::More)
        }
        Io::Again => {
            sink.writable = false;
            None
        }
        _ => Some(Pumped::SinkFailed),
    }
}

enum Filled {
    Looked,
    NoPipe,
    Failed,
}

fn fill_pipe(source: &mut Side, pipes: &mut Vec<(i32, i32)>) -> Filled {
    if source.pipe.is_none() {
        source.pipe = pipes.pop().or_else(sys::new_pipe).map(Box::new);
    }
    let end = match &source.pipe {
        Some(pipe) => pipe.1,
        None => return Filled::NoPipe,
    };
    match sys::splice_in(source.fd, end) {
        Io::Moved(count) => {
            source.bytes += count as u64;
            source.in_pipe = count;
            if count < SMALL {
                source.bulk = 0;
            }
        }
        Io::Again => source.readable = false,
        Io::End => source.ended = true,
        Io::Failed => return Filled::Failed,
    }
    Filled::Looked
}
