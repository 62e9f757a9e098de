//! A shared library without code whose SONAME is `libcuda.so` and which needs one given library.
//!
//! cudarc opens the driver by name, first of all `libcuda.so`, and whatever the search path holds
//! under that name would win over a library that was opened before by its path. The dynamic linker
//! looks among the open libraries' SONAMEs first, so an open alias settles the name; symbols are
//! then found in the library that the alias needs, which it names by its full path.
//!
//! The format is ELF64 (System V gABI, chapters 4 and 5): a header, three program headers, the
//! dynamic section and the string table.

use std::path::Path;

const HEADER: u16 = 64;
const PROGRAM_HEADER: u16 = 56;
const PROGRAM_HEADERS: u16 = 3;
const DYNAMIC: usize = (HEADER + PROGRAM_HEADERS * PROGRAM_HEADER) as usize;
/// NEEDED, SONAME, STRTAB, SYMTAB, STRSZ, SYMENT and the end.
const ENTRIES: usize = 7;
const SYMBOLS: usize = DYNAMIC + ENTRIES * 16;
/// The reserved symbol 0 only.
const SYMBOL: usize = 24;
const STRINGS: usize = SYMBOLS + SYMBOL;
const PAGE: u64 = 0x1000;

#[cfg(target_arch = "aarch64")]
const MACHINE: u16 = 183;
#[cfg(not(target_arch = "aarch64"))]
const MACHINE: u16 = 62;

const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
/// Its absence would ask for an executable stack.
const PT_GNU_STACK: u32 = 0x6474_e551;
const READ_WRITE: u32 = 6;

/// The image of the alias of `library`.
pub(super) fn image(library: &Path) -> Vec<u8> {
    let mut strings = vec![0];
    let soname = push_string(&mut strings, b"libcuda.so");
    let needed = push_string(&mut strings, library.as_os_str().as_encoded_bytes());
    let size = (STRINGS + strings.len()) as u64;

    let mut out = Vec::with_capacity(STRINGS + strings.len());
    // e_ident: 64-bit, little-endian, version 1; then ET_DYN and the machine.
    out.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    push_halves(&mut out, &[3, MACHINE]);
    push_words(&mut out, &[1]);
    push_longs(&mut out, &[0, u64::from(HEADER), 0]);
    push_words(&mut out, &[0]);
    push_halves(
        &mut out,
        &[HEADER, PROGRAM_HEADER, PROGRAM_HEADERS, 64, 0, 0],
    );

    let (dynamic, dynamic_size) = (DYNAMIC as u64, (ENTRIES * 16) as u64);
    push_words(&mut out, &[PT_LOAD, READ_WRITE]);
    push_longs(&mut out, &[0, 0, 0, size, size, PAGE]);
    push_words(&mut out, &[PT_DYNAMIC, READ_WRITE]);
    push_longs(
        &mut out,
        &[dynamic, dynamic, dynamic, dynamic_size, dynamic_size, 8],
    );
    push_words(&mut out, &[PT_GNU_STACK, READ_WRITE]);
    push_longs(&mut out, &[0, 0, 0, 0, 0, 16]);

    let string_bytes = strings.len() as u64;
    for entry in [
        [1, needed],
        [14, soname],
        [5, STRINGS as u64],
        [6, SYMBOLS as u64],
        [10, string_bytes],
        [11, SYMBOL as u64],
        [0, 0],
    ] {
        push_longs(&mut out, &entry);
    }
    out.extend([0; SYMBOL]);
    out.extend(strings);
    out
}

fn push_string(strings: &mut Vec<u8>, text: &[u8]) -> u64 {
    let offset = strings.len() as u64;
    strings.extend(text);
    strings.push(0);
    offset
}

fn push_halves(out: &mut Vec<u8>, values: &[u16]) {
    values
        .iter()
        .for_each(|value| out.extend(value.to_le_bytes()));
}

fn push_words(out: &mut Vec<u8>, values: &[u32]) {
    values
        .iter()
        .for_each(|value| out.extend(value.to_le_bytes()));
}

fn push_longs(out: &mut Vec<u8>, values: &[u64]) {
    values
        .iter()
        .for_each(|value| out.extend(value.to_le_bytes()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_lie_where_the_headers_say() {
        let image = image(Path::new("/a/libsoftgpu.so"));
        let long = |at: usize| {
            let bytes = image[at..at + 8].try_into().unwrap();
            usize::try_from(u64::from_le_bytes(bytes)).unwrap()
        };
        assert_eq!(long(32), 64, "program headers follow the header");
        let dynamic = long(64 + 56 + 8);
        assert_eq!(dynamic % 8, 0);
        let value = |tag: usize| {
            let entry = (0..7).map(|i| dynamic + 16 * i).find(|&at| long(at) == tag);
            long(entry.unwrap() + 8)
        };
        let string = |offset: usize| {
            let start = value(5) + offset;
            let length = image[start..].iter().position(|&byte| byte == 0).unwrap();
            std::str::from_utf8(&image[start..start + length]).unwrap()
        };
        assert_eq!(string(value(1)), "/a/libsoftgpu.so");
        assert_eq!(string(value(14)), "libcuda.so");
        assert_eq!(value(5) + value(10), image.len());
    }
}
