//! Distinguished names as text (RFC 4514), to be compared with the subject of a certificate.
//!
//! Called by `client_auth` with what manifests say, and by the server with what a certificate says. Invariants: a name
//! equals another only if both have the same attributes with the same values, in the same order, byte for byte; what
//! could be read in two ways is no name. Stricter than distinguishedNameMatch (RFC 4517 §4.2.15), which folds case and
//! spaces: an operator writes what the certificate says. Absent: values in hexadecimal (`#…`), and the certificate.

use std::{collections::BTreeSet, mem, str::CharIndices};

/// Most parts of a name, and most attributes in it.
const ATTRIBUTES_MAX: usize = 32;
/// The short names of RFC 4514 §3; others are written as their object identifier.
const SHORT: [(&str, &str); 9] = [
    ("CN", "2.5.4.3"),
    ("L", "2.5.4.7"),
    ("ST", "2.5.4.8"),
    ("O", "2.5.4.10"),
    ("OU", "2.5.4.11"),
    ("C", "2.5.4.6"),
    ("STREET", "2.5.4.9"),
    ("DC", "0.9.2342.19200300.100.1.25"),
    ("UID", "0.9.2342.19200300.100.1.1"),
];
/// What may stand behind a backslash for itself (RFC 4514 §2.4).
const ESCAPED: [char; 10] = ['"', '+', ',', ';', '<', '>', ' ', '#', '=', '\\'];

/// What an attribute is, as a dotted object identifier, and its value.
pub type Attribute = (String, String);

/// A name, the most specific part first, as it is written; parts may have several attributes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DistinguishedName(Vec<BTreeSet<Attribute>>);

impl DistinguishedName {
    /// Of its text; `None` for what is none, or the empty name, which is nobody's.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (mut parts, mut part, mut rest) = (Vec::new(), BTreeSet::new(), text);
        for _ in 0..ATTRIBUTES_MAX {
            let (kind, behind) = rest.split_once('=')?;
            let (value, end, behind) = value(behind)?;
            if !part.insert((identifier(kind)?, value)) {
                return None;
            }
            if end != Some('+') {
                parts.push(mem::take(&mut part));
            }
            if end.is_none() {
                return Some(Self(parts));
            }
            rest = behind;
        }
        None
    }

    /// Of a certificate's parts, in the order in which those stand there: the least specific first.
    #[must_use]
    pub fn of_parts(parts: Vec<Vec<Attribute>>) -> Option<Self> {
        let count: usize = parts.iter().map(Vec::len).sum();
        let mut all = Vec::with_capacity(parts.len());
        for part in parts.into_iter().rev() {
            let length = part.len();
            let part: BTreeSet<_> = part.into_iter().collect();
            if part.is_empty() || part.len() != length {
                return None;
            }
            all.push(part);
        }
        (1..=ATTRIBUTES_MAX).contains(&count).then_some(Self(all))
    }
}

fn identifier(kind: &str) -> Option<String> {
    if let Some((_, identifier)) = SHORT.iter().find(|(short, _)| short.eq_ignore_ascii_case(kind)) {
        return Some((*identifier).to_owned());
    }
    let is_number = |arc: &str| {
        let is_plain = arc == "0" || !arc.starts_with('0');
        is_plain && !arc.is_empty() && arc.bytes().all(|byte| byte.is_ascii_digit())
    };
    (kind.contains('.') && kind.split('.').all(is_number)).then(|| kind.to_owned())
}

/// A value, what ended it, and what stands behind that.
fn value(text: &str) -> Option<(String, Option<char>, &str)> {
    if text.starts_with([' ', '#']) {
        return None;
    }
    let (mut bytes, mut is_padded) = (Vec::new(), false);
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            ',' | '+' => return Some((whole(bytes, is_padded)?, Some(c), text.get(at + 1..)?)),
            '\\' => bytes.push(escaped(&mut chars)?),
            '"' | ';' | '<' | '>' | '\0' => return None,
            other => bytes.extend(other.encode_utf8(&mut [0; 4]).bytes()),
        }
        is_padded = c == ' ';
    }
    Some((whole(bytes, is_padded)?, None, ""))
}

fn whole(bytes: Vec<u8>, is_padded: bool) -> Option<String> {
    String::from_utf8(bytes).ok().filter(|value| !is_padded && !value.is_empty())
}

/// The byte behind a backslash: a character that means something else there, or any in hexadecimal.
fn escaped(chars: &mut CharIndices<'_>) -> Option<u8> {
    let (_, first) = chars.next()?;
    if ESCAPED.contains(&first) {
        return u8::try_from(first).ok();
    }
    let (_, second) = chars.next()?;
    u8::try_from(first.to_digit(16)? * 16 + second.to_digit(16)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(text: &str) -> Option<Vec<Vec<(String, String)>>> {
        let DistinguishedName(parts) = DistinguishedName::parse(text)?;
        Some(parts.into_iter().map(|part| part.into_iter().collect()).collect())
    }

    fn one(kind: &str, value: &str) -> Vec<(String, String)> {
        vec![(kind.to_owned(), value.to_owned())]
    }

    #[test]
    fn a_name_is_its_attributes_in_order() {
        let (cn, o) = ("2.5.4.3", "2.5.4.10");
        assert_eq!(parts("CN=reports,O=Acme"), Some(vec![one(cn, "reports"), one(o, "Acme")]));
        assert_eq!(parts("cn=a b,2.5.4.10=Acme"), Some(vec![one(cn, "a b"), one(o, "Acme")]));
        assert_eq!(parts("O=Sue\\, Grabbit\\+Co=x"), Some(vec![one(o, "Sue, Grabbit+Co=x")]));
        assert_eq!(parts("CN=Lu\\C4\\8Di\\c4\\87"), Some(vec![one(cn, "Lučić")]));
        assert_eq!(parts("CN=a\\ ,O=\\#b\\\\"), Some(vec![one(cn, "a "), one(o, "#b\\")]));
        let both = vec![vec![(o.to_owned(), "b".to_owned()), (cn.to_owned(), "a".to_owned())]];
        assert_eq!(parts("CN=a+O=b"), Some(both.clone()));
        assert_eq!(parts("O=b+CN=a"), Some(both), "the attributes of one part have no order");
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_no_name() {
        let many = ["CN=a"; ATTRIBUTES_MAX + 1].join(",");
        for bad in [
            "",
            "reports",
            "CN",
            "CN=",
            "=a",
            "CN=a,",
            "CN=a+",
            ",CN=a",
            "CN= a",
            "CN=a ",
            "CN=a, O=b",
            "CN=#61",
            "CN=a;O=b",
            "CN=\"a\"",
            "CN=a\\",
            "CN=a\\z",
            "CN=\\ff",
            "XX=a",
            "2.05.4=a",
            "2..5=a",
            "3=a",
            "CN=a+CN=a",
            "CN=a\0",
            &many,
        ] {
            assert_eq!(parts(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_certificates_name_is_read_from_its_other_end() {
        let of = |parts: &[&[(&str, &str)]]| {
            let owned = |part: &&[(&str, &str)]| part.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
            DistinguishedName::of_parts(parts.iter().map(owned).collect())
        };
        let said = DistinguishedName::parse("CN=reports,O=Acme");
        assert_eq!(of(&[&[("2.5.4.10", "Acme")], &[("2.5.4.3", "reports")]]), said);
        assert_ne!(of(&[&[("2.5.4.3", "reports")], &[("2.5.4.10", "Acme")]]), said, "in another order");
        assert_ne!(of(&[&[("2.5.4.10", "Acme")], &[("2.5.4.3", "Reports")]]), said, "in another case");
        assert_ne!(of(&[&[("2.5.4.10", "Acme"), ("2.5.4.3", "reports")]]), said, "in one part");
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[&[]]), None);
        assert_eq!(of(&[&[("2.5.4.3", "a"), ("2.5.4.3", "a")]]), None);
    }
}
