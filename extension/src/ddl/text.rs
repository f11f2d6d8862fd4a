//! The text of statements: cutting one out of a query string, and finding the
//! few tokens that must not travel as they are. Knows as much of PostgreSQL's
//! lexical rules (`scan.l`) as that takes, and nothing of PostgreSQL itself.

use std::ops::Range;

/// One statement of a query string, as `PlannedStmt` locates it: from byte
/// `location` (-1: unknown, the whole string), `length` bytes (0: the rest).
pub fn cut(query: &[u8], location: i32, length: i32) -> Option<&[u8]> {
    let start = usize::try_from(location).unwrap_or(0);
    let rest = query.get(start..)?;
    let length = usize::try_from(length).ok().filter(|length| *length > 0).unwrap_or(rest.len());
    Some(rest.get(..length)?.trim_ascii())
}

/// What a token is, as far as anyone here asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A keyword or an identifier without quotes.
    Word,
    /// A string constant of any form.
    Literal,
    /// A quoted identifier, a number, an operator's character.
    Other,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Token {
    kind: Kind,
    place: Range<usize>,
}

/// Splits a text into tokens, without comments.
struct Tokens<'a> {
    text: &'a [u8],
    at: usize,
    /// Whether a backslash escapes in `'..'` without a prefix
    /// (`standard_conforming_strings` is off).
    backslashes: bool,
}

fn begins_word(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80
}

fn continues_word(byte: u8) -> bool {
    begins_word(byte) || byte.is_ascii_digit() || byte == b'$'
}

impl Tokens<'_> {
    fn rest(&self) -> &[u8] {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn skip_space_and_comments(&mut self) {
        loop {
            let rest = self.rest();
            if rest.first().is_some_and(|byte| byte.is_ascii_whitespace() || *byte == 0x0b) {
                self.at += 1;
            } else if rest.starts_with(b"--") {
                self.at += rest.iter().position(|byte| matches!(byte, b'\n' | b'\r')).unwrap_or(rest.len());
            } else if rest.starts_with(b"/*") {
                self.skip_block_comment();
            } else {
                return;
            }
        }
    }

    /// Block comments nest.
    fn skip_block_comment(&mut self) {
        let mut depth = 0;
        while self.at < self.text.len() {
            if self.rest().starts_with(b"/*") {
                depth += 1;
                self.at += 2;
            } else if self.rest().starts_with(b"*/") {
                depth -= 1;
                self.at += 2;
                if depth == 0 {
                    return;
                }
            } else {
                self.at += 1;
            }
        }
    }

    /// Skips what stands between quotes; a doubled quote does not end it.
    fn skip_quoted(&mut self, quote: u8, backslashes: bool) {
        self.at += 1;
        while let Some(&byte) = self.rest().first() {
            self.at += 1;
            if byte == b'\\' && backslashes {
                self.at = (self.at + 1).min(self.text.len());
            } else if byte == quote {
                if self.rest().first() != Some(&quote) {
                    return;
                }
                self.at += 1;
            }
        }
    }

    /// Skips `$tag$..$tag$`; false if none begins here.
    fn skip_dollar_quoted(&mut self) -> bool {
        let rest = self.rest();
        let Some(length) = rest[1..].iter().position(|byte| *byte == b'$') else { return false };
        let tag = &rest[..length + 2];
        let name = &tag[1..=length];
        if name.first().is_some_and(u8::is_ascii_digit) || !name.iter().copied().all(continues_word) {
            return false;
        }
        let Some(end) = rest[tag.len()..].windows(tag.len()).position(|window| window == tag) else { return false };
        self.at += 2 * tag.len() + end;
        true
    }

    /// Bytes of a string constant's prefix that stands here, and whether
    /// backslashes escape in the constant.
    fn literal_prefix(&self) -> Option<(usize, bool)> {
        match self.rest() {
            [b'\'', ..] => Some((0, self.backslashes)),
            [b'e' | b'E', b'\'', ..] => Some((1, true)),
            [b'b' | b'B' | b'x' | b'X', b'\'', ..] => Some((1, false)),
            [b'n' | b'N', b'\'', ..] => Some((1, self.backslashes)),
            [b'u' | b'U', b'&', b'\'', ..] => Some((2, false)),
            _ => None,
        }
    }
}

impl Iterator for Tokens<'_> {
    type Item = Token;

    fn next(&mut self) -> Option<Token> {
        self.skip_space_and_comments();
        let start = self.at;
        let first = *self.rest().first()?;
        let kind = if let Some((prefix, backslashes)) = self.literal_prefix() {
            self.at += prefix;
            self.skip_quoted(b'\'', backslashes);
            Kind::Literal
        } else if first == b'$' && self.skip_dollar_quoted() {
            Kind::Literal
        } else if first == b'"' {
            self.skip_quoted(b'"', false);
            Kind::Other
        } else if begins_word(first) {
            self.at += self.rest().iter().position(|byte| !continues_word(*byte)).unwrap_or(self.rest().len());
            Kind::Word
        } else if first.is_ascii_digit() {
            self.at += self.rest().iter().position(|byte| !continues_word(*byte)).unwrap_or(self.rest().len());
            Kind::Other
        } else {
            self.at += 1;
            Kind::Other
        };
        Some(Token { kind, place: start..self.at })
    }
}

/// Replaces the string constant of the role option `[ENCRYPTED] PASSWORD '..'`
/// that begins at byte `option` by `verifier`. `None` if it does not stand there.
pub fn replace_password(text: &str, option: usize, verifier: &str, backslashes: bool) -> Option<String> {
    let mut tokens = Tokens { text: text.as_bytes(), at: option, backslashes }.peekable();
    let is = |token: &Token, word: &str| {
        token.kind == Kind::Word && text.get(token.place.clone()).is_some_and(|found| found.eq_ignore_ascii_case(word))
    };
    tokens.next_if(|token| is(token, "encrypted"));
    tokens.next_if(|token| is(token, "password"))?;
    let literal = tokens.next_if(|token| token.kind == Kind::Literal)?;
    let mut end = literal.place.end;
    // Constants on consecutive lines are one; so is a Unicode one with its escape character.
    while let Some(token) = tokens.next_if(|token| token.kind == Kind::Literal || is(token, "uescape")) {
        end = token.place.end;
    }
    let quoted = verifier.replace('\'', "''");
    Some(format!("{}'{quoted}'{}", text.get(..literal.place.start)?, text.get(end..)?))
}

/// The text without `word` where it first stands as a keyword or an identifier without quotes, or where it last does.
pub fn without(text: &str, word: &str, last: bool, backslashes: bool) -> Option<String> {
    let mut places = Tokens { text: text.as_bytes(), at: 0, backslashes }
        .filter(|token| token.kind == Kind::Word)
        .map(|token| token.place)
        .filter(|place| text.get(place.clone()).is_some_and(|found| found.eq_ignore_ascii_case(word)));
    let place = if last { places.last() } else { places.next() }?;
    Some(format!("{}{}", &text[..place.start], &text[place.end..]))
}

/// Whether `word` stands in the text as a keyword or an identifier without quotes.
pub fn mentions(text: &str, word: &str, backslashes: bool) -> bool {
    Tokens { text: text.as_bytes(), at: 0, backslashes }
        .any(|token| token.kind == Kind::Word && text.as_bytes()[token.place].eq_ignore_ascii_case(word.as_bytes()))
}

/// The statement with one more option at its end, after whatever comment
/// stands there.
pub fn append_option(text: &str, option: &str) -> String {
    format!("{text}\n{option}")
}

/// CREATE MATERIALIZED VIEW with its data left out: `WITH NO DATA` in the
/// place of a `WITH DATA` at its end.
pub fn without_data(text: &str, backslashes: bool) -> String {
    let tokens = Tokens { text: text.as_bytes(), at: 0, backslashes }.collect::<Vec<_>>();
    let is = |token: &Token, word: &str| {
        token.kind == Kind::Word && text.as_bytes()[token.place.clone()].eq_ignore_ascii_case(word.as_bytes())
    };
    let query = match tokens.as_slice() {
        [.., with, data] if is(with, "with") && is(data, "data") => &text[..with.place.start],
        _ => text,
    };
    append_option(query, "WITH NO DATA")
}

/// An identifier as SQL text.
pub fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A string constant as SQL text, whatever `standard_conforming_strings` is.
pub fn quote_literal(value: &str) -> String {
    let escape = if value.contains('\\') { "E" } else { "" };
    format!("{escape}'{}'", value.replace('\\', "\\\\").replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_one_statement_out_of_several() {
        let query = b"SELECT 1; CREATE TABLE t (i int) ; DROP TABLE t";
        assert_eq!(cut(query, 9, 24), Some(&b"CREATE TABLE t (i int)"[..]));
        assert_eq!(cut(query, 34, 0), Some(&b"DROP TABLE t"[..]));
        assert_eq!(cut(query, -1, 0), Some(&query[..]));
        assert_eq!(cut(query, 99, 0), None);
        assert_eq!(cut(query, 40, 99), None);
    }

    fn replaced(text: &str) -> Option<String> {
        let option = text.to_ascii_lowercase().rfind("encrypted").or(text.to_ascii_lowercase().rfind("password"))?;
        replace_password(text, option, "V", false)
    }

    #[test]
    fn replaces_a_password_in_every_form_of_string() {
        for form in [
            "'secret'",
            "'it''s'",
            "E'it\\'s'",
            "$$it's$$",
            "$x$ $$ $x$",
            "U&'d!0061t' UESCAPE '!'",
            "'se' -- comment\n 'cret'",
            "/* 'no' /* nested */ */ 'yes'",
        ] {
            let text = format!("CREATE ROLE \"password\" LOGIN ENCRYPTED PASSWORD {form} VALID UNTIL 'infinity'");
            let result = replaced(&text).unwrap_or_else(|| panic!("{form}"));
            assert!(result.ends_with("'V' VALID UNTIL 'infinity'"), "{result}");
            assert!(!result.contains("cret") && !result.contains("it's"), "{result}");
        }
        assert_eq!(replaced("ALTER ROLE r password 'x'").as_deref(), Some("ALTER ROLE r password 'V'"));
    }

    #[test]
    fn finds_no_password_where_there_is_none() {
        assert_eq!(replaced("ALTER ROLE r PASSWORD NULL"), None);
        assert_eq!(replace_password("ALTER ROLE r PASSWORD 'x'", 0, "V", false), None);
        assert_eq!(replace_password("ALTER ROLE r PASSWORD 'x'", 99, "V", false), None);
    }

    #[test]
    fn a_backslash_escapes_only_where_postgresql_says_so() {
        let text = r"ALTER ROLE r PASSWORD 'a\' VALID UNTIL 'infinity'";
        assert_eq!(
            replace_password(text, 13, "V", false).as_deref(),
            Some("ALTER ROLE r PASSWORD 'V' VALID UNTIL 'infinity'")
        );
        let text = r"ALTER ROLE r PASSWORD 'a\'b' VALID UNTIL 'infinity'";
        assert_eq!(
            replace_password(text, 13, "V", true).as_deref(),
            Some("ALTER ROLE r PASSWORD 'V' VALID UNTIL 'infinity'")
        );
    }

    #[test]
    fn a_word_counts_only_outside_of_quotes_and_comments() {
        assert!(mentions("GRANT a TO Session_User", "session_user", false));
        for text in [
            "COMMENT ON TABLE t IS 'session_user'",
            "GRANT a TO \"session_user\"",
            "GRANT a TO b -- session_user",
            "DO $$ session_user $$",
            "GRANT a TO session_users",
            "SELECT $1, a$session_user$ FROM t",
        ] {
            assert!(!mentions(text, "session_user", false), "{text}");
        }
    }

    #[test]
    fn data_is_left_out_whether_it_was_asked_for_or_not() {
        for (text, query) in [
            ("SELECT 1", "SELECT 1"),
            ("SELECT 1 WITH DATA", "SELECT 1 "),
            ("SELECT 1 with /* all */ data -- so far", "SELECT 1 "),
            ("SELECT 'WITH DATA'", "SELECT 'WITH DATA'"),
            ("SELECT 1 AS \"with\", 2 AS data", "SELECT 1 AS \"with\", 2 AS data"),
            ("SELECT 1 -- WITH DATA", "SELECT 1 -- WITH DATA"),
        ] {
            assert_eq!(without_data(text, false), format!("{query}\nWITH NO DATA"));
        }
    }

    #[test]
    fn leaves_out_one_word() {
        let without = |text, last| without(text, "concurrently", last, false);
        let create = "CREATE INDEX /* concurrently */ Concurrently i ON t (concurrently(x))";
        assert_eq!(
            without(create, false).as_deref(),
            Some("CREATE INDEX /* concurrently */  i ON t (concurrently(x))")
        );
        let detach = "ALTER TABLE s.concurrently DETACH PARTITION \"concurrently\" CONCURRENTLY -- concurrently";
        let left = "ALTER TABLE s.concurrently DETACH PARTITION \"concurrently\"  -- concurrently";
        assert_eq!(without(detach, true).as_deref(), Some(left));
        assert_eq!(without("DROP INDEX \"concurrently\"", false), None);
    }

    #[test]
    fn quotes_what_needs_it() {
        assert_eq!(quote_identifier("a\"b"), "\"a\"\"b\"");
        assert_eq!(quote_literal("a'b"), "'a''b'");
        assert_eq!(quote_literal("a\\b"), "E'a\\\\b'");
    }
}
