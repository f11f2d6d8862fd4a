//! Which values of a sequence belong to which node. Pure arithmetic.
//!
//! The user's sequence is `base, base + increment, ..`. With S slots, the node
//! in slot s owns `base + s*increment + k*S*increment` for every integer k, so
//! no two nodes own the same value and together they own them all.

/// The values of one sequence that belong to one slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lattice {
    increment: i128,
    step: i64,
    origin: i128,
}

/// Where a sequence stands: what its relation's one row says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The value handed out last, or to hand out first.
    pub last_value: i64,
    /// Whether `last_value` was handed out.
    pub is_called: bool,
}

/// The values a sequence may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// `MINVALUE`.
    pub min: i64,
    /// `MAXVALUE`.
    pub max: i64,
}

/// `ceil(a / b)` for any signs.
fn div_ceil(a: i128, b: i128) -> i128 {
    let quotient = a / b;
    quotient + i128::from(a % b != 0 && (a < 0) == (b < 0))
}

impl Lattice {
    /// The values of slot `slot` of `slots`. `None` if the step is out of range.
    pub fn new(base: i64, increment: i64, slot: u32, slots: u32) -> Option<Self> {
        let step = increment.checked_mul(i64::from(slots))?;
        let increment = i128::from(increment);
        Some(Self { increment, step, origin: i128::from(base) + i128::from(slot) * increment })
    }

    /// Distance between two values of this slot: the physical increment.
    pub fn step(&self) -> i64 {
        self.step
    }

    /// The slot's first value at or after `value`, in the sequence's direction.
    fn first_from(&self, value: i128) -> i128 {
        let step = i128::from(self.step);
        self.origin + div_ceil(value - self.origin, step) * step
    }

    fn later(&self, a: i128, b: i128) -> i128 {
        if self.increment > 0 { a.max(b) } else { a.min(b) }
    }

    /// Where the sequence must stand so that it hands out this slot's first
    /// value that comes after everything up to `current`, and after `used`.
    /// `None` if it would do so as it stands.
    pub fn realign(&self, current: Position, bounds: Bounds, used: Option<i64>) -> Option<Position> {
        let last = i128::from(current.last_value);
        let next = if current.is_called { last + self.increment } else { last };
        let present = if current.is_called { last + i128::from(self.step) } else { last };
        let mut target = self.first_from(next);
        if let Some(used) = used {
            let beyond = self.first_from(self.later(next, i128::from(used) + self.increment));
            // A single value near the end, put in by hand, must not use up the sequence.
            if self.within(beyond, bounds) {
                target = beyond;
            }
        }
        let wanted = match i64::try_from(target) {
            Ok(value) if self.within(target, bounds) => Position { last_value: value, is_called: false },
            _ if target == present => return None,
            // Nothing left: PostgreSQL's own error comes at the next call.
            _ if self.increment > 0 => Position { last_value: bounds.max, is_called: true },
            _ => Position { last_value: bounds.min, is_called: true },
        };
        (target != present && wanted != current).then_some(wanted)
    }

    fn within(&self, value: i128, bounds: Bounds) -> bool {
        (i128::from(bounds.min)..=i128::from(bounds.max)).contains(&value)
    }
}

/// The base from which a restarted sequence's values count: the old one if the
/// new beginning is one of its values, so that every node keeps its residue.
pub fn rebase(base: i64, increment: i64, restart: i64) -> i64 {
    let keeps = (i128::from(restart) - i128::from(base)) % i128::from(increment) == 0;
    if keeps { base } else { restart }
}

/// A position that nobody is beyond: `here`, or `filled`, a value that is in use, if that comes later
/// and the sequence can get there.
pub fn shown(here: Position, step: i64, bounds: Bounds, filled: Option<i64>) -> Position {
    let is_later = |value: i64| {
        let (value, last) = (i128::from(value), i128::from(here.last_value));
        let distance = if step > 0 { value - last } else { last - value };
        distance > 0 || distance == 0 && !here.is_called
    };
    match filled {
        Some(value) if (bounds.min..=bounds.max).contains(&value) && is_later(value) => {
            Position { last_value: value, is_called: true }
        }
        _ => here,
    }
}

/// A position within new limits: the same, or where the sequence begins, or its end.
pub fn within(here: Position, step: i64, bounds: Bounds) -> Position {
    if here.last_value > bounds.max {
        Position { last_value: bounds.max, is_called: step > 0 }
    } else if here.last_value < bounds.min {
        Position { last_value: bounds.min, is_called: step < 0 }
    } else {
        here
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INT4: Bounds = Bounds { min: 1, max: i32::MAX as i64 };

    fn at(last_value: i64, is_called: bool) -> Position {
        Position { last_value, is_called }
    }

    /// What `nextval` would return (`nextval_internal` in `sequence.c`).
    fn nextval(lattice: &Lattice, position: &mut Position, bounds: Bounds) -> Option<i64> {
        let next =
            if position.is_called { position.last_value.checked_add(lattice.step())? } else { position.last_value };
        if next < bounds.min || next > bounds.max {
            return None;
        }
        *position = at(next, true);
        Some(next)
    }

    #[test]
    fn a_new_sequence_begins_at_the_slots_own_value() {
        let lattice = Lattice::new(1, 1, 2, 16).unwrap();
        let mut position = lattice.realign(at(1, false), INT4, None).unwrap();
        assert_eq!(position, at(3, false));
        assert_eq!(nextval(&lattice, &mut position, INT4), Some(3));
        assert_eq!(nextval(&lattice, &mut position, INT4), Some(19));
    }

    #[test]
    fn realigning_twice_changes_nothing() {
        for slot in 0..5 {
            for increment in [-7, -1, 1, 10] {
                let bounds = Bounds { min: -1000, max: 1000 };
                let lattice = Lattice::new(3, increment, slot, 5).unwrap();
                for last in -1000..=1000 {
                    for called in [false, true] {
                        let first = lattice.realign(at(last, called), bounds, None).unwrap_or(at(last, called));
                        assert_eq!(lattice.realign(first, bounds, None), None, "{lattice:?} {last} {called} {first:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn no_value_is_handed_out_twice_by_any_two_slots() {
        for increment in [-3, 1, 4] {
            let bounds = Bounds { min: -200, max: 200 };
            let mut seen = std::collections::BTreeSet::new();
            for slot in 0..4 {
                let lattice = Lattice::new(5, increment, slot, 4).unwrap();
                let mut position = lattice.realign(at(5, false), bounds, None).unwrap_or(at(5, false));
                while let Some(value) = nextval(&lattice, &mut position, bounds) {
                    assert!(seen.insert(value), "{value} twice");
                }
            }
            let all = (0..).map(|k| 5 + k * increment).take_while(|value| (-200..=200).contains(value)).count();
            assert_eq!(seen.len(), all, "together they hand out every value");
        }
    }

    #[test]
    fn a_node_in_another_slot_goes_on_above_the_present_value() {
        let donor = Lattice::new(1, 1, 0, 16).unwrap();
        let mut position = at(1, false);
        while nextval(&donor, &mut position, INT4).unwrap() < 100 {}
        let joiner = Lattice::new(1, 1, 5, 16).unwrap();
        let mut moved = joiner.realign(position, INT4, None).unwrap();
        let value = nextval(&joiner, &mut moved, INT4).unwrap();
        assert!(value > position.last_value && value % 16 == 6, "{value}");
    }

    #[test]
    fn goes_beyond_values_in_use_but_not_to_exhaustion() {
        let lattice = Lattice::new(1, 1, 0, 16).unwrap();
        assert_eq!(lattice.realign(at(17, true), INT4, Some(500)), Some(at(513, false)));
        assert_eq!(lattice.realign(at(513, true), INT4, Some(500)), None);
        assert_eq!(lattice.realign(at(17, true), INT4, Some(i64::from(i32::MAX))), None);
        let down = Lattice::new(-1, -1, 0, 16).unwrap();
        let bounds = Bounds { min: i64::MIN, max: -1 };
        assert_eq!(down.realign(at(-17, true), bounds, Some(-100)), Some(at(-113, false)));
    }

    #[test]
    fn a_slot_without_any_value_fails_at_the_next_call() {
        let bounds = Bounds { min: 1, max: 5 };
        let lattice = Lattice::new(1, 1, 7, 16).unwrap();
        let mut position = lattice.realign(at(1, false), bounds, None).unwrap();
        assert_eq!(position, at(5, true));
        assert_eq!(nextval(&lattice, &mut position, bounds), None);
        assert_eq!(lattice.realign(position, bounds, None), None);
    }

    #[test]
    fn extreme_definitions_do_not_overflow() {
        assert_eq!(Lattice::new(1, i64::MAX / 2, 0, 16), None);
        let bounds = Bounds { min: i64::MIN, max: i64::MAX };
        let lattice = Lattice::new(i64::MAX, 1, 15, 16).unwrap();
        assert_eq!(lattice.realign(at(i64::MAX, false), bounds, None), Some(at(i64::MAX, true)));
        let lattice = Lattice::new(i64::MIN, -1, 15, 16).unwrap();
        assert_eq!(lattice.realign(at(i64::MIN, false), bounds, None), Some(at(i64::MIN, true)));
    }

    #[test]
    fn a_value_in_use_is_shown_if_it_comes_later() {
        let bounds = Bounds { min: 1, max: 100 };
        let up = |here, filled| shown(here, 16, bounds, filled);
        assert_eq!(up(at(17, true), None), at(17, true));
        assert_eq!(up(at(17, true), Some(5)), at(17, true));
        assert_eq!(up(at(17, true), Some(18)), at(18, true));
        assert_eq!(up(at(17, false), Some(17)), at(17, true));
        assert_eq!(up(at(17, true), Some(101)), at(17, true), "put in by hand");
        let all = Bounds { min: i64::MIN, max: i64::MAX };
        assert_eq!(shown(at(-17, true), -16, all, Some(-18)), at(-18, true));
        assert_eq!(shown(at(-17, true), -16, all, Some(-1)), at(-17, true));
        assert_eq!(shown(at(i64::MIN, true), 16, all, Some(i64::MAX)), at(i64::MAX, true));
    }

    #[test]
    fn new_limits_leave_a_position_or_use_it_up() {
        let bounds = Bounds { min: 10, max: 20 };
        assert_eq!(within(at(15, true), 16, bounds), at(15, true));
        assert_eq!(within(at(21, false), 16, bounds), at(20, true), "nothing is left");
        assert_eq!(within(at(5, true), 16, bounds), at(10, false), "nothing was drawn");
        assert_eq!(within(at(5, true), -16, bounds), at(10, true));
        assert_eq!(within(at(30, true), -16, bounds), at(20, false));
    }

    #[test]
    fn a_restart_keeps_residues_where_it_can() {
        assert_eq!(rebase(1, 1, 1000), 1);
        assert_eq!(rebase(1, 10, 51), 1);
        assert_eq!(rebase(1, 10, 5), 5);
        assert_eq!(rebase(1, -10, -9), 1);
    }
}
