//! Which of two series belong together, in order: so that one thing that is missing does not make all behind it differ. Pure.

/// Most pairs that are compared; where there are more, only what both begin and end with belongs together.
const PAIRS_MAX: usize = 100_000;

/// What is left of both between two places that belong together: a range of the one, and a range of the other. Not both are empty.
pub(super) type Gap = (std::ops::Range<usize>, std::ops::Range<usize>);

/// Pairs as many as possible that are the `same`, in order, of two series of these lengths; what is left between them.
pub(super) fn gaps(ones: usize, others: usize, same: impl Fn(usize, usize) -> bool) -> Vec<Gap> {
    let shorter = ones.min(others);
    let head = (0..shorter).take_while(|at| same(*at, *at)).count();
    let tail = (0..shorter - head).take_while(|at| same(ones - 1 - at, others - 1 - at)).count();
    let (rows, columns) = (ones - head - tail, others - head - tail);
    let whole = (head..ones - tail, head..others - tail);
    if rows == 0 || columns == 0 || rows * columns > PAIRS_MAX {
        return (rows + columns > 0).then_some(whole).into_iter().collect();
    }
    // The longest common subsequence.
    let equal: Vec<bool> = (0..rows)
        .flat_map(|row| (0..columns).map(move |column| (row, column)))
        .map(|(row, column)| same(head + row, head + column))
        .collect();
    let is_equal = |row: usize, column: usize| equal[row * columns + column];
    let width = columns + 1;
    let mut best = vec![0_u32; (rows + 1) * width];
    for row in (0..rows).rev() {
        for column in (0..columns).rev() {
            best[row * width + column] = match is_equal(row, column) {
                true => best[(row + 1) * width + column + 1] + 1,
                false => best[(row + 1) * width + column].max(best[row * width + column + 1]),
            };
        }
    }
    let mut gaps = Vec::new();
    let (mut row, mut column) = (0, 0);
    let mut begun = (0, 0);
    let mut end = |from: (usize, usize), to: (usize, usize)| {
        if from != to {
            gaps.push((head + from.0..head + to.0, head + from.1..head + to.1));
        }
    };
    while row < rows && column < columns {
        if is_equal(row, column) {
            end(begun, (row, column));
            (row, column) = (row + 1, column + 1);
            begun = (row, column);
        } else if best[(row + 1) * width + column] >= best[row * width + column + 1] {
            row += 1;
        } else {
            column += 1;
        }
    }
    end(begun, (rows, columns));
    gaps
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(one: &str, other: &str) -> Vec<(String, String)> {
        let (one, other) = (one.as_bytes(), other.as_bytes());
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let gaps = gaps(one.len(), other.len(), |at, to| one[at] == other[to]);
        gaps.into_iter().map(|(left, right)| (text(&one[left]), text(&other[right]))).collect()
    }

    fn pairs(gaps: &[(&str, &str)]) -> Vec<(String, String)> {
        gaps.iter().map(|(one, other)| ((*one).to_owned(), (*other).to_owned())).collect()
    }

    #[test]
    fn what_is_left_is_told_by_its_place() {
        assert_eq!(of("abc", "abc"), []);
        assert_eq!(of("abcdef", "abdef"), pairs(&[("c", "")]));
        assert_eq!(of("abdef", "abcdef"), pairs(&[("", "c")]));
        assert_eq!(of("abcdef", "abXdYf"), pairs(&[("c", "X"), ("e", "Y")]));
        assert_eq!(of("ab", "ba"), pairs(&[("a", ""), ("", "a")]));
        assert_eq!(of("", "x"), pairs(&[("", "x")]));
    }

    proptest! {
        /// What lies between the gaps is the same on both sides, and nothing is lost.
        #[test]
        fn between_gaps_all_is_the_same(one in "[abc]{0,12}", other in "[abc]{0,12}") {
            let (a, b) = (one.as_bytes(), other.as_bytes());
            let (mut left, mut right) = (0, 0);
            for (first, second) in gaps(a.len(), b.len(), |at, to| a[at] == b[to]) {
                prop_assert_eq!(&a[left..first.start], &b[right..second.start]);
                (left, right) = (first.end, second.end);
            }
            prop_assert_eq!(&a[left..], &b[right..]);
        }
    }
}
