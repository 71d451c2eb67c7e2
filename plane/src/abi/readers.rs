//! The readers alone, for the comparison with those of Python.

use super::bytes;
use crate::front;
use crate::head;
use crate::hello::{self, Hello};

/// The length of the head, 0 when Python is to read it; `out` takes the start and end of the authority.
#[no_mangle]
pub unsafe extern "C" fn plane_reads_head(
    data: *const u8,
    length: usize,
    most: usize,
    fields: usize,
    out: *mut usize,
) -> usize {
    match head::read(bytes(data, length), most, fields) {
        None => 0,
        Some(head) => {
            *out = head.authority.start;
            *out.add(1) = head.authority.end;
            *out.add(2) = head.credentials.len();
            head.length
        }
    }
}

/// 0: more is needed, 1: Python is to read it, 2: it passes.
#[no_mangle]
pub unsafe extern "C" fn plane_reads_hello(
    data: *const u8,
    length: usize,
    host: *const u8,
    host_length: usize,
    literal: bool,
) -> u32 {
    match hello::client(bytes(data, length), bytes(host, host_length), literal) {
        Hello::More => 0,
        Hello::Other => 1,
        Hello::Passes => 2,
    }
}

#[no_mangle]
pub unsafe extern "C" fn plane_reads_answer(data: *const u8, length: usize) -> bool {
    hello::server_accepts(bytes(data, length))
}

/// The length of a success of the proxy in front, 0 when Python is to read it.
#[no_mangle]
pub unsafe extern "C" fn plane_reads_front(data: *const u8, length: usize, most: usize, fields: usize) -> usize {
    front::success(bytes(data, length), most, fields).unwrap_or(0)
}
