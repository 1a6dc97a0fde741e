use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::*;

const LONG: Duration = Duration::from_secs(60);

/// What a reader has been given.
type Seen = Arc<Mutex<Vec<u8>>>;

/// Takes what is written whenever it is let, and fails while it is told to.
struct Reader {
    lets: Receiver<io::Result<()>>,
    seen: Seen,
}

impl Write for Reader {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Once nobody holds it up any more, it takes everything.
        self.lets.recv().unwrap_or(Ok(()))?;
        self.seen.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Lines with a writer, what lets it write, and what it has written.
fn lines(max_bytes: usize) -> (&'static Lines, Sender<io::Result<()>>, Seen) {
    let lines: &'static Lines = Box::leak(Box::new(Lines::new(max_bytes)));
    lines.lock().has_writer = true;
    let (let_write, lets) = channel();
    let seen = Seen::default();
    let mut reader = Reader { lets, seen: Arc::clone(&seen) };
    thread::spawn(move || {
        lines.write_all_to(&mut reader, |count| lines.put(format!("dropped {count}\n").as_bytes()));
    });
    (lines, let_write, seen)
}

fn written(lines: &Lines, seen: &Mutex<Vec<u8>>) -> Vec<String> {
    lines.flush(LONG);
    String::from_utf8(seen.lock().unwrap().clone()).unwrap().lines().map(str::to_owned).collect()
}

fn wait_until_taken(lines: &Lines) {
    let started = Instant::now();
    while !lines.lock().bytes.is_empty() {
        assert!(started.elapsed() < LONG);
        thread::yield_now();
    }
}

#[test]
fn a_reader_that_stalls_holds_nobody_up_and_is_told_once_how_many_lines_it_missed() {
    let (lines, let_write, seen) = lines(1000);
    lines.put(b"first\n");
    wait_until_taken(lines);
    for number in 0..1000 {
        lines.put(format!("line {number:4}\n").as_bytes());
    }
    assert_eq!(lines.dropped(), 900, "10 bytes each, and 1000 bytes may wait");
    lines.flush(Duration::from_millis(50));
    assert!(seen.lock().unwrap().is_empty(), "the reader still stalls");
    drop(let_write);
    wait_until_taken(lines);
    lines.put(b"last\n");
    let seen = written(lines, &seen);
    assert_eq!((seen.len(), &*seen[0], &*seen[1], &*seen[100]), (103, "first", "line    0", "line   99"), "{seen:?}");
    let mut end = [&*seen[101], &*seen[102]];
    // The test's own line may come before the other thread tells.
    end.sort_unstable();
    assert_eq!(end, ["dropped 900", "last"]);
    assert_eq!(lines.dropped(), 900);
}

#[test]
fn lines_that_cannot_be_written_are_counted_and_told_of_once_they_can() {
    let (lines, let_write, seen) = lines(1000);
    let_write.send(Err(ErrorKind::StorageFull.into())).unwrap();
    lines.put(b"lost\n");
    lines.flush(LONG);
    for line in ["second\n", "third\n"] {
        let_write.send(Ok(())).unwrap();
        lines.put(line.as_bytes());
        lines.flush(if line == "second\n" { LONG } else { Duration::ZERO });
    }
    drop(let_write);
    assert_eq!(written(lines, &seen), ["second", "third", "dropped 1"]);
}

#[test]
fn a_reader_that_takes_nothing_at_the_moment_is_waited_for() {
    let (lines, let_write, seen) = lines(1000);
    let_write.send(Err(ErrorKind::WouldBlock.into())).unwrap();
    let_write.send(Err(ErrorKind::Interrupted.into())).unwrap();
    lines.put(b"kept\n");
    drop(let_write);
    assert_eq!(written(lines, &seen), ["kept"]);
    assert_eq!(lines.dropped(), 0);
}
