//! Code images: PTX text, fat binaries that hold PTX, machine code.
//!
//! Fat binary layout (as nvcc emits it): a wrapper {magic 0x466243b1, version, pointer to data}
//! around, or directly, {magic 0xBA55ED50, u16 version, u16 header size, u64 size of what follows};
//! then entries {u16 kind, u16, u32 header size, u64 payload size, u32 compressed size, …,
//! u32 architecture at 28, …, u64 flags at 40, u64 uncompressed size at 56}. Kind 1 is PTX, kind 2 an ELF.
//!
//! # Safety
//!
//! [`Image::read`] follows the pointers that the client passes to `cuModuleLoadData`, as far as
//! headers and terminators say; the client vouches for them.

#![expect(unsafe_code, reason = "images come as bare pointers")]

use std::ffi::{CStr, c_char};
use std::io::Read;

use super::report;
use super::status::{Result, Status};

const WRAPPER_MAGIC: u32 = 0x4662_43b1;
const FATBIN_MAGIC: u32 = 0xBA55_ED50;
/// How an ELF file begins.
pub const ELF_MAGIC: [u8; 4] = *b"\x7fELF";
/// Compute capability of the devices, times ten.
const ARCHITECTURE: u32 = 90;
const KIND_PTX: u16 = 1;
const FLAG_LZ4: u64 = 0x2000;
const FLAG_ZSTD: u64 = 0x8000;
/// Most bytes that a compressed text may have: a few bytes can unpack to any number.
const MAX_TEXT: u64 = 256 << 20;

/// PTX text extracted from an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The text.
    pub ptx: String,
}

impl Image {
    /// Reads an image at a pointer.
    ///
    /// # Safety
    ///
    /// `data` points to NUL-terminated PTX, a fat binary (or its wrapper) or an ELF file.
    ///
    /// # Errors
    ///
    /// `INVALID_VALUE` for null, `NO_BINARY_FOR_GPU` where there is only machine code,
    /// `INVALID_IMAGE` or `INVALID_PTX` for anything else.
    pub unsafe fn read(data: *const u8) -> Result<Self> {
        if data.is_null() {
            return Err(Status::INVALID_VALUE);
        }
        // SAFETY: every image has at least one byte; text may end there.
        let first = unsafe { data.read() };
        if first == 0 {
            return Err(Status::INVALID_IMAGE);
        }
        if first == b'\x7f' {
            return Err(machine_code());
        }
        let magics = [
            WRAPPER_MAGIC.to_le_bytes()[0],
            FATBIN_MAGIC.to_le_bytes()[0],
        ];
        if magics.contains(&first) {
            // SAFETY: neither byte starts a text, so this is a fat binary, at least 4 bytes long.
            let magic = unsafe { data.cast::<u32>().read_unaligned() };
            if magic == WRAPPER_MAGIC {
                // SAFETY: a wrapper is 16 bytes or more; its second half points to the binary.
                let inner = unsafe { data.add(8) };
                // SAFETY: as above.
                let inner = unsafe { inner.cast::<*const u8>().read_unaligned() };
                if inner.is_null() {
                    return Err(Status::INVALID_IMAGE);
                }
                // SAFETY: the wrapper's pointer is to a fat binary.
                return unsafe { Self::read_fatbin(inner) };
            }
            // SAFETY: the magic says what it is.
            return unsafe { Self::read_fatbin(data) };
        }
        // SAFETY: what is neither ELF nor fat binary is NUL-terminated text.
        let text = unsafe { CStr::from_ptr(data.cast::<c_char>()) };
        text_image(text.to_bytes())
    }

    /// # Safety
    ///
    /// `data` points to a fat binary header with as many bytes behind it as it says.
    unsafe fn read_fatbin(data: *const u8) -> Result<Self> {
        // SAFETY: the header is 16 bytes.
        let header = unsafe { std::slice::from_raw_parts(data, 16) };
        let head = u64::from(u16_at(header, 6)?);
        let size = u64_at(header, 8)?;
        let total = head.checked_add(size).and_then(|t| usize::try_from(t).ok());
        let total = total.ok_or(Status::INVALID_IMAGE)?;
        // SAFETY: the header says that the binary is this long.
        Self::from_fatbin(unsafe { std::slice::from_raw_parts(data, total) })
    }

    /// Finds the PTX in a fat binary.
    ///
    /// # Errors
    ///
    /// As [`Self::read`].
    pub fn from_fatbin(bytes: &[u8]) -> Result<Self> {
        if u32_at(bytes, 0)? != FATBIN_MAGIC {
            return Err(Status::INVALID_IMAGE);
        }
        let mut at = usize::from(u16_at(bytes, 6)?);
        let mut entries = 0;
        // The PTX for the newest architecture that is not newer than the device.
        let mut best: Option<(u32, &[u8], &[u8])> = None;
        while at + 64 <= bytes.len() {
            let entry = bytes.get(at..).unwrap_or_default();
            let header = u32_at(entry, 4)? as usize;
            let payload = usize::try_from(u64_at(entry, 8)?).map_err(|_| Status::INVALID_IMAGE)?;
            let end = header.checked_add(payload).ok_or(Status::INVALID_IMAGE)?;
            if header < 64 || end > entry.len() {
                return Err(Status::INVALID_IMAGE);
            }
            let architecture = u32_at(entry, 28)?;
            if u16_at(entry, 0)? == KIND_PTX && architecture <= ARCHITECTURE {
                let body = entry.get(header..end).unwrap_or_default();
                if best.is_none_or(|(known, ..)| architecture >= known) {
                    best = Some((architecture, entry, body));
                }
            }
            entries += 1;
            at += end;
        }
        match best {
            Some((_, entry, body)) => text_image(&unpack(entry, body)?),
            None if entries > 0 => Err(machine_code()),
            None => Err(Status::INVALID_IMAGE),
        }
    }

    /// An image from the bytes of a file.
    ///
    /// # Errors
    ///
    /// As [`Self::read`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        if bytes.starts_with(&ELF_MAGIC) {
            return Err(machine_code());
        }
        if u32_at(bytes, 0).is_ok_and(|magic| magic == FATBIN_MAGIC) {
            return Self::from_fatbin(bytes);
        }
        let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
        text_image(bytes.get(..end).unwrap_or_default())
    }
}

fn unpack(entry: &[u8], body: &[u8]) -> Result<Vec<u8>> {
    let flags = u64_at(entry, 40)?;
    let compressed = u32_at(entry, 16)? as usize;
    let text = if flags & FLAG_ZSTD != 0 {
        let packed = body.get(..compressed).unwrap_or(body);
        let mut decoder =
            ruzstd::decoding::StreamingDecoder::new(packed).map_err(|_| Status::INVALID_IMAGE)?;
        let mut text = Vec::new();
        (&mut decoder)
            .take(MAX_TEXT + 1)
            .read_to_end(&mut text)
            .map_err(|_| Status::INVALID_IMAGE)?;
        if text.len() as u64 > MAX_TEXT {
            return Err(Status::INVALID_IMAGE);
        }
        text
    } else if flags & FLAG_LZ4 != 0 {
        let size = usize::try_from(u64_at(entry, 56)?).map_err(|_| Status::INVALID_IMAGE)?;
        let packed = body.get(..compressed).unwrap_or(body);
        lz4(packed, size).ok_or(Status::INVALID_IMAGE)?
    } else {
        body.to_vec()
    };
    let end = text.iter().position(|&b| b == 0).unwrap_or(text.len());
    Ok(text.get(..end).unwrap_or_default().to_vec())
}

/// Decodes an LZ4 block: sequences of {token, literals, distance, match}, where the halves of the
/// token are lengths (15: more bytes follow) and the last sequence has no match.
fn lz4(packed: &[u8], size: usize) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let mut bytes = packed.iter().copied();
    let length = |bytes: &mut dyn Iterator<Item = u8>, half: u8| {
        let mut length = usize::from(half);
        if half == 15 {
            loop {
                let more = bytes.next()?;
                length += usize::from(more);
                if more != 255 {
                    break;
                }
            }
        }
        Some(length)
    };
    while let Some(token) = bytes.next() {
        let literals = length(&mut bytes, token >> 4)?;
        for _ in 0..literals {
            out.push(bytes.next()?);
        }
        let Some(low) = bytes.next() else {
            break;
        };
        let distance = usize::from(u16::from_le_bytes([low, bytes.next()?]));
        let matched = length(&mut bytes, token & 15)? + 4;
        if out.len() + matched > size {
            return None;
        }
        for _ in 0..matched {
            let from = out.len().checked_sub(distance).filter(|_| distance > 0)?;
            out.push(*out.get(from)?);
        }
    }
    (out.len() == size).then_some(out)
}

fn text_image(bytes: &[u8]) -> Result<Image> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(Image {
            ptx: text.to_owned(),
        }),
        Err(_) => {
            report::complaint("the image is neither PTX text nor a fat binary");
            Err(Status::INVALID_PTX)
        }
    }
}

fn machine_code() -> Status {
    report::complaint(
        "the image holds machine code only; softgpu runs PTX: compile with code=compute_90a",
    );
    Status::NO_BINARY_FOR_GPU
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N]> {
    let part = bytes.get(at..).and_then(|rest| rest.first_chunk());
    part.copied().ok_or(Status::INVALID_IMAGE)
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16> {
    array(bytes, at).map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32> {
    array(bytes, at).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Result<u64> {
    array(bytes, at).map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fatbin(kind: u16, payload: &[u8]) -> Vec<u8> {
        let mut entry = vec![0; 64];
        entry[0..2].copy_from_slice(&kind.to_le_bytes());
        entry[4..8].copy_from_slice(&64u32.to_le_bytes());
        entry[8..16].copy_from_slice(&(payload.len() as u64).to_le_bytes());
        entry.extend_from_slice(payload);
        let mut all = FATBIN_MAGIC.to_le_bytes().to_vec();
        all.extend_from_slice(&1u16.to_le_bytes());
        all.extend_from_slice(&16u16.to_le_bytes());
        all.extend_from_slice(&(entry.len() as u64).to_le_bytes());
        all.extend(entry);
        all
    }

    #[test]
    fn ptx_is_found_in_all_wrappings() {
        let binary = fatbin(KIND_PTX, b".version 9.0\n\0junk");
        let expected = Image {
            ptx: ".version 9.0\n".to_owned(),
        };
        assert_eq!(Image::from_bytes(&binary), Ok(expected.clone()));
        // SAFETY: a well-formed fat binary.
        let bare = unsafe { Image::read(binary.as_ptr()) };
        assert_eq!(bare, Ok(expected.clone()));
        let mut wrapper = WRAPPER_MAGIC.to_le_bytes().to_vec();
        wrapper.extend_from_slice(&1u32.to_le_bytes());
        wrapper.extend_from_slice(&(binary.as_ptr().expose_provenance() as u64).to_le_bytes());
        // SAFETY: a wrapper around a live fat binary.
        let wrapped = unsafe { Image::read(wrapper.as_ptr()) };
        assert_eq!(wrapped, Ok(expected.clone()));
        // SAFETY: NUL-terminated.
        let text = unsafe { Image::read(c".version 9.0\n".as_ptr().cast()) };
        assert_eq!(text, Ok(expected));
    }

    #[test]
    fn lz4_blocks_are_decoded() {
        // "abcabcabcabc!" : three literals, a match of 9 at distance 3, then one literal.
        let packed = [0x35, b'a', b'b', b'c', 3, 0, 0x10, b'!'];
        assert_eq!(lz4(&packed, 13).as_deref(), Some(&b"abcabcabcabc!"[..]));
        assert_eq!(lz4(&packed, 12), None);
        assert_eq!(lz4(&[0x35, b'a'], 13), None);
        assert_eq!(lz4(&[0x10, b'a', 2, 0], 5), None);
        // Lengths of 15 go on in further bytes: 15 + 255 + 0 literals.
        let mut long = vec![0xF0, 255, 0];
        long.extend(std::iter::repeat_n(b'x', 270));
        assert_eq!(lz4(&long, 270), Some(vec![b'x'; 270]));
    }

    #[test]
    fn the_newest_ptx_for_the_device_is_taken() {
        let mut binary = fatbin(KIND_PTX, b"old");
        binary[16 + 28] = 70;
        for (architecture, text) in [(90u8, b"new"), (100, b"two"), (80, b"mid")] {
            let mut other = fatbin(KIND_PTX, text);
            other[16 + 28] = architecture;
            binary.extend_from_slice(&other[16..]);
        }
        let size = binary.len() as u64 - 16;
        binary[8..16].copy_from_slice(&size.to_le_bytes());
        let ptx = "new".to_owned();
        assert_eq!(Image::from_bytes(&binary), Ok(Image { ptx }));
    }

    #[test]
    fn what_cannot_run_is_refused() {
        assert_eq!(
            Image::from_bytes(b"\x7fELF\x02\x01"),
            Err(Status::NO_BINARY_FOR_GPU)
        );
        assert_eq!(
            Image::from_bytes(&fatbin(2, b"\x7fELF")),
            Err(Status::NO_BINARY_FOR_GPU)
        );
        assert_eq!(
            Image::from_bytes(&[0xff, 0xfe, 1]),
            Err(Status::INVALID_PTX)
        );
        let mut cut = fatbin(KIND_PTX, b".version 9.0");
        cut.truncate(70);
        assert_eq!(Image::from_bytes(&cut), Err(Status::INVALID_IMAGE));
        // SAFETY: null is answered.
        let null = unsafe { Image::read(std::ptr::null()) };
        assert_eq!(null, Err(Status::INVALID_VALUE));
    }
}
