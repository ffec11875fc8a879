//! Containers of a fixed size. A state is copied for each step, so it owns no heap memory.

use std::fmt;
use std::hash::{Hash, Hasher};

/// A set of small numbers: records of `p`, or offsets of `s`.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Set(u16);

impl Set {
    /// The set without a member.
    pub const EMPTY: Self = Self(0);
    /// How many different numbers a set can hold.
    pub const CAPACITY: u8 = 16;

    /// The set of all numbers below `end`.
    pub fn below(end: u8) -> Self {
        Self(1u16.checked_shl(end.into()).map_or(u16::MAX, |bit| bit - 1))
    }

    /// The set with `number` added.
    #[must_use]
    pub fn with(self, number: u8) -> Self {
        Self(self.0 | 1 << number)
    }

    /// Adds a number.
    pub fn insert(&mut self, number: u8) {
        *self = self.with(number);
    }

    /// Whether the number is in the set.
    pub fn contains(self, number: u8) -> bool {
        number < Self::CAPACITY && self.0 >> number & 1 == 1
    }

    /// All numbers that are in one of the two sets.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The numbers of this set that are not in the other.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// The smallest number that is not in the set: the committed offset of a set of finished records.
    pub fn first_missing(self) -> u8 {
        (0..Self::CAPACITY).find(|number| !self.contains(*number)).unwrap_or(Self::CAPACITY)
    }

    /// The numbers below the first missing one.
    #[must_use]
    pub fn prefix(self) -> Self {
        Self::below(self.first_missing())
    }

    /// The numbers below 8, as bits.
    pub fn low(self) -> u8 {
        self.0.to_le_bytes()[0]
    }

    /// The numbers from 8 on, as bits.
    pub fn high(self) -> u8 {
        self.0.to_le_bytes()[1]
    }

    /// Whether the set has no member.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The set with `number` removed, and each larger number less one.
    #[must_use]
    pub fn without_place(self, number: u8) -> Self {
        let below = Self::below(number).0;
        Self(self.0 & below | self.0 >> 1 & !below)
    }

    /// The numbers, ascending.
    pub fn iter(self) -> impl Iterator<Item = u8> {
        (0..Self::CAPACITY).filter(move |number| self.contains(*number))
    }

    /// How many numbers are in the set.
    pub fn len(self) -> usize {
        self.0.count_ones() as usize
    }
}

impl FromIterator<u8> for Set {
    fn from_iter<I: IntoIterator<Item = u8>>(numbers: I) -> Self {
        numbers.into_iter().fold(Self::EMPTY, Self::with)
    }
}

impl fmt::Display for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let numbers: Vec<_> = self.iter().map(|number| number.to_string()).collect();
        write!(f, "{{{}}}", numbers.join(", "))
    }
}

impl fmt::Debug for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A list of at most `N` items.
#[derive(Clone, Copy)]
pub struct List<T, const N: usize> {
    items: [T; N],
    len: u8,
}

impl<T: Copy + Default, const N: usize> Default for List<T, N> {
    fn default() -> Self {
        Self { items: [T::default(); N], len: 0 }
    }
}

impl<T: Copy, const N: usize> List<T, N> {
    /// The items in their order.
    pub fn as_slice(&self) -> &[T] {
        &self.items[..usize::from(self.len)]
    }

    /// The items in their order, to be changed.
    pub fn as_mut_slice(&mut self) -> &mut [T] {
        &mut self.items[..usize::from(self.len)]
    }

    /// How many items are in the list.
    pub fn len(&self) -> u8 {
        self.len
    }

    /// Whether the list has no item.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds an item at the end.
    pub fn push(&mut self, item: T) {
        self.insert(usize::from(self.len), item);
    }

    /// Puts an item in front of the one that is now at `index`.
    pub fn insert(&mut self, index: usize, item: T) {
        let len = usize::from(self.len);
        assert!(len < N, "a list of the model is full at {N} items: choose smaller bounds");
        self.items.copy_within(index..len, index + 1);
        self.items[index] = item;
        self.len += 1;
    }

    /// Keeps the items for which `keep` is true.
    pub fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) {
        let mut kept = 0;
        for index in 0..usize::from(self.len) {
            if keep(&self.items[index]) {
                self.items[kept] = self.items[index];
                kept += 1;
                continue;
            }
            self.len -= 1;
        }
    }

    /// Removes all items.
    pub fn clear(&mut self) {
        self.len = 0;
    }
}

impl<T: Copy + PartialEq, const N: usize> PartialEq for List<T, N> {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl<T: Copy + Eq, const N: usize> Eq for List<T, N> {}

impl<T: Copy + Hash, const N: usize> Hash for List<T, N> {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        hasher.write_u8(self.len);
        for item in self.as_slice() {
            item.hash(hasher);
        }
    }
}

impl<T: Copy + fmt::Debug, const N: usize> fmt::Debug for List<T, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.as_slice()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retain_keeps_the_order() {
        let mut list: List<u8, 4> = List::default();
        (0..4).for_each(|item| list.push(item));
        list.retain(|item| *item != 1);
        assert_eq!(list.as_slice(), [0, 2, 3]);
        list.insert(1, 9);
        assert_eq!(list.as_slice(), [0, 9, 2, 3]);
    }

    #[test]
    fn what_was_removed_does_not_tell_two_lists_apart() {
        let (mut one, mut two): (List<u8, 4>, List<u8, 4>) = (List::default(), List::default());
        one.push(1);
        one.clear();
        two.push(2);
        two.clear();
        assert_eq!(one, two);
    }

    #[test]
    fn a_prefix_ends_at_the_first_missing_number() {
        let set: Set = [0, 1, 3].into_iter().collect();
        assert_eq!(
            (set.first_missing(), set.prefix(), set.minus(set.prefix())),
            (2, Set::below(2), Set::EMPTY.with(3))
        );
        assert_eq!(Set::below(16).first_missing(), 16);
    }

    #[test]
    fn larger_numbers_move_down_when_a_place_is_removed() {
        let set: Set = [0, 2, 3, 15].into_iter().collect();
        assert_eq!(set.without_place(2), [0, 2, 14].into_iter().collect());
        assert_eq!(set.without_place(1), [0, 1, 2, 14].into_iter().collect());
    }
}
