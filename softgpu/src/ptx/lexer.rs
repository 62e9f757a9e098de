//! Splits PTX text into tokens.
//!
//! A *word* is an identifier together with everything joined to it by `.` or `::`, so an opcode with
//! all its modifiers (`ld.global.L1::no_allocate.v4.s32`) is one token, interned once however often
//! it occurs; so is `%tid.x`. Words that begin with a dot are directives and end at the next dot.
//! Source: PTX ISA 9.0, "Syntax" (identifiers, constants, comments).

use std::collections::HashMap;

use crate::error::PtxError;

/// An interned word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Sym(pub(crate) u32);

/// A place in the text; both are 1-based.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Pos {
    pub(crate) line: u32,
    pub(crate) column: u32,
}

impl Pos {
    pub(crate) fn syntax(self, message: impl Into<String>) -> PtxError {
        PtxError::Syntax {
            line: self.line,
            column: self.column,
            message: message.into(),
        }
    }

    pub(crate) fn unsupported(self, what: impl Into<String>) -> PtxError {
        PtxError::Unsupported {
            line: self.line,
            column: self.column,
            what: what.into(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tok {
    /// Identifier, register, opcode, special register or label.
    Word(Sym),
    /// `.entry`, `.b32`, … without what follows the next dot.
    Directive(Sym),
    /// Integer constant, without sign.
    Int(u64),
    /// `0f…`, as bits.
    F32(u32),
    /// `0d…` or a decimal fraction, as bits.
    F64(u64),
    /// A quoted string, without its quotes; what is escaped stays so.
    Str(Sym),
    /// Any other character.
    Punct(u8),
    End,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Token {
    pub(crate) tok: Tok,
    pub(crate) pos: Pos,
}

/// The words of a module, each stored once.
#[derive(Debug, Default)]
pub(crate) struct Interner<'a> {
    words: Vec<&'a str>,
    index: HashMap<&'a str, Sym>,
}

impl<'a> Interner<'a> {
    pub(crate) fn intern(&mut self, word: &'a str) -> Sym {
        if let Some(&sym) = self.index.get(word) {
            return sym;
        }
        // More than 2^32 distinct words do not fit a text whose lines are counted in u32.
        let sym = Sym(u32::try_from(self.words.len()).unwrap_or(u32::MAX));
        self.words.push(word);
        self.index.insert(word, sym);
        sym
    }

    pub(crate) fn get(&self, sym: Sym) -> &'a str {
        self.words.get(sym.0 as usize).copied().unwrap_or("?")
    }

    pub(crate) fn into_words(self) -> Vec<Box<str>> {
        self.words.into_iter().map(Box::from).collect()
    }
}

#[derive(Debug)]
pub(crate) struct Lexer<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    line: u32,
    line_start: usize,
    pub(crate) names: Interner<'a>,
}

const fn is_word_start(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || matches!(byte, b'_' | b'$' | b'%')
}

const fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$')
}

impl<'a> Lexer<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self {
            text,
            bytes: text.as_bytes(),
            at: 0,
            line: 1,
            line_start: 0,
            names: Interner::default(),
        }
    }

    fn peek(&self, ahead: usize) -> u8 {
        self.bytes.get(self.at + ahead).copied().unwrap_or(0)
    }

    fn pos(&self) -> Pos {
        let column = u32::try_from(self.at - self.line_start).unwrap_or(u32::MAX - 1) + 1;
        Pos {
            line: self.line,
            column,
        }
    }

    fn newline(&mut self) {
        self.at += 1;
        self.line = self.line.saturating_add(1);
        self.line_start = self.at;
    }

    /// The character behind the token that was read last.
    pub(crate) fn following(&self) -> u8 {
        self.peek(0)
    }

    /// Skips the rest of the line.
    fn skip_line(&mut self) {
        while self.at < self.bytes.len() && self.peek(0) != b'\n' {
            self.at += 1;
        }
    }

    fn skip_blank(&mut self) -> Result<(), PtxError> {
        loop {
            match (self.peek(0), self.peek(1)) {
                (b'\n', _) => self.newline(),
                (b' ' | b'\t' | b'\r' | 0x0b | 0x0c, _) => self.at += 1,
                (b'/', b'/') => self.skip_line(),
                (b'/', b'*') => self.skip_comment()?,
                _ => return Ok(()),
            }
        }
    }

    fn skip_comment(&mut self) -> Result<(), PtxError> {
        let start = self.pos();
        self.at += 2;
        loop {
            if self.at >= self.bytes.len() {
                return Err(start.syntax("comment is not closed"));
            }
            match (self.peek(0), self.peek(1)) {
                (b'*', b'/') => {
                    self.at += 2;
                    return Ok(());
                }
                (b'\n', _) => self.newline(),
                _ => self.at += 1,
            }
        }
    }

    /// Whether a word follows without a blank.
    pub(crate) fn at_word(&self) -> bool {
        is_word_start(self.peek(0))
    }

    pub(crate) fn next(&mut self) -> Result<Token, PtxError> {
        self.skip_blank()?;
        let pos = self.pos();
        let tok = match self.peek(0) {
            _ if self.at >= self.bytes.len() => Tok::End,
            b'%' if !is_word(self.peek(1)) => self.punct(),
            byte if is_word_start(byte) => Tok::Word(self.word()),
            b'.' if self.peek(1).is_ascii_digit() => self.fraction(self.at, pos)?,
            b'.' if is_word(self.peek(1)) => Tok::Directive(self.directive()),
            byte if byte.is_ascii_digit() => self.number(pos)?,
            b'"' => self.string(pos)?,
            byte if byte.is_ascii_graphic() => self.punct(),
            _ => {
                let found = self.text.get(self.at..).and_then(|t| t.chars().next());
                let found = found.unwrap_or(char::REPLACEMENT_CHARACTER);
                return Err(pos.syntax(format!("unexpected character {found:?}")));
            }
        };
        Ok(Token { tok, pos })
    }

    fn punct(&mut self) -> Tok {
        let byte = self.peek(0);
        self.at += 1;
        Tok::Punct(byte)
    }

    fn intern_from(&mut self, start: usize) -> Sym {
        let word = self.text.get(start..self.at).unwrap_or("?");
        self.names.intern(word)
    }

    fn word(&mut self) -> Sym {
        let start = self.at;
        self.at += 1;
        loop {
            if is_word(self.peek(0)) {
                self.at += 1;
            } else if self.peek(0) == b'.' && is_word(self.peek(1)) {
                self.at += 2;
            } else if self.peek(0) == b':' && self.peek(1) == b':' && is_word(self.peek(2)) {
                self.at += 3;
            } else {
                return self.intern_from(start);
            }
        }
    }

    fn directive(&mut self) -> Sym {
        let start = self.at;
        self.at += 1;
        while is_word(self.peek(0)) {
            self.at += 1;
        }
        self.intern_from(start)
    }

    fn string(&mut self, pos: Pos) -> Result<Tok, PtxError> {
        self.at += 1;
        let start = self.at;
        loop {
            match self.peek(0) {
                _ if self.at >= self.bytes.len() => break,
                b'\n' => break,
                b'"' => {
                    let text = self.intern_from(start);
                    self.at += 1;
                    return Ok(Tok::Str(text));
                }
                b'\\' => self.at += 2,
                _ => self.at += 1,
            }
        }
        Err(pos.syntax("string is not closed"))
    }

    fn number(&mut self, pos: Pos) -> Result<Tok, PtxError> {
        let start = self.at;
        while is_word(self.peek(0)) {
            self.at += 1;
        }
        let exponent = matches!(self.peek(1), b'e' | b'E')
            && (self.peek(2).is_ascii_digit() || matches!(self.peek(2), b'+' | b'-'));
        if self.peek(0) == b'.' && (self.peek(1).is_ascii_digit() || exponent) {
            return self.fraction(start, pos);
        }
        let text = self.text.get(start..self.at).unwrap_or("");
        let signed = text.ends_with(['e', 'E']) && matches!(self.peek(0), b'+' | b'-');
        let decimal = text
            .bytes()
            .all(|b| b.is_ascii_digit() || matches!(b, b'e' | b'E'));
        if decimal && (signed || text.contains(['e', 'E'])) {
            self.at = start;
            return self.fraction(start, pos);
        }
        parse_number(text)
            .ok_or_else(|| pos.syntax(format!("`{text}` is not a number that fits 64 bits")))
    }

    /// A decimal fraction with the cursor on its point or its first digit.
    fn fraction(&mut self, start: usize, pos: Pos) -> Result<Tok, PtxError> {
        self.at += 1;
        while self.peek(0) == b'.' && !self.bytes[start..self.at].contains(&b'.')
            || is_word(self.peek(0))
            || (matches!(self.peek(0), b'+' | b'-')
                && matches!(self.bytes.get(self.at - 1), Some(b'e' | b'E')))
        {
            self.at += 1;
        }
        let text = self.text.get(start..self.at).unwrap_or("");
        let value: f64 = text
            .parse()
            .map_err(|_| pos.syntax(format!("`{text}` is not a number")))?;
        Ok(Tok::F64(value.to_bits()))
    }
}

/// Reads an unsigned constant: `0x`, `0b`, octal, decimal (each with an optional `U`), `0f`, `0d`.
fn parse_number(text: &str) -> Option<Tok> {
    let lower = text.to_ascii_lowercase();
    if let Some(digits) = lower.strip_prefix("0f") {
        return (digits.len() == 8)
            .then(|| u32::from_str_radix(digits, 16).ok().map(Tok::F32))
            .flatten();
    }
    if let Some(digits) = lower.strip_prefix("0d") {
        return (digits.len() == 16)
            .then(|| u64::from_str_radix(digits, 16).ok().map(Tok::F64))
            .flatten();
    }
    let digits = lower.strip_suffix('u').unwrap_or(&lower);
    let value = if let Some(hex) = digits.strip_prefix("0x") {
        u64::from_str_radix(hex, 16)
    } else if let Some(binary) = digits.strip_prefix("0b") {
        u64::from_str_radix(binary, 2)
    } else if digits.len() > 1 && digits.starts_with('0') {
        u64::from_str_radix(digits, 8)
    } else {
        digits.parse()
    };
    value.ok().map(Tok::Int)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &str) -> Vec<(Tok, u32, u32)> {
        let mut lexer = Lexer::new(text);
        let mut out = Vec::new();
        loop {
            let token = lexer.next().unwrap();
            if token.tok == Tok::End {
                return out;
            }
            out.push((token.tok, token.pos.line, token.pos.column));
        }
    }

    #[test]
    fn an_opcode_with_modifiers_is_one_word() {
        let mut lexer = Lexer::new("ld.global.L1::no_allocate.v4.s32\t{%r1}");
        let Tok::Word(sym) = lexer.next().unwrap().tok else {
            panic!("not a word")
        };
        assert_eq!(lexer.names.get(sym), "ld.global.L1::no_allocate.v4.s32");
        assert_eq!(lexer.next().unwrap().tok, Tok::Punct(b'{'));
    }

    #[test]
    fn numbers_in_every_base() {
        let found: Vec<Tok> = all("10 0x1F 0b101 017 7U 0f3F800000 0d3FF0000000000000 1.5")
            .into_iter()
            .map(|t| t.0)
            .collect();
        let expected = [
            Tok::Int(10),
            Tok::Int(31),
            Tok::Int(5),
            Tok::Int(15),
            Tok::Int(7),
            Tok::F32(0x3f80_0000),
            Tok::F64(0x3ff0_0000_0000_0000),
            Tok::F64(1.5f64.to_bits()),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn places_count_lines_and_columns_through_comments() {
        let found = all("a // x\n/* y\n z */ b\n\t7");
        let places: Vec<_> = found.iter().map(|t| (t.1, t.2)).collect();
        assert_eq!(places, [(1, 1), (3, 7), (4, 2)]);
    }

    #[test]
    fn number_that_does_not_fit_is_an_error() {
        let mut lexer = Lexer::new("  18446744073709551616");
        let error = lexer.next().unwrap_err().to_string();
        assert_eq!(
            error,
            "1:3: `18446744073709551616` is not a number that fits 64 bits"
        );
    }
}
