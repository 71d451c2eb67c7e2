//! The answer of a proxy in front to CONNECT, as far as it is read natively: a plain success.
//!
//! `proxy/upstream/chained/connect_answer.py` is the specification. Whatever is not exactly of this form is `None`, and
//! Python judges the same bytes.
#![forbid(unsafe_code)]

use crate::head;

/// How many bytes at the start of `data` say that the tunnel is there, of at most `most` bytes and `fields` fields.
pub fn success(data: &[u8], most: usize, fields: usize) -> Option<usize> {
    let status = data.strip_prefix(b"HTTP/1.1 200").or_else(|| data.strip_prefix(b"HTTP/1.0 200"))?;
    if !matches!(status.first(), Some(b' ' | b'\r')) {
        return None;
    }
    let mut at = data.len() - status.len() + head::line_end(status)?;
    let mut count = 0;
    while !data[at..].starts_with(b"\r\n") {
        let field = head::field(data, at)?;
        let name = data[field.name].to_ascii_lowercase();
        if count == fields || matches!(name.as_slice(), b"content-length" | b"transfer-encoding") {
            return None; // perhaps a page, which must not get into the tunnel
        }
        count += 1;
        at = field.end;
    }
    let end = at + 2;
    if end <= most {
        Some(end)
    } else {
        None
    }
}
