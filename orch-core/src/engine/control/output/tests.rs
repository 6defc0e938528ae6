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
        time: None,
        data: (offset..offset + len).map(byte).collect(),
    };
    let output = Arc::new(Fixed(pieces.map(piece).collect()));
    let everything = OutputRange::default();
    let mut reader =
        OutputReader::open(output, &View::new(1, 1, 7), TaskId::generate(), everything).await.unwrap();
    let mut read = Vec::new();
    while let Some(chunk) = reader.next().await {
        let chunk = chunk.unwrap();
        assert_eq!(chunk.offset, read.len() as u64);
        read.extend_from_slice(&chunk.data);
    }
    assert_eq!(read, (0..30).map(byte).collect::<Vec<_>>());
}

fn kept(texts: &[(u32, OutputStream, &str)]) -> Arc<Fixed> {
    let mut ends: BTreeMap<(u32, OutputStream), u64> = BTreeMap::new();
    let pieces = texts.iter().enumerate().map(|(number, (attempt, stream, text))| {
        let end = ends.entry((*attempt, *stream)).or_default();
        let offset = *end;
        *end += text.len() as u64;
        let attempt = NonZeroU32::new(*attempt).unwrap();
        let position = OutputPosition { attempt, number: number as u64 };
        // A second apart, from the first one on.
        let time = Some(Timestamp::from_millis(number as u64 * 1000));
        KeptOutput { position, stream: *stream, offset, time, data: Bytes::copy_from_slice(text.as_bytes()) }
    });
    Arc::new(Fixed(pieces.collect()))
}

#[tokio::test]
async fn the_last_lines_are_of_both_streams_and_all_attempts_or_of_one() {
    use OutputStream::{Stderr, Stdout};
    let output = kept(&[
        (1, Stdout, "one\ntwo\n"),
        (1, Stderr, "three\n"),
        (1, Stdout, "fo"),
        (1, Stdout, "ur\nfive"),
        (2, Stdout, "six\n"),
        (2, Stderr, "seven"),
    ]);
    let text = async |attempt: u32, tail| {
        let range = OutputRange { attempt: NonZeroU32::new(attempt), tail, ..OutputRange::default() };
        let reader = OutputReader::open(output.clone(), &View::new(1, 1, 7), TaskId::generate(), range).await;
        reader.unwrap().text().await.unwrap()
    };
    assert_eq!(text(0, Some(0)).await, "");
    assert_eq!(text(0, Some(1)).await, "seven");
    assert_eq!(text(0, Some(2)).await, "fivesix\nseven");
    assert_eq!(text(0, Some(3)).await, "four\nfivesix\nseven");
    assert_eq!(text(0, Some(5)).await, "two\nthree\nfour\nfivesix\nseven");
    assert_eq!(text(0, Some(u32::MAX)).await, text(0, None).await);
    assert_eq!(text(1, None).await, "one\ntwo\nthree\nfour\nfive");
    assert_eq!((text(1, Some(1)).await, text(2, Some(9)).await), ("five".into(), "six\nseven".into()));
    assert_eq!((text(3, None).await, text(3, Some(1)).await), (String::new(), String::new()));
}

#[tokio::test]
async fn a_tail_is_found_without_reading_what_is_before_it() {
    let output = Arc::new(crate::output::MemoryOutput::new(64 << 20));
    let attempt: crate::model::AttemptId = format!("{}.1", TaskId::generate()).parse().unwrap();
    let line = |number: u64| format!("line {number:058}\n");
    for number in 0..1000 {
        let data = line(number).repeat(100).into();
        let piece = OutputPiece {
            attempt,
            limit: 1 << 30,
            stream: OutputStream::Stdout,
            offset: number * 6400,
            time: Some(Timestamp::from_millis(number)),
            data,
        };
        output.append(vec![piece]).await.unwrap();
    }
    let range = OutputRange { tail: Some(150), ..OutputRange::default() };
    let mut reader =
        OutputReader::open(output.clone(), &View::new(1, 1, 7), attempt.task, range).await.unwrap();
    let first = reader.next().await.unwrap().unwrap();
    assert_eq!((first.offset, first.data.len()), (998 * 6400 + 3200, 3200));
    assert_eq!(reader.text().await.unwrap(), line(999).repeat(100));
    // Older than what is asked for is not part of it, however many lines that leaves.
    let since = Some(Timestamp::from_millis(998));
    for tail in [None, Some(1000), Some(u32::MAX)] {
        let range = OutputRange { tail, since, ..OutputRange::default() };
        let reader = OutputReader::open(output.clone(), &View::new(1, 1, 7), attempt.task, range).await;
        assert_eq!(reader.unwrap().text().await.unwrap(), line(998).repeat(100) + &line(999).repeat(100));
    }
}

#[tokio::test]
async fn what_was_taken_in_since_a_time_is_read_with_its_times() {
    use OutputStream::{Stderr, Stdout};
    let mut output = kept(&[
        (1, Stdout, "one\n"),
        (1, Stderr, "two\n"),
        (1, Stdout, "three\n"),
        (1, Stdout, "four\n"),
        (2, Stdout, "five\n"),
    ]);
    let pieces = &mut Arc::get_mut(&mut output).unwrap().0;
    pieces[0].time = None;
    pieces[3].time = Some(Timestamp::from_millis(1500));
    let read = async |attempt: u32, since: u64, tail, times| {
        let since = Some(Timestamp::from_millis(since));
        let attempt = NonZeroU32::new(attempt);
        let range = OutputRange { follow: false, attempt, tail, since, times };
        let reader = OutputReader::open(output.clone(), &View::new(1, 1, 7), TaskId::generate(), range).await;
        let (mut reader, mut text) = (reader.unwrap(), String::new());
        while let Some(chunk) = reader.next().await {
            let chunk = chunk.unwrap();
            let time = chunk.time.map(|time| time.as_millis().to_string());
            text += &format!("{} {}", time.unwrap_or_default(), str::from_utf8(&chunk.data).unwrap());
        }
        text
    };
    assert_eq!(read(0, 0, None, false).await, " two\n three\n four\n five\n");
    assert_eq!(read(0, 1001, None, true).await, "2000 three\n1500 four\n4000 five\n");
    assert_eq!(read(0, 1501, None, true).await, "2000 three\n4000 five\n", "a clock went back");
    assert_eq!(read(0, 1501, Some(2), true).await, "2000 three\n4000 five\n");
    assert_eq!(read(0, 1501, Some(1), true).await, "4000 five\n");
    assert_eq!(read(1, 1501, Some(9), true).await, "2000 three\n");
    assert_eq!((read(1, 2001, None, true).await, read(0, 4001, Some(9), true).await), Default::default());
}
