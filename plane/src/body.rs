//! The body of one message, taken from a byte stream as strictly as `proxy/wire/body.py` does it, and framed anew.
#![forbid(unsafe_code)]

use crate::fields;
use crate::head::{value_octet, TOKEN};
use std::io::Write;

const MAX_LINE: usize = 4096;
/// Bytes of padding, extensions and trailers of one body: many tiny chunks must not carry a second, unbounded stream.
const MAX_EXTRAS: usize = 65_536;
const MAX_ZEROS: usize = 32;
const MAX_DIGITS: usize = 15;
const MAX_BLANKS: usize = 32;

/// Framing that two readers could read differently.
#[derive(Debug)]
pub struct Malformed;

#[derive(Clone)]
pub enum Body {
    Sized(u64),
    Chunked(Chunks),
    /// A response that ends where its connection ends.
    Unsized,
}

/// What was taken of the bytes at hand.
#[derive(Debug, PartialEq)]
pub struct Taken {
    pub bytes: usize,
    /// The body is complete; what follows belongs to the next message.
    pub whole: bool,
}

impl Body {
    /// Takes what there is of it from `data` and appends it to `out`, with `rechunk` in chunks of our own.
    pub fn take(&mut self, data: &[u8], rechunk: bool, out: &mut Vec<u8>) -> Result<Taken, Malformed> {
        match self {
            Body::Sized(left) => {
                let bytes = data.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= bytes as u64;
                pass(&data[..bytes], rechunk, out);
                Ok(Taken { bytes, whole: *left == 0 })
            }
            Body::Unsized => {
                pass(data, rechunk, out);
                Ok(Taken { bytes: data.len(), whole: false })
            }
            Body::Chunked(chunks) => chunks.take(data, rechunk, out),
        }
    }

    /// Whether all of `data` is of this body, and more is to come behind it; then it counts as taken.
    pub fn pass_by(&mut self, data: &[u8]) -> bool {
        match self {
            Body::Sized(left) if (data.len() as u64) < *left => {
                *left -= data.len() as u64;
                true
            }
            _ => false,
        }
    }
}

fn pass(piece: &[u8], rechunk: bool, out: &mut Vec<u8>) {
    if piece.is_empty() {
        return;
    }
    if !rechunk {
        return out.extend_from_slice(piece);
    }
    let _ = write!(out, "{:x}\r\n", piece.len()); // to a vector, which takes it
    out.extend_from_slice(piece);
    out.extend_from_slice(b"\r\n");
}

/// RFC 9112, section 7.1.
pub fn end_chunks(trailers: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"0\r\n");
    out.extend_from_slice(trailers);
    out.extend_from_slice(b"\r\n");
}

#[derive(Clone, Default)]
pub struct Chunks {
    /// Bytes that are to come of the chunk at hand.
    pub left: u64,
    /// The CRLF behind the data of a chunk has not been read.
    pub open: bool,
    /// Bytes of padding and extensions so far.
    pub extras: usize,
}

impl Chunks {
    fn take(&mut self, data: &[u8], rechunk: bool, out: &mut Vec<u8>) -> Result<Taken, Malformed> {
        let mut at = 0;
        loop {
            let bytes = (data.len() - at).min(usize::try_from(self.left).unwrap_or(usize::MAX));
            pass(&data[at..at + bytes], rechunk, out);
            self.left -= bytes as u64;
            at += bytes;
            if self.left > 0 {
                return Ok(Taken { bytes: at, whole: false });
            }
            let line = match line_of(&data[at..])? {
                Some(line) => line,
                None => return Ok(Taken { bytes: at, whole: false }),
            };
            if self.open {
                if line != b"\r\n" {
                    return Err(Malformed); // the chunk is longer than its size says
                }
                self.open = false;
                at += line.len();
                continue;
            }
            let (size, extra) = size_of(line)?;
            let extras = counted(self.extras, extra)?;
            if size == 0 {
                // Taken with all that follows, or not yet: so nothing but the fields tells where a body stands.
                let end = read_trailers(&data[at + line.len()..], extras, out)?;
                let bytes = end.map_or(at, |end| at + line.len() + end);
                return Ok(Taken { bytes, whole: end.is_some() });
            }
            self.extras = extras;
            self.left = size;
            self.open = true;
            at += line.len();
        }
    }
}

fn counted(extras: usize, more: usize) -> Result<usize, Malformed> {
    if extras + more > MAX_EXTRAS {
        return Err(Malformed);
    }
    Ok(extras + more)
}

/// What a size line says, and how many bytes of it say nothing: zeros, digits, blanks, an extension; the padding and the
/// extension are bounded and dropped.
fn size_of(line: &[u8]) -> Result<(u64, usize), Malformed> {
    let hex = line.iter().take_while(|octet| octet.is_ascii_hexdigit()).count();
    let zeros = line[..hex].iter().take_while(|octet| **octet == b'0').count();
    let padding = zeros.min(MAX_ZEROS).min(hex.saturating_sub(1));
    if hex == 0 || hex - padding > MAX_DIGITS {
        return Err(Malformed);
    }
    let rest = line[hex..].strip_suffix(b"\r\n").ok_or(Malformed)?;
    let blanks = rest.iter().take_while(|octet| matches!(octet, b' ' | b'\t')).count();
    let extension = &rest[blanks..];
    let fits = extension.is_empty() || (extension[0] == b';' && extension.iter().all(|octet| text_octet(*octet)));
    if blanks > MAX_BLANKS || !fits {
        return Err(Malformed);
    }
    let digit = |octet: &u8| u64::from(char::from(*octet).to_digit(16).unwrap_or(0));
    let size = line[padding..hex].iter().fold(0, |size, octet| size << 4 | digit(octet));
    Ok((size, padding + rest.len()))
}

/// Writes the end of a chunked body with the trailers that may go on; where it ends, None while it is not complete.
fn read_trailers(data: &[u8], mut extras: usize, out: &mut Vec<u8>) -> Result<Option<usize>, Malformed> {
    let (mut at, mut kept) = (0, Vec::new());
    while let Some(line) = line_of(&data[at..])? {
        at += line.len();
        if line == b"\r\n" {
            end_chunks(&kept, out);
            return Ok(Some(at));
        }
        let name = line.iter().take_while(|octet| TOKEN[usize::from(**octet)]).count();
        let value = line[name..].strip_suffix(b"\r\n").ok_or(Malformed)?;
        if name == 0 || value.first() != Some(&b':') || !value.iter().all(|octet| text_octet(*octet)) {
            return Err(Malformed);
        }
        extras = counted(extras, line.len())?;
        if fields::may_be_trailer(&line[..name]) {
            kept.extend_from_slice(line);
        }
    }
    Ok(None)
}

/// RFC 9110, section 5.5: what may stand in a value.
pub fn text_octet(octet: u8) -> bool {
    value_octet(octet) || octet >= 0x80
}

/// One line with its end, None while it is not complete.
fn line_of(data: &[u8]) -> Result<Option<&[u8]>, Malformed> {
    let found = data.iter().take(MAX_LINE + 1).position(|octet| *octet == b'\n');
    match found {
        Some(end) if end < MAX_LINE => Ok(Some(&data[..=end])),
        None if data.len() <= MAX_LINE => Ok(None),
        _ => Err(Malformed),
    }
}
