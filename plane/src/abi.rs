//! The C ABI, called through ctypes, which lets go of the interpreter lock meanwhile.
//!
//! Python owns a plane from `plane_start` to `plane_free` and a verdict from `plane_publish` to `verdict_free`; it calls
//! nothing with a pointer behind that. Buffers belong to the caller and are only used during the call.

use crate::cells::{Account, Cells, Limits, ACCOUNT_WIDTH};
use crate::head;
use crate::hello::{self, Hello};
use crate::record::{Records, Spread};
use crate::shared::{Bounds, Handed, Order, Post, Settings, Shared};
use crate::sys;
use crate::verdict::{Counts, Verdict, ID};
use crate::worker::Worker;
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

const NO_LIMIT: u64 = u64::MAX;
/// Of Python's rows one is its own and one ours.
const ROWS: usize = 2;
const STACK: usize = 256 << 10;

#[repr(C)]
pub struct Config {
    threads: u64,
    head_timeout: u64,
    hello_timeout: u64,
    connect_timeout: u64,
    max_head_bytes: u64,
    max_head_fields: u64,
    max_connections: u64,
    party_share: u64,
    queue: u64,
    crowd: *const u64,
    parties: *const u64,
    parties_width: u64,
    /// Of the histograms of connects, decisions and requests.
    bounds: [*const f64; 3],
    bounds_count: [u64; 3],
}

pub struct Plane {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Plane {
    /// Has every thread obey, and waits until all have.
    fn tell(&self, order: impl Fn() -> Order) {
        let shared = &self.shared;
        let sent: Vec<u64> = shared.posts.iter().map(|post| post.send(order())).collect();
        for post in &shared.posts {
            sys::ring(post.bell);
        }
        for (post, number) in shared.posts.iter().zip(sent) {
            post.finished(number, || shared.dead.load(SeqCst) || shared.running.load(SeqCst) == 0);
        }
    }
}

unsafe fn bytes<'a>(start: *const u8, length: usize) -> &'a [u8] {
    if length == 0 {
        &[]
    } else {
        std::slice::from_raw_parts(start, length)
    }
}

unsafe fn text(start: *const u8, length: usize) -> String {
    String::from_utf8_lossy(bytes(start, length)).into_owned()
}

unsafe fn numbers<'a>(start: *const f64, count: u64) -> &'a [f64] {
    std::slice::from_raw_parts(start, count as usize)
}

/// Null when no thread could be started.
#[no_mangle]
pub unsafe extern "C" fn plane_start(config: &Config) -> *const Plane {
    let threads = config.threads.max(1) as usize;
    let spread = |which: usize| Spread::new(numbers(config.bounds[which], config.bounds_count[which]));
    let shared = Arc::new(Shared {
        settings: Settings {
            head_timeout: config.head_timeout,
            hello_timeout: config.hello_timeout,
            connect_timeout: config.connect_timeout,
            max_head_bytes: config.max_head_bytes as usize,
            max_head_fields: config.max_head_fields as usize,
            max_connections: config.max_connections,
            party_share: config.party_share,
        },
        posts: (0..threads).map(|_| Post::new(sys::new_bell())).collect(),
        records: Records::new(config.queue as usize),
        turn: Default::default(),
        crowd: Cells::new(config.crowd, 1, ROWS),
        parties: Cells::new(config.parties, config.parties_width as usize, ROWS),
        contended: AtomicBool::new(false),
        suspended: AtomicBool::new(false),
        dead: AtomicBool::new(false),
        running: AtomicI64::new(threads as i64),
        connections: AtomicI64::new(0),
        accepted: AtomicU64::new(0),
        handed_over: AtomicU64::new(0),
        connect_seconds: spread(0),
        decision_seconds: spread(1),
        request_seconds: spread(2),
        handed: Mutex::new(VecDeque::new()),
        bell: sys::new_bell(),
    });
    let plane = Plane { shared, threads: Mutex::new(Vec::new()) };
    for number in 0..threads {
        let shared = plane.shared.clone();
        let thread = std::thread::Builder::new().name(format!("plane-{number}")).stack_size(STACK);
        match thread.spawn(move || serve(&shared, number)) {
            Ok(thread) => plane.lock_threads().push(thread),
            Err(_) => return std::ptr::null(),
        }
    }
    Box::into_raw(Box::new(plane))
}

impl Plane {
    fn lock_threads(&self) -> std::sync::MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.threads.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// One thread. A panic in it ends the plane: every thread lets go of what it has, and Python accepts again.
fn serve(shared: &Arc<Shared>, number: usize) {
    let mut worker = Worker::new(shared.clone(), number);
    let died = catch_unwind(AssertUnwindSafe(|| worker.run())).is_err();
    if died {
        shared.dead.store(true, SeqCst);
        for post in &shared.posts {
            sys::ring(post.bell);
        }
    }
    let cause = if shared.dead.load(SeqCst) { "\"internal_error\"" } else { "\"drained\"" };
    // A second panic, of a state that the first one has spoilt: the descriptors that are left end with the process.
    let _ = catch_unwind(AssertUnwindSafe(|| worker.abandon(cause)));
    shared.running.fetch_sub(1, SeqCst);
    sys::ring(shared.bell);
}

/// Ends the threads. What is on record stays to be taken, and so does what was handed over.
#[no_mangle]
pub extern "C" fn plane_stop(plane: &Plane) {
    plane.tell(|| Order::Stop);
    for thread in plane.lock_threads().drain(..) {
        let _ = thread.join();
    }
}

/// Behind `plane_stop`.
#[no_mangle]
pub unsafe extern "C" fn plane_free(plane: *mut Plane) {
    let plane = Box::from_raw(plane);
    for post in &plane.shared.posts {
        sys::shut(post.bell);
    }
    sys::shut(plane.shared.bell);
}

#[no_mangle]
pub extern "C" fn plane_bell(plane: &Plane) -> i32 {
    plane.shared.bell
}

#[no_mangle]
pub extern "C" fn plane_listen(plane: &Plane, fd: i32, listener: u32, party: usize) {
    plane.tell(|| Order::Listen { fd, listener, party });
}

#[no_mangle]
pub unsafe extern "C" fn plane_unlisten(plane: &Plane, listener: u32, cause: *const u8, length: usize) {
    let cause = text(cause, length);
    plane.tell(|| Order::Unlisten { listener, cause: cause.clone() });
}

#[no_mangle]
pub extern "C" fn plane_set_contended(plane: &Plane, contended: bool) {
    plane.shared.contended.store(contended, SeqCst);
}

#[no_mangle]
pub extern "C" fn plane_suspend(plane: &Plane, suspended: bool) {
    plane.shared.suspended.store(suspended, SeqCst);
}

#[no_mangle]
pub unsafe extern "C" fn plane_drain(plane: &Plane, cause: *const u8, length: usize) {
    let cause = text(cause, length);
    plane.tell(|| Order::Drain { cause: cause.clone() });
}

#[no_mangle]
pub unsafe extern "C" fn plane_cut_all(plane: &Plane, cause: *const u8, length: usize) {
    let cause = text(cause, length);
    plane.tell(|| Order::CutAll { cause: cause.clone() });
}

#[no_mangle]
pub unsafe extern "C" fn plane_cut_flow(plane: &Plane, id: &[u8; ID], cause: *const u8, length: usize) {
    let (id, cause) = (*id, text(cause, length));
    plane.tell(|| Order::CutFlow { id, cause: cause.clone() });
}

#[no_mangle]
pub extern "C" fn plane_forget(plane: &Plane) {
    plane.tell(|| Order::Forget);
}

/// Of each verdict a line: number, idle, lifetime (microseconds), and the cause if all of its flows are to be cut.
#[no_mangle]
pub unsafe extern "C" fn plane_review(plane: &Plane, lines: *const u8, length: usize) {
    let read = |line: &str| {
        let mut parts = line.splitn(4, ' ');
        let number = parts.next()?.parse().ok()?;
        let (idle, lifetime) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        Some((number, Bounds { idle, lifetime, cause: parts.next()?.to_owned() }))
    };
    let bounds: Arc<HashMap<u32, Bounds>> = Arc::new(text(lines, length).lines().filter_map(read).collect());
    plane.tell(|| Order::Review(bounds.clone()));
}

#[no_mangle]
pub extern "C" fn plane_panic(plane: &Plane) {
    let post = &plane.shared.posts[0];
    post.send(Order::Panic);
    sys::ring(post.bell);
}

#[repr(C)]
pub struct Publication {
    number: u32,
    needs_hello: bool,
    literal: bool,
    expires: u64,
    account: *const u64,
    concurrent: u64,
    requests_per_minute: u64,
    bytes_per_hour: u64,
}

/// `content`: parts with 0x1e between them: addresses with their port (a comma between), host, the entry of the decision
/// in three parts, the end of the entry of an end. Null when it is not that.
#[no_mangle]
pub unsafe extern "C" fn plane_publish(
    plane: &Plane,
    key: *const u8,
    key_length: usize,
    what: &Publication,
    content: *const u8,
    length: usize,
) -> *const Verdict {
    let key = bytes(key, key_length).to_vec();
    let parts: Vec<&[u8]> = bytes(content, length).split(|octet| *octet == 0x1e).collect();
    let addresses: Option<Vec<SocketAddr>> = match parts.first() {
        Some(list) => String::from_utf8_lossy(list).split(',').map(|one| one.parse().ok()).collect(),
        None => None,
    };
    let addresses = match addresses {
        Some(addresses) if parts.len() == 6 && !addresses.is_empty() => addresses,
        _ => return std::ptr::null(),
    };
    let limit = |value: u64| if value == NO_LIMIT { None } else { Some(value) };
    let verdict = Arc::new(Verdict {
        number: what.number,
        addresses,
        host: parts[1].to_vec(),
        literal: what.literal,
        needs_hello: what.needs_hello,
        expires: what.expires,
        account: Account { cells: Cells::new(what.account, ACCOUNT_WIDTH, ROWS) },
        limits: Limits {
            concurrent: limit(what.concurrent),
            requests_per_minute: limit(what.requests_per_minute),
            bytes_per_hour: limit(what.bytes_per_hour),
        },
        entry: [parts[2].to_vec(), parts[3].to_vec(), parts[4].to_vec()],
        end: parts[5].to_vec(),
        live: AtomicBool::new(true),
        counts: Counts::default(),
    });
    for post in &plane.shared.posts {
        post.send(Order::Publish { key: key.clone(), verdict: verdict.clone() });
        sys::ring(post.bell);
    }
    Arc::into_raw(verdict)
}

/// It is not granted again. At once, and before the other threads are told.
#[no_mangle]
pub extern "C" fn verdict_withdraw(verdict: &Verdict) {
    verdict.live.store(false, SeqCst);
}

#[no_mangle]
pub unsafe extern "C" fn verdict_free(verdict: *const Verdict) {
    drop(Arc::from_raw(verdict));
}

/// Granted, open, relaying, bytes up, bytes down; and the id of the last decision.
#[no_mangle]
pub extern "C" fn verdict_counts(verdict: &Verdict, out: &mut [i64; 5], id: &mut [u8; ID]) {
    let counts = &verdict.counts;
    out[1] = counts.open.load(SeqCst); // first: behind a last end the other numbers are complete
    out[0] = counts.granted.load(SeqCst) as i64;
    out[2] = counts.relaying.load(SeqCst);
    out[3] = counts.bytes_up.load(SeqCst) as i64;
    out[4] = counts.bytes_down.load(SeqCst) as i64;
    *id = *counts.last_id.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
}

#[repr(C)]
pub struct HandedOver {
    stage: u32,
    fd: i32,
    upstream: i32,
    listener: u32,
    verdict: u32,
    admitted: bool,
    granted: bool,
    id: [u8; ID],
    since: u64,
    up: u64,
    hello_deadline: u64,
    client_length: u64,
    server_length: u64,
}

/// The next connection for Python, its bytes into `buffer` (the client's first). False: none. One whose bytes have no
/// room cannot be (`buffer` holds what one read and one hello can be) and is closed.
#[no_mangle]
pub unsafe extern "C" fn plane_take(plane: &Plane, out: &mut HandedOver, buffer: *mut u8, room: usize) -> bool {
    let shared = &plane.shared;
    sys::silence(shared.bell);
    let handed = match shared.queue().pop_front() {
        Some(handed) => handed,
        None => return false,
    };
    let none = Vec::new();
    let server_bytes = handed.granted.as_ref().map_or(&none, |granted| &granted.server_bytes);
    let (client_length, server_length) = (handed.client_bytes.len(), server_bytes.len());
    if client_length + server_length <= room {
        std::ptr::copy_nonoverlapping(handed.client_bytes.as_ptr(), buffer, client_length);
        std::ptr::copy_nonoverlapping(server_bytes.as_ptr(), buffer.add(client_length), server_length);
    }
    *out = described(&handed, client_length as u64, server_length as u64);
    true
}

fn described(handed: &Handed, client_length: u64, server_length: u64) -> HandedOver {
    let granted = handed.granted.as_ref();
    HandedOver {
        stage: handed.stage as u32,
        fd: handed.fd,
        upstream: granted.map_or(-1, |granted| granted.upstream),
        listener: handed.listener,
        verdict: granted.map_or(0, |granted| granted.verdict.number),
        admitted: handed.admitted,
        granted: granted.is_some(),
        id: granted.map_or([0; ID], |granted| granted.id),
        since: granted.map_or(0, |granted| granted.since),
        up: granted.map_or(0, |granted| granted.up),
        hello_deadline: granted.map_or(0, |granted| granted.hello_deadline),
        client_length,
        server_length,
    }
}

/// Python counts the connection, and its flow, from here on. `verdict` is null where nothing was granted.
#[no_mangle]
pub extern "C" fn plane_adopted(plane: &Plane, party: usize, admitted: bool, verdict: Option<&Verdict>) {
    let shared = &plane.shared;
    if admitted {
        shared.leave(party);
    }
    if let Some(verdict) = verdict {
        verdict.account.leave();
        verdict.counts.open.fetch_sub(1, SeqCst);
    }
    shared.connections.fetch_sub(1, SeqCst);
}

#[repr(C)]
pub struct SeenTunnel {
    verdict: u32,
    relaying: bool,
    id: [u8; ID],
    since: u64,
    last_byte: u64,
    up: u64,
    down: u64,
}

/// What is open by a grant; how many there are, of which at most `room` are told.
#[no_mangle]
pub unsafe extern "C" fn plane_snapshot(plane: &Plane, out: *mut SeenTunnel, room: usize) -> usize {
    let seen = Arc::new(Mutex::new(Vec::new()));
    plane.tell(|| Order::Snapshot(seen.clone()));
    let seen = seen.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    for (at, one) in seen.iter().take(room).enumerate() {
        *out.add(at) = SeenTunnel {
            verdict: one.verdict,
            relaying: one.relaying,
            id: one.id,
            since: one.since,
            last_byte: one.last_byte,
            up: one.up,
            down: one.down,
        };
    }
    seen.len()
}

/// Connections, accepted, handed over, waiting entries, running threads, whether it is dead.
#[no_mangle]
pub extern "C" fn plane_numbers(plane: &Plane, out: &mut [i64; 6]) {
    let shared = &plane.shared;
    out[0] = shared.connections.load(SeqCst);
    out[1] = shared.accepted.load(SeqCst) as i64;
    out[2] = shared.handed_over.load(SeqCst) as i64;
    out[3] = shared.records.lock().entries as i64;
    out[4] = shared.running.load(SeqCst);
    out[5] = i64::from(shared.dead.load(SeqCst));
}

/// The sum in microseconds and the buckets of a histogram (connects, decisions, requests).
#[no_mangle]
pub unsafe extern "C" fn plane_spread(plane: &Plane, which: usize, out: *mut u64, room: usize) {
    let shared = &plane.shared;
    let spread = [&shared.connect_seconds, &shared.decision_seconds, &shared.request_seconds][which % 3];
    for (at, value) in spread.values().into_iter().take(room).enumerate() {
        *out.add(at) = value;
    }
}

/// What `cells.Cells.turn` is while there is a plane.
#[no_mangle]
pub extern "C" fn plane_take_turn(plane: &Plane) {
    plane.shared.turn.take();
}

#[no_mangle]
pub extern "C" fn plane_give_turn(plane: &Plane) {
    plane.shared.turn.give();
}

/// Waits for entries, for so long at most; how many there are.
#[no_mangle]
pub extern "C" fn plane_wait(plane: &Plane, milliseconds: u64) -> usize {
    plane.shared.records.wait(Duration::from_millis(milliseconds))
}

#[repr(C)]
pub struct Batch {
    text: *const u8,
    text_length: usize,
    calls: *const u8,
    calls_length: usize,
    entries: usize,
    kept: *mut (Vec<u8>, Vec<u8>),
}

/// Takes all entries: one JSON text a line; and of each verdict and hour a line: verdict, count, first, last.
#[no_mangle]
pub extern "C" fn plane_take_records(plane: &Plane, out: &mut Batch) {
    let shared = &plane.shared;
    let taken = std::mem::take(&mut *shared.records.lock());
    let mut calls = Vec::new();
    for ((verdict, _), (count, first, last)) in taken.calls {
        calls.extend_from_slice(format!("{verdict} {count} {first} {last}\n").as_bytes());
    }
    if taken.choked {
        for post in &shared.posts {
            post.send(Order::Breathe);
            sys::ring(post.bell);
        }
    }
    let kept = Box::new((taken.text, calls));
    *out = Batch {
        text: kept.0.as_ptr(),
        text_length: kept.0.len(),
        calls: kept.1.as_ptr(),
        calls_length: kept.1.len(),
        entries: taken.entries,
        kept: Box::into_raw(kept),
    };
}

#[no_mangle]
pub unsafe extern "C" fn plane_free_records(batch: &Batch) {
    drop(Box::from_raw(batch.kept));
}

// For the comparison with Python's readers.

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
