//! Numbers and text as Python's `json` writes them.
#![forbid(unsafe_code)]

/// As Python writes a float that has at most six decimals.
pub fn seconds(out: &mut Vec<u8>, microseconds: u64) {
    if (1..100).contains(&microseconds) {
        // Below a ten-thousandth it is mantissa and exponent.
        let (first, second) =
            if microseconds < 10 { (microseconds, 0) } else { (microseconds / 10, microseconds % 10) };
        number(out, first);
        if second > 0 {
            out.push(b'.');
            number(out, second);
        }
        return out.extend_from_slice(if microseconds < 10 { b"e-06" } else { b"e-05" });
    }
    number(out, microseconds / 1_000_000);
    out.push(b'.');
    let (mut rest, mut digit) = (microseconds % 1_000_000, 100_000);
    loop {
        out.push(b'0' + (rest / digit) as u8);
        rest %= digit;
        digit /= 10;
        if rest == 0 || digit == 0 {
            return;
        }
    }
}

pub fn number(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(value.to_string().as_bytes());
}

/// Visible ASCII as a JSON string.
pub fn quoted(out: &mut Vec<u8>, text: &[u8]) {
    for octet in text {
        if matches!(octet, b'"' | b'\\') {
            out.push(b'\\');
        }
        out.push(*octet);
    }
}

pub fn hex(out: &mut Vec<u8>, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in bytes {
        out.push(DIGITS[usize::from(byte >> 4)]);
        out.push(DIGITS[usize::from(byte & 15)]);
    }
}
