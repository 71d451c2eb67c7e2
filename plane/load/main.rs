//! The native plane under load without Python, for the sanitizers: `make sanitize`.
//!
//! Servers, clients that behave and clients that do not, and a thread in the place of Python, which publishes, takes back,
//! reviews, looks at what is open, and takes entries and connections. It ends with 0 when every well-behaved request was
//! answered; what the sanitizer has to say is its own.

extern crate cloned_plane;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::io::{AsRawFd, FromRawFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

const LISTENER: u32 = 1;
const PARTIES: usize = 4;
const ACCOUNT_WIDTH: usize = 1 + 4 * 61;
const NO_LIMIT: u64 = u64::MAX;
const CLIENTS: usize = 6;
/// `shared::Stage::Unknown`.
const UNKNOWN: u32 = 11;
const DENIED: &[u8] = b"CONNECT denied.test:443 HTTP/1.1\r\nHost: denied.test:443\r\n\r\n";

type Plane = *const std::ffi::c_void;
type Verdict = *const std::ffi::c_void;

/// As `abi/mod.rs`, `abi/verdicts.rs`, `abi/handed.rs`, `abi/numbers.rs` and `abi/records.rs` have them.
#[repr(C)]
struct Config {
    numbers: [u64; 11],
    connected: *const u64,
    parties: *const u64,
    parties_width: u64,
    bounds: [*const f64; 3],
    bounds_count: [u64; 3],
}

#[repr(C)]
struct Publication {
    number: u32,
    needs_hello: bool,
    literal: bool,
    plain: bool,
    pool: u32,
    response_timeout: u64,
    expires: u64,
    account: *const u64,
    limits: [u64; 3],
}

#[repr(C)]
struct RefusalForm {
    number: u32,
    expires: u64,
    account: *const u64,
    per_minute: u64,
}

#[repr(C)]
struct HandedOver {
    stage: u32,
    fd: i32,
    upstream: i32,
    listener: u32,
    verdict: u32,
    granted: bool,
    id: [u8; 12],
    more: [u64; 7],
    body: [u32; 2],
    left: u64,
    started: bool,
}

#[repr(C)]
struct Snapshot {
    flows: *const u8,
    count: usize,
    asked: *const u8,
    asked_length: usize,
    kept: *mut u8,
}

#[repr(C)]
struct Batch {
    text: *const u8,
    text_length: usize,
    calls: *const u8,
    calls_length: usize,
    entries: usize,
    kept: *mut u8,
}

extern "C" {
    fn plane_abi(out: &mut [usize; 8]);
    fn plane_start(config: &Config) -> Plane;
    fn plane_stop(plane: Plane);
    fn plane_free(plane: Plane);
    fn plane_listen(plane: Plane, fd: i32, listener: u32, party: usize);
    fn plane_forget(plane: Plane);
    fn plane_review(plane: Plane, lines: *const u8, length: usize);
    fn plane_publish(
        plane: Plane,
        key: *const u8,
        key_length: usize,
        what: &Publication,
        content: *const u8,
        length: usize,
    ) -> Verdict;
    fn plane_publish_refusal(
        plane: Plane,
        key: *const u8,
        key_length: usize,
        what: &RefusalForm,
        content: *const u8,
        length: usize,
    ) -> Verdict;
    fn verdict_withdraw(verdict: Verdict);
    fn verdicts_changed(verdicts: *const Verdict, count: usize, places: *mut u32) -> usize;
    fn verdict_free(verdict: Verdict);
    fn verdict_counts(verdict: Verdict, out: &mut [i64; 5], id: &mut [u8; 12]);
    fn plane_take(plane: Plane, out: &mut HandedOver, buffer: *mut u8, room: usize) -> bool;
    fn plane_adopted(plane: Plane, party: usize, verdict: Verdict);
    fn plane_return(plane: Plane, fd: i32, listener: u32, party: usize, data: *const u8, length: usize, took: u64);
    fn plane_make_room(plane: Plane, party: usize, first: u64, further: u64, most: usize);
    fn plane_numbers(plane: Plane, out: &mut [i64; 10]);
    fn plane_snapshot(plane: Plane, out: &mut Snapshot);
    fn plane_free_snapshot(snapshot: &Snapshot);
    fn plane_take_records(plane: Plane, out: &mut Batch);
    fn plane_free_records(batch: &Batch);
}

/// One body that is sized, one that is chunked, one that ends with its connection, and an interim response.
fn serve(mut stream: TcpStream) -> std::io::Result<()> {
    let mut seen = Vec::new();
    let mut buffer = [0; 16_384];
    loop {
        while let Some(end) = seen.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&seen[..end]).into_owned();
            seen.drain(..end + 4);
            let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next());
            let mut left: usize = length.and_then(|digits| digits.parse().ok()).unwrap_or(0);
            while left > 0 {
                if seen.is_empty() {
                    let count = stream.read(&mut buffer)?;
                    if count == 0 {
                        return Ok(());
                    }
                    seen.extend_from_slice(&buffer[..count]);
                }
                let taken = left.min(seen.len());
                seen.drain(..taken);
                left -= taken;
            }
            let answer: &[u8] = match head.split(' ').nth(1) {
                Some("/chunked") => {
                    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x\r\nabc\r\n0\r\nX: y\r\n\r\n"
                }
                Some("/hints") => b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc",
                Some("/end") => b"HTTP/1.0 200 OK\r\n\r\nabc",
                Some("/odd") => b"HTTP/1.1 200\x0bOK\r\n\r\n",
                Some("/reset") => return Ok(()),
                _ => b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc",
            };
            stream.write_all(answer)?;
            if head.contains(" /end ") {
                return Ok(());
            }
        }
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            count => seen.extend_from_slice(&buffer[..count]),
        }
    }
}

/// Behaves, as long as its requests are answered; whether they were.
fn well_behaved(proxy: std::net::SocketAddr, origin: u16, turn: usize) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(proxy)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let path = ["/", "/chunked", "/hints", "/sized"][turn % 4];
    let body = vec![b'x'; if turn % 4 == 3 { 100_000 } else { 0 }];
    let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    let head = format!("PUT http://a.test:{origin}{path} HTTP/1.1\r\nHost: a.test:{origin}\r\n{length}\r\n");
    let mut seen = Vec::new();
    for _ in 0..8 {
        stream.write_all(head.as_bytes())?;
        stream.write_all(&body)?;
        let mut buffer = [0; 4096];
        while !(seen.ends_with(b"\r\n\r\nabc") || seen.ends_with(b"0\r\nX: y\r\n\r\n")) {
            match stream.read(&mut buffer)? {
                0 => return Ok(false),
                count => seen.extend_from_slice(&buffer[..count]),
            }
        }
        seen.clear();
    }
    Ok(true)
}

/// Does not: half a head, half a body, odd bytes, a server that ends, a reset.
fn misbehaved(proxy: std::net::SocketAddr, origin: u16, turn: usize) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(proxy)?;
    stream.set_read_timeout(Some(Duration::from_millis(300)))?;
    let to = |path: &str, more: &str| {
        format!("GET http://a.test:{origin}{path} HTTP/1.1\r\nHost: a.test:{origin}\r\n{more}\r\n")
    };
    let text = match turn % 9 {
        0 => to("/", "Content-Length: 100\r\n") + "half",
        1 => to("/", "")[..20].to_owned(),
        2 => to("/end", "") + &to("/", ""),
        3 => to("/reset", ""),
        4 => to("/odd", ""),
        5 => to("/", "Transfer-Encoding: chunked\r\n") + "5\r\nhello\r\nMALFORMED\r\n",
        6 => format!(
            "CONNECT a.test:{origin} HTTP/1.1\r\nHost: a.test:{origin}\r\n\r\n\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00"
        ),
        7 => String::from_utf8_lossy(DENIED).into_owned(),
        _ => to("/", "Expect: 100-continue\r\n"),
    };
    stream.write_all(text.as_bytes())?;
    if turn % 2 == 0 {
        let _ = stream.read(&mut [0; 4096]);
    }
    Ok(())
}

fn monotonic_micros() -> u64 {
    let text = std::fs::read_to_string("/proc/uptime").expect("a Linux"); // the clock of CLOCK_MONOTONIC, nearly
    let seconds: f64 = text.split(' ').next().and_then(|first| first.parse().ok()).expect("a number");
    (seconds * 1e6) as u64
}

struct Python {
    plane: Plane,
    origin: u16,
    number: u32,
    account: Box<[u64]>,
    old: Vec<Verdict>,
}

impl Python {
    fn publish(&mut self, plain: bool) {
        let asked = format!("a.test:{}", self.origin);
        let mut key = LISTENER.to_le_bytes().to_vec();
        if plain {
            key.push(1);
        }
        key.extend_from_slice(asked.as_bytes());
        let place = format!("127.0.0.1:{}", self.origin);
        let mut parts = vec![place.as_str(), "a.test", "}", if plain { &asked } else { "" }, ""];
        parts.extend(["{\"at\":", ",\"id\":\"", "\"}"]);
        if plain {
            parts.extend(["", "", ""]);
        }
        let content = parts.join("\x1e");
        self.number += 1;
        let what = Publication {
            number: self.number,
            needs_hello: !plain,
            literal: false,
            plain,
            pool: 1,
            response_timeout: 5_000_000,
            expires: monotonic_micros() + 3_600_000_000,
            account: self.account.as_ptr(),
            limits: [NO_LIMIT; 3],
        };
        let verdict =
            unsafe { plane_publish(self.plane, key.as_ptr(), key.len(), &what, content.as_ptr(), content.len()) };
        assert!(!verdict.is_null(), "the form of a verdict is another one");
        self.old.push(verdict);
    }

    fn publish_refusal(&mut self) {
        let mut key = LISTENER.to_le_bytes().to_vec();
        key.push(3);
        key.extend_from_slice(DENIED);
        let content = "{\"at\":\x1e,\"id\":\"\x1e\",\x1e\"method\":\"CONNECT\"}\x1eHTTP/1.1 403 Forbidden\r\n\r\n\x1e";
        self.number += 1;
        let what = RefusalForm {
            number: self.number,
            expires: monotonic_micros() + 3_600_000_000,
            account: self.account.as_ptr(),
            per_minute: 1_000,
        };
        let verdict = unsafe {
            plane_publish_refusal(self.plane, key.as_ptr(), key.len(), &what, content.as_ptr(), content.len())
        };
        assert!(!verdict.is_null(), "the form of a refusal is another one");
        self.old.push(verdict);
    }

    /// What a policy that changes all the time has it do.
    fn sweep(&mut self, renew: bool) {
        if renew {
            self.old.iter().for_each(|verdict| unsafe { verdict_withdraw(*verdict) });
            unsafe { plane_forget(self.plane) };
            self.publish(true);
            self.publish(false);
            self.publish_refusal();
        }
        let mut places = vec![0; self.old.len()];
        unsafe { verdicts_changed(self.old.as_ptr(), self.old.len(), places.as_mut_ptr()) };
        let first = self.number.saturating_sub(8);
        let lines: String = (first..=self.number).map(|number| format!("{number} 60000000 600000000 \n")).collect();
        unsafe {
            plane_review(self.plane, lines.as_ptr(), lines.len());
            let mut seen: Snapshot = std::mem::zeroed();
            plane_snapshot(self.plane, &mut seen);
            plane_free_snapshot(&seen);
            // More clients than places: some wait, and who is quiet leaves for them.
            plane_numbers(self.plane, &mut [0; 10]);
            plane_make_room(self.plane, PARTIES, 200_000, 200_000, 1);
        }
    }

    fn take(&mut self, buffer: &mut [u8]) -> (usize, usize) {
        let (mut taken, mut batch): (usize, Batch) = (0, unsafe { std::mem::zeroed() });
        let mut handed: HandedOver = unsafe { std::mem::zeroed() };
        while unsafe { plane_take(self.plane, &mut handed, buffer.as_mut_ptr(), buffer.len()) } {
            taken += 1;
            if handed.stage == UNKNOWN && handed.fd % 2 == 0 {
                // There may be a verdict by now, or none: what comes a second time stays here.
                let length = handed.more[3] as usize;
                unsafe { plane_return(self.plane, handed.fd, handed.listener, 0, buffer.as_ptr(), length, 1) };
                continue;
            }
            let first = self.number - self.old.len() as u32 + 1;
            let verdict = if handed.granted { self.old[(handed.verdict - first) as usize] } else { std::ptr::null() };
            unsafe {
                plane_adopted(self.plane, 0, verdict);
                drop(TcpStream::from_raw_fd(handed.fd));
                if handed.upstream >= 0 {
                    drop(TcpStream::from_raw_fd(handed.upstream));
                }
            }
        }
        unsafe {
            plane_take_records(self.plane, &mut batch);
            plane_free_records(&batch);
        }
        (taken, batch.entries)
    }
}

fn main() {
    let seconds = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(10);
    let mut form = [0; 8];
    unsafe { plane_abi(&mut form) };
    let mine = [
        std::mem::size_of::<Config>(),
        std::mem::size_of::<Publication>(),
        std::mem::size_of::<RefusalForm>(),
        std::mem::size_of::<HandedOver>(),
    ];
    assert_eq!(form[1..5], mine, "the structures are of another form");
    let servers = TcpListener::bind("127.0.0.1:0").expect("a port");
    let origin = servers.local_addr().expect("it is bound").port();
    thread::spawn(move || {
        for stream in servers.incoming().flatten() {
            thread::spawn(move || serve(stream));
        }
    });
    let front = TcpListener::bind("127.0.0.1:0").expect("a port");
    front.set_nonblocking(true).expect("a socket");
    let proxy = front.local_addr().expect("it is bound");
    let (connected, parties, bounds) = (vec![0u64; 2], vec![0u64; PARTIES * 2], [0.001, 0.1]);
    let second = 1_000_000;
    let config = Config {
        numbers: [3, second, second, second, second, 60 * second, 65_536, 200, CLIENTS as u64 - 2, 1_000, 10_000],
        connected: connected.as_ptr(),
        parties: parties.as_ptr(),
        parties_width: PARTIES as u64,
        bounds: [bounds.as_ptr(); 3],
        bounds_count: [2; 3],
    };
    let plane = unsafe { plane_start(&config) };
    assert!(!plane.is_null(), "no threads");
    unsafe { plane_listen(plane, front.as_raw_fd(), LISTENER, 0) };
    let account = vec![0; ACCOUNT_WIDTH * 2].into_boxed_slice();
    let mut python = Python { plane, origin, number: 0, account, old: Vec::new() };
    python.publish(true);
    python.publish(false);
    python.publish_refusal();
    let (over, answered, unanswered) =
        (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let (over, answered, unanswered) = (over.clone(), answered.clone(), unanswered.clone());
            thread::spawn(move || {
                for turn in number.. {
                    if over.load(SeqCst) {
                        return;
                    }
                    if number % 2 == 1 {
                        let _ = misbehaved(proxy, origin, turn / 2);
                    } else if matches!(well_behaved(proxy, origin, turn), Ok(true)) {
                        answered.fetch_add(8, SeqCst);
                    } else {
                        unanswered.fetch_add(1, SeqCst);
                    }
                }
            })
        })
        .collect();
    let (ends, mut buffer, mut taken, mut entries) =
        (Instant::now() + Duration::from_secs(seconds), vec![0; 1 << 20], 0, 0);
    let mut turn = 0;
    while Instant::now() < ends || !clients.iter().all(|client| client.is_finished()) {
        over.store(Instant::now() >= ends, SeqCst);
        turn += 1;
        python.sweep(turn % 20 == 0);
        let (more, written) = python.take(&mut buffer);
        taken += more;
        entries += written;
        thread::sleep(Duration::from_millis(5));
    }
    unsafe { plane_stop(plane) };
    let (more, written) = python.take(&mut buffer);
    let (mut counts, mut id) = ([0; 5], [0; 12]);
    let mut open = 0;
    for verdict in python.old.drain(..) {
        unsafe {
            verdict_counts(verdict, &mut counts, &mut id);
            verdict_free(verdict);
        }
        open += counts[1];
    }
    unsafe { plane_free(plane) };
    let (answered, unanswered) = (answered.load(SeqCst), unanswered.load(SeqCst));
    println!(
        "answered {answered} requests, {unanswered} connections without an answer (their verdict was taken back); \
         {} handed over, {} entries, {open} left open",
        taken + more,
        entries + written
    );
    assert!(answered > 0 && open == 0, "nothing was served, or a flow was not ended");
}
