//! The readers of plain HTTP alone, for the comparison with those of Python.

use super::bytes;
use crate::body::{Body, Chunks};
use crate::request;
use crate::response::{self, Read};

/// What a reader made of its input: numbers that differ by the reader, and the text that goes on.
#[repr(C)]
pub struct Reading {
    numbers: [usize; 8],
    text: *mut u8,
    room: usize,
    text_length: usize,
}

impl Reading {
    /// Text that has no room is cut off, which no comparison misses.
    unsafe fn tell(&mut self, numbers: [usize; 8], text: &[u8]) {
        self.numbers = numbers;
        self.text_length = text.len().min(self.room);
        std::ptr::copy_nonoverlapping(text.as_ptr(), self.text, self.text_length);
    }
}

/// Whether the plane reads it: its length, start and end of authority and path, credentials, whether the connection is
/// kept, and how its body is framed (0: not, 1: sized, 2: chunked); the head as it goes on to `host`.
#[no_mangle]
pub unsafe extern "C" fn plane_reads_request(
    data: *const u8,
    length: usize,
    most: usize,
    fields: usize,
    host: *const u8,
    host_length: usize,
    out: &mut Reading,
) -> bool {
    let data = bytes(data, length);
    let request = match request::read(data, most, fields) {
        Some(request) => request,
        None => return false,
    };
    let numbers = [
        request.length,
        request.authority.start,
        request.authority.end,
        request.path.start,
        request.path.end,
        request.credentials.len(),
        usize::from(request.keep_alive),
        framing(&request.body()).0,
    ];
    out.tell(numbers, &request.encode(data, bytes(host, host_length)));
    true
}

fn framing(body: &Option<Body>) -> (usize, u64) {
    match body {
        None => (0, 0),
        Some(Body::Sized(left)) => (1, *left),
        Some(Body::Chunked(_)) => (2, 0),
        Some(Body::Unsized) => (3, 0),
    }
}

/// 0: more is needed, 1: Python is to read it, 2: its length, status, framing and size of the body, and whether its
/// connection can be used again; the head as it goes on.
#[no_mangle]
pub unsafe extern "C" fn plane_reads_response(
    data: *const u8,
    length: usize,
    most: usize,
    fields: usize,
    to_head: bool,
    close: bool,
    out: &mut Reading,
) -> u32 {
    let data = bytes(data, length);
    match response::read(data, most, fields) {
        Read::More => 0,
        Read::Other => 1,
        Read::Head(head) => {
            let body = head.body(to_head);
            let (kind, size) = framing(&body);
            let clean = usize::from(head.leaves_connection_clean(body.is_some()));
            let mut text = Vec::new();
            head.encode(data, body.is_some(), close && head.is_final(), &mut text);
            out.tell([head.length, usize::from(head.status), kind, size as usize, clean, 0, 0, 0], &text);
            2
        }
    }
}

/// A body of that framing and size, of which `step` bytes come at a time. 0: more is needed, 1: it is whole, 2: it is
/// malformed; how many bytes were taken, and what goes on.
#[no_mangle]
pub unsafe extern "C" fn plane_reads_body(
    data: *const u8,
    length: usize,
    framing: u32,
    size: u64,
    step: usize,
    out: &mut Reading,
) -> u32 {
    let mut body = match framing {
        1 => Body::Sized(size),
        2 => Body::Chunked(Chunks::default()),
        _ => Body::Unsized,
    };
    let (mut text, mut unread, mut taken, mut outcome) = (Vec::new(), Vec::new(), 0, 0);
    for piece in bytes(data, length).chunks(step.max(1)) {
        unread.extend_from_slice(piece);
        match body.take(&unread, framing != 1, &mut text) {
            Ok(more) => {
                unread.drain(..more.bytes);
                taken += more.bytes;
                outcome = u32::from(more.whole);
            }
            Err(_) => outcome = 2,
        }
        if outcome != 0 {
            break;
        }
    }
    out.tell([taken, 0, 0, 0, 0, 0, 0, 0], &text);
    outcome
}
