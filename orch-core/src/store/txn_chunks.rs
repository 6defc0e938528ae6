//! Writes in transactions that a store takes.

use super::{StoreCapabilities, Txn, Write};

/// Writes as transactions that the store accepts, in their order. No store declares the size of an entire
/// transaction; the size of one value is certainly not too large.
pub(crate) fn chunked_txns(limits: &StoreCapabilities, writes: Vec<Write>) -> Vec<Txn> {
    let StoreCapabilities { max_txn_writes, max_value_bytes, .. } = *limits;
    let (mut all, mut last, mut bytes) = (Vec::new(), Vec::new(), 0);
    for write in writes {
        let size = write.size_bytes();
        if !last.is_empty() && (last.len() >= max_txn_writes || bytes + size > max_value_bytes) {
            all.push(Txn::of(std::mem::take(&mut last)));
            bytes = 0;
        }
        bytes += size;
        last.push(write);
    }
    if !last.is_empty() {
        all.push(Txn::of(last));
    }
    all
}
