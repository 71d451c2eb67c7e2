//! The ClientHello of a tunnel and the answer to it, as far as they are read natively.
//!
//! `proxy/wire/client_hello.py` and `proxy/wire/hello_watch.py` are the specification. Whatever is not plainly in order here is
//! `Other`, and Python reads the same bytes.
#![forbid(unsafe_code)]

const MAX_HELLO: usize = 16_384;
const RECORD_HEADER: usize = 5;
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_HELLO: u8 = 2;
const MAX_RECORD: usize = 16_640;
/// Type, length, version and random of a ServerHello.
const TELLING: usize = 38;
/// RFC 8446, section 4.1.3: the random of a HelloRetryRequest.
const RETRY: [u8; 32] = [
    0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91, 0xc2, 0xa2, 0x11,
    0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c,
];

#[derive(PartialEq, Debug)]
pub enum Hello {
    /// What there is may become one that passes.
    More,
    Other,
    /// Exactly one ClientHello and nothing behind it, for the wanted name; for a literal, for no name.
    Passes,
}

pub fn client(data: &[u8], wanted: &[u8], literal: bool) -> Hello {
    let mut message = Vec::new();
    let mut at = 0;
    loop {
        let record = &data[at..];
        if !may_be_record(record) {
            return Hello::Other;
        }
        if record.len() < RECORD_HEADER {
            return Hello::More;
        }
        let length = usize::from(record[3]) << 8 | usize::from(record[4]);
        if length == 0 || at + RECORD_HEADER + length > MAX_HELLO {
            return Hello::Other;
        }
        if record.len() < RECORD_HEADER + length {
            return Hello::More;
        }
        message.extend_from_slice(&record[RECORD_HEADER..RECORD_HEADER + length]);
        at += RECORD_HEADER + length;
        if message[0] != CLIENT_HELLO {
            return Hello::Other;
        }
        if message.len() < 4 {
            continue;
        }
        let end = 4 + (usize::from(message[1]) << 16 | usize::from(message[2]) << 8 | usize::from(message[3]));
        if end > MAX_HELLO || message.len() > end {
            return Hello::Other;
        }
        if message.len() == end {
            let passes = at == data.len()
                && match server_names(&message[4..]) {
                    Some(names) if names.is_empty() => literal,
                    Some(names) => names.len() == 1 && !literal && names[0].eq_ignore_ascii_case(wanted),
                    None => false,
                };
            return if passes { Hello::Passes } else { Hello::Other };
        }
    }
}

fn may_be_record(start: &[u8]) -> bool {
    let is = |at: usize, fits: fn(u8) -> bool| start.get(at).map_or(true, |octet| fits(*octet));
    is(0, |octet| octet == HANDSHAKE) && is(1, |octet| octet == 3) && is(2, |octet| octet <= 4)
}

/// RFC 8446, section 4.1.2, and RFC 6066, section 3. None: malformed.
fn server_names(data: &[u8]) -> Option<Vec<&[u8]>> {
    let pair = |at: usize| Some(usize::from(*data.get(at)?) << 8 | usize::from(*data.get(at + 1)?));
    let mut at = 34;
    if *data.first()? != 3 || *data.get(at)? > 32 {
        return None;
    }
    at += 1 + usize::from(data[at]);
    let suites = pair(at)?;
    at += 2 + suites;
    if suites == 0 || suites % 2 == 1 {
        return None;
    }
    let compressions = usize::from(*data.get(at)?);
    at += 1 + compressions;
    if compressions == 0 || at > data.len() {
        return None;
    }
    let mut names = Vec::new();
    if at == data.len() {
        return Some(names);
    }
    if at + 2 + pair(at)? != data.len() {
        return None;
    }
    at += 2;
    while at < data.len() {
        let (kind, length) = (pair(at)?, pair(at + 2)?);
        at += 4;
        let extension = data.get(at..at + length)?;
        if kind == 0 {
            host_names(extension, &mut names)?;
        }
        at += length;
    }
    Some(names)
}

fn host_names<'a>(list: &'a [u8], names: &mut Vec<&'a [u8]>) -> Option<()> {
    let pair = |at: usize| Some(usize::from(*list.get(at)?) << 8 | usize::from(*list.get(at + 1)?));
    if list.len() < 3 || 2 + pair(0)? != list.len() {
        return None;
    }
    let mut at = 2;
    while at < list.len() {
        if *list.get(at)? != 0 {
            return None;
        }
        let length = pair(at + 1)?;
        let name = list.get(at + 3..at + 3 + length)?;
        if name.is_empty() || !name.is_ascii() {
            return None;
        }
        names.push(name);
        at += 3 + length;
    }
    Some(())
}

/// Whether the first bytes of the server are a ServerHello that asks for no second ClientHello: behind that no server
/// takes one, so nothing more needs to be looked at.
pub fn server_accepts(data: &[u8]) -> bool {
    if data.len() < RECORD_HEADER + TELLING || data[0] != HANDSHAKE || data[1] != 3 || data[2] > 4 {
        return false;
    }
    let length = usize::from(data[3]) << 8 | usize::from(data[4]);
    let message = &data[RECORD_HEADER..];
    (TELLING..=MAX_RECORD).contains(&length) && message[0] == SERVER_HELLO && message[6..TELLING] != RETRY
}
