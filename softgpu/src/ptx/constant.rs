//! Constant expressions: C's integer operators over 64-bit values, as initialisers and immediates
//! use them. Source: PTX ISA 9.0, "Constant Expressions".
//!
//! A value is signed unless a cast or its size says otherwise. Nesting is bounded, so that hostile
//! text cannot exhaust the stack.

use super::ast::Number;
use super::lexer::Tok;
use super::parser::Parser;
use crate::error::PtxError;

const DEPTH: u32 = 64;

/// An integer with its signedness, or a float as written.
#[derive(Debug, Clone, Copy)]
enum Value {
    Int { bits: u64, unsigned: bool },
    Float(Number),
}

/// How operands are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sign {
    Signed,
    Unsigned,
}

/// Binary operators by how tightly they bind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Or,
    And,
    BitOr,
    BitXor,
    BitAnd,
    Eq,
    Ne,
    Lt,
    Gt,
    Le,
    Ge,
    Shl,
    Shr,
    Add,
    Sub,
    Mul,
    Div,
    Rem,
}

impl Operator {
    const fn level(self) -> u32 {
        match self {
            Self::Or => 1,
            Self::And => 2,
            Self::BitOr => 3,
            Self::BitXor => 4,
            Self::BitAnd => 5,
            Self::Eq | Self::Ne => 6,
            Self::Lt | Self::Gt | Self::Le | Self::Ge => 7,
            Self::Shl | Self::Shr => 8,
            Self::Add | Self::Sub => 9,
            Self::Mul | Self::Div | Self::Rem => 10,
        }
    }

    /// The value for 64-bit operands; `None` for a division by zero.
    fn apply(self, (a, b): (u64, u64), sign: Sign) -> Option<u64> {
        let unsigned = sign == Sign::Unsigned;
        let (sa, sb) = (a.cast_signed(), b.cast_signed());
        // More than 63 places give what 63 and one more would.
        let places = u32::try_from(b).unwrap_or(64).min(64);
        let less = if unsigned { a < b } else { sa < sb };
        Some(match self {
            Self::Or => u64::from(a != 0 || b != 0),
            Self::And => u64::from(a != 0 && b != 0),
            Self::BitOr => a | b,
            Self::BitXor => a ^ b,
            Self::BitAnd => a & b,
            Self::Eq => u64::from(a == b),
            Self::Ne => u64::from(a != b),
            Self::Lt => u64::from(less),
            Self::Ge => u64::from(!less),
            Self::Gt => u64::from(!less && a != b),
            Self::Le => u64::from(less || a == b),
            Self::Shl => a.checked_shl(places).unwrap_or(0),
            Self::Shr if unsigned => a.checked_shr(places).unwrap_or(0),
            Self::Shr => (sa >> places.min(63)).cast_unsigned(),
            Self::Add => a.wrapping_add(b),
            Self::Sub => a.wrapping_sub(b),
            Self::Mul => a.wrapping_mul(b),
            Self::Div if unsigned => a.checked_div(b)?,
            Self::Div if b == 0 => return None,
            Self::Div => sa.wrapping_div(sb).cast_unsigned(),
            Self::Rem if unsigned => a.checked_rem(b)?,
            Self::Rem if b == 0 => return None,
            Self::Rem => sa.wrapping_rem(sb).cast_unsigned(),
        })
    }
}

impl Parser<'_> {
    /// A constant expression.
    pub(crate) fn constant(&mut self) -> Result<Number, PtxError> {
        Ok(match self.conditional(DEPTH)? {
            Value::Int { bits, .. } => Number::Int(bits),
            Value::Float(number) => number,
        })
    }

    /// The operand of a `!` that has been read, negated.
    pub(crate) fn constant_negation(&mut self) -> Result<Number, PtxError> {
        let operand = self.unary(DEPTH)?;
        let (bits, _) = self.integer(operand)?;
        Ok(Number::Int(u64::from(bits == 0)))
    }

    /// `+n`, `-n`, `+-n`, or nothing.
    pub(crate) fn offset(&mut self) -> Result<i64, PtxError> {
        if !self.at(b'+') && !self.at(b'-') {
            return Ok(0);
        }
        let pos = self.pos();
        match self.constant()? {
            Number::Int(value) => Ok(value.cast_signed()),
            _ => Err(pos.syntax("an offset must be an integer")),
        }
    }

    fn conditional(&mut self, depth: u32) -> Result<Value, PtxError> {
        let condition = self.binary(1, depth)?;
        if !self.at(b'?') {
            return Ok(condition);
        }
        let chosen = self.integer(condition)?.0 != 0;
        self.advance()?;
        let depth = self.deeper(depth)?;
        let yes = self.conditional(depth)?;
        self.expect(b':')?;
        let no = self.conditional(depth)?;
        Ok(if chosen { yes } else { no })
    }

    fn deeper(&self, depth: u32) -> Result<u32, PtxError> {
        let left = depth.checked_sub(1);
        left.ok_or_else(|| self.pos().syntax("expression is nested too deeply"))
    }

    fn integer(&self, value: Value) -> Result<(u64, bool), PtxError> {
        match value {
            Value::Int { bits, unsigned } => Ok((bits, unsigned)),
            Value::Float(_) => self.expected("an integer expression"),
        }
    }

    fn binary(&mut self, level: u32, depth: u32) -> Result<Value, PtxError> {
        let mut left = self.unary(depth)?;
        while let Some((operator, characters)) = self.operator() {
            if operator.level() < level {
                break;
            }
            let pos = self.pos();
            for _ in 0..characters {
                self.advance()?;
            }
            let right = self.binary(operator.level() + 1, self.deeper(depth)?)?;
            let (a, first) = self.integer(left)?;
            let (b, second) = self.integer(right)?;
            let shift = matches!(operator, Operator::Shl | Operator::Shr);
            let unsigned = first || second && !shift;
            let sign = if unsigned {
                Sign::Unsigned
            } else {
                Sign::Signed
            };
            let bits = operator.apply((a, b), sign);
            let bits = bits.ok_or_else(|| pos.syntax("division by zero"))?;
            left = Value::Int { bits, unsigned };
        }
        Ok(left)
    }

    /// The binary operator under the cursor and its length.
    fn operator(&self) -> Option<(Operator, u32)> {
        let Tok::Punct(byte) = self.token.tok else {
            return None;
        };
        let next = self.lexer.following();
        Some(match (byte, next) {
            (b'|', b'|') => (Operator::Or, 2),
            (b'&', b'&') => (Operator::And, 2),
            (b'=', b'=') => (Operator::Eq, 2),
            (b'!', b'=') => (Operator::Ne, 2),
            (b'<', b'=') => (Operator::Le, 2),
            (b'>', b'=') => (Operator::Ge, 2),
            (b'<', b'<') => (Operator::Shl, 2),
            (b'>', b'>') => (Operator::Shr, 2),
            (b'|', _) => (Operator::BitOr, 1),
            (b'^', _) => (Operator::BitXor, 1),
            (b'&', _) => (Operator::BitAnd, 1),
            (b'<', _) => (Operator::Lt, 1),
            (b'>', _) => (Operator::Gt, 1),
            (b'+', _) => (Operator::Add, 1),
            (b'-', _) => (Operator::Sub, 1),
            (b'*', _) => (Operator::Mul, 1),
            (b'/', _) => (Operator::Div, 1),
            (b'%', _) => (Operator::Rem, 1),
            _ => return None,
        })
    }

    fn unary(&mut self, depth: u32) -> Result<Value, PtxError> {
        let depth = self.deeper(depth)?;
        let Tok::Punct(byte) = self.token.tok else {
            return self.literal();
        };
        match byte {
            b'+' => {
                self.advance()?;
                self.unary(depth)
            }
            b'-' => {
                self.advance()?;
                Ok(match self.unary(depth)? {
                    Value::Int { bits, unsigned } => Value::Int {
                        bits: bits.wrapping_neg(),
                        unsigned,
                    },
                    Value::Float(number) => Value::Float(negated(number)),
                })
            }
            b'~' | b'!' => {
                self.advance()?;
                let operand = self.unary(depth)?;
                let (bits, unsigned) = self.integer(operand)?;
                let bits = if byte == b'~' {
                    !bits
                } else {
                    u64::from(bits == 0)
                };
                Ok(Value::Int { bits, unsigned })
            }
            b'(' => {
                self.advance()?;
                self.parenthesised(depth)
            }
            _ => self.expected("a number"),
        }
    }

    /// A cast or an expression; the `(` has been read.
    fn parenthesised(&mut self, depth: u32) -> Result<Value, PtxError> {
        if let Some(cast @ (".s64" | ".u64")) = self.directive() {
            self.advance()?;
            self.expect(b')')?;
            let operand = self.unary(depth)?;
            let (bits, _) = self.integer(operand)?;
            let unsigned = cast == ".u64";
            return Ok(Value::Int { bits, unsigned });
        }
        let value = self.conditional(depth)?;
        self.expect(b')')?;
        Ok(value)
    }

    fn literal(&mut self) -> Result<Value, PtxError> {
        let value = match self.token.tok {
            Tok::Int(bits) => Value::Int {
                bits,
                unsigned: bits > i64::MAX.cast_unsigned(),
            },
            Tok::F32(bits) => Value::Float(Number::F32(bits)),
            Tok::F64(bits) => Value::Float(Number::F64(bits)),
            _ => return self.expected("a number"),
        };
        self.advance()?;
        Ok(value)
    }
}

const fn negated(number: Number) -> Number {
    match number {
        Number::Int(bits) => Number::Int(bits.wrapping_neg()),
        Number::F32(bits) => Number::F32(bits ^ 1 << 31),
        Number::F64(bits) => Number::F64(bits ^ 1 << 63),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Result<Number, String> {
        let mut parser = Parser::new(text).unwrap();
        let number = parser.constant().map_err(|error| error.to_string())?;
        assert_eq!(parser.token.tok, Tok::End, "{text}");
        Ok(number)
    }

    #[test]
    fn operators_bind_as_in_c() {
        let cases: [(&str, i64); 20] = [
            ("(1<<4)|3", 19),
            ("1 + 2 * 3", 7),
            ("(1 + 2) * 3", 9),
            ("7 / 2", 3),
            ("-7 / 2", -3),
            ("-7 % 4", -3),
            ("10 - 3 - 2", 5),
            ("~0", -1),
            ("!5", 0),
            ("- - 4", 4),
            ("1 ? 2 : 3", 2),
            ("0 ? 2 : 1 ? 4 : 5", 4),
            ("6 & 3 == 3", 0),
            ("1 | 2 ^ 3 & 2", 1),
            ("3 > 2 && 2 >= 2 || 0", 1),
            ("-1 < 1", 1),
            ("(.u64)-1 < 1", 0),
            ("-16 >> 2", -4),
            ("1 << 64", 0),
            ("5 != 5", 0),
        ];
        for (text, expected) in cases {
            let expected = Number::Int(expected.cast_unsigned());
            assert_eq!(value(text), Ok(expected), "{text}");
        }
        let shifted = Number::Int(0x3fff_ffff_ffff_ffff);
        assert_eq!(value("(.u64)-1 >> 2"), Ok(shifted));
        assert_eq!(value("-0f3f800000"), Ok(Number::F32(0xbf80_0000)));
    }

    #[test]
    fn what_is_wrong_is_said() {
        assert_eq!(value("1 / 0"), Err("1:3: division by zero".into()));
        assert!(value("1.5 + 2").unwrap_err().contains("integer"));
        assert!(value(&"(".repeat(10_000)).unwrap_err().contains("deeply"));
        assert!(value(&"-".repeat(10_000)).unwrap_err().contains("deeply"));
        assert!(value("1 +").unwrap_err().contains("a number"));
    }
}
