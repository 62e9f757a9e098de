//! Modules as text: pieces, and the top-level items that they make up.

use std::collections::BTreeMap;

/// What a symbol means to other modules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Linkage {
    Internal,
    Extern,
    Weak,
    Visible,
}

/// A top-level item of a module.
#[derive(Debug, Clone)]
pub(super) struct Item {
    pub(super) text: String,
    pub(super) name: String,
    pub(super) linkage: Linkage,
    pub(super) is_function: bool,
    /// A body, for functions; anything but `.extern`, for variables.
    pub(super) is_definition: bool,
}

#[derive(Debug, Default)]
pub(super) struct Parts {
    pub(super) version: (u32, u32),
    pub(super) target: String,
    /// Items without a name: pragmas, debugging sections.
    pub(super) items: Vec<Item>,
}

/// A piece of PTX text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Piece<'t> {
    /// Letters, digits, `_`, `$`, `%`, `.`, `:`.
    Word(&'t str),
    Mark(&'t str),
    /// White space, comments.
    Space(&'t str),
    Text(&'t str),
}

impl<'t> Piece<'t> {
    pub(super) fn text(self) -> &'t str {
        match self {
            Self::Word(t) | Self::Mark(t) | Self::Space(t) | Self::Text(t) => t,
        }
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '$' | '%' | '.')
}

/// Splits the first piece off.
fn piece(text: &str) -> Option<(Piece<'_>, &str)> {
    let first = text.chars().next()?;
    let until = |end: Option<usize>| text.split_at(end.unwrap_or(text.len()));
    if first.is_whitespace() {
        let (space, rest) = until(text.find(|c: char| !c.is_whitespace()));
        return Some((Piece::Space(space), rest));
    }
    if text.starts_with("//") {
        let (comment, rest) = until(text.find('\n'));
        return Some((Piece::Space(comment), rest));
    }
    if text.starts_with("/*") {
        let (comment, rest) = until(text.find("*/").map(|at| at + 2));
        return Some((Piece::Space(comment), rest));
    }
    if first == '"' {
        let mut escaped = false;
        let end = text.char_indices().skip(1).find(|&(_, c)| {
            let ends = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        });
        let (quoted, rest) = until(end.map(|(i, _)| i + 1));
        return Some((Piece::Text(quoted), rest));
    }
    if is_word(first) {
        let (word, rest) = until(text.find(|c: char| !is_word(c)));
        return Some((Piece::Word(word), rest));
    }
    let (mark, rest) = until(Some(first.len_utf8()));
    Some((Piece::Mark(mark), rest))
}

pub(super) fn pieces(text: &str) -> impl Iterator<Item = Piece<'_>> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let (found, after) = piece(rest)?;
        rest = after;
        Some(found)
    })
}

pub(super) fn rename(text: &str, names: &BTreeMap<String, String>) -> String {
    let renamed = pieces(text).map(|piece| match piece {
        Piece::Word(word) => names.get(word).map_or(word, String::as_str),
        other => other.text(),
    });
    renamed.collect()
}

/// Cuts a module into items.
pub(super) fn cut(text: &str) -> Parts {
    let mut parts = Parts::default();
    let mut item: Vec<Piece<'_>> = Vec::new();
    let mut depth = 0u32;
    for piece in pieces(text) {
        if item.is_empty() && matches!(piece, Piece::Space(_)) {
            continue;
        }
        let first = item.first().map_or("", |p| p.text());
        let line_ends = matches!(piece, Piece::Space(s) if s.contains('\n') || s.starts_with("//"));
        if line_ends && matches!(first, ".version" | ".target" | ".address_size" | ".file") {
            header(&mut parts, &item);
            item.clear();
            continue;
        }
        item.push(piece);
        let ends = match piece {
            Piece::Mark("{" | "(" | "[") => {
                depth += 1;
                false
            }
            Piece::Mark("}") => {
                depth = depth.saturating_sub(1);
                depth == 0 && !item.contains(&Piece::Mark("="))
            }
            Piece::Mark(")" | "]") => {
                depth = depth.saturating_sub(1);
                false
            }
            Piece::Mark(";") => depth == 0,
            _ => false,
        };
        if ends {
            parts.items.push(classify(&item));
            item.clear();
        }
    }
    parts
}

fn header(parts: &mut Parts, item: &[Piece<'_>]) {
    let mut words = item.iter().filter_map(|p| match p {
        Piece::Word(word) => Some(*word),
        _ => None,
    });
    match (words.next(), words.next()) {
        (Some(".version"), Some(version)) => {
            let (major, minor) = version.split_once('.').unwrap_or((version, "0"));
            parts.version = (major.parse().unwrap_or(8), minor.parse().unwrap_or(0));
        }
        (Some(".target"), Some(target)) => target.clone_into(&mut parts.target),
        _ => {}
    }
}

fn classify(item: &[Piece<'_>]) -> Item {
    let text: String = item.iter().map(|p| p.text()).collect();
    let mut linkage = Linkage::Internal;
    let (mut is_function, mut is_variable) = (false, false);
    let mut name = "";
    let mut depth = 0;
    for piece in item {
        match piece {
            Piece::Mark("(" | "[" | "{") => depth += 1,
            Piece::Mark(")" | "]" | "}") => depth -= 1,
            Piece::Mark("=") => break,
            Piece::Word(word) if depth == 0 => match *word {
                ".extern" => linkage = Linkage::Extern,
                ".visible" => linkage = Linkage::Visible,
                ".weak" | ".common" => linkage = Linkage::Weak,
                ".entry" | ".func" => is_function = true,
                ".global" | ".const" | ".shared" | ".tex" => is_variable = true,
                w if w.starts_with(|c: char| c == '.' || c.is_ascii_digit()) => {}
                w if name.is_empty() && (is_function || is_variable) => name = w,
                _ => {}
            },
            _ => {}
        }
    }
    let has_body = item.last() == Some(&Piece::Mark("}"));
    Item {
        name: name.to_owned(),
        linkage,
        is_function,
        is_definition: if is_function {
            has_body
        } else {
            linkage != Linkage::Extern
        },
        text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_and_comments_are_no_items() {
        let all: Vec<Piece<'_>> = pieces("a \"x;\\\"y\" // b\n/* c; */ .d;").collect();
        let words = all.iter().filter(|p| !matches!(p, Piece::Space(_)));
        let words: Vec<&str> = words.map(|p| p.text()).collect();
        assert_eq!(words, ["a", "\"x;\\\"y\"", ".d", ";"]);
    }
}
