//! The promise: the manual's table of refusals says what the server says.

const MANUAL: &str = include_str!("../../docs/sql-support.md");
const SOURCE: &str = include_str!("../src/ddl/refusal.rs");

/// The string constants in a piece of source code.
fn strings(source: &str) -> Vec<String> {
    let mut strings = Vec::new();
    let mut rest = source.chars();
    while rest.by_ref().any(|character| character == '"') {
        let mut text = String::new();
        while let Some(character) = rest.next().filter(|character| *character != '"') {
            text.push(if character == '\\' { rest.next().unwrap_or_default() } else { character });
        }
        strings.push(text);
    }
    strings
}

#[test]
fn the_manual_lists_every_refusal_in_the_servers_words() {
    let (_, table) = SOURCE.split_once("refusals! {\n    UNKNOWN").expect("the table of refusals");
    let refusals = strings(table);
    assert!(refusals.len() > 60 && refusals.len().is_multiple_of(3), "{refusals:?}");
    let expected = refusals.chunks(3).map(|texts| format!("| {} |", texts.join(" | "))).collect::<Vec<_>>();
    let (_, section) = MANUAL.split_once("| message | DETAIL | HINT |").expect("the manual's table");
    let listed = section.lines().skip(2).take_while(|line| line.starts_with('|')).collect::<Vec<_>>();
    assert_eq!(listed, expected);
}
