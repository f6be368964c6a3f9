//! What is kept for long, in no more memory than it needs.

/// The same values in a block of their size. `Vec::shrink_to_fit` and its kin ask the allocator to make a block smaller, and
/// mimalloc leaves one as it is of which half is in use (`mi_realloc`, "not more than 50% waste").
pub fn fitted<T>(values: Vec<T>) -> Box<[T]> {
    let mut fitted = Vec::with_capacity(values.len());
    fitted.extend(values);
    fitted.into_boxed_slice()
}
