//! The heads of plain HTTP requests that are read natively: a strict subset of what the Python gate accepts, as in `head`.
#![forbid(unsafe_code)]

use crate::body::{Body, Chunks};
use crate::fields::{self, VIA};
use crate::head::{trimmed, usual_target, value_octet, TOKEN};
use std::ops::Range;

type Field = (Range<usize>, Range<usize>);

const MAX_METHOD: usize = 32;
/// RFC 9110, section 9.2.2: what may be sent a second time when the first try met a stale connection.
const IDEMPOTENT: [&[u8]; 6] = [b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"];
/// Bytes of a body that are kept for that.
const SMALL: u64 = 65_536;

pub struct Request {
    /// Bytes, with the empty line.
    pub length: usize,
    pub method: Range<usize>,
    /// `host` or `host:port` as written.
    pub authority: Range<usize>,
    /// Path and query.
    pub path: Range<usize>,
    /// Name (as written) and value (trimmed) of the fields that may hold a credential, in their order.
    pub credentials: Vec<Field>,
    /// Those that go on.
    fields: Vec<Field>,
    pub content_length: u64,
    pub chunked: bool,
    pub keep_alive: bool,
}

/// A whole head at the start of `data`, of at most `most` bytes and `most_fields` fields.
pub fn read(data: &[u8], most: usize, most_fields: usize) -> Option<Request> {
    let length = data.windows(4).take(most).position(|four| four == b"\r\n\r\n")? + 4;
    if length > most {
        return None;
    }
    let data = &data[..length];
    let method = 0..data.iter().position(|octet| !TOKEN[usize::from(*octet)])?;
    let target = method.end + 1;
    if method.is_empty() || method.len() > MAX_METHOD || data[method.clone()] == *b"CONNECT" {
        return None;
    }
    if !data[method.end..].starts_with(b" http://") {
        return None;
    }
    let end = target + data[target..].iter().position(|octet| !(0x21..=0x7e).contains(octet))?;
    let host = target + b"http://".len();
    let slash = host + data[host..end].iter().position(|octet| matches!(octet, b'/' | b'?' | b'#'))?;
    let (authority, path) = (host..slash, slash..end);
    if data[slash] != b'/' || data[path.clone()].contains(&b'#') || !usual_target(&data[authority.clone()]) {
        return None;
    }
    if !data[end..].starts_with(b" HTTP/1.1\r\n") {
        return None;
    }
    let mut request = Request {
        length,
        method,
        authority,
        path,
        credentials: Vec::new(),
        fields: Vec::with_capacity(16),
        content_length: 0,
        chunked: false,
        keep_alive: true,
    };
    request.read_fields(data, end + b" HTTP/1.1\r\n".len(), most_fields)?;
    Some(request)
}

impl Request {
    fn read_fields(&mut self, data: &[u8], mut at: usize, most: usize) -> Option<()> {
        let (mut hosts, mut framings, mut connections, mut closes, mut count) = (0, 0, 0, 0, 0);
        while at < data.len() - 2 {
            let colon = at + data[at..].iter().position(|octet| !TOKEN[usize::from(*octet)])?;
            let name = &data[at..colon];
            if name.is_empty() || data[colon] != b':' {
                return None;
            }
            let end = colon + 1 + data[colon + 1..].iter().position(|octet| !value_octet(*octet))?;
            if !data[end..].starts_with(b"\r\n") {
                return None;
            }
            let span = trimmed(data, colon + 1..end);
            let value = &data[span.clone()];
            count += 1;
            match name.len() {
                4 if name.eq_ignore_ascii_case(b"host") => {
                    if value != &data[self.authority.clone()] {
                        return None;
                    }
                    hosts += 1;
                }
                10 if name.eq_ignore_ascii_case(b"connection") => {
                    connections += 1;
                    self.keep_alive = value.eq_ignore_ascii_case(b"keep-alive");
                    if !self.keep_alive && !value.eq_ignore_ascii_case(b"close") {
                        return None;
                    }
                }
                14 if name.eq_ignore_ascii_case(b"content-length") => {
                    framings += 1;
                    self.content_length = fields::content_length(value)?;
                    self.fields.push((at..colon, span));
                }
                17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                    framings += 1;
                    self.chunked = true;
                    if value != b"chunked" {
                        return None;
                    }
                    self.fields.push((at..colon, span));
                }
                19 if name.eq_ignore_ascii_case(b"proxy-authorization")
                    || name.eq_ignore_ascii_case(b"x-cloned-tool-token") =>
                {
                    self.credentials.push((at..colon, span));
                }
                10 if name.eq_ignore_ascii_case(b"keep-alive") => {}
                5 if name.eq_ignore_ascii_case(b"close") => closes += 1,
                2 | 6 | 7
                    if [&b"te"[..], b"expect", b"upgrade", b"trailer"]
                        .iter()
                        .any(|odd| name.eq_ignore_ascii_case(odd)) =>
                {
                    return None;
                }
                _ if fields::is_ours(name) => {}
                _ => self.fields.push((at..colon, span)),
            }
            at = end + 2;
        }
        // A connection option names the fields that end here: one of these names, beside it, is Python's to drop.
        let odd = hosts != 1 || framings > 1 || connections > 1 || closes > 0;
        if odd || at != data.len() - 2 || count > most {
            return None;
        }
        Some(())
    }

    /// What is still to come of the body; None: nothing.
    pub fn body(&self) -> Option<Body> {
        if self.chunked {
            Some(Body::Chunked(Chunks::default()))
        } else if self.content_length > 0 {
            Some(Body::Sized(self.content_length))
        } else {
            None
        }
    }

    pub fn is_repeatable(&self, data: &[u8]) -> bool {
        IDEMPOTENT.contains(&&data[self.method.clone()]) && !self.chunked && self.content_length <= SMALL
    }

    /// The head as it goes to its server: `host` is what Host says, whatever the client wrote.
    pub fn encode(&self, data: &[u8], host: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.length + VIA.len());
        out.extend_from_slice(&data[self.method.clone()]);
        out.push(b' ');
        out.extend_from_slice(&data[self.path.clone()]);
        out.extend_from_slice(b" HTTP/1.1\r\nhost: ");
        out.extend_from_slice(host);
        out.extend_from_slice(b"\r\n");
        for (name, value) in &self.fields {
            out.extend(data[name.clone()].iter().map(u8::to_ascii_lowercase));
            out.extend_from_slice(b": ");
            out.extend_from_slice(&data[value.clone()]);
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(VIA);
        out.extend_from_slice(b"\r\n");
        out
    }
}
