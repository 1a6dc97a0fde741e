//! A process that holds as much anonymous memory as it is told to: this test binary, started again
//! in the server's memory group.

use std::io::{BufRead, BufReader, Read, Write, stdin};
use std::process::{Child, ChildStdout, Command, Stdio};

use crate::group::{Group, MB};

const CHUNK_BYTES: usize = 1 << 20;

/// The ballast, as seen by the test that steers it.
pub struct Ballast {
    child: Child,
    replies: BufReader<ChildStdout>,
}

impl Ballast {
    pub fn start(group: &Group) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--ignored", "--exact", "--nocapture", "ballast::hold_what_standard_input_says"]);
        let mut command = group.wrap(&command);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let replies = BufReader::new(child.stdout.take().unwrap());
        Self { child, replies }
    }

    /// Holds this much from now on, no more and no less.
    pub fn hold(&mut self, megabytes: u64) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{megabytes}").expect("the ballast is alive");
        let expected = format!("holding {megabytes} MB");
        let held = self.replies.by_ref().lines().map_while(Result::ok).any(|line| line == expected);
        assert!(held, "the ballast ended before it held {megabytes} MB");
    }
}

impl Drop for Ballast {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _reaped = self.child.wait();
    }
}

#[test]
#[ignore = "not a test: the ballast process of the others"]
fn hold_what_standard_input_says() {
    let mut chunks: Vec<Vec<u8>> = Vec::new();
    for line in stdin().lines().map_while(Result::ok) {
        let wanted = line.parse::<u64>().unwrap() * MB / CHUNK_BYTES as u64;
        // Chunks of this size are mapped one by one, so what is dropped goes back at once.
        chunks.truncate(wanted as usize);
        while (chunks.len() as u64) < wanted {
            chunks.push(vec![1; CHUNK_BYTES]);
        }
        println!("holding {line} MB");
    }
}
