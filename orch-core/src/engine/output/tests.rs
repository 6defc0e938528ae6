//! Reading from a place of output.

use super::*;
use crate::output::{OutputPage, OutputPiece};

/// Shows these pieces, two at a time.
#[derive(Debug)]
struct Fixed(Vec<KeptOutput>);

#[async_trait::async_trait]
impl OutputStore for Fixed {
    async fn append(&self, _: Vec<OutputPiece>) -> Result<(), OutputError> {
        unreachable!("nothing is appended")
    }

    async fn read(&self, _: TaskId, after: Option<OutputPosition>) -> Result<OutputPage, OutputError> {
        let mut rest = self.0.iter().filter(|piece| Some(piece.position) > after).cloned();
        let pieces: Vec<_> = rest.by_ref().take(2).collect();
        let last = pieces.last().map(|piece| piece.position);
        Ok(OutputPage { pieces, more: rest.next().and(last) })
    }

    async fn follow(&self, _: TaskId) -> Result<OutputWatch, OutputError> {
        unreachable!("nobody follows")
    }

    async fn forget(&self, _: &[TaskId]) -> Result<(), OutputError> {
        unreachable!("nothing is forgotten")
    }

    async fn tasks(&self) -> Vec<TaskId> {
        Vec::new()
    }

    async fn sync(&self) -> Result<(), OutputError> {
        Ok(())
    }
}

#[tokio::test]
async fn a_reader_passes_over_what_was_written_twice() {
    let byte = |offset: u64| u8::try_from(offset % 251).unwrap();
    let pieces = [(0_u64, 20_u64), (10, 10), (15, 10), (5, 15), (25, 5)].into_iter().enumerate();
    let piece = |(number, (offset, len)): (usize, (u64, u64))| KeptOutput {
        position: OutputPosition { attempt: NonZeroU32::MIN, number: number as u64 },
        stream: OutputStream::Stdout,
        offset,
        data: (offset..offset + len).map(byte).collect(),
    };
    let output = Arc::new(Fixed(pieces.map(piece).collect()));
    let mut reader =
        OutputReader::open(output, &View::new(1, 1, 7), TaskId::generate(), false).await.unwrap();
    let mut read = Vec::new();
    while let Some(chunk) = reader.next().await {
        let chunk = chunk.unwrap();
        assert_eq!(chunk.offset, read.len() as u64);
        read.extend_from_slice(&chunk.data);
    }
    assert_eq!(read, (0..30).map(byte).collect::<Vec<_>>());
}
