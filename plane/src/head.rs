//! The CONNECT heads that are read natively: a strict subset of what the Python gate accepts.
//!
//! Whatever is not exactly of this form is `None`, and Python judges the same bytes (`proxy/wire/head.py` is the specification).
#![forbid(unsafe_code)]

use std::ops::Range;

const MAX_LABEL: usize = 63;
const MAX_HOST: usize = 253;

const fn token_table() -> [bool; 256] {
    let mut table = [false; 256];
    let octets = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut at = 0;
    while at < octets.len() {
        table[octets[at] as usize] = true;
        at += 1;
    }
    table
}

/// RFC 9110, section 5.6.2.
pub static TOKEN: [bool; 256] = token_table();

pub fn value_octet(octet: u8) -> bool {
    octet == b'\t' || (octet >= 0x20 && octet < 0x7f)
}

pub struct Head {
    /// Bytes, with the empty line.
    pub length: usize,
    /// `host:port` as written.
    pub authority: Range<usize>,
    /// Name (as written) and value (trimmed) of the fields that may hold a credential, in their order.
    pub credentials: Vec<(Range<usize>, Range<usize>)>,
}

/// A whole head at the start of `data`, of at most `most` bytes and `fields` fields.
pub fn read(data: &[u8], most: usize, fields: usize) -> Option<Head> {
    let end = data.windows(4).take(most).position(|four| four == b"\r\n\r\n")? + 4;
    if end > most {
        return None;
    }
    let line = data[..end].strip_prefix(b"CONNECT ")?;
    let length = line.iter().position(|octet| !(0x21..=0x7e).contains(octet))?;
    let authority = 8..8 + length;
    let rest = authority.end + b" HTTP/1.1\r\n".len();
    if !data[authority.end..end].starts_with(b" HTTP/1.1\r\n") || !usual_authority(&data[authority.clone()]) {
        return None;
    }
    let credentials = read_fields(&data[..end], rest, &data[authority.clone()], fields)?;
    Some(Head { length: end, authority, credentials })
}

fn read_fields(data: &[u8], mut at: usize, authority: &[u8], most: usize) -> Option<Vec<(Range<usize>, Range<usize>)>> {
    let (mut credentials, mut hosts, mut count) = (Vec::new(), 0, 0);
    while at < data.len() - 2 {
        let Field { name, value, end } = field(data, at)?;
        count += 1;
        match data[name.clone()].to_ascii_lowercase().as_slice() {
            b"host" if hosts == 0 && data[value.clone()] == *authority => hosts = 1,
            b"connection" if data[value.clone()].eq_ignore_ascii_case(b"keep-alive") => {}
            b"proxy-authorization" | b"x-cloned-tool-token" => credentials.push((name, value)),
            b"host" | b"connection" | b"content-length" | b"transfer-encoding" | b"expect" | b"te" | b"upgrade"
            | b"trailer" => return None,
            _ => {}
        }
        at = end;
    }
    if hosts == 1 && at == data.len() - 2 && count <= most {
        Some(credentials)
    } else {
        None
    }
}

pub struct Field {
    pub name: Range<usize>,
    /// Trimmed.
    pub value: Range<usize>,
    /// Behind its CRLF.
    pub end: usize,
}

/// The field line that begins at `at`, if it is whole and plainly in order.
pub fn field(data: &[u8], at: usize) -> Option<Field> {
    let colon = at + data[at..].iter().position(|octet| !TOKEN[*octet as usize])?;
    if colon == at || data[colon] != b':' {
        return None;
    }
    let end = colon + 1 + line_end(&data[colon + 1..])?;
    Some(Field { name: at..colon, value: trimmed(data, colon + 1..end - 2), end })
}

/// How many bytes a line of printable octets has, with its CRLF.
pub fn line_end(data: &[u8]) -> Option<usize> {
    let end = data.iter().position(|octet| !value_octet(*octet))?;
    if data[end..].starts_with(b"\r\n") {
        Some(end + 2)
    } else {
        None
    }
}

pub fn trimmed(data: &[u8], mut span: Range<usize>) -> Range<usize> {
    while span.start < span.end && matches!(data[span.start], b' ' | b'\t') {
        span.start += 1;
    }
    while span.start < span.end && matches!(data[span.end - 1], b' ' | b'\t') {
        span.end -= 1;
    }
    span
}

/// `host:port` with a lower-case LDH name whose last label begins with a letter, a canonical IPv4 literal, or an IPv6
/// one in brackets. What Python makes of the address decides; the key of a verdict is this text.
fn usual_authority(text: &[u8]) -> bool {
    let colon = match text.iter().rposition(|octet| *octet == b':') {
        Some(colon) => colon,
        None => return false,
    };
    let (host, port) = (&text[..colon], &text[colon + 1..]);
    let port_is_one = !port.is_empty() && port.len() <= 5 && port[0] != b'0' && port.iter().all(u8::is_ascii_digit);
    port_is_one && usual_host(host)
}

fn usual_host(host: &[u8]) -> bool {
    usual_name(host) || canonical_ipv4(host) || ipv6(host)
}

/// As above, or without a port.
pub fn usual_target(text: &[u8]) -> bool {
    usual_host(text) || usual_authority(text)
}

fn usual_name(host: &[u8]) -> bool {
    let usual = |octet: &u8| octet.is_ascii_lowercase() || octet.is_ascii_digit() || matches!(octet, b'-' | b'_');
    let label = |label: &[u8]| {
        !label.is_empty()
            && label.len() <= MAX_LABEL
            && label[0] != b'-'
            && label[label.len() - 1] != b'-'
            && label.iter().all(usual)
    };
    let last = host.rsplit(|octet| *octet == b'.').next().unwrap_or(b"");
    host.len() <= MAX_HOST
        && !host.windows(4).any(|four| four == b"xn--")
        && last.first().map_or(false, u8::is_ascii_lowercase)
        && host.split(|octet| *octet == b'.').all(label)
}

fn canonical_ipv4(host: &[u8]) -> bool {
    let text = std::str::from_utf8(host).unwrap_or("");
    text.parse::<std::net::Ipv4Addr>().map_or(false, |address| address.to_string() == text)
}

fn ipv6(host: &[u8]) -> bool {
    let inner = host.strip_prefix(b"[").and_then(|host| host.strip_suffix(b"]")).unwrap_or(b"");
    let text = std::str::from_utf8(inner).unwrap_or("");
    text.parse::<std::net::Ipv6Addr>().map_or(false, |address| address.to_string() == text)
}
