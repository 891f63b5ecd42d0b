//! Where a conversion's files of weights come from while it runs.
//!
//! [`Present`] is the usual case: all are there before it begins. A hub can bring them one by one and take them away
//! when the last shard that reads them is on the disk; [`reads`] says which shard reads which.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::plan::Plan;

/// Brings files of weights, and takes them away.
pub trait Supply: Sync {
    /// Returns when the checkpoint's files of these numbers can be read.
    ///
    /// # Errors
    /// Whatever keeps one of them from coming.
    fn bring(&self, files: &[usize]) -> Result<()>;

    /// No shard will read this file any more, and every shard that did is on the disk.
    ///
    /// # Errors
    /// Whatever keeps it from being taken away.
    fn done(&self, file: usize) -> Result<()>;

    /// True where [`Supply::done`] removes files: shards are then written one after the other, and what is finished
    /// outlives an interruption, since it could not be made again from what is left.
    fn removes(&self) -> bool;
}

/// All files are there, and stay.
#[derive(Debug)]
pub struct Present;

impl Supply for Present {
    fn bring(&self, _: &[usize]) -> Result<()> {
        Ok(())
    }

    fn done(&self, _: usize) -> Result<()> {
        Ok(())
    }

    fn removes(&self) -> bool {
        false
    }
}

/// The files that each shard of the plan reads, by number, in rising order.
pub(super) fn reads(plan: &Plan, checkpoint: &Checkpoint) -> Vec<Vec<usize>> {
    let of_shard = |outputs: &[(usize, usize)]| {
        let spans = |&(tensor, _): &(usize, usize)| checkpoint.tensors()[plan.tensors[tensor].source].spans();
        let mut files: Vec<usize> = outputs.iter().flat_map(spans).map(|span| span.file).collect();
        files.sort_unstable();
        files.dedup();
        files
    };
    plan.shards.iter().map(|shard| of_shard(&shard.outputs)).collect()
}

/// How many shards are still to read each file.
pub(super) struct Readers {
    reads: Vec<Vec<usize>>,
    left: Vec<AtomicUsize>,
}

impl Readers {
    pub(super) fn new(plan: &Plan, checkpoint: &Checkpoint) -> Self {
        let reads = reads(plan, checkpoint);
        let count = |file: usize| reads.iter().filter(|files| files.contains(&file)).count();
        let left = (0..checkpoint.files().len()).map(|file| AtomicUsize::new(count(file))).collect();
        Self { reads, left }
    }

    /// The files that a shard reads.
    pub(super) fn of(&self, shard: usize) -> &[usize] {
        &self.reads[shard]
    }

    /// A shard is on the disk: reports to the supply the files that nothing else will read.
    pub(super) fn finished(&self, shard: usize, supply: &dyn Supply) -> Result<()> {
        for &file in self.of(shard) {
            if self.left[file].fetch_sub(1, Ordering::AcqRel) == 1 {
                supply.done(file)?;
            }
        }
        Ok(())
    }
}
