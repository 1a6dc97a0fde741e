use std::env;
use std::process::{Command, Output};

use super::*;
use crate::logging::{self, LogFormat};

/// Set in a process that is there to end.
const IS_CHILD: &str = "PANICS_TEST_IS_CHILD";

/// Runs only the named test, in a process of its own, where `IS_CHILD` is set.
fn in_child(test: &str) -> Output {
    let mut command = Command::new(env::current_exe().unwrap());
    command
        .args(["--exact", &format!("panics::tests::{test}"), "--nocapture"])
        .env(IS_CHILD, "1")
        .env_remove("RUST_LOG");
    command.output().unwrap()
}

fn assert_ended_as_a_defect(child: &Output, what: &str) {
    let log = String::from_utf8_lossy(&child.stderr);
    assert_eq!(child.status.code(), Some(i32::from(EXIT_DEFECT)), "{log}");
    let end = format!("{what} cannot go on after a panic: ending the process with exit code 70");
    assert!(log.contains("a defect: panicked at src/panics/tests.rs:") && log.contains(&end), "{log}");
    assert!(!log.contains("a text"), "{log}");
}

#[test]
fn a_step_that_panics_now_and_then_is_called_again() {
    let mut calls = 0;
    supervise("a thread", || {
        calls += 1;
        match calls {
            1 | 3 | 4 => panic!("as a defect does"),
            6 => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    });
    assert_eq!(calls, 6);
}

#[test]
fn a_step_that_only_panics_ends_the_process() {
    if env::var_os(IS_CHILD).is_some() {
        logging::start(LogFormat::Text, false);
        supervise("a thread", || panic!("a text"));
    }
    let child = in_child("a_step_that_only_panics_ends_the_process");
    assert_ended_as_a_defect(&child, "a thread");
    let log = String::from_utf8_lossy(&child.stderr);
    assert_eq!(log.matches("a thread goes on after a panic").count(), 9, "{log}");
}

#[test]
fn a_panic_of_the_thread_that_takes_connections_ends_the_process() {
    if env::var_os(IS_CHILD).is_some() {
        logging::start(LogFormat::Text, false);
        let acceptor = thread::Builder::new().name("actix-server acceptor".to_owned()).spawn(|| panic!("a text"));
        let _never = acceptor.unwrap().join();
    }
    let child = in_child("a_panic_of_the_thread_that_takes_connections_ends_the_process");
    assert_ended_as_a_defect(&child, "the thread that takes connections");
}

#[test]
fn work_that_must_finish_ends_the_process_with_its_panic() {
    if env::var_os(IS_CHILD).is_some() {
        logging::start(LogFormat::Text, false);
        drop(MustFinish("work that finishes"));
        let _never = thread::spawn(|| {
            let _must = MustFinish("a load");
            panic!("a text");
        })
        .join();
    }
    assert_ended_as_a_defect(&in_child("work_that_must_finish_ends_the_process_with_its_panic"), "a load");
}

#[test]
fn every_panic_is_counted_under_the_name_of_its_kind_of_thread() {
    if env::var_os(IS_CHILD).is_some() {
        logging::start(LogFormat::Text, false);
        let names = ["heavy-0", "light-17", "load-heavy", "watchdog", "actix-rt|system:0|arbiter:1", "unheard of"];
        for name in names {
            let thread = thread::Builder::new().name(name.to_owned()).spawn(|| panic!("a text")).unwrap();
            assert!(thread.join().is_err());
        }
        let seen: Vec<_> = counts().filter(|(_, count)| *count > 0).collect();
        let expected =
            [("http", 1), ("worker", 1), ("worker", 1), ("loader", 1), ("watchdog", 1), ("other", 1)].to_vec();
        assert_eq!(seen, expected);
        return;
    }
    let child = in_child("every_panic_is_counted_under_the_name_of_its_kind_of_thread");
    assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stderr));
}
