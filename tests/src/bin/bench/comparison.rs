//! Figures of two binaries that were measured in turn: medians, ranges and ratios.

use crate::engine::{Engine, Side};

/// A figure of one run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Figure {
    /// With its unit.
    pub(crate) name: &'static str,
    pub(crate) value: f64,
}

/// Both binaries, once in each round. Every second round begins with the other one, since brokers get faster with time.
pub(crate) fn in_turn(engines: &[Engine; 2], rounds: u32) -> impl Iterator<Item = &Engine> {
    let [new, former] = engines;
    (0..rounds).flat_map(move |round| if round.is_multiple_of(2) { [new, former] } else { [former, new] })
}

/// The figures of all rounds.
#[derive(Debug, Default)]
pub(crate) struct Comparison {
    /// In the order in which their names came first.
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    name: &'static str,
    new: Vec<f64>,
    former: Vec<f64>,
}

impl Comparison {
    /// Adds the figures of a run.
    pub(crate) fn add(&mut self, side: Side, figures: &[Figure]) {
        for Figure { name, value } in figures {
            let known = self.rows.iter().position(|row| row.name == *name);
            let index = known.unwrap_or_else(|| {
                self.rows.push(Row { name, new: Vec::new(), former: Vec::new() });
                self.rows.len() - 1
            });
            let row = &mut self.rows[index];
            match side {
                Side::New => row.new.push(*value),
                Side::Former => row.former.push(*value),
            }
        }
    }

    /// Prints a table. The ratio is that of the medians.
    pub(crate) fn print(&mut self, title: &str) {
        println!();
        println!("{title:<42} {:>32} {:>32} {:>8}", "new: median (min to max)", "former", "ratio");
        for Row { name, new, former } in &mut self.rows {
            let ratio = median(new).zip(median(former)).filter(|(_, former)| *former > 0.0);
            let ratio = ratio.map_or_else(|| "-".to_owned(), |(new, former)| format!("{:.2}", new / former));
            println!("{name:<42} {:>32} {:>32} {ratio:>8}", range(new), range(former));
        }
    }
}

/// The middle value, or the mean of the two in the middle. Sorts the values.
pub(crate) fn median(values: &mut [f64]) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let upper = *values.get(values.len() / 2)?;
    let lower = values[(values.len() - 1) / 2];
    Some(f64::midpoint(lower, upper))
}

/// Median, minimum and maximum of values.
fn range(values: &mut [f64]) -> String {
    let Some(median) = median(values) else { return "-".to_owned() };
    format!("{} ({} to {})", number(median), number(values[0]), number(values[values.len() - 1]))
}

/// A number with about three digits.
fn number(value: f64) -> String {
    let decimals = if value.abs() < 10.0 { 2 } else { usize::from(value.abs() < 100.0) };
    format!("{value:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(&mut []), None);
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&mut [4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }

    #[test]
    fn ranges_name_median_minimum_and_maximum() {
        assert_eq!(range(&mut [52_000.4, 48_000.0, 50_000.0]), "50000 (48000 to 52000)");
        assert_eq!(range(&mut [1.5]), "1.50 (1.50 to 1.50)");
        assert_eq!(range(&mut []), "-");
    }

    #[test]
    fn figures_of_a_name_belong_to_one_row() {
        let mut comparison = Comparison::default();
        comparison.add(Side::New, &[Figure { name: "a", value: 1.0 }, Figure { name: "b", value: 2.0 }]);
        comparison.add(Side::Former, &[Figure { name: "b", value: 3.0 }]);
        let rows: Vec<_> = comparison.rows.iter().map(|row| (row.name, row.new.len(), row.former.len())).collect();
        assert_eq!(rows, [("a", 1, 0), ("b", 1, 1)]);
    }
}
