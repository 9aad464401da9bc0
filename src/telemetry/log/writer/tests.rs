use super::*;

/// Sends each write to a channel, and blocks until it is received.
struct Output(mpsc::SyncSender<String>);

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        self.0.send(text).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn output() -> (Output, mpsc::Receiver<String>) {
    let (sender, written) = mpsc::sync_channel(0);
    (Output(sender), written)
}

#[test]
fn concurrent_lines_are_written_in_batches_in_order() {
    let (output, written) = output();
    let (writer, _guard) = spawn(output).unwrap();
    (&writer).write_all(b"first\n").unwrap();
    // These lines are queued while the first write blocks.
    let mut all = written.recv().unwrap();
    for number in 0..100 {
        writeln!(&writer, "{number}").unwrap();
    }
    let mut batches = 0;
    while !all.ends_with("99\n") {
        all += &written.recv().unwrap();
        batches += 1;
    }
    let numbers = (0..100).map(|number| format!("{number}\n"));
    assert_eq!(all, "first\n".to_owned() + &numbers.collect::<String>());
    assert!(batches < 50, "{batches} batches");
    assert_eq!(writer.lost(), 0);
}

#[test]
fn queued_lines_are_written_at_the_end() {
    let (output, written) = output();
    let (writer, guard) = spawn(output).unwrap();
    (&writer).write_all(b"the last line\n").unwrap();
    let reader = thread::spawn(move || written.iter().collect::<String>());
    drop(guard);
    assert_eq!(reader.join().unwrap(), "the last line\n");
}

#[test]
fn log_that_is_not_read_blocks_no_writer() {
    let (output, written) = output();
    let (writer, guard) = spawn(output).unwrap();
    for _ in 0..3 * MAX_QUEUED_LINES {
        (&writer).write_all(b"x\n").unwrap();
    }
    // One buffer is being written, and one is queued.
    let most = 2 * MAX_QUEUED_LINES as u64;
    assert!(writer.lost() >= 3 * MAX_QUEUED_LINES as u64 - most);
    assert!(writer.0.queue().lines <= MAX_QUEUED_LINES);
    drop(guard);
    drop(written);
}

#[test]
fn lines_that_cannot_be_written_are_lost() {
    let (output, written) = output();
    drop(written);
    let (writer, guard) = spawn(output).unwrap();
    (&writer).write_all(b"x\n").unwrap();
    drop(guard);
    assert_eq!(writer.lost(), 1);
}
