//! Connections that go to Python.

use super::{bytes, Plane};
use crate::body::Body;
use crate::post::Post;
use crate::shared::{Handed, Order};
use crate::sys;
use crate::verdict::{Verdict, ID};
use std::sync::atomic::Ordering::SeqCst;

#[repr(C)]
pub struct HandedOver {
    stage: u32,
    fd: i32,
    upstream: i32,
    listener: u32,
    verdict: u32,
    granted: bool,
    id: [u8; ID],
    since: u64,
    up: u64,
    hello_deadline: u64,
    client_length: u64,
    server_length: u64,
    unsent_length: u64,
    /// 0: no plain request is under way.
    head_length: u64,
    /// How far the body of the request is: complete, sized, at a chunk's size, in a chunk.
    body: u32,
    extras: u32,
    left: u64,
    started: bool,
}

/// The next connection for Python, its bytes into `buffer` (the client's, the server's, the unsent). False: none. One whose bytes have no
/// room cannot be (`buffer` holds what one read and one hello can be) and is closed.
#[no_mangle]
pub unsafe extern "C" fn plane_take(plane: &Plane, out: &mut HandedOver, buffer: *mut u8, room: usize) -> bool {
    let handed = match plane.shared.next_handed() {
        Some(handed) => handed,
        None => return false,
    };
    let none = Vec::new();
    let server_bytes = handed.granted.as_ref().map_or(&none, |granted| &granted.server_bytes);
    let unsent = handed.underway.as_ref().map_or(&none, |underway| &underway.unsent);
    let all = [&handed.client_bytes, server_bytes, unsent];
    if all.iter().map(|part| part.len()).sum::<usize>() <= room {
        let mut at = buffer;
        for part in all {
            std::ptr::copy_nonoverlapping(part.as_ptr(), at, part.len());
            at = at.add(part.len());
        }
    }
    *out = described(&handed, all.map(|part| part.len() as u64));
    true
}

fn described(handed: &Handed, lengths: [u64; 3]) -> HandedOver {
    let [client_length, server_length, unsent_length] = lengths;
    let (granted, underway) = (handed.granted.as_ref(), handed.underway.as_ref());
    let (body, left, extras) = match underway.and_then(|underway| underway.request.as_ref()) {
        None | Some(Body::Unsized) => (0, 0, 0),
        Some(Body::Sized(left)) => (1, *left, 0),
        Some(Body::Chunked(chunks)) => (2 + u32::from(chunks.open), chunks.left, chunks.extras as u32),
    };
    HandedOver {
        stage: handed.stage as u32,
        fd: handed.fd,
        upstream: granted.map_or(-1, |granted| granted.upstream),
        listener: handed.listener,
        verdict: granted.map_or(0, |granted| granted.verdict.number),
        granted: granted.is_some(),
        id: granted.map_or([0; ID], |granted| granted.id),
        since: granted.map_or(0, |granted| granted.since),
        up: granted.map_or(0, |granted| granted.up),
        hello_deadline: granted.map_or(0, |granted| granted.hello_deadline),
        client_length,
        server_length,
        unsent_length,
        head_length: underway.map_or(0, |underway| underway.head_length as u64),
        body,
        extras,
        left,
        started: underway.map_or(false, |underway| underway.started),
    }
}

/// Python counts the connection, and its flow, from here on. `verdict` is null where nothing was granted.
#[no_mangle]
pub extern "C" fn plane_adopted(plane: &Plane, party: usize, verdict: Option<&Verdict>) {
    let shared = &plane.shared;
    shared.leave(party);
    if let Some(verdict) = verdict {
        verdict.account.leave();
        verdict.counts.open.fetch_sub(1, SeqCst);
        verdict.counts.have_changed();
    }
    shared.connections.fetch_sub(1, SeqCst);
}

/// Gives a connection back that was handed over as `Stage::Unknown`, with the bytes that came with it, when there is a
/// verdict on them, which took so many microseconds. It was counted here all the time.
#[no_mangle]
pub unsafe extern "C" fn plane_return(
    plane: &Plane,
    fd: i32,
    listener: u32,
    party: usize,
    data: *const u8,
    length: usize,
    took: u64,
) {
    let post = post_of(plane, fd);
    if post.hand(Order::Return { fd, listener, party, data: bytes(data, length).to_vec(), took }) {
        post.ring_once();
    } else {
        drop_connection(plane, fd, party);
    }
}

/// Takes a connection on which nothing is under way back from Python, which counts it no more behind this.
#[no_mangle]
pub extern "C" fn plane_take_back(plane: &Plane, fd: i32, listener: u32, party: usize) {
    let shared = &plane.shared;
    shared.connections.fetch_add(1, SeqCst);
    shared.readmit(party);
    let post = post_of(plane, fd);
    if post.hand(Order::Adopt { fd, listener, party }) {
        sys::ring(post.bell);
    } else {
        drop_connection(plane, fd, party);
    }
}

fn post_of(plane: &Plane, fd: i32) -> &Post {
    let posts = &plane.shared.posts;
    &posts[fd as usize % posts.len()]
}

/// Closes a connection that its thread, which has ended, would have closed with all that it had.
fn drop_connection(plane: &Plane, fd: i32, party: usize) {
    let shared = &plane.shared;
    sys::reset(fd);
    shared.leave(party);
    if shared.connections.fetch_sub(1, SeqCst) == 1 {
        sys::ring(shared.bell);
    }
}
