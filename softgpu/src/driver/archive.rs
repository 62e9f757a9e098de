//! Archives as `ar` writes them: what clients link as a library.
//!
//! Layout: `!<arch>` and a line feed; then members, each a header of 60 bytes (name 16, times,
//! owners and mode 32, size 10 in decimal, "`" and a line feed) and its bytes, padded to even.

use super::status::{Result, Status};

const MAGIC: &[u8] = b"!<arch>\n";
const HEADER: usize = 60;
const SIZE: std::ops::Range<usize> = 48..58;
const END: &[u8] = b"`\n";

/// Whether the bytes are an archive.
#[must_use]
pub fn is_archive(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}

/// The bytes of the members, without the tables of symbols and of long names.
///
/// # Errors
///
/// `INVALID_IMAGE` if the archive is cut off or not one.
pub fn members(archive: &[u8]) -> Result<Vec<&[u8]>> {
    let mut rest = archive.strip_prefix(MAGIC).ok_or(Status::INVALID_IMAGE)?;
    let mut found = Vec::new();
    while !rest.is_empty() {
        let (header, behind) = rest.split_at_checked(HEADER).ok_or(Status::INVALID_IMAGE)?;
        if !header.ends_with(END) {
            return Err(Status::INVALID_IMAGE);
        }
        let size = header.get(SIZE).and_then(|text| str::from_utf8(text).ok());
        let size = size.and_then(|text| text.trim_end().parse::<usize>().ok());
        let size = size.ok_or(Status::INVALID_IMAGE)?;
        let (member, behind) = behind.split_at_checked(size).ok_or(Status::INVALID_IMAGE)?;
        // Names of tables begin with a slash; a long name is a slash and its place in the table.
        let is_table = [&b"/ "[..], b"//", b"/SYM64/"];
        if !is_table.iter().any(|name| header.starts_with(name)) {
            found.push(member);
        }
        let padding = size % 2;
        rest = behind.get(padding..).unwrap_or_default();
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str, bytes: &str) -> String {
        let padding = if bytes.len() % 2 == 1 { "\n" } else { "" };
        let size = bytes.len();
        format!("{name:<16}{:<32}{size:<10}`\n{bytes}{padding}", "0")
    }

    #[test]
    fn members_are_found_behind_the_tables() {
        let tables = member("/", "symbols") + &member("//", "a_name_of_many_letters.o/\n");
        let all = tables + &member("a.o/", "odd") + &member("/0", "even");
        let archive = format!("!<arch>\n{all}");
        assert_eq!(members(archive.as_bytes()).unwrap(), [&b"odd"[..], b"even"]);
        assert_eq!(members(b"!<arch>\n").unwrap(), [b""; 0]);
    }

    #[test]
    fn what_is_cut_off_is_refused() {
        let whole = format!("!<arch>\n{}", member("a.o/", "four"));
        for end in [7, 9, 67, 71] {
            let cut = members(&whole.as_bytes()[..end]);
            assert_eq!(cut, Err(Status::INVALID_IMAGE), "{end}");
        }
        let bad = whole.replace("4         `", "four      `");
        assert_eq!(members(bad.as_bytes()), Err(Status::INVALID_IMAGE));
    }
}
