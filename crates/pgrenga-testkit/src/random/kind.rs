//! Types of columns, and few values of each, so that they meet.

use fastrand::Rng;

use super::{once_in, pick};

/// A column's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Int,
    SmallInt,
    BigInt,
    Numeric,
    Real,
    Double,
    Bool,
    Text,
    Varchar,
    Char,
    Name,
    Bytea,
    /// Text that is stored outside of its row.
    Large,
    Date,
    Time,
    Timestamp,
    Interval,
    Uuid,
    Json,
    Jsonb,
    Inet,
    MacAddress,
    Bits,
    Point,
    Vector,
    IntRange,
    DateRange,
    MultiRange,
    IntArray,
    TextArray,
    Mood,
    MoodArray,
    Small,
    Word,
    Pair,
    PairArray,
    Span,
}

/// Types of the schema itself, for [`Kind::Mood`] and those that follow it.
pub(super) const TYPES: [&str; 5] = [
    "CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy')",
    "CREATE DOMAIN small AS int CHECK (VALUE < 1000)",
    "CREATE DOMAIN word AS text DEFAULT 'none' CHECK (VALUE !~ '[ ]')",
    "CREATE TYPE pair AS (a int, b text)",
    "CREATE TYPE span AS RANGE (subtype = numeric)",
];

impl Kind {
    pub(super) const ALL: [Self; 37] = [
        Self::Int,
        Self::SmallInt,
        Self::BigInt,
        Self::Numeric,
        Self::Real,
        Self::Double,
        Self::Bool,
        Self::Text,
        Self::Varchar,
        Self::Char,
        Self::Name,
        Self::Bytea,
        Self::Large,
        Self::Date,
        Self::Time,
        Self::Timestamp,
        Self::Interval,
        Self::Uuid,
        Self::Json,
        Self::Jsonb,
        Self::Inet,
        Self::MacAddress,
        Self::Bits,
        Self::Point,
        Self::Vector,
        Self::IntRange,
        Self::DateRange,
        Self::MultiRange,
        Self::IntArray,
        Self::TextArray,
        Self::Mood,
        Self::MoodArray,
        Self::Small,
        Self::Word,
        Self::Pair,
        Self::PairArray,
        Self::Span,
    ];

    /// Its name in a definition.
    pub(super) fn sql(self) -> &'static str {
        match self {
            Self::Int => "int",
            Self::SmallInt => "smallint",
            Self::BigInt => "bigint",
            Self::Numeric => "numeric",
            Self::Real => "real",
            Self::Double => "double precision",
            Self::Bool => "boolean",
            Self::Text | Self::Large => "text",
            Self::Varchar => "varchar(12)",
            Self::Char => "char(6)",
            Self::Name => "name",
            Self::Bytea => "bytea",
            Self::Date => "date",
            Self::Time => "time",
            Self::Timestamp => "timestamptz",
            Self::Interval => "interval",
            Self::Uuid => "uuid",
            Self::Json => "json",
            Self::Jsonb => "jsonb",
            Self::Inet => "inet",
            Self::MacAddress => "macaddr",
            Self::Bits => "varbit(10)",
            Self::Point => "point",
            Self::Vector => "tsvector",
            Self::IntRange => "int4range",
            Self::DateRange => "daterange",
            Self::MultiRange => "int4multirange",
            Self::IntArray => "int[]",
            Self::TextArray => "text[]",
            Self::Mood => "mood",
            Self::MoodArray => "mood[]",
            Self::Small => "small",
            Self::Word => "word",
            Self::Pair => "pair",
            Self::PairArray => "pair[]",
            Self::Span => "span",
        }
    }

    /// Whether a B-tree can order its values, all of which fit.
    pub(super) fn has_order(self) -> bool {
        !matches!(self, Self::Large | Self::Json | Self::Point)
    }

    /// Whether a hash index can hold it.
    pub(super) fn has_hash(self) -> bool {
        self.has_order() && !matches!(self, Self::Bits | Self::Vector)
    }

    pub(super) fn is_range(self) -> bool {
        matches!(self, Self::IntRange | Self::DateRange | Self::Span)
    }

    pub(super) fn counts(self) -> bool {
        matches!(self, Self::Int | Self::SmallInt | Self::BigInt | Self::Numeric | Self::Small)
    }

    /// A value in the type's input syntax.
    pub(super) fn text(self, rng: &mut Rng) -> String {
        let n = rng.u32(0..12);
        match self {
            Self::Int | Self::BigInt | Self::Small => (i64::from(n) - 1).to_string(),
            Self::SmallInt => n.to_string(),
            // Equal values that look different.
            Self::Numeric => format!("{}{}", n, pick(rng, &["", ".0", ".00", ".5"])),
            Self::Real | Self::Double => (*pick(rng, &["0", "-0", "NaN", "1.5", "1e10", "Infinity", "0.1"])).to_owned(),
            Self::Bool => n.is_multiple_of(2).to_string(),
            Self::Text | Self::Varchar | Self::Word | Self::Name => {
                (*pick(rng, &["a", "A", "b", "ab", "", "ä", "x'y", "\\", "日本"])).to_owned()
            }
            Self::Char => (*pick(rng, &["a", "a ", "b", ""])).to_owned(),
            Self::Bytea => format!("\\x{:02x}{}", n, if n > 8 { "00ff".repeat(700) } else { String::new() }),
            // Both what compresses and what does not.
            Self::Large if n < 4 => "long ".repeat(rng.usize(500..3000)),
            Self::Large => (0..rng.usize(1..700)).map(|_| format!("{:08x}", rng.u32(..))).collect(),
            Self::Date => format!("2026-01-{:02}", n + 1),
            Self::Time => format!("{n:02}:30"),
            Self::Timestamp => format!("2026-01-{:02} 12:00+0{}", n + 1, n % 3),
            Self::Interval => (*pick(rng, &["1 day", "24 hours", "1 mon", "30 days", "-1 hour"])).to_owned(),
            Self::Uuid => format!("00000000-0000-4000-8000-0000000000{n:02}"),
            Self::Json | Self::Jsonb => {
                (*pick(rng, &["{\"a\": 1}", "{\"a\":1, \"b\":[1.0]}", "[]", "null", "1.0", "1"])).to_owned()
            }
            Self::Inet => format!("10.0.0.{n}/{}", pick(rng, &["8", "32"])),
            Self::MacAddress => format!("08:00:2b:01:02:{n:02}"),
            Self::Bits => (*pick(rng, &["0", "1", "101", "0101010101"])).to_owned(),
            Self::Point => format!("({n},{})", rng.u32(0..3)),
            Self::Vector => (*pick(rng, &["a b", "b:2 a:1", "cat:3A"])).to_owned(),
            Self::IntRange | Self::Span => format!("[{n},{})", n + rng.u32(1..4)),
            Self::DateRange => format!("[2026-01-{:02},2026-02-{:02})", n + 1, rng.u32(1..20)),
            Self::MultiRange => format!("{{[{n},{}),[{},)}}", n + 2, n + 5),
            Self::IntArray => format!("{{{n},NULL,{}}}", n % 3),
            Self::TextArray => (*pick(rng, &["{}", "{a}", "{a,\"b c\"}", "{{a,b},{c,d}}", "[0:1]={x,y}"])).to_owned(),
            Self::Mood => (*pick(rng, &["sad", "ok", "happy"])).to_owned(),
            Self::MoodArray => (*pick(rng, &["{sad,ok}", "{happy}", "{}"])).to_owned(),
            Self::Pair => format!("({n},\"x {n}\")"),
            Self::PairArray => format!("{{\"({n},y)\",\"(,)\"}}"),
        }
    }

    /// A value as an expression; now and then one that comes out different each time.
    pub(super) fn value(self, rng: &mut Rng) -> String {
        if once_in(rng, 8)
            && let Some(volatile) = self.volatile()
        {
            return volatile.to_owned();
        }
        format!("{}::{}", quote(&self.text(rng)), self.sql())
    }

    fn volatile(self) -> Option<&'static str> {
        Some(match self {
            Self::Int | Self::BigInt | Self::SmallInt | Self::Numeric | Self::Small => "floor(random() * 10)::int",
            Self::Real | Self::Double => "random()",
            Self::Text | Self::Varchar => "left(md5(random()::text), 3)",
            Self::Large => "repeat(md5(random()::text), 300)",
            Self::Timestamp => "clock_timestamp()",
            Self::Uuid => "gen_random_uuid()",
            Self::Bool => "random() < 0.5",
            _ => return None,
        })
    }
}

/// A string constant.
pub(super) fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
