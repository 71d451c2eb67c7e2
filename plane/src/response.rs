//! The heads of responses: read as `proxy/wire/response.py` reads them, and written as it writes them.
//!
//! What is not plainly in order is `Other`, and Python reads the same bytes: it has the answer and the words for it.
#![forbid(unsafe_code)]

use crate::body::{text_octet, Body, Chunks};
use crate::fields::{self, VIA};
use crate::head::{trimmed, TOKEN};
use std::ops::Range;

pub enum Read {
    /// The head is not complete.
    More,
    Other,
    Head(Response),
}

pub struct Response {
    /// Bytes, with the empty line.
    pub length: usize,
    pub status: u16,
    phrase: Range<usize>,
    /// The lines that pass, each with its CRLF.
    lines: Vec<Range<usize>>,
    content_length: Option<u64>,
    chunked: bool,
    /// RFC 9112, section 9.3.
    keep_alive: bool,
}

/// The head at the start of `data`.
pub fn read(data: &[u8], most: usize, most_fields: usize) -> Read {
    match end_of(data) {
        Some(end) if end > most => Read::Other,
        None if data.len() > most => Read::Other,
        None => Read::More,
        Some(end) => Response::of(&data[..end], most_fields).map_or(Read::Other, Read::Head),
    }
}

/// A connection option, which may be the name of a field.
fn option(text: &[u8]) -> Vec<u8> {
    text[trimmed(text, 0..text.len())].to_ascii_lowercase()
}

fn name_of(line: &[u8]) -> &[u8] {
    line.split(|octet| *octet == b':').next().unwrap_or(line)
}

/// Behind the first empty line, of whatever line ends: one with a bare LF is refused when it is read.
fn end_of(data: &[u8]) -> Option<usize> {
    let mut at = 0;
    while let Some(found) = data[at..].iter().position(|octet| *octet == b'\n') {
        at += found + 1;
        match &data[at..] {
            [b'\n', ..] => return Some(at + 1),
            [b'\r', b'\n', ..] => return Some(at + 2),
            _ => {}
        }
    }
    None
}

impl Response {
    fn of(data: &[u8], most: usize) -> Option<Self> {
        let digits = data.get(9..12)?;
        let starts = data.starts_with(b"HTTP/1.") && matches!(data[7], b'0' | b'1') && data[8] == b' ';
        if !starts || !digits.iter().all(u8::is_ascii_digit) || digits[0] == b'0' {
            return None;
        }
        let status = digits.iter().fold(0, |sum, digit| sum * 10 + u16::from(digit - b'0'));
        let start = match data[12] {
            b' ' => 13,
            b'\r' => 12,
            _ => return None,
        };
        let end = start + data[start..].iter().position(|octet| !text_octet(*octet))?;
        if !data[end..].starts_with(b"\r\n") {
            return None;
        }
        let is_1_1 = data[7] == b'1';
        let mut response = Response {
            length: data.len(),
            status,
            phrase: start..end,
            lines: Vec::with_capacity(16),
            content_length: None,
            chunked: false,
            keep_alive: is_1_1,
        };
        response.read_fields(data, end + 2, most)?;
        if response.chunked && (response.content_length.is_some() || !is_1_1) {
            return None;
        }
        Some(response)
    }

    fn read_fields(&mut self, data: &[u8], mut at: usize, most: usize) -> Option<()> {
        let (mut options, mut count) = (Vec::new(), 0);
        while at < data.len() - 2 {
            let colon = at + data[at..].iter().position(|octet| !TOKEN[usize::from(*octet)])?;
            let name = &data[at..colon];
            if name.is_empty() || data[colon] != b':' {
                return None;
            }
            let end = colon + 1 + data[colon + 1..].iter().position(|octet| !text_octet(*octet))?;
            if !data[end..].starts_with(b"\r\n") {
                return None;
            }
            let value = &data[trimmed(data, colon + 1..end)];
            count += 1;
            match name.len() {
                10 if name.eq_ignore_ascii_case(b"connection") => {
                    options.extend(value.split(|octet| *octet == b',').map(option));
                }
                14 if name.eq_ignore_ascii_case(b"content-length") => {
                    if self.content_length.is_some() {
                        return None;
                    }
                    self.content_length = Some(fields::content_length(value)?);
                }
                17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                    if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                        return None;
                    }
                    self.chunked = true;
                }
                _ if fields::is_hop_by_hop(name) || fields::is_ours(name) => {}
                _ => self.lines.push(at..end + 2),
            }
            at = end + 2;
        }
        // An upgrade is for Python to judge.
        if count > most || at != data.len() - 2 || options.iter().any(|option| option == b"upgrade") {
            return None;
        }
        self.keep_alive &= !options.iter().any(|option| option == b"close");
        if options.iter().any(|option| option != b"close") {
            self.lines.retain(|line| !options.contains(&option(name_of(&data[line.clone()]))));
        }
        Some(())
    }

    pub fn is_final(&self) -> bool {
        self.status >= 200
    }

    /// How the body is framed (RFC 9112, section 6.3); None when there is none.
    pub fn body(&self, to_head: bool) -> Option<Body> {
        if to_head || !self.is_final() || matches!(self.status, 204 | 304) {
            None
        } else if self.chunked {
            Some(Body::Chunked(Chunks::default()))
        } else {
            Some(self.content_length.map_or(Body::Unsized, Body::Sized))
        }
    }

    /// Whether the connection that it came on can carry another one behind it. Chunks announced and none allowed (an
    /// answer to HEAD): whether some follow is anybody's guess.
    pub fn leaves_connection_clean(&self, has_body: bool) -> bool {
        self.keep_alive && (has_body || !self.chunked)
    }

    /// The head for a client of HTTP/1.1: a body without a length is chunked.
    pub fn encode(&self, data: &[u8], has_body: bool, close: bool, out: &mut Vec<u8>) {
        out.extend_from_slice(b"HTTP/1.1 ");
        out.extend_from_slice(self.status.to_string().as_bytes());
        out.push(b' ');
        out.extend_from_slice(&data[self.phrase.clone()]);
        out.extend_from_slice(b"\r\n");
        for line in &self.lines {
            out.extend_from_slice(&data[line.clone()]);
        }
        match self.content_length {
            Some(length) if self.is_final() && self.status != 204 => {
                out.extend_from_slice(b"Content-Length: ");
                out.extend_from_slice(length.to_string().as_bytes());
                out.extend_from_slice(b"\r\n");
            }
            _ if has_body => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
            _ => {}
        }
        if close {
            out.extend_from_slice(b"Connection: close\r\n");
        }
        out.extend_from_slice(VIA);
        out.extend_from_slice(b"\r\n");
    }
}
