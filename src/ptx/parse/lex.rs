//! PTX text to tokens.

use crate::ptx::Problem;

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind<'a> {
    /// A word with its dots: an opcode with modifiers, a directive, a register, a label.
    Word(&'a str),
    /// An integer.
    Int(u64),
    /// `0f…`: the bits of an f32.
    F32(u32),
    /// `0d…`: the bits of an f64.
    F64(u64),
    /// A number with a point, times ten: only in `.version`.
    Decimal(u64),
    /// Text in quotes.
    Text(&'a str),
    /// One character of punctuation.
    Sign(u8),
}

/// A token and the line that it is on.
#[derive(Clone, Copy, Debug)]
pub struct Token<'a> {
    pub kind: Kind<'a>,
    pub line: u32,
}

/// All tokens of a text. `name` names the text in messages.
pub fn tokens<'a>(text: &'a str, name: &str) -> Result<Vec<Token<'a>>, Problem> {
    let bytes = text.as_bytes();
    let mut found = Vec::with_capacity(text.len() / 5);
    let (mut at, mut line) = (0, 1u32);
    while at < bytes.len() {
        let byte = bytes[at];
        let kind = match byte {
            b'\n' => {
                line += 1;
                at += 1;
                continue;
            }
            b' ' | b'\t' | b'\r' | 0 => {
                at += 1;
                continue;
            }
            b'/' if bytes.get(at + 1) == Some(&b'/') => {
                at = end_of(bytes, at, |b| b != b'\n');
                continue;
            }
            b'/' if bytes.get(at + 1) == Some(&b'*') => {
                let rest = &text[at + 2..];
                let length = rest
                    .find("*/")
                    .ok_or_else(|| Problem::at(name, line, "a comment without end"))?;
                line += newlines(&rest[..length]);
                at += length + 4;
                continue;
            }
            b'"' => {
                let rest = &text[at + 1..];
                let length = rest
                    .find('"')
                    .ok_or_else(|| Problem::at(name, line, "a text without its closing quote"))?;
                let start = line;
                line += newlines(&rest[..length]);
                at += length + 2;
                found.push(Token {
                    kind: Kind::Text(&rest[..length]),
                    line: start,
                });
                continue;
            }
            b'0'..=b'9' => {
                let end = end_of(bytes, at, |b| b.is_ascii_alphanumeric() || b == b'.');
                let digits = &text[at..end];
                at = end;
                number(digits)
                    .ok_or_else(|| Problem::at(name, line, format!("`{digits}` is no number")))?
            }
            _ if is_word_start(byte) => {
                let mut end = at + 1;
                while end < bytes.len()
                    && (is_word(bytes[end])
                        || (bytes[end] == b':'
                            && bytes.get(end + 1) == Some(&b':')
                            && bytes.get(end + 2).is_some_and(|b| is_word(*b))))
                {
                    end += if bytes[end] == b':' { 2 } else { 1 };
                }
                let word = &text[at..end];
                at = end;
                Kind::Word(word)
            }
            b'{' | b'}' | b'[' | b']' | b'(' | b')' | b'<' | b'>' | b',' | b';' | b':' | b'+'
            | b'-' | b'!' | b'@' | b'|' | b'=' | b'~' => {
                at += 1;
                Kind::Sign(byte)
            }
            _ => {
                let odd = text[at..].chars().next().unwrap_or('?');
                return Err(Problem::at(name, line, format!("unexpected `{odd}`")));
            }
        };
        found.push(Token { kind, line });
    }
    Ok(found)
}

fn is_word_start(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || matches!(byte, b'_' | b'$' | b'%' | b'.')
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | b'.')
}

fn end_of(bytes: &[u8], from: usize, accept: impl Fn(u8) -> bool) -> usize {
    bytes[from..]
        .iter()
        .position(|b| !accept(*b))
        .map_or(bytes.len(), |length| from + length)
}

fn newlines(text: &str) -> u32 {
    text.bytes().filter(|b| *b == b'\n').count() as u32
}

fn number(digits: &str) -> Option<Kind<'static>> {
    let plain = digits.strip_suffix(['U', 'u']).unwrap_or(digits);
    if let Some(hex) = plain.strip_prefix("0f").or(plain.strip_prefix("0F")) {
        return u32::from_str_radix(hex, 16).ok().map(Kind::F32);
    }
    if let Some(hex) = plain.strip_prefix("0d").or(plain.strip_prefix("0D")) {
        return u64::from_str_radix(hex, 16).ok().map(Kind::F64);
    }
    if let Some(hex) = plain.strip_prefix("0x").or(plain.strip_prefix("0X")) {
        return u64::from_str_radix(hex, 16).ok().map(Kind::Int);
    }
    if let Some(binary) = plain.strip_prefix("0b").or(plain.strip_prefix("0B")) {
        return u64::from_str_radix(binary, 2).ok().map(Kind::Int);
    }
    if plain.contains('.') {
        return version(plain);
    }
    if plain.len() > 1 && plain.starts_with('0') {
        return u64::from_str_radix(plain, 8).ok().map(Kind::Int);
    }
    plain.parse().ok().map(Kind::Int)
}

/// `9.0` as 90: versions are compared, never computed with.
fn version(text: &str) -> Option<Kind<'static>> {
    let (major, minor) = text.split_once('.')?;
    let (major, minor): (u64, u64) = (major.parse().ok()?, minor.parse().ok()?);
    let both = major.checked_mul(10)?.checked_add(minor)?;
    (minor < 10).then_some(Kind::Decimal(both))
}
