//! Values of SIP header fields: addresses with display names, URIs, parameters, lists (RFC 3261 §20, §25.1).
//!
//! Constraints: lenient as [`crate::message`]; what cannot be read comes out empty. Text that ends up in front of
//! people (names, numbers) carries no control characters and is bounded by [`TEXT_CHARS_MAX`].

use crate::event::Identity;
use std::borrow::Cow;

/// Names, numbers and URIs are cut to this many characters.
pub(crate) const TEXT_CHARS_MAX: usize = 256;

/// `"Display" <uri>;parameters` or `uri;parameters`.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct NameAddress<'a> {
    pub(crate) display: String,
    pub(crate) uri: &'a str,
    /// From the first `;` after the address.
    pub(crate) parameters: &'a str,
}

impl<'a> NameAddress<'a> {
    pub(crate) fn parse(value: &'a str) -> Self {
        let value = value.trim();
        let (display, rest) = match quoted_string(value) {
            Some((text, rest)) => (Some(text), rest),
            None => (None, value),
        };
        let Some(open) = rest.find('<') else {
            let end = rest.find(';').unwrap_or(rest.len());
            return Self {
                display: display_text(display.unwrap_or_default()),
                uri: rest[..end].trim(),
                parameters: &rest[end..],
            };
        };
        let display = display.unwrap_or_else(|| rest[..open].trim().trim_matches('"').to_owned());
        let address = &rest[open + 1..];
        let (uri, parameters) = match address.find('>') {
            Some(close) => (&address[..close], &address[close + 1..]),
            None => (address, ""),
        };
        Self { display: display_text(display), uri: uri.trim(), parameters }
    }

    pub(crate) fn tag(&self) -> Option<String> {
        parameter(self.parameters, "tag").filter(|tag| !tag.is_empty())
    }

    /// Number and name; both empty when the caller asked not to be named (RFC 3323 §4.1.1.3).
    pub(crate) fn identity(&self) -> Identity {
        let (user, host) = uri_user_and_host(self.uri);
        let anonymous =
            host.to_ascii_lowercase().ends_with("anonymous.invalid") || user.eq_ignore_ascii_case("anonymous");
        let number = if anonymous { String::new() } else { user };
        let withheld = anonymous && self.display.eq_ignore_ascii_case("anonymous");
        let name = if withheld { String::new() } else { self.display.clone() };
        Identity { number, name, address: None }
    }
}

/// Text fit to be shown: no control characters, bounded.
pub(crate) fn display_text(text: impl AsRef<str>) -> String {
    text.as_ref().trim().chars().filter(|character| !character.is_control()).take(TEXT_CHARS_MAX).collect()
}

/// A quoted string at the start of `value`, unescaped, and what follows it. `None` when there is none or it does not
/// end.
fn quoted_string(value: &str) -> Option<(String, &str)> {
    let inner = value.strip_prefix('"')?;
    let mut text = String::new();
    let mut escaped = false;
    for (at, character) in inner.char_indices() {
        match character {
            _ if escaped => {
                text.push(character);
                escaped = false;
            }
            '\\' => escaped = true,
            '"' => return Some((text, &inner[at + 1..])),
            _ => text.push(character),
        }
    }
    None
}

/// User part (or telephone number, RFC 3966) and host of a URI. The user is without password and parameters, its
/// escapes resolved.
pub(crate) fn uri_user_and_host(uri: &str) -> (String, &str) {
    let Some((scheme, rest)) = uri.split_once(':') else { return (String::new(), "") };
    if scheme.trim().eq_ignore_ascii_case("tel") {
        let number = rest.split([';', '?']).next().unwrap_or_default();
        // Visual separators mean nothing (RFC 3966 §5.1.1).
        let number: String = number.chars().filter(|c| !matches!(c, '-' | '.' | '(' | ')' | ' ')).collect();
        return (display_text(unescape(&number)), "");
    }
    let (user, host) = match rest.split_once('@') {
        Some((user, host)) => (user, host),
        None => ("", rest),
    };
    let host_end = host.find([';', '?', '>']).unwrap_or(host.len());
    let user = user.split([';', ':']).next().unwrap_or_default();
    (display_text(unescape(user)), &host[..host_end])
}

/// `%41` → `A` (RFC 3261 §19.1.2). Escaped control characters stay escaped, and so does what is no escape.
pub(crate) fn unescape(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return Cow::Borrowed(text);
    }
    let bytes = text.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escaped = match bytes[at..] {
            [b'%', high, low, ..] => hex_value(high).zip(hex_value(low)).map(|(high, low)| high << 4 | low),
            _ => None,
        };
        match escaped {
            Some(byte) if !byte.is_ascii_control() => {
                plain.push(byte);
                at += 3;
            }
            _ => {
                plain.push(bytes[at]);
                at += 1;
            }
        }
    }
    Cow::Owned(String::from_utf8_lossy(&plain).into_owned())
}

fn hex_value(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

/// The value of `;name=value` in a parameter list; empty for a flag. Quotes are taken off.
pub(crate) fn parameter(parameters: &str, name: &str) -> Option<String> {
    split_outside_quotes(parameters, ';').find_map(|part| {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        key.trim().eq_ignore_ascii_case(name).then(|| {
            let value = value.trim();
            quoted_string(value).map_or_else(|| value.to_owned(), |(text, _)| text)
        })
    })
}

/// The elements of a comma-separated header value; commas in quotes and angle brackets do not separate.
pub(crate) fn list(value: &str) -> impl Iterator<Item = &str> {
    split_outside_quotes(value, ',').map(str::trim).filter(|part| !part.is_empty())
}

/// Splits at `separator` where it stands outside of quoted strings and of `<…>`. An unbalanced quote or
/// bracket reaches to the end.
fn split_outside_quotes(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let current = rest?;
        let (mut quoted, mut escaped, mut bracketed) = (false, false, false);
        for (at, character) in current.char_indices() {
            match character {
                _ if escaped => escaped = false,
                '\\' if quoted => escaped = true,
                '"' => quoted = !quoted,
                '<' if !quoted => bracketed = true,
                '>' if !quoted => bracketed = false,
                _ if character == separator && !quoted && !bracketed => {
                    rest = Some(&current[at + character.len_utf8()..]);
                    return Some(&current[..at]);
                }
                _ => {}
            }
        }
        rest = None;
        Some(current)
    })
}

/// Seconds of a Session-Expires field (RFC 4028 §4); `None` when it is no number.
pub(crate) fn session_interval_seconds(value: &str) -> Option<u32> {
    value.split(';').next()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn addresses_are_read_in_every_form() {
        let cases = [
            (r#""A. G. Bell" <sip:agb@bell-telephone.com> ;tag=a48s"#, "A. G. Bell", "agb", Some("a48s")),
            ("sip:c8oqz84zk7z@privacy.org;tag=hyh8", "", "c8oqz84zk7z", Some("hyh8")),
            ("Anonymous <sip:c8oqz84zk7z@privacy.org>", "Anonymous", "c8oqz84zk7z", None),
            (r#""Anonymous" <sip:anonymous@anonymous.invalid>;tag=1"#, "", "", Some("1")),
            (
                r#""Quoted \"<x>, ;" <sip:+49%201@h;user=phone> ; Tag = "a b""#,
                r#"Quoted "<x>, ;"#,
                "+49 1",
                Some("a b"),
            ),
            (r#""Mr. J. User <sip:j.user@example.com>;tag=3"#, "Mr. J. User", "j.user", Some("3")),
            ("<tel:+1-201-555-0123;phone-context=x>;tag=z", "", "+12015550123", Some("z")),
            ("<sip:alice:secret@h>", "", "alice", None),
            ("<sip:user;par=u%40example.net@example.com>", "", "user", None),
            ("<sips:null-%00-null@example.com", "", "null-%00-null", None),
            ("caller<sip:caller@example.com;tag=inside>;other", "caller", "caller", None),
            ("<sip:host.only>;tag=t", "", "", Some("t")),
            ("", "", "", None),
        ];
        for (value, name, number, tag) in cases {
            let address = NameAddress::parse(value);
            let identity = address.identity();
            assert_eq!((identity.name.as_str(), identity.number.as_str()), (name, number), "{value}");
            assert_eq!(address.tag().as_deref(), tag, "{value}");
        }
    }

    #[test]
    fn commas_in_quotes_and_brackets_do_not_separate() {
        let values: Vec<_> = list(r#" "a, b" <sip:x@h?a=1,2> , <tel:1>,, "open, "#).collect();
        assert_eq!(values, [r#""a, b" <sip:x@h?a=1,2>"#, "<tel:1>", r#""open,"#]);
    }

    proptest! {
        #[test]
        fn any_text_is_read(value in ".{0,80}") {
            let address = NameAddress::parse(&value);
            let identity = address.identity();
            prop_assert!(!identity.number.chars().any(char::is_control) && !identity.name.chars().any(char::is_control));
            let _ = (address.tag(), session_interval_seconds(&value));
            let pieces: Vec<_> = list(&value).collect();
            prop_assert!(pieces.iter().map(|piece| piece.len()).sum::<usize>() <= value.len());
        }

        #[test]
        fn what_was_escaped_is_unescaped(text in "[ -~äß]{0,40}") {
            let escaped: String = text.bytes().map(|byte| format!("%{byte:02x}")).collect();
            prop_assert_eq!(unescape(&escaped), text);
        }
    }
}
