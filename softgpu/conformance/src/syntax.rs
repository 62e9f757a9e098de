//! Pieces of directives: lists of values, dimensions, calls.

use crate::value::{Generator, Type};

/// What an element must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// `_`
    Anything,
    /// Any NaN.
    Nan,
    /// One of these bit patterns.
    Bits(Vec<u64>),
}

/// Where `copy(name)` finds the initial content of another buffer.
pub(crate) type Contents<'a> = &'a dyn Fn(&str) -> Option<(Type, Vec<u64>)>;

/// Splits at `separator` outside parentheses.
pub(crate) fn split_outside(text: &str, separator: impl Fn(char) -> bool) -> Vec<&str> {
    let (mut depth, mut start, mut parts) = (0u32, 0, Vec::new());
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            c if depth == 0 && separator(c) => {
                parts.push(text[start..at].trim());
                start = at + c.len_utf8();
            }
            _ => {}
        }
    }
    parts.push(text[start..].trim());
    parts.retain(|part| !part.is_empty());
    parts
}

/// `name(arguments)`.
pub(crate) fn call(text: &str) -> Option<(&str, &str)> {
    let (name, rest) = text.split_once('(')?;
    Some((name.trim(), rest.strip_suffix(')')?))
}

/// `4`, `4x2` or `4x2x1`, padded with ones.
pub(crate) fn dimensions(text: &str) -> Result<[u32; 3], String> {
    let list = numbers::<u32>(text)?;
    if list.is_empty() || list.len() > 3 {
        return Err(format!("`{text}` is not a shape"));
    }
    let at = |i: usize| list.get(i).copied().unwrap_or(1);
    Ok([at(0), at(1), at(2)])
}

/// Numbers separated by `x`.
pub(crate) fn numbers<T: std::str::FromStr>(text: &str) -> Result<Vec<T>, String> {
    let parse = |part: &str| {
        let wrong = |_| format!("`{part}` in `{text}` is not a number");
        part.trim().parse().map_err(wrong)
    };
    text.split('x').map(parse).collect()
}

/// A list of items that describes exactly `count` elements.
pub(crate) fn elements(
    ty: Type,
    count: usize,
    text: &str,
    contents: Contents<'_>,
) -> Result<Vec<Wanted>, String> {
    let mut all = Vec::with_capacity(count);
    for item in split_outside(text, char::is_whitespace) {
        let left = count.saturating_sub(all.len());
        let (body, repeat) = match item.rsplit_once('*') {
            Some((body, "")) => (body, Some(left)),
            Some((body, n)) => {
                let n = n.parse().map_err(|_| format!("`{item}`: no count"))?;
                (body, Some(n))
            }
            None => (item, None),
        };
        if let Some((name, arguments)) = call(body) {
            let n = repeat.unwrap_or(left);
            all.extend(generated(ty, n, (name, arguments), contents)?);
        } else {
            let wanted = wanted(ty, body)?;
            all.extend(std::iter::repeat_n(wanted, repeat.unwrap_or(1)));
        }
    }
    if all.len() == count {
        Ok(all)
    } else {
        Err(format!("{} elements given, {count} needed", all.len()))
    }
}

fn wanted(ty: Type, text: &str) -> Result<Wanted, String> {
    match text {
        "_" => Ok(Wanted::Anything),
        "nan" => Ok(Wanted::Nan),
        _ => {
            let bits: Result<_, _> = text.split('|').map(|one| ty.literal(one)).collect();
            Ok(Wanted::Bits(bits?))
        }
    }
}

fn generated(
    ty: Type,
    count: usize,
    (name, arguments): (&str, &str),
    contents: Contents<'_>,
) -> Result<Vec<Wanted>, String> {
    let arguments = split_outside(arguments, |c| c == ',');
    let number = |i: usize, default: i64| match arguments.get(i) {
        None => Ok(default),
        // Bits of a 64-bit literal: hexadecimal is allowed, too.
        Some(text) => Type::Signed(8).literal(text).map(u64::cast_signed),
    };
    let generator = match name {
        "iota" => Generator::Iota(number(0, 0)?, number(1, 1)?),
        "random" => Generator::Random(number(0, 0)?.cast_unsigned()),
        "wide" => {
            let of = |i| number(i, 0).map(i64::cast_unsigned);
            Generator::Wide(of(0)?, of(1)?, of(2)?, of(3)?)
        }
        "pick" => {
            let values: Result<_, _> = arguments.iter().skip(1).map(|v| ty.literal(v)).collect();
            Generator::Pick(number(0, 0)?.cast_unsigned(), values?)
        }
        "uniform" => Generator::Uniform(number(0, 0)?.cast_unsigned()),
        "copy" => {
            let source = arguments.first().copied().unwrap_or_default();
            let (from, list) = contents(source).ok_or(format!("no buffer `{source}` to copy"))?;
            if from.bytes() != ty.bytes() {
                return Err(format!("`{source}` has elements of another size"));
            }
            let start = usize::try_from(number(1, 0)?).map_err(|_| "copy from below zero")?;
            let some = list.get(start..start + count);
            let some = some.ok_or(format!(
                "`{source}` is too short to copy {count} from {start}"
            ))?;
            return Ok(some.iter().map(|&bits| Wanted::Bits(vec![bits])).collect());
        }
        _ => return Err(format!("no generator `{name}`")),
    };
    let element = |i| Wanted::Bits(vec![generator.element(ty, i)]);
    Ok((0..count).map(element).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(ty: &str, count: usize, text: &str) -> Result<Vec<Wanted>, String> {
        let ty = Type::parse(ty).unwrap();
        let content = Some((Type::Unsigned(4), vec![7, 8, 9]));
        elements(ty, count, text, &|name| {
            content.clone().filter(|_| name == "a")
        })
    }

    fn bits(ty: &str, text: &str) -> Vec<u64> {
        let all = list(ty, text.split_whitespace().count(), text).unwrap();
        let exact = all.iter().map(|wanted| match wanted {
            Wanted::Bits(list) => list[0],
            other => panic!("{other:?}"),
        });
        exact.collect()
    }

    #[test]
    fn literals_have_the_bits_of_their_type() {
        assert_eq!(bits("u8", "0 255 -1 -128 0xff"), [0, 255, 255, 128, 255]);
        assert_eq!(bits("s16", "-2 32767 0x8000"), [0xfffe, 0x7fff, 0x8000]);
        assert_eq!(bits("u64", "18446744073709551615"), [u64::MAX]);
        assert_eq!(
            bits("f32", "1 -0.0 0.1 inf 0x1"),
            [0x3f80_0000, 0x8000_0000, 0x3dcc_cccd, 0x7f80_0000, 1]
        );
        assert_eq!(bits("f16", "1 65504 -2"), [0x3c00, 0x7bff, 0xc000]);
        assert_eq!(bits("bf16", "1 -2"), [0x3f80, 0xc000]);
        assert_eq!(bits("f64", "1"), [0x3ff0_0000_0000_0000]);
        for (ty, wrong) in [
            ("u8", "256"),
            ("s8", "-129"),
            ("u32", "1.5"),
            ("u16", "0x10000"),
        ] {
            assert!(list(ty, 1, wrong).is_err(), "{ty} {wrong}");
        }
    }

    #[test]
    fn items_fill_exactly_what_there_is() {
        let one = |bits| Wanted::Bits(vec![bits]);
        assert_eq!(
            list("u32", 6, "1*2 iota(5,-1)*3 _"),
            Ok(vec![
                one(1),
                one(1),
                one(5),
                one(4),
                one(3),
                Wanted::Anything
            ])
        );
        assert_eq!(
            list("u32", 3, "7 copy(a,1)"),
            Ok(vec![one(7), one(8), one(9)])
        );
        assert_eq!(
            list("f32", 2, "nan 1|2"),
            Ok(vec![
                Wanted::Nan,
                Wanted::Bits(vec![0x3f80_0000, 0x4000_0000])
            ])
        );
        for wrong in [
            "1",
            "1 2 3 4",
            "1*4",
            "copy(b)",
            "copy(a,1)",
            "iota(",
            "frob(1)",
        ] {
            assert!(list("u32", 3, wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn generators_stay_in_their_range() {
        for wanted in list("u8", 1000, "wide(3,3,2,14)").unwrap() {
            let Wanted::Bits(bits) = wanted else { panic!() };
            assert!((2..=14).contains(&(bits[0] >> 3 & 15)), "{bits:?}");
        }
        let all = list("f32", 1000, "uniform(1)").unwrap();
        let mut sum = 0.0;
        for wanted in all {
            let Wanted::Bits(bits) = wanted else { panic!() };
            let value = f32::from_bits(u32::try_from(bits[0]).unwrap());
            assert!((-1.0..1.0).contains(&value));
            sum += value;
        }
        assert!(sum.abs() < 100.0 && sum != 0.0, "{sum}");
    }
}
