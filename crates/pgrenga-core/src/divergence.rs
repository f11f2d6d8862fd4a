//! Which node's data differs, when several were looked at in the same state.
//!
//! What more than half of all nodes with data hold is right. A node cannot be wrong on the word of
//! fewer: those who do not answer might hold what it holds.

/// What a node that compared itself with others may conclude.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// All that answered hold the same.
    Same,
    /// Most nodes hold the same, and this one something else.
    OwnDiffers,
    /// Most nodes hold what this one does; these others do not.
    OthersDiffer(Vec<usize>),
    /// There are differences, and no version that most nodes hold.
    Undecided,
}

/// Judges this node's version by those of the others, of which some did not answer. `nodes` is how
/// many have data, this one included.
#[must_use]
pub fn judge<T: Eq>(own: &T, others: &[Option<T>], nodes: usize) -> Finding {
    let versions = || std::iter::once(own).chain(others.iter().flatten());
    if versions().all(|version| version == own) {
        return Finding::Same;
    }
    let is_right = |version: &&T| versions().filter(|other| other == version).count() * 2 > nodes;
    match versions().find(is_right) {
        None => Finding::Undecided,
        Some(right) if right != own => Finding::OwnDiffers,
        Some(_) => {
            let differ = |(_, version): &(usize, &Option<T>)| version.as_ref().is_some_and(|version| version != own);
            Finding::OthersDiffer(others.iter().enumerate().filter(differ).map(|(index, _)| index).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Finding, judge};

    #[test]
    fn most_nodes_are_right() {
        let cases: &[(&str, &[Option<char>], usize, Finding)] = &[
            ("all agree", &[Some('a'), Some('a')], 3, Finding::Same),
            ("nobody answers", &[None, None], 3, Finding::Same),
            ("the others agree on something else", &[Some('b'), Some('b')], 3, Finding::OwnDiffers),
            ("one other is odd", &[Some('a'), Some('b')], 3, Finding::OthersDiffer(vec![1])),
            ("one against one, the third is silent", &[Some('b'), None], 3, Finding::Undecided),
            ("one against one", &[Some('b')], 2, Finding::Undecided),
            ("three versions", &[Some('b'), Some('c')], 3, Finding::Undecided),
            ("two against two", &[Some('a'), Some('b'), Some('b')], 4, Finding::Undecided),
            ("two of five are no majority", &[Some('b'), Some('b'), None, None], 5, Finding::Undecided),
            ("three of five are", &[Some('b'), Some('b'), Some('b'), None], 5, Finding::OwnDiffers),
            ("two are odd", &[Some('b'), Some('a'), Some('c'), Some('a')], 5, Finding::OthersDiffer(vec![0, 2])),
        ];
        for (what, others, nodes, expected) in cases {
            assert_eq!(judge(&'a', others, *nodes), *expected, "{what}");
        }
    }
}
