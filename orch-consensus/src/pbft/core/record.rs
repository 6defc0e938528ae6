//! Records of a replica's log.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    batch::Batch,
    ids::{Digest, Epoch, Seq, View},
    kinds::kinds,
    message::{Certificate, EpochStep, NewView, StableProof},
    statement::Misbehaviour,
};
use crate::codec::{Decode, Encode, Input, Malformed};

/// An entry of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A batch that may be decided at this sequence number. Other records refer to it by its digest.
    Body(Seq, Arc<Batch>),
    /// This batch, and no other, got our prepare vote at its sequence number in this view.
    Accepted(Epoch, View, Seq, Digest),
    /// A quorum prepared a batch.
    Prepared(Certificate),
    /// We are on our way to this view and have left all before.
    Left(Epoch, View),
    /// A view began. Without a signature it is our own, and may not have gone out.
    NewView(Arc<NewView>),
    /// A membership followed another.
    Epoch(Arc<EpochStep>),
    /// This batch is committed at this sequence number, as a stable checkpoint proves.
    Decided(Seq, Digest),
    /// A quorum committed a batch.
    Committed(Certificate),
    /// A checkpoint is stable.
    Stable(Arc<StableProof>),
    /// Two statements of one signer that exclude each other.
    Evidence(Arc<Misbehaviour>),
}

/// A log from the beginning: a snapshot and what is still needed after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// The snapshot, when there is one.
    pub snapshot: Option<Bytes>,
    /// Records after it.
    pub records: Vec<Record>,
}

kinds!(Record {
    0 => Body(seq, batch),
    1 => Accepted(epoch, view, seq, digest),
    2 => Prepared(certificate),
    3 => Left(epoch, view),
    4 => NewView(new),
    5 => Epoch(step),
    6 => Decided(seq, digest),
    7 => Stable(proof),
    8 => Committed(certificate),
    9 => Evidence(misbehaviour),
});
