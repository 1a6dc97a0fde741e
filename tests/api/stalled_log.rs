//! Nobody who reads the log slowly, or not at all, holds the server up.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{PATIENCE, Server, command};

/// Lines of the access log are longest with an id of this length.
const ID_BYTES: usize = 128;

fn dropped(server: &Server) -> u64 {
    let metrics = server.get("/metrics").text;
    let value = metrics.lines().find_map(|line| line.strip_prefix("emotion_log_lines_dropped_total "));
    value.unwrap_or_else(|| panic!("{metrics}")).parse().unwrap()
}

/// Asks until log lines were dropped; every request is answered.
fn ask_until_lines_are_dropped(server: &Server) {
    let (before, started) = (dropped(server), Instant::now());
    while dropped(server) == before {
        assert!(started.elapsed() < PATIENCE, "no line was dropped");
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..250 {
                        let request = server.client().get(server.url("/livez"));
                        let reply = request.header("x-request-id", "i".repeat(ID_BYTES)).send().unwrap();
                        assert_eq!(reply.status().as_u16(), 200);
                    }
                });
            }
        });
    }
}

#[test]
fn a_log_that_nobody_reads_stalls_neither_requests_nor_the_end_and_tells_of_the_lines_it_lost() {
    let mut server = Server::start(&[("DRAIN_SECONDS", "29")]);
    server.stall_log(true);
    ask_until_lines_are_dropped(&server);
    server.stall_log(false);
    let started = Instant::now();
    let told = loop {
        let log = server.log();
        if let Some((_, told)) = log.split_once("log lines were dropped: ") {
            break told.split_once(',').unwrap().0.parse::<u64>().unwrap();
        }
        assert!(started.elapsed() < PATIENCE, "it was not told");
        thread::sleep(Duration::from_millis(5));
    };
    assert_eq!(dropped(&server), told);
    assert_eq!(server.log().matches("log lines were dropped").count(), 1);

    server.stall_log(true);
    ask_until_lines_are_dropped(&server);
    let started = Instant::now();
    server.terminate();
    thread::sleep(Duration::from_millis(200));
    assert_eq!(server.get("/livez").status, 200);
    server.signal("INT");
    assert_eq!(server.wait(), Some(130));
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
}

/// Starts the command with a standard error that takes nothing.
fn start_stalled(mut command: Command) -> (Child, impl Sized) {
    let (reader, mut writer) = std::io::pipe().unwrap();
    // As much as a pipe of Linux holds.
    writer.write_all(&[b'\n'; 65536]).unwrap();
    (command.stdout(Stdio::null()).stderr(writer).spawn().unwrap(), reader)
}

fn wait(child: &mut Child) -> ExitStatus {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if started.elapsed() > PATIENCE {
            child.kill().unwrap();
            panic!("it does not end");
        }
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_server_starts_answers_and_stops_where_standard_error_takes_nothing_from_the_beginning() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (mut child, _reader) = start_stalled(command(&[("PORT", &port.to_string()), ("RUST_LOG", "trace")]));
    let started = Instant::now();
    let reply = loop {
        if let Ok(mut connection) = TcpStream::connect(("127.0.0.1", port)) {
            connection.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut reply = String::new();
            write!(connection, "GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
            connection.read_to_string(&mut reply).unwrap();
            break reply;
        }
        if started.elapsed() > PATIENCE {
            child.kill().unwrap();
            panic!("it does not listen");
        }
        thread::sleep(Duration::from_millis(10));
    };
    assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");
    crate::support::signal("TERM", &child.id().to_string());
    assert_eq!(wait(&mut child).code(), Some(0));
}

#[test]
fn commands_end_with_their_exit_code_where_standard_error_takes_nothing() {
    for (arguments, code) in [
        (&["health", "--port", "1"][..], 1),
        (&["serve", "--no-such-flag"], 64),
        (&["serve", "--drain-seconds", "30", "--shutdown-timeout", "1"], 64),
        (&["models", "--model-dir", "no-such-folder"], 64),
    ] {
        let mut command = command(&[]);
        command.args(arguments);
        let (mut child, _reader) = start_stalled(command);
        assert_eq!(wait(&mut child).code(), Some(code), "{arguments:?}");
    }
}
