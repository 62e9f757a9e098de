//! `printf` of device code: formatting, and the buffer that holds output until the host looks.
//!
//! The conversions are those of the CUDA programming guide ("Formatted output"), which are C's; the
//! host's C library formats one conversion at a time. Values lie in the caller's argument buffer in
//! order, each at a multiple of its size: 8 bytes for `l`, `ll`, `z`, `j`, `t`, floating point,
//! strings and pointers, 4 for all else.
#![expect(unsafe_code, reason = "values are formatted by the C library")]

use std::collections::VecDeque;
use std::ffi::{CString, c_int, c_void};

/// Where a format takes its values from.
pub trait Arguments {
    /// The next value of 4 or 8 bytes, zero-extended; `None` if it cannot be read.
    fn value(&mut self, bytes: u32) -> Option<u64>;
    /// The bytes of a string, up to its NUL; `None` if it cannot be read.
    fn string(&mut self, address: u64) -> Option<Vec<u8>>;
}

/// One conversion as written.
#[derive(Debug, Default)]
struct Spec {
    /// `%` and everything up to the length, with `*` replaced.
    head: Vec<u8>,
    long: bool,
    conversion: u8,
}

/// The text of a format, and how many values it took.
///
/// # Errors
/// A value or string that cannot be read: whatever the arguments answered with `None`.
pub fn format(format: &[u8], arguments: &mut dyn Arguments) -> Option<(Vec<u8>, i32)> {
    let mut out = Vec::new();
    let mut count = 0;
    let mut rest = format;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let whole = after;
        let spec = spec(&mut rest, arguments, &mut count)?;
        match spec.conversion {
            b'%' => out.push(b'%'),
            b'd' | b'i' | b'u' | b'o' | b'x' | b'X' | b'c' => {
                let bytes = if spec.long { 8 } else { 4 };
                let value = arguments.value(bytes)?;
                count += 1;
                integer(&spec, value, &mut out);
            }
            b'e' | b'E' | b'f' | b'F' | b'g' | b'G' | b'a' | b'A' => {
                let value = f64::from_bits(arguments.value(8)?);
                count += 1;
                print(&spec, b"", Value::Float(value), &mut out);
            }
            b'p' => {
                let value = arguments.value(8)?;
                count += 1;
                print(&spec, b"", Value::Pointer(value), &mut out);
            }
            b's' => {
                let address = arguments.value(8)?;
                count += 1;
                let text = if address == 0 {
                    b"(null)".to_vec()
                } else {
                    arguments.string(address)?
                };
                let text = CString::new(text).unwrap_or_default();
                print(&spec, b"", Value::Text(&text), &mut out);
            }
            // Not a conversion: as written.
            _ => {
                out.push(b'%');
                out.extend_from_slice(&whole[..whole.len() - rest.len()]);
            }
        }
    }
    Some((out, count))
}

/// Reads a conversion behind its `%`.
fn spec(rest: &mut &[u8], arguments: &mut dyn Arguments, count: &mut i32) -> Option<Spec> {
    let mut spec = Spec {
        head: vec![b'%'],
        ..Spec::default()
    };
    let mut lengths = 0;
    while let Some((&byte, after)) = rest.split_first() {
        *rest = after;
        match byte {
            b'-' | b'+' | b' ' | b'#' | b'0'..=b'9' | b'.' => {
                // Longer numbers would only make longer padding than the buffer has.
                if spec.head.len() < 12 {
                    spec.head.push(byte);
                }
            }
            b'*' => {
                let width = arguments.value(4)?;
                *count += 1;
                #[expect(clippy::cast_possible_truncation, reason = "an int in 4 bytes")]
                let width = (width as u32).cast_signed().clamp(-9999, 9999);
                spec.head.extend_from_slice(width.to_string().as_bytes());
            }
            b'h' => lengths -= 1,
            b'l' | b'z' | b'j' | b't' => lengths += 1,
            conversion => {
                spec.conversion = conversion;
                spec.long = lengths > 0;
                if lengths < 0 {
                    let short = if lengths == -1 { &b"h"[..] } else { b"hh" };
                    spec.head.extend_from_slice(short);
                }
                break;
            }
        }
    }
    Some(spec)
}

fn integer(spec: &Spec, value: u64, out: &mut Vec<u8>) {
    #[expect(clippy::cast_possible_truncation, reason = "an int in 4 bytes")]
    let word = (value as u32).cast_signed();
    if spec.conversion == b'c' {
        return print(spec, b"", Value::Int(word), out);
    }
    if spec.long {
        print(spec, b"ll", Value::Long(value.cast_signed()), out);
    } else {
        print(spec, b"", Value::Int(word), out);
    }
}

enum Value<'a> {
    Int(c_int),
    Long(i64),
    Float(f64),
    Pointer(u64),
    Text(&'a CString),
}

/// Formats one value with the C library.
fn print(spec: &Spec, length: &[u8], value: Value<'_>, out: &mut Vec<u8>) {
    let mut text = spec.head.clone();
    if matches!(value, Value::Float(_) | Value::Pointer(_) | Value::Text(_)) {
        text.retain(|byte| *byte != b'h');
    }
    text.extend_from_slice(length);
    text.push(spec.conversion);
    let Ok(spec) = CString::new(text) else {
        return;
    };
    let mut buffer = vec![0u8; 512];
    loop {
        let (to, size) = (buffer.as_mut_ptr().cast(), buffer.len());
        let spec = spec.as_ptr();
        let wanted = match value {
            // SAFETY: the buffer has `size` bytes, and the conversion takes an int.
            Value::Int(value) => unsafe { libc::snprintf(to, size, spec, value) },
            // SAFETY: as above; the conversion takes a long long.
            Value::Long(value) => unsafe { libc::snprintf(to, size, spec, value) },
            // SAFETY: as above; the conversion takes a double.
            Value::Float(value) => unsafe { libc::snprintf(to, size, spec, value) },
            Value::Pointer(value) => {
                let value = usize::try_from(value).unwrap_or(0);
                let value: *const c_void = std::ptr::without_provenance(value);
                // SAFETY: as above; `%p` prints the pointer and does not follow it.
                unsafe { libc::snprintf(to, size, spec, value) }
            }
            // SAFETY: as above; the conversion takes a NUL-terminated string.
            Value::Text(text) => unsafe { libc::snprintf(to, size, spec, text.as_ptr()) },
        };
        // Negative: the C library refuses the conversion; nothing is printed then.
        let wanted = usize::try_from(wanted).unwrap_or(0);
        if wanted < size {
            out.extend_from_slice(&buffer[..wanted]);
            return;
        }
        buffer.resize(wanted + 1, 0);
    }
}

/// Output that the host has not seen. When it is full the oldest output is lost, as on a device.
#[derive(Debug)]
pub(super) struct Fifo {
    texts: VecDeque<Vec<u8>>,
    bytes: usize,
    limit: usize,
}

impl Fifo {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            texts: VecDeque::new(),
            bytes: 0,
            limit,
        }
    }

    pub(super) fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    pub(super) fn push(&mut self, text: Vec<u8>) {
        self.bytes += text.len();
        self.texts.push_back(text);
        while self.bytes > self.limit {
            match self.texts.pop_front() {
                Some(lost) => self.bytes -= lost.len(),
                None => break,
            }
        }
    }

    pub(super) fn take(&mut self) -> Vec<u8> {
        self.bytes = 0;
        self.texts.drain(..).flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{Arguments, Fifo, format};

    struct Values(Vec<u64>);

    impl Arguments for Values {
        fn value(&mut self, bytes: u32) -> Option<u64> {
            let value = self.0.remove(0);
            Some(if bytes == 4 {
                value & 0xffff_ffff
            } else {
                value
            })
        }

        fn string(&mut self, address: u64) -> Option<Vec<u8>> {
            (address == 7).then(|| b"seven".to_vec())
        }
    }

    fn text(layout: &str, values: &[u64]) -> (String, i32) {
        let (bytes, count) = format(layout.as_bytes(), &mut Values(values.to_vec())).unwrap();
        (String::from_utf8(bytes).unwrap(), count)
    }

    #[test]
    fn integers_of_all_lengths() {
        let minus = u64::MAX;
        let cases: [(&str, u64, &str); 16] = [
            ("%d", minus, "-1"),
            ("%i|", 42, "42|"),
            ("%u", minus, "4294967295"),
            ("%o", 8, "10"),
            ("%#x", 255, "0xff"),
            ("%X", 255, "FF"),
            ("%08d", 42, "00000042"),
            ("%-6d|", 42, "42    |"),
            ("%+d", 42, "+42"),
            ("% d", 42, " 42"),
            ("%.3d", 7, "007"),
            ("%hd", 0x1_8000, "-32768"),
            ("%hhu", 0x1ff, "255"),
            ("%ld", minus, "-1"),
            ("%llu", minus, "18446744073709551615"),
            ("%lx", 0x1234_5678_9abc, "123456789abc"),
        ];
        for (layout, value, expected) in cases {
            assert_eq!(text(layout, &[value]), (expected.to_owned(), 1), "{layout}");
        }
    }

    #[test]
    fn floats_in_every_style() {
        let bits = f64::to_bits;
        let cases = [
            ("%f", 1.5, "1.500000"),
            ("%.1f", 1.25, "1.2"),
            ("%10.3e|", 12345.678, " 1.235e+04|"),
            ("%E", 0.5, "5.000000E-01"),
            ("%g", 1e20, "1e+20"),
            ("%G", 1e-10, "1E-10"),
            ("%a", 1.0, "0x1p+0"),
            ("%F", f64::INFINITY, "INF"),
            ("%f", f64::NAN, "nan"),
        ];
        for (layout, value, expected) in cases {
            let found = text(layout, &[bits(value)]);
            assert_eq!(found, (expected.to_owned(), 1), "{layout}");
        }
    }

    #[test]
    fn strings_pointers_and_the_rest() {
        assert_eq!(text("100%%", &[]), ("100%".to_owned(), 0));
        assert_eq!(text("%s!%c", &[7, 65]), ("seven!A".to_owned(), 2));
        assert_eq!(text("%.3s|%8s", &[7, 7]), ("sev|   seven".to_owned(), 2));
        assert_eq!(text("%s", &[0]), ("(null)".to_owned(), 1));
        assert_eq!(text("%p", &[0xabc0]), ("0xabc0".to_owned(), 1));
        assert_eq!(text("%*d|", &[5, 3]), ("    3|".to_owned(), 2));
        assert_eq!(text("%k %", &[]), ("%k %".to_owned(), 0));
        assert!(format(b"%s", &mut Values(vec![9])).is_none());
        let long = "x".repeat(700);
        assert_eq!(text(&format!("{long}%600d"), &[1]).0.len(), 1300);
    }

    #[test]
    fn a_full_buffer_loses_the_oldest_output() {
        let mut fifo = Fifo::new(10);
        for text in ["aaaa", "bbbb", "cccc"] {
            fifo.push(text.as_bytes().to_vec());
        }
        assert_eq!(fifo.take(), b"bbbbcccc");
        assert_eq!(fifo.take(), b"");
    }
}
