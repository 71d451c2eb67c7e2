//! Which header fields pass the proxy (RFC 9110, section 7.6.1): `proxy/wire/fields.py` and `proxy/wire/response.py`.
#![forbid(unsafe_code)]

/// RFC 9110, section 7.6.3: a pseudonym, the same everywhere.
pub const VIA: &[u8] = b"Via: 1.1 cloned-proxy\r\n";

const HOP_BY_HOP: [&[u8]; 5] = [b"connection", b"keep-alive", b"te", b"trailer", b"upgrade"];
/// Between the caller and the proxy: never upstream, never from upstream.
const OURS: [&[u8]; 2] = [b"proxy-", b"x-cloned-"];
/// RFC 9110, section 6.5.1: what routes, frames, authenticates or controls must not come behind the body.
const NEVER_TRAILERS: [&[u8]; 14] = [
    b"authorization",
    b"cache-control",
    b"content-encoding",
    b"content-length",
    b"content-range",
    b"content-type",
    b"cookie",
    b"expect",
    b"host",
    b"max-forwards",
    b"range",
    b"set-cookie",
    b"transfer-encoding",
    b"www-authenticate",
];

/// Whether it is between the caller and the proxy.
pub fn is_ours(name: &[u8]) -> bool {
    OURS.iter().any(|prefix| name.len() >= prefix.len() && name[..prefix.len()].eq_ignore_ascii_case(prefix))
}

pub fn is_hop_by_hop(name: &[u8]) -> bool {
    HOP_BY_HOP.iter().any(|other| name.eq_ignore_ascii_case(other))
}

pub fn may_be_trailer(name: &[u8]) -> bool {
    !is_ours(name) && !is_hop_by_hop(name) && !NEVER_TRAILERS.iter().any(|other| name.eq_ignore_ascii_case(other))
}

/// RFC 9112, section 6.2: digits that fit 63 bits.
pub fn content_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 18 || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(value.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')))
}
