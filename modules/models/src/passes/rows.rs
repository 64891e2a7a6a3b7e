//! A pass's rows: as many answers as questions, and what becomes of rows whose pass does not go
//! through.
//!
//! Invariants: a row that the graph does not take loses no other; a pass that lacks memory is cut
//! in two until each row had its turn alone, so that `n` rows take fewer than `2 n` passes.

use std::error::Error;

use brahman_card::chain;

/// What ONNX Runtime's arena, CUDA, cuBLAS and cuDNN say where memory ran out. It comes without a
/// code of its own (`ORT_FAIL` or `ORT_RUNTIME_EXCEPTION`, as most else), so that the text is all
/// there is to tell it by; found in 1.24 to 1.31.
const OUT_OF_MEMORY: [&str; 6] = [
    "Failed to allocate memory for requested buffer",
    "is smaller than requested bytes of",
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "std::bad_alloc",
];

/// An error of whatever runs a pass.
pub trait PassFailure: Error + 'static {
    /// Whether fewer rows might have gone through, since memory ran out.
    fn is_out_of_memory(&self) -> bool;
}

impl PassFailure for ort::Error {
    fn is_out_of_memory(&self) -> bool {
        says_out_of_memory(self.message())
    }
}

fn says_out_of_memory(message: &str) -> bool {
    OUT_OF_MEMORY.iter().any(|sign| message.contains(sign))
}

/// What is tried next with rows whose pass has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextTry {
    /// Each half of them in a pass.
    Halves,
    /// Each of them alone.
    Singly,
    /// Nothing: it was one row.
    Nothing,
}

/// What to try next with so many rows.
#[must_use]
pub fn next_try(rows: usize, is_out_of_memory: bool) -> NextTry {
    match (rows, is_out_of_memory) {
        (0 | 1, _) => NextTry::Nothing,
        (_, true) => NextTry::Halves,
        (_, false) => NextTry::Singly,
    }
}

/// Why a row has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowFailure {
    /// The graph does not take it; the log has the reason.
    Refused,
    /// Memory does not hold it, not even alone.
    OutOfMemory,
}

/// Why a pass has no answers.
#[derive(Debug, thiserror::Error)]
enum PassError<E: Error + 'static> {
    /// Whatever runs it says why.
    #[error(transparent)]
    Run(E),
    /// It gave too many or too few.
    #[error("{answers} answers came for {rows} rows")]
    Count { answers: usize, rows: usize },
}

impl<E: PassFailure> PassError<E> {
    fn is_out_of_memory(&self) -> bool {
        matches!(self, Self::Run(error) if error.is_out_of_memory())
    }
}

/// Runs rows in one pass, or each in one of its own if the model has to be asked so.
///
/// # Errors
/// As `pass` gives them.
pub fn answers<R, A, E>(
    rows: &[R],
    is_alone: bool,
    pass: impl Fn(&[R]) -> Result<Vec<A>, E>,
) -> Result<Vec<A>, E> {
    if !is_alone {
        return pass(rows);
    }
    let mut all = Vec::with_capacity(rows.len());
    for row in rows {
        all.extend(pass(std::slice::from_ref(row))?);
    }
    Ok(all)
}

/// Runs a pass; if it does not go through, its rows as [`next_try`] has it. Gives an answer a row,
/// or why it has none; the log has the reason.
pub fn run_rows<R, A, E: PassFailure>(
    rows: &[R],
    forward: impl Fn(&[R]) -> Result<Vec<A>, E>,
) -> Vec<Result<A, RowFailure>> {
    let mut outcomes = Vec::with_capacity(rows.len());
    run_into(rows, &forward, &mut outcomes);
    outcomes
}

fn run_into<R, A, E: PassFailure>(
    rows: &[R],
    forward: &impl Fn(&[R]) -> Result<Vec<A>, E>,
    outcomes: &mut Vec<Result<A, RowFailure>>,
) {
    let error = match forward(rows) {
        // As many answers as questions, or none.
        Ok(answers) if answers.len() == rows.len() => {
            outcomes.extend(answers.into_iter().map(Ok));
            return;
        }
        Ok(answers) => PassError::Count { answers: answers.len(), rows: rows.len() },
        Err(error) => PassError::Run(error),
    };
    let is_out_of_memory = error.is_out_of_memory();
    let next = next_try(rows.len(), is_out_of_memory);
    let warn = |how: &str| {
        let rows = rows.len();
        tracing::warn!(
            rows,
            "a pass does not go through, its rows are tried {how}: {}",
            chain(&error)
        );
    };
    match next {
        NextTry::Halves => {
            warn("in two halves");
            let (first, second) = rows.split_at(rows.len().div_ceil(2));
            run_into(first, forward, outcomes);
            run_into(second, forward, outcomes);
        }
        NextTry::Singly => {
            warn("one by one");
            rows.iter().for_each(|row| run_into(std::slice::from_ref(row), forward, outcomes));
        }
        NextTry::Nothing => {
            tracing::error!("inference failed: {}", chain(&error));
            let failure =
                if is_out_of_memory { RowFailure::OutOfMemory } else { RowFailure::Refused };
            outcomes.extend(rows.iter().map(|_| Err(failure)));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    /// What a made-up model does not do.
    #[derive(Debug, thiserror::Error)]
    enum Trouble {
        #[error("odd")]
        Odd,
        #[error("Failed to allocate memory for requested buffer of size 4096")]
        Memory,
    }

    impl PassFailure for Trouble {
        fn is_out_of_memory(&self) -> bool {
            says_out_of_memory(&self.to_string())
        }
    }

    const REFUSED: Result<u32, RowFailure> = Err(RowFailure::Refused);
    const TOO_LARGE: Result<u32, RowFailure> = Err(RowFailure::OutOfMemory);

    /// Rows are as large as they say, and so much fits a pass; odd ones are not taken.
    fn halves(room: u32) -> impl Fn(&[u32]) -> Result<Vec<u32>, Trouble> {
        move |rows| {
            if rows.iter().sum::<u32>() > room {
                return Err(Trouble::Memory);
            }
            if rows.iter().any(|row| row % 2 == 1) {
                return Err(Trouble::Odd);
            }
            Ok(rows.iter().map(|row| row / 2).collect())
        }
    }

    #[test]
    fn a_row_that_is_not_taken_loses_no_other() {
        assert_eq!(run_rows(&[2, 3, 4], halves(100)), [Ok(1), REFUSED, Ok(2)]);
        assert_eq!(run_rows(&[2, 4], halves(100)), [Ok(1), Ok(2)]);
        assert_eq!(run_rows(&[3], halves(100)), [REFUSED]);
        let silent = |_: &[u32]| -> Result<Vec<u32>, Trouble> { Ok(Vec::new()) };
        assert_eq!(run_rows(&[2, 4], silent), [REFUSED, REFUSED], "too few answers are no answers");
    }

    #[test]
    fn rows_that_memory_does_not_hold_together_run_in_halves() {
        let sizes = RefCell::new(Vec::new());
        let counted = |room| {
            let (sizes, forward) = (&sizes, halves(room));
            move |rows: &[u32]| {
                sizes.borrow_mut().push(rows.len());
                forward(rows)
            }
        };
        assert_eq!(run_rows(&[2, 4, 6, 8, 2], counted(12)), [1, 2, 3, 4, 1].map(Ok));
        assert_eq!(sizes.take(), [5, 3, 2]);
        // One that nothing holds loses no other, and one that is not taken is told apart from it.
        assert_eq!(run_rows(&[2, 40, 3, 4], counted(12)), [Ok(1), TOO_LARGE, REFUSED, Ok(2)]);
        assert_eq!(sizes.take(), [4, 2, 1, 1, 2, 1, 1]);
        let many: Vec<u32> = vec![2; 1000];
        assert!(run_rows(&many, counted(1)).iter().all(|outcome| *outcome == TOO_LARGE));
        assert_eq!(sizes.take().len(), 1999, "twice as many passes at most");
        assert!(run_rows(&[], counted(1)).is_empty());
    }

    #[test]
    fn what_is_tried_next_is_told_by_rows_and_reason() {
        assert_eq!((next_try(2, true), next_try(2, false)), (NextTry::Halves, NextTry::Singly));
        for rows in [0, 1] {
            assert_eq!(
                (next_try(rows, true), next_try(rows, false)),
                (NextTry::Nothing, NextTry::Nothing)
            );
        }
    }

    #[test]
    fn running_out_of_memory_is_told_from_other_failures() {
        // As ONNX Runtime's arena, CUDA and cuBLAS have said it.
        for message in [
            "Non-zero status code returned while running MatMul node. Name:'/layer.0/MatMul' Status Message: /onnxruntime_src/onnxruntime/core/framework/bfc_arena.cc:376 void* onnxruntime::BFCArena::AllocateRawInternal(size_t, bool) Failed to allocate memory for requested buffer of size 8589934592",
            "bfc_arena.cc:405 Available memory of 1048576 is smaller than requested bytes of 4294967296",
            "CUDA failure 2: out of memory ; GPU=0 ; hostname=a ; file=cuda_allocator.cc ; line=96 ; expr=cudaMalloc((void**)&p, size);",
            "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0 ; expr=cublasCreate(&cublas_handle_);",
        ] {
            assert!(says_out_of_memory(message), "{message}");
        }
        for message in [
            "CUDA failure 700: an illegal memory access was encountered",
            "Got invalid dimensions for input: input_ids",
            "indices element out of data bounds, idx=30522 must be within the inclusive range [-30522,30521]",
        ] {
            assert!(!says_out_of_memory(message), "{message}");
        }
    }

    #[test]
    fn rows_go_alone_where_the_model_has_to_be_asked_so() {
        let lengths =
            |rows: &[u32]| -> Result<Vec<usize>, Trouble> { Ok(vec![rows.len(); rows.len()]) };
        assert_eq!(answers(&[1, 2, 3], false, lengths).expect("runs"), [3, 3, 3]);
        assert_eq!(answers(&[1, 2, 3], true, lengths).expect("runs"), [1, 1, 1]);
    }
}
