//! Inner products by the widest instructions that this processor has, chosen once at run time.
//!
//! Two kinds: bytes (a stored code against a query's code, exact integers) and f32 (always the same
//! [`LANES`] partial sums, never fused), so that every path gives the same bits as the plain one.
//! Invariant: every row is bounds-checked before it is read, so a damaged graph can at worst panic.
//! The only file of this crate with `unsafe`, because loads from slices into vector registers are.
#![expect(
    unsafe_code,
    reason = "vector loads and prefetches take pointers; each is made from a slice checked beside it"
)]

use std::sync::LazyLock;

use multiversion::multiversion;

/// Rows of codes are padded to whole cache lines, which are also the widest registers.
pub const LINE: usize = 64;
/// Partial sums of an f32 product: two registers of 16, or four of 8. The order of additions is
/// part of the result.
const LANES: usize = 32;

/// The kernels in use.
#[derive(Clone, Copy, Debug)]
pub struct Kernels {
    /// Instruction set: `avx512-vnni`, `avx2` or `portable` (which compilers turn into NEON).
    pub name: &'static str,
    gather: fn(&Rows<'_>, &[u32], &[i8], &mut [i32]),
    scan: fn(&Rows<'_>, usize, &[i8], &mut [i32]),
}

/// Codes in memory: rows of `stride` bytes, a multiple of [`LINE`]; a byte is the code plus 128.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    /// All rows, one behind the other.
    pub bytes: &'a [u8],
    /// Bytes from row to row.
    pub stride: usize,
}

impl<'a> Rows<'a> {
    fn row(&self, row: usize) -> &'a [u8] {
        &self.bytes[row * self.stride..][..self.stride]
    }

    /// Asks the processor for a row ahead of its use; a row that is not there is passed over.
    #[inline]
    pub fn prefetch(&self, row: u32) {
        let at = row as usize * self.stride;
        if let Some(bytes) = self.bytes.get(at..at + self.stride) {
            for line in bytes.chunks(LINE) {
                prefetch(line);
            }
        }
    }
}

/// Asks the processor for the cache line in which a slice begins, into the second-level cache: a
/// walk asks for a hundred lines at once, and the first level can wait for a few tens only.
#[inline]
pub fn prefetch<T>(at: &[T]) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch reads nothing that the program could observe, and SSE is in every x86-64.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T1 }>(at.as_ptr().cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

impl Kernels {
    /// The best that this processor can do.
    #[must_use]
    pub fn best() -> Self {
        static BEST: LazyLock<Kernels> = LazyLock::new(|| Kernels::all()[0]);
        *BEST
    }

    /// All that this processor can do, the fastest first.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let mut all = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vnni")
            {
                all.push(Self {
                    name: "avx512-vnni",
                    gather: x86::gather_vnni,
                    scan: x86::scan_vnni,
                });
            }
            if is_x86_feature_detected!("avx2") {
                all.push(Self { name: "avx2", gather: x86::gather_avx2, scan: x86::scan_avx2 });
            }
        }
        all.push(Self { name: "portable", gather: gather_portable, scan: scan_portable });
        all
    }

    /// Products of a query's code with the rows named.
    ///
    /// # Panics
    /// If a row is not there, the query is no row long, or `out` is shorter than `ids`.
    #[inline]
    pub fn gather(&self, rows: &Rows<'_>, ids: &[u32], query: &[i8], out: &mut [i32]) {
        assert!(
            query.len() == rows.stride
                && rows.stride.is_multiple_of(LINE)
                && out.len() >= ids.len()
        );
        (self.gather)(rows, ids, query, out);
    }

    /// Products of a query's code with `out.len()` rows from `first` on.
    ///
    /// # Panics
    /// As [`Kernels::gather`].
    pub fn scan(&self, rows: &Rows<'_>, first: usize, query: &[i8], out: &mut [i32]) {
        assert!(query.len() == rows.stride && rows.stride.is_multiple_of(LINE));
        (self.scan)(rows, first, query, out);
    }
}

#[multiversion(targets("x86_64+avx2", "aarch64+neon"))]
fn product_portable(row: &[u8], query: &[i8]) -> i32 {
    row.iter().zip(query).map(|(r, q)| (i32::from(*r) - 128) * i32::from(*q)).sum()
}

fn gather_portable(rows: &Rows<'_>, ids: &[u32], query: &[i8], out: &mut [i32]) {
    for (out, id) in out.iter_mut().zip(ids) {
        *out = product_portable(rows.row(*id as usize), query);
    }
}

fn scan_portable(rows: &Rows<'_>, first: usize, query: &[i8], out: &mut [i32]) {
    for (i, out) in out.iter_mut().enumerate() {
        *out = product_portable(rows.row(first + i), query);
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m256i, __m512i, _mm_add_epi32, _mm_cvtsi128_si32, _mm_shuffle_epi32, _mm256_abs_epi8,
        _mm256_add_epi32, _mm256_castsi256_si128, _mm256_extracti128_si256, _mm256_loadu_si256,
        _mm256_madd_epi16, _mm256_maddubs_epi16, _mm256_set1_epi8, _mm256_set1_epi16,
        _mm256_setzero_si256, _mm256_sign_epi8, _mm256_xor_si256, _mm512_add_epi32,
        _mm512_dpbusd_epi32, _mm512_loadu_si512, _mm512_reduce_add_epi32, _mm512_setzero_si512,
    };

    use super::{LINE, Rows};

    /// 128 times the sum of the query, which the stored bytes' offset of 128 adds to every product.
    fn offset(query: &[i8]) -> i32 {
        query.iter().map(|q| i32::from(*q)).sum::<i32>() * 128
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    #[inline]
    fn product_vnni(row: &[u8], query: &[i8]) -> i32 {
        let load = |bytes: *const u8| -> __m512i {
            // SAFETY: the callers below pass pointers to LINE readable bytes.
            unsafe { _mm512_loadu_si512(bytes.cast()) }
        };
        // Two sums, so that an instruction need not wait for the one before.
        let (mut even, mut odd) = (_mm512_setzero_si512(), _mm512_setzero_si512());
        let mut pairs = row.chunks_exact(2 * LINE).zip(query.chunks_exact(2 * LINE));
        for (r, q) in &mut pairs {
            even = _mm512_dpbusd_epi32(even, load(r.as_ptr()), load(q.as_ptr().cast()));
            odd =
                _mm512_dpbusd_epi32(odd, load(r[LINE..].as_ptr()), load(q[LINE..].as_ptr().cast()));
        }
        if row.len() % (2 * LINE) == LINE && query.len() == row.len() {
            let at = row.len() - LINE;
            even = _mm512_dpbusd_epi32(
                even,
                load(row[at..].as_ptr()),
                load(query[at..].as_ptr().cast()),
            );
        }
        _mm512_reduce_add_epi32(_mm512_add_epi32(even, odd))
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    fn gather_vnni_inner(rows: &Rows<'_>, ids: &[u32], query: &[i8], out: &mut [i32]) {
        let offset = offset(query);
        for (out, id) in out.iter_mut().zip(ids) {
            *out = product_vnni(rows.row(*id as usize), query) - offset;
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    fn scan_vnni_inner(rows: &Rows<'_>, first: usize, query: &[i8], out: &mut [i32]) {
        let offset = offset(query);
        let bytes = &rows.bytes[first * rows.stride..][..out.len() * rows.stride];
        for (out, row) in out.iter_mut().zip(bytes.chunks_exact(rows.stride)) {
            *out = product_vnni(row, query) - offset;
        }
    }

    pub(crate) fn gather_vnni(rows: &Rows<'_>, ids: &[u32], query: &[i8], out: &mut [i32]) {
        // SAFETY: only chosen where the processor has these instructions.
        unsafe { gather_vnni_inner(rows, ids, query, out) }
    }

    pub(crate) fn scan_vnni(rows: &Rows<'_>, first: usize, query: &[i8], out: &mut [i32]) {
        // SAFETY: only chosen where the processor has these instructions.
        unsafe { scan_vnni_inner(rows, first, query, out) }
    }

    /// `maddubs` wants one unsigned factor and saturates: |code| times the query's byte with the
    /// code's sign is exact, since both stay within ±127.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn product_avx2(row: &[u8], query: &[i8]) -> i32 {
        const HALF: usize = LINE / 2;
        let load = |bytes: *const u8| -> __m256i {
            // SAFETY: the callers below pass pointers to HALF readable bytes.
            unsafe { _mm256_loadu_si256(bytes.cast()) }
        };
        let (flip, ones) = (_mm256_set1_epi8(-128), _mm256_set1_epi16(1));
        let (mut even, mut odd) = (_mm256_setzero_si256(), _mm256_setzero_si256());
        for (r, q) in row.chunks_exact(LINE).zip(query.chunks_exact(LINE)) {
            let (a, b) = (
                _mm256_xor_si256(load(r.as_ptr()), flip),
                _mm256_xor_si256(load(r[HALF..].as_ptr()), flip),
            );
            let (p, q) = (load(q.as_ptr().cast()), load(q[HALF..].as_ptr().cast()));
            let first = _mm256_maddubs_epi16(_mm256_abs_epi8(a), _mm256_sign_epi8(p, a));
            let second = _mm256_maddubs_epi16(_mm256_abs_epi8(b), _mm256_sign_epi8(q, b));
            even = _mm256_add_epi32(even, _mm256_madd_epi16(first, ones));
            odd = _mm256_add_epi32(odd, _mm256_madd_epi16(second, ones));
        }
        let sum = _mm256_add_epi32(even, odd);
        let sum = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256::<1>(sum));
        let sum = _mm_add_epi32(sum, _mm_shuffle_epi32::<0b01_00_11_10>(sum));
        _mm_cvtsi128_si32(_mm_add_epi32(sum, _mm_shuffle_epi32::<0b10_11_00_01>(sum)))
    }

    #[target_feature(enable = "avx2")]
    fn gather_avx2_inner(rows: &Rows<'_>, ids: &[u32], query: &[i8], out: &mut [i32]) {
        for (out, id) in out.iter_mut().zip(ids) {
            *out = product_avx2(rows.row(*id as usize), query);
        }
    }

    #[target_feature(enable = "avx2")]
    fn scan_avx2_inner(rows: &Rows<'_>, first: usize, query: &[i8], out: &mut [i32]) {
        let bytes = &rows.bytes[first * rows.stride..][..out.len() * rows.stride];
        for (out, row) in out.iter_mut().zip(bytes.chunks_exact(rows.stride)) {
            *out = product_avx2(row, query);
        }
    }

    pub(crate) fn gather_avx2(rows: &Rows<'_>, ids: &[u32], query: &[i8], out: &mut [i32]) {
        // SAFETY: only chosen where the processor has these instructions.
        unsafe { gather_avx2_inner(rows, ids, query, out) }
    }

    pub(crate) fn scan_avx2(rows: &Rows<'_>, first: usize, query: &[i8], out: &mut [i32]) {
        // SAFETY: only chosen where the processor has these instructions.
        unsafe { scan_avx2_inner(rows, first, query, out) }
    }
}

/// The inner product of two vectors of equal length.
#[multiversion(targets("x86_64+avx512f+avx512vl", "x86_64+avx2+fma", "aarch64+neon"))]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0_f32; LANES];
    let (a_lanes, a_rest) = a.as_chunks::<LANES>();
    let (b_lanes, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a_lanes.iter().zip(b_lanes) {
        for i in 0..LANES {
            sums[i] += a[i] * b[i];
        }
    }
    let tail: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + tail
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_instruction_set_gives_the_same_integers(
            rows in proptest::collection::vec(any::<u8>(), 5 * 3 * LINE),
            query in proptest::collection::vec(-127_i8..=127, 3 * LINE),
            lines in 1_usize..=3,
        ) {
            let stride = lines * LINE;
            // 0 would be the code -128, which no encoder writes.
            let bytes: Vec<u8> = rows[..5 * stride].iter().map(|b| (*b).max(1)).collect();
            let rows = Rows { bytes: &bytes, stride };
            let query = &query[..stride];
            let plain: Vec<i32> = bytes
                .chunks(stride)
                .map(|row| {
                    row.iter().zip(query).map(|(r, q)| (i32::from(*r) - 128) * i32::from(*q)).sum()
                })
                .collect();
            for kernels in Kernels::all() {
                let (mut scanned, mut gathered) = ([0; 4], [0; 3]);
                kernels.scan(&rows, 1, query, &mut scanned);
                prop_assert_eq!(&scanned[..], &plain[1..], "{}", kernels.name);
                kernels.gather(&rows, &[4, 0, 2], query, &mut gathered);
                prop_assert_eq!(gathered, [plain[4], plain[0], plain[2]], "{}", kernels.name);
            }
        }

        #[test]
        fn an_f32_product_is_the_product(
            pairs in proptest::collection::vec((-1_f32..1.0, -1_f32..1.0), 0..200),
        ) {
            let (a, b): (Vec<f32>, Vec<f32>) = pairs.iter().copied().unzip();
            let plain: f64 = pairs.iter().map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            prop_assert!((f64::from(dot(&a, &b)) - plain).abs() < 1e-4);
        }
    }
}
