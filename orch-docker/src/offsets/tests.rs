use super::*;

/// A line of standard output in this second.
fn line(second: u32, text: &str) -> Line {
    let message = format!("2026-01-01T00:00:{second:02}.000000000Z {text}").into();
    Line::read(LogOutput::StdOut { message })
}

/// Offsets for a reading of these lines.
fn offsets(log_offsets: LogOffsets, lines: &[Line]) -> Offsets {
    let mut kept = KeptBefore::new(log_offsets);
    lines.iter().for_each(|line| kept.count(line));
    Offsets::new(&kept, 0)
}

/// Offsets of a reading of these lines, and the log offsets that it stores.
fn read(log_offsets: LogOffsets, lines: &[Line]) -> (Vec<u64>, LogOffsets) {
    let mut offsets = offsets(log_offsets, lines);
    let found = lines.iter().map(|line| offsets.chunk(line.clone()).offset).collect();
    (found, offsets.due().unwrap())
}

#[test]
fn the_time_is_taken_off() {
    assert_eq!(line(1, "a b\n").data, "a b\n");
    assert_eq!(line(1, "").data, "");
    let without = Line::read(LogOutput::StdErr { message: "no time".into() });
    assert_eq!((without.stream, without.at, without.data), (OutputStream::Stderr, None, "no time".into()));
}

#[test]
fn each_stream_counts_for_itself() {
    let error = Line::read(LogOutput::StdErr { message: "2026-01-01T00:00:00Z de".into() });
    assert_eq!(read(LogOffsets::default(), &[line(0, "abc"), error, line(1, "f")]).0, [0, 0, 3]);
}

#[test]
fn offsets_stay_when_the_beginning_is_rotated_away() {
    let lines = [line(1, "abc\n"), line(2, "de\n"), line(3, "f\n"), line(4, "gh\n")];
    let (whole, _) = read(LogOffsets::default(), &lines);
    for seen in 1..=lines.len() {
        let (_, log_offsets) = read(LogOffsets::default(), &lines[..seen]);
        for gone in 0..seen {
            assert_eq!(read(log_offsets, &lines[gone..]).0, whole[gone..], "{gone} gone, {seen} seen");
        }
    }
}

#[test]
fn parts_of_a_long_line_share_a_mark() {
    let parts = [line(1, "a\n"), line(2, "bbb"), line(2, "ccc"), line(2, "d\n"), line(3, "e\n")];
    let (whole, _) = read(LogOffsets::default(), &parts);
    for seen in 1..=parts.len() {
        let (_, log_offsets) = read(LogOffsets::default(), &parts[..seen]);
        assert_eq!(read(log_offsets, &parts[1..]).0, whole[1..], "{seen} seen");
    }
}

#[test]
fn nothing_is_repeated_when_the_mark_is_rotated_away_as_well() {
    let (_, log_offsets) = read(LogOffsets::default(), &[line(1, "abc\n")]);
    assert_eq!(read(log_offsets, &[line(7, "x\n"), line(8, "y\n")]).0, [4, 6]);
    assert_eq!(read(log_offsets, &[]).0, [] as [u64; 0]);
}

#[test]
fn offsets_stay_when_the_engine_s_clock_is_set_back() {
    let lines = [line(7, "abc\n"), line(8, "de\n"), line(2, "f\n"), line(3, "gh\n")];
    let (whole, _) = read(LogOffsets::default(), &lines);
    for seen in 1..=lines.len() {
        let (_, log_offsets) = read(LogOffsets::default(), &lines[..seen]);
        for gone in 0..seen {
            assert_eq!(read(log_offsets, &lines[gone..]).0, whole[gone..], "{gone} gone, {seen} seen");
        }
    }
}

#[test]
fn what_is_rotated_away_after_the_count_does_not_repeat_offsets() {
    let lines = [line(1, "abc\n"), line(2, "de\n"), line(3, "f\n"), line(4, "gh\n")];
    let (whole, _) = read(LogOffsets::default(), &lines);
    let (_, log_offsets) = read(LogOffsets::default(), &lines[..3]);
    let mut kept = KeptBefore::new(log_offsets);
    lines.iter().for_each(|line| kept.count(line));
    assert!(kept.agrees_with(&lines[0]) && !kept.agrees_with(&lines[3]));
    assert_eq!(Offsets::new(&kept, 0).chunk(lines[3].clone()).offset, whole[3]);
}

#[test]
fn a_reading_that_begins_at_the_same_line_counts_the_same() {
    let lines = [line(1, "abc\n"), line(2, "de\n"), line(3, "f\n")];
    let mut offsets = offsets(LogOffsets::default(), &lines);
    let mut pass = || lines.iter().map(|line| offsets.chunk(line.clone()).offset).collect::<Vec<_>>();
    let first = pass();
    offsets.rewind();
    assert!(offsets.began_with(&lines[0]) && !offsets.began_with(&lines[1]));
    assert_eq!(lines.iter().map(|line| offsets.chunk(line.clone()).offset).collect::<Vec<_>>(), first);
    assert_eq!(offsets.log_offsets(), read(LogOffsets::default(), &lines).1);
}

#[test]
fn reading_again_leaves_the_same_marks() {
    let lines = [line(1, "abc\n"), line(2, "de\n")];
    let (_, log_offsets) = read(LogOffsets::default(), &lines);
    assert_eq!(read(log_offsets, &lines).1, log_offsets);
    let mut again = offsets(log_offsets, &lines);
    again.chunk(lines[0].clone());
    assert_eq!(again.log_offsets(), log_offsets, "the newest place counts");
}
