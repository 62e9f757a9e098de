//! Where the text comes from: `.file` and `.loc`, which compilers write with `-lineinfo` and `-G`.
//!
//! A `.loc` is about the instructions behind it, up to the next one or the end of the function.
//! Source: PTX ISA 9.0, "Debugging Directives".

use std::collections::BTreeMap;

use super::lexer::Tok;
use super::parser::Parser;
use crate::error::PtxError;

/// A place in a source file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    file: u32,
    line: u32,
}

/// What a `.loc` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Loc {
    place: Place,
    /// The call in whose stead the code stands.
    inlined_at: Option<Place>,
}

/// The places of a module's source text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sources {
    /// By number; `None` if modules that were linked disagree about it.
    files: BTreeMap<u32, Option<Box<str>>>,
    /// By PTX line, where it begins: functions begin with nothing.
    locs: Vec<(u32, Option<Loc>)>,
}

impl Sources {
    /// The source file and line of a PTX line, such as `a.cu:5` or `b.cuh:7, inlined at a.cu:5`.
    #[must_use]
    pub fn at(&self, line: u32) -> Option<String> {
        let next = self.locs.partition_point(|(begin, _)| *begin <= line);
        let (_, loc) = self.locs.get(next.checked_sub(1)?)?;
        let loc = (*loc)?;
        let place = self.text(loc.place)?;
        let call = loc.inlined_at.and_then(|call| self.text(call));
        Some(match call {
            Some(call) => format!("{place}, inlined at {call}"),
            None => place,
        })
    }

    fn text(&self, place: Place) -> Option<String> {
        let file = self.files.get(&place.file)?.as_ref()?;
        // Line 0 is code that the compiler has made up.
        (place.line != 0).then(|| format!("{file}:{}", place.line))
    }

    /// A function begins.
    pub(super) fn begin(&mut self, line: u32) {
        self.locs.push((line, None));
    }
}

impl Parser<'_> {
    /// `.file N "name" [, timestamp, size]`; the cursor stands on it.
    pub(super) fn file(&mut self) -> Result<(), PtxError> {
        self.advance()?;
        let number = self.expect_u32("the number of a file")?;
        let Tok::Str(name) = self.token.tok else {
            return self.expected("the name of a file");
        };
        self.advance()?;
        while self.accept(b',')? {
            let Tok::Int(_) = self.advance()?.tok else {
                return self.expected("a time or size behind the file's name, and");
            };
        }
        let name = self.name(name);
        let known = self.sources.files.entry(number);
        let known = known.or_insert_with(|| Some(name.into()));
        if known.as_deref() != Some(name) {
            *known = None;
        }
        Ok(())
    }

    /// `.loc file line column [, function_name label [+ offset], inlined_at file line column]`; the
    /// cursor stands on it.
    pub(super) fn loc(&mut self) -> Result<(), PtxError> {
        let begin = self.pos().line;
        self.advance()?;
        let place = self.place()?;
        let mut inlined_at = None;
        while self.accept(b',')? {
            let word = self.expect_word("`function_name` or `inlined_at`")?;
            match self.name(word) {
                "function_name" => {
                    self.expect_word("the label of a function's name")?;
                    if self.accept(b'+')? {
                        self.expect_u32("an offset")?;
                    }
                }
                "inlined_at" => inlined_at = Some(self.place()?),
                other => {
                    let what = format!("expected `function_name` or `inlined_at`, found `{other}`");
                    return Err(self.pos().syntax(what));
                }
            }
        }
        self.sources
            .locs
            .push((begin, Some(Loc { place, inlined_at })));
        Ok(())
    }

    /// File, line and column.
    fn place(&mut self) -> Result<Place, PtxError> {
        let place = Place {
            file: self.expect_u32("the number of a file")?,
            line: self.expect_u32("a line")?,
        };
        // Old compilers leave the column out.
        if let Tok::Int(_) = self.token.tok {
            self.advance()?;
        }
        Ok(place)
    }
}

#[cfg(test)]
mod tests {
    use crate::ptx::parse;

    fn text(body: &str) -> String {
        format!(".version 8.0\n.target sm_90\n.address_size 64\n{body}")
    }

    #[test]
    fn each_instruction_has_the_place_before_it() {
        let module = text(
            r#".file 1 "/a b/one.cu"
.visible .entry f() // 5
{
    .loc 1 10 3
    add.u32 %r1, %r1, 1; .loc 2 20 1, function_name $L__name + 4, inlined_at 1 11 5
    add.u32 %r1, %r1, 1;
    .loc 1 12 0,
        function_name $L__name,
        inlined_at 1 0 0
    ret;
}
.func g() // 15
{
    ret;
    .loc 3 1 1
    ret;
    .loc 1 0 0
    ret;
}
.file 2 "two.cuh", 1700000000, 99
"#,
        );
        let module = parse(&module).unwrap();
        let at = |line| module.sources().at(line);
        let one = Some("/a b/one.cu:10".to_owned());
        assert_eq!([at(4), at(6), at(7)], [None, None, one]);
        let two = Some("two.cuh:20, inlined at /a b/one.cu:11".to_owned());
        assert_eq!([at(8), at(9)], [two.clone(), two]);
        assert_eq!(at(13), Some("/a b/one.cu:12".to_owned()));
        // Nothing before the first, nothing without a file, nothing of line 0.
        assert_eq!([at(17), at(19), at(21)], [None, None, None]);
    }

    #[test]
    fn a_number_for_two_files_is_none() {
        let files = "\n.file 1 \"a.cu\"\n.file 1 \"a.cu\"\n.file 2 \"a.cu\"\n.file 2 \"b.cu\"";
        let function = "\n.func f()\n{\n.loc 1 5 0\nret;\n.loc 2 6 0\nret;\n}";
        let module = parse(&text(&format!("{files}{function}"))).unwrap();
        assert_eq!(module.sources().at(12), Some("a.cu:5".to_owned()));
        assert_eq!(module.sources().at(14), None);
    }

    #[test]
    fn mistakes_are_named() {
        for (directive, expected) in [
            (".file \"a.cu\"", "the number of a file"),
            (".file 1 a.cu", "the name of a file"),
            (".loc 1", "a line"),
            (
                ".loc 1 2 3, inline 4",
                "`function_name` or `inlined_at`, found `inline`",
            ),
        ] {
            let body = format!(".func f()\n{{\n{directive};\n}}");
            let error = parse(&text(&body)).unwrap_err().to_string();
            assert!(error.contains(expected), "{directive}: {error}");
        }
    }
}
