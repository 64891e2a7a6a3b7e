//! One session of ONNX Runtime for any number of threads: its weights are in memory once.
//!
//! The only file of this crate with `unsafe`: `ort`'s `Session::run` wants the session exclusively,
//! because not every execution provider bears calls from several threads. ONNX Runtime's own
//! contract (`OrtApi::Run`) is that one session may be run from several threads at once, and its
//! provider for the CPU, the only one that is used here from more than one, keeps to it.
//!
//! Invariants: a session on a GPU is run by one thread at a time, which a lock sees to; nothing
//! that a run has made outlives the session.
#![expect(
    unsafe_code,
    reason = "a run of a session that is shared goes through ONNX Runtime's C interface"
)]

use std::borrow::Cow;
use std::ffi::{CStr, c_char};
use std::ptr::{NonNull, null_mut};
use std::sync::{Mutex, PoisonError};

use ort::AsPointer as _;
use ort::session::{RunOptions, Session, SessionInputValue};
use ort::value::{DynValue, TensorElementType, ValueType};

/// What a run has made.
pub(super) struct RunOutput<'a> {
    value: DynValue,
    /// The value's memory is the session's.
    _session: &'a SharedSession,
}

/// A session that several threads may run at once.
pub(super) struct SharedSession {
    session: Session,
    /// Held during a run where one at a time is all that the provider bears.
    turn: Option<Mutex<()>>,
}

impl SharedSession {
    /// Shares a session; `is_cpu` tells whether it is the CPU's alone.
    pub(super) fn new(session: Session, is_cpu: bool) -> Self {
        Self { session, turn: (!is_cpu).then(Mutex::default) }
    }

    /// Runs the graph, and gives one output of it. No other one is copied out of it.
    pub(super) fn run(
        &self,
        inputs: &[(&CStr, SessionInputValue<'_>)],
        output: &CStr,
        options: &RunOptions,
    ) -> ort::Result<RunOutput<'_>> {
        let names: Vec<*const c_char> = inputs.iter().map(|(name, _)| name.as_ptr()).collect();
        let values: Vec<*const ort::sys::OrtValue> =
            inputs.iter().map(|(_, value)| value.ptr()).collect();
        let output = output.as_ptr();
        let mut made: *mut ort::sys::OrtValue = null_mut();
        let _turn =
            self.turn.as_ref().map(|turn| turn.lock().unwrap_or_else(PoisonError::into_inner));
        // SAFETY: session, options, names and values live until the call returns; there are as many
        // names as values, and one output. The session is not changed but by ONNX Runtime itself,
        // which locks what its runs share (see above).
        let status = unsafe {
            (ort::api().Run)(
                self.session.ptr().cast_mut(),
                options.ptr(),
                names.as_ptr(),
                values.as_ptr(),
                values.len(),
                &raw const output,
                1,
                &raw mut made,
            )
        };
        // SAFETY: the status is the one that the call has just given, and is used once.
        unsafe { ort::Error::result_from_status(status) }?;
        let made =
            NonNull::new(made).ok_or_else(|| ort::Error::new("ONNX Runtime gave no output"))?;
        // SAFETY: the value is the one that the call has just made for us, and is owned by nobody
        // else; its session lives as long as what is made of it here.
        let value = unsafe { DynValue::from_ptr(made, Some(self.session.allocator())) };
        Ok(RunOutput { value, _session: self })
    }
}

impl RunOutput<'_> {
    /// Its axes' lengths and its numbers, those of 16 bits made 32.
    pub(super) fn numbers(&self) -> ort::Result<(Vec<usize>, Cow<'_, [f32]>)> {
        let ValueType::Tensor { ty, shape, .. } = self.value.dtype() else {
            return Err(ort::Error::new("the model's output is no tensor"));
        };
        let lengths: Vec<usize> = shape.iter().map(|n| usize::try_from(*n).unwrap_or(0)).collect();
        let numbers = match ty {
            TensorElementType::Float32 => Cow::Borrowed(self.value.try_extract_tensor::<f32>()?.1),
            TensorElementType::Float16 => Cow::Owned(
                self.value
                    .try_extract_tensor::<half::f16>()?
                    .1
                    .iter()
                    .map(|half| half.to_f32())
                    .collect(),
            ),
            TensorElementType::Bfloat16 => Cow::Owned(
                self.value
                    .try_extract_tensor::<half::bf16>()?
                    .1
                    .iter()
                    .map(|half| half.to_f32())
                    .collect(),
            ),
            other => {
                return Err(ort::Error::new(format!(
                    "the model's output is of {other}, expected f32, f16 or bf16"
                )));
            }
        };
        Ok((lengths, numbers))
    }
}
