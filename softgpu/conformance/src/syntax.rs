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
